//! Generated nginx configurations: tidegate, with the imported configuration, never forwards a request that the running nginx does not
//! forward.
//!
//! `NGINX_SEED` is the seed of the first configuration, `NGINX_SECONDS` the time of the test. A failure prints the configuration, the import
//! and each request that differs.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, thread};

use super::{Ports, main_file};
use crate::lab::{Lab, Service, free_port, listens, run};

#[test]
fn nothing_that_nginx_closes_is_forwarded() {
    let number = |name: &str, default: u64| {
        let written = env::var(name).ok();
        written.map_or(default, |text| text.parse().unwrap())
    };
    let mut seed = number("NGINX_SEED", 1);
    let end = Instant::now() + Duration::from_secs(number("NGINX_SECONDS", 60));
    let setup = Setup::start();
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    while Instant::now() < end {
        setup.compare(seed, &mut counts, &mut failures);
        assert!(failures.len() < 5, "{counts:?}\n{}", failures.join("\n"));
        seed += 1;
    }
    println!("{counts:?}, next seed {seed}");
    assert!(failures.is_empty(), "{counts:?}\n{}", failures.join("\n"));
    assert!(counts.compared > 5 && counts.forwarded > 100, "{counts:?}");
}

/// What was compared.
#[derive(Debug, Default)]
struct Counts {
    /// Configurations that nginx does not accept.
    invalid: usize,
    /// Configurations of which the import forwards nothing.
    closed: usize,
    /// Configurations whose requests were compared.
    compared: usize,
    requests: usize,
    /// Requests that both forward.
    forwarded: usize,
    /// Requests that nginx forwards and tidegate does not.
    stricter: usize,
    /// Requests that tidegate forwards and nginx does not.
    open: usize,
}

/// Two upstreams, their password files, and the ports of both proxies.
struct Setup {
    lab: Lab,
    upstreams: [u16; 2],
    nginx: Ports,
    proxy: Ports,
}

impl Setup {
    fn start() -> Self {
        let lab = Lab::start();
        for (file, user, password) in [("first", "alice", "a"), ("second", "bob", "b")] {
            let hash = run(lab.command("openssl").args(["passwd", "-apr1", password])).succeeds();
            fs::write(lab.path(file), format!("{user}:{}\n", hash.trim())).unwrap();
        }
        let [nginx, proxy] = [(); 2].map(|()| Ports {
            tls: free_port(),
            plain: free_port(),
        });
        Self {
            upstreams: [upstream("one"), upstream("two")],
            lab,
            nginx,
            proxy,
        }
    }

    fn compare(&self, seed: u64, counts: &mut Counts, failures: &mut Vec<String>) {
        let text = |ports: Ports| {
            let http = Generator::new(seed, self, ports).http();
            main_file(&self.lab, ports, &http)
        };
        let own = self.lab.path("generated.conf");
        fs::write(&own, text(self.nginx)).unwrap();
        let log = self.lab.path("generated-error.log");
        let tested = run(self
            .lab
            .command("nginx")
            .arg("-t")
            .arg("-c")
            .arg(&own)
            .arg("-e")
            .arg(&log));
        if !tested.is_success() {
            counts.invalid += 1;
            return;
        }
        let input = self.lab.path("input.conf");
        fs::write(&input, text(self.proxy)).unwrap();
        let imported = run(self
            .lab
            .command(env!("CARGO_BIN_EXE_tidegate"))
            .args(["import", "nginx"])
            .arg(&input));
        if !imported.is_success() {
            assert!(
                imported.story().contains("no server block leads"),
                "seed {seed}: {}",
                imported.story()
            );
            counts.closed += 1;
            return;
        }
        let toml = imported.succeeds();
        if !toml.contains("\nupstream") {
            counts.closed += 1;
            return;
        }
        let file = self.lab.path("generated.toml");
        fs::write(&file, &toml).unwrap();
        let mut command = self.lab.command("nginx");
        command.arg("-c").arg(&own).arg("-e").arg(&log);
        let _nginx = started("nginx", &command, &self.lab, self.nginx.tls);
        let mut command = self.lab.command(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["serve", "-c"])
            .arg(&file)
            .env("STATE_DIRECTORY", self.lab.path("state"));
        let _proxy = started("generated", &command, &self.lab, self.proxy.tls);
        let script = script();
        let theirs = self.ask(&script, self.nginx);
        let ours = self.ask(&script, self.proxy);
        counts.compared += 1;
        counts.requests += script.len();
        let mut open = Vec::new();
        for ((request, ours), (index, nginx)) in
            script.iter().zip(&ours).zip(theirs.iter().enumerate())
        {
            match (ours.is_forwarded(), nginx.is_forwarded()) {
                (true, true) if ours.is_no_more_than(nginx) => counts.forwarded += 1,
                (true, _) if is_slash_alone(&script, &theirs, index, ours) => {}
                (true, _) => {
                    counts.open += 1;
                    open.push(format!("{request:?}: nginx {nginx:?}, tidegate {ours:?}"));
                }
                (false, true) => counts.stricter += 1,
                (false, false) => {}
            }
        }
        if !open.is_empty() {
            open.truncate(8);
            failures.push(format!(
                "---- seed {seed}\n{}\n{}\n{toml}",
                open.join("\n"),
                text(self.proxy)
            ));
        }
    }

