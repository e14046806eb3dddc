//! The access log: one line for each request, with what an operator needs, and without secrets.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::server::Command;

use crate::binary::with_own_directories;
use crate::support::certs;
use crate::support::h2::{self, H2Client, block_on};
use crate::support::proxy::{ALICE, directory};
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{
    Client, HttpVersion, PATIENCE, Proxy, Registry, TestRequest, config, exchange, pattern, pause,
};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";
const JSON: &str = "[log]\nformat = \"json\"\naccess_file = \"access.log\"\n";

#[test]
fn a_text_line_has_all_fields() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let request = TestRequest::alice("PATCH", "/v2/team/app/blobs/uploads/u?_state=secret")
        .header("user-agent", "docker/24.0.9")
        .body("body");
    let response = exchange(&proxy, HttpVersion::Http1, &request);
    let id = response.header("x-request-id").to_owned();
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.lines().count(), 1, "{log}");
    let line = log.trim_end();
    assert!(line.contains("Z INFO access client="), "{line}");
    for field in [
        "client=127.0.0.1",
        "site=localhost",
        "user=alice",
        "action=push",
        "repository=team/app",
        "method=PATCH",
        "path=/v2/team/app/blobs/uploads/u",
        "protocol=HTTP/1.1",
        "user_agent=docker/24.0.9",
        "status=200",
        "bytes_in=4",
        "bytes_out=2",
        &format!("request_id={id}"),
    ] {
        assert!(
            line.split(' ').any(|word| word == field),
            "{field} in {line}"
        );
    }
    assert!(
        line.contains(" ms=") && line.contains(" upstream_ms="),
        "{line}"
    );
    assert!(
        !line.contains("rejection=") && !line.contains("termination="),
        "{line}"
    );
    assert!(
        !line.contains("host=") && !line.contains("attempted_user="),
        "{line}"
    );
}

#[test]
fn a_long_user_agent_is_truncated_in_the_line() {
    let registry = Registry::accepting_all();
    for top in ["", JSON] {
        let proxy = Proxy::start(&registry, config(top, ""));
        for agent in [
            "",
            "a",
            &"a".repeat(256),
            &"b".repeat(257),
            &"ü".repeat(4000),
        ] {
            for http in HttpVersion::BOTH {
                let request = TestRequest::alice("GET", "/v2/").header("user-agent", agent);
                assert_eq!(exchange(&proxy, http, &request).status, 200);
            }
        }
        let log = proxy.stop_and_read_access_log();
        assert_eq!(log.lines().count(), 10, "{log}");
        assert!(log.lines().all(|line| line.len() < 1500), "{log}");
        assert_eq!(log.matches(&"a".repeat(256)).count(), 2, "{log}");
        assert!(log.contains(&format!("{}…", "b".repeat(256))), "{log}");
        assert!(log.contains(&format!("{}…", "ü".repeat(128))), "{log}");
    }
}

/// Over HTTP/2, a client repeats a field that is in the table of HPACK with one byte, so that long values cost it nothing.
#[test]
fn a_long_path_or_method_is_truncated_in_the_line() {
    let registry = Registry::accepting_all();
    let path = |byte: &str, length: usize| format!("/{}", byte.repeat(length - 1));
    for top in ["", JSON] {
        let proxy = Proxy::start(&registry, config(top, ""));
        for http in HttpVersion::BOTH {
            for (method, target) in [
                ("GET", path("a", 1024)),
                ("GET", path("b", 1025)),
                ("GET", path("\"", 8000)),
                (&"M".repeat(32), path("c", 2)),
                (&"N".repeat(8000), path("d", 2)),
            ] {
                let request = TestRequest::new(method, &target);
                assert_eq!(exchange(&proxy, http, &request).status, 404);
            }
        }
        let log = proxy.stop_and_read_access_log();
        assert_eq!(log.lines().count(), 10, "{log}");
        assert!(log.lines().all(|line| line.len() < 3000), "{log}");
        for (shown, is_whole) in [
            (path("a", 1024), true),
            (path("b", 1024), false),
            ("M".repeat(32), true),
            ("N".repeat(32), false),
        ] {
            assert_eq!(log.matches(&shown).count(), 2, "{log}");
            let shortened = log.matches(&format!("{shown}…")).count();
            assert_eq!(shortened, if is_whole { 0 } else { 2 }, "{log}");
        }
    }
}

