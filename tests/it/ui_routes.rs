//! Routes of user interfaces: fields about the client, the host of the upstream, and a path of the upstream's own.

use crate::support::{
    HttpVersion, Proxy, RecordedRequest, Registry, TestRequest, config, exchange,
};

const OPEN: &str = "auth = { mode = \"none\" }\nallow = [\"all\"]";

/// The proxy with the registry at `/v2/`, and the lines as the route of a user interface.
fn with_route(registry: &Registry, lines: &str) -> Proxy {
    let route = format!("[[site.route]]\nregistry = false\n{lines}");
    Proxy::start(registry, config("", &route))
}

fn last(registry: &Registry) -> RecordedRequest {
    registry.requests().pop().unwrap()
}

#[test]
fn request_fields_name_the_client_and_the_user() {
    let registry = Registry::accepting_all();
    let fields = "request_headers = { \"X-Remote-User\" = \"{user}\", \"X-Seen\" = \"{scheme}://{host} from {client}\" }";
    let open = format!(
        "[[site.route]]\npath = \"/open/\"\nupstream = \"{{upstream}}\"\nregistry = false\n{OPEN}\n\
                        request_headers = {{ \"X-Remote-User\" = \"\", \"X-Seen\" = \"{{client}}\" }}"
    );
    let proxy = Proxy::start(&registry, config("", fields).append(&open));
    for http in HttpVersion::BOTH {
        let forged = TestRequest::alice("GET", "/v2/a/tags/list")
            .host("localhost:8443")
            .header("x-remote-user", "root")
            .header("x-seen", "forged");
        assert_eq!(exchange(&proxy, http, &forged).status, 200);
        let seen = last(&registry);
        assert_eq!(seen.all("x-remote-user"), ["alice"]);
        assert_eq!(seen.all("x-seen"), ["https://localhost from 127.0.0.1"]);
        let forged = TestRequest::new("GET", "/open/").header("x-remote-user", "root");
        assert_eq!(exchange(&proxy, http, &forged).status, 200);
        assert!(last(&registry).all("x-remote-user").is_empty());
    }
}

/// With `satisfy = "any"`, a client of the network has no user: a forged name must not take the place.
#[test]
fn without_a_user_the_field_is_removed() {
    let registry = Registry::accepting_all();
    let lines = "allow = [\"127.0.0.1\"]\nsatisfy = \"any\"\nrequest_headers = { \"X-Remote-User\" = \"{user}\" }";
    let proxy = Proxy::start(&registry, config("", lines));
    let forged = TestRequest::new("GET", "/v2/").header("x-remote-user", "root");
    for http in HttpVersion::BOTH {
        assert_eq!(exchange(&proxy, http, &forged).status, 200);
        assert!(last(&registry).all("x-remote-user").is_empty());
    }
}

#[test]
fn forwarded_fields_are_set_where_they_are_named() {
    let registry = Registry::accepting_all();
    let all = "forwarded = [\"host\", \"port\", \"prefix\", \"original-uri\"]";
    let lines = format!("path = \"/ui/\"\nupstream = \"{{upstream}}/app/\"\n{OPEN}\n{all}");
    let proxy = with_route(&registry, &lines);
    let forged = |target| {
        TestRequest::alice("GET", target)
            .host("localhost:8443")
            .header("x-forwarded-host", "evil.example")
            .header("x-forwarded-port", "1")
            .header("x-forwarded-prefix", "/evil")
            .header("x-original-uri", "/evil")
    };
    for http in HttpVersion::BOTH {
        assert_eq!(exchange(&proxy, http, &forged("/ui//x?y=%2f")).status, 200);
        let seen = last(&registry);
        assert_eq!(seen.target, "/app//x?y=%2f");
        assert_eq!(seen.all("x-forwarded-host"), ["localhost:8443"]);
        assert_eq!(seen.all("x-forwarded-port"), ["8443"]);
        assert_eq!(seen.all("x-forwarded-prefix"), ["/ui"]);
        assert_eq!(seen.all("x-original-uri"), ["/ui//x?y=%2f"]);
        // The registry's route does not name them.
        assert_eq!(exchange(&proxy, http, &forged("/v2/")).status, 200);
        let names = last(&registry).header_names();
        assert!(!names.iter().any(|name| name.starts_with("x-original")
            || matches!(
                name.as_str(),
                "x-forwarded-host" | "x-forwarded-port" | "x-forwarded-prefix"
            )));
    }
}

