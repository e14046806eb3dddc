//! TypicalFile nginx files of registries: the same requests to nginx with the file, and to tidegate with the imported file.
//!
//! - tidegate forwards nothing that nginx does not forward to the same upstream with the same path.
//! - The table in `docs/from-nginx.md` has the counts of each file, and what tidegate does not forward although nginx does.
//!
//! `TYPICAL=NAME` restricts the test to one file, and prints its import and the output of `tidegate check`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use super::wire::{NEXT, Response, run_curl, start_upstream_at};
use super::{Ports, files, main_file, make_named, relocated, with_own_logs};
use crate::lab::{Lab, Service, run};

#[test]
fn the_table_of_typical_files_is_right() {
    let setup = Setup::start();
    let chosen = std::env::var("TYPICAL").ok();
    let is_chosen =
        |typical: &&TypicalFile| chosen.as_deref().is_none_or(|name| name == typical.file);
    let mut table = String::from(HEAD);
    let mut failures = String::new();
    let mut upstreams = BTreeSet::new();
    for typical in TYPICAL.iter().filter(is_chosen) {
        let (row, failure) = setup.compare(typical, &mut upstreams, chosen.is_some());
        table.push_str(&row);
        failures.push_str(&failure);
    }
    println!("{table}");
    assert!(failures.is_empty(), "{failures}");
    if chosen.is_none() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/from-nginx.md");
        let docs = fs::read_to_string(docs).unwrap();
        assert!(docs.contains(&table), "docs/from-nginx.md needs\n{table}");
    }
}

/// A file in `tests/real/nginx/typical`, or one of the importer's corpus in `tests/it/nginx`.
struct TypicalFile {
    file: &'static str,
    /// The name in the table.
    title: &'static str,
    /// Where clients reach the file's sites.
    places: &'static [HostAtPort],
    /// What tidegate does not forward although nginx does: the beginning of the requests' names, and the reason.
    stricter: &'static [(&'static str, &'static str)],
}

