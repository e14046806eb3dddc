//! The directives that the importer does not translate, with the reason for each.
//!
//! `importer` calls [`note`] once for all directives. A directive that the translation reads gets its remarks there.

use crate::import::nginx::parser::Directive;
use crate::import::nginx::remarks::{BUILT_IN, Remarks};
use crate::import::nginx::scope::Scope;

/// Adds a remark for each directive that the translation does not read, in all blocks that hold directives.
pub(crate) fn note(directives: &[Directive], remarks: &mut Remarks) {
    for directive in directives {
        let name = directive.name.as_str();
        if has_word(TRANSLATED, name) {
            if !has_word(TABLES, name) {
                note(directive.inner(), remarks);
            }
            continue;
        }
        remarks.unsupported(
            other_value(directive).unwrap_or_else(|| reason(name)),
            directive,
        );
    }
}

/// A directive in effect that may restrict or change requests, so that the routes in its block are closed: it has no counterpart, or the
/// importer does not know it.
pub(crate) fn restriction<'a>(scope: &Scope<'a>) -> Option<&'a Directive> {
    scope.every().find(|directive| {
        let name = directive.name.as_str();
        let is_off = scope.value(name) == "off";
        if has_word(NEEDED, name) {
            is_off
        } else {
            is_restriction(name) && !is_off
        }
    })
}

fn is_restriction(name: &str) -> bool {
    !has_word(TRANSLATED, name) && matches!(reason(name), RESTRICTED | UNKNOWN)
}

/// Whether the word is the name of a directive that the importer knows. Names that only begin like one must look like a directive, because
/// a server name such as `initech.example` also begins with `init`.
pub(crate) fn is_directive(word: &str) -> bool {
    let is_name = word.contains('_')
        && word
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    has_word(TRANSLATED, word)
        || REASONS.iter().any(|(patterns, _)| has_word(patterns, word))
        || (is_name && reason(word) != UNKNOWN)
}

/// Whether a directive belongs outside of `http`. Every other directive of a file without `http` belongs inside.
pub(crate) fn is_outside_of_http(name: &str) -> bool {
    is_match(PROCESSES, name) || matches!(name, "stream" | "mail")
}

/// The reason of a directive whose value is not the behaviour of tidegate.
fn other_value(directive: &Directive) -> Option<&'static str> {
    match (directive.name.as_str(), directive.first()) {
        (name, "off") if is_restriction(name) => Some(BUILT_IN),
        ("underscores_in_headers", "on") | ("ignore_invalid_headers", "off") => Some(
            "not supported: header fields with _ or another unusual character in their names never reach the upstream",
        ),
        (name, "off") if has_word(NEEDED, name) => Some(RESTRICTED),
        ("proxy_ignore_client_abort", "on") => Some(
            "not supported: if a client closes its connection, the request ends at the upstream, too",
        ),
        ("merge_slashes", "off") => {
            Some("not supported: a path with two slashes in a row is redirected or rejected")
        }
        ("proxy_http_version", "1.0") => Some("not supported: the upstream gets HTTP/1.1"),
        _ => None,
    }
}

fn reason(name: &str) -> &'static str {
    if name != "auth_delay" && is_match(RESTRICTIONS, name) {
        return RESTRICTED;
    }
    let mut reasons = REASONS.iter();
    let found = reasons.find(|(patterns, _)| is_match(patterns, name));
    found.map_or(UNKNOWN, |(_, reason)| reason)
}

fn has_word(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

/// Whether the name is one of the patterns, or begins with what a pattern has before its `*`.
fn is_match(patterns: &str, name: &str) -> bool {
    patterns
        .split(' ')
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        })
}

const UNKNOWN: &str = "unknown to the importer; the routes in its block are closed";
const RESTRICTED: &str =
    "may restrict or change requests in a way that has no key; the routes in its block are closed";
/// The directives that restrict or change requests, and `include` for a file that could not be read.
const RESTRICTIONS: &str = "\
    include auth_* access_by_* rewrite_by_* server_rewrite_by_* content_by_* js_access \
    js_content perl modsecurity more_set_input_headers more_clear_input_headers proxy_method \
    ssl_crl ssl_ocsp";

/// The directives that change requests if they are off.
const NEEDED: &str = "proxy_pass_request_headers proxy_pass_request_body";

/// The blocks whose lines are not directives.
const TABLES: &str = "map upstream";

/// The directives that the translation reads.
const TRANSLATED: &str = "\
    server location listen server_name map upstream proxy_pass return if limit_except satisfy \
    allow deny auth_basic auth_basic_user_file client_max_body_size client_body_timeout \
    client_header_timeout send_timeout keepalive_timeout proxy_connect_timeout \
    proxy_read_timeout proxy_set_header proxy_hide_header add_header proxy_ssl_certificate \
    proxy_ssl_certificate_key proxy_ssl_name proxy_ssl_trusted_certificate proxy_ssl_verify ssl \
    ssl_certificate ssl_certificate_key ssl_protocols ssl_client_certificate ssl_verify_client \
    ssl_reject_handshake set_real_ip_from real_ip_header access_log error_log internal \
    default_type server_name_in_redirect set";

