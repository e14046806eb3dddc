//! curl: the responses that scripts and the commands of tutorials get, over HTTP/1.1 and HTTP/2.

use crate::lab::{Curl, Lab, MIB};

const HTTP1: &str = "--http1.1";
const HTTP2: &str = "--http2";

#[test]
fn only_the_right_password_gets_200_over_http1() {
    assert_only_the_right_password_gets_200(&Curl::new(&Lab::start(), HTTP1), "1.1");
}

#[test]
fn only_the_right_password_gets_200_over_http2() {
    assert_only_the_right_password_gets_200(&Curl::new(&Lab::start(), HTTP2), "2");
}

fn assert_only_the_right_password_gets_200(curl: &Curl<'_>, version: &str) {
    let refused = curl.request("/v2/", &[]);
    assert_eq!(
        (refused.status, refused.version.as_str()),
        (401, version),
        "{refused:?}"
    );
    assert_eq!(
        refused.field("www-authenticate"),
        r#"Basic realm="Registry realm""#
    );
    assert_eq!(refused.code(), "UNAUTHORIZED");
    for wrong in ["alice:wrong", "alice:", "bob:tide:gate-42", ":"] {
        let wrong = curl.request("/v2/", &["--user", wrong]);
        assert_eq!(
            (wrong.status, &wrong.body),
            (401, &refused.body),
            "{wrong:?}"
        );
    }
    let granted = curl.request_as_user("/v2/", &[]);
    assert_eq!(
        (granted.status, granted.version.as_str()),
        (200, version),
        "{granted:?}"
    );
    assert_eq!(granted.json(), serde_json::json!({}));
}

#[test]
fn urls_of_tutorials_get_200_over_http1() {
    assert_urls_of_tutorials_get_200(HTTP1);
}

#[test]
fn urls_of_tutorials_get_200_over_http2() {
    assert_urls_of_tutorials_get_200(HTTP2);
}

fn assert_urls_of_tutorials_get_200(version: &'static str) {
    let lab = Lab::start();
    let curl = Curl::new(&lab, version);
    let manifest = curl.push_image("team/app");
    let catalog = curl.request_as_user("/v2/_catalog", &[]).json();
    assert_eq!(catalog["repositories"], serde_json::json!(["team/app"]));
    let any = [
        "--location",
        "--header",
        "Accept: */*",
        "--header",
        "Accept: application/vnd.oci.image.manifest.v1+json",
    ];
    for slash in ["", "/"] {
        let tags = curl.request_as_user(&format!("/v2/team/app/tags/list{slash}"), &any);
        assert_eq!(tags.status, 200, "{tags:?}");
        assert_eq!(tags.json()["tags"], serde_json::json!(["latest"]));
        let found = curl.request_as_user(&format!("/v2/team/app/manifests/latest{slash}"), &any);
        assert_eq!(found.status, 200, "{found:?}");
        assert_eq!(String::from_utf8_lossy(&found.body), manifest);
    }
}

/// Portainer percent-encodes the slash of a repository name, and a base URL that ends with a slash leads to a double slash. The
/// registry decodes the former and redirects the latter; requests through the proxy have the same results.
#[test]
fn percent_encoded_names_and_double_slashes_are_treated_as_by_the_registry() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, HTTP1);
    curl.push_image("team/app");
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    for version in [HTTP1, HTTP2] {
        let curl = Curl::new(&lab, version);
        for name in ["team%2Fapp", "team%2fapp", "t%65am%2Fapp", "team/%61pp"] {
            let tags = curl.request_as_user(&format!("/v2/{name}/tags/list"), &[]);
            assert_eq!(tags.status, 200, "{tags:?}");
            let expected = serde_json::json!({ "name": "team/app", "tags": ["latest"] });
            assert_eq!(tags.json(), expected);
            let manifest = format!("/v2/{name}/manifests/latest");
            let found = curl.request_as_user(&manifest, &["--head", "--header", accept]);
            assert_eq!(found.status, 200, "{found:?}");
        }
        for path in [
            "//v2/",
            "/v2//",
            "/v2//team/app/tags/list",
            "//v2/team%2Fapp//tags/list",
        ] {
            assert_eq!(curl.request(path, &[]).status, 401, "{path}");
            let redirected = curl.request_as_user(path, &[]);
            assert_eq!(redirected.status, 301, "{path}: {redirected:?}");
            let followed = curl.request_as_user(path, &["--location"]);
            assert_eq!(followed.status, 200, "{path}: {followed:?}");
        }
        let absent = curl.request_as_user("/v2/team/app/manifests/.INVALID", &[]);
        assert_eq!(
            (absent.status, absent.code().as_str()),
            (404, "MANIFEST_UNKNOWN")
        );
    }
}