#[test]
fn a_path_without_a_route_is_named_in_the_log_only() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("", ""));
    let long = format!("/{}", "a".repeat(5000));
    for http in HttpVersion::BOTH {
        for path in ["/ui/", "/a%22%20status=200", &long] {
            let response = exchange(&proxy, http, &TestRequest::new("GET", path));
            assert_eq!(response.status, 404);
            assert!(response.text().contains("nothing here"));
            assert!(!response.text().contains("no route"));
        }
    }
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.lines().count(), 6, "{log}");
    let named = "rejection=\"no route for /ui/ at site localhost\"";
    assert_eq!(log.matches(named).count(), 2, "{log}");
    let quoted = "rejection=\"no route for /a\\\" status=200 at site localhost\"";
    assert_eq!(log.matches(quoted).count(), 2, "{log}");
    assert!(
        log.contains(&format!("{}… at site", "a".repeat(127))),
        "{log}"
    );
}

#[test]
fn a_host_without_a_site_is_named_in_the_response_and_in_the_log() {
    let registry = Registry::accepting_all();
    let long = "a".repeat(5000);
    for top in ["", JSON] {
        let proxy = Proxy::start(&registry, config(top, ""));
        for http in HttpVersion::BOTH {
            for (host, logged_host) in [
                ("other.test", "other.test"),
                ("Other.Test:8443", "Other.Test:8443"),
                ("[2001:db8::1]", "[2001:db8::1]"),
                (&long, &long[..260]),
            ] {
                let response = exchange(&proxy, http, &TestRequest::new("GET", "/v2/").host(host));
                response.assert_rejection(421, "UNSUPPORTED");
                assert!(
                    response
                        .text()
                        .contains(&format!("no such host here: {logged_host}"))
                );
                assert!(response.body.len() < 500);
            }
            let page = TestRequest::new("GET", "/")
                .host("other.test")
                .header("accept", "text/html");
            assert!(
                exchange(&proxy, http, &page)
                    .text()
                    .contains("no such host here: other.test")
            );
        }
        let log = proxy.stop_and_read_access_log();
        assert_eq!(log.lines().count(), 10, "{log}");
        assert!(log.lines().all(|line| line.len() < 1500), "{log}");
        if top.is_empty() {
            assert_eq!(log.matches(" host=other.test ").count(), 4, "{log}");
            assert_eq!(
                log.matches("rejection=\"no site has the host other.test on this address; add it to site.hosts\"")
                    .count(),
                6,
                "{log}"
            );
            assert!(
                log.contains(&format!(" host={}... ", &long[..260])),
                "{log}"
            );
        } else {
            let named = |line: &Value| line["host"] == "Other.Test:8443";
            assert_eq!(
                json(&log).iter().filter(|line| named(line)).count(),
                2,
                "{log}"
            );
        }
    }
}

#[test]
fn an_invalid_host_is_escaped_in_the_log() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(JSON, ""));
    let mut client = Client::connect(&proxy);
    client.send(b"GET / HTTP/1.1\r\nHost: a\"b\xff\x80<c>\r\n\r\n".as_slice());
    assert_eq!(client.read_response("GET").status, 400);
    drop(client);
    let lines = json(&proxy.stop_and_read_access_log());
    assert_eq!(lines[0]["host"], "a\\\"b\\xff\\x80<c>", "{}", lines[0]);
}

#[test]
fn a_password_before_the_host_is_not_logged() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(JSON, ""));
    let mut client = Client::connect(&proxy);
    client.send(b"GET / HTTP/1.1\r\nHost: alice:p@w@localhost\r\n\r\n".as_slice());
    let response = client.read_response("GET");
    assert_eq!(response.status, 400);
    assert!(!response.text().contains("alice"), "{}", response.text());
    drop(client);
    let lines = json(&proxy.stop_and_read_access_log());
    assert_eq!(lines[0]["host"], "@localhost", "{}", lines[0]);
    assert!(!lines[0].to_string().contains("alice"), "{}", lines[0]);
}

