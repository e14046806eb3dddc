//! Values of every kind, what is wrong with them, and what happens to keys nobody asks for.

use std::time::Duration;

use super::super::problem::Problems;
use super::super::units;
use super::*;

const KNOWN: &[&str] = &[
    "listen.https",
    "listen.workers",
    "limits.idle",
    "limits.head_size",
    "groups",
    "site.hosts",
    "site.tls.cert",
    "site.tls.key",
    "site.route.path",
    "site.route.upstream",
    "site.route.upstream.urls",
    "site.route.auth.mode",
    "site.route.auth.htpasswd",
    "site.route.auth.realm",
];

fn parse(text: &str) -> Document {
    Document::parse("/etc/tidegate/proxy.toml", text, KNOWN)
}

fn finish(document: Document) -> Vec<String> {
    let problems: Problems = document.into_problems();
    problems.sorted().iter().map(ToString::to_string).collect()
}

/// The problems of a file with one key, without `error: `, each on one line.
fn problems_of<T>(text: &str, read: impl FnOnce(&Table<'_>) -> T) -> String {
    let document = Document::parse("x", text, &[]);
    drop(read(&document.root()));
    let shown = finish(document).join("\n");
    shown.replace("error: ", "").replace("\n    ", " | ")
}

#[test]
fn values_come_with_their_places() {
    let text = "\"ü\" = 1\nt = \"ä\"\nb = true\nn = 0x10\n d = \"15m\"\nz = \"1KiB\"\nl = [\n  \"x\", \"é\", \"y\"\n]\np = 5\ns = 404\n";
    let document = parse(text);
    let root = document.root();
    let at = |line, column| Position { line, column };
    let text = root.string("t").unwrap();
    assert_eq!((text.as_str(), text.place), ("ä", at(2, 5)));
    let boolean = root.boolean("b").unwrap();
    assert_eq!((*boolean, boolean.place), (true, at(3, 5)));
    let number: Spanned<u8> = root.integer("n", 1..=16).unwrap();
    assert_eq!((*number, number.place), (16, at(4, 5)));
    let duration = root.duration("d").unwrap();
    assert_eq!(
        (*duration, duration.place),
        (Duration::from_secs(900), at(5, 6))
    );
    let size = root.size("z").unwrap();
    assert_eq!((*size, size.place), (1024, at(6, 5)));
    let list = root.strings("l").unwrap();
    let places: Vec<_> = list
        .iter()
        .map(|item| (item.value.as_str(), item.place))
        .collect();
    assert_eq!(places, [("x", at(8, 3)), ("é", at(8, 8)), ("y", at(8, 13))]);
    assert_eq!(list.place, at(7, 5));
    assert_eq!(*root.size_or_bytes("p").unwrap(), 5);
    assert_eq!(root.status("s").unwrap().as_u16(), 404);
    assert_eq!(root.place_of("ü"), Some(at(1, 1)));
    assert_eq!(root.place_of("none"), None);
    assert_eq!(
        number.map(u32::from),
        Spanned {
            value: 16,
            place: at(4, 5)
        }
    );
    drop(root);
    assert_eq!(finish(document), [""; 0]);
}

#[test]
fn what_is_not_written_has_its_default() {
    let document = Document::parse("x", "", &[]);
    let root = document.root();
    assert!(root.boolean_or("a", true));
    assert_eq!(root.integer_or("b", 1..=9, 3_usize), 3);
    assert_eq!(
        root.duration_or("c", Duration::from_secs(5)),
        Duration::from_secs(5)
    );
    assert_eq!(root.size_or("d", 7), 7);
    assert!(
        root.string("e").is_none() && root.strings("f").is_none() && root.status("g").is_none()
    );
    assert!(root.table("h").is_none() && root.tables("i").is_empty() && root.pairs("j").is_none());
    assert!(root.string_or_table("k").is_none() && root.size_or_bytes("l").is_none());
    drop(root);
    assert_eq!(
        document.asked(),
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
    );
    assert_eq!(finish(document), [""; 0]);
}

#[test]
fn values_of_the_wrong_kind() {
    let check = |shown: String, expected: &str| assert_eq!(shown, expected);
    check(
        problems_of("k = 1", |t| t.string("k")),
        "1:5: k: expected a string, found 1 | fix: put it between double quotes",
    );
    check(
        problems_of("k = 'hunter2'", |t| t.boolean("k")),
        "1:5: k: expected true or false, found a string",
    );
    check(
        problems_of("k = true", |t| t.string("k")),
        "1:5: k: expected a string, found a boolean | fix: put it between double quotes",
    );
    check(
        problems_of("k = 1.5", |t| t.size("k")),
        "1:5: k: expected a size such as \"32KiB\", found a number with a fraction",
    );
    check(
        problems_of("k = 75", |t| t.duration("k")),
        "1:5: k: expected a duration such as \"30s\", found 75 | fix: write \"75s\"",
    );
    check(
        problems_of("k = -1", |t| t.size_or_bytes("k")),
        "1:5: k: expected a size such as \"32KiB\", or a number of bytes, found -1 | fix: write a whole number and a unit, as in \"1536MiB\"",
    );
    check(
        problems_of("k = 70000", |t| {
            t.integer::<u16>("k", 0..=u64::MAX).is_some()
        }),
        "1:5: k: expected a whole number from 0 to 18446744073709551615, found 70000",
    );
    check(
        problems_of("k = 0", |t| t.integer_or("k", 1..=16, 4_u16)),
        "1:5: k: expected a whole number from 1 to 16, found 0",
    );
    check(
        problems_of("k = 99999999999999999999", |t| t.status("k")),
        "1:5: k: it is not in the range 200 to 599 | fix: write a value from 200 to 599",
    );
}

#[test]
fn lists_and_tables_of_the_wrong_kind() {
    let check = |shown: String, expected: &str| assert_eq!(shown, expected);
    check(
        problems_of("k = '404'", |t| t.status("k")),
        "1:5: k: expected a status such as 404, found a string | fix: write it without quotes",
    );
    check(
        problems_of("k = 'a'", |t| t.strings("k").is_some()),
        "1:5: k: expected a list of strings, [\"…\", \"…\"], found a string | fix: put it between brackets, as in [\"…\"]",
    );
    check(
        problems_of("k = ['a', 1]", |t| t.strings("k").is_some()),
        "1:11: k: expected a string, found 1 | fix: put it between double quotes",
    );
    check(
        problems_of("k = []", |t| t.table("k").is_some()),
        "1:5: k: expected a table, found a list",
    );
    check(
        problems_of("k = [1]", |t| t.tables("k").is_empty()),
        "1:6: k: expected a list of tables, found 1",
    );
    check(
        problems_of("k = 1", |t| t.tables("k").is_empty()),
        "1:5: k: expected a list of tables, found 1",
    );
    check(
        problems_of("[k]", |t| t.tables("k").is_empty()),
        "1:1: k: expected a list of tables, found one table | fix: write [[k]], with two brackets",
    );
    check(
        problems_of("k = 2020-01-01", |t| t.string_or_table("k").is_some()),
        "1:5: k: expected a string or a table, found a date",
    );
    check(
        problems_of("k = { x = 1 }", |t| t.pairs("k").is_some()),
        "1:11: k.x: expected a string, found 1 | fix: put it between double quotes",
    );
    check(
        problems_of("k = ['x']", |t| t.pairs("k").is_some()),
        "1:5: k: expected a table of strings, found a list",
    );
}

#[test]
fn units_refuse_with_place_why_and_remedy() {
    assert_eq!(
        problems_of("[limits]\nidle = \"75\"", |root| root
            .table("limits")
            .map(|t| t.duration("idle"))),
        "2:8: limits.idle: the unit is missing | why: the units are ms, s, m, h and d | fix: write \"75s\""
    );
    assert_eq!(
        problems_of("hosts = [\"a.example\", \"b:443\"]", |root| {
            let hosts = root.parse_each("hosts", units::host_pattern).unwrap();
            assert_eq!(hosts.len(), 1, "the good one is read");
        }),
        "1:23: hosts: a port has no place in it | why: a site is found by the host alone, on every address the gate listens on | fix: write \"b\""
    );
}

#[test]
fn tables_short_and_full() {
    let document =
        parse("[[site]]\ntls = \"acme\"\n[[site]]\ntls = { cert = \"a\", key = \"b\" }\n");
    let sites = document.root().tables("site");
    assert_eq!(sites.len(), 2);
    assert_eq!((sites[1].path(), sites[1].place().line), ("site", 3));
    let Some(Written::Short(word)) = sites[0].string_or_table("tls") else {
        panic!("not short");
    };
    assert_eq!(word.value, "acme");
    let Some(Written::Full(tls)) = sites[1].string_or_table("tls") else {
        panic!("not full");
    };
    assert_eq!(
        (tls.path(), tls.place()),
        ("site.tls", Position { line: 4, column: 7 })
    );
    assert_eq!(tls.string("cert").unwrap().value, "a");
    drop((sites, tls));
    assert_eq!(document.asked(), ["site", "site.tls", "site.tls.cert"]);
    assert_eq!(
        finish(document),
        [""; 0],
        "key is known, though not asked for"
    );
}

#[test]
fn an_inline_list_of_tables_is_one_too() {
    let document = parse("site = [{ hosts = [\"a\"] }, { hosts = [\"b\"] }]");
    let hosts: Vec<_> = document
        .root()
        .tables("site")
        .iter()
        .map(|site| site.strings("hosts").unwrap()[0].value.clone())
        .collect();
    assert_eq!(hosts, ["a", "b"]);
    assert_eq!(finish(document), [""; 0]);
}

#[test]
fn names_the_author_chooses() {
    let document = parse(
        "[groups]\nzoe = [\"bot\", \"alice\"]\nci = []\n[x]\n\"X-Frame\" = \"\"\na = \"b\"\n",
    );
    let root = document.root();
    let groups = root.lists("groups").unwrap();
    let names: Vec<_> = groups
        .iter()
        .map(|(name, users)| (name.value.as_str(), users.len(), name.place.line))
        .collect();
    assert_eq!(names, [("zoe", 2, 2), ("ci", 0, 3)]);
    let headers = root.pairs("x").unwrap();
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.value.as_str(), value.value.as_str()))
        .collect();
    assert_eq!(pairs, [("X-Frame", ""), ("a", "b")]);
    drop(root);
    assert_eq!(finish(document), [""; 0]);
}

