//! Mode token: docker, containerd, skopeo, podman and curl get tokens from the token endpoint of the proxy, and use them.

use crate::docker::digest;
use crate::lab::{Curl, Docker, Image, Lab, MIB, Outcome, PASSWORD, USER, run};
use crate::{podman, skopeo};

fn lab() -> Lab {
    Lab::configured("token", "")
}

/// The number of requests that got a token.
fn issued_tokens(lab: &Lab) -> usize {
    let log = lab.access_log();
    let has_token =
        |line: &&String| line.contains("path=/v2/_token ") && line.contains("status=200");
    log.iter().filter(has_token).count()
}

#[test]
fn docker_logs_in_pushes_mounts_and_pulls() {
    let lab = lab();
    let docker = Docker::start(&lab, "docker");
    let refused = docker.try_login("wrong").fails();
    assert!(
        refused.contains("unauthorized: incorrect user name or password"),
        "{refused}"
    );
    docker.log_in();
    let image = Image::make(&lab.path("image"), &[20 * MIB, MIB, 10]);
    let first = docker.load(&image, "team/one");
    let pushed = docker.run(&["push", &first]).succeeds();
    // The source of the mount is another repository, so that docker requests a token with two scopes.
    let second = docker.reference("team/two");
    docker.run(&["tag", &first, &second]).succeeds();
    let mounted = docker.run(&["push", &second]).succeeds();
    let count = mounted.matches("Mounted from team/one").count();
    assert_eq!(count, 3, "{mounted}");
    let clean = Docker::start(&lab, "docker-clean");
    clean.log_in();
    let pulled = clean.run(&["pull", &first]).succeeds();
    assert_eq!(digest(&pushed), digest(&pulled));
    assert_eq!(docker.id(&first), clean.id(&first));
    assert!(issued_tokens(&lab) >= 5, "{:?}", lab.access_log());
    // docker requests a new token before a token expires: only pings and the wrong password got 401.
    let refused: Vec<_> = lab
        .access_log()
        .into_iter()
        .filter(|line| line.contains("status=401") && !line.contains("path=/v2/ "))
        .collect();
    assert!(
        refused.iter().all(|line| line.contains("path=/v2/_token ")),
        "{refused:?}"
    );
}

#[test]
fn docker_without_login_is_denied() {
    let lab = lab();
    let docker = Docker::start(&lab, "docker");
    let image = docker.load(&Image::make(&lab.path("image"), &[1000]), "team/app");
    for action in ["push", "pull"] {
        let refused = docker.run(&[action, &image]).fails();
        assert!(refused.contains("denied"), "{refused}");
    }
    docker.log_in();
    docker.run(&["push", &image]).succeeds();
    docker.log_out();
    let refused = docker.run(&["pull", &image]).fails();
    assert!(refused.contains("denied"), "{refused}");
}

#[test]
fn containerd_requests_tokens_by_form_and_fetches_and_pushes() {
    let lab = lab();
    skopeo::push(&lab, "team/app");
    let docker = Docker::start(&lab, "docker");
    let from = format!("{}/team/app:latest", lab.host());
    let to = format!("{}/team/copy:latest", lab.host());
    let wrong = docker.ctr(&["content", "fetch", "--user", "alice:wrong"], &[&from]);
    let refused = wrong.fails();
    assert!(refused.contains("401 Unauthorized"), "{refused}");
    let credentials = Lab::credentials();
    let user = ["--user", credentials.as_str()];
    docker
        .ctr(&[&["content", "fetch"][..], &user].concat(), &[&from])
        .succeeds();
    docker
        .ctr(&[&["images", "push"][..], &user].concat(), &[&to, &from])
        .succeeds();
    let log = lab.access_log();
    let posts = log.iter().filter(|line| {
        line.contains("path=/v2/_token ")
            && line.contains("method=POST")
            && line.contains("status=200")
    });
    assert!(posts.count() >= 2, "{log:?}");
    let tags = Curl::new(&lab, "--http2").request_as_user("/v2/team/copy/tags/list", &[]);
    assert_eq!(tags.json()["tags"], serde_json::json!(["latest"]));
}

