//! Mode token with grants in front of a real registry: anonymous clients may pull `public/`, and only alice may push there.

use crate::docker::digest;
use crate::lab::{Curl, Docker, Image, Lab, MIB, Outcome, run};
use crate::{podman, skopeo};

/// alice is the robot that pushes.
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

/// Asserts that the access log has lines that contain `words`, and that all of them are of anonymous clients.
fn assert_all_anonymous(lab: &Lab, words: &str) {
    let log = lab.access_log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains(words)).collect();
    assert!(!lines.is_empty(), "{words} in {log:?}");
    let authenticated = lines.iter().find(|line| line.contains("user=alice"));
    assert!(authenticated.is_none(), "{authenticated:?}");
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
    let anonymous = Docker::start(&lab, "docker-anonymous");
    let pulled = anonymous.run(&["pull", &image]).succeeds();
    assert_eq!(digest(&pushed), digest(&pulled));
    assert_eq!(robot.id(&image), anonymous.id(&image));
    let refused = anonymous.run(&["pull", &private]).fails();
    assert!(refused.contains("pull access denied"), "{refused}");
    // The daemon has an anonymous token from the pull. It needs a token of a user to push.
    let refused = anonymous.run(&["push", &image]).fails();
    assert!(refused.contains("denied"), "{refused}");
    anonymous.log_in();
    anonymous.run(&["pull", &private]).succeeds();
    anonymous.run(&["push", &image]).succeeds();
}

#[test]
fn docker_push_without_login_is_denied() {
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
    let log = lab.access_log();
    let count = log.iter().filter(|line| line.contains("/uploads")).count();
    // docker does not repeat the request without end.
    assert!(count <= 10, "{log:?}");
}

/// Pushes the image of [`skopeo::push`] to another repository.
fn push_again(lab: &Lab, repository: &str) {
    let local = format!("oci:{}:latest", lab.path("layout").display());
    let remote = skopeo::remote(lab, repository);
    skopeo::skopeo(lab, "copy", &skopeo::certs(lab, "dest"), &[&local, &remote]).succeeds();
}

/// Runs skopeo without credentials. HOME has no credentials either.
fn skopeo_without_login(lab: &Lab, action: &str, side: &str, images: &[&str]) -> Outcome {
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
    skopeo_without_login(&lab, "copy", "src", &[&public, &back]).succeeds();
    assert_eq!(pushed, skopeo::digest(&lab.path("back")));
    assert_all_anonymous(&lab, "method=GET path=/v2/public/x/");
    skopeo_without_login(&lab, "list-tags", "", &[public.trim_end_matches(":latest")]).succeeds();
    let clear = ["unauthorized", "denied", "authentication required"];
    let private = skopeo::remote(&lab, "team/x");
    let refusals = [
        skopeo_without_login(&lab, "inspect", "", &[&private]).fails(),
        skopeo_without_login(&lab, "copy", "dest", &[&back, &public]).fails(),
        skopeo_without_login(&lab, "delete", "", &[&public]).fails(),
    ];
    for refused in refusals {
        assert!(
            clear.iter().any(|words| refused.contains(words)),
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
            curl.request(&path, &["--header", accept])
        };
        let public = pull("public/x");
        assert_eq!((public.status, public.body), (200, manifest.into_bytes()));
        assert_eq!(pull("team/x").status, 401);
        let push = curl.request("/v2/public/x/blobs/uploads/", &["--request", "POST"]);
        assert!(
            push.field("www-authenticate")
                .ends_with(r#",scope="repository:public/x:pull,push""#),
            "{push:?}"
        );
        let delete =
            curl.request_as_user("/v2/public/x/manifests/latest", &["--request", "DELETE"]);
        assert_eq!((delete.status, delete.code().as_str()), (403, "DENIED"));
    }
}
