//! What a route can say beside where it leads: closed paths, client networks, web pages.

use std::net::Ipv4Addr;

use crate::support::h2::{self, H2Client};
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, exchange,
};

fn from(proxy: &Proxy, http: HttpVersion, last: u8, request: &TestRequest) -> TestResponse {
    let source = Ipv4Addr::new(127, 0, 0, last);
    match http {
        HttpVersion::Http1 => Client::connect_from(source, proxy).exchange(request),
        HttpVersion::Http2 => h2::block_on(async {
            H2Client::connect_from(source, proxy)
                .await
                .exchange(request)
                .await
        }),
    }
}

#[test]
fn a_closed_path_is_answered_without_a_password() {
    let registry = Registry::accepting_all();
    let more = "[[site.route]]\npath = \"/v2/closed\"\nrespond = 403\n\
                [[site.route]]\npath = \"/gone/\"\nrespond = 410\n[[site.route]]\npath = \"/ok\"\nrespond = 204\n\
                [[site.route]]\npath = \"/fine\"\nrespond = 200";
    let proxy = Proxy::start(&registry, config("", more));
    for http in HttpVersion::BOTH {
        for method in ["GET", "PUT", "DELETE"] {
            let closed = exchange(
                &proxy,
                http,
                &TestRequest::new(method, "/v2/closed/app/manifests/x"),
            );
            closed.assert_rejection(403, "DENIED");
            let gone = exchange(&proxy, http, &TestRequest::alice(method, "/gone/x"));
            assert_eq!(
                (gone.status, gone.text().as_str()),
                (410, "410 Gone: gone\n")
            );
            let ok = exchange(&proxy, http, &TestRequest::new(method, "/ok"));
            assert_eq!((ok.status, ok.has_header("content-length")), (204, false));
            let fine = exchange(&proxy, http, &TestRequest::new(method, "/fine/x"));
            assert_eq!((fine.status, fine.header("content-length")), (200, "0"));
        }
        assert_eq!(
            exchange(&proxy, http, &TestRequest::alice("GET", "/okay")).status,
            404
        );
        assert_eq!(
            exchange(
                &proxy,
                http,
                &TestRequest::new("GET", "/v2/closedly/tags/list")
            )
            .status,
            401
        );
    }
    assert!(registry.requests().is_empty());
    // A mount reads its source, and of what is closed nothing is read.
    let digest = crate::support::DIGEST;
    for query in [
        format!("mount={digest}&from=closed/app"),
        format!("mount={digest}"),
    ] {
        let mount = TestRequest::alice("POST", &format!("/v2/a/blobs/uploads/?{query}"));
        assert_eq!(exchange(&proxy, HttpVersion::Http1, &mount).status, 200);
        assert_eq!(
            registry.requests().pop().unwrap().target,
            "/v2/a/blobs/uploads/"
        );
    }
}

#[test]
fn path_parameters_choose_no_other_route() {
    let registry = Registry::accepting_all();
    let more = "[[site.route]]\npath = \"/\"\nupstream = \"{upstream}\"\nauth = { mode = \"none\" }\n\
                [[site.route]]\npath = \"/api/internal\"\nrespond = 403";
    let proxy = Proxy::start(&registry, config("", more));
    for http in HttpVersion::BOTH {
        for target in [
            "/v2;x/secret/tags/list",
            "/v2;/secret/tags/list",
            "/v2%3bx=1/_catalog",
            "/;x/v2/secret/tags/list",
            "/v2;x",
        ] {
            let answer = exchange(&proxy, http, &TestRequest::new("GET", target));
            answer.assert_rejection(401, "UNAUTHORIZED");
        }
        let closed = exchange(
            &proxy,
            http,
            &TestRequest::new("GET", "/api;x/internal;y/z"),
        );
        assert_eq!(closed.status, 403);
    }
    assert!(registry.requests().is_empty());
    // What is sent on keeps them.
    let page = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/page;x=1"),
    );
    assert_eq!(page.status, 200);
    assert_eq!(registry.requests().pop().unwrap().target, "/page;x=1");
}

