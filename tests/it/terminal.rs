//! The commands that talk to the running proxy: `status`, `unblock`, `cut` and `check --ready`, over the admin socket that the
//! executable has by default and over addresses.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Output;

use rustix::process::Signal;
use serde_json::Value;

use crate::admin::{admin, get, get_unix};
use crate::binary::{ServeProcess, configured, run, text, with_own_directories};
use crate::support::h2::{H2Client, block_on, collect};
use crate::support::registry::Exchange;
use crate::support::request::chunk;
use crate::support::{
    Client, PATIENCE, Proxy, Registry, TestRequest, TestResponse, assert_contains, config,
    eventually, eventually_some, pattern,
};

const BLOB: &str =
    "/v2/team/app/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const UPLOAD: &str = "/v2/team/app/blobs/uploads/u";

/// A registry that sends a quarter of a blob, and then nothing more.
fn stuck() -> Registry {
    Registry::start(|exchange: &mut Exchange<'_>| {
        if exchange.head.target == BLOB {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n");
            exchange.send(pattern(1000));
            exchange.wait_closed();
        } else {
            exchange.body();
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

/// Runs a command with the configuration of the test.
fn tell(arguments: &[&str], file: &str) -> Output {
    let all: Vec<_> = arguments.iter().chain(&["-c", file]).copied().collect();
    run(&all)
}

/// The output of a command that succeeds.
#[track_caller]
fn done(arguments: &[&str], file: &str) -> String {
    let output = tell(arguments, file);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

/// The error of a command that fails.
#[track_caller]
fn failed(arguments: &[&str], file: &str, code: i32) -> String {
    let output = tell(arguments, file);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(text(&output.stdout), "");
    text(&output.stderr)
}

fn status(file: &str) -> Value {
    serde_json::from_str(&done(&["status", "--json"], file)).unwrap()
}

/// The only transfer, once it has moved as many bytes.
fn transfer(file: &str, bytes: u64) -> Value {
    eventually_some("the transfer is shown", || {
        let transfers = status(file)["transfers"].clone();
        let first = transfers.get(0)?.clone();
        (first["bytes"] == bytes).then_some(first)
    })
}

/// A request to the Unix socket.
fn post(path: &Path, method: &str, target: &str, field: &str) -> TestResponse {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    Client::from_socket(stream).read_response(method)
}

#[test]
fn a_download_is_shown_with_its_progress_and_can_be_ended() {
    let registry = stuck();
    let (dir, file) = configured(config("", "").upstream(&registry.url()));
    let process = ServeProcess::start(&file);
    let mut client = process.client();
    client.send(TestRequest::alice("GET", BLOB).head());
    assert_eq!(client.read_head().unwrap().status, 200);
    assert_eq!(client.read_exact(1000).len(), 1000);
    let row = transfer(&file, 1000);
    for (key, value) in [
        ("operation", Value::from("pull")),
        ("repository", "team/app".into()),
        ("user", "alice".into()),
        ("client", "127.0.0.1".into()),
        ("site", "localhost".into()),
        ("length", 4000.into()),
        ("percent", 25.into()),
    ] {
        assert_eq!(row[key], value, "{key} in {row}");
    }
    let id = row["id"].to_string();
    let shown = done(&["status"], &file);
    let line = shown.lines().find(|line| line.contains("team/app"));
    let line = line.unwrap_or_else(|| panic!("{shown}"));
    assert_contains(line, &[&id, "pull", "alice", "KiB", "25"]);
    assert!(shown.lines().all(|line| line.chars().count() <= 80));
    assert_contains(
        &shown,
        &[
            "transfers (1)",
            "serving",
            registry.authority(),
            "localhost",
        ],
    );
    let ended = done(&["cut", &id], &file);
    let expected = format!("ended transfer {id}: pull of team/app by alice from 127.0.0.1\n");
    assert_eq!(ended, expected);
    let (rest, _end) = client.read_to_end();
    assert!(rest.is_empty(), "{} bytes after the cut", rest.len());
    let logged = process.line("an operator has ended a transfer");
    assert_contains(&logged, &[&*format!("id={id}"), "team/app", "alice"]);
    eventually("the access log has the cause", || {
        let log = fs::read_to_string(dir.path().join("access.log"));
        log.unwrap_or_default().contains("termination=cut")
    });
    assert_eq!(status(&file)["transfer_count"], 0);
    let again = failed(&["cut", &id], &file, 1);
    assert!(again.contains(&format!("no transfer {id}")), "{again}");
    assert!(done(&["status"], &file).contains("no transfers"));
    assert_eq!(process.login("alice:pw"), 200, "nothing else has changed");
}

#[test]
fn a_cut_over_http2_resets_the_stream_and_leaves_the_connection() {
    let registry = stuck();
    let text = config("", "").after("https", "admin = \"unix:{dir}/admin.sock\"");
    let proxy = Proxy::start(&registry, &text);
    let socket = proxy.path("admin.sock");
    eventually("the socket is there", || socket.exists());
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let (response, _) = client
            .start_request(&TestRequest::alice("GET", BLOB))
            .await
            .unwrap();
        let mut response = response.await.unwrap();
        // What the client has not read when the stream is reset may be lost.
        let mut received = 0;
        while received < 1000 {
            received += response.body_mut().data().await.unwrap().unwrap().len();
        }
        let cut = std::thread::spawn(move || {
            let id = eventually_some("the transfer is shown", || {
                let json = get_unix(&socket, "/status.json").text();
                let json: Value = serde_json::from_str(&json).unwrap();
                json["transfers"].get(0)?["id"].as_u64()
            });
            post(&socket, "POST", &format!("/cut?id={id}"), "").status
        });
        let answer = collect(response).await;
        assert!(!answer.is_whole && answer.body.is_empty(), "{answer:?}");
        assert_eq!(cut.join().unwrap(), 200);
        let next = client.exchange(&TestRequest::alice("GET", "/v2/")).await;
        assert_eq!(next.status, 200);
    });
}

#[test]
fn an_upload_that_is_cut_gets_a_403() {
    let registry = stuck();
    let (_dir, file) = configured(config("", "").upstream(&registry.url()));
    let process = ServeProcess::start(&file);
    for request in [
        TestRequest::alice("PATCH", UPLOAD).chunked(),
        TestRequest::alice("PATCH", UPLOAD).header("content-length", "12"),
    ] {
        let mut client = process.client();
        client.send(request.head());
        client.send(match request.is_chunked {
            true => chunk(b"some"),
            false => b"some".to_vec(),
        });
        let row = transfer(&file, 4);
        assert_eq!(row["operation"], "push");
        let percent = if request.is_chunked {
            Value::Null
        } else {
            33.into()
        };
        assert_eq!(row["percent"], percent);
        done(&["cut", &row["id"].to_string()], &file);
        let answer = client.read_response("PATCH");
        answer.assert_rejection(403, "DENIED");
        assert!(
            answer.text().contains("an operator has ended"),
            "{answer:?}"
        );
        eventually("the upload has ended", || {
            status(&file)["transfer_count"] == 0
        });
    }
    let rejections = status(&file)["rejections"].clone();
    assert_eq!(rejections[0]["reason"], "cut", "{rejections}");
}

#[test]
fn an_unblocked_network_can_log_in_again() {
    let registry = Registry::accepting_all();
    let (_dir, file) = configured(config("", "").upstream(&registry.url()));
    let process = ServeProcess::start(&file);
    for number in 0..10 {
        assert_eq!(process.login(&format!("alice:{number}")), 401);
    }
    assert_eq!(process.login("alice:pw"), 429);
    let other = done(&["unblock", "192.0.2.0/24"], &file);
    assert!(other.contains("nothing was cleared"), "{other}");
    assert_eq!(process.login("alice:pw"), 429);
    let shown = done(&["status"], &file);
    assert!(
        shown.contains("throttled") && shown.contains("alice"),
        "{shown}"
    );
    let cleared = done(&["unblock", "127.0.0.1"], &file);
    assert_eq!(
        cleared,
        "cleared 10 wrong passwords of 1 client network in 127.0.0.1/32\n"
    );
    assert_eq!(process.login("alice:pw"), 200);
    let logged = process.line("an operator has cleared the wrong passwords");
    assert!(logged.contains("192.0.2.0/24"), "{logged}");
    let logged = process.line("an operator has cleared the wrong passwords");
    assert!(logged.contains("guesses=10"), "{logged}");
    for (network, reason) in [
        ("10.0.0.1/8", "the network is written 10.0.0.0/8"),
        ("example.com", "not a network"),
    ] {
        let wrong = failed(&["unblock", network], &file, 2);
        assert!(wrong.contains(reason), "{wrong}");
    }
}

#[test]
fn only_the_unix_socket_accepts_what_changes_something() {
    let registry = Registry::accepting_all();
    let text = config("", "").after("https", "admin = \"127.0.0.1:0\"");
    let proxy = Proxy::start(&registry, &text);
    for target in ["/unblock?network=127.0.0.1", "/cut?id=1"] {
        for method in ["GET", "POST"] {
            let answer = Client::plain(admin(&proxy)).exchange(&TestRequest::new(method, target));
            assert_eq!(answer.status, 403, "{method} {target}");
            assert!(answer.text().contains("unix socket"), "{answer:?}");
        }
    }
    assert_eq!(
        get(admin(&proxy), "/status.json").header("content-type"),
        "application/json"
    );

    let text = config("", "").after("https", "admin = \"unix:{dir}/a.sock\"");
    let proxy = Proxy::start(&registry, &text);
    let socket = proxy.path("a.sock");
    eventually("the socket is there", || socket.exists());
    for (method, target, field, status) in [
        ("GET", "/cut?id=1", "", 405),
        (
            "POST",
            "/cut?id=1",
            "Origin: http://localhost:9090\r\n",
            403,
        ),
        (
            "POST",
            "/unblock?network=127.0.0.1",
            "Origin: null\r\n",
            403,
        ),
        ("POST", "/cut?id=1", "", 404),
        ("POST", "/cut?id=-1", "", 400),
        ("POST", "/cut", "", 400),
        ("POST", "/unblock?network=nowhere", "", 400),
        ("POST", "/unblock", "", 400),
        ("POST", "/unblock?network=::1", "", 200),
        ("POST", "/status.json", "", 405),
    ] {
        let answer = post(&socket, method, target, field);
        assert_eq!(answer.status, status, "{method} {target} {field}");
    }
    assert_eq!(
        post(&socket, "GET", "/cut?id=1", "").header("allow"),
        "POST"
    );
}

#[test]
fn the_commands_find_the_process_and_say_why_they_do_not() {
    let registry = Registry::accepting_all();
    let good = config("", "").upstream(&registry.url());
    let (dir, file) = configured(good.clone());
    let socket = dir.path().join("admin.sock");
    let none = failed(&["status"], &file, 1);
    assert!(none.contains("tidegate serve"), "{none}");
    // Outside of a service there is no default socket.
    let mut serve = crate::binary::command(&["serve", "-c", &file]);
    let outside = ServeProcess::spawn(serve.env_remove("RUNTIME_DIRECTORY"));
    let mut asked = crate::binary::command(&["status", "-c", &file]);
    let asked = asked.env_remove("RUNTIME_DIRECTORY").output().unwrap();
    let state = dir.path().join("state/admin.sock");
    let remedy = format!("write admin = \"unix:{}\"", state.display());
    assert!(text(&asked.stderr).contains(&remedy), "{asked:?}");
    drop(outside);
    failed(&["check", "--ready"], &file, 1);
    let process = ServeProcess::start(&file);
    eventually("the proxy is ready", || {
        tell(&["check", "--ready"], &file).status.success()
    });
    assert_eq!(done(&["check", "--ready"], &file), "ready\n");
    assert!(socket.exists());
    // A configuration that was edited and is wrong now hides nothing.
    fs::write(&file, "nonsense").unwrap();
    assert!(done(&["status"], &file).contains("ready"));
    drop(process);
    let rejected = failed(&["status"], &file, 78);
    assert!(rejected.contains("rejected"), "{rejected}");

    // An address in the configuration replaces the default.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let (dir, file) = configured(good.after("https", format_args!("admin = \"{address}\"")));
    let down = failed(&["status"], &file, 1);
    assert!(down.contains("is the proxy running"), "{down}");
    let _gate = ServeProcess::start(&file);
    assert!(!dir.path().join("admin.sock").exists());
    assert!(done(&["status"], &file).contains("serving"));
    for arguments in [["cut", "1"], ["unblock", "::1"]] {
        let refused = failed(&arguments, &file, 1);
        assert!(
            refused.contains(&format!("unix:{}", dir.path().join("admin.sock").display())),
            "{refused}"
        );
    }
}

/// Two processes with different configurations share a runtime directory: `admin.sock` stays with the first, and a command
/// reaches the process of its configuration.
#[test]
fn each_process_of_a_shared_directory_has_an_admin_socket_of_its_own() {
    let registry = Registry::accepting_all();
    let (dir, first) = configured(config("", "").upstream(&registry.url()));
    let second = dir.path().join("second.toml");
    fs::copy(&first, &second).unwrap();
    let second = second.to_str().unwrap();
    let link = dir.path().join("admin.sock");
    let mut one = ServeProcess::start(&first);
    let two = ServeProcess::start(second);
    for guess in 0..10 {
        assert_eq!(two.login(&format!("alice:{guess}")), 401);
    }
    assert_eq!(two.login("alice:pw"), 429);
    let unblocked = |file: &str| done(&["unblock", "127.0.0.1"], file);
    assert!(unblocked(&first).contains("nothing was cleared"));
    assert_eq!(get_unix(&link, "/readyz").status, 200);
    // A reload of the second takes nothing either.
    done(&["reload"], second);
    assert!(status(&first)["rejections"].as_array().unwrap().is_empty());
    assert!(unblocked(second).contains("cleared 10 wrong passwords"));
    one.signal(Signal::TERM);
    assert_eq!(one.end(), Some(0));
    assert!(!link.is_symlink(), "the first process removes its link");
    assert_eq!(done(&["check", "--ready"], second), "ready\n");
}

/// A reload that removes or adds `admin = "unix:…/admin.sock"` changes whether this path is a socket or a link to the default one.
#[test]
fn commands_reach_the_process_after_the_default_socket_was_named_and_unnamed() {
    let registry = Registry::accepting_all();
    let unnamed = config("", "").upstream(&registry.url());
    let (dir, file) = configured(&unnamed);
    let link = dir.path().join("admin.sock");
    let named = unnamed.to_string().replacen(
        "[listen]\n",
        &format!("[listen]\nadmin = \"unix:{}\"\n", link.display()),
        1,
    );
    let unnamed = fs::read_to_string(&file).unwrap();
    let _process = ServeProcess::start(&file);
    for (text, is_link) in [(&named, false), (&unnamed, true), (&named, false)] {
        fs::write(&file, text).unwrap();
        done(&["reload"], &file);
        assert_eq!(link.is_symlink(), is_link, "{text}");
        assert_eq!(get_unix(&link, "/readyz").status, 200);
        assert_eq!(done(&["check", "--ready"], &file), "ready\n");
    }
}

/// What a process creates in its runtime directory is gone when it ends, but not what another process has there.
#[test]
fn a_clean_stop_removes_the_files_of_the_process() {
    let registry = Registry::accepting_all();
    let (dir, file) = configured(config("", "").upstream(&registry.url()));
    let before = names(dir.path());
    let mut process = ServeProcess::start(&file);
    done(&["reload"], &file);
    assert!(names(dir.path()).len() >= before.len() + 4);
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));
    let mut left = names(dir.path());
    left.retain(|name| !before.contains(name));
    assert_eq!(left, ["access.log"]);

    // Neither does a start that fails leave a pid file.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = port.local_addr().unwrap().to_string();
    let text = config("", "").upstream(&registry.url()).https(&taken);
    let (dir, file) = configured(text);
    failed(&["serve"], &file, 1);
    let left = names(dir.path());
    assert!(!left.iter().any(|name| name.ends_with(".pid")), "{left:?}");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// The messages of the proxy contain quotation marks, which a terminal shows as they are.
#[test]
fn quotation_marks_are_not_escaped() {
    let registry = Registry::accepting_all();
    let text = config("", "").upstream(&registry.url());
    let (_dir, file) = configured(&text);
    let process = ServeProcess::start(&file);
    fs::write(&file, "[listen]\nhttps = \"nowhere\"\n").unwrap();
    process.signal(Signal::HUP);
    process.line("not reloaded");
    let shown = done(&["status"], &file);
    assert!(
        shown.contains("warning: the reload at") && shown.contains('"'),
        "{shown}"
    );
    assert!(!shown.contains('\\'), "{shown}");
}

#[test]
fn without_an_endpoint_the_proxy_is_not_ready() {
    let (port, _kept) = crate::support::kept_port();
    let (_dir, file) = configured(config("", "").upstream(&format!("http://127.0.0.1:{port}")));
    let _gate = ServeProcess::start(&file);
    eventually("the endpoint is down", || {
        status(&file)["endpoints"][0]["state"] == "down"
    });
    let reason = failed(&["check", "--ready"], &file, 1);
    assert!(reason.starts_with("not ready: "), "{reason}");
    let shown = done(&["status"], &file);
    assert_contains(&shown, &["not ready: ", "error: ", "down"]);
}

/// Everything that a command writes to a pseudo-terminal of 80 columns, which `script` of util-linux creates.
fn in_terminal(command: &str, dir: &Path) -> String {
    let mut script = std::process::Command::new("script");
    let command = format!("stty cols 80 rows 24; {command}");
    script.args(["-qec", &command, "/dev/null"]);
    text(
        &with_own_directories(&mut script, dir)
            .output()
            .unwrap()
            .stdout,
    )
}

#[test]
fn a_command_reports_its_progress_to_a_terminal_and_not_to_a_pipe() {
    let registry = Registry::accepting_all();
    let (port, _kept) = crate::support::kept_port();
    let good = config("", "").upstream(&registry.url());
    let (dir, file) = configured(good.https(format_args!("127.0.0.1:{port}")));
    let _gate = ServeProcess::start(&file);
    let nginx = dir.path().join("nginx.conf");
    let block = "server { listen 443 ssl; ssl_certificate a; ssl_certificate_key b; server_name a.test; \
                 location / { proxy_pass http://127.0.0.1:5000; } }";
    fs::write(&nginx, block).unwrap();
    let (nginx, users) = (nginx.to_str().unwrap(), dir.path().join("users"));
    let push = format!("check --push a/b --user alice --stdin -c {file}");
    for (arguments, steps) in [
        (
            push,
            &["sending a request to http://", "pushing a blob to a/b"][..],
        ),
        (format!("reload -c {file}"), &["waiting until process"]),
        (
            format!("htpasswd add {} alice --generate", users.display()),
            &["hashing the password"],
        ),
        (format!("import nginx {nginx}"), &["reading 1 file"]),
    ] {
        let program = env!("CARGO_BIN_EXE_tidegate");
        let shown = in_terminal(&format!("echo pw | '{program}' {arguments}"), dir.path());
        for step in steps {
            let line = shown.split("\r\x1b[K").find(|line| line.starts_with(step));
            let line = line.unwrap_or_else(|| panic!("{step} in {shown:?}"));
            assert!(
                !line.contains('\n') && line.chars().count() < 80,
                "{line:?}"
            );
        }
        let arguments: Vec<_> = arguments.split(' ').collect();
        let mut piped = crate::binary::command(&arguments);
        let piped = piped.stdin(std::process::Stdio::null()).output().unwrap();
        let all = text(&piped.stdout) + &text(&piped.stderr);
        assert!(!all.contains('\x1b') && !all.contains(steps[0]), "{all}");
    }
}

/// In a pseudo-terminal of 80 columns.
#[test]
fn a_terminal_is_cleared_and_filled_again_while_it_is_watched() {
    let registry = Registry::accepting_all();
    let (dir, file) = configured(config("", "").upstream(&registry.url()));
    let _gate = ServeProcess::start(&file);
    let program = env!("CARGO_BIN_EXE_tidegate");
    let watch = format!("exec timeout 5 '{program}' status --watch -c '{file}'");
    let shown = in_terminal(&watch, dir.path());
    let screens: Vec<_> = shown.split("\x1b[H\x1b[2J").skip(1).collect();
    assert!(screens.len() >= 2, "{shown:?}");
    for screen in screens {
        assert!(
            screen.contains("serving") && screen.contains("localhost"),
            "{screen}"
        );
        assert!(screen.lines().count() < 24, "{screen}");
        assert!(
            screen.lines().all(|line| line.chars().count() <= 80),
            "{screen}"
        );
    }
}
