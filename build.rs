//! The build script: gives the compiler the commit and the versions of the main libraries, which `tidegate --version` prints.
//!
//! The commit is that of the git repository of these sources. A packager who builds from an archive sets `TIDEGATE_COMMIT`. The
//! versions are those of `Cargo.lock`.
#![allow(
    clippy::print_stdout,
    reason = "cargo reads the results of a build script from its standard output"
)]

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=Cargo.lock");
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-env-changed={COMMIT}");
    // A commit alone rebuilds a release only: in a working tree the sources change with nearly every commit, and a build that
    // is repeated after each of the others would take a minute for one line of text.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        for name in ["HEAD", "logs/HEAD"] {
            if let Some(path) = git(&["rev-parse", "--git-path", name]) {
                println!("cargo:rerun-if-changed={path}");
            }
        }
    }
    let commit = std::env::var(COMMIT).ok().filter(|commit| is_word(commit));
    let commit = commit
        .or_else(commit_of_sources)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=TIDEGATE_COMMIT={commit}");
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    println!(
        "cargo:rustc-env=TIDEGATE_LIBRARIES={}",
        library_versions(&lock)
    );
}

/// The commit that is checked out, with `-dirty` if a file of it was changed. `None` without git, and if the sources lie inside
/// the repository of another project.
fn commit_of_sources() -> Option<String> {
    let is_root = git(&["rev-parse", "--show-prefix"])?.is_empty();
    let commit = git(&[
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ])?;
    Some(commit).filter(|commit| is_root && is_word(commit))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Whether the text is one word that can stand in a line for cargo.
fn is_word(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
    !text.is_empty() && text.chars().all(is_plain)
}

/// `hyper 1.12.0, rustls 0.23.46, …`, as far as `Cargo.lock` names them.
fn library_versions(lock: &str) -> String {
    let version = |name: &&str| {
        let package = lock.split("[[package]]").find(|package| {
            let mut lines = package.lines();
            lines.any(|line| line == format!("name = \"{name}\""))
        })?;
        let line = package
            .lines()
            .find_map(|line| line.strip_prefix("version = \""))?;
        Some(format!("{name} {}", line.trim_end_matches('"')))
    };
    let versions: Vec<_> = LIBRARIES.iter().filter_map(version).collect();
    versions.join(", ")
}

const COMMIT: &str = "TIDEGATE_COMMIT";
/// The libraries whose advisories concern an operator first: HTTP, TLS, cryptography and the runtime.
const LIBRARIES: [&str; 6] = ["hyper", "h2", "rustls", "aws-lc-rs", "ring", "tokio"];
