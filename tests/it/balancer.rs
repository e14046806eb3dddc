//! The proxy behind another proxy: PROXY headers before connections, `X-Forwarded-*` in requests, and which peers are
//! trusted to send them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use rustls::ClientConnection;
use tidegate::server::Scheme;

use crate::support::client::{connect_tcp, connect_tcp_from, is_timeout, proxy_header};
use crate::support::proxy::TestConfig;
use crate::support::{
    Client, HttpVersion, PATIENCE, Proxy, Registry, TestRequest, TestResponse, certs, config,
    exchange,
};

/// Another address of this machine.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n";

/// A configuration with these keys in the table `listen`.
fn listen_config(top: &str, keys: &str) -> TestConfig {
    config(top, "").after("workers", keys)
}

fn behind_balancer(registry: &Registry) -> Proxy {
    Proxy::start(
        registry,
        listen_config("", "proxy_protocol = [\"127.0.0.1\"]"),
    )
}

/// A PROXY header of version 2 with an IPv4 client.
fn binary_header(client: [u8; 4], command: u8, tlvs: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + tlvs.len()).unwrap().to_be_bytes();
    let fixed = [
        b"\r\n\r\n\0\r\nQUIT\n".as_slice(),
        &[0x20 | command, 0x11],
        &length,
    ]
    .concat();
    [&fixed[..], &client, &[10, 0, 0, 1, 1, 2, 1, 0xbb], tlvs].concat()
}

/// Sends these bytes and then starts TLS.
fn tls_after_header(mut socket: TcpStream, before: &[u8]) -> std::io::Result<Client> {
    socket.write_all(before)?;
    let name = "localhost".try_into().unwrap();
    let tls = ClientConnection::new(certs::default_client_config("http/1.1"), name).unwrap();
    Client::start_tls(tls, socket)
}

fn connect_with_header(proxy: &Proxy, header: &[u8]) -> Client {
    tls_after_header(connect_tcp(proxy.https()), header).expect("a TLS connection")
}

/// Connects as the balancer does on behalf of `client`.
fn connect_as(proxy: &Proxy, client: &str) -> Client {
    connect_with_header(proxy, proxy_header(client).as_bytes())
}

/// Everything that the proxy sends in response to these bytes until it closes the connection.
fn bytes_until_closed(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = connect_tcp(address);
    socket.write_all(bytes).unwrap();
    let mut received = Vec::new();
    match socket.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) => assert!(!is_timeout(&error), "{bytes:?} kept the connection"),
    }
    received
}

