//! Beside docker's recipe: client networks, methods, what the upstream receives, and Harbor's own nginx.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use super::{
    Difference, LOGIN, LOGIN_ASKED, Pair, Ports, Request, main_file, pushed, recipe, request, with,
};
use crate::lab::Lab;

/// From two addresses, with a right password, a wrong one and none.
fn matrix() -> Vec<Request> {
    const NAMES: [[&str; 3]; 3] = [
        ["from 1, right", "from 1, wrong", "from 1, none"],
        ["from 2, right", "from 2, wrong", "from 2, none"],
        ["from 3, right", "from 3, wrong", "from 3, none"],
    ];
    let logins: [&[&str]; 3] = [&["--user", LOGIN], &["--user", "alice:wrong"], &[]];
    let mut script = Vec::new();
    for (last, names) in (1..).zip(NAMES) {
        let source = format!("127.0.0.{last}");
        for (name, login) in names.into_iter().zip(logins) {
            let options = [&["--interface", &*source], login].concat();
            script.push(request(name, "https://{tls}/v2/", &options));
        }
    }
    script
}

#[test]
fn networks_and_passwords_are_judged_alike() {
    for rules in [
        "satisfy any; allow 127.0.0.2; deny all;",
        "satisfy any; deny 127.0.0.3; allow 127.0.0.0/8; deny all;",
        "satisfy any; deny all;",
        "satisfy all; allow 127.0.0.2; deny all;",
        "allow 127.0.0.2; allow 127.0.0.3; deny all;",
        "deny 127.0.0.2;",
        "deny 127.0.0.2; allow all;",
        // The first rule that fits counts: what stands behind it is never reached.
        "allow 127.0.0.0/8; deny 127.0.0.2; deny all;",
    ] {
        let pair = Pair::start(Lab::start(), rules);
        println!("{rules}");
        pair.compare(&matrix(), &[]);
    }
}

#[test]
fn methods_that_need_no_password_need_none() {
    let lab = Lab::start();
    let digest = pushed(&lab);
    let location = format!("limit_except GET {{ {LOGIN_ASKED} }}");
    let pair = Pair::of(
        lab,
        |lab, ports| super::config(lab, ports, &location),
        |toml| {
            assert!(
                toml.contains("limit_except became mode = \"token\" with grants"),
                "{toml}"
            );
            toml
        },
    );
    let blob = format!("https://{{tls}}/v2/team/app/blobs/{digest}");
    // Both are before one registry, and what the first one deletes is gone for the other.
    let absent = format!(
        "https://{{tls}}/v2/team/app/blobs/sha256:{}",
        "0".repeat(64)
    );
    let tags = "https://{tls}/v2/team/app/tags/list";
    let upload = "https://{tls}/v2/team/app/blobs/uploads/";
    let wrong = ["--user", "alice:wrong"];
    let script = [
        request("tags", tags, &[]),
        request("HEAD of a blob", &*blob, &["--head"]),
        request("a blob", &*blob, &[]),
        request("catalog", "https://{tls}/v2/_catalog", &[]),
        request("tags with a password", tags, &with(&[])),
        request("tags with a wrong password", tags, &wrong),
        request("ping", "https://{tls}/v2/", &[]),
        request("ping with a password", "https://{tls}/v2/", &with(&[])),
        request("upload", upload, &["--request", "POST"]),
        request(
            "upload, wrong",
            upload,
            &[&wrong[..], &["--request", "POST"]].concat(),
        ),
        request("upload, right", upload, &with(&["--request", "POST"])),
        request("delete", &*blob, &["--request", "DELETE"]),
        request(
            "delete of nothing",
            &*absent,
            &with(&["--request", "DELETE"]),
        ),
    ];
    pair.compare(
        &script,
        &[
            (
                "tags with a wrong password",
                200,
                401,
                "credentials that are shown are checked, so that nobody takes a wrong password for a right one",
            ),
            (
                "ping",
                200,
                401,
                "docker decides by it whether it ever logs in: behind nginx it could never push",
            ),
            (
                "upload",
                401,
                401,
                "a token is asked for, which docker gets without a password to pull and with one to push",
            ),
            ("upload, wrong", 401, 401, "the same"),
            ("delete", 401, 401, "the same"),
        ],
    );
}

