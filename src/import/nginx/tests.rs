//! The importer on texts in memory: nginx's syntax, its inheritance, and restrictions that close their routes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use toml::de::DeTable;

use crate::import::nginx::lexer::{Lexer, Token};
use crate::import::nginx::location;
use crate::import::nginx::location::Paths;
use crate::import::nginx::parser;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::{Error, FileSource, Import, import, includes, units};

/// Files by their paths.
struct Memory(BTreeMap<PathBuf, String>);

impl FileSource for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.clone().into_bytes())
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inside = self
            .0
            .keys()
            .filter_map(|path| path.strip_prefix(folder).ok());
        let first = inside.filter_map(|path| path.iter().next());
        Ok(first
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

fn files<const N: usize>(files: [(&str, &str); N]) -> Memory {
    let owned = files.map(|(path, text)| (PathBuf::from(path), text.to_owned()));
    Memory(owned.into_iter().collect())
}

fn imported(text: &str) -> Result<Import, Error> {
    let memory = files([("/etc/nginx/x.conf", text)]);
    import(
        &memory,
        &["/etc/nginx/x.conf".into()],
        "/etc/nginx".as_ref(),
    )
}

/// What comes out of a server block with TLS and these directives.
fn server(inner: &str) -> Import {
    let text = format!(
        "server {{\nlisten 443 ssl;\nserver_name a.example;\nssl_certificate c;\nssl_certificate_key k;\nclient_max_body_size 0;\nproxy_read_timeout 900;\n{inner}\n}}"
    );
    imported(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn has(import: &Import, words: &[&str]) {
    for word in words {
        assert!(import.toml.contains(word), "{word:?} in\n{}", import.toml);
    }
}

fn words(text: &str) -> Vec<Token> {
    let mut lexer = Lexer::new(text);
    let mut tokens = Vec::new();
    while let Some((token, _)) = lexer.next().unwrap() {
        tokens.push(token);
    }
    tokens
}

fn word(text: &str) -> Token {
    Token::Word(text.to_owned())
}

#[test]
fn words_are_as_nginx_reads_them() {
    use Token::{Close, End, Open};
    assert_eq!(
        words("a b;c{}"),
        [word("a"), word("b"), End, word("c"), Open, Close]
    );
    assert_eq!(words("a#b # c\nd;"), [word("a#b"), word("d"), End]);
    assert_eq!(words("'a b' \"c;{}\";"), [word("a b"), word("c;{}"), End]);
    assert_eq!(
        words(r#"'it\'s' "\"x\"" 'a"b';"#),
        [word("it's"), word("\"x\""), word("a\"b"), End]
    );
    assert_eq!(
        words(r"^/v2\/\.x\\ \t;"),
        [word(r"^/v2\/\.x\"), word("\t"), End]
    );
    assert_eq!(words("x${a}y;"), [word("x${a}y"), End]);
    assert_eq!(words("a$;"), [word("a$"), End]);
    assert_eq!(words("x}y }"), [word("x}y"), Close]);
    assert_eq!(words("\u{feff}a\r\n;"), [word("a"), End]);
    assert_eq!(
        words("~ \"a\" ) {"),
        [word("~"), word("a"), word(")"), Open]
    );
    assert_eq!(words("~ \"a\") {"), [word("~"), word("a"), word(")"), Open]);
    assert_eq!(words("''"), [word("")]);
    assert_eq!(words("a\\"), [word("a\\")]);
}

#[test]
fn a_pattern_in_upper_case_that_ignores_case_is_compared_in_lower_case() {
    for inner in [
        "location ~* ^/V2/PUB/ { deny all; }",
        "location ~* ^/V2/PUB/ { proxy_set_header Authorization ''; proxy_pass http://b; }",
    ] {
        let done = server(&format!("{inner} location / {{ proxy_pass http://b; }}"));
        let is_closed = done
            .warnings
            .iter()
            .any(|warning| warning.contains("/v2/pub"));
        assert!(is_closed, "{inner}: {:?}", done.warnings);
    }
}

#[test]
fn a_missing_semicolon_hides_no_directive() {
    for (text, name, extra) in [
        (
            "proxy_set_header Host $host\n auth_basic \"x\";",
            "proxy_set_header",
            "auth_basic",
        ),
        (
            "proxy_read_timeout 900\n deny all;",
            "proxy_read_timeout",
            "deny",
        ),
        (
            "proxy_pass http://b auth_basic x;",
            "proxy_pass",
            "auth_basic",
        ),
        ("satisfy all\n allow 10.0.0.0/8;", "satisfy", "allow"),
        (
            "client_max_body_size 0 deny all;",
            "client_max_body_size",
            "deny",
        ),
        (
            "proxy_set_header Host $host limit_except GET { deny all; }",
            "proxy_set_header",
            "limit_except",
        ),
        (
            "add_header X y\n limit_except GET { deny all; }",
            "add_header",
            "limit_except",
        ),
        ("return 200\n proxy_pass http://b;", "return", "proxy_pass"),
    ] {
        let file = format!("server {{ location / {{ {text} }} }}");
        let error = imported(&file).unwrap_err().to_string();
        let what = format!("\"{name}\" would have \"{extra}\" as an argument");
        assert!(error.contains(&what), "{what} in {error}");
    }
    // Arguments may be on several lines.
    let done = imported(
        "server { listen 443 ssl;\n server_name a.example.com\n initech.example.com\n internal-registry;\n\
         location / { proxy_next_upstream error\n http_500\n non_idempotent; proxy_pass http://b; } }",
    );
    has(&done.unwrap(), &["initech.example.com"]);
}

#[test]
fn what_is_no_syntax_is_told_with_its_place() {
    let cases = [
        (
            "server {",
            "1:1",
            "\"server\" that begins here does not end",
            "write }",
        ),
        (
            "server {\n listen 443\n}",
            "2:2",
            "\"listen\" has no ;",
            "write ;",
        ),
        ("server {}\n}", "2:1", "without an open block", "remove it"),
        ("a b;\n  ;", "2:3", "; without a directive", "remove this ;"),
        ("{ }", "1:1", "{ without a directive", "remove this {"),
        ("x 'abc", "1:3", "does not end", "write '"),
        (
            "x \"a\"b;",
            "1:6",
            "\"b\" follows a string directly",
            "put a blank",
        ),
        ("listen 80", "1:10", "before the end of the file", "write ;"),
    ];
    for (text, place, what, remedy) in cases {
        let error = imported(text).unwrap_err().to_string();
        let start = format!("/etc/nginx/x.conf:{place}: ");
        assert!(
            error.starts_with(&start) && error.contains(what) && error.contains(remedy),
            "{text:?}: {error}"
        );
    }
    let deep = "a {".repeat(100);
    assert!(
        imported(&deep)
            .unwrap_err()
            .to_string()
            .contains("within each other")
    );
}

#[test]
fn includes_are_sorted_relative_and_end() {
    let memory = files([
        (
            "/etc/nginx/nginx.conf",
            "http { include conf.d/*.conf; include mime.types; }",
        ),
        (
            "/etc/nginx/conf.d/b.conf",
            "server { listen 443 ssl; server_name b.example; include tls; location / { proxy_pass http://b; } }",
        ),
        (
            "/etc/nginx/conf.d/a.conf",
            "server { listen 443 ssl; server_name a.example; include tls; location / { proxy_pass http://a; } }",
        ),
        ("/etc/nginx/conf.d/.hidden.conf", "}"),
        (
            "/etc/nginx/tls",
            "ssl_certificate c; ssl_certificate_key k;",
        ),
        ("/etc/nginx/loop", "include loop;"),
    ]);
    let names = [
        "/etc/nginx/nginx.conf".into(),
        "/etc/nginx/conf.d/a.conf".into(),
    ];
    let done = import(&memory, &names, "/etc/nginx".as_ref()).unwrap();
    let hosts = done.toml.lines().filter(|line| line.starts_with("hosts"));
    assert_eq!(hosts.count(), 2, "each file once: {}", done.toml);
    has(
        &done,
        &["cert = \"/etc/nginx/c\"", "upstream = \"http://b\""],
    );
    assert!(
        done.warnings
            .iter()
            .any(|warning| warning.contains("nginx.conf:1: include: /etc/nginx/mime.types"))
    );
    let error = import(&memory, &["/etc/nginx/loop".into()], "/etc/nginx".as_ref()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("loop:1:1: the file includes itself"),
        "{error}"
    );
    let error = import(&memory, &["/nowhere".into()], "/etc/nginx".as_ref()).unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }));
}

#[test]
fn patterns_of_names_are_the_shells() {
    let memory = files([
        ("/d/ab.conf", ""),
        ("/d/b.conf", ""),
        ("/d/x/c.conf", ""),
        ("/d/b.txt", ""),
    ]);
    let found = |pattern: &str| {
        let found = includes::glob(&memory, Path::new(pattern), &mut Vec::new());
        let mut names: Vec<_> = found
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        names.dedup();
        names.join(" ")
    };
    assert_eq!(found("/d/*.conf"), "/d/ab.conf /d/b.conf");
    assert_eq!(found("/d/?.conf"), "/d/b.conf");
    assert_eq!(found("/d/[a-c]*.conf"), "/d/ab.conf /d/b.conf");
    assert_eq!(found("/d/[!a]*.conf"), "/d/b.conf");
    assert_eq!(
        found("/d/*/c.conf"),
        "/d/ab.conf/c.conf /d/b.conf/c.conf /d/b.txt/c.conf /d/x/c.conf"
    );
    assert_eq!(found("/e/*.conf"), "");
}

#[test]
fn locations_become_prefixes_or_nothing() {
    let paths = |text: &str| {
        let tree = parser::parse(0, &format!("location {text} {{}}"), |_| false).unwrap();
        location::read(&tree, &Scope::new(&tree)).remove(0).paths
    };
    let like =
        |list: &[&str]| Paths::Prefixes(list.iter().map(|path| (*path).to_owned()).collect());
    assert_eq!(paths("/v2/"), Paths::Prefix("/v2/".into()));
    assert_eq!(paths("^~ /v2"), Paths::Prefix("/v2".into()));
    assert_eq!(paths("= /v2/"), Paths::Exact("/v2/".into()));
    assert_eq!(paths("=/x"), Paths::Exact("/x".into()));
    assert_eq!(paths("~ ^/v2/"), like(&["/v2/"]));
    assert_eq!(paths("~* ^/(v1|v2)/(.*)$"), like(&["/v1/", "/v2/"]));
    assert_eq!(paths(r"~ ^\/api\/v2\.0"), like(&["/api/v2.0"]));
    assert_eq!(
        paths(r"~ ^/(?:a|b)/(c|d)(/|$)"),
        like(&["/a/c", "/a/d", "/b/c", "/b/d"])
    );
    for unclear in [
        r"~ /v2/",
        r"~ ^/v2/.+/blobs",
        r"~ ^/v2$",
        r"~ ^/[ab]/",
        r"~ ^/a?b",
        "~ \"^/x{2}\"",
    ] {
        assert_eq!(paths(unclear), Paths::Pattern, "{unclear}");
    }
    assert_eq!(paths("@back"), Paths::Internal);
}

#[test]
fn times_and_sizes_are_nginx_s() {
    let times = [
        ("90", 90_000),
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("500ms", 500),
        ("1d 2h", 93_600_000),
    ];
    for (text, expected) in times {
        assert_eq!(units::parse_time(text), Some(expected), "{text}");
    }
    for text in ["", "x", "5x", "m", "99999999999999999999"] {
        assert_eq!(units::parse_time(text), None, "{text}");
    }
    assert_eq!(units::parse_size("10m"), Some(10 << 20));
    assert_eq!(units::parse_size("8192"), Some(8192));
    assert_eq!(units::parse_size("ten"), None);
    assert_eq!(units::parse_size("99999999999999999999g"), None);
    assert_eq!(units::format_size(2 << 30), "2GiB");
    assert_eq!(units::format_size(1500), "1500B");
    assert_eq!(units::format_time(1500), "1500ms");
}

#[test]
fn the_innermost_block_counts() {
    let done = server(
        "auth_basic out; auth_basic_user_file users; add_header X-A 1; add_header X-B 2;\n\
         location /v2/ { proxy_pass http://r; }\n\
         location /in/ { auth_basic in; add_header X-C 3; proxy_pass http://r; }\n\
         location /off/ { auth_basic off; proxy_pass http://r; location /off/on/ { auth_basic on; proxy_pass http://r; } }",
    );
    has(
        &done,
        &[
            "realm = \"out\" }\nresponse_headers = { \"X-A\" = \"1\", \"X-B\" = \"2\" }",
            "realm = \"in\" }\nresponse_headers = { \"X-C\" = \"3\" }",
            "path = \"/off/\"\nupstream = \"http://r\"\nauth = { mode = \"upstream\" }",
            "path = \"/off/on/\"\nupstream = \"http://r\"\nauth = { mode = \"basic\"",
        ],
    );
}

#[test]
fn nothing_is_opened_that_was_closed() {
    let closed = [
        "location /v2/ { auth_request /a; proxy_pass http://r; }",
        "auth_jwt realm; location /v2/ { proxy_pass http://r; }",
        "location /v2/ { access_by_lua_block { if x then { } end -- '}\n } proxy_pass http://r; }",
        "location /v2/ { deny all; proxy_pass http://r; }",
        "location /v2/ { allow nobody.example; deny all; proxy_pass http://r; }",
        "location /v2/ { if ($http_x != y) { return 403; } proxy_pass http://r; }",
        "if ($arg_key != y) { return 403; } location /v2/ { proxy_pass http://r; }",
        "location /v2/ { if ($http_user_agent !~ robot) { return 403; } proxy_pass http://r; }",
        "location /v2/ { limit_except GET { deny all; } proxy_pass http://r; }",
        "location /v2/ { limit_except POST { deny all; } proxy_pass http://r; }",
        "location /v2/ { auth_basic x; auth_basic_user_file $u; proxy_pass http://r; }",
        "location ~ ^/v2/.*/secret { deny all; } location /v2/ { proxy_pass http://r; }",
        "location ~ secret { auth_basic x; auth_basic_user_file u; proxy_pass http://r; } location /v2/ { proxy_pass http://r; }",
        "ssl_verify_client optional_no_ca; if ($ssl_client_verify != SUCCESS) { return 403; } location /v2/ { proxy_pass http://r; }",
        "ssl_verify_client on; location /v2/ { proxy_pass http://r; }",
        "ssl_client_certificate ca; ssl_verify_client on; ssl_crl list; location /v2/ { proxy_pass http://r; }",
        "ssl_client_certificate ca; ssl_verify_client on; ssl_ocsp on; location /v2/ { proxy_pass http://r; }",
        "rewrite_by_lua_file x.lua; location /v2/ { proxy_pass http://r; }",
        "server_rewrite_by_lua_file x.lua; location /v2/ { proxy_pass http://r; }",
        "modsecurity on; location /v2/ { proxy_pass http://r; }",
        "ModSecurityEnabled on; location /v2/ { proxy_pass http://r; }",
        "location /v2/ { SecRulesEnabled; proxy_pass http://r; }",
        "location /v2/ { auth_pam login; proxy_pass http://r; }",
        "location /v2/ { auth_gss on; proxy_pass http://r; }",
        "location /v2/ { js_content main.check; proxy_pass http://r; }",
        "location /v2/ { perl check; proxy_pass http://r; }",
        "location /v2/ { proxy_method GET; proxy_pass http://r; }",
        "location /v2/ { more_clear_input_headers X-Remote-User; proxy_pass http://r; }",
        "location /v2/ { directive_of_a_module_that_nobody_knows x; proxy_pass http://r; }",
        "include gone.conf; location /v2/ { proxy_pass http://r; }",
        "location /v2/ { include gone.conf; proxy_pass http://r; }",
    ];
    for inner in closed {
        let done = server(inner);
        has(&done, &["path = \"/v2/\"", "respond = 403"]);
        assert!(!done.toml.contains("\nupstream"), "{inner}\n{}", done.toml);
    }
    let open = [
        "location /v2/ { auth_request off; proxy_pass http://r; }",
        "location /v2/ { if ($host != a.example) { return 444; } proxy_pass http://r; }",
        "location /v2/ { allow all; proxy_pass http://r; }",
        "ssl_ocsp off; modsecurity off; location /v2/ { proxy_pass http://r; }",
        "mirror off; auth_delay 1s; ssl_ocsp_cache off; location /v2/ { proxy_pass http://r; }",
        "include mime.types; include absent/*.conf; location /v2/ { proxy_pass http://r; }",
    ];
    for inner in open {
        has(&server(inner), &["\nupstream = \"http://r\""]);
    }
}

/// What stands in a server block with these maps.
fn server_with(maps: &str, inner: &str) -> Import {
    let text = format!(
        "{maps} server {{ listen 443 ssl; server_name a.example; ssl_certificate c; ssl_certificate_key k; client_max_body_size 0; {inner} }}"
    );
    imported(&text).unwrap()
}

/// A route of tidegate cannot add a query to the requests that it forwards, so a location in which nginx adds one is closed. A query
/// that nginx passes on as the client sent it does not close the location.
#[test]
fn a_query_that_nginx_adds_closes() {
    for (inner, is_open) in [
        ("set $args ro=1; proxy_pass http://r;", false),
        ("rewrite ^(.*)$ $1?ro=1 break; proxy_pass http://r;", false),
        ("proxy_pass http://r$uri?ro=1;", false),
        ("set $up r; proxy_pass http://$up$uri?ro=1;", false),
        ("set $up \"r/?ro=1\"; proxy_pass http://$up;", false),
        ("rewrite ^(.*)$ $1?$args break; proxy_pass http://r;", true),
        ("rewrite ^(.*)$ $1? break; proxy_pass http://r;", true),
        ("proxy_pass http://r$uri$is_args$args;", true),
        ("proxy_pass http://r$uri?$args;", true),
        ("proxy_pass http://r$request_uri;", true),
    ] {
        let other = "location /other/ { proxy_pass http://other; }";
        let done = server(&format!("location / {{ {inner} }} {other}"));
        let has_upstream = done.toml.contains("\nupstream = \"http://r\"");
        assert_eq!(has_upstream, is_open, "{inner}\n{}", done.toml);
    }
}

#[test]
fn a_path_before_the_target_of_the_request_is_part_of_the_path() {
    for (pass, is_open) in [
        ("http://r$request_uri", true),
        ("http://r/v2$request_uri", false),
    ] {
        let done = server(&format!("location /v2 {{ proxy_pass {pass}; }}"));
        let has_upstream = done.toml.contains("\nupstream");
        assert_eq!(has_upstream, is_open, "{pass}\n{}", done.toml);
    }
}

#[test]
fn the_last_definition_of_a_variable_counts() {
    let inner = "if ($closed) { return 403; } location / { proxy_pass http://r; }";
    let open = "map $uri $closed { default 0; }";
    for later in [
        "map $uri $closed { default 0; ~admin 1; }",
        "geo $closed { default 0; 192.0.2.0/24 1; }",
        "split_clients $uri $closed { 50% 1; * 0; }",
    ] {
        let done = server_with(&format!("{open} {later}"), inner);
        assert!(!done.toml.contains("\nupstream"), "{later}\n{}", done.toml);
        let done = server_with(&format!("{later} {open}"), inner);
        has(&done, &["\nupstream"]);
    }
}

#[test]
fn a_map_with_entries_that_are_not_known_closes() {
    let inner = "if ($closed) { return 403; } location / { proxy_pass http://r; }";
    for entry in ["include gone.map;", "hostnames;", "volatile;"] {
        let done = server_with(&format!("map $uri $closed {{ {entry} default 0; }}"), inner);
        assert!(!done.toml.contains("\nupstream"), "{entry}\n{}", done.toml);
    }
}

#[test]
fn a_map_of_the_user_agent_is_a_filter() {
    for (map, condition, is_open) in [
        (
            "$http_user_agent $bot { default 0; ~*sqlmap 1; }",
            "$bot",
            true,
        ),
        (
            "$query_string $bot { default \"\"; ~union 1; }",
            "$bot = 1",
            true,
        ),
        (
            "$http_user_agent $bot { default 1; ~docker 0; }",
            "$bot",
            false,
        ),
        (
            "$http_user_agent $bot { default 0; \"\" 1; }",
            "$bot",
            false,
        ),
        ("$http_x_key $bot { default 0; sesame 1; }", "$bot", false),
    ] {
        let inner =
            format!("if ({condition}) {{ return 403; }} location / {{ proxy_pass http://r; }}");
        let done = server_with(&format!("map {map}"), &inner);
        let has_upstream = done.toml.contains("\nupstream");
        assert_eq!(has_upstream, is_open, "{map}\n{}", done.toml);
        let is_filter = |warning: &String| warning.contains("does not filter by User-Agent");
        assert!(!is_open || done.warnings.iter().any(is_filter), "{map}");
    }
}

/// `auth_basic ""` requires a password in nginx, where only `auth_basic off` requires none.
#[test]
fn an_empty_realm_requires_the_password() {
    let done = server(
        "location ~ admin { auth_basic \"\"; auth_basic_user_file u; proxy_pass http://r; } location / { proxy_pass http://r; }",
    );
    assert!(!done.toml.contains("\nupstream"), "{}", done.toml);
}

#[test]
fn directives_without_effect_on_access_close_nothing() {
    for directive in [
        "max_headers 100;",
        "proxy_pass_trailers on;",
        "gunzip_buffers 32 4k;",
        "postpone_gzipping 20;",
        "modern_browser msie 5.5;",
        "proxy_send_lowat 0;",
    ] {
        let done = server(&format!(
            "{directive} location / {{ proxy_pass http://r; }}"
        ));
        has(&done, &["\nupstream = \"http://r\""]);
    }
}

/// The probes have no request that such a condition matches, or only some of them.
#[test]
fn a_condition_without_probes_closes() {
    let pass = "location / { proxy_pass http://127.0.0.1:5000; }";
    let closed = [
        r"if ($remote_addr ~ ^10\.) { return 403; }",
        "if ($remote_addr = ::ffff:10.0.0.1) { return 403; }",
        "allow ::ffff:10.0.0.0/104; deny all;",
        r#"set $key "$request_method:$uri"; if ($key ~ "^DELETE:/v2/") { return 403; }"#,
        "set $path $uri; if ($path ~ ^/secret) { return 403; }",
        "if ($ssl_server_name = b.example) { return 403; }",
        "if ($ssl_protocol = TLSv1.2) { return 403; }",
        r"if ($request_uri ~ \?token=) { return 403; }",
        "if ($http_host = a.example:8443) { return 403; }",
        "if ($request_method = PROPFIND) { return 403; }",
        "if ($request_method ~ ^X-) { return 403; }",
        "if ($request_method !~ ^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS)$) { return 405; }",
        "if ($by_client) { return 403; }",
        "if ($by_both) { return 403; }",
        "if ($by_two) { return 403; }",
        "if ($many) { return 403; }",
    ];
    let numbers: Vec<_> = (0..80).map(|number| format!("s{number}")).collect();
    let maps = format!(
        "map $remote_addr $by_client {{ ~^10\\. 1; }} map \"$host$uri\" $by_both {{ ~secret 1; }}\n\
         map $uri $first {{ ~^/a $uri; }} map $first $by_two {{ ~b 1; }} map $uri $many {{ ~^/({})$ 1; }}",
        numbers.join("|")
    );
    let import = |inner: &str| {
        let text = format!(
            "{maps} server {{ listen 443 ssl; server_name a.example; ssl_certificate c; ssl_certificate_key k; client_max_body_size 0; {inner} }}"
        );
        imported(&text).unwrap()
    };
    for inner in closed {
        let done = import(&format!("{inner} {pass}"));
        assert!(!done.toml.contains("\nupstream"), "{inner}\n{}", done.toml);
    }
    for inner in [
        "if ($request_method = TRACE) { return 405; } location /v2/ { proxy_pass http://127.0.0.1:5000; }",
        "set $scheme_and_port $scheme:$server_port; if ($scheme_and_port = http:80) { return 403; } location / { proxy_pass http://127.0.0.1:5000; }",
    ] {
        has(&import(inner), &["\nupstream"]);
    }
}

#[test]
fn a_path_with_unusual_characters_is_compared() {
    for location in [
        "\"/geheim \u{fc}/\"",
        "/a%b/",
        "~ \"^/a b\"",
        "~ ^/a%",
        "~ ^/\u{fc}/",
    ] {
        let done = server(&format!(
            "location {location} {{ deny all; }} location / {{ proxy_pass http://127.0.0.1:5000; }}"
        ));
        assert!(
            !done.toml.contains("\nupstream"),
            "{location}\n{}",
            done.toml
        );
    }
}

#[test]
fn a_host_that_a_condition_names_is_compared_below_each_wildcard() {
    for condition in [
        r"~ ^internal\.",
        "~* INTERNAL",
        r"~ ^internal\.example\.com$",
    ] {
        let done = imported(&format!(
            "server {{ listen 443 ssl; server_name *.example.com; ssl_certificate c; ssl_certificate_key k; client_max_body_size 0;\n\
             if ($host {condition}) {{ return 403; }} location / {{ proxy_pass http://127.0.0.1:5000; }} }}"
        ));
        let toml = done.unwrap().toml;
        assert!(!toml.contains("\"*.example.com\""), "{condition}\n{toml}");
    }
}

#[test]
fn a_filter_demands_no_value() {
    let pass = "location / { proxy_pass http://127.0.0.1:5000; }";
    for (condition, is_filter) in [
        (r"$arg_token ~ ^$", false),
        ("$arg_token ~* (a|)", false),
        ("$arg_token = \"\"", false),
        ("$arg_token = $arg_key", false),
        ("$arg_token !~ ^a", false),
        ("$args != a", false),
        ("$http_user_agent = \"\"", false),
        ("$http_user_agent !~ ^docker", false),
        ("$http_user_agent ~ \"(?!docker)\"", false),
        ("$http_x_key = \"\"", false),
        ("$http_x_key", false),
        ("$arg_token", true),
        ("$arg_token = a", true),
        ("$query_string ~ union", true),
        ("$http_referer ~* spam", true),
        (
            r"$http_user_agent ~ ^(docker\/1\.(3|4|5(?!\.[0-9]-dev))|Go\ ).*$",
            true,
        ),
    ] {
        let done = server(&format!("if ({condition}) {{ return 403; }} {pass}"));
        let is_open = done.toml.contains("\nupstream");
        assert_eq!(is_open, is_filter, "{condition}\n{}", done.toml);
    }
    for (referers, is_filter) in [("none blocked a.example", true), ("a.example", false)] {
        let done = server(&format!(
            "location / {{ valid_referers {referers}; if ($invalid_referer) {{ return 403; }} proxy_pass http://127.0.0.1:5000; }}"
        ));
        let is_open = done.toml.contains("\nupstream");
        assert_eq!(is_open, is_filter, "{referers}\n{}", done.toml);
    }
}

#[test]
fn a_pattern_for_dot_files_alone_closes_nothing() {
    for (pattern, is_open) in [
        (r"/\.", true),
        (r"/\.ht", true),
        (r"/\.(?!well-known)", true),
        (r"/\.(git|svn)/", true),
        (r"/(\.git|secret)/", false),
        (r"(^|/)\.|secret", false),
        (r"\.git", false),
        (r"/.git", false),
    ] {
        let done = server(&format!(
            "location ~ {pattern} {{ deny all; }} location / {{ proxy_pass http://127.0.0.1:5000; }}"
        ));
        assert_eq!(
            done.toml.contains("\nupstream"),
            is_open,
            "{pattern}\n{}",
            done.toml
        );
    }
}

#[test]
fn a_path_without_a_route_does_not_open_its_siblings() {
    for (location, closed) in [
        (
            "/v2/internal- { return 404; }",
            "path = \"/v2\"\nrespond = 403",
        ),
        (
            "/v2/internal { return 404; }",
            "path = \"/v2\"\nrespond = 403",
        ),
        (
            "/v2/internal { root /srv; }",
            "path = \"/v2\"\nrespond = 403",
        ),
        (
            "/ui/secret- { return 404; }",
            "path = \"/ui\"\nrespond = 403",
        ),
    ] {
        let done = server(&format!(
            "location / {{ proxy_pass http://127.0.0.1:5000; }} location {location}"
        ));
        has(&done, &[closed, "\nupstream"]);
    }
}

/// The lines of the list of requests that nginx forwards and tidegate does not.
fn stricter(import: &Import) -> Vec<&str> {
    let after = import.toml.split_once("# Stricter here: ");
    let lines = after.map_or("", |(_, list)| list).lines().skip(1);
    lines.map_while(|line| line.strip_prefix("# - ")).collect()
}

#[test]
fn each_difference_has_a_request_that_shows_it() {
    let pass = "proxy_pass http://127.0.0.1:5000;";
    // The only server block is the default server of nginx.
    let other_host = "requests for other hosts than those in site.hosts: 421";
    let same = server(&format!("location / {{ {pass} }}"));
    assert_eq!(stricter(&same), [other_host], "{}", same.toml);
    for (inner, expected) in [
        (
            format!("location / {{ {pass} }} location ~ ^/ui/secret {{ deny all; }}"),
            "GET a.example/ui without a password: 403 by the route /ui (closed: location ~ ^/ui/secret)",
        ),
        (
            format!("location /v2/ {{ {pass} }} location ~ \\.cgi$ {{ {pass} }}"),
            "GET a.example/.cgi without a password: 404, because no route has this path",
        ),
    ] {
        let done = server(&inner);
        let list = stricter(&done);
        assert_eq!(list.len(), 2, "{}", done.toml);
        assert!(list.contains(&expected), "{expected}\n{}", done.toml);
    }
    let mut many = String::new();
    for number in 0..30 {
        let _ = writeln!(many, "location ~ ^/x{number}/secret {{ deny all; }}");
    }
    let done = server(&format!("{many} location / {{ {pass} }}"));
    assert_eq!(stricter(&done).len(), 21, "{}", done.toml);
    has(&done, &["\n# - and 11 more\n"]);
}

#[test]
fn a_directory_that_cannot_be_listed_closes_the_block_of_its_include() {
    struct Unlisted(Memory);
    impl FileSource for Unlisted {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            self.0.read(path)
        }

        fn names(&self, _: &Path) -> io::Result<Vec<String>> {
            Err(io::ErrorKind::PermissionDenied.into())
        }

        fn canonical(&self, path: &Path) -> PathBuf {
            path.to_owned()
        }
    }
    let text = "http { server { listen 443 ssl; server_name a.example; ssl_certificate c; ssl_certificate_key k;\n\
        location /a/ { include rules/*.conf; proxy_pass http://r; } location /b/ { proxy_pass http://r; } } }";
    let source = Unlisted(files([("/etc/nginx/nginx.conf", text)]));
    let names = ["/etc/nginx/nginx.conf".into()];
    let done = import(&source, &names, "/etc/nginx".as_ref()).unwrap();
    has(
        &done,
        &[
            "path = \"/a/\"\nrespond = 403",
            "path = \"/b/\"",
            "upstream = \"http://r\"",
        ],
    );
    let is_named = |warning: &String| warning.contains("nginx.conf:2: include: /etc/nginx/rules: ");
    assert!(done.warnings.iter().any(is_named), "{:?}", done.warnings);
}

#[test]
fn a_site_without_an_address_is_closed() {
    for listen in [
        "registry.internal:443 ssl",
        "5000-5005 ssl",
        "unix:/run/x.sock ssl",
    ] {
        let text = format!(
            "http {{ server {{ listen {listen}; server_name a.example; ssl_certificate c; ssl_certificate_key k;\n\
             location / {{ proxy_pass http://r; }} location /v2/ {{ deny all; }} }} }}"
        );
        let done = imported(&text).unwrap();
        has(&done, &["path = \"/\"\nrespond = 403"]);
        assert!(!done.toml.contains("\nupstream"), "{listen}: {}", done.toml);
        let is_named = |warning: &&String| warning.contains("no IP address and port");
        let named = done.warnings.iter().filter(is_named);
        assert_eq!(named.count(), 1, "{listen}: {:?}", done.warnings);
    }
}

#[test]
fn a_configuration_with_an_error_is_closed() {
    let done =
        server("location /v2/ { proxy_ssl_name \"no name\"; proxy_pass https://127.0.0.1:5000; }");
    has(&done, &["path = \"/v2/\"\nrespond = 403"]);
    let is_named = |warning: &String| warning.contains("has an error");
    assert!(done.warnings.iter().any(is_named), "{:?}", done.warnings);
}

#[test]
fn rules_about_clients_that_nginx_finds_in_another_way_close_the_route() {
    let imported = |listen: &str, around: &str, inside: &str| {
        let text = format!(
            "http {{ {around}\n\
             server {{ listen {listen}; server_name a.example; ssl_certificate c; ssl_certificate_key k; location /v2/ {{ {inside} proxy_pass http://r; }} }} }}"
        );
        imported(&text).unwrap()
    };
    let allow = "allow 10.1.0.0/16; deny all;";
    let from = "set_real_ip_from 10.0.0.1; ";
    let forwarded =
        "set_real_ip_from 10.0.0.1; real_ip_header X-Forwarded-For; real_ip_recursive on;";
    let header = |name: &str| format!("{from} real_ip_recursive on; real_ip_header {name};");
    let closed = [
        ("443 ssl", from.to_owned(), allow),
        (
            "443 ssl",
            format!("{from} real_ip_header X-Forwarded-For;"),
            allow,
        ),
        ("443 ssl", header("X-Real-IP"), allow),
        ("443 ssl", header("CF-Connecting-IP"), allow),
        ("443 ssl", header("X-Real-IP"), "deny 10.2.0.0/16;"),
        (
            "443 ssl",
            header("X-Real-IP"),
            "satisfy any; allow 10.1.0.0/16; deny all; auth_basic x; auth_basic_user_file f;",
        ),
        (
            "443 ssl",
            String::new(),
            "set_real_ip_from 10.0.0.1; allow 10.1.0.0/16; deny all;",
        ),
        ("443 ssl proxy_protocol", String::new(), allow),
        ("443 ssl proxy_protocol", forwarded.to_owned(), allow),
    ];
    for (listen, around, inside) in closed {
        let done = imported(listen, &around, inside);
        has(&done, &["path = \"/v2/\"", "respond = 403"]);
        let is_named = |warning: &String| warning.contains("rules about client addresses");
        let found = done.warnings.iter().any(is_named);
        assert!(found, "{listen} {around} {inside}: {}", done.toml);
    }
    let open = [
        ("443 ssl", "", allow),
        ("443 ssl", forwarded, allow),
        ("443 ssl", "real_ip_header X-Real-IP;", allow),
        ("443 ssl", "set_real_ip_from 10.0.0.1;", ""),
        (
            "443 ssl proxy_protocol",
            "set_real_ip_from 10.0.0.1; real_ip_header proxy_protocol;",
            allow,
        ),
    ];
    for (listen, around, inside) in open {
        has(
            &imported(listen, around, inside),
            &["\nupstream = \"http://r\""],
        );
    }
}

#[test]
fn a_server_of_the_other_address_family_has_a_warning() {
    let text = "http { server { listen 443 ssl default_server; listen [::]:443 ssl default_server; server_name b.example; ssl_certificate c; ssl_certificate_key k; location /v2/ { proxy_pass http://r; } }\n\
        server { listen 443 ssl; server_name a.example; ssl_certificate c; ssl_certificate_key k; location /v2/ { proxy_pass http://r; } } }";
    let done = imported(text).unwrap();
    has(&done, &["upstream = \"http://r\""]);
    let is_named = |warning: &String| {
        warning.contains(":2: nginx serves a.example at [::]:443 by its default server")
    };
    assert!(done.warnings.iter().any(is_named), "{:?}", done.warnings);
}

#[test]
fn a_field_that_nginx_replaced_never_has_the_value_of_the_client() {
    for value in [
        "$ssl_client_s_dn",
        "\"x-$ssl_client_s_dn\"",
        "$remote_user",
        "$http_x_other",
        "\"ä\u{1}\"",
    ] {
        let done = server(&format!(
            "location /v2/ {{ proxy_set_header X-Remote-User {value}; proxy_pass http://r; }}"
        ));
        has(&done, &["request_headers = { \"X-Remote-User\" = \"\" }"]);
        let is_named = |warning: &String| warning.contains("X-Remote-User is removed");
        assert!(done.warnings.iter().any(is_named), "{:?}", done.warnings);
    }
    let done = server(
        "location /v2/ { proxy_set_header X-Remote-User $http_x_remote_user; proxy_pass http://r; }",
    );
    assert!(!done.toml.contains("request_headers"), "{}", done.toml);
}

#[test]
fn an_open_path_opens_nothing_below_it() {
    let done = server(
        "auth_basic x; auth_basic_user_file u; location / { proxy_pass http://r; }\n\
         location = /health { auth_basic off; proxy_pass http://r; } location /admin { deny all; return 403; }",
    );
    // nginx rejects /adminx and requires a password below /health, and no route can say either.
    assert!(!done.toml.contains("\nupstream"), "{}", done.toml);
    for closed in [
        "the route /health is closed",
        "the route / is closed because of",
    ] {
        let is_reported = |warning: &String| warning.contains(closed);
        assert!(done.warnings.iter().any(is_reported), "{:?}", done.warnings);
    }
}

#[test]
fn the_first_rule_for_an_address_counts() {
    let written = |rules: &str| {
        let done = server(&format!("location /v2/ {{ {rules} proxy_pass http://r; }}"));
        let keys = ["allow", "deny", "satisfy", "respond"];
        let is_key = |line: &&str| keys.iter().any(|key| line.starts_with(key));
        let lines = done.toml.lines().filter(is_key);
        let bare = lines.map(|line| line.split(" #").next().unwrap_or_default().to_owned());
        bare.collect::<Vec<_>>().join("; ")
    };
    for (rules, expected) in NETWORKS {
        assert_eq!(written(rules), *expected, "{rules}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let done = server(
        "proxy_set_header Authorization \"Basic c2VjcmV0\"; location /v2/ { proxy_pass http://r; }",
    );
    assert!(!done.toml.contains("c2VjcmV0"), "{}", done.toml);
    assert!(
        done.warnings
            .iter()
            .any(|w| w.contains("Authorization is left out"))
    );
}

#[test]
fn addresses_follow_variables_blocks_and_sockets() {
    let done = server(
        "set $up 10.0.0.1:5000; location /a/ { proxy_pass http://$up; } location /b/ { proxy_pass http://${up}$request_uri; }\n\
         location /c/ { proxy_pass http://unix:/run/r.sock; } location /d/ { proxy_pass http://unix:/run/r.sock:/d/; }\n\
         location /e/ { proxy_pass http://r/; } location /g { proxy_pass http://r/; } location /f/ { try_files $uri @f; } location @f { proxy_pass http://f; }",
    );
    has(
        &done,
        &[
            "path = \"/a/\"\nupstream = \"http://10.0.0.1:5000\"",
            "path = \"/b/\"\nupstream = \"http://10.0.0.1:5000\"",
            "path = \"/c/\"\nupstream = \"unix:/run/r.sock\"",
            "path = \"/d/\"\nupstream = \"unix:/run/r.sock\"",
            "path = \"/e/\"\nupstream = \"http://r/\"",
            "path = \"/f/\"\nupstream = \"http://f\"",
        ],
    );
    assert!(!done.toml.contains("path = \"/g\""));
    assert!(
        done.warnings
            .iter()
            .any(|w| w.contains("changes the path (/g becomes /)"))
    );
}

#[test]
fn every_shape_of_listen_is_read() {
    let listen = |lines: &str| {
        let done = imported(&format!(
            "server {{ {lines} server_name a.example; ssl_certificate c; ssl_certificate_key k; location / {{ proxy_pass http://r; }} }}"
        ));
        let toml = done.unwrap().toml;
        let line = toml.lines().find(|line| line.starts_with("https")).unwrap();
        line.split(" #").next().unwrap().to_owned()
    };
    let cases = [
        ("listen 443 ssl;", "https = [\"0.0.0.0:443\"]"),
        (
            "listen 443 ssl; listen [::]:443 ssl http2;",
            "https = [\"[::]:443\"]",
        ),
        (
            "listen [::]:443 ssl ipv6only=off;",
            "https = [\"[::]:443\"]",
        ),
        (
            "listen *:8443 default_server ssl backlog=5;",
            "https = [\"0.0.0.0:8443\"]",
        ),
        (
            "listen 10.0.0.1:443 ssl; listen [fe80::1]:443 ssl;",
            "https = [\"10.0.0.1:443\", \"[fe80::1]:443\"]",
        ),
        (
            "listen 443 ssl; listen [::]:443 ssl; listen 10.0.0.1:443 ssl;",
            "https = [\"0.0.0.0:443\", \"[::]:443\", \"10.0.0.1:443\"]",
        ),
        (
            "ssl on; listen localhost:443;",
            "https = [\"127.0.0.1:443\"]",
        ),
        (
            "listen 443 ssl; listen 443 quic reuseport;",
            "https = [\"0.0.0.0:443\"]",
        ),
        (
            "listen registry.lan:443 ssl; listen 444 ssl;",
            "https = [\"0.0.0.0:444\"]",
        ),
        ("listen unix:/run/x.sock ssl;", "https = [\"[::]:443\"]"),
    ];
    for (lines, expected) in cases {
        assert_eq!(listen(lines), expected, "{lines}");
    }
}

#[test]
fn a_file_without_a_registry_says_so() {
    for text in [
        "",
        "events {}",
        "server { listen 80; root /srv; }",
        "http { server { listen 443 ssl; return 301 https://x; } }",
    ] {
        let error = imported(text).unwrap_err().to_string();
        assert!(
            error.contains("no server block leads to a registry")
                && error.contains("fix: name the file"),
            "{error}"
        );
    }
    let rewritten = "server { listen 443 ssl; location ~ ^/(a|v2)($|/) { rewrite ^/a(/.*) $1 break; proxy_pass http://r$uri; } }";
    let error = imported(rewritten).unwrap_err().to_string();
    assert!(error.contains("fix: write the routes by hand"), "{error}");
}

#[test]
fn a_pattern_is_tried_below_every_location() {
    for inner in [
        "location ~ ^/v2/[a-z]+/secret { deny all; } location /v2/pub/ { proxy_pass http://127.0.0.1:5000; }",
        "location ~ (free|x)$ { deny all; } location ~ ^/(admin|ui)/ { proxy_pass http://127.0.0.1:5000; }",
    ] {
        let done = server(inner);
        assert!(!done.toml.contains("\nupstream"), "{inner}\n{}", done.toml);
    }
}

#[test]
fn rules_by_method_become_grants() {
    let login = "auth_basic x; auth_basic_user_file u;";
    let pass = "proxy_pass http://127.0.0.1:5000;";
    let cases = [
        (
            format!(
                "location /v2/ {{ {login} if ($request_method = DELETE) {{ return 403; }} {pass} }}"
            ),
            &["mode = \"basic\"", "actions = [\"push\", \"catalog\"]"][..],
        ),
        (
            format!(
                "if ($request_method !~ ^(GET|HEAD)$) {{ return 405; }} location /v2/ {{ {login} {pass} }}"
            ),
            &["mode = \"basic\"", "actions = [\"pull\", \"catalog\"]"],
        ),
        (
            format!("location /v2/ {{ if ($writes) {{ return 403; }} {login} {pass} }}"),
            &["mode = \"basic\"", "actions = [\"pull\", \"catalog\"]"],
        ),
        (
            format!("location /v2/ {{ limit_except GET HEAD {{ {login} }} {pass} }}"),
            &[
                "mode = \"token\"",
                "to = [\"@anonymous\"]",
                "actions = [\"push\", \"delete\"]",
            ],
        ),
        (
            format!(
                "location /v2/ {{ {login} limit_except GET POST PUT PATCH DELETE {{ deny all; }} {pass} }}"
            ),
            &["mode = \"basic\""],
        ),
        // No grant permits a part of what a push needs, or depends on the network.
        (
            format!(
                "location /v2/ {{ {login} if ($request_method = PUT) {{ return 403; }} {pass} }}"
            ),
            &["respond = 403"],
        ),
        (
            format!(
                "location /v2/ {{ {login} limit_except GET {{ allow 10.0.0.0/8; deny all; }} {pass} }}"
            ),
            &["respond = 403"],
        ),
        (
            format!("location /v2/ {{ if ($request_method = DELETE) {{ return 403; }} {pass} }}"),
            &["respond = 403"],
        ),
    ];
    for (inner, expected) in cases {
        let map = "map $request_method $writes { default 1; GET 0; HEAD 0; }";
        let done = imported(&format!(
            "{map} server {{ listen 443 ssl; server_name a.example; ssl_certificate c; ssl_certificate_key k; client_max_body_size 0; {inner} }}"
        ));
        let done = done.unwrap();
        has(&done, expected);
        let is_closed = expected == ["respond = 403"];
        assert_eq!(
            done.toml.contains("respond = 403"),
            is_closed,
            "{}",
            done.toml
        );
        let grants = expected
            .iter()
            .filter(|words| words.starts_with("actions"))
            .count();
        assert_eq!(
            done.toml.contains("[[site.route.grant]]"),
            grants > 0,
            "{}",
            done.toml
        );
    }
}

#[test]
fn a_server_behind_a_proxy_stays_without_tls() {
    let text = |real_ip: &str| {
        let done = imported(&format!(
            "server {{ listen 80; listen [::]:80; server_name a.example; {real_ip} client_max_body_size 0; location /v2/ {{ auth_basic x; auth_basic_user_file u; proxy_pass http://127.0.0.1:5000; }} }}"
        ));
        done.unwrap()
    };
    let behind = text("set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;");
    has(
        &behind,
        &[
            "behind_proxy = [\"[::]:80\"]",
            "trusted_proxies = [\"10.0.0.0/8\"]",
            "\nupstream",
        ],
    );
    assert!(!behind.toml.contains("\ntls =") && !behind.toml.contains("\nhttps ="));
    let plain = text("");
    has(
        &plain,
        &[
            "https = [\"[::]:443\"]",
            "http = [\"[::]:80\"]",
            "\nupstream",
        ],
    );
    assert!(!plain.toml.contains("behind_proxy ="));
}

#[test]
fn each_site_is_served_where_nginx_served_it() {
    let block = |listen: &str, port: u16| {
        format!(
            "server {{ {listen} server_name a.example; ssl_certificate c; ssl_certificate_key k; client_max_body_size 0; location / {{ proxy_pass http://127.0.0.1:{port}; }} }}\n"
        )
    };
    let text = block("listen 443 ssl;", 5000) + &block("listen 127.0.0.1:8443 ssl;", 5001);
    let done = imported(&text).unwrap();
    has(
        &done,
        &[
            "https = [\"0.0.0.0:443\", \"127.0.0.1:8443\"]",
            "listen = [\"0.0.0.0:443\"]",
            "listen = [\"127.0.0.1:8443\"]",
            "upstream = \"http://127.0.0.1:5000\"",
            "upstream = \"http://127.0.0.1:5001\"",
        ],
    );
    // A server without TLS on this machine alone stays there.
    let inner = block("listen 127.0.0.1:8081;", 5001).replace("a.example", "b.example");
    let done = imported(&(block("listen 443 ssl;", 5000) + &inner)).unwrap();
    has(
        &done,
        &[
            "listen = [\"0.0.0.0:443\"]",
            "listen = [\"127.0.0.1:8081\"]",
        ],
    );
    // Without another address, it would be served to everyone.
    let text = block("listen 443 ssl;", 5000) + &block("listen unix:/run/x.sock ssl;", 5001);
    let done = imported(&text.replacen("a.example", "b.example", 1)).unwrap();
    assert!(!done.toml.contains("5001"), "{}", done.toml);
}

#[test]
fn redirects_and_texts_are_sent_by_tidegate() {
    let done = server(
        "location /v2/ { proxy_pass http://127.0.0.1:5000; } location /old/ { return 301 https://ui.example$request_uri; }\n\
         location /here/ { return https://$host/there/$is_args$args; } location = /robots.txt { return 200 \"User-agent: *\"; }\n\
         location /ip { return 200 $remote_addr; } location /json { return 404 '{host}'; } location /odd/ { return 302 https://$http_x/; }",
    );
    has(
        &done,
        &[
            "respond = { status = 301, location = \"https://ui.example{path}{query}\" }",
            "respond = { status = 302, location = \"https://{host}/there/{query}\" }",
            "respond = { status = 200, text = \"User-agent: *\" }",
            "path = \"/ip\" # ends with a segment: not /ipx\nrespond = 200 # without the text",
        ],
    );
    assert!(!done.toml.contains("text = \"{host}\"") && !done.toml.contains("path = \"/odd/\""));
}

#[test]
fn header_fields_have_placeholders() {
    let done = server(
        "location /v2/ { auth_basic x; auth_basic_user_file u; proxy_set_header X-Client $remote_addr; proxy_set_header X-Zone \"a-$host\";\n\
         proxy_set_header X-User $remote_user; proxy_set_header X-Literal \"{user}\"; proxy_set_header X-Forwarded-Host $host;\n\
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Original-URI $request_uri; proxy_set_header X-Forwarded-Prefix /v2;\n\
         proxy_pass http://127.0.0.1:5000; }",
    );
    has(
        &done,
        &[
            "request_headers = { \"X-Client\" = \"{client}\", \"X-Zone\" = \"a-{host}\", \"X-User\" = \"{user}\", \"X-Literal\" = \"\" }",
            "forwarded = [\"host\", \"port\", \"original-uri\", \"prefix\"]",
        ],
    );
}

#[test]
fn the_upstream_has_its_path_host_and_certificate() {
    let done = server(
        "location /ui/ { proxy_set_header Host ui.internal; proxy_pass http://127.0.0.1:8080/app/; }\n\
         location /far/ { proxy_pass https://images.example.net; proxy_ssl_verify on; proxy_ssl_certificate c.pem; proxy_ssl_certificate_key k.pem; }",
    );
    has(
        &done,
        &[
            "upstream = { urls = [\"http://127.0.0.1:8080/app/\"], host = \"ui.internal\" }",
            "registry = false",
            "upstream = { urls = [\"https://images.example.net\"], cert = \"/etc/nginx/c.pem\", key = \"/etc/nginx/k.pem\", host = \"upstream\" }",
        ],
    );
}

#[test]
fn templates_are_recognised() {
    let block = |name: &str, pass: &str| {
        format!(
            "server {{\nlisten 443 ssl;\nserver_name {name};\nlocation / {{ proxy_pass {pass}; }}\n}}"
        )
    };
    for (text, place, mark) in [
        (block("{{ host }}", "http://r"), "3:13", "{{"),
        (block("${REGISTRY_HOST}", "http://r"), "3:1", "${NAME}"),
        (block("a.example", "http://$UPSTREAM"), "4:14", "${NAME}"),
        (
            format!("{{% if tls %}}\n{}", block("a", "http://r")),
            "1:1",
            "{%",
        ),
    ] {
        let files = files([("/etc/nginx/x.conf.j2", &text)]);
        let error = import(
            &files,
            &["/etc/nginx/x.conf.j2".into()],
            "/etc/nginx".as_ref(),
        );
        let error = error.unwrap_err().to_string();
        let start = format!(
            "/etc/nginx/x.conf.j2:{place}: the file is a template: another program replaces {mark} "
        );
        assert!(error.starts_with(&start), "{text}\n{error}");
    }
    let defined = server(
        "set $UP 10.0.0.1:5000; location / { proxy_pass http://$UP; } location /j { return 200 '{{x}}'; }",
    );
    has(&defined, &["upstream = \"http://10.0.0.1:5000\""]);
}

#[test]
fn a_site_is_imported_with_the_nginx_conf_around_it() {
    let site = |name: &str, listen: &str| {
        format!(
            "server {{ listen {listen}; server_name {name}; ssl_certificate c; ssl_certificate_key k; client_max_body_size 0; location / {{ proxy_pass http://pool; }} }}"
        )
    };
    let main = "events {} http { auth_basic x; auth_basic_user_file u; upstream pool { server 127.0.0.1:5000; } include sites-enabled/*; }";
    let (first, second) = (site("_", "443 ssl"), site("a.example", "443 ssl"));
    let memory = files([
        ("/etc/nginx/nginx.conf", main),
        ("/etc/nginx/sites-enabled/default", &first),
        ("/etc/nginx/sites-enabled/registry", &second),
    ]);
    let name = PathBuf::from("/etc/nginx/sites-enabled/registry");
    let done = import(&memory, &[name], "/etc/nginx".as_ref()).unwrap();
    has(
        &done,
        &[
            "hosts = [\"a.example\"]",
            "upstream = \"http://127.0.0.1:5000\"",
            "mode = \"basic\"",
            "read as well",
        ],
    );
    assert_eq!(done.toml.matches("[[site]]").count(), 1, "{}", done.toml);
    assert_eq!(done.warnings, Vec::<String>::new());
}

#[test]
fn files_of_nginx_proxy_manager_are_not_closed() {
    let exploits = "set $block 0;\nif ($query_string ~ \"union.*select.*\\(\") { set $block 1; }\n\
        if ($query_string ~ \"(<|%3C).*script.*(>|%3E)\") { set $block 1; }\n\
        if ($http_user_agent ~ \"libwww-perl\") { set $block 1; }\nif ($block = 1) { return 403; }";
    let site = "server { set $forward_scheme http; set $server 127.0.0.1; set $port 5000; listen 443 ssl; server_name a.example;\n\
        ssl_certificate c; ssl_certificate_key k; client_max_body_size 0; include conf.d/include/block-exploits.conf;\n\
        location / { include conf.d/include/proxy.conf; } }";
    let memory = files([
        ("/etc/nginx/1.conf", site),
        ("/etc/nginx/conf.d/include/block-exploits.conf", exploits),
        (
            "/etc/nginx/conf.d/include/proxy.conf",
            "proxy_set_header Host $host; proxy_pass $forward_scheme://$server:$port$request_uri;",
        ),
    ]);
    let done = import(
        &memory,
        &["/etc/nginx/1.conf".into()],
        "/etc/nginx".as_ref(),
    )
    .unwrap();
    has(&done, &["upstream = \"http://127.0.0.1:5000\""]);
    assert!(!done.toml.contains("respond = 403"), "{}", done.toml);
}

#[test]
fn long_strings_of_lua_have_any_braces() {
    let done = server(
        "location /x { content_by_lua_block { ngx.say([[ } ]] .. [==[ }} ]] ]==]) --[[ } ]] } }\nlocation /v2/ { proxy_pass http://127.0.0.1:5000; }",
    );
    has(&done, &["upstream = \"http://127.0.0.1:5000\""]);
}

/// A configuration in which each of the server blocks has so many locations with a password, and a location with so many networks.
fn large(servers: usize, locations: usize, networks: usize) -> String {
    let mut text = String::new();
    for server in 0..servers {
        let _ = writeln!(
            text,
            "server {{ listen 443 ssl; server_name h{server}.example; ssl_certificate c; ssl_certificate_key k; client_max_body_size 0;"
        );
        for location in 0..locations {
            let _ = writeln!(
                text,
                "location /v2/team{location}/ {{ auth_basic x; auth_basic_user_file users{location}; proxy_pass http://127.0.0.1:5000; }}"
            );
        }
        text.push_str("location / {\n");
        for network in 0..networks {
            let _ = writeln!(text, "allow 10.{server}.{network}.0/24;");
        }
        text.push_str("deny all; proxy_pass http://127.0.0.1:5000; } }\n");
    }
    text
}

/// Every site has a share of the work, so that no configuration takes minutes.
#[test]
fn a_large_configuration_is_compared_completely() {
    let done = imported(&large(50, 4, 6)).unwrap();
    assert_eq!(done.warnings.len(), 1, "{:?}", done.warnings.last());
    assert_eq!(done.toml.matches("\n[[site.route]]").count(), 50 * 5);
    assert!(!done.toml.contains("respond = 403"));
    let done = imported(&large(1, 60, 250)).unwrap();
    assert_eq!(done.warnings.len(), 1, "{:?}", done.warnings.last());
}

#[test]
fn a_site_that_is_too_large_to_be_compared_is_closed() {
    let mut patterns = String::new();
    for number in 0..60 {
        let _ = writeln!(
            patterns,
            "location ~ (a|b|c|d)(e|f|g|h)/secret{number} {{ deny all; }}"
        );
    }
    let large = large(1, 400, 3).replacen("location", &format!("{patterns} location"), 1);
    let small = "server { listen 443 ssl; server_name small.example; ssl_certificate c; ssl_certificate_key k; client_max_body_size 0; location / { proxy_pass http://small; } }";
    let done = imported(&format!("{large}{small}")).unwrap();
    let is_reported =
        |warning: &String| warning.contains("are too many to compare them with nginx");
    assert!(done.warnings.iter().any(is_reported));
    let upstreams: Vec<_> = done
        .toml
        .lines()
        .filter(|line| line.starts_with("upstream"))
        .collect();
    assert_eq!(upstreams.len(), 1, "{upstreams:?}");
    has(&done, &["upstream = \"http://small\""]);
}

/// Pieces that configurations are made of, so that the translation is reached and not the syntax alone.
fn pieces() -> impl Strategy<Value = String> {
    let names = prop::sample::select(NAMES);
    let values = prop::sample::select(VALUES);
    prop_oneof![
        4 => (names.clone(), values.clone()).prop_map(|(name, value)| format!("{name} {value};\n")),
        2 => (names, values).prop_map(|(name, value)| format!("{name} {value} {{\n")),
        2 => Just("}\n".to_owned()),
        2 => Just("server { listen 443 ssl; server_name z; location / { proxy_pass http://r;\n".to_owned()),
        1 => ".{0,12}",
    ]
}

/// A configuration without an error, as far as it can be told without the files that it names.
fn accepted(toml: &str) {
    // Keys that a build may not have yet make a problem of their own kind.
    if NEW.iter().any(|key| toml.contains(key)) {
        return;
    }
    let (config, problems) = crate::config::parse(Path::new("/etc/proxy.toml"), toml.as_bytes());
    assert!(
        config.is_some() && !problems.has_errors(),
        "{problems}\n{toml}"
    );
}

/// Either an error, or TOML with each key once.
fn check(text: &str) {
    match imported(text) {
        Ok(done) => {
            assert!(DeTable::parse(&done.toml).is_ok(), "{}", done.toml);
            accepted(&done.toml);
            assert_eq!(imported(text), Ok(done));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn every_configuration_becomes_toml(pieces in prop::collection::vec(pieces(), 0..40), closes in 0_usize..6) {
        check(&format!("{}{}", pieces.concat(), "}".repeat(closes)));
    }

    #[test]
    fn whatever_stands_in_a_server_becomes_toml(pieces in prop::collection::vec(pieces(), 0..20)) {
        let inner: String = pieces.iter().filter(|piece| !piece.contains(['{', '}', '\'', '"', '\\', '#'])).cloned().collect();
        check(&format!("server {{ listen 443 ssl; location / {{ proxy_pass http://r; }} {inner} }}"));
    }

    #[test]
    fn whatever_stands_in_a_value_becomes_toml(realm in any::<String>(), name in any::<String>()) {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!(
            "server {{ listen 443 ssl; server_name z; ssl_certificate \"{0}\"; ssl_certificate_key k; location / {{ auth_basic \"{1}\"; auth_basic_user_file \"{0}\"; add_header X-A \"{1}\"; add_header \"{0}\" b; \"{0}\" x; proxy_pass http://r; }} }}",
            quoted(&name), quoted(&realm),
        );
        check(&text);
    }

    #[test]
    fn no_pattern_panics(pattern in "[*?\\[\\]!^a-c/.-]{0,12}") {
        includes::glob(&files([("/d/ab", ""), ("/d/c", "")]), &Path::new("/d").join(pattern), &mut Vec::new());
    }
}

/// What stands in the text with keys, or with values, that this build need not know.
const NEW: &[&str] = &[
    "respond = ",
    "allow = ",
    "deny = ",
    "satisfy = ",
    "cors = ",
    "client_ca = ",
    "proxy_protocol = ",
    "trusted_proxies = ",
    "https://",
];

/// Rules of a location, and the keys they become.
const NETWORKS: &[(&str, &str)] = &[
    ("allow 10.0.0.0/8; deny all;", "allow = [\"10.0.0.0/8\"]"),
    (
        "deny 10.1.0.0/16; allow 10.0.0.0/8; deny all;",
        "allow = [\"10.0.0.0/8\"]; deny = [\"10.1.0.0/16\"]",
    ),
    (
        "deny 10.0.0.0/8; allow 10.1.0.0/16; allow ::1; deny all;",
        "allow = [\"::1\"]; deny = [\"10.0.0.0/8\"]",
    ),
    (
        "deny 10.0.0.0/8; allow 10.1.0.0/16; deny all;",
        "respond = 403",
    ),
    (
        "allow 10.0.0.0/8; deny 10.1.0.0/16; deny all;",
        "allow = [\"10.0.0.0/8\"]",
    ),
    ("deny 192.0.2.7;", "deny = [\"192.0.2.7\"]"),
    (
        "allow 192.0.2.7; deny 192.0.2.0/24; allow all; deny all;",
        "allow = [\"192.0.2.7\", \"all\"]; deny = [\"192.0.2.0/24\"]",
    ),
    ("allow 192.0.2.7;", ""),
    (
        "allow 192.0.2.77/24; deny all;",
        "allow = [\"192.0.2.0/24\"]",
    ),
    ("deny all; allow 192.0.2.7;", "respond = 403"),
    ("allow unix:; allow ::/0; deny all;", "allow = [\"::/0\"]"),
    ("allow 10.0.0.0/33; deny all;", "respond = 403"),
    (
        "satisfy any; allow 10.0.0.0/8; deny all;",
        "allow = [\"10.0.0.0/8\"]",
    ),
    (
        "satisfy any; allow 10.0.0.0/8; deny all; auth_basic x; auth_basic_user_file u;",
        "satisfy = \"any\"; allow = [\"10.0.0.0/8\"]",
    ),
    (
        "satisfy any; deny all; auth_basic x; auth_basic_user_file u;",
        "",
    ),
    (
        "satisfy any; deny 10.0.0.0/8; auth_basic x; auth_basic_user_file u;",
        "",
    ),
    (
        "deny all; auth_basic x; auth_basic_user_file u;",
        "respond = 403",
    ),
    (
        "satisfy any; allow ::1; deny all; auth_basic x; auth_basic_user_file u; limit_except GET { deny all; }",
        "respond = 403",
    ),
];
const NAMES: &[&str] = &[
    "server",
    "location",
    "listen",
    "server_name",
    "proxy_pass",
    "auth_basic",
    "auth_basic_user_file",
    "if",
    "limit_except",
    "allow",
    "deny",
    "satisfy",
    "return",
    "add_header",
    "proxy_set_header",
    "set",
    "upstream",
    "include",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_protocols",
    "ssl_verify_client",
    "access_log",
    "client_max_body_size",
    "proxy_read_timeout",
    "set_real_ip_from",
    "try_files",
    "keepalive_timeout",
    "http",
    "map",
];
const VALUES: &[&str] = &[
    "443 ssl",
    "[::]:443 ssl",
    "80",
    "/v2/",
    "/",
    "= /x",
    "~ ^/(a|b)/",
    "~ x",
    "@n",
    "http://r",
    "https://r:1",
    "http://$a",
    "http://unix:/s",
    "$a b",
    "off",
    "on",
    "all",
    "10.0.0.0/8",
    "::/0",
    "any",
    "404",
    "301 https://x",
    "X-A b always",
    "Host $host",
    "'a \"b\u{1}\u{7f}\\u'",
    "GET",
    "a.example",
    "*.b.example",
    "~re",
    "_",
    "10m",
    "5s",
    "($a = b)",
    "1.2.3.4/99",
    "é\u{2028}\u{202e}",
    "/var/log/nginx/x",
    "TLSv1.3",
];

#[test]
fn a_regular_expression_for_few_paths_closes_these_paths_alone() {
    let done = server(
        "location ~ ^/(404|502)(-custom)?\\.html$ { internal; root /srv; }\n\
         location ~ ^/(metrics|debug/?)$ { deny all; proxy_pass http://127.0.0.1:1; }\n\
         location / { proxy_pass http://127.0.0.1:1; }",
    );
    for path in [
        "/404.html",
        "/404-custom.html",
        "/502.html",
        "/502-custom.html",
        "/metrics",
        "/debug",
    ] {
        let route = format!("path = \"{path}\"\nrespond = 403 # closed");
        assert_eq!(
            done.toml.matches(&route).count(),
            1,
            "{path} in {}",
            done.toml
        );
    }
    has(&done, &["path = \"/\"\nupstream = \"http://127.0.0.1:1\""]);
}

#[test]
fn a_regular_expression_for_many_paths_closes_the_route() {
    for pattern in ["^/[ab]\\.html$", "^/a+$", "/a$", "^/a", "^/(a|b"] {
        let done = server(&format!(
            "location ~ \"{pattern}\" {{ deny all; proxy_pass http://127.0.0.1:1; }}\nlocation / {{ proxy_pass http://127.0.0.1:1; }}"
        ));
        has(&done, &["path = \"/\"\nrespond = 403 # closed"]);
    }
}

/// `/v2-q` goes to the registry in nginx, and to the user interface here. No client requests it.
#[test]
fn a_prefix_without_a_slash_does_not_close_another_upstream() {
    let locations = |registry: &str, ui: &str| {
        server(&format!(
            "location /v2 {{ {registry} proxy_pass http://127.0.0.1:1; }}\nlocation / {{ {ui} proxy_pass http://127.0.0.1:2; }}"
        ))
    };
    let password = "auth_basic x; auth_basic_user_file u;";
    let warning = "location /v2: paths that only begin with this text reach another upstream than in nginx, by the route /";
    for (registry, ui) in [("", ""), (password, password), ("", password)] {
        let done = locations(registry, ui);
        has(&done, &["upstream = \"http://127.0.0.1:2\"", warning]);
    }
    // nginx requires the password for the path, so that the interface requires it here.
    let done = locations(password, "");
    let interface = "path = \"/\"\nupstream = \"http://127.0.0.1:2\"\nauth = { mode = \"basic\"";
    let warning_of_password = "the route / has the conditions of location /v2";
    has(&done, &[interface, warning_of_password, warning]);
}

#[test]
fn websockets_pass_where_they_passed_in_nginx() {
    let upgrade = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;";
    let added = "path = \"/v2/\" # a registry has no WebSockets\nupstream = \"http://127.0.0.1:1\"";
    let registry = "path = \"/v2/\"\nupstream = \"http://127.0.0.1:1\"";
    let other = |path: &str| {
        format!("path = \"{path}\"\nupstream = \"http://127.0.0.1:1\"\nregistry = false")
    };
    let whole = format!("location / {{ {upgrade} proxy_pass http://127.0.0.1:1; }}");
    has(&server(&whole), &[&other("/"), added]);
    let with_registry = format!("{whole}\nlocation /v2/ {{ proxy_pass http://127.0.0.1:1; }}");
    let done = server(&with_registry);
    has(&done, &[&other("/"), registry]);
    assert_eq!(done.toml.matches(registry).count(), 1, "{}", done.toml);
    let inner = format!("location /api/ws/ {{ {upgrade} proxy_pass http://127.0.0.1:1; }}");
    has(&server(&inner), &[&other("/api/ws/")]);
    let of_registry = format!("location /v2/ {{ {upgrade} proxy_pass http://127.0.0.1:1; }}");
    let done = server(&of_registry);
    assert!(!done.toml.contains("registry = false\n"), "{}", done.toml);
    assert!(
        !done
            .warnings
            .iter()
            .any(|warning| warning.contains("WebSockets"))
    );
}

#[test]
fn a_server_block_with_tls_1_3_alone_beside_another_one_has_a_warning() {
    let block = |name: &str, version: &str| {
        format!(
            "server {{ listen 443 ssl; server_name {name}; ssl_certificate c; ssl_certificate_key k; ssl_protocols {version}; location / {{ proxy_pass http://r; }} }}"
        )
    };
    for (second, is_warned) in [("TLSv1.2 TLSv1.3", true), ("TLSv1.3", false)] {
        let text = block("a.example", "TLSv1.3") + &block("b.example", second);
        let done = imported(&text).unwrap();
        let is_named = |warning: &String| warning.contains("TLS 1.3 alone");
        assert_eq!(
            done.warnings.iter().any(is_named),
            is_warned,
            "{}",
            done.toml
        );
    }
}

#[test]
fn websockets_do_not_pass_where_nginx_did_not_pass_them() {
    let upgrade = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;";
    for (fields, is_closed) in [("", true), (upgrade, false)] {
        let done = server(&format!(
            "location /ui/ {{ {fields} proxy_pass http://127.0.0.1:81/app/; }}"
        ));
        has(&done, &["registry = false"]);
        let toml = &done.toml;
        assert_eq!(toml.contains("websocket = false"), is_closed, "{toml}");
    }
}

#[test]
fn files_of_an_acme_client_become_a_route() {
    let text = |plain: &str| {
        format!(
            "http {{ server {{ listen 443 ssl; server_name a.example; ssl_certificate c; ssl_certificate_key k;\n\
             location / {{ proxy_pass http://127.0.0.1:1; }} }}\n\
             server {{ listen 80; listen [::]:80; server_name a.example; {plain} location / {{ return 301 https://$host$request_uri; }} }} }}"
        )
    };
    let below = "/.well-known/acme-challenge/";
    let root = "root /srv/acme;";
    let alias = format!("alias /srv/acme{below};");
    let served = [
        format!("location {below} {{ {root} }}"),
        format!("location ^~ /.well-known/acme-challenge {{ default_type text/plain; {root} }}"),
        format!("location /.well-known/ {{ allow all; {root} try_files $uri =404; }}"),
        format!("location {below} {{ {alias} try_files $uri =404; }}"),
        format!(
            "location ~ /\\.well-known/acme-challenge {{ {root} }} location ~ /\\. {{ deny all; }}"
        ),
        format!("location ~ /\\.(?!well-known).* {{ deny all; }} location {below} {{ {root} }}"),
        format!("{root} location {below} {{ }}"),
        format!(
            "{root} auth_basic x; auth_basic_user_file u; location ^~ {below} {{ auth_basic off; }} location = {below} {{ return 404; }}"
        ),
    ];
    for inner in served {
        let done = imported(&text(&inner)).unwrap();
        let route = format!(
            "path = \"{below}\" # served over listen.http only\nrespond = {{ files = \"/srv/acme\" }}\n"
        );
        has(&done, &[&route, "http = [\"[::]:80\"]", "\nupstream"]);
        for word in [
            "not translated",
            "no files and no pages:\n#   /etc/nginx/x.conf:3: location",
        ] {
            assert!(
                !done.toml.contains(word),
                "{word:?} for {inner}\n{}",
                done.toml
            );
        }
    }
    let left = [
        // The files of other paths are below the directory.
        format!("location {below} {{ alias /srv/acme/; }}"),
        format!("location {below} {{ root /srv/$host; }}"),
        format!("location {below} {{ {root} try_files /a$uri =404; }}"),
        // nginx sends them to some clients only.
        format!("location {below} {{ {root} deny 10.0.0.0/8; }}"),
        format!("location {below} {{ {root} auth_basic x; auth_basic_user_file u; }}"),
        format!("location {below} {{ {root} auth_request /auth; }}"),
        format!("if ($remote_addr = 10.0.0.1) {{ return 403; }} location {below} {{ {root} }}"),
        // nginx does not send them, or not all of them.
        format!("return 301 https://$host$request_uri; location {below} {{ {root} }}"),
        format!("location ~ /\\. {{ deny all; }} location {below} {{ {root} }}"),
        format!("location {below} {{ {root} }} location = {below}x1 {{ deny all; }}"),
        format!("location {below} {{ return 200 x; }}"),
        format!("location {below} {{ proxy_pass http://127.0.0.1:2; }}"),
    ];
    for inner in left {
        let done = imported(&text(&inner)).unwrap();
        let route = "\nrespond = { files = ";
        assert!(!done.toml.contains(route), "{inner}\n{}", done.toml);
        let is_named = |warning: &String| warning.contains("acme-challenge/: not translated");
        assert!(done.warnings.iter().any(is_named), "{inner}\n{}", done.toml);
    }
}

#[test]
fn files_of_an_acme_client_are_served_where_nginx_served_them() {
    let below = "/.well-known/acme-challenge/";
    let site = |listen: &str, host: &str, inner: &str| {
        format!(
            "server {{ {listen} server_name {host}; ssl_certificate c; ssl_certificate_key k; {inner} location / {{ proxy_pass http://127.0.0.1:1; }} }}\n"
        )
    };
    let files = format!("location {below} {{ root /srv/acme; }}");
    let redirect = "if ($scheme = http) { return 301 https://$host$request_uri; }";
    let routes = |text: &str| {
        let done = imported(text).unwrap();
        (done.toml.matches("\nrespond = { files = ").count(), done)
    };
    // nginx redirects the request of a certificate authority, and sends the file over TLS.
    let both = site(
        "listen 80; listen 443 ssl;",
        "a.example",
        &format!("{files} {redirect}"),
    );
    assert_eq!(routes(&both).0, 1, "{}", routes(&both).1.toml);
    // Certificate authorities do not connect to another port than 80 first.
    let no_http = site("listen 443 ssl;", "a.example", &files);
    let (count, done) = routes(&no_http);
    assert_eq!(count, 0, "{}", done.toml);
    has(&done, &["acme-challenge/: not translated: "]);
    // A server block for all names has the files of all sites.
    let sites =
        site("listen 443 ssl;", "a.example", "") + &site("listen 443 ssl;", "b.example", "");
    let all = format!(
        "{sites} server {{ listen 80; server_name _; {files} location / {{ return 301 https://$host$request_uri; }} }}"
    );
    assert_eq!(routes(&all).0, 2, "{}", routes(&all).1.toml);
    let one = format!(
        "{sites} server {{ listen 80; server_name a.example; {files} location / {{ return 301 https://$host$request_uri; }} }}\n\
         server {{ listen 80; server_name b.example; return 301 https://$host$request_uri; }}"
    );
    assert_eq!(routes(&one).0, 1, "{}", routes(&one).1.toml);
    // Two directories are not one.
    let two = format!(
        "{} server {{ listen 80; server_name a.example; {files} location / {{ return 301 https://$host$request_uri; }} }}\n\
         server {{ listen 80; server_name b.example; {} location / {{ return 301 https://$host$request_uri; }} }}",
        site("listen 443 ssl;", "a.example b.example", ""),
        files.replace("acme;", "other;"),
    );
    assert_eq!(routes(&two).0, 0, "{}", routes(&two).1.toml);
    // A site with addresses of its own has that of listen.http as well.
    let own = site("listen 443 ssl;", "a.example", "")
        + &site("listen 127.0.0.1:8443 ssl;", "b.example", "");
    let own = format!(
        "{own} server {{ listen 80; server_name a.example; {files} location / {{ return 301 https://$host$request_uri; }} }}\n\
         server {{ listen 80; server_name b.example; return 301 https://$host$request_uri; }}"
    );
    let (count, done) = routes(&own);
    assert_eq!(count, 1, "{}", done.toml);
    has(&done, &["listen = [\"0.0.0.0:443\", \"0.0.0.0:80\"]"]);
}

#[test]
fn a_closed_route_has_no_remarks_about_its_keys() {
    let users = "auth_basic x; auth_basic_user_file u;";
    let limit = format!("limit_except GET HEAD {{ {users} }}");
    let pass = "proxy_pass http://127.0.0.1:1;";
    let remark = "limit_except became";
    has(
        &server(&format!("location /v2/ {{ {limit} {pass} }}")),
        &[remark],
    );
    for inner in [
        // The comparison closes the route.
        format!("location /v2/ {{ {limit} {pass} }} location ~ ^/v2/.*secret {{ deny all; }}"),
        // There are no keys for this.
        format!(
            "location /v2/ {{ satisfy any; allow 10.0.0.0/8; deny all; {users} {limit} {pass} }}"
        ),
        // The upstream has no translation.
        format!("location /v2/ {{ {limit} proxy_pass http://$http_x; }} location / {{ {pass} }}"),
    ] {
        let done = server(&inner);
        assert!(!done.toml.contains("mode = \"token\""), "{}", done.toml);
        assert!(!done.toml.contains(remark), "{}", done.toml);
    }
}

#[test]
fn log_files_are_not_those_of_nginx() {
    let pass = "location / { proxy_pass http://127.0.0.1:1; }";
    for (access, error, expected) in [
        (
            "/var/log/nginx/a/x.log",
            "/var/log/nginx/e.log",
            ["a/x.log", "e.log"],
        ),
        ("/srv/log/x.log", "logs/e.log", ["x.log", "e.log"]),
        ("/srv/a/x.log", "/srv/e/x.log", ["x.log.access", "x.log"]),
    ] {
        let done = server(&format!("access_log {access}; error_log {error}; {pass}"));
        let [own_access, own_error] = expected;
        has(
            &done,
            &[
                &format!("\naccess_file = \"/var/log/tidegate/{own_access}\" # not "),
                &format!("\nfile = \"/var/log/tidegate/{own_error}\" # not "),
            ],
        );
    }
}

#[test]
fn requests_that_nginx_sends_without_fields_or_body_are_closed() {
    let pass = "proxy_pass http://127.0.0.1:1;";
    for name in ["proxy_pass_request_headers", "proxy_pass_request_body"] {
        let done = server(&format!(
            "location /v2/ {{ {name} off; {pass} }} location / {{ {name} on; {pass} }}"
        ));
        let closed = format!("path = \"/v2/\"\nrespond = 403 # closed: {name} has no counterpart");
        has(&done, &[&closed, "path = \"/\"\nupstream"]);
        let done = server(&format!("{name} off; location / {{ {pass} }}"));
        has(&done, &["path = \"/\"\nrespond = 403"]);
    }
}

#[test]
fn an_upstream_that_code_chooses_is_closed() {
    for code in [
        "balancer_by_lua_block { return 1 }",
        "balancer_by_lua_file /x.lua;",
    ] {
        let text = format!(
            "http {{ upstream r {{ server 127.0.0.1:1; {code} }} server {{ listen 443 ssl; server_name a.example; ssl_certificate c; ssl_certificate_key k;\n\
             location /v2/ {{ proxy_pass http://r; }} location / {{ proxy_pass http://127.0.0.1:2; }} }} }}"
        );
        let done = imported(&text).unwrap();
        has(
            &done,
            &["path = \"/v2/\"\nrespond = 404 # Lua code in the upstream block"],
        );
        assert!(!done.toml.contains("127.0.0.1:1\""), "{}", done.toml);
    }
}

#[test]
fn a_server_behind_a_socket_has_its_address_and_is_closed() {
    let block = |listen: &str, host: &str, port: u16| {
        format!(
            "server {{ {listen} server_name {host}; ssl_certificate c; ssl_certificate_key k; location / {{ proxy_pass http://127.0.0.1:{port}; }} }}\n"
        )
    };
    let socket = "listen unix:/run/x.sock; set_real_ip_from unix:; real_ip_header X-Forwarded-For;";
    let alone = imported(&block(socket, "b.example", 2)).unwrap();
    let tls = block("listen 443 ssl;", "a.example", 1);
    let beside = imported(&(tls + &block(socket, "b.example", 2))).unwrap();
    has(&alone, &["\nbehind_proxy = [\"unix:/run/x.sock\"]"]);
    has(
        &beside,
        &[
            "\nhttps = [\"0.0.0.0:443\"]",
            "\nbehind_proxy = [\"unix:/run/x.sock\"]",
            "\nlisten = [\"unix:/run/x.sock\"]",
            "upstream = \"http://127.0.0.1:1\"",
        ],
    );
    for done in [&alone, &beside] {
        accepted(&done.toml);
        has(
            done,
            &[
                "path = \"/\"\nrespond = 403 # closed: its listen directives have no IP address and port",
            ],
        );
        assert!(!done.toml.contains("127.0.0.1:2"), "{}", done.toml);
        let about = done
            .warnings
            .iter()
            .filter(|warning| !warning.contains("no file with http"));
        assert_eq!(about.count(), 1, "{:?}", done.warnings);
    }
    // A site that is also at an address is compared there, and served nowhere else.
    let both = block("listen 443 ssl; listen unix:/run/x.sock;", "a.example", 1);
    let done = imported(&(both + &block(socket, "b.example", 2))).unwrap();
    has(
        &done,
        &[
            "\nlisten = [\"0.0.0.0:443\"]",
            "listen unix:/run/x.sock is left out",
        ],
    );
}
