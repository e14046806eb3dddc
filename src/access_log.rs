//! One line for each request, and its part of the metrics: who asked for what, what came of it, and how long it took.
//!
//! `service` opens a [`Record`] when a request begins; the line is written when the record is dropped,
//! which is when the last byte of the answer is out, or when nobody waits for it any more. A line never holds a query or a
//! credential, and of the header fields only `User-Agent` and, where no site serves the request, `Host`, both cut to a
//! bounded length. [`LogLine`] escapes what is not plain text.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderValue, USER_AGENT};
use http::{Method, Version, request};

use crate::activity::{ActivityTracker, Refused, TransferGuard};
use crate::body::UploadState;
use crate::log::{LogLine, LogWriter};
use crate::metrics;
use crate::metrics::{Reason, SiteCounts};
use crate::net::addr::{ClientAddr, PeerAddr};
use crate::registry::{Action, Operation};

mod ended;
mod request_id;
mod shown;

use ended::{CLIENT_ABORT, CLIENT_GONE};
pub use request_id::RequestId;

/// Where and how the lines are written.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// The log's writing end.
    pub sink: LogWriter,
    /// One JSON object a line, else words.
    pub json: bool,
}

/// What is known of one request so far.
#[derive(Debug)]
pub struct Record {
    log: Option<AccessLog>,
    began: Instant,
    received: Arc<UploadState>,
    is_client_gone: bool,
    /// Of its site, or of none.
    counts: Arc<SiteCounts>,
    is_site_known: bool,
    operation: metrics::Operation,
    /// While it is on the board of what moves.
    running: Option<TransferGuard>,
    facts: Facts,
}

/// What a line says. Kept as it is and put into words at the end, if there is a line at all: every request has facts.
#[derive(Debug)]
struct Facts {
    client: ClientAddr,
    peer: Option<IpAddr>,
    certificate: String,
    /// The verified user.
    user: String,
    /// A user of the password file whose password was wrong or not looked at.
    attempted_user: String,
    action: &'static str,
    repository: String,
    method: Method,
    path: String,
    protocol: &'static str,
    user_agent: Option<HeaderValue>,
    /// The host that the request names, where no site serves it.
    host: String,
    status: u16,
    bytes_out: u64,
    upstream: Option<Duration>,
    refused: String,
    ended: &'static str,
    request_id: RequestId,
}

impl Record {
    /// A request begins; until its site is known, it is counted in `elsewhere`. In a box, since it outlives the future
    /// that answers the request and is handed on three times.
    pub fn begin(
        log: Option<&AccessLog>,
        client: ClientAddr,
        received: Arc<UploadState>,
        elsewhere: &Arc<SiteCounts>,
        parts: &request::Parts,
    ) -> Box<Self> {
        Box::new(Self {
            log: log.cloned(),
            began: Instant::now(),
            received,
            is_client_gone: false,
            counts: Arc::clone(elsewhere),
            is_site_known: false,
            operation: metrics::Operation::default(),
            running: None,
            facts: Facts::new(client, parts),
        })
    }

    /// The request's name, here and in the upstream's log.
    pub fn id(&self) -> RequestId {
        self.facts.request_id
    }

    /// Whom the socket leads to, when that is not the client.
    pub fn peer(&mut self, peer: PeerAddr, client: ClientAddr) {
        self.facts.peer = Some(peer.ip()).filter(|peer| *peer != client.ip());
    }

    /// The subject of the client's certificate.
    pub fn certificate(&mut self, subject: &str) {
        subject.clone_into(&mut self.facts.certificate);
    }

    /// The site is known, and counts from here on.
    pub fn site(&mut self, counts: &Arc<SiteCounts>) {
        self.counts = Arc::clone(counts);
        self.is_site_known = true;
    }

    /// The user is verified.
    pub fn user(&mut self, name: Option<&str>) {
        name.unwrap_or_default().clone_into(&mut self.facts.user);
    }

    /// The request names this user, who exists, with a password that is wrong or was not looked at. A name that no password
    /// file has must not come here: it may be a password that was typed into the wrong field.
    pub fn attempted_user(&mut self, name: Option<String>) {
        self.facts.attempted_user = name.unwrap_or_default();
    }