/// An upstream that says yes and keeps what it was told.
struct Recorder {
    port: u16,
    heads: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Recorder {
    /// Serves until the test's process ends.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let kept = Arc::clone(&heads);
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
                let head: Vec<_> = lines
                    .by_ref()
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                if head.is_empty() {
                    continue;
                }
                kept.lock().unwrap().push(head);
                let _gone = client.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
                );
            }
        });
        Self { port, heads }
    }

    /// What the last client's request said in these fields, all lines of each.
    fn last(&self) -> [String; 4] {
        let heads = self.heads.lock().unwrap();
        // tidegate's own checks name no client.
        let of_clients = heads.iter().rev();
        let mut of_clients = of_clients.filter(|head| !field(head, "x-real-ip").is_empty());
        let head = of_clients.next().unwrap();
        RECEIVED.map(|name| field(head, name))
    }
}

fn field(head: &[String], name: &str) -> String {
    let fields = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    let values = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    let values: Vec<_> = values.map(|(_, value)| value.trim()).collect();
    values.join(" | ")
}

const RECEIVED: [&str; 4] = ["x-forwarded-for", "x-real-ip", "host", "x-forwarded-proto"];

/// Request, field, nginx's text, tidegate's, why.
type Told = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

/// In each run.
const EMPTY: Told = (
    "an empty one",
    "x-forwarded-for",
    ", 127.0.0.1",
    "127.0.0.1",
    "an empty line says nothing, so nothing stands before the client",
);

