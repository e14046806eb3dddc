//! podman: login, push, pull and search. Each store is in the directory of the lab.

use crate::lab::{Image, Lab, MIB, Outcome, PASSWORD, USER, run};

#[test]
fn an_image_that_is_pushed_and_pulled_is_unchanged() {
    let lab = Lab::start();
    let image = load(&lab, "team/app");
    podman(
        &lab,
        "store",
        "push",
        &["--creds", &Lab::credentials(), &image],
    )
    .succeeds();
    podman(
        &lab,
        "clean",
        "pull",
        &["--creds", &Lab::credentials(), &image],
    )
    .succeeds();
    assert_eq!(id(&lab, "store", &image), id(&lab, "clean", &image));
}

#[test]
fn a_login_lasts_until_logout() {
    let lab = Lab::start();
    let image = load(&lab, "team/app");
    let login = |password: &str| {
        podman(
            &lab,
            "store",
            "login",
            &["--username", USER, "--password", password, &lab.host()],
        )
    };
    let refused = login("wrong").fails();
    assert!(refused.contains("invalid username/password"), "{refused}");
    let refused = podman(&lab, "store", "push", &[&image]).fails();
    assert!(
        refused.contains("unauthorized") || refused.contains("authentication required"),
        "{refused}"
    );
    login(PASSWORD).succeeds();
    podman(&lab, "store", "push", &[&image]).succeeds();
    plain(&lab, "store", &["logout", &lab.host()]).succeeds();
    let refused = podman(&lab, "clean", "pull", &[&image]).fails();
    assert!(
        refused.contains("unauthorized") || refused.contains("authentication required"),
        "{refused}"
    );
}

#[test]
fn search_lists_the_catalog() {
    let lab = Lab::start();
    let image = load(&lab, "team/app");
    podman(
        &lab,
        "store",
        "push",
        &["--creds", &Lab::credentials(), &image],
    )
    .succeeds();
    let login = ["--username", USER, "--password", PASSWORD, &lab.host()];
    podman(&lab, "store", "login", &login).succeeds();
    // `search` has no --cert-dir; it trusts the CA in SSL_CERT_FILE.
    let found = plain(&lab, "store", &["search", &format!("{}/", lab.host())]).succeeds();
    assert!(found.contains("team/app"), "{found}");
}

/// Loads a new image under its reference at the proxy, and returns the reference.
pub(crate) fn load(lab: &Lab, repository: &str) -> String {
    let reference = format!("{}/{repository}:latest", lab.host());
    let archive = Image::make(&lab.path("image"), &[2 * MIB, 1000, 10]).archive(&reference);
    plain(
        lab,
        "store",
        &["load", "--input", archive.to_str().unwrap()],
    )
    .succeeds();
    reference
}

pub(crate) fn id(lab: &Lab, store: &str, image: &str) -> String {
    plain(
        lab,
        store,
        &["image", "inspect", "--format", "{{.Id}}", image],
    )
    .succeeds()
}

/// Runs a podman command that connects to the proxy.
pub(crate) fn podman(lab: &Lab, store: &str, action: &str, arguments: &[&str]) -> Outcome {
    let certs = lab.certs().trust_dir().display().to_string();
    plain(
        lab,
        store,
        &[&[action, "--cert-dir", &certs], arguments].concat(),
    )
}

/// Runs a podman command on one of the lab's stores. vfs works on every file system.
pub(crate) fn plain(lab: &Lab, store: &str, arguments: &[&str]) -> Outcome {
    let mut command = lab.command("podman");
    for (option, folder) in [
        ("--root", "root"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
    ] {
        command
            .arg(option)
            .arg(lab.path(&format!("podman-{store}")).join(folder));
    }
    command.args([
        "--storage-driver=vfs",
        "--cgroup-manager=cgroupfs",
        "--events-backend=none",
    ]);
    run(command
        .args(arguments)
        .env("SSL_CERT_FILE", lab.certs().ca()))
}
