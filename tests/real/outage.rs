//! The registry stops or is killed: clients get a clear error, and their requests succeed once the registry runs again.

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

/// The size of an image in bytes. The default is large enough that a transfer lasts a while; `OUTAGE_MIB=1024` sets it to 1 GiB.
fn large() -> u64 {
    let size = std::env::var("OUTAGE_MIB").ok();
    size.map_or(400, |text| text.parse().expect("a number of MiB")) * MIB
}

/// The time limit of docker commands in seconds. docker compresses the whole image in each attempt.
const SECONDS: &str = "400";

#[test]
fn curl_gets_502_while_the_registry_is_down() {
    let lab = Lab::start();
    lab.stop_registry();
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        for path in ["/v2/", "/v2/_catalog", "/v2/team/app/manifests/latest"] {
            let down = curl.request_as_user(path, &[]);
            assert_eq!(
                (down.status, down.code().as_str()),
                (502, "UNAVAILABLE"),
                "{down:?}"
            );
            assert_eq!(down.field("content-type"), "application/json");
            assert_eq!(
                curl.request(path, &[]).status,
                401,
                "a client without credentials gets 401 during the outage as well"
            );
        }
    }
    lab.start_registry();
    assert_eq!(
        Curl::new(&lab, "--http1.1")
            .request_as_user("/v2/", &[])
            .status,
        200
    );
}

#[test]
fn docker_reports_502_while_the_registry_is_down() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[1000, 2000]), "team/app");
    let pushed = docker.run(&["push", &image]).succeeds();
    lab.stop_registry();
    let attempts = [
        docker.try_login(PASSWORD),
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
fn docker_recovers_from_a_registry_killed_during_a_transfer() {
    let lab = Lab::start();
    let docker = Docker::start(&lab, "docker");
    docker.log_in();
    let image = docker.load(&Image::make(&lab.path("image"), &[large()]), "team/app");
    let id = docker.id(&image);
    let push = || run_within(SECONDS, &docker.command(&["push", &image]));
    let pushed = run_and_kill_registry(&lab, &lab.path("registry"), push);
    assert_clear_and_retry(pushed, push);
    docker.run(&["rmi", &image]).succeeds();
    let pull = || run_within(SECONDS, &docker.command(&["pull", &image]));
    let pulled = run_and_kill_registry(&lab, &lab.path("docker/data"), pull);
    assert_clear_and_retry(pulled, pull);
    assert_eq!(docker.id(&image), id);
}

#[test]
fn skopeo_recovers_from_a_registry_killed_during_a_transfer() {
    let lab = Lab::start();
    let archive = Image::make(&lab.path("image"), &[large()]).archive("local/image:latest");
    let archive = format!("docker-archive:{}", archive.display());
    let (layout, back) = (lab.path("layout"), lab.path("back"));
    let local = format!("oci:{}:latest", layout.display());
    // The bytes are random, so that a higher compression level would only take longer.
    let fast = ["--dest-compress-level", "1"];
    run(lab
        .command("skopeo")
        .arg("copy")
        .args(fast)
        .args([&archive, &local]))
    .succeeds();
    let remote = skopeo::remote(&lab, "team/app");
    let push = || {
        let options = skopeo::certs(&lab, "dest");
        skopeo::skopeo(&lab, "copy", &options, &[&local, &remote])
    };
    let pushed = run_and_kill_registry(&lab, &lab.path("registry"), push);
    assert_clear_and_retry(pushed, push);
    let copy = format!("oci:{}:latest", back.display());
    let pull = || {
        let options = skopeo::certs(&lab, "src");
        skopeo::skopeo(&lab, "copy", &options, &[&remote, &copy])
    };
    let pulled = run_and_kill_registry(&lab, &back, pull);
    assert_clear_and_retry(pulled, pull);
    assert_eq!(skopeo::digest(&back), skopeo::digest(&layout));
}

/// Two registries with the same storage, and a proxy that has both of them as endpoints.
struct TwoRegistries {
    registries: [Option<Service>; 2],
    _proxy: Service,
    ports: [u16; 2],
    port: u16,
}

impl TwoRegistries {
    fn start(lab: &Lab) -> Self {
        let (ports, port) = ([free_port(), free_port()], free_port());
        for registry_port in ports {
            let config = fs::read_to_string(lab.path("registry.yml")).unwrap();
            let http = format!("  addr: 127.0.0.1:{registry_port}\n  secret: the same\n");
            let (before, _) = config.split_once("  addr: ").unwrap();
            fs::write(
                lab.path(&format!("{registry_port}.yml")),
                format!("{before}{http}"),
            )
            .unwrap();
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
        let registries = [0, 1].map(|number| Some(start_registry(lab, number, ports[number])));
        let mut command = lab.command(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "-c"]).arg(lab.path("both.toml"));
        let mut proxy = Service::start("both", &command, &dir);
        proxy.wait_until(|| is_listening(port));
        Self {
            registries,
            _proxy: proxy,
            ports,
            port,
        }
    }
}

fn start_registry(lab: &Lab, number: usize, port: u16) -> Service {
    let mut command = lab.command("docker-registry");
    command.arg("serve").arg(lab.path(&format!("{port}.yml")));
    let name = LOGS[number].trim_end_matches(".log");
    let mut service = Service::start(name, &command, &lab.path(""));
    service.wait_until(|| is_listening(port));
    service
}

/// Sends 300 requests over one connection, 25 per second, and returns their statuses.
fn steady_requests(lab: &Lab, port: u16, path: &str, options: &[&str]) -> Vec<String> {
    let mut curl: Command = lab.command("curl");
    curl.args(["--silent", "--show-error", "--rate", "25/s", "--user"])
        .arg(Lab::credentials())
        .arg("--cacert")
        .arg(lab.certs().ca())
        .args(options)
        .args(["--output", "/dev/null", "--write-out", "%{http_code}\n"])
        .arg(format!("https://localhost:{port}{path}?[1-300]"));
    let output = run(&curl).succeeds();
    output.lines().map(str::to_owned).collect()
}

#[test]
fn no_pull_fails_while_two_registries_are_restarted_and_killed() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http1.1");
    curl.push_image("team/app");
    let mut registries = TwoRegistries::start(&lab);
    let (port, ports) = (registries.port, registries.ports);
    // The manifest is small: the response arrives completely or not at all. The proxy cannot retry a response that has begun.
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
            let statuses = steady_requests(&lab, port, manifest, &get);
            is_over.store(true, Ordering::Relaxed);
            statuses
        });
        let heads = scope.spawn(|| steady_requests(&lab, port, manifest, &head));
        // The first registry is ended with SIGTERM, at which it exits at once, the second one with SIGKILL. Before a registry is
        // ended, both must get requests again.
        let mut rounds = 0;
        while rounds < 2 || !is_over.load(Ordering::Relaxed) && rounds < 6 {
            let at = rounds % 2;
            let received = || count(&lab.path(LOGS[at]), "curl/");
            let before = received();
            wait_until("the registry gets requests", || received() > before + 5);
            let registry = registries.registries[at].take().unwrap();
            if at == 0 {
                drop(registry);
            } else {
                registry.kill();
            }
            let succeeded = || count(&lab.path("both-access.log"), " status=200 ");
            let before = succeeded();
            wait_until("the other registry gets requests", || {
                succeeded() > before + 20
            });
            registries.registries[at] = Some(start_registry(&lab, at, ports[at]));
            rounds += 1;
        }
        let (pulls, heads) = (pulls.join().unwrap(), heads.join().unwrap());
        for statuses in [&pulls, &heads] {
            let failed = statuses.iter().filter(|status| *status != "200");
            assert_eq!(failed.collect::<Vec<_>>(), [""; 0], "of {}", statuses.len());
        }
        assert_eq!((pulls.len(), heads.len()), (300, 300));
    });
}

