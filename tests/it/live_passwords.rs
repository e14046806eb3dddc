//! The proxy watches password files. Whatever way a file changes, the change takes effect within seconds and without a reload.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::support::proxy::TestConfig;
use crate::support::proxy::{ALICE, directory};
use crate::support::request::chunk;
use crate::support::{Client, PATIENCE, Proxy, Registry, TestRequest, config, pause};

fn line(user: &str, password: &str) -> String {
    format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap())
}

/// Sends the same request with credentials again and again, on its own connection.
struct Login {
    client: Client,
    request: TestRequest,
}

impl Login {
    fn new(proxy: &Proxy, credentials: &str) -> Self {
        Self {
            client: Client::connect(proxy),
            request: TestRequest::new("GET", "/v2/").basic_auth(credentials.as_bytes()),
        }
    }

    fn status(&mut self) -> u16 {
        self.client.exchange(&self.request).status
    }

    /// Waits until the response has this status, and asserts that this happens within [`SOON`] after `since`.
    fn wait_for_status(&mut self, status: u16, since: Instant) {
        while self.status() != status {
            let waited = since.elapsed();
            assert!(waited < PATIENCE, "no response has the status {status}");
            pause(Duration::from_millis(5));
        }
        let took = since.elapsed();
        assert!(took < SOON, "{status} after {took:?}");
    }
}

/// The documented bound is two seconds, and the proxy usually takes one. The rest is for a busy machine.
const SOON: Duration = Duration::from_millis(2500);

#[test]
fn a_user_appended_in_place_can_log_in() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut carol = Login::new(&proxy, "carol:new");
    assert_eq!(carol.status(), 401);
    proxy.write("htpasswd", format!("{ALICE}{}", line("carol", "new")));
    carol.wait_for_status(200, Instant::now());
    assert_eq!(Login::new(&proxy, "alice:pw").status(), 200);
}

#[test]
fn a_removed_user_gets_401_despite_the_login_cache() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut alice = Login::new(&proxy, "alice:pw");
    assert_eq!((alice.status(), alice.status()), (200, 200));
    proxy.write("new", line("carol", "new"));
    fs::rename(proxy.path("new"), proxy.path("htpasswd")).unwrap();
    let since = Instant::now();
    alice.wait_for_status(401, since);
    Login::new(&proxy, "carol:new").wait_for_status(200, since);
}

#[test]
fn a_new_password_replaces_the_old_one() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let (mut old, mut new) = (
        Login::new(&proxy, "alice:pw"),
        Login::new(&proxy, "alice:other"),
    );
    assert_eq!((old.status(), new.status()), (200, 401));
    proxy.write("htpasswd", line("alice", "other"));
    let since = Instant::now();
    new.wait_for_status(200, since);
    assert_eq!(old.status(), 401);
}

#[test]
fn a_folder_swapped_as_in_kubernetes_is_read() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let path = |name: &str| dir.path().join(name);
    for (folder, text) in [("..1", ALICE), ("..2", &line("carol", "new"))] {
        fs::create_dir(path(folder)).unwrap();
        fs::write(path(folder).join("htpasswd"), text).unwrap();
    }
    fs::remove_file(path("htpasswd")).unwrap();
    symlink("..1", path("..data")).unwrap();
    symlink("..data/htpasswd", path("htpasswd")).unwrap();
    let (data, next) = (path("..data"), path("..next"));
    let first = path("..1");
    let proxy = Proxy::start_in(dir, &registry.url(), config("", ""));
    let mut carol = Login::new(&proxy, "carol:new");
    assert_eq!(carol.status(), 401);
    symlink("..2", &next).unwrap();
    fs::rename(next, data).unwrap();
    fs::remove_dir_all(first).unwrap();
    carol.wait_for_status(200, Instant::now());
    assert_eq!(Login::new(&proxy, "alice:pw").status(), 401);
}

