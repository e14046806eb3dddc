//! `listen.behind_proxy`: sites over plain HTTP for trusted proxies; and `site.listen`, the addresses on which a site is served.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use tidegate::check::live;
use tidegate::server::Scheme;
use tidegate::snapshot::{BuildMode, Snapshot};

use crate::support::client::{StreamEnd, connect_tcp_from};
use crate::support::h2::{H2Client, block_on};
use crate::support::proxy::{TestConfig, directory, write_private};
use crate::support::{
    Client, Proxy, Registry, TestRequest, TestResponse, certs, config, eventually, eventually_some,
};

/// No TLS: one site behind proxies at 127.0.0.1, over TCP and over a Unix socket.
fn behind_proxy() -> TestConfig {
    config("", "")
        .lines(
            "https",
            "behind_proxy = [\"127.0.0.1:0\", \"unix:{dir}/http.sock\"]\ntrusted_proxies = [\"127.0.0.1\"]",
        )
        .lines("tls", "")
}

fn address(proxy: &Proxy) -> SocketAddr {
    proxy.listener(Scheme::BehindProxy)
}

/// A connection to a Unix socket. Its file appears when the proxy begins to accept connections.
fn unix(proxy: &Proxy, name: &str) -> Client {
    let path = proxy.path(name);
    let connect = || UnixStream::connect(&path).ok();
    Client::from_socket(eventually_some("the socket is there", connect))
}

fn over_unix(proxy: &Proxy, ask: &TestRequest) -> TestResponse {
    unix(proxy, "http.sock").exchange(ask)
}

/// A request that a proxy forwards for a client at 192.0.2.7 that uses https.
fn forwarded(ask: TestRequest) -> TestRequest {
    ask.header("X-Forwarded-For", "192.0.2.7")
        .header("X-Forwarded-Proto", "https")
}

#[test]
fn a_trusted_proxy_is_served_over_every_transport() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, behind_proxy());
    let request = forwarded(TestRequest::alice("GET", "/v2/"));
    let answers = [
        Client::plain(address(&proxy)).exchange(&request),
        over_unix(&proxy, &request),
        block_on(async {
            H2Client::plain(address(&proxy))
                .await
                .exchange(&request)
                .await
        }),
    ];
    for answer in answers {
        assert_eq!(answer.status, 200);
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.header("x-forwarded-for"), "192.0.2.7, 127.0.0.1");
        assert_eq!(seen.header("x-real-ip"), "192.0.2.7");
        assert_eq!(seen.header("x-forwarded-proto"), "https");
    }
    let challenged =
        Client::plain(address(&proxy)).exchange(&forwarded(TestRequest::new("GET", "/v2/")));
    challenged.assert_rejection(401, "UNAUTHORIZED");
    let body = vec![7; 300_000];
    let upload = forwarded(TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")).body(body.clone());
    for chunked in [upload.clone(), upload.clone().chunked()] {
        assert!(over_unix(&proxy, &chunked).status < 300);
        assert_eq!(registry.requests().pop().unwrap().body, body);
    }
    let answer = block_on(async {
        H2Client::plain(address(&proxy))
            .await
            .exchange(&upload)
            .await
    });
    assert!(answer.status < 300);
    assert_eq!(registry.requests().pop().unwrap().body, body);
}

#[test]
fn a_client_without_https_is_rejected_before_anything_else() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, behind_proxy());
    let alice = |host: &str| TestRequest::alice("GET", "/v2/").host(host);
    for request in [
        alice("localhost"),
        alice("unknown.test"),
        alice("localhost").header("X-Forwarded-Proto", "http"),
        alice("localhost").header("X-Forwarded-Proto", "http, https"),
        forwarded(alice("localhost")).header("X-Forwarded-Proto", "https"),
        alice("localhost").header("Forwarded", "proto=https"),
    ] {
        for answer in [
            Client::plain(address(&proxy)).exchange(&request),
            over_unix(&proxy, &request),
            block_on(async {
                H2Client::plain(address(&proxy))
                    .await
                    .exchange(&request)
                    .await
            }),
        ] {
            answer.assert_rejection(400, "UNSUPPORTED");
            assert!(answer.text().contains("https"), "{}", answer.text());
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_peer_that_is_not_trusted_gets_403_whatever_it_claims() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, behind_proxy());
    let request =
        forwarded(TestRequest::alice("GET", "/v2/")).header("X-Forwarded-For", "127.0.0.1");
    let source = Ipv4Addr::new(127, 0, 0, 9);
    for _ in 0..3 {
        let answer =
            Client::from_socket(connect_tcp_from(source, address(&proxy))).exchange(&request);
        answer.assert_rejection(403, "DENIED");
    }
    // Also a request without a valid host, whose site cannot be determined.
    let malformed = forwarded(TestRequest::alice("GET", "/v2/")).host("a..b");
    let answer =
        Client::from_socket(connect_tcp_from(source, address(&proxy))).exchange(&malformed);
    answer.assert_rejection(403, "DENIED");
    assert!(registry.requests().is_empty());
    let mut open = Client::plain(address(&proxy));
    assert_eq!(open.exchange(&request).status, 200);
    let changed = behind_proxy().to_string();
    let changed = changed.replace("[\"127.0.0.1\"]", "[\"192.0.2.5\"]");
    proxy.configure(&registry, changed);
    proxy.reload().unwrap();
    open.exchange(&request).assert_rejection(403, "DENIED");
}

