//! What `check` says to do about a problem solves that problem.
//!
//! Each case is a configuration with one problem. Where the remedy names what to write, add or remove, it is applied to the
//! text as it stands, at the place of the problem; where the remedy leaves a choice to the reader, the case makes that
//! choice. Then the configuration is read again: the problem is gone, and no other one has come.

use std::path::Path;

use tidegate::config::parse;
use tidegate::config::problem::{Position, Problem};

/// A configuration without any problem.
const BASE: &str = r#"[listen]
https = ["127.0.0.1:8443"]
[[site]]
hosts = ["docker.example.com"]
tls = "self-signed"
[[site.route]]
path = "/v2/"
upstream = "http://127.0.0.1:5000"
auth = { mode = "basic", htpasswd = "htpasswd" }
"#;

const HTTPS: &str = "https = [\"127.0.0.1:8443\"]\n";
const HOSTS: &str = "hosts = [\"docker.example.com\"]\n";
const TLS: &str = "tls = \"self-signed\"\n";
const ROUTE: &str = "[[site.route]]\n";
const PATH: &str = "path = \"/v2/\"\n";
const UPSTREAM: &str = "upstream = \"http://127.0.0.1:5000\"\n";
const AUTH: &str = "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }\n";
const TOKEN: &str = "auth = { mode = \"token\", htpasswd = \"htpasswd\" }\n";
const GRANT: &str =
    "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n";

macro_rules! eight {
    ($name:literal) => {
        concat!(
            "\"http://",
            $name,
            "0\", \"http://",
            $name,
            "1\", \"http://",
            $name,
            "2\", \"http://",
            $name,
            "3\", ",
            "\"http://",
            $name,
            "4\", \"http://",
            $name,
            "5\", \"http://",
            $name,
            "6\", \"http://",
            $name,
            "7\", "
        )
    };
}

/// The elements of a list with as many addresses as an upstream may have.
macro_rules! sixty_four {
    () => {
        concat!(
            eight!("a"),
            eight!("b"),
            eight!("c"),
            eight!("d"),
            eight!("e"),
            eight!("f"),
            eight!("g"),
            eight!("h")
        )
    };
}

/// What replaces what: in [`BASE`], to make the problem, and in the result, to solve it by hand.
type Edits<'a> = &'a [(&'a str, &'a str)];

#[test]
fn the_base_has_no_problem() {
    assert_eq!(problems(BASE), []);
}

#[test]
fn every_remedy_solves_its_problem() {
    let (mut said, mut faults) = (Vec::new(), Vec::new());
    for (bad, by_hand) in CASES {
        let text = edited(BASE, bad);
        let before = problems(&text);
        let is_moved = |problem: &Problem| problem.what.starts_with("missing key \"htpasswd\"");
        if before.len() != 1 && !before.iter().any(is_moved) {
            faults.push(format!(
                "one fault is not one problem: {before:#?} in:\n{text}"
            ));
        }
        for problem in &before {
            said.extend(problem.remedy.clone());
            if let Err(fault) = solve(&text, problem, &before, by_hand) {
                faults.push(format!("{fault}: {problem}\nin:\n{text}"));
            }
        }
    }
    for (bad, good) in GRANT_FILES {
        let before = grant_file_problems(bad);
        said.extend(before.iter().filter_map(|problem| problem.remedy.clone()));
        if before.len() != 1 || before.iter().any(|problem| problem.remedy.is_none()) {
            faults.push(format!("{before:#?} in the grant file:\n{bad}"));
        }
        let after = grant_file_problems(good);
        if !after.is_empty() {
            faults.push(format!(
                "then there is {after:#?} in the grant file:\n{good}"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    assert_every_text_is_used(&said);
}

/// The problems of a grant file of the route in [`BASE`]. The configuration has a group `ci`.
fn grant_file_problems(text: &str) -> Vec<Problem> {
    let config = format!("{BASE}grant_file = \"grants.toml\"\n[groups]\nci = [\"alice\"]\n");
    let (config, problems) = parse(Path::new("/etc/tidegate/proxy.toml"), config.as_bytes());
    assert!(!problems.has_errors(), "{problems:?}");
    let config = config.unwrap();
    let file = config.sites[0].routes[0].grant_file.as_ref().unwrap();
    let (_, problems) = file.parse(text.as_bytes());
    problems.sorted().into_iter().cloned().collect()
}

/// A grant file with one problem, and the file after its remedy.
const GRANT_FILES: &[(&str, &str)] = &[
    (
        "# no grant\n",
        "[[grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n",
    ),
    (
        "[[grant]]\nto = [\"@network\", \"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n",
        "[[grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n",
    ),
    (
        "[groups]\nci = [\"bob\"]\n[[grant]]\nto = [\"@ci\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n",
        "[[grant]]\nto = [\"@ci\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n",
    ),
];

fn solve(
    text: &str,
    problem: &Problem,
    before: &[Problem],
    by_hand: Edits<'_>,
) -> Result<(), String> {
    let solutions = match by_hand {
        _ if problem.remedy.is_none() => return Err("no remedy".to_owned()),
        [] => apply(text, problem),
        _ => vec![edited(text, by_hand)],
    };
    if solutions.is_empty() {
        return Err("this needs a hand".to_owned());
    }
    for solution in solutions {
        for after in problems(&solution) {
            let is_old = before.iter().any(|before| before.what == after.what);
            if after.what == problem.what || !is_old {
                return Err(format!("then there is {after} in:\n{solution}\nafter"));
            }
        }
    }
    Ok(())
}

/// Holds the remedies that the cases produced against the texts in the code, so that a new remedy needs a case.
fn assert_every_text_is_used(said: &[String]) {
    let mut missing = Vec::new();
    // `parse` reads no included files; the tests of `include` have a solution for each of their problems.
    let remedies = remedies_in(Path::new("src/config")).into_iter();
    for (file, literal) in remedies.filter(|(file, _)| file != "src/config/include.rs") {
        let pieces = pieces(&literal);
        let is_said = said.iter().any(|remedy| {
            let mut rest = remedy.as_str();
            pieces.iter().all(|piece| match rest.find(piece.as_str()) {
                Some(at) => {
                    rest = &rest[at + piece.len()..];
                    true
                }
                None => false,
            })
        });
        if !is_said {
            missing.push(format!("{file}: {literal}"));
        }
    }
    assert!(missing.is_empty(), "no case for:\n{}", missing.join("\n"));
}

/// The fixed parts of a format string.
fn pieces(literal: &str) -> Vec<String> {
    let literal = literal.replace("{{", "\u{1}").replace("}}", "\u{2}");
    let mut pieces = Vec::new();
    for (number, part) in literal.split('{').enumerate() {
        let part = match (number, part.split_once('}')) {
            (0, _) | (_, None) => part,
            (_, Some((_, rest))) => rest,
        };
        pieces.push(part.replace('\u{1}', "{").replace('\u{2}', "}"));
    }
    pieces
}

/// The string literals of the sources that begin as remedies do.
fn remedies_in(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            // The importer writes files; its remarks are no remedies.
            if name != "nginx" && name != "tests" {
                found.extend(remedies_in(&path));
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let all = literals(code).into_iter();
            let remedies = all.filter(|text| VERBS.iter().any(|verb| text.starts_with(verb)));
            found.extend(remedies.map(|text| (path.display().to_string(), text)));
        }
    }
    found
}

/// The string literals of a Rust source without raw strings, comments left out.
fn literals(code: &str) -> Vec<String> {
    let mut all = Vec::new();
    for line in unfolded(code).lines() {
        let mut rest = line.trim_start();
        if rest.starts_with("//") {
            continue;
        }
        while let Some(start) = rest.find('"') {
            if rest[..start].ends_with('\'') {
                rest = &rest[start + 1..];
                continue;
            }
            let mut literal = String::new();
            let mut characters = rest[start + 1..].char_indices();
            let mut end = rest.len();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        end = start + 1 + at + 1;
                        break;
                    }
                    '\\' => literal.extend(characters.next().map(|(_, escaped)| escaped)),
                    _ => literal.push(character),
                }
            }
            all.push(literal);
            rest = &rest[end..];
        }
    }
    all
}

