//! nginx itself: it accepts the corpus of the importer, and before the same registry it answers as tidegate does with the
//! imported file, but for a list of intended differences.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Certs, Curl, Lab, Service, free_port, is_listening, run};

mod differential;
mod generator;
mod parity;
mod typical;
mod webroot;
mod wire;

#[test]
fn nginx_accepts_the_corpus() {
    let lab = Lab::start();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/nginx");
    let etc = lab.path("etc");
    fs::create_dir(lab.path("log")).unwrap();
    let mut count = 0;
    for file in files(&corpus) {
        let text = fs::read_to_string(&file).unwrap();
        let moved = etc.join("nginx").join(file.strip_prefix(&corpus).unwrap());
        fs::create_dir_all(moved.parent().unwrap()).unwrap();
        fs::write(moved, relocated(&text, &lab)).unwrap();
        make_named(&text, &lab);
    }
    for file in files(&etc.join("nginx")) {
        if file.extension().is_none_or(|end| end != "conf")
            || file.parent() != Some(&etc.join("nginx"))
        {
            continue;
        }
        count += 1;
        let text = fs::read_to_string(&file).unwrap();
        let main = if text.contains("http {") {
            file.clone()
        } else {
            let main = lab.path("main.conf");
            let wrapped = format!("events {{}}\nhttp {{ include {}; }}\n", file.display());
            fs::write(&main, wrapped).unwrap();
            // Relative includes are relative to the main file's folder.
            let beside = etc.join("nginx/main");
            fs::rename(&main, &beside).unwrap();
            beside
        };
        let outcome = run(lab
            .command("nginx")
            .arg("-t")
            .arg("-c")
            .arg(&main)
            .arg("-e")
            .arg(lab.path("log/error.log")));
        let said = outcome.succeeds();
        assert!(!said.contains("[emerg]"), "{said}");
    }
    assert!(count >= 12, "{count} files");
}

/// Every file below a folder, but for what the importer made of them.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_none_or(|end| end != "toml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The text with its files in the lab's folder, and with addresses that this machine has.
fn relocated(text: &str, lab: &Lab) -> String {
    let folders = [
        ("/run/registry/", ""),
        ("/var/log/nginx/", "log/"),
        ("/etc/", "etc/"),
        ("/tmp/", ""),
        ("/run/", ""),
    ];
    let mut text = text.replace("listen 10.0.0.", "listen 127.0.0.");
    for (folder, here) in folders {
        for before in [" ", " unix:", "http://unix:"] {
            text = text.replace(
                &format!("{before}{folder}"),
                &format!("{before}{ROOT}{here}"),
            );
        }
    }
    text.replace(ROOT, &lab.path("").display().to_string())
}

/// Stands in no configuration.
const ROOT: &str = "\u{1}";

/// The certificates and keys that a file names.
fn make_named(text: &str, lab: &Lab) {
    let certs: &Certs = lab.certs();
    for line in text.lines().map(str::trim) {
        let mut words = line
            .trim_end_matches(|c| c != ';')
            .trim_end_matches(';')
            .split_whitespace();
        let (Some(name), Some(path)) = (words.next(), words.next()) else {
            continue;
        };
        let from = match name {
            "ssl_certificate_key" => certs.key(),
            "ssl_certificate" => certs.cert(),
            "ssl_client_certificate" | "proxy_ssl_trusted_certificate" => certs.ca(),
            _ => continue,
        };
        let path = match path.strip_prefix('/') {
            Some(path) => lab.path(path),
            None => lab.path("etc/nginx").join(path),
        };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(from, path).unwrap();
    }
}

/// nginx and tidegate before one registry.
struct Pair {
    lab: Lab,
    _nginx: Service,
    _gate: Service,
    nginx: Ports,
    tidegate: Ports,
}

#[derive(Clone, Copy)]
struct Ports {
    tls: u16,
    plain: u16,
}

impl Pair {
    /// docker's recipe with more in its location.
    fn start(lab: Lab, location: &str) -> Self {
        let location = format!("{LOGIN_ASKED}\n{location}");
        Self::of(lab, |lab, ports| config(lab, ports, &location), |toml| toml)
    }

