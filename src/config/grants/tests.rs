//! Groups and grants: what is accepted, what is rejected, and what is warned of, with the positions.

use std::path::Path;

use crate::access::Grants;
use crate::config::parse;
use crate::registry::Action;

const BASIC: &str = "mode = \"basic\", htpasswd = \"h\"";

/// Parses a config with these lines at its top, this auth and these keys of a route. Returns the problems and the grants.
fn read(top: &str, auth: &str, route: &str) -> (String, Option<Grants>) {
    let text = format!(
        "{top}\n[listen]\nhttps = [\"[::]:443\"]\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"http://b\"\nauth = {{ {auth} }}\n{route}\n"
    );
    let (config, problems) = parse(Path::new("x"), text.as_bytes());
    let grants = config.and_then(|config| {
        let route = config.sites.into_iter().next()?.routes.into_iter().next()?;
        Some((*route.grants?.grants).clone())
    });
    (problems.to_string(), grants)
}

fn grant(to: &str, repositories: &str, actions: &str) -> String {
    format!(
        "[[site.route.grant]]\nto = [{to}]\nrepositories = [{repositories}]\nactions = [{actions}]\n"
    )
}

#[test]
fn groups_and_actions_are_accepted() {
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
    let lines: Vec<_> = grants
        .for_principal(Some("root"))
        .map(|grant| grant.line)
        .collect();
    assert_eq!(lines, [15, 19]);
}

#[test]
fn without_grants_there_are_none() {
    assert_eq!(read("", BASIC, ""), (String::new(), None));
}

#[test]
fn a_route_without_a_registry_below_it_has_no_grants() {
    let grants = grant("\"a\"", "\"**\"", "\"pull\"");
    for (path, is_rejected) in [
        ("/", false),
        ("/v2", false),
        ("/v2/a/", false),
        ("/stats/", true),
    ] {
        let text = format!(
            "[listen]\nhttps = [\"[::]:443\"]\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n\
             [[site.route]]\npath = \"{path}\"\nupstream = \"http://b\"\nauth = {{ {BASIC} }}\n{grants}"
        );
        let (_, problems) = parse(Path::new("x"), text.as_bytes());
        assert_eq!(problems.has_errors(), is_rejected, "{path}: {problems}");
    }
}

#[test]
fn a_grant_that_reaches_nothing_from_its_route_is_a_warning() {
    let warned = |path: &str, repository: &str, action: &str| {
        let grants = grant(
            "\"a\"",
            &format!("\"{repository}\""),
            &format!("\"{action}\""),
        );
        let text = format!(
            "[listen]\nhttps = [\"[::]:443\"]\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n\
             [[site.route]]\npath = \"{path}\"\nupstream = \"http://b\"\nauth = {{ {BASIC} }}\n{grants}"
        );
        let (_, problems) = parse(Path::new("x"), text.as_bytes());
        assert!(!problems.has_errors(), "{problems}");
        problems.to_string()
    };
    for (path, repository, action) in [
        ("/", "pub/**", "catalog"),
        ("/v2/", "pub/**", "catalog"),
        ("/v2/_catalog", "pub/**", "catalog"),
        ("/v2/team/", "team/**", "pull"),
        ("/v2/team", "**", "push"),
        ("/v2/team/app/", "{user}/app/x", "pull"),
    ] {
        assert_eq!(warned(path, repository, action), "", "{path} {repository}");
    }
    let below = warned("/v2/team/", "pub/**", "pull");
    for word in [
        "12:17: warning: no repository that \"pub/**\" matches is below /v2/team/",
        "another route",
        "\"team/**\"",
    ] {
        assert!(below.contains(word), "{word} in {below}");
    }
    let list = warned("/v2/team/", "team/**", "catalog");
    assert!(
        list.contains("13:12: warning: \"catalog\" is granted below /v2/team/"),
        "{list}"
    );
}

#[test]
fn each_mistake_is_one_problem() {
    for (top, auth, route, words) in CASES {
        let (problems, _) = read(top, auth, &expand(route));
        for word in *words {
            assert!(problems.contains(word), "{word} in:\n{problems}");
        }
        let count = problems.matches(": error: ").count() + problems.matches(": warning: ").count();
        let missing = words.iter().filter(|word| word.starts_with("missing"));
        assert_eq!(count, missing.count().max(1), "{problems}");
    }
}

