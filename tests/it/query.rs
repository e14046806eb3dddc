//! The query of a request: the proxy forwards only the parameters of the registry API, in one canonical spelling, and no
//! parameter names a second repository unless the proxy has checked the rights to it.

use crate::support::{DIGEST, HttpVersion, Proxy, Registry, TestRequest, config, exchange};

const UPLOADS: &str = "/v2/dev/a/blobs/uploads/";
const UPLOAD: &str = "/v2/dev/a/blobs/uploads/u";

#[test]
fn an_ambiguous_or_invalid_query_gets_400() {
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
fn the_forwarded_query_has_the_known_parameters_in_canonical_form() {
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
            let response = exchange(
                &proxy,
                http,
                &TestRequest::alice(method, &format!("{path}{query}")),
            );
            assert_eq!(response.status, 200, "{query}: {}", response.text());
            let seen = registry.requests().pop().unwrap();
            assert_eq!(seen.target, format!("{path}{expected}"), "{method} {query}");
        }
    }
}

/// A client follows a `Location` or `Link` of the registry, and the registry gets its own target back.
#[test]
fn parameters_of_the_registry_in_a_url_are_forwarded_back_to_it() {
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
            let response = exchange(&proxy, http, &TestRequest::alice(method, target));
            let value = response.header(field);
            let value = value.strip_prefix('<').unwrap_or(value);
            let followed = value.split('>').next().unwrap();
            assert_eq!(followed, url);
            let next = exchange(&proxy, http, &TestRequest::alice(then, followed));
            assert_eq!(next.status, 200, "{followed}: {}", next.text());
            assert_eq!(registry.requests().pop().unwrap().target, url);
        }
    }
}

/// The spellings are those that another parser might treat as `mount` and `from`.
#[test]
fn mount_parameters_on_an_open_upload_are_removed() {
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
                let response = exchange(&proxy, http, &TestRequest::alice(method, &target));
                assert_eq!(response.status, 200, "{query}: {}", response.text());
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
        // A GET sets no tags, so the proxy removes the parameter.
        let read = TestRequest::alice("GET", &format!("{manifest}?tag=v1"));
        assert_eq!(exchange(&proxy, http, &read).status, 200);
        assert_eq!(registry.requests().pop().unwrap().target, manifest);
    }
}

#[test]
fn an_upload_with_a_form_as_its_body_gets_415() {
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
fn the_content_type_of_an_upload_becomes_octet_stream() {
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
        // docker and `curl -d ''` send this content type with an empty body.
        let empty = TestRequest::alice("POST", UPLOADS)
            .header("content-type", "application/x-www-form-urlencoded")
            .body("");
        assert_eq!(exchange(&proxy, http, &empty).status, 200);
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.header("content-type"), "application/octet-stream");
        assert_eq!(seen.header("content-length"), "0");
        // The content type of a manifest is forwarded unchanged.
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
        // A mount into an open repository must not make a closed repository readable, whether `from` names it or not.
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
        // A mount within one route is forwarded.
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