    /// The request names this host. It is a field of its own only where there is no site's name.
    pub fn requested_host(&mut self, host: &str) {
        if !self.is_site_known {
            host.clone_into(&mut self.facts.host);
        }
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
    pub fn upstream(&mut self, waited: Duration) {
        self.facts.upstream = Some(waited);
        self.counts.shard().upstream(waited);
    }

    /// The proxy answers itself, for this reason. The board shows it, unless it is the 401 with which every login begins.
    pub fn refused(&mut self, why: String, reason: Reason, board: &ActivityTracker) {
        self.counts.shard().refused(reason);
        if reason == Reason::ClientGone {
            // What is answered now nobody reads.
            self.is_client_gone = true;
            return;
        }
        self.facts.refused = why;
        if reason != Reason::NoCredentials {
            let facts = &self.facts;
            board.refused(facts.client.network().group(), || Refused {
                at: SystemTime::now(),
                client: facts.client.to_string(),
                user: match facts.user.is_empty() {
                    true => facts.attempted_user.clone(),
                    false => facts.user.clone(),
                },
                site: self.site_name().to_owned(),
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

    /// Empty while it is not known.
    fn site_name(&self) -> &str {
        if self.is_site_known {
            self.counts.name()
        } else {
            ""
        }
    }

    /// Writes the line. `log.access_file` in `proxy.toml` lists the fields.
    fn write(&self, buffer: &mut String, is_json: bool, took: Duration) {
        let facts = &self.facts;
        let peer = facts.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let user_agent = facts.user_agent.as_ref().map(user_agent);
        let mut line = LogLine::begin(buffer, is_json, "INFO", "access");
        line.display("client", facts.client);
        for (key, value) in [
            ("peer", &*peer),
            ("site", self.site_name()),
            ("host", &*facts.host),
            ("certificate", &*facts.certificate),
            ("user", &*facts.user),
            ("attempted_user", &*facts.attempted_user),
            ("action", facts.action),
            ("repository", &*facts.repository),
            ("method", facts.method.as_str()),
            ("path", &*facts.path),
            ("protocol", facts.protocol),
            ("user_agent", user_agent.as_deref().unwrap_or_default()),
            ("refused", &*facts.refused),
            ("ended", facts.ended),
            ("request_id", facts.request_id.as_str()),
        ] {
            line.optional_text(key, Some(value).filter(|value| !value.is_empty()));
        }
        line.number("status", u64::from(facts.status));
        line.number("bytes_in", self.received.bytes());
        line.number("bytes_out", facts.bytes_out);
        line.number("ms", millis(took));
        line.optional_number("upstream_ms", facts.upstream.map(millis));
        line.end();
    }
}

impl Facts {
    /// What is known at once; the path without its query.
    fn new(client: ClientAddr, parts: &request::Parts) -> Self {
        Self {
            client,
            peer: None,
            certificate: String::new(),
            user: String::new(),
            attempted_user: String::new(),
            action: "",
            repository: String::new(),
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            protocol: match parts.version {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            user_agent: parts.headers.get(USER_AGENT).cloned(),
            host: String::new(),
            status: CLIENT_GONE,
            bytes_out: 0,
            upstream: None,
            refused: String::new(),
            ended: CLIENT_ABORT,
            request_id: RequestId::new(),
        }
    }
}

/// As text of a bounded length; bytes that are not UTF-8 are shown as U+FFFD.
fn user_agent(value: &HeaderValue) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    let kept = bytes.get(..USER_AGENT_BYTES).unwrap_or(bytes);
    let text = String::from_utf8_lossy(kept);
    match kept.len() < bytes.len() {
        true => Cow::Owned(format!("{}…", text.trim_end_matches('\u{fffd}'))),
        false => text,
    }
}

/// What is kept of a `User-Agent` field. The longest one in use is docker's with its build, kernel and architecture: 170
/// bytes.
const USER_AGENT_BYTES: usize = 256;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::body::AbortReason;
    use crate::log::Destination;
    use crate::net::addr::PeerAddr;

    /// How a request ended that was under way when `end` was done.
    fn ended(end: impl FnOnce(&UploadState)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lost = |_| String::new();
        let log = AccessLog {
            sink: LogWriter::open(Destination::File(path.clone()), lost).unwrap(),
            json: false,
        };
        let received = Arc::<UploadState>::default();
        let client = PeerAddr::new("192.0.2.1:1".parse().unwrap()).client();
        let (parts, ()) = http::Request::new(()).into_parts();
        let elsewhere = Arc::new(SiteCounts::new(""));
        let log_to = Some(&log);
        let record = Record::begin(log_to, client, Arc::clone(&received), &elsewhere, &parts);
        let _caught = catch_unwind(AssertUnwindSafe(|| {
            let _record = record;
            end(&received);
        }));
        log.sink.finish();
        let line = std::fs::read_to_string(path).unwrap();
        let mut words = line.split(' ');
        let word = words.find_map(|word| word.strip_prefix("ended="));
        word.unwrap_or_default().to_owned()
    }

    #[test]
    fn who_ended_a_request_is_told() {
        assert_eq!(ended(|_| ()), "client_abort");
        assert_eq!(
            ended(|received| received.record_abort(AbortReason::Drain)),
            "drain"
        );
        assert_eq!(
            ended(|received| received.record_abort(AbortReason::Timeout)),
            "timeout"
        );
        assert_eq!(ended(|_| panic!("as it was told to")), "panic");
    }
}
