//! Client certificates: a condition of a site beside its passwords, whatever way a client takes to get around it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::support::certs::{self, AUTHORITY, Authority};
use crate::support::h2::{H2Client, block_on};
use crate::support::proxy::directory;
use crate::support::{Client, Proxy, Registry, TestRequest};

type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// Keys of a site.
const OPEN: &str = "";
const OURS: &str = "client_ca = \"ours.pem\"";
const THEIRS: &str = "client_ca = \"theirs.pem\"\nclient_auth = \"required\"";
const MAYBE: &str = "client_ca = \"ours.pem\"\nclient_auth = \"optional\"";

/// Two CAs of clients, and a gate with any sites.
struct World {
    registry: Registry,
    ours: Authority,
    theirs: Authority,
}

impl World {
    fn new() -> Self {
        Self {
            registry: Registry::accepting_all(),
            ours: Authority::another(),
            theirs: Authority::another(),
        }
    }

    fn gate(&self, sites: &[(&str, &str)]) -> Proxy {
        let dir = directory();
        let names: Vec<_> = sites.iter().map(|(name, _)| *name).collect();
        // One certificate for all names: what HTTP/2 clients need for one connection to several sites.
        let names = [&names[..], &["unknown.test", "127.0.0.1"]].concat();
        let (certificate, key) = AUTHORITY.issue(&names);
        std::fs::write(dir.path().join("cert.pem"), certificate).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        std::fs::write(dir.path().join("ours.pem"), self.ours.pem()).unwrap();
        std::fs::write(dir.path().join("theirs.pem"), self.theirs.pem()).unwrap();
        Proxy::start_in(dir, &self.registry.url(), config(sites))
    }

    fn mine(&self) -> Identity {
        self.ours.issue_client_pair("CI robot")
    }
}

fn config(sites: &[(&str, &str)]) -> String {
    let site = |(name, keys): &(&str, &str)| {
        format!(
            "[[site]]\nhosts = [\"{name}\"]\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n{keys}\n\
             [[site.route]]\npath = \"/v2/\"\nupstream = \"{{upstream}}\"\n\
             auth = {{ mode = \"basic\", htpasswd = \"htpasswd\", realm = \"{name}\" }}\n"
        )
    };
    let sites: String = sites.iter().map(site).collect();
    format!(
        "[log]\naccess_file = \"access.log\"\n[listen]\nhttps = [\"127.0.0.1:0\"]\nworkers = 1\n{sites}"
    )
}

fn showing(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let identity = (identity.0.clone(), identity.1.clone_key());
    certs::client_config_with_certificate(identity, versions, "http/1.1")
}

/// The status over a new connection; nothing when there is none.
fn status(at: SocketAddr, name: &str, config: Arc<ClientConfig>, ask: &TestRequest) -> Option<u16> {
    let mut client = Client::try_tls(at, name, config).ok()?;
    client.try_send(ask.head()).ok()?;
    Some(client.try_read_response(&ask.method).ok()?.status)
}

#[test]
fn without_a_good_certificate_there_is_no_connection() {
    let ask = TestRequest::alice("GET", "/v2/").host("a.test");
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let world = World::new();
        let gate = world.gate(&[("a.test", OURS)]);
        let bare = certs::client_config(certs::root_certificate(), versions, &["http/1.1"]);
        assert_eq!(status(gate.https(), "a.test", bare, &ask), None);
        let foreign = showing(&world.theirs.issue_client_pair("CI robot"), versions);
        assert_eq!(status(gate.https(), "a.test", foreign, &ask), None);
        assert!(world.registry.requests().is_empty());
        let good = showing(&world.mine(), versions);
        assert_eq!(status(gate.https(), "a.test", good, &ask), Some(200));
        assert_eq!(world.registry.only_request().header("host"), "a.test");
        // It stands beside the password, not for it.
        let good = showing(&world.mine(), versions);
        let nobody = TestRequest::new("GET", "/v2/").host("a.test");
        assert_eq!(status(gate.https(), "a.test", good, &nobody), Some(401));
    }
}