#[test]
fn every_response_has_the_api_version_once() {
    let lab = Lab::start();
    for version in [HTTP1, HTTP2] {
        let curl = Curl::new(&lab, version);
        let responses = [
            (200, curl.request_as_user("/v2/", &[])),
            (401, curl.request("/v2/", &[])),
            (
                401,
                curl.request("/v2/team/app/tags/list", &["--user", "alice:wrong"]),
            ),
            (404, curl.request_as_user("/v2/no/such/tags/list", &[])),
            (
                404,
                curl.request_as_user("/v2/no/such/manifests/latest", &[]),
            ),
        ];
        for (status, response) in responses {
            assert_eq!(response.status, status, "{response:?}");
            assert_eq!(
                response.field("docker-distribution-api-version"),
                "registry/2.0"
            );
        }
    }
}

#[test]
fn head_of_a_manifest_has_its_length() {
    let lab = Lab::start();
    for version in [HTTP1, HTTP2] {
        let curl = Curl::new(&lab, version);
        let manifest = curl.push_image("team/app");
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let head = curl.request_as_user(
            "/v2/team/app/manifests/latest",
            &["--head", "--header", accept],
        );
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.field("content-length"), manifest.len().to_string());
        assert!(head.field("docker-content-digest").starts_with("sha256:"));
    }
}

#[test]
fn a_range_request_gets_exactly_these_bytes() {
    let lab = Lab::start();
    let file = Curl::new(&lab, HTTP1).random_file("blob", 2 * MIB);
    let bytes = std::fs::read(&file).unwrap();
    for version in [HTTP1, HTTP2] {
        let curl = Curl::new(&lab, version);
        let (digest, _) = curl.push_blob("team/app", &file);
        let part = curl.request_as_user(
            &format!("/v2/team/app/blobs/{digest}"),
            &["--range", "1000-1500000"],
        );
        assert_eq!(part.status, 206, "{part:?}");
        assert_eq!(
            part.field("content-range"),
            format!("bytes 1000-1500000/{}", bytes.len())
        );
        assert_eq!(part.field("content-length"), "1499001");
        assert!(
            part.body == bytes[1000..=1_500_000],
            "the body is not the requested range"
        );
    }
}

#[test]
fn an_upload_gets_100_continue_and_succeeds() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, HTTP1);
    let file = curl.random_file("blob", 5 * MIB);
    let (digest, response) = curl.push_blob("team/app", &file);
    assert!(
        response.transcript.contains("> Expect: 100-continue"),
        "{response:?}"
    );
    assert!(
        response.transcript.contains("< HTTP/1.1 100 Continue"),
        "{response:?}"
    );
    let blob = curl.request_as_user(&format!("/v2/team/app/blobs/{digest}"), &[]);
    assert!(
        blob.body == std::fs::read(&file).unwrap(),
        "the downloaded blob differs"
    );
}

#[test]
fn an_upload_with_a_wrong_password_gets_401_before_its_body() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, HTTP1);
    let file = curl.random_file("blob", 5 * MIB);
    let options = [
        "--user",
        "alice:wrong",
        "--upload-file",
        file.to_str().unwrap(),
    ];
    let refused = curl.request("/v2/team/app/blobs/uploads/x?digest=sha256:0", &options);
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(!refused.transcript.contains("100 Continue"), "{refused:?}");
}
