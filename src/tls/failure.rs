//! The reason of a failed handshake: as an alert for the metrics, and as a sentence for an operator.
//!
//! `handshake` creates it; `connection` logs and counts it. `upstream` uses [`alert_name`] for the handshakes with upstreams.

use std::fmt;

use rustls::{AlertDescription, Error, PeerIncompatible, PeerMisbehaved};

use crate::metrics::{AlertSender, TlsAlert};

/// A handshake that ended with an alert.
#[derive(Debug)]
pub struct HandshakeFailure {
    /// The error of rustls.
    pub error: Error,
    /// The side that sent the alert.
    pub sender: AlertSender,
    /// The alert that was sent or received.
    pub alert: TlsAlert,
    /// The server name (SNI) of the client, if it was received: ASCII text with a bounded length, but not a valid host name in
    /// every case.
    pub server_name: Option<String>,
}

impl HandshakeFailure {
    pub(super) fn new(error: Error, server_name: Option<String>) -> Self {
        let (sender, description) = match &error {
            Error::AlertReceived(description) => (AlertSender::Client, *description),
            error => (AlertSender::Proxy, alert_for(error)),
        };
        Self {
            error,
            sender,
            alert: classify_alert(description),
            server_name,
        }
    }

    /// Describes the failure for an operator, with the setting or the client that is likely to be wrong.
    pub fn reason(&self) -> &'static str {
        match self.sender {
            AlertSender::Client => client_reason(self.alert),
            AlertSender::Proxy => proxy_reason(&self.error, self.alert),
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason(), self.alert.as_str())
    }
}

impl std::error::Error for HandshakeFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Describes an alert that the client has sent.
fn client_reason(alert: TlsAlert) -> &'static str {
    match alert {
        TlsAlert::UnknownCa => "the client does not trust the certificate",
        TlsAlert::BadCertificate => {
            "the client rejects the certificate; docker and other Go programs send this alert when they do not trust it"
        }
        TlsAlert::CertificateUnknown => {
            "the client rejects the certificate; browsers and Java send this alert when they do not trust it"
        }
        TlsAlert::CertificateExpired => {
            "the client takes the certificate for expired or not valid yet; compare its dates and both clocks"
        }
        TlsAlert::CertificateRevoked => "the client takes the certificate for revoked",
        TlsAlert::UnsupportedCertificate => "the client does not support certificates of this kind",
        TlsAlert::ProtocolVersion => {
            "the client does not support the TLS version that was selected"
        }
        _ => "the client ended the handshake",
    }
}

/// Describes an alert that the proxy has sent.
fn proxy_reason(error: &Error, alert: TlsAlert) -> &'static str {
    match error {
        Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
            return "the server name (SNI) of the client is no host name; it must have no port (RFC 6066 section 3)";
        }
        Error::NoCertificatesPresented => {
            return "the client presented no certificate, and site.client_auth requires one";
        }
        Error::InvalidCertificate(_) => {
            return match alert {
                TlsAlert::UnknownCa => {
                    "the client's certificate was not issued by a CA of site.client_ca"
                }
                TlsAlert::CertificateExpired => {
                    "the client's certificate is expired or not valid yet"
                }
                _ => "the client's certificate is not accepted",
            };
        }
        _ => {}
    }
    match alert {
        TlsAlert::ProtocolVersion => {
            "the client supports no TLS version that the proxy allows (tls.min_version)"
        }
        TlsAlert::HandshakeFailure => {
            "the client and the proxy have no cipher suite, group or signature scheme in common"
        }
        TlsAlert::NoApplicationProtocol => {
            "the client offers neither http/1.1 nor h2 as its application protocol (ALPN)"
        }
        TlsAlert::UnexpectedMessage => {
            "the client sent something other than the next message of a TLS handshake"
        }
        TlsAlert::InternalError => "the proxy had an internal error",
        _ => "the client violated the TLS protocol",
    }
}

/// Returns the alert that the proxy sends for an error. rustls sends the alert itself for most errors, but does not report
/// which one; this function makes the same choice, from the sections of RFC 8446 about each error.
pub(super) fn alert_for(error: &Error) -> AlertDescription {
    match error {
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::InvalidMessage(cause) => AlertDescription::from(*cause),
        Error::InvalidCertificate(cause) => AlertDescription::from(cause.clone()),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::PeerIncompatible(cause) => alert_for_incompatible(cause),
        Error::PeerMisbehaved(
            PeerMisbehaved::MessageInterleavedWithHandshakeMessage
            | PeerMisbehaved::KeyEpochWithPendingFragment
            | PeerMisbehaved::IllegalMiddleboxChangeCipherSpec
            | PeerMisbehaved::TooManyEmptyFragments,
        ) => AlertDescription::UnexpectedMessage,
        Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::AlertReceived(description) => *description,
        _ => AlertDescription::InternalError,
    }
}

fn alert_for_incompatible(cause: &PeerIncompatible) -> AlertDescription {
    use PeerIncompatible as P;
    match cause {
        P::ServerDoesNotSupportTls12Or13
        | P::ServerTlsVersionIsDisabledByOurConfig
        | P::SupportedVersionsExtensionRequired
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled => AlertDescription::ProtocolVersion,
        P::NullCompressionRequired => AlertDescription::IllegalParameter,
        P::KeyShareExtensionRequired
        | P::NamedGroupsExtensionRequired
        | P::SignatureAlgorithmsExtensionRequired => AlertDescription::MissingExtension,
        _ => AlertDescription::HandshakeFailure,
    }
}

/// Returns the name of an alert as in RFC 8446 section 6.
pub(crate) fn alert_name(description: AlertDescription) -> &'static str {
    classify_alert(description).as_str()
}

fn classify_alert(description: AlertDescription) -> TlsAlert {
    use AlertDescription as D;
    match description {
        D::UnexpectedMessage => TlsAlert::UnexpectedMessage,
        D::BadRecordMac => TlsAlert::BadRecordMac,
        D::RecordOverflow => TlsAlert::RecordOverflow,
        D::HandshakeFailure => TlsAlert::HandshakeFailure,
        D::BadCertificate => TlsAlert::BadCertificate,
        D::UnsupportedCertificate => TlsAlert::UnsupportedCertificate,
        D::CertificateRevoked => TlsAlert::CertificateRevoked,
        D::CertificateExpired => TlsAlert::CertificateExpired,
        D::CertificateUnknown => TlsAlert::CertificateUnknown,
        D::IllegalParameter => TlsAlert::IllegalParameter,
        D::UnknownCA => TlsAlert::UnknownCa,
        D::AccessDenied => TlsAlert::AccessDenied,
        D::DecodeError => TlsAlert::DecodeError,
        D::DecryptError => TlsAlert::DecryptError,
        D::ProtocolVersion => TlsAlert::ProtocolVersion,
        D::InsufficientSecurity => TlsAlert::InsufficientSecurity,
        D::InternalError => TlsAlert::InternalError,
        D::InappropriateFallback => TlsAlert::InappropriateFallback,
        D::MissingExtension => TlsAlert::MissingExtension,
        D::UnsupportedExtension => TlsAlert::UnsupportedExtension,
        D::UnrecognisedName => TlsAlert::UnrecognizedName,
        D::CertificateRequired => TlsAlert::CertificateRequired,
        D::NoApplicationProtocol => TlsAlert::NoApplicationProtocol,
        _ => TlsAlert::Other,
    }
}
