//! The access log: one line for each request, and the request's part of the metrics. The line has the client and its user,
//! the operation, the response of the proxy, and how long the request took.
//!
//! `service` creates a [`RequestRecord`] when a request arrives, adds to it what it learns, and attaches it to the
//! response body as an [`Observer`]. The line is written when the record is dropped: when the last byte of the
//! response is sent, or when the transfer is aborted. `Drop` also counts the request in the metrics and ends its
//! entry among the active transfers.
//!
//! A line never contains a query or credentials. Of the header fields it has only `User-Agent` and, if no site serves
//! the request, `Host`. Every text that a client chooses is cut to a bounded length: over HTTP/2, a client can repeat a path of
//! 4 KiB with one byte (RFC 7541 section 6.1), and would otherwise fill a disk at little cost. [`LogLine`] escapes everything that
//! is not plain text.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderValue, USER_AGENT};
use http::{Method, StatusCode, Version, request};

use crate::activity::{ActivityTracker, RejectedRequest, Transfer, TransferGuard};
use crate::body::{self, AbortReason, BodyEnd, Observer, UploadState};
use crate::log::{LogLine, LogWriter, with_line_buffer};
use crate::metrics::{self, RejectionReason, SiteCounts};
use crate::net::addr::{ClientAddr, PeerAddr};
use crate::registry::{Action, Operation};
use crate::text::shorten;

mod request_id;

pub use request_id::RequestId;

/// Where the lines of an access log are written, and in which format.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// The writer of the log.
    pub writer: LogWriter,
    /// Whether each line is a JSON object instead of `key=value` text.
    pub json: bool,
}

/// What is known of one request so far.
#[derive(Debug)]
pub struct RequestRecord {
    log: Option<AccessLog>,
    started: Instant,
    upload: Arc<UploadState>,
    /// The client disconnected before the proxy decided on a response.
    is_client_gone: bool,
    /// The counters of the site; until the site is known, those of requests that match no site.
    counts: Arc<SiteCounts>,
    is_site_known: bool,
    operation: metrics::Operation,
    /// The entry of the request among the active transfers.
    transfer: Option<TransferGuard>,
    fields: LogFields,
}

/// The fields of a line. They are kept as typed values and formatted at the end, if there is an access log at all.
#[derive(Debug)]
struct LogFields {
    client: ClientAddr,
    /// The address of the peer, if the peer is not the client.
    peer: Option<IpAddr>,
    /// The subject of the client's certificate.
    certificate: String,
    /// The verified user.
    user: String,
    /// A user of the password file whose password was wrong or was not checked.
    attempted_user: String,
    action: &'static str,
    repository: String,
    method: Method,
    /// The path without its query, shortened to [`MAX_PATH_BYTES`].
    path: String,
    protocol: &'static str,
    user_agent: Option<HeaderValue>,
    /// The host that the request names, if no site serves it.
    host: String,
    status: u16,
    bytes_out: u64,
    /// How long the upstream took for the head of its response.
    upstream_wait: Option<Duration>,
    /// Why the proxy rejected the request.
    rejection: String,
    /// Which side ended the request before it was complete; empty for a complete request.
    termination: &'static str,
    request_id: RequestId,
}

impl RequestRecord {
    /// Creates the record of a request that has just arrived. Until the site of the request is known, the record
    /// counts in `unknown_site_counts`. The record is boxed, because it moves from `service` into the response body,
    /// and outlives the future that decides on the request.
    pub fn begin(
        log: Option<&AccessLog>,
        client: ClientAddr,
        upload: Arc<UploadState>,
        unknown_site_counts: &Arc<SiteCounts>,
        parts: &request::Parts,
    ) -> Box<Self> {
        Box::new(Self {
            log: log.cloned(),
            started: Instant::now(),
            upload,
            is_client_gone: false,
            counts: Arc::clone(unknown_site_counts),
            is_site_known: false,
            operation: metrics::Operation::default(),
            transfer: None,
            fields: LogFields::new(client, parts),
        })
    }

    /// The id of the request, which also appears in the log of the upstream.
    pub fn id(&self) -> RequestId {
        self.fields.request_id
    }

    /// Sets the peer of the connection, which the line names only if it is not the client.
    pub fn set_peer(&mut self, peer: PeerAddr, client: ClientAddr) {
        self.fields.peer = Some(peer.ip()).filter(|peer| *peer != client.ip());
    }