    /// Sends all requests with one curl.
    fn ask(&self, script: &[Request], ports: Ports) -> Vec<Response> {
        let mut config = String::new();
        for request in script {
            let Request {
                method,
                host,
                path,
                user,
            } = request;
            let _ = write!(
                config,
                "url = \"https://localhost:{}{path}\"\nrequest = \"{method}\"\nheader = \"Host: {host}\"\nheader = \"Content-Length: 0\"\nhttp1.1\npath-as-is\ninsecure\nsilent\nmax-time = 20\noutput = \"/dev/null\"\nwrite-out = \"%{{http_code}} %header{{x-upstream}}\\n\"\n",
                ports.tls,
            );
            if let Some(user) = user {
                let _ = writeln!(config, "user = \"{user}\"");
            }
            config.push_str("next\n");
        }
        let file = self.lab.path("requests.curl");
        fs::write(&file, config.trim_end_matches("next\n")).unwrap();
        let outcome = run(self.lab.command("curl").arg("--config").arg(&file));
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let responses: Vec<_> = text.lines().map(Response::parse).collect();
        assert_eq!(responses.len(), script.len(), "{}", outcome.story());
        responses
    }
}

fn started(name: &'static str, command: &std::process::Command, lab: &Lab, port: u16) -> Service {
    let mut service = Service::start(name, command, Path::new(&lab.path("")));
    service.wait_until(|| listens(port));
    service
}

/// nginx redirects to the path with a slash at its end, and tidegate forwards the path without it under the same conditions.
fn is_slash_alone(script: &[Request], theirs: &[Response], index: usize, ours: &Response) -> bool {
    let Some(request) = script.get(index) else {
        return false;
    };
    let with_slash = Request {
        path: Box::leak(format!("{}/", request.path).into_boxed_str()),
        ..*request
    };
    let found = script.iter().position(|other| *other == with_slash);
    let nginx = found.and_then(|found| theirs.get(found));
    nginx.is_some_and(|nginx| nginx.upstream == ours.upstream)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    method: &'static str,
    host: &'static str,
    path: &'static str,
    user: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    upstream: String,
    path: String,
    has_authorization: bool,
}

impl Response {
    fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_default().to_owned();
        Self {
            status: next().parse().unwrap_or_default(),
            upstream: next(),
            path: next(),
            has_authorization: next() == "authorization",
        }
    }

    fn is_forwarded(&self) -> bool {
        !self.upstream.is_empty()
    }

    /// Whether the same upstream received the same path, and not more credentials.
    fn is_no_more_than(&self, other: &Self) -> bool {
        self.upstream == other.upstream
            && self.path == other.path
            && (other.has_authorization || !self.has_authorization)
    }
}

fn script() -> Vec<Request> {
    let mut script = Vec::new();
    for host in HOSTS {
        for path in PROBES {
            for method in ["GET", "PUT", "DELETE"] {
                for user in [None, Some("alice:a"), Some("bob:b")] {
                    script.push(Request {
                        method,
                        host,
                        path,
                        user,
                    });
                }
            }
        }
    }
    script
}

/// A server that responds to each request with what it received.
fn upstream(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || respond(name, stream));
        }
    });
    port
}

fn respond(name: &str, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut path, mut authorization, mut length) = (String::new(), "", 0_u64);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        } else if line.starts_with("authorization:") {
            authorization = " authorization";
        } else if let Some(written) = line.strip_prefix("content-length:") {
            length = written.trim().parse().unwrap_or(0);
        } else if line.is_empty() {
            break;
        }
    }
    let _ = reader.take(length).read_to_end(&mut Vec::new());
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nX-Upstream: {name} {path}{authorization}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
}

/// Writes one random configuration.
struct Generator<'a> {
    state: u64,
    setup: &'a Setup,
    ports: Ports,
}