#[test]
fn missing_keys_are_placed_at_the_header() {
    assert_eq!(
        problems_of("\n[[site]]\n", |root| {
            for site in root.tables("site") {
                site.required("hosts", "hosts = [\"a.example\"]")
                    .strings("hosts");
            }
            root.required("listen", "[listen]")
                .table("listen")
                .is_some()
        }),
        "1:1: missing key \"listen\" | fix: add [listen]\n2:1: missing key \"hosts\" in site | fix: add hosts = [\"a.example\"]"
    );
}

#[test]
fn unknown_keys_name_what_was_meant() {
    let why = "why: a misspelt key would silently do nothing";
    for (text, what, remedy) in UNKNOWN {
        let document = parse(text);
        let root = document.root();
        drop((
            root.table("listen"),
            root.table("limits"),
            root.tables("site"),
        ));
        drop(root);
        let shown = finish(document)
            .join("\n")
            .replace("error: ", "")
            .replace("\n    ", " | ");
        assert_eq!(shown, format!("{what} | {why} | fix: {remedy}"));
    }
}

#[test]
fn a_table_of_strangers_is_cut_short() {
    let text: String = (0..50).map(|key| format!("k{key} = 1\n")).collect();
    let document = Document::parse("x", &text, &[]);
    drop(document.root());
    let shown = finish(document);
    assert_eq!(shown.len(), 21);
    assert_eq!(shown[20], "21:1: error: and 30 more unknown keys");
    assert!(shown[0].starts_with("1:1: error: unknown key \"k0\""));
}

