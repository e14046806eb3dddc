//! `check --who … --may …`, and the warnings of `check` about grants that have no effect.

use std::fmt;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::binary::with_own_directories;
use crate::support::proxy::directory;
use crate::support::{assert_contains, config};

const GRANTS: &str = "\
[[site.route.grant]]
to = [\"@ci\"]
repositories = [\"team/**\"]
actions = [\"push\"]
[[site.route.grant]]
to = [\"@users\"]
repositories = [\"home/{user}/**\"]
actions = [\"push\"]
[[site.route.grant]]
to = [\"alice\"]
repositories = [\"pub/*\"]
actions = [\"catalog\", \"delete\"]
";

/// Two more sites: one without grants, and one in mode `upstream`.
const SITES: &str = "
[[site]]
hosts = [\"plain\"]
tls = { cert = \"cert.pem\", key = \"key.pem\" }
[[site.route]]
path = \"/v2/\"
upstream = \"http://127.0.0.1:1\"
auth = { mode = \"basic\", htpasswd = \"htpasswd\" }
[[site]]
hosts = [\"harbor\"]
tls = { cert = \"cert.pem\", key = \"key.pem\" }
[[site.route]]
path = \"/v2/\"
upstream = \"http://127.0.0.1:1\"
auth = { mode = \"upstream\" }
";

/// A directory with a configuration and the files that it names.
struct ConfigDir {
    dir: TempDir,
}

impl ConfigDir {
    fn new(text: impl fmt::Display) -> Self {
        let dir = directory();
        let text = text.to_string();
        let text = text.replace("{upstream}", "http://127.0.0.1:1");
        std::fs::write(dir.path().join("proxy.toml"), text).unwrap();
        Self { dir }
    }

    fn check(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        with_own_directories(&mut command, self.dir.path())
            .args(["check", "-c", "proxy.toml"])
            .args(arguments)
            .current_dir(self.dir.path())
            .output()
            .unwrap()
    }
}

#[test]
fn the_result_names_the_grant_that_allows_the_action() {
    let groups = "[groups]\nci = [\"bot\", \"alice\"]\n";
    let config_dir = ConfigDir::new(format!("{}{SITES}", config(groups, GRANTS)));
    let cases = [
        (
            "alice push team/a",
            "localhost",
            0,
            "localhost: yes, by the grant in proxy.toml:16\n",
        ),
        (
            "alice pull home/alice/x",
            "localhost",
            0,
            "localhost: yes, by the grant in proxy.toml:20\n",
        ),
        (
            "alice pull home/bob/x",
            "localhost",
            1,
            "localhost: no, no grant allows it\n",
        ),
        (
            "alice pull pub/x",
            "localhost",
            1,
            "localhost: no, no grant allows it; the grants allow delete, catalog there\n",
        ),
        (
            "alice catalog pub/x",
            "localhost",
            0,
            "localhost: yes, by the grant in proxy.toml:24\n",
        ),
        (
            "bot push team/a",
            "localhost",
            1,
            "localhost: no, bot has no usable line in htpasswd; with a line there, the result is: yes, by the \
             grant in proxy.toml:16\n",
        ),
        (
            "eve push team/a",
            "localhost",
            1,
            "localhost: no, eve has no usable line in htpasswd\n",
        ),
        (
            "@anonymous pull pub/x",
            "localhost",
            1,
            "localhost: no, the route requires a password\n",
        ),
        (
            "alice push x",
            "PLAIN",
            0,
            "plain: yes, the route has no grants, so every user may do everything\n",
        ),
        (
            "alice push x",
            "harbor",
            1,
            "harbor: the upstream decides\n",
        ),
    ];
    for (question, host, code, expected) in cases {
        let parts: Vec<_> = question.split(' ').collect();
        let output = config_dir.check(&[
            "--who", parts[0], "--may", parts[1], parts[2], "--host", host,
        ]);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{output:?}"
        );
        assert_eq!(output.status.code(), Some(code), "{question}");
    }
    let all = config_dir.check(&["--who", "alice", "--may", "pull", "team/a"]);
    let printed = String::from_utf8_lossy(&all.stdout).into_owned();
    assert_eq!(
        (printed.lines().count(), all.status.code()),
        (3, Some(0)),
        "{printed}"
    );
    // The list of repositories is asked for as a whole.
    let list = config_dir.check(&["--who", "alice", "--host", "localhost", "--may", "catalog"]);
    assert_eq!(
        String::from_utf8_lossy(&list.stdout),
        "localhost: yes, by the grant in proxy.toml:24\n"
    );
    let unnamed = config_dir.check(&["--who", "alice", "--may", "pull"]);
    assert_eq!(unnamed.status.code(), Some(2), "{unnamed:?}");
    let said = String::from_utf8_lossy(&unnamed.stderr).into_owned();
    assert!(said.contains("--may pull team/app"), "{said}");
    let some = config_dir.check(&["--who", "alice", "--may", "pull", "other"]);
    assert_eq!(some.status.code(), Some(1), "one site has no such right");
}

#[test]
fn network_has_rights_on_a_route_that_needs_no_password_from_it() {
    let any = "allow = [\"10.0.0.0/8\"]\nsatisfy = \"any\"\n";
    let grant = "[[site.route.grant]]\nto = [\"@network\"]\nrepositories = [\"lan/*\"]\nactions = [\"pull\"]\n";
    let network_suffices = ConfigDir::new(config("", any));
    let state = "[state]\ndir = \"state\"\n";
    let granted = config(state, &format!("{any}{grant}")).mode("token");
    let granted = ConfigDir::new(&granted);
    let password_required = ConfigDir::new(config("", "allow = [\"10.0.0.0/8\"]"));
    for (config_dir, who, repository, expected) in [
        (
            &network_suffices,
            "@network",
            "a",
            "yes, the route has no grants, and its networks need no password",
        ),
        (
            &network_suffices,
            "@anonymous",
            "a",
            "no, the route requires a password",
        ),
        (
            &granted,
            "@network",
            "lan/a",
            "yes, by the grant in proxy.toml:",
        ),
        (&granted, "@network", "a", "no, no grant allows it"),
        (&granted, "@anonymous", "lan/a", "no, no grant allows it"),
        (
            &password_required,
            "alice",
            "a",
            "yes, the route has no grants, so every user may do everything; only from the networks that the route allows",
        ),
        (
            &password_required,
            "@network",
            "a",
            "no, the route requires a password from every network",
        ),
    ] {
        let output = config_dir.check(&["--who", who, "--may", "pull", repository]);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(out.contains(expected), "{who} {repository}: {output:?}");
        let code = i32::from(!expected.starts_with("yes"));
        assert_eq!(output.status.code(), Some(code), "{who} {repository}");
    }
}

#[test]
fn a_grant_of_an_included_file_is_reported_with_that_file() {
    let groups = "[groups]\nci = [\"alice\"]\n";
    let config_dir = ConfigDir::new(format!(
        "include = [\"conf.d/*.toml\"]\n{}",
        config(groups, GRANTS)
    ));
    let team = config_dir.dir.path().join("conf.d");
    std::fs::create_dir(&team).unwrap();
    let site = "[[site]]\nhosts = [\"team\"]\ntls = { cert = \"../cert.pem\", key = \"../key.pem\" }\n\
                [[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:1\"\n\
                auth = { mode = \"basic\", htpasswd = \"../htpasswd\" }\n\
                [[site.route.grant]]\nto = [\"@users\"]\nrepositories = [\"team/**\"]\nactions = [\"pull\"]\n";
    std::fs::write(team.join("team.toml"), site).unwrap();
    for (host, repository, position) in [
        ("team", "team/a", "conf.d/team.toml:8\n"),
        ("localhost", "home/alice/a", "grant in proxy.toml:21\n"),
    ] {
        let output = config_dir.check(&[
            "--who", "alice", "--may", "pull", repository, "--host", host,
        ]);
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(report.ends_with(position), "{output:?}");
        assert_eq!(output.status.code(), Some(0), "{report}");
    }
}

#[test]
fn a_network_needs_no_password_on_a_route_on_which_the_proxy_checks_none() {
    let auth = "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }";
    let open = SITES.replace(auth, "auth = { mode = \"none\" }");
    assert_ne!(open, SITES);
    let config_dir = ConfigDir::new(format!("{}{open}", config("", "")));
    for (host, code, report) in [
        ("plain", 0, "plain: yes, the route requires no password\n"),
        ("harbor", 1, "harbor: the upstream decides\n"),
    ] {
        let output = config_dir.check(&["--who", "@network", "--may", "pull", "a", "--host", host]);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            report,
            "{output:?}"
        );
        assert_eq!(output.status.code(), Some(code), "{host}");
    }
}

#[test]
fn an_invalid_question_is_a_usage_error() {
    let config_dir = ConfigDir::new(config("", GRANTS.replace("@ci", "alice").as_str()));
    for (arguments, word) in [
        (&["--who", "@ci", "--may", "pull", "a"][..], "@anonymous"),
        (&["--who", "a", "--may", "psuh", "a"], "pull, push, delete"),
        (&["--who", "a", "--may", "pull", "A"], "no repository"),
        (
            &["--who", "a", "--may", "pull", "a", "--host", "x"],
            "no site",
        ),
        (&["--who", "a"], "Usage"),
        (&["--may", "pull", "a"], "Usage"),
        (&["--who", "a", "--may", "pull"], "--may pull team/app"),
    ] {
        let output = config_dir.check(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(printed.contains(word), "{word} in {printed}");
    }
}

#[test]
fn users_without_a_usable_line_are_reported() {
    let groups = "[groups]\nci = [\"bot\", \"alice\"]\n";
    let config_dir = ConfigDir::new(config(
        groups,
        &GRANTS.replace("[\"alice\"]", "[\"alcie\"]"),
    ));
    let output = config_dir.check(&[]);
    assert_eq!(output.status.code(), Some(0), "warnings alone: {output:?}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_contains(
        &printed,
        &[
            "proxy.toml:4:7: warning: \"bot\" is in no usable line of htpasswd",
            "proxy.toml:25:7: warning: \"alcie\" is in no usable line",
            "2 warnings",
        ],
    );
}

#[test]
fn users_whose_name_is_no_path_component_are_reported() {
    let config_dir = ConfigDir::new(config("[groups]\nci = [\"alice\"]\n", GRANTS));
    let alice = std::fs::read_to_string(config_dir.dir.path().join("htpasswd")).unwrap();
    let hash = alice.trim().strip_prefix("alice").unwrap();
    let others = ["Ann", "bob", "x@y", "a.b", "-c", "team/d"];
    let lines: String = others
        .iter()
        .map(|user| format!("{user}{hash}\n"))
        .collect();
    let file = config_dir.dir.path().join("htpasswd");
    std::fs::write(&file, format!("# us\n{alice}{lines}")).unwrap();
    let output = config_dir.check(&[]);
    assert_eq!(output.status.code(), Some(0), "warnings alone: {output:?}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_contains(
        &printed,
        &[
            "proxy.toml:22:17: warning: \"home/{user}/**\" matches nothing for \"Ann\" (line 3), \"x@y\" (line 5), \"-c\" \
         (line 7), \"team/d\" (line 8) of htpasswd",
            "path component",
            "1 warning",
        ],
    );
    // The warning lists only users to whom the grant applies.
    let some = GRANTS.replace("[\"@users\"]", "[\"alice\", \"Ann\"]");
    std::fs::write(
        config_dir.dir.path().join("proxy.toml"),
        config("[groups]\nci = [\"alice\"]\n", &some)
            .upstream("http://127.0.0.1:1")
            .to_string(),
    )
    .unwrap();
    let printed = String::from_utf8_lossy(&config_dir.check(&[]).stdout).into_owned();
    assert!(
        printed.contains("nothing for \"Ann\" (line 3) of htpasswd"),
        "{printed}"
    );
    let many: String = (0..12).map(|number| format!("U{number}{hash}\n")).collect();
    std::fs::write(&file, format!("{alice}{many}")).unwrap();
    std::fs::write(
        config_dir.dir.path().join("proxy.toml"),
        config("[groups]\nci = [\"alice\"]\n", GRANTS)
            .upstream("http://127.0.0.1:1")
            .to_string(),
    )
    .unwrap();
    let printed = String::from_utf8_lossy(&config_dir.check(&[]).stdout).into_owned();
    assert!(
        printed.contains("\"U4\" (line 6) and 7 more of htpasswd"),
        "{printed}"
    );
}
