//! Tests of the grammar as tables, one for each rule. `properties` has what is true of all input.

use http::Method;

use super::*;

mod properties;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn digest() -> String {
    format!("sha256:{HEX}")
}

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).unwrap()
}

fn parse(name: &str, target: &str) -> Result<Parsed, RegistryError> {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    Operation::parse(&method(name), path, query)
}

#[track_caller]
fn accept(name: &str, target: &str) -> Operation {
    match parse(name, target) {
        Ok(Parsed::Operation(operation)) => operation,
        other => panic!("{name} {target}: {other:?}"),
    }
}

#[track_caller]
fn parse_error(name: &str, target: &str) -> RegistryError {
    match parse(name, target) {
        Err(invalid) => invalid,
        other => panic!("{name} {target}: {other:?}"),
    }
}

/// The catalogue of endpoints: methods, path after `/v2/` (`D` a digest), action, repository.
const ENDPOINTS: [(&str, &str, Action, Option<&str>); 17] = [
    ("GET HEAD OPTIONS", "", Action::Ping, None),
    (
        "GET HEAD OPTIONS",
        "a/b/manifests/latest",
        Action::Pull,
        Some("a/b"),
    ),
    ("GET HEAD OPTIONS", "a/manifests/D", Action::Pull, Some("a")),
    ("PUT", "a/manifests/latest", Action::Push, Some("a")),
    ("PUT", "a/manifests/D", Action::Push, Some("a")),
    ("DELETE", "a/manifests/D", Action::Delete, Some("a")),
    ("DELETE", "a/manifests/latest", Action::Delete, Some("a")),
    ("GET HEAD OPTIONS", "a/blobs/D", Action::Pull, Some("a")),
    ("DELETE", "a/blobs/D", Action::Delete, Some("a")),
    ("POST OPTIONS", "a/blobs/uploads/", Action::Push, Some("a")),
    ("POST", "a/blobs/uploads/?digest=D", Action::Push, Some("a")),
    (
        "POST",
        "a/blobs/uploads/?mount=D&from=b",
        Action::Push,
        Some("a"),
    ),
    (
        "GET HEAD OPTIONS PATCH PUT POST DELETE",
        "a/blobs/uploads/x-1?_state=s",
        Action::Push,
        Some("a"),
    ),
    (
        "PUT",
        "a/blobs/uploads/x-1?digest=D&_state=s",
        Action::Push,
        Some("a"),
    ),
    (
        "GET OPTIONS",
        "a/tags/list?n=1&last=x",
        Action::Pull,
        Some("a"),
    ),
    ("GET OPTIONS", "_catalog?n=1&last=x", Action::Catalog, None),
    (
        "GET OPTIONS",
        "a/referrers/D?artifactType=t",
        Action::Pull,
        Some("a"),
    ),
];

#[test]
fn each_endpoint_requires_its_action() {
    for (methods, path, action, repository) in ENDPOINTS {
        let target = format!("/v2/{}", path.replace('D', &digest()));
        for name in methods.split(' ') {
            let operation = accept(name, &target);
            assert_eq!(
                (operation.action(), operation.repository()),
                (action, repository),
                "{name} {target}"
            );
            assert_eq!(
                operation.is_upload(),
                path.contains("/uploads/"),
                "{target}"
            );
        }
    }
}