#[test]
fn the_proxy_header_names_the_client() {
    let registry = Registry::accepting_all();
    let proxy = behind_balancer(&registry);
    let long = [&[0xe0, 0x0f, 0xf1][..], &[7; 4081]].concat();
    for (header, client) in [
        (LINE.to_vec(), "192.0.2.7"),
        (
            b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".to_vec(),
            "2001:db8::7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary_header([192, 0, 2, 8], 1, &[]), "192.0.2.8"),
        (binary_header([192, 0, 2, 8], 1, &long), "192.0.2.8"),
        (binary_header([192, 0, 2, 8], 0, &[]), "127.0.0.1"),
    ] {
        let mut connection = connect_with_header(&proxy, &header);
        for _ in 0..2 {
            // `X-Forwarded-*` of a client that is no trusted proxy is ignored.
            let forged = TestRequest::alice("GET", "/v2/")
                .header("x-forwarded-for", "6.6.6.6")
                .header("x-forwarded-proto", "http");
            assert_eq!(connection.exchange(&forged).status, 200);
            let seen = registry.requests().pop().unwrap();
            assert_eq!(seen.header("x-forwarded-for"), client);
            assert_eq!(seen.header("x-real-ip"), client);
            assert_eq!(seen.header("x-forwarded-proto"), "https");
        }
    }
    let log = proxy.stop_and_read_access_log();
    let balanced = log
        .lines()
        .filter(|line| line.contains(" client=192.0.2.7 peer=127.0.0.1 "));
    assert_eq!(balanced.count(), 2, "{log}");
    let own = log
        .lines()
        .filter(|line| line.contains(" client=127.0.0.1 site="));
    assert_eq!(own.count(), 4, "{log}");
}

/// The headers are those of HAProxy with `bind :::443 v4v6`, and of nginx with `listen [::]:443 ipv6only=off`.
#[test]
fn proxy_headers_of_dual_stack_sockets_name_clients_of_both_ip_versions() {
    let registry = Registry::accepting_all();
    let proxy = behind_balancer(&registry);
    let mut mapped = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    mapped.extend([0; 10]);
    mapped.extend([0xff, 0xff, 192, 0, 2, 7]);
    mapped.extend([0; 16 + 4]);
    let text_header = |words: &str| format!("PROXY {words}\r\n").into_bytes();
    for (header, client) in [
        (
            text_header("TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 56324 443"),
            "192.0.2.7",
        ),
        (
            text_header("TCP6 ::FFFF:192.0.2.7 2001:db8::1 56324 443"),
            "192.0.2.7",
        ),
        (
            text_header("TCP6 2001:db8::7 ::ffff:10.0.0.1 0 0"),
            "2001:db8::7",
        ),
        (
            text_header("TCP6 2001:DB8::7 10.0.0.1 1 443"),
            "2001:db8::7",
        ),
        (
            text_header("TCP4 192.0.2.7 ::ffff:10.0.0.1 1 443"),
            "192.0.2.7",
        ),
        (mapped, "192.0.2.7"),
    ] {
        let mut connection = connect_with_header(&proxy, &header);
        assert_eq!(connection.ping(), 200);
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.header("x-forwarded-for"), client, "{header:?}");
        assert_eq!(seen.header("x-real-ip"), client, "{header:?}");
    }
    let log = proxy.stop_and_read_access_log();
    assert_eq!(
        log.matches(" client=192.0.2.7 peer=127.0.0.1 ").count(),
        4,
        "{log}"
    );
    assert_eq!(
        log.matches(" client=2001:db8::7 peer=127.0.0.1 ").count(),
        2,
        "{log}"
    );
}

/// Without a client in the header, the sender of the requests is unknown, even though the balancer itself is a trusted
/// proxy.
#[test]
fn x_forwarded_fields_are_ignored_if_the_proxy_header_names_no_client() {
    let registry = Registry::accepting_all();
    let keys = "proxy_protocol = [\"127.0.0.1\"]\ntrusted_proxies = [\"127.0.0.1\", \"192.0.2.7\"]";
    let proxy = Proxy::start(&registry, listen_config("", keys));
    let request = TestRequest::alice("GET", "/v2/")
        .header("x-forwarded-for", "198.51.100.9")
        .header("x-forwarded-proto", "http");
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0".to_vec();
    for (header, client, scheme) in [
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "https"),
        (
            b"PROXY UNKNOWN 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
            "127.0.0.1",
            "https",
        ),
        (binary_header([192, 0, 2, 7], 0, &[]), "127.0.0.1", "https"),
        (unspecified, "127.0.0.1", "https"),
        (
            binary_header([192, 0, 2, 7], 1, &[]),
            "198.51.100.9",
            "http",
        ),
    ] {
        assert_eq!(
            connect_with_header(&proxy, &header)
                .exchange(&request)
                .status,
            200
        );
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.header("x-real-ip"), client, "{header:?}");
        assert_eq!(seen.header("x-forwarded-proto"), scheme, "{header:?}");
        let chain = seen.header("x-forwarded-for");
        assert_eq!(
            chain.contains("198.51.100.9"),
            client != "127.0.0.1",
            "{header:?}"
        );
    }
}