/// Some servers take a backslash for a separator. Escaped or not, it is refused before a route is chosen, wherever it
/// stands: what one parser takes for a name, another one takes for a path under a different route.
#[test]
fn a_backslash_chooses_no_other_route() {
    let registry = Registry::accepting_all();
    let more = "[[site.route]]\npath = \"/\"\nupstream = \"{upstream}\"\nauth = { mode = \"none\" }\n\
                [[site.route]]\npath = \"/api/internal\"\nrespond = 403";
    let proxy = Proxy::start(&registry, config("", more));
    for http in HttpVersion::BOTH {
        for target in [
            "/api%5Cinternal/x",
            "/api%5cinternal",
            "/v2%5C_catalog",
            "/%5Cv2/_catalog",
            "/x/..%5Cv2/_catalog",
            "/x%5C..%5Capi%5Cinternal",
            "/x%2F%5Capi",
            "/x;%5C/api",
            "/x%5C",
        ] {
            let answer = exchange(&proxy, http, &TestRequest::alice("GET", target));
            assert_eq!(answer.status, 400, "{target}: {answer:?}");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn an_escaped_slash_leads_to_the_route_of_the_decoded_name() {
    let registry = Registry::accepting_all();
    let closed = "[[site.route]]\npath = \"/v2/team/\"\nrespond = 403\n";
    let proxy = Proxy::start(&registry, format!("{}\n{closed}", config("", "")));
    for http in HttpVersion::BOTH {
        for target in [
            "/v2/team%2Fapp/tags/list",
            "/v2/team%2fapp/tags/list",
            "/v2/t%65am%2Fapp/tags/list",
            "//v2//team/app/tags/list",
        ] {
            let answer = exchange(&proxy, http, &TestRequest::alice("GET", target));
            answer.assert_rejection(403, "DENIED");
        }
    }
    assert!(registry.requests().is_empty());
    let other = TestRequest::alice("GET", "/v2/teams%2Fapp/tags/list");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &other).status, 200);
    assert_eq!(registry.only_request().target, "/v2/teams/app/tags/list");
}

#[test]
fn where_blobs_are_closed_none_is_mounted() {
    let registry = Registry::accepting_all();
    let more = "[[site.route]]\npath = \"/v2/app/blobs/\"\nrespond = 403";
    let proxy = Proxy::start(&registry, config("", more));
    let digest = crate::support::DIGEST;
    let blob = TestRequest::alice("GET", &format!("/v2/app/blobs/{digest}"));
    exchange(&proxy, HttpVersion::Http1, &blob).assert_rejection(403, "DENIED");
    for (from, sent) in [
        ("app", "/v2/a/blobs/uploads/".to_owned()),
        ("b", format!("/v2/a/blobs/uploads/?mount={}&from=b", digest)),
    ] {
        let target = format!("/v2/a/blobs/uploads/?mount={digest}&from={from}");
        let mount = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("POST", &target),
        );
        assert_eq!(mount.status, 200);
        let seen = registry.requests().pop().unwrap().target;
        assert_eq!(seen.replace("%3A", ":"), sent);
    }
}

#[test]
fn a_network_that_is_not_let_in_is_refused_before_any_password() {
    let registry = Registry::accepting_all();
    let networks = "allow = [\"127.0.0.1\", \"127.0.0.4/30\"]\ndeny = [\"127.0.0.5\", \"all\"]\ncors = [\"https://ui\"]";
    let proxy = Proxy::start(&registry, config("", networks));
    for http in HttpVersion::BOTH {
        for (last, is_in) in [(1, true), (4, true), (5, false), (6, true), (2, false)] {
            let bare = from(&proxy, http, last, &TestRequest::new("GET", "/v2/"));
            let with = from(&proxy, http, last, &TestRequest::alice("GET", "/v2/"));
            if is_in {
                bare.assert_rejection(401, "UNAUTHORIZED");
                assert_eq!(with.status, 200);
            } else {
                bare.assert_rejection(403, "DENIED");
                with.assert_rejection(403, "DENIED");
                from(&proxy, http, last, &preflight("https://ui")).assert_rejection(403, "DENIED");
            }
        }
    }
}

