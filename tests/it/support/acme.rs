//! An ACME directory that issues at once what it is asked for, over real TLS, and fails as it is told. Whether a host
//! leads to the gate it does not ask: Pebble does, in `tests/real`.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::certs::AUTHORITY;
use super::registry::Exchange;
use super::tls_front::TlsFront;
use super::{PATIENCE, Registry};

/// A running directory.
pub(crate) struct Directory {
    shared: Arc<Shared>,
    front: TlsFront,
    _registry: Registry,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What it knows, and what it is to do.
#[derive(Default)]
pub(crate) struct State {
    /// Accounts that were made, those it has forgotten included.
    pub(crate) accounts: usize,
    forgotten: usize,
    /// What was sent with each order, refused ones included.
    pub(crate) orders: Vec<Value>,
    issued: Vec<String>,
    /// Orders for these hosts get this status line, these header lines and this type of problem.
    pub(crate) refused: HashMap<String, (&'static str, &'static str, &'static str)>,
    /// Orders wait for an answer.
    pub(crate) is_held: bool,
    /// So many nonces more are rejected.
    pub(crate) bad_nonces: usize,
    /// When certificates are to be renewed; without it, it offers no such word.
    pub(crate) window: Option<(String, String)>,
    /// Certificates that it was asked about.
    pub(crate) asked: Vec<String>,
}

impl State {
    /// The hosts that were ordered.
    pub(crate) fn hosts(&self) -> Vec<&str> {
        let hosts = self.orders.iter();
        hosts
            .filter_map(|order| order["identifiers"][0]["value"].as_str())
            .collect()
    }

    /// Knows none of its accounts any more.
    pub(crate) fn forget(&mut self) {
        self.forgotten = self.accounts;
    }
}

impl Directory {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let registry = Registry::start(move |exchange| own.answer(exchange));
        let front = TlsFront::start(&registry, &AUTHORITY.issue(&["localhost"]));
        Self {
            shared,
            front,
            _registry: registry,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.front.port())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Orders are answered from now on.
    pub(crate) fn release(&self) {
        self.state().is_held = false;
        self.shared.changed.notify_all();
    }
}

/// Status line, header lines, body.
type Answer = (&'static str, String, String);

impl Shared {
    fn answer(&self, exchange: &mut Exchange<'_>) {
        let body = exchange.body();
        let head = exchange.head.clone();
        let mut headers = head.headers.iter();
        let host = headers.find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let base = format!("https://{}", host.unwrap().1);
        let (status, fields, text) = self.route(&head.target, &base, &body);
        let kind = if status.starts_with('4') {
            "application/problem+json"
        } else {
            "application/json"
        };
        let length = text.len();
        let body = if head.method == "HEAD" { "" } else { &text };
        exchange.send(format!(
            "HTTP/1.1 {status}\r\nReplay-Nonce: bm9uY2U\r\nContent-Type: {kind}\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ));
    }

    fn route(&self, target: &str, base: &str, body: &[u8]) -> Answer {
        let mut parts = target.trim_start_matches('/').split('/');
        let (what, which) = (parts.next().unwrap(), parts.next().unwrap_or_default());
        let mut state = self.state.lock().unwrap();
        match what {
            "dir" => return directory(base, state.window.is_some()),
            "nonce" => return ("200 OK", String::new(), String::new()),
            "info" => {
                state.asked.push(which.to_owned());
                let (start, end) = state.window.clone().unwrap();
                let info = json!({ "suggestedWindow": { "start": start, "end": end } });
                return ("200 OK", "Retry-After: 3600\r\n".into(), info.to_string());
            }
            _ => {}
        }
        if state.bad_nonces > 0 {
            state.bad_nonces -= 1;
            return problem("400 Bad Request", "", "badNonce");
        }
        let jws: Value = serde_json::from_slice(body).unwrap();
        if what == "account" {
            state.accounts += 1;
            let location = format!("Location: {base}/account/{}\r\n", state.accounts);
            return (
                "201 Created",
                location,
                json!({ "status": "valid" }).to_string(),
            );
        }
        let kid = decoded(&jws, "protected")["kid"]
            .as_str()
            .unwrap()
            .to_owned();
        let account: usize = kid.rsplit('/').next().unwrap().parse().unwrap();
        if account <= state.forgotten {
            return problem("400 Bad Request", "", "accountDoesNotExist");
        }
        match what {
            "order" if !which.is_empty() => {
                let state = stand(base, which.parse().unwrap(), "valid");
                ("200 OK", String::new(), state.to_string())
            }
            "order" => {
                let order = decoded(&jws, "payload");
                let host = order["identifiers"][0]["value"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                state.orders.push(order.clone());
                self.changed.notify_all();
                let until = self
                    .changed
                    .wait_timeout_while(state, PATIENCE, |state| state.is_held);
                let mut state = until.unwrap().0;
                if let Some((status, fields, kind)) = state.refused.get(&host) {
                    return problem(status, fields, kind);
                }
                state.issued.push(host);
                let number = state.issued.len();
                let location = format!("Location: {base}/order/{number}\r\n");
                let mut answer = stand(base, number, "ready");
                answer["replaces"] = order["replaces"].clone();
                ("201 Created", location, answer.to_string())
            }
            "finalize" => {
                let number: usize = which.parse().unwrap();
                let csr = decoded(&jws, "payload")["csr"].as_str().unwrap().to_owned();
                let csr = Base64UrlUnpadded::decode_vec(&csr).unwrap();
                let (_, csr) = X509CertificationRequest::from_der(&csr).unwrap();
                let key = &csr
                    .certification_request_info
                    .subject_pki
                    .subject_public_key;
                let host = state.issued[number - 1].clone();
                state.issued[number - 1] = AUTHORITY.issue_for_key(&host, key.data.to_vec());
                (
                    "200 OK",
                    String::new(),
                    stand(base, number, "valid").to_string(),
                )
            }
            "certificate" => {
                let number: usize = which.parse().unwrap();
                ("200 OK", String::new(), state.issued[number - 1].clone())
            }
            other => panic!("{other} is not known"),
        }
    }
}

fn directory(base: &str, has_info: bool) -> Answer {
    let mut directory = json!({
        "newNonce": format!("{base}/nonce"),
        "newAccount": format!("{base}/account"),
        "newOrder": format!("{base}/order"),
    });
    if has_info {
        directory["renewalInfo"] = format!("{base}/info").into();
    }
    ("200 OK", String::new(), directory.to_string())
}

fn stand(base: &str, number: usize, status: &str) -> Value {
    json!({
        "status": status,
        "authorizations": [],
        "finalize": format!("{base}/finalize/{number}"),
        "certificate": format!("{base}/certificate/{number}"),
    })
}

fn problem(status: &'static str, fields: &str, kind: &str) -> Answer {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let text = json!({ "type": kind, "detail": "as the test wants it" });
    (status, fields.to_owned(), text.to_string())
}

fn decoded(jws: &Value, part: &str) -> Value {
    let text = Base64UrlUnpadded::decode_vec(jws[part].as_str().unwrap()).unwrap();
    // What is only asked for (POST-as-GET) has no content.
    serde_json::from_slice(&text).unwrap_or_default()
}