#[test]
fn a_wrong_password_names_the_user_only_if_the_user_exists() {
    let registry = Registry::accepting_all();
    for mode in ["basic", "token"] {
        let text = config(JSON, "").mode(mode);
        let proxy = Proxy::start(&registry, &text);
        let mut request_count = 0;
        for http in HttpVersion::BOTH {
            for login in ["alice:wrong", "hunter2:wrong", "alice", "alice:pw"] {
                let request =
                    TestRequest::new("GET", "/v2/a/tags/list").basic_auth(login.as_bytes());
                let status = exchange(&proxy, http, &request).status;
                assert_eq!(status, if login == "alice:pw" { 200 } else { 401 });
                request_count += 1;
            }
        }
        if mode == "token" {
            for user in ["alice", "hunter2"] {
                let get = TestRequest::new("GET", "/v2/_token")
                    .basic_auth(format!("{user}:wrong").as_bytes());
                assert_eq!(exchange(&proxy, HttpVersion::Http1, &get).status, 401);
                let form = format!("grant_type=password&username={user}&password=wrong");
                let post = TestRequest::new("POST", "/v2/_token").body(form);
                assert_eq!(exchange(&proxy, HttpVersion::Http1, &post).status, 401);
                request_count += 2;
            }
        }
        let log = proxy.stop_and_read_access_log();
        assert!(!log.contains("hunter2"), "{log}");
        let lines = json(&log);
        assert_eq!(lines.len(), request_count, "{log}");
        let expected = if mode == "token" { 4 } else { 2 };
        let attempts = lines
            .iter()
            .filter(|line| line["attempted_user"] == "alice");
        assert!(attempts.clone().all(|line| line["user"].is_null()), "{log}");
        assert_eq!(attempts.count(), expected, "{log}");
        let logins = lines.iter().filter(|line| line["user"] == "alice");
        assert!(
            logins.clone().all(|line| line["attempted_user"].is_null()),
            "{log}"
        );
        assert_eq!(logins.count(), 2, "{log}");
    }
}

/// The process log that the program writes has the same JSON schema as the access log.
#[test]
fn the_process_log_and_the_access_log_have_one_schema() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command as Program, Stdio};
    let registry = Registry::accepting_all();
    let dir = directory();
    let top = "[log]\nformat = \"json\"\n[state]\ndir = \"state\"\n";
    let text = config(top, "").upstream(&registry.url());
    std::fs::write(dir.path().join("proxy.toml"), text.to_string()).unwrap();
    let mut program = Program::new(env!("CARGO_BIN_EXE_tidegate"));
    let mut server = with_own_directories(&mut program, dir.path())
        .args(["serve", "-c"])
        .arg(dir.path().join("proxy.toml"))
        .env_remove("NOTIFY_SOCKET")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut log_lines = Vec::new();
    let https = loop {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let message = line["message"].as_str().unwrap().to_owned();
        log_lines.push(line);
        if let Some(address) = message.strip_prefix("listening on https://") {
            break address.parse().unwrap();
        }
    };
    let mut client = Client::tls(https, "localhost", certs::default_client_config("http/1.1"));
    client.exchange(&TestRequest::new("GET", "/v2/"));
    loop {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        log_lines.push(line);
        if log_lines.last().unwrap()["message"] == "access" {
            break;
        }
    }
    server.kill().unwrap();
    server.wait().unwrap();
    for line in &log_lines {
        let time = line["time"].as_str().unwrap();
        assert_eq!(time.len(), "2023-11-14T22:13:20.007Z".len(), "{line}");
        assert!(
            line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
        assert!(line.get("timestamp").is_none(), "{line}");
    }
}