#[test]
fn other_methods_get_the_allow_list() {
    let cases = [
        (
            "/v2/",
            "GET, HEAD, OPTIONS",
            "POST PUT PATCH DELETE TRACE FOO get",
        ),
        ("/v2/_catalog", "GET, OPTIONS", "HEAD POST DELETE"),
        ("/v2/a/tags/list", "GET, OPTIONS", "HEAD POST get Get"),
        ("/v2/a/referrers/D", "GET, OPTIONS", "HEAD PUT"),
        (
            "/v2/a/manifests/x",
            "GET, HEAD, OPTIONS, PUT, DELETE",
            "POST PATCH put TRACE CONNECT",
        ),
        (
            "/v2/a/blobs/D",
            "GET, HEAD, OPTIONS, DELETE",
            "POST PUT PATCH",
        ),
        (
            "/v2/a/blobs/uploads/",
            "OPTIONS, POST",
            "GET HEAD PUT PATCH DELETE post",
        ),
        ("/v2/a/blobs/uploads", "OPTIONS, POST", "GET HEAD PUT"),
        (
            "/v2/a/blobs/uploads/u",
            "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE",
            "TRACE FOO patch",
        ),
    ];
    for (path, allow, methods) in cases {
        for name in methods.split(' ') {
            assert_eq!(
                parse_error(name, &path.replace('D', &digest())),
                RegistryError::Method { allow },
                "{name} {path}"
            );
        }
    }
}

#[test]
fn names_are_parsed_from_the_right() {
    let cases = [
        ("GET", "/v2/a/manifests/b/manifests/c", "a/manifests/b"),
        ("GET", "/v2/a/manifests/tags/list", "a/manifests"),
        ("GET", "/v2/a/blobs/uploads/manifests/x", "a/blobs/uploads"),
        ("GET", "/v2/a/tags/list/tags/list", "a/tags/list"),
        (
            "PATCH",
            "/v2/a/blobs/uploads/blobs/uploads/u",
            "a/blobs/uploads",
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/blobs/uploads/",
            "a/blobs/uploads",
        ),
        ("POST", "/v2/a/blobs/blobs/uploads", "a/blobs"),
        ("GET", "/v2/manifests/manifests/manifests", "manifests"),
        ("PATCH", "/v2/a/blobs/uploads/manifests", "a"),
        ("GET", "/v2/v2/tags/list", "v2"),
    ];
    for (name, target, repository) in cases {
        assert_eq!(
            accept(name, target).repository(),
            Some(repository),
            "{target}"
        );
    }
    assert_eq!(
        *accept("PATCH", "/v2/a/blobs/uploads/uploads").resource(),
        Resource::Upload {
            id: "uploads".into()
        }
    );
}

#[test]
fn ambiguous_paths_are_errors() {
    let cases = [
        "/v2/./secret/tags/list",
        "/v2/a/../b/tags/list",
        "/v2/a/%2e%2e/b/tags/list",
        "/v2/a/.%2E/b/tags/list",
        "/v2/a%2F..%2Fb/tags/list",
        "/foo/../v2/",
        "/v2/..",
        "/v2/a/tags%2flist",
        "/v2/a%2Ftags%2Flist",
        "/v2%2Fa/tags/list",
        "/v2/a/blobs%2Fuploads/u",
        "/v2/a/blobs/uploads%2Fu/x",
        "/v2/%2E%2E/tags/list",
        "/v2/a%2F./tags/list",
        "/v2/a%2F%2E%2E/tags/list",
        "/v2/a%5C%2E%2E%5Cb/tags/list",
        "/v2/a%252Fb/tags/list",
        "/v2/a%2F%252E%252E%2Fb/tags/list",
        "/v2/a/manifests%2Flatest",
        "/v2/secret%252Frepo/tags/list",
        "/v2/a/tags/list%zz",
        "/v2/a/tags/list%",
        "/v2/a/tags/list%2",
        "/v2/a/tags/list%00",
        "/v2/a/tags/list%20",
        "/v2/a/tags/list%3Bx",
        "/v2/a/tags/list%7f",
        "/v2/a/%C3%BC/tags/list",
        "/v2/a%5Cb/tags/list",
        "/v2/a\\b/tags/list",
        "/v2/ü/tags/list",
        "/v2/a/tags/list#frag",
        "/v2/a b/tags/list",
        "/v2/a\r\nb/tags/list",
        "/v2/a\x7f/tags/list",
        "/v2%2F",
        "/v2/%2e/tags/list",
    ];
    for target in cases {
        assert!(
            matches!(parse_error("GET", target), RegistryError::Path(_)),
            "{target:?}"
        );
    }
}

