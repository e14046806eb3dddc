//! The keys of `[listen]` that name the peers which the proxy believes, with a warning if they are nearly all peers.
//!
//! Called by `listen`.

use super::problem::Problem;
use super::table::Table;
use super::units;
use crate::net::cidr::Networks;

/// Reads a key that names the peers which the proxy believes.
pub(super) fn networks(table: &Table<'_>, key: &'static str) -> Networks {
    let list = table.parse_each(key, units::network);
    let Some(list) = list else {
        return Networks::default();
    };
    let place = list.place;
    let networks: Networks = list
        .value
        .into_iter()
        .map(|network| network.value)
        .collect();
    if networks.cover_most_addresses() {
        let what = format!("{} holds nearly every address", table.dotted(key));
        table.report(
            Problem::warning(place, what)
                .because("any client that reaches a port of the proxy is believed to be any other client")
                .fix("name the proxies, unless a firewall lets no other client in"),
        );
    }
    networks
}
