//! `tidegate check --live`: its words and exit codes, by the executable itself.

use crate::binary::{configured, run, text};
use crate::support::registry::nowhere;
use crate::support::{Registry, config};

#[test]
fn all_is_well_or_it_is_said_what_is_not() {
    let registry = Registry::obliging();
    let (_dir, file) = configured(&config("", "").replace("{upstream}", &registry.url()));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    for words in [
        "localhost: the certificate fits its key and is valid until ",
        &format!("{} answers as a registry does", registry.url()),
        "the configuration is good",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    let asked = registry.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].all("authorization").is_empty());

    let away = format!("http://{}", nowhere());
    let (_dir, file) = configured(&config("", "").replace("{upstream}", &away));
    // Without a look around nobody is asked.
    assert_eq!(run(&["check", "-c", &file]).status.code(), Some(0));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    for words in ["proxy.toml:12:", "no answer", &away, "not all is well"] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[test]
fn a_registry_without_users_behind_a_gate_that_asks_nobody_is_an_error() {
    let registry = Registry::obliging();
    let text_of = config("", "").replace("{upstream}", &registry.url());
    let auth = text_of
        .lines()
        .find(|line| line.starts_with("auth = "))
        .unwrap();
    let open = text_of.replace(auth, "auth = { mode = \"upstream\" }");
    let (_dir, file) = configured(&open);
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("anyone may push"), "{said}");
}

#[test]
fn a_configuration_that_is_refused_is_not_looked_around() {
    let (_dir, file) = configured("nonsense");
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}
