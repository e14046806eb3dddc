//! docker: login, push and pull with a real daemon.

use crate::lab::{Docker, Image, Lab, MIB};

#[test]
fn login_succeeds_with_the_right_password_only() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    let refused = docker.try_login("wrong").fails();
    assert!(refused.contains("401 Unauthorized"), "{refused}");
    docker.log_in();
}

#[test]
fn push_and_pull_without_login_fail_with_a_clear_message() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    let image = docker.load(&Image::make(&lab.path("image"), &[1000]), "team/app");
    for action in ["push", "pull"] {
        let refused = docker.run(&[action, &image]).fails();
        let clear = [
            "no basic auth credentials",
            "unauthorized: authentication required",
        ];
        assert!(
            clear.iter().any(|words| refused.contains(words)),
            "{refused}"
        );
    }
}

#[test]
fn an_image_that_is_pushed_and_pulled_is_unchanged() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.load(
        &Image::make(&lab.path("image"), &[60 * MIB, 2 * MIB, 10]),
        "team/app",
    );
    let pushed = docker.run(&["push", &image]).succeeds();
    let clean = Docker::start(&lab, "docker-clean");
    clean.log_in();
    let pulled = clean.run(&["pull", &image]).succeeds();
    assert_eq!(digest(&pushed), digest(&pulled));
    assert_eq!(docker.id(&image), clean.id(&image));
}

#[test]
fn shared_layers_are_mounted_from_the_other_repository() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = Image::make(&lab.path("image"), &[MIB, MIB + 1, 10]);
    let first = docker.load(&image, "team/one");
    docker.run(&["push", &first]).succeeds();
    let second = docker.reference("team/two");
    docker.run(&["tag", &first, &second]).succeeds();
    let pushed = docker.run(&["push", &second]).succeeds();
    assert_eq!(
        pushed.matches("Mounted from team/one").count(),
        3,
        "{pushed}"
    );
    docker.run(&["rmi", &first, &second]).succeeds();
    docker.run(&["pull", &second]).succeeds();
}

#[test]
fn a_pull_after_logout_fails() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[1000]), "team/app");
    docker.run(&["push", &image]).succeeds();
    docker.log_out();
    let refused = docker.run(&["pull", &image]).fails();
    assert!(refused.contains("no basic auth credentials"), "{refused}");
}

#[test]
fn several_images_are_pushed_and_pulled_concurrently() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let images = ["team/a", "team/b", "team/c"].map(|repository| {
        let dir = lab.path(&repository.replace('/', "-"));
        docker.load(&Image::make(&dir, &[3 * MIB, 3 * MIB]), repository)
    });
    for action in ["push", "rmi", "pull"] {
        std::thread::scope(|scope| {
            for image in &images {
                scope.spawn(|| docker.run(&[action, image]).succeeds());
            }
        });
    }
}

/// The digest in the output of `docker push` or `docker pull`.
pub(crate) fn digest(output: &str) -> &str {
    let digest = output
        .split_whitespace()
        .find(|word| word.starts_with("sha256:"));
    digest.unwrap_or_else(|| panic!("no digest in: {output}"))
}