/// A host at a port.
enum HostAtPort {
    Tls(&'static str, u16),
    /// The port of the redirects to https.
    Plain(&'static str, u16),
    /// A port that serves a balancer, which terminates TLS.
    BehindProxy(&'static str, u16),
}

use HostAtPort::{BehindProxy, Plain, Tls};

const TYPICAL: &[TypicalFile] = &[
    TypicalFile {
        file: "recipe",
        title: "The recipe of distribution's documentation",
        places: &[Tls("myregistry.example.com", 443)],
        stricter: &[],
    },
    TypicalFile {
        file: "registry-htpasswd",
        title: "A tutorial: registry with htpasswd, and a redirect to https",
        places: &[
            Tls("registry.example.com", 443),
            Plain("registry.example.com", 80),
        ],
        stricter: &[],
    },
    TypicalFile {
        file: "tutorial",
        title: "A registry with htpasswd and Harbor, on one machine",
        places: &[
            Tls("registry.example.com", 443),
            Tls("harbor.example.com", 443),
            Plain("harbor.example.com", 80),
        ],
        stricter: &[],
    },
    TypicalFile {
        file: "harbor-inner",
        title: "Harbor's own nginx, as its installer writes it",
        places: &[
            Tls("harbor.example.com", 8443),
            Plain("harbor.example.com", 8080),
        ],
        stricter: &[],
    },
    TypicalFile {
        file: "harbor-external",
        title: "nginx in front of Harbor",
        places: &[
            Tls("harbor.example.com", 443),
            Plain("harbor.example.com", 80),
        ],
        stricter: &[],
    },
    TypicalFile {
        file: "gitlab",
        title: "GitLab and its registry, as the Omnibus package writes them",
        places: &[
            Tls("gitlab.example.com", 443),
            Tls("registry.example.com", 443),
            Plain("registry.example.com", 80),
        ],
        stricter: &[],
    },
    TypicalFile {
        file: "gitea",
        title: "Gitea",
        places: &[Tls("git.example.com", 443), Plain("git.example.com", 80)],
        stricter: &[],
    },
    TypicalFile {
        file: "nexus",
        title: "Nexus with a docker connector on a port of its own",
        places: &[
            Tls("repo.example.com", 443),
            Tls("repo.example.com", 5000),
            Plain("repo.example.com", 80),
        ],
        stricter: &[],
    },
    TypicalFile {
        file: "registry-ui",
        title: "A registry and a web interface behind one password",
        places: &[Tls("hub.example.com", 443), Plain("hub.example.com", 80)],
        stricter: &[],
    },
    TypicalFile {
        file: "ingress",
        title: "A registry behind a balancer that terminates TLS",
        places: &[BehindProxy("registry.example.com", 80)],
        stricter: &[],
    },
    TypicalFile {
        file: "certbot-managed",
        title: "A file that certbot has edited",
        places: &[
            Tls("registry.example.com", 443),
            Plain("registry.example.com", 80),
        ],
        stricter: &[],
    },
    TypicalFile {
        file: "nginx-proxy-manager",
        title: "A proxy host of Nginx Proxy Manager with an access list",
        places: &[
            Tls("registry.example.com", 443),
            Plain("registry.example.com", 80),
        ],
        stricter: &[],
    },
];

/// What is stricter in most files.
const GENERAL: &[(&str, &str)] = &[
    ("GET /v2, ", "`/v2` is redirected to `/v2/`"),
    ("GET /, another host", "unknown hosts get 421"),
    ("GET /v2/, another host", "unknown hosts get 421"),
];

/// The first lines of the table.
const HEAD: &str = "\
| File | Requests | Forwarded by both | Closed by both | Stricter here | What is stricter, and why |
|---|---|---|---|---|---|
";

/// The requests to each place: method, path and credentials.
const REQUESTS: &[(&str, &str, SentCredentials)] = &[
    ("GET", "/v2/", SentCredentials::None),
    ("GET", "/v2/", SentCredentials::Right),
    ("GET", "/v2/", SentCredentials::Wrong),
    ("GET", "/v2", SentCredentials::Right),
    ("OPTIONS", "/v2/", SentCredentials::None),
    ("GET", "/v2/_catalog", SentCredentials::Right),
    ("GET", "/v2/team/app/manifests/1.0", SentCredentials::None),
    ("GET", "/v2/team/app/manifests/1.0", SentCredentials::Right),
    ("HEAD", "/v2/team/app/manifests/1.0", SentCredentials::Right),
    ("PUT", "/v2/team/app/manifests/1.0", SentCredentials::None),
    ("PUT", "/v2/team/app/manifests/1.0", SentCredentials::Right),
    (
        "DELETE",
        "/v2/team/app/manifests/1.0",
        SentCredentials::None,
    ),
    (
        "DELETE",
        "/v2/team/app/manifests/1.0",
        SentCredentials::Right,
    ),
    ("POST", "/v2/team/app/blobs/uploads/", SentCredentials::None),
    (
        "POST",
        "/v2/team/app/blobs/uploads/",
        SentCredentials::Right,
    ),
    ("GET", "/v1/_ping", SentCredentials::Right),
    ("GET", "/", SentCredentials::None),
    ("GET", "/", SentCredentials::Right),
    ("GET", "/ui/index.html", SentCredentials::Right),
    ("GET", "/assets/app.js?v=1", SentCredentials::None),
    (
        "GET",
        "/service/token?service=registry",
        SentCredentials::Right,
    ),
    ("POST", "/c/login", SentCredentials::None),
    ("PUT", "/api/v2.0/projects/1", SentCredentials::Right),
    ("GET", "/gitea/user/login", SentCredentials::None),
    (
        "GET",
        "/team/app.git/info/refs?service=git-upload-pack",
        SentCredentials::Right,
    ),
    (
        "POST",
        "/team/app.git/git-receive-pack",
        SentCredentials::Right,
    ),
    (
        "GET",
        "/repository/maven-public/a.jar",
        SentCredentials::Right,
    ),
    ("GET", "/healthz", SentCredentials::None),
    ("GET", "/404.html", SentCredentials::Right),
    (
        "GET",
        "/.well-known/acme-challenge/x",
        SentCredentials::None,
    ),
];

/// The path of the WebSocket handshakes.
const WEBSOCKET: &str = "/-/cable";

#[derive(Clone, Copy, PartialEq, Eq)]
enum SentCredentials {
    None,
    Right,
    Wrong,
}

/// A request, with the name that the table may show.
struct Request {
    name: String,
    /// Its options for curl, with `<ADDRESS>` for the address of the server.
    config: String,
}

impl HostAtPort {
    const fn parts(&self) -> (&'static str, &'static str, u16) {
        match *self {
            Tls(host, port) => ("https", host, port),
            Plain(host, port) | BehindProxy(host, port) => ("http", host, port),
        }
    }

    fn requests(&self) -> Vec<Request> {
        let (_, host, port) = self.parts();
        let mut requests: Vec<_> = REQUESTS
            .iter()
            .map(|(method, path, login)| {
                let words = match login {
                    SentCredentials::None => "",
                    SentCredentials::Right => ", right password",
                    SentCredentials::Wrong => ", wrong password",
                };
                let name = format!("{method} {path}{words}, {host}:{port}");
                self.request(name, host, method, path, *login)
            })
            .collect();
        let mut websocket = self.request(
            format!("WebSocket, {host}:{port}"),
            host,
            "GET",
            WEBSOCKET,
            SentCredentials::Right,
        );
        websocket.config.insert_str(0, HANDSHAKE);
        requests.push(websocket);
        for (path, login) in [
            ("/", SentCredentials::None),
            ("/v2/", SentCredentials::Right),
        ] {
            let name = format!("GET {path}, another host at :{port}");
            requests.push(self.request(name, "other.example.net", "GET", path, login));
        }
        requests
    }

    fn request(
        &self,
        name: String,
        host: &str,
        method: &str,
        path: &str,
        login: SentCredentials,
    ) -> Request {
        let (scheme, _, port) = self.parts();
        let mut config = format!(
            "url = \"{scheme}://{host}:{port}{path}\"\nconnect-to = \"::<ADDRESS>:{port}\"\nrequest = \"{method}\"\n"
        );
        if method == "HEAD" {
            config.push_str("head\n");
        }
        if let BehindProxy(..) = self {
            config.push_str(
                "header = \"X-Forwarded-For: 192.0.2.7\"\nheader = \"X-Forwarded-Proto: https\"\n",
            );
        }
        match login {
            SentCredentials::None => {}
            SentCredentials::Right => config.push_str("user = \"alice:a\"\n"),
            SentCredentials::Wrong => config.push_str("user = \"alice:wrong\"\n"),
        }
        config.push_str(NEXT);
        Request { name, config }
    }
}

const HANDSHAKE: &str = r#"header = "Connection: Upgrade"
header = "Upgrade: websocket"
header = "Sec-WebSocket-Version: 13"
header = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
"#;

/// nginx, tidegate and the upstreams have an address each, so that each of them can have the ports of the file.
struct Setup {
    lab: Lab,
    nginx: Ipv4Addr,
    tidegate: Ipv4Addr,
    upstream: Ipv4Addr,
}

impl Setup {
    fn start() -> Self {
        // Another process that runs this test has other addresses.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = |last| Ipv4Addr::new(127, 64 | (high & 63), low, last);
        Self {
            lab: Lab::start(),
            nginx: address(1),
            tidegate: address(2),
            upstream: address(3),
        }
    }

    /// Returns the row of the table, and what is wrong.
    fn compare(
        &self,
        typical: &TypicalFile,
        upstreams: &mut BTreeSet<u16>,
        is_printed: bool,
    ) -> (String, String) {
        let requests: Vec<_> = typical
            .places
            .iter()
            .flat_map(HostAtPort::requests)
            .collect();
        let own = self.install(typical, self.nginx, upstreams);
        let nginx = self.start_nginx(&own, typical);
        let theirs = self.send(&requests, self.nginx);
        drop(nginx);

        let file = self.install(typical, self.tidegate, upstreams);
        let (toml, checked) = self.import(&file);
        if is_printed {
            eprintln!("{}\n{checked}", fs::read_to_string(&toml).unwrap());
        }
        let service = self.start_tidegate(&toml, typical);
        let ours = self.send(&requests, self.tidegate);
        drop(service);
        row(typical, &requests, &theirs, &ours)
    }

    /// Writes the file and what it includes into the folder of the lab, for a server with this address. Returns the main file.
    fn install(
        &self,
        typical: &TypicalFile,
        server: Ipv4Addr,
        upstreams: &mut BTreeSet<u16>,
    ) -> PathBuf {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let etc = self.lab.path("etc/nginx");
        let mut main = None;
        for folder in ["it/nginx", "real/nginx/typical"].map(|name| tests.join(name)) {
            for file in files(&folder) {
                let inner = file.strip_prefix(&folder).unwrap();
                let is_main = inner == Path::new(&format!("{}.conf", typical.file));
                if inner.parent() == Some(Path::new("")) && !is_main {
                    continue;
                }
                let original = fs::read_to_string(&file).unwrap();
                let text = self.at_address(&original, server, upstreams);
                let target = etc.join(inner);
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                if is_main {
                    let is_whole = text.contains("\nhttp {");
                    main = Some(target.clone());
                    let ports = Ports {
                        tls: 443,
                        plain: 80,
                    };
                    let text = if is_whole {
                        text
                    } else {
                        main_file(&self.lab, ports, &text)
                    };
                    make_named(&original, &self.lab);
                    self.make_files(&text);
                    fs::write(target, text).unwrap();
                } else {
                    fs::write(target, text).unwrap();
                }
            }
        }
        main.unwrap_or_else(|| panic!("{}: no such file", typical.file))
    }

    /// The text with the address of the server in each `listen`, with that of the upstreams, and with files in the folder of the lab.
    fn at_address(&self, text: &str, server: Ipv4Addr, upstreams: &mut BTreeSet<u16>) -> String {
        let mut lines = String::new();
        for line in text.lines() {
            let Some(listen) = line.trim_start().strip_prefix("listen ") else {
                lines.push_str(line);
                lines.push('\n');
                continue;
            };
            // There is one address per server.
            if !listen.starts_with("[::]") {
                let _ = writeln!(lines, "listen {server}:{}", listen.trim_start_matches("*:"));
            }
        }
        let name = self.upstream.to_string();
        let lines = lines
            .replace("localhost:", &format!("{name}:"))
            .replace("127.0.0.1", &name);
        for rest in lines.split(&format!("{name}:")).skip(1) {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
            self.add_upstream(&rest[..digits], upstreams);
        }
        if lines.contains("set $port ") {
            self.add_upstream("5000", upstreams);
        }
        let data = self.lab.path("data");
        relocated(&lines, &self.lab)
            .replace(" /data/", &format!(" {}/", data.display()))
            .replace(" /var/", &format!(" {}/var/", data.display()))
    }

    fn add_upstream(&self, port: &str, upstreams: &mut BTreeSet<u16>) {
        let Ok(number) = port.parse() else { return };
        if upstreams.insert(number) {
            let address = SocketAddr::from((self.upstream, number));
            start_upstream_at(address, port.to_owned());
        }
    }

    /// Makes the password files and the folders of the logs.
    fn make_files(&self, text: &str) {
        for line in text.lines().map(str::trim) {
            let mut words = line.trim_end_matches(';').split_whitespace();
            let (Some(name), Some(path)) = (words.next(), words.next()) else {
                continue;
            };
            let path = self.lab.path("etc/nginx").join(path);
            match name {
                "auth_basic_user_file" => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    // The password is "a".
                    fs::write(path, "alice:{SHA}hvfkN/qlp/zhXR3cuerq6jd2Z7g=\n").unwrap();
                }
                "access_log" | "error_log" if path.starts_with(self.lab.path("")) => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                }
                _ => {}
            }
        }
    }

    fn start_nginx(&self, file: &Path, typical: &TypicalFile) -> Service {
        let text = fs::read_to_string(file).unwrap();
        let mut globals = String::from("master_process off;");
        if !text.contains("daemon off;") {
            globals.push_str(" daemon off;");
        }
        if !text.contains("\npid ") {
            let _ = write!(globals, " pid {};", self.lab.path("typical.pid").display());
        }
        let mut command = self.lab.command("nginx");
        command
            .args(["-g", &globals, "-c"])
            .arg(file)
            .arg("-e")
            .arg(self.lab.path("nginx-error.log"));
        let mut service = Service::start("nginx", &command, &self.lab.path(""));
        service.wait_until(|| is_ready(self.nginx, typical));
        service
    }

    /// Returns the imported file, and what `tidegate check` says about it.
    fn import(&self, file: &Path) -> (PathBuf, String) {
        let program = env!("CARGO_BIN_EXE_tidegate");
        let mut import = self.lab.command(program);
        import
            .args(["import", "nginx", "--prefix"])
            .arg(self.lab.path("etc/nginx"))
            .arg(file);
        let toml = self.lab.path("typical.toml");
        let text = with_own_logs(&run(&import).succeeds(), &self.lab);
        fs::write(&toml, text).unwrap();
        let mut check = self.lab.command(program);
        check.args(["check", "-c"]).arg(&toml);
        let checked = run(check.env("STATE_DIRECTORY", self.lab.path("state")));
        let story = checked.story().to_owned();
        checked.succeeds();
        (toml, story)
    }

    fn start_tidegate(&self, toml: &Path, typical: &TypicalFile) -> Service {
        let mut command = self.lab.command(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["serve", "-c"])
            .arg(toml)
            .env("STATE_DIRECTORY", self.lab.path("state"));
        let mut service = Service::start("typical", &command, &self.lab.path(""));
        service.wait_until(|| is_ready(self.tidegate, typical));
        service
    }

    fn send(&self, requests: &[Request], server: Ipv4Addr) -> Vec<Response> {
        let config: String = requests
            .iter()
            .map(|request| request.config.replace("<ADDRESS>", &server.to_string()))
            .collect();
        run_curl(&self.lab, &config, requests.len())
    }
}

fn is_ready(server: Ipv4Addr, typical: &TypicalFile) -> bool {
    let mut ports = typical.places.iter().map(|place| place.parts().2);
    ports.all(|port| TcpStream::connect((server, port)).is_ok())
}

/// The row of a file in the table, and what is wrong.
fn row(
    typical: &TypicalFile,
    requests: &[Request],
    theirs: &[Response],
    ours: &[Response],
) -> (String, String) {
    let mut failures = String::new();
    let (mut both, mut closed, mut stricter) = (0, 0, 0);
    let mut met = BTreeSet::new();
    for ((request, nginx), tidegate) in requests.iter().zip(theirs).zip(ours) {
        let name = &request.name;
        let is_same = nginx.upstream == tidegate.upstream
            && nginx.path == tidegate.path
            && (nginx.has_authorization || !tidegate.has_authorization);
        let mut fail = |what: &str| {
            let file = typical.file;
            let _ = writeln!(
                failures,
                "{file}: {name}: {what}\n  nginx {nginx:?}\n  tidegate {tidegate:?}"
            );
        };
        if tidegate.is_forwarded() && !is_same {
            fail("open");
        } else if nginx.is_forwarded()
            && (!tidegate.is_forwarded() || (nginx.has_upgrade && !tidegate.has_upgrade))
        {
            stricter += 1;
            let mut reasons = GENERAL.iter().chain(typical.stricter);
            match reasons.find(|(begin, _)| name.starts_with(begin)) {
                Some(reason) => _ = met.insert(reason),
                None => fail("stricter"),
            }
        } else if nginx.is_forwarded() {
            both += 1;
        } else {
            closed += 1;
        }
    }
    for reason in typical.stricter {
        if !met.contains(reason) {
            let _ = writeln!(failures, "{}: {} is not stricter", typical.file, reason.0);
        }
    }
    let reasons: BTreeSet<_> = met.iter().map(|(_, reason)| *reason).collect();
    let reasons = Vec::from_iter(reasons).join("; ");
    let (title, count) = (typical.title, requests.len());
    let row = format!("| {title} | {count} | {both} | {closed} | {stricter} | {reasons} |\n");
    (row, failures)
}
