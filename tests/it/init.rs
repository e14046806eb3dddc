//! The commands of a first start: `init`, `ca`, `completions` and `--version`, and the errors for a mistyped command and for a
//! missing file.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::binary::{ServeProcess, command, configured, run, text};
use crate::htpasswd_command::Terminal;
use crate::support::proxy::directory;
use crate::support::{Client, Registry, TestRequest, assert_contains, certs, config, kept_port};

/// Options with which `init` asks for nothing.
const FIRST: [&str; 6] = [
    "--host",
    "localhost",
    "--self-signed",
    "--user",
    "alice",
    "--generate",
];

#[test]
fn what_init_writes_serves_and_its_ca_is_trusted() {
    let registry = Registry::accepting_all();
    let (port, _kept) = kept_port();
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("a b/first");
    let (port, url) = (port.to_string(), registry.url());
    let arguments = [&FIRST[..], &["--port", &port, "--upstream", &url]].concat();
    let made = init(&first, &arguments, "");
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    assert!(made.stderr.is_empty(), "{made:?}");
    let said = text(&made.stdout);
    let quoted = format!("'{}'", first.join("proxy.toml").display());
    assert_contains(
        &said,
        &[
            "the configuration is good",
            &format!("tidegate serve -c {quoted}"),
            &format!("tidegate ca -c {quoted}"),
            &format!("docker login -u alice localhost:{port}"),
            &format!("podman login -u alice localhost:{port}"),
            &format!("skopeo login -u alice localhost:{port}"),
            &format!("curl --cacert '{}'", first.join("state/ca.pem").display()),
        ],
    );
    assert_eq!(names(&first), ["htpasswd", "proxy.toml"]);
    let mode = fs::metadata(first.join("htpasswd")).unwrap().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    let password = said
        .lines()
        .find_map(|line| line.strip_prefix("the password of alice, which is stored nowhere else: "))
        .unwrap();

    let file = path(&first.join("proxy.toml"));
    let early = run(&["ca", "-c", &file]);
    assert_eq!(early.status.code(), Some(1), "{early:?}");
    assert!(
        text(&early.stderr).contains("the first start creates it: tidegate serve -c"),
        "{early:?}"
    );
    let mut process = ServeProcess::start(&file);
    let shown = run(&["ca", "-c", &file]);
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    let root = CertificateDer::from_pem_slice(&shown.stdout).unwrap();
    assert!(text(&shown.stdout).ends_with("-----END CERTIFICATE-----\n"));
    let client = certs::client_config(root.into_owned(), rustls::ALL_VERSIONS, &["http/1.1"]);
    let address = SocketAddr::from(([127, 0, 0, 1], process.address.port()));
    let mut client = Client::tls(address, "localhost", client);
    let login = format!("alice:{password}");
    let request = TestRequest::new("GET", "/v2/").basic_auth(login.as_bytes());
    assert_eq!(client.exchange(&request).status, 200);
    drop(client);
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));

    let again = init(&first, &arguments, "");
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let said = text(&again.stderr);
    assert!(
        said.contains("exists already") && said.contains("tidegate init DIR"),
        "{said}"
    );
}

