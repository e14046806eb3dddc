//! One line for each request, and its part of the metrics: who asked for what, what came of it, and how long it took.
//!
//! `service` opens a [`Record`] when a request begins; the line is written when the record is dropped,
//! which is when the last byte of the answer is out, or when nobody waits for it any more. It never
//! holds a query, a credential or a header's value, and control bytes are escaped.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::addr::{ClientAddr, PeerAddr};
use crate::body::{self, Cut, End, Observer, Received};
use crate::log::Sink;
use crate::metrics::{self, Board, Reason, Refused, Running, Shard};
use crate::registry::{Action, Operation};

mod line;
mod shown;

pub use line::lost_line;
use line::{as_json, as_text};

/// Where and how the lines are written.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// The log's writing end.
    pub sink: Sink,
    /// One JSON object a line, else words.
    pub json: bool,
}

/// What is known of one request so far.
#[derive(Debug)]
pub struct Record {
    log: Option<AccessLog>,
    began: Instant,
    received: Arc<Received>,
    is_client_gone: bool,
    shard: Arc<Shard>,
    operation: metrics::Operation,
    /// While it is on the board of what moves.
    running: Option<Running>,
    facts: Facts,
}

/// The fields of a line, in its order.
#[derive(Debug, Default)]
struct Facts {
    client: String,
    peer: String,
    site: String,
    certificate: String,
    user: String,
    action: &'static str,
    repository: String,
    method: String,
    path: String,
    protocol: &'static str,
    status: u16,
    bytes_out: u64,
    upstream_ms: Option<u128>,
    refused: String,
    ended: &'static str,
    request_id: String,
}

impl Record {
    /// A request begins; until its site is known, it is counted in `shard`.
    pub fn begin(
        log: Option<&AccessLog>,
        client: ClientAddr,
        received: Arc<Received>,
        id: &str,
        shard: Arc<Shard>,
    ) -> Self {
        let facts = Facts {
            status: CLIENT_GONE,
            ended: CLIENT_ABORT,
            client: client.to_string(),
            request_id: id.to_owned(),
            ..Facts::default()
        };
        Self {
            log: log.cloned(),
            began: Instant::now(),
            received,
            is_client_gone: false,
            shard,
            operation: metrics::Operation::default(),
            running: None,
            facts,
        }
    }

    /// Whom the socket leads to, when that is not the client.
    pub fn peer(&mut self, peer: PeerAddr, client: ClientAddr) {
        if peer.ip() != client.ip() {
            self.facts.peer = peer.ip().to_string();
        }
    }

    /// The subject of the client's certificate.
    pub fn certificate(&mut self, subject: &str) {
        subject.clone_into(&mut self.facts.certificate);
    }

    /// What the request line says; the path without its query.
    pub fn request(&mut self, parts: &http::request::Parts) {
        parts.method.as_str().clone_into(&mut self.facts.method);
        parts.uri.path().clone_into(&mut self.facts.path);
        self.facts.protocol = match parts.version {
            http::Version::HTTP_2 => "HTTP/2.0",
            http::Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
    }

    /// The site is known, which counts in `shard`.
    pub fn site(&mut self, name: &str, shard: Arc<Shard>) {
        name.clone_into(&mut self.facts.site);
        self.shard = shard;
    }

    /// The user is verified.
    pub fn user(&mut self, name: Option<&str>) {
        name.unwrap_or_default().clone_into(&mut self.facts.user);
    }

    /// The operation is known.
    pub fn operation(&mut self, operation: Option<&Operation>) {
        let Some(operation) = operation else { return };
        self.facts.action = operation.action().as_str();
        let repository = operation.repository().unwrap_or_default();
        repository.clone_into(&mut self.facts.repository);
        self.operation = match operation.action() {
            Action::Ping => metrics::Operation::Ping,
            Action::Pull => metrics::Operation::Pull,
            Action::Push => metrics::Operation::Push,
            Action::Delete => metrics::Operation::Delete,
            Action::Catalog => metrics::Operation::Catalog,
        };
    }

    /// A token is asked for.
    pub fn token(&mut self) {
        self.operation = metrics::Operation::Token;
    }

    /// The upstream's head came after `waited`.
    pub fn upstream(&mut self, waited: std::time::Duration) {
        self.facts.upstream_ms = Some(waited.as_millis());
        self.shard.upstream(waited);
    }

    /// The gate answers itself, and why; the board shows it, unless that is how every login begins.
    pub fn refused(&mut self, why: &dyn std::fmt::Display, reason: Reason, board: &Board) {
        self.shard.refused(reason);
        if reason == Reason::ClientGone {
            // What is answered now nobody reads.
            self.is_client_gone = true;
            return;
        }
        self.facts.refused = why.to_string();
        if reason != Reason::NoCredentials {
            let facts = &self.facts;
            board.refused(|| Refused {
                at: SystemTime::now(),
                client: facts.client.clone(),
                user: facts.user.clone(),
                site: facts.site.clone(),
                asked: format!("{} {}", facts.method, facts.path),
                reason,
                why: facts.refused.clone(),
            });
        }
    }

    /// The head of the answer is decided; the body may still break off.
    pub fn status(&mut self, status: http::StatusCode) {
        if !self.is_client_gone {
            self.facts.status = status.as_u16();
        }
    }

    fn line(&self, json: bool) -> String {
        let numbers = [
            ("status", u128::from(self.facts.status)),
            ("bytes_in", u128::from(self.received.bytes())),
            ("bytes_out", u128::from(self.facts.bytes_out)),
            ("ms", self.began.elapsed().as_millis()),
        ];
        let words = self.facts.words();
        if json {
            as_json(&words, &numbers, self.facts.upstream_ms)
        } else {
            as_text(&words, &numbers, self.facts.upstream_ms)
        }
    }
}

impl Facts {
    fn words(&self) -> [(&'static str, &str); 13] {
        [
            ("client", &self.client),
            ("peer", &self.peer),
            ("site", &self.site),
            ("certificate", &self.certificate),
            ("user", &self.user),
            ("action", self.action),
            ("repository", &self.repository),
            ("method", &self.method),
            ("path", &self.path),
            ("protocol", self.protocol),
            ("refused", &self.refused),
            ("ended", self.ended),
            ("request_id", &self.request_id),
        ]
    }
}

impl Observer for Record {
    fn moved(&mut self, bytes: usize) {
        self.shard.sent(self.operation, bytes as u64);
        if let Some(running) = &self.running {
            running.transfer.sent(bytes as u64);
        }
    }

