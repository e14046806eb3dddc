//! Features that meet in one request: networks and tokens, closed paths and lists, proxies in front and networks,
//! several endpoints and repaired addresses, client certificates and Harbor. Each over HTTP/1 and HTTP/2.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use rustls::{ClientConfig, ClientConnection};
use serde_json::{Value, json};

use crate::support::certs::{self, AUTHORITY, Authority};
use crate::support::client::{connect_tcp, connect_tcp_from};
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

/// Who is believed about clients.
const BALANCED: &str = "proxy_protocol = [\"127.0.0.2\"]\ntrusted_proxies = [\"127.0.0.3\"]";

/// `keys` are of the table listen.
fn listening(top: &str, keys: &str, route: &str) -> TestConfig {
    config(top, route).after("workers", keys)
}

/// How a client comes: over whose connection, and what is said about it there.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Itself, from this address of this machine.
    Direct(u8),
    /// Over a balancer that begins with a PROXY header.
    Balancer(&'static str),
    /// Over a proxy that is trusted, which says this in `X-Forwarded-For`.
    Proxy(&'static str),
    /// Over both: the balancer names the trusted proxy.
    Both(&'static str),
    /// The same words, of somebody who is not trusted.
    Liar(&'static str),
}

impl Way {
    fn socket(self, proxy: &Proxy) -> TcpStream {
        let (source, client) = match self {
            Self::Direct(last) => (last, None),
            Self::Balancer(client) => (2, Some(client)),
            Self::Proxy(_) => (3, None),
            Self::Both(_) => (2, Some("127.0.0.3")),
            Self::Liar(_) => (4, None),
        };
        let mut socket = connect_tcp_from(Ipv4Addr::new(127, 0, 0, source), proxy.https());
        if let Some(client) = client {
            let line = format!("PROXY TCP4 {client} 10.0.0.1 1 443\r\n");
            socket.write_all(line.as_bytes()).unwrap();
        }
        socket
    }

    fn ask(self, proxy: &Proxy, http: HttpVersion, request: &TestRequest) -> TestResponse {
        let request = match self {
            Self::Proxy(said) | Self::Both(said) | Self::Liar(said) => {
                request.clone().header("x-forwarded-for", said)
            }
            Self::Direct(_) | Self::Balancer(_) => request.clone(),
        };
        over(
            self.socket(proxy),
            http,
            &request,
            certs::default_client_config,
        )
    }
}

/// Asks over a connection that is there.
fn over(
    socket: TcpStream,
    http: HttpVersion,
    request: &TestRequest,
    config: impl Fn(&str) -> Arc<ClientConfig>,
) -> TestResponse {
    match http {
        HttpVersion::Http1 => {
            let name = "localhost".try_into().unwrap();
            let tls = ClientConnection::new(config("http/1.1"), name).unwrap();
            Client::of(tls, socket).unwrap().exchange(request)
        }
        HttpVersion::Http2 => block_on(async {
            H2Client::behind(socket, config("h2"))
                .await
                .exchange(request)
                .await
        }),
    }
}

/// Says what it has, all at once.
fn listing(names: &'static [&'static str]) -> Registry {
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
fn names(answer: &TestResponse) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    let names = said["repositories"].as_array().unwrap().iter();
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn token(answer: &TestResponse) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    format!("Bearer {}", said["token"].as_str().unwrap())
}

/// From the office every pull of `lan` is free; alice has `own` and, like anyone who has logged in, the list.
const OFFICE: &str = "allow = [\"192.0.2.0/24\", \"127.0.0.1\"]\nsatisfy = \"any\"\n\
    [[site.route.grant]]\nto = [\"@network\"]\nrepositories = [\"lan/**\"]\nactions = [\"pull\", \"catalog\"]\n\
    [[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"own/*\"]\nactions = [\"push\", \"catalog\"]\n";

fn office(registry: &Registry, more: &str) -> Proxy {
    let text = listening(STATE, BALANCED, &format!("{OFFICE}{more}")).lines("auth", TOKEN);
    Proxy::start(registry, &text)
}

/// Everyone who is in the office.
const INSIDE: [Way; 4] = [
    Way::Direct(1),
    Way::Balancer("192.0.2.7"),
    Way::Proxy("6.6.6.6, 192.0.2.7"),
    Way::Both("192.0.2.7"),
];
/// Everyone who is not, whatever is said about him.
const OUTSIDE: [Way; 6] = [
    Way::Direct(4),
    Way::Balancer("198.51.100.1"),
    Way::Proxy("192.0.2.7, 198.51.100.1"),
    Way::Proxy("192.0.2.7, unknown"),
    Way::Both("198.51.100.1"),
    Way::Liar("192.0.2.7"),
];

#[test]
fn a_list_for_a_network_holds_what_the_network_may_pull() {
    let registry = listing(&["lan/a", "lan/b/c", "other", "own/x"]);
    let proxy = office(&registry, "");
    let bare = TestRequest::new("GET", "/v2/_catalog");
    let alice = TestRequest::alice("GET", "/v2/_catalog");
    let service = TestRequest::new("GET", "/v2/_token?scope=registry:catalog:*");
    for http in HttpVersion::BOTH {
        let mut shown = None;
        for way in INSIDE {
            assert_eq!(names(&way.ask(&proxy, http, &bare)), ["lan/a", "lan/b/c"]);
            let both = way.ask(&proxy, http, &alice);
            assert_eq!(names(&both), ["lan/a", "lan/b/c", "own/x"], "{way:?}");
            let given = token(&way.ask(&proxy, http, &service));
            let with = bare.clone().header("authorization", &given);
            assert_eq!(names(&way.ask(&proxy, http, &with)), ["lan/a", "lan/b/c"]);
            shown = Some(with);
        }
        for way in OUTSIDE {
            way.ask(&proxy, http, &bare)
                .assert_rejection(401, "UNAUTHORIZED");
            assert_eq!(names(&way.ask(&proxy, http, &alice)), ["own/x"], "{way:?}");
            // What the office was given is worth nothing out here.
            way.ask(&proxy, http, shown.as_ref().unwrap())
                .assert_rejection(401, "UNAUTHORIZED");
        }
    }
}

#[test]
fn a_token_of_the_office_is_worth_what_its_place_is() {
    let registry = Registry::accepting_all();
    let proxy = office(&registry, "");
    let scope = "/v2/_token?scope=repository:lan/a:pull,push&scope=repository:own/x:pull,push";
    for http in HttpVersion::BOTH {
        for way in INSIDE {
            let bare = token(&way.ask(&proxy, http, &TestRequest::new("GET", scope)));
            let alice = token(&way.ask(&proxy, http, &TestRequest::alice("GET", scope)));
            let with = |token: &str, method: &str, target: &str| {
                TestRequest::new(method, target).header("authorization", token)
            };
            let status = |way: Way, request: &TestRequest| way.ask(&proxy, http, request).status;
            let (lan, own) = ("/v2/lan/a/manifests/x", "/v2/own/x/manifests/x");
            assert_eq!(status(way, &with(&bare, "GET", lan)), 200, "{way:?}");
            assert_eq!(status(way, &with(&bare, "PUT", lan)), 401);
            assert_eq!(status(way, &with(&bare, "GET", own)), 401);
            assert_eq!(status(way, &with(&alice, "GET", lan)), 200);
            assert_eq!(status(way, &with(&alice, "PUT", lan)), 403);
            assert_eq!(status(way, &with(&alice, "PUT", own)), 200);
            for outside in OUTSIDE {
                assert_eq!(status(outside, &with(&bare, "GET", lan)), 401);
                assert_eq!(status(outside, &with(&alice, "GET", lan)), 403);
                assert_eq!(status(outside, &with(&alice, "GET", own)), 200);
            }
        }
    }
}

#[test]
fn what_is_closed_is_in_no_list_and_mounts_nowhere() {
    let registry = listing(&["closed", "closed/x", "closedly", "lan/a", "lan/closed/y"]);
    let shut = "[[site.route]]\npath = \"/v2/closed/\"\nrespond = 404\n\
                [[site.route]]\npath = \"/v2/lan/closed/\"\nrespond = 403\n";
    let everyone = Proxy::start(&registry, config("", shut));
    let office = office(&registry, shut);
    let list = |login: bool| match login {
        true => TestRequest::alice("GET", "/v2/_catalog"),
        false => TestRequest::new("GET", "/v2/_catalog"),
    };
    for http in HttpVersion::BOTH {
        let all = exchange(&everyone, http, &list(true));
        assert_eq!(names(&all), ["closedly", "lan/a"]);
        for way in INSIDE {
            assert_eq!(names(&way.ask(&office, http, &list(false))), ["lan/a"]);
            // Closed is closed, to the office and to alice too.
            for request in [TestRequest::new, TestRequest::alice] {
                let closed = request("GET", "/v2/lan/closed/y/tags/list");
                way.ask(&office, http, &closed)
                    .assert_rejection(403, "DENIED");
            }
        }
        for source in ["closed/x", "lan/closed/y"] {
            let target = format!("/v2/own/x/blobs/uploads/?mount={DIGEST}&from={source}");
            for (proxy, way) in [(&everyone, Way::Direct(1)), (&office, Way::Direct(1))] {
                let answer = way.ask(proxy, http, &TestRequest::alice("POST", &target));
                assert_eq!(answer.status, 200, "{}", answer.text());
                let sent = registry.requests().pop().unwrap();
                assert_eq!(sent.target, "/v2/own/x/blobs/uploads/");
            }
        }
    }
}

#[test]
fn networks_are_those_of_the_client_not_of_the_proxy() {
    let registry = Registry::accepting_all();
    let status =
        |proxy: &Proxy, http, way: Way, request: &TestRequest| way.ask(proxy, http, request).status;
    let (bare, alice) = (
        TestRequest::new("GET", "/v2/"),
        TestRequest::alice("GET", "/v2/"),
    );
    let gate = |keys: &str| Proxy::start(&registry, listening("", BALANCED, keys));
    let office = "\"192.0.2.0/24\", \"127.0.0.1\"";
    let both = gate(&format!("allow = [{office}]"));
    let any = gate(&format!("allow = [{office}]\nsatisfy = \"any\""));
    let denied = gate(&format!("deny = [{office}]"));
    // Where the proxies are is no reason to let anyone in.
    let proxies = gate("allow = [\"127.0.0.2\", \"127.0.0.3\"]");
    for http in HttpVersion::BOTH {
        for way in INSIDE {
            assert_eq!(status(&both, http, way, &bare), 401, "{way:?}");
            assert_eq!(status(&both, http, way, &alice), 200, "{way:?}");
            assert_eq!(status(&any, http, way, &bare), 200, "{way:?}");
            assert_eq!(status(&denied, http, way, &alice), 403, "{way:?}");
            assert_eq!(status(&proxies, http, way, &alice), 403, "{way:?}");
        }
        for way in OUTSIDE {
            // A proxy that does not know whom it speaks for is all that is known.
            let is_the_proxy = matches!(way, Way::Proxy("192.0.2.7, unknown"));
            assert_eq!(status(&both, http, way, &alice), 403, "{way:?}");
            assert_eq!(status(&any, http, way, &bare), 401, "{way:?}");
            assert_eq!(status(&any, http, way, &alice), 200, "{way:?}");
            assert_eq!(status(&denied, http, way, &alice), 200, "{way:?}");
            let expected = if is_the_proxy { 200 } else { 403 };
            assert_eq!(status(&proxies, http, way, &alice), expected, "{way:?}");
        }
    }
}

#[test]
fn guesses_take_nothing_from_a_network_that_is_enough() {
    let registry = Registry::accepting_all();
    let route = "allow = [\"192.0.2.0/24\"]\nsatisfy = \"any\"";
    let text = listening("[throttle]\nguesses = 1\n", BALANCED, route);
    let proxy = Proxy::start(&registry, &text);
    let wrong =
        |word: &str| TestRequest::new("GET", "/v2/").basic_auth(format!("alice:{word}").as_bytes());
    let status =
        |way: Way, request: &TestRequest| way.ask(&proxy, HttpVersion::Http2, request).status;
    for way in [Way::Balancer("192.0.2.7"), Way::Proxy("192.0.2.8")] {
        for word in ["a", "b", "c"] {
            assert_eq!(status(way, &wrong(word)), 200, "{way:?} {word}");
        }
        assert_eq!(status(way, &TestRequest::new("GET", "/v2/")), 200);
    }
    for (way, neighbour) in [
        (Way::Balancer("198.51.100.1"), Way::Balancer("203.0.113.1")),
        (Way::Proxy("198.51.101.1"), Way::Proxy("203.0.114.1")),
        (Way::Both("198.51.102.1"), Way::Both("203.0.115.1")),
    ] {
        assert_eq!(status(way, &wrong("a")), 401, "{way:?}");
        assert_eq!(status(way, &wrong("b")), 429, "{way:?}");
        assert_eq!(status(neighbour, &TestRequest::alice("GET", "/v2/")), 200);
    }
}

#[test]
fn lists_for_the_office_take_no_room_from_strangers() {
    let door = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&door);
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
    // As many as one network of users has; strangers have half of it.
    for number in 1..=8 {
        let mut client = Client::connect_from(Ipv4Addr::LOCALHOST, &proxy);
        client.send(list.head());
        registry.wait_for_requests(|seen| seen.len() == number);
        waiting.push(client);
    }
    exchange(&proxy, HttpVersion::Http1, &list).assert_rejection(503, "UNAVAILABLE");
    *door.0.lock().unwrap() = true;
    door.1.notify_all();
    for mut client in waiting {
        assert_eq!(names(&client.read_response("GET")), ["lan/a"]);
    }
}

/// Calls itself what the request says, in everything that the gate repairs.
fn talking() -> Registry {
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

/// A gate before both, in mode "upstream"; `site` are keys of it.
fn before_both(urls: &[String], site: &str) -> Proxy {
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
fn whichever_endpoint_answers_no_inner_name_comes_out() {
    let registries = [talking(), talking()];
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
        let proxy = before_both(urls, site);
        let further = [
            "http://core:8080",
            "http://localhost:5080",
            "https://localhost:8443",
            foreign,
        ];
        let before = registries
            .each_ref()
            .map(|registry| registry.requests().len());
        // Each may call itself what the other one is called.
        for said in urls.iter().map(String::as_str).chain(further) {
            let expected = if said == foreign { foreign } else { outer };
            // Often enough to meet both of them.
            for http in [HttpVersion::BOTH; 6].concat() {
                let request = TestRequest::new("GET", "/v2/").host("localhost:8443");
                let answer = exchange(&proxy, http, &request.header("x-origin", said));
                let realm = format!(
                    "Bearer realm=\"{expected}/service/token\",service=\"harbor-registry\""
                );
                assert_eq!(answer.header("www-authenticate"), realm, "{said}");
                let location = format!("{expected}/v2/x?_state=a%2B");
                assert_eq!(answer.header("location"), location, "{said}");
                let link = format!("<{expected}/v2/y>; rel=\"next\"");
                assert_eq!(answer.header("link"), link, "{said}");
            }
        }
        for (registry, before) in registries.iter().zip(before) {
            let asked = registry.requests().len() - before;
            assert!(asked > 10, "one of them was asked {asked} times");
        }
    }
}

/// Three sites on one port: Harbor and a registry behind client certificates, and a registry without.
struct Guarded {
    registry: Registry,
    proxy: Proxy,
    ours: Authority,
}

const UI: &str = "https://ui.example";

impl Guarded {
    fn start() -> Self {
        let registry = Registry::start(|exchange| {
            exchange.body();
            let host = exchange.head.header("host").to_owned();
            let login = exchange.head.all("authorization").is_empty();
            let status = if login {
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
        let ours = Authority::another();
        let dir = directory();
        let hosts = ["localhost", "token.test", "open.test"];
        let (certificate, key) = AUTHORITY.issue(&hosts);
        std::fs::write(dir.path().join("cert.pem"), certificate).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        std::fs::write(dir.path().join("ours.pem"), ours.pem()).unwrap();
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
            ours,
        }
    }

    /// Over a connection with our certificate, which is the balancer's when it names someone.
    fn ask(&self, http: HttpVersion, request: &TestRequest, client: Option<&str>) -> TestResponse {
        let source = if client.is_some() { 2 } else { 1 };
        let mut socket = connect_tcp_from(Ipv4Addr::new(127, 0, 0, source), self.proxy.https());
        if let Some(client) = client {
            let line = format!("PROXY TCP4 {client} 10.0.0.1 1 443\r\n");
            socket.write_all(line.as_bytes()).unwrap();
        }
        let config = |alpn: &str| {
            certs::client_config_with_certificate(
                self.ours.issue_client_pair("robot"),
                rustls::ALL_VERSIONS,
                alpn,
            )
        };
        over(socket, http, request, config)
    }

    /// Over a connection to the open site, without a certificate.
    fn ask_bare(&self, http: HttpVersion, request: &TestRequest) -> TestResponse {
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
fn harbor_behind_client_certificates_keeps_its_own_logins() {
    let world = Guarded::start();
    for http in HttpVersion::BOTH {
        for (client, seen_as) in [(None, "127.0.0.1"), (Some("192.0.2.7"), "192.0.2.7")] {
            let ping = TestRequest::new("GET", "/v2/").host("localhost:8443");
            let asked = world.ask(http, &ping, client);
            let realm =
                "Bearer realm=\"https://localhost:8443/service/token\",service=\"harbor-registry\"";
            assert_eq!(asked.header("www-authenticate"), realm);
            assert_eq!(asked.header("set-cookie"), "sid=1; Path=/; Secure");
            let push = TestRequest::new("POST", "/v2/a/blobs/uploads/")
                .host("localhost:8443")
                .header("authorization", "Bearer ey.J.x")
                .header("x-forwarded-for", "6.6.6.6");
            let answer = world.ask(http, &push, client);
            assert_eq!(answer.status, 202);
            assert_eq!(answer.header("location"), "https://localhost:8443/v2/x");
            let seen = world.registry.requests().pop().unwrap();
            assert_eq!(seen.header("authorization"), "Bearer ey.J.x");
            assert_eq!(seen.header("x-forwarded-for"), seen_as);
            assert_eq!(seen.header("host"), "localhost:8443");
        }
        // On a connection for which no certificate was asked, it is another server.
        let before = world.registry.requests().len();
        for host in ["localhost:8443", "token.test"] {
            let request = TestRequest::alice("GET", "/v2/").host(host);
            world
                .ask_bare(http, &request)
                .assert_rejection(421, "UNSUPPORTED");
        }
        assert_eq!(world.registry.requests().len(), before);
    }
    // Without one there is no connection at all.
    let name = "localhost".try_into().unwrap();
    let bare = ClientConnection::new(certs::default_client_config("http/1.1"), name).unwrap();
    if let Ok(mut client) = Client::of(bare, connect_tcp(world.proxy.https())) {
        let _ = client.try_send(TestRequest::new("GET", "/v2/").head());
        assert!(
            client.try_read_response("GET").is_err(),
            "served without one"
        );
    }
    let log = world.proxy.stop_and_read_access_log();
    let with = log
        .lines()
        .filter(|line| line.contains("certificate=\"CN=robot\""));
    assert_eq!(with.count(), 8, "{log}");
    assert_eq!(
        log.matches("client=192.0.2.7 peer=127.0.0.2").count(),
        4,
        "{log}"
    );
}

#[test]
fn a_preflight_needs_no_password_but_the_certificate() {
    let world = Guarded::start();
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
            // A page fetches its token, too.
            ("token.test", "/v2/_token"),
        ] {
            let request = preflight(host, target);
            let may = world.ask(http, &request, None);
            assert_eq!(may.status, 204, "{host}{target} {}", may.text());
            assert_eq!(may.header("access-control-allow-origin"), UI);
            // Someone else's connection is no way around, not even for that.
            let elsewhere = world.ask_bare(http, &request);
            assert_eq!(elsewhere.status, 421);
            assert!(!elsewhere.has_header("access-control-allow-origin"));
        }
        let open = world.ask_bare(http, &preflight("open.test", "/v2/"));
        assert_eq!(open.status, 204);
        let asked = TestRequest::alice("GET", "/v2/_token?scope=repository:a:pull");
        let given = world.ask(http, &asked.host("token.test").header("origin", UI), None);
        assert_eq!(given.header("access-control-allow-origin"), UI);
        let pull = TestRequest::new("GET", "/v2/a/manifests/x")
            .host("token.test")
            .header("origin", UI)
            .header("authorization", token(&given));
        let pulled = world.ask(http, &pull, None);
        assert_eq!(
            pulled.status, 401,
            "of the registry, which wants a login itself"
        );
        assert_eq!(pulled.header("access-control-allow-origin"), UI);
    }
    let seen = world.registry.requests();
    assert!(seen.iter().all(|seen| seen.method != "OPTIONS"));
}