#[test]
fn other_users_can_read_the_ca_and_nothing_else() {
    let state = "[state]\ndir = \"state\"\n";
    let site = "tls = \"self-signed\"\n";
    let dir = directory();
    let file = path(&dir.path().join("proxy.toml"));
    let text_of_file = format!(
        "{state}[listen]\nhttps = [\"127.0.0.1:0\"]\n[[site]]\nhosts = [\"*\", \"registry.test\", \"::1\", \"*.b.test\"]\n{site}\
         [[site]]\nhosts = [\"c.test\"]\nexternal_url = \"https://outside.test:444\"\n{site}\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:1\"\nauth = {{ mode = \"none\" }}\n"
    );
    let text_of_file = text_of_file.replace(
        "[[site]]\nhosts = [\"c.test\"]",
        "[[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:1\"\nauth = { mode = \"none\" }\n[[site]]\nhosts = [\"c.test\"]",
    );
    fs::write(&file, text_of_file).unwrap();
    // A strict umask changes nothing for the one public file.
    let mut serve = command(&["serve", "-c", &file]);
    serve
        .current_dir(dir.path())
        .env_remove("RUNTIME_DIRECTORY");
    let _gate = ServeProcess::spawn(&mut with_umask(serve, "077"));
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("state"), 0o711);
    assert_eq!(
        (mode("state/ca.pem"), mode("state/ca-key.pem")),
        (0o644, 0o600)
    );

    // As another user, with a path that is relative.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_tidegate"), &program).unwrap();
    let mut other = std::process::Command::new(&program);
    crate::binary::with_own_directories(&mut other, dir.path());
    other
        .args(["ca", "-c", "proxy.toml"])
        .current_dir(dir.path());
    if fs::metadata(dir.path()).unwrap().uid() == 0 {
        other.uid(65534).gid(65534);
    }
    let shown = other.output().unwrap();
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    let said = text(&shown.stderr);
    let ca = dir.path().join("state/ca.pem");
    for words in [
        format!("{} /etc/docker/certs.d/localhost:", ca.display()),
        "To trust registry.test:".to_owned(),
        "/etc/containers/certs.d/outside.test:444/ca.crt".to_owned(),
        "~/.config/containers/certs.d/registry.test:".to_owned(),
        format!("curl --cacert {}", ca.display()),
        "/etc/containerd/certs.d/outside.test:444/hosts.toml".to_owned(),
        "'/etc/docker/certs.d/[::1]:".to_owned(),
        "update-ca-certificates".to_owned(),
    ] {
        assert!(said.contains(&words), "{words} in {said}");
    }
    assert!(
        !said.contains("*.b.test") && !said.contains("c.test:"),
        "{said}"
    );

    fs::set_permissions(dir.path().join("state"), fs::Permissions::from_mode(0o700)).unwrap();
    let shown = run(&["ca", "-c", &file]);
    assert!(
        text(&shown.stderr).contains("chmod o+x"),
        "an older directory is closed: {shown:?}"
    );
}

/// Clients cannot address `*.b.test` itself, so the instructions have a name that it matches.
#[test]
fn ca_names_an_example_of_a_site_that_has_only_wildcard_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir.path().join("proxy.toml"));
    fs::write(
        &file,
        "[state]\ndir = \"state\"\n[listen]\nhttps = [\"127.0.0.1:0\"]\n[[site]]\nhosts = [\"*.b.test\"]\ntls = \"self-signed\"\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:1\"\nauth = { mode = \"none\" }\n",
    )
    .unwrap();
    let _gate = ServeProcess::start(&file);
    let shown = run(&["ca", "-c", &file]);
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    assert!(
        text(&shown.stdout).starts_with("-----BEGIN CERTIFICATE-----"),
        "{shown:?}"
    );
    let instructions = text(&shown.stderr);
    assert!(
        instructions.contains("To trust registry.b.test:"),
        "{instructions}"
    );
}

