//! Upstream connections that close before a response: which requests the proxy sends again, and which it never sends again.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::support::{Client, HttpVersion, OK, Proxy, Registry, TestRequest, exchange};

const MANIFEST: &str = "/v2/a/manifests/x";
const UPLOAD: &str = "/v2/a/blobs/uploads/u";

/// A registry that responds to the first request of each connection, and closes the connection at the second request.
fn registry_that_closes_reused_connections() -> Registry {
    let known = Mutex::new(HashSet::new());
    Registry::start(move |exchange| {
        exchange.body();
        if known.lock().unwrap().insert(exchange.head.connection) {
            exchange.send(OK);
        } else {
            exchange.close();
        }
    })
}

#[test]
fn only_a_get_or_head_without_a_body_is_retried() {
    for (method, target, repeated) in [
        ("GET", MANIFEST, true),
        ("HEAD", MANIFEST, true),
        ("POST", "/v2/a/blobs/uploads/", false),
        ("PATCH", UPLOAD, false),
        ("PUT", MANIFEST, false),
        ("DELETE", MANIFEST, false),
    ] {
        let registry = registry_that_closes_reused_connections();
        let proxy = Proxy::with_defaults(&registry);
        let mut client = Client::connect(&proxy);
        assert_eq!(client.ping(), 200);
        let mut request = TestRequest::alice(method, target);
        if matches!(method, "PATCH" | "PUT") {
            request = request.body("body");
        }
        let response = client.exchange(&request);
        assert_eq!(
            response.status,
            if repeated { 200 } else { 502 },
            "{method}"
        );
        let times = registry
            .requests()
            .iter()
            .filter(|seen| seen.target == target)
            .count();
        assert_eq!(times, if repeated { 2 } else { 1 }, "{method}");
    }
}

#[test]
fn a_request_on_a_new_connection_is_not_retried() {
    let registry = Registry::start(|exchange| exchange.close());
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST))
            .assert_rejection(502, "UNAVAILABLE");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn an_idle_connection_that_the_upstream_closed_is_not_used() {
    let registry = Registry::start(|exchange| {
        exchange.body();
        exchange.send(OK);
        exchange.close();
    });
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    for _ in 0..10 {
        let response = client.exchange(&TestRequest::alice("GET", MANIFEST));
        assert_eq!(response.status, 200);
    }
    assert_eq!(registry.connections(), 10);
}
