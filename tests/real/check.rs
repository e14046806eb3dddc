//! `tidegate check --live` and `--push` with real registries.

use std::fs::{self, File};

use crate::lab::{Lab, PASSWORD, Service, USER, run, run_with_input};

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
            "responds as a registry does",
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

/// The words of a check that finds an error.
fn refused(lab: &Lab, config: &str, user: Option<(&str, &str)>) -> String {
    let file = lab.path("check.toml");
    fs::write(&file, config).unwrap();
    let mut check = lab.command(env!("CARGO_BIN_EXE_tidegate"));
    check.arg("check").arg("-c").arg(file);
    let Some((user, password)) = user else {
        return run(check.arg("--live")).fails();
    };
    check.args(["--push", "team/app", "--user", user, "--stdin"]);
    let word = lab.path("password");
    fs::write(&word, format!("{password}\n")).unwrap();
    run_with_input(&check, File::open(&word).unwrap().into()).fails()
}

#[test]
fn a_login_that_the_registry_judges_is_told_from_a_fault_of_the_registry() {
    let lab = Lab::configured("upstream", "");
    let config = fs::read_to_string(lab.path("proxy.toml")).unwrap();
    let word = lab.path("password");
    fs::write(&word, format!("{PASSWORD}\n")).unwrap();
    let mut check = lab.command(env!("CARGO_BIN_EXE_tidegate"));
    check.args([
        "check", "--push", "team/app", "--user", USER, "--stdin", "-c",
    ]);
    check.arg(lab.path("proxy.toml"));
    let said = run_with_input(&check, File::open(&word).unwrap().into()).succeeds();
    for words in ["a registry with its own users does", "pushed and pulled"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    let said = refused(&lab, &config, Some((USER, "wrong")));
    for words in ["wrong password", "leaves the login to the registry"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    // The same registry behind a route for its API alone: its token service is out of reach.
    let said = refused(
        &lab,
        &config.replace("path = \"/\"", "path = \"/v2/\""),
        None,
    );
    for words in ["/service/token", "for which this site has no route"] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

/// Starts Debian's registry with further keys, on a port that the system chooses.
fn registry(lab: &Lab, name: &'static str, http: &str, auth: &str) -> (Service, u16) {
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
fn registries_that_do_not_fit_the_route_are_told_with_their_remedy() {
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
    let (_tls, port) = registry(&lab, "tls", &tls, "");
    let (ca, url) = (lab.certs().ca(), format!("https://127.0.0.1:{port}"));
    let said = refused(&lab, &with(&format!("\"http://127.0.0.1:{port}\"")), None);
    assert!(said.contains(&format!("write \"{url}\"")), "{said}");
    // The remedy works.
    let file = lab.path("right.toml");
    fs::write(&file, with(&format!("{{ urls = [{url:?}], ca = {ca:?} }}"))).unwrap();
    let mut check = lab.command(env!("CARGO_BIN_EXE_tidegate"));
    let said = run(check.args(["check", "--live", "-c"]).arg(&file)).succeeds();
    assert!(
        said.contains(&format!("{url} responds as a registry does")),
        "{said}"
    );

    let own = plain.trim_matches('"').replace("http://", "https://");
    let said = refused(
        &lab,
        &with(&format!("{{ urls = [{own:?}], ca = {ca:?} }}")),
        None,
    );
    assert!(said.contains(&format!("write {plain}")), "{said}");

    let htpasswd = lab.path("htpasswd");
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: inner\n    path: {}\n",
        htpasswd.display()
    );
    let (_own, port) = registry(&lab, "own", "", &auth);
    let said = refused(&lab, &with(&format!("\"http://127.0.0.1:{port}\"")), None);
    for words in [
        "a password of its own (Basic realm=\"inner\")",
        "remove the auth section",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
}
