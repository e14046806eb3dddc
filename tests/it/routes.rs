//! Keys of a route other than its upstream: `respond`, `allow` and `deny`, `satisfy`, and `cors`.

use std::net::Ipv4Addr;

use crate::support::h2::{self, H2Client};
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, exchange,
};

/// Exchanges a request from the client address `127.0.0.last`.
fn exchange_from(
    proxy: &Proxy,
    http: HttpVersion,
    last: u8,
    request: &TestRequest,
) -> TestResponse {
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
fn a_route_with_respond_responds_without_a_password() {
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
    // A mount reads its source, and a source below a closed path must not be read.
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
fn path_parameters_do_not_change_the_route() {
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
            let response = exchange(&proxy, http, &TestRequest::new("GET", target));
            response.assert_rejection(401, "UNAUTHORIZED");
        }
        let closed = exchange(
            &proxy,
            http,
            &TestRequest::new("GET", "/api;x/internal;y/z"),
        );
        assert_eq!(closed.status, 403);
        // Only some servers read a separator here, so that no route is right for all of them.
        for target in [
            "/v2;x=%2Fa/_catalog",
            "/api;x=%2Fui/internal",
            "/page%3B%2f",
        ] {
            let ambiguous = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(ambiguous.status, 400, "{target}");
        }
    }
    assert!(registry.requests().is_empty());
    // The forwarded target keeps its parameters.
    let page = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/page;x=1"),
    );
    assert_eq!(page.status, 200);
    assert_eq!(registry.requests().pop().unwrap().target, "/page;x=1");
}

/// Some servers treat a backslash as a separator, so that one parser may see a name where another parser sees a path below a
/// different route. The proxy rejects a backslash anywhere in the path, escaped or not, before it chooses a route.
#[test]
fn a_backslash_in_the_path_gets_400() {
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
            let response = exchange(&proxy, http, &TestRequest::alice("GET", target));
            assert_eq!(response.status, 400, "{target}: {response:?}");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn the_route_of_a_target_with_escaped_slashes_is_that_of_the_decoded_name() {
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
            let response = exchange(&proxy, http, &TestRequest::alice("GET", target));
            response.assert_rejection(403, "DENIED");
        }
    }
    assert!(registry.requests().is_empty());
    let other = TestRequest::alice("GET", "/v2/teams%2Fapp/tags/list");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &other).status, 200);
    assert_eq!(registry.only_request().target, "/v2/teams/app/tags/list");
}