    /// nginx with this file for its ports, and tidegate with what comes of the same for tidegate's, edited.
    fn of(
        lab: Lab,
        config: impl Fn(&Lab, Ports) -> String,
        edited: impl FnOnce(String) -> String,
    ) -> Self {
        let [nginx, tidegate] = [(); 2].map(|()| Ports {
            tls: free_port(),
            plain: free_port(),
        });
        let own = lab.path("nginx.conf");
        fs::write(&own, config(&lab, nginx)).unwrap();
        let theirs = lab.path("imported.conf");
        fs::write(&theirs, config(&lab, tidegate)).unwrap();
        let imported = run(lab
            .command(env!("CARGO_BIN_EXE_tidegate"))
            .args(["import", "nginx"])
            .arg(&theirs))
        .succeeds();
        let toml = lab.path("imported.toml");
        let imported = with_own_logs(&imported, &lab);
        fs::write(&toml, edited(imported)).unwrap();
        run(lab
            .command(env!("CARGO_BIN_EXE_tidegate"))
            .args(["check", "-c"])
            .arg(&toml)
            .env("STATE_DIRECTORY", lab.path("state")))
        .succeeds();

        let mut command = lab.command("nginx");
        command
            .arg("-c")
            .arg(&own)
            .arg("-e")
            .arg(lab.path("nginx-error.log"));
        let nginx_service = started("nginx", &command, &lab, nginx);
        let mut command = lab.command(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["serve", "-c"])
            .arg(&toml)
            .env("STATE_DIRECTORY", lab.path("state"));
        let service = started("imported", &command, &lab, tidegate);
        Self {
            _nginx: nginx_service,
            _gate: service,
            lab,
            nginx,
            tidegate,
        }
    }

    fn ask(&self, request: &Request, ports: Ports) -> Answer {
        let filled = |text: &str| {
            text.replace("{tls}", &format!("localhost:{}", ports.tls))
                .replace("{plain}", &format!("localhost:{}", ports.plain))
                .replace("{port}", &ports.tls.to_string())
        };
        let address = filled(&request.address);
        let options: Vec<_> = request
            .options
            .iter()
            .map(|option| filled(option))
            .collect();
        let head = self.lab.path("answer.head");
        let body = self.lab.path("answer.body");
        let _absent = fs::remove_file(&body);
        let mut curl: Command = self.lab.command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--http1.1",
            "--path-as-is",
            "--max-time",
            "60",
        ])
        .arg("--cacert")
        .arg(self.lab.certs().ca())
        .arg("--dump-header")
        .arg(&head)
        .arg("--output")
        .arg(&body)
        .args(&options)
        .arg(address);
        run(&curl).succeeds();
        let text = fs::read_to_string(&head).unwrap();
        // With --head curl writes the head where the body would be.
        let is_head = request.options.iter().any(|option| option == "--head");
        let body = fs::read(&body).ok().filter(|_| !is_head);
        Answer::new(&text, &body.unwrap_or_default(), ports)
    }
}

/// The text of a `proxy.toml` that was imported, with its log files in a folder of the test in place of `/var/log/tidegate`.
fn with_own_logs(toml: &str, lab: &Lab) -> String {
    let logs = lab.path("tidegate-log");
    fs::create_dir_all(&logs).unwrap();
    toml.replace("/var/log/tidegate", &logs.display().to_string())
}

fn started(name: &'static str, command: &Command, lab: &Lab, ports: Ports) -> Service {
    let mut service = Service::start(name, command, &lab.path(""));
    service.wait_until(|| is_listening(ports.tls) && is_listening(ports.plain));
    service
}

/// The text of an nginx.conf with these directives in `http { }`. nginx's own files, such as its pid file, are in the folder of the
/// test.
fn main_file(lab: &Lab, ports: Ports, http: &str) -> String {
    let dir = lab.path("");
    let (dir, tls) = (dir.display(), ports.tls);
    format!(
        r"user root;
daemon off;
pid {dir}nginx-{tls}.pid;
error_log {dir}nginx-{tls}.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {dir}body;
  proxy_temp_path {dir}proxied;
  fastcgi_temp_path {dir}fastcgi;
  uwsgi_temp_path {dir}uwsgi;
  scgi_temp_path {dir}scgi;
{http}
}}
"
    )
}

/// docker's recipe before the registry.
fn config(lab: &Lab, ports: Ports, location: &str) -> String {
    recipe(
        lab,
        ports,
        lab.behind("").trim_start_matches("http://"),
        "",
        location,
    )
}

