//! Client certificates: a site can require them in addition to passwords, and no connection reuse, server name or session
//! resumption gets around the requirement.

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

/// The keys of a site for each policy.
const NONE: &str = "";
const OUR_CA: &str = "client_ca = \"ours.pem\"";
const OTHER_CA: &str = "client_ca = \"theirs.pem\"\nclient_auth = \"required\"";
const OPTIONAL: &str = "client_ca = \"ours.pem\"\nclient_auth = \"optional\"";

/// A registry and two CAs for client certificates.
struct Fixture {
    registry: Registry,
    ours: Authority,
    theirs: Authority,
}

impl Fixture {
    fn new() -> Self {
        Self {
            registry: Registry::accepting_all(),
            ours: Authority::another(),
            theirs: Authority::another(),
        }
    }

    fn start_proxy(&self, sites: &[(&str, &str)]) -> Proxy {
        let dir = directory();
        let names: Vec<_> = sites.iter().map(|(name, _)| *name).collect();
        // One certificate covers all names, which HTTP/2 clients require before they use one connection for several sites.
        let names = [&names[..], &["unknown.test", "127.0.0.1"]].concat();
        let (certificate, key) = AUTHORITY.issue(&names);
        std::fs::write(dir.path().join("cert.pem"), certificate).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        std::fs::write(dir.path().join("ours.pem"), self.ours.pem()).unwrap();
        std::fs::write(dir.path().join("theirs.pem"), self.theirs.pem()).unwrap();
        Proxy::start_in(dir, &self.registry.url(), config(sites))
    }

    fn valid_identity(&self) -> Identity {
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

fn config_with_identity(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let identity = (identity.0.clone(), identity.1.clone_key());
    certs::client_config_with_certificate(identity, versions, "http/1.1")
}

/// Sends a request on a new connection and returns the status, or `None` if the handshake fails.
fn status(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
    request: &TestRequest,
) -> Option<u16> {
    let mut client = Client::try_tls(address, name, config).ok()?;
    client.try_send(request.head()).ok()?;
    Some(client.try_read_response(&request.method).ok()?.status)
}

#[test]
fn a_required_certificate_that_is_missing_or_foreign_fails_the_connection() {
    let request = TestRequest::alice("GET", "/v2/").host("a.test");
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let fixture = Fixture::new();
        let proxy = fixture.start_proxy(&[("a.test", OUR_CA)]);
        let without_certificate =
            certs::client_config(certs::root_certificate(), versions, &["http/1.1"]);
        assert_eq!(
            status(proxy.https(), "a.test", without_certificate, &request),
            None
        );
        let foreign = config_with_identity(&fixture.theirs.issue_client_pair("CI robot"), versions);
        assert_eq!(status(proxy.https(), "a.test", foreign, &request), None);
        assert!(fixture.registry.requests().is_empty());
        let valid = config_with_identity(&fixture.valid_identity(), versions);
        assert_eq!(status(proxy.https(), "a.test", valid, &request), Some(200));
        assert_eq!(fixture.registry.only_request().header("host"), "a.test");
        // The certificate does not replace the password.
        let valid = config_with_identity(&fixture.valid_identity(), versions);
        let without_password = TestRequest::new("GET", "/v2/").host("a.test");
        assert_eq!(
            status(proxy.https(), "a.test", valid, &without_password),
            Some(401)
        );
    }
}

#[test]
fn an_optional_certificate_must_be_valid_if_the_client_presents_one() {
    let fixture = Fixture::new();
    let proxy = fixture.start_proxy(&[("a.test", OPTIONAL)]);
    let request = TestRequest::alice("GET", "/v2/").host("a.test");
    let default_config = || certs::default_client_config("http/1.1");
    assert_eq!(
        status(proxy.https(), "a.test", default_config(), &request),
        Some(200)
    );
    let valid = config_with_identity(&fixture.valid_identity(), &[&TLS13]);
    assert_eq!(status(proxy.https(), "a.test", valid, &request), Some(200));
    let foreign = config_with_identity(&fixture.theirs.issue_client_pair("x"), &[&TLS13]);
    assert_eq!(status(proxy.https(), "a.test", foreign, &request), None);
    let log = proxy.stop_and_read_access_log();
    assert_eq!(
        log.matches("certificate=\"CN=CI robot\"").count(),
        1,
        "{log}"
    );
    assert_eq!(log.lines().count(), 2, "{log}");
}

#[test]
fn a_certificate_subject_cannot_forge_a_log_line() {
    let fixture = Fixture::new();
    let proxy = fixture.start_proxy(&[("a.test", OUR_CA)]);
    let name = "x\" status=200\r\n2026 access user=root \u{1b}[2J\u{9b}\u{202e}";
    let evil = config_with_identity(&fixture.ours.issue_client_pair(name), &[&TLS13]);
    let request = TestRequest::alice("GET", "/v2/").host("a.test");
    assert_eq!(status(proxy.https(), "a.test", evil, &request), Some(200));
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.trim_end()
            .chars()
            .all(|character| character == ' ' || character.is_ascii_graphic()),
        "{log}"
    );
    assert!(
        log.contains("certificate=\"CN=x\\\" status=200\\r\\n2026 access user=root \\u001b[2J\\u009b\\u202e\""),
        "{log}"
    );
}

