//! Counts and logs TLS handshakes that failed.
//!
//! `connection` calls it. A failed handshake is logged at level info, because the log is the only place where an operator sees
//! that clients do not trust a certificate: such a client never sends a request. Anyone can cause these lines without
//! credentials, so each kind of line is rate-limited; the field `left_out` has the number of lines of the same kind that were
//! suppressed before the line.

use std::time::Instant;

use crate::metrics::{AlertSender, Connections, TlsAlert};
use crate::net::addr::ClientAddr;
use crate::tls::{HandshakeError, HandshakeFailure};

/// Reports a handshake that was not complete within `limits.handshake`.
pub(crate) fn timed_out(metrics: &Connections, client: ClientAddr) {
    metrics.handshake_timeout.count();
    if let Some(left_out) = metrics.handshake_timeout_lines.take_line(Instant::now()) {
        let left_out = nonzero(left_out);
        tracing::info!(%client, left_out, "no TLS handshake within limits.handshake");
    }
}

/// Reports a handshake that ended with an error. A handshake of a certificate authority that validates a tls-alpn-01 challenge
/// ends in this way, too, and is no failure.
pub(crate) fn failed<IO>(metrics: &Connections, client: ClientAddr, error: &HandshakeError<IO>) {
    match error {
        HandshakeError::Challenge => {
            tracing::info!(%client, "responded to a certificate authority (tls-alpn-01)");
        }
        HandshakeError::PlainHttp(_) => {
            metrics.handshake_plain_http.count();
            if let Some(left_out) = metrics.plain_http_lines.take_line(Instant::now()) {
                let left_out = nonzero(left_out);
                tracing::info!(%client, left_out, "plain HTTP on a TLS port");
            }
        }
        HandshakeError::Closed => {
            metrics.handshake_closed.count();
            tracing::debug!(%client, "the client closed the connection during the handshake");
        }
        HandshakeError::Io(error) => {
            metrics.handshake_failed.count();
            tracing::debug!(%client, %error, "the connection failed during the handshake");
        }
        HandshakeError::NoCertificate { server_name } => {
            let alert = AlertReport {
                sender: AlertSender::Proxy,
                alert: TlsAlert::UnrecognizedName,
                server_name: server_name.as_deref(),
                reason: "there is no certificate for this name yet",
                error: None,
            };
            alert.report(metrics, client);
        }
        HandshakeError::Tls(failure) => AlertReport::new(failure).report(metrics, client),
    }
}

/// A handshake that ended with a TLS alert.
struct AlertReport<'a> {
    sender: AlertSender,
    alert: TlsAlert,
    server_name: Option<&'a str>,
    reason: &'static str,
    /// The error of rustls, which has more detail than the alert, if the proxy sent the alert.
    error: Option<String>,
}

impl<'a> AlertReport<'a> {
    fn new(failure: &'a HandshakeFailure) -> Self {
        Self {
            sender: failure.sender,
            alert: failure.alert,
            server_name: failure.server_name.as_deref(),
            reason: failure.reason(),
            error: match failure.sender {
                AlertSender::Client => None,
                AlertSender::Proxy => Some(failure.error.to_string()),
            },
        }
    }

    fn report(self, metrics: &Connections, client: ClientAddr) {
        metrics.handshake_failed.count();
        let lines = metrics.alerts.count(self.sender, self.alert);
        let Some(left_out) = lines.and_then(|lines| lines.take_line(Instant::now())) else {
            return;
        };
        tracing::info!(
            %client,
            server_name = self.server_name,
            alert = self.alert.as_str(),
            sent_by = self.sender.as_str(),
            error = self.error,
            left_out = nonzero(left_out),
            "TLS handshake failed: {}",
            self.reason
        );
    }
}

/// The field `left_out` is absent where it would be zero.
fn nonzero(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}