#[test]
fn ca_without_a_self_signed_site_says_why_there_is_none() {
    let (_dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    let shown = run(&["ca", "-c", &file]);
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    assert!(
        shown.stdout.is_empty()
            && text(&shown.stderr).contains("no site has tls = \"self-signed\""),
        "{shown:?}"
    );
}

#[test]
fn each_bad_option_is_one_clear_error_and_nothing_is_written() {
    let known = directory();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| path(&known.path().join(name)));
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--host", "a b"], 2, "--host: "),
        (&["--host", "*.example.com"], 2, "name one host"),
        (&["--upstream", "ftp://x"], 2, "--upstream: "),
        (
            &["--user", "a:b"],
            2,
            "--user: the user name contains a colon",
        ),
        (&["--port", "0"], 2, "--port"),
        (&["--certificate", &cert], 2, "--key"),
        (&["--acme", "nobody"], 2, "--acme: "),
        (
            &["--self-signed", "--acme", "a@b.test"],
            2,
            "cannot be used with",
        ),
        (
            &["--certificate", "/nonexistent.pem", "--key", &key],
            2,
            "/nonexistent.pem",
        ),
        (
            &["--certificate", &key, "--key", &cert],
            2,
            "are the two files swapped?",
        ),
        (
            &["--acme", "a@example.com", "--host", "127.0.0.1"],
            2,
            "127.0.0.1",
        ),
    ];
    for (options, code, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("first");
        let mut arguments = options.to_vec();
        if !options.contains(&"--host") {
            arguments.extend(["--host", "registry.example.com"]);
        }
        let sources = ["--certificate", "--acme", "--self-signed"];
        if !options.iter().any(|option| sources.contains(option)) {
            arguments.push("--self-signed");
        }
        if !options.contains(&"--user") {
            arguments.extend(["--user", "alice"]);
        }
        arguments.push("--generate");
        let made = init(&first, &arguments, "");
        assert_eq!(made.status.code(), Some(*code), "{made:?}");
        let said = text(&made.stderr);
        assert!(said.contains(words), "{words} in {said}");
        assert!(made.stdout.is_empty() && !first.exists(), "{made:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let bare = init(dir.path(), &["--host", "localhost"], "");
    assert_eq!(bare.status.code(), Some(2), "{bare:?}");
    let said = text(&bare.stderr);
    assert_contains(
        &said,
        &["--self-signed", "--acme EMAIL", "--user NAME", "--generate"],
    );
    let empty = [&FIRST[..5], &["--stdin"]].concat();
    let made = init(dir.path(), &empty, "\n");
    assert_eq!(made.status.code(), Some(1), "{made:?}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn what_the_check_rejects_is_removed_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    fs::create_dir(&first).unwrap();
    // The proxy could not create its CA here.
    fs::write(first.join("state"), "in the way").unwrap();
    let made = init(&first, &FIRST, "");
    assert_eq!(made.status.code(), Some(78), "{made:?}");
    let said = text(&made.stderr);
    assert!(
        said.contains("state") && said.ends_with("nothing was written\n"),
        "{said}"
    );
    assert_eq!(names(&first), ["state"]);
    assert_eq!(
        fs::read_to_string(first.join("state")).unwrap(),
        "in the way"
    );
}

/// Standard output is `/dev/full`, where each write fails with ENOSPC. Without the password, no client could use the files.
#[test]
fn a_generated_password_that_cannot_be_printed_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let mut made = command(&["init", &path(&first)]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    made.args(FIRST).stdout(full.unwrap());
    let made = made.output().unwrap();
    assert_eq!(made.status.code(), Some(1), "{made:?}");
    let error = text(&made.stderr);
    assert!(
        error.contains("the generated password could not be written")
            && error.ends_with("nothing was written\n"),
        "{error}"
    );
    assert!(!first.exists(), "{error}");
}

#[test]
fn certificates_from_files_and_from_an_authority_are_written() {
    let known = directory();
    let dir = tempfile::tempdir().unwrap();
    let who = ["--host", "LocalHost", "--user", "alice", "--stdin"];
    let files = ["--certificate", "cert.pem", "--key", "key.pem"];
    let target = path(&dir.path().join("files"));
    let mut made = command(&["init", &target]);
    made.args(who).args(files).current_dir(known.path());
    let made = with_input(made, "a password\n");
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let written = fs::read_to_string(dir.path().join("files/proxy.toml")).unwrap();
    let cert = known.path().join("cert.pem");
    for words in [
        "https = [\"[::]:443\"]",
        "hosts = [\"localhost\"]",
        &format!("cert = {:?}", path(&cert)),
    ] {
        assert!(written.contains(words), "{words} in {written}");
    }
    assert!(!text(&made.stdout).contains("a password"), "{made:?}");
    let verify = [
        "htpasswd",
        "verify",
        &path(&dir.path().join("files/htpasswd")),
        "alice",
        "--stdin",
    ];
    let verified = with_input(command(&verify), "a password\n");
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");

    let target = dir.path().join("acme");
    let options = [
        "--acme",
        "admin@example.com",
        "--host",
        "docker.example.com",
    ];
    let made = init(
        &target,
        &[&options[..], &["--user", "al", "--generate"]].concat(),
        "",
    );
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let written = fs::read_to_string(target.join("proxy.toml")).unwrap();
    for words in [
        "http = [\"[::]:80\"]",
        "email = \"admin@example.com\"",
        "tls = \"acme\"",
    ] {
        assert!(written.contains(words), "{words} in {written}");
    }
    assert!(text(&made.stdout).contains("docker login -u al docker.example.com\n"));
}

#[test]
fn what_is_not_an_option_is_asked_on_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let target = path(&dir.path().join("asked"));
    let shown = Terminal::tidegate(&["init", &target])
        .answer("docker.example.com:", "")
        .answer("write a name, such as docker.example.com", "")
        .answer("docker.example.com:", "a b")
        .answer("docker.example.com:", "localhost")
        .answer("[http://127.0.0.1:5000]:", "foo")
        .answer("write http://foo", "")
        .answer("[http://127.0.0.1:5000]:", "")
        .answer("\"file\":", "self")
        .answer("write one of the three words", "")
        .answer("\"file\":", "self-signed")
        .answer("first user:", "alice")
        .answer("alice:", "tide-gate-42")
        .answer("once more:", "tide-gate-42")
        .end();
    assert!(shown.contains("the configuration is good"), "{shown}");
    assert!(!shown.contains("tide-gate-42"), "{shown}");
    let written = fs::read_to_string(dir.path().join("asked/proxy.toml")).unwrap();
    assert!(written.contains("https = [\"[::]:8443\"]"), "{written}");
}

#[test]
fn the_first_block_of_the_readme_writes_what_serves() {
    let readme = read("README.md");
    let start = readme.split("\n## Start\n").nth(1).unwrap();
    let block = start.split("```sh\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let line = |verb: &str| -> Vec<&str> {
        let mut lines = block.lines();
        let line = lines.find(|line| line.starts_with(&format!("tidegate {verb} ")));
        let line = line.unwrap_or_else(|| panic!("{verb} in {block}"));
        line.split(" #")
            .next()
            .unwrap()
            .split_whitespace()
            .skip(1)
            .collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let mut init = command(&line("init"));
    let made = with_input(ordinary(init.current_dir(dir.path()), &dir), "");
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let serve = line("serve");
    let file = dir.path().join(serve.last().unwrap());
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.contains(":8443"), "{written}");
    // The rest of the machine may use the port of the block.
    fs::write(&file, written.replace("[::]:8443", "127.0.0.1:0")).unwrap();
    let mut serve = command(&serve);
    serve.current_dir(dir.path()).env_remove("STATE_DIRECTORY");
    serve.env_remove("RUNTIME_DIRECTORY");
    let mut serve = ordinary(&mut serve, &dir);
    // `state.dir` is in the file, so that nothing of the machine is used.
    serve.env("STATE_DIRECTORY", dir.path().join("unused"));
    let _gate = ServeProcess::spawn(&mut serve);
    let mut ca = command(&line("ca"));
    let shown = ordinary(ca.current_dir(dir.path()), &dir).output().unwrap();
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
}

#[test]
fn the_version_names_commit_and_libraries() {
    let short = text(&run(&["-V"]).stdout);
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        short.starts_with(&format!("tidegate {version} (commit ")),
        "{short}"
    );
    assert_eq!(short.lines().count(), 1, "{short}");
    let long = text(&run(&["--version"]).stdout);
    let lock = read("Cargo.lock");
    for library in ["hyper", "rustls", "aws-lc-rs", "tokio"] {
        let package = lock
            .split(&format!("name = \"{library}\"\nversion = \""))
            .nth(1);
        let version = package.unwrap().split('"').next().unwrap();
        assert!(
            long.contains(&format!("{library} {version}")),
            "{library} in {long}"
        );
    }
    let git = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"])
        .output();
    let is_clone = git.is_ok_and(|git| git.status.success());
    assert_eq!(is_clone, !short.contains("(commit unknown)"), "{short}");
}

