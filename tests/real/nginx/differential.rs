//! Generated nginx configurations, compared with the running nginx.
//!
//! - The importer's model of nginx forwards a request exactly if nginx forwards it, with the same path.
//! - tidegate with the imported configuration never forwards a request that nginx does not forward. The model of tidegate shows this for
//!   every configuration, and the program itself for some of them.
//!
//! `NGINX_SEED` is the seed of the first configuration, and `NGINX_SECONDS` the time of the test. A failure prints the configuration, the
//! import and the requests that differ.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;
use tidegate::import::nginx::models::{self, Outcome, Prediction, Request};
use tidegate::import::nginx::{FsSource, import};

use super::generator::Generator;
use super::wire::{Client, Response, start_upstream};
use super::{Ports, main_file, with_own_logs};
use crate::lab::{Lab, Service, free_port, is_listening, run};

#[test]
fn nothing_that_nginx_closes_is_forwarded() {
    let number = |name: &str, default: u64| {
        let written = std::env::var(name).ok();
        written.map_or(default, |text| text.parse().unwrap())
    };
    let seed = number("NGINX_SEED", 1);
    let end = Instant::now() + Duration::from_secs(number("NGINX_SECONDS", 20));
    let setup = Setup::start();
    let mut counts = ComparisonCounts::default();
    let mut failures = Vec::new();
    for seed in seed.. {
        let is_enough = counts.configurations >= MIN_CONFIGURATIONS && counts.programs > 0;
        if Instant::now() > end && is_enough {
            println!("next seed {seed}");
            break;
        }
        setup.compare(seed, &mut counts, &mut failures);
        if failures.len() >= MAX_FAILURES {
            break;
        }
    }
    println!("{counts:?}");
    assert!(failures.is_empty(), "{counts:?}\n{}", failures.join("\n"));
    assert!(
        counts.forwarded_by_both > 0 && counts.programs > 0,
        "{counts:?}"
    );
}

/// What was compared.
#[derive(Debug, Default)]
struct ComparisonCounts {
    /// Configurations that nginx does not accept.
    invalid: usize,
    configurations: usize,
    /// Configurations that the importer closes completely.
    closed: usize,
    /// Configurations for which tidegate itself was started.
    programs: usize,
    requests: usize,
    /// Requests of which the model of nginx says that their outcome is not known.
    unknown: usize,
    forwarded_by_nginx: usize,
    forwarded_by_both: usize,
    /// Requests for which nginx and its model disagree.
    model_disagrees: usize,
    /// Requests that tidegate forwards and nginx does not.
    open: usize,
    /// Requests that the program forwards and nginx does not.
    open_in_program: usize,
}

struct Setup {
    lab: Lab,
    upstreams: [u16; 2],
    /// The ports of nginx, and those of tidegate with the imported configuration.
    ports: [Ports; 2],
}

impl Setup {
    fn start() -> Self {
        let lab = Lab::start();
        // The passwords are "a" and "b".
        for (file, line) in [
            ("first", "alice:{SHA}hvfkN/qlp/zhXR3cuerq6jd2Z7g=\n"),
            ("second", "bob:{SHA}6dcfXufJLW3J6S/9rRe4vUlBj5g=\n"),
        ] {
            fs::write(lab.path(file), line).unwrap();
        }
        Self {
            upstreams: [start_upstream("one"), start_upstream("two")],
            lab,
            ports: [(); 2].map(|()| Ports {
                tls: free_port(),
                plain: free_port(),
            }),
        }
    }

    /// The `http` block of the configuration with this seed.
    fn http(&self, seed: u64, ports: Ports, ssl: &str) -> String {
        let mut generator = Generator::new(seed);
        let (cert, key) = (self.lab.certs().cert(), self.lab.certs().key());
        let [one, two] = self.upstreams;
        generator
            .http()
            .replace("<SSL>", ssl)
            .replace("<CERT>", &cert.display().to_string())
            .replace("<KEY>", &key.display().to_string())
            .replace("<MAIN>", &ports.tls.to_string())
            .replace("<OTHER>", &ports.plain.to_string())
            .replace("<FIRST>", &self.lab.path("first").display().to_string())
            .replace("<SECOND>", &self.lab.path("second").display().to_string())
            .replace("<ONE>", &format!("127.0.0.1:{one}"))
            .replace("<TWO>", &format!("127.0.0.1:{two}"))
    }