/// A literal over several lines, on one.
fn unfolded(code: &str) -> String {
    let mut lines = code.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start())
}

const VERBS: &[&str] = &[
    "write ",
    "add ",
    "remove ",
    "name ",
    "did you ",
    "it belongs ",
    "use ",
    "keep ",
    "move ",
    "put ",
    "look ",
    "choose ",
    "close ",
    "give ",
    "grant it",
    "serve ",
    "the keys here",
];

fn problems(text: &str) -> Vec<Problem> {
    let (_, problems) = parse(Path::new("/etc/tidegate/proxy.toml"), text.as_bytes());
    problems.sorted().into_iter().cloned().collect()
}

fn edited(text: &str, edits: Edits<'_>) -> String {
    edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in:\n{text}");
        text.replacen(from, to, 1)
    })
}

/// The text after each of the things that the remedy says to do; none when it leaves that to the reader.
fn apply(text: &str, problem: &Problem) -> Vec<String> {
    let remedy = problem.remedy.as_deref().unwrap();
    let at = offset(text, problem.place.unwrap());
    let end = at + token(&text[at..]);
    let replaced = |with: &str| format!("{}{with}{}", &text[..at], &text[end..]);
    if let Some(values) = remedy.strip_prefix("write \"") {
        let values = values.split(" or \"");
        return values
            .map(|value| replaced(&first_value(&format!("\"{value}"))))
            .collect();
    }
    if let Some(meant) = remedy.strip_prefix("did you mean ") {
        let meant = meant.trim_end_matches('?');
        let is_key = !text[at..].starts_with(['"', '\'']);
        return vec![replaced(if is_key {
            meant.trim_matches('"')
        } else {
            meant
        })];
    }
    if let Some(rest) = remedy.strip_prefix("write ")
        && let Some((key, value)) = rest.split_once(" = ")
        && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    {
        let value = first_value(value);
        let assignment = format!("{key} = ");
        let start = text.find(&assignment).unwrap() + assignment.len();
        let end = start + token(&text[start..]);
        return vec![format!("{}{value}{}", &text[..start], &text[end..])];
    }
    if let Some(rest) = remedy.strip_prefix("add ")
        && let Some((key, value)) = rest.split_once(" = ")
        && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    {
        let line = format!("{key} = {}", first_value(value));
        let begin = text[..at].rfind('\n').map_or(0, |feed| feed + 1);
        return vec![match text.as_bytes()[at] {
            b'{' => format!("{}{line}, {}", &text[..=at], &text[at + 1..]),
            b'[' => {
                let behind = at + text[at..].find('\n').unwrap() + 1;
                format!("{}{line}\n{}", &text[..behind], &text[behind..])
            }
            _ => format!("{}{line}\n{}", &text[..begin], &text[begin..]),
        }];
    }
    match remedy {
        "write it without quotes" => vec![replaced(text[at..end].trim_matches(['"', '\'']))],
        "put it between double quotes" => vec![replaced(&format!("\"{}\"", &text[at..end]))],
        _ if remedy.starts_with("put it between brackets") => {
            vec![replaced(&format!("[{}]", &text[at..end]))]
        }
        _ if remedy.starts_with("remove it") => {
            let begin = text[..at].rfind('\n').map_or(0, |feed| feed + 1);
            let behind = at + text[at..].find('\n').unwrap() + 1;
            vec![format!("{}{}", &text[..begin], &text[behind..])]
        }
        _ => Vec::new(),
    }
}