/// A reader of the kind that will stand above this module.
fn read_file(root: &Table<'_>) {
    if let Some(listen) = root.required("listen", "[listen]").table("listen") {
        listen
            .required("https", "https = [\"[::]:443\"]")
            .parse_each("https", units::socket_address);
        listen.integer::<usize>("workers", 1..=16);
    }
    if let Some(limits) = root.table("limits") {
        limits.duration_or("idle", Duration::from_secs(75));
        limits.size_or("head_size", 32 << 10);
    }
    for site in root.required("site", "a [[site]]").tables("site") {
        site.required("hosts", "hosts = [\"docker.example.com\"]")
            .parse_each("hosts", units::host_pattern);
        site.required("tls", "tls = \"self-signed\"")
            .string_or_table("tls");
        for route in site.tables("route") {
            route
                .required("path", "path = \"/v2/\"")
                .parse("path", units::path_prefix);
            route.parse("upstream", units::upstream_url);
            if let Some(auth) = route
                .required("auth", "auth = { mode = \"none\" }")
                .table("auth")
            {
                let modes = [("basic", 1), ("none", 2)];
                auth.required("mode", "mode = \"basic\"")
                    .parse("mode", |text| units::word(text, &modes));
                auth.string("htpasswd");
                auth.string("realm");
            }
        }
    }
}

