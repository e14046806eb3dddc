//! A stand-in for the parts of Harbor, up to version 2.2, that clients talk to: an inner proxy on plain HTTP, which sends
//! `X-Forwarded-Proto: http` to the registry whatever it received, and a token service, whose certificate the registry trusts.
//!
//! `lab` starts both in mode "upstream". Harbor itself consists of a dozen containers. The registry behind the stand-in is the
//! real one, and verifies the tokens itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::json;

use super::{PASSWORD, USER, process, run};

/// The inner proxy and the token service. They serve until the test process ends.
pub(crate) struct Harbor {
    port: u16,
    issuer: Arc<Issuer>,
}

struct Issuer {
    dir: PathBuf,
    certificate: String,
    count: AtomicUsize,
    /// The request line and the `Host` of every request.
    requests: Mutex<Vec<(String, String)>>,
}

impl Harbor {
    /// Starts the inner proxy and the token service in front of a registry. Their keys and temporary files are in `dir`.
    pub(super) fn start(dir: &Path, registry: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let certificate = std::fs::read_to_string(dir.join(CERTIFICATE)).unwrap();
        let certificate = certificate.lines().filter(|line| !line.starts_with("--"));
        let issuer = Arc::new(Issuer {
            dir: dir.to_owned(),
            certificate: certificate.collect(),
            count: AtomicUsize::new(0),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&issuer);
        thread::spawn(move || {
            for client in listener.incoming() {
                let issuer = Arc::clone(&shared);
                thread::spawn(move || issuer.serve(client.unwrap(), registry));
            }
        });
        Self { port, issuer }
    }

    /// Creates the key that signs tokens, and the certificate with which the registry verifies them.
    pub(super) fn make_key(dir: &Path) {
        let arguments = format!(
            "req -x509 -days 2 -nodes -newkey rsa:2048 -subj /CN=harbor-token-issuer -keyout {KEY} -out {CERTIFICATE}"
        );
        openssl(dir, &arguments);
    }

    /// The `auth` section of the registry's configuration. Its realm has a host and a port that only Harbor itself can resolve.
    pub(super) fn registry_config(dir: &Path) -> String {
        format!(
            "auth:\n  token:\n    realm: http://registry.test:5080/service/token\n    service: harbor-registry\n    \
             issuer: harbor-token-issuer\n    rootcertbundle: {}\n",
            dir.join(CERTIFICATE).display()
        )
    }

    /// The port on which the inner proxy listens for plain HTTP.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The `Host` of each request whose request line begins with `prefix`.
    pub(crate) fn hosts_of_requests(&self, prefix: &str) -> Vec<String> {
        let requests = self.issuer.requests.lock().unwrap();
        let hosts = requests.iter().filter(|(line, _)| line.starts_with(prefix));
        hosts.map(|(_, host)| host.clone()).collect()
    }
}

impl Issuer {
    /// Serves one request; every response has `Connection: close`.
    fn serve(&self, client: TcpStream, registry: u16) {
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let Some(head) = read_head(&mut reader) else {
            return;
        };
        let host = field(&head, "host").unwrap_or_default();
        self.requests.lock().unwrap().push((head[0].clone(), host));
        if head[0].starts_with("GET /service/token") {
            self.respond_with_token(client, &head);
        } else {
            forward(client, reader, &head, registry);
        }
    }

    fn respond_with_token(&self, mut client: TcpStream, head: &[String]) {
        let login = Base64::encode_string(format!("{USER}:{PASSWORD}").as_bytes());
        let is_user = field(head, "authorization") == Some(format!("Basic {login}"));
        let (status, body) = if is_user {
            let token = self.token(head[0].split(' ').nth(1).unwrap());
            ("200 OK", json!({"token": token, "expires_in": 300}))
        } else {
            let error = json!({"code": "UNAUTHORIZED", "message": "authentication required"});
            ("401 Unauthorized", json!({"errors": [error]}))
        };
        let body = body.to_string();
        // The client may have closed the connection.
        let _ = write!(
            client,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }

    /// A token that grants every requested scope: the tests are about how clients get a token, not about rights.
    fn token(&self, target: &str) -> String {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let scopes = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="));
        let scopes: Vec<_> = scopes.map(percent_decode).collect();
        let access: Vec<_> = scopes
            .iter()
            .flat_map(|scopes| scopes.split(' '))
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let actions: Vec<_> = actions.split(',').collect();
                Some(json!({"type": kind, "name": name, "actions": actions}))
            })
            .collect();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": "harbor-token-issuer", "aud": "harbor-registry", "sub": USER, "jti": number.to_string(),
            "iat": now, "nbf": now - 5, "exp": now + 300, "access": access,
        });
        let parts = [head, claims]
            .map(|part| Base64UrlUnpadded::encode_string(part.to_string().as_bytes()));
        let signed_part = parts.join(".");
        let (plain, signed) = (format!("token-{number}"), format!("token-{number}.sig"));
        std::fs::write(self.dir.join(&plain), &signed_part).unwrap();
        openssl(
            &self.dir,
            &format!("dgst -sha256 -sign {KEY} -out {signed} {plain}"),
        );
        let signature = std::fs::read(self.dir.join(signed)).unwrap();
        format!(
            "{signed_part}.{}",
            Base64UrlUnpadded::encode_string(&signature)
        )
    }
}

/// Forwards the request to the registry, with the scheme of the connection to the inner proxy in `X-Forwarded-Proto`.
fn forward(client: TcpStream, mut reader: BufReader<TcpStream>, head: &[String], registry: u16) {
    let mut upstream = TcpStream::connect(("127.0.0.1", registry)).unwrap();
    let mut sent = String::new();
    for line in head {
        let name = line.split(':').next().unwrap_or_default();
        if !["x-forwarded-proto", "connection"].contains(&name.to_ascii_lowercase().as_str()) {
            sent.push_str(line);
            sent.push_str("\r\n");
        }
    }
    sent.push_str("X-Forwarded-Proto: http\r\nConnection: close\r\n\r\n");
    upstream.write_all(sent.as_bytes()).unwrap();
    let mut to = upstream.try_clone().unwrap();
    let up = thread::spawn(move || {
        let mut space = vec![0; 256 * 1024];
        while let Ok(read @ 1..) = reader.read(&mut space) {
            if to.write_all(&space[..read]).is_err() {
                return;
            }
        }
    });
    // Either side may have closed its connection.
    let _ = std::io::copy(&mut upstream, &mut &client);
    // Closing both sockets ends the thread that may still read the client's body.
    let _ = (
        client.shutdown(Shutdown::Both),
        upstream.shutdown(Shutdown::Both),
    );
    up.join().unwrap();
}

/// The lines of a request head, or `None` if the connection ended before a complete head.
fn read_head(reader: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|length| *length > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Some(lines);
        }
        lines.push(line.to_owned());
    }
}

fn field(head: &[String], name: &str) -> Option<String> {
    let mut fields = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some(value.trim().to_owned())
}

/// Decodes a percent-encoded value of a query, in which `+` means a space.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

fn openssl(dir: &Path, arguments: &str) {
    let mut command: Command = process::command("openssl", dir);
    run(command.args(arguments.split_whitespace()).current_dir(dir)).succeeds();
}

const KEY: &str = "issuer.key";
const CERTIFICATE: &str = "issuer.crt";
