//! Combinations of features in one request, over HTTP/1 and HTTP/2: networks and tokens, closed paths and the catalog, networks
//! and trusted proxies, several endpoints and rewritten addresses, client certificates and Harbor.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use rustls::{ClientConfig, ClientConnection};
use serde_json::{Value, json};

use crate::support::certs::{self, AUTHORITY, Authority};
use crate::support::client::{connect_tcp, connect_tcp_from, proxy_header};
use crate::support::h2::{H2Client, block_on};
use crate::support::proxy::TestConfig;
use crate::support::proxy::directory;
use crate::support::{
    Client, DIGEST, HttpVersion, PATIENCE, Proxy, Registry, TestRequest, TestResponse, TlsFront,
    config, exchange,
};

const BASIC: &str =
    "auth = { mode = \"basic\", htpasswd = \"htpasswd\", realm = \"Registry realm\" }";
const TOKEN: &str =
    "auth = { mode = \"token\", htpasswd = \"htpasswd\", realm = \"Registry realm\" }";
const STATE: &str = "[state]\ndir = \"{dir}/state\"\n";

/// 127.0.0.2 is a balancer that sends PROXY headers, and 127.0.0.3 a proxy whose `X-Forwarded-For` is trusted.
const BALANCED: &str = "proxy_protocol = [\"127.0.0.2\"]\ntrusted_proxies = [\"127.0.0.3\"]";

/// A configuration with additional `keys` in the table `listen`.
fn listening(top: &str, keys: &str, route: &str) -> TestConfig {
    config(top, route).after("workers", keys)
}

