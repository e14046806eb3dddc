//! The Python clients, oras and python-dxf, in the folder that `tests/run --install` made for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Lab, Outcome, run};

/// One operation of oras, as `tests/real/python/oras_client.py` has them; `backend` is its way to log in.
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

/// One operation of python-dxf's own command.
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