/// `alice bob; team/**; pull push`, a grant a line; other lines as they are.
fn expand(route: &str) -> String {
    let quoted = |words: &str| {
        let words = words.split_terminator(' ').filter(|word| !word.is_empty());
        let quoted: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
        quoted.join(", ")
    };
    let lines = route.lines().map(|line| {
        let fields: Vec<_> = line.split(';').map(quoted).collect();
        match fields.as_slice() {
            [to, repositories, actions] => grant(to, repositories, actions),
            _ => format!("{line}\n"),
        }
    });
    lines.collect()
}

const ONE: &str = "@users; **; pull";
const CI: &str = "groups = { ci = [\"bot\"] }";
/// The top of the file, the auth, the route, and texts of its one problem; several keys may be missing.
const CASES: &[(&str, &str, &str, &[&str])] = &[
    (
        "groups = { users = [\"a\"] }",
        BASIC,
        ONE,
        &[
            "1:12: error: the group name \"users\" is reserved",
            "@users is every verified user",
        ],
    ),
    (
        "groups = { anonymous = [\"a\"] }",
        BASIC,
        ONE,
        &["reserved"],
    ),
    (
        "groups = { \"a b\" = [\"a\"] }",
        BASIC,
        ONE,
        &["\"a b\" is no group name"],
    ),
    (
        "groups = { a = [\"@b\"] }",
        BASIC,
        ONE,
        &["1:17: error: \"@b\" is in a group", "one by one"],
    ),
    (
        "groups = { a = [\"b:c\"] }",
        BASIC,
        ONE,
        &["\"b:c\" is no user name"],
    ),
    (
        "groups = { a = [\"\u{fffd}\"] }",
        BASIC,
        ONE,
        &["is no user name"],
    ),
    (
        "groups = { a = [] }",
        BASIC,
        ONE,
        &["1:16: warning: the group \"a\" has no users"],
    ),
    (
        CI,
        BASIC,
        "@cii; **; pull",
        &[
            "12:7: error: there is no group \"@cii\"",
            "did you mean \"@ci\"?",
        ],
    ),
    (CI, BASIC, "@user; **; pull", &["did you mean \"@users\"?"]),
    (CI, BASIC, "@elsewhere; **; pull", &["in the table groups"]),
    ("", BASIC, "a:b; **; pull", &["\"a:b\" is no user name"]),
    (
        "",
        BASIC,
        "@anonymous; **; pull",
        &[
            "12:7: error: \"@anonymous\" with mode = \"basic\"",
            "first request to /v2/",
            "mode = \"token\"",
        ],
    ),
    (
        "",
        "mode = \"upstream\"",
        ONE,
        &["11:1: error: grants with mode = \"upstream\""],
    ),
    (
        "",
        "mode = \"none\"",
        ONE,
        &["11:1: error: grants with mode = \"none\""],
    ),
    (
        "",
        BASIC,
        "registry = false\n@users; **; pull",
        &["12:1: error: grants on a route that is no registry"],
    ),
    (
        "",
        BASIC,
        "grant = []",
        &["11:1: error: site.route.grant is empty"],
    ),
    (
        "",
        BASIC,
        "; **; pull",
        &["12:6: error: site.route.grant.to is empty"],
    ),
    (
        "",
        BASIC,
        "a; ; pull",
        &["site.route.grant.repositories is empty"],
    ),
    ("", BASIC, "a; **; ", &["site.route.grant.actions is empty"]),
    (
        "",
        BASIC,
        "[[site.route.grant]]",
        &[
            "missing key \"to\"",
            "missing key \"repositories\"",
            "missing key \"actions\"",
        ],
    ),
    (
        "",
        BASIC,
        "a; **; psuh",
        &[
            "14:12: error: site.route.grant.actions: there is no \"psuh\"",
            "did you mean \"push\"?",
        ],
    ),
    ("", BASIC, "a; **; ping", &["there is no \"ping\""]),
    (
        "",
        BASIC,
        "a; team-*; pull",
        &[
            "13:17: error: \"team-*\" is no pattern",
            "\"**\" for one or more",
        ],
    ),
    ("", BASIC, "a; a//b; pull", &["one slash between them"]),
    (
        "",
        BASIC,
        "a; x-{user}; pull",
        &["alone between the slashes"],
    ),
    (
        "",
        BASIC,
        "a; Team/**; pull",
        &[
            "13:17: warning: no repository is ever matched by \"Team/**\"",
            "write \"team/**\"",
        ],
    ),
    (
        "",
        BASIC,
        "@users; **; pull\neve; **; pull",
        &["15:1: warning: all rights of this grant are given by the one in line 11, too"],
    ),
    (
        "",
        BASIC,
        "@users; **; pull\ntoo = 1",
        &[
            "unknown key \"too\" in site.route.grant",
            "did you mean \"to\"?",
        ],
    ),
];