/// Monitoring systems connect to the admin listener directly.
#[test]
fn the_admin_listener_accepts_no_proxy_header() {
    let registry = Registry::accepting_all();
    let keys = "admin = \"127.0.0.1:0\"\nproxy_protocol = [\"127.0.0.1\"]";
    let proxy = Proxy::start(&registry, listen_config("", keys));
    let admin = proxy.listener(Scheme::Admin);
    let health_request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let received = bytes_until_closed(admin, health_request);
    assert!(received.starts_with(b"HTTP/1.1 200 "), "{received:?}");
    let received = bytes_until_closed(admin, &[LINE, health_request].concat());
    assert!(!received.starts_with(b"HTTP/1.1 200 "), "{received:?}");
}

#[test]
fn a_proxy_header_may_arrive_in_single_bytes() {
    let registry = Registry::accepting_all();
    let proxy = behind_balancer(&registry);
    for header in [
        LINE.to_vec(),
        binary_header([192, 0, 2, 7], 1, &[4, 0, 1, 0]),
    ] {
        let mut socket = connect_tcp(proxy.https());
        for byte in header {
            socket.write_all(&[byte]).unwrap();
        }
        let mut client = tls_after_header(socket, b"").unwrap();
        assert_eq!(client.ping(), 200);
        assert_eq!(
            registry.requests().pop().unwrap().header("x-real-ip"),
            "192.0.2.7"
        );
    }
}

#[test]
fn a_connection_without_its_required_proxy_header_is_closed() {
    let registry = Registry::accepting_all();
    let proxy = behind_balancer(&registry);
    assert!(
        tls_after_header(connect_tcp(proxy.https()), b"").is_err(),
        "served without a header"
    );
    let twice = [LINE, LINE].concat();
    assert!(
        tls_after_header(connect_tcp(proxy.https()), &twice).is_err(),
        "served after two headers"
    );
    let twice = [binary_header([6; 4], 1, &[]), binary_header([7; 4], 1, &[])].concat();
    assert!(
        tls_after_header(connect_tcp(proxy.https()), &twice).is_err(),
        "served after two headers"
    );
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 300]].concat();
    let huge = binary_header([6; 4], 1, &[0; 5000]);
    for bytes in [
        b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n".as_slice(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\n\n",
        b"PROXY TCP4 192.0.2.7\r\n",
        &endless,
        &huge,
    ] {
        let received = bytes_until_closed(proxy.https(), bytes);
        assert!(received.is_empty(), "{bytes:?} got {received:?}");
    }
    assert!(registry.requests().is_empty());
    let mut client = connect_with_header(&proxy, LINE);
    assert_eq!(client.ping(), 200);
}

#[test]
fn a_proxy_header_from_another_peer_fails_the_tls_handshake() {
    let registry = Registry::accepting_all();
    let proxy = behind_balancer(&registry);
    for header in [LINE.to_vec(), binary_header([192, 0, 2, 7], 1, &[])] {
        let socket = connect_tcp_from(ELSEWHERE, proxy.https());
        assert!(
            tls_after_header(socket, &header).is_err(),
            "{header:?} was accepted"
        );
    }
    let mut client = Client::connect_from(ELSEWHERE, &proxy);
    assert_eq!(client.ping(), 200);
    assert_eq!(registry.only_request().header("x-real-ip"), "127.0.0.2");
    // Without `proxy_protocol`, no peer may send a header.
    let proxy = Proxy::with_defaults(&registry);
    assert!(tls_after_header(connect_tcp(proxy.https()), LINE).is_err());
}