/// The connection on which a client's request arrives, and the address of the client that its peer names.
#[derive(Clone, Copy, Debug)]
enum Connection {
    /// The client connects itself, from 127.0.0.N.
    Direct(u8),
    /// A balancer that sends a PROXY header with this address.
    Balancer(&'static str),
    /// A trusted proxy that sends this value in `X-Forwarded-For`.
    Proxy(&'static str),
    /// Both: the PROXY header of the balancer names the trusted proxy, which sends this value in `X-Forwarded-For`.
    Both(&'static str),
    /// A peer that is not trusted and sends this value in `X-Forwarded-For`.
    Untrusted(&'static str),
}

impl Connection {
    fn socket(self, proxy: &Proxy) -> TcpStream {
        let (source, client) = match self {
            Self::Direct(last) => (last, None),
            Self::Balancer(client) => (2, Some(client)),
            Self::Proxy(_) => (3, None),
            Self::Both(_) => (2, Some("127.0.0.3")),
            Self::Untrusted(_) => (4, None),
        };
        let mut socket = connect_tcp_from(Ipv4Addr::new(127, 0, 0, source), proxy.https());
        if let Some(client) = client {
            socket.write_all(proxy_header(client).as_bytes()).unwrap();
        }
        socket
    }

    fn exchange(self, proxy: &Proxy, http: HttpVersion, request: &TestRequest) -> TestResponse {
        let request = match self {
            Self::Proxy(value) | Self::Both(value) | Self::Untrusted(value) => {
                request.clone().header("x-forwarded-for", value)
            }
            Self::Direct(_) | Self::Balancer(_) => request.clone(),
        };
        exchange_over(
            self.socket(proxy),
            http,
            &request,
            certs::default_client_config,
        )
    }
}

/// Performs a TLS handshake on a connected socket, sends the request and returns the response.
fn exchange_over(
    socket: TcpStream,
    http: HttpVersion,
    request: &TestRequest,
    config: impl Fn(&str) -> Arc<ClientConfig>,
) -> TestResponse {
    match http {
        HttpVersion::Http1 => {
            let name = "localhost".try_into().unwrap();
            let tls = ClientConnection::new(config("http/1.1"), name).unwrap();
            Client::start_tls(tls, socket).unwrap().exchange(request)
        }
        HttpVersion::Http2 => block_on(async {
            H2Client::start_tls(socket, config("h2"))
                .await
                .exchange(request)
                .await
        }),
    }
}

/// A registry that responds to every request with a catalog of `names` on one page.
fn registry_with_catalog(names: &'static [&'static str]) -> Registry {
    Registry::start(move |exchange| {
        exchange.body();
        let body = json!({ "repositories": names }).to_string();
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    })
}

#[track_caller]
fn catalog(response: &TestResponse) -> Vec<String> {
    assert_eq!(response.status, 200, "{}", response.text());
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    let names = body["repositories"].as_array().unwrap().iter();
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn token(response: &TestResponse) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    format!("Bearer {}", body["token"].as_str().unwrap())
}

/// Clients in the office network may pull `lan/` and list it without credentials. alice may push to `own/` and list it.
const OFFICE: &str = "allow = [\"192.0.2.0/24\", \"127.0.0.1\"]\nsatisfy = \"any\"\n\
    [[site.route.grant]]\nto = [\"@network\"]\nrepositories = [\"lan/**\"]\nactions = [\"pull\", \"catalog\"]\n\
    [[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"own/*\"]\nactions = [\"push\", \"catalog\"]\n";

/// A proxy in mode token with [`OFFICE`], and `more` at the end of its configuration.
fn office(registry: &Registry, more: &str) -> Proxy {
    let text = listening(STATE, BALANCED, &format!("{OFFICE}{more}")).lines("auth", TOKEN);
    Proxy::start(registry, &text)
}

/// Connections of clients in the office network.
const INSIDE: [Connection; 4] = [
    Connection::Direct(1),
    Connection::Balancer("192.0.2.7"),
    Connection::Proxy("6.6.6.6, 192.0.2.7"),
    Connection::Both("192.0.2.7"),
];
/// Connections of clients that are not in the office network, and one whose client is unknown.
const OUTSIDE: [Connection; 6] = [
    Connection::Direct(4),
    Connection::Balancer("198.51.100.1"),
    Connection::Proxy("192.0.2.7, 198.51.100.1"),
    Connection::Proxy("192.0.2.7, unknown"),
    Connection::Both("198.51.100.1"),
    Connection::Untrusted("192.0.2.7"),
];

#[test]
fn the_catalog_for_a_network_has_what_the_network_may_pull() {
    let registry = registry_with_catalog(&["lan/a", "lan/b/c", "other", "own/x"]);
    let proxy = office(&registry, "");
    let anonymous = TestRequest::new("GET", "/v2/_catalog");
    let alice = TestRequest::alice("GET", "/v2/_catalog");
    let token_request = TestRequest::new("GET", "/v2/_token?scope=registry:catalog:*");
    for http in HttpVersion::BOTH {
        let mut last = None;
        for connection in INSIDE {
            assert_eq!(
                catalog(&connection.exchange(&proxy, http, &anonymous)),
                ["lan/a", "lan/b/c"]
            );
            let both = connection.exchange(&proxy, http, &alice);
            assert_eq!(
                catalog(&both),
                ["lan/a", "lan/b/c", "own/x"],
                "{connection:?}"
            );
            let office_token = token(&connection.exchange(&proxy, http, &token_request));
            let with_token = anonymous.clone().header("authorization", &office_token);
            assert_eq!(
                catalog(&connection.exchange(&proxy, http, &with_token)),
                ["lan/a", "lan/b/c"]
            );
            last = Some(with_token);
        }
        for connection in OUTSIDE {
            connection
                .exchange(&proxy, http, &anonymous)
                .assert_rejection(401, "UNAUTHORIZED");
            assert_eq!(
                catalog(&connection.exchange(&proxy, http, &alice)),
                ["own/x"],
                "{connection:?}"
            );
            // A token that was issued in the office network grants nothing outside of it.
            connection
                .exchange(&proxy, http, last.as_ref().unwrap())
                .assert_rejection(401, "UNAUTHORIZED");
        }
    }
}

#[test]
fn a_token_grants_what_the_network_of_the_client_may_do() {
    let registry = Registry::accepting_all();
    let proxy = office(&registry, "");
    let scope = "/v2/_token?scope=repository:lan/a:pull,push&scope=repository:own/x:pull,push";
    for http in HttpVersion::BOTH {
        for connection in INSIDE {
            let anonymous =
                token(&connection.exchange(&proxy, http, &TestRequest::new("GET", scope)));
            let alice =
                token(&connection.exchange(&proxy, http, &TestRequest::alice("GET", scope)));
            let with_token = |token: &str, method: &str, target: &str| {
                TestRequest::new(method, target).header("authorization", token)
            };
            let status = |connection: Connection, request: &TestRequest| {
                connection.exchange(&proxy, http, request).status
            };
            let (lan, own) = ("/v2/lan/a/manifests/x", "/v2/own/x/manifests/x");
            assert_eq!(
                status(connection, &with_token(&anonymous, "GET", lan)),
                200,
                "{connection:?}"
            );
            assert_eq!(status(connection, &with_token(&anonymous, "PUT", lan)), 401);
            assert_eq!(status(connection, &with_token(&anonymous, "GET", own)), 401);
            assert_eq!(status(connection, &with_token(&alice, "GET", lan)), 200);
            assert_eq!(status(connection, &with_token(&alice, "PUT", lan)), 403);
            assert_eq!(status(connection, &with_token(&alice, "PUT", own)), 200);
            for outside in OUTSIDE {
                assert_eq!(status(outside, &with_token(&anonymous, "GET", lan)), 401);
                assert_eq!(status(outside, &with_token(&alice, "GET", lan)), 403);
                assert_eq!(status(outside, &with_token(&alice, "GET", own)), 200);
            }
        }
    }
}

#[test]
fn a_closed_repository_is_in_no_catalog_and_cannot_be_mounted() {
    let registry =
        registry_with_catalog(&["closed", "closed/x", "closedly", "lan/a", "lan/closed/y"]);
    let closed_routes = "[[site.route]]\npath = \"/v2/closed/\"\nrespond = 404\n\
                [[site.route]]\npath = \"/v2/lan/closed/\"\nrespond = 403\n";
    let everyone = Proxy::start(&registry, config("", closed_routes));
    let office = office(&registry, closed_routes);
    let list = |login: bool| match login {
        true => TestRequest::alice("GET", "/v2/_catalog"),
        false => TestRequest::new("GET", "/v2/_catalog"),
    };
    for http in HttpVersion::BOTH {
        let all = exchange(&everyone, http, &list(true));
        assert_eq!(catalog(&all), ["closedly", "lan/a"]);
        for connection in INSIDE {
            assert_eq!(
                catalog(&connection.exchange(&office, http, &list(false))),
                ["lan/a"]
            );
            // The closed repository is rejected for clients in the office network and for alice as well.
            for request in [TestRequest::new, TestRequest::alice] {
                let closed = request("GET", "/v2/lan/closed/y/tags/list");
                connection
                    .exchange(&office, http, &closed)
                    .assert_rejection(403, "DENIED");
            }
        }
        for source in ["closed/x", "lan/closed/y"] {
            let target = format!("/v2/own/x/blobs/uploads/?mount={DIGEST}&from={source}");
            for (proxy, connection) in [
                (&everyone, Connection::Direct(1)),
                (&office, Connection::Direct(1)),
            ] {
                let response =
                    connection.exchange(proxy, http, &TestRequest::alice("POST", &target));
                assert_eq!(response.status, 200, "{}", response.text());
                let forwarded = registry.requests().pop().unwrap();
                assert_eq!(forwarded.target, "/v2/own/x/blobs/uploads/");
            }
        }
    }
}

#[test]
fn allow_and_deny_apply_to_the_client_not_to_a_trusted_proxy() {
    let registry = Registry::accepting_all();
    let (anonymous, alice) = (
        TestRequest::new("GET", "/v2/"),
        TestRequest::alice("GET", "/v2/"),
    );
    let start = |keys: &str| Proxy::start(&registry, listening("", BALANCED, keys));
    let office = "\"192.0.2.0/24\", \"127.0.0.1\"";
    let both = start(&format!("allow = [{office}]"));
    let any = start(&format!("allow = [{office}]\nsatisfy = \"any\""));
    let denied = start(&format!("deny = [{office}]"));
    // The network of the trusted proxies admits no client behind them.
    let proxies = start("allow = [\"127.0.0.2\", \"127.0.0.3\"]");
    let assert_statuses = |connection: Connection, expected: &[(&Proxy, &TestRequest, u16)]| {
        for http in HttpVersion::BOTH {
            for (case, (proxy, request, status)) in expected.iter().enumerate() {
                let response = connection.exchange(proxy, http, request);
                assert_eq!(response.status, *status, "{connection:?}, case {case}");
            }
        }
    };
    for connection in INSIDE {
        assert_statuses(
            connection,
            &[
                (&both, &anonymous, 401),
                (&both, &alice, 200),
                (&any, &anonymous, 200),
                (&denied, &alice, 403),
                (&proxies, &alice, 403),
            ],
        );
    }
    for connection in OUTSIDE {
        // If the trusted proxy does not name a client, the trusted proxy itself counts as the client.
        let is_the_proxy = matches!(connection, Connection::Proxy("192.0.2.7, unknown"));
        assert_statuses(
            connection,
            &[
                (&both, &alice, 403),
                (&any, &anonymous, 401),
                (&any, &alice, 200),
                (&denied, &alice, 200),
                (&proxies, &alice, if is_the_proxy { 200 } else { 403 }),
            ],
        );
    }
}

#[test]
fn guesses_do_not_throttle_a_network_that_needs_no_password() {
    let registry = Registry::accepting_all();
    let route = "allow = [\"192.0.2.0/24\"]\nsatisfy = \"any\"";
    let text = listening("[throttle]\nguesses = 1\n", BALANCED, route);
    let proxy = Proxy::start(&registry, &text);
    let wrong =
        |word: &str| TestRequest::new("GET", "/v2/").basic_auth(format!("alice:{word}").as_bytes());
    let status = |connection: Connection, request: &TestRequest| {
        connection
            .exchange(&proxy, HttpVersion::Http2, request)
            .status
    };
    for connection in [
        Connection::Balancer("192.0.2.7"),
        Connection::Proxy("192.0.2.8"),
    ] {
        for word in ["a", "b", "c"] {
            assert_eq!(
                status(connection, &wrong(word)),
                200,
                "{connection:?} {word}"
            );
        }
        assert_eq!(status(connection, &TestRequest::new("GET", "/v2/")), 200);
    }
    for (connection, neighbour) in [
        (
            Connection::Balancer("198.51.100.1"),
            Connection::Balancer("203.0.113.1"),
        ),
        (
            Connection::Proxy("198.51.101.1"),
            Connection::Proxy("203.0.114.1"),
        ),
        (
            Connection::Both("198.51.102.1"),
            Connection::Both("203.0.115.1"),
        ),
    ] {
        assert_eq!(status(connection, &wrong("a")), 401, "{connection:?}");
        assert_eq!(status(connection, &wrong("b")), 429, "{connection:?}");
        assert_eq!(status(neighbour, &TestRequest::alice("GET", "/v2/")), 200);
    }
}

#[test]
fn catalog_requests_of_a_network_have_a_limit_of_their_own() {
    let barrier = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&barrier);
    let registry = Registry::start(move |exchange| {
        let closed = held.0.lock().unwrap();
        let opened = held.1.wait_timeout_while(closed, PATIENCE, |open| !*open);
        drop(opened.unwrap());
        let body = "{\"repositories\":[\"lan/a\"]}";
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    });
    let proxy = office(&registry, "");
    let list = TestRequest::new("GET", "/v2/_catalog");
    let mut waiting = Vec::new();
    // Eight is the limit of a client network with users; the limit of anonymous clients is half of it.
    for number in 1..=8 {
        let mut client = Client::connect_from(Ipv4Addr::LOCALHOST, &proxy);
        client.send(list.head());
        registry.wait_for_requests(|seen| seen.len() == number);
        waiting.push(client);
    }
    exchange(&proxy, HttpVersion::Http1, &list).assert_rejection(503, "UNAVAILABLE");
    *barrier.0.lock().unwrap() = true;
    barrier.1.notify_all();
    for mut client in waiting {
        assert_eq!(catalog(&client.read_response("GET")), ["lan/a"]);
    }
}

/// A registry that uses the origin in the request's `X-Origin` in every response field that the proxy rewrites.
fn registry_with_origin() -> Registry {
    Registry::start(|exchange| {
        exchange.body();
        let origin = exchange.head.all("x-origin").concat();
        exchange.send(format!(
            "HTTP/1.1 401 Unauthorized\r\nLocation: {origin}/v2/x?_state=a%2B\r\n\
             Www-Authenticate: Bearer realm=\"{origin}/service/token\",service=\"harbor-registry\"\r\n\
             Link: <{origin}/v2/y>; rel=\"next\"\r\nContent-Length: 0\r\n\r\n"
        ));
    })
}

/// A proxy in mode "upstream" with two endpoints. `site` has additional keys of the site.
fn proxy_with_endpoints(urls: &[String], site: &str) -> Proxy {
    let ca = if urls[0].starts_with("https:") {
        ", ca = \"ca.pem\""
    } else {
        ""
    };
    let upstream = format!("{{ urls = {urls:?}{ca} }}");
    let keys = "auth = { mode = \"upstream\" }\ninternal_origins = [\"http://core:8080\"]";
    let text = config("", "")
        .lines("auth", keys)
        .set("upstream", &upstream)
        .after("hosts", site);
    let dir = directory();
    std::fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
    Proxy::start_in(dir, "", &text)
}

#[test]
fn internal_origins_are_rewritten_whichever_endpoint_responds() {
    let registries = [registry_with_origin(), registry_with_origin()];
    let certificate = AUTHORITY.issue(&["localhost"]);
    let fronts = registries
        .each_ref()
        .map(|registry| TlsFront::start(registry, &certificate));
    let plain = registries.each_ref().map(Registry::url);
    let secure = fronts.map(|front| (format!("https://localhost:{}", front.port()), front));
    let secured = secure.each_ref().map(|(url, _)| url.clone());
    let foreign = "https://sso.example";
    let external = "external_url = \"https://pub.example:444\"";
    for (urls, site, outer) in [
        (&plain, "", "https://localhost:8443"),
        (&plain, external, "https://pub.example:444"),
        (&secured, "", "https://localhost:8443"),
        (&secured, external, "https://pub.example:444"),
    ] {
        let proxy = proxy_with_endpoints(urls, site);
        let further = [
            "http://core:8080",
            "http://localhost:5080",
            "https://localhost:8443",
            foreign,
        ];
        let before = registries
            .each_ref()
            .map(|registry| registry.requests().len());
        // An endpoint may use the origin of the other endpoint.
        for origin in urls.iter().map(String::as_str).chain(further) {
            let expected = if origin == foreign { foreign } else { outer };
            // Several requests, so that both endpoints get some.
            for http in [HttpVersion::BOTH; 6].concat() {
                let request = TestRequest::new("GET", "/v2/").host("localhost:8443");
                let response = exchange(&proxy, http, &request.header("x-origin", origin));
                let realm = format!(
                    "Bearer realm=\"{expected}/service/token\",service=\"harbor-registry\""
                );
                assert_eq!(response.header("www-authenticate"), realm, "{origin}");
                let location = format!("{expected}/v2/x?_state=a%2B");
                assert_eq!(response.header("location"), location, "{origin}");
                let link = format!("<{expected}/v2/y>; rel=\"next\"");
                assert_eq!(response.header("link"), link, "{origin}");
            }
        }
        for (registry, before) in registries.iter().zip(before) {
            let count = registry.requests().len() - before;
            assert!(count > 10, "one endpoint got {count} requests");
        }
    }
}

/// A proxy with three sites on one port: two require client certificates, one in mode "upstream" (as for Harbor) and one in mode
/// "token"; the third site requires none.
struct Sites {
    registry: Registry,
    proxy: Proxy,
    client_ca: Authority,
}

const UI: &str = "https://ui.example";

impl Sites {
    fn start() -> Self {
        let registry = Registry::start(|exchange| {
            exchange.body();
            let host = exchange.head.header("host").to_owned();
            let is_anonymous = exchange.head.all("authorization").is_empty();
            let status = if is_anonymous {
                "401 Unauthorized"
            } else {
                "202 Accepted"
            };
            exchange.send(format!(
                "HTTP/1.1 {status}\r\nLocation: http://{host}/v2/x\r\nSet-Cookie: sid=1; Path=/\r\n\
                 Www-Authenticate: Bearer realm=\"http://{host}/service/token\",service=\"harbor-registry\"\r\n\
                 Content-Length: 0\r\n\r\n"
            ));
        });
        let client_ca = Authority::another();
        let dir = directory();
        let hosts = ["localhost", "token.test", "open.test"];
        let (certificate, key) = AUTHORITY.issue(&hosts);
        std::fs::write(dir.path().join("cert.pem"), certificate).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        std::fs::write(dir.path().join("ours.pem"), client_ca.pem()).unwrap();
        let site = |host: &str, keys: &str, path: &str, auth: &str| {
            format!(
                "[[site]]\nhosts = [\"{host}\"]\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n{keys}\n\
                 [[site.route]]\npath = \"{path}\"\nupstream = \"{{upstream}}\"\n{auth}\ncors = [\"{UI}\"]\n"
            )
        };
        let required = "client_ca = \"ours.pem\"";
        let text = [
            "[log]\naccess_file = \"access.log\"\n[state]\ndir = \"{dir}/state\"\n[listen]\n\
             https = [\"127.0.0.1:0\"]\nworkers = 1\nproxy_protocol = [\"127.0.0.2\"]\n",
            &site("localhost", required, "/", "auth = { mode = \"upstream\" }"),
            &site("token.test", required, "/v2/", TOKEN),
            &site("open.test", "", "/v2/", BASIC),
        ]
        .concat();
        let proxy = Proxy::start_in(dir, &registry.url(), &text);
        Self {
            registry,
            proxy,
            client_ca,
        }
    }

    /// Sends a request over a connection with a client certificate. If `client` is given, a balancer connects and names it in a
    /// PROXY header.
    fn exchange(
        &self,
        http: HttpVersion,
        request: &TestRequest,
        client: Option<&str>,
    ) -> TestResponse {
        let source = if client.is_some() { 2 } else { 1 };
        let mut socket = connect_tcp_from(Ipv4Addr::new(127, 0, 0, source), self.proxy.https());
        if let Some(client) = client {
            socket.write_all(proxy_header(client).as_bytes()).unwrap();
        }
        let config = |alpn: &str| {
            certs::client_config_with_certificate(
                self.client_ca.issue_client_pair("robot"),
                rustls::ALL_VERSIONS,
                alpn,
            )
        };
        exchange_over(socket, http, request, config)
    }

    /// Sends a request over a connection with the SNI of the third site, without a client certificate.
    fn exchange_without_certificate(
        &self,
        http: HttpVersion,
        request: &TestRequest,
    ) -> TestResponse {
        match http {
            HttpVersion::Http1 => {
                let config = certs::default_client_config("http/1.1");
                Client::tls(self.proxy.https(), "open.test", config).exchange(request)
            }
            HttpVersion::Http2 => block_on(async {
                let config = certs::default_client_config("h2");
                let mut client = H2Client::connect_as(&self.proxy, "open.test", config).await;
                client.exchange(request).await
            }),
        }
    }
}

#[test]
fn logins_of_harbor_work_behind_client_certificates() {
    let sites = Sites::start();
    for http in HttpVersion::BOTH {
        for (client, forwarded_for) in [(None, "127.0.0.1"), (Some("192.0.2.7"), "192.0.2.7")] {
            let ping = TestRequest::new("GET", "/v2/").host("localhost:8443");
            let challenged = sites.exchange(http, &ping, client);
            let realm =
                "Bearer realm=\"https://localhost:8443/service/token\",service=\"harbor-registry\"";
            assert_eq!(challenged.header("www-authenticate"), realm);
            assert_eq!(challenged.header("set-cookie"), "sid=1; Path=/; Secure");
            let push = TestRequest::new("POST", "/v2/a/blobs/uploads/")
                .host("localhost:8443")
                .header("authorization", "Bearer ey.J.x")
                .header("x-forwarded-for", "6.6.6.6");
            let response = sites.exchange(http, &push, client);
            assert_eq!(response.status, 202);
            assert_eq!(response.header("location"), "https://localhost:8443/v2/x");
            let seen = sites.registry.requests().pop().unwrap();
            assert_eq!(seen.header("authorization"), "Bearer ey.J.x");
            assert_eq!(seen.header("x-forwarded-for"), forwarded_for);
            assert_eq!(seen.header("host"), "localhost:8443");
        }
        // A connection for which the proxy requested no client certificate may not be used for a site that requires one.
        let before = sites.registry.requests().len();
        for host in ["localhost:8443", "token.test"] {
            let request = TestRequest::alice("GET", "/v2/").host(host);
            sites
                .exchange_without_certificate(http, &request)
                .assert_rejection(421, "UNSUPPORTED");
        }
        assert_eq!(sites.registry.requests().len(), before);
    }
    // Without a client certificate the TLS connection fails.
    let name = "localhost".try_into().unwrap();
    let tls = ClientConnection::new(certs::default_client_config("http/1.1"), name).unwrap();
    if let Ok(mut client) = Client::start_tls(tls, connect_tcp(sites.proxy.https())) {
        let _ = client.try_send(TestRequest::new("GET", "/v2/").head());
        assert!(
            client.try_read_response("GET").is_err(),
            "served without a client certificate"
        );
    }
    let log = sites.proxy.stop_and_read_access_log();
    let with_certificate = log
        .lines()
        .filter(|line| line.contains("certificate=\"CN=robot\""));
    assert_eq!(with_certificate.count(), 8, "{log}");
    assert_eq!(
        log.matches("client=192.0.2.7 peer=127.0.0.2").count(),
        4,
        "{log}"
    );
}

#[test]
fn a_preflight_requires_the_client_certificate_and_no_password() {
    let sites = Sites::start();
    let preflight = |host: &str, target: &str| {
        TestRequest::new("OPTIONS", target)
            .host(host)
            .header("origin", UI)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization")
    };
    for http in HttpVersion::BOTH {
        for (host, target) in [
            ("localhost", "/v2/_catalog"),
            ("localhost", "/api/v2.0/projects"),
            ("token.test", "/v2/a/manifests/x"),
            // A web page sends a preflight before the token request as well.
            ("token.test", "/v2/_token"),
        ] {
            let request = preflight(host, target);
            let allowed = sites.exchange(http, &request, None);
            assert_eq!(allowed.status, 204, "{host}{target} {}", allowed.text());
            assert_eq!(allowed.header("access-control-allow-origin"), UI);
            // On a connection without a client certificate the preflight gets 421.
            let elsewhere = sites.exchange_without_certificate(http, &request);
            assert_eq!(elsewhere.status, 421);
            assert!(!elsewhere.has_header("access-control-allow-origin"));
        }
        let open = sites.exchange_without_certificate(http, &preflight("open.test", "/v2/"));
        assert_eq!(open.status, 204);
        let token_request = TestRequest::alice("GET", "/v2/_token?scope=repository:a:pull");
        let token_request = token_request.host("token.test").header("origin", UI);
        let issued = sites.exchange(http, &token_request, None);
        assert_eq!(issued.header("access-control-allow-origin"), UI);
        let pull = TestRequest::new("GET", "/v2/a/manifests/x")
            .host("token.test")
            .header("origin", UI)
            .header("authorization", token(&issued));
        let pulled = sites.exchange(http, &pull, None);
        assert_eq!(
            pulled.status, 401,
            "the registry requires a login of its own"
        );
        assert_eq!(pulled.header("access-control-allow-origin"), UI);
    }
    let seen = sites.registry.requests();
    assert!(seen.iter().all(|seen| seen.method != "OPTIONS"));
}