#[test]
fn an_escaped_slash_separates_the_components_of_a_name() {
    let plain = accept("GET", "/v2/team/app/x/tags/list");
    for spelling in ["team%2Fapp%2Fx", "team%2fapp/x", "team/app%2Fx"] {
        let operation = accept("GET", &format!("/v2/{spelling}/tags/list"));
        assert_eq!(operation, plain, "{spelling}");
        assert_eq!(operation.target(), "/v2/team/app/x/tags/list");
    }
    // A name may contain words of the API, with or without escapes.
    for (target, repository) in [
        ("/v2/a%2Fmanifests%2Fx/manifests/y", "a/manifests/x"),
        ("/v2/a%2Ftags%2Flist/tags/list", "a/tags/list"),
    ] {
        assert_eq!(accept("GET", target).repository(), Some(repository));
    }
    // A name with an empty component is invalid.
    for target in [
        "/v2/%2Fa/tags/list",
        "/v2/a%2F/tags/list",
        "/v2/a%2F%2Fb/tags/list",
        "/v2/a%2F/b/tags/list",
        "/v2/%2F/tags/list",
    ] {
        assert!(
            matches!(parse_error("GET", target), RegistryError::Name(_)),
            "{target}"
        );
    }
    // Elsewhere an escaped slash is an error.
    let upload = parse_error("PATCH", "/v2/a/blobs/uploads/u%2Fx");
    assert_eq!(
        upload,
        RegistryError::Path("an escaped slash outside of the repository name")
    );
    assert_eq!(
        parse_error("PUT", "/v2/a/manifests/x%2Fy"),
        RegistryError::Tag
    );
    assert_eq!(
        parse_error("GET", "/v2/a/blobs/md5:x%2Fy"),
        RegistryError::Digest
    );
}

#[test]
fn a_read_with_an_empty_segment_is_redirected() {
    for (target, plain) in [
        ("//v2/", "/v2/"),
        ("//v2", "/v2/"),
        ("/v2//", "/v2/"),
        ("///v2///", "/v2/"),
        ("/v2//a/b/tags/list", "/v2/a/b/tags/list"),
        (
            "/v2/a//b/tags//list//?n=1&x=//",
            "/v2/a/b/tags/list?n=1&x=//",
        ),
        ("//v2/a%2Fb/manifests/latest", "/v2/a/b/manifests/latest"),
        ("//v2//_catalog", "/v2/_catalog"),
    ] {
        for name in ["GET", "HEAD"] {
            match parse(name, target) {
                Ok(Parsed::Redirect { location, .. }) => assert_eq!(location, plain, "{target}"),
                other => panic!("{name} {target}: {other:?}"),
            }
        }
        for name in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let invalid = parse_error(name, target);
            assert!(matches!(invalid, RegistryError::Path(_)), "{name} {target}");
            assert!(invalid.to_string().contains("two slashes"), "{invalid}");
        }
    }
    // The URL of an upload has only one form.
    for target in ["/v2//a/blobs/uploads/u", "/v2//a/blobs/uploads/"] {
        assert!(
            matches!(parse_error("GET", target), RegistryError::Path(_)),
            "{target}"
        );
    }
    // A URL without a scheme, with a host, is not a path of the API.
    assert_eq!(
        parse_error("GET", "//evil.example/v2/"),
        RegistryError::NotFound
    );
}

