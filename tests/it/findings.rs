//! Problems that `check` finds in files and addresses and not only in the text of the configuration. `serve` finds the same
//! problems.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use tidegate::config::parse;
use tidegate::server::Server;

use crate::binary::{ServeProcess, with_own_directories};
use crate::support::assert_contains;
use crate::support::proxy::{ALICE, directory, write_private};

/// A configuration without any warning. `site` has the keys of the site, and `auth` is the value of the route's `auth`.
fn file(top: &str, site: &str, auth: &str) -> String {
    format!(
        "{top}[listen]\nhttps = [\"127.0.0.1:0\"]\nworkers = 1\n[[site]]\nhosts = [\"localhost\"]\n{site}\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:1\"\nauth = {auth}\n"
    )
}

const FILES: &str = "tls = { cert = \"cert.pem\", key = \"key.pem\" }";
const BASIC: &str = "{ mode = \"basic\", htpasswd = \"htpasswd\" }";
const TOKEN: &str = "{ mode = \"token\", htpasswd = \"htpasswd\" }";

fn write_config(dir: &TempDir, text: &str) -> String {
    let file = dir.path().join("proxy.toml");
    fs::write(&file, text.replace("{dir}", dir.path().to_str().unwrap())).unwrap();
    file.to_str().unwrap().to_owned()
}

fn run(command: &mut Command) -> (Option<i32>, String) {
    command.env_remove("LOGS_DIRECTORY");
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let output = [stdout, stderr].concat();
    (status.code(), String::from_utf8(output).unwrap())
}

/// A command of the executable for the configuration in a directory of the test.
fn program(command: &str, file: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    with_own_directories(&mut program, Path::new(file).parent().unwrap())
        .args([command, "-c", file]);
    program
}

fn check(file: &str) -> (Option<i32>, String) {
    run(&mut program("check", file))
}

fn errors(output: &str) -> BTreeSet<&str> {
    output
        .lines()
        .filter(|line| line.contains(": error: "))
        .collect()
}

#[test]
fn check_and_serve_report_the_same_errors() {
    let below_a_file = "[state]\ndir = \"{dir}/cert.pem/state\"\n";
    for (text, words) in [
        (
            file(below_a_file, "tls = \"self-signed\"", BASIC),
            "cert.pem/state",
        ),
        (
            file(below_a_file, FILES, TOKEN),
            "cannot read the token secret",
        ),
        (
            file(below_a_file, "tls = \"acme\"", BASIC)
                .replace("\"localhost\"", "\"a.example.com\""),
            "cert.pem/state/acme",
        ),
        (
            file("[log]\naccess_file = \"logs/access.log\"\n", FILES, BASIC),
            "2:15: error: log.access_file: there is no directory",
        ),
        (
            file("[log]\nfile = \"logs/gate.log\"\n", FILES, BASIC),
            "error: log.file: there is no directory",
        ),
        (
            file("[log]\naccess_file = \"{dir}\"\n", FILES, BASIC),
            "error: log.access_file: cannot write",
        ),
        (
            file(
                "[log]\nfile = \"{dir}\"\n[state]\ndir = \"{dir}/cert.pem/state\"\n",
                FILES,
                TOKEN,
            ),
            "error: log.file: cannot write",
        ),
    ] {
        let dir = directory();
        let file = write_config(&dir, &text);
        let (checked, check) = check(&file);
        let (served, serve) = run(&mut program("serve", &file));
        assert_eq!((checked, served), (Some(78), Some(78)), "{check}\n{serve}");
        assert!(check.contains(words), "{words} in {check}");
        assert_eq!(errors(&check), errors(&serve), "{text}");
    }
}

/// The user that runs the proxy can neither read nor write a `state.dir` of another user.
#[test]
fn check_reports_a_state_directory_of_another_user() {
    let dir = directory();
    if fs::metadata(dir.path()).unwrap().uid() != 0 {
        // Only root can change the owner of a directory.
        return;
    }
    let program = dir.path().join("program");
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_tidegate"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    for name in ["key.pem", "htpasswd"] {
        chown(dir.path().join(name), Some(65534), Some(65534)).unwrap();
    }
    fs::create_dir(dir.path().join("state")).unwrap();
    fs::set_permissions(dir.path().join("state"), Permissions::from_mode(0o700)).unwrap();
    let state = "[state]\ndir = \"{dir}/state\"\n";
    for (site, auth) in [("tls = \"self-signed\"", BASIC), (FILES, TOKEN)] {
        let file = write_config(&dir, &file(state, site, auth));
        let mut output = ["check", "serve"].map(|verb| {
            let mut command = Command::new(&program);
            run(command.args([verb, "-c", &file]).uid(65534).gid(65534))
        });
        let [(checked, check), (served, serve)] = &mut output;
        assert_eq!(
            (*checked, *served),
            (Some(78), Some(78)),
            "{check}\n{serve}"
        );
        assert!(
            check.to_lowercase().contains("permission denied"),
            "{check}"
        );
        assert_eq!(errors(check), errors(serve), "{site} {auth}");
    }
    // Nothing needs the directory here, but the pid file would be in it.
    let file = write_config(&dir, &file(state, FILES, BASIC));
    let check = || {
        let mut command = Command::new(&program);
        run(command.args(["check", "-c", &file]).uid(65534).gid(65534))
    };
    let (code, output) = check();
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.contains("warning: state.dir: this user can create no file in"),
        "{output}"
    );
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    for name in ["htpasswd", "key.pem"] {
        fs::rename(dir.path().join(name), closed.join(name)).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let moved = text.replace(&format!("\"{name}\""), &format!("\"closed/{name}\""));
        fs::write(&file, moved).unwrap();
        let (code, output) = check();
        assert_eq!(code, Some(78), "{output}");
        let what = format!("may not enter the directory {}", closed.display());
        assert!(output.contains(&what), "{what} in {output}");
        assert!(
            output.contains("user of the proxy enter the directory")
                || output.contains("proxy's user enter the directory"),
            "{output}"
        );
    }
}

