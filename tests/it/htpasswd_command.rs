//! `tidegate htpasswd`: its changes to files, its messages and its exit codes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate::htpasswd::{self, Scheme};
use tidegate::secret::Password;

use crate::support::{PATIENCE, pause};

#[test]
fn a_user_is_added_changed_and_removed() {
    let users = Users::new(None);
    let added = users.run(
        "add",
        &["alice", "--stdin", "--cost", "4"],
        b"first\nignored\n",
    );
    assert_eq!(added.code, 0, "{added:?}");
    for word in ["created", "added alice", "line 1"] {
        assert!(added.out.contains(word), "{word} in {added:?}");
    }
    assert!(added.err.contains("cost 4"), "{added:?}");
    assert_eq!(
        users
            .run("verify", &["alice", "--stdin"], b"first\r\n")
            .code,
        0
    );

    let changed = users.run("add", &["alice", "--stdin", "--cost", "4"], b"second");
    assert_eq!(changed.code, 0, "{changed:?}");
    assert!(
        changed.out.contains("changed the password of alice"),
        "{changed:?}"
    );
    let wrong = users.run("verify", &["alice", "--stdin"], b"first");
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("bcrypt (cost 4), line 1"), "{wrong:?}");
    let correct = users.run("verify", &["alice", "--stdin"], b"second");
    assert_eq!(correct.code, 0);
    assert!(
        correct.out.contains("bcrypt (cost 4), line 1"),
        "{correct:?}"
    );

    let misspelt = users.run("remove", &["alcie"], b"");
    assert_eq!(misspelt.code, 1);
    assert!(
        misspelt.err.contains("no user alcie; did you mean alice?"),
        "{misspelt:?}"
    );
    let unknown = users.run("verify", &["bob", "--stdin"], b"x");
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("no user bob"), "{unknown:?}");
    let removed = users.run("remove", &["alice"], b"");
    assert_eq!(removed.code, 0);
    assert!(
        removed.out.contains("removed alice") && removed.err.contains("no user can log in"),
        "{removed:?}"
    );
    assert_eq!(users.text(), "");
    assert_eq!(users.run("list", &[], b"").code, 0);
}

#[test]
fn a_file_of_another_kind_stays_as_it_is() {
    for text in [
        "-----BEGIN PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nAAAA\n-----END PRIVATE KEY-----\n",
        "alice\nbob\n",
        include_str!("../../proxy.toml"),
        "[listen]\nhttps = [\"[::]:443\"]\n",
        "url = \"http://127.0.0.1:5000\"\n",
        "services:\n  gate:\n    image: tidegate\n",
        "{\"auths\":{}}\n",
        "root:x:0:0:root:/root:/bin/bash\n",
    ] {
        let users = Users::new(Some(text));
        let added = users.run("add", &["alice", "--stdin"], b"secret");
        assert_eq!(added.code, 1, "{text}: {added:?}");
        assert!(added.err.contains("another kind of file"), "{added:?}");
        assert_eq!(users.text(), text);
    }
    for text in [
        "",
        "# users\n\n",
        "alice:\n",
        "alice:secret\r\ncarol:{PLAIN}secret\n",
        "alice:$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$aGFzaA\n",
        // One usable line shows that the file is a password file, whatever else is in it.
        "[users]\ncarol:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\nalice: b\n",
    ] {
        let users = Users::new(Some(text));
        assert_eq!(users.run("add", &["bob", "--stdin"], b"secret").code, 0);
    }
}

