//! Counts and logs a TLS handshake that came to nothing.
//!
//! Called by `connection`. A failed handshake stands in the log at level info, since only there an operator sees that
//! clients do not trust a certificate: such a client never sends a request. Anyone can cause these lines without proving
//! anything, so each kind of them is limited, and `left_out` says how many lines of its kind were not written before it.

use std::time::Instant;

use crate::metrics::{AlertSender, Connections, TlsAlert};
use crate::net::addr::ClientAddr;
use crate::tls::{HandshakeError, HandshakeFailure};

/// The handshake was not done in time.
pub(super) fn late(counts: &Connections, client: ClientAddr) {
    counts.handshake_timeout.count();
    if let Some(left_out) = counts.handshake_timeout_lines.admit(Instant::now()) {
        let left_out = unless_zero(left_out);
        tracing::info!(%client, left_out, "no TLS handshake within limits.handshake");
    }
}

/// The handshake ended with an error, or with the answer to a certificate authority.
pub(super) fn failed<IO>(counts: &Connections, client: ClientAddr, error: &HandshakeError<IO>) {
    match error {
        HandshakeError::Challenge => {
            tracing::info!(%client, "answered a certificate authority (tls-alpn-01)");
        }
        HandshakeError::PlainHttp(_) => {
            counts.handshake_plain_http.count();
            if let Some(left_out) = counts.plain_http_lines.admit(Instant::now()) {
                let left_out = unless_zero(left_out);
                tracing::info!(%client, left_out, "plain HTTP on a TLS port");
            }
        }
        HandshakeError::Closed => {
            counts.handshake_closed.count();
            tracing::debug!(%client, "the client closed the connection during the handshake");
        }
        HandshakeError::Io(error) => {
            counts.handshake_failed.count();
            tracing::debug!(%client, %error, "the connection failed during the handshake");
        }
        HandshakeError::NoCertificate { server_name } => {
            let ended = Ended {
                sender: AlertSender::Proxy,
                alert: TlsAlert::UnrecognizedName,
                server_name: server_name.as_deref(),
                reason: "there is no certificate for this name yet",
                error: None,
            };
            ended.tell(counts, client);
        }
        HandshakeError::Tls(failure) => Ended::of(failure).tell(counts, client),
    }
}

/// A handshake that ended with an alert.
struct Ended<'a> {
    sender: AlertSender,
    alert: TlsAlert,
    server_name: Option<&'a str>,
    reason: &'static str,
    /// What rustls says beyond the name of the alert.
    error: Option<String>,
}

impl<'a> Ended<'a> {
    fn of(failure: &'a HandshakeFailure) -> Self {
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

    fn tell(self, counts: &Connections, client: ClientAddr) {
        counts.handshake_failed.count();
        let lines = counts.alerts.count(self.sender, self.alert);
        let Some(left_out) = lines.and_then(|lines| lines.admit(Instant::now())) else {
            return;
        };
        tracing::info!(
            %client,
            server_name = self.server_name,
            alert = self.alert.as_str(),
            sent_by = self.sender.as_str(),
            error = self.error,
            left_out = unless_zero(left_out),
            "TLS handshake failed: {}",
            self.reason
        );
    }
}

fn unless_zero(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}
