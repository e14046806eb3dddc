//! nginx, HAProxy and Caddy as front ends that terminate TLS, with the configurations of `docs/behind-a-balancer.md`: docker
//! logs in, pushes and pulls through each of them, over TCP and over the Unix socket; and WebSockets pass.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use crate::lab::{Docker, Image, Lab, MIB, Service, is_listening, wait_until};
use crate::websocket;

/// How a front end connects to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Unix,
    /// HTTP/2 with prior knowledge, over TCP.
    H2c,
}

#[derive(Clone, Copy, Debug)]
enum FrontEnd {
    Nginx,
    HaProxy,
    Caddy,
}

/// nginx has no HTTP/2 to an upstream.
const CASES: [(FrontEnd, Transport); 8] = [
    (FrontEnd::Nginx, Transport::Tcp),
    (FrontEnd::Nginx, Transport::Unix),
    (FrontEnd::HaProxy, Transport::Tcp),
    (FrontEnd::HaProxy, Transport::Unix),
    (FrontEnd::HaProxy, Transport::H2c),
    (FrontEnd::Caddy, Transport::Tcp),
    (FrontEnd::Caddy, Transport::Unix),
    (FrontEnd::Caddy, Transport::H2c),
];

/// Starts the front end on the port of the lab.
fn start(lab: &Lab, front_end: FrontEnd, transport: Transport, dir: &TempDir) -> Service {
    let (name, file, text) = match front_end {
        FrontEnd::Nginx => ("nginx", "nginx.conf", nginx(lab, transport, dir)),
        FrontEnd::HaProxy => ("haproxy", "haproxy.cfg", haproxy(lab, transport, dir)),
        FrontEnd::Caddy => ("caddy", "Caddyfile", caddy(lab, transport, dir)),
    };
    let path = dir.path().join(file);
    fs::write(&path, text).unwrap();
    let mut command = lab.command(name);
    match front_end {
        FrontEnd::Nginx => command.arg("-p").arg(dir.path()).arg("-c").arg(&path),
        FrontEnd::HaProxy => command.arg("-db").arg("-f").arg(&path),
        FrontEnd::Caddy => command.args(["run", "--config"]).arg(&path),
    };
    let mut service = Service::start(name, &command, &lab.path(""));
    let port = lab.port();
    service.wait_until(|| is_listening(port));
    service
}

fn socket(lab: &Lab) -> String {
    lab.path("http.sock").display().to_string()
}

fn nginx(lab: &Lab, transport: Transport, dir: &TempDir) -> String {
    let target = match transport {
        Transport::Tcp => format!("http://127.0.0.1:{}", lab.inner_port()),
        _ => format!("http://unix:{}:", socket(lab)),
    };
    let (dir, port) = (dir.path().display(), lab.port());
    let (cert, key) = (lab.certs().cert(), lab.certs().key());
    format!(
        "daemon off; user root; pid {dir}/nginx.pid; error_log stderr;\nevents {{}}\n\
         http {{\n  access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxied;\n\
         fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         map $http_upgrade $upgraded {{ default upgrade; \"\" \"\"; }}\n\
         server {{\n  listen [::]:{port} ssl http2 ipv6only=off;\n\
         ssl_certificate {}; ssl_certificate_key {};\n\
         location / {{\n    proxy_pass {target};\n    proxy_http_version 1.1;\n    proxy_request_buffering off;\n\
             proxy_buffering off;\n    client_max_body_size 0;\n    proxy_read_timeout 900s;\n\
             proxy_set_header Host $http_host;\n    proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection $upgraded;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
             proxy_set_header X-Forwarded-Proto $scheme;\n  }}\n}}\n}}\n",
        cert.display(),
        key.display()
    )
}

fn haproxy(lab: &Lab, transport: Transport, dir: &TempDir) -> String {
    let target = match transport {
        Transport::Tcp => format!("127.0.0.1:{}", lab.inner_port()),
        Transport::H2c => format!("127.0.0.1:{} proto h2", lab.inner_port()),
        Transport::Unix => socket(lab),
    };
    let both = dir.path().join("both.pem");
    let read = |path| fs::read_to_string(path).unwrap();
    let text = read(lab.certs().cert()) + &read(lab.certs().key());
    fs::write(&both, text).unwrap();
    format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout tunnel 60s\n\
         frontend in\n  bind :::{} v4v6 ssl crt {} alpn h2,http/1.1\n  default_backend tidegate\n\
         backend tidegate\n  option forwardfor\n  http-request set-header X-Forwarded-Proto https\n  server tidegate {target}\n",
        lab.port(),
        both.display()
    )
}

fn caddy(lab: &Lab, transport: Transport, dir: &TempDir) -> String {
    let target = match transport {
        Transport::Tcp => format!("127.0.0.1:{}", lab.inner_port()),
        Transport::H2c => format!("h2c://127.0.0.1:{}", lab.inner_port()),
        Transport::Unix => format!("unix/{}", socket(lab)),
    };
    format!(
        "{{\n  admin off\n  auto_https off\n  skip_install_trust\n  storage file_system {}\n}}\n\
         https://localhost:{port}, https://registry.test:{port} {{\n  tls {} {}\n  reverse_proxy {target}\n}}\n",
        dir.path().display(),
        lab.certs().cert().display(),
        lab.certs().key().display(),
        port = lab.port(),
    )
}

fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn docker_logs_in_pushes_and_pulls_through_each_front_end() {
    let lab = Lab::behind_front_end();
    let docker = Docker::start(&lab, "docker");
    for (number, (front_end, transport)) in CASES.into_iter().enumerate() {
        let dir = directory();
        let _front_end = start(&lab, front_end, transport, &dir);
        let refused = docker.try_login("wrong").fails();
        assert!(
            refused.contains("401 Unauthorized"),
            "{front_end:?} {transport:?}: {refused}"
        );
        docker.log_in();
        let image = Image::make(&lab.path(&format!("image{number}")), &[5 * MIB, 10]);
        let repository = format!("team/app{number}");
        let reference = docker.load(&image, &repository);
        docker.run(&["push", &reference]).succeeds();
        docker.run(&["rmi", &reference]).succeeds();
        docker.run(&["pull", &reference]).succeeds();
        docker.run(&["rmi", &reference]).succeeds();
        docker.log_out();
        let words = format!(" repository={repository} ");
        wait_until("the access log has the client and the front end", || {
            let log = lab.access_log();
            let mut lines = log.iter().filter(|line| line.contains(&words));
            lines.any(|line| line.contains(" client=::1 ") && line.contains(" status=201 "))
        });
    }
}

#[test]
fn websockets_pass_through_each_front_end() {
    let (lab, _server) = websocket::with_server(Lab::behind_front_end());
    for (front_end, transport) in CASES {
        // On HTTP/2, a WebSocket is an extended CONNECT (RFC 8441), which the proxy does not serve.
        if transport == Transport::H2c {
            continue;
        }
        let dir = directory();
        let _front_end = start(&lab, front_end, transport, &dir);
        assert_eq!(websocket::client(&lab, "refused", false), "401");
        assert_eq!(
            websocket::client(&lab, "talk", true),
            "done",
            "{front_end:?} {transport:?}"
        );
    }
}
