//! oci-client behind a command line of its own, the crate in `tests/real/oci-client`: built when first wanted.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use super::{Lab, Outcome, run};

/// One operation of oci-client, as its `main.rs` has them.
pub(crate) fn oci_client(lab: &Lab, login: Option<(&str, &str)>, arguments: &[&str]) -> Outcome {
    let mut command = lab.command(&PROGRAM.display().to_string());
    command.env("OCI_CA", lab.certs().ca());
    if let Some((user, password)) = login {
        command.env("OCI_USER", user).env("OCI_PASSWORD", password);
    }
    run(command.args(arguments))
}

/// With the HOME of whoever runs the tests, where cargo keeps its sources; the first build takes minutes.
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