fn offset(text: &str, place: Position) -> usize {
    let line = text.split_inclusive('\n').take(place.line - 1);
    let start: usize = line.map(str::len).sum();
    let characters = text[start..].char_indices();
    start + characters.map(|(at, _)| at).nth(place.column - 1).unwrap()
}

/// The value at the beginning of a text; what follows is for the reader.
fn first_value(text: &str) -> String {
    text[..token(text)].to_owned()
}

/// The length of the key or value at the beginning of a text.
fn token(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), _) if open == character && !escaped => {
                quote = None;
                if depth == 0 {
                    return at + 1;
                }
            }
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') if depth == 1 => return at + 1,
            (None, ']' | '}') if depth > 1 => depth -= 1,
            (None, ' ' | ',' | '\n' | ']' | '}') if depth == 0 => return at,
            (None, _) => {}
        }
        escaped = false;
    }
    text.len()
}

/// Listed by the file whose remedies they produce.
const CASES: &[(Edits<'static>, Edits<'static>)] = &[
    (
        &[(HTTPS, "behind_proxy = [\"unix:/run/tidegate/http.sock\"]\n")],
        &[(TLS, "")],
    ),
    (
        &[
            (
                HTTPS,
                "https = [\"127.0.0.1:8443\"]\nhttp = [\"127.0.0.1:8080\"]\npublic_port = 8443\n",
            ),
            (
                HOSTS,
                "hosts = [\"docker.example.com\"]\nlisten = [\"127.0.0.1:8443\", \"127.0.0.1:9443\"]\n",
            ),
        ],
        &[(", \"127.0.0.1:9443\"", ", \"127.0.0.1:8080\"")],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nbehind_proxy = [\"127.0.0.1:8080\"]\n",
        )],
        &[(
            "behind_proxy =",
            "trusted_proxies = [\"10.0.0.5\"]\nbehind_proxy =",
        )],
    ),
    (
        &[(HOSTS, "hosts = [\"docker.example.com\"]\nlisten = []\n")],
        &[("listen = []\n", "")],
    ),
    (
        &[
            (
                HTTPS,
                "https = [\"127.0.0.1:8443\"]\nhttp = [\"127.0.0.1:8080\"]\npublic_port = 8443\n",
            ),
            (
                HOSTS,
                "hosts = [\"docker.example.com\"]\nlisten = [\"127.0.0.1:8080\"]\n",
            ),
        ],
        &[(
            "listen = [\"127.0.0.1:8080\"]",
            "listen = [\"127.0.0.1:8080\", \"127.0.0.1:8443\"]",
        )],
    ),
    (
        &[
            (
                HTTPS,
                "https = [\"127.0.0.1:8443\"]\nbehind_proxy = [\"unix:/run/tidegate/http.sock\"]\n",
            ),
            (TLS, "tls = \"self-signed\"\nclient_ca = \"clients.pem\"\n"),
        ],
        &[("client_ca = \"clients.pem\"\n", "")],
    ),
    // addresses of the proxy, and of a site
    (
        &[("127.0.0.1:8443", "unix:/run/tidegate/https.sock")],
        &[("unix:/run/tidegate/https.sock", "127.0.0.1:8443")],
    ),
    (
        &[
            (HTTPS, "https = [\"127.0.0.1:8443\", \"127.0.0.1:9443\"]\n"),
            (
                HOSTS,
                "hosts = [\"docker.example.com\"]\nlisten = [\"127.0.0.1:8443\"]\n",
            ),
        ],
        &[(
            "listen = [\"127.0.0.1:8443\"]",
            "listen = [\"127.0.0.1:8443\", \"127.0.0.1:9443\"]",
        )],
    ),
    // units: numbers
    (&[(PATH, "path = \"/v2/\"\nmax_body = \"10m\"\n")], &[]),
    (&[(PATH, "path = \"/v2/\"\nmax_body = \"10\"\n")], &[]),
    (&[(PATH, "path = \"/v2/\"\nmax_body = \"10 GiB\"\n")], &[]),
    (
        &[(PATH, "path = \"/v2/\"\nmax_body = \"1.5GiB\"\n")],
        &[("1.5GiB", "1536MiB")],
    ),
    (
        &[(PATH, "path = \"/v2/\"\nmax_body = \"9999999999999GiB\"\n")],
        &[("9999999999999GiB", "1GiB")],
    ),
    (
        &[(PATH, "path = \"/v2/\"\nmax_body = \"\"\n")],
        &[("\"\"", "\"1GiB\"")],
    ),
    (&[("[listen]", "[limits]\nidle = 75\n[listen]")], &[]),
    (
        &[("[listen]", "[limits]\nidle = \"75 seconds\"\n[listen]")],
        &[],
    ),
    (&[("[listen]", "[limits]\nidle = \"75s \"\n[listen]")], &[]),
    (
        &[("[listen]", "[limits]\nidle = \"0s\"\n[listen]")],
        &[("0s", "10s")],
    ),
    (
        &[("[listen]", "[limits]\nhead_size = \"1B\"\n[listen]")],
        &[("1B", "32KiB")],
    ),
    (
        &[("[listen]", "[limits]\nh2_streams = \"100\"\n[listen]")],
        &[],
    ),
    // units: words
    (&[("\"basic\"", "\"baisc\"")], &[]),
    (&[("[listen]", "[log]\nformat = \"xml\"\n[listen]")], &[]),
    (&[("[listen]", "[tls]\nmin_version = 1.2\n[listen]")], &[]),
    (&[("[listen]", "[log]\naccess = \"false\"\n[listen]")], &[]),
    // units: addresses
    (&[("\"127.0.0.1:8443\"", "\"127.0.0.1:8443 \"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\"127.0.0.1\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\"::1\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\"::1:8443\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\":8443\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\"*:8443\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\":::8443\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\"8443\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\"localhost\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\"localhost:8443\"")], &[]),
    (&[("\"127.0.0.1:8443\"", "\"127.0.0.1:84430\"")], &[]),
    (
        &[("\"127.0.0.1:8443\"", "\"https://127.0.0.1:8443/\"")],
        &[],
    ),
    (&[("\"127.0.0.1:8443\"", "\"systemd:\"")], &[]),
    (
        &[("\"127.0.0.1:8443\"", "\"gate.example:8443\"")],
        &[("gate.example:", "[::]:")],
    ),
    (
        &[("\"127.0.0.1:8443\"", "\"${ADDRESS}\"")],
        &[("${ADDRESS}", "127.0.0.1:8443")],
    ),
    (&[("[\"127.0.0.1:8443\"]", "\"127.0.0.1:8443\"")], &[]),
    (&[("[\"127.0.0.1:8443\"]", "[]")], &[]),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nadmin = \"/run/tidegate/admin.sock\"\n",
        )],
        &[],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nadmin = \"/run/tidegate/\"\n",
        )],
        &[],
    ),
    (
        &[(HTTPS, "https = [\"127.0.0.1:8443\"]\nadmin = \"/\"\n")],
        &[],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nadmin = \"0.0.0.0:9090\"\n",
        )],
        &[],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nadmin = \"[::]:9090\"\n",
        )],
        &[],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nadmin = \"[::]:9090\"\nadmin_allow = [\"::/0\"]\n",
        )],
        &[("::/0", "2001:db8::7")],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nadmin = \"127.0.0.1:8443\"\n",
        )],
        &[("admin = \"127.0.0.1:8443\"", "admin = \"127.0.0.1:9090\"")],
    ),
    (
        &[(HTTPS, "https = [\"0.0.0.0:8443\", \"127.0.0.1:8443\"]\n")],
        &[(", \"127.0.0.1:8443\"", "")],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nadmin_hosts = [\"*.example.com\"]\n",
        )],
        &[("*.example.com", "gate.example.com")],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nproxy_protocol = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n",
        )],
        &[("\"0.0.0.0/1\", \"128.0.0.0/1\"", "\"10.0.0.4\"")],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\ntrusted_proxies = [\"10.1.2.3/8\"]\n",
        )],
        &[],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\ntrusted_proxies = [\"10.1.2.3/33\"]\n",
        )],
        &[("/33", "/32")],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\ntrusted_proxies = [\"balancer\"]\n",
        )],
        &[("balancer", "10.0.0.0/8")],
    ),
    (
        &[("[listen]\n", ""), (HTTPS, "")],
        &[("[[site]]", "[listen]\nhttps = [\"[::]:443\"]\n[[site]]")],
    ),
    (&[(HTTPS, "")], &[]),
    // units: hosts
    (
        &[("\"docker.example.com\"", "\"https://docker.example.com/\"")],
        &[],
    ),
    (&[("\"docker.example.com\"", "\"https://\"")], &[]),
    (
        &[("\"docker.example.com\"", "\"docker.example.com:443\"")],
        &[],
    ),
    (
        &[("\"docker.example.com\"", "\"docker.example.com.\"")],
        &[],
    ),
    (
        &[("\"docker.example.com\"", "\" docker.example.com\"")],
        &[],
    ),
    (
        &[("\"docker.example.com\"", "\"docker*.example.com\"")],
        &[],
    ),
    (&[("\"docker.example.com\"", "\"[10.0.0.1]\"")], &[]),
    (
        &[("\"docker.example.com\"", "\"[::g]\"")],
        &[("::g", "::1")],
    ),
    (
        &[("\"docker.example.com\"", "\"10.0.0.256\"")],
        &[("256", "255")],
    ),
    (
        &[("\"docker.example.com\"", "\"b\u{fc}cher.example\"")],
        &[("b\u{fc}cher", "xn--bcher-kva")],
    ),
    (
        &[("\"docker.example.com\"", "\"-docker.example.com\"")],
        &[("\"-docker", "\"docker")],
    ),
    (&[("\"docker.example.com\"", "")], &[]),
    (&[(HOSTS, "")], &[]),
    (
        &[("\"docker.example.com\"", "\"a.example\", \"a.example\"")],
        &[(", \"a.example\"", "")],
    ),
    (
        &[("\"docker.example.com\"", "\"a.example\", \"b.example:443\"")],
        &[],
    ),
    // units: URLs
    (&[(UPSTREAM, "upstream = \"http://::1:5000\"\n")], &[]),
    (
        &[(UPSTREAM, "upstream = \"http://[::g]\"\n")],
        &[("::g", "::1")],
    ),
    (&[(UPSTREAM, "upstream = \"http://::1\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"127.0.0.1:5000\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"ftp://registry\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"/run/r.sock\"\n")], &[]),
    (
        &[(UPSTREAM, "upstream = \"http://unix:/run/r.sock:/\"\n")],
        &[],
    ),
    (&[(UPSTREAM, "upstream = \"unix:run/\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"unix:\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"http://\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"http://r:5000/v2/\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"http://u:p@r:5000\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"http://r.:5000\"\n")], &[]),
    (&[(UPSTREAM, "upstream = \"http://*.r\"\n")], &[]),
    (
        &[(UPSTREAM, "upstream = \"http://r:99999\"\n")],
        &[("99999", "5000")],
    ),
    (
        &[(UPSTREAM, "upstream = \"http://127.0.0.1:5000 \"\n")],
        &[],
    ),
    (
        &[(UPSTREAM, "upstream = \"${REG}\"\n")],
        &[("${REG}", "http://127.0.0.1:5000")],
    ),
    (
        &[(UPSTREAM, "upstream = \"http://${REG}\"\n")],
        &[("${REG}", "127.0.0.1:5000")],
    ),
    (&[(UPSTREAM, "")], &[]),
    (
        &[(
            UPSTREAM,
            concat!(
                "upstream = \"unix:/run/",
                "0123456789012345678901234567890123456789",
                "0123456789012345678901234567890123456789",
                "0123456789012345678901234567890123456789",
                "\"\n"
            ),
        )],
        &[("0123456789012345678901234567890123456789", "")],
    ),
    (
        &[(
            TLS,
            "tls = \"self-signed\"\nexternal_url = \"docker.example.com\"\n",
        )],
        &[],
    ),
    (
        &[(
            TLS,
            "tls = \"self-signed\"\nexternal_url = \"https://docker.example.com/v2/\"\n",
        )],
        &[],
    ),
    (
        &[(
            TLS,
            "tls = \"self-signed\"\nexternal_url = \"unix:/run/x\"\n",
        )],
        &[],
    ),
    (&[(PATH, "path = \"v2/\"\n")], &[]),
    (&[(PATH, "path = \"v2/*\"\n")], &[]),
    (&[(PATH, "path = \"/v2/?x\"\n")], &[]),
    (
        &[(PATH, "path = \"https://docker.example.com/v2/\"\n")],
        &[],
    ),
    (&[(PATH, "path = \"/v2/%41\"\n")], &[("%41", "A")]),
    (&[(PATH, "path = \"/V2/\"\n")], &[]),
    (&[(PATH, "path = \"/V2/team/\"\n")], &[]),
    (&[(PATH, "")], &[]),
    // units: files
    (
        &[("\"htpasswd\" }", "\"credential:users\" }")],
        &[("credential:users", "/etc/tidegate/htpasswd")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"token\", htpasswd = \"htpasswd\", secret = \"credential:\" }\n",
        )],
        &[],
    ),
    // upstreams
    (&[(UPSTREAM, "upstream = { urls = [] }\n")], &[]),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://r:5000\", \"r\"] }\n",
        )],
        &[],
    ),
    (
        &[(UPSTREAM, "upstream = { urls = [\"r\"], ca = \"ca.pem\" }\n")],
        &[("\"r\"", "\"https://r\"")],
    ),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://r\", \"http://r\"] }\n",
        )],
        &[(", \"http://r\"", "")],
    ),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://r\", \"https://s\"] }\n",
        )],
        &[("http://r", "https://r")],
    ),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://r\"], ca = \"ca.pem\" }\n",
        )],
        &[("http://r", "https://r")],
    ),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://r\"], read_timeout = \"0s\" }\n",
        )],
        &[("0s", "900s")],
    ),
    (&[(UPSTREAM, "upstream = { }\n")], &[]),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://127.0.0.1:8443\"] }\n",
        )],
        &[("[\"http://127.0.0.1:8443", "[\"http://127.0.0.1:5000")],
    ),
    (&[(UPSTREAM, TOO_MANY)], &[(MORE, "")]),
    // sites
    (
        &[(TLS, "tls = \"letsencrypt\"\n")],
        &[(
            "\"letsencrypt\"",
            "{ cert = \"fullchain.pem\", key = \"privkey.pem\" }",
        )],
    ),
    (&[(TLS, "")], &[]),
    (&[(TLS, "tls = { cert = \"fullchain.pem\" }\n")], &[]),
    (
        &[(TLS, "tls = \"self-signed\"\nclient_auth = \"required\"\n")],
        &[],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }\n[[site.route]]\npath = \"/v2\"\nrespond = 404\n",
        )],
        &[("[[site.route]]\npath = \"/v2\"\nrespond = 404\n", "")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }\n[[site.route]]\npath = \"/v2/x/\"\nregistry = false\nupstream = \"http://127.0.0.1:5000\"\nauth = { mode = \"upstream\" }\n",
        )],
        &[("registry = false\n", "")],
    ),
    (
        &[(ROUTE, ""), (PATH, ""), (UPSTREAM, "")],
        &[(
            AUTH,
            "[[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:5000\"\nauth = { mode = \"basic\", htpasswd = \"htpasswd\" }\n",
        )],
    ),
    (
        &[("[[site.route]]", "[site.route]")],
        &[("[site.route]", "[[site.route]]")],
    ),
    (
        &[
            (
                "\"docker.example.com\"",
                "\"docker.example.com\", \"*.example.com\"",
            ),
            (TLS, "tls = \"acme\"\n"),
            ("127.0.0.1:8443", "127.0.0.1:443"),
        ],
        &[(", \"*.example.com\"", "")],
    ),
    (
        &[(TLS, "tls = \"acme\"\n")],
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nhttp = [\"[::]:80\"]\npublic_port = 8443\n",
        )],
    ),
    (
        &[(
            "[listen]",
            "[acme]\ndirectory = \"http://ca.example/dir\"\n[listen]",
        )],
        &[],
    ),
    (&[("[listen]", "[acme]\nemail = \"admin\"\n[listen]")], &[]),
    // auth
    (&[("mode = \"basic\", ", "")], &[]),
    (&[(", htpasswd = \"htpasswd\"", "")], &[]),
    (&[(AUTH, "")], &[]),
    (&[("mode = \"basic\"", "mode = \"upstream\"")], &[]),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\", lifetime = \"15m\" }\n",
        )],
        &[],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"token\", htpasswd = \"htpasswd\", lifetime = \"1s\" }\n",
        )],
        &[("1s", "1m")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\", realm = \"a\\u0007\" }\n",
        )],
        &[("\\u0007", "")],
    ),
    (
        &[
            ("127.0.0.1:8443", "[::]:8443"),
            (AUTH, "auth = { mode = \"none\" }\n"),
        ],
        &[(PATH, "path = \"/v2/\"\nallow = [\"all\"]\n")],
    ),
    // routes
    (
        &[(AUTH, TOKEN), (PATH, "path = \"/v2/\"\nregistry = false\n")],
        &[],
    ),
    (
        &[(AUTH, TOKEN), (PATH, "path = \"/v2/team/\"\n")],
        &[("/v2/team/", "/v2/")],
    ),
    (
        &[(PATH, "path = \"/v2/\"\nallow = []\n")],
        &[("allow = []\n", "")],
    ),
    (&[(PATH, "path = \"/v2/\"\nallow = [\"ALL\"]\n")], &[]),
    (
        &[(PATH, "path = \"/v2/\"\nallow = [\"lan\"]\n")],
        &[("lan", "10.0.0.0/8")],
    ),
    (&[(PATH, "path = \"/v2/\"\nsatisfy = \"any\"\n")], &[]),
    (
        &[(
            PATH,
            "path = \"/v2/\"\nsatisfy = \"any\"\nallow = [\"all\"]\n",
        )],
        &[("satisfy = \"any\"\n", "")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"upstream\" }\nsatisfy = \"any\"\nallow = [\"10.0.0.0/8\"]\n",
        )],
        &[],
    ),
    (
        &[
            (AUTH, AUTH_AND_GRANT),
            (
                PATH,
                "path = \"/v2/\"\nsatisfy = \"any\"\nallow = [\"10.0.0.0/8\"]\n",
            ),
        ],
        &[("satisfy = \"any\"\n", "")],
    ),
    (
        &[
            (AUTH, TOKEN_AND_GRANT),
            (
                PATH,
                "path = \"/v2/\"\nsatisfy = \"any\"\nallow = [\"10.0.0.0/8\"]\n",
            ),
        ],
        &[("[\"alice\"]", "[\"alice\", \"@network\"]")],
    ),
    (
        &[(AUTH, TOKEN_AND_GRANT), ("\"alice\"", "\"@network\"")],
        &[(
            PATH,
            "path = \"/v2/\"\nsatisfy = \"any\"\nallow = [\"10.0.0.0/8\"]\n",
        )],
    ),
    (&[(PATH, "path = \"/v2/\"\ncors = []\n")], &[]),
    (
        &[(PATH, "path = \"/v2/\"\ncors = [\"https://*.x\"]\n")],
        &[("*.x", "ui.x")],
    ),
    (
        &[(PATH, "path = \"/v2/\"\ncors = [\"*\"]\n")],
        &[("*", "https://ui.x")],
    ),
    (
        &[(
            PATH,
            "path = \"/v2/\"\nrequest_headers = { \"Host\" = \"x\" }\n",
        )],
        &[],
    ),
    (
        &[(
            PATH,
            "path = \"/v2/\"\nrequest_headers = { \"X Y\" = \"x\" }\n",
        )],
        &[("X Y", "X-Y")],
    ),
    (
        &[(
            PATH,
            "path = \"/v2/\"\nrequest_headers = { \"X-Y\" = \"\\u0007\" }\n",
        )],
        &[("\\u0007", "x")],
    ),
    (
        &[(UPSTREAM, "respond = 301\n"), (AUTH, "")],
        &[("301", "404")],
    ),
    (
        &[(UPSTREAM, "respond = 99\n"), (AUTH, "")],
        &[("99", "404")],
    ),
    (&[(UPSTREAM, "respond = \"404\"\n"), (AUTH, "")], &[]),
    (&[(UPSTREAM, "respond = 404\n")], &[]),
    (&[(AUTH, "respond = 404\n")], &[("respond = 404\n", AUTH)]),
    (
        &[
            (
                UPSTREAM,
                "respond = { status = 200, location = \"/ui/\" }\n",
            ),
            (AUTH, ""),
        ],
        &[("200", "308")],
    ),
    (
        &[
            (UPSTREAM, "respond = { status = 204, text = \"x\" }\n"),
            (AUTH, ""),
        ],
        &[("204", "200")],
    ),
    (
        &[
            (
                UPSTREAM,
                "respond = { status = 308, location = \"/a b\" }\n",
            ),
            (AUTH, ""),
        ],
        &[("/a b", "/a%20b")],
    ),
    (
        &[
            (UPSTREAM, "respond = { status = 308, location = \"ui\" }\n"),
            (AUTH, ""),
        ],
        &[("\"ui\"", "\"/ui/\"")],
    ),
    (
        &[
            (
                UPSTREAM,
                "respond = { status = 308, location = \"https://{path}\" }\n",
            ),
            (AUTH, ""),
        ],
        &[("https://{path}", "https://ui.example.com{path}{query}")],
    ),
    (
        &[
            (UPSTREAM, "respond = { status = 200, text = \"{user}\" }\n"),
            (AUTH, ""),
        ],
        &[("{user}", "{host}")],
    ),
    (
        &[
            (
                UPSTREAM,
                "respond = { status = 308, location = \"/\", text = \"x\" }\n",
            ),
            (AUTH, ""),
        ],
        &[(", text = \"x\"", "")],
    ),
    (
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nhttp = [\"127.0.0.1:8080\"]\n",
        )],
        &[("http =", "public_port = 443\nhttp =")],
    ),
    (
        &[
            (
                HTTPS,
                "https = [\"127.0.0.1:443\"]\nhttp = [\"127.0.0.1:80\"]\n",
            ),
            (PATH, "path = \"/files/\"\n"),
            (UPSTREAM, "respond = { files = \"/var/www\" }\n"),
            (AUTH, ""),
        ],
        &[("\"/files/\"", "\"/.well-known/acme-challenge/\"")],
    ),
    (
        &[
            (
                HTTPS,
                "https = [\"127.0.0.1:443\"]\nhttp = [\"127.0.0.1:80\"]\n",
            ),
            (PATH, "path = \"/.well-known/acme-challenge/\"\n"),
            (
                UPSTREAM,
                "respond = { files = \"/var/www\", status = 200 }\n",
            ),
            (AUTH, ""),
        ],
        &[(", status = 200", "")],
    ),
    (
        &[
            (PATH, "path = \"/.well-known/acme-challenge/\"\n"),
            (UPSTREAM, "respond = { files = \"/var/www\" }\n"),
            (AUTH, ""),
        ],
        &[(
            HTTPS,
            "https = [\"127.0.0.1:8443\"]\nhttp = [\"[::]:80\"]\npublic_port = 8443\n",
        )],
    ),
    (
        &[(PATH, "path = \"/v2/\"\nwebsocket = true\n")],
        &[("websocket = true", "registry = false")],
    ),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://a\"], server_name = \"b\" }\n",
        )],
        &[("http://a", "https://a")],
    ),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://a/x\", \"http://b/y\"] }\nregistry = false\n",
        )],
        &[("b/y", "b/x")],
    ),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://a\"], cert = \"c.pem\", key = \"c.key\" }\n",
        )],
        &[("http://a", "https://a")],
    ),
    (
        &[(
            UPSTREAM,
            "upstream = { urls = [\"http://a\"], host = \"a b\" }\n",
        )],
        &[("a b", "upstream")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"upstream\" }\nrequest_headers = { \"X-A\" = \"{user}\" }\n",
        )],
        &[("\"{user}\"", "\"{client}\"")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }\nrequest_headers = { \"X-A\" = \"{path}\" }\n",
        )],
        &[("\"{path}\"", "\"{host}\"")],
    ),
    // grants
    (
        &[(
            AUTH,
            "auth = { mode = \"upstream\" }\n[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n",
        )],
        &[(GRANT, "")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"none\" }\n[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n",
        )],
        &[(GRANT, "")],
    ),
    (
        &[
            (AUTH, AUTH_AND_GRANT),
            (PATH, "path = \"/files/\"\nregistry = false\n"),
        ],
        &[(GRANT, "")],
    ),
    (
        &[(PATH, "path = \"/v2/\"\ngrant = []\n")],
        &[("grant = []\n", "")],
    ),
    (
        &[(AUTH, AUTH_AND_GRANT), ("\"alice\"", "\"@anonymous\"")],
        &[("@anonymous", "@users")],
    ),
    (
        &[(AUTH, AUTH_AND_GRANT), ("\"alice\"", "\"@ci\"")],
        &[("[listen]", "[groups]\nci = [\"bot\"]\n[listen]")],
    ),
    (&[(AUTH, AUTH_AND_GRANT), ("\"alice\"", "\"@user\"")], &[]),
    (&[(AUTH, AUTH_AND_GRANT), ("\"alice\"", "")], &[]),
    (
        &[(AUTH, AUTH_AND_GRANT), ("\"alice\"", "\"al\u{200b}ice\"")],
        &[],
    ),
    (&[(AUTH, AUTH_AND_GRANT), ("to = [\"alice\"]\n", "")], &[]),
    (
        &[
            (AUTH, AUTH_AND_GRANT),
            ("actions = [\"pull\"]", "actions = [\"read\"]"),
        ],
        &[],
    ),
    (
        &[
            (AUTH, AUTH_AND_GRANT),
            ("actions = [\"pull\"]", "actions = [\"pul\"]"),
        ],
        &[],
    ),
    (
        &[(AUTH, AUTH_AND_GRANT), ("\"**\"", "\"a//b\"")],
        &[("a//b", "a/b")],
    ),
    (
        &[(AUTH, AUTH_AND_GRANT), ("\"**\"", "\"a-*\"")],
        &[("a-*", "*")],
    ),
    (
        &[(AUTH, AUTH_AND_GRANT), ("\"**\"", "\"{group}\"")],
        &[("{group}", "{user}")],
    ),
    (&[(AUTH, AUTH_AND_GRANT), ("\"**\"", "\"Team/App\"")], &[]),
    (
        &[(AUTH, AUTH_AND_GRANT), ("\"**\"", "\"team/\u{fc}\"")],
        &[("\u{fc}", "app")],
    ),
    (
        &[
            (AUTH, AUTH_AND_GRANT),
            (
                "actions",
                "actions = [\"pull\"]\n[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions",
            ),
        ],
        &[(GRANT, "")],
    ),
    (
        &[
            (AUTH, AUTH_AND_GRANT),
            (PATH, "path = \"/v2/team/\"\n"),
            ("\"**\"", "\"other/**\""),
        ],
        &[("other/**", "team/**")],
    ),
    (
        &[
            (AUTH, AUTH_AND_GRANT),
            (PATH, "path = \"/v2/team/\"\n"),
            ("\"pull\"", "\"pull\", \"catalog\""),
        ],
        &[(", \"catalog\"", "")],
    ),
    (
        &[("[listen]", "[groups]\nusers = [\"a\"]\n[listen]")],
        &[("users =", "people =")],
    ),
    (
        &[("[listen]", "[groups]\n\"a b\" = [\"a\"]\n[listen]")],
        &[("a b", "a-b")],
    ),
    (
        &[("[listen]", "[groups]\nci = [\"@b\"]\n[listen]")],
        &[("@b", "b")],
    ),
    (
        &[("[listen]", "[groups]\nci = [\"a:b\"]\n[listen]")],
        &[("a:b", "a")],
    ),
    (
        &[("[listen]", "[groups]\nci = []\n[listen]")],
        &[("[]", "[\"a\"]")],
    ),
    (
        &[
            ("[listen]", "[groups]\nci = \"bot\"\n[listen]"),
            (AUTH, AUTH_AND_GRANT),
            ("\"alice\"", "\"@ci\""),
        ],
        &[],
    ),
    // table
    (&[("hosts", "hots")], &[]),
    (&[("hosts = [", "host = [")], &[]),
    (&[("hosts = [", "server_name = [")], &[]),
    (&[("[[site.route]]", "[[site.location]]")], &[]),
    (&[("upstream =", "proxy_pass =")], &[]),
    (
        &[(
            TLS,
            "tls = \"self-signed\"\nupstream = \"http://127.0.0.1:5000\"\n",
        )],
        &[("\nupstream = \"http://127.0.0.1:5000\"", "")],
    ),
    (
        &[(
            TLS,
            "tls = \"self-signed\"\nurls = [\"http://127.0.0.1:5000\"]\n",
        )],
        &[("\nurls = [\"http://127.0.0.1:5000\"]", "")],
    ),
    (
        &[("[listen]", "limits = 3\n[listen]")],
        &[("limits = 3\n", "")],
    ),
    (
        &[(AUTH, "auth = \"basic\"\n")],
        &[("auth = \"basic\"\n", AUTH)],
    ),
    (
        &[(UPSTREAM, "upstream = 5000\n")],
        &[("5000", "{ urls = [\"http://127.0.0.1:5000\"] }")],
    ),
    (
        &[(PATH, "path = [\"/v2/\"]\n")],
        &[("[\"/v2/\"]", "\"/v2/\"")],
    ),
    (
        &[("[listen]", "[limits]\nconnections = 0\n[listen]")],
        &[("= 0", "= 1")],
    ),
    // values of a site and of an upstream
    (&[(TLS, "tls = \"selfsigned\"\n")], &[]),
    (&[(TLS, "tls = \"self_signed\"\n")], &[]),
    (
        &[
            (TLS, "tls = \"letsencrypt\"\n"),
            ("127.0.0.1:8443", "127.0.0.1:443"),
        ],
        &[],
    ),
    (&[("127.0.0.1:5000", "127.0.0.1:5000/")], &[]),
    (&[("127.0.0.1:5000", "127.0.0.1:5000/v2/")], &[]),
    (
        &[
            (PATH, "path = \"/files/\"\n"),
            ("127.0.0.1:5000", "127.0.0.1:5000/x/"),
        ],
        &[("5000/x/\"\n", "5000/x/\"\nregistry = false\n")],
    ),
    (
        &[(HTTPS, "https = [\"127.0.0.1:8443\"]\nadmin = \"9090\"\n")],
        &[],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\", file = \"users\" }\n",
        )],
        &[(", file = \"users\"", "")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\" }\nhtpasswd = \"htpasswd\"\n",
        )],
        &[(
            "{ mode = \"basic\" }\nhtpasswd = \"htpasswd\"\n",
            "{ mode = \"basic\", htpasswd = \"htpasswd\" }\n",
        )],
    ),
    (
        &[("[listen]", "[log]\nworkers = 2\n[listen]")],
        &[(
            "[log]\nworkers = 2\n[listen]",
            "[log]\n[listen]\nworkers = 2",
        )],
    ),
    (
        &[("[listen]", "[log]\ngroups = { ci = [\"bot\"] }\n[listen]")],
        &[(
            "[log]\ngroups = { ci = [\"bot\"] }",
            "groups = { ci = [\"bot\"] }\n[log]",
        )],
    ),
    (&[("[listen]", "[limits]\nzzzzzzzzz = 1\n[listen]")], &[]),
    (
        &[("[listen]", "[acme]\nzzzzzzzzz = 1\n[listen]")],
        &[("zzzzzzzzz = 1\n", "")],
    ),
    // variables
    (
        &[("docker.example.com", "${NAME:-docker.example.com}")],
        &[("${NAME:-docker.example.com}", "docker.example.com")],
    ),
    (
        &[("docker.example.com", "$NAME")],
        &[("$NAME", "docker.example.com")],
    ),
    // syntax
    (
        &[("\"self-signed\"", "\"self-signed")],
        &[("\"self-signed", "\"self-signed\"")],
    ),
    (
        &[("[\"127.0.0.1:8443\"]", "[\"127.0.0.1:8443]")],
        &[("8443]", "8443\"]")],
    ),
    (
        &[("\"self-signed\"", "“self-signed”")],
        &[("“self-signed”", "\"self-signed\"")],
    ),
    (
        &[("\"self-signed\"", "\"self-signed\";")],
        &[("\"self-signed\";", "\"self-signed\"")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }\nregistry = True\n",
        )],
        &[("True", "true")],
    ),
    (&[("https = [", "https: [")], &[("https: ", "https = ")]),
    (
        &[("tls = \"self-signed\"", "tls =")],
        &[("tls =", "tls = \"self-signed\"")],
    ),
    (&[("{ mode = ", "{ mode: ")], &[("mode: ", "mode = ")]),
    (
        &[("mode = \"basic\", ", "mode = \"basic\", mode = \"basic\", ")],
        &[("mode = \"basic\", ", "")],
    ),
    (
        &[("\"self-signed\"", "self-signed")],
        &[("self-signed", "\"self-signed\"")],
    ),
    (
        &[(TLS, "tls = \"self-signed\"\nexternal_url \"https://a\"\n")],
        &[("external_url ", "external_url = ")],
    ),
    (
        &[("[\"127.0.0.1:8443\"]", "[\"127.0.0.1:8443\"")],
        &[("8443\"", "8443\"]")],
    ),
    (
        &[(
            AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }\ncors = [\"https://a\"\n",
        )],
        &[("\"https://a\"", "\"https://a\"]")],
    ),
];

const AUTH_AND_GRANT: &str = "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }\n[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n";
const TOKEN_AND_GRANT: &str = "auth = { mode = \"token\", htpasswd = \"htpasswd\" }\n[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n";
/// 65 addresses.
const TOO_MANY: &str = concat!("upstream = { urls = [", sixty_four!(), "\"http://r\"] }\n");
const MORE: &str = sixty_four!();
