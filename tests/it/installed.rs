//! The files that are installed beside the executable: the systemd units, the deploy hook for certbot, the manual page, and the
//! files for containers. Also what `examples/build-release` needs for a build with a profile.
//!
//! `tests/real/package.rs` tests that the proxy runs with them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::binary::{run, text};

#[path = "../../examples/man/pages.rs"]
mod pages;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(example(name)).unwrap()
}

/// Runs `systemd-analyze`. Returns `None` on a machine without systemd, where the tests of units are skipped.
fn analyze(arguments: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze").args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn systemd_accepts_the_units() {
    let dir = TempDir::new().unwrap();
    let mut command = vec!["verify".to_owned(), "--man=no".to_owned()];
    for unit in ["tidegate.service", "tidegate.socket"] {
        let file = dir.path().join(unit);
        let here = read(unit).replace(
            "=/usr/bin/tidegate",
            concat!("=", env!("CARGO_BIN_EXE_tidegate")),
        );
        fs::write(&file, here).unwrap();
        command.push(file.to_str().unwrap().to_owned());
    }
    let arguments: Vec<_> = command.iter().map(String::as_str).collect();
    if let Some(output) = analyze(&arguments) {
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn the_unit_has_a_low_exposure_level() {
    let unit = example("tidegate.service");
    let unit = unit.to_str().unwrap();
    // The threshold is in tenths: an exposure of 1.5.
    let arguments = ["security", "--offline=true", "--threshold=15", unit];
    if let Some(output) = analyze(&arguments) {
        assert!(output.status.success(), "{}", text(&output.stdout));
    }
}

#[test]
fn the_unit_waits_longer_than_the_drain_and_leaves_no_core_dump() {
    let unit = read("tidegate.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("{key}")).to_owned()
    };
    let stop: u64 = value("TimeoutStopSec=").parse().unwrap();
    let text = "[listen]\nhttps = [\"[::]:443\"]\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n\
                [[site.route]]\npath = \"/v2/\"\nupstream = \"http://b\"\nauth = { mode = \"none\" }\n";
    let (config, problems) = tidegate::config::parse(Path::new("x"), text.as_bytes());
    let drain = config.unwrap_or_else(|| panic!("{problems}")).drain;
    assert!(stop > drain.as_secs() + 5, "{stop} and {drain:?}");
    assert_eq!(value("LimitCORE="), "0");
    assert!(read("compose.yaml").contains("\n      core: 0\n"));
    assert_eq!(value("Type="), "notify");
    assert_eq!(value("NotifyAccess="), "main");
}

/// Runs the deploy hook for a certbot lineage that has this certificate and this key.
fn deploy(dir: &Path, cert: &str, key: Option<&str>) -> Output {
    // In the layout of certbot, `live` has links to the files in `archive`.
    let (live, archive) = (dir.join("live/a.example"), dir.join("archive"));
    let _ = fs::remove_dir_all(&live);
    fs::create_dir_all(&live).unwrap();
    fs::create_dir_all(&archive).unwrap();
    for (name, content) in [("fullchain.pem", Some(cert)), ("privkey.pem", key)] {
        if let Some(content) = content {
            fs::write(archive.join(name), content).unwrap();
            fs::set_permissions(archive.join(name), fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::symlink(archive.join(name), live.join(name)).unwrap();
        }
    }
    let group = fs::metadata(dir).unwrap().gid().to_string();
    Command::new("sh")
        .arg(example("certbot-deploy-hook"))
        .env("RENEWED_LINEAGE", &live)
        .env("TIDEGATE_CERTS", dir.join("certs"))
        .env("TIDEGATE_GROUP", group)
        .output()
        .unwrap()
}

#[test]
fn the_hook_swaps_certificate_and_key_at_once() {
    let dir = TempDir::new().unwrap();
    let certs = dir.path().join("certs");
    let served = certs.join("a.example");
    let mut before = None;
    for turn in 0..4 {
        let (cert, key) = (format!("cert {turn}"), format!("key {turn}"));
        let output = deploy(dir.path(), &cert, Some(&key));
        assert!(output.status.success(), "{output:?}");
        for (file, content) in [("fullchain.pem", &cert), ("privkey.pem", &key)] {
            let file = served.join(file);
            assert_eq!(&fs::read_to_string(&file).unwrap(), content);
            let facts = fs::metadata(&file).unwrap();
            assert_eq!(facts.mode() & 0o7777, 0o640);
        }
        assert_eq!(fs::metadata(&served).unwrap().mode() & 0o7777, 0o750);
        // The previous pair still exists for a process that is reading it.
        let link = fs::read_link(&served).unwrap();
        if let Some((former, key)) = before.replace((link, key)) {
            let former: PathBuf = former;
            let old = fs::read_to_string(certs.join(former).join("privkey.pem")).unwrap();
            assert_eq!(old, key);
        }
    }
    // The folder has the link, its target, and the previous pair.
    assert_eq!(fs::read_dir(&certs).unwrap().count(), 3);

    let output = deploy(dir.path(), "cert 9", None);
    assert!(!output.status.success(), "{output:?}");
    let kept = fs::read_to_string(served.join("fullchain.pem")).unwrap();
    assert_eq!(kept, "cert 3");
    assert_eq!(fs::read_dir(&certs).unwrap().count(), 3);
}

#[test]
fn the_hook_without_its_variable_fails_with_an_explanation() {
    let output = Command::new("sh")
        .arg(example("certbot-deploy-hook"))
        .env_remove("RENEWED_LINEAGE")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("certbot sets it"));
}

#[test]
fn the_manual_page_documents_every_command_signal_and_exit_code() {
    let page = read("man/tidegate.1");
    let help = text(&run(&["--help"]).stdout);
    let commands = help.split("Commands:\n").nth(1).unwrap();
    let mut seen = 0;
    for line in commands.lines().take_while(|line| line.starts_with("  ")) {
        let command = line.split_whitespace().next().unwrap();
        if command != "help" {
            seen += 1;
            assert!(page.contains(&format!("\n.It Cm {command}\n")), "{command}");
        }
    }
    assert!(seen >= 4, "{help}");
    for word in ["HUP", "USR1", "USR2", "TERM , INT"] {
        assert!(page.contains(&format!(".It Dv {word}\n")), "{word}");
    }
    for code in ["0", "1", "2", "78"] {
        assert!(page.contains(&format!(".It {code}\n")), "{code}");
    }
}

/// The pages are written by `cargo run --example man`.
#[test]
fn each_command_has_a_manual_page_that_agrees_with_its_help() {
    let pages = pages::all().unwrap();
    assert!(pages.len() >= 16, "{}", pages.len());
    for page in &pages {
        let path = format!("man/{}", page.file);
        let written = fs::read_to_string(example(&path)).unwrap_or_default();
        assert!(
            written == page.text,
            "{path} is out of date: cargo run --example man"
        );
    }
    let mut known: Vec<_> = pages.into_iter().map(|page| page.file).collect();
    known.push("tidegate.1".to_owned());
    for entry in fs::read_dir(example("man")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_page = Path::new(&name).extension() == Some("1".as_ref());
        assert!(!is_page || known.contains(&name), "{name} is of no command");
    }
}

/// Read from the help of the executable, whatever makes the pages.
#[test]
fn no_option_is_missing_in_a_manual_page() {
    let mut options = 0;
    let mut waiting = vec![Vec::new()];
    while let Some(command) = waiting.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        let help = text(&run(&[&arguments[..], &["--help"]].concat()).stdout);
        let page = read(&format!(
            "man/{}.1",
            [&["tidegate"], &arguments[..]].concat().join("-")
        ));
        let page = page.replace("Fl -", "--").replace("\\-", "-");
        for line in help.lines().filter(|line| line.starts_with("  ")) {
            let words = line.split([' ', ',']).filter(|word| word.starts_with("--"));
            // The first word of a line defines an option, later ones only mention it.
            for option in words.take(usize::from(line.trim_start().starts_with('-'))) {
                options += 1;
                assert!(page.contains(option), "{option} of {arguments:?}");
            }
        }
        let commands = help.split("Commands:\n").nth(1).unwrap_or_default();
        for line in commands.lines().take_while(|line| line.starts_with("  ")) {
            let name = line.split_whitespace().next().unwrap().to_owned();
            if name != "help" {
                waiting.push([&command[..], &[name]].concat());
            }
        }
    }
    assert!(options >= 50, "{options}");
}

#[test]
fn the_registry_of_compose_yaml_publishes_no_port() {
    let compose = read("compose.yaml");
    let services = compose.split("\nnetworks:\n").next().unwrap();
    let (tidegate_service, registry) = services.split_once("\n  registry:\n").unwrap();
    assert!(tidegate_service.contains("ports: [\"443:8443\"]"));
    assert!(!registry.contains("\n    ports:") && registry.contains("networks: [inside]"));
    // Without IPv6 on the network, docker's own proxy would be the peer of every IPv6 connection.
    assert!(compose.contains("\n  outside:\n") && compose.contains("\n    enable_ipv6: true\n"));
    for word in ["network_mode: host", "rootless", "[throttle]"] {
        assert!(
            tidegate_service.contains(word),
            "compose.yaml does not explain {word}"
        );
    }
    let container = read("Containerfile");
    let last = container.rsplit("\nFROM ").next().unwrap();
    assert!(last.contains("\nUSER 65532:65532\n") && !last.contains("\nRUN "));
    // As examples/build-release has it, whose image is tested in tests/real/release.rs.
    for line in [
        "CMD [\"/usr/bin/tidegate\", \"check\", \"--ready\"]",
        "ENV RUNTIME_DIRECTORY=/run/tidegate",
        "VOLUME [\"/var/lib/tidegate\", \"/run/tidegate\"]",
    ] {
        assert!(last.contains(&format!("{line}\n")), "{line}");
    }
}

#[test]
fn the_maintainer_scripts_leave_services_to_deb_systemd_invoke() {
    let mut invoked = 0;
    for name in ["postinst", "prerm", "postrm"] {
        let script = read(&format!("debian/{name}"));
        for line in script.lines().map(str::trim) {
            invoked += usize::from(line.starts_with("deb-systemd-invoke "));
            for verb in ["start", "stop", "restart", "enable", "disable"] {
                let called = format!("systemctl {verb} ");
                assert!(!line.starts_with(&called), "{name}: {line}");
            }
        }
    }
    assert_eq!(invoked, 2);
}

#[test]
fn the_package_has_the_copyright_and_changelog_that_debian_requires() {
    let copyright = read("debian/copyright");
    assert!(copyright.starts_with("Format: https://www.debian.org/"));
    assert!(copyright.contains("/usr/share/common-licenses/Apache-2.0"));
    let changelog = read("debian/changelog");
    let version = env!("CARGO_PKG_VERSION");
    let first = format!("tidegate ({version}-1) ");
    assert!(changelog.starts_with(&first), "{changelog}");
    assert!(
        changelog
            .lines()
            .any(|line| line.starts_with(" -- The tidegate maintainers <"))
    );
}

/// The build itself takes two release builds, and is not tested here.
#[test]
fn a_build_with_a_profile_needs_the_llvm_profdata_of_rustc() {
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("llvm-profdata");
    let build = |arguments: &[&str]| {
        let mut build = Command::new(example("build-release"));
        build.args(["--pgo", "--output"]).arg(dir.path());
        build.args(arguments).env("LLVM_PROFDATA", &program);
        let output = build.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (code, missing) = build(&[]);
    assert_eq!(code, Some(1), "{missing}");
    let wanted = format!(
        "missing: {} (rustup component add llvm-tools)",
        program.display()
    );
    assert_eq!(missing.trim(), wanted);

    fs::write(&program, "#!/bin/sh\necho '  LLVM version 14.0.6'\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, other) = build(&[]);
    assert_eq!(code, Some(1), "{other}");
    assert!(
        other.contains("has LLVM version 14.0.6, and rustc needs "),
        "{other}"
    );

    let (code, both) = build(&["--binary", env!("CARGO_BIN_EXE_tidegate")]);
    assert_eq!(code, Some(2), "{both}");
}
