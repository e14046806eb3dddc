//! Mode token with grants before a real registry: anyone pulls `public/`, and only who logs in pushes there.

use crate::docker::digest;
use crate::lab::{Curl, Docker, Image, Lab, MIB, Outcome, run};
use crate::{podman, skopeo};

/// The lab's user is the robot that pushes.
const GRANTS: &str = r#"
[[site.route.grant]]
to = ["@anonymous"]
repositories = ["public/**"]
actions = ["pull"]

[[site.route.grant]]
to = ["alice"]
repositories = ["public/**", "team/**"]
actions = ["push"]
"#;

fn lab() -> Lab {
    Lab::configured("token", GRANTS)
}

/// Nobody in the log may have a name where these words stand, and somebody must be there.
fn assert_rejects_all(lab: &Lab, words: &str) {
    let log = lab.access_log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains(words)).collect();
    assert!(!lines.is_empty(), "{words} in {log:?}");
    let known = lines.iter().find(|line| line.contains("user=alice"));
    assert!(known.is_none(), "{known:?}");
}

#[test]
fn docker_pulls_without_login_what_a_robot_pushed() {
    let lab = lab();
    let robot = Docker::start(&lab, "docker-robot");
    robot.log_in();
    let made = Image::make(&lab.path("image"), &[5 * MIB, MIB, 10]);
    let image = robot.load(&made, "public/x");
    let pushed = robot.run(&["push", &image]).succeeds();
    let private = robot.reference("team/x");
    robot.run(&["tag", &image, &private]).succeeds();
    robot.run(&["push", &private]).succeeds();
    let anyone = Docker::start(&lab, "docker-anyone");
    let pulled = anyone.run(&["pull", &image]).succeeds();
    assert_eq!(digest(&pushed), digest(&pulled));
    assert_eq!(robot.id(&image), anyone.id(&image));
    let refused = anyone.run(&["pull", &private]).fails();
    assert!(refused.contains("pull access denied"), "{refused}");
    // By the same daemon that has pulled: one for nobody, and then one with a name.
    let refused = anyone.run(&["push", &image]).fails();
    assert!(refused.contains("denied"), "{refused}");
    anyone.log_in();
    anyone.run(&["pull", &private]).succeeds();
    anyone.run(&["push", &image]).succeeds();
}

#[test]
fn docker_without_login_is_told_that_it_may_not_push() {
    let lab = lab();
    let docker = Docker::start(&lab, "docker");
    for repository in ["public/x", "team/x"] {
        let made = Image::make(&lab.path(&repository.replace('/', "-")), &[1000]);
        let image = docker.load(&made, repository);
        let refused = docker.run(&["push", &image]).fails();
        assert!(
            refused.contains("denied: requested access to the resource is denied"),
            "{refused}"
        );
    }
    let asked = lab.access_log();
    let count = asked
        .iter()
        .filter(|line| line.contains("/uploads"))
        .count();
    // Not in circles.
    assert!(count <= 10, "{asked:?}");
}

/// The image that skopeo pushed, to another repository.
fn push_again(lab: &Lab, repository: &str) {
    let local = format!("oci:{}:latest", lab.path("layout").display());
    let remote = skopeo::remote(lab, repository);
    skopeo::skopeo(lab, "copy", &skopeo::certs(lab, "dest"), &[&local, &remote]).succeeds();
}

/// skopeo without a password, or with what it finds, which is none.
fn anonymous(lab: &Lab, action: &str, side: &str, images: &[&str]) -> Outcome {
    let mut command = lab.command("skopeo");
    command.arg(action).args(skopeo::certs(lab, side));
    run(command.args(images))
}

#[test]
fn skopeo_pushes_with_a_password_and_pulls_without() {
    let lab = lab();
    let pushed = skopeo::push(&lab, "public/x");
    push_again(&lab, "team/x");
    let public = skopeo::remote(&lab, "public/x");
    let back = format!("oci:{}:latest", lab.path("back").display());
    anonymous(&lab, "copy", "src", &[&public, &back]).succeeds();
    assert_eq!(pushed, skopeo::digest(&lab.path("back")));
    assert_rejects_all(&lab, "method=GET path=/v2/public/x/");
    anonymous(&lab, "list-tags", "", &[public.trim_end_matches(":latest")]).succeeds();
    let readable = ["unauthorized", "denied", "authentication required"];
    let private = skopeo::remote(&lab, "team/x");
    let refusals = [
        anonymous(&lab, "inspect", "", &[&private]).fails(),
        anonymous(&lab, "copy", "dest", &[&back, &public]).fails(),
        anonymous(&lab, "delete", "", &[&public]).fails(),
    ];
    for refused in refusals {
        assert!(
            readable.iter().any(|words| refused.contains(words)),
            "{refused}"
        );
    }
    let refused = skopeo::skopeo(&lab, "delete", &skopeo::certs(&lab, ""), &[&public]).fails();
    assert!(refused.contains("denied"), "{refused}");
}

#[test]
fn podman_pulls_without_login() {
    let lab = lab();
    let image = podman::load(&lab, "public/x");
    let credentials = Lab::credentials();
    let refused = podman::podman(&lab, "store", "push", &[&image]).fails();
    assert!(
        refused.contains("denied") || refused.contains("authentication required"),
        "{refused}"
    );
    podman::podman(&lab, "store", "push", &["--creds", &credentials, &image]).succeeds();
    podman::podman(&lab, "clean", "pull", &[&image]).succeeds();
    assert_eq!(
        podman::id(&lab, "store", &image),
        podman::id(&lab, "clean", &image)
    );
}

#[test]
fn containerd_fetches_without_login() {
    let lab = lab();
    skopeo::push(&lab, "public/x");
    push_again(&lab, "team/x");
    let docker = Docker::start(&lab, "docker");
    let image = |repository: &str| format!("{}/{repository}:latest", lab.host());
    let fetch = ["content", "fetch"];
    docker.ctr(&fetch, &[&image("public/x")]).succeeds();
    let refused = docker.ctr(&fetch, &[&image("team/x")]).fails();
    assert!(
        refused.contains("insufficient_scope") || refused.contains("401 Unauthorized"),
        "{refused}"
    );
}

#[test]
fn curl_pulls_without_a_password_and_pushes_with_one() {
    let lab = lab();
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        let manifest = curl.push_image("public/x");
        curl.push_image("team/x");
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let pull = |repository: &str| {
            let path = format!("/v2/{repository}/manifests/latest");
            curl.ask(&path, &["--header", accept])
        };
        let public = pull("public/x");
        assert_eq!((public.status, public.body), (200, manifest.into_bytes()));
        assert_eq!(pull("team/x").status, 401);
        let push = curl.ask("/v2/public/x/blobs/uploads/", &["--request", "POST"]);
        assert!(
            push.field("www-authenticate")
                .ends_with(r#",scope="repository:public/x:pull,push""#),
            "{push:?}"
        );
        let delete = curl.ask_as_user("/v2/public/x/manifests/latest", &["--request", "DELETE"]);
        assert_eq!((delete.status, delete.code().as_str()), (403, "DENIED"));
    }
}
