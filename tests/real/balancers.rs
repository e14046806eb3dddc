//! HAProxy and the `stream` module of nginx in front of the proxy, on sockets for IPv4 and IPv6: clients of both IP versions are
//! served, and the access log has their addresses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use crate::lab::{
    Lab, PASSWORD, Service, USER, command, free_port, is_listening, run, run_with_input, wait_until,
};

/// Addresses of this machine from which clients connect.
const CLIENTS: [&str; 2] = ["127.0.0.2", "::1"];

/// A balancer, the PROXY header that it sends, and the address of the proxy to which it connects.
struct Case {
    name: &'static str,
    /// The option of HAProxy, or `None` for nginx.
    send: Option<&'static str>,
    /// The address of the proxy that the balancer connects to.
    to: &'static str,
}

const CASES: [Case; 5] = [
    Case {
        name: "HAProxy with send-proxy",
        send: Some("send-proxy"),
        to: "127.0.0.1",
    },
    Case {
        name: "HAProxy with send-proxy over IPv6",
        send: Some("send-proxy"),
        to: "::1",
    },
    Case {
        name: "HAProxy with send-proxy-v2",
        send: Some("send-proxy-v2"),
        to: "127.0.0.1",
    },
    Case {
        name: "nginx's stream",
        send: None,
        to: "127.0.0.1",
    },
    Case {
        name: "nginx's stream over IPv6",
        send: None,
        to: "::1",
    },
];

fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// Starts a balancer that listens on `port` for IPv4 and IPv6.
fn start(lab: &Lab, case: &Case, port: u16, dir: &TempDir) -> Service {
    let target = format!("{}:{}", bracketed(case.to), lab.port());
    let mut service = match case.send {
        Some(send) => {
            let file = dir.path().join("haproxy.cfg");
            let text = format!(
                "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
                 frontend in\n  bind :::{port} v4v6\n  default_backend proxy\n\
                 backend proxy\n  server one {target} {send}\n"
            );
            fs::write(&file, text).unwrap();
            let mut command = lab.command("haproxy");
            command.arg("-db").arg("-f").arg(&file);
            Service::start("haproxy", &command, dir.path())
        }
        None => {
            let file = dir.path().join("nginx.conf");
            let text = format!(
                "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
                 daemon off; user root; pid {dir}/nginx.pid; error_log stderr;\nevents {{}}\n\
                 stream {{ server {{ listen [::]:{port} ipv6only=off; proxy_pass {target}; proxy_protocol on; }} }}\n",
                dir = dir.path().display()
            );
            fs::write(&file, text).unwrap();
            let mut command = lab.command("nginx");
            command.arg("-p").arg(dir.path()).arg("-c").arg(&file);
            Service::start("nginx", &command, dir.path())
        }
    };
    service.wait_until(|| is_listening(port));
    service
}

#[test]
fn clients_of_both_ip_versions_are_served_and_logged() {
    let lab = Lab::behind_balancers();
    let login = format!("{USER}:{PASSWORD}");
    for (earlier, case) in CASES.iter().enumerate() {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let _balancer = start(&lab, case, port, &dir);
        for client in CLIENTS {
            let mut curl = lab.command("curl");
            curl.args(["--silent", "--show-error", "--output", "/dev/null"])
                .args(["--write-out", "%{http_code}", "--user", &login])
                .args(["--interface", client, "--cacert"])
                .arg(lab.certs().ca())
                .arg("--connect-to")
                .arg(format!(
                    "localhost:443:{}:{port}",
                    match client {
                        "::1" => "[::1]",
                        _ => "127.0.0.1",
                    }
                ))
                .arg("https://localhost/v2/");
            let status = run(&curl).succeeds();
            assert_eq!(status, "200", "{} from {client}", case.name);
            let words = format!(" client={client} ");
            wait_until(&format!("{}: the access log has{words}", case.name), || {
                let log = lab.access_log();
                log.iter().filter(|line| line.contains(&words)).count() == earlier + 1
            });
        }
    }
}

/// Connections of one client, which offers the session of its last connection.
const CONNECTIONS: usize = 20;

/// HAProxy sends the connections of a client to two copies of the proxy in turn. With shared ticket keys every connection but the
/// first resumes the session of the connection before it, at the other copy; without them none does.
#[test]
fn a_client_resumes_its_session_at_any_copy_behind_haproxy() {
    let lab = Lab::behind_balancers();
    for version in ["-tls1_2", "-tls1_3"] {
        assert_eq!(resumed(&lab, version, true), CONNECTIONS - 1, "{version}");
        assert_eq!(resumed(&lab, version, false), 0, "{version}");
    }
}