/// The log files of the two registries.
const LOGS: [&str; 2] = ["one.log", "two.log"];

/// The number of lines of a log that contain `words`.
fn count(log: &Path, words: &str) -> usize {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.contains(words)).count()
}

/// Runs `act`. When 100 MiB of the transfer have arrived in `dir`, kills the registry and restarts it.
fn run_and_kill_registry(lab: &Lab, dir: &Path, act: impl FnOnce() -> Outcome + Send) -> Outcome {
    let before = size(dir);
    std::thread::scope(|scope| {
        let acting = scope.spawn(act);
        wait_until("a part of the transfer has arrived", || {
            size(dir) > before + 100 * MIB || acting.is_finished()
        });
        if !acting.is_finished() {
            lab.kill_registry();
            lab.start_registry();
            return acting.join().unwrap();
        }
        panic!("ended too early: {}", acting.join().unwrap().story());
    })
}

/// Asserts that the command succeeded, or that it failed with a clear error and that `act` succeeds now.
fn assert_clear_and_retry(outcome: Outcome, act: impl FnOnce() -> Outcome) {
    if outcome.is_success() {
        return;
    }
    let output = outcome.fails();
    let clear = [
        "502 Bad Gateway",
        "unexpected EOF",
        "stream error",
        "not available",
        "connection reset",
    ];
    assert!(clear.iter().any(|words| output.contains(words)), "{output}");
    act().succeeds();
}

/// The size of all files below a directory. Files may appear and disappear during the call.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
