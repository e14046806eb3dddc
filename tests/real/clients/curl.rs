//! curl: requests tokens explicitly, as scripts do, and follows the pages of the catalog, as crane does.

use super::{ALICE, BOB, assert_mounted, start_lab};
use crate::lab::{Curl, Lab};

/// Requests a token and returns the `Authorization` field that presents it. `scope` is the query of the token request.
fn bearer(curl: &Curl<'_>, login: Option<(&str, &str)>, scope: &str) -> String {
    let credentials = login.map(|(user, password)| format!("{user}:{password}"));
    let mut options = Vec::new();
    if let Some(credentials) = &credentials {
        options.extend(["--user", credentials.as_str()]);
    }
    let response = curl.request(&format!("/v2/_token?{scope}"), &options);
    assert_eq!(response.status, 200, "{response:?}");
    format!(
        "Authorization: Bearer {}",
        response.json()["token"].as_str().unwrap()
    )
}

#[test]
fn pushes_only_where_granted() {
    let lab = start_lab();
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        for (repository, status) in [("team/new", 202), ("secret/new", 403)] {
            let path = format!("/v2/{repository}/blobs/uploads/");
            let scope = format!("scope=repository:{repository}:pull,push");
            let token = bearer(&curl, Some(ALICE), &scope);
            for login in [
                ["--header", token.as_str()],
                ["--user", &Lab::credentials()],
            ] {
                let response = curl.request(&path, &[&["--request", "POST"], &login[..]].concat());
                assert_eq!(response.status, status, "{response:?}");
                if status == 403 {
                    assert_eq!(response.code(), "DENIED");
                }
            }
        }
        let wrong = curl.request("/v2/_token", &["--user", "alice:wrong"]);
        assert_eq!((wrong.status, wrong.code().as_str()), (401, "UNAUTHORIZED"));
    }
}

#[test]
fn mounts_only_what_may_be_pulled() {
    let lab = start_lab();
    let curl = Curl::new(&lab, "--http2");
    let file = curl.random_file("blob", 1000);
    let (digest, _) = curl.push_blob("public/made", &file);
    let mount = |from: &str| {
        let scope = format!("scope=repository:team/new:pull,push&scope=repository:{from}:pull");
        let token = bearer(&curl, Some(ALICE), &scope);
        let path = format!("/v2/team/new/blobs/uploads/?mount={digest}&from={from}");
        curl.request(&path, &["--request", "POST", "--header", &token])
    };
    assert_eq!(mount("secret/base").status, 202);
    assert_eq!(lab.mounts(), Vec::<String>::new());
    assert_eq!(mount("public/made").status, 201);
    assert_mounted(&lab, "public/made");
}

#[test]
fn catalog_pages_have_only_what_may_be_pulled() {
    let lab = start_lab();
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        for (login, all) in [
            (None, &["public/base"][..]),
            (Some(ALICE), &["public/base", "team/base"]),
            (Some(BOB), &["public/base", "secret/base"]),
        ] {
            let token = bearer(&curl, login, "scope=registry:catalog:*");
            assert_eq!(catalog(&curl, &token), all, "{login:?}");
        }
    }
}

/// Follows the `Link` fields of the catalog, with one repository per page, and returns all repositories.
fn catalog(curl: &Curl<'_>, token: &str) -> Vec<String> {
    let (mut path, mut all) = ("/v2/_catalog?n=1".to_owned(), Vec::new());
    for _ in 0..10 {
        let page = curl.request(&path, &["--header", token]);
        assert_eq!(page.status, 200, "{page:?}");
        let names = page.json()["repositories"].as_array().unwrap().clone();
        all.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
        let Some(next) = page.fields("link").pop() else {
            return all;
        };
        path = next
            .trim_start_matches('<')
            .split('>')
            .next()
            .unwrap()
            .to_owned();
    }
    panic!("the list does not end: {all:?}");
}