/// How many of the connections resume a session.
fn resumed(lab: &Lab, version: &str, is_shared: bool) -> usize {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let base = fs::read_to_string(lab.path("proxy.toml")).unwrap();
    let mut servers = String::new();
    let mut copies = Vec::new();
    for name in ["one", "two"] {
        let port = free_port();
        let mut config = base.replace(&format!(":{}\"", lab.port()), &format!(":{port}\""));
        config = config.replace(&lab.admin(), &format!("127.0.0.1:{}", free_port()));
        let state = dir.path().join(name);
        fs::create_dir(&state).unwrap();
        config = config.replace(lab.path("state").to_str().unwrap(), state.to_str().unwrap());
        if is_shared {
            let keys = dir.path().join("tickets");
            config = format!("[tls]\nticket_keys = \"{}\"\n{config}", keys.display());
        }
        let file = state.join("proxy.toml");
        fs::write(&file, config).unwrap();
        let mut command = lab.command(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "-c"]).arg(&file);
        let mut copy = Service::start(name, &command, dir.path());
        copy.wait_until(|| is_listening(port));
        copies.push(copy);
        servers.push_str(&format!("  server {name} 127.0.0.1:{port} send-proxy-v2\n"));
    }
    let port = free_port();
    let file = dir.path().join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend in\n  bind 127.0.0.1:{port}\n  default_backend copies\n\
         backend copies\n  balance roundrobin\n{servers}"
    );
    fs::write(&file, text).unwrap();
    let mut command = lab.command("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let mut haproxy = Service::start("haproxy", &command, dir.path());
    haproxy.wait_until(|| is_listening(port));

    let request = dir.path().join("request");
    let head = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    fs::write(&request, head).unwrap();
    let session = dir.path().join("session");
    let mut count = 0;
    for _ in 0..CONNECTIONS {
        let mut openssl = lab.command("openssl");
        openssl.args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{port}"),
            version,
        ]);
        openssl.args(["-servername", "localhost", "-ign_eof", "-CAfile"]);
        openssl.arg(lab.certs().ca()).arg("-sess_out").arg(&session);
        if session.exists() {
            openssl.arg("-sess_in").arg(&session);
        }
        let said = run_with_input(&openssl, fs::File::open(&request).unwrap().into()).succeeds();
        assert!(said.contains("401 Unauthorized"), "{said}");
        let is_new = said.contains("\nNew, ");
        assert!(is_new || said.contains("\nReused, "), "{said}");
        count += usize::from(!is_new);
    }
    count
}

/// The files of `examples/fleet`, with a user and a program of this machine. keepalived reports everything that
/// it does not understand, and then exits with an error.
#[test]
fn haproxy_and_keepalived_accept_the_examples() {
    let dir = TempDir::new().unwrap();
    let example = |name: &str| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
        fs::read_to_string(format!("{root}/{name}")).unwrap()
    };
    for name in ["fleet/haproxy.cfg", "swarm/haproxy.cfg"] {
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, example(name)).unwrap();
        let mut haproxy = command("haproxy", dir.path());
        let said = run(haproxy.arg("-c").arg("-f").arg(&file));
        let story = said.story().to_owned();
        said.succeeds();
        assert!(!story.contains("WARNING"), "{story}");
    }
    let mut text = example("fleet/keepalived.conf");
    for (of_the_example, here) in [
        ("script_user tidegate", "script_user root"),
        ("/usr/bin/tidegate", "/usr/bin/env"),
    ] {
        assert!(text.contains(of_the_example), "{of_the_example}");
        text = text.replace(of_the_example, here);
    }
    let file = dir.path().join("keepalived.conf");
    fs::write(&file, text).unwrap();
    // The interface of the example, in a network namespace of its own.
    let mut keepalived = command("unshare", dir.path());
    let script = "ip link add eth0 type bridge && exec keepalived --config-test --use-file \"$1\"";
    keepalived.args(["--net", "sh", "-c", script, "sh"]);
    let said = run(keepalived.arg(&file));
    let story = said.story().to_owned();
    said.succeeds();
    assert!(!story.contains("(Line"), "{story}");
}
