//! The values of metric labels. Each list is closed, so that clients and upstreams cannot add values.
//!
//! `access_log` and `rejection` map operations, statuses and rejections to these values. The alerts of TLS are in
//! `alerts`.

/// The operation of a request, for the label `operation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// `GET /v2/`.
    Ping,
    /// Reading from a repository.
    Pull,
    /// Writing to a repository.
    Push,
    /// Deleting from a repository.
    Delete,
    /// The list of repositories.
    Catalog,
    /// A request to the token endpoint.
    Token,
    /// A WebSocket, from its handshake to its end.
    Websocket,
    /// Any other request, also one outside of the registry API.
    #[default]
    Other,
}

impl Operation {
    /// All operations, in the order of their discriminants.
    pub const ALL: [Self; 8] = [
        Self::Ping,
        Self::Pull,
        Self::Push,
        Self::Delete,
        Self::Catalog,
        Self::Token,
        Self::Websocket,
        Self::Other,
    ];

    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Catalog => "catalog",
            Self::Token => "token",
            Self::Websocket => "websocket",
            Self::Other => "other",
        }
    }
}

/// Why the proxy rejected a request, for the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionReason {
    /// The request has no credentials and needs some. Every login begins with such a request.
    NoCredentials,
    /// The password is wrong.
    WrongPassword,
    /// The token was not issued by this proxy, or is no longer valid.
    InvalidToken,
    /// The client network has sent too many wrong passwords.
    Throttled,
    /// The queue of the hash threads is full, or a concurrency limit is reached.
    Busy,
    /// The client's network is not allowed (`route.allow`, `route.deny`), or the peer is no trusted proxy
    /// (`listen.behind_proxy`).
    Network,
    /// No grant gives the identity this right.
    Forbidden,
    /// No site has the host, or the site takes other client certificates than the connection was opened with.
    Host,
    /// No route matches the path, or the configuration has an error status for it.
    Path,
    /// The request violates HTTP or the grammar of the registry API.
    Malformed,
    /// The body, the head or the request target is too large.
    TooLarge,
    /// The body arrived too slowly.
    Slow,
    /// A registry request arrived over plain HTTP.
    PlainHttp,
    /// The upstream could not be reached.
    UpstreamUnreachable,
    /// The upstream closed the connection, or violated HTTP.
    UpstreamBroken,
    /// The upstream did not respond within `read_timeout`.
    UpstreamTimeout,
    /// All connections to the upstream are in use.
    UpstreamBusy,
    /// The client disconnected before the response.
    ClientGone,
    /// An operator has ended the transfer.
    Cut,
}

impl RejectionReason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 19] = [
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
        Self::UpstreamTimeout,
        Self::UpstreamBusy,
        Self::ClientGone,
        Self::Cut,
    ];

    /// Whether the upstream is the cause. Such a request counts as an error and not among the rejections of a site, because
    /// the proxy would have served it.
    pub fn is_upstream_error(self) -> bool {
        match self {
            Self::UpstreamUnreachable
            | Self::UpstreamBroken
            | Self::UpstreamTimeout
            | Self::UpstreamBusy => true,
            Self::NoCredentials
            | Self::WrongPassword
            | Self::InvalidToken
            | Self::Throttled
            | Self::Busy
            | Self::Network
            | Self::Forbidden
            | Self::Host
            | Self::Path
            | Self::Malformed
            | Self::TooLarge
            | Self::Slow
            | Self::PlainHttp
            | Self::ClientGone
            | Self::Cut => false,
        }
    }

    /// The value of the label.
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
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamBusy => "upstream_busy",
            Self::ClientGone => "client_gone",
            Self::Cut => "cut",
        }
    }
}

/// The index of the label of a status, below [`STATUS_LABELS`].
pub(super) fn status_index(status: u16) -> usize {
    COMMON_STATUSES.binary_search(&status).unwrap_or_else(|_| {
        let class = usize::from(status / 100);
        COMMON_STATUSES.len() + if class <= 5 { class } else { 0 }
    })
}

/// The label with this index: a status that is common, or the class of all other statuses.
pub(super) fn status_label(index: usize) -> String {
    match COMMON_STATUSES.get(index) {
        Some(status) => status.to_string(),
        None => match index - COMMON_STATUSES.len() {
            0 => "other".to_owned(),
            class => format!("{class}xx"),
        },
    }
}

/// Whether the label with this index is of a status of 500 or more.
pub(super) fn is_server_error(index: usize) -> bool {
    COMMON_STATUSES
        .get(index)
        .map_or(index == COMMON_STATUSES.len() + 5, |status| *status >= 500)
}

/// The statuses that have a label of their own, in ascending order: those that registries, Harbor and the proxy send.
const COMMON_STATUSES: [u16; 39] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408,
    409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 429, 431, 499, 500, 501, 502, 503,
    504,
];
/// The number of labels: the common statuses, the classes 1xx to 5xx, and `other`.
pub(super) const STATUS_LABELS: usize = COMMON_STATUSES.len() + 6;

/// The values of the label `termination`, which the access log field of the same name has, too: which side aborted a
/// response.
pub(super) const TERMINATIONS: [&str; 6] = [
    "client_abort",
    "upstream_abort",
    "timeout",
    "drain",
    "cut",
    "panic",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_value_has_its_own_index_and_label() {
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, number);
        }
        for (number, reason) in RejectionReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        let labels: BTreeSet<_> = RejectionReason::ALL.map(RejectionReason::as_str).into();
        assert_eq!(labels.len(), RejectionReason::ALL.len());
    }

    #[test]
    fn every_status_has_one_of_a_closed_list_of_labels() {
        assert!(COMMON_STATUSES.is_sorted());
        let labels: BTreeSet<_> = (0..=u16::MAX)
            .map(|status| status_label(status_index(status)))
            .collect();
        assert_eq!(labels.len(), STATUS_LABELS);
        for (status, label) in [
            (200, "200"),
            (299, "2xx"),
            (599, "5xx"),
            (600, "other"),
            (0, "other"),
        ] {
            assert_eq!(status_label(status_index(status)), label);
        }
        assert!(is_server_error(status_index(502)) && is_server_error(status_index(599)));
        assert!(!is_server_error(status_index(499)) && !is_server_error(status_index(999)));
    }
}