#[test]
fn a_read_of_an_impossible_manifest_needs_the_rights_of_a_read_of_its_repository() {
    let upper = format!("sha256:{}", HEX.to_uppercase());
    for reference in [
        ".INVALID",
        "-x",
        "a%40b",
        "a;b",
        "x%2Fy",
        "sha256:abc",
        &upper,
    ] {
        for end in ["", "/", "?n=1"] {
            let target = format!("/v2/a/b/manifests/{reference}{end}");
            for name in ["GET", "HEAD"] {
                let Ok(Parsed::Missing { operation, invalid }) = parse(name, &target) else {
                    panic!("{name} {target}");
                };
                assert_eq!(invalid, RegistryError::UnknownManifest);
                assert_eq!(
                    (operation.action(), operation.repository()),
                    (Action::Pull, Some("a/b"))
                );
            }
            for name in ["PUT", "DELETE", "OPTIONS", "PATCH"] {
                let invalid = parse_error(name, &target);
                assert!(
                    matches!(invalid, RegistryError::Tag | RegistryError::Digest),
                    "{name} {target}: {invalid}"
                );
            }
        }
    }
    // The error of an invalid name comes first.
    assert!(matches!(
        parse_error("GET", "/v2/A/manifests/.INVALID"),
        RegistryError::Name(_)
    ));
}

#[test]
fn unknown_endpoints_are_not_found() {
    let cases = [
        "/",
        "",
        "v2/",
        "/V2/",
        "/v20/",
        "/v1/_ping",
        "/v2/a",
        "/v2/a/b",
        "/v2/a/Tags/list",
        "/v2/a/tags/list;x",
        "/v2/a/tags/list%23frag",
        "/v2/a/tags/list%3Fn=1",
        "/v2/a/tags/lists",
        "/v2/tags",
        "/v2/a/manifests",
        "/v2/a/manifests/",
        "/v2/a/blobs",
        "/v2/a/blobs/uploads/x/y",
        "/v2/a/blobs/uploads/%40",
        "/v2/_catalog/x",
        "/v2/a/blobs/uploads/u/",
        "http:/evil/v2/_catalog",
        "/extensions/v2/a/signatures/x",
    ];
    for target in cases {
        assert_eq!(
            parse_error("GET", target),
            RegistryError::NotFound,
            "{target:?}"
        );
    }
}

#[test]
fn invalid_terminals_have_their_own_errors() {
    let long = format!("/v2/{}/tags/list", "a".repeat(256));
    for target in [
        "/v2/Secret/repo/tags/list",
        "/v2/secret/Repo/tags/list",
        "/v2/localhost:5000/x/tags/list",
        "/v2/[::1]/x/tags/list",
        "/v2/_catalog/tags/list",
        "/v2/tags/list",
        "/v2/manifests/x",
        "/v2/a;b/tags/list",
        "/v2/..;/a/tags/list",
        "/v2/-a/tags/list",
        "/v2/a%3Fb/tags/list",
        &long,
    ] {
        assert!(
            matches!(parse_error("GET", target), RegistryError::Name(_)),
            "{target}"
        );
    }
    for reference in [".x", "-x", "a%40b", "a;b", &"t".repeat(129)] {
        assert_eq!(
            parse_error("PUT", &format!("/v2/a/manifests/{reference}")),
            RegistryError::Tag,
            "{reference}"
        );
    }
    for text in [
        "SHA256:x",
        "sha256:",
        ":x",
        "sha256:abc",
        &format!("sha256:{}", HEX.to_uppercase()),
        "sha512:00",
    ] {
        for route in ["manifests", "blobs", "referrers"] {
            assert_eq!(
                parse_error(
                    if route == "manifests" { "PUT" } else { "GET" },
                    &format!("/v2/a/{route}/{text}")
                ),
                RegistryError::Digest,
                "{text}"
            );
        }
    }
    assert_eq!(
        parse_error("GET", "/v2/a/blobs/latest"),
        RegistryError::Digest
    );
    assert_eq!(parse_error("GET", "/v2/a/blobs/"), RegistryError::NotFound);
}

