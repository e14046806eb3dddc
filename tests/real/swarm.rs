//! `examples/swarm` on a real Docker Swarm of one node: three copies of the proxy behind HAProxy, in front of two registries on one
//! storage. Clients push, pull and log in all the time, and the tests count the operations that fail while copies are replaced,
//! killed, added and removed.
//!
//! dockerd runs in network, mount and process namespaces of its own. The advertised address of the node is that of a bridge
//! without ports, so nothing leaves the namespace. The containers run the image of `examples/build-release`, and HAProxy and
//! docker-registry from Debian's packages. IPVS is not needed, because the example uses DNS in place of virtual addresses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::{Outcome, Service, command, print_logs, run, sha256, wait_up_to, write_random};
use crate::release;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/swarm");
const LOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/swarm/load.py");
/// The name of the site, which is `registry.example.com` in the example.
const HOST: &str = "registry.test";
/// The address of the only node.
const NODE: &str = "10.77.0.1";
const PROXY: &str = "registry_proxy";
const OPENSSL_KEY: &str = "req -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256";

/// The arguments are the files of hosts and of name servers, the address of the node, and the command line of dockerd. No
/// name server responds, so a look-up of an image's registry fails at once.
const IN_NAMESPACES: &str = r#"mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && ip link set lo up && \
ip link add swarm0 type bridge && ip addr add "$3/24" dev swarm0 && ip link set swarm0 up && shift 3 && exec "$@""#;

#[test]
fn a_rolling_update_fails_no_request_and_a_kill_breaks_only_its_own_transfers() {
    let swarm = Swarm::start();
    let mut load = Load::start(&swarm);
    load.pass(Duration::from_secs(10), "before");
    let earlier = swarm.copies();

    load.begin("rolling update");
    swarm.docker(&["service", "update", "--detach", "--quiet", "--force", PROXY]);
    swarm.wait_for_update(PROXY);
    load.pass(Duration::from_secs(3), "after the update");
    assert!(swarm.copies().iter().all(|copy| !earlier.contains(copy)));

    let (copy, transfers) = swarm.copy_with_a_transfer();
    load.begin("kill");
    swarm.docker(&["kill", &copy]);
    let killed = now();
    swarm.wait_for_copies(3);
    load.pass(Duration::from_secs(5), "after the kill");

    let results = load.end();
    for phase in ["before", "rolling update", "after the update"] {
        results.assert_no_failure(phase);
    }
    for kind in results.kinds("before") {
        let count = results.count("rolling update", &kind);
        assert!(count > 0, "no {kind} during the update");
    }
    // A client may notice the end of its connection later.
    let mut failed = results.failed("kill");
    failed.extend(results.failed("after the kill"));
    assert!(
        failed.iter().all(|operation| operation.begin < killed),
        "{failed:#?}"
    );
    // One more may have begun after the proxy reported the number.
    let slow = |operation: &&&Operation| ["push", "pull"].contains(&operation.kind.as_str());
    let broken = failed.iter().filter(slow).count();
    assert!(
        broken <= transfers + 1,
        "{transfers} transfers were its own: {failed:#?}"
    );
}