#[test]
fn a_network_that_is_not_let_in_is_refused_at_the_token_endpoint_before_its_form_is_read() {
    let registry = Registry::accepting_all();
    let top = "[state]\ndir = \"{dir}/state\"\n";
    let config = config(top, "deny = [\"127.0.0.1\"]").mode("token");
    let proxy = Proxy::start(&registry, &config);
    for http in HttpVersion::BOTH {
        for method in ["GET", "POST", "PUT", "OPTIONS"] {
            let answer = exchange(&proxy, http, &TestRequest::new(method, "/v2/_token"));
            answer.assert_rejection(403, "DENIED");
        }
        let long = TestRequest::new("POST", "/v2/_token").body("x".repeat(30_000));
        exchange(&proxy, http, &long).assert_rejection(403, "DENIED");
    }
}

#[test]
fn a_network_that_is_enough_needs_no_password() {
    let registry = Registry::accepting_all();
    let networks = "allow = [\"127.0.0.1\"]\nsatisfy = \"any\"";
    let proxy = Proxy::start(&registry, config("", networks));
    for http in HttpVersion::BOTH {
        let bare = TestRequest::new("PUT", "/v2/a/manifests/x").body("{}");
        let wrong = TestRequest::new("GET", "/v2/").basic_auth(b"alice:wrong");
        for request in [&bare, &wrong, &TestRequest::alice("GET", "/v2/")] {
            assert_eq!(from(&proxy, http, 1, request).status, 200);
            assert!(
                registry
                    .requests()
                    .pop()
                    .unwrap()
                    .all("authorization")
                    .is_empty()
            );
        }
        from(&proxy, http, 2, &bare).assert_rejection(401, "UNAUTHORIZED");
        from(&proxy, http, 2, &wrong).assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(
            from(&proxy, http, 2, &TestRequest::alice("GET", "/v2/")).status,
            200
        );
    }
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.matches("user=@network").count(), 4, "{log}");
    assert_eq!(log.matches(" user=alice ").count(), 4, "{log}");
}

#[test]
fn with_grants_a_network_has_what_is_granted_to_it() {
    let registry = Registry::accepting_all();
    let route = "allow = [\"127.0.0.1\"]\nsatisfy = \"any\"\n\
                 [[site.route.grant]]\nto = [\"@network\"]\nrepositories = [\"lan/**\"]\nactions = [\"pull\"]\n\
                 [[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"own\"]\nactions = [\"push\"]";
    let token_mode = config("[state]\ndir = \"{dir}/state\"\n", route).mode("token");
    let dir = crate::support::proxy::directory();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let proxy = Proxy::start_in(dir, &registry.url(), &token_mode);
    for http in HttpVersion::BOTH {
        let lan = TestRequest::new("GET", "/v2/lan/a/tags/list");
        let own = TestRequest::new("GET", "/v2/own/tags/list");
        assert_eq!(from(&proxy, http, 1, &lan).status, 200);
        from(&proxy, http, 2, &lan).assert_rejection(401, "UNAUTHORIZED");
        from(&proxy, http, 1, &own).assert_rejection(401, "UNAUTHORIZED");
        // So that docker asks for a token, and a user may be more than the network.
        from(&proxy, http, 1, &TestRequest::new("GET", "/v2/"))
            .assert_rejection(401, "UNAUTHORIZED");
        let both = TestRequest::alice("GET", "/v2/lan/a/tags/list");
        assert_eq!(from(&proxy, http, 1, &both).status, 200);
        from(&proxy, http, 2, &both).assert_rejection(403, "DENIED");
        assert_eq!(
            from(
                &proxy,
                http,
                2,
                &TestRequest::alice("GET", "/v2/own/tags/list")
            )
            .status,
            200
        );
        let given = from(
            &proxy,
            http,
            1,
            &TestRequest::new("GET", "/v2/_token?scope=repository:lan/a:pull,push"),
        );
        let given: serde_json::Value = serde_json::from_slice(&given.body).unwrap();
        let token = format!("Bearer {}", given["token"].as_str().unwrap());
        let shown = |target| TestRequest::new("GET", target).header("authorization", &token);
        assert_eq!(from(&proxy, http, 1, &shown("/v2/")).status, 200);
        assert_eq!(
            from(&proxy, http, 1, &shown("/v2/lan/a/tags/list")).status,
            200
        );
        // Taken elsewhere it is worth nothing.
        from(&proxy, http, 2, &shown("/v2/lan/a/tags/list")).assert_rejection(401, "UNAUTHORIZED");
        let upload =
            TestRequest::new("POST", "/v2/lan/a/blobs/uploads/").header("authorization", &token);
        from(&proxy, http, 1, &upload).assert_rejection(401, "UNAUTHORIZED");
    }
}