#[test]
fn json_lines_always_have_the_same_keys() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(JSON, ""));
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::alice("GET", "/v2/a/tags/list"));
        exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        exchange(&proxy, http, &TestRequest::alice("GET", "/v2/A/tags/list"));
        exchange(
            &proxy,
            http,
            &TestRequest::new("GET", "/").host("other.test"),
        );
    }
    let lines = json(&proxy.stop_and_read_access_log());
    let keys: BTreeSet<_> = lines.iter().map(keys).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let of = |line: &Value| {
        let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        let status = line["status"].as_u64().unwrap();
        (
            status,
            text("site"),
            text("user"),
            text("action"),
            text("protocol"),
        )
    };
    let seen: Vec<_> = lines.iter().map(of).collect();
    for (at, protocol) in [(0, "HTTP/1.1"), (4, "HTTP/2.0")] {
        let row = |status, site: &str, user: &str, action: &str| {
            let own = str::to_owned;
            (status, own(site), own(user), own(action), own(protocol))
        };
        assert_eq!(seen[at], row(200, "localhost", "alice", "pull"));
        assert_eq!((seen[at + 1].0, &*seen[at + 1].2), (401, "-"));
        assert_eq!((seen[at + 2].0, &*seen[at + 2].2), (400, "alice"));
        assert_eq!(seen[at + 3], row(421, "-", "-", "-"));
    }
    for line in &lines {
        let is_rejected = line["status"] != 200;
        assert_eq!(line["rejection"].is_string(), is_rejected, "{line}");
        assert_eq!(line["upstream_ms"].is_null(), is_rejected, "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }
}

/// `upstream_ms` excludes the time in which the proxy waits for the body of the client.
#[test]
fn upstream_ms_excludes_the_time_of_the_upload() {
    const PAUSE: Duration = Duration::from_millis(600);
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(JSON, ""));
    let mut client = Client::connect(&proxy);
    client.send(TestRequest::alice("PATCH", UPLOAD).chunked().head());
    client.send(chunk(b"slow"));
    registry.wait_for_requests(|seen| seen.first().is_some_and(|seen| seen.body == b"slow"));
    pause(PAUSE);
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    drop(client);
    let line = &json(&proxy.stop_and_read_access_log())[0];
    let (all, upstream) = (line["ms"].as_u64().unwrap(), line["upstream_ms"].as_u64());
    let upload = all - upstream.unwrap();
    assert!(u128::from(upload) + 1 >= PAUSE.as_millis(), "{line}");
}

#[test]
fn every_request_has_one_line() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(JSON, ""));
    let mut client = Client::connect(&proxy);
    let mut ids = Vec::new();
    for number in 0..20 {
        let request = if number % 2 == 0 {
            TestRequest::alice("GET", "/v2/")
        } else {
            TestRequest::new("HEAD", "/v2/")
        };
        ids.push(client.exchange(&request).header("x-request-id").to_owned());
    }
    drop(client);
    let lines = json(&proxy.stop_and_read_access_log());
    let logged: Vec<_> = lines
        .iter()
        .map(|line| line["request_id"].as_str().unwrap())
        .collect();
    assert_eq!(logged, ids);
}

#[test]
fn a_client_abort_and_an_upstream_abort_have_different_terminations() {
    let registry = Registry::start(|exchange| {
        if exchange.head.target.ends_with("silent") {
            return exchange.wait_closed();
        }
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nsome");
        if exchange.head.target.ends_with("cut") {
            exchange.close();
        } else {
            exchange.wait_closed();
        }
    });
    let proxy = Proxy::start(&registry, config(JSON, ""));
    let manifest = |tag: &str| TestRequest::alice("GET", &format!("/v2/a/manifests/{tag}"));
    let mut client = Client::connect(&proxy);
    client.send(manifest("gone").head());
    assert_eq!(client.read_head().unwrap().status, 200);
    assert_eq!(client.read_exact(4), b"some");
    drop(client);
    let mut client = Client::connect(&proxy);
    client.send(manifest("silent").head());
    registry.wait_for_requests(|seen| seen.len() == 2);
    drop(client);
    assert!(!exchange(&proxy, HttpVersion::Http2, &manifest("cut")).is_whole);
    let mut lines = json(&proxy.stop_and_read_access_log());
    lines.sort_by_key(|line| line["path"].as_str().unwrap().to_owned());
    let ends: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["status"].as_u64().unwrap(),
                line["termination"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        (200, "upstream_abort"),
        (200, "client_abort"),
        (499, "client_abort"),
    ];
    assert_eq!(ends, expected);
    assert_eq!(
        (&lines[0]["bytes_out"], &lines[1]["bytes_out"]),
        (&4.into(), &4.into())
    );
}

