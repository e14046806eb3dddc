//! `tidegate check --live` and `check --push`: the messages and the exit codes. The tests run the executable.

use std::io::Write as _;
use std::process::{Output, Stdio};

use crate::binary::{ServeProcess, command, configured, run, text};
use crate::listeners::kept_port;
use crate::support::proxy::TestConfig;
use crate::support::registry::refusing_address;
use crate::support::{REGISTRY_OK, Registry, assert_contains, config};

#[test]
fn a_live_check_reports_success_or_an_unreachable_upstream() {
    let registry = Registry::responding(REGISTRY_OK).recording_health_checks();
    let (_dir, file) = configured(config("", "").upstream(&registry.url()));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output.stdout);
    assert_contains(
        &printed,
        &[
            "localhost: the certificate fits its key and is valid until ",
            &format!("{} responds as a registry does", registry.url()),
            "the configuration is good",
        ],
    );
    let requests = registry.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].all("authorization").is_empty());

    let unreachable = format!("http://{}", refusing_address());
    let (_dir, file) = configured(config("", "").upstream(&unreachable));
    // Without `--live` the check sends no request.
    assert_eq!(run(&["check", "-c", &file]).status.code(), Some(0));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stderr);
    assert_contains(
        &printed,
        &[
            "proxy.toml:12:",
            "no response",
            &unreachable,
            "nothing listens there",
            "the live check found problems",
        ],
    );
}

#[test]
fn a_web_server_that_responds_to_every_path_is_not_taken_for_a_registry() {
    let server = Registry::accepting_all().recording_health_checks();
    let (_dir, file) = configured(config("", "").upstream(&server.url()));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output.stderr) + &text(&output.stdout);
    assert!(printed.contains("it may be no registry"), "{printed}");
    assert!(!printed.contains("as a registry does"), "{printed}");
}

#[test]
fn an_open_registry_behind_a_route_in_mode_upstream_is_an_error() {
    let registry = Registry::accepting_all();
    let proxy_config = config("", "").upstream(&registry.url());
    let open = proxy_config.set("auth", "{ mode = \"upstream\" }");
    let (_dir, file) = configured(&open);
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stderr);
    assert!(printed.contains("anyone may push"), "{printed}");
}

#[test]
fn a_rejected_configuration_is_not_checked_live() {
    let (_dir, file) = configured("nonsense");
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    // `--push` implies a live check, and a question about rights excludes one.
    let both = [
        "check", "--push", "a", "--who", "alice", "--may", "pull", "a",
    ];
    assert_eq!(run(&both).status.code(), Some(2));
}

/// A registry that stores one uploaded blob and returns it. The `Location` of an upload is `location`.
fn storing_registry(location: &'static str) -> Registry {
    let stored = std::sync::Mutex::new(Vec::new());
    Registry::start(move |exchange| {
        let method = exchange.head.method.clone();
        let body = exchange.body();
        let mut stored = stored.lock().unwrap();
        match method.as_str() {
            "POST" => exchange.send(format!(
                "HTTP/1.1 202 Accepted\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            )),
            "PUT" => {
                *stored = body;
                exchange.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
            }
            _ => {
                let length = stored.len();
                exchange.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                ));
                exchange.send(&*stored);
            }
        }
    })
}

/// Runs `check --push`, and writes the password to its standard input. `--push` implies `--live`.
fn push(file: &str, user: &[&str], password: &str) -> Output {
    let mut arguments = vec!["check", "--push", "team/app", "-c", file];
    arguments.extend(user);
    let mut command = command(&arguments);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // Without `--stdin` the command may end before the password is written.
    let _ = writeln!(child.stdin.take().unwrap(), "{password}");
    child.wait_with_output().unwrap()
}

#[test]
fn the_host_chooses_the_site_of_a_push() {
    let proxy_config = config("", "").upstream("http://127.0.0.1:1");
    let (_dir, file) = configured(format!("{proxy_config}{OTHER_SITE}"));
    let unknown = push(&file, &["--host", "c.test"], "");
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    let said = text(&unknown.stderr);
    assert_contains(
        &said,
        &["no site has the host \"c.test\"", "b.test with --host"],
    );
    let unrouted = text(&push(&file, &["--host", "B.test"], "").stderr);
    assert!(
        unrouted.contains("the site of b.test has no registry route"),
        "{unrouted}"
    );
    let alone = run(&["check", "-c", &file, "--host", "b.test"]);
    assert_eq!(alone.status.code(), Some(2), "{alone:?}");
}