#[test]
fn the_proxy_header_and_the_handshake_share_one_deadline() {
    let registry = Registry::accepting_all();
    let text = listen_config(
        "[limits]\nhandshake = \"300ms\"\n",
        "proxy_protocol = [\"127.0.0.0/8\"]",
    );
    let proxy = Proxy::start(&registry, &text);
    let silent = binary_header([192, 0, 2, 7], 1, &[]);
    for bytes in [&b""[..], b"PROXY TCP4 1", b"\r\n\r\n", LINE, &silent] {
        assert!(
            bytes_until_closed(proxy.https(), bytes).is_empty(),
            "{bytes:?}"
        );
    }
    // Bytes that arrive slowly do not extend the deadline.
    let mut socket = connect_tcp(proxy.https());
    let pause = std::time::Duration::from_millis(20);
    socket.set_read_timeout(Some(pause)).unwrap();
    let slow = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 90]].concat();
    let is_closed = slow.iter().any(|byte| {
        socket.write_all(&[*byte]).is_err()
            || !socket.read(&mut [0]).is_err_and(|error| is_timeout(&error))
    });
    assert!(is_closed, "a slow header kept the connection");
}

#[test]
fn connections_without_tls_need_the_proxy_header_too() {
    let registry = Registry::accepting_all();
    let keys = "http = [\"127.0.0.1:0\"]\nproxy_protocol = [\"127.0.0.1\"]";
    let proxy = Proxy::start(&registry, listen_config("", keys));
    let mut client = Client::plain(proxy.http());
    client.send(LINE);
    for _ in 0..2 {
        assert_eq!(client.exchange(&TestRequest::new("GET", "/")).status, 308);
    }
    assert!(
        bytes_until_closed(proxy.http(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").is_empty()
    );
    drop(client);
    let log = proxy.stop_and_read_access_log();
    assert_eq!(
        log.matches("client=192.0.2.7 peer=127.0.0.1").count(),
        2,
        "{log}"
    );
}

#[test]
fn a_connection_counts_for_the_client_that_its_proxy_header_names() {
    let registry = Registry::accepting_all();
    let text = listen_config(
        "[limits]\nconnections_per_client = 1\n",
        "proxy_protocol = [\"127.0.0.1\"]",
    );
    let proxy = Proxy::start(&registry, &text);
    let mut first = connect_as(&proxy, "192.0.2.7");
    let mut second = connect_as(&proxy, "192.0.2.8");
    assert!(
        tls_after_header(
            connect_tcp(proxy.https()),
            proxy_header("192.0.2.7").as_bytes()
        )
        .is_err(),
        "a second connection of one client was accepted"
    );
    for client in [&mut first, &mut second] {
        assert_eq!(client.ping(), 200);
    }
    // Until its header is complete, a connection counts for the balancer.
    let mut unknown = connect_tcp(proxy.https());
    unknown.write_all(b"PROXY").unwrap();
    assert!(
        tls_after_header(
            connect_tcp(proxy.https()),
            proxy_header("192.0.2.9").as_bytes()
        )
        .is_err()
    );
    unknown
        .write_all(b" TCP4 192.0.2.10 10.0.0.1 1 443\r\n")
        .unwrap();
    let _unknown = tls_after_header(unknown, b"").unwrap();
    // A closed connection no longer counts.
    drop(first);
    let until = Instant::now() + PATIENCE;
    while tls_after_header(
        connect_tcp(proxy.https()),
        proxy_header("192.0.2.7").as_bytes(),
    )
    .is_err()
    {
        assert!(Instant::now() < until, "a closed connection still counts");
    }
}

#[test]
fn wrong_passwords_behind_a_balancer_throttle_only_the_client_that_sends_them() {
    let registry = Registry::accepting_all();
    let text = listen_config(
        "[throttle]\nguesses = 1\n",
        "proxy_protocol = [\"127.0.0.1\"]",
    );
    let proxy = Proxy::start(&registry, &text);
    let from = |client: &str, password: &str| {
        let login = format!("alice:{password}");
        connect_as(&proxy, client)
            .exchange(&TestRequest::new("GET", "/v2/").basic_auth(login.as_bytes()))
    };
    assert_eq!(from("192.0.2.7", "a").status, 401);
    assert_eq!(from("192.0.2.7", "b").status, 429);
    assert_eq!(from("192.0.2.8", "pw").status, 200);
}

#[test]
fn a_reload_changes_which_peers_must_send_a_proxy_header() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut old = Client::connect(&proxy);
    proxy.configure(
        &registry,
        listen_config("", "proxy_protocol = [\"127.0.0.1\"]"),
    );
    proxy.reload().unwrap();
    assert!(tls_after_header(connect_tcp(proxy.https()), b"").is_err());
    let mut new = connect_with_header(&proxy, LINE);
    for client in [&mut old, &mut new] {
        assert_eq!(client.ping(), 200);
    }
}

/// Sends a request with the fields that a proxy adds.
fn exchange_with_fields(http: HttpVersion, proxy: &Proxy, fields: &[(&str, &str)]) -> TestResponse {
    let request = fields.iter().fold(
        TestRequest::alice("GET", "/v2/"),
        |request, (name, value)| request.header(name, value),
    );
    exchange(proxy, http, &request)
}

#[test]
fn x_forwarded_fields_of_a_trusted_proxy_are_used_and_appended_to() {
    let registry = Registry::responding(
        "HTTP/1.1 202 Accepted\r\nLocation: http://localhost/v2/x\r\nContent-Length: 0\r\n\r\n",
    );
    let keys = "trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]";
    let proxy = Proxy::start(&registry, listen_config("", keys));
    for http in HttpVersion::BOTH {
        for (fields, chain, client, scheme) in [
            (vec![], "127.0.0.1", "127.0.0.1", "https"),
            (
                vec![("x-forwarded-for", "6.6.6.6, 192.0.2.7")],
                "6.6.6.6, 192.0.2.7, 127.0.0.1",
                "192.0.2.7",
                "https",
            ),
            (
                vec![
                    ("x-forwarded-for", "6.6.6.6"),
                    ("x-forwarded-proto", "http"),
                    ("x-forwarded-for", "192.0.2.7, 10.0.0.2"),
                    ("x-forwarded-host", "evil.test"),
                    ("x-real-ip", "6.6.6.6"),
                    ("forwarded", "for=6.6.6.6;host=evil.test"),
                ],
                "6.6.6.6, 192.0.2.7, 10.0.0.2, 127.0.0.1",
                "192.0.2.7",
                "http",
            ),
            (
                vec![("x-forwarded-for", "evil"), ("x-forwarded-proto", "gopher")],
                "evil, 127.0.0.1",
                "127.0.0.1",
                "https",
            ),
        ] {
            let response = exchange_with_fields(http, &proxy, &fields);
            assert_eq!(
                response.header("location"),
                format!("{scheme}://localhost/v2/x")
            );
            let seen = registry.requests().pop().unwrap();
            assert_eq!(seen.header("x-forwarded-for"), chain, "{fields:?}");
            assert_eq!(seen.header("x-real-ip"), client);
            assert_eq!(seen.header("x-forwarded-proto"), scheme);
            assert!(seen.all("forwarded").is_empty() && seen.all("x-forwarded-host").is_empty());
        }
    }
    let log = proxy.stop_and_read_access_log();
    assert_eq!(
        log.matches("client=192.0.2.7 peer=127.0.0.1").count(),
        4,
        "{log}"
    );
}

#[test]
fn x_forwarded_fields_of_other_peers_are_ignored() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(
        &registry,
        listen_config("", "trusted_proxies = [\"127.0.0.2\"]"),
    );
    let fields = [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "http"),
    ];
    for http in HttpVersion::BOTH {
        assert_eq!(exchange_with_fields(http, &proxy, &fields).status, 200);
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
        assert_eq!(seen.header("x-real-ip"), "127.0.0.1");
        assert_eq!(seen.header("x-forwarded-proto"), "https");
    }
}

