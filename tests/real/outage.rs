//! The registry is down: every client is told so in words, and all is well when it is back.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::docker::digest;
use crate::lab::{
    Curl, Docker, Image, Lab, MIB, Outcome, PASSWORD, Service, free_port, is_listening, run,
    run_within, wait_until,
};
use crate::skopeo;

/// Bytes of an image: enough that a transfer is under way for a while; `OUTAGE_MIB=1024` makes it a GiB.
fn large() -> u64 {
    let wanted = std::env::var("OUTAGE_MIB").ok();
    wanted.map_or(400, |text| text.parse().expect("a number of MiB")) * MIB
}

/// For docker, which compresses all of it at each attempt.
const SECONDS: &str = "400";

#[test]
fn curl_is_told_and_works_again_afterwards() {
    let lab = Lab::start();
    lab.stop_registry();
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        for path in ["/v2/", "/v2/_catalog", "/v2/team/app/manifests/latest"] {
            let down = curl.ask_as_user(path, &[]);
            assert_eq!(
                (down.status, down.code().as_str()),
                (502, "UNAVAILABLE"),
                "{down:?}"
            );
            assert_eq!(down.field("content-type"), "application/json");
            assert_eq!(
                curl.ask(path, &[]).status,
                401,
                "a stranger learns nothing of the outage"
            );
        }
    }
    lab.start_registry();
    assert_eq!(
        Curl::new(&lab, "--http1.1").ask_as_user("/v2/", &[]).status,
        200
    );
}

#[test]
fn docker_is_told_and_works_again_afterwards() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[1000, 2000]), "team/app");
    let pushed = docker.run(&["push", &image]).succeeds();
    lab.stop_registry();
    let attempts = [
        docker.login(PASSWORD),
        docker.run(&["pull", &image]),
        docker.run(&["push", &image]),
    ];
    for refused in attempts.map(Outcome::fails) {
        assert!(refused.contains("502 Bad Gateway"), "{refused}");
    }
    lab.start_registry();
    docker.log_in();
    let pulled = docker.run(&["pull", &image]).succeeds();
    assert_eq!(digest(&pushed), digest(&pulled));
}

#[test]
fn docker_survives_a_registry_that_is_killed_amid_a_transfer() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[large()]), "team/app");
    let id = docker.id(&image);
    let push = || run_within(SECONDS, &docker.command(&["push", &image]));
    let pushed = killed_amid(&lab, &lab.path("registry"), push);
    again_unless_told(pushed, push);
    docker.run(&["rmi", &image]).succeeds();
    let pull = || run_within(SECONDS, &docker.command(&["pull", &image]));
    let pulled = killed_amid(&lab, &lab.path("docker/data"), pull);
    again_unless_told(pulled, pull);
    assert_eq!(docker.id(&image), id);
}

#[test]
fn skopeo_survives_a_registry_that_is_killed_amid_a_transfer() {
    let lab = Lab::start();
    let archive = Image::make(&lab.path("image"), &[large()]).archive("local/image:latest");
    let archive = format!("docker-archive:{}", archive.display());
    let (layout, back) = (lab.path("layout"), lab.path("back"));
    let local = format!("oci:{}:latest", layout.display());
    // Of random bytes a fast compression makes nothing smaller, and takes no time.
    let quick = ["--dest-compress-level", "1"];
    run(lab
        .command("skopeo")
        .arg("copy")
        .args(quick)
        .args([&archive, &local]))
    .succeeds();
    let remote = skopeo::remote(&lab, "team/app");
    let push = || {
        let options = skopeo::certs(&lab, "dest");
        skopeo::skopeo(&lab, "copy", &options, &[&local, &remote])
    };
    let pushed = killed_amid(&lab, &lab.path("registry"), push);
    again_unless_told(pushed, push);
    let copy = format!("oci:{}:latest", back.display());
    let pull = || {
        let options = skopeo::certs(&lab, "src");
        skopeo::skopeo(&lab, "copy", &options, &[&remote, &copy])
    };
    let pulled = killed_amid(&lab, &back, pull);
    again_unless_told(pulled, pull);
    assert_eq!(skopeo::digest(&back), skopeo::digest(&layout));
}

/// Two registries over one storage, and a gate before both.
struct Both {
    registries: [Option<Service>; 2],
    _gate: Service,
    ports: [u16; 2],
    port: u16,
}

impl Both {
    fn start(lab: &Lab) -> Self {
        let (ports, port) = ([free_port(), free_port()], free_port());
        for at in ports {
            let config = fs::read_to_string(lab.path("registry.yml")).unwrap();
            let own = format!("  addr: 127.0.0.1:{at}\n  secret: the same\n");
            let (before, _) = config.split_once("  addr: ").unwrap();
            fs::write(lab.path(&format!("{at}.yml")), format!("{before}{own}")).unwrap();
        }
        let (dir, certs) = (lab.path(""), lab.certs());
        let text = format!(
            "[listen]\nhttps = [\"127.0.0.1:{port}\"]\n[log]\naccess_file = \"{dir}both-access.log\"\n\
             [state]\ndir = \"{dir}both\"\n[[site]]\nhosts = [\"localhost\"]\n\
             tls = {{ cert = \"{}\", key = \"{}\" }}\n[[site.route]]\npath = \"/v2/\"\n\
             upstream = {{ urls = [\"http://127.0.0.1:{}\", \"http://127.0.0.1:{}\"] }}\n\
             auth = {{ mode = \"basic\", htpasswd = \"{dir}htpasswd\" }}\n",
            certs.cert().display(),
            certs.key().display(),
            ports[0],
            ports[1],
            dir = dir.display(),
        );
        fs::create_dir(lab.path("both")).unwrap();
        fs::write(lab.path("both.toml"), text).unwrap();
        let registries = [0, 1].map(|number| Some(registry(lab, number, ports[number])));
        let mut command = lab.command(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "-c"]).arg(lab.path("both.toml"));
        let mut gate = Service::start("both", &command, &dir);
        gate.wait_until(|| is_listening(port));
        Self {
            registries,
            _gate: gate,
            ports,
            port,
        }
    }
}