#[test]
fn a_missing_file_changes_nothing_until_it_exists_again() {
    let registry = Registry::accepting_all();
    let text = with_second_route("other");
    let dir = directory();
    fs::write(dir.path().join("other"), ALICE).unwrap();
    let proxy = Proxy::start_in(dir, &registry.url(), &text);
    let at_other = |credentials: &str| {
        let mut login = Login::new(&proxy, credentials);
        login.request.target = "/other/".to_owned();
        login
    };
    fs::remove_file(proxy.path("htpasswd")).unwrap();
    // When the later change of the other file is in use, the watcher has noticed the removal of the first file.
    proxy.write("other", line("carol", "new"));
    at_other("carol:new").wait_for_status(200, Instant::now());
    assert_eq!(Login::new(&proxy, "alice:pw").status(), 200);
    // A reload succeeds although the file is missing.
    proxy.configure(
        &registry,
        text.to_string().replace("Registry realm", "Another realm"),
    );
    proxy.reload().unwrap();
    let response = Client::connect(&proxy).exchange(&TestRequest::new("GET", "/v2/"));
    assert!(
        response
            .header("www-authenticate")
            .contains("Another realm")
    );
    assert_eq!(Login::new(&proxy, "alice:pw").status(), 200);

    proxy.write("htpasswd", line("dave", "back"));
    Login::new(&proxy, "dave:back").wait_for_status(200, Instant::now());
    assert_eq!(Login::new(&proxy, "alice:pw").status(), 401);
    // Each file counts only for its own route.
    assert_eq!(at_other("dave:back").status(), 401);
    assert_eq!(at_other("carol:new").status(), 200);
}

/// A configuration with a second route at `/other/`, whose password file is `other`.
fn with_second_route(other: &str) -> TestConfig {
    config("", "").append(&format!(
        "[[site.route]]
path = \"/other/\"
upstream = \"{{upstream}}\"
auth = {{ mode = \"basic\", htpasswd = \"{other}\", realm = \"Registry realm\" }}
"
    ))
}

#[test]
fn two_routes_share_a_password_file() {
    let registry = Registry::accepting_all();
    let text = with_second_route("htpasswd");
    let proxy = Proxy::start(&registry, &text);
    proxy.write("htpasswd", line("carol", "new"));
    let since = Instant::now();
    Login::new(&proxy, "carol:new").wait_for_status(200, since);
    // Both routes use one copy of the users, so the change takes effect for both at the same moment.
    let mut other = Login::new(&proxy, "carol:new");
    other.request.target = "/other/".to_owned();
    assert_eq!(other.status(), 200);
}

#[test]
fn an_emptied_file_makes_every_login_fail() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut alice = Login::new(&proxy, "alice:pw");
    assert_eq!(alice.status(), 200);
    proxy.write("htpasswd", "");
    alice.wait_for_status(401, Instant::now());
}

#[test]
fn a_file_that_a_reload_added_is_watched() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    proxy.write("users", ALICE);
    proxy.configure(&registry, config("", "").htpasswd("users"));
    proxy.reload().unwrap();
    proxy.write("users", line("carol", "new"));
    Login::new(&proxy, "carol:new").wait_for_status(200, Instant::now());
}

#[test]
fn a_running_upload_continues_after_its_user_is_removed() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut upload = Client::connect(&proxy);
    upload.send(
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    upload.send(chunk(b"first"));
    registry.wait_for_requests(|seen| seen.first().is_some_and(|seen| seen.body == b"first"));
    let mut alice = Login::new(&proxy, "alice:pw");
    assert_eq!(alice.status(), 200);
    proxy.write("htpasswd", line("carol", "new"));
    alice.wait_for_status(401, Instant::now());
    upload.send(chunk(b" last"));
    upload.send("0\r\n\r\n");
    assert_eq!(upload.read_response("PATCH").status, 200);
    assert_eq!(registry.requests()[0].body, b"first last");
    // The next request on the same connection is authenticated again.
    assert_eq!(upload.ping(), 401);
}