#[test]
fn a_slip_on_the_command_line_gets_a_suggestion() {
    let slips: &[(&[&str], &str)] = &[
        (&["chekc"], "'check'"),
        (&["resevre"], "'serve'"),
        (&["check", "--liev"], "'--live'"),
        (&["init", "--hots", "x"], "'--host'"),
        (&["htpasswd", "ad", "f", "u"], "'add'"),
        (&["completions", "bsh"], "'bash'"),
    ];
    for (slip, meant) in slips {
        let output = run(slip);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("similar") && said.contains(meant), "{said}");
    }
}

#[test]
fn a_file_without_its_option_gets_the_whole_command() {
    for (slip, meant) in [
        (&["check", "first/proxy.toml"][..], "check"),
        (&["serve", "first/proxy.toml"], "serve"),
        (&["-c", "first/proxy.toml", "status"], "status"),
    ] {
        let output = run(slip);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = text(&output.stderr);
        let tip = format!("tip: tidegate {meant} -c first/proxy.toml\n");
        assert!(said.contains(&tip), "{said}");
    }
}

/// What `check` writes to standard error about a rejected configuration.
fn rejected(file: &str) -> String {
    let output = run(&["check", "-c", file]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    text(&output.stderr)
}

#[test]
fn a_folder_or_a_file_of_nginx_in_place_of_the_configuration_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let folder = path(dir.path());
    let said = rejected(&folder);
    assert!(said.contains("this is a directory"), "{said}");
    assert!(said.contains("tidegate init DIR"), "{said}");
    let file = dir.path().join("proxy.toml");
    fs::write(&file, "server {\n  listen 443 ssl;\n}\n").unwrap();
    let file = path(&file);
    let said = rejected(&folder);
    assert!(
        said.contains(&format!("fix: did you mean -c {file}?")),
        "{said}"
    );
    let said = rejected(&file);
    assert!(
        said.contains("this looks like a configuration of nginx"),
        "{said}"
    );
    let remedy = format!("tidegate import nginx {file} > proxy.toml");
    assert!(said.contains(&remedy), "{said}");
}

