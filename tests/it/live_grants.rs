//! Grants in a file of their own (`route.grant_file`): a change of the file takes effect without a reload, and a file with an
//! error changes nothing.

use std::fs;

use crate::binary::{ServeProcess, configured, run, text};
use crate::support::proxy::TestConfig;
use crate::support::{Registry, TestRequest, config, eventually};

const PUSH: &str =
    "[[grant]]\nto = [\"@users\"]\nrepositories = [\"team/**\"]\nactions = [\"push\"]\n";
const PULL: &str = "[[grant]]\nto = [\"@own\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n\
                    [groups]\nown = [\"alice\"]\n";

/// A configuration whose grants are in `grants.toml`.
fn with_file(registry: &Registry) -> TestConfig {
    let top = "[groups]\nci = [\"alice\"]\n";
    let text = config(top, "").upstream(&registry.url());
    text.after("auth", "grant_file = \"grants.toml\"")
}

/// The status of a push into `team/app` and of a pull from `other`, as alice.
fn statuses(process: &ServeProcess) -> (u16, u16) {
    let mut client = process.client();
    let mut status = |method, target| client.exchange(&TestRequest::alice(method, target)).status;
    (
        status("POST", "/v2/team/app/blobs/uploads/"),
        status("GET", "/v2/other/tags/list"),
    )
}

#[test]
fn a_change_takes_effect_without_a_reload_and_an_error_changes_nothing() {
    let registry = Registry::accepting_all();
    let (dir, file) = configured(with_file(&registry));
    let grants = dir.path().join("grants.toml");
    let missing = run(&["serve", "-c", &file]);
    assert_eq!(missing.status.code(), Some(78), "{missing:?}");
    let said = text(&missing.stderr);
    assert!(
        said.contains("proxy.toml:") && said.contains("grants.toml: cannot read the grants"),
        "{said}"
    );

    fs::write(&grants, PUSH).unwrap();
    let process = ServeProcess::start(&file);
    assert_eq!(statuses(&process), (200, 403));
    fs::write(&grants, PULL).unwrap();
    eventually("the other grants are in use", || {
        statuses(&process) == (403, 200)
    });
    let line = process.line("grant file reloaded");
    assert!(line.contains("grants=1"), "{line}");

    for (content, problem) in [
        ("[[grant]]\nto = [", "grants.toml:2:"),
        (&PUSH.replace("push", "write"), "did you mean \"push\"?"),
        (&PUSH.replace("@users", "@c1"), "did you mean \"@ci\"?"),
        (&PUSH.replace("@users", "@network"), "satisfy = \"any\""),
        (
            &format!("{PUSH}[groups]\nci = [\"bob\"]\n"),
            "the configuration has a group",
        ),
        ("grants = 1\n", "unknown key \"grants\""),
    ] {
        fs::write(&grants, content).unwrap();
        let line = process.line(problem);
        assert!(line.contains("grants.toml"), "{line}");
        process.line("the grants as last read stay in use");
        assert_eq!(statuses(&process), (403, 200), "{content}");
        let check = run(&["check", "-c", &file]);
        assert_eq!(check.status.code(), Some(78), "{check:?}");
        assert!(text(&check.stderr).contains(problem), "{check:?}");
    }
    // A reload judges the file as a start does, but keeps its last grants, and does not fail.
    let reloaded = run(&["reload", "-c", &file]);
    assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
    let said = text(&reloaded.stderr);
    assert!(said.contains("the next start would fail"), "{said}");
    assert_eq!(statuses(&process), (403, 200));
    fs::remove_file(&grants).unwrap();
    process.line("cannot read the grants");
    assert_eq!(statuses(&process), (403, 200));

    // A group of the configuration is known in the file; a user without a password is a warning.
    fs::write(&grants, PUSH.replace("\"@users\"", "\"@ci\", \"carol\"")).unwrap();
    let line = process.line("\"carol\" is in no usable line of");
    assert!(line.contains("grants.toml:2:"), "{line}");
    eventually("the repaired file is in use", || {
        statuses(&process) == (200, 403)
    });
    let file_of_grant = run(&[
        "check", "-c", &file, "--who", "alice", "--may", "push", "team/app",
    ]);
    let said = text(&file_of_grant.stdout);
    assert!(said.contains("grants.toml:1"), "{file_of_grant:?}");
}

