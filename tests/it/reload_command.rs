//! `tidegate reload` with a running process. The command finds the process although links, files and `state.dir` have changed
//! since the start, and never a process with another configuration. A failed reload is reported as after SIGHUP.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binary::{ServeProcess, command, text};
use crate::support::proxy::TestConfig;
use crate::support::proxy::directory;
use crate::support::{Client, Registry, TestRequest, assert_contains, config, eventually};

/// A configuration whose password file and certificates are in `dir`. The realm shows which configuration file was read.
fn with_realm(registry: &Registry, dir: &TempDir, realm: &str, top: &str) -> TestConfig {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let log = format!("[log]\naccess_file = \"{}\"\n{top}", path("access.log"));
    let auth = format!(
        "{{ mode = \"basic\", htpasswd = \"{}\", realm = \"{realm}\" }}",
        path("htpasswd")
    );
    config(&log, "")
        .certificate(&path("cert.pem"), &path("key.pem"))
        .set("auth", auth)
        .upstream(&registry.url())
}

/// The challenge of the proxy, which has the realm of the configuration in use.
fn realm(proxy: &ServeProcess) -> String {
    let response = proxy.client().exchange(&TestRequest::new("GET", "/v2/"));
    response.header("www-authenticate").to_owned()
}

/// Starts a process whose pid file is in `runtime`.
fn serve(file: &Path, runtime: &Path) -> ServeProcess {
    let mut command = command(&["serve", "-c", file.to_str().unwrap()]);
    ServeProcess::spawn(command.env("RUNTIME_DIRECTORY", runtime))
}

fn reload(file: &Path, runtime: &Path) -> Output {
    let mut command = command(&["reload", "-c", file.to_str().unwrap()]);
    command.env("RUNTIME_DIRECTORY", runtime).output().unwrap()
}

fn assert_reload_succeeds(output: &Output, proxy: &ServeProcess) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let process = format!("process {} has reloaded", proxy.child.id());
    assert!(text(&output.stdout).contains(&process), "{output:?}");
}

/// Replaces a link as deployments do it: a new link is renamed over the old one.
fn replace_link(link: &Path, target: &str) {
    let new = link.parent().unwrap().join("link-in-the-making");
    symlink(target, &new).unwrap();
    fs::rename(&new, link).unwrap();
}

/// The cases are a release directory behind a link, a ConfigMap with two links, and a file that a link replaces.
#[test]
fn the_process_is_found_after_links_have_changed() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let folder = dir.path();
    for version in ["one", "two"] {
        fs::create_dir(folder.join(version)).unwrap();
        let text = with_realm(&registry, &dir, version, "");
        fs::write(folder.join(version).join("proxy.toml"), text.to_string()).unwrap();
    }
    type Change = fn(&Path, &Path);
    let cases: [(&str, Change, Change); 3] = [
        (
            "release/proxy.toml",
            |folder, _| symlink("one", folder.join("release")).unwrap(),
            |folder, _| replace_link(&folder.join("release"), "two"),
        ),
        (
            "mounted.toml",
            |folder, file| {
                symlink("one", folder.join("..data")).unwrap();
                symlink("..data/proxy.toml", file).unwrap();
            },
            |folder, _| replace_link(&folder.join("..data"), "two"),
        ),
        (
            "plain.toml",
            |folder, file| {
                fs::copy(folder.join("one/proxy.toml"), file).unwrap();
            },
            |_, file| replace_link(file, "two/proxy.toml"),
        ),
    ];
    for (name, before, after) in cases {
        let runtime = tempfile::tempdir().unwrap();
        let file = folder.join(name);
        before(folder, &file);
        let proxy = serve(&file, runtime.path());
        assert!(realm(&proxy).contains("one"), "{name}");
        after(folder, &file);
        assert_reload_succeeds(&reload(&file, runtime.path()), &proxy);
        assert!(realm(&proxy).contains("two"), "{name}");
        // The path that the process reads now leads to the second file, and no longer to the first file.
        assert_reload_succeeds(
            &reload(&folder.join("two/proxy.toml"), runtime.path()),
            &proxy,
        );
        let other = reload(&folder.join("one/proxy.toml"), runtime.path());
        assert_eq!(other.status.code(), Some(1), "{name}: {other:?}");
        let printed = text(&other.stderr);
        assert!(
            printed.contains("no process serves with"),
            "{name}: {printed}"
        );
    }
}

/// A shell does not have the environment variables of the service, so only `state.dir` can lead to the process.
#[test]
fn the_process_is_found_after_state_dir_was_edited() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let file = dir.path().join("proxy.toml");
    let write = |realm: &str, state: &str| {
        let top = format!("[state]\ndir = \"{state}\"\n");
        fs::write(&file, with_realm(&registry, &dir, realm, &top).to_string()).unwrap();
    };
    let run = |verb: &str| {
        let mut command = command(&[verb, "-c", file.to_str().unwrap()]);
        // Without this variable the state directory is the `state.dir` of the configuration.
        command.env_remove("RUNTIME_DIRECTORY");
        command
    };
    write("one", "state");
    let proxy = ServeProcess::spawn(&mut run("serve"));
    for (realm_now, state) in [("two", "state"), ("three", "elsewhere")] {
        write(realm_now, state);
        assert_reload_succeeds(&run("reload").output().unwrap(), &proxy);
        assert!(realm(&proxy).contains(realm_now));
    }
    // A file that cannot be parsed does not even name a state directory.
    fs::write(&file, "nonsense").unwrap();
    let failed = run("reload").output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let printed = text(&failed.stderr);
    let process = format!("process {} has not reloaded", proxy.child.id());
    assert!(printed.contains(&process), "{printed}");
}

