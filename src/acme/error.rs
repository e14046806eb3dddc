//! The reason why an attempt to obtain a certificate failed, worded for an operator and classified for the retry.
//!
//! The other files of `acme` create it; `renewal` logs it and decides when to try again.

use std::io;

use instant_acme::{ChallengeType, Problem};
use tokio::task::spawn_blocking;

use super::store::SaveError;
use crate::state_file::write_remedy;

/// The reason why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The certificate authority (CA) could not be reached, or rejected a request.
    #[error("{}", describe_server_error(.0))]
    Server(#[from] instant_acme::Error),
    /// The CA did not find the response to the challenge, or not the right one.
    #[error("{} failed: {}; {}", challenge_name(.0), describe_problem(.1), remedy(.0))]
    Challenge(ChallengeType, Problem),
    /// The CA does not offer this type of challenge for the host.
    #[error("the certificate authority offers no {} for this name", challenge_name(.0))]
    ChallengeNotOffered(ChallengeType),
    /// The order ended in this state without a certificate and without a reason.
    #[error("the certificate authority ended the order, which was {0}")]
    OrderEnded(String),
    /// The lifetime of the new certificate is so short that it is due for renewal already.
    #[error("the certificate authority issued a certificate that already needs renewal")]
    AlreadyDue,
    /// A file in `state.dir` could not be read or written.
    #[error("{what}: {cause}; {}", write_remedy(cause))]
    File { what: String, cause: io::Error },
    /// The issued certificate could not be used or stored.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The file of the account cannot be parsed.
    #[error("{path} is damaged ({what}); restore it, or remove it: a new account is created")]
    DamagedAccount { path: String, what: String },
    /// No private key or certificate signing request could be created.
    #[error("no key or request could be created: {0}")]
    SigningRequest(#[from] rcgen::Error),
    /// The attempt took longer than this number of seconds.
    #[error("not done within {0} s")]
    Timeout(u64),
    /// A task panicked.
    #[error("{0}")]
    Panicked(String),
}

/// The class of an error, which determines the delay before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryClass {
    /// The CA has not rejected anything: it cannot be reached, or a file cannot be written.
    Transient,
    /// The CA has rejected the request, or failed to validate the host. CAs limit the number of such failures: Let's Encrypt
    /// allows five per hour and host.
    Rejected,
    /// One of two types of challenge has failed, and the other one has not been tried yet.
    TryOtherChallenge,
}

impl Error {
    /// Converts an error about a file or a lock. `what` names it.
    pub(super) fn file(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::File { what, cause }
    }

    pub(super) fn retry_class(&self) -> RetryClass {
        match self {
            // The CA has not examined the request.
            _ if self.is_problem("badNonce") || self.is_problem("serverInternal") => {
                RetryClass::Transient
            }
            Self::Server(instant_acme::Error::Api(_))
            | Self::Challenge(..)
            | Self::ChallengeNotOffered(_)
            | Self::OrderEnded(_)
            | Self::AlreadyDue
            // CAs also limit how often they issue the same certificate: Let's Encrypt to five in a week.
            | Self::Save(_) => RetryClass::Rejected,
            _ => RetryClass::Transient,
        }
    }

    /// Whether another type of challenge may succeed.
    pub(super) fn is_about_challenge(&self) -> bool {
        matches!(self, Self::Challenge(..) | Self::ChallengeNotOffered(_))
    }

    /// Whether the CA rejected a request with this type of problem (RFC 8555 section 6.7).
    pub(super) fn is_problem(&self, problem_type: &str) -> bool {
        let Self::Server(instant_acme::Error::Api(problem)) = self else {
            return false;
        };
        let name = problem
            .r#type
            .as_deref()
            .and_then(|name| name.strip_prefix(PROBLEM_NAMESPACE));
        name == Some(problem_type)
    }
}

/// Runs blocking work, such as writing a file, on a thread of the runtime's blocking pool.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Panicked(error.to_string())))
}

/// The name of a challenge type in RFC 8555 and RFC 8737.
pub(super) fn challenge_name(challenge_type: &ChallengeType) -> &'static str {
    match challenge_type {
        ChallengeType::TlsAlpn01 => "tls-alpn-01",
        ChallengeType::Http01 => "http-01",
        _ => "another challenge",
    }
}

fn remedy(challenge_type: &ChallengeType) -> &'static str {
    match challenge_type {
        ChallengeType::TlsAlpn01 => {
            "the name must resolve to this proxy, and port 443 must lead to listen.https with nothing in between that terminates TLS"
        }
        _ => "the name must resolve to this proxy, and port 80 must lead to listen.http",
    }
}

fn describe_server_error(error: &instant_acme::Error) -> String {
    match error {
        instant_acme::Error::Api(problem) => format!(
            "the certificate authority rejects the request: {}",
            describe_problem(problem)
        ),
        instant_acme::Error::Other(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

/// Returns the whole text of a problem document. The text comes from the CA, so control characters are escaped: it must not be
/// able to forge a log line.
fn describe_problem(problem: &Problem) -> String {
    let text = problem.to_string();
    let text = text.strip_prefix("API error: ").unwrap_or(&text);
    let text: String = text.chars().take(MAX_PROBLEM_CHARS).collect();
    text.escape_debug()
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}

const PROBLEM_NAMESPACE: &str = "urn:ietf:params:acme:error:";
/// The number of characters of a problem document that a message contains.
const MAX_PROBLEM_CHARS: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Problem {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_problem_is_reported_with_its_type_and_its_subproblems() {
        let problem = problem(
            r#"{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "policy\nforbids \"it\"", "status": 400,
                "subproblems": [{"type": "urn:ietf:params:acme:error:caa", "detail": "CAA says no",
                                 "identifier": {"type": "dns", "value": "a.test"}}]}"#,
        );
        let error = Error::Server(instant_acme::Error::Api(problem.clone()));
        let message = error.to_string();
        for part in [
            "policy\\nforbids \"it\"",
            "rejectedIdentifier",
            "CAA says no",
            "a.test",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert!(!message.contains('\n'));
        assert!(error.is_problem("rejectedIdentifier") && !error.is_problem("caa"));
        assert_eq!(error.retry_class(), RetryClass::Rejected);
        let message = Error::Challenge(ChallengeType::Http01, problem).to_string();
        assert!(
            message.starts_with("http-01 failed: policy") && message.contains("port 80"),
            "{message}"
        );
    }

    #[test]
    fn an_error_that_is_no_rejection_is_transient() {
        let error = Error::Server(instant_acme::Error::Str("nothing"));
        assert_eq!(error.retry_class(), RetryClass::Transient);
        assert!(!error.is_about_challenge());
        assert!(Error::ChallengeNotOffered(ChallengeType::TlsAlpn01).is_about_challenge());
    }

    #[test]
    fn a_certificate_that_was_issued_in_vain_counts_as_a_rejection() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let (path, cause) = ("a.pem".into(), full());
        let error = Error::Save(SaveError::Write { path, cause });
        assert_eq!(error.retry_class(), RetryClass::Rejected);
        assert!(error.to_string().contains("free space"), "{error}");
        // Before an order, nothing is lost.
        let error = Error::file("a.pem")(full());
        assert_eq!(error.retry_class(), RetryClass::Transient);
        assert!(error.to_string().contains("free space"), "{error}");
    }
}
