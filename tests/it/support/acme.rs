//! An ACME server (RFC 8555) over real TLS that issues every certificate at once, and that fails when a test says so.
//!
//! This server does not check whether a host leads to the proxy. Pebble checks that in `tests/real`.

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

/// A running ACME server.
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

/// What the server has recorded, and how it is to respond.
#[derive(Default)]
pub(crate) struct State {
    /// The number of accounts that were created, including the forgotten ones.
    pub(crate) accounts: usize,
    forgotten: usize,
    /// The payload of each order, including rejected orders.
    pub(crate) orders: Vec<Value>,
    issued: Vec<String>,
    /// Orders for these hosts are rejected with this status line, these header lines and this problem type.
    pub(crate) rejected_hosts: HashMap<String, (&'static str, &'static str, &'static str)>,
    /// Whether responses to orders are withheld.
    pub(crate) is_held: bool,
    /// How many more requests are rejected with `badNonce`.
    pub(crate) bad_nonces: usize,
    /// The suggested renewal window (RFC 9773). If `None`, the server does not offer renewal information.
    pub(crate) window: Option<(String, String)>,
    /// The certificate identifiers of the requests for renewal information.
    pub(crate) renewal_info_requests: Vec<String>,
}

impl State {
    /// The first host of each order.
    pub(crate) fn hosts(&self) -> Vec<&str> {
        let hosts = self.orders.iter();
        hosts
            .filter_map(|order| order["identifiers"][0]["value"].as_str())
            .collect()
    }

    /// Makes the server forget all of its accounts.
    pub(crate) fn forget(&mut self) {
        self.forgotten = self.accounts;
    }
}

impl Directory {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let registry = Registry::start(move |exchange| own.respond(exchange));
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

    /// Sends the withheld responses to orders, and withholds no more.
    pub(crate) fn release(&self) {
        self.state().is_held = false;
        self.shared.changed.notify_all();
    }
}

/// The status line, the header lines and the body.
type ResponseParts = (&'static str, String, String);

impl Shared {
    fn respond(&self, exchange: &mut Exchange<'_>) {
        let body = exchange.body();
        let head = exchange.head.clone();
        let mut headers = head.headers.iter();
        let host = headers.find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let base = format!("https://{}", host.unwrap().1);
        let (status, header_lines, text) = self.route(&head.target, &base, &body);
        let kind = if status.starts_with('4') {
            "application/problem+json"
        } else {
            "application/json"
        };
        let length = text.len();
        let body = if head.method == "HEAD" { "" } else { &text };
        exchange.send(format!(
            "HTTP/1.1 {status}\r\nReplay-Nonce: bm9uY2U\r\nContent-Type: {kind}\r\n{header_lines}Content-Length: {length}\r\n\r\n{body}"
        ));
    }

    fn route(&self, target: &str, base: &str, body: &[u8]) -> ResponseParts {
        let mut parts = target.trim_start_matches('/').split('/');
        let (resource, id) = (parts.next().unwrap(), parts.next().unwrap_or_default());
        let mut state = self.state.lock().unwrap();
        match resource {
            "dir" => return directory(base, state.window.is_some()),
            "nonce" => return ("200 OK", String::new(), String::new()),
            "info" => {
                state.renewal_info_requests.push(id.to_owned());
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
        if resource == "account" {
            state.accounts += 1;
            let location = format!("Location: {base}/account/{}\r\n", state.accounts);
            return (
                "201 Created",
                location,
                json!({ "status": "valid" }).to_string(),
            );
        }
        let kid = decode_part(&jws, "protected")["kid"]
            .as_str()
            .unwrap()
            .to_owned();
        let account: usize = kid.rsplit('/').next().unwrap().parse().unwrap();
        if account <= state.forgotten {
            return problem("400 Bad Request", "", "accountDoesNotExist");
        }
        match resource {
            "order" if !id.is_empty() => {
                let order = order_object(base, id.parse().unwrap(), "valid");
                ("200 OK", String::new(), order.to_string())
            }
            "order" => {
                let order = decode_part(&jws, "payload");
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
                if let Some((status, header_lines, kind)) = state.rejected_hosts.get(&host) {
                    return problem(status, header_lines, kind);
                }
                state.issued.push(host);
                let number = state.issued.len();
                let location = format!("Location: {base}/order/{number}\r\n");
                let mut response = order_object(base, number, "ready");
                response["replaces"] = order["replaces"].clone();
                ("201 Created", location, response.to_string())
            }
            "finalize" => {
                let number: usize = id.parse().unwrap();
                let csr = decode_part(&jws, "payload")["csr"]
                    .as_str()
                    .unwrap()
                    .to_owned();
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
                    order_object(base, number, "valid").to_string(),
                )
            }
            "certificate" => {
                let number: usize = id.parse().unwrap();
                ("200 OK", String::new(), state.issued[number - 1].clone())
            }
            other => panic!("{other} is not known"),
        }
    }
}

fn directory(base: &str, has_info: bool) -> ResponseParts {
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

fn order_object(base: &str, number: usize, status: &str) -> Value {
    json!({
        "status": status,
        "authorizations": [],
        "finalize": format!("{base}/finalize/{number}"),
        "certificate": format!("{base}/certificate/{number}"),
    })
}

fn problem(status: &'static str, header_lines: &str, kind: &str) -> ResponseParts {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let text = json!({ "type": kind, "detail": "as the test wants it" });
    (status, header_lines.to_owned(), text.to_string())
}

fn decode_part(jws: &Value, part: &str) -> Value {
    let text = Base64UrlUnpadded::decode_vec(jws[part].as_str().unwrap()).unwrap();
    // The payload of a POST-as-GET request (RFC 8555 section 6.3) is empty.
    serde_json::from_slice(&text).unwrap_or_default()
}