#[test]
fn a_connection_serves_only_the_sites_with_its_client_certificate_policy() {
    let fixture = Fixture::new();
    let sites = [
        ("open.test", NONE),
        ("ours.test", OUR_CA),
        (
            "also-ours.test",
            "client_ca = \"./ours.pem\"\nclient_auth = \"required\"",
        ),
        ("theirs.test", OTHER_CA),
        ("maybe.test", OPTIONAL),
        ("open-too.test", NONE),
    ];
    // For each site, the group of sites that may share a connection.
    let group = [0, 1, 1, 2, 3, 0];
    let proxy = fixture.start_proxy(&sites);
    for (from, (name, _)) in sites.iter().enumerate() {
        let identity = if *name == "theirs.test" {
            fixture.theirs.issue_client_pair("x")
        } else {
            fixture.valid_identity()
        };
        for (to, (host, _)) in sites.iter().enumerate() {
            let request = TestRequest::alice("GET", "/v2/").host(host);
            let mut client = Client::tls(
                proxy.https(),
                name,
                config_with_identity(&identity, &[&TLS13]),
            );
            let response = client.exchange(&request);
            if group[from] == group[to] {
                assert_eq!(response.status, 200, "{host} over {name}");
                continue;
            }
            response.assert_rejection(421, "UNSUPPORTED");
            assert!(
                response.text().contains("client certificates"),
                "{}",
                response.text()
            );
            assert!(
                !response.has_header("www-authenticate"),
                "{host} over {name}"
            );
            // The proxy closes the connection, so that the client opens a new one for its next request.
            assert_eq!(response.header("connection"), "close");
            assert!(client.read_to_end().0.is_empty());
            // A target in absolute form that names the other site gets 421, too.
            let mut client = Client::tls(
                proxy.https(),
                name,
                config_with_identity(&identity, &[&TLS13]),
            );
            let absolute = TestRequest::alice("GET", &format!("https://{host}/v2/"));
            assert_eq!(client.exchange(&absolute.clone().host(host)).status, 421);
            let mut client = Client::tls(
                proxy.https(),
                name,
                config_with_identity(&identity, &[&TLS13]),
            );
            assert_eq!(client.exchange(&absolute.host(name)).status, 421);
        }
    }
    let served = fixture.registry.requests().len();
    assert_eq!(served, 2 * 2 + 2 * 2 + 1 + 1);
}

#[test]
fn an_http2_connection_serves_only_the_sites_with_its_client_certificate_policy() {
    let fixture = Fixture::new();
    let proxy = fixture.start_proxy(&[
        ("open.test", NONE),
        ("ours.test", OUR_CA),
        ("open-too.test", NONE),
        ("also.test", OUR_CA),
    ]);
    let request = |host: &str| TestRequest::alice("GET", "/v2/").host(host);
    block_on(async {
        let mut open =
            H2Client::connect_as(&proxy, "open.test", certs::default_client_config("h2")).await;
        let config = certs::client_config_with_certificate(
            fixture.valid_identity(),
            rustls::ALL_VERSIONS,
            "h2",
        );
        let mut ours = H2Client::connect_as(&proxy, "ours.test", config).await;
        for _ in 0..2 {
            for host in ["open.test", "open-too.test"] {
                assert_eq!(open.exchange(&request(host)).await.status, 200);
                ours.exchange(&request(host))
                    .await
                    .assert_rejection(421, "UNSUPPORTED");
            }
            for host in ["ours.test", "also.test"] {
                open.exchange(&request(host))
                    .await
                    .assert_rejection(421, "UNSUPPORTED");
                assert_eq!(ours.exchange(&request(host)).await.status, 200);
            }
        }
    });
}

#[test]
fn without_client_certificates_every_connection_serves_every_site() {
    let fixture = Fixture::new();
    let proxy = fixture.start_proxy(&[("a.test", NONE), ("b.test", NONE)]);
    for name in ["a.test", "b.test", "unknown.test", "127.0.0.1"] {
        for host in ["a.test", "b.test"] {
            let request = TestRequest::alice("GET", "/v2/").host(host);
            let default_config = certs::default_client_config("http/1.1");
            assert_eq!(
                status(proxy.https(), name, default_config, &request),
                Some(200)
            );
        }
    }
}

#[test]
fn a_missing_or_unknown_server_name_does_not_bypass_the_certificate_requirement() {
    for sites in [
        [("open.test", NONE), ("ours.test", OUR_CA)],
        [("ours.test", OUR_CA), ("open.test", NONE)],
        [("ours.test", OUR_CA), ("*", NONE)],
    ] {
        let fixture = Fixture::new();
        let proxy = fixture.start_proxy(&sites);
        for name in ["127.0.0.1", "unknown.test"] {
            let request = TestRequest::alice("GET", "/v2/").host("ours.test");
            let without_certificate = certs::default_client_config("http/1.1");
            let actual_status = status(proxy.https(), name, without_certificate, &request);
            assert!(
                matches!(actual_status, None | Some(421)),
                "{actual_status:?} for {name} at {sites:?}"
            );
        }
        assert!(fixture.registry.requests().is_empty());
        let valid = config_with_identity(&fixture.valid_identity(), &[&TLS13]);
        let request = TestRequest::alice("GET", "/v2/").host("ours.test");
        let first = status(proxy.https(), "127.0.0.1", valid, &request);
        // A client without a server name gets the TLS configuration of the first site.
        let expected = if sites[0].0 == "ours.test" { 200 } else { 421 };
        assert_eq!(first, Some(expected), "{sites:?}");
    }
}