#[test]
fn unnecessary_escapes_do_not_change_the_operation() {
    let plain = accept("GET", "/v2/secret/repo/tags/list");
    assert_eq!(accept("GET", "/v2/secr%65t/repo/tags/list"), plain);
    assert_eq!(accept("GET", "/%76%32/secret/repo/tags/list"), plain);
    let blob = accept("GET", &format!("/v2/a/blobs/sha256%3A{HEX}"));
    assert_eq!(blob.target(), format!("/v2/a/blobs/sha256:{HEX}"));
    assert_eq!(
        accept("GET", "/v2/a/manifests/lat%65st").target(),
        "/v2/a/manifests/latest"
    );
    // All unreserved characters (RFC 3986 section 6.2.2.2).
    assert_eq!(
        accept("GET", "/v2/a%2Db%5Fc%2ed/manifests/v1%2E0%2d%5f").target(),
        "/v2/a-b_c.d/manifests/v1.0-_"
    );
}

#[test]
fn the_start_of_an_upload_gains_its_trailing_slash() {
    let operation = accept("POST", "/v2/a/blobs/uploads");
    assert_eq!(operation.target(), "/v2/a/blobs/uploads/");
    assert_eq!(operation, accept("POST", "/v2/a/blobs/uploads/"));
}

#[test]
fn other_forms_of_a_path_redirect_get_and_head_only() {
    let cases = [
        ("/v2", "/v2/", Action::Ping),
        ("/v2?x=1&n=2", "/v2/?x=1&n=2", Action::Ping),
        ("/v2/a/tags/list/", "/v2/a/tags/list", Action::Pull),
        (
            "/v2/a/tags/list/?n=5&x=%2F",
            "/v2/a/tags/list?n=5&x=%2F",
            Action::Pull,
        ),
        (
            "/v2/a/manifests/latest/",
            "/v2/a/manifests/latest",
            Action::Pull,
        ),
        (
            "/v2/a/manifests/manifests/",
            "/v2/a/manifests/manifests",
            Action::Pull,
        ),
        ("/v2/a/blobs/D/", "/v2/a/blobs/D", Action::Pull),
        ("/v2/a/referrers/D/", "/v2/a/referrers/D", Action::Pull),
        ("/v2/_catalog/?", "/v2/_catalog", Action::Catalog),
        ("/v2/%61/tags/list/", "/v2/a/tags/list", Action::Pull),
    ];
    for (target, plain, action) in cases {
        let (target, plain) = (
            target.replace('D', &digest()),
            plain.replace('D', &digest()),
        );
        for name in ["GET", "HEAD"] {
            let Ok(Parsed::Redirect {
                operation,
                location,
            }) = parse(name, &target)
            else {
                panic!("{target}")
            };
            assert_eq!((operation.action(), &location), (action, &plain));
        }
        for name in ["POST", "PUT", "DELETE", "OPTIONS", "FOO"] {
            assert_eq!(
                parse_error(name, &target),
                RegistryError::NotFound,
                "{name} {target}"
            );
        }
    }
    assert!(matches!(
        parse_error("GET", "/v2/Bad/tags/list/"),
        RegistryError::Name(_)
    ));
    assert!(matches!(
        parse_error("GET", "/v2?a;b"),
        RegistryError::Query(_)
    ));
}

#[test]
fn a_mount_is_parsed_at_the_start_of_an_upload() {
    let target =
        format!("/v2/dev/a/blobs/uploads/?from=secret%2Frepo&%6dount=sha256%3A{HEX}&origin=x.io");
    let operation = accept("POST", &target);
    assert_eq!(
        operation.mount(),
        Some(Mount {
            digest: &digest(),
            from: Some("secret/repo")
        })
    );
    let rendered =
        format!("/v2/dev/a/blobs/uploads/?mount=sha256:{HEX}&from=secret%2Frepo&origin=x.io");
    assert_eq!(operation.target(), rendered);

    let plain = operation.without_mount();
    assert_eq!(
        (plain.mount(), plain.target().as_str()),
        (None, "/v2/dev/a/blobs/uploads/?origin=x.io")
    );

    let alone = accept("POST", &format!("/v2/a/blobs/uploads?mount={}", digest()));
    assert_eq!(
        alone.mount(),
        Some(Mount {
            digest: &digest(),
            from: None
        })
    );
    assert_eq!(
        alone.target(),
        format!("/v2/a/blobs/uploads/?mount=sha256:{HEX}")
    );
}

