//! Why a directive has no line in the proxy.toml.
//!
//! Called by `translate`, which walks over every directive once. What is read elsewhere in the translation has its remark
//! there.

use crate::import::nginx::remarks::Remarks;
use crate::import::nginx::tree::Directive;

/// Leaves a remark for each directive that nobody reads, in all blocks that are configuration.
pub(super) fn note(directives: &[Directive], remarks: &mut Remarks) {
    for directive in directives {
        let name = directive.name.as_str();
        if is_read(name) {
            if !TABLES.contains(&name) {
                note(directive.inner(), remarks);
            }
            continue;
        }
        remarks.unsupported(why(name), directive);
    }
}

fn is_read(name: &str) -> bool {
    READ.contains(&name)
}

fn why(name: &str) -> &'static str {
    let is_meant = |word: &&str| match word.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *word,
    };
    let found = REASONS
        .iter()
        .find(|(names, _)| names.iter().any(&is_meant));
    found.map_or(UNKNOWN, |(_, why)| why)
}

pub(super) const BY_ITSELF: &str = "nothing to write, the gate does so by itself";
const UNKNOWN: &str = "not known to the importer";

/// Blocks whose lines are no directives.
const TABLES: &[&str] = &["map", "upstream"];

/// Read by another part of the translation.
const READ: &[&str] = &[
    "server",
    "location",
    "listen",
    "server_name",
    "map",
    "upstream",
    "proxy_pass",
    "return",
    "if",
    "limit_except",
    "satisfy",
    "allow",
    "deny",
    "auth_basic",
    "auth_basic_user_file",
    "client_max_body_size",
    "client_body_timeout",
    "client_header_timeout",
    "send_timeout",
    "keepalive_timeout",
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_set_header",
    "proxy_hide_header",
    "add_header",
    "proxy_ssl_certificate",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_verify",
    "ssl",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_protocols",
    "ssl_client_certificate",
    "ssl_verify_client",
    "ssl_reject_handshake",
    "set_real_ip_from",
    "real_ip_header",
    "access_log",
    "error_log",
    "internal",
    "default_type",
    "server_name_in_redirect",
    "set",
];

/// The first that fits; a `*` stands for any end.
const REASONS: &[(&[&str], &str)] = &[
    (
        &[
            "ssl_crl",
            "ssl_password_file",
            "ssl_trusted_certificate",
            "ssl_verify_depth",
        ],
        "not there: revocation lists, passwords of keys, other chains",
    ),
    (
        &["ssl_stapling*", "ssl_ocsp*", "resolver*"],
        "no OCSP; names are looked up as the system does",
    ),
    (
        &["ssl_*", "http2", "http3*", "quic*"],
        "TLS: suites with forward secrecy only, HTTP/2 always, sessions and curves as the library has them",
    ),
    (
        &[
            "proxy_buffering",
            "proxy_request_buffering",
            "proxy_buffer*",
            "proxy_busy_buffers_size",
            "proxy_max_temp_file_size",
            "proxy_temp*",
            "client_body_*",
            "chunked_transfer_encoding",
        ],
        "bodies are streamed both ways and never stored",
    ),
    (
        &[
            "proxy_http_version",
            "proxy_redirect",
            "proxy_cookie_*",
            "proxy_pass_header",
            "proxy_pass_request_*",
            "proxy_socket_keepalive",
            "proxy_ignore_client_abort",
            "server_tokens",
            "merge_slashes",
            "underscores_in_headers",
            "ignore_invalid_headers",
            "absolute_redirect",
            "port_in_redirect",
            "tcp_nodelay",
            "tcp_nopush",
            "sendfile*",
            "aio*",
            "directio*",
            "output_buffers",
            "postpone_output",
        ],
        BY_ITSELF,
    ),
    (
        &[
            "user",
            "worker_*",
            "events",
            "pid",
            "daemon",
            "master_process",
            "load_module",
            "pcre_jit",
            "thread_pool",
            "timer_resolution",
            "lock_file",
            "env",
            "debug_*",
            "working_directory",
            "variables_hash*",
            "map_hash*",
            "server_names_hash*",
            "types_hash*",
            "connection_pool_size",
            "request_pool_size",
        ],
        "nginx's own processes and memory; systemd runs the gate, listen.workers sets its threads",
    ),
    (
        &[
            "stream",
            "mail",
            "fastcgi_*",
            "uwsgi_*",
            "scgi_*",
            "grpc_*",
            "memcached_*",
        ],
        "not HTTP, or not to a registry",
    ),
    (
        &[
            "root",
            "alias",
            "index",
            "autoindex*",
            "try_files",
            "types",
            "charset*",
            "expires",
            "etag",
            "open_file_cache*",
            "if_modified_since",
            "stub_status",
            "empty_gif",
            "log_not_found",
            "disable_symlinks",
        ],
        "the gate serves no files and no pages",
    ),
    (
        &[
            "gzip*",
            "gunzip",
            "brotli*",
            "sub_filter*",
            "proxy_cache*",
            "proxy_no_cache",
            "proxy_store*",
            "ssi*",
        ],
        "bodies pass as they are: nothing is compressed, rewritten or cached",
    ),
    (
        &["limit_req*", "limit_conn*", "limit_rate*", "auth_delay"],
        "rates: the gate has limits of its own (limits.connections_per_client, [throttle])",
    ),
    (
        &[
            "error_page",
            "recursive_error_pages",
            "proxy_intercept_errors",
            "msie_*",
        ],
        "error pages: under /v2/ errors are JSON, which clients print",
    ),
    (
        &["log_format", "log_subrequest", "open_log_file_cache"],
        "log lines have one form; log.format = \"json\" is the other",
    ),
    (
        &[
            "rewrite*",
            "break",
            "geo",
            "split_clients",
            "valid_referers",
            "uninitialized_variable_warn",
        ],
        "there are no variables, and paths are sent on as they came",
    ),
    (
        &[
            "proxy_send_timeout",
            "lingering_*",
            "reset_timedout_connection",
            "keepalive_*",
            "large_client_header_buffers",
            "client_header_buffer_size",
            "proxy_headers_hash*",
            "proxy_next_upstream*",
            "http2_*",
            "send_lowat",
        ],
        "waits and sizes have limits of their own in [limits]",
    ),
    (
        &["proxy_ssl_*", "proxy_bind"],
        "the certificate of an https:// upstream is verified for the host in its URL, always",
    ),
    (
        &["real_ip_recursive"],
        "trusted proxies are skipped from the right, always",
    ),
    (
        &["auth_*", "access_by_*", "js_access"],
        "modules that decide who comes in; their routes are closed",
    ),
    (
        &[
            "lua_*",
            "content_by_*",
            "header_filter_by_*",
            "body_filter_by_*",
            "log_by_*",
            "set_by_*",
            "init*",
            "js_*",
            "perl*",
            "more_*",
            "modsecurity*",
        ],
        "code and foreign modules",
    ),
];
