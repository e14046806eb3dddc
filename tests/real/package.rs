//! The Debian package on a machine of its own: installed, served from, upgraded under load, removed.
//!
//! The machine is this one's files under a layer in memory, in namespaces of its own, with systemd as its first process:
//! what is installed there is gone when it ends, and the proxy runs in the whole sandbox of its unit. The steps stand in
//! `package/checks.sh`, and those of a machine with nginx in `package/migration.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::lab::{run, run_within};

#[test]
fn a_machine_installs_serves_upgrades_and_forgets() {
    let dir = TempDir::with_prefix("real-").unwrap();
    // Two programs that do the same and are not the same.
    build(&dir.path().join("first.deb"), "0.1.0-1", "--no-strip");
    build(&dir.path().join("second.deb"), "0.1.0-2", "--strip");
    lint(&dir.path().join("second.deb"));
    run_on_machine(dir.path(), "checks.sh");
}

/// The steps of `docs/from-nginx.md`, as they are written there.
#[test]
fn a_machine_moves_from_nginx_and_back_by_the_steps_of_the_document() {
    let dir = TempDir::with_prefix("real-").unwrap();
    build(&dir.path().join("first.deb"), "0.1.0-1", "--no-strip");
    let document = std::fs::read_to_string(root().join("docs/from-nginx.md")).unwrap();
    let (_, section) = document.split_once("\n## Switch, and back\n").unwrap();
    let (_, block) = section.split_once("\n```sh\n").unwrap();
    let (steps, _) = block.split_once("```\n").unwrap();
    assert_eq!(steps.lines().count(), 6, "{steps}");
    std::fs::write(dir.path().join("steps"), steps).unwrap();
    run_on_machine(dir.path(), "migration.sh");
}

/// Runs a script of `tests/real/package` on a machine of its own, which sees the folder as `/lab`.
fn run_on_machine(dir: &Path, script: &str) {
    let here = root().join("tests/real/package");
    for (source, name) in [("machine.sh", "machine.sh"), (script, "checks.sh")] {
        std::fs::copy(here.join(source), dir.join(name)).unwrap();
    }
    let mut machine = Command::new("unshare");
    machine
        .args(["--fork", "--pid", "--mount", "--cgroup", "--uts", "--ipc"])
        .args(["--net", "--kill-child=KILL", "bash"])
        .arg(dir.join("machine.sh"))
        .arg(dir);
    let outcome = run_within("600", &machine);
    let steps = std::fs::read_to_string(dir.join("checks.log")).unwrap_or_default();
    assert!(
        outcome.is_success() && steps.ends_with("all checks passed\n"),
        "{steps}\n{}",
        outcome.story()
    );
}

/// The tests' own program in a package, as if it were a release: that takes minutes to build, and would show no more.
fn build(deb: &Path, version: &str, strip: &str) {
    let target = TempDir::with_prefix("real-").unwrap();
    let release = target.path().join("release");
    std::fs::create_dir(&release).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_tidegate"), release.join("tidegate")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "deb",
            "--no-build",
            "--offline",
            "--locked",
            "--fast",
            strip,
        ])
        .args(["--deb-version", version, "--output"])
        .arg(deb)
        .env("CARGO_TARGET_DIR", target.path())
        .current_dir(root());
    run(&cargo).succeeds();
}

/// lintian must report neither errors nor warnings; an exception has its reason in `examples/debian/lintian-overrides`.
fn lint(deb: &Path) {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--info", "--fail-on", "error,warning"]);
    run(lintian.arg(deb)).succeeds();
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