    /// Sets the subject of the client's certificate.
    pub fn set_certificate(&mut self, subject: &str) {
        subject.clone_into(&mut self.fields.certificate);
    }

    /// Sets the site, whose counters the request uses from here on.
    pub fn set_site(&mut self, counts: &Arc<SiteCounts>) {
        self.counts = Arc::clone(counts);
        self.is_site_known = true;
    }

    /// Sets the verified user.
    pub fn set_user(&mut self, name: Option<&str>) {
        name.unwrap_or_default().clone_into(&mut self.fields.user);
    }

    /// Sets the user that the request names with a password that is wrong or was not checked. The user must exist. A
    /// name that is in no password file must not be logged: it may be a password that was typed into the wrong field.
    pub fn set_attempted_user(&mut self, name: Option<String>) {
        self.fields.attempted_user = name.unwrap_or_default();
    }

    /// Sets the host that the request names. The line has it only if the site is unknown; otherwise it has the name of the
    /// site.
    pub fn set_requested_host(&mut self, host: &str) {
        if !self.is_site_known {
            host.clone_into(&mut self.fields.host);
        }
    }

    /// Sets the operation of the registry API, if the request is one.
    pub fn set_operation(&mut self, operation: Option<&Operation>) {
        let Some(operation) = operation else { return };
        self.fields.action = operation.action().as_str();
        let repository = operation.repository().unwrap_or_default();
        repository.clone_into(&mut self.fields.repository);
        self.operation = match operation.action() {
            Action::Ping => metrics::Operation::Ping,
            Action::Pull => metrics::Operation::Pull,
            Action::Push => metrics::Operation::Push,
            Action::Delete => metrics::Operation::Delete,
            Action::Catalog => metrics::Operation::Catalog,
        };
    }

    /// Records that the request opens a WebSocket.
    pub fn set_websocket(&mut self) {
        self.operation = metrics::Operation::Websocket;
    }

    /// Records that the request asks for a token.
    pub fn set_token_request(&mut self) {
        self.operation = metrics::Operation::Token;
    }

    /// Lists the request among the active transfers until it ends, if it moves content of a repository or opens a WebSocket. The
    /// entry of a WebSocket has its path in place of a repository.
    pub fn start_transfer(&mut self, activity: &Arc<ActivityTracker>) {
        let fields = &self.fields;
        let subject = match self.operation {
            metrics::Operation::Pull | metrics::Operation::Push => Some(&*fields.repository),
            metrics::Operation::Websocket => Some(&*fields.path),
            _ => None,
        };
        if let Some(subject) = subject {
            let client = fields.client.to_string();
            let texts = [&*fields.user, &*client, self.site_name(), subject];
            let group = fields.client.network().group();
            let transfer = Transfer::new(self.operation, texts, self.started);
            self.transfer = activity.start_transfer(group, transfer);
        }
    }

    /// The entry of the request among the active transfers.
    pub(crate) fn transfer(&self) -> Option<&Transfer> {
        self.transfer.as_ref().map(|guard| &*guard.transfer)
    }

    /// Sets the length of the body that the transfer moves: of the request body if `operation` is a push, of the response
    /// body if it is a pull. The other body of the same request is not what the transfer moves.
    pub fn set_body_length(&self, operation: metrics::Operation, length: Option<u64>) {
        if let (Some(transfer), Some(length)) = (self.transfer(), length)
            && self.operation == operation
        {
            transfer.set_length(length);
        }
    }

    /// The counter of the bytes of the request body.
    pub fn byte_counter(&self) -> ByteCounter {
        ByteCounter {
            counts: Arc::clone(&self.counts),
            operation: self.operation,
            transfer: self
                .transfer
                .as_ref()
                .map(|guard| Arc::clone(&guard.transfer)),
        }
    }

    /// Sets how long the upstream took for the head of its response.
    pub fn set_upstream_wait(&mut self, waited: Duration) {
        self.fields.upstream_wait = Some(waited);
        self.counts.of_thread().record_upstream_wait(waited);
    }