#[test]
fn no_upgrade_of_the_protocol_passes() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, behind_proxy());
    let h2c = forwarded(TestRequest::alice("GET", "/v2/"))
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    let answer = Client::plain(address(&proxy)).exchange(&h2c);
    assert_ne!(answer.status, 101);
    for seen in registry.requests() {
        assert!(seen.all("upgrade").is_empty() && seen.all("http2-settings").is_empty());
    }
    let smuggled = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: https\r\n\
                    Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut client = Client::plain(address(&proxy));
    client.send(smuggled);
    assert_eq!(client.read_response("GET").status, 400);
}

#[test]
fn the_socket_is_opened_and_closed_by_a_reload_and_leaves_no_file() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, behind_proxy());
    let request = forwarded(TestRequest::alice("GET", "/v2/"));
    let mut kept = unix(&proxy, "http.sock");
    assert_eq!(kept.exchange(&request).status, 200);
    let moved = behind_proxy()
        .to_string()
        .replace("http.sock", "other.sock");
    proxy.configure(&registry, moved);
    proxy.reload().unwrap();
    let other = || unix(&proxy, "other.sock");
    assert_eq!(other().exchange(&request).status, 200);
    assert_eq!(kept.exchange(&request).status, 200);
    eventually("the old file is removed", || {
        !proxy.path("http.sock").exists()
    });
    let taken = behind_proxy().to_string().replace("http.sock", "htpasswd");
    proxy.configure(&registry, taken);
    let problems = proxy.reload().unwrap_err().to_string();
    assert!(problems.contains("is not a socket"), "{problems}");
    assert_eq!(other().exchange(&request).status, 200);
}

/// Two sites named localhost, each on its own address, the second with another realm and for another host, too.
fn two_listeners() -> TestConfig {
    config("", "")
        .set("https", "[\"127.0.0.1:0\", \"127.0.0.2:0\"]")
        .after("hosts", "listen = [\"127.0.0.1:0\"]")
        .append(
            "[[site]]\nhosts = [\"localhost\", \"only.test\"]\nlisten = [\"127.0.0.2:0\"]\ntls = { cert = \"second.pem\", key = \"second-key.pem\" }\n\
             [[site.route]]\npath = \"/v2/\"\nupstream = \"{upstream}\"\n\
             auth = { mode = \"basic\", htpasswd = \"htpasswd\", realm = \"second\" }\n\
             ",
        )
}

#[test]
fn an_address_serves_its_own_sites_with_their_certificates() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let (certificate, key) = certs::AUTHORITY.issue(&["only.test"]);
    std::fs::write(dir.path().join("second.pem"), certificate).unwrap();
    write_private(&dir.path().join("second-key.pem"), &key);
    let proxy = Proxy::start_in(dir, &registry.url(), two_listeners());
    let first = proxy.https();
    let second = proxy.listener_on(Scheme::Https, Ipv4Addr::new(127, 0, 0, 2));
    let usual = || certs::default_client_config("http/1.1");
    let ping = TestRequest::new("GET", "/v2/");
    let answer = Client::tls(first, "localhost", usual()).exchange(&ping);
    assert!(answer.header("www-authenticate").contains("Registry realm"));
    // The second site's certificate has no localhost.
    assert!(Client::try_tls(second, "localhost", usual()).is_err());
    let answer = Client::tls(second, "only.test", usual()).exchange(&ping);
    assert!(answer.header("www-authenticate").contains("second"));
    // The host of another address is no host here.
    let only = ping.host("only.test");
    Client::tls(first, "localhost", usual())
        .exchange(&only)
        .assert_rejection(421, "UNSUPPORTED");
    let answer = Client::tls(second, "only.test", usual()).exchange(&only);
    answer.assert_rejection(401, "UNAUTHORIZED");
    assert!(registry.requests().is_empty());
}

#[test]
fn the_live_check_asks_as_the_proxy_in_front() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, behind_proxy());
    drop(unix(&proxy, "http.sock"));
    let (config, mut problems) = tidegate::config::load(&proxy.path("proxy.toml"));
    let config = config.unwrap();
    let snapshot = Snapshot::build(&config, None, BuildMode::Check, &mut problems).unwrap();
    let facts = block_on(live::run(&config, &snapshot, &mut problems, &|_| {}));
    let expected = format!(
        "unix:{}: serves localhost to trusted proxies",
        proxy.path("http.sock").display()
    );
    assert!(facts.contains(&expected), "{facts:?}");
    assert!(!problems.has_errors(), "{problems}");
}

/// Without TLS, the close of the connection is all that tells an HTTP/1.0 client where the body ends.
#[test]
fn a_truncated_response_to_http10_ends_with_a_reset() {
    for is_truncated in [false, true] {
        let (has_read, wait_for_client) = channel();
        let wait_for_client = Mutex::new(wait_for_client);
        let registry = Registry::start(move |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
            let _ = wait_for_client.lock().unwrap().recv();
            if !is_truncated {
                exchange.send("0\r\n\r\n");
            }
            exchange.close();
        });
        let proxy = Proxy::start(&registry, behind_proxy());
        let request = forwarded(TestRequest::alice("GET", "/v2/a/manifests/x"));
        let head = String::from_utf8(request.head()).unwrap();
        let mut client = Client::plain(address(&proxy));
        client.send(head.replace("HTTP/1.1", "HTTP/1.0"));
        let response = client.read_head().unwrap();
        assert!(
            !response.has_header("content-length") && !response.has_header("transfer-encoding")
        );
        assert_eq!(client.read_exact(3), b"abc");
        has_read.send(()).unwrap();
        let (rest, end) = client.read_to_end();
        let expected = if is_truncated {
            StreamEnd::Broken
        } else {
            StreamEnd::Clean
        };
        assert_eq!((rest, end), (Vec::new(), expected));
    }
}