const OTHER_SITE: &str = "
[[site]]
hosts = [\"b.test\"]
tls = { cert = \"cert.pem\", key = \"key.pem\" }
[[site.route]]
path = \"/ui/\"
respond = 404
";

const AS_ALICE: [&str; 3] = ["--user", "alice", "--stdin"];

#[test]
fn a_blob_is_pushed_and_pulled_through_the_proxy() {
    let registry = storing_registry("/v2/team/app/blobs/uploads/u?_state=x");
    let (port, _kept) = kept_port();
    let basic = config("", "").https(format_args!("127.0.0.1:{port}"));
    let token = config("[state]\ndir = \"{dir}\"\n", "")
        .https(format_args!("127.0.0.1:{port}"))
        .mode("token");
    for proxy_config in [basic, token] {
        let proxy_config = proxy_config.upstream(&registry.url());
        let (dir, file) = configured(&proxy_config);
        let folder = dir.path().to_str().unwrap();
        std::fs::write(&file, proxy_config.in_dir(folder)).unwrap();
        let _proxy = ServeProcess::start(&file);
        let output = push(&file, &AS_ALICE, "pw");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let printed = text(&output.stdout);
        let destination =
            format!("localhost:{port}/team/app at 127.0.0.1:{port}: a blob of 29 bytes");
        assert_contains(
            &printed,
            &[
                &destination,
                "was pushed and pulled",
                "left in team/app: sha256:",
            ],
        );
        assert!(printed.contains("responds as a registry does"), "{printed}");
        // A missing and a wrong password.
        let verify = format!("tidegate htpasswd verify {folder}/htpasswd alice");
        for (user, password, parts) in [
            (&[][..], "", ["requires a password", "--user NAME"]),
            (&AS_ALICE[..], "a-wrong-one", ["wrong password", &verify]),
        ] {
            let output = push(&file, user, password);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let printed = text(&output.stderr);
            for part in parts.iter().chain(&["401"]) {
                assert!(printed.contains(part), "{part} in {printed}");
            }
            assert!(!printed.contains("a-wrong-one"), "{printed}");
            assert!(!printed.contains("of its own"), "{printed}");
        }
    }
}

#[test]
fn an_upload_location_at_another_origin_is_reported() {
    let registry = storing_registry("http://registry.internal:5000/v2/team/app/blobs/uploads/u");
    let (port, _kept) = kept_port();
    let proxy_config = config("", "").https(format_args!("127.0.0.1:{port}"));
    let (_dir, file) = configured(proxy_config.upstream(&registry.url()));
    let proxy = ServeProcess::start(&file);
    let output = push(&file, &AS_ALICE, "pw");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stderr);
    assert_contains(
        &printed,
        &["http://registry.internal:5000", "internal_origins"],
    );
    drop(proxy);
    let stopped = push(&file, &AS_ALICE, "pw");
    assert_eq!(stopped.status.code(), Some(1), "{stopped:?}");
    assert!(text(&stopped.stderr).contains("is the proxy running?"));
}

#[test]
fn a_server_with_another_certificate_gets_no_password() {
    let registry = storing_registry("/v2/team/app/blobs/uploads/u").recording_health_checks();
    let (port, _kept) = kept_port();
    let proxy_config = config("", "").https(format_args!("127.0.0.1:{port}"));
    let proxy_config = proxy_config.upstream(&registry.url());
    let (_other_dir, other_file) = configured(&proxy_config);
    let _proxy = ServeProcess::start(&other_file);
    // The same configuration with another certificate.
    let (_dir, file) = configured(&proxy_config);
    let output = push(&file, &AS_ALICE, "pw");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stderr);
    assert!(printed.contains("another certificate"), "{printed}");
    let requests = registry.requests();
    let methods: Vec<_> = requests.iter().map(|seen| seen.method.as_str()).collect();
    // The command probes the upstream directly, and the running proxy may send a health check.
    assert!(
        !methods.is_empty() && methods.iter().all(|method| *method == "GET"),
        "{methods:?}"
    );
}

/// A configuration for a port that stays reserved while the returned socket exists.
fn config_on_kept_port(
    top: &str,
    route: &str,
    registry: &Registry,
) -> (TestConfig, socket2::Socket) {
    let (port, kept) = kept_port();
    let proxy_config = config(top, route).https(format_args!("127.0.0.1:{port}"));
    (proxy_config.upstream(&registry.url()), kept)
}

#[track_caller]
fn assert_fails(output: &Output, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stderr);
    for part in parts {
        assert!(printed.contains(part), "{part} in {printed}");
    }
}