/// The directives about nginx's processes, which are outside of `http`.
const PROCESSES: &str = "\
    user worker_* events pid daemon master_process load_module pcre_jit thread_pool \
    timer_resolution lock_file env debug_* ssl_engine working_directory";
const PROCESSES_REASON: &str =
    "nginx's processes and memory; systemd runs tidegate, and listen.workers sets its threads";

/// The reasons by name; the first match counts, and a `*` matches any end of the name. In this file, a list of names is one text.
const REASONS: &[(&str, &str)] = &[
    (
        "ssl_password_file ssl_trusted_certificate ssl_verify_depth",
        "not supported: passwords of keys, further chains",
    ),
    (
        "ssl_stapling* ssl_ocsp* resolver*",
        "OCSP is not supported; getaddrinfo resolves names",
    ),
    (
        "ssl_* http2 http3* quic*",
        "TLS: rustls chooses cipher suites, sessions and curves; HTTP/2 is always on",
    ),
    (
        "\
        proxy_buffering proxy_request_buffering proxy_buffer* proxy_busy_buffers_size \
        proxy_max_temp_file_size proxy_temp* client_body_* chunked_transfer_encoding",
        "bodies are streamed in both directions and never stored",
    ),
    (
        "\
        proxy_http_version proxy_pass_header proxy_pass_request_* proxy_socket_keepalive \
        proxy_ignore_client_abort server_tokens merge_slashes underscores_in_headers \
        ignore_invalid_headers absolute_redirect port_in_redirect tcp_nodelay tcp_nopush \
        sendfile* aio* directio* output_buffers postpone_output",
        BUILT_IN,
    ),
    (
        "proxy_redirect proxy_cookie_*",
        "URLs of the upstream and the paths of its cookies are mapped without a key; further names of the upstream belong into internal_origins",
    ),
    (PROCESSES, PROCESSES_REASON),
    (
        "\
        variables_hash* map_hash* server_names_hash* types_hash* connection_pool_size \
        request_pool_size",
        PROCESSES_REASON,
    ),
    (
        "stream mail fastcgi_* uwsgi_* scgi_* grpc_* memcached_*",
        "not HTTP, or not for a registry",
    ),
    (
        "\
        root alias index autoindex* try_files types charset* expires etag open_file_cache* \
        if_modified_since stub_status empty_gif log_not_found disable_symlinks",
        "tidegate serves no files and no pages",
    ),
    (
        "gzip* gunzip* postpone_gzipping brotli* sub_filter* proxy_cache* proxy_no_cache proxy_store* ssi*",
        "bodies are forwarded unchanged: tidegate does not compress, rewrite or cache",
    ),
    (
        "limit_req* limit_conn* limit_rate* auth_delay",
        "rates: tidegate has its own limits (limits.connections_per_client, [throttle])",
    ),
    (
        "error_page recursive_error_pages proxy_intercept_errors msie_*",
        "error pages: errors under /v2/ are JSON, which clients print",
    ),
    (
        "log_format log_subrequest open_log_file_cache",
        "log lines have a fixed format; log.format = \"json\" writes JSON",
    ),
    (
        "rewrite* break geo split_clients valid_referers uninitialized_variable_warn",
        "tidegate has no variables and forwards paths unchanged",
    ),
    (
        "\
        proxy_send_timeout lingering_* reset_timedout_connection keepalive_* \
        large_client_header_buffers client_header_buffer_size proxy_headers_hash* \
        proxy_next_upstream* http2_* send_lowat proxy_send_lowat max_headers",
        "timeouts and sizes have their own keys in [limits]",
    ),
    (
        "proxy_ssl_* proxy_bind",
        "tidegate always verifies the certificate of an https:// upstream for the host in its URL",
    ),
    (
        "real_ip_recursive",
        "tidegate always skips trusted proxies from the right",
    ),
    (
        "\
        mirror* post_action ancient_browser* modern_browser* proxy_pass_trailers \
        subrequest_output_buffer_size max_ranges read_ahead proxy_force_ranges proxy_limit_rate \
        proxy_ignore_headers override_charset source_charset add_trailer add_after_body \
        add_before_body addition_types image_filter* xslt_* slice userid* secure_link* geoip* \
        keyval* referer_hash* status_zone session_log* otel_* opentracing* opentelemetry* \
        vhost_traffic_status* zstd*",
        "not supported: it decides neither who has access nor which upstream receives a request",
    ),
    (
        "\
        lua_* header_filter_by_* body_filter_by_* log_by_* set_by_* init* js_* perl* more_* \
        modsecurity*",
        "code and third-party modules",
    ),
];