#[test]
fn a_grant_file_belongs_to_a_registry_with_passwords() {
    let registry = Registry::accepting_all();
    let text_of = |more: &str| {
        let text = config("", more).upstream(&registry.url());
        text.after("auth", "grant_file = \"grants.toml\"")
    };
    for (config, problem) in [
        (
            text_of("").lines(
                "auth",
                "auth = { mode = \"none\" }\ngrant_file = \"grants.toml\"",
            ),
            "grants with mode = \"none\"",
        ),
        (
            text_of("").after("auth", "registry = false"),
            "grants on a route that is no registry",
        ),
        (
            text_of("").after("auth", "allow = [\"10.0.0.0/8\"]\nsatisfy = \"any\""),
            "satisfy = \"any\" with grants and mode = \"basic\"",
        ),
    ] {
        let (dir, file) = configured(config);
        fs::write(dir.path().join("grants.toml"), PUSH).unwrap();
        let check = run(&["check", "-c", &file]);
        assert_eq!(check.status.code(), Some(78), "{problem}: {check:?}");
        assert!(text(&check.stderr).contains(problem), "{check:?}");
    }
    // A file without grants allows nothing, and is reported.
    let (dir, file) = configured(text_of(""));
    fs::write(dir.path().join("grants.toml"), "# none\n").unwrap();
    let check = run(&["check", "-c", &file]);
    assert!(
        text(&check.stdout).contains("the file has no grant"),
        "{check:?}"
    );
    let process = ServeProcess::start(&file);
    assert_eq!(statuses(&process), (403, 403));
    // Grants of the file and of the configuration add up.
    let more =
        "[[site.route.grant]]\nto = [\"@users\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n";
    let (dir, file) = configured(text_of(more));
    fs::write(dir.path().join("grants.toml"), PUSH).unwrap();
    let process = ServeProcess::start(&file);
    assert_eq!(statuses(&process), (200, 200));
}

#[test]
fn a_reload_revokes_grants_and_groups_although_the_file_cannot_be_used() {
    let registry = Registry::accepting_all();
    let with_grants = |groups: &str, own: &str| {
        let text = config(groups, own).upstream(&registry.url());
        text.after("auth", "grant_file = \"grants.toml\"")
            .to_string()
    };
    let group = "[groups]\nci = [\"alice\"]\nother = [\"alice\"]\n";
    let own =
        "[[site.route.grant]]\nto = [\"@users\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n";
    let (dir, file) = configured(with_grants(group, own));
    let grants = dir.path().join("grants.toml");
    fs::write(&grants, PUSH.replace("@users", "@ci")).unwrap();
    let process = ServeProcess::start(&file);
    assert_eq!(statuses(&process), (200, 200));
    let configure = |text: String| {
        let text = text.replace("{dir}", dir.path().to_str().unwrap());
        fs::write(&file, text).unwrap();
        run(&["reload", "-c", &file])
    };

    fs::write(&grants, "[[grant]]\nto = [").unwrap();
    process.line("the grants as last read stay in use");
    // The grant of the configuration is gone. The content of the file as last read is still used.
    let reloaded = configure(with_grants(group, ""));
    assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
    assert_eq!(statuses(&process), (200, 403));
    // Alice is no member of the group any more, which the content of the file names.
    let moved = group.replace("ci = [\"alice\"]", "ci = [\"bob\"]");
    let reloaded = configure(with_grants(&moved, ""));
    assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
    assert_eq!(statuses(&process), (403, 403));
    // Without the group, the content of the file means nothing, as at a start.
    let reloaded = configure(with_grants("[groups]\nother = [\"alice\"]\n", ""));
    assert_eq!(reloaded.status.code(), Some(1), "{reloaded:?}");
    let said = text(&reloaded.stderr);
    assert!(said.contains("no group \"@ci\""), "{said}");
    assert_eq!(statuses(&process), (403, 403));
}