impl<'a> Generator<'a> {
    fn new(seed: u64, setup: &'a Setup, ports: Ports) -> Self {
        let mut generator = Self {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            setup,
            ports,
        };
        for _ in 0..8 {
            generator.below(2);
        }
        generator
    }

    /// A number below `end` (xorshift64*).
    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(random).unwrap() % end
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick(&mut self, choices: &[&str]) -> String {
        let index = self.below(choices.len());
        choices[index].to_owned()
    }

    fn http(&mut self) -> String {
        let mut text = String::from(
            "map $request_method $reads { default 0; GET 1; HEAD 1; }\nmap $uri $secret { default 0; ~^/v2/.*/secret 1; /ui/x 1; }\ngeo $near { default 0; 127.0.0.0/8 1; }\n",
        );
        if self.chance(10) {
            text.push_str(&self.access());
        }
        let count = 1 + self.below(3);
        for index in 0..count {
            text.push_str(&self.server(index));
        }
        text
    }

    fn server(&mut self, index: usize) -> String {
        let certs = self.setup.lab.certs();
        let (cert, key) = (certs.cert(), certs.key());
        let name = if index == 0 {
            self.pick(&[
                "localhost",
                "localhost",
                "_",
                "localhost a.test",
                "*.a.test localhost",
            ])
        } else {
            self.pick(&[
                "a.test",
                "*.a.test",
                ".a.test",
                "_",
                "b.test",
                "~^[ab]\\.test$",
                "b.*",
            ])
        };
        let default = if index > 0 && self.chance(15) {
            " default_server"
        } else {
            ""
        };
        let port = self.ports.tls;
        let mut text = format!(
            "server {{\nlisten 127.0.0.1:{port} ssl{default};\nserver_name {name};\nssl_certificate {};\nssl_certificate_key {};\n",
            cert.display(),
            key.display(),
        );
        for _ in 0..2 {
            if self.chance(20) {
                text.push_str(&self.access());
            }
        }
        if self.chance(12) {
            text.push_str(&self.condition());
        }
        if self.chance(5) {
            text.push_str(&self.rewrite());
        }
        text.push_str("location @closed { return 403; }\n");
        text.push_str(&format!("location @open {{ {} }}\n", self.pass("")));
        let count = 1 + self.below(5);
        for _ in 0..count {
            text.push_str(&self.location("", 0));
        }
        text.push_str("}\n");
        text
    }

    fn location(&mut self, outer: &str, depth: usize) -> String {
        let is_regex = self.chance(30);
        let (matcher, prefix) = if is_regex {
            let modifier = self.pick(&["~", "~", "~*"]);
            let pattern = self.pick(PATTERNS);
            (format!("{modifier} {pattern}"), outer.to_owned())
        } else {
            let inside: Vec<&str> = PREFIXES
                .iter()
                .copied()
                .filter(|p| p.starts_with(outer))
                .collect();
            let path = if inside.is_empty() {
                outer.to_owned()
            } else {
                self.pick(&inside)
            };
            let modifier = self.pick(&["", "", "", "", "= ", "^~ "]);
            (format!("{modifier}{path}"), path)
        };
        let mut text = format!("location {matcher} {{\n");
        for _ in 0..2 {
            if self.chance(35) {
                text.push_str(&self.access());
            }
        }
        if self.chance(10) {
            text.push_str("internal;\n");
        }
        if self.chance(12) {
            text.push_str(&self.condition());
        }
        if self.chance(8) {
            text.push_str(&self.rewrite());
        }
        if self.chance(10) {
            text.push_str(
                &self
                    .pick(&[
                        "limit_except GET { deny all; }\n",
                        "limit_except GET POST PUT PATCH { deny all; }\n",
                        "limit_except GET HEAD { auth_basic x; auth_basic_user_file FIRST; }\n",
                        "limit_except GET { auth_basic x; auth_basic_user_file SECOND; }\n",
                    ])
                    .replace("FIRST", &self.file("first"))
                    .replace("SECOND", &self.file("second")),
            );
        }
        if self.chance(6) {
            text.push_str(&self.pick(&[
                "try_files /none @closed;\n",
                "try_files /none @open;\n",
                "try_files /none =404;\n",
            ]));
        }
        if self.chance(10) {
            text.push_str(&self.pick(&[
                "return 403;\n",
                "return 301 https://x.test/;\n",
                "return 401;\n",
                "return 302 /ui/;\n",
            ]));
        }
        if self.chance(85) {
            let prefix = if is_regex { "" } else { &prefix };
            text.push_str(&self.pass(prefix));
        }
        if depth < 2 && self.chance(20) {
            text.push_str(&self.location(&prefix, depth + 1));
        }
        text.push_str("}\n");
        text
    }

