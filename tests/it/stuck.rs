//! The executable without sufficient resources: few file descriptors, a log that is not read, a full disk.

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

use crate::binary::with_own_directories;
use crate::support::client::connect_tcp_from;
use crate::support::proxy::directory;
use crate::support::{
    Client, OK, PATIENCE, Registry, TestRequest, certs, config, eventually, pause,
};

/// The upper bound for the time until a response.
const STALL: Duration = Duration::from_secs(5);

/// A process of the proxy that writes its log to a file. Its standard output is a pipe to the test.
struct ProxyProcess {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl ProxyProcess {
    /// Starts the proxy. `log` has additional keys of `[log]`; `descriptors` is the limit of open file descriptors.
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
        with_own_directories(&mut command, dir.path());
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut proxy = Self {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            dir,
        };
        let line = proxy.wait_for_line("listening on https://");
        proxy.address = line.rsplit_once("https://").unwrap().1.parse().unwrap();
        proxy
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("gate.log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until the log has a line that contains `words`, and returns the line.
    fn wait_for_line(&mut self, words: &str) -> String {
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

    /// Connects from an address of its own for each `number`: one address may not have more connections than remain free.
    fn client_from(&self, number: usize) -> Client {
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(number).unwrap());
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(certs::default_client_config("http/1.1"), name).unwrap();
        Client::start_tls(tls, connect_tcp_from(source, self.address))
            .expect("the TLS handshake succeeds")
    }

    fn try_login(&self) -> Option<u16> {
        let config = certs::default_client_config("http/1.1");
        let mut client = Client::try_tls(self.address, "localhost", config).ok()?;
        client
            .try_send(TestRequest::alice("GET", "/v2/").head())
            .ok()?;
        Some(client.try_read_response("GET").ok()?.status)
    }

    /// The processor time so far, in ticks of ten milliseconds.
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

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
    }
}

#[test]
fn with_128_descriptors_the_proxy_starts_pauses_accepting_and_recovers() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.send(OK);
    });
    let mut proxy = ProxyProcess::start(&registry, "access = false", Some(128));
    // Each client uses two descriptors while descriptors are available: one for its connection and one for the connection to the
    // registry.
    let mut clients = Vec::new();
    let until = Instant::now() + PATIENCE;
    while proxy.descriptors() < 128 {
        assert!(
            Instant::now() < until,
            "{} descriptors",
            proxy.descriptors()
        );
        let mut client = proxy.client_from(clients.len() + 1);
        client.send(TestRequest::alice("GET", "/v2/").head());
        clients.push(client);
        let settled = Instant::now() + Duration::from_millis(20);
        while Instant::now() < settled && proxy.descriptors() < 128 {
            std::thread::yield_now();
        }
    }
    let waiting: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(proxy.address).unwrap())
        .collect();
    proxy.wait_for_line("cannot accept connections");
    let before = proxy.ticks();
    pause(Duration::from_secs(1));
    let spent = proxy.ticks() - before;
    assert!(spent < 20, "{spent} of 100 ticks spent without accepting");
    let count = proxy.log().matches("cannot accept connections").count();
    assert!(count <= 2, "logged {count} times");
    drop((clients, waiting, release));
    let until = Instant::now() + PATIENCE;
    while proxy.try_login() != Some(200) {
        assert!(Instant::now() < until, "the proxy does not recover");
    }
    proxy.wait_for_line("connections are accepted again");
}

#[test]
fn without_a_descriptor_for_the_upstream_the_status_is_503() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.send(OK);
    });
    let proxy = ProxyProcess::start(&registry, "access = false", Some(128));
    // The idle connections are opened first, so that requests use up the remaining descriptors. Client connections use at most
    // half of all descriptors.
    let mut clients: Vec<_> = (1..64).map(|number| proxy.client_from(number)).collect();
    let mut busy = None;
    for client in &mut clients {
        client
            .socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        client.send(TestRequest::alice("GET", "/v2/").head());
        if let Ok(response) = client.try_read_response("GET") {
            busy = Some(response);
            break;
        }
    }
    let busy = busy.expect("there are more requests than descriptors");
    busy.assert_rejection(503, "UNAVAILABLE");
    assert!(busy.has_header("retry-after"));
    drop((clients, release));
}

/// Sends `count` requests over one connection, each of which is a log line of more than 2 KB, and returns the longest time until a
/// response.
fn send_requests(proxy: &ProxyProcess, count: usize) -> Duration {
    let mut client = proxy.client();
    // The log escapes a quotation mark.
    let request = TestRequest::new("GET", &format!("/v2/{}", "\"".repeat(1020)));
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let began = Instant::now();
        assert_eq!(client.exchange(&request).status, 401);
        longest = longest.max(began.elapsed());
    }
    longest
}

#[test]
fn an_unread_standard_output_blocks_no_request_and_lost_lines_are_counted() {
    let registry = Registry::accepting_all();
    let mut proxy = ProxyProcess::start(&registry, "", None);
    let count = 5000;
    let longest = send_requests(&proxy, count);
    assert!(longest < STALL, "{longest:?}");
    println!("the longest time of {count} requests: {longest:?}");
    let mut output = proxy.child.stdout.take().unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let (mut text, mut space) = (String::new(), vec![0; 1 << 16]);
        while let Ok(read @ 1..) = output.read(&mut space) {
            text.push_str(std::str::from_utf8(&space[..read]).unwrap());
            if text.ends_with('\n') {
                let _ = sender.send(text.clone());
            }
        }
    });
    // Before the first line that can be written again, the proxy writes the number of lost lines.
    let until = Instant::now() + PATIENCE;
    let (mut requests, mut log) = (count, String::new());
    loop {
        let lost = log
            .lines()
            .filter_map(|line| line.split_once(" log lines were lost lost="));
        let lost: usize = lost.map(|(_, lost)| lost.parse::<usize>().unwrap()).sum();
        let written = log
            .lines()
            .filter(|line| line.contains("status=401"))
            .count();
        if lost > 0 && written + lost == requests {
            println!("{written} written, {lost} lost");
            break;
        }
        assert!(
            Instant::now() < until,
            "{written} written, {lost} lost of {requests}"
        );
        if lost == 0 {
            let more = send_requests(&proxy, 1);
            requests += 1;
            assert!(more < STALL, "{more:?}");
        }
        if let Ok(text) = receiver.recv_timeout(Duration::from_millis(100)) {
            log = text;
        }
    }
    assert!(
        log.lines()
            .all(|line| line.contains(" INFO access ")
                || line.contains(" WARN log lines were lost ")),
        "a line is incomplete"
    );
}

#[test]
fn a_full_disk_and_a_closed_standard_output_block_no_request() {
    let registry = Registry::accepting_all();
    for access in ["access_file = \"/dev/full\"", ""] {
        let mut proxy = ProxyProcess::start(&registry, access, None);
        // From now on, writing to standard output fails with EPIPE.
        drop(proxy.child.stdout.take());
        let longest = send_requests(&proxy, 300);
        assert!(longest < STALL, "{access:?}: {longest:?}");
        assert_eq!(proxy.try_login(), Some(200));
        let pid = rustix::process::Pid::from_raw(i32::try_from(proxy.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        eventually("the proxy ends", || {
            proxy.child.try_wait().unwrap().is_some()
        });
    }
}