/// docker's recipe; `server` and `location` are more of its blocks, in which `{dir}` is the lab's folder.
fn recipe(lab: &Lab, ports: Ports, upstream: &str, server: &str, location: &str) -> String {
    let dir = lab.path("");
    let location = location.replace("{dir}", &dir.display().to_string());
    let (cert, key) = (lab.certs().cert(), lab.certs().key());
    let (cert, key) = (cert.display(), key.display());
    let Ports { tls, plain } = ports;
    let http = format!(
        r#"  upstream docker-registry {{ server {upstream}; }}
  map $upstream_http_docker_distribution_api_version $docker_distribution_api_version {{
    '' 'registry/2.0';
  }}
  server {{
    listen 127.0.0.1:{tls} ssl http2;
    listen [::1]:{tls} ssl http2;
    server_name localhost;
    {server}
    ssl_certificate {cert};
    ssl_certificate_key {key};
    chunked_transfer_encoding on;
    client_max_body_size 0;
    location /v2/ {{
      if ($http_user_agent ~ "^(docker\/1\.(3|4|5(?!\.[0-9]-dev))|Go ).*$" ) {{ return 404; }}
      {location}
      add_header 'Docker-Distribution-Api-Version' $docker_distribution_api_version always;
      proxy_pass http://docker-registry;
      proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_read_timeout 900;
    }}
  }}
  server {{
    listen 127.0.0.1:{plain};
    server_name localhost;
    return 301 https://$host$request_uri;
  }}
"#
    );
    main_file(lab, ports, &http)
}

const LOGIN_ASKED: &str = "auth_basic \"Registry realm\"; auth_basic_user_file {dir}htpasswd;";

/// One request of the script.
struct Request {
    name: &'static str,
    options: Vec<String>,
    address: String,
}

fn request(name: &'static str, address: impl Into<String>, options: &[&str]) -> Request {
    Request {
        name,
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        address: address.into(),
    }
}

/// What clients look at.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Fields that clients of a registry obey, by name.
    fields: Vec<(String, String)>,
    /// The registry's own bytes; errors differ on purpose.
    body: Option<String>,
}

impl Answer {
    fn new(head: &str, body: &[u8], ports: Ports) -> Self {
        // Behind a 100 Continue, the last head counts.
        let head = head.trim_end().rsplit("\r\n\r\n").next().unwrap();
        let mut lines = head.lines();
        let first = lines.next().unwrap();
        let status = first.split_whitespace().nth(1).unwrap().parse().unwrap();
        let mut fields: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .filter(|(name, _)| FIELDS.contains(&name.as_str()))
            .map(|(name, value)| (name, anonymous(&value, ports)))
            .collect();
        fields.sort();
        Self {
            status,
            fields,
            body: (status < 300).then(|| String::from_utf8_lossy(body).into_owned()),
        }
    }
}

/// Without what is another for each request: the port, and an upload's name and state.
fn anonymous(value: &str, ports: Ports) -> String {
    let value = value.replace(&format!(":{}/", ports.tls), ":TLS/");
    match value.split_once("/uploads/") {
        Some((before, _)) => format!("{before}/uploads/…"),
        None => value,
    }
}

const FIELDS: &[&str] = &[
    "docker-distribution-api-version",
    "docker-content-digest",
    "www-authenticate",
    "location",
    "content-range",
    "content-type",
    "range",
    "etag",
    "strict-transport-security",
];

#[test]
fn the_imported_file_answers_as_nginx_does() {
    let lab = Lab::start();
    let digest = pushed(&lab);
    let pair = Pair::start(lab, "");
    let script = script(&digest);
    assert!(script.len() >= 30, "{} requests", script.len());
    pair.compare(&script, INTENDED);
}

#[test]
fn a_limit_of_bodies_is_the_same() {
    let pair = Pair::start(Lab::start(), "client_max_body_size 1k;");
    let body = pair.lab.path("two-thousand");
    fs::write(&body, vec![0; 2000]).unwrap();
    let body = format!("@{}", body.display());
    let upload = "https://{tls}/v2/team/app/blobs/uploads/";
    let data = [
        "--data-binary",
        &*body,
        "--header",
        "Content-Type: application/octet-stream",
    ];
    let script = [
        request("too long", upload, &with(&data)),
        request("too long, and no password", upload, &data),
        request(
            "short",
            upload,
            &with(&["--data-binary", "x", data[2], data[3]]),
        ),
    ];
    pair.compare(
        &script,
        &[(
            "too long, and no password",
            413,
            401,
            "nothing is told before the password",
        )],
    );
}

/// An image and a blob; the blob's digest.
fn pushed(lab: &Lab) -> String {
    let curl = Curl::new(lab, "--http1.1");
    curl.push_image("team/app");
    let file = curl.random_file("blob", 100_000);
    curl.push_blob("team/app", &file).0
}

/// The name of a request, nginx's status, tidegate's, and why they differ.
type Difference = (&'static str, u16, u16, &'static str);