    fn pass(&mut self, prefix: &str) -> String {
        let index = usize::from(self.chance(25));
        let port = self.setup.upstreams[index];
        let path = match self.below(12) {
            0 if !prefix.is_empty() => "/",
            1 if !prefix.is_empty() => prefix,
            _ => "",
        };
        let header = if self.chance(10) {
            "proxy_set_header Authorization \"\";\n"
        } else {
            ""
        };
        format!("{header}proxy_pass http://127.0.0.1:{port}{path};\n")
    }

    fn access(&mut self) -> String {
        let (first, second) = (self.file("first"), self.file("second"));
        self.pick(&[
            "auth_basic x; auth_basic_user_file FIRST;\n",
            "auth_basic x; auth_basic_user_file FIRST;\n",
            "auth_basic y; auth_basic_user_file SECOND;\n",
            "auth_basic off;\n",
            "deny all;\n",
            "allow 127.0.0.1; deny all;\n",
            "allow 10.0.0.0/8; deny all;\n",
            "deny 127.0.0.0/8; allow all;\n",
            "deny 127.0.0.0/8;\n",
            "allow all;\n",
            "satisfy any;\n",
            "satisfy all;\n",
        ])
        .replace("FIRST", &first)
        .replace("SECOND", &second)
    }

    fn file(&self, name: &str) -> String {
        self.setup.lab.path(name).display().to_string()
    }

    fn condition(&mut self) -> String {
        self.pick(&[
            "if ($request_method = DELETE) { return 403; }\n",
            "if ($request_method !~ ^(GET|HEAD)$) { return 405; }\n",
            "if ($reads = 0) { return 403; }\n",
            "if ($secret) { return 404; }\n",
            "if ($near = 0) { return 403; }\n",
            "if ($near) { set $x 1; }\nif ($x = 1) { return 403; }\n",
            "if ($host != localhost) { return 403; }\n",
            "if ($http_host ~ ^a) { return 403; }\n",
            "if ($cookie_id = \"\") { return 302 https://login.test/; }\n",
            "if ($uri ~* ^/V2/PUB) { return 403; }\n",
            "if ($request_uri ~ secret) { return 403; }\n",
            "if ($scheme = http) { return 301 https://$host$request_uri; }\n",
            "if ($http_x_key != sesame) { return 403; }\n",
            "if ($remote_addr = 127.0.0.1) { return 403; }\n",
            "if ($request_method = PUT) { break; }\n",
            "if (-f $request_filename) { break; }\nif (!-f $request_filename) { return 404; }\n",
        ])
    }

    fn rewrite(&mut self) -> String {
        self.pick(&[
            "rewrite ^/ui/(.*) /$1 break;\n",
            "rewrite ^/admin /ui/ last;\n",
            "rewrite ^/v2/team/ https://x.test/ permanent;\n",
            "rewrite secret /v2/ last;\n",
            "rewrite ^/old/(.*)$ /v2/$1;\n",
        ])
    }
}

const HOSTS: &[&str] = &[
    "localhost",
    "a.test",
    "sub.a.test",
    "b.test",
    "unknown.test",
];
const PREFIXES: &[&str] = &[
    "/",
    "/v2/",
    "/v2",
    "/v2/pub",
    "/v2/pub/",
    "/v2/team/",
    "/v2/pub/app/",
    "/ui",
    "/ui/",
    "/admin",
    "/admin/",
    "/admin/free/",
    "/v2/team/app/tags/list",
];
const PATTERNS: &[&str] = &[
    "^/v2/",
    "^/v2/(pub|team)/",
    "/manifests/",
    "^/ui",
    "\\.js$",
    "^/v2/[a-z]+/secret",
    "^/(admin|ui)/",
    "secret",
    "^/V2/PUB/",
    "^/v2/pub$",
    "(free|x)$",
];
const PROBES: &[&str] = &[
    "/",
    "/v2/",
    "/v2/_catalog",
    "/v2/pub/manifests/t",
    "/v2/pub/app/manifests/t",
    "/v2/pubx/manifests/t",
    "/v2/pub/secret/manifests/t",
    "/v2/team/app/tags/list",
    "/v2/team/secret/manifests/t",
    "/v2/other/tags/list",
    "/v2/secret/manifests/t",
    "/v2x",
    "/ui",
    "/ui/",
    "/ui/x",
    "/uix",
    "/ui/a.js",
    "/admin",
    "/admin/",
    "/admin/x",
    "/adminx",
    "/admin/free/",
    "/admin/free/x",
    "/ADMIN/x",
    "/V2/PUB/x",
    "/old/x",
    "/x",
    "/secret",
    "/a.js",
];