#[test]
fn the_upstream_gets_the_host_that_is_configured() {
    let registry = Registry::start(|exchange| {
        let host = exchange.head.header("host").to_owned();
        exchange.send(format!(
            "HTTP/1.1 202 Accepted\r\nLocation: http://{host}/v2/a/blobs/uploads/u\r\nContent-Length: 0\r\n\r\n"
        ));
    });
    let authority = registry.authority().to_owned();
    for (host, expected) in [
        ("client", "localhost:8443"),
        ("upstream", authority.as_str()),
        ("registry.internal:5000", "registry.internal:5000"),
    ] {
        let upstream = format!("{{ urls = [\"{{upstream}}\"], host = \"{host}\" }}");
        let proxy = Proxy::start(&registry, config("", "").set("upstream", upstream));
        for http in HttpVersion::BOTH {
            let start = TestRequest::alice("POST", "/v2/a/blobs/uploads/").host("localhost:8443");
            let answer = exchange(&proxy, http, &start);
            assert_eq!(last(&registry).all("host"), [expected]);
            // Whatever host the upstream got, clients continue at the proxy.
            assert_eq!(
                answer.header("location"),
                "https://localhost:8443/v2/a/blobs/uploads/u"
            );
        }
    }
}

#[test]
fn the_path_of_the_upstream_replaces_the_path_of_the_route() {
    let registry = Registry::accepting_all();
    let lines = format!("path = \"/ui/\"\nupstream = \"{{upstream}}/app/\"\n{OPEN}");
    let proxy = with_route(&registry, &lines);
    for http in HttpVersion::BOTH {
        for (target, sent) in [
            ("/ui/x?a=/ui/", "/app/x?a=/ui/"),
            ("/ui", "/app"),
            ("/ui/", "/app/"),
            ("//ui//x%2Fy", "/app//x%2Fy"),
            ("/%75i/x", "/app/x"),
            ("/ui;a=b/x;c", "/app/x;c"),
        ] {
            assert_eq!(
                exchange(&proxy, http, &TestRequest::new("GET", target)).status,
                200
            );
            assert_eq!(last(&registry).target, sent, "{target}");
        }
        let before = registry.requests().len();
        for (target, status) in [
            ("/ui%2Fx", 400),
            ("/ui/../v2/_catalog", 400),
            ("/ui/%2e%2e/v2/_catalog", 400),
            ("/uix", 404),
            ("/app/x", 404),
        ] {
            let answer = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(answer.status, status, "{target}: {answer:?}");
        }
        // The registry keeps its path and its password.
        let registry_request = TestRequest::new("GET", "/v2/a/tags/list");
        exchange(&proxy, http, &registry_request).assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(registry.requests().len(), before);
    }
}

#[test]
fn paths_in_responses_are_mapped_back() {
    let registry = Registry::start(|exchange| {
        let authority = exchange.head.header("x-authority").to_owned();
        exchange.send(format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{authority}/app/login?next=/app/\r\n\
             Content-Location: /app/index\r\nRefresh: 5; URL=\"/app/soon\"\r\n\
             Set-Cookie: a=/app/; Path=/app/; HttpOnly\r\nSet-Cookie: b=c; Path=/other\r\nContent-Length: 0\r\n\r\n"
        ));
    });
    let lines = format!("path = \"/ui/\"\nupstream = \"{{upstream}}/app/\"\n{OPEN}");
    let proxy = with_route(&registry, &lines);
    for http in HttpVersion::BOTH {
        let request = TestRequest::new("GET", "/ui/x").header("x-authority", registry.authority());
        let answer = exchange(&proxy, http, &request);
        assert_eq!(
            answer.header("location"),
            "https://localhost/ui/login?next=/app/"
        );
        assert_eq!(answer.header("content-location"), "/ui/index");
        assert_eq!(answer.header("refresh"), "5; URL=\"/ui/soon\"");
        assert_eq!(
            answer.header_values("set-cookie"),
            ["a=/app/; Path=/ui; HttpOnly", "b=c; Path=/other"]
        );
        // Another server's path is its own, and `//` begins a host.
        for foreign in ["sso.example.com", "/evil.example"] {
            let request = TestRequest::new("GET", "/ui/x").header("x-authority", foreign);
            let location = exchange(&proxy, http, &request)
                .header("location")
                .to_owned();
            assert_eq!(location, format!("http://{foreign}/app/login?next=/app/"));
        }
    }
}
