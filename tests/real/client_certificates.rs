//! Client certificates, shown by docker and skopeo from where they look for them.

use crate::lab::{Docker, Image, Lab, PASSWORD, run};
use crate::skopeo::{push, remote};

#[test]
fn docker_shows_what_lies_in_certs_d() {
    let lab = Lab::guarded();
    let docker = Docker::start(&lab, "docker");
    let refused = docker.login(PASSWORD).fails();
    assert!(refused.contains("tls: certificate required"), "{refused}");
    docker.identify();
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[1000]), "team/app");
    for action in ["push", "rmi", "pull"] {
        docker.run(&[action, &image]).succeeds();
    }
    let log = lab.access_log();
    assert!(log.len() > 5, "{log:?}");
    let named = |line: &String| line.contains(" certificate=\"CN=robot\" ");
    assert!(log.iter().all(named), "{log:?}");
}

#[test]
fn skopeo_shows_what_lies_in_its_folder() {
    let lab = Lab::guarded();
    let image = remote(&lab, "team/app");
    let inspect = |folder: &std::path::Path| {
        let mut command = lab.command("skopeo");
        command.args(["inspect", "--creds", &Lab::credentials(), "--cert-dir"]);
        run(command.arg(folder).arg(&image))
    };
    let trusted = lab.certs().trusted();
    let refused = inspect(&trusted).fails();
    assert!(refused.contains("tls: certificate required"), "{refused}");
    // The folder that `push` names holds the certificate from here on.
    lab.certs().identify(&trusted);
    push(&lab, "team/app");
    inspect(&trusted).succeeds();
}
