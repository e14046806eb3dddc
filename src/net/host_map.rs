//! The value that a host selects among those of several sites: by its exact name, by a wildcard, or as any host.
//!
//! `site` keeps the sites of a listening address in a [`HostMap`], and `tls` their certificates, so that the handshake of a
//! connection and its requests select a site by the same rules.

use std::collections::HashMap;

use super::host::normalize_host;

/// Values by the hosts of their sites. If two sites have the same host, the site that was added first serves it.
#[derive(Clone, Debug)]
pub struct HostMap<T> {
    exact: HashMap<String, T>,
    /// The values of hosts `*.x`, by `x`.
    wildcard: HashMap<String, T>,
    /// The value of the host `*`.
    any: Option<T>,
    first: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            any: None,
            first: None,
        }
    }
}

impl<T: Clone> HostMap<T> {
    /// Adds the value of a site for each of its hosts: a name, an address, `*.x` for exactly one label before `x`, or `*`.
    pub fn add(&mut self, hosts: &[String], value: &T) {
        self.first.get_or_insert_with(|| value.clone());
        for host in hosts.iter().map(|host| normalize_host(host)) {
            let value = || value.clone();
            match host.strip_prefix("*.") {
                _ if host == "*" => self.any.get_or_insert_with(value),
                Some(parent) => self.wildcard.entry(parent.into()).or_insert_with(value),
                None => self.exact.entry(host).or_insert_with(value),
            };
        }
    }
}

impl<T> HostMap<T> {
    /// The value for a host in the form of [`normalize_host`] and without a port: that of the site with exactly this host, else
    /// with the wildcard that matches, else with `*`.
    pub fn find(&self, host: &str) -> Option<&T> {
        let by_wildcard = || self.wildcard.get(host.split_once('.')?.1);
        let by_name = self.exact.get(host).or_else(by_wildcard);
        by_name.or(self.any.as_ref())
    }

    /// The value for a client that sends this server name (SNI): as [`Self::find`], else that of the first site.
    pub fn find_by_server_name(&self, server_name: Option<&str>) -> Option<&T> {
        let by_name = server_name.and_then(|name| self.find(&normalize_host(name)));
        by_name.or(self.first.as_ref())
    }

    /// All values. The value of a site with several hosts appears several times.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        let values = self.exact.values().chain(self.wildcard.values());
        values.chain(&self.any)
    }

    /// The names, without `*`; those of wildcards are without their `*.`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.exact.keys().chain(self.wildcard.keys());
        names.map(String::as_str)
    }
}
