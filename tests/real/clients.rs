//! One set of grants, tested with every client: anonymous clients may pull `public/`, alice may push to `public/` and `team/`,
//! and only bob may access `secret/`. The tests show which operations each client completes, and the message that it prints for
//! an operation that is denied.
//!
//! `docs/clients.md` has a table of these tests, which `tests/it/rules.rs` compares with the code.

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

/// The grants of this module, where `$anyone` may pull `public/` and list it.
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
/// [`GRANTS`], with `@users` in place of `@anonymous`: for clients that send a token only after a 401, and for clients that do
/// not request a token with the scope of the catalog.
const GRANTS_TO_USERS: &str = grants!("@users");

const ALICE: (&str, &str) = (USER, PASSWORD);
const BOB: (&str, &str) = OTHER;

/// Starts a lab in mode token with [`GRANTS`], whose repositories `public/base`, `team/base` and `secret/base` have one image
/// each.
fn start_lab() -> Lab {
    let lab = Lab::configured("token", GRANTS);
    push_base_images(&lab);
    lab
}

/// Pushes a different image to each of `public/base`, `team/base` and `secret/base`.
fn push_base_images(lab: &Lab) {
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

/// The reference of an image at the proxy: `localhost:PORT/REPOSITORY:latest`.
fn reference(lab: &Lab, repository: &str) -> String {
    format!("{}/{repository}:latest", lab.host())
}

/// Writes a file of random bytes into the directory of the lab and returns its path.
fn random_file(lab: &Lab, name: &str) -> String {
    let path = Curl::new(lab, "--http1.1").random_file(name, 100_000);
    path.display().to_string()
}

/// Asserts that the registry got a request to mount a blob from `source`, and responded with 201.
#[track_caller]
fn assert_mounted(lab: &Lab, source: &str) {
    let source = format!("from={}", source.replace('/', "%2F"));
    let mounts = lab.mounts();
    let mount = mounts.iter().find(|line| line.contains(&source));
    let mount = mount.unwrap_or_else(|| panic!("{source} in {mounts:?}"));
    assert!(mount.contains("\" 201 "), "{mount}");
}

/// Asserts that no request to mount a blob from `secret/` reached the registry, and that the client uploaded the blob.
#[track_caller]
fn assert_uploaded_instead(lab: &Lab, repository: &str) {
    let mounts = lab.mounts();
    let hidden = mounts.iter().find(|line| line.contains("secret"));
    assert_eq!(hidden, None);
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

/// Asserts that the client looked for the layer in `secret/base` and got 403. podman and skopeo send HEAD to a repository that
/// they know to have the layer before they request a mount.
#[track_caller]
fn assert_source_was_denied(lab: &Lab, outcome: &Outcome) {
    let source = format!("in {}/secret/base", lab.host());
    let story = outcome.story();
    assert!(
        story.contains("Trying to reuse cached location") && story.contains(&source),
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

/// Asserts that the command failed and that its output contains one of `messages`, and returns the output.
#[track_caller]
fn assert_fails_with(outcome: Outcome, messages: &[&str]) -> String {
    let output = outcome.fails();
    assert!(
        messages.iter().any(|message| output.contains(message)),
        "{messages:?} in {output}"
    );
    output
}