#[test]
fn an_optional_one_must_be_good_when_it_comes() {
    let world = World::new();
    let gate = world.gate(&[("a.test", MAYBE)]);
    let ask = TestRequest::alice("GET", "/v2/").host("a.test");
    let usual = || certs::default_client_config("http/1.1");
    assert_eq!(status(gate.https(), "a.test", usual(), &ask), Some(200));
    let good = showing(&world.mine(), &[&TLS13]);
    assert_eq!(status(gate.https(), "a.test", good, &ask), Some(200));
    let foreign = showing(&world.theirs.issue_client_pair("x"), &[&TLS13]);
    assert_eq!(status(gate.https(), "a.test", foreign, &ask), None);
    let log = gate.stop_and_read_access_log();
    assert_eq!(
        log.matches("certificate=\"CN=CI robot\"").count(),
        1,
        "{log}"
    );
    assert_eq!(log.lines().count(), 2, "{log}");
}

#[test]
fn a_subject_cannot_forge_a_log_line() {
    let world = World::new();
    let gate = world.gate(&[("a.test", OURS)]);
    let name = "x\" status=200\r\n2026 access user=root \u{1b}[2J\u{9b}\u{202e}";
    let evil = showing(&world.ours.issue_client_pair(name), &[&TLS13]);
    let ask = TestRequest::alice("GET", "/v2/").host("a.test");
    assert_eq!(status(gate.https(), "a.test", evil, &ask), Some(200));
    let log = gate.stop_and_read_access_log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.trim_end()
            .chars()
            .all(|one| one == ' ' || one.is_ascii_graphic()),
        "{log}"
    );
    assert!(
        log.contains("certificate=\"CN=x\\\" status=200\\r\\n2026 access user=root \\u001b[2J\\u009b\\u202e\""),
        "{log}"
    );
}

#[test]
fn a_connection_serves_the_sites_of_its_trust_domain() {
    let world = World::new();
    let sites = [
        ("open.test", OPEN),
        ("ours.test", OURS),
        (
            "also-ours.test",
            "client_ca = \"./ours.pem\"\nclient_auth = \"required\"",
        ),
        ("theirs.test", THEIRS),
        ("maybe.test", MAYBE),
        ("open-too.test", OPEN),
    ];
    // By site: which may share a connection.
    let domain = [0, 1, 1, 2, 3, 0];
    let gate = world.gate(&sites);
    for (from, (name, _)) in sites.iter().enumerate() {
        let identity = if *name == "theirs.test" {
            world.theirs.issue_client_pair("x")
        } else {
            world.mine()
        };
        for (to, (host, _)) in sites.iter().enumerate() {
            let ask = TestRequest::alice("GET", "/v2/").host(host);
            let mut client = Client::tls(gate.https(), name, showing(&identity, &[&TLS13]));
            let answer = client.exchange(&ask);
            if domain[from] == domain[to] {
                assert_eq!(answer.status, 200, "{host} over {name}");
                continue;
            }
            answer.assert_rejection(421, "UNSUPPORTED");
            assert!(
                answer.text().contains("client certificates"),
                "{}",
                answer.text()
            );
            assert!(!answer.has_header("www-authenticate"), "{host} over {name}");
            // The next request of such a client comes on a new connection.
            assert_eq!(answer.header("connection"), "close");
            assert!(client.read_to_end().0.is_empty());
            // Nor by a target that names the other site.
            let mut client = Client::tls(gate.https(), name, showing(&identity, &[&TLS13]));
            let absolute = TestRequest::alice("GET", &format!("https://{host}/v2/"));
            assert_eq!(client.exchange(&absolute.clone().host(host)).status, 421);
            let mut client = Client::tls(gate.https(), name, showing(&identity, &[&TLS13]));
            assert_eq!(client.exchange(&absolute.host(name)).status, 421);
        }
    }
    let served = world.registry.requests().len();
    assert_eq!(served, 2 * 2 + 2 * 2 + 1 + 1);
}