    /// Records that the proxy responds itself, for this reason. The status page lists the rejection, unless it is the
    /// 401 with which every login begins.
    pub fn set_rejection(
        &mut self,
        message: String,
        reason: RejectionReason,
        activity: &ActivityTracker,
    ) {
        self.counts.of_thread().record_rejection(reason);
        // The transfer has ended. An operator must not be able to cut the response with its reason.
        self.transfer = None;
        if reason == RejectionReason::ClientGone {
            // No client receives this response.
            self.is_client_gone = true;
            return;
        }
        self.fields.rejection = message;
        if reason != RejectionReason::NoCredentials {
            let fields = &self.fields;
            let group = fields.client.network().group();
            let now = SystemTime::now();
            activity.record_rejection(group, || RejectedRequest {
                at: now,
                first_at: now,
                count: 1,
                client: fields.client.to_string(),
                user: match fields.user.is_empty() {
                    true => fields.attempted_user.clone(),
                    false => fields.user.clone(),
                },
                site: self.site_name().to_owned(),
                request: format!("{} {}", fields.method, fields.path),
                reason,
                message: fields.rejection.clone(),
            });
        }
    }

    /// Sets the status of the response. The transfer of its body may still fail.
    pub fn set_status(&mut self, status: StatusCode) {
        if !self.is_client_gone {
            self.fields.status = status.as_u16();
        }
    }

    /// The name of the site; empty while the site is unknown.
    fn site_name(&self) -> &str {
        if self.is_site_known {
            self.counts.name()
        } else {
            ""
        }
    }

    /// Writes the line to `buffer`. The comment of `log.access_file` in `proxy.toml` lists the fields.
    fn write(&self, buffer: &mut String, is_json: bool, duration: Duration) {
        let fields = &self.fields;
        let peer = fields.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let method = shorten(fields.method.as_str(), MAX_METHOD_BYTES);
        let user_agent = fields.user_agent.as_ref().map(user_agent_text);
        let mut line = LogLine::begin(buffer, is_json, "INFO", "access");
        line.address("client", fields.client.ip());
        for (key, value) in [
            ("peer", &*peer),
            ("site", self.site_name()),
            ("host", &*fields.host),
            ("certificate", &*fields.certificate),
            ("user", &*fields.user),
            ("attempted_user", &*fields.attempted_user),
            ("action", fields.action),
            ("repository", &*fields.repository),
            ("method", &*method),
            ("path", &*fields.path),
            ("protocol", fields.protocol),
            ("user_agent", user_agent.as_deref().unwrap_or_default()),
            ("rejection", &*fields.rejection),
            ("termination", fields.termination),
            ("request_id", fields.request_id.as_str()),
        ] {
            line.optional_text(key, Some(value).filter(|value| !value.is_empty()));
        }
        line.number("status", u64::from(fields.status));
        line.number("bytes_in", self.upload.bytes());
        line.number("bytes_out", fields.bytes_out);
        line.number("ms", millis(duration));
        line.optional_number("upstream_ms", fields.upstream_wait.map(millis));
        line.end();
    }
}

impl Observer for RequestRecord {
    fn on_data(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.counts.of_thread().add_sent(self.operation, bytes);
        if let Some(guard) = &self.transfer {
            guard.transfer.add_sent(bytes);
        }
    }

    fn on_received(&mut self, bytes: usize) {
        self.upload.add_bytes(bytes);
        let bytes = bytes as u64;
        self.counts.of_thread().add_received(self.operation, bytes);
        if let Some(guard) = &self.transfer {
            guard.transfer.add_received(bytes);
        }
    }

    fn poll_cut(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.transfer()
            .map_or(Poll::Pending, |transfer| transfer.poll_cut(cx))
    }

    fn on_end(mut self: Box<Self>, bytes: u64, end: BodyEnd<'_>) {
        self.fields.bytes_out = bytes;
        self.fields.termination = match end {
            BodyEnd::Whole if self.is_client_gone => CLIENT_ABORT,
            BodyEnd::Whole => "",
            BodyEnd::Broken(error) => termination_of(error),
            BodyEnd::Dropped => CLIENT_ABORT,
        };
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        // A response body that is dropped early means that the client has disconnected, unless the proxy itself
        // aborted the request.
        if self.fields.termination == CLIENT_ABORT && !self.is_client_gone {
            self.fields.termination = match self.upload.abort_reason() {
                Some(AbortReason::Drain) => "drain",
                Some(AbortReason::Timeout) => TIMEOUT,
                None if std::thread::panicking() => "panic",
                None => CLIENT_ABORT,
            };
        }
        let duration = self.started.elapsed();
        let (counts, fields) = (self.counts.of_thread(), &self.fields);
        counts.record_request(self.operation, fields.status, duration);
        if !fields.termination.is_empty() {
            counts.record_abort(fields.termination);
        }
        if let Some(log) = &self.log {
            with_line_buffer(|line| {
                self.write(line, log.json, duration);
                log.writer.write(line.as_bytes());
            });
        }
    }
}