    fn ended(mut self: Box<Self>, bytes: u64, end: End<'_>) {
        self.facts.bytes_out = bytes;
        self.facts.ended = match end {
            End::Whole if self.is_client_gone => CLIENT_ABORT,
            End::Whole => "",
            End::Broken(error) => culprit(error),
            End::Dropped => CLIENT_ABORT,
        };
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Whose body is dropped has left, unless it was the gate that let go.
        if self.facts.ended == CLIENT_ABORT && !self.is_client_gone {
            self.facts.ended = match self.received.cut() {
                Some(Cut::Drain) => "drain",
                Some(Cut::Timeout) => TIMEOUT,
                None if std::thread::panicking() => "panic",
                None => CLIENT_ABORT,
            };
        }
        self.shard
            .request(self.operation, self.facts.status, self.began.elapsed());
        self.shard.broken(self.facts.ended);
        if let Some(log) = &self.log {
            log.sink.write(self.line(log.json).into_bytes());
        }
    }
}

/// Who broke an answer off.
fn culprit(error: &body::Error) -> &'static str {
    use body::Error as E;
    match error {
        E::Client(_) => CLIENT_ABORT,
        E::Idle(_) | E::Slow(_) | E::Silent(_) => TIMEOUT,
        E::Upstream(_) | E::TooLarge { .. } => "upstream_abort",
    }
}

const CLIENT_ABORT: &str = "client_abort";
const TIMEOUT: &str = "timeout";
/// nginx's status for a client that left before its answer; here, for any request without one.
const CLIENT_GONE: u16 = 499;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::addr::PeerAddr;
    use crate::log::Destination;

    /// How a request ended that was under way when `end` was done.
    fn ended(end: impl FnOnce(&Received)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lost = |_| String::new();
        let log = AccessLog {
            sink: Sink::open(Destination::File(path.clone()), lost).unwrap(),
            json: false,
        };
        let received = Arc::<Received>::default();
        let client = PeerAddr::new("192.0.2.1:1".parse().unwrap()).client();
        let record = Record::begin(
            Some(&log),
            client,
            Arc::clone(&received),
            "id",
            Arc::default(),
        );
        let _caught = catch_unwind(AssertUnwindSafe(|| {
            let _record = record;
            end(&received);
        }));
        drop(log);
        let line = std::fs::read_to_string(path).unwrap();
        let mut words = line.split(' ');
        let word = words.find_map(|word| word.strip_prefix("ended="));
        word.unwrap_or_default().to_owned()
    }

    #[test]
    fn who_ended_a_request_is_told() {
        assert_eq!(ended(|_| ()), "client_abort");
        assert_eq!(ended(|received| received.note_cut(Cut::Drain)), "drain");
        assert_eq!(ended(|received| received.note_cut(Cut::Timeout)), "timeout");
        assert_eq!(ended(|_| panic!("as it was told to")), "panic");
    }
}