fn registry(lab: &Lab, number: usize, port: u16) -> Service {
    let mut command = lab.command("docker-registry");
    command.arg("serve").arg(lab.path(&format!("{port}.yml")));
    let name = LOGS[number].trim_end_matches(".log");
    let mut service = Service::start(name, &command, &lab.path(""));
    service.wait_until(|| is_listening(port));
    service
}

/// Twenty-five requests a second over one connection; the status of each.
fn steady(lab: &Lab, port: u16, path: &str, options: &[&str]) -> Vec<String> {
    let mut curl: Command = lab.command("curl");
    curl.args(["--silent", "--show-error", "--rate", "25/s", "--user"])
        .arg(Lab::credentials())
        .arg("--cacert")
        .arg(lab.certs().ca())
        .args(options)
        .args(["--output", "/dev/null", "--write-out", "%{http_code}\n"])
        .arg(format!("https://localhost:{port}{path}?[1-300]"));
    let said = run(&curl).succeeds();
    said.lines().map(str::to_owned).collect()
}

#[test]
fn two_registries_are_restarted_and_killed_and_no_pull_fails() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http1.1");
    curl.push_image("team/app");
    let mut both = Both::start(&lab);
    let (port, ports) = (both.port, both.ports);
    // Small, so that it comes whole or not at all: what has begun cannot be asked for again.
    let manifest = "/v2/team/app/manifests/latest";
    let accept = [
        "--header",
        "Accept: application/vnd.oci.image.manifest.v1+json",
    ];
    let (get, head) = (
        [&accept[..], &["--http1.1"]].concat(),
        [&accept[..], &["--http2", "--head"]].concat(),
    );
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pulls = scope.spawn(|| {
            let statuses = steady(&lab, port, manifest, &get);
            is_over.store(true, Ordering::Relaxed);
            statuses
        });
        let heads = scope.spawn(|| steady(&lab, port, manifest, &head));
        // One by TERM, which it takes as an end at once, the other by KILL; each must be asked again before the next.
        let mut rounds = 0;
        while rounds < 2 || !is_over.load(Ordering::Relaxed) && rounds < 6 {
            let at = rounds % 2;
            let asked = || count(&lab.path(LOGS[at]), "curl/");
            let before = asked();
            wait_until("it is asked", || asked() > before + 5);
            let dying = both.registries[at].take().unwrap();
            if at == 0 {
                drop(dying);
            } else {
                dying.kill();
            }
            let ended = || count(&lab.path("both-access.log"), " status=200 ");
            let before = ended();
            wait_until("the other one is asked", || ended() > before + 20);
            both.registries[at] = Some(registry(&lab, at, ports[at]));
            rounds += 1;
        }
        let (pulls, heads) = (pulls.join().unwrap(), heads.join().unwrap());
        for said in [&pulls, &heads] {
            let failed = said.iter().filter(|status| *status != "200");
            assert_eq!(failed.collect::<Vec<_>>(), [""; 0], "of {}", said.len());
        }
        assert_eq!((pulls.len(), heads.len()), (300, 300));
    });
}

/// What the two write.
const LOGS: [&str; 2] = ["one.log", "two.log"];

/// How many lines of a log hold these words.
fn count(log: &Path, words: &str) -> usize {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.contains(words)).count()
}

/// Kills the registry when a good part of what `act` moves has come to `dir`, and starts it again.
fn killed_amid(lab: &Lab, dir: &Path, act: impl FnOnce() -> Outcome + Send) -> Outcome {
    let before = size(dir);
    std::thread::scope(|scope| {
        let acting = scope.spawn(act);
        wait_until("a part has come", || {
            size(dir) > before + 100 * MIB || acting.is_finished()
        });
        if !acting.is_finished() {
            lab.kill_registry();
            lab.start_registry();
            return acting.join().unwrap();
        }
        panic!("over too soon: {}", acting.join().unwrap().story());
    })
}

/// It went well all the same, or it was said why not, and goes well now.
fn again_unless_told(outcome: Outcome, act: impl FnOnce() -> Outcome) {
    if outcome.is_success() {
        return;
    }
    let told = outcome.fails();
    let clear = [
        "502 Bad Gateway",
        "unexpected EOF",
        "stream error",
        "not available",
        "connection reset",
    ];
    assert!(clear.iter().any(|words| told.contains(words)), "{told}");
    act().succeeds();
}

/// Bytes of all files below a folder; they come and go meanwhile.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
