//! The alerts with which TLS handshakes ended (RFC 8446 section 6), counted by alert and by sender.
//!
//! `tls` translates the alerts that rustls reports, `connection` counts them, `admin` reads the counters. The list of
//! alerts is closed, so that neither a client nor a new version of rustls can add a label value.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::log::LogLimiter;

/// An alert as RFC 8446 and RFC 5246 name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the RFC")]
pub enum TlsAlert {
    UnexpectedMessage,
    BadRecordMac,
    RecordOverflow,
    HandshakeFailure,
    BadCertificate,
    UnsupportedCertificate,
    CertificateRevoked,
    CertificateExpired,
    CertificateUnknown,
    IllegalParameter,
    UnknownCa,
    AccessDenied,
    DecodeError,
    DecryptError,
    ProtocolVersion,
    InsufficientSecurity,
    InternalError,
    InappropriateFallback,
    MissingExtension,
    UnsupportedExtension,
    UnrecognizedName,
    CertificateRequired,
    NoApplicationProtocol,
    /// An alert with any other number.
    Other,
}

/// The side that sent an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertSender {
    /// The client rejected the handshake.
    Client,
    /// The proxy rejected the handshake.
    Proxy,
}

/// How often each alert ended a handshake, and how many of these were logged.
#[derive(Debug, Default)]
pub struct TlsAlerts {
    from_client: [AlertCount; TlsAlert::ALL.len()],
    from_proxy: [AlertCount; TlsAlert::ALL.len()],
}

#[derive(Debug, Default)]
struct AlertCount {
    count: AtomicU64,
    lines: LogLimiter,
}

impl TlsAlert {
    /// All alerts, in the order of their discriminants.
    pub const ALL: [Self; 24] = [
        Self::UnexpectedMessage,
        Self::BadRecordMac,
        Self::RecordOverflow,
        Self::HandshakeFailure,
        Self::BadCertificate,
        Self::UnsupportedCertificate,
        Self::CertificateRevoked,
        Self::CertificateExpired,
        Self::CertificateUnknown,
        Self::IllegalParameter,
        Self::UnknownCa,
        Self::AccessDenied,
        Self::DecodeError,
        Self::DecryptError,
        Self::ProtocolVersion,
        Self::InsufficientSecurity,
        Self::InternalError,
        Self::InappropriateFallback,
        Self::MissingExtension,
        Self::UnsupportedExtension,
        Self::UnrecognizedName,
        Self::CertificateRequired,
        Self::NoApplicationProtocol,
        Self::Other,
    ];

    /// The name in the RFC, for a label and for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnexpectedMessage => "unexpected_message",
            Self::BadRecordMac => "bad_record_mac",
            Self::RecordOverflow => "record_overflow",
            Self::HandshakeFailure => "handshake_failure",
            Self::BadCertificate => "bad_certificate",
            Self::UnsupportedCertificate => "unsupported_certificate",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateUnknown => "certificate_unknown",
            Self::IllegalParameter => "illegal_parameter",
            Self::UnknownCa => "unknown_ca",
            Self::AccessDenied => "access_denied",
            Self::DecodeError => "decode_error",
            Self::DecryptError => "decrypt_error",
            Self::ProtocolVersion => "protocol_version",
            Self::InsufficientSecurity => "insufficient_security",
            Self::InternalError => "internal_error",
            Self::InappropriateFallback => "inappropriate_fallback",
            Self::MissingExtension => "missing_extension",
            Self::UnsupportedExtension => "unsupported_extension",
            Self::UnrecognizedName => "unrecognized_name",
            Self::CertificateRequired => "certificate_required",
            Self::NoApplicationProtocol => "no_application_protocol",
            Self::Other => "other",
        }
    }
}

impl AlertSender {
    /// The value of the label `sent_by`, and of the log field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Proxy => "proxy",
        }
    }
}

impl TlsAlerts {
    /// Counts a handshake that ended with this alert. Returns the limiter of the log lines about it.
    pub fn count(&self, sender: AlertSender, alert: TlsAlert) -> Option<&LogLimiter> {
        let entry = self.from(sender).get(alert as usize)?;
        entry.count.fetch_add(1, Relaxed);
        Some(&entry.lines)
    }

    /// The number of handshakes that each alert of each side has ended.
    pub fn counts(&self) -> impl Iterator<Item = (AlertSender, TlsAlert, u64)> {
        let of = |sender| {
            let entries = TlsAlert::ALL.into_iter().zip(self.from(sender));
            entries.map(move |(alert, entry)| (sender, alert, entry.count.load(Relaxed)))
        };
        of(AlertSender::Client).chain(of(AlertSender::Proxy))
    }

    fn from(&self, sender: AlertSender) -> &[AlertCount; TlsAlert::ALL.len()] {
        match sender {
            AlertSender::Client => &self.from_client,
            AlertSender::Proxy => &self.from_proxy,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_alert_has_its_own_index_and_label() {
        for (number, alert) in TlsAlert::ALL.into_iter().enumerate() {
            assert_eq!(alert as usize, number);
        }
        let names: BTreeSet<_> = TlsAlert::ALL.map(TlsAlert::as_str).into();
        assert_eq!(names.len(), TlsAlert::ALL.len());
    }

    #[test]
    fn alerts_are_counted_by_sender() {
        let alerts = TlsAlerts::default();
        alerts.count(AlertSender::Client, TlsAlert::UnknownCa);
        alerts.count(AlertSender::Client, TlsAlert::UnknownCa);
        alerts.count(AlertSender::Proxy, TlsAlert::UnknownCa);
        let seen: Vec<_> = alerts.counts().filter(|(.., count)| *count > 0).collect();
        let expected = [
            (AlertSender::Client, TlsAlert::UnknownCa, 2),
            (AlertSender::Proxy, TlsAlert::UnknownCa, 1),
        ];
        assert_eq!(seen, expected);
    }
}
