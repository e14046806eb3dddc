//! Runs the command-line program around oci-client, the crate in `tests/real/oci-client`. The program is built on first use.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use super::{Lab, Outcome, run};

/// Runs one operation of oci-client. The operations are listed in the `main.rs` of the crate.
pub(crate) fn oci_client(lab: &Lab, login: Option<(&str, &str)>, arguments: &[&str]) -> Outcome {
    let mut command = lab.command(&PROGRAM.display().to_string());
    command.env("OCI_CA", lab.certs().ca());
    if let Some((user, password)) = login {
        command.env("OCI_USER", user).env("OCI_PASSWORD", password);
    }
    run(command.args(arguments))
}

/// The path of the program. cargo runs with the HOME of the test process, where it keeps its sources. The first build takes
/// minutes.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let target: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "oci-client"].iter().collect();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/real/oci-client/Cargo.toml"
        ))
        .arg("--target-dir")
        .arg(&target)
        .status();
    assert!(
        built.unwrap().success(),
        "oci-client does not build, see above"
    );
    target.join("debug/tidegate-oci-client")
});
