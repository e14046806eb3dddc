//! The output of `examples/build-release`: a tarball whose program runs, a Debian package with the version of the commit, and an
//! image that a docker daemon loads and reports as healthy, and that serves a push and a pull as a user without rights.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::lab::{Docker, Image, Lab, MIB, run, wait_until, wait_up_to};

/// The user of the image.
const IMAGE_USER: &str = "65532:65532";

#[test]
fn the_image_of_a_release_serves_a_push_and_a_pull() {
    let mut lab = Lab::start();
    let release = lab.path("release");
    let made = build(&release);
    let ends = ["-x86_64.tar.gz", "-image.tar", ".deb", "SHA256SUMS"];
    let [tarball, image, package, sums] = ends.map(|end| {
        let mut lines = made.lines();
        let line = lines.find(|line| line.starts_with('/') && line.ends_with(end));
        line.unwrap_or_else(|| panic!("no {end} in {made}"))
            .to_owned()
    });
    let mut check = Command::new("sha256sum");
    run(check.args(["--check", &sums]).current_dir(&release)).succeeds();
    runs_from_the_tarball(&lab, &tarball);
    assert_package_version(&package);

    // The container takes the port of the lab's own process, and its files but for the owner. The admin listener is the default
    // of the image.
    lab.stop_proxy();
    let config = std::fs::read_to_string(lab.path("proxy.toml")).unwrap();
    let config: Vec<_> = config
        .lines()
        .filter(|line| !line.starts_with("admin ="))
        .collect();
    std::fs::write(lab.path("proxy.toml"), config.join("\n")).unwrap();
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
    let folder = format!("{dir}:{dir}");
    let file = format!("{dir}/proxy.toml:/etc/tidegate/proxy.toml:ro");
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
        // The image asks every 30 seconds, as long as `wait_until` waits.
        "--health-interval",
        "1s",
        "--volume",
        &folder,
        "--volume",
        &file,
        "tidegate:latest",
    ];
    docker.run(&arguments).succeeds();
    wait_until("the container listens", || {
        crate::lab::is_listening(lab.port())
    });
    let inspect = |format: &str| {
        let shown = docker.run(&["inspect", "--format", format, "tidegate"]);
        shown.succeeds().trim().to_owned()
    };
    wait_until("docker reports the container as healthy", || {
        inspect("{{.State.Health.Status}}") == "healthy"
    });
    let status = docker.run(&["exec", "tidegate", "/usr/bin/tidegate", "status"]);
    assert!(status.succeeds().contains("serving"));

    docker.log_in();
    let layers = [3 * MIB, MIB];
    let image = Image::make(&lab.path("layers"), &layers);
    let reference = docker.load(&image, "team/app");
    docker.run(&["push", &reference]).succeeds();
    let id = docker.id(&reference);
    docker.run(&["image", "rm", &reference]).succeeds();
    docker.run(&["pull", &reference]).succeeds();
    assert_eq!(docker.id(&reference), id);
    assert_eq!(inspect("{{.Config.User}}"), IMAGE_USER);
    assert_eq!(inspect("{{.Config.Cmd}}"), "[serve]");
    // Without the registry the process runs on, and is not healthy.
    lab.stop_registry();
    let ready = ["exec", "tidegate", "/usr/bin/tidegate", "check", "--ready"];
    wait_up_to(
        Duration::from_secs(120),
        "the container is not ready",
        || !docker.run(&ready).is_success(),
    );
    // SIGTERM is enough: the container ends by itself, with 0.
    docker.run(&["stop", "--time", "20", "tidegate"]).succeeds();
    assert_eq!(inspect("{{.State.ExitCode}}"), "0");
}

/// The version of the package names the commit, and sorts below the release that follows.
fn assert_package_version(package: &str) {
    let mut field = Command::new("dpkg-deb");
    let version = run(field.args(["--field", package, "Version"])).succeeds();
    let version = version.trim();
    let mut git = Command::new("git");
    let described = git.args(["describe", "--tags", "--exact-match", "--match", "v[0-9]*"]);
    let described = run(described.current_dir(env!("CARGO_MANIFEST_DIR")));
    if !described.is_success() {
        let mut git = Command::new("git");
        let commit = git.args(["rev-parse", "--short", "HEAD"]);
        let commit = run(commit.current_dir(env!("CARGO_MANIFEST_DIR"))).succeeds();
        assert!(version.contains(commit.trim()), "{version} and {commit}");
    }
    assert!(
        package.contains(&format!("tidegate_{version}_")),
        "{package}"
    );
    let mut contents = Command::new("dpkg-deb");
    let contents = run(contents.args(["--contents", package])).succeeds();
    for page in [
        "tidegate.1.gz",
        "tidegate-serve.1.gz",
        "tidegate-htpasswd-add.1.gz",
    ] {
        assert!(contents.contains(page), "{page} in {contents}");
    }
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
        "share/man/man1/tidegate-check.1",
        "share/bash-completion/completions/tidegate",
        "share/zsh/site-functions/_tidegate",
        "share/fish/vendor_completions.d/tidegate.fish",
        "share/doc/tidegate/proxy.toml",
        "share/doc/tidegate/LICENSE",
    ] {
        assert!(folder.join(file).is_file(), "{file}");
    }
}

/// Packages the tests' own program, as if it were a release: that takes minutes to build, and would show no more.
pub(crate) fn build(output: &Path) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/build-release");
    let mut build = Command::new(script);
    build.args([
        "--binary",
        env!("CARGO_BIN_EXE_tidegate"),
        "--deb",
        "--output",
    ]);
    run(build.arg(output)).succeeds()
}