impl LogFields {
    /// The fields that the request head has. Until the proxy decides on a response, `status` and `termination` are those of a
    /// request whose client disconnected.
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
            path: shorten(parts.uri.path(), MAX_PATH_BYTES).into_owned(),
            protocol: match parts.version {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            user_agent: parts.headers.get(USER_AGENT).cloned(),
            host: String::new(),
            status: CLIENT_CLOSED_REQUEST,
            bytes_out: 0,
            upstream_wait: None,
            rejection: String::new(),
            termination: CLIENT_ABORT,
            request_id: RequestId::new(),
        }
    }
}

/// Counts the bytes of one request body, for the site and for the list of active transfers.
#[derive(Debug)]
pub struct ByteCounter {
    counts: Arc<SiteCounts>,
    operation: metrics::Operation,
    transfer: Option<Arc<Transfer>>,
}

impl ByteCounter {
    /// Adds bytes that were received from the client.
    pub fn add_received(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.counts.of_thread().add_received(self.operation, bytes);
        if let Some(transfer) = &self.transfer {
            transfer.add_received(bytes);
        }
    }
}

/// Which side aborted a response whose body failed with `error`.
fn termination_of(error: &body::Error) -> &'static str {
    use body::Error as E;
    match error {
        E::Client(_) | E::Reset => CLIENT_ABORT,
        E::Idle(_) | E::Slow(_) | E::Silent(_) | E::Displaced => TIMEOUT,
        E::Cut => "cut",
        E::Upstream(_) | E::TooLarge { .. } => "upstream_abort",
    }
}

/// The value of a `User-Agent` field as text of a bounded length. Bytes that are not UTF-8 become U+FFFD.
fn user_agent_text(value: &HeaderValue) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    let kept = bytes.get(..MAX_USER_AGENT_BYTES).unwrap_or(bytes);
    let text = String::from_utf8_lossy(kept);
    match kept.len() < bytes.len() {
        true => Cow::Owned(format!("{}…", text.trim_end_matches('\u{fffd}'))),
        false => text,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const CLIENT_ABORT: &str = "client_abort";
const TIMEOUT: &str = "timeout";

/// nginx's status for a request whose client disconnected before the response; here for every request without a
/// response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The part of a path that is logged. The path of a blob has 401 bytes at most: a repository name of 255 bytes and a SHA-512 digest.
const MAX_PATH_BYTES: usize = 1024;

/// The part of a method that is logged. The longest registered method has 17 bytes.
const MAX_METHOD_BYTES: usize = 32;

/// The part of a `User-Agent` field that is logged. The longest one in use is that of docker with its build, kernel and
/// architecture: 170 bytes.
const MAX_USER_AGENT_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::body::AbortReason;
    use crate::log::Destination;
    use crate::net::addr::PeerAddr;

    /// The `termination` of a request whose record is dropped after `end` ran.
    fn termination(end: impl FnOnce(&UploadState)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lost_line = |_| String::new();
        let log = AccessLog {
            writer: LogWriter::open(Destination::File(path.clone()), lost_line).unwrap(),
            json: false,
        };
        let upload = Arc::<UploadState>::default();
        let client = PeerAddr::new("192.0.2.1:1".parse().unwrap()).client();
        let (parts, ()) = http::Request::new(()).into_parts();
        let counts = Arc::new(SiteCounts::new(""));
        let log_to = Some(&log);
        let record = RequestRecord::begin(log_to, client, Arc::clone(&upload), &counts, &parts);
        let _caught = catch_unwind(AssertUnwindSafe(|| {
            let _record = record;
            end(&upload);
        }));
        log.writer.finish();
        let line = std::fs::read_to_string(path).unwrap();
        let mut fields = line.split(' ');
        let value = fields.find_map(|field| field.strip_prefix("termination="));
        value.unwrap_or_default().to_owned()
    }

    #[test]
    fn termination_names_the_side_that_ended_the_request() {
        assert_eq!(termination(|_| ()), "client_abort");
        assert_eq!(
            termination(|upload| upload.record_abort(AbortReason::Drain)),
            "drain"
        );
        assert_eq!(
            termination(|upload| upload.record_abort(AbortReason::Timeout)),
            "timeout"
        );
        assert_eq!(termination(|_| panic!("as the test wants it")), "panic");
    }
}
