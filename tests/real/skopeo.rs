//! skopeo: copies images to the proxy and back, inspects and deletes them.

use std::path::Path;

use serde_json::Value;

use crate::lab::{Image, Lab, MIB, Outcome, run};

#[test]
fn a_copied_image_has_the_same_digest() {
    let lab = Lab::start();
    let pushed = push(&lab, "team/app");
    let back = format!("oci:{}", lab.path("back").display());
    let source = remote(&lab, "team/app");
    skopeo(
        &lab,
        "copy",
        &certs(&lab, "src"),
        &[&source, &format!("{back}:latest")],
    )
    .succeeds();
    assert_eq!(pushed, digest(&lab.path("back")));
}

#[test]
fn list_tags_and_inspect_describe_an_image() {
    let lab = Lab::start();
    let pushed = push(&lab, "team/app");
    let repository = remote(&lab, "team/app");
    let untagged = repository.trim_end_matches(":latest");
    let tags = json(&skopeo(&lab, "list-tags", &certs(&lab, ""), &[untagged]).succeeds());
    assert_eq!(tags["Tags"], serde_json::json!(["latest"]));
    let image = json(&skopeo(&lab, "inspect", &certs(&lab, ""), &[&repository]).succeeds());
    assert_eq!(image["Digest"], pushed);
    assert_eq!(image["Layers"].as_array().map(Vec::len), Some(3), "{image}");
}

#[test]
fn a_deleted_image_is_unknown() {
    let lab = Lab::start();
    push(&lab, "team/app");
    let image = remote(&lab, "team/app");
    skopeo(&lab, "delete", &certs(&lab, ""), &[&image]).succeeds();
    let gone = skopeo(&lab, "inspect", &certs(&lab, ""), &[&image]).fails();
    assert!(gone.contains("manifest unknown"), "{gone}");
}

#[test]
fn a_wrong_password_is_reported() {
    let lab = Lab::start();
    for credentials in ["alice:wrong", "mallory:tide:gate-42"] {
        let options = [
            certs(&lab, ""),
            vec!["--creds".to_owned(), credentials.to_owned()],
        ]
        .concat();
        let mut command = lab.command("skopeo");
        let refused = run(command
            .arg("inspect")
            .args(options)
            .arg(remote(&lab, "team/app")))
        .fails();
        let clear = ["unauthorized", "invalid username/password"];
        assert!(
            clear.iter().any(|words| refused.contains(words)),
            "{refused}"
        );
    }
}

/// Copies an image of three layers to the proxy and returns its digest.
pub(crate) fn push(lab: &Lab, repository: &str) -> String {
    let archive =
        Image::make(&lab.path("image"), &[3 * MIB, 1000, 10]).archive("local/image:latest");
    let (archive, layout) = (
        format!("docker-archive:{}", archive.display()),
        lab.path("layout"),
    );
    let local = format!("oci:{}:latest", layout.display());
    run(lab.command("skopeo").args(["copy", &archive, &local])).succeeds();
    skopeo(
        lab,
        "copy",
        &certs(lab, "dest"),
        &[&local, &remote(lab, repository)],
    )
    .succeeds();
    digest(&layout)
}

/// Runs skopeo with the credentials of the lab's user.
pub(crate) fn skopeo(lab: &Lab, action: &str, options: &[String], images: &[&str]) -> Outcome {
    let side = match options {
        [option, ..] if option.starts_with("--src") => "--src-creds",
        [option, ..] if option.starts_with("--dest") => "--dest-creds",
        _ => "--creds",
    };
    run(lab
        .command("skopeo")
        .arg(action)
        .args(options)
        .args([side, &Lab::credentials()])
        .args(images))
}

/// The option `--cert-dir`, or `--src-cert-dir` or `--dest-cert-dir` for one side of a copy.
pub(crate) fn certs(lab: &Lab, side: &str) -> Vec<String> {
    let option = if side.is_empty() {
        "--cert-dir".to_owned()
    } else {
        format!("--{side}-cert-dir")
    };
    vec![option, lab.certs().trust_dir().display().to_string()]
}

pub(crate) fn remote(lab: &Lab, repository: &str) -> String {
    format!("docker://{}/{repository}:latest", lab.host())
}

/// The digest of the only image in an OCI layout.
pub(crate) fn digest(layout: &Path) -> String {
    let index = json(&std::fs::read_to_string(layout.join("index.json")).unwrap());
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
