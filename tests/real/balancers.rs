//! HAProxy and nginx's `stream` in front of the proxy, on sockets for both IP versions: clients of IPv4 and of IPv6 are
//! served, and the access log has their addresses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use crate::lab::{Lab, PASSWORD, Service, USER, free_port, is_listening, run, wait_until};

/// Addresses of this machine that clients connect from.
const CLIENTS: [&str; 2] = ["127.0.0.2", "::1"];

/// Which headers a balancer sends, and what it connects to the proxy over.
struct Case {
    name: &'static str,
    /// Of HAProxy, or `None` for nginx.
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

/// A balancer on `port` of both IP versions.
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
fn clients_of_both_versions_are_served_and_logged() {
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
