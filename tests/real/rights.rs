//! Grants in front of a real registry: the catalog, mounts of blobs, and the message of a client that is denied.

use crate::lab::{Curl, Lab, run};

const GRANTS: &str = r#"
[[site.route.grant]]
to = ["@users"]
repositories = ["home/{user}/**"]
actions = ["push"]

[[site.route.grant]]
to = ["@users"]
repositories = ["pub/**"]
actions = ["pull", "catalog"]
"#;

#[test]
fn the_catalog_has_only_repositories_that_may_be_pulled() {
    let lab = Lab::configured("basic", GRANTS);
    for number in 0..1200 {
        create_repository(&lab, &format!("hidden/r{number:04}"));
    }
    for name in [
        "home/alice/x",
        "home/bob/y",
        "pub/a",
        "pub/b",
        "pub-x/q",
        "zz/z",
    ] {
        create_repository(&lab, name);
    }
    let curl = Curl::new(&lab, "--http2");
    let (mut path, mut all) = ("/v2/_catalog?n=1".to_owned(), Vec::new());
    for _ in 0..10 {
        let page = curl.request_as_user(&path, &[]);
        assert_eq!(page.status, 200, "{page:?}");
        let names = page.json()["repositories"].as_array().unwrap().clone();
        all.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
        let Some(next) = page.fields("link").pop() else {
            break;
        };
        let next = next.trim_start_matches('<').split('>').next().unwrap();
        path = next.to_owned();
    }
    assert_eq!(all, ["home/alice/x", "pub/a", "pub/b"]);
}

/// Creates the directory by which the catalog of the registry recognizes a repository.
fn create_repository(lab: &Lab, name: &str) {
    let folder = format!("registry/docker/registry/v2/repositories/{name}/_layers");
    std::fs::create_dir_all(lab.path(&folder)).unwrap();
}

#[test]
fn blob_of_a_hidden_repository_is_not_mounted() {
    let lab = Lab::configured("basic", GRANTS);
    let curl = Curl::new(&lab, "--http1.1");
    let file = curl.random_file("blob", 1000);
    let (digest, _) = curl.push_blob("home/alice/a", &file);
    let from = |source: &str| format!("blobs/uploads/?mount={digest}&from={source}");
    // Mounts the blob directly at the registry, which has no authentication, so that the hidden repository has the blob.
    let hidden = lab.behind(&format!("/v2/secret/repo/{}", from("home/alice/a")));
    run(lab
        .command("curl")
        .args(["--silent", "--fail", "-X", "POST", &hidden]))
    .succeeds();
    for (source, status) in [("home/alice/a", 201), ("secret/repo", 202)] {
        let path = format!("/v2/home/alice/b/{}", from(source));
        let response = curl.request_as_user(&path, &["-X", "POST"]);
        assert_eq!(response.status, status, "{source}: {response:?}");
    }
}

#[test]
fn skopeo_reports_that_it_is_denied() {
    let lab = Lab::configured("basic", GRANTS);
    let certs = lab.certs().trust_dir().display().to_string();
    let image = format!("docker://{}/secret/repo:latest", lab.host());
    let mut command = lab.command("skopeo");
    let credentials = Lab::credentials();
    let options = [
        "inspect",
        "--cert-dir",
        &certs,
        "--creds",
        &credentials,
        &image,
    ];
    let output = run(command.args(options)).fails();
    // skopeo prints a text for the error code DENIED, and does not print the message of the response.
    assert!(output.contains("secret/repo: denied"), "{output}");
}