#[test]
fn a_proxy_header_can_name_a_trusted_proxy() {
    let registry = Registry::accepting_all();
    let keys = "proxy_protocol = [\"127.0.0.1\"]\ntrusted_proxies = [\"192.0.2.7\"]";
    let proxy = Proxy::start(&registry, listen_config("", keys));
    let request = TestRequest::alice("GET", "/v2/").header("x-forwarded-for", "198.51.100.9");
    for (header, client, chain) in [
        (
            proxy_header("192.0.2.7").into_bytes(),
            "198.51.100.9",
            "198.51.100.9, 192.0.2.7",
        ),
        (
            proxy_header("192.0.2.8").into_bytes(),
            "192.0.2.8",
            "192.0.2.8",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "127.0.0.1"),
    ] {
        assert_eq!(
            connect_with_header(&proxy, &header)
                .exchange(&request)
                .status,
            200
        );
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.header("x-real-ip"), client);
        assert_eq!(seen.header("x-forwarded-for"), chain);
    }
}

#[test]
fn wrong_passwords_count_for_the_client_that_a_trusted_proxy_names() {
    let registry = Registry::accepting_all();
    let text = listen_config(
        "[throttle]\nguesses = 1\n",
        "trusted_proxies = [\"127.0.0.1\"]",
    );
    let proxy = Proxy::start(&registry, &text);
    let from = |client: &str, password: &str| {
        let request =
            TestRequest::new("GET", "/v2/").basic_auth(format!("alice:{password}").as_bytes());
        exchange(
            &proxy,
            HttpVersion::Http1,
            &request.header("x-forwarded-for", client),
        )
        .status
    };
    assert_eq!(from("192.0.2.7", "a"), 401);
    // Addresses that the client puts in front of its own make no difference.
    assert_eq!(from("203.0.113.1, 192.0.2.7", "b"), 429);
    assert_eq!(from("192.0.2.8", "pw"), 200);
}