#[test]
fn a_file_with_everything_wrong() {
    let text = include_str!("tests/wrong.toml");
    let crlf = text.replace('\n', "\r\n");
    for text in [text, &crlf] {
        let document = parse(text);
        read_file(&document.root());
        let problems = document.into_problems();
        let shown = format!("{problems}{}\n", problems.summary());
        assert_eq!(shown, include_str!("tests/wrong.txt"));
    }
}

#[test]
fn the_smallest_file_has_nothing_wrong() {
    let document = parse(
        r#"
[listen]
https = ["[::]:443"]

[[site]]
hosts = ["docker.example.com"]
tls = { cert = "fullchain.pem", key = "privkey.pem" }

[[site.route]]
path = "/v2/"
upstream = "http://127.0.0.1:5000"
auth = { mode = "basic", htpasswd = "htpasswd", realm = "Registry realm" }
"#,
    );
    read_file(&document.root());
    assert_eq!(document.asked().len(), 14, "{:?}", document.asked());
    assert_eq!(finish(document), [""; 0]);
}

/// A file, its problem, the remedy.
const UNKNOWN: [(&str, &str, &str); 9] = [
    (
        "listne = 1",
        "1:1: unknown key \"listne\"",
        "did you mean \"listen\"?",
    ),
    (
        "[listen]\nhttp = 1",
        "2:1: unknown key \"http\" in listen",
        "did you mean \"https\"?",
    ),
    (
        "[limits]\nHead-Size = 1",
        "2:1: unknown key \"Head-Size\" in limits",
        "did you mean \"head_size\"?",
    ),
    (
        "[limits]\nworkers = 1",
        "2:1: unknown key \"workers\" in limits",
        "it belongs into the table listen",
    ),
    (
        "[limits]\nfoo = 1",
        "2:1: unknown key \"foo\" in limits",
        "the keys here are head_size, idle",
    ),
    (
        "[limits]\ngroups = 1",
        "2:1: unknown key \"groups\" in limits",
        "it belongs to the top of the file, above the first [table]",
    ),
    (
        "[[site]]\ncert = 1",
        "2:1: unknown key \"cert\" in site",
        "it belongs into tls = { cert = … }",
    ),
    (
        "[[site]]\npath = 1",
        "2:1: unknown key \"path\" in site",
        "it belongs into route = { path = … }",
    ),
    (
        "[[site]]\n\"a\\u001bb\" = 1",
        "2:1: unknown key \"a\\u{1b}b\" in site",
        "the keys here are hosts, route, tls",
    ),
];