/// Stops the proxy and returns the status, the rejection and the termination of each line, sorted.
fn ends(proxy: Proxy) -> Vec<(u64, String, String)> {
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let of = |line: &Value| {
        let status = line["status"].as_u64().unwrap();
        (status, text(line, "rejection"), text(line, "termination"))
    };
    let mut ends: Vec<_> = json(&proxy.stop_and_read_access_log())
        .iter()
        .map(of)
        .collect();
    ends.sort();
    ends
}

fn end(status: u64, rejection: &str, termination: &str) -> (u64, String, String) {
    (status, rejection.to_owned(), termination.to_owned())
}

#[test]
fn a_client_that_disconnects_during_an_upload_is_a_client_abort_without_a_rejection() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(JSON, ""));
    for is_chunked in [false, true] {
        let mut request = TestRequest::alice("PATCH", UPLOAD).body("the whole body");
        request.is_chunked = is_chunked;
        let mut client = Client::connect(&proxy);
        client.send(request.head());
        client.send(if is_chunked {
            chunk(b"the")
        } else {
            b"the".to_vec()
        });
        let before =
            registry.wait_for_requests(|seen| seen.last().is_some_and(|seen| seen.body == b"the"));
        drop(client);
        registry.wait_for_requests(|seen| seen[before.len() - 1].end != RequestEnd::NotYet);
        block_on(async {
            let mut client = H2Client::connect(&proxy).await;
            let (response, mut sender) = client.start_request(&request).await.unwrap();
            h2::send(&mut sender, b"the", false).await.unwrap();
            h2::wait_until(|| {
                let seen = registry.requests();
                seen.len() > before.len() && seen[before.len()].body == b"the"
            })
            .await;
            sender.send_reset(::h2::Reason::CANCEL);
            assert!(response.await.is_err());
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
        });
        registry.wait_for_requests(|seen| seen.iter().all(|seen| seen.end != RequestEnd::NotYet));
    }
    let mut ends = ends(proxy);
    ends.retain(|(status, ..)| *status != 401);
    assert_eq!(ends, vec![end(499, "", "client_abort"); 4]);
}

#[test]
fn wrong_framing_is_a_rejection_with_400() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(JSON, ""));
    let mut client = Client::connect(&proxy);
    client.send(TestRequest::alice("PATCH", UPLOAD).chunked().head());
    client.send("zz\r\n");
    client
        .read_response("PATCH")
        .assert_rejection(400, "UNSUPPORTED");
    drop(client);
    let ends = ends(proxy);
    assert_eq!(ends.len(), 1);
    assert_eq!((ends[0].0, ends[0].2.as_str()), (400, ""));
    assert!(!ends[0].1.is_empty());
}

#[test]
fn a_transfer_that_the_shutdown_cuts_has_the_termination_drain() {
    let registry = Registry::start(|exchange| {
        if exchange.head.method == "GET" {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nsome");
        }
        exchange.wait_closed();
    });
    let top = format!("{JSON}[limits]\ndrain = \"300ms\"\n");
    let proxy = Proxy::start(&registry, config(&top, ""));
    let (upload, download) = (
        TestRequest::alice("PATCH", UPLOAD).chunked(),
        TestRequest::alice("GET", "/v2/a/manifests/x"),
    );
    let mut h1_clients = [Client::connect(&proxy), Client::connect(&proxy)];
    h1_clients[0].send(upload.head());
    h1_clients[1].send(download.head());
    assert_eq!(h1_clients[1].read_head().unwrap().status, 200);
    let ends = block_on(async {
        let mut h2_client = H2Client::connect(&proxy).await;
        let _uploading = h2_client.start_request(&upload).await.unwrap();
        let (response, _) = h2_client.start_request(&download).await.unwrap();
        let _downloading = response.await.unwrap();
        h2::wait_until(|| registry.requests().len() == 4).await;
        tokio::task::spawn_blocking(|| ends(proxy)).await.unwrap()
    });
    let (with_response, without) = (end(200, "", "drain"), end(499, "", "drain"));
    assert_eq!(
        ends,
        [
            with_response.clone(),
            with_response,
            without.clone(),
            without
        ]
    );
}

