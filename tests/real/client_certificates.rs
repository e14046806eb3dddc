//! Client certificates that docker and skopeo present to a site that requires one.

use crate::lab::{Docker, Image, Lab, PASSWORD, run};
use crate::skopeo::{push, remote};

#[test]
fn docker_presents_the_certificate_in_certs_d() {
    let lab = Lab::requiring_client_certificates();
    let docker = Docker::start(&lab, "docker");
    let refused = docker.try_login(PASSWORD).fails();
    assert!(refused.contains("tls: certificate required"), "{refused}");
    docker.install_client_certificate();
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[1000]), "team/app");
    for action in ["push", "rmi", "pull"] {
        docker.run(&[action, &image]).succeeds();
    }
    let log = lab.access_log();
    assert!(log.len() > 5, "{log:?}");
    let has_certificate = |line: &String| line.contains(" certificate=\"CN=robot\" ");
    assert!(log.iter().all(has_certificate), "{log:?}");
}

#[test]
fn skopeo_presents_the_certificate_in_its_cert_dir() {
    let lab = Lab::requiring_client_certificates();
    let image = remote(&lab, "team/app");
    let inspect = |folder: &std::path::Path| {
        let mut command = lab.command("skopeo");
        command.args(["inspect", "--creds", &Lab::credentials(), "--cert-dir"]);
        run(command.arg(folder).arg(&image))
    };
    let trust_dir = lab.certs().trust_dir();
    let refused = inspect(&trust_dir).fails();
    assert!(refused.contains("tls: certificate required"), "{refused}");
    // `push` passes the same directory to skopeo, so that it presents the certificate as well.
    lab.certs().issue_client_certificate(&trust_dir);
    push(&lab, "team/app");
    inspect(&trust_dir).succeeds();
}