    fn compare(&self, seed: u64, counts: &mut ComparisonCounts, failures: &mut Vec<String>) {
        let [own, other] = self.ports;
        let Some(nginx) = self.start_nginx(seed) else {
            counts.invalid += 1;
            return;
        };
        counts.configurations += 1;
        let requests = self.requests(seed);
        let mut client = Client::new();
        let responses: Vec<_> = requests
            .iter()
            .map(|request| client.send(request))
            .collect();
        drop(nginx);
        // The imported file has TLS and ports of its own; the requests say where it is reached.
        let text = main_file(&self.lab, other, &self.http(seed, other, " ssl"));
        let moved: Vec<_> = requests
            .iter()
            .map(|request| moved(request, own, other))
            .collect();
        let file = self.lab.path("input.conf");
        fs::write(&file, &text).unwrap();
        let names = [file];
        let predictions = models::nginx(&FsSource, &names, &self.lab.path(""), &moved).unwrap();
        let mut story = String::new();
        for ((request, response), prediction) in requests.iter().zip(&responses).zip(&predictions) {
            counts.requests += 1;
            counts.forwarded_by_nginx += usize::from(response.is_forwarded());
            counts.unknown += usize::from(prediction.outcome == Outcome::Unknown);
            if !self.is_right(prediction, response) {
                counts.model_disagrees += 1;
                let _ = writeln!(
                    story,
                    "{request:?}\n  nginx {response:?}\n  model {prediction:?}"
                );
            }
        }
        let toml = match import(&FsSource, &names, &self.lab.path("")) {
            Ok(import) => import.toml,
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("no server block leads"), "{seed}: {error}");
                String::new()
            }
        };
        if !toml.contains("\nupstream") {
            counts.closed += 1;
        }
        let forwarded = models::tidegate(&toml, &moved);
        for (index, request) in requests.iter().enumerate() {
            let Some(ours) = &forwarded[index] else {
                continue;
            };
            let nginx = &responses[index];
            let url = |port: u16| format!("http://127.0.0.1:{port}");
            let is_there = ours.urls == [url(self.upstreams[usize::from(nginx.upstream == "two")])];
            let adds_no_authorization =
                nginx.has_authorization || !ours.sends_authorization || request.valid_in.is_none();
            let is_same = nginx.is_forwarded()
                && is_there
                && ours.path == nginx.path
                && adds_no_authorization;
            let is_elsewhere = !is_there && adds_no_authorization;
            if is_same {
                counts.forwarded_by_both += 1;
            } else if !is_tolerated(request, nginx, &predictions[index], is_elsewhere) {
                counts.open += 1;
                let _ = writeln!(
                    story,
                    "OPEN {request:?}\n  nginx {nginx:?}\n  tidegate {ours:?}"
                );
            }
        }
        // The program is reached at 127.0.0.1, unless the configuration has other addresses only.
        let ports = [other.tls, other.plain];
        let port = ports
            .into_iter()
            .find(|port| toml.contains(&format!("\"127.0.0.1:{port}\"")));
        if let Some(port) = port.filter(|_| seed.is_multiple_of(PROGRAM_EVERY)) {
            counts.programs += 1;
            let program = self.start_tidegate(&toml, port);
            let (open, what) = self.compare_program(&requests, &responses, &predictions);
            drop(program);
            counts.open_in_program += open;
            story.push_str(&what);
        }
        if !story.is_empty() {
            let lines: Vec<_> = story.lines().take(24).collect();
            failures.push(format!(
                "---- seed {seed}\n{}\n{text}\n{toml}",
                lines.join("\n")
            ));
        }
    }

    fn start_nginx(&self, seed: u64) -> Option<Service> {
        let [own, _] = self.ports;
        let http = self.http(seed, own, "");
        // The model assumes that no file exists, and the usual root has an index page.
        let root = self.lab.path("no-files");
        let http = format!(
            "set_real_ip_from 127.0.0.0/8;\nreal_ip_header X-Client;\nkeepalive_requests 1000000;\nroot {};\n{http}",
            root.display()
        );
        let text = main_file(&self.lab, own, &http)
            .replace("daemon off;", "daemon off;\nmaster_process off;");
        let file = self.lab.path("generated.conf");
        fs::write(&file, text).unwrap();
        let log = self.lab.path("generated-error.log");
        let mut command = self.lab.command("nginx");
        command.arg("-c").arg(&file).arg("-e").arg(&log);
        let mut test = self.lab.command("nginx");
        test.arg("-t").arg("-c").arg(&file).arg("-e").arg(&log);
        run(&test)
            .is_success()
            .then(|| started("nginx", &command, &self.lab, own.tls))
    }

    fn start_tidegate(&self, toml: &str, port: u16) -> Service {
        let file = self.lab.path("generated.toml");
        fs::write(&file, with_own_logs(toml, &self.lab)).unwrap();
        let mut command = self.lab.command(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["serve", "-c"])
            .arg(&file)
            .env("STATE_DIRECTORY", self.lab.path("state"));
        started("generated", &command, &self.lab, port)
    }

    /// Sends some of the requests to tidegate. Returns the number of those that it forwards and nginx does not.
    fn compare_program(
        &self,
        requests: &[Request],
        responses: &[Response],
        predictions: &[Prediction],
    ) -> (usize, String) {
        let [_, other] = self.ports;
        let loopback: IpAddr = [127, 0, 0, 1].into();
        let all = requests.iter().zip(responses).zip(predictions);
        let own: Vec<_> = all
            .filter(|((request, _), _)| {
                request.client == loopback && request.address.ip() == loopback
            })
            .take(300)
            .collect();
        let sent: Vec<_> = own
            .iter()
            .map(|((request, _), _)| moved(request, self.ports[0], other))
            .collect();
        let ours = super::wire::curl(&self.lab, &sent);
        let mut open = 0;
        let mut story = String::new();
        for (((request, nginx), prediction), ours) in own.iter().zip(&ours) {
            let is_same = ours.upstream == nginx.upstream
                && ours.path == nginx.path
                && (nginx.has_authorization || !ours.has_authorization);
            let is_elsewhere = ours.upstream != nginx.upstream
                && (nginx.has_authorization || !ours.has_authorization);
            if ours.is_forwarded()
                && !is_same
                && !is_tolerated(request, nginx, prediction, is_elsewhere)
            {
                open += 1;
                let _ = writeln!(
                    story,
                    "PROGRAM {request:?}\n  nginx {nginx:?}\n  tidegate {ours:?}"
                );
            }
        }
        (open, story)
    }

    /// Whether the response of nginx is what the model says.
    fn is_right(&self, prediction: &Prediction, response: &Response) -> bool {
        match &prediction.outcome {
            Outcome::Unknown => true,
            Outcome::Closed => !response.is_forwarded(),
            Outcome::Forward { urls, path, .. } => {
                let [one, two] = self.upstreams;
                let port = if response.upstream == "one" { one } else { two };
                response.is_forwarded()
                    && *urls == [format!("http://127.0.0.1:{port}")]
                    && *path == response.path
            }
        }
    }

    /// Requests of which each differs from the others, chosen by the seed.
    fn requests(&self, seed: u64) -> Vec<Request> {
        let mut random = Generator::new(seed ^ 0x5EED);
        let [own, _] = self.ports;
        let paths = paths();
        let files = [None, Some("first"), Some("second")];
        let mut requests = Vec::new();
        for _ in 0..REQUESTS {
            let port = if random.chance(80) {
                own.tls
            } else {
                own.plain
            };
            let local = if random.chance(85) { 1 } else { 2 };
            let client = if random.chance(60) {
                "127.0.0.1"
            } else {
                random.choose(CLIENTS)
            };
            let file = files[random.below(files.len())];
            requests.push(Request {
                address: SocketAddr::from(([127, 0, 0, local], port)),
                host: random.choose(HOSTS).to_owned(),
                method: Method::from_bytes(random.choose(METHODS).as_bytes()).unwrap(),
                path: paths[random.below(paths.len())].clone(),
                client: client.parse().unwrap(),
                valid_in: file.map(|file| self.lab.path(file).display().to_string()),
                has_certificate: false,
            });
        }
        requests
    }
}