fn preflight(origin: &str) -> TestRequest {
    TestRequest::new("OPTIONS", "/v2/a/manifests/x")
        .header("origin", origin)
        .header("access-control-request-method", "DELETE")
        .header("access-control-request-headers", "authorization,x-a")
}

#[test]
fn pages_of_named_origins_may_use_the_registry() {
    let registry = Registry::responding(
        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\nContent-Length: 2\r\n\r\n{}",
    );
    let cors = "cors = [\"https://ui.example\", \"http://localhost:8080\"]";
    let proxy = Proxy::start(&registry, config("", cors));
    for http in HttpVersion::BOTH {
        for origin in ["https://ui.example", "http://localhost:8080"] {
            let may = exchange(&proxy, http, &preflight(origin));
            assert_eq!((may.status, may.body.len()), (204, 0), "{may:?}");
            assert_eq!(may.header("access-control-allow-origin"), origin);
            assert_eq!(may.header("access-control-allow-credentials"), "true");
            assert_eq!(
                may.header("access-control-allow-headers"),
                "authorization,x-a"
            );
            assert!(
                may.header("access-control-allow-methods")
                    .contains("DELETE")
            );
            assert!(
                registry
                    .requests()
                    .iter()
                    .all(|seen| seen.method != "OPTIONS")
            );
            let refused = exchange(
                &proxy,
                http,
                &TestRequest::new("GET", "/v2/").header("origin", origin),
            );
            refused.assert_rejection(401, "UNAUTHORIZED");
            let list = TestRequest::alice("GET", "/v2/_catalog").header("origin", origin);
            let answer = exchange(&proxy, http, &list);
            for answer in [&refused, &answer] {
                assert_eq!(answer.header("access-control-allow-origin"), origin);
                assert_eq!(answer.header("access-control-allow-credentials"), "true");
                let exposed = answer.header("access-control-expose-headers");
                assert!(exposed.contains("Docker-Content-Digest"), "{exposed}");
                assert!(answer.header_values("vary").contains(&"origin"));
            }
            assert!(answer.header_values("vary").contains(&"Accept"));
        }
    }
}

#[test]
fn pages_of_other_origins_learn_nothing() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("", "cors = [\"https://ui.example\"]"));
    let usual = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for origin in [
            "https://evil.example",
            "http://ui.example",
            "https://ui.example:444",
            "null",
            "https://ui.example.evil",
        ] {
            let may = exchange(&proxy, http, &preflight(origin));
            may.assert_rejection(401, "UNAUTHORIZED");
            assert!(!may.has_header("access-control-allow-origin"));
            assert_eq!(may.header("vary"), "origin");
            let list = TestRequest::alice("GET", "/v2/_catalog").header("origin", origin);
            assert!(!exchange(&proxy, http, &list).has_header("access-control-allow-origin"));
        }
        let plain = TestRequest::new("OPTIONS", "/v2/").header("origin", "https://ui.example");
        exchange(&proxy, http, &plain).assert_rejection(401, "UNAUTHORIZED");
        let twice = preflight("https://ui.example").header("origin", "https://ui.example");
        exchange(&proxy, http, &twice).assert_rejection(401, "UNAUTHORIZED");
        // Without the key nothing is said at all.
        let answer = exchange(&usual, http, &preflight("https://ui.example"));
        assert!(answer.status == 401 && !answer.has_header("vary"));
    }
}
