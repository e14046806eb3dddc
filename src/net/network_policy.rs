//! From where a request may come: the client networks of a route, as nginx's `allow`, `deny` and `satisfy`.
//!
//! Made by `config`, asked by `auth` before and beside credentials. nginx takes its rules in the order they are written;
//! two lists have none, so the network with the longest prefix counts, and of equal ones the refusal.

use crate::net::addr::ClientAddr;
use crate::net::cidr::Networks;

/// The client networks of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Who may come; with none, everyone who is not denied.
    pub allow: Networks,
    /// Who may not.
    pub deny: Networks,
    /// `satisfy = "any"`: such a network, or credentials; else both.
    pub suffices: bool,
}

/// What a client's network says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nobody comes from there, whatever he knows.
    Refused,
    /// Credentials decide.
    Credentials,
    /// Enough without credentials.
    Enough,
}

impl NetworkPolicy {
    pub(crate) fn evaluate(&self, client: ClientAddr) -> Decision {
        match (self.admits(client), self.suffices) {
            (true, true) => Decision::Enough,
            (false, false) => Decision::Refused,
            (true, false) | (false, true) => Decision::Credentials,
        }
    }

    /// Whether nobody is refused for his network; where one is enough alone, others log in.
    pub fn allows_all(&self) -> bool {
        self.suffices || (self.allow.is_empty() && self.deny.is_empty())
    }

    fn admits(&self, client: ClientAddr) -> bool {
        let allowed = self.allow.longest(client.ip());
        let denied = self.deny.longest(client.ip());
        match (allowed, denied) {
            (Some(allowed), Some(denied)) => allowed > denied,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => self.allow.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::net::addr::PeerAddr;

    fn admits(allow: &[&str], deny: &[&str], client: &str) -> bool {
        let networks = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect();
        let admission = NetworkPolicy {
            allow: networks(allow),
            deny: networks(deny),
            suffices: false,
        };
        let address = SocketAddr::new(client.parse().unwrap(), 1);
        let verdict = admission.evaluate(PeerAddr::new(address).client());
        let any = NetworkPolicy {
            suffices: true,
            ..admission
        };
        let other = any.evaluate(PeerAddr::new(address).client());
        assert_ne!(verdict, Decision::Enough);
        assert_ne!(other, Decision::Refused);
        assert_eq!(verdict == Decision::Credentials, other == Decision::Enough);
        verdict == Decision::Credentials
    }

    #[test]
    fn the_longest_prefix_decides_and_of_equal_ones_the_refusal() {
        let all = &["0.0.0.0/0", "::/0"][..];
        let office = &["10.0.0.0/8"][..];
        let one = &["10.1.2.3"][..];
        for (allow, deny, client, expected) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (office, &[], "10.9.9.9", true),
            (office, &[], "192.0.2.1", false),
            (office, &[], "2001:db8::1", false),
            (office, all, "10.9.9.9", true),
            (office, all, "192.0.2.1", false),
            (office, one, "10.1.2.3", false),
            (office, one, "10.1.2.4", true),
            (one, office, "10.1.2.3", true),
            (one, office, "10.1.2.4", false),
            (one, office, "192.0.2.1", false),
            (&[], office, "10.1.2.3", false),
            (&[], office, "192.0.2.1", true),
            (office, office, "10.1.2.3", false),
            (office, &[], "::ffff:10.1.2.3", true),
        ] {
            let found = admits(allow, deny, client);
            assert_eq!(found, expected, "{client} with {allow:?} and {deny:?}");
        }
    }
}