#[test]
fn http2_connections_are_shared_within_a_trust_domain() {
    let world = World::new();
    let gate = world.gate(&[
        ("open.test", OPEN),
        ("ours.test", OURS),
        ("open-too.test", OPEN),
        ("also.test", OURS),
    ]);
    let ask = |host: &str| TestRequest::alice("GET", "/v2/").host(host);
    block_on(async {
        let mut open =
            H2Client::connect_as(&gate, "open.test", certs::default_client_config("h2")).await;
        let config =
            certs::client_config_with_certificate(world.mine(), rustls::ALL_VERSIONS, "h2");
        let mut ours = H2Client::connect_as(&gate, "ours.test", config).await;
        for _ in 0..2 {
            for host in ["open.test", "open-too.test"] {
                assert_eq!(open.exchange(&ask(host)).await.status, 200);
                ours.exchange(&ask(host))
                    .await
                    .assert_rejection(421, "UNSUPPORTED");
            }
            for host in ["ours.test", "also.test"] {
                open.exchange(&ask(host))
                    .await
                    .assert_rejection(421, "UNSUPPORTED");
                assert_eq!(ours.exchange(&ask(host)).await.status, 200);
            }
        }
    });
}

#[test]
fn without_certificates_anywhere_every_connection_serves_every_site() {
    let world = World::new();
    let gate = world.gate(&[("a.test", OPEN), ("b.test", OPEN)]);
    for name in ["a.test", "b.test", "unknown.test", "127.0.0.1"] {
        for host in ["a.test", "b.test"] {
            let ask = TestRequest::alice("GET", "/v2/").host(host);
            let usual = certs::default_client_config("http/1.1");
            assert_eq!(status(gate.https(), name, usual, &ask), Some(200));
        }
    }
}

#[test]
fn no_name_or_an_unknown_one_is_no_way_around() {
    for sites in [
        [("open.test", OPEN), ("ours.test", OURS)],
        [("ours.test", OURS), ("open.test", OPEN)],
        [("ours.test", OURS), ("*", OPEN)],
    ] {
        let world = World::new();
        let gate = world.gate(&sites);
        for name in ["127.0.0.1", "unknown.test"] {
            let ask = TestRequest::alice("GET", "/v2/").host("ours.test");
            let bare = certs::default_client_config("http/1.1");
            let got = status(gate.https(), name, bare, &ask);
            assert!(
                matches!(got, None | Some(421)),
                "{got:?} for {name} at {sites:?}"
            );
        }
        assert!(world.registry.requests().is_empty());
        let good = showing(&world.mine(), &[&TLS13]);
        let ask = TestRequest::alice("GET", "/v2/").host("ours.test");
        let first = status(gate.https(), "127.0.0.1", good, &ask);
        // Without a name it is the first site that asks.
        let expected = if sites[0].0 == "ours.test" { 200 } else { 421 };
        assert_eq!(first, Some(expected), "{sites:?}");
    }
}

#[test]
fn a_session_of_one_site_is_worth_nothing_at_another() {
    let world = World::new();
    let gate = world.gate(&[("open.test", OPEN), ("ours.test", OURS)]);
    for versions in [&[&TLS13][..], &[&TLS12]] {
        // A client that has been at the open site, and resumes there.
        let config = certs::client_config(certs::root_certificate(), versions, &["http/1.1"]);
        let open = TestRequest::alice("GET", "/v2/").host("open.test");
        for _ in 0..2 {
            assert_eq!(
                status(gate.https(), "open.test", config.clone(), &open),
                Some(200)
            );
        }
        let ours = TestRequest::alice("GET", "/v2/").host("ours.test");
        assert_eq!(
            status(gate.https(), "open.test", config.clone(), &ours),
            Some(421)
        );
        assert_eq!(status(gate.https(), "ours.test", config, &ours), None);
    }
}

