//! A `server` block of nginx.

use crate::import::nginx::if_blocks;
use crate::import::nginx::listen::Listen;
use crate::import::nginx::parser::Directive;
use crate::import::nginx::scope::Scope;

/// A server block with the directives in effect in it.
pub(crate) struct ServerBlock<'a> {
    pub(crate) directive: &'a Directive,
    pub(crate) scope: Scope<'a>,
    pub(crate) listens: Vec<Listen>,
    /// Whether requests for an unknown host reach this server block, at one of its addresses.
    pub(crate) is_default: bool,
}

impl ServerBlock<'_> {
    /// Whether one of the addresses has TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.listens.iter().any(|listen| listen.is_tls)
    }

    /// Whether the server block is reached through Unix sockets without TLS alone, as behind a front end on the same machine.
    pub(crate) fn is_behind_sockets(&self) -> bool {
        let mut listens = self.listens.iter();
        !self.listens.is_empty() && listens.all(|listen| listen.socket().is_some())
    }

    /// Whether a location forwards requests to an upstream.
    pub(crate) fn is_proxy(&self) -> bool {
        has_proxy(self.directive)
    }

    /// Whether plain HTTP is redirected to https.
    pub(crate) fn redirects_to_https(&self) -> bool {
        let block = self.directive.inner();
        let mut inner = block
            .iter()
            .filter(|d| matches!(d.name.as_str(), "if" | "location"));
        if_blocks::redirects_to_https(block)
            || inner.any(|d| if_blocks::redirects_to_https(d.inner()))
    }
}

fn has_proxy(block: &Directive) -> bool {
    let mut inner = block.inner().iter();
    inner.any(|d| d.name == "proxy_pass" || (d.name == "location" && has_proxy(d)))
}