#[test]
fn a_file_in_the_place_of_the_user_is_an_error() {
    let users = Users::new(Some(""));
    let (swapped, file) = (
        users.dir.path().join("alice"),
        users.file.display().to_string(),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .arg("htpasswd")
        .arg("add")
        .arg(&swapped)
        .args([&file, "--stdin"]);
    let output = CommandOutput::of(command, b"secret");
    assert_eq!(output.code, 1, "{output:?}");
    let remedy = format!("tidegate htpasswd add {file} {}", swapped.display());
    assert!(output.err.contains(&remedy), "{output:?}");
    assert!(!swapped.exists());
}

#[test]
fn a_generated_password_is_the_only_line_on_standard_output() {
    let users = Users::new(None);
    let added = users.run("add", &["alice", "--generate"], b"");
    assert_eq!(added.code, 0, "{added:?}");
    assert_eq!(added.out.lines().count(), 1, "{added:?}");
    assert_eq!(added.out.trim_end().len(), 26, "{added:?}");
    assert!(added.err.contains("added alice"), "{added:?}");
    let entry = |users: &htpasswd::Users| users.find(b"alice").map(htpasswd::Entry::scheme);
    assert_eq!(
        entry(&htpasswd::parse(users.text().as_bytes()).users),
        Some(Scheme::Bcrypt { cost: 10 })
    );
    assert_eq!(
        users
            .run("verify", &["alice", "--stdin"], added.out.as_bytes())
            .code,
        0
    );
}

#[test]
fn the_other_lines_the_owner_and_the_mode_of_the_file_stay() {
    let text = format!(
        "# staff\r\n\r\nalice:{HASH}:note\r\nnonsense\r\nbob:{HASH}\r\nalice:{HASH}\r\n# end"
    );
    let users = Users::new(Some(&text));
    let real = users.dir.path().join("real");
    fs::rename(&users.file, &real).unwrap();
    symlink("real", &users.file).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o604)).unwrap();
    // Only root may change the owner of a file.
    let is_root = fs::metadata(&real).unwrap().uid() == 0;
    if is_root {
        chown(&real, Some(4242), Some(4343)).unwrap();
    }
    let before = fs::metadata(&real).unwrap();
    let changed = users.run("add", &["alice", "--stdin", "--cost", "4"], b"new");
    assert_eq!(changed.code, 0, "{changed:?}");
    assert!(
        changed.out.contains("line 3") && changed.out.contains("later line"),
        "{changed:?}"
    );

    let after = fs::metadata(&real).unwrap();
    let kept = |of: &fs::Metadata| (of.mode(), of.uid(), of.gid());
    assert_eq!(kept(&after), kept(&before));
    assert_ne!(
        after.ino(),
        before.ino(),
        "the file is replaced, not overwritten"
    );
    assert_eq!(fs::read_link(&users.file).unwrap(), Path::new("real"));
    let now = users.text();
    let hash = now
        .split("alice:")
        .nth(1)
        .and_then(|rest| rest.split(':').next())
        .unwrap();
    assert_eq!(
        now,
        format!("# staff\r\n\r\nalice:{hash}:note\r\nnonsense\r\nbob:{HASH}\r\n# end")
    );
    assert_eq!(users.names(), ["real", "users"]);
}

#[test]
fn the_list_is_in_the_order_of_the_file() {
    let text = format!(
        "zoe:{HASH}\nalice:$2y$10$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n# no\nold:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n\
         gone:!\nplain:secretword\njust a line\nzoe:x\n$2y$10$xyz:bob\n"
    );
    let users = Users::new(Some(&text));
    let listed = users.run("list", &[], b"");
    assert_eq!(listed.code, 0, "{listed:?}");
    let lines: Vec<_> = listed.out.lines().collect();
    let expected = [
        &["line", "user", "scheme", "strength"][..],
        &["1", "zoe", "bcrypt (cost 4)", "fair"],
        &["2", "alice", "bcrypt (cost 10)", "strong"],
        &[
            "4",
            "old",
            "($apr1$)",
            "weak: passwords can be guessed quickly from a stolen file",
        ],
        &["5", "gone", "disabled: the user is locked"],
        &["6", "plain", "disabled: the password looks like plain text"],
        &["7", "disabled: the line has no colon"],
        &["8", "zoe", "ignored: the same user is on line 1"],
        &["9", "disabled"],
    ];
    assert_eq!(lines.len(), expected.len(), "{}", listed.out);
    for (line, words) in lines.iter().zip(expected) {
        assert!(
            words.iter().all(|word| line.contains(word)),
            "{words:?} in {line}"
        );
    }
    for secret in ["secretword", "xyz", "Xxd1", "CCCC"] {
        assert!(!listed.out.contains(secret), "{secret} in {}", listed.out);
    }
    let locked = users.run("verify", &["gone", "--stdin"], b"x");
    assert_eq!(locked.code, 1);
    assert!(
        locked.err.contains("line 5") && locked.err.contains("locked"),
        "{locked:?}"
    );
}

