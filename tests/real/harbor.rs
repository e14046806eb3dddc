//! docker and skopeo with a stand-in for Harbor behind the proxy. Harbor's own configuration is unchanged: its token service and
//! its redirects have addresses that clients cannot reach, and the proxy rewrites them.

use crate::docker::digest;
use crate::lab::{Curl, Docker, Image, Lab, MIB};
use crate::skopeo;

fn lab() -> Lab {
    Lab::configured("upstream", "")
}

#[test]
fn docker_logs_in_pushes_and_pulls() {
    let lab = lab();
    let docker = Docker::start(&lab, "docker");
    let refused = docker.try_login("wrong").fails();
    assert!(
        refused.contains("401 Unauthorized") || refused.contains("unauthorized"),
        "{refused}"
    );
    docker.log_in();
    let image = Image::make(&lab.path("image"), &[20 * MIB, MIB, 10]);
    let first = docker.load(&image, "team/one");
    let pushed = docker.run(&["push", &first]).succeeds();
    let second = docker.reference("team/two");
    docker.run(&["tag", &first, &second]).succeeds();
    let mounted = docker.run(&["push", &second]).succeeds();
    assert_eq!(
        mounted.matches("Mounted from team/one").count(),
        3,
        "{mounted}"
    );
    let clean = Docker::start(&lab, "docker-clean");
    clean.log_in();
    let pulled = clean.run(&["pull", &first]).succeeds();
    assert_eq!(digest(&pushed), digest(&pulled));
    assert_eq!(docker.id(&first), clean.id(&first));
    docker.log_out();
    docker.run(&["pull", &first]).fails();
    // Every token request came through the proxy, which requires no password itself, and had the host name that docker uses.
    let tokens = lab.harbor().hosts_of_requests("GET /service/token");
    let name = format!("registry.test:{}", lab.port());
    assert!(
        tokens.len() >= 5 && tokens.iter().all(|host| *host == name),
        "{tokens:?}"
    );
    let log = lab.access_log();
    assert!(
        log.iter()
            .any(|line| line.contains("path=/service/token ") && line.contains("status=200"))
    );
}

#[test]
fn skopeo_pushes_with_a_token_of_harbor() {
    let lab = lab();
    skopeo::push(&lab, "team/app");
    assert!(
        !lab.harbor()
            .hosts_of_requests("GET /service/token")
            .is_empty()
    );
}

#[test]
fn the_realm_of_harbor_is_rewritten() {
    let lab = lab();
    for version in ["--http1.1", "--http2"] {
        let response = Curl::new(&lab, version).request("/v2/", &[]);
        let port = lab.port();
        let realm = format!(
            "Bearer realm=\"https://localhost:{port}/service/token\",service=\"harbor-registry\""
        );
        assert_eq!(
            (response.status, response.field("www-authenticate")),
            (401, realm)
        );
    }
}