#[test]
fn a_mount_from_a_repository_with_closed_blobs_is_removed() {
    let registry = Registry::accepting_all();
    let more = "[[site.route]]\npath = \"/v2/app/blobs/\"\nrespond = 403";
    let proxy = Proxy::start(&registry, config("", more));
    let digest = crate::support::DIGEST;
    let blob = TestRequest::alice("GET", &format!("/v2/app/blobs/{digest}"));
    exchange(&proxy, HttpVersion::Http1, &blob).assert_rejection(403, "DENIED");
    for (source, sent) in [
        ("app", "/v2/a/blobs/uploads/".to_owned()),
        ("b", format!("/v2/a/blobs/uploads/?mount={}&from=b", digest)),
    ] {
        let target = format!("/v2/a/blobs/uploads/?mount={digest}&from={source}");
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
fn a_denied_network_gets_403_before_authentication() {
    let registry = Registry::accepting_all();
    let networks = "allow = [\"127.0.0.1\", \"127.0.0.4/30\"]\ndeny = [\"127.0.0.5\", \"all\"]\ncors = [\"https://ui\"]";
    let proxy = Proxy::start(&registry, config("", networks));
    for http in HttpVersion::BOTH {
        for (last, is_allowed) in [(1, true), (4, true), (5, false), (6, true), (2, false)] {
            let bare = exchange_from(&proxy, http, last, &TestRequest::new("GET", "/v2/"));
            let with = exchange_from(&proxy, http, last, &TestRequest::alice("GET", "/v2/"));
            if is_allowed {
                bare.assert_rejection(401, "UNAUTHORIZED");
                assert_eq!(with.status, 200);
            } else {
                bare.assert_rejection(403, "DENIED");
                with.assert_rejection(403, "DENIED");
                exchange_from(&proxy, http, last, &preflight("https://ui"))
                    .assert_rejection(403, "DENIED");
            }
        }
    }
}

#[test]
fn a_denied_network_gets_403_at_the_token_endpoint_before_the_form_is_read() {
    let registry = Registry::accepting_all();
    let top = "[state]\ndir = \"{dir}/state\"\n";
    let config = config(top, "deny = [\"127.0.0.1\"]").mode("token");
    let proxy = Proxy::start(&registry, &config);
    for http in HttpVersion::BOTH {
        for method in ["GET", "POST", "PUT", "OPTIONS"] {
            let response = exchange(&proxy, http, &TestRequest::new(method, "/v2/_token"));
            response.assert_rejection(403, "DENIED");
        }
        let long = TestRequest::new("POST", "/v2/_token").body("x".repeat(30_000));
        exchange(&proxy, http, &long).assert_rejection(403, "DENIED");
    }
}

#[test]
fn with_satisfy_any_an_allowed_network_needs_no_password() {
    let registry = Registry::accepting_all();
    let networks = "allow = [\"127.0.0.1\"]\nsatisfy = \"any\"";
    let proxy = Proxy::start(&registry, config("", networks));
    for http in HttpVersion::BOTH {
        let bare = TestRequest::new("PUT", "/v2/a/manifests/x").body("{}");
        let wrong = TestRequest::new("GET", "/v2/").basic_auth(b"alice:wrong");
        for request in [&bare, &wrong, &TestRequest::alice("GET", "/v2/")] {
            assert_eq!(exchange_from(&proxy, http, 1, request).status, 200);
            assert!(
                registry
                    .requests()
                    .pop()
                    .unwrap()
                    .all("authorization")
                    .is_empty()
            );
        }
        exchange_from(&proxy, http, 2, &bare).assert_rejection(401, "UNAUTHORIZED");
        exchange_from(&proxy, http, 2, &wrong).assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(
            exchange_from(&proxy, http, 2, &TestRequest::alice("GET", "/v2/")).status,
            200
        );
    }
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.matches("user=@network").count(), 4, "{log}");
    assert_eq!(log.matches(" user=alice ").count(), 4, "{log}");
}

#[test]
fn with_grants_a_network_has_the_rights_of_network() {
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
        assert_eq!(exchange_from(&proxy, http, 1, &lan).status, 200);
        exchange_from(&proxy, http, 2, &lan).assert_rejection(401, "UNAUTHORIZED");
        exchange_from(&proxy, http, 1, &own).assert_rejection(401, "UNAUTHORIZED");
        // The ping gets a challenge, so that docker requests a token and a user can have more rights than the network.
        exchange_from(&proxy, http, 1, &TestRequest::new("GET", "/v2/"))
            .assert_rejection(401, "UNAUTHORIZED");
        let both = TestRequest::alice("GET", "/v2/lan/a/tags/list");
        assert_eq!(exchange_from(&proxy, http, 1, &both).status, 200);
        exchange_from(&proxy, http, 2, &both).assert_rejection(403, "DENIED");
        assert_eq!(
            exchange_from(
                &proxy,
                http,
                2,
                &TestRequest::alice("GET", "/v2/own/tags/list")
            )
            .status,
            200
        );
        let token_response = exchange_from(
            &proxy,
            http,
            1,
            &TestRequest::new("GET", "/v2/_token?scope=repository:lan/a:pull,push"),
        );
        let issued: serde_json::Value = serde_json::from_slice(&token_response.body).unwrap();
        let token = format!("Bearer {}", issued["token"].as_str().unwrap());
        let with_token = |target| TestRequest::new("GET", target).header("authorization", &token);
        assert_eq!(
            exchange_from(&proxy, http, 1, &with_token("/v2/")).status,
            200
        );
        assert_eq!(
            exchange_from(&proxy, http, 1, &with_token("/v2/lan/a/tags/list")).status,
            200
        );
        // The token has no rights when another network uses it.
        exchange_from(&proxy, http, 2, &with_token("/v2/lan/a/tags/list"))
            .assert_rejection(401, "UNAUTHORIZED");
        let upload =
            TestRequest::new("POST", "/v2/lan/a/blobs/uploads/").header("authorization", &token);
        exchange_from(&proxy, http, 1, &upload).assert_rejection(401, "UNAUTHORIZED");
    }
}

fn preflight(origin: &str) -> TestRequest {
    TestRequest::new("OPTIONS", "/v2/a/manifests/x")
        .header("origin", origin)
        .header("access-control-request-method", "DELETE")
        .header("access-control-request-headers", "authorization,x-a")
}

#[test]
fn a_page_of_a_configured_origin_gets_cors_fields() {
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
            let rejected = exchange(
                &proxy,
                http,
                &TestRequest::new("GET", "/v2/").header("origin", origin),
            );
            rejected.assert_rejection(401, "UNAUTHORIZED");
            let list = TestRequest::alice("GET", "/v2/_catalog").header("origin", origin);
            let listed = exchange(&proxy, http, &list);
            for response in [&rejected, &listed] {
                assert_eq!(response.header("access-control-allow-origin"), origin);
                assert_eq!(response.header("access-control-allow-credentials"), "true");
                let exposed = response.header("access-control-expose-headers");
                assert!(exposed.contains("Docker-Content-Digest"), "{exposed}");
                assert!(response.header_values("vary").contains(&"origin"));
            }
            assert!(listed.header_values("vary").contains(&"Accept"));
        }
    }
}

#[test]
fn a_page_of_another_origin_gets_no_cors_fields() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("", "cors = [\"https://ui.example\"]"));
    let without_cors = Proxy::with_defaults(&registry);
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
        // Without `cors` the response does not even have `Vary`.
        let response = exchange(&without_cors, http, &preflight("https://ui.example"));
        assert!(response.status == 401 && !response.has_header("vary"));
    }
}
