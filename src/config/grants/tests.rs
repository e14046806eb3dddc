use std::path::Path;

use crate::access::Grants;
use crate::config::parse;
use crate::registry::Action;

const BASIC: &str = "mode = \"basic\", htpasswd = \"h\"";

/// A config with these lines at its top, this auth and these keys of a route; its problems, and its grants.
fn read(top: &str, auth: &str, route: &str) -> (String, Option<Grants>) {
    let text = format!(
        "{top}\n[listen]\nhttps = [\"[::]:443\"]\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"http://b\"\nauth = {{ {auth} }}\n{route}\n"
    );
    let (config, problems) = parse(Path::new("x"), text.as_bytes());
    let grants = config.and_then(|config| {
        let route = config.sites.into_iter().next()?.routes.into_iter().next()?;
        Some((*route.granted?.grants).clone())
    });
    (problems.to_string(), grants)
}

fn grant(to: &str, repositories: &str, actions: &str) -> String {
    format!(
        "[[site.route.grant]]\nto = [{to}]\nrepositories = [{repositories}]\nactions = [{actions}]\n"
    )
}

#[test]
fn groups_and_actions_are_understood() {
    let top = "groups = { ci = [\"bot\", \"alice\"] }";
    let route = [
        grant("\"@ci\"", "\"team/**\"", "\"push\""),
        grant("\"@users\", \"eve\"", "\"pub/*\"", "\"pull\""),
        grant("\"root\"", "\"**\"", "\"delete\", \"catalog\""),
    ];
    let (problems, grants) = read(top, BASIC, &route.concat());
    assert_eq!(problems, "");
    let grants = grants.unwrap();
    for (user, action, repository, may) in [
        ("bot", Action::Push, "team/a", true),
        ("alice", Action::Pull, "team/a/b", true),
        ("eve", Action::Pull, "team/a", false),
        ("ci", Action::Pull, "team/a", false),
        ("eve", Action::Pull, "pub/a", true),
        ("root", Action::Delete, "x", true),
        ("root", Action::Catalog, "x", true),
        ("root", Action::Pull, "x", false),
    ] {
        let allowed = grants.allows(Some(user), action, Some(repository));
        assert_eq!(allowed, may, "{user} {action} {repository}");
    }
    let lines: Vec<_> = grants.of(Some("root")).map(|grant| grant.line).collect();
    assert_eq!(lines, [15, 19]);
}

#[test]
fn without_grants_there_are_none() {
    assert_eq!(read("", BASIC, ""), (String::new(), None));
}

#[test]
fn what_is_refused_and_what_is_odd() {
    let one = grant("\"@users\"", "\"**\"", "\"pull\"");
    let of = |to: &str| grant(to, "\"**\"", "\"pull\"");
    let at = |pattern: &str| grant("\"@users\"", pattern, "\"pull\"");
    let ci = "groups = { ci = [\"bot\"] }";
    let cases: &[(&str, &str, String, &[&str])] = &[
        (
            "groups = { users = [\"a\"] }",
            BASIC,
            one.clone(),
            &[
                "1:12: error: the group name \"users\" is reserved",
                "@users is every verified user",
            ],
        ),
        (
            "groups = { anonymous = [\"a\"] }",
            BASIC,
            one.clone(),
            &["reserved"],
        ),
        (
            "groups = { \"a b\" = [\"a\"] }",
            BASIC,
            one.clone(),
            &["\"a b\" is no group name"],
        ),
        (
            "groups = { a = [\"@b\"] }",
            BASIC,
            one.clone(),
            &["1:17: error: \"@b\" stands in a group", "one by one"],
        ),
        (
            "groups = { a = [\"b:c\"] }",
            BASIC,
            one.clone(),
            &["\"b:c\" is no user name"],
        ),
        (
            "groups = { a = [] }",
            BASIC,
            one.clone(),
            &["1:16: warning: nobody is in the group \"a\""],
        ),
        (
            ci,
            BASIC,
            of("\"@cii\""),
            &[
                "12:7: error: there is no group \"@cii\"",
                "did you mean \"@ci\"?",
            ],
        ),
        (ci, BASIC, of("\"@user\""), &["did you mean \"@users\"?"]),
        (ci, BASIC, of("\"@elsewhere\""), &["in the table groups"]),
        (ci, BASIC, of("\"\""), &["\"\" is no user name"]),
        (
            "",
            BASIC,
            of("\"@anonymous\""),
            &[
                "12:7: error: \"@anonymous\" with mode = \"basic\"",
                "first request to /v2/",
                "mode = \"token\"",
            ],
        ),
        (
            "",
            "mode = \"upstream\"",
            one.clone(),
            &["11:1: error: grants with mode = \"upstream\""],
        ),
        (
            "",
            "mode = \"none\"",
            one.clone(),
            &["11:1: error: grants with mode = \"none\""],
        ),
        (
            "",
            BASIC,
            format!("registry = false\n{one}"),
            &["12:1: error: grants on a route that is no registry"],
        ),
        (
            "",
            BASIC,
            "grant = []".to_owned(),
            &["11:1: error: site.route.grant is empty"],
        ),
        (
            "",
            BASIC,
            of(""),
            &["12:6: error: site.route.grant.to is empty"],
        ),
        (
            "",
            BASIC,
            at(""),
            &["site.route.grant.repositories is empty"],
        ),
        (
            "",
            BASIC,
            grant("\"a\"", "\"**\"", ""),
            &["site.route.grant.actions is empty"],
        ),
        (
            "",
            BASIC,
            "[[site.route.grant]]\n".to_owned(),
            &[
                "missing key \"to\"",
                "missing key \"repositories\"",
                "missing key \"actions\"",
            ],
        ),
        (
            "",
            BASIC,
            grant("\"a\"", "\"**\"", "\"psuh\""),
            &[
                "14:12: error: site.route.grant.actions: there is no \"psuh\"",
                "did you mean \"push\"?",
            ],
        ),
        (
            "",
            BASIC,
            grant("\"a\"", "\"**\"", "\"ping\""),
            &["there is no \"ping\""],
        ),
        (
            "",
            BASIC,
            at("\"team-*\""),
            &[
                "13:17: error: \"team-*\" is no pattern",
                "\"**\" for one or more",
            ],
        ),
        ("", BASIC, at("\"a//b\""), &["one slash between them"]),
        (
            "",
            BASIC,
            at("\"x-{user}\""),
            &["alone between the slashes"],
        ),
        (
            "",
            BASIC,
            at("\"Team/**\""),
            &[
                "13:17: warning: no repository is ever matched by \"Team/**\"",
                "write \"team/**\"",
            ],
        ),
        (
            "",
            BASIC,
            format!("{one}{}", of("\"eve\"")),
            &["15:1: warning: all that this grant gives is given by the one in line 11"],
        ),
        (
            "",
            BASIC,
            format!("{one}too = 1\n"),
            &[
                "unknown key \"too\" in site.route.grant",
                "did you mean \"to\"?",
            ],
        ),
    ];
    for (top, auth, route, words) in cases {
        let (problems, _) = read(top, auth, route);
        for word in *words {
            assert!(problems.contains(word), "{word} in:\n{problems}");
        }
        let count = problems.matches(": error: ").count() + problems.matches(": warning: ").count();
        let expected = words
            .iter()
            .filter(|word| word.starts_with("missing key"))
            .count()
            .max(1);
        assert_eq!(count, expected, "{problems}");
    }
}
