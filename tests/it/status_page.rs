//! The status page of the admin listener: its response fields, its content security policy, and its content during pushes,
//! rejections and reloads.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidegate::server::Scheme;

use crate::admin::get;
use crate::support::request::chunk;
use crate::support::{
    Client, HttpVersion, PATIENCE, Proxy, Registry, TestRequest, config, eventually, exchange,
    pause, ping,
};

fn start(registry: &Registry) -> Proxy {
    let listen = "https = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"";
    let text = config("", "").lines("https", listen);
    let proxy = Proxy::start(registry, &text);
    // The proxy is ready after the first check of the registry.
    eventually("the proxy is ready", || {
        get(admin(&proxy), "/readyz").status == 200
    });
    proxy
}

fn admin(proxy: &Proxy) -> SocketAddr {
    proxy.listener(Scheme::Admin)
}

/// The text of the page without its tags. The no-break space between a number and its unit is replaced by a space.
fn page_text(proxy: &Proxy) -> String {
    let page = get(admin(proxy), "/").text();
    let parts = page.split('<').map(|part| part.split_once('>'));
    let text: Vec<_> = parts.flatten().map(|(_, text)| text).collect();
    text.join(" ").replace(['\u{a0}', '\u{202f}'], " ")
}

/// Waits until the page contains all of `words`, and returns its text.
fn wait_for_text(proxy: &Proxy, words: &[&str]) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = page_text(proxy);
        if words.iter().all(|words| text.contains(words)) {
            return text;
        }
        assert!(Instant::now() < until, "{words:?} in {text}");
        pause(Duration::from_millis(5));
    }
}

#[test]
fn the_page_and_its_files_have_media_types_and_a_strict_policy() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/status.css", "text/css; charset=utf-8"),
        ("/status.js", "text/javascript; charset=utf-8"),
        ("/status.svg", "image/svg+xml"),
        ("/healthz", "text/plain; charset=utf-8"),
    ] {
        let response = get(admin(&proxy), path);
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("content-type"), media_type);
        assert_eq!(response.header("cache-control"), "no-store");
        assert_eq!(response.header("x-content-type-options"), "nosniff");
        assert_eq!(response.header("referrer-policy"), "no-referrer");
        assert_eq!(response.header("x-frame-options"), "DENY");
        assert_eq!(
            response.header("cross-origin-resource-policy"),
            "same-origin"
        );
        let policy = response.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        for part in [
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(
            !policy.contains("unsafe") && !policy.contains('*'),
            "{policy}"
        );
        let head = Client::plain(admin(&proxy)).exchange(&TestRequest::new("HEAD", path));
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        let post = Client::plain(admin(&proxy)).exchange(&TestRequest::new("POST", path).body("x"));
        assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
        let elsewhere = Client::plain(admin(&proxy))
            .exchange(&TestRequest::new("GET", path).host("evil.example"));
        assert_eq!(elsewhere.status, 421);
        assert!(!elsewhere.text().contains("html"));
    }
    assert_eq!(get(admin(&proxy), "/status.html").status, 404);
    assert!(registry.requests().is_empty());
}

#[test]
fn the_page_is_complete_without_javascript() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let page = get(admin(&proxy), "/").text();
    assert!(page.contains("<html lang=\"en\">") && page.contains("<main"));
    assert!(page.contains("href=\"./\">Reload</a>"));
    // The page has no inline style or script, which its policy forbids, and no URL of another origin.
    for forbidden in [
        " style=",
        " onclick",
        "<style",
        "http-equiv",
        "src=\"http",
        "href=\"http",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let text = page_text(&proxy);
    for words in [
        "Ready",
        "Nothing moves right now.",
        "Nothing was rejected since the start.",
        "localhost",
        registry.authority(),
        "none since the start",
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(
            text.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(words),
            "{words} in {text}"
        );
    }
}

#[test]
fn a_push_is_shown_as_long_as_it_runs() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let mut client = Client::connect(&proxy);
    let push = TestRequest::alice("PATCH", "/v2/team/app/blobs/uploads/u").chunked();
    client.send(push.head());
    client.send(chunk(&[b'x'; 4096]));
    wait_for_text(
        &proxy,
        &[
            "team/app",
            "alice",
            "push",
            "127.0.0.1",
            "4 KiB",
            "1 moving",
        ],
    );
    client.send(chunk(&[b'x'; 4096]));
    wait_for_text(&proxy, &["8 KiB"]);
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    wait_for_text(&proxy, &["Nothing moves right now."]);
}

#[test]
fn a_rejection_is_shown_with_its_reason_and_escaped() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let path = "/v2/x/manifests/'onmouseover='alert(1)";
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::new("GET", path).basic_auth(b"<b>bob:wrong")
        )
        .status,
        401
    );
    let text = wait_for_text(&proxy, &["wrong_password"]);
    assert!(
        text.contains("GET /v2/x/manifests/") && text.contains("&#39;"),
        "{text}"
    );
    let page = get(admin(&proxy), "/").text();
    assert!(
        !page.contains("<b>bob") && !page.contains("'onmouseover"),
        "{page}"
    );
    assert!(!page.contains("wrong\"") && !page.contains("pw"));
}

#[test]
fn a_failed_reload_is_shown_with_its_error() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let good = config("", "").after("https", "admin = \"127.0.0.1:0\"");
    proxy.configure(
        &registry,
        good.clone().lines("workers", "\"<i>workers\" = 2"),
    );
    proxy.reload().unwrap_err();
    let text = page_text(&proxy);
    assert!(
        text.contains("Ready, with warnings")
            && text.contains("the configuration in use was loaded"),
        "{text}"
    );
    assert!(text.contains("&lt;i&gt;workers"), "{text}");
    proxy.configure(&registry, &good);
    proxy.reload().unwrap();
    let text = page_text(&proxy);
    assert!(
        !text.contains("&lt;i&gt;") && text.contains("succeeded"),
        "{text}"
    );
}

#[test]
fn the_chart_shows_the_counted_requests() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for _ in 0..20 {
        assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
    }
    let until = Instant::now() + PATIENCE;
    // A sample is taken every five seconds. Before the first sample with requests, the line has only zeros.
    loop {
        let page = get(admin(&proxy), "/").text();
        let drawn = page.split("class=\"line plain\" d=\"").nth(1).unwrap();
        let drawn = drawn.split('"').next().unwrap();
        if drawn.contains("V2.5") {
            break;
        }
        assert!(Instant::now() < until, "{drawn}");
        pause(Duration::from_millis(50));
    }
}
