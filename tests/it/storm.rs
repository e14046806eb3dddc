//! Reloads. Many reloads under load interrupt no request and no transfer, and leave no descriptor and no thread behind. If the
//! new configuration has an error, the proxy keeps the old one.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::binary::{ServeProcess, command, configured, run, text};
use crate::listeners::kept_port;
use crate::support::h2::{self, H2Client, block_on};
use crate::support::proxy::TestConfig;
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{
    Client, Exchange, HttpVersion, Proxy, Registry, TestRequest, certs, config, eventually,
    exchange, pattern, pause,
};

const RELOADS: usize = 40;
const DOWNLOAD: &str = "/v2/slow/manifests/latest";
const UPLOAD: &str = "/v2/a/blobs/uploads/u";
const PIECE: usize = 10_000;

/// A registry that responds at once, except to [`DOWNLOAD`]: it sends one piece of that body for each reload in `done`.
fn start_registry(done: &'static AtomicUsize) -> Registry {
    Registry::start(move |exchange: &mut Exchange<'_>| {
        if exchange.head.target != DOWNLOAD {
            exchange.body();
            return exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
        let bytes = pattern(PIECE * RELOADS);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        exchange.send(head);
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            eventually("the next reload is done", || {
                done.load(Ordering::Relaxed) >= number
            });
            exchange.send(piece);
        }
    })
}

#[test]
fn forty_reloads_under_load_lose_no_request() {
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let registry = start_registry(&DONE);
    let proxy = Proxy::with_defaults(&registry);
    let (port, _socket) = kept_port();
    let plain = format!("https = [\"127.0.0.1:0\"]\nhttp = [\"127.0.0.1:{port}\"]");
    let with_plain = config("", "").lines("https", &plain);
    let is_over = AtomicBool::new(false);
    let continues = || !is_over.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let persistent = scope.spawn(|| {
            let mut client = Client::connect(&proxy);
            while continues() {
                assert_eq!(client.ping(), 200);
            }
        });
        let new_connections = scope.spawn(|| {
            while continues() {
                let mut client = Client::connect(&proxy);
                assert_eq!(client.ping(), 200);
            }
        });
        let streams = scope.spawn(|| {
            block_on(async {
                let mut client = H2Client::connect(&proxy).await;
                let upload = TestRequest::alice("PATCH", UPLOAD).chunked();
                let (response, mut sender) = client.start_request(&upload).await.unwrap();
                let mut sent = 0;
                while continues() {
                    assert_eq!(client.ping().await, 200);
                    if sent < DONE.load(Ordering::Relaxed) {
                        sent += 1;
                        h2::send(&mut sender, b"piece", false).await.unwrap();
                    }
                }
                h2::send(&mut sender, b"end", true).await.unwrap();
                assert_eq!(h2::collect(response.await.unwrap()).await.status, 200);
                // The connection got no GOAWAY, because it accepts a new stream.
                assert_eq!(client.ping().await, 200);
            });
        });
        let mut download = Client::connect(&proxy);
        download.send(TestRequest::alice("GET", DOWNLOAD).head());
        let mut upload = Client::connect(&proxy);
        upload.send(TestRequest::alice("PATCH", UPLOAD).chunked().head());
        for number in 0..RELOADS {
            upload.send(chunk(&[b'x'; 100]));
            let text = if number % 2 == 0 {
                &with_plain
            } else {
                &config("", "")
            };
            proxy.configure(&registry, text);
            proxy.reload().unwrap();
            DONE.fetch_add(1, Ordering::Relaxed);
        }
        upload.send("0\r\n\r\n");
        assert_eq!(upload.read_response("PATCH").status, 200);
        let response = download.read_response("GET");
        assert!(response.is_whole && response.body == pattern(PIECE * RELOADS));
        is_over.store(true, Ordering::Relaxed);
        for clients in [persistent, new_connections, streams] {
            clients.join().unwrap();
        }
    });
    let seen = registry.requests();
    let bodies = seen.iter().filter(|seen| seen.method == "PATCH");
    let mut lengths: Vec<_> = bodies.map(|seen| seen.body.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths.len(), 2);
    assert_eq!(lengths[1], 100 * RELOADS);
    assert!(seen.iter().all(|seen| seen.end == RequestEnd::Whole));
}

