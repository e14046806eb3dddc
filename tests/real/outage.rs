//! The registry is down: every client is told so in words, and all is well when it is back.

use std::path::Path;

use crate::docker::digest;
use crate::lab::{Curl, Docker, Image, Lab, MIB, Outcome, PASSWORD, run, wait_until};
use crate::skopeo;

/// Enough that a transfer is under way for a while, and not so much that docker, which compresses it at each attempt,
/// needs more than the two minutes it has.
const LARGE: u64 = 400 * MIB;

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

#[test]
fn docker_survives_a_registry_that_is_killed_amid_a_transfer() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[LARGE]), "team/app");
    let id = docker.id(&image);
    let push = || docker.run(&["push", &image]);
    let pushed = killed_amid(&lab, &lab.path("registry"), push);
    again_unless_told(pushed, push);
    docker.run(&["rmi", &image]).succeeds();
    let pull = || docker.run(&["pull", &image]);
    let pulled = killed_amid(&lab, &lab.path("docker/data"), pull);
    again_unless_told(pulled, pull);
    assert_eq!(docker.id(&image), id);
}

#[test]
fn skopeo_survives_a_registry_that_is_killed_amid_a_transfer() {
    let lab = Lab::start();
    let archive = Image::make(&lab.path("image"), &[LARGE]).archive("local/image:latest");
    let archive = format!("docker-archive:{}", archive.display());
    let (layout, back) = (lab.path("layout"), lab.path("back"));
    let local = format!("oci:{}:latest", layout.display());
    // Of random bytes a fast compression makes nothing smaller, and takes no time.
    let quick = ["--dest-compress-level", "1"];
    run(lab
        .command("skopeo")
        .arg("copy")
        .args(quick)
        .args([&archive, &local]))
    .succeeds();
    let remote = skopeo::remote(&lab, "team/app");
    let push = || {
        let options = skopeo::certs(&lab, "dest");
        skopeo::skopeo(&lab, "copy", &options, &[&local, &remote])
    };
    let pushed = killed_amid(&lab, &lab.path("registry"), push);
    again_unless_told(pushed, push);
    let copy = format!("oci:{}:latest", back.display());
    let pull = || {
        let options = skopeo::certs(&lab, "src");
        skopeo::skopeo(&lab, "copy", &options, &[&remote, &copy])
    };
    let pulled = killed_amid(&lab, &back, pull);
    again_unless_told(pulled, pull);
    assert_eq!(skopeo::digest(&back), skopeo::digest(&layout));
}

/// Kills the registry when a good part of what `act` moves has come to `dir`, and starts it again.
fn killed_amid(lab: &Lab, dir: &Path, act: impl FnOnce() -> Outcome + Send) -> Outcome {
    let before = size(dir);
    std::thread::scope(|scope| {
        let acting = scope.spawn(act);
        wait_until("a part has come", || {
            size(dir) > before + 100 * MIB || acting.is_finished()
        });
        if !acting.is_finished() {
            lab.kill_registry();
            lab.start_registry();
            return acting.join().unwrap();
        }
        panic!("over too soon: {}", acting.join().unwrap().story());
    })
}

/// It went well all the same, or it was said why not, and goes well now.
fn again_unless_told(outcome: Outcome, act: impl FnOnce() -> Outcome) {
    if outcome.is_success() {
        return;
    }
    let told = outcome.fails();
    let clear = [
        "502 Bad Gateway",
        "unexpected EOF",
        "stream error",
        "not available",
        "connection reset",
    ];
    assert!(clear.iter().any(|words| told.contains(words)), "{told}");
    act().succeeds();
}

/// Bytes of all files below a folder; they come and go meanwhile.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