#[test]
fn a_reload_that_changes_the_ca_counts_for_open_connections() {
    let world = World::new();
    let gate = world.gate(&[("a.test", OURS)]);
    let ask = TestRequest::alice("GET", "/v2/").host("a.test");
    let resuming = showing(&world.mine(), &[&TLS13]);
    let connect = || Client::tls(gate.https(), "a.test", resuming.clone());
    let both = format!("{}{}", world.theirs.pem(), world.ours.pem());
    let mut kept = connect();
    assert_eq!(kept.exchange(&ask).status, 200);
    // One more CA takes nothing from anybody.
    gate.write("ours.pem", both);
    gate.reload().unwrap();
    assert_eq!(kept.exchange(&ask).status, 200);
    let mut idle = connect();
    assert_eq!(idle.exchange(&ask).status, 200);
    // Without the old one, whom it vouched for is out, on old connections and with old tickets.
    gate.write("ours.pem", world.theirs.pem());
    gate.reload().unwrap();
    for client in [&mut kept, &mut idle] {
        let answer = client.exchange(&ask);
        answer.assert_rejection(421, "UNSUPPORTED");
        assert_eq!(answer.header("connection"), "close");
    }
    assert_eq!(status(gate.https(), "a.test", resuming.clone(), &ask), None);
    let theirs = showing(&world.theirs.issue_client_pair("x"), &[&TLS13]);
    assert_eq!(status(gate.https(), "a.test", theirs, &ask), Some(200));
}

#[test]
fn a_reload_that_asks_for_certificates_ends_connections_without_one() {
    let world = World::new();
    let gate = world.gate(&[("a.test", OPEN)]);
    let ask = TestRequest::alice("GET", "/v2/").host("a.test");
    let mut one = Client::tls(
        gate.https(),
        "a.test",
        certs::default_client_config("http/1.1"),
    );
    assert_eq!(one.exchange(&ask).status, 200);
    block_on(async {
        let mut two =
            H2Client::connect_as(&gate, "a.test", certs::default_client_config("h2")).await;
        assert_eq!(two.exchange(&ask).await.status, 200);
        gate.configure(&world.registry, config(&[("a.test", OURS)]));
        gate.reload().unwrap();
        two.exchange(&ask)
            .await
            .assert_rejection(421, "UNSUPPORTED");
        // And back: what was asked for is asked for no more.
        gate.configure(&world.registry, config(&[("a.test", OPEN)]));
        gate.reload().unwrap();
        assert_eq!(two.exchange(&ask).await.status, 200);
    });
    assert_eq!(one.exchange(&ask).status, 200);
}

#[test]
fn a_ca_that_cannot_be_used_is_a_refusal_to_start_and_to_reload() {
    let world = World::new();
    for (keys, said) in [
        ("client_ca = \"absent.pem\"", "absent.pem"),
        ("client_ca = \"key.pem\"", "no certificate in it"),
        (
            "client_auth = \"required\"",
            "client_auth without client_ca",
        ),
        (
            "client_ca = \"cert.pem\"\nclient_auth = \"requird\"",
            "did you mean \"required\"",
        ),
    ] {
        let text = config(&[("a.test", keys)]);
        let refused = Proxy::try_start(directory(), &world.registry.url(), &text);
        let problems = refused.err().expect("a refusal").to_string();
        assert!(problems.contains(said), "{problems}");
    }
    let gate = world.gate(&[("a.test", OURS)]);
    gate.write("ours.pem", "nothing");
    assert!(gate.reload().is_err());
    let ask = TestRequest::alice("GET", "/v2/").host("a.test");
    let good = showing(&world.mine(), &[&TLS13]);
    assert_eq!(status(gate.https(), "a.test", good, &ask), Some(200));
}