/// The places where an operator sees a failed reload.
struct FailureReports {
    metrics: Vec<String>,
    ready: String,
    page: String,
}

fn read_reports(admin: std::net::SocketAddr) -> FailureReports {
    let get = |path: &str| {
        Client::plain(admin)
            .exchange(&TestRequest::new("GET", path))
            .text()
    };
    let metrics = get("/metrics");
    let metrics = metrics.lines().filter(|line| {
        line.starts_with("tidegate_config_last_reload_successful ")
            || line.starts_with("tidegate_config_reloads_total")
    });
    FailureReports {
        metrics: metrics.map(str::to_owned).collect(),
        ready: get("/readyz"),
        page: get("/"),
    }
}

/// Other programs send signals to the process as soon as the pid file exists, so a SIGHUP must not end the process from then on.
#[test]
fn a_hup_during_the_start_does_not_end_the_process() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let file = dir.path().join("proxy.toml");
    fs::write(&file, with_realm(&registry, &dir, "one", "").to_string()).unwrap();
    for _ in 0..10 {
        let mut serve = command(&["serve", "-c", file.to_str().unwrap()]);
        serve.env("RUNTIME_DIRECTORY", dir.path());
        let mut child = serve.stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id().to_string();
        eventually("the pid file names the process", || {
            let files = fs::read_dir(dir.path()).unwrap().flatten();
            let mut pid_files =
                files.filter(|file| file.path().extension() == Some("pid".as_ref()));
            pid_files.any(|file| {
                fs::read_to_string(file.path())
                    .unwrap_or_default()
                    .contains(&pid)
            })
        });
        let process = Pid::from_child(&child);
        kill_process(process, Signal::HUP).unwrap();
        let reloaded = reload(&file, dir.path());
        assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
        kill_process(process, Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

/// The Prometheus alert uses the metric `tidegate_config_last_reload_successful`.
#[test]
fn a_failed_reload_is_reported_in_the_same_way_after_the_command_and_after_hup() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let file = dir.path().join("proxy.toml");
    let text_of = |realm: &str| {
        let text = with_realm(&registry, &dir, realm, "");
        text.after("workers", "admin = \"127.0.0.1:0\"").to_string()
    };
    fs::write(&file, text_of("one")).unwrap();
    let proxy = serve(&file, dir.path());
    let line = proxy.line("(admin)");
    let (_, address) = line.split_once("http://").unwrap();
    let admin = address.split(' ').next().unwrap().parse().unwrap();
    let failed = "tidegate_config_reloads_total{outcome=\"failed\"}";
    let assert_reports_failure = |reports: &FailureReports, count: u64| {
        assert!(
            reports.metrics.contains(&format!("{failed} {count}"))
                && reports
                    .metrics
                    .contains(&"tidegate_config_last_reload_successful 0".to_owned()),
            "{:?}",
            reports.metrics
        );
        let parts = ["warning: the reload at ", "haed"];
        assert!(
            parts.iter().all(|part| reports.ready.contains(part)),
            "{}",
            reports.ready
        );
        assert!(reports.page.contains("haed"), "{}", reports.page);
    };
    // The command and the process both find this error.
    fs::write(
        &file,
        format!("[limits]\nhaed = \"1s\"\n{}", text_of("two")),
    )
    .unwrap();
    let output = reload(&file, dir.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = text(&output.stderr);
    assert_contains(
        &printed,
        &[
            "proxy.toml:2:1: error",
            "did you mean \"head\"",
            "has not reloaded",
        ],
    );
    assert_reports_failure(&read_reports(admin), 1);
    proxy.signal(Signal::HUP);
    proxy.line("not reloaded");
    proxy.line("not reloaded");
    eventually("the second failure is counted", || {
        read_reports(admin).metrics.contains(&format!("{failed} 2"))
    });
    assert_reports_failure(&read_reports(admin), 2);
    assert!(realm(&proxy).contains("one"));
    // A missing file is a failed reload, too.
    fs::remove_file(&file).unwrap();
    let output = reload(&file, dir.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(read_reports(admin).metrics.contains(&format!("{failed} 3")));
    // A successful reload ends the alert.
    fs::write(&file, text_of("three")).unwrap();
    assert_reload_succeeds(&reload(&file, dir.path()), &proxy);
    let now = read_reports(admin);
    let successful = "tidegate_config_last_reload_successful 1".to_owned();
    assert!(now.metrics.contains(&successful), "{:?}", now.metrics);
    assert_eq!(now.ready, "ready\n");
    assert!(realm(&proxy).contains("three"));
}

/// Another user may have written the process id, because the directory may be writable for every user.
#[test]
fn a_process_that_does_not_hold_the_lock_gets_no_signal() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let file = dir.path().join("proxy.toml");
    fs::write(&file, with_realm(&registry, &dir, "one", "").to_string()).unwrap();
    let runtime = tempfile::tempdir().unwrap();
    let mut victim = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let forged: PathBuf = tidegate::server::pid_file::path_in(runtime.path(), &file);
    let record = |pid: u32| format!("{pid}\n{}\n", file.display());
    // A pid file without a lock is stale.
    fs::write(&forged, record(victim.id())).unwrap();
    let stale = reload(&file, runtime.path());
    assert!(
        text(&stale.stderr).contains("no process serves with"),
        "{stale:?}"
    );
    // The test's own process holds the lock, so the process id in the file is false.
    let lock = fs::File::open(&forged).unwrap();
    lock.lock().unwrap();
    let rejected = reload(&file, runtime.path());
    assert_eq!(rejected.status.code(), Some(1), "{rejected:?}");
    assert!(
        text(&rejected.stderr).contains("does not hold the lock"),
        "{rejected:?}"
    );
    assert!(
        victim.try_wait().unwrap().is_none(),
        "the process was signalled"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
}