#[test]
fn reloads_leave_no_descriptor_and_no_thread_behind() {
    let registry = Registry::accepting_all();
    let (_dir, file) = configured(config("", "").upstream(&registry.url()));
    let proxy = ServeProcess::spawn(&mut command(&["serve", "-c", &file]));
    let mut client = proxy.client();
    let mut reload = || {
        proxy.signal(Signal::HUP);
        proxy.line("reloaded");
        assert_eq!(client.ping(), 200);
    };
    (0..3).for_each(|_| reload());
    let before = proxy.holds();
    (0..RELOADS).for_each(|_| reload());
    // The thread of an old access log may still be writing its last lines.
    eventually("no descriptor and no thread is left behind", || {
        let after = proxy.holds();
        after.0 <= before.0 && after.1 <= before.1
    });
}

#[test]
fn a_reload_with_any_error_keeps_the_old_configuration() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let good = config("", "");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let both = format!(
        "https = [\"127.0.0.1:0\", \"{}\"]",
        taken.local_addr().unwrap()
    );
    let (other, _) = certs::AUTHORITY.issue(&["localhost"]);
    proxy.write("other.pem", other);
    let limits = |line: &str| config(&format!("[limits]\n{line}\n"), "").to_string();
    let with_files = |cert: &str, key: &str| good.clone().certificate(cert, key).to_string();
    let texts = [
        (
            good.to_string().replace("[listen]", "[listen"),
            "proxy.toml:",
        ),
        (limits("haed = \"1s\""), "did you mean \"head\""),
        (limits("connections = 0"), "limits.connections"),
        (limits("head_size = 0"), "limits.head_size"),
        (limits("h2_streams = 0"), "limits.h2_streams"),
        (limits("hash_threads = 0"), "limits.hash_threads"),
        (with_files("absent.pem", "key.pem"), "absent.pem"),
        (with_files("other.pem", "key.pem"), "does not belong"),
        (with_files("cert.pem", "cert.pem"), "no private key"),
        (good.clone().htpasswd("absent").to_string(), "absent"),
        (good.clone().lines("https", &both).to_string(), "in use"),
        (format!("\u{0}{good}"), "proxy.toml"),
        (String::new(), "listen"),
    ];
    let file = proxy.path("proxy.toml");
    let assert_kept = |word: &str| {
        let problems = proxy.reload().expect_err(word).to_string();
        assert!(problems.contains(word), "{word} in {problems}");
        let response = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", "/v2/"),
        );
        assert_eq!(response.status, 200, "{word}");
    };
    for (text, word) in &texts {
        proxy.configure(&registry, text);
        assert_kept(word);
    }
    // A sparse file of 100 MB.
    fs::File::create(&file)
        .unwrap()
        .set_len(100_000_000)
        .unwrap();
    assert_kept("larger than 4 MiB");
    fs::remove_file(&file).unwrap();
    assert_kept("cannot read the configuration");
    fs::create_dir(&file).unwrap();
    assert_kept("this is a directory, not a configuration");
    fs::remove_dir(&file).unwrap();
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_kept("not a regular file");
    fs::remove_file(&file).unwrap();
    // The configuration is valid, and the key file that it names is not.
    proxy.configure(&registry, &good);
    let key = fs::read(proxy.path("key.pem")).unwrap();
    for text in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n"] {
        proxy.write("key.pem", text);
        assert_kept("key.pem");
    }
    proxy.write("key.pem", key);
    proxy.reload().unwrap();
}