#[test]
fn one_mistake_in_a_site_is_one_error() {
    let good = config("", "").upstream("http://127.0.0.1:1").to_string();
    for (right, wrong) in [
        ("[[site]]", "[[sites]]"),
        ("hosts = [\"localhost\"]", "hosts = \"localhost\""),
        ("hosts = [\"localhost\"]", "hosts = [\"localhost:9443\"]"),
        ("hosts = [\"localhost\"]", "hosts = [\"https://localhost\"]"),
        (
            "hosts = [\"localhost\"]",
            "hosts = [\"${UNSET_NAME_OF_TEST}\"]",
        ),
    ] {
        assert!(good.contains(right), "{right} in {good}");
        let text_of_file = match wrong {
            "[[sites]]" => good.replace("[[site", "[[sites"),
            _ => good.replace(right, wrong),
        };
        let (_dir, file) = configured(text_of_file);
        let said = rejected(&file);
        assert_eq!(said.matches(": error: ").count(), 1, "{wrong}: {said}");
        assert!(said.contains("fix: "), "{wrong}: {said}");
    }
}

#[test]
fn check_examines_the_folders_of_sockets() {
    let base = || config("", "").upstream("http://127.0.0.1:1");
    let with = |admin: &str| base().after("https", format!("admin = \"unix:{admin}\""));
    let (dir, file) = configured(with("absent/admin.sock"));
    let absent = dir.path().join("absent");
    let said = rejected(&file);
    let what = format!("listen.admin: there is no directory {}", absent.display());
    assert!(said.contains(&what), "{said}");
    assert!(said.contains("or write admin = \"unix:/"), "{said}");
    fs::create_dir(&absent).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        text(&output.stdout).contains("the configuration is good"),
        "{output:?}"
    );
    // systemd may create a directory below /run.
    let (_dir, file) = configured(with("/run/absent-in-test/admin.sock"));
    let mut check = command(&["check", "-c", &file]);
    let output = check.env_remove("RUNTIME_DIRECTORY").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        text(&output.stdout).contains("RuntimeDirectory="),
        "{output:?}"
    );
}

