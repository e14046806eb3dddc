//! The executable when the system gives it too little: few descriptors, a log that nobody reads, a full disk.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use tempfile::TempDir;

use crate::binary::apart;
use crate::support::client::connect_tcp_from;
use crate::support::proxy::directory;
use crate::support::{
    Client, OK, PATIENCE, Registry, TestRequest, certs, config, eventually, pause,
};

/// Longer than any answer may take here.
const STALL: Duration = Duration::from_secs(5);

/// A gate whose own log is a file and whose standard output is the test's.
struct Gate {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Gate {
    /// `log` are keys of `[log]`, `descriptors` how many it may have open.
    fn start(registry: &Registry, log: &str, descriptors: Option<usize>) -> Self {
        let dir = directory();
        let path = dir.path().display().to_string();
        let top = format!("[log]\nfile = \"{path}/gate.log\"\n{log}\n");
        let text = config(&top, "").upstream(&registry.url());
        let file = dir.path().join("proxy.toml");
        fs::write(&file, text.in_dir(&path)).unwrap();
        let program = env!("CARGO_BIN_EXE_tidegate");
        let mut command = match descriptors {
            Some(most) => {
                let mut command = Command::new("prlimit");
                command.args([&format!("--nofile={most}:{most}"), "--", program]);
                command
            }
            None => Command::new(program),
        };
        command
            .args(["serve", "-c"])
            .arg(&file)
            .stdin(Stdio::null());
        apart(&mut command, dir.path());
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut gate = Self {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            dir,
        };
        let line = gate.line("listening on https://");
        gate.address = line.rsplit_once("https://").unwrap().1.parse().unwrap();
        gate
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("gate.log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits for a line of the gate's own log that holds these words.
    fn line(&mut self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < until,
                "no {words:?}, {ended:?}: {log}"
            );
            pause(Duration::from_millis(5));
        }
    }

    fn client(&self) -> Client {
        Client::tls(
            self.address,
            "localhost",
            certs::default_client_config("http/1.1"),
        )
    }

    /// A client at an address of its own: one address alone gets no more connections than remain free.
    fn client_from(&self, number: usize) -> Client {
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(number).unwrap());
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(certs::default_client_config("http/1.1"), name).unwrap();
        Client::of(tls, connect_tcp_from(source, self.address)).expect("a TLS connection")
    }

    fn try_login(&self) -> Option<u16> {
        let config = certs::default_client_config("http/1.1");
        let mut client = Client::try_tls(self.address, "localhost", config).ok()?;
        client
            .try_send(TestRequest::alice("GET", "/v2/").head())
            .ok()?;
        Some(client.try_read_response("GET").ok()?.status)
    }

    /// Time on a processor so far, in ticks of ten milliseconds.
    fn ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = text
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
    }
}

#[test]
fn with_128_descriptors_it_starts_pauses_when_they_are_gone_and_recovers() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.send(OK);
    });
    let mut gate = Gate::start(&registry, "access = false", Some(128));
    // Each takes two: its own, and one to the registry, as long as there are any.
    let mut clients = Vec::new();
    let until = Instant::now() + PATIENCE;
    while gate.descriptors() < 128 {
        assert!(Instant::now() < until, "{} descriptors", gate.descriptors());
        let mut client = gate.client_from(clients.len() + 1);
        client.send(TestRequest::alice("GET", "/v2/").head());
        clients.push(client);
        let settled = Instant::now() + Duration::from_millis(20);
        while Instant::now() < settled && gate.descriptors() < 128 {
            std::thread::yield_now();
        }
    }
    let waiting: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(gate.address).unwrap())
        .collect();
    gate.line("cannot accept connections");
    let before = gate.ticks();
    pause(Duration::from_secs(1));
    let spent = gate.ticks() - before;
    assert!(spent < 20, "{spent} of 100 ticks for nothing");
    let said = gate.log().matches("cannot accept connections").count();
    assert!(said <= 2, "said {said} times");
    drop((clients, waiting, release));
    let until = Instant::now() + PATIENCE;
    while gate.try_login() != Some(200) {
        assert!(Instant::now() < until, "it does not recover");
    }
    gate.line("connections are accepted again");
}