/// The rest of what `docs/fleet.md` reports, which takes about ten minutes:
///
///     cargo test --release --test real swarm -- --ignored --nocapture
#[test]
#[ignore = "takes ten minutes; prints the figures of docs/fleet.md"]
fn scaling_and_rotation_fail_no_request_and_a_lost_registry_breaks_only_its_own_transfers() {
    let swarm = Swarm::start();
    let mut load = Load::start(&swarm);
    load.pass(Duration::from_secs(25), "before");

    load.begin("rolling update");
    swarm.docker(&["service", "update", "--detach", "--quiet", "--force", PROXY]);
    swarm.wait_for_update(PROXY);
    for (replicas, phase) in [
        (5, "scale 3 to 5"),
        (2, "scale 5 to 2"),
        (3, "scale 2 to 3"),
    ] {
        load.begin(phase);
        swarm.scale(PROXY, replicas);
        swarm.wait_for_copies(replicas);
        load.wait(Duration::from_secs(5));
    }
    // Every copy accepts the new secret before the first one signs with it.
    let (old, new) = (token_secret("old"), token_secret("new"));
    let forms = [format!("{old}{new}"), format!("{new}{old}"), new];
    for (form, phase) in forms
        .iter()
        .zip(["secret: old, new", "secret: new, old", "secret: new"])
    {
        load.begin(phase);
        fs::write(swarm.path("token-secret"), form).unwrap();
        swarm.deploy();
        swarm.wait_for_update(PROXY);
    }
    load.begin("renewed certificate");
    swarm.make_certificate();
    swarm.deploy();
    swarm.wait_for_update(PROXY);

    load.begin("restart of registry-a");
    swarm.docker(&[
        "service",
        "update",
        "--detach",
        "--quiet",
        "--force",
        "registry_registry-a",
    ]);
    swarm.wait_for_update("registry_registry-a");
    load.pass(Duration::from_secs(15), "after the restart");
    load.begin("registry-b is killed");
    let container = swarm.docker(&["ps", "--quiet", "--filter", "name=registry_registry-b"]);
    swarm.scale("registry_registry-b", 0);
    // The registry would finish its transfers.
    swarm.docker(&["kill", container.trim()]);
    let lost = now();
    load.wait(Duration::from_secs(20));
    load.begin("registry-b is back");
    swarm.scale("registry_registry-b", 1);
    load.wait(Duration::from_secs(15));

    let results = load.end();
    for phase in results.phases() {
        let failed = results.failed(&phase);
        if phase.starts_with("registry-b") {
            assert!(
                failed.iter().all(|operation| operation.begin < lost),
                "{failed:?}"
            );
        } else {
            assert!(failed.is_empty(), "{phase}: {failed:?}");
        }
    }
}

/// A file of a token secret with one line.
fn token_secret(name: &str) -> String {
    format!("{:-<44}\n", format!("the-{name}-secret-of-the-tokens-"))
}

/// A node with the stack of the example.
struct Swarm {
    // Dropped first: nothing runs any more when the folder goes.
    _dockerd: Service,
    /// The process in the namespaces.
    pid: u32,
    /// Counts deployments, because secrets have a new name each time.
    version: Mutex<u32>,
    dir: TempDir,
}