#[test]
fn unblock_over_tcp_names_a_socket_that_the_proxy_can_create() {
    let base = config("", "").upstream("http://127.0.0.1:1");
    let (_dir, file) = configured(base.after("https", "admin = \"127.0.0.1:9\""));
    let output = run(&["unblock", "-c", &file, "192.0.2.7"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    let remedy = "/state/admin.sock\" in [listen]";
    assert!(said.contains("write admin = \"unix:/"), "{said}");
    assert!(said.contains(remedy), "{said}");
    assert!(
        said.contains(&format!("tidegate reload -c {file}")),
        "{said}"
    );
}

#[test]
fn a_missing_secret_or_ca_comes_with_a_remedy() {
    let base = || config("", "").upstream("http://127.0.0.1:1");
    let tokens = "{ mode = \"token\", htpasswd = \"htpasswd\", secret = \"absent\" }";
    for (configuration, words) in [
        (base().set("auth", tokens), "openssl rand -base64 32 > "),
        (
            base().after("hosts", "client_ca = \"absent.pem\""),
            "leave client_ca out",
        ),
    ] {
        let (_dir, file) = configured(configuration);
        let said = rejected(&file);
        let fix = said.lines().find(|line| line.starts_with("    fix: "));
        assert!(fix.is_some_and(|fix| fix.contains(words)), "{said}");
    }
}

#[test]
fn completions_know_every_command() {
    let help = text(&run(&["--help"]).stdout);
    let commands = help.split("Commands:\n").nth(1).unwrap();
    let commands = commands.lines().take_while(|line| line.starts_with("  "));
    let commands: Vec<_> = commands
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"init") && commands.len() >= 8, "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0), "{script:?}");
        let script = text(&script.stdout);
        for command in &commands {
            assert!(script.contains(command), "{command} for {shell}");
        }
        assert!(script.contains("self-signed"), "{shell}");
    }
    // The script is one that bash accepts.
    let checked = std::process::Command::new("bash")
        .args(["-n", "-c", &text(&run(&["completions", "bash"]).stdout)])
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_missing_file_comes_with_what_creates_it() {
    let (dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    let users = dir.path().join("htpasswd");
    let aside = dir.path().join("aside");
    for (missing, words) in [
        (
            &users,
            format!("tidegate htpasswd add {} USER", users.display()),
        ),
        (
            &dir.path().join("cert.pem"),
            "write tls = \"acme\" to obtain one from Let's Encrypt, or tls = \"self-signed\""
                .to_owned(),
        ),
        (
            &dir.path().join("key.pem"),
            "tls = \"self-signed\"".to_owned(),
        ),
    ] {
        fs::rename(missing, &aside).unwrap();
        for verb in ["check", "serve"] {
            let output = run(&[verb, "-c", &file]);
            assert_eq!(output.status.code(), Some(78), "{output:?}");
            let said = text(&output.stderr);
            assert!(said.contains(&words), "{words} in {said}");
        }
        fs::rename(&aside, missing).unwrap();
    }
    let mut good = command(&["check", "-c", "/nonexistent/proxy.toml"]);
    let output = good.current_dir(dir.path()).output().unwrap();
    assert!(
        text(&output.stderr).ends_with("to use it, add: -c proxy.toml\n"),
        "{output:?}"
    );
    let mut mistyped = command(&["check", "-c", "frist/proxy.toml"]);
    let output = mistyped.current_dir(dir.path()).output().unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains("let tidegate init DIR write a first one"),
        "{said}"
    );
    assert!(!said.contains("add: -c"), "{said}");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut none = command(&["check", "-c", "/nonexistent/proxy.toml"]);
    let output = none.current_dir(elsewhere.path()).output().unwrap();
    assert!(!text(&output.stderr).contains("add: -c"), "{output:?}");
}

#[test]
fn words_of_other_systems_in_grants_get_a_suggestion() {
    let grant = |to: &str, action: &str| {
        format!(
            "[[site.route.grant]]\nto = [{to:?}]\nrepositories = [\"**\"]\nactions = [{action:?}]\n"
        )
    };
    for (to, action, words) in [
        ("alice", "read", "did you mean \"pull\"?"),
        ("alice", "*", "did you mean \"push\"?"),
        ("alice", "pul", "did you mean \"pull\"?"),
        (
            "*",
            "pull",
            "write \"@users\" for every user, or \"@anonymous\" for every client",
        ),
        ("alcie", "pull", "did you mean \"alice\"?"),
        ("zoe", "pull", "htpasswd zoe"),
    ] {
        let text_of_file = config("", "").upstream("http://127.0.0.1:1");
        let (dir, file) = configured(&text_of_file);
        let all = text_of_file.in_dir(dir.path().to_str().unwrap()) + &grant(to, action);
        fs::write(&file, all).unwrap();
        let output = run(&["check", "-c", &file]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains(words), "{words} in {said}");
    }
}

fn init(dir: &Path, options: &[&str], input: &str) -> Output {
    let dir = path(dir);
    let mut command = command(&["init", &dir]);
    command.args(options);
    with_input(command, input)
}

fn with_input(mut command: std::process::Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // A command that is rejected reads nothing.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The same command as a user without rights who owns the directory, where the tests run as root. The program is copied there,
/// because this user may not enter the directory of the build.
fn ordinary(command: &mut std::process::Command, dir: &TempDir) -> std::process::Command {
    let program = dir.path().join(".tidegate");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_tidegate"), &program).unwrap();
    }
    let mut other = std::process::Command::new(program);
    other.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if fs::metadata(dir.path()).unwrap().uid() == 0 {
        std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    }
    if fs::metadata(dir.path()).unwrap().uid() == 65534 {
        other.uid(65534).gid(65534);
    }
    other
}

/// The command below a shell with another umask.
fn with_umask(command: std::process::Command, umask: &str) -> std::process::Command {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    shell
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}