impl Pair {
    /// The same script through both.
    fn compare(&self, script: &[Request], intended: &[Difference]) {
        let (mut wrong, mut met) = (Vec::new(), Vec::new());
        for request in script {
            let ours = self.ask(request, self.tidegate);
            let theirs = self.ask(request, self.nginx);
            let difference = intended.iter().find(|(name, ..)| *name == request.name);
            let is_right = match difference {
                Some((_, nginx, tidegate, _)) => {
                    met.push(request.name);
                    (theirs.status, ours.status) == (*nginx, *tidegate) && !is_same(&ours, &theirs)
                }
                None => is_same(&ours, &theirs),
            };
            if !is_right {
                wrong.push(format!(
                    "{}:\n  nginx {theirs:?}\n  tidegate  {ours:?}",
                    request.name
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(
            met.len(),
            intended.len(),
            "every difference on the list is met: {met:?}"
        );
    }
}

/// Where there is no content, its type says nothing: the errors of nginx are pages, those of tidegate JSON.
fn is_same(ours: &Answer, theirs: &Answer) -> bool {
    let kept = |answer: &Answer| {
        let is_content = answer.body.is_some();
        let fields = answer.fields.iter();
        let kept = fields.filter(|(name, _)| is_content || name != "content-type");
        kept.cloned().collect::<Vec<_>>()
    };
    ours.status == theirs.status && ours.body == theirs.body && kept(ours) == kept(theirs)
}

#[expect(clippy::too_many_lines, reason = "one line a request, all in one list")]
fn script(digest: &str) -> Vec<Request> {
    let user: &[&str] = &["--user", LOGIN];
    let manifest = "Accept: application/vnd.oci.image.manifest.v1+json";
    let blob = format!("https://{{tls}}/v2/team/app/blobs/{digest}");
    let absent = format!("sha256:{}", "0".repeat(64));
    let small = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    vec![
        request("ping", "https://{tls}/v2/", user),
        request("ping without a password", "https://{tls}/v2/", &[]),
        request(
            "ping with a wrong password",
            "https://{tls}/v2/",
            &["--user", "alice:wrong"],
        ),
        request(
            "ping of nobody",
            "https://{tls}/v2/",
            &["--user", "nobody:x"],
        ),
        request(
            "ping with an empty user",
            "https://{tls}/v2/",
            &["--user", ":x"],
        ),
        request(
            "ping with another scheme",
            "https://{tls}/v2/",
            &["--header", "Authorization: Bearer x"],
        ),
        request(
            "ping with no base64",
            "https://{tls}/v2/",
            &["--header", "Authorization: Basic ????"],
        ),
        request(
            "scheme in small letters",
            "https://{tls}/v2/",
            &["--header", LOGIN_HEADER],
        ),
        request("HEAD of a ping", "https://{tls}/v2/", &with(&["--head"])),
        request(
            "host in capitals",
            "https://{tls}/v2/",
            &with(&["--header", "Host: LOCALHOST"]),
        ),
        request(
            "docker 1.13",
            "https://{tls}/v2/",
            &with(&["--user-agent", "docker/1.13.1"]),
        ),
        request(
            "a program in Go",
            "https://{tls}/v2/",
            &with(&["--user-agent", "Go-http-client/1.1"]),
        ),
        request(
            "docker 1.5",
            "https://{tls}/v2/",
            &with(&["--user-agent", "docker/1.5.0"]),
        ),
        request(
            "docker 1.6",
            "https://{tls}/v2/",
            &with(&["--user-agent", "docker/1.6.0"]),
        ),
        request(
            "docker 1.5.1-dev",
            "https://{tls}/v2/",
            &with(&["--user-agent", "docker/1.5.1-dev"]),
        ),
        request(
            "docker 1.30",
            "https://{tls}/v2/",
            &with(&["--user-agent", "docker/1.30"]),
        ),
        request(
            "Go 1.1",
            "https://{tls}/v2/",
            &with(&["--user-agent", "Go 1.1 package http"]),
        ),
        request("catalog", "https://{tls}/v2/_catalog", user),
        request("tags", "https://{tls}/v2/team/app/tags/list", user),
        request(
            "tags without a password",
            "https://{tls}/v2/team/app/tags/list",
            &[],
        ),
        request(
            "tags of nothing",
            "https://{tls}/v2/no/such/tags/list",
            user,
        ),
        request(
            "manifest",
            "https://{tls}/v2/team/app/manifests/latest",
            &with(&["--header", manifest]),
        ),
        request(
            "HEAD of a manifest",
            "https://{tls}/v2/team/app/manifests/latest",
            &with(&["--head", "--header", manifest]),
        ),
        request(
            "manifest of nothing",
            "https://{tls}/v2/team/app/manifests/none",
            user,
        ),
        request("blob", &*blob, user),
        request("a part of a blob", &*blob, &with(&["--range", "10-99"])),
        request("HEAD of a blob", &*blob, &with(&["--head"])),
        request(
            "blob of nothing",
            format!("https://{{tls}}/v2/team/app/blobs/{absent}"),
            user,
        ),
        request(
            "deleting nothing",
            format!("https://{{tls}}/v2/team/app/blobs/{absent}"),
            &with(&["--request", "DELETE"]),
        ),
        request(
            "an upload begins",
            "https://{tls}/v2/team/app/blobs/uploads/",
            &with(&["--request", "POST"]),
        ),
        request(
            "an upload without a password",
            "https://{tls}/v2/team/app/blobs/uploads/",
            &["--request", "POST"],
        ),
        request(
            "an upload in one",
            format!("https://{{tls}}/v2/team/app/blobs/uploads/?digest={small}"),
            &with(&[
                "--data-binary",
                "hello",
                "--header",
                "Content-Type: application/octet-stream",
            ]),
        ),
        request(
            "a mount",
            format!("https://{{tls}}/v2/team/two/blobs/uploads/?mount={digest}&from=team/app"),
            &with(&["--request", "POST"]),
        ),
        request(
            "an upload that is not there",
            "https://{tls}/v2/team/app/blobs/uploads/none",
            user,
        ),
        request("elsewhere", "https://{tls}/foo", &[]),
        request("capitals", "https://{tls}/V2/", &[]),
        request("two slashes", "https://{tls}//v2/", user),
        request("letters as octets", "https://{tls}/%76%32/", user),
        request("dots", "https://{tls}/v2../", user),
        request(
            "a way up",
            "https://{tls}/v2/../v2/team/app/tags/list",
            user,
        ),
        request(
            "tags and a slash",
            "https://{tls}/v2/team/app/tags/list/",
            user,
        ),
        request(
            "a name in capitals",
            "https://{tls}/v2/UPPER/tags/list",
            user,
        ),
        request("nothing of the API", "https://{tls}/v2/what", user),
        request(
            "a method of nobody",
            "https://{tls}/v2/team/app/tags/list",
            &with(&["--request", "PUT"]),
        ),
        request(
            "OPTIONS",
            "https://{tls}/v2/",
            &with(&["--request", "OPTIONS"]),
        ),
        request("the root", "https://{tls}/", &[]),
        request("no slash", "https://{tls}/v2", user),
        request("no slash, no password", "https://{tls}/v2", &[]),
        request(
            "two passwords",
            "https://{tls}/v2/",
            &with(&["--header", "Authorization: Basic eDp5"]),
        ),
        request(
            "another host",
            "https://{tls}/v2/",
            &with(&["--header", "Host: other.example"]),
        ),
        request("http on the port of TLS", "http://{tls}/v2/", &[]),
        request("http", "http://{plain}/", &[]),
        request("http of a registry", "http://{plain}/v2/", &[]),
    ]
}

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--user", LOGIN], more].concat()
}

/// The user of the lab and the password.
const LOGIN: &str = "alice:tide:gate-42";
/// The same as a header, with the scheme in small letters.
const LOGIN_HEADER: &str = "Authorization: basic YWxpY2U6dGlkZTpnYXRlLTQy";

const INTENDED: &[Difference] = &[
    (
        "docker 1.5",
        404,
        200,
        "the User-Agent is no reason: such a client cannot speak to a registry anyway",
    ),
    ("docker 1.30", 404, 200, "the same; nginx's rule meant 1.3"),
    ("Go 1.1", 404, 200, "the same"),
    (
        "the root",
        200,
        404,
        "nginx shows its welcome page where no location is",
    ),
    (
        "a way up",
        301,
        400,
        "no client of a registry sends such a path, so nothing is guessed about it",
    ),
    (
        "a name in capitals",
        404,
        400,
        "the answer says which rule the name breaks",
    ),
    (
        "no slash, no password",
        301,
        401,
        "nothing is told before the password, not even a redirect",
    ),
    (
        "no slash",
        301,
        301,
        "the location is relative, so that it is true under whatever name the client came",
    ),
    (
        "another host",
        200,
        421,
        "a host of no site is not served; nginx takes its first server",
    ),
    (
        "http on the port of TLS",
        400,
        400,
        "the answer is a registry's, so that clients print it",
    ),
    (
        "http",
        301,
        308,
        "308 keeps the method, and the port is that of https",
    ),
    (
        "http of a registry",
        301,
        400,
        "the password would cross the network in the clear each time",
    ),
];