impl Swarm {
    fn start() -> Self {
        // Short, because the path of a socket has 108 bytes.
        let dir = TempDir::with_prefix("swarm-").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("home")).unwrap();
        fs::write(
            path("hosts"),
            format!("127.0.0.1 localhost\n{NODE} {HOST}\n"),
        )
        .unwrap();
        fs::write(path("resolv.conf"), format!("nameserver {NODE}\n")).unwrap();
        let mut unshare = command("unshare", &path("home"));
        unshare.args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        unshare.args(["sh", "-c", IN_NAMESPACES, "sh"]);
        unshare
            .arg(path("hosts"))
            .arg(path("resolv.conf"))
            .arg(NODE);
        unshare.args(["dockerd", "--storage-driver=vfs"]);
        for (option, file) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            unshare.arg(option).arg(path(file));
        }
        let socket = path("d.sock");
        unshare
            .arg("-H")
            .arg(format!("unix://{}", socket.display()));
        // docker pushes and pulls as a client, too.
        unshare.env("SSL_CERT_FILE", path("ca.crt"));
        let mut dockerd = Service::start("dockerd", &unshare, dir.path());
        dockerd.wait_until(|| std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let children = format!("/proc/{0}/task/{0}/children", dockerd.id());
        let children = fs::read_to_string(children).unwrap();
        let swarm = Self {
            _dockerd: dockerd,
            pid: children.trim().parse().expect("one child of unshare"),
            version: Mutex::new(0),
            dir,
        };
        swarm.docker(&["swarm", "init", "--advertise-addr", NODE]);
        let node = swarm.docker(&["node", "ls", "--quiet"]);
        let labels = [
            "--label-add",
            "balancer=true",
            "--label-add",
            "storage=true",
        ];
        swarm.docker(&[&["node", "update"], &labels[..], &[node.trim()]].concat());
        swarm.make_images();
        swarm.make_files();
        swarm.deploy();
        swarm.wait_for_copies(3);
        wait_up_to(Duration::from_secs(60), "a client is served", || {
            let ca = swarm.path("ca.crt");
            let mut curl = swarm.inside("curl");
            curl.args(["--silent", "--fail", "--user", "user0:pw-0", "--cacert"]);
            let url = format!("https://{HOST}/v2/_token?scope=repository:team/app:pull");
            run(curl.arg(ca).arg(url)).is_success()
        });
        swarm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a docker command that must succeed, and returns its output.
    fn docker(&self, arguments: &[&str]) -> String {
        self.try_docker(arguments).succeeds()
    }

    fn try_docker(&self, arguments: &[&str]) -> Outcome {
        let mut docker = command("docker", &self.path("home"));
        docker
            .arg("-H")
            .arg(format!("unix://{}", self.path("d.sock").display()));
        docker.env("REGISTRY_HTTP_SECRET", "the secret of both registries");
        docker.env("SECRET_VERSION", self.version.lock().unwrap().to_string());
        run(docker.args(arguments).current_dir(self.dir.path()))
    }

    /// A program that runs in the namespaces, as a client of the node.
    fn inside(&self, program: &str) -> Command {
        let mut nsenter = command("nsenter", &self.path("home"));
        nsenter.args([
            "--net",
            "--mount",
            "--target",
            &self.pid.to_string(),
            program,
        ]);
        nsenter
    }

    /// Builds and loads the images that the example names.
    fn make_images(&self) {
        let made = release::build(&self.path("release"));
        let image = made.lines().find(|line| line.ends_with("-image.tar"));
        self.docker(&["load", "--quiet", "--input", image.expect("an image")]);
        let registry = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\nhttp:\n  addr: :5000\n";
        for (image, program, config, entrypoint, arguments) in [
            (
                "haproxy:2.6",
                "/usr/sbin/haproxy",
                "",
                json!(["/usr/sbin/haproxy", "-W", "-db"]),
                json!(["-f", "/usr/local/etc/haproxy/haproxy.cfg"]),
            ),
            (
                "registry:2",
                "/usr/bin/docker-registry",
                registry,
                json!(["/usr/bin/docker-registry", "serve"]),
                json!(["/etc/docker/registry/config.yml"]),
            ),
        ] {
            let root = self.path("root");
            fs::create_dir_all(root.join("etc/docker/registry")).unwrap();
            fs::create_dir_all(root.join("var/lib/registry")).unwrap();
            fs::create_dir_all(root.join("tmp")).unwrap();
            fs::write(root.join("etc/docker/registry/config.yml"), config).unwrap();
            fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();
            let mut copy = command("sh", &self.path("home"));
            copy.args(["-c", COPY_WITH_LIBRARIES, "sh", program])
                .arg(&root);
            run(&copy).succeeds();
            let archive = self.path("root.tar");
            let mut tar = command("tar", &self.path("home"));
            tar.arg("--create").arg("--file").arg(&archive);
            tar.args(["--owner=0", "--group=0", "--mode=u=rwX,go=rX", "."]);
            run(tar.current_dir(&root)).succeeds();
            let entrypoint = format!("ENTRYPOINT {entrypoint}");
            let arguments = format!("CMD {arguments}");
            let archive = archive.to_str().unwrap();
            self.docker(&[
                "import",
                "--change",
                &entrypoint,
                "--change",
                &arguments,
                archive,
                image,
            ]);
            fs::remove_dir_all(root).unwrap();
        }
    }

    /// The files of the stack: those of the example, and those that an operator makes.
    fn make_files(&self) {
        for file in ["stack.yaml", "haproxy.cfg"] {
            fs::copy(Path::new(EXAMPLE).join(file), self.path(file)).unwrap();
        }
        let config = fs::read_to_string(Path::new(EXAMPLE).join("proxy.toml")).unwrap();
        assert!(config.contains("registry.example.com"));
        let config = config.replace("registry.example.com", HOST);
        fs::write(self.path("proxy.toml"), config).unwrap();
        fs::write(self.path("token-secret"), token_secret("old")).unwrap();
        let mut users = String::new();
        for number in 0..20 {
            let (user, password) = (format!("user{number}"), format!("pw-{number}"));
            let mut htpasswd = command("htpasswd", &self.path("home"));
            htpasswd.arg(if number == 0 { "-Bbc" } else { "-Bb" });
            run(htpasswd.arg(self.path("htpasswd")).args([&user, &password])).succeeds();
            writeln!(users, "{user}:{password}").unwrap();
        }
        fs::write(self.path("users"), users).unwrap();
        self.openssl(&format!(
            "{OPENSSL_KEY} -subj /CN=lab -keyout ca.key -out ca.crt"
        ));
        self.make_certificate();
    }

    /// Makes a certificate in the place of the earlier one.
    fn make_certificate(&self) {
        self.openssl(&format!(
            "{OPENSSL_KEY} -subj /CN={HOST} -addext subjectAltName=DNS:{HOST} -addext basicConstraints=critical,CA:FALSE \
             -CA ca.crt -CAkey ca.key -keyout privkey.pem -out fullchain.pem"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let mut openssl = command("openssl", &self.path("home"));
        openssl.args(arguments.split_whitespace());
        run(openssl.current_dir(self.dir.path())).succeeds();
    }

    /// `docker stack deploy`, with what is in the files now.
    fn deploy(&self) {
        *self.version.lock().unwrap() += 1;
        let file = self.path("stack.yaml");
        let options = [
            "--resolve-image",
            "never",
            "--compose-file",
            file.to_str().unwrap(),
        ];
        self.docker(&[&["stack", "deploy"], &options[..], &["registry"]].concat());
    }

    fn scale(&self, service: &str, replicas: usize) {
        self.docker(&[
            "service",
            "scale",
            "--detach",
            &format!("{service}={replicas}"),
        ]);
    }

    /// The ids of the containers of the proxy.
    fn copies(&self) -> Vec<String> {
        let list = self.docker(&["ps", "--quiet", "--filter", &format!("name={PROXY}")]);
        list.lines().map(str::to_owned).collect()
    }

    /// Waits until as many copies are healthy, and no other copy is left.
    fn wait_for_copies(&self, count: usize) {
        wait_up_to(
            Duration::from_secs(120),
            &format!("{count} copies are healthy"),
            || {
                let filter = format!("name={PROXY}");
                let list = self.docker(&["ps", "--filter", &filter, "--format", "{{.Status}}"]);
                list.lines().count() == count && list.lines().all(|line| line.contains("(healthy)"))
            },
        );
    }

    /// Waits until Swarm has replaced every container of a service, and the old ones have ended.
    fn wait_for_update(&self, service: &str) {
        let format = "{{.UpdateStatus.State}}";
        wait_up_to(
            Duration::from_secs(180),
            &format!("{service} is updated"),
            || {
                // Without an update so far, there is no status, and the command fails.
                let state = self.try_docker(&["service", "inspect", "--format", format, service]);
                let state = String::from_utf8_lossy(&state.stdout).into_owned();
                assert!(
                    !state.contains("rollback") && !state.contains("paused"),
                    "{service}: {state}"
                );
                state.trim() == "completed"
            },
        );
        if service == PROXY {
            self.wait_for_copies(3);
        }
    }

    /// A copy that serves a transfer, and how many.
    fn copy_with_a_transfer(&self) -> (String, usize) {
        let mut found = None;
        wait_up_to(Duration::from_secs(30), "a copy has a transfer", || {
            found = self.copies().into_iter().find_map(|copy| {
                let arguments = ["exec", &copy, "/usr/bin/tidegate", "status", "--json"];
                let status: Value = serde_json::from_str(&self.docker(&arguments)).unwrap();
                let transfers = status["transfer_count"].as_u64().unwrap();
                (transfers > 0).then_some((copy, usize::try_from(transfers).unwrap()))
            });
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for service in [PROXY, "registry_balancer", "registry_registry-a"] {
                let log = self.try_docker(&["service", "logs", "--tail", "40", service]);
                eprintln!("{}", log.story());
            }
            eprintln!(
                "{}",
                self.try_docker(&["stack", "ps", "--no-trunc", "registry"])
                    .story()
            );
            print_logs(self.dir.path());
        }
    }
}

/// Copies a program and the libraries that it is linked to into a root file system.
const COPY_WITH_LIBRARIES: &str = r#"for file in "$1" $(ldd "$1" | grep -o '/[^ ]*'); do
mkdir -p "$2$(dirname "$file")" && cp -L "$file" "$2$file" || exit 1; done"#;

/// One operation of a client, as `load.py` reports it.
#[derive(Clone, Debug)]
struct Operation {
    kind: String,
    begin: f64,
    end: f64,
    error: Option<String>,
}

/// The clients, and the phases of the test so far.
struct Load {
    child: Child,
    reader: JoinHandle<()>,
    operations: Arc<Mutex<Vec<Operation>>>,
    phases: Vec<(String, f64)>,
}

impl Load {
    /// Pushes an image for the anonymous clients, and starts all clients.
    fn start(swarm: &Swarm) -> Self {
        let folder = swarm.path("skopeo");
        fs::create_dir_all(folder.join("trust")).unwrap();
        fs::copy(swarm.path("ca.crt"), folder.join("trust/ca.crt")).unwrap();
        let layer = make_image(&folder.join("image"));
        let mut skopeo = swarm.inside("skopeo");
        skopeo.args(["copy", "--dest-creds", "user0:pw-0", "--dest-cert-dir"]);
        skopeo
            .arg(folder.join("trust"))
            .arg(format!("dir:{}", folder.join("image").display()));
        run(skopeo.arg(format!("docker://{HOST}/public/app:latest"))).succeeds();

        swarm.docker(&["import", layer.to_str().unwrap(), "load"]);
        let login = ["login", "--username", "user0", "--password", "pw-0", HOST];
        swarm.docker(&login);

        let mut python = swarm.inside("python3");
        python
            .args([LOAD, HOST])
            .arg(swarm.path("ca.crt"))
            .arg(swarm.path("users"))
            .arg(folder)
            .arg(swarm.path("d.sock"));
        let errors = fs::File::create(swarm.path("load.log")).unwrap();
        python
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = python.spawn().unwrap();
        let operations = Arc::new(Mutex::new(Vec::new()));
        let (lines, list) = (
            BufReader::new(child.stdout.take().unwrap()),
            Arc::clone(&operations),
        );
        let reader = std::thread::spawn(move || {
            for line in lines.lines() {
                let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
                list.lock().unwrap().push(Operation {
                    kind: line["kind"].as_str().unwrap().to_owned(),
                    begin: line["begin"].as_f64().unwrap(),
                    end: line["end"].as_f64().unwrap(),
                    error: line["error"].as_str().map(str::to_owned),
                });
            }
        });
        let load = Self {
            child,
            reader,
            operations,
            phases: Vec::new(),
        };
        wait_up_to(Duration::from_secs(60), "the clients work", || {
            load.operations.lock().unwrap().len() > 10
        });
        load
    }

    /// Begins a phase.
    fn begin(&mut self, phase: &str) {
        eprintln!("{phase}");
        self.phases.push((phase.to_owned(), now()));
    }

    /// A phase in which nothing happens but the load.
    fn pass(&mut self, time: Duration, phase: &str) {
        self.begin(phase);
        self.wait(time);
    }

    /// Waits until the clients have had this time.
    fn wait(&self, time: Duration) {
        let end = now() + time.as_secs_f64();
        wait_up_to(time * 2, "the clients work", || {
            let operations = self.operations.lock().unwrap();
            operations.iter().any(|operation| operation.begin > end)
        });
    }

    /// Ends the clients after what they have begun, and prints a table.
    fn end(mut self) -> Results {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
        self.reader.join().unwrap();
        let results = Results {
            operations: std::mem::take(&mut self.operations.lock().unwrap()),
            phases: self.phases,
        };
        eprintln!("{}", results.table());
        results
    }
}

/// All operations. An operation belongs to the phase in which it ended.
struct Results {
    operations: Vec<Operation>,
    phases: Vec<(String, f64)>,
}

impl Results {
    fn phases(&self) -> Vec<String> {
        self.phases.iter().map(|(name, _)| name.clone()).collect()
    }

    fn of(&self, phase: &str) -> Vec<&Operation> {
        let position = self
            .phases
            .iter()
            .position(|(name, _)| name == phase)
            .unwrap();
        let begin = self.phases[position].1;
        let end = self
            .phases
            .get(position + 1)
            .map_or(f64::INFINITY, |(_, begin)| *begin);
        let all = self.operations.iter();
        all.filter(|operation| (begin..end).contains(&operation.end))
            .collect()
    }

    fn failed(&self, phase: &str) -> Vec<&Operation> {
        let all = self.of(phase).into_iter();
        all.filter(|operation| operation.error.is_some()).collect()
    }

    #[track_caller]
    fn assert_no_failure(&self, phase: &str) {
        let failed = self.failed(phase);
        assert!(failed.is_empty(), "{phase}: {failed:#?}");
    }

    fn kinds(&self, phase: &str) -> Vec<String> {
        self.by_kind(phase).into_keys().collect()
    }

    fn count(&self, phase: &str, kind: &str) -> usize {
        self.by_kind(phase).get(kind).map_or(0, Vec::len)
    }

    fn by_kind(&self, phase: &str) -> BTreeMap<String, Vec<&Operation>> {
        let mut kinds = BTreeMap::<_, Vec<_>>::new();
        for operation in self.of(phase) {
            kinds
                .entry(operation.kind.clone())
                .or_default()
                .push(operation);
        }
        kinds
    }

    /// The operations of each phase: how many, how many failed, and the milliseconds of those that did not.
    fn table(&self) -> String {
        let mut table = String::new();
        for phase in self.phases() {
            writeln!(table, "{phase}").unwrap();
            for (kind, operations) in self.by_kind(&phase) {
                let failed = operations
                    .iter()
                    .filter(|operation| operation.error.is_some());
                let failed = failed.count();
                let good = operations
                    .iter()
                    .filter(|operation| operation.error.is_none());
                let mut times: Vec<f64> =
                    good.map(|good| (good.end - good.begin) * 1000.0).collect();
                times.sort_by(f64::total_cmp);
                let quantile = |hundredth: usize| {
                    let index = times.len() * hundredth / 100;
                    times
                        .get(index.min(times.len().saturating_sub(1)))
                        .copied()
                        .unwrap_or_default()
                };
                let (count, median, p99) = (operations.len(), quantile(50), quantile(99));
                writeln!(
                    table,
                    "  {kind:24} made {count:5} failed {failed:3} p50 {median:7.1} ms p99 {p99:7.1} ms max {:7.1} ms",
                    quantile(100)
                )
                .unwrap();
            }
        }
        table
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// Writes an image with one layer of random bytes to `folder`, in the layout that `skopeo copy dir:FOLDER` reads. Returns the
/// path of the layer.
fn make_image(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let (file, layer, config) = (
        folder.join("file"),
        folder.join("layer"),
        folder.join("config"),
    );
    write_random(&file, 2 << 20);
    let mut tar = command("tar", folder);
    tar.arg("--create")
        .arg("--file")
        .arg(&layer)
        .arg("--directory")
        .arg(folder)
        .arg("file");
    run(&tar).succeeds();
    fs::remove_file(file).unwrap();
    let layer_digest = sha256(&layer);
    let rootfs = json!({ "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] });
    let text = json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs });
    fs::write(&config, text.to_string()).unwrap();
    let config_digest = sha256(&config);
    let part = |kind: &str, file: &Path, digest: &str| {
        let size = fs::metadata(file).unwrap().len();
        json!({ "mediaType": format!("application/vnd.docker.{kind}"), "size": size, "digest": format!("sha256:{digest}") })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": part("container.image.v1+json", &config, &config_digest),
        "layers": [part("image.rootfs.diff.tar", &layer, &layer_digest)],
    });
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    let named = folder.join(layer_digest);
    fs::rename(layer, &named).unwrap();
    fs::rename(config, folder.join(config_digest)).unwrap();
    named
}
