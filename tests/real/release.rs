//! What `examples/build-release` makes: a tarball whose program runs, and an image that a docker daemon loads and that
//! serves a push and a pull, as a user without rights.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::lab::{Docker, Image, Lab, MIB, run, wait_until};

/// The user of the image.
const IMAGE_USER: &str = "65532:65532";

#[test]
fn the_image_of_a_release_serves_a_push_and_a_pull() {
    let mut lab = Lab::start();
    let release = lab.path("release");
    let made = build(&release);
    let [tarball, image, sums] = ["-x86_64.tar.gz", "-image.tar", "SHA256SUMS"].map(|end| {
        let mut lines = made.lines();
        let line = lines.find(|line| line.starts_with('/') && line.ends_with(end));
        line.unwrap_or_else(|| panic!("no {end} in {made}"))
            .to_owned()
    });
    let mut check = Command::new("sha256sum");
    run(check.args(["--check", &sums]).current_dir(&release)).succeeds();
    runs_from_the_tarball(&lab, &tarball);

    // The container takes the port of the lab's own process, and its files but for the owner.
    lab.stop_proxy();
    let docker = Docker::start(&lab, "docker");
    let loaded = docker.run(&["load", "--input", &image]).succeeds();
    assert!(loaded.contains("tidegate:latest"), "{loaded}");
    let dir = lab.path("").display().to_string();
    for folder in [lab.path("state"), lab.path("container")] {
        std::fs::create_dir_all(&folder).unwrap();
    }
    let mut own = Command::new("chown");
    run(own.args(["-R", IMAGE_USER, &dir])).succeeds();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (folder, file) = (format!("{dir}:{dir}"), format!("{dir}/proxy.toml"));
    let arguments = [
        "run",
        "--detach",
        "--name",
        "tidegate",
        "--network",
        "host",
        "--read-only",
        "--cap-drop",
        "ALL",
        "--volume",
        &folder,
        "tidegate:latest",
        "serve",
        "-c",
        &file,
    ];
    docker.run(&arguments).succeeds();
    wait_until("the container listens", || {
        crate::lab::is_listening(lab.port())
    });

    docker.log_in();
    let layers = [3 * MIB, MIB];
    let image = Image::make(&lab.path("layers"), &layers);
    let reference = docker.load(&image, "team/app");
    docker.run(&["push", &reference]).succeeds();
    let id = docker.id(&reference);
    docker.run(&["image", "rm", &reference]).succeeds();
    docker.run(&["pull", &reference]).succeeds();
    assert_eq!(docker.id(&reference), id);
    let user = docker.run(&["inspect", "--format", "{{.Config.User}}", "tidegate"]);
    assert_eq!(user.succeeds().trim(), IMAGE_USER);
    // SIGTERM is enough: the container ends by itself, with 0.
    docker.run(&["stop", "--time", "20", "tidegate"]).succeeds();
    let code = docker.run(&["inspect", "--format", "{{.State.ExitCode}}", "tidegate"]);
    assert_eq!(code.succeeds().trim(), "0");
}

fn runs_from_the_tarball(lab: &Lab, tarball: &str) {
    let folder = lab.path("unpacked");
    std::fs::create_dir(&folder).unwrap();
    let mut unpack = Command::new("tar");
    unpack.args([
        "--extract",
        "--strip-components=2",
        "--file",
        tarball,
        "--directory",
    ]);
    run(unpack.arg(&folder)).succeeds();
    let version = run(Command::new(folder.join("bin/tidegate")).arg("--version")).succeeds();
    assert!(version.starts_with("tidegate "), "{version}");
    for file in [
        "lib/systemd/system/tidegate.service",
        "share/man/man1/tidegate.1",
        "share/doc/tidegate/proxy.toml",
        "share/doc/tidegate/LICENSE",
    ] {
        assert!(folder.join(file).is_file(), "{file}");
    }
}

/// Packages the tests' own program, as if it were a release: that takes minutes to build, and would show no more.
fn build(output: &Path) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/build-release");
    let mut build = Command::new(script);
    build.args(["--binary", env!("CARGO_BIN_EXE_tidegate"), "--output"]);
    run(build.arg(output)).succeeds()
}