#[test]
fn a_request_over_http_from_a_proxy_that_terminates_tls_gets_400_instead_of_a_redirect_loop() {
    let registry = Registry::accepting_all();
    let keys = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let proxy = Proxy::start(&registry, listen_config("", keys));
    let mut client = Client::plain(proxy.http());
    let at = |scheme| TestRequest::new("GET", "/x").header("x-forwarded-proto", scheme);
    assert_eq!(client.exchange(&at("http")).status, 308);
    assert_eq!(client.exchange(&at("https")).status, 400);
}

#[test]
fn trusting_nearly_every_address_is_a_warning() {
    let registry = Registry::accepting_all();
    let dir = crate::support::proxy::directory();
    let file = dir.path().join("proxy.toml");
    let keys = "proxy_protocol = [\"10.0.0.4\", \"::/0\"]\ntrusted_proxies = [\"0.0.0.0/0\"]";
    let text = listen_config("", keys).upstream(&registry.url());
    std::fs::write(&file, text.to_string()).unwrap();
    let (_server, problems) = tidegate::server::Server::open(&file).unwrap();
    let text = problems.to_string();
    for warning in [
        "listen.proxy_protocol contains nearly every address",
        "listen.trusted_proxies contains nearly every address",
    ] {
        assert!(text.contains(warning), "{text}");
    }
    assert!(!text.contains("10.0.0.4"), "{text}");
}

#[test]
fn an_invalid_network_is_rejected_with_its_key() {
    let registry = Registry::accepting_all();
    for (keys, expected) in [
        (
            "proxy_protocol = [\"lb.example.com\"]",
            "listen.proxy_protocol",
        ),
        ("trusted_proxies = [\"10.1.2.3/8\"]", "10.0.0.0/8"),
        ("trusted_proxies = \"10.0.0.0/8\"", "listen.trusted_proxies"),
    ] {
        let dir = crate::support::proxy::directory();
        let result = Proxy::try_start(dir, &registry.url(), listen_config("", keys));
        let problems = result.err().expect("the start fails").to_string();
        assert!(problems.contains(expected), "{problems}");
    }
}
