//! The registry is down: every client is told so in words, and all is well when it is back.

use crate::docker::digest;
use crate::lab::{Curl, Docker, Image, Lab, Outcome, PASSWORD};

#[test]
fn curl_is_told_and_works_again_afterwards() {
    let lab = Lab::start();
    lab.stop_registry();
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        for path in ["/v2/", "/v2/_catalog", "/v2/team/app/manifests/latest"] {
            let down = curl.ask_as_user(path, &[]);
            assert_eq!(
                (down.status, down.code().as_str()),
                (502, "UNAVAILABLE"),
                "{down:?}"
            );
            assert_eq!(down.field("content-type"), "application/json");
            assert_eq!(
                curl.ask(path, &[]).status,
                401,
                "a stranger learns nothing of the outage"
            );
        }
    }
    lab.start_registry();
    assert_eq!(
        Curl::new(&lab, "--http1.1").ask_as_user("/v2/", &[]).status,
        200
    );
}

#[test]
fn docker_is_told_and_works_again_afterwards() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[1000, 2000]), "team/app");
    let pushed = docker.run(&["push", &image]).succeeds();
    lab.stop_registry();
    let attempts = [
        docker.login(PASSWORD),
        docker.run(&["pull", &image]),
        docker.run(&["push", &image]),
    ];
    for refused in attempts.map(Outcome::fails) {
        assert!(refused.contains("502 Bad Gateway"), "{refused}");
    }
    lab.start_registry();
    docker.log_in();
    let pulled = docker.run(&["pull", &image]).succeeds();
    assert_eq!(digest(&pushed), digest(&pulled));
}
