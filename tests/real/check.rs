//! `tidegate check --live --push` before a registry of the world.

use std::fs::{self, File};

use crate::lab::{Lab, PASSWORD, USER, run, run_with_input};

fn push(mode: &'static str) {
    let lab = Lab::configured(mode, "");
    let word = lab.path("password");
    fs::write(&word, format!("{PASSWORD}\n")).unwrap();
    let mut check = lab.command(env!("CARGO_BIN_EXE_tidegate"));
    check.args([
        "check", "--live", "--push", "team/app", "--user", USER, "--stdin", "-c",
    ]);
    check.arg(lab.path("proxy.toml"));
    for _ in 0..2 {
        let said = run_with_input(&check, File::open(&word).unwrap().into()).succeeds();
        for words in [
            "answers as a registry does",
            "pushed and pulled",
            "left in team/app",
        ] {
            assert!(said.contains(words), "{words} in {said}");
        }
        let blob = said.split("sha256:").nth(1).unwrap();
        let sum = blob.split(',').next().unwrap();
        let mut behind = lab.command("curl");
        behind.args(["--silent", "--fail", "--noproxy", "*"]);
        behind.arg(lab.behind(&format!("/v2/team/app/blobs/sha256:{sum}")));
        assert_eq!(run(&behind).succeeds(), "tidegate check --live --push\n");
    }
}

#[test]
fn a_blob_goes_there_and_back_with_a_password() {
    push("basic");
}

#[test]
fn a_blob_goes_there_and_back_with_a_token() {
    push("token");
}