/// For each key that names a file: a named pipe or a device is an error, and the reload does not block on it. A file that is
/// larger than its bound is an error, and no part of it is used.
#[test]
fn a_named_file_that_is_no_regular_file_or_too_large_is_an_error() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let good = config("", "");
    let pipe = |name: &str| {
        mknodat(CWD, proxy.path(name), FileType::Fifo, Mode::RUSR, 0).unwrap();
    };
    let secure = "{ urls = [\"https://127.0.0.1:1\"], ca = \"NAME\" }";
    let token = "mode = \"token\", htpasswd = \"htpasswd\", secret = \"NAME\"";
    let acme = "[acme]\nemail = \"a@example.com\"\ndirectory_ca = \"NAME\"\n";
    let acme = config(acme, "")
        .set("hosts", "[\"a.example.com\"]")
        .set("tls", "\"acme\"");
    let (mib, kib) = (1 << 20, 1 << 10);
    let cases: [(&str, TestConfig, u64, &str); 7] = [
        (
            "cert",
            good.clone().certificate("NAME", "key.pem"),
            mib,
            "larger than 1 MiB",
        ),
        (
            "key",
            good.clone().certificate("cert.pem", "NAME"),
            mib,
            "larger than 1 MiB",
        ),
        (
            "client_ca",
            good.clone().after("tls", "client_ca = \"NAME\""),
            mib,
            "larger than 1 MiB",
        ),
        (
            "upstream.ca",
            good.clone().set("upstream", secure),
            16 * mib,
            "larger than 16 MiB",
        ),
        ("directory_ca", acme, 16 * mib, "larger than 16 MiB"),
        (
            "secret",
            good.clone().auth(token),
            8 * kib,
            "larger than 8 KiB",
        ),
        (
            "htpasswd",
            good.htpasswd("NAME"),
            64 * mib,
            "larger than 64 MiB",
        ),
    ];
    for (key, text, bound, too_large) in cases {
        let assert_rejected = |name: &str, words: &str| {
            proxy.configure(&registry, text.to_string().replace("NAME", name));
            let problems = proxy.reload().expect_err(key).to_string();
            let is_reported = problems.contains(words) && problems.contains(name);
            assert!(is_reported, "{key}, {name}: {words} in {problems}");
        };
        let [fifo, large] = ["pipe", "large"].map(|kind| format!("{key}-{kind}"));
        let not_regular = match key {
            "htpasswd" => "is a directory, a pipe or a device",
            _ => "not a regular file",
        };
        pipe(&fifo);
        assert_rejected(&fifo, not_regular);
        assert_rejected("/dev/zero", not_regular);
        let file = fs::File::create(proxy.path(&large)).unwrap();
        file.set_len(bound + 1).unwrap();
        assert_rejected(&large, too_large);
    }
}

#[test]
fn a_reload_during_a_truncating_write_keeps_the_users() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    // The writer leaves the file empty for 200 ms, which is less than the interval at which the proxy checks the file.
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let mut file = fs::File::create(proxy.path("htpasswd")).unwrap();
                pause(Duration::from_millis(200));
                file.write_all(crate::support::proxy::ALICE.as_bytes())
                    .unwrap();
                drop(file);
                pause(Duration::from_millis(5));
            }
        });
        let mut client = Client::connect(&proxy);
        for _ in 0..5 {
            proxy.reload().unwrap();
            assert_eq!(client.ping(), 200);
        }
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    // A change of a file that is not being written takes effect before the reload returns.
    proxy.write("htpasswd", "");
    proxy.reload().unwrap();
    let refused = exchange(
        &proxy,
        HttpVersion::Http2,
        &TestRequest::alice("GET", "/v2/"),
    );
    assert_eq!(refused.status, 401);
}

#[test]
fn the_command_prints_why_a_reload_failed() {
    let registry = Registry::accepting_all();
    let (dir, file) = configured(config("", "").upstream(&registry.url()));
    let _proxy = ServeProcess::spawn(&mut command(&["serve", "-c", &file]));
    let (other, _) = certs::AUTHORITY.issue(&["localhost"]);
    fs::write(dir.path().join("cert.pem"), other).unwrap();
    let output = run(&["reload", "-c", &file]);
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("does not belong to the certificate"),
        "{stderr}"
    );
}
