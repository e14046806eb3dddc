//! What is shared by everybody: anyone pulls `public/`, alice pushes there and to `team/`, and `secret/` is bob's alone.
//! Each client keeps to it, and each says in words what it may not.
//!
//! `docs/clients.md` has a table of these tests, and `tests/it/rules.rs` compares it with them.

use crate::lab::{Curl, Image, Lab, MIB, OTHER, Outcome, PASSWORD, USER, run};

mod containerd;
mod curl;
mod docker;
mod dxf;
mod expiry;
mod oci_client;
mod oras;
mod podman;
mod skopeo;

/// What these may pull, what alice may push, and what bob may.
macro_rules! grants {
    ($anyone:literal) => {
        concat!(
            "[[site.route.grant]]\nto = [\"",
            $anyone,
            r#""]
repositories = ["public/**"]
actions = ["pull", "catalog"]

[[site.route.grant]]
to = ["alice"]
repositories = ["public/**", "team/**"]
actions = ["push"]

[[site.route.grant]]
to = ["bob"]
repositories = ["secret/**"]
actions = ["push"]
"#
        )
    };
}

const GRANTS: &str = grants!("@anonymous");
/// The same, to those who have logged in: for clients that show no token unless they were asked for one, or ask for none
/// that is for the list.
const GRANTS_TO_USERS: &str = grants!("@users");

const ALICE: (&str, &str) = (USER, PASSWORD);
const BOB: (&str, &str) = OTHER;

/// The gate in mode token with these grants, and an image of its own in each of `public/base`, `team/base` and
/// `secret/base`.
fn stage() -> Lab {
    let lab = Lab::configured("token", GRANTS);
    furnish(&lab);
    lab
}

fn furnish(lab: &Lab) {
    for (repository, credentials) in [
        ("public/base", Lab::credentials()),
        ("team/base", Lab::credentials()),
        ("secret/base", Lab::other_credentials()),
    ] {
        let dir = lab.path(&repository.replace('/', "-"));
        let archive = Image::make(&dir, &[MIB, 1000]).archive("local/image:latest");
        let mut command = lab.command("skopeo");
        command
            .arg("copy")
            .args(crate::skopeo::certs(lab, "dest"))
            .args(["--dest-creds", &credentials])
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(crate::skopeo::remote(lab, repository));
        run(&command).succeeds();
    }
}

/// `localhost:PORT/REPOSITORY:latest`
fn reference(lab: &Lab, repository: &str) -> String {
    format!("{}/{repository}:latest", lab.host())
}

/// A file of the lab's, and where it is.
fn file(lab: &Lab, name: &str) -> String {
    let path = Curl::new(lab, "--http1.1").random_file(name, 100_000);
    path.display().to_string()
}

/// The registry was asked to mount from this repository, and did.
#[track_caller]
fn assert_mounted(lab: &Lab, source: &str) {
    let source = format!("from={}", source.replace('/', "%2F"));
    let mounts = lab.mounts();
    let made = mounts.iter().find(|line| line.contains(&source));
    let made = made.unwrap_or_else(|| panic!("{source} in {mounts:?}"));
    assert!(made.contains("\" 201 "), "{made}");
}

/// Nothing of a wish to mount from `secret/` has reached the registry, and the push was a plain upload.
#[track_caller]
fn assert_uploaded_instead(lab: &Lab, repository: &str) {
    let mounts = lab.mounts();
    let told = mounts.iter().find(|line| line.contains("secret"));
    assert_eq!(told, None);
    let log = lab.access_log();
    for (method, status) in [("POST", "202"), ("PUT", "201")] {
        let path = format!("method={method} path=/v2/{repository}/blobs/uploads/");
        let status = format!("status={status}");
        let line = log
            .iter()
            .find(|line| line.contains(&path) && line.contains(&status));
        assert!(line.is_some(), "{path} {status} in {log:?}");
    }
}

/// podman and skopeo look for a layer where they know it to be before they ask for a mount: they did, and were told no.
#[track_caller]
fn assert_searched_in_vain(lab: &Lab, said: &Outcome) {
    let tried = format!("in {}/secret/base", lab.host());
    let story = said.story();
    assert!(
        story.contains("Trying to reuse cached location") && story.contains(&tried),
        "{story}"
    );
    let log = lab.access_log();
    let words = [
        "user=alice",
        "method=HEAD path=/v2/secret/base/blobs/",
        "status=403",
    ];
    let line = log
        .iter()
        .find(|line| words.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "{log:?}");
}

/// A client that failed, and said one of these.
#[track_caller]
fn says(outcome: Outcome, words: &[&str]) -> String {
    let said = outcome.fails();
    assert!(
        words.iter().any(|words| said.contains(words)),
        "{words:?} in {said}"
    );
    said
}