#[test]
fn sixty_weak_hashes_are_one_warning_in_check_at_start_and_at_reload() {
    let dir = directory();
    let weak = |from: usize| -> String {
        let users = from..from + 60;
        users
            .map(|n| format!("u{n}:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n"))
            .collect()
    };
    write_private(&dir.path().join("htpasswd"), &weak(0));
    let path = dir.path().join("htpasswd");
    let file = write_config(&dir, &file("", FILES, BASIC));
    let assert_one_warning = |output: &str, first: usize| {
        let lines: Vec<_> = output
            .lines()
            .filter(|line| line.contains("$apr1$"))
            .collect();
        let [line] = lines.as_slice() else {
            panic!("not one warning: {output}");
        };
        let names = format!(
            "\"u{first}\" (line 1), \"u{}\" (line 2), \"u{}\" (line 3) and 57 more: ",
            first + 1,
            first + 2
        );
        assert!(line.contains(&names), "{names} in {line}");
        let command = format!("tidegate htpasswd add {} u{first}", path.display());
        assert!(output.contains(&command), "{command} in {output}");
    };
    let (code, output) = check(&file);
    assert_eq!(code, Some(0), "{output}");
    assert_one_warning(&output, 0);
    assert!(output.ends_with("with 1 warning\n"), "{output}");
    let (_server, problems) = Server::open(Path::new(&file)).unwrap();
    assert_one_warning(&problems.to_string(), 0);
    let mut server = ServeProcess::start(&file);
    write_private(&path, &weak(100));
    let output = server.line("$apr1$");
    assert_one_warning(&output, 100);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
}

#[test]
fn errors_follow_warnings_and_the_totals_are_last() {
    let dir = directory();
    write_private(
        &dir.path().join("htpasswd"),
        "bob:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n",
    );
    let text = format!("[limits]\nidel = \"1s\"\n{}", file("", FILES, BASIC));
    let (code, output) = check(&write_config(&dir, &text));
    assert_eq!(code, Some(78), "{output}");
    let at = |words: &str| {
        output
            .find(words)
            .unwrap_or_else(|| panic!("{words} in {output}"))
    };
    assert!(at(": warning: ") < at(": error: "), "{output}");
    assert!(
        output.ends_with("rejected: 1 error, 1 warning\n"),
        "{output}"
    );
}

/// Each warning about a password file or `state.dir` has a remedy that names the file and the user.
#[test]
fn suspicious_password_files_and_state_directories_are_warnings() {
    let bcrypt = ALICE.trim_end().split_once(':').unwrap().1;
    let doubled = bcrypt.replace('$', "$$");
    let expensive = bcrypt.replace("$04$", "$10$");
    for (users, words) in [
        (
            format!("{ALICE}bob:{doubled}\n"),
            &[
                "line 2, user \"bob\": each $ of the hash is doubled",
                "write each $ once",
                "htpasswd bob",
            ][..],
        ),
        (
            format!("{ALICE}b\u{200b}ob:{bcrypt}\n"),
            &["user \"b\\u{200b}ob\": the user name has a character that cannot be seen"],
        ),
        (
            format!("{ALICE}bob\u{a0}:{bcrypt}\n"),
            &["user \"bob\\u{a0}\": the user name has a character that cannot be seen"],
        ),
        (
            format!("{ALICE}bob:{expensive}\n"),
            &[
                "the passwords of \"alice\" (line 1) are checked in less time than those of other users (bcrypt (cost 10))",
                "which user names exist",
                "htpasswd alice",
            ],
        ),
        (format!("{ALICE}o'neil:plain\n"), &["htpasswd 'o'\\''neil'"]),
    ] {
        let dir = directory();
        write_private(&dir.path().join("htpasswd"), &users);
        let (code, output) = check(&write_config(&dir, &file("", FILES, BASIC)));
        assert_eq!(code, Some(0), "{output}");
        for word in words {
            assert!(output.contains(word), "{word} in {output}");
        }
        assert_eq!(output.matches(": warning: ").count(), 1, "{output}");
    }
    let dir = directory();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o1777)).unwrap();
    let text = file("[state]\ndir = \"state\"\n", "tls = \"self-signed\"", BASIC);
    let file = write_config(&dir, &text);
    let (code, output) = check(&file);
    assert_eq!(code, Some(0), "{output}");
    let remedy = format!("fix: chmod o-w {}", state.display());
    assert_contains(
        &output,
        &[
            "every user of this machine can create files in state.dir",
            "mode 1777",
            &remedy,
        ],
    );
    fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
    let (_, output) = check(&file);
    assert!(output.contains("the configuration is good"), "{output}");
}

