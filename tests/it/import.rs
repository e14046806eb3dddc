//! `tidegate import nginx`: the corpus in `tests/it/nginx`, each file with the proxy.toml that comes out beside it.
//!
//! `NGINX_GOLDEN=write cargo test --test it import` writes them anew; read the difference before you commit it.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64ct::{Base64, Encoding};
use tidegate::config;
use tidegate::import::nginx;
use tidegate::import::nginx::FileSource;
use tidegate::snapshot::{BuildMode, Snapshot};
use toml::de::{DeTable, DeValue};

use crate::binary::with_own_directories;
use crate::support::certs::{AUTHORITY, root_certificate};
use crate::support::harbor::{self, ROBOT, Release, TOKEN};
use crate::support::proxy::ALICE;
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, assert_contains, exchange,
};

/// The corpus, at the place where nginx has it.
struct Corpus;

impl FileSource for Corpus {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(inside(path)?)
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(inside(folder)?)?;
        entries
            .map(|entry| Ok(entry?.file_name().into_string().unwrap()))
            .collect()
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

fn inside(path: &Path) -> io::Result<PathBuf> {
    let inner = path.strip_prefix("/etc/nginx");
    inner
        .map(|inner| folder().join(inner))
        .map_err(|_| io::Error::new(io::ErrorKind::NotFound, "not found"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/nginx")
}

/// The names of the corpus, without their endings.
fn corpus() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "conf"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let cases = fs::read_dir(folder().join("cases")).unwrap();
    let cases = cases.map(|entry| entry.unwrap().path());
    names.extend(
        cases
            .filter(|path| path.extension().is_some_and(|end| end == "conf"))
            .map(|path| format!("cases/{}", path.file_stem().unwrap().to_str().unwrap())),
    );
    names.sort();
    assert!(names.len() >= 41, "{names:?}");
    names
}

fn imported(name: &str) -> nginx::Import {
    let file = PathBuf::from(format!("/etc/nginx/{name}.conf"));
    nginx::import(&Corpus, &[file], Path::new("/etc/nginx"))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_file_of_the_corpus_becomes_what_stands_beside_it() {
    let is_written = std::env::var_os("NGINX_GOLDEN").is_some();
    let mut other = Vec::new();
    for name in corpus() {
        let toml = imported(&name).toml;
        assert_eq!(toml, imported(&name).toml, "{name}: not always the same");
        let golden = folder().join(format!("{name}.toml"));
        if is_written {
            fs::write(&golden, &toml).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != toml {
            other.push(format!("---- {name}\n{toml}"));
        }
    }
    assert!(other.is_empty(), "{}", other.join("\n"));
}

#[test]
fn every_file_begins_with_the_request_to_review_each_route() {
    for name in corpus() {
        let toml = imported(&name).toml;
        let head: Vec<_> = toml
            .lines()
            .take_while(|line| line.starts_with('#'))
            .collect();
        let head = head.join("\n");
        for words in [
            "Review each route below against the nginx configuration before it serves",
            "may let in",
            "auth_basic, auth_request, satisfy, allow, deny and client certificates",
            "limit_except, if, return, regular expressions",
            "proxy_set_header, above all Authorization",
            "server_name, default_server and listen",
            "tidegate check --live -c proxy.toml",
        ] {
            assert!(head.contains(words), "{name}: {words} in {head}");
        }
    }
}

/// Every restriction would have to be found for such a promise, and that is not shown.
#[test]
fn no_text_promises_that_an_import_opens_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let help = crate::binary::run(&["import", "nginx", "--help"]);
    let mut texts = vec![("--help".to_owned(), crate::binary::text(&help.stdout))];
    for name in [
        "README.md",
        "docs/from-nginx.md",
        "docs/decisions.md",
        "src/import/nginx.rs",
        "examples/man/tidegate.1",
        "examples/man/tidegate-import-nginx.1",
    ] {
        texts.push((
            name.to_owned(),
            fs::read_to_string(root.join(name)).unwrap(),
        ));
    }
    for (name, said) in texts {
        let said = said.split_whitespace().filter(|word| *word != "//!");
        let said = said.collect::<Vec<_>>().join(" ").to_lowercase();
        assert!(said.contains("review each route"), "{name}");
        for promise in ["opens nothing", "nothing that was closed", "never opens"] {
            assert!(!said.contains(promise), "{name}: {promise}");
        }
    }
}

#[test]
fn what_comes_out_is_accepted_by_check() {
    for name in corpus() {
        assert_accepted(&name, &imported(&name).toml);
    }
}

/// Builds everything, with the files that are named.
fn assert_accepted(name: &str, toml: &str) {
    let dir = tempfile::tempdir().unwrap();
    let text = with_files(toml, dir.path());
    let file = dir.path().join("proxy.toml");
    fs::write(&file, text).unwrap();
    let (config, mut problems) = config::load(&file);
    let mut config = config.unwrap_or_else(|| panic!("{name}: {problems}"));
    // The default is the directory of a tidegate that is installed on this machine.
    config.state_dir = dir.path().join("state");
    let built = Snapshot::build(&config, None, BuildMode::Check, &mut problems);
    assert!(
        built.is_some() && !problems.has_errors(),
        "{name}: {problems}\n{toml}"
    );
}

/// Every file that is named, made below `folder`, and the text with these paths.
fn with_files(toml: &str, folder: &Path) -> String {
    let hosts = ["localhost"];
    let (certificate, key) = AUTHORITY.issue(&hosts);
    let mut text = toml.to_owned();
    let mut paths = BTreeSet::new();
    each_value(&parsed(toml), "", &mut |key, value| {
        if let Some(path) = value.as_str().filter(|path| path.starts_with("/etc/")) {
            paths.insert((path.to_owned(), key.to_owned()));
        }
    });
    for (path, name) in paths {
        let moved = folder.join(path.trim_start_matches('/'));
        fs::create_dir_all(moved.parent().unwrap()).unwrap();
        let content = match name.rsplit('.').next().unwrap() {
            "key" => &key,
            "htpasswd" => ALICE,
            "ca" | "client_ca" => &authority(),
            _ => &certificate,
        };
        fs::write(&moved, content).unwrap();
        fs::set_permissions(&moved, Permissions::from_mode(0o600)).unwrap();
        text = text.replace(&format!("\"{path}\""), &format!("{moved:?}"));
    }
    text
}

#[test]
fn both_blocks_of_the_usual_tutorial_work_without_a_touch() {
    let registry = Registry::accepting_all();
    let harbor = harbor::start(Release::IgnoresForwardedProto);
    let dir = tempfile::tempdir().unwrap();
    let mut text = with_files(&imported("tutorial").toml, dir.path());
    // Nothing but the addresses is the test's own.
    for (written, here) in [
        ("[::]:443", "127.0.0.1:0".to_owned()),
        ("[::]:80", "127.0.0.1:0".to_owned()),
        ("http://127.0.0.1:5000", registry.url()),
        ("http://127.0.0.1:8080", harbor.url()),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replacen(written, &here, 1);
    }
    let proxy = Proxy::start_in(dir, "", &text);
    let plain =
        |method: &str, target: &str| TestRequest::new(method, target).host("registry.example.com");
    let portal =
        |method: &str, target: &str| TestRequest::new(method, target).host("harbor.example.com");
    for http in HttpVersion::BOTH {
        let stranger = exchange(&proxy, http, &plain("GET", "/v2/"));
        stranger.assert_rejection(401, "UNAUTHORIZED");
        assert!(
            stranger
                .header("www-authenticate")
                .starts_with("Basic realm=\"Private registry\"")
        );
        let pull = plain("GET", "/v2/a/manifests/x").basic_auth(b"alice:pw");
        assert_eq!(exchange(&proxy, http, &pull).status, 200);
        let seen = registry.requests().pop().unwrap();
        assert!(seen.all("authorization").is_empty());
        assert_eq!(exchange(&proxy, http, &plain("GET", "/")).status, 404);
        let login = exchange(&proxy, http, &portal("GET", "/v2/"));
        assert_eq!(
            login.header("www-authenticate"),
            "Bearer realm=\"https://harbor.example.com/service/token\",service=\"harbor-registry\""
        );
        let given = exchange(
            &proxy,
            http,
            &portal("GET", "/service/token").basic_auth(ROBOT),
        );
        assert_eq!(given.status, 200);
        let push = portal("POST", "/v2/a/b/blobs/uploads/").header("authorization", TOKEN);
        let begun = exchange(&proxy, http, &push);
        let origin = "https://harbor.example.com/v2/a/b/blobs/uploads/";
        assert!(begun.status == 202 && begun.header("location").starts_with(origin));
        assert_eq!(
            exchange(&proxy, http, &portal("GET", "/harbor/projects")).status,
            200
        );
    }
    let people = plain("GET", "/harbor").host("harbor.example.com");
    let sent_on = Client::plain(proxy.http()).exchange(&people);
    assert_eq!(sent_on.status, 308);
    assert!(
        sent_on
            .header("location")
            .starts_with("https://harbor.example.com")
    );
    let docker =
        Client::plain(proxy.http()).exchange(&plain("GET", "/v2/").basic_auth(b"alice:pw"));
    assert_eq!(docker.status, 400);
}

/// The certificate of the tests' CA, as PEM.
fn authority() -> String {
    let text = Base64::encode_string(&root_certificate());
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

fn parsed(toml: &str) -> DeValue<'_> {
    let table = DeTable::parse(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    DeValue::Table(table.into_inner())
}

/// Every value with its dotted key; tables in lists have the list's.
fn each_value(value: &DeValue<'_>, key: &str, visit: &mut impl FnMut(&str, &DeValue<'_>)) {
    if let Some(table) = value.as_table() {
        for (name, inner) in table.iter() {
            let name: &str = name.get_ref();
            let dotted = if key.is_empty() {
                name.to_owned()
            } else {
                format!("{key}.{name}")
            };
            each_value(inner.get_ref(), &dotted, visit);
        }
        return;
    }
    let list = value.as_array();
    match list.filter(|list| list.iter().any(|item| item.get_ref().as_table().is_some())) {
        Some(list) => {
            for item in list {
                each_value(item.get_ref(), key, visit);
            }
        }
        None => visit(key, value),
    }
}

#[test]
fn the_command_prints_a_file_and_says_what_to_look_at() {
    let dir = tempfile::tempdir().unwrap();
    let conf = "server { listen 443 ssl; server_name a.example; ssl_certificate c.pem; ssl_certificate_key k.pem;\n\
                location /v2/ { auth_basic x; auth_basic_user_file users; proxy_pass http://127.0.0.1:5000; proxy_cache off; } location /x/ { auth_request /a; proxy_pass http://127.0.0.1:1; } }";
    fs::write(dir.path().join("a.conf"), conf).unwrap();
    let second = conf.replace("a.example", "b.example");
    fs::write(dir.path().join("b.conf"), second).unwrap();
    let output = run(
        dir.path(),
        &["import", "nginx", "--prefix", "etc", "a.conf", "b.conf"],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let toml = String::from_utf8(output.stdout).unwrap();
    for word in ["hosts = [\"a.example\"]", "hosts = [\"b.example\"]"] {
        assert!(toml.contains(word), "{word} in {toml}");
    }
    let absolute = dir.path().canonicalize().unwrap().join("etc/users");
    assert!(toml.contains(absolute.to_str().unwrap()), "{toml}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("a.conf:2: the route is closed"), "{said}");
    assert!(said.contains("3 warnings to look at, "), "{said}");
    assert!(
        said.contains("review each route against the nginx configuration"),
        "{said}"
    );
}

#[test]
fn the_command_fails_with_a_place_or_with_its_usage() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("bad.conf"),
        "server {\n  listen 443 ssl\n}\n",
    )
    .unwrap();
    fs::write(dir.path().join("empty.conf"), "# nothing\n").unwrap();
    for (file, words) in [
        (
            "bad.conf",
            &["bad.conf:2:3: ", "\"listen\" has no ;", "fix: "][..],
        ),
        ("empty.conf", &["no server block", "fix: "]),
        ("gone.conf", &["gone.conf: cannot be read", "fix: "]),
        (".", &["cannot be read: not a regular file"]),
    ] {
        let output = run(dir.path(), &["import", "nginx", file]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert_eq!(run(dir.path(), &["import", "nginx"]).status.code(), Some(2));
    assert_eq!(
        run(dir.path(), &["import", "apache", "x"]).status.code(),
        Some(2)
    );
    let help = run(dir.path(), &["import", "nginx", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let said = String::from_utf8(help.stdout).unwrap();
    assert_contains(
        &said,
        &[
            "--prefix",
            "/etc/nginx",
            "Examples",
            "> proxy.toml",
            "Exit code",
        ],
    );
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let command = command.args(arguments).current_dir(folder);
    with_own_directories(command, folder);
    command.stdin(Stdio::null()).output().unwrap()
}
