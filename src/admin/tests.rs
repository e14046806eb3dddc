//! Who may ask, of a gate without listeners.

use crate::state::LifecyclePhase;
use std::path::Path;

use http::Request;

use super::*;
use crate::config;
use crate::snapshot::{BuildMode, Snapshot};

pub(super) fn admin(listen: &str, phase: LifecyclePhase) -> Admin {
    let text = format!(
        "[listen]\nhttps = [\"127.0.0.1:0\"]\n{listen}\n[[site]]\nhosts = [\"docker.example.com\", \"*.reg.example\", \"*\"]\n\
         tls = \"self-signed\"\n[[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:1\"\nauth = {{ mode = \"none\" }}\n"
    );
    let (config, mut problems) = config::parse(Path::new("proxy.toml"), text.as_bytes());
    let config = config.unwrap_or_else(|| panic!("{problems}"));
    let snapshot = Snapshot::build(&config, None, BuildMode::Check, &mut problems);
    let snapshot = snapshot.unwrap_or_else(|| panic!("{problems}"));
    for route in snapshot.service.sites.routes() {
        route.forward.upstream().assume_it_responds();
    }
    let gate = ServerState::new(snapshot, 1, ConnectionLimit::new(1, 1), None);
    gate.set_phase(phase);
    Admin::new(Arc::new(gate))
}

async fn status(admin: &Admin, asker: AdminPeer, host: &str, path: &str) -> u16 {
    let request = Request::builder().uri(path).header("host", host);
    let answer = admin.answer(asker, &request.body(()).unwrap()).await;
    answer.status().as_u16()
}

fn peer(address: &str) -> AdminPeer {
    AdminPeer::Peer(PeerAddr::new(address.parse().unwrap()))
}

#[tokio::test]
async fn strangers_are_refused_whatever_they_ask() {
    let nobody = admin("", LifecyclePhase::Serving);
    let some = "admin_allow = [\"192.0.2.0/24\", \"2001:db8::7\"]";
    let some = admin(some, LifecyclePhase::Serving);
    for (address, by_nobody, by_some) in [
        ("127.0.0.1:1", 200, 200),
        ("127.8.9.1:1", 200, 200),
        ("[::1]:1", 200, 200),
        ("[::ffff:127.0.0.1]:1", 200, 200),
        ("192.0.2.9:1", 403, 200),
        ("[::ffff:192.0.2.9]:1", 403, 200),
        ("[2001:db8::7]:1", 403, 200),
        ("198.51.100.1:1", 403, 403),
        ("[2001:db8::8]:1", 403, 403),
    ] {
        for path in ["/", "/status.js", "/healthz", "/readyz", "/metrics"] {
            assert_eq!(
                status(&nobody, peer(address), "localhost", path).await,
                by_nobody
            );
            assert_eq!(
                status(&some, peer(address), "localhost", path).await,
                by_some
            );
        }
    }
    assert_eq!(
        status(&nobody, AdminPeer::Local, "evil.example", "/metrics").await,
        200
    );
}

#[tokio::test]
async fn a_sites_names_are_known_but_not_those_of_everyone() {
    let admin = admin(
        "admin_hosts = [\"Prometheus.internal\"]",
        LifecyclePhase::Serving,
    );
    for (host, expected) in [
        ("docker.example.com:9090", 200),
        ("a.reg.example", 200),
        ("prometheus.internal", 200),
        ("a.b.reg.example", 421),
        ("anything.example", 421),
        ("local host", 421),
    ] {
        assert_eq!(
            status(&admin, peer("127.0.0.1:1"), host, "/healthz").await,
            expected,
            "{host}"
        );
    }
}

#[tokio::test]
async fn it_is_ready_only_while_it_serves() {
    for (phase, ready) in [
        (LifecyclePhase::Starting, 503),
        (LifecyclePhase::Serving, 200),
        (LifecyclePhase::Draining, 503),
    ] {
        let admin = admin("", phase);
        let asker = peer("127.0.0.1:1");
        assert_eq!(status(&admin, asker, "localhost", "/readyz").await, ready);
        assert_eq!(status(&admin, asker, "localhost", "/healthz").await, 200);
    }
}
