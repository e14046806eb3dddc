//! What holds for any method, path and query.

use http::Method;
use proptest::prelude::*;

use super::super::path;
use super::super::{Operation, Parsed, Resource, is_name};
use super::{digest, method};

/// The grammar of names as the automaton of its regular expression, with one state for each letter.
fn matches_name(text: &str) -> bool {
    let mut state = '^';
    for letter in text.chars() {
        state = match (state, letter) {
            (_, 'a'..='z' | '0'..='9') => 'x',
            ('x', '.') => '.',
            ('x', '_') => '_',
            ('_', '_') => '=',
            ('x' | '-', '-') => '-',
            ('x', '/') => '^',
            _ => return false,
        };
    }
    state == 'x' && text.len() <= 255
}

/// The repository that the router of `distribution` finds in a path: its routes in their order, each with the longest possible
/// name (`descriptors.go`). It is called with valid names only.
fn routed(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    let reference = |text: &str| path::is_tag(text) || path::is_digest(text);
    let at = |middle: &str, fits: &dyn Fn(&str) -> bool| {
        let mut splits = rest.rmatch_indices(middle);
        splits.find_map(|(at, _)| {
            let (name, end) = rest.split_at(at);
            let end = end.strip_prefix(middle)?;
            (matches_name(name) && fits(end)).then_some(name)
        })
    };
    at("/tags/list", &str::is_empty)
        .or_else(|| at("/manifests/", &reference))
        .or_else(|| at("/blobs/", &path::is_digest))
        .or_else(|| at("/blobs/uploads/", &str::is_empty))
        .or_else(|| at("/blobs/uploads/", &path::is_upload_id))
        .or_else(|| at("/referrers/", &path::is_digest))
}

fn any_method() -> impl Strategy<Value = Method> {
    let known = prop::sample::select(vec![
        "GET", "HEAD", "OPTIONS", "PUT", "POST", "POST", "POST", "PATCH", "DELETE", "get", "TRACE",
    ]);
    known.prop_map(method)
}

/// Paths of words of the grammar in any order. Most are invalid, and many are unusual.
fn any_path() -> impl Strategy<Value = String> {
    let mut words: Vec<String> = [
        "a",
        "b-1",
        "manifests",
        "blobs",
        "uploads",
        "tags",
        "list",
        "referrers",
        "_catalog",
        "latest",
        "u=.x",
        "",
        "..",
        "%2e",
        "%61",
        "a%2Fb",
        "A",
        ";",
        "md5:x=",
    ]
    .map(str::to_owned)
    .to_vec();
    words.push(digest());
    let routed =
        (prop::collection::vec(prop::sample::select(words), 1..8)).prop_map(|all| all.join("/"));
    let ends = prop::sample::select(vec![
        "blobs/uploads",
        "manifests/x",
        "tags/list",
        "blobs/uploads/",
        "blobs/uploads/u",
        "blobs/a:b",
    ]);
    let useful = ("[a-c]([._-]?[a-c0]){0,3}(/[a-c](--b)?){0,2}", ends)
        .prop_map(|(name, end)| format!("{name}/{end}"));
    prop_oneof![
        12 => useful.prop_map(|rest| format!("/v2/{rest}")),
        4 => routed.prop_map(|rest| format!("/v2/{rest}")),
        1 => "/v2[ -~]{0,20}",
        1 => "\\PC{0,30}",
    ]
}

