//! What stands in front of the registry inside Harbor up to 2.2: an inner proxy on plain HTTP that tells the registry of
//! `http` whatever it was told, and a token service that the registry trusts by a certificate.
//!
//! Called by `lab` in mode "upstream". Harbor itself is a dozen containers; these two are what clients talk to in it, and
//! the registry behind them is the real one, with its own check of tokens.

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

/// The inner proxy and the token service; they serve until the test's process ends.
pub(crate) struct Harbor {
    port: u16,
    issuer: Arc<Issuer>,
}

struct Issuer {
    dir: PathBuf,
    certificate: String,
    count: AtomicUsize,
    /// Of every request that came: its first line and its `Host`.
    seen: Mutex<Vec<(String, String)>>,
}

impl Harbor {
    /// Starts both in front of a registry; keys and scratch files are kept in `dir`.
    pub(super) fn start(dir: &Path, registry: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let certificate = std::fs::read_to_string(dir.join(CERTIFICATE)).unwrap();
        let certificate = certificate.lines().filter(|line| !line.starts_with("--"));
        let issuer = Arc::new(Issuer {
            dir: dir.to_owned(),
            certificate: certificate.collect(),
            count: AtomicUsize::new(0),
            seen: Mutex::default(),
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

    /// A key for tokens, and the certificate by which the registry knows it.
    pub(super) fn make_key(dir: &Path) {
        let words = format!(
            "req -x509 -days 2 -nodes -newkey rsa:2048 -subj /CN=harbor-token-issuer -keyout {KEY} -out {CERTIFICATE}"
        );
        openssl(dir, &words);
    }

    /// For the registry: whom it sends clients to, by a name and port that are Harbor's own, and whom it believes.
    pub(super) fn registry_config(dir: &Path) -> String {
        format!(
            "auth:\n  token:\n    realm: http://registry.test:5080/service/token\n    service: harbor-registry\n    \
             issuer: harbor-token-issuer\n    rootcertbundle: {}\n",
            dir.join(CERTIFICATE).display()
        )
    }

    /// Where the inner proxy listens, on plain HTTP.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many requests have come whose first line begins so, and which hosts they named.
    pub(crate) fn seen(&self, first: &str) -> Vec<String> {
        let seen = self.issuer.seen.lock().unwrap();
        let hosts = seen.iter().filter(|(line, _)| line.starts_with(first));
        hosts.map(|(_, host)| host.clone()).collect()
    }
}

impl Issuer {
    /// One request a connection, which the answer says.
    fn serve(&self, client: TcpStream, registry: u16) {
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let Some(head) = read_head(&mut reader) else {
            return;
        };
        let host = field(&head, "host").unwrap_or_default();
        self.seen.lock().unwrap().push((head[0].clone(), host));
        if head[0].starts_with("GET /service/token") {
            self.give_token(client, &head);
        } else {
            pass(client, reader, &head, registry);
        }
    }

    fn give_token(&self, mut client: TcpStream, head: &[String]) {
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
        let _gone = write!(
            client,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }

    /// Good for all that is asked for: this is about the way to the token, not about rights.
    fn token(&self, target: &str) -> String {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let scopes = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="));
        let scopes: Vec<_> = scopes.map(decoded).collect();
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
        let said = parts.join(".");
        let (plain, signed) = (format!("token-{number}"), format!("token-{number}.sig"));
        std::fs::write(self.dir.join(&plain), &said).unwrap();
        openssl(
            &self.dir,
            &format!("dgst -sha256 -sign {KEY} -out {signed} {plain}"),
        );
        let signature = std::fs::read(self.dir.join(signed)).unwrap();
        format!("{said}.{}", Base64UrlUnpadded::encode_string(&signature))
    }
}

/// On to the registry, with the scheme that the inner proxy itself is spoken to in.
fn pass(client: TcpStream, mut reader: BufReader<TcpStream>, head: &[String], registry: u16) {
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
    let _gone = std::io::copy(&mut upstream, &mut &client);
    // The one who still reads the client's body is done, too.
    let _gone = (
        client.shutdown(Shutdown::Both),
        upstream.shutdown(Shutdown::Both),
    );
    up.join().unwrap();
}

/// The lines of a head; nothing of a connection that was only tried.
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

/// A value of a query.
fn decoded(text: &str) -> String {
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
