//! Queries: reduced to what the API knows, in one spelling, and with no second repository let through unseen.

use crate::support::{DIGEST, HttpVersion, Proxy, Registry, TestRequest, config, exchange};

const UPLOADS: &str = "/v2/dev/a/blobs/uploads/";
const UPLOAD: &str = "/v2/dev/a/blobs/uploads/u";

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let long = "a".repeat(300);
    assert_rejected(&[
        (
            UPLOADS,
            &format!("mount={DIGEST}&from=a&from=b"),
            "UNSUPPORTED",
        ),
        (
            UPLOADS,
            &format!("from=b&mount={DIGEST}&from=a"),
            "UNSUPPORTED",
        ),
        (
            UPLOADS,
            &format!("from=a&mount={DIGEST}&%66rom=b"),
            "UNSUPPORTED",
        ),
        (
            UPLOADS,
            &format!("mount={DIGEST}&mount={DIGEST}"),
            "UNSUPPORTED",
        ),
        (
            UPLOADS,
            &format!("mount={DIGEST}&a;from=secret/repo"),
            "UNSUPPORTED",
        ),
        (UPLOADS, "a=%zz", "UNSUPPORTED"),
        (UPLOADS, "a=%00", "UNSUPPORTED"),
        (UPLOADS, "a=%FF", "UNSUPPORTED"),
        (
            UPLOADS,
            &format!("mount={DIGEST}&from=../secret"),
            "NAME_INVALID",
        ),
        (
            UPLOADS,
            &format!("mount={DIGEST}&from=Secret/x"),
            "NAME_INVALID",
        ),
        (
            UPLOADS,
            &format!("mount={DIGEST}&from={long}"),
            "NAME_INVALID",
        ),
        (
            UPLOADS,
            &format!("mount={DIGEST}&from=secret%2Frepo%00"),
            "UNSUPPORTED",
        ),
        (UPLOADS, "mount=sha256:abc&from=b", "DIGEST_INVALID"),
        (UPLOAD, "digest=latest", "DIGEST_INVALID"),
        (
            UPLOAD,
            &format!("digest={DIGEST}&digest={DIGEST}"),
            "UNSUPPORTED",
        ),
    ]);
}