fn started(name: &'static str, command: &Command, lab: &Lab, port: u16) -> Service {
    let dir: PathBuf = lab.path("");
    let mut service = Service::start(name, command, Path::new(&dir));
    service.wait_until(|| is_listening(port));
    service
}

/// The same request to the ports of tidegate.
fn moved(request: &Request, own: Ports, other: Ports) -> Request {
    let mut request = request.clone();
    let is_main = request.address.port() == own.tls;
    let port = if is_main { other.tls } else { other.plain };
    request.address.set_port(port);
    request
}

/// Differences that are documented: nginx rejects no client but has nothing to forward, redirects to the path with a slash at its end,
/// handles OPTIONS by other rules than GET, or forwards to another upstream because the path begins with the text of a location.
fn is_tolerated(
    request: &Request,
    nginx: &Response,
    prediction: &Prediction,
    is_elsewhere: bool,
) -> bool {
    let is_unimportant = prediction.is_only_missing || prediction.is_slash_redirect;
    request.method == Method::OPTIONS
        || (is_unimportant && !nginx.is_forwarded())
        || (prediction.is_sibling && nginx.is_forwarded() && is_elsewhere)
}

/// The paths of the generator, and paths around them.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> = super::generator::PATHS
        .iter()
        .map(|path| (*path).to_owned())
        .collect();
    for prefix in super::generator::PREFIXES {
        let bare = prefix.trim_end_matches('/');
        paths.extend(
            [
                "",
                "/",
                "x",
                "/x",
                "/x/manifests/t",
                "/x/tags/list",
                "/secret/x",
                "/a.js",
            ]
            .map(|end| format!("{bare}{end}")),
        );
    }
    paths.retain(|path| path.starts_with('/'));
    paths.sort();
    paths.dedup();
    paths
}

const HOSTS: &[&str] = &[
    "localhost",
    "a.test",
    "sub.a.test",
    "x.sub.a.test",
    "b.test",
    "b.example",
    "unknown.test",
];
const METHODS: &[&str] = &[
    "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "X-OTHER",
];
const CLIENTS: &[&str] = &[
    "10.1.2.3",
    "10.1.3.3",
    "192.0.2.7",
    "2001:db8::1",
    "127.0.0.9",
];
/// The number of requests for each configuration.
const REQUESTS: usize = 1500;
/// tidegate is started for one of so many configurations.
const PROGRAM_EVERY: u64 = 5;
const MIN_CONFIGURATIONS: usize = 8;
const MAX_FAILURES: usize = 5;