#[test]
fn a_tls_session_of_one_site_cannot_be_resumed_at_another() {
    let fixture = Fixture::new();
    let proxy = fixture.start_proxy(&[("open.test", NONE), ("ours.test", OUR_CA)]);
    for versions in [&[&TLS13][..], &[&TLS12]] {
        // A client that has connected to the open site and resumes its session there.
        let config = certs::client_config(certs::root_certificate(), versions, &["http/1.1"]);
        let open = TestRequest::alice("GET", "/v2/").host("open.test");
        for _ in 0..2 {
            assert_eq!(
                status(proxy.https(), "open.test", config.clone(), &open),
                Some(200)
            );
        }
        let ours = TestRequest::alice("GET", "/v2/").host("ours.test");
        assert_eq!(
            status(proxy.https(), "open.test", config.clone(), &ours),
            Some(421)
        );
        assert_eq!(status(proxy.https(), "ours.test", config, &ours), None);
    }
}

#[test]
fn a_reload_that_changes_the_ca_affects_open_connections() {
    let fixture = Fixture::new();
    let proxy = fixture.start_proxy(&[("a.test", OUR_CA)]);
    let request = TestRequest::alice("GET", "/v2/").host("a.test");
    let resuming = config_with_identity(&fixture.valid_identity(), &[&TLS13]);
    let connect = || Client::tls(proxy.https(), "a.test", resuming.clone());
    let both = format!("{}{}", fixture.theirs.pem(), fixture.ours.pem());
    let mut kept = connect();
    assert_eq!(kept.exchange(&request).status, 200);
    // An additional CA affects no connection.
    proxy.write("ours.pem", both);
    proxy.reload().unwrap();
    assert_eq!(kept.exchange(&request).status, 200);
    let mut idle = connect();
    assert_eq!(idle.exchange(&request).status, 200);
    // After the old CA is removed, its certificates are rejected on open connections and in resumed sessions.
    proxy.write("ours.pem", fixture.theirs.pem());
    proxy.reload().unwrap();
    for client in [&mut kept, &mut idle] {
        let response = client.exchange(&request);
        response.assert_rejection(421, "UNSUPPORTED");
        assert_eq!(response.header("connection"), "close");
    }
    assert_eq!(
        status(proxy.https(), "a.test", resuming.clone(), &request),
        None
    );
    let theirs = config_with_identity(&fixture.theirs.issue_client_pair("x"), &[&TLS13]);
    assert_eq!(status(proxy.https(), "a.test", theirs, &request), Some(200));
}

#[test]
fn a_reload_that_requires_certificates_rejects_connections_without_one() {
    let fixture = Fixture::new();
    let proxy = fixture.start_proxy(&[("a.test", NONE)]);
    let request = TestRequest::alice("GET", "/v2/").host("a.test");
    let mut h1_client = Client::tls(
        proxy.https(),
        "a.test",
        certs::default_client_config("http/1.1"),
    );
    assert_eq!(h1_client.exchange(&request).status, 200);
    block_on(async {
        let mut h2_client =
            H2Client::connect_as(&proxy, "a.test", certs::default_client_config("h2")).await;
        assert_eq!(h2_client.exchange(&request).await.status, 200);
        proxy.configure(&fixture.registry, config(&[("a.test", OUR_CA)]));
        proxy.reload().unwrap();
        h2_client
            .exchange(&request)
            .await
            .assert_rejection(421, "UNSUPPORTED");
        // A second reload removes the requirement again.
        proxy.configure(&fixture.registry, config(&[("a.test", NONE)]));
        proxy.reload().unwrap();
        assert_eq!(h2_client.exchange(&request).await.status, 200);
    });
    assert_eq!(h1_client.exchange(&request).status, 200);
}

#[test]
fn an_unusable_ca_fails_the_start_and_the_reload() {
    let fixture = Fixture::new();
    for (keys, expected) in [
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
        let result = Proxy::try_start(directory(), &fixture.registry.url(), &text);
        let problems = result.err().expect("the start fails").to_string();
        assert!(problems.contains(expected), "{problems}");
    }
    let proxy = fixture.start_proxy(&[("a.test", OUR_CA)]);
    proxy.write("ours.pem", "nothing");
    assert!(proxy.reload().is_err());
    let request = TestRequest::alice("GET", "/v2/").host("a.test");
    let valid = config_with_identity(&fixture.valid_identity(), &[&TLS13]);
    assert_eq!(status(proxy.https(), "a.test", valid, &request), Some(200));
}