#[test]
fn without_a_descriptor_for_the_upstream_the_gate_is_busy_and_the_registry_is_not_blamed() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.send(OK);
    });
    let gate = Gate::start(&registry, "access = false", Some(128));
    // Idle connections first, so that the last descriptors go to requests: connections are at most half of all.
    let mut clients: Vec<_> = (1..64).map(|number| gate.client_from(number)).collect();
    let mut busy = None;
    for client in &mut clients {
        client
            .socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        client.send(TestRequest::alice("GET", "/v2/").head());
        if let Ok(answer) = client.try_read_response("GET") {
            busy = Some(answer);
            break;
        }
    }
    let busy = busy.expect("more requests than descriptors");
    busy.assert_rejection(503, "UNAVAILABLE");
    assert!(busy.has_header("retry-after"));
    drop((clients, release));
}

/// Asks `count` times over one connection, each with a line of some 15 KiB; the longest wait.
fn ask_many(gate: &Gate, count: usize) -> Duration {
    let mut client = gate.client();
    let request = TestRequest::new("GET", &format!("/v2/{}", "x".repeat(15_000)));
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let began = Instant::now();
        assert_eq!(client.exchange(&request).status, 401);
        longest = longest.max(began.elapsed());
    }
    longest
}

#[test]
fn a_standard_output_that_nobody_reads_stalls_nobody_and_what_is_lost_is_said() {
    let registry = Registry::accepting_all();
    let mut gate = Gate::start(&registry, "", None);
    let count = 1500;
    let longest = ask_many(&gate, count);
    assert!(longest < STALL, "{longest:?}");
    println!("the longest wait of {count}: {longest:?}");
    let mut output = gate.child.stdout.take().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let (mut said, mut space) = (String::new(), vec![0; 1 << 16]);
        while let Ok(read @ 1..) = output.read(&mut space) {
            said.push_str(std::str::from_utf8(&space[..read]).unwrap());
            if said.ends_with('\n') {
                let _ = tell.send(said.clone());
            }
        }
    });
    // A later line finds that the log can be written again, and is preceded by what was lost.
    let until = Instant::now() + PATIENCE;
    let (mut asked, mut said) = (count, String::new());
    loop {
        let lost = said
            .lines()
            .filter_map(|line| line.split_once(" log lines were lost lost="));
        let lost: usize = lost.map(|(_, lost)| lost.parse::<usize>().unwrap()).sum();
        let written = said
            .lines()
            .filter(|line| line.contains("status=401"))
            .count();
        if lost > 0 && written + lost == asked {
            println!("{written} written, {lost} lost");
            break;
        }
        assert!(
            Instant::now() < until,
            "{written} written, {lost} lost of {asked}"
        );
        if lost == 0 {
            let more = ask_many(&gate, 1);
            asked += 1;
            assert!(more < STALL, "{more:?}");
        }
        if let Ok(more) = told.recv_timeout(Duration::from_millis(100)) {
            said = more;
        }
    }
    assert!(
        said.lines()
            .all(|line| line.contains(" INFO access ")
                || line.contains(" WARN log lines were lost ")),
        "a torn line"
    );
}

#[test]
fn a_full_disk_and_a_closed_output_stall_nobody() {
    let registry = Registry::accepting_all();
    for access in ["access_file = \"/dev/full\"", ""] {
        let mut gate = Gate::start(&registry, access, None);
        // Nobody can read what is said there from now on.
        drop(gate.child.stdout.take());
        let longest = ask_many(&gate, 300);
        assert!(longest < STALL, "{access:?}: {longest:?}");
        assert_eq!(gate.try_login(), Some(200));
        // And it ends in time.
        let pid = rustix::process::Pid::from_raw(i32::try_from(gate.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        eventually("it does not end", || {
            gate.child.try_wait().unwrap().is_some()
        });
    }
}