#[test]
fn a_mount_is_dropped_from_other_requests() {
    let query = format!("?_state=s&mount={}&from=secret/repo&origin=o", digest());
    for (name, path) in [
        ("POST", "/v2/a/blobs/uploads/u"),
        ("PUT", "/v2/a/blobs/uploads/u"),
        ("PATCH", "/v2/a/blobs/uploads/u"),
        ("OPTIONS", "/v2/a/blobs/uploads/"),
        ("GET", "/v2/a/tags/list"),
        ("GET", "/v2/"),
    ] {
        let operation = accept(name, &format!("{path}{query}"));
        assert_eq!(
            (operation.mount(), operation.target()),
            (None, format!("{path}?_state=s")),
            "{name} {path}"
        );
    }
}

#[test]
fn a_mount_without_a_value_is_no_mount() {
    let operation = accept("POST", "/v2/a/blobs/uploads/?mount=&from=secret/repo");
    assert_eq!(
        (operation.mount(), operation.target().as_str()),
        (None, "/v2/a/blobs/uploads/")
    );
    let operation = accept(
        "POST",
        &format!("/v2/a/blobs/uploads/?mount={}&from=", digest()),
    );
    assert_eq!(operation.mount().and_then(|mount| mount.from), None);
    assert!(!operation.target().contains("from"));
}

#[test]
fn an_invalid_mount_is_an_error() {
    let long = "a".repeat(256);
    for from in [
        "../secret",
        "Secret/x",
        "a//b",
        "/a",
        "a%20b",
        "a+b",
        "secret%252Frepo",
        &long,
    ] {
        let target = format!("/v2/a/blobs/uploads/?mount={}&from={from}", digest());
        assert!(
            matches!(parse_error("POST", &target), RegistryError::Name(_)),
            "{from}"
        );
    }
    assert_eq!(
        parse_error("POST", "/v2/a/blobs/uploads/?mount=x&from=b"),
        RegistryError::Digest
    );
    assert_eq!(
        parse_error("PUT", "/v2/a/blobs/uploads/u?digest=sha256:x"),
        RegistryError::Digest
    );
}

#[test]
fn ambiguous_queries_are_errors() {
    let cases = [
        "a;from=b",
        "mount=x;from=y",
        ";",
        "from=a&from=b",
        "from=b&from=a",
        "from=a&%66rom=a",
        "mount=&mount=",
        "digest=D&digest=D",
        "_state=a&_state=a",
        "n=1&n=1",
        "last=a&last=b",
        "ns=a&ns=b",
        "n=%",
        "n=%2",
        "n=%zz",
        "x=%zz",
        "%zz",
        "n=%0a",
        "x=%00",
        "n=%7f",
        "last=%ff",
        "n=\\",
        "n=#",
        "n=a b",
        "n=ü",
        "n=\n",
    ];
    for query in cases {
        let target = format!("/v2/a/blobs/uploads/?{}", query.replace('D', &digest()));
        assert!(
            matches!(parse_error("POST", &target), RegistryError::Query(_)),
            "{query:?}"
        );
    }
}

