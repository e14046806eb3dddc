//! The client networks of a route: `route.allow`, `route.deny` and `route.satisfy`, after nginx's directives.
//!
//! `config` builds a policy, and `auth` evaluates it before and together with credentials. nginx applies its rules in the
//! order in which they are written. Two lists have no such order, so the network with the longest prefix decides, and
//! `deny` wins a tie.

use crate::net::addr::ClientAddr;
use crate::net::cidr::Networks;

/// The client networks of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// The networks that are admitted. If the list is empty, every network is admitted that is not denied.
    pub allow: Networks,
    /// The networks that are not admitted.
    pub deny: Networks,
    /// `satisfy = "any"`: an admitted network or valid credentials suffice. With `false`, both are required.
    pub suffices_alone: bool,
}

/// What the network of a client means for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The request is rejected, whatever its credentials.
    Denied,
    /// The credentials decide.
    NeedsCredentials,
    /// The request needs no credentials.
    Sufficient,
}

impl NetworkPolicy {
    /// Applies the policy to a client.
    pub(crate) fn evaluate(&self, client: ClientAddr) -> Decision {
        match (self.admits(client), self.suffices_alone) {
            (true, true) => Decision::Sufficient,
            (false, false) => Decision::Denied,
            (true, false) | (false, true) => Decision::NeedsCredentials,
        }
    }

    /// Whether no client is denied for its network alone. With `satisfy = "any"`, a client of another network can log in.
    pub fn allows_all(&self) -> bool {
        self.suffices_alone || (self.allow.is_empty() && self.deny.is_empty())
    }

    fn admits(&self, client: ClientAddr) -> bool {
        let allowed = self.allow.longest_prefix(client.ip());
        let denied = self.deny.longest_prefix(client.ip());
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
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let policy = NetworkPolicy {
            allow: networks(allow),
            deny: networks(deny),
            suffices_alone: false,
        };
        let address = SocketAddr::new(client.parse().unwrap(), 1);
        let decision = policy.evaluate(PeerAddr::new(address).client());
        let any = NetworkPolicy {
            suffices_alone: true,
            ..policy
        };
        let other = any.evaluate(PeerAddr::new(address).client());
        assert_ne!(decision, Decision::Sufficient);
        assert_ne!(other, Decision::Denied);
        assert_eq!(
            decision == Decision::NeedsCredentials,
            other == Decision::Sufficient
        );
        decision == Decision::NeedsCredentials
    }

    #[test]
    fn the_longest_prefix_wins_and_deny_wins_a_tie() {
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