#[test]
fn a_timeout_has_its_own_termination_or_rejection() {
    let endless = |target: &str| target.ends_with("endless");
    let registry = Registry::start(move |exchange| {
        if exchange.head.target.ends_with("never") {
            return exchange.wait_closed();
        }
        if exchange.head.method == "PATCH" {
            exchange.body();
            return;
        }
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nsome");
        let piece = pattern(1 << 20);
        while endless(&exchange.head.target) && exchange.is_open() {
            exchange.send(&piece);
        }
        exchange.wait_closed();
    });
    let top = format!("{JSON}[limits]\nwrite_idle = \"300ms\"\nbody_idle = \"300ms\"\n");
    let upstream_line = "upstream = { urls = [\"{upstream}\"], read_timeout = \"600ms\" }";
    let text = config(&top, "").lines("upstream", upstream_line);
    let proxy = Proxy::start(&registry, &text);
    let manifest = |tag: &str| TestRequest::alice("GET", &format!("/v2/a/manifests/{tag}"));
    let upload = TestRequest::alice("PATCH", UPLOAD).chunked();
    for http in HttpVersion::BOTH {
        // The upstream stops sending during its response, and before it.
        assert!(!exchange(&proxy, http, &manifest("silent")).is_whole);
        assert_eq!(exchange(&proxy, http, &manifest("never")).status, 504);
    }
    let mut client = Client::connect(&proxy);
    client.send(upload.head());
    client
        .read_response("PATCH")
        .assert_rejection(408, "UNSUPPORTED");
    let mut client = Client::connect(&proxy);
    client.send(manifest("endless").head());
    let broken = |seen: &[crate::support::RecordedRequest]| {
        let mut endless = seen.iter().filter(|seen| endless(&seen.target));
        endless
            .next_back()
            .is_some_and(|seen| seen.end == RequestEnd::Broken)
    };
    registry.wait_for_requests(broken);
    drop(client);
    let ends = block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let (response, _sender) = client.start_request(&upload).await.unwrap();
        h2::collect(response.await.unwrap())
            .await
            .assert_rejection(408, "UNSUPPORTED");
        let (response, _) = client.start_request(&manifest("endless")).await.unwrap();
        let unread = response.await.unwrap();
        h2::wait_until(|| {
            let seen = registry.requests();
            seen.iter().filter(|seen| endless(&seen.target)).count() == 2 && broken(&seen)
        })
        .await;
        drop((unread, client));
        tokio::task::spawn_blocking(|| ends(proxy)).await.unwrap()
    });
    let (idle, silent) = (
        "nothing came from the client for 300ms",
        "the upstream was silent for 600ms",
    );
    let mut expected = vec![end(200, "", "timeout"); 4];
    expected.extend([
        end(408, idle, ""),
        end(408, idle, ""),
        end(504, silent, ""),
        end(504, silent, ""),
    ]);
    let ends: Vec<_> = ends
        .into_iter()
        .map(|(status, rejection, termination)| {
            let rejection = if rejection.contains(idle) {
                idle.to_owned()
            } else {
                rejection
            };
            (status, rejection, termination)
        })
        .collect();
    assert_eq!(ends, expected);
}

#[test]
fn a_rejected_upload_is_logged_as_a_rejection() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(JSON, "max_body = \"1KiB\""));
    let upload = TestRequest::alice("PATCH", UPLOAD).body(pattern(1 << 20));
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &upload).assert_rejection(413, "SIZE_INVALID");
    }
    let rejection = end(413, "the body is larger than 1024 bytes", "");
    assert_eq!(ends(proxy), [rejection.clone(), rejection]);
}