#[test]
fn queries_are_rebuilt_from_known_keys() {
    let cases = [
        ("", ""),
        ("&&", ""),
        ("x=1&x=2&y", ""),
        ("Mount=x&N=1", ""),
        ("last=b&n=1", "?n=1&last=b"),
        ("n", "?n="),
        ("n=a=b", "?n=a%3Db"),
        ("last=pub/a", "?last=pub%2Fa"),
        ("last=a+b%2Bc", "?last=a%20b%2Bc"),
        ("last=%C3%BC%3B", "?last=%C3%BC%3B"),
        (
            "artifactType=b/x&n=1&artifactType=a/y",
            "?n=1&artifactType=b%2Fx&artifactType=a%2Fy",
        ),
        (
            "digest-algorithm=sha512&ns=docker.io",
            "?digest-algorithm=sha512&ns=docker.io",
        ),
        ("_state=ab-_~.%2B%2F%3D", "?_state=ab-_~.%2B%2F%3D"),
        ("_state=ab/=", "?_state=ab%2F%3D"),
    ];
    for (query, rebuilt) in cases {
        assert_eq!(
            accept("GET", &format!("/v2/a/tags/list?{query}")).target(),
            format!("/v2/a/tags/list{rebuilt}")
        );
    }
    let list = accept("GET", "/v2/_catalog?n=10&last=a%2Fb");
    assert_eq!((list.page_size(), list.last()), (Some("10"), Some("a/b")));
}

#[test]
fn the_url_of_an_upload_keeps_the_parameters_of_the_registry() {
    let upload = "/v2/a/blobs/uploads/u";
    for (query, rebuilt) in [
        ("session=x%2By", "?session=x%2By"),
        (
            "_nonce=1&_state=s&part=a&part=b",
            "?_state=s&_nonce=1&part=a&part=b",
        ),
        (
            "X-Amz-Signature=0f&partNumber=1",
            "?X-Amz-Signature=0f&partNumber=1",
        ),
        ("next=a&page=b&next=c", "?next=a&page=b&next=c"),
        ("flag", "?flag="),
        // Parameters that another parser could take for one of the API are dropped.
        ("Mount=x&FROM=secret/repo&oRigin=o", ""),
        ("mount[]=x&from[0]=b", ""),
        ("mount%5B%5D=x&%20from=secret/repo&fr%2566om=y&=z", ""),
        ("tag=latest", ""),
    ] {
        for name in ["GET", "PATCH", "PUT", "POST", "DELETE"] {
            assert_eq!(
                accept(name, &format!("{upload}?{query}")).target(),
                format!("{upload}{rebuilt}"),
                "{name} {query}"
            );
        }
    }
    // These parameters are kept on lists only, because the registry creates no other URL with them.
    let start = accept("POST", "/v2/a/blobs/uploads/?session=x&next=y");
    assert_eq!(start.target(), "/v2/a/blobs/uploads/");
}

#[test]
fn a_list_keeps_the_paging_parameters_of_the_registry() {
    for (path, query, rebuilt) in [
        (
            "/v2/a/tags/list",
            "next_page=gAAA%3D%3D&n=2",
            "?n=2&next_page=gAAA%3D%3D",
        ),
        (
            "/v2/_catalog",
            "last=a&n=1&orderby=timedesc",
            "?n=1&last=a&orderby=timedesc",
        ),
        (
            "/v2/a/tags/list",
            "page=2&page_size=10&x=1&NEXT=y",
            "?page=2&page_size=10",
        ),
    ] {
        let operation = accept("GET", &format!("{path}?{query}"));
        assert_eq!(operation.target(), format!("{path}{rebuilt}"));
        // A page that the proxy reads has its own position.
        assert_eq!(
            operation.at_page(Some(7), Some("b")).target(),
            format!("{path}?n=7&last=b")
        );
    }
    let twice = parse_error("GET", "/v2/a/tags/list?next=a&next=b");
    assert!(matches!(twice, RegistryError::Query(_)), "{twice}");
    // Other requests than lists do not keep them.
    let manifest = accept("GET", "/v2/a/manifests/x?next=y");
    assert_eq!(manifest.target(), "/v2/a/manifests/x");
}