fn assert_rejected(cases: &[(&str, &str, &str)]) {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for (path, query, code) in cases {
            let request = TestRequest::alice("POST", &format!("{path}?{query}"));
            exchange(&proxy, http, &request).assert_rejection(400, code);
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn what_is_forwarded_is_what_was_read() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let state = format!("{}+%2B/%2F%3D==", "aZ09-_~.".repeat(128));
    let canonical = format!("{}%20%2B%2F%2F%3D%3D%3D", "aZ09-_~.".repeat(128));
    let both = format!("?mount={DIGEST}&from=pub/ok");
    let sent = format!("?mount={DIGEST}&from=pub%2Fok");
    let escaped = format!("?from=pub%2Fok&mount={}", DIGEST.replace(':', "%3a"));
    let alone = format!("?mount={DIGEST}");
    let hidden = format!("?_state=s&mount={DIGEST}&from=secret/repo");
    let crane = format!("?mount={DIGEST}&from=pub/ok&origin=index.docker.io");
    let cases = [
        ("POST", UPLOADS, both.as_str(), sent.as_str()),
        ("POST", UPLOADS, &escaped, &sent),
        ("POST", UPLOADS, &alone, &alone),
        ("POST", UPLOADS, "?from=secret/repo", ""),
        ("POST", UPLOADS, "?mount=&from=secret/repo", ""),
        (
            "POST",
            UPLOADS,
            &crane,
            &format!("{sent}&origin=index.docker.io"),
        ),
        ("POST", UPLOAD, &hidden, "?_state=s"),
        ("PUT", UPLOAD, &hidden, "?_state=s"),
        (
            "PATCH",
            UPLOAD,
            &format!("?_state={state}"),
            &format!("?_state={canonical}"),
        ),
        (
            "PUT",
            UPLOAD,
            &format!("?_state=x&digest={}", DIGEST.replace(':', "%3A")),
            &format!("?digest={DIGEST}&_state=x"),
        ),
        ("POST", UPLOADS, "?", ""),
        ("POST", UPLOADS, "?&&unknown&x=y", ""),
    ];
    for http in HttpVersion::BOTH {
        for (method, path, query, expected) in cases {
            let answer = exchange(
                &proxy,
                http,
                &TestRequest::alice(method, &format!("{path}{query}")),
            );
            assert_eq!(answer.status, 200, "{query}: {}", answer.text());
            let seen = registry.requests().pop().unwrap();
            assert_eq!(seen.target, format!("{path}{expected}"), "{method} {query}");
        }
    }
}

/// The registry writes a URL, the client follows it, and the registry gets back what it wrote.
#[test]
fn what_the_registry_puts_into_a_url_comes_back_to_it() {
    let cases = [
        (
            "POST",
            UPLOADS,
            "location",
            "PATCH",
            "/v2/dev/a/blobs/uploads/u?_state=a%2Bb%3D",
        ),
        (
            "POST",
            UPLOADS,
            "location",
            "PUT",
            "/v2/dev/a/blobs/uploads/u?session=x%2By&part=1&part=2",
        ),
        (
            "POST",
            UPLOADS,
            "location",
            "GET",
            "/v2/dev/a/blobs/uploads/u?X-Amz-Signature=0f&next=1",
        ),
        (
            "PATCH",
            UPLOAD,
            "location",
            "DELETE",
            "/v2/dev/a/blobs/uploads/u?_nonce=n~1.0-a_b",
        ),
        (
            "GET",
            "/v2/a/tags/list?n=1",
            "link",
            "GET",
            "/v2/a/tags/list?n=1&next_page=gAAA%3D%3D",
        ),
        (
            "GET",
            "/v2/a/tags/list?n=1",
            "link",
            "GET",
            "/v2/a/tags/list?n=1&last=b",
        ),
        (
            "GET",
            "/v2/_catalog",
            "link",
            "GET",
            "/v2/_catalog?n=1&last=a%2Fb&orderby=name",
        ),
    ];
    for (method, target, field, then, url) in cases {
        let value = match field {
            "link" => format!("Link: <{url}>; rel=\"next\""),
            _ => format!("Location: {url}"),
        };
        let registry = Registry::responding(format!(
            "HTTP/1.1 200 OK\r\n{value}\r\nContent-Length: 0\r\n\r\n"
        ));
        let proxy = Proxy::with_defaults(&registry);
        for http in HttpVersion::BOTH {
            let answer = exchange(&proxy, http, &TestRequest::alice(method, target));
            let value = answer.header(field);
            let value = value.strip_prefix('<').unwrap_or(value);
            let followed = value.split('>').next().unwrap();
            assert_eq!(followed, url);
            let answer = exchange(&proxy, http, &TestRequest::alice(then, followed));
            assert_eq!(answer.status, 200, "{followed}: {}", answer.text());
            assert_eq!(registry.requests().pop().unwrap().target, url);
        }
    }
}

/// Neither under another spelling, which another parser might take for them.
#[test]
fn no_parameter_of_an_upload_opens_a_mount() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mount = format!("mount={DIGEST}&from=secret/repo&origin=x");
    for query in [
        mount.clone(),
        mount.replace("mount", "Mount").replace("from", "FROM"),
        mount.replace("mount", "m%6funt").replace("from", "fro%6D"),
        mount.replace("mount", "m%4Funt").replace("from", "%46rom"),
        mount
            .replace("mount", "mount%5B%5D")
            .replace("from", "from[0]"),
        mount.replace("mount", "%20mount").replace("from", "+from"),
        mount
            .replace("mount", "mo%2575nt")
            .replace("from", "f%2572om"),
    ] {
        for http in HttpVersion::BOTH {
            for method in ["POST", "PUT", "PATCH", "GET", "DELETE"] {
                let target = format!("{UPLOAD}?_state=s&{query}&session=x");
                let answer = exchange(&proxy, http, &TestRequest::alice(method, &target));
                assert_eq!(answer.status, 200, "{query}: {}", answer.text());
                let sent = registry.requests().pop().unwrap().target.to_lowercase();
                for word in ["mount", "from", "rom=", "secret", "digest", "sha256"] {
                    assert!(!sent.contains(word), "{query}: {sent}");
                }
                assert!(sent.contains("_state=s") && sent.contains("session=x"));
            }
        }
    }
}

#[test]
fn a_push_by_digest_sets_the_tags_that_it_names() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let manifest = format!("/v2/a/manifests/{DIGEST}");
    let many = |count: usize| format!("?{}", vec!["tag=x"; count].join("&"));
    for http in HttpVersion::BOTH {
        for (query, sent) in [
            ("?tag=v1&tag=latest", "?tag=v1&tag=latest"),
            ("?t%61g=v1&x=1&tag=v1", "?tag=v1&tag=v1"),
            (&many(64), &many(64)),
        ] {
            let push = TestRequest::alice("PUT", &format!("{manifest}{query}")).body("{}");
            assert_eq!(exchange(&proxy, http, &push).status, 200, "{query}");
            let seen = registry.requests().pop().unwrap().target;
            assert_eq!(seen, format!("{manifest}{sent}"));
        }
        let before = registry.requests().len();
        for (path, query, status, code) in [
            (&*manifest, "?tag=v1&tag=.x", 400, "TAG_INVALID"),
            (&manifest, "?tag=", 400, "TAG_INVALID"),
            (&manifest, "?tag=a%2Fb", 400, "TAG_INVALID"),
            (&manifest, "?tag=v1;tag=v2", 400, "UNSUPPORTED"),
            (&manifest, &many(65), 414, "TAG_INVALID"),
            ("/v2/a/manifests/v1", "?tag=v2", 400, "UNSUPPORTED"),
        ] {
            let push = TestRequest::alice("PUT", &format!("{path}{query}")).body("{}");
            exchange(&proxy, http, &push).assert_rejection(status, code);
        }
        assert_eq!(registry.requests().len(), before);
        // A read sets none.
        let read = TestRequest::alice("GET", &format!("{manifest}?tag=v1"));
        assert_eq!(exchange(&proxy, http, &read).status, 200);
        assert_eq!(registry.requests().pop().unwrap().target, manifest);
    }
}