#[test]
fn a_password_or_name_that_cannot_be_a_line_is_an_error_and_changes_nothing() {
    let text = format!("bob:{HASH}\n");
    let users = Users::new(Some(&text));
    let long = [b'x'; 73];
    for (arguments, input, word) in [
        (&["alice", "--stdin"][..], &b""[..], "empty"),
        (&["alice", "--stdin"], b"\nsecond\n", "empty"),
        (&["alice", "--stdin"], b"a\0b\n", "NUL"),
        (&["alice", "--stdin"], &long, "72"),
        (
            &["alice", "--stdin", "--scheme", "sha512"],
            &[b'x'; 4097],
            "4096",
        ),
        (&["", "--generate"], b"", "empty"),
        (&["a:b", "--generate"], b"", "colon"),
        (&["a\nb", "--generate"], b"", "control"),
        (&["#a", "--generate"], b"", "comment"),
        (&["$2y$10$xyz", "--generate"], b"", "hash"),
        (&["alice"], b"", "--stdin"),
        (&["alice"], b"", "--generate"),
    ] {
        let rejected = users.run("add", arguments, input);
        assert_eq!(rejected.code, 1, "{rejected:?}");
        assert!(rejected.err.contains(word), "{word} in {rejected:?}");
        assert!(rejected.out.is_empty(), "{rejected:?}");
    }
    for arguments in [
        &["alice", "--stdin", "--generate"][..],
        &["alice", "--generate", "--cost", "3"],
        &["alice", "--generate", "--cost", "18"],
        &["alice", "--generate", "--cost", "10", "--scheme", "apr1"],
        &["alice", "--generate", "--scheme", "des"],
        &[],
    ] {
        let rejected = users.run("add", arguments, b"");
        assert_eq!(rejected.code, 2, "{rejected:?}");
        assert!(
            rejected.err.contains("--help") || rejected.err.contains("Usage"),
            "{rejected:?}"
        );
    }
    let without_stdin = users.run("verify", &["bob"], b"");
    assert!(
        without_stdin.code == 1 && without_stdin.err.contains("--stdin"),
        "{without_stdin:?}"
    );
    assert_eq!(
        (users.text(), users.names()),
        (text, vec!["users".to_owned()])
    );
}

#[test]
fn a_missing_file_or_a_directory_is_an_error() {
    let users = Users::new(None);
    for (verb, arguments) in [
        ("list", &[][..]),
        ("remove", &["a"]),
        ("verify", &["a", "--stdin"]),
    ] {
        let missing = users.run(verb, arguments, b"x");
        assert_eq!(missing.code, 1);
        assert!(
            missing.err.contains("there is no file") && missing.err.contains("htpasswd add"),
            "{missing:?}"
        );
    }
    fs::create_dir(&users.file).unwrap();
    for (verb, arguments) in [
        ("list", &[][..]),
        ("remove", &["a"]),
        ("add", &["a", "--generate"]),
    ] {
        let rejected = users.run(verb, arguments, b"");
        assert_eq!(rejected.code, 1);
        assert!(rejected.err.contains("is a directory"), "{rejected:?}");
    }
}

#[test]
fn missing_permissions_are_reported_with_what_is_needed() {
    let users = Users::new(Some(&format!("bob:{HASH}\n")));
    let me = fs::metadata(&users.file).unwrap().uid();
    // Permissions do not restrict root, so the test runs the command as another user, with a copy of the program that this
    // user can execute.
    let program = users.dir.path().join("program");
    // Another process makes the copy. If the test wrote the file itself, a child that another thread forks at that moment
    // would inherit the open file, and executing the file would fail with ETXTBSY.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_tidegate"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let set_mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let run = |verb: &str, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(["htpasswd", verb])
            .arg(&users.file)
            .args(arguments);
        if me == 0 {
            command.uid(65534).gid(65534);
        }
        CommandOutput::of(command, b"x")
    };
    set_mode(users.dir.path(), 0o555);
    set_mode(&users.file, 0o444);
    let rejected = run("add", &["alice", "--generate"]);
    assert_eq!(rejected.code, 1, "{rejected:?}");
    let directory = users.dir.path().to_str().unwrap();
    for word in [
        "may not make a new file in the directory",
        directory,
        "0555",
        "sudo",
    ] {
        assert!(rejected.err.contains(word), "{word} in {rejected:?}");
    }
    if me == 0 {
        // The directory permits the replacement, but the new file would belong to another user.
        set_mode(users.dir.path(), 0o777);
        let rejected = run("add", &["alice", "--generate"]);
        assert!(
            rejected.code == 1 && rejected.err.contains("nothing was changed"),
            "{rejected:?}"
        );
        assert!(rejected.out.is_empty(), "{rejected:?}");
    }
    set_mode(&users.file, 0o000);
    let rejected = run("list", &[]);
    assert!(
        rejected.code == 1 && rejected.err.contains("may not read"),
        "{rejected:?}"
    );
    set_mode(users.dir.path(), 0o755);
    assert_eq!(users.names(), ["program", "users"]);
}