#[test]
fn a_missing_right_to_push_is_reported_as_such() {
    let registry = storing_registry("/v2/team/app/blobs/uploads/u");
    let grant =
        "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"team/*\"]\nactions = [\"pull\"]";
    for mode in ["basic", "token"] {
        let (proxy_config, _kept) =
            config_on_kept_port("[state]\ndir = \"{dir}\"\n", grant, &registry);
        let proxy_config = proxy_config.mode(mode);
        let (dir, file) = configured(&proxy_config);
        let folder = dir.path().to_str().unwrap();
        std::fs::write(&file, proxy_config.in_dir(folder)).unwrap();
        let _proxy = ServeProcess::start(&file);
        let output = push(&file, &AS_ALICE, "pw");
        let advice = format!("tidegate check -c {file} --who alice --may push team/app");
        assert_fails(
            &output,
            &[
                "alice may not push to team/app",
                "the password is correct",
                &advice,
            ],
        );
        assert!(
            !text(&output.stderr).contains("wrong password"),
            "{output:?}"
        );
    }
    let requests = registry.requests();
    assert!(
        requests.iter().all(|seen| seen.method == "GET"),
        "{requests:?}"
    );
}

#[test]
fn a_registry_that_requires_a_password_of_its_own_is_reported() {
    let registry = Registry::responding(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"inner\"\r\nContent-Length: 0\r\n\r\n",
    );
    let (proxy_config, _kept) = config_on_kept_port("", "", &registry);
    let (_dir, file) = configured(&proxy_config);
    let proxy = ServeProcess::start(&file);
    // The proxy accepts the password, and the registry rejects the request.
    let output = push(&file, &AS_ALICE, "pw");
    assert_fails(&output, &["password of its own", "mode = \"upstream\""]);
    assert!(
        !text(&output.stderr).contains("wrong password"),
        "{output:?}"
    );
    drop(proxy);
    // In mode `upstream` the registry checks the password, so its rejection means a wrong password.
    let (_dir, file) = configured(proxy_config.set("auth", "{ mode = \"upstream\" }"));
    let _proxy = ServeProcess::start(&file);
    let output = push(&file, &AS_ALICE, "pw");
    assert_fails(
        &output,
        &["wrong password", "the registry rejects the login of alice"],
    );
}

#[test]
fn a_client_at_its_limit_of_wrong_passwords_gets_the_time_to_wait() {
    let registry = storing_registry("/v2/team/app/blobs/uploads/u");
    let (proxy_config, _kept) = config_on_kept_port("[throttle]\nguesses = 1\n", "", &registry);
    let (_dir, file) = configured(&proxy_config);
    let _proxy = ServeProcess::start(&file);
    assert_fails(&push(&file, &AS_ALICE, "one"), &["wrong password"]);
    let output = push(&file, &AS_ALICE, "another");
    assert_fails(&output, &["429", "too many wrong passwords", "wait "]);
}

#[test]
fn a_running_proxy_with_an_older_configuration_is_reported() {
    let registry = storing_registry("/v2/team/app/blobs/uploads/u");
    let (proxy_config, _kept) = config_on_kept_port("", "", &registry);
    let (_dir, file) = configured(&proxy_config);
    let _proxy = ServeProcess::start(&file);
    std::fs::write(
        &file,
        proxy_config.set("hosts", "[\"new.example\"]").to_string(),
    )
    .unwrap();
    let reload = format!("tidegate reload -c {file}");
    assert_fails(
        &push(&file, &AS_ALICE, "pw"),
        &["421", "older configuration", &reload],
    );
}

#[test]
fn another_program_on_the_port_is_reported() {
    let registry = Registry::accepting_all();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
        }
    });
    let proxy_config = config("", "").https(format_args!("127.0.0.1:{port}"));
    let (_dir, file) = configured(proxy_config.upstream(&registry.url()));
    let output = push(&file, &AS_ALICE, "pw");
    assert_fails(
        &output,
        &["does not speak TLS", "another program has the port"],
    );
    // Without `--push` this is only a warning, because the configuration itself may be correct.
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output.stdout);
    assert!(printed.contains("does not speak TLS"), "{printed}");
}

#[test]
fn the_check_sends_the_proxy_header_that_a_listener_requires() {
    let registry = storing_registry("/v2/team/app/blobs/uploads/u");
    let (proxy_config, _kept) = config_on_kept_port("", "", &registry);
    let proxy_config = proxy_config.after("workers", "proxy_protocol = [\"127.0.0.0/8\"]");
    let (_dir, file) = configured(&proxy_config);
    let _proxy = ServeProcess::spawn(&mut command(&["serve", "-c", &file]));
    let output = push(&file, &AS_ALICE, "pw");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("serves localhost with its certificate"));
}