#[test]
fn the_log_contains_no_secrets() {
    let registry = Registry::accepting_all();
    for top in [
        JSON,
        "[log]\nlevel = \"trace\"\naccess_file = \"access.log\"\n",
    ] {
        let proxy = Proxy::start(&registry, config(top, ""));
        for http in HttpVersion::BOTH {
            for request in [
                TestRequest::alice("GET", "/v2/_catalog?n=5&last=queryword"),
                TestRequest::new("GET", "/v2/").basic_auth(b"alice:wrongword"),
                TestRequest::new("GET", "/v2/").basic_auth(b"userword:wrongword"),
                TestRequest::new("GET", "/v2/").header("authorization", "Bearer tokenword"),
                TestRequest::alice("GET", "/v2/")
                    .header("cookie", "cookieword")
                    .header("x-y", "fieldword"),
                TestRequest::alice("POST", "/v2/a/blobs/uploads/?mount=queryword").body("bodyword"),
                TestRequest::new("GET", "/?queryword")
                    .header("authorization", "Basic YWxpY2U6cHc="),
            ] {
                exchange(&proxy, http, &request);
            }
        }
        let log = proxy.stop_and_read_access_log();
        assert_eq!(log.lines().count(), 14, "{log}");
        for secret in ["word", "YWxpY2U6", "$2y$", "Basic", "Bearer", "pw"] {
            assert!(!log.contains(secret), "{secret} in {log}");
        }
    }
}

#[test]
fn characters_that_could_forge_a_line_are_escaped() {
    let registry = Registry::accepting_all();
    for top in ["", JSON] {
        let dir = directory();
        let name = "al\u{1b}[31m ice\" status=200";
        let line = ALICE.replace("alice", name);
        std::fs::write(dir.path().join("htpasswd"), line).unwrap();
        let proxy = Proxy::start_in(dir, &registry.url(), config(top, ""));
        let request = TestRequest::new("GET", "/v2/").basic_auth(format!("{name}:pw").as_bytes());
        assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
        let odd = TestRequest::new("GET", "/x\"y%0d%0a%1b'=z").header("user-agent", "a\tb");
        exchange(&proxy, HttpVersion::Http1, &odd);
        let log = proxy.stop_and_read_access_log();
        assert_eq!(log.lines().count(), 2, "{log}");
        let control = |byte: u8| byte < 0x20 && byte != b'\n' || byte == 0x7f;
        assert!(!log.bytes().any(control), "{log:?}");
        if top.is_empty() {
            assert!(
                log.contains(r#"user="al\u001b[31m ice\" status=200""#),
                "{log}"
            );
        } else {
            assert_eq!(json(&log)[0]["user"], name);
        }
    }
}

#[test]
fn reopen_logs_opens_the_file_again() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/v2/before"),
    );
    let (log, rotated) = (proxy.path("access.log"), proxy.path("access.log.1"));
    let until = Instant::now() + PATIENCE;
    while std::fs::read(&log).unwrap().is_empty() {
        assert!(Instant::now() < until, "no line was written");
    }
    std::fs::rename(&log, &rotated).unwrap();
    proxy.send_command(Command::ReopenLogs);
    while !log.exists() {
        assert!(Instant::now() < until, "no file was opened");
    }
    exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/v2/after"),
    );
    let old = std::fs::read_to_string(&rotated).unwrap();
    let new = proxy.stop_and_read_access_log();
    assert!(
        old.contains("path=/v2/before") && !old.contains("/v2/after"),
        "{old}"
    );
    assert!(
        new.contains("path=/v2/after") && !new.contains("/v2/before"),
        "{new}"
    );
}

#[test]
fn the_access_log_can_be_turned_off() {
    let registry = Registry::accepting_all();
    let off = "[log]\naccess = false\naccess_file = \"access.log\"\n";
    let proxy = Proxy::start(&registry, config(off, ""));
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/"),
    );
    assert!(!response.header("x-request-id").is_empty());
    assert_eq!(proxy.stop_and_read_access_log(), "");
}

fn json(log: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    log.lines().map(parse).collect()
}

fn keys(line: &Value) -> Vec<String> {
    line.as_object().unwrap().keys().cloned().collect()
}