#[test]
fn a_push_by_digest_may_set_tags() {
    let path = format!("/v2/a/manifests/{}", digest());
    let push = accept("PUT", &format!("{path}?tag=v1&ns=x&tag=latest&t%61g=v1"));
    assert_eq!(push.action(), Action::Push);
    assert_eq!(
        push.target(),
        format!("{path}?tag=v1&tag=latest&tag=v1&ns=x")
    );
    for query in [
        "tag=.x",
        "tag=v1&tag=",
        "tag",
        "tag=a/b",
        "tag=a%2Fb",
        "tag=a%00",
    ] {
        let invalid = parse_error("PUT", &format!("{path}?{query}"));
        assert!(
            matches!(invalid, RegistryError::Tag | RegistryError::Query(_)),
            "{query}: {invalid}"
        );
    }
    let tags = |count: usize| format!("{path}?{}", vec!["tag=x"; count].join("&"));
    accept("PUT", &tags(64));
    assert_eq!(parse_error("PUT", &tags(65)), RegistryError::TooManyTags);
    // A push by tag would lose the tags.
    let by_tag = parse_error("PUT", "/v2/a/manifests/v1?tag=v2");
    assert!(matches!(by_tag, RegistryError::Query(_)), "{by_tag}");
    // A read drops tags.
    for (name, target) in [
        ("GET", path.as_str()),
        ("DELETE", &path),
        ("GET", "/v2/a/tags/list"),
    ] {
        let operation = accept(name, &format!("{target}?tag=v1&tag=.x"));
        assert_eq!(operation.target(), target, "{name}");
    }
}

#[test]
fn names_follow_the_specification() {
    let longest = format!("{}/{}", "a".repeat(127), "b".repeat(127));
    for name in [
        "a",
        "0",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a---b",
        "a/b/c",
        "a.b_c__d-e",
        "library/nginx",
        &longest,
    ] {
        assert!(is_name(name), "{name}");
    }
    let long = format!("{longest}c");
    for name in [
        "", "/", "a/", "/a", "a//b", "A", "a.", ".a", "-a", "a-", "_a", "a_", "a..b", "a___b",
        "a._b", "a-_b", "a.-b", "a b", "a:1", "ä", "a%", &long,
    ] {
        assert!(!is_name(name), "{name}");
    }
}

#[test]
fn digests_and_tags_follow_the_specification() {
    let sha512 = format!("sha512:{HEX}{HEX}");
    for text in [
        &digest(),
        &sha512,
        "md5:x",
        "a.b+c_d-e1:AZaz09=_-",
        "blake3:ab",
    ] {
        assert!(path::is_digest(text), "{text}");
    }
    for text in [
        "",
        ":",
        "x",
        "a:",
        "a..b:x",
        "+a:x",
        "a+:x",
        "A:x",
        "a:x.",
        "a:x:y",
        "sha512:ab",
        &format!("{}0", digest()),
    ] {
        assert!(!path::is_digest(text), "{text}");
    }
    for text in ["latest", "_", "A.b-c_1", "1.0", &"t".repeat(128)] {
        assert!(path::is_tag(text), "{text}");
    }
    for text in ["", "a:b", "a/b", "a+b", "ä"] {
        assert!(!path::is_tag(text), "{text}");
    }
}

#[test]
fn registry_paths_are_v2_and_below() {
    for (path, expected) in [
        ("/v2", true),
        ("/v2/", true),
        ("/v2/a", true),
        ("/v20", false),
        ("/V2/", false),
        ("/", false),
        ("v2/", false),
    ] {
        assert_eq!(is_registry_path(path), expected, "{path}");
    }
}

#[test]
fn actions_have_the_names_that_grants_use() {
    let all = [
        Action::Ping,
        Action::Pull,
        Action::Push,
        Action::Delete,
        Action::Catalog,
    ];
    assert_eq!(
        all.map(|action| action.to_string()).join(" "),
        "ping pull push delete catalog"
    );
}