#[test]
fn skopeo_copies_lists_inspects_and_deletes() {
    let lab = lab();
    let pushed = skopeo::push(&lab, "team/app");
    let source = skopeo::remote(&lab, "team/app");
    let back = format!("oci:{}:latest", lab.path("back").display());
    let run = |action: &str, side: &str, images: &[&str]| -> Outcome {
        skopeo::skopeo(&lab, action, &skopeo::certs(&lab, side), images)
    };
    run("copy", "src", &[&source, &back]).succeeds();
    assert_eq!(pushed, skopeo::digest(&lab.path("back")));
    let tags = run("list-tags", "", &[source.trim_end_matches(":latest")]).succeeds();
    assert!(tags.contains("latest"), "{tags}");
    run("inspect", "", &[&source]).succeeds();
    run("delete", "", &[&source]).succeeds();
    let gone = run("inspect", "", &[&source]).fails();
    assert!(gone.contains("manifest unknown"), "{gone}");
    assert!(issued_tokens(&lab) >= 4, "{:?}", lab.access_log());
}

#[test]
fn skopeo_reports_a_wrong_or_missing_password() {
    let lab = lab();
    skopeo::push(&lab, "team/app");
    let image = skopeo::remote(&lab, "team/app");
    for login in [&["--creds", "alice:wrong"][..], &["--no-creds"]] {
        let mut command = lab.command("skopeo");
        command
            .arg("inspect")
            .args(skopeo::certs(&lab, ""))
            .args(login);
        let refused = run(command.arg(&image)).fails();
        let clear = ["unauthorized", "invalid username/password", "denied"];
        assert!(
            clear.iter().any(|words| refused.contains(words)),
            "{refused}"
        );
    }
}

#[test]
fn podman_logs_in_pushes_searches_and_pulls() {
    let lab = lab();
    let image = podman::load(&lab, "team/app");
    let host = lab.host();
    let login = |password: &str| {
        let options = ["--username", USER, "--password", password, &host];
        podman::podman(&lab, "store", "login", &options)
    };
    let refused = login("wrong").fails();
    assert!(refused.contains("invalid username/password"), "{refused}");
    login(PASSWORD).succeeds();
    podman::podman(&lab, "store", "push", &[&image]).succeeds();
    let found = podman::plain(&lab, "store", &["search", &format!("{host}/")]).succeeds();
    assert!(found.contains("team/app"), "{found}");
    let credentials = Lab::credentials();
    podman::podman(&lab, "clean", "pull", &["--creds", &credentials, &image]).succeeds();
    assert_eq!(
        podman::id(&lab, "store", &image),
        podman::id(&lab, "clean", &image)
    );
}

#[test]
fn curl_may_send_its_password_or_a_token() {
    let lab = lab();
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        curl.push_image("team/app");
        let manifest = "/v2/team/app/manifests/latest";
        let refused = curl.request(manifest, &[]);
        let expected = format!(
            r#"Bearer realm="https://{0}/v2/_token",service="{0}",scope="repository:team/app:pull""#,
            lab.host()
        );
        assert_eq!(
            (refused.status, refused.field("www-authenticate")),
            (401, expected)
        );
        let response = curl.request_as_user("/v2/_token?scope=repository:team/app:pull", &[]);
        let body = response.json();
        let field = format!("Authorization: Bearer {}", body["token"].as_str().unwrap());
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let pulled = curl.request(manifest, &["--header", &field, "--header", accept]);
        assert_eq!(pulled.status, 200, "{pulled:?}");
        let push = ["--header", field.as_str(), "--request", "POST"];
        let refused = curl.request("/v2/team/app/blobs/uploads/", &push);
        assert!(
            refused
                .field("www-authenticate")
                .ends_with(r#"error="insufficient_scope""#)
        );
    }
}