#[test]
fn a_lock_that_is_not_released_within_5_seconds_is_an_error() {
    let users = Users::new(Some("# nobody\n"));
    let held = File::open(&users.file).unwrap();
    held.lock().unwrap();
    let rejected = users.run("add", &["alice", "--generate", "--cost", "4"], b"");
    assert_eq!(rejected.code, 1, "{rejected:?}");
    assert!(rejected.err.contains("locked for 5 s"), "{rejected:?}");
    assert_eq!(
        (users.text().as_str(), users.names()),
        ("# nobody\n", vec!["users".to_owned()])
    );
}

#[test]
fn concurrent_commands_lose_no_user() {
    let users = Users::new(None);
    thread::scope(|scope| {
        for prefix in ["a", "b"] {
            let users = &users;
            scope.spawn(move || {
                for number in 0..20 {
                    let user = format!("{prefix}{number}");
                    let added = users.run("add", &[&user, "--generate", "--cost", "4"], b"");
                    assert_eq!(added.code, 0, "{added:?}");
                }
            });
        }
    });
    let loaded = htpasswd::parse(users.text().as_bytes());
    assert_eq!((loaded.users.len(), loaded.problems), (40, Vec::new()));
    assert_eq!(users.names(), ["users"]);
}

#[test]
fn a_killed_command_leaves_the_old_or_the_new_file() {
    let text = format!("# {}\nbob:{HASH}\n", "x".repeat(1 << 20));
    let users = Users::new(Some(&text));
    let is_new = |users: &Users| {
        let now = users.text();
        let added = now
            .strip_prefix(&text)
            .expect("the file begins with the old lines");
        assert!(
            added.is_empty()
                || added.ends_with('\n') && added.starts_with("alice:$2y$04$") && added.len() == 67,
            "{added}"
        );
        !added.is_empty()
    };
    let mut step = Duration::ZERO;
    // Each round kills the command a little later, until the command is done before the signal.
    loop {
        let mut child = users.spawn("add", &["alice", "--generate", "--cost", "4"]);
        pause(step);
        child.kill().unwrap();
        child.wait().unwrap();
        if is_new(&users) {
            break;
        }
        step += Duration::from_micros(500);
        assert!(step < PATIENCE);
    }
    // A temporary file that a killed command left beside the file does not disturb the next command.
    assert_eq!(users.run("remove", &["alice"], b"").code, 0);
    assert_eq!(users.text(), text);
}

#[test]
fn apache_htpasswd_and_tidegate_read_each_others_lines() {
    for (scheme, mark) in [
        ("bcrypt", "$2y$10$"),
        ("apr1", "$apr1$"),
        ("sha512", "$6$"),
        ("sha256", "$5$"),
    ] {
        let users = Users::new(None);
        let password = "päss wörd: #1";
        let added = users.run(
            "add",
            &["alice", "--stdin", "--scheme", scheme],
            password.as_bytes(),
        );
        assert_eq!(added.code, 0, "{added:?}");
        assert!(
            users.text().starts_with(&format!("alice:{mark}")),
            "{}",
            users.text()
        );
        for (tried, code) in [(password, 0), ("wrong", 3)] {
            let mut apache = Command::new("htpasswd");
            apache.arg("-vb").arg(&users.file).args(["alice", tried]);
            let output = CommandOutput::of(apache, b"");
            assert_eq!(output.code, code, "{scheme}: {output:?}");
        }
    }
    // Both programs may edit the same file.
    let users = Users::new(Some("# staff"));
    let tidegate =
        |verb: &str, user: &str| users.run(verb, &[user, "--stdin", "--cost", "4"], b"pw");
    assert_eq!(tidegate("add", "alice").code, 0);
    let mut apache = Command::new("htpasswd");
    apache.arg("-bB").arg(&users.file).args(["bob", "theirs"]);
    assert_eq!(CommandOutput::of(apache, b"").code, 0);
    assert_eq!(users.run("verify", &["bob", "--stdin"], b"theirs").code, 0);
    assert_eq!(users.run("verify", &["alice", "--stdin"], b"pw").code, 0);
}

