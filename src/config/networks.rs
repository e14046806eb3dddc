//! Lists of networks, and a word about one that is everywhere.
//!
//! Called by `build`.

use super::problem::Problem;
use super::table::Table;
use super::units;
use crate::addr::Networks;

/// A key whose value is whom the gate believes.
pub(super) fn networks(table: &Table<'_>, key: &'static str) -> Networks {
    let list = table.parse_each(key, units::network);
    let networks = list.map(|list| list.value).unwrap_or_default();
    for network in networks.iter().filter(|network| network.is_everything()) {
        let what = format!("{}: {} is every address", table.dotted(key), network.value);
        table.report(
            Problem::warning(network.place, what)
                .because("whoever gets at a port of the gate is believed to be any client")
                .fix("name the proxies, unless a firewall lets nobody else in"),
        );
    }
    networks.into_iter().map(|network| network.value).collect()
}
