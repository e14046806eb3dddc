//! Why there is no new certificate: said so that an operator can act, and sorted so that the right wait follows.
//!
//! Made by the rest of `acme`, logged by `renewals`.

use std::io;

use instant_acme::{ChallengeType, Error, Problem};

use super::schedule::RetryClass;
use super::store::SaveError;

/// What went wrong in one attempt.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The authority could not be reached, or said no.
    #[error("{}", words(.0))]
    Directory(#[from] Error),
    /// It looked whether the host is ours, and was not convinced.
    #[error("{} failed: {}; {}", name(.0), problem_words(.1), remedy(.0))]
    Challenge(ChallengeType, Problem),
    /// It would not even look.
    #[error("the certificate authority offers no {} for this name", name(.0))]
    NotOffered(ChallengeType),
    /// It ended the order without a reason.
    #[error("the certificate authority ended the order, which was {0}")]
    Ended(String),
    /// The state folder.
    #[error("{what}: {cause}; let the gate's user write to state.dir")]
    File { what: String, cause: io::Error },
    /// What was issued.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The account's file.
    #[error("{path} is damaged ({what}); restore it, or remove it: a new account is made")]
    Account { path: String, what: String },
    /// A key or a request for a certificate.
    #[error("no key or request could be made: {0}")]
    Request(#[from] rcgen::Error),
    /// The whole of it took too long.
    #[error("not done within {0} s")]
    Late(u64),
    /// Our own fault.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    pub(super) fn file(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::File { what, cause }
    }

    /// How it is waited out.
    pub(super) fn kind(&self) -> RetryClass {
        match self {
            // Nobody has looked at what was asked.
            _ if self.is("badNonce") || self.is("serverInternal") => RetryClass::Passing,
            Self::Directory(Error::Api(_))
            | Self::Challenge(..)
            | Self::NotOffered(_)
            | Self::Ended(_)
            | Self::Save(SaveError::Unusable(_) | SaveError::Foreign(_)) => RetryClass::Refused,
            _ => RetryClass::Passing,
        }
    }

    /// Whether another challenge may do better.
    pub(super) fn is_of_challenge(&self) -> bool {
        matches!(self, Self::Challenge(..) | Self::NotOffered(_))
    }

    /// Whether the authority says this of the request.
    pub(super) fn is(&self, kind: &str) -> bool {
        let Self::Directory(Error::Api(problem)) = self else {
            return false;
        };
        let name = problem
            .r#type
            .as_deref()
            .and_then(|name| name.strip_prefix(NAMESPACE));
        name == Some(kind)
    }
}

/// As it is called in RFC 8555 and RFC 8737.
pub(super) fn name(kind: &ChallengeType) -> &'static str {
    match kind {
        ChallengeType::TlsAlpn01 => "tls-alpn-01",
        ChallengeType::Http01 => "http-01",
        _ => "another challenge",
    }
}

fn remedy(kind: &ChallengeType) -> &'static str {
    match kind {
        ChallengeType::TlsAlpn01 => {
            "the name must lead to this gate, and port 443 to listen.https with nothing in between that ends TLS"
        }
        _ => "the name must lead to this gate, and port 80 to listen.http",
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::Api(problem) => format!(
            "the certificate authority refuses: {}",
            problem_words(problem)
        ),
        Error::Other(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

/// All that the problem document says. It is someone else's text: nothing in it may forge a line of the log.
fn problem_words(problem: &Problem) -> String {
    let text = problem.to_string();
    let text = text.strip_prefix("API error: ").unwrap_or(&text);
    let text: String = text.chars().take(MOST).collect();
    text.escape_debug()
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}

const NAMESPACE: &str = "urn:ietf:params:acme:error:";
/// Characters of a problem that are shown.
const MOST: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Problem {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_problem_is_told_with_its_type_and_its_parts() {
        let problem = problem(
            r#"{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "policy\nforbids \"it\"", "status": 400,
                "subproblems": [{"type": "urn:ietf:params:acme:error:caa", "detail": "CAA says no",
                                 "identifier": {"type": "dns", "value": "a.test"}}]}"#,
        );
        let failure = Failure::Directory(Error::Api(problem.clone()));
        let said = failure.to_string();
        for part in [
            "policy\\nforbids \"it\"",
            "rejectedIdentifier",
            "CAA says no",
            "a.test",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains('\n'));
        assert!(failure.is("rejectedIdentifier") && !failure.is("caa"));
        assert_eq!(failure.kind(), RetryClass::Refused);
        let said = Failure::Challenge(ChallengeType::Http01, problem).to_string();
        assert!(
            said.starts_with("http-01 failed: policy") && said.contains("port 80"),
            "{said}"
        );
    }

    #[test]
    fn what_nobody_refused_passes_sooner() {
        let failure = Failure::Directory(Error::Str("nothing"));
        assert_eq!(failure.kind(), RetryClass::Passing);
        assert!(!failure.is_of_challenge());
        assert!(Failure::NotOffered(ChallengeType::TlsAlpn01).is_of_challenge());
    }
}
