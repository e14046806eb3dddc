//! What the outcome of a request depends on besides its host and path, and the rules that classify clients by their address.
//!
//! The model of nginx notes each property of a request that it reads. `compare` then varies these properties and no others: two
//! requests that differ in other properties have the same outcome.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::import::nginx::access::{Networks, format_network};
use crate::import::nginx::output::{Line, Value};
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::scope::Scope;

/// The properties of requests that the model has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dependencies {
    pub(crate) method: bool,
    pub(crate) certificate: bool,
    /// The host, or the local address.
    pub(crate) host: bool,
    /// The text of the client's address.
    pub(crate) client_text: bool,
    /// The rules that decide by the client's address.
    pub(crate) rules: BTreeSet<RuleId>,
    /// The password files.
    pub(crate) files: BTreeSet<String>,
}

/// The index of a rule in [`ClientRules`].
pub(crate) type RuleId = usize;

/// What a rule says about a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Whether `allow` and `deny` allow the client; `None` if no rule matches it.
    Access(Option<bool>),
    /// The value of a `geo` block.
    Value(String),
}

/// All lists of `allow` and `deny`, and all `geo` blocks, each with the position of its first directive.
#[derive(Default)]
pub(crate) struct ClientRules<'a> {
    rules: RefCell<Vec<(SourcePos, ClientRule<'a>)>>,
}

enum ClientRule<'a> {
    Networks(Networks),
    Geo(&'a Directive),
}

impl<'a> ClientRules<'a> {
    /// The identifier of a list of `allow` and `deny` that begins at this position.
    pub(crate) fn networks(&self, at: SourcePos, networks: Networks) -> RuleId {
        self.intern(at, ClientRule::Networks(networks))
    }

    /// The identifier of a `geo` block.
    pub(crate) fn geo(&self, block: &'a Directive) -> RuleId {
        self.intern(block.at, ClientRule::Geo(block))
    }

    fn intern(&self, at: SourcePos, rule: ClientRule<'a>) -> RuleId {
        let mut rules = self.rules.borrow_mut();
        let known = rules.iter().position(|(known, _)| *known == at);
        known.unwrap_or_else(|| {
            rules.push((at, rule));
            rules.len() - 1
        })
    }

    /// What a rule says about a client.
    pub(crate) fn class(&self, id: RuleId, client: IpAddr) -> Class {
        match self.rules.borrow().get(id) {
            Some((_, ClientRule::Networks(networks))) => Class::Access(networks.decide(client)),
            Some((_, ClientRule::Geo(block))) => Class::Value(geo_value(block, client).to_owned()),
            None => Class::Access(Some(false)),
        }
    }

    /// The number of networks of a rule.
    pub(crate) fn len(&self, id: RuleId) -> usize {
        match self.rules.borrow().get(id) {
            Some((_, ClientRule::Networks(networks))) => networks.len(),
            Some((_, ClientRule::Geo(block))) => block.inner().len(),
            None => 0,
        }
    }
}

/// From where a proxy takes the address of the client. The peers are networks; any other peer is the client itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientSource {
    /// The peers that send a PROXY header.
    proxy_protocol: BTreeSet<String>,
    /// The peers whose X-Forwarded-For names the client: the rightmost address that is not one of them.
    trusted_proxies: BTreeSet<String>,
}

impl ClientSource {
    /// How nginx determines the client in a server block; `None` if tidegate cannot do the same. `has_proxy_protocol` is whether the
    /// connections begin with a PROXY header.
    pub(crate) fn of_nginx(scope: &Scope<'_>, has_proxy_protocol: bool) -> Option<Self> {
        if has_own_client(scope.own()) {
            return None;
        }
        // The peers of a Unix socket have no address.
        let from = scope.all("set_real_ip_from").into_iter();
        let from = from.filter(|from| from.first() != "unix:");
        let networks: BTreeSet<_> = from
            .map(|from| format_network(from.first()))
            .collect::<Option<_>>()?;
        let header = scope.value("real_ip_header");
        if networks.is_empty() {
            return (!has_proxy_protocol).then(Self::default);
        }
        if header.eq_ignore_ascii_case("proxy_protocol") {
            let proxy_protocol = if has_proxy_protocol {
                networks
            } else {
                BTreeSet::new()
            };
            return Some(Self {
                proxy_protocol,
                ..Self::default()
            });
        }
        let is_same = header.eq_ignore_ascii_case("x-forwarded-for")
            && scope.value("real_ip_recursive") == "on"
            && !has_proxy_protocol;
        is_same.then(|| Self {
            trusted_proxies: networks,
            ..Self::default()
        })
    }

    /// How tidegate determines the client with this table `listen`.
    pub(crate) fn of_tidegate(listen: &[Line]) -> Self {
        let networks = |key: &str| {
            let line = listen.iter().find(|line| line.key == key);
            match line.map(|line| &line.value) {
                Some(Value::List(networks)) => networks.iter().cloned().collect(),
                _ => BTreeSet::new(),
            }
        };
        Self {
            proxy_protocol: networks("proxy_protocol"),
            trusted_proxies: networks("trusted_proxies"),
        }
    }
}

/// Whether a location in the block determines the client in another way than its server block.
fn has_own_client(block: &[Directive]) -> bool {
    let mut locations = block.iter().filter(|inner| inner.name == "location");
    locations.any(|location| {
        let mut own = location.inner().iter();
        own.any(|d| d.name == "set_real_ip_from" || d.name.starts_with("real_ip_"))
            || has_own_client(location.inner())
    })
}

/// The value of a `geo` block for an address: that of the longest network.
fn geo_value(block: &Directive, client: IpAddr) -> &str {
    let mut best: Option<(u8, &str)> = None;
    for entry in block.inner() {
        let length = match entry.name.as_str() {
            "default" => Some(0),
            network => Networks::prefix_containing(network, client),
        };
        if let Some(length) = length
            && best.is_none_or(|(longest, _)| length >= longest)
        {
            best = Some((length, entry.first()));
        }
    }
    best.map_or("", |(_, value)| value)
}
