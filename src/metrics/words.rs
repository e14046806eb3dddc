//! The values that labels have: every list of them is here, and ends.
//!
//! `access_log` and `refusal` map what they know to these.

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// `GET /v2/`.
    Ping,
    /// Reading of a repository.
    Pull,
    /// Writing to one.
    Push,
    /// Deleting in one.
    Delete,
    /// The list of repositories.
    Catalog,
    /// A token.
    Token,
    /// Anything else, and what is no operation.
    #[default]
    Other,
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Ping,
        Self::Pull,
        Self::Push,
        Self::Delete,
        Self::Catalog,
        Self::Token,
        Self::Other,
    ];

    /// As it stands in a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Catalog => "catalog",
            Self::Token => "token",
            Self::Other => "other",
        }
    }
}

/// Why the gate answered itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No credentials where some are needed: how every login begins.
    NoCredentials,
    /// A password that is wrong.
    WrongPassword,
    /// A token that is none of ours, or no more.
    InvalidToken,
    /// Too many wrong passwords before.
    Throttled,
    /// The threads that check passwords, or what only so many may be at, are at capacity.
    Busy,
    /// The client's network may not come.
    Network,
    /// The user may not.
    Forbidden,
    /// No site, or another one than the connection was made for.
    Host,
    /// No route, or one that is closed.
    Path,
    /// What breaks HTTP or the registry's grammar.
    Malformed,
    /// A body, a head or a target that is too large.
    TooLarge,
    /// A body that came too slowly.
    Slow,
    /// Plain HTTP.
    PlainHttp,
    /// The upstream could not be reached.
    UpstreamUnreachable,
    /// The upstream broke off, or broke HTTP.
    UpstreamBroken,
    /// The upstream was silent.
    UpstreamSilent,
    /// All connections to the upstream are in use.
    UpstreamBusy,
    /// The client was gone.
    ClientGone,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::NoCredentials,
        Self::WrongPassword,
        Self::InvalidToken,
        Self::Throttled,
        Self::Busy,
        Self::Network,
        Self::Forbidden,
        Self::Host,
        Self::Path,
        Self::Malformed,
        Self::TooLarge,
        Self::Slow,
        Self::PlainHttp,
        Self::UpstreamUnreachable,
        Self::UpstreamBroken,
        Self::UpstreamSilent,
        Self::UpstreamBusy,
        Self::ClientGone,
    ];

    /// As it stands in a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::WrongPassword => "wrong_password",
            Self::InvalidToken => "invalid_token",
            Self::Throttled => "throttled",
            Self::Busy => "busy",
            Self::Network => "network",
            Self::Forbidden => "forbidden",
            Self::Host => "host",
            Self::Path => "path",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Slow => "slow",
            Self::PlainHttp => "plain_http",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamBroken => "upstream_broken",
            Self::UpstreamSilent => "upstream_silent",
            Self::UpstreamBusy => "upstream_busy",
            Self::ClientGone => "client_gone",
        }
    }
}

/// The number of a status among [`STATUSES`] of them.
pub(super) fn status_number(status: u16) -> usize {
    KNOWN.binary_search(&status).unwrap_or_else(|_| {
        let class = usize::from(status / 100);
        KNOWN.len() + if class <= 5 { class } else { 0 }
    })
}

/// The status of a number; what is not known is told by its class.
pub(super) fn status_word(number: usize) -> String {
    match KNOWN.get(number) {
        Some(status) => status.to_string(),
        None => match number - KNOWN.len() {
            0 => "other".to_owned(),
            class => format!("{class}xx"),
        },
    }
}

/// Whether it is the gate's or the upstream's fault.
pub(super) fn is_server_error(number: usize) -> bool {
    KNOWN
        .get(number)
        .map_or(number == KNOWN.len() + 5, |status| *status >= 500)
}

/// Statuses that registries, Harbor and the gate give, in order: an upstream must not invent labels.
const KNOWN: [u16; 38] = [
    200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408, 409,
    410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 429, 431, 499, 500, 501, 502, 503, 504,
];
/// The known ones, the classes 1 to 5, and all others.
pub(super) const STATUSES: usize = KNOWN.len() + 6;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_value_has_its_own_number_and_word() {
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, number);
        }
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        let words: BTreeSet<_> = Reason::ALL.map(Reason::as_str).into();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn any_status_has_one_of_a_few_words() {
        assert!(KNOWN.is_sorted());
        let words: BTreeSet<_> = (0..=u16::MAX)
            .map(|status| status_word(status_number(status)))
            .collect();
        assert_eq!(words.len(), STATUSES);
        for (status, word) in [
            (200, "200"),
            (299, "2xx"),
            (599, "5xx"),
            (600, "other"),
            (0, "other"),
        ] {
            assert_eq!(status_word(status_number(status)), word);
        }
        assert!(is_server_error(status_number(502)) && is_server_error(status_number(599)));
        assert!(!is_server_error(status_number(499)) && !is_server_error(status_number(999)));
    }
}