#[test]
fn on_a_terminal_the_password_is_read_twice_without_echo() {
    let users = Users::new(None);
    let file = users.file.to_str().unwrap();
    let first = "New password for alice:";
    let second = "once more:";
    let shown = Terminal::run(&["add", file, "alice", "--cost", "4"])
        .answer(first, "pw1")
        .answer(second, "pw2")
        .answer("differ", "")
        .answer(first, "pw3")
        .answer(second, "pw3")
        .end();
    assert!(shown.contains("added alice"), "{shown}");
    assert!(!shown.contains("pw1") && !shown.contains("pw3"), "{shown}");
    let loaded = htpasswd::parse(users.text().as_bytes());
    let entry = loaded.users.find(b"alice").unwrap();
    assert!(entry.verify(&Password::new(b"pw3".to_vec())));
    let shown = Terminal::run(&["verify", file, "alice"])
        .answer("Password of alice:", "pw3")
        .end();
    assert!(shown.contains("right"), "{shown}");
    let shown = Terminal::run(&["add", file, "alice"])
        .answer(first, "")
        .end();
    assert!(shown.contains("empty"), "{shown}");
}

#[test]
fn the_help_shows_examples() {
    for (arguments, words) in [
        (&["--help"][..], &["htpasswd", "password file"][..]),
        (
            &["htpasswd", "--help"],
            &["add", "remove", "verify", "list", "Examples", "Exit codes"],
        ),
        (
            &["htpasswd", "add", "--help"],
            &[
                "--stdin",
                "--generate",
                "--cost",
                "--scheme",
                "Examples",
                "two seconds",
            ],
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments);
        let help = CommandOutput::of(command, b"");
        assert_eq!(help.code, 0);
        for word in words {
            assert!(help.out.contains(word), "{word} in {}", help.out);
        }
    }
}

/// A temporary directory and the path of a password file in it, which need not exist.
struct Users {
    dir: TempDir,
    file: PathBuf,
}

impl Users {
    fn new(text: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        Self { dir, file }
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["htpasswd", verb])
            .arg(&self.file)
            .args(arguments);
        command
    }

    fn run(&self, verb: &str, arguments: &[&str], input: &[u8]) -> CommandOutput {
        CommandOutput::of(self.command(verb, arguments), input)
    }

    fn spawn(&self, verb: &str, arguments: &[&str]) -> Child {
        let mut command = self.command(verb, arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// The exit code of a program and its output.
#[derive(Debug)]
struct CommandOutput {
    code: i32,
    out: String,
    err: String,
}

impl CommandOutput {
    fn of(mut command: Command, input: &[u8]) -> Self {
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The program may end without reading its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// The program `tidegate` on a pseudoterminal, which the program `script` provides.
pub(crate) struct Terminal {
    child: Child,
    shown: String,
    /// The length of the part of `shown` before the next expected text.
    answered: usize,
}

impl Terminal {
    fn run(arguments: &[&str]) -> Self {
        Self::tidegate(&[&["htpasswd"], arguments].concat())
    }

    pub(crate) fn tidegate(arguments: &[&str]) -> Self {
        let line = format!(
            "'{}' '{}'",
            env!("CARGO_BIN_EXE_tidegate"),
            arguments.join("' '")
        );
        let seconds = PATIENCE.as_secs().to_string();
        let mut command = Command::new("timeout");
        command.args([
            "--foreground",
            &seconds,
            "script",
            "-qec",
            &line,
            "/dev/null",
        ]);
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            shown: String::new(),
            answered: 0,
        }
    }

    /// Waits until the terminal shows `words`, and then types `line` if `words` is a prompt, which ends in a colon.
    pub(crate) fn answer(mut self, words: &str, line: &str) -> Self {
        let until = Instant::now() + PATIENCE;
        while !self.shown[self.answered..].contains(words) {
            let mut bytes = [0; 256];
            let count = self
                .child
                .stdout
                .as_mut()
                .unwrap()
                .read(&mut bytes)
                .unwrap();
            assert!(
                count > 0 && Instant::now() < until,
                "no {words:?} in {:?}",
                self.shown
            );
            self.shown
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        let at = self.shown[self.answered..].find(words).unwrap();
        self.answered += at + words.len();
        if words.ends_with(':') {
            self.child
                .stdin
                .as_mut()
                .unwrap()
                .write_all(format!("{line}\r").as_bytes())
                .unwrap();
        }
        self
    }

    /// Waits for the end of the program, and returns everything that the terminal showed.
    pub(crate) fn end(mut self) -> String {
        let mut rest = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut rest)
            .unwrap();
        self.child.wait().unwrap();
        self.shown + &rest
    }
}

/// A hash of the password "pw".
const HASH: &str = "$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u";
