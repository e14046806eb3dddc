//! `tidegate check --live` and `--push` with real registries.

use std::fs::{self, File};

use crate::lab::{Lab, PASSWORD, Service, USER, run, run_with_input};

/// Runs `check --live --push` twice against a lab in `mode`, and asserts that the registry has the blob.
fn assert_check_pushes_and_pulls(mode: &'static str) {
    let lab = Lab::configured(mode, "");
    let password_file = lab.path("password");
    fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    let mut check = lab.command(env!("CARGO_BIN_EXE_tidegate"));
    check.args([
        "check", "--live", "--push", "team/app", "--user", USER, "--stdin", "-c",
    ]);
    check.arg(lab.path("proxy.toml"));
    for _ in 0..2 {
        let output = run_with_input(&check, File::open(&password_file).unwrap().into()).succeeds();
        for message in [
            "responds as a registry does",
            "pushed and pulled",
            "left in team/app",
        ] {
            assert!(output.contains(message), "{message} in {output}");
        }
        let blob = output.split("sha256:").nth(1).unwrap();
        let sum = blob.split(',').next().unwrap();
        let mut curl = lab.command("curl");
        curl.args(["--silent", "--fail", "--noproxy", "*"]);
        curl.arg(lab.behind(&format!("/v2/team/app/blobs/sha256:{sum}")));
        assert_eq!(run(&curl).succeeds(), "tidegate check --live --push\n");
    }
}

#[test]
fn check_pushes_and_pulls_a_blob_with_a_password() {
    assert_check_pushes_and_pulls("basic");
}

#[test]
fn check_pushes_and_pulls_a_blob_with_a_token() {
    assert_check_pushes_and_pulls("token");
}

/// Runs a check with `config` and asserts that it fails. With `login`, the check also pushes. Returns the output.
fn failed_check(lab: &Lab, config: &str, login: Option<(&str, &str)>) -> String {
    let file = lab.path("check.toml");
    fs::write(&file, config).unwrap();
    let mut check = lab.command(env!("CARGO_BIN_EXE_tidegate"));
    check.arg("check").arg("-c").arg(file);
    let Some((user, password)) = login else {
        return run(check.arg("--live")).fails();
    };
    check.args(["--push", "team/app", "--user", user, "--stdin"]);
    let password_file = lab.path("password");
    fs::write(&password_file, format!("{password}\n")).unwrap();
    run_with_input(&check, File::open(&password_file).unwrap().into()).fails()
}

#[test]
fn check_distinguishes_a_wrong_password_from_a_misconfigured_route() {
    let lab = Lab::configured("upstream", "");
    let config = fs::read_to_string(lab.path("proxy.toml")).unwrap();
    let password_file = lab.path("password");
    fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    let mut check = lab.command(env!("CARGO_BIN_EXE_tidegate"));
    check.args([
        "check", "--push", "team/app", "--user", USER, "--stdin", "-c",
    ]);
    check.arg(lab.path("proxy.toml"));
    let output = run_with_input(&check, File::open(&password_file).unwrap().into()).succeeds();
    for message in ["a registry with its own users does", "pushed and pulled"] {
        assert!(output.contains(message), "{message} in {output}");
    }
    let output = failed_check(&lab, &config, Some((USER, "wrong")));
    for message in ["wrong password", "leaves the login to the registry"] {
        assert!(output.contains(message), "{message} in {output}");
    }
    // With a route for `/v2/` only, no route leads to the token service of the registry.
    let output = failed_check(
        &lab,
        &config.replace("path = \"/\"", "path = \"/v2/\""),
        None,
    );
    for message in ["/service/token", "for which this site has no route"] {
        assert!(output.contains(message), "{message} in {output}");
    }
}

/// Starts Debian's registry with additional keys, on a port that the kernel chooses. Returns the process and the port.
fn start_registry(lab: &Lab, name: &'static str, http: &str, auth: &str) -> (Service, u16) {
    let file = lab.path(&format!("{name}.yml"));
    let text = format!(
        "version: 0.1\n{auth}storage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{http}",
        lab.path(name).display()
    );
    fs::write(&file, text).unwrap();
    let mut command = lab.command("docker-registry");
    command.arg("serve").arg(file);
    let mut service = Service::start(name, &command, &lab.path(""));
    let log = lab.path(&format!("{name}.log"));
    let port = || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let rest = text.split("listening on 127.0.0.1:").nth(1)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    service.wait_until(|| port().is_some());
    let port = port().unwrap();
    (service, port)
}

#[test]
fn check_reports_a_registry_that_does_not_fit_the_route_with_a_remedy() {
    let lab = Lab::start();
    let config = fs::read_to_string(lab.path("proxy.toml")).unwrap();
    let plain = config
        .lines()
        .find_map(|line| line.strip_prefix("upstream = "))
        .unwrap();
    let with = |upstream: &str| config.replace(plain, upstream);
    let (cert, key) = (lab.certs().cert(), lab.certs().key());
    let tls = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        cert.display(),
        key.display()
    );
    let (_tls, port) = start_registry(&lab, "tls", &tls, "");
    let (ca, url) = (lab.certs().ca(), format!("https://127.0.0.1:{port}"));
    let output = failed_check(&lab, &with(&format!("\"http://127.0.0.1:{port}\"")), None);
    assert!(output.contains(&format!("write \"{url}\"")), "{output}");
    // With the remedy applied, the check succeeds.
    let file = lab.path("right.toml");
    fs::write(&file, with(&format!("{{ urls = [{url:?}], ca = {ca:?} }}"))).unwrap();
    let mut check = lab.command(env!("CARGO_BIN_EXE_tidegate"));
    let output = run(check.args(["check", "--live", "-c"]).arg(&file)).succeeds();
    assert!(
        output.contains(&format!("{url} responds as a registry does")),
        "{output}"
    );

    let own = plain.trim_matches('"').replace("http://", "https://");
    let output = failed_check(
        &lab,
        &with(&format!("{{ urls = [{own:?}], ca = {ca:?} }}")),
        None,
    );
    assert!(output.contains(&format!("write {plain}")), "{output}");

    let htpasswd = lab.path("htpasswd");
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: inner\n    path: {}\n",
        htpasswd.display()
    );
    let (_own, port) = start_registry(&lab, "own", "", &auth);
    let output = failed_check(&lab, &with(&format!("\"http://127.0.0.1:{port}\"")), None);
    for message in [
        "a password of its own (Basic realm=\"inner\")",
        "remove the auth section",
    ] {
        assert!(output.contains(message), "{message} in {output}");
    }
}