/// A configuration that is open to every client, or that cannot work, is accepted with a warning.
#[test]
fn open_and_unworkable_configurations_are_warnings() {
    let base = file("", FILES, BASIC);
    for (text, words) in [
        (
            base.replace(BASIC, "{ mode = \"none\" }")
                .replace("127.0.0.1:0", "0.0.0.0:0"),
            "/v2/ has mode = \"none\", and 0.0.0.0:0 is not on loopback",
        ),
        (
            base.replace("workers = 1", "admin = \"[::]:9090\""),
            "listen.admin is on all addresses of this machine",
        ),
        (
            base.replace(FILES, "tls = \"acme\"")
                .replace("\"localhost\"", "\"a.example.com\"")
                .replace("127.0.0.1:0", "127.0.0.1:8443"),
            "without port 443 and without listen.http",
        ),
        (
            base.replace("127.0.0.1:0", "[::]:8443")
                .replace("127.0.0.1:1", "127.0.0.1:8443"),
            "the upstream http://127.0.0.1:8443 is [::]:8443, an address of this proxy",
        ),
        (
            base.replace("127.0.0.1:0", "192.0.2.1:443")
                .replace("http://127.0.0.1:1", "https://192.0.2.1"),
            "is 192.0.2.1:443, an address of this proxy",
        ),
        (
            base.replace("127.0.0.1:0", "0.0.0.0:443")
                .replace("http://127.0.0.1:1", "https://localhost"),
            "is 0.0.0.0:443, an address of this proxy",
        ),
        (
            base.replace("127.0.0.1:0", "0.0.0.0:443")
                .replace("\"localhost\"", "\"docker.example.com\"")
                .replace("http://127.0.0.1:1", "https://docker.example.com"),
            "is a host of this proxy, which listens on 0.0.0.0:443",
        ),
    ] {
        let (config, problems) = parse(Path::new("/etc/tidegate/proxy.toml"), text.as_bytes());
        assert!(config.is_some() && !problems.has_errors(), "{problems}");
        let output = problems.to_string();
        assert!(output.contains(words), "{words} in {output}");
        assert_eq!(problems.warnings().count(), 1, "{output}");
        let warning = problems.warnings().next().unwrap();
        assert!(
            warning.why.is_some() && warning.remedy.is_some(),
            "{output}"
        );
    }
    for fine in [
        // The upstream has an address that differs from that of the listener, on the same port.
        base.replace("127.0.0.1:0", "192.0.2.1:8443")
            .replace("127.0.0.1:1", "127.0.0.1:8443"),
        base.replace(BASIC, "{ mode = \"none\" }"),
        base.replace(BASIC, "{ mode = \"none\" }\nallow = [\"all\"]")
            .replace("127.0.0.1:0", "0.0.0.0:0"),
        base.replace(
            "workers = 1",
            "admin = \"[::]:9090\"\nadmin_allow = [\"10.0.0.20\"]",
        ),
    ] {
        let (_, problems) = parse(Path::new("/etc/tidegate/proxy.toml"), fine.as_bytes());
        assert!(problems.is_empty(), "{problems}\n{fine}");
    }
}

#[test]
fn the_example_configurations_have_no_warning() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let samples = fs::read_dir(root.join("examples")).unwrap();
    let samples = samples.map(|entry| entry.unwrap().path());
    let samples = samples.filter(|path| path.extension().is_some_and(|kind| kind == "toml"));
    let more = ["proxy.toml", "examples/debian/proxy.toml"].map(|name| root.join(name));
    let samples: Vec<_> = samples.chain(more).collect();
    assert!(samples.len() > 5, "{samples:?}");
    for sample in samples {
        let (_, problems) = parse(&sample, &fs::read(&sample).unwrap());
        assert!(problems.is_empty(), "{problems}");
    }
}

#[test]
fn an_address_in_use_is_reported_with_its_remedy() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    for (address, words) in [
        (
            format!("127.0.0.1:{port}"),
            format!("stop the program that uses port {port}"),
        ),
        (
            "192.0.2.1:0".to_owned(),
            "write an address of this machine".to_owned(),
        ),
    ] {
        let dir = directory();
        let text = file("", FILES, BASIC).replace("127.0.0.1:0", &address);
        let file = write_config(&dir, &text);
        let (code, output) = run(&mut program("serve", &file));
        assert_eq!(code, Some(1), "{output}");
        assert!(
            output.contains(&format!("cannot listen on {address}: ")),
            "{output}"
        );
        assert!(output.contains(&words), "{words} in {output}");
    }
}
