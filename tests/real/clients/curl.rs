//! curl: tokens asked for by hand, as scripts do, and the list of repositories followed page by page, as crane does.

use super::{ALICE, BOB, assert_mounted, stage};
use crate::lab::{Curl, Lab};

/// A token for a scope, as a field.
fn bearer(curl: &Curl<'_>, who: Option<(&str, &str)>, scope: &str) -> String {
    let credentials = who.map(|(user, password)| format!("{user}:{password}"));
    let mut options = Vec::new();
    if let Some(credentials) = &credentials {
        options.extend(["--user", credentials.as_str()]);
    }
    let answer = curl.ask(&format!("/v2/_token?{scope}"), &options);
    assert_eq!(answer.status, 200, "{answer:?}");
    format!(
        "Authorization: Bearer {}",
        answer.json()["token"].as_str().unwrap()
    )
}

#[test]
fn pushes_where_it_may_alone() {
    let lab = stage();
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
                let answer = curl.ask(&path, &[&["--request", "POST"], &login[..]].concat());
                assert_eq!(answer.status, status, "{answer:?}");
                if status == 403 {
                    assert_eq!(answer.code(), "DENIED");
                }
            }
        }
        let wrong = curl.ask("/v2/_token", &["--user", "alice:wrong"]);
        assert_eq!((wrong.status, wrong.code().as_str()), (401, "UNAUTHORIZED"));
    }
}

#[test]
fn mounts_what_may_be_pulled_alone() {
    let lab = stage();
    let curl = Curl::new(&lab, "--http2");
    let file = curl.random_file("blob", 1000);
    let (digest, _) = curl.push_blob("public/made", &file);
    let mount = |from: &str| {
        let scope = format!("scope=repository:team/new:pull,push&scope=repository:{from}:pull");
        let token = bearer(&curl, Some(ALICE), &scope);
        let path = format!("/v2/team/new/blobs/uploads/?mount={digest}&from={from}");
        curl.ask(&path, &["--request", "POST", "--header", &token])
    };
    assert_eq!(mount("secret/base").status, 202);
    assert_eq!(lab.mounts(), Vec::<String>::new());
    assert_eq!(mount("public/made").status, 201);
    assert_mounted(&lab, "public/made");
}

#[test]
fn follows_the_list_of_what_may_be_pulled() {
    let lab = stage();
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        for (who, all) in [
            (None, &["public/base"][..]),
            (Some(ALICE), &["public/base", "team/base"]),
            (Some(BOB), &["public/base", "secret/base"]),
        ] {
            let token = bearer(&curl, who, "scope=registry:catalog:*");
            assert_eq!(walk(&curl, &token), all, "{who:?}");
        }
    }
}

/// One name a page: every page but the last leads on, and none by a name that is hidden.
fn walk(curl: &Curl<'_>, token: &str) -> Vec<String> {
    let (mut path, mut all) = ("/v2/_catalog?n=1".to_owned(), Vec::new());
    for _ in 0..10 {
        let page = curl.ask(&path, &["--header", token]);
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