#[test]
fn a_form_is_no_upload() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let form = format!("mount={DIGEST}&from=secret/repo");
    for http in HttpVersion::BOTH {
        for (method, path) in [
            ("POST", UPLOADS),
            ("POST", UPLOAD),
            ("PUT", UPLOAD),
            ("PATCH", UPLOAD),
        ] {
            for kind in [
                "application/x-www-form-urlencoded",
                "Application/X-WWW-Form-Urlencoded; charset=utf-8",
                "multipart/form-data; boundary=x",
            ] {
                let request = TestRequest::alice(method, path).header("content-type", kind);
                let request = request.body(form.as_bytes());
                exchange(&proxy, http, &request).assert_rejection(415, "UNSUPPORTED");
                exchange(&proxy, http, &request.chunked()).assert_rejection(415, "UNSUPPORTED");
            }
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn an_upload_is_bytes_whatever_the_client_calls_it() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for kind in ["application/json", "text/plain", ""] {
            let mut request = TestRequest::alice("POST", UPLOADS).body("{}");
            if !kind.is_empty() {
                request = request.header("content-type", kind);
            }
            assert_eq!(exchange(&proxy, http, &request).status, 200);
            let seen = registry.requests().pop().unwrap();
            assert_eq!(seen.header("content-type"), "application/octet-stream");
            assert_eq!(seen.body, b"{}");
        }
        // curl -d '' and docker say it of no body at all.
        let empty = TestRequest::alice("POST", UPLOADS)
            .header("content-type", "application/x-www-form-urlencoded")
            .body("");
        assert_eq!(exchange(&proxy, http, &empty).status, 200);
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.header("content-type"), "application/octet-stream");
        assert_eq!(seen.header("content-length"), "0");
        // A manifest's type is the registry's business.
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = TestRequest::alice("PUT", "/v2/a/manifests/x")
            .header("content-type", kind)
            .body("{}");
        assert_eq!(exchange(&proxy, http, &manifest).status, 200);
        assert_eq!(
            registry.requests().pop().unwrap().header("content-type"),
            kind
        );
    }
}

#[test]
fn a_mount_from_under_another_route_becomes_a_plain_upload() {
    let registry = Registry::accepting_all();
    let open = "[[site.route]]\npath = \"/v2/up/\"\nupstream = \"{upstream}\"\nauth = { mode = \"none\" }\n";
    let proxy = Proxy::start(&registry, format!("{}\n{open}", config("", "")));
    let digest = format!("sha256:{}", "a".repeat(64));
    let start = |name: &str, query: &str| format!("/v2/{name}/blobs/uploads/{query}");
    for (request, forwarded) in [
        // Nobody reads a closed repository through an open one, with its name or without.
        (
            TestRequest::new(
                "POST",
                &start("up/x", &format!("?mount={digest}&from=secret/repo")),
            ),
            start("up/x", ""),
        ),
        (
            TestRequest::new("POST", &start("up/x", &format!("?mount={digest}"))),
            start("up/x", ""),
        ),
        (
            TestRequest::alice("POST", &start("a", &format!("?mount={digest}&from=up/x"))),
            start("a", ""),
        ),
        // Within a route a mount is a mount.
        (
            TestRequest::new(
                "POST",
                &start("up/x", &format!("?mount={digest}&from=up/y")),
            ),
            start("up/x", &format!("?mount={digest}&from=up%2Fy")),
        ),
        (
            TestRequest::alice(
                "POST",
                &start("a", &format!("?mount={digest}&from=secret/repo")),
            ),
            start("a", &format!("?mount={digest}&from=secret%2Frepo")),
        ),
    ] {
        for http in HttpVersion::BOTH {
            assert_eq!(exchange(&proxy, http, &request).status, 200);
            let target = registry.requests().pop().unwrap().target;
            assert_eq!(
                target.replace(&digest, "D").replace("%3A", ":"),
                forwarded.replace(&digest, "D")
            );
        }
    }
}
