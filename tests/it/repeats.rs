//! Connections to the registry that die: what is sent again, and what never is.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::support::{Client, HttpVersion, OK, Proxy, Registry, TestRequest, exchange};

const MANIFEST: &str = "/v2/a/manifests/x";
const UPLOAD: &str = "/v2/a/blobs/uploads/u";

/// The first request of each connection is answered; the second dies without a byte.
fn flaky() -> Registry {
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
fn nothing_but_a_bodiless_get_or_head_is_sent_twice() {
    for (method, target, repeated) in [
        ("GET", MANIFEST, true),
        ("HEAD", MANIFEST, true),
        ("POST", "/v2/a/blobs/uploads/", false),
        ("PATCH", UPLOAD, false),
        ("PUT", MANIFEST, false),
        ("DELETE", MANIFEST, false),
    ] {
        let registry = flaky();
        let proxy = Proxy::with_defaults(&registry);
        let mut client = Client::connect(&proxy);
        assert_eq!(
            client.exchange(&TestRequest::alice("GET", "/v2/")).status,
            200
        );
        let mut request = TestRequest::alice(method, target);
        if matches!(method, "PATCH" | "PUT") {
            request = request.body("body");
        }
        let answer = client.exchange(&request);
        assert_eq!(answer.status, if repeated { 200 } else { 502 }, "{method}");
        let times = registry
            .requests()
            .iter()
            .filter(|seen| seen.target == target)
            .count();
        assert_eq!(times, if repeated { 2 } else { 1 }, "{method}");
    }
}

#[test]
fn a_fresh_connection_that_dies_is_not_tried_again() {
    let registry = Registry::start(|exchange| exchange.close());
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST))
            .assert_rejection(502, "UNAVAILABLE");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn an_idle_connection_that_was_closed_costs_no_request() {
    let registry = Registry::start(|exchange| {
        exchange.body();
        exchange.send(OK);
        exchange.close();
    });
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    for _ in 0..10 {
        let answer = client.exchange(&TestRequest::alice("GET", MANIFEST));
        assert_eq!(answer.status, 200);
    }
    assert_eq!(registry.connections(), 10);
}