/// Queries, half of which have only valid pairs, so that operations with a query are common.
fn any_query() -> impl Strategy<Value = Option<String>> {
    let good = vec![
        "n=1".to_owned(),
        "last=a%2fb+c".to_owned(),
        "artifactType=..//x".to_owned(),
        format!("digest={}", digest()),
        "_state=aZ-_%3d".to_owned(),
        format!("m%6funt={}", digest()),
        "from=secret/repo".to_owned(),
        "origin=%C3%BC".to_owned(),
        "ns=x.io".to_owned(),
        "x=1".to_owned(),
        "next=b".to_owned(),
        "tag=v1".to_owned(),
        "Mount=x".to_owned(),
    ];
    let key = prop::sample::select(vec![
        "n", "last", "digest", "mount", "from", "x", "", "_state",
    ]);
    let value = prop_oneof![
        Just(digest()),
        Just("b".to_owned()),
        "[a-z0-9+%/.=&;-]{0,6}",
        "(%[0-7][0-9a-f]|%C3%BC|%zz|~|//){0,4}"
    ];
    let any = (key, value).prop_map(|(key, value)| format!("{key}={value}"));
    let query = prop_oneof![
        5 => prop::sample::subsequence(good, 0..=6).prop_map(|all| all.join("&")),
        4 => prop::collection::vec(any, 1..3).prop_map(|all| all.join("&")),
        1 => "\\PC{0,20}",
    ];
    prop::option::weighted(0.9, query)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn accepted_operations_are_fixed_points(method in any_method(), path in any_path(), query in any_query()) {
        let said = format!("{method}\n{path}\n{}", query.as_deref().unwrap_or_default());
        crate::fuzzing::parsers::check_registry_request(said.as_bytes());
        let parsed = Operation::parse(&method, &path, query.as_deref());
        let Ok(Parsed::Operation(operation) | Parsed::Redirect { operation, .. }) = parsed else {
            return Ok(());
        };
        let target = operation.target();
        if let Some(mount) = operation.mount() {
            prop_assert!(method == Method::POST && *operation.resource() == Resource::UploadStart);
            prop_assert!(path::is_digest(mount.digest) && mount.from.is_none_or(is_name));
        } else {
            prop_assert!(!target.contains("from=") && !target.contains("mount="));
        }
        prop_assert!(operation.without_mount().mount().is_none());
    }

    #[test]
    fn the_repository_is_the_one_that_the_registrys_router_finds(
        method in any_method(),
        path in prop_oneof![
            any_path(),
            prop::collection::vec(
                prop::sample::select(vec!["a", "tags", "list", "manifests", "blobs", "uploads", "referrers", "u", "a:b"]),
                2..9,
            )
            .prop_map(|all| format!("/v2/{}", all.join("/"))),
        ],
    ) {
        let (Ok(Parsed::Operation(operation)) | Ok(Parsed::Redirect { operation, .. })) =
            Operation::parse(&method, &path, None)
        else {
            return Ok(());
        };
        let target = operation.target();
        prop_assert_eq!(operation.repository(), routed(&target), "{}", path);
    }

    #[test]
    fn mounts_agree_with_the_target(
        digest in prop::option::of("sha256%3[aA][0-9a-f]{64}|[a-z]:[A-Z]|x|"),
        from in prop::option::of("[a-c](%2[fF]|/)[a-c]|[a-c]|A|"),
        swap in any::<bool>(),
    ) {
        let mut pairs: Vec<String> = digest.iter().map(|value| format!("mount={value}")).collect();
        pairs.extend(from.iter().map(|value| format!("from={value}")));
        if swap {
            pairs.reverse();
        }
        let query = pairs.join("&");
        let parsed = Operation::parse(&Method::POST, "/v2/a/blobs/uploads/", Some(&query));
        let is_bad = digest.as_deref() == Some("x") || from.as_deref() == Some("A");
        let Ok(Parsed::Operation(operation)) = parsed else {
            prop_assert!(is_bad, "{}", query);
            return Ok(());
        };
        prop_assert!(!is_bad);

        let plain = |text: String| text.replace("%2F", "/").replace("%2f", "/").replace("%3a", ":").replace("%3A", ":");
        let digest = digest.filter(|value| !value.is_empty()).map(plain);
        let from = from.filter(|value| !value.is_empty()).map(plain).filter(|_| digest.is_some());
        let mount = operation.mount();
        prop_assert_eq!(mount.map(|mount| mount.digest), digest.as_deref());
        prop_assert_eq!(mount.and_then(|mount| mount.from), from.as_deref());
        let mut target = "/v2/a/blobs/uploads/".to_owned();
        if let Some(digest) = &digest {
            target.push_str(&format!("?mount={digest}"));
        }
        if let Some(from) = &from {
            target.push_str(&format!("&from={}", from.replace('/', "%2F")));
        }
        prop_assert_eq!(operation.target(), target);
    }

    #[test]
    fn names_agree_with_the_automaton(name in "[ab0._/-]{0,10}|[aA:%_-]{0,5}|\\PC{0,5}|(a-?){120,140}") {
        prop_assert_eq!(is_name(&name), matches_name(&name));
    }
}
