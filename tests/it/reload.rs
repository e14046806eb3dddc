//! A reload takes effect completely or not at all, and does not interrupt a transfer.

use std::time::Instant;

use rustls::ClientConnection;

use crate::listeners::kept_port;
use crate::support::client::connect_tcp;
use crate::support::h2::{H2Client, block_on};
use crate::support::proxy::ALICE;
use crate::support::request::chunk;
use crate::support::{
    Client, HttpVersion, PATIENCE, Proxy, Registry, TestRequest, certs, config, exchange, ping,
};

/// The line of a password file for carol with the password "new".
fn carol() -> String {
    format!("carol:{}\n", bcrypt::hash("new", 4).unwrap())
}

#[test]
fn a_new_user_logs_in_and_an_old_one_does_not() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let new = || TestRequest::new("GET", "/v2/").basic_auth(b"carol:new");
    for http in HttpVersion::BOTH {
        assert_eq!(exchange(&proxy, http, &new()).status, 401);
    }
    proxy.write("htpasswd", carol());
    proxy.reload().unwrap();
    for http in HttpVersion::BOTH {
        assert_eq!(exchange(&proxy, http, &new()).status, 200);
        assert_eq!(ping(&proxy, http), 401);
    }
}

#[test]
fn a_request_on_an_open_connection_uses_the_new_configuration() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut one = Client::connect(&proxy);
    assert_eq!(one.ping(), 200);
    block_on(async {
        let mut two = H2Client::connect(&proxy).await;
        assert_eq!(two.ping().await, 200);
        proxy.write("htpasswd", carol());
        proxy.reload().unwrap();
        assert_eq!(two.ping().await, 401);
        let new = TestRequest::new("GET", "/v2/").basic_auth(b"carol:new");
        assert_eq!(two.exchange(&new).await.status, 200);
    });
    assert_eq!(one.ping(), 401);
}

#[test]
fn a_bad_configuration_leaves_the_old_one_in_use() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let good = config("", "");
    let bad = [
        (
            good.to_string().replace("[listen]", "[listen"),
            "proxy.toml:",
        ),
        (
            config("[limits]\nhaed = \"1s\"\n", "").to_string(),
            "did you mean \"head\"",
        ),
        (good.clone().htpasswd("missing").to_string(), "missing"),
        (
            good.clone()
                .certificate("absent.pem", "key.pem")
                .to_string(),
            "absent.pem",
        ),
        (
            good.clone().set("https", "\"never\"").to_string(),
            "proxy.toml:",
        ),
        (String::new(), "listen"),
    ];
    for (text, word) in bad {
        proxy.configure(&registry, &text);
        let problems = proxy.reload().expect_err(&text).to_string();
        assert!(problems.contains(word), "{word} in {problems}");
        assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
    }
    std::fs::remove_file(proxy.path("proxy.toml")).unwrap();
    assert!(proxy.reload().is_err());
    assert_eq!(ping(&proxy, HttpVersion::Http2), 200);
    // The next valid configuration takes effect.
    proxy.write("htpasswd", carol());
    proxy.configure(&registry, &good);
    proxy.reload().unwrap();
    assert_eq!(ping(&proxy, HttpVersion::Http1), 401);
}

#[test]
fn the_access_log_keeps_its_format_as_the_process_log_does() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let ping = || Client::connect(&proxy).exchange(&TestRequest::alice("GET", "/v2/"));
    assert_eq!(ping().status, 200);
    let json = "[log]\naccess_file = \"access.log\"\nformat = \"json\"\n";
    proxy.configure(&registry, config(json, ""));
    proxy.reload().unwrap();
    assert_eq!(ping().status, 200);
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(!log.contains('{'), "{log}");
}

#[test]
fn a_running_upload_continues_to_the_old_upstream() {
    let (old, new) = (Registry::accepting_all(), Registry::accepting_all());
    let proxy = Proxy::with_defaults(&old);
    let mut client = Client::connect(&proxy);
    client.send(
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    client.send(chunk(b"first"));
    old.wait_for_requests(|seen| seen.first().is_some_and(|seen| seen.body == b"first"));
    proxy.write("htpasswd", carol());
    proxy.configure(&new, config("", ""));
    proxy.reload().unwrap();
    client.send(chunk(b" last"));
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    assert_eq!(old.only_request().body, b"first last");
    // The next request on the same connection uses the new configuration and the new registry.
    let next = TestRequest::new("GET", "/v2/").basic_auth(b"carol:new");
    assert_eq!(client.exchange(&next).status, 200);
    assert_eq!((old.requests().len(), new.requests().len()), (1, 1));
}

#[test]
fn connections_to_an_unchanged_upstream_are_kept() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ping(), 200);
    proxy.write("htpasswd", format!("{ALICE}{}", carol()));
    proxy.reload().unwrap();
    assert_eq!(client.ping(), 200);
    assert_eq!(registry.connections(), 1);
}

#[test]
fn a_new_certificate_is_served_to_new_connections() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut old = Client::connect(&proxy);
    let before = certificate(&proxy);
    assert_eq!(certificate(&proxy), before);
    let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
    proxy.write("cert.pem", cert);
    proxy.write("key.pem", key);
    proxy.reload().unwrap();
    assert_ne!(certificate(&proxy), before);
    assert_eq!(old.ping(), 200);
}

fn certificate(proxy: &Proxy) -> Vec<u8> {
    let config = certs::default_client_config("http/1.1");
    let mut tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut socket = connect_tcp(proxy.https());
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).unwrap();
    }
    tls.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn listeners_are_added_and_removed_and_the_others_stay_open() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut kept = Client::connect(&proxy);
    let (port, _socket) = kept_port();
    let address = format!("127.0.0.1:{port}");
    proxy.configure(
        &registry,
        config("", "").after("https", format_args!("http = [\"{address}\"]")),
    );
    proxy.reload().unwrap();
    let mut plain = Client::plain(address.parse().unwrap());
    assert_eq!(plain.exchange(&TestRequest::new("GET", "/")).status, 308);
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);

    proxy.configure(&registry, config("", ""));
    proxy.reload().unwrap();
    let until = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(&address).is_ok() {
        assert!(Instant::now() < until, "a removed listener still accepts");
    }
    // The open connection of the removed listener is still served, and the other listener never closed.
    assert_eq!(plain.exchange(&TestRequest::new("GET", "/")).status, 308);
    assert_eq!(kept.ping(), 200);
    assert_eq!(ping(&proxy, HttpVersion::Http2), 200);
}

#[test]
fn an_address_in_use_makes_the_reload_fail_and_changes_nothing() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let both = format!("https = [\"127.0.0.1:0\", \"{address}\"]");
    proxy.write("other", carol());
    let text = config("", "").lines("https", &both);
    proxy.configure(&registry, text.htpasswd("other"));
    let problems = proxy.reload().unwrap_err().to_string();
    assert!(problems.contains(&address.to_string()), "{problems}");
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
}