/// The same requests through both; what differs in what the upstream receives is on the list, and nothing else.
fn received(edited: impl FnOnce(String) -> String, server: &str, intended: &[Told]) {
    let recorder = Recorder::start();
    let upstream = format!("127.0.0.1:{}", recorder.port);
    let pair = Pair::of(
        Lab::start(),
        |lab, ports| recipe(lab, ports, &upstream, server, LOGIN_ASKED),
        edited,
    );
    let four = &["--ipv4"][..];
    let header = |text: &'static str| ["--ipv4", "--header", text];
    let cases: Vec<(&str, Vec<&str>)> = vec![
        ("nothing", four.to_vec()),
        ("over IPv6", vec!["--ipv6"]),
        ("one", header("X-Forwarded-For: 192.0.2.7").to_vec()),
        (
            "one of IPv6",
            header("X-Forwarded-For: 2001:db8::7").to_vec(),
        ),
        (
            "a list",
            header("X-Forwarded-For: 192.0.2.7,198.51.100.1").to_vec(),
        ),
        (
            "two lines",
            [
                &header("X-Forwarded-For: 192.0.2.7")[..],
                &["--header", "X-Forwarded-For: 198.51.100.1"],
            ]
            .concat(),
        ),
        ("an empty one", header("X-Forwarded-For;").to_vec()),
        ("real ip", header("X-Real-IP: 192.0.2.7").to_vec()),
        ("scheme", header("X-Forwarded-Proto: http").to_vec()),
        ("capitals", header("Host: LOCALHOST").to_vec()),
        ("port", header("Host: localhost:7").to_vec()),
        ("capitals and port", header("Host: LocalHost:443").to_vec()),
        ("dot", header("Host: localhost.").to_vec()),
        ("dot and port", header("Host: localhost.:8443").to_vec()),
    ];
    let (mut wrong, mut met) = (Vec::new(), Vec::new());
    for (name, options) in &cases {
        let asked = request("", "https://{tls}/v2/team/app/tags/list", &with(options));
        let [theirs, ours] = [pair.nginx, pair.tidegate].map(|ports: Ports| {
            assert_eq!(pair.ask(&asked, ports).status, 200, "{name}");
            let port = format!(":{}", ports.tls);
            recorder.last().map(|value| value.replace(&port, ":TLS"))
        });
        for ((field, theirs), ours) in RECEIVED.iter().zip(&theirs).zip(&ours) {
            let is_expected = intended
                .iter()
                .find(|told| (told.0, told.1) == (name, field));
            let is_right = match is_expected {
                Some(told) => {
                    met.push((told.0, told.1));
                    (theirs.as_str(), ours.as_str()) == (told.2, told.3) && theirs != ours
                }
                None => theirs == ours,
            };
            if !is_right {
                wrong.push(format!(
                    "{name}, {field}: nginx {theirs:?}, tidegate {ours:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        met.len(),
        intended.len(),
        "all on the list are met: {met:?}"
    );
}

#[test]
fn the_upstream_receives_the_same_but_what_strangers_say() {
    const WHY: &str = "whoever is not in listen.trusted_proxies could say anything";
    const FOR: &str = "x-forwarded-for";
    received(
        |toml| toml,
        "",
        &[
            ("one", FOR, "192.0.2.7, 127.0.0.1", "127.0.0.1", WHY),
            (
                "one of IPv6",
                FOR,
                "2001:db8::7, 127.0.0.1",
                "127.0.0.1",
                WHY,
            ),
            (
                "a list",
                FOR,
                "192.0.2.7,198.51.100.1, 127.0.0.1",
                "127.0.0.1",
                WHY,
            ),
            (
                "two lines",
                FOR,
                "192.0.2.7, 198.51.100.1, 127.0.0.1",
                "127.0.0.1",
                WHY,
            ),
            EMPTY,
        ],
    );
}

#[test]
fn what_a_trusted_proxy_says_is_written_as_nginx_writes_it() {
    const FOR: &str = "x-real-ip";
    const WHY: &str =
        "the client is whom the trusted proxy names, which nginx without realip does not know";
    let trusting = |toml: String| {
        let listen = "[listen]\ntrusted_proxies = [\"127.0.0.0/8\", \"::1\"]";
        assert!(toml.contains("[listen]"));
        toml.replacen("[listen]", listen, 1)
    };
    received(
        trusting,
        "",
        &[
            ("one", FOR, "127.0.0.1", "192.0.2.7", WHY),
            ("one of IPv6", FOR, "127.0.0.1", "2001:db8::7", WHY),
            ("a list", FOR, "127.0.0.1", "198.51.100.1", WHY),
            ("two lines", FOR, "127.0.0.1", "198.51.100.1", WHY),
            (
                "scheme",
                "x-forwarded-proto",
                "https",
                "http",
                "a trusted proxy knows what the client speaks, and nginx's $scheme does not",
            ),
            EMPTY,
        ],
    );
}

#[test]
fn realip_becomes_trusted_proxies() {
    const FOR: &str = "x-forwarded-for";
    const WHY: &str = "the list ends with who sent the request on; nginx names the client a second time in his place";
    received(
        |toml| {
            assert!(
                toml.contains("trusted_proxies = [\"127.0.0.0/8\", \"::1\"]"),
                "{toml}"
            );
            toml
        },
        "set_real_ip_from 127.0.0.0/8; set_real_ip_from ::1; real_ip_header X-Forwarded-For; real_ip_recursive on;",
        &[
            (
                "one",
                FOR,
                "192.0.2.7, 192.0.2.7",
                "192.0.2.7, 127.0.0.1",
                WHY,
            ),
            (
                "one of IPv6",
                FOR,
                "2001:db8::7, 2001:db8::7",
                "2001:db8::7, 127.0.0.1",
                WHY,
            ),
            (
                "a list",
                FOR,
                "192.0.2.7,198.51.100.1, 198.51.100.1",
                "192.0.2.7,198.51.100.1, 127.0.0.1",
                WHY,
            ),
            (
                "two lines",
                FOR,
                "192.0.2.7, 198.51.100.1, 198.51.100.1",
                "192.0.2.7, 198.51.100.1, 127.0.0.1",
                WHY,
            ),
            (
                "scheme",
                "x-forwarded-proto",
                "https",
                "http",
                "a trusted proxy knows what the client speaks, and nginx's $scheme does not",
            ),
            EMPTY,
        ],
    );
}

/// What Harbor's installer makes of its template, with the lab's files, and with one place for core and portal.
fn harbors_own(lab: &Lab, ports: Ports) -> String {
    let Ports { tls, plain } = ports;
    let text = include_str!("../../it/nginx/harbor-inner.conf");
    let (_, inner) = text.split_once("http {\n").unwrap();
    let (inner, _) = inner.rsplit_once('}').unwrap();
    let (cert, key) = (lab.certs().cert(), lab.certs().key());
    let core = lab.harbor().port();
    let mut inner = inner.to_owned();
    for (written, here) in [
        (
            "/etc/cert/server.crt".to_owned(),
            cert.display().to_string(),
        ),
        ("/etc/cert/server.key".to_owned(), key.display().to_string()),
        (
            "listen 8443 ssl".to_owned(),
            format!("listen 127.0.0.1:{tls} ssl"),
        ),
        (
            "listen 8080".to_owned(),
            format!("listen 127.0.0.1:{plain}"),
        ),
        ("$host:8443".to_owned(), format!("$host:{tls}")),
        ("127.0.0.1:8081".to_owned(), format!("127.0.0.1:{core}")),
        ("127.0.0.1:8082".to_owned(), format!("127.0.0.1:{core}")),
    ] {
        assert!(inner.contains(&written), "{written}");
        inner = inner.replace(&written, &here);
    }
    let lines = inner.lines().filter(|line| {
        let line = line.trim();
        let is_set =
            line.starts_with("client_body_temp_path") || line.starts_with("proxy_temp_path");
        !is_set && !line.starts_with("access_log")
    });
    main_file(lab, ports, &lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn harbors_own_nginx_is_replaced_by_the_gate() {
    let pair = Pair::of(Lab::configured("upstream", ""), harbors_own, |toml| toml);
    let named = ["--resolve", "registry.test:{port}:127.0.0.1"];
    let at = |path: &str| format!("https://registry.test:{{port}}{path}");
    let ask =
        |name, path: &str, more: &[&str]| request(name, at(path), &[&named[..], more].concat());
    let scope = "/service/token?service=harbor-registry&scope=repository:team/app:pull,push";
    let token = |ports| {
        let answer = pair.ask(&ask("", scope, &["--user", LOGIN]), ports);
        let said: serde_json::Value = serde_json::from_str(&answer.body.unwrap()).unwrap();
        said["token"].as_str().unwrap().to_owned()
    };
    // Either takes what the other one's way has brought.
    let (one, two) = (token(pair.nginx), token(pair.tidegate));
    let [one, two] = [one, two].map(|token| format!("Authorization: Bearer {token}"));
    let script = [
        ask("ping", "/v2/", &[]),
        ask("ping with a password", "/v2/", &["--user", LOGIN]),
        ask("ping with a token", "/v2/", &["--header", &one]),
        ask("a token without a password", scope, &[]),
        ask(
            "tags of nothing",
            "/v2/team/app/tags/list",
            &["--header", &two],
        ),
        ask(
            "upload",
            "/v2/team/app/blobs/uploads/",
            &["--request", "POST", "--header", &one],
        ),
        ask(
            "upload, other token",
            "/v2/team/app/blobs/uploads/",
            &["--request", "POST", "--header", &two],
        ),
        ask(
            "upload without a token",
            "/v2/team/app/blobs/uploads/",
            &["--request", "POST"],
        ),
        ask("portal", "/harbor/projects?x=a%2Fb", &[]),
        ask("api", "/api/v2.0/systeminfo", &[]),
        ask("old api", "/v1/_ping", &[]),
        ask(
            "notifications",
            "/service/notifications/jobs/1",
            &["--request", "POST"],
        ),
        ask("login page", "/c/login", &[]),
        request("http", "http://{plain}/harbor", &[]),
    ];
    pair.compare(&script, HARBOR);
}

const HARBOR: &[Difference] = &[
    (
        "ping",
        401,
        401,
        "the realm is https and has the port that the client used: nginx left it to edits of Harbor's configuration",
    ),
    ("ping with a password", 401, 401, "the same"),
    ("upload without a token", 401, 401, "the same"),
    (
        "upload",
        202,
        202,
        "the location is https, as the client is: behind nginx it was http, and the push ended there",
    ),
    ("upload, other token", 202, 202, "the same"),
    (
        "a token without a password",
        401,
        401,
        "add_header without always is for success alone; tidegate sets it in every answer of the upstream",
    ),
    ("tags of nothing", 404, 404, "the same"),
    ("portal", 404, 404, "the same"),
    ("api", 404, 404, "the same"),
    ("login page", 404, 404, "the same"),
];
