//! Runs the Python clients oras, python-dxf and websockets, which `tests/run --install` installs below the target directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Lab, Outcome, run};

/// Runs one operation of `tests/real/python/oras_client.py`. `backend` is the authentication backend of oras.
pub(crate) fn oras(
    lab: &Lab,
    backend: &str,
    login: Option<(&str, &str)>,
    arguments: &[&str],
) -> Outcome {
    let mut command = lab.command(&installed("python"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/python/oras_client.py");
    command
        .arg(script)
        .env("ORAS_CA", lab.certs().ca())
        .env("ORAS_AUTH", backend);
    log_in(&mut command, "ORAS", login);
    run(command.args(arguments))
}

/// Runs one operation of the command `dxf` of python-dxf.
pub(crate) fn dxf(
    lab: &Lab,
    login: Option<(&str, &str)>,
    token: Option<&str>,
    arguments: &[&str],
) -> Outcome {
    let mut command = lab.command(&installed("dxf"));
    command
        .env("DXF_HOST", lab.host())
        .env("DXF_TLSVERIFY", lab.certs().ca());
    if let Some(token) = token {
        command.env("DXF_TOKEN", token);
    }
    log_in(&mut command, "DXF", login);
    run(command.args(arguments))
}

/// `tests/real/python/websocket_peers.py` with these arguments.
pub(crate) fn websocket_peers(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.command(&installed("python"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/python/websocket_peers.py");
    command.arg(script).args(arguments);
    command
}

fn log_in(command: &mut Command, client: &str, login: Option<(&str, &str)>) {
    if let Some((user, password)) = login {
        command.env(format!("{client}_USERNAME"), user);
        command.env(format!("{client}_PASSWORD"), password);
    }
}

pub(crate) fn installed(program: &str) -> String {
    let folder: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "python", "bin"]
        .iter()
        .collect();
    let path = folder.join(program);
    assert!(
        path.is_file(),
        "{} is missing: tests/run --install makes it of tests/real/python/requirements.txt",
        path.display()
    );
    path.display().to_string()
}
