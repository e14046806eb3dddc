//! The `[acme]` table, and what `tls = "acme"` requires of the hosts of a site.
//!
//! Called by `build` and `sites`. No request is sent to the directory: `check` needs no network.

use std::path::{Path, PathBuf};

use super::address::HostPattern;
use super::document::Spanned;
use super::keys::{self, acme};
use super::problem::{Problem, quote};
use super::table::Table;
use crate::acme::LETS_ENCRYPT;
use crate::net::host::Host;

/// A certificate authority with ACME (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The https URL of its directory.
    pub directory: String,
    /// The address to which the authority may write.
    pub email: Option<String>,
    /// The file with the CAs that verify the directory itself, instead of those of the system.
    pub directory_ca: Option<Spanned<PathBuf>>,
}

/// Reads the table. Without it, the authority is Let's Encrypt.
pub(crate) fn read(root: &Table<'_>, base: &Path) -> Acme {
    let table = root.table_or_empty(&keys::ACME);
    let directory = table.get(&acme::DIRECTORY);
    let directory_ca = table.get(&acme::DIRECTORY_CA);
    Acme {
        directory: directory.map_or_else(|| LETS_ENCRYPT.to_owned(), |url| url.value),
        email: table.get(&acme::EMAIL).map(|email| email.value),
        directory_ca: directory_ca.map(|path| path.map(|path| base.join(path))),
    }
}

/// Reports each host of a site with `tls = "acme"` for which no authority would issue a certificate, with the reason.
pub(crate) fn check_hosts(site: &Table<'_>, hosts: &[Spanned<HostPattern>]) {
    for host in hosts {
        let (what, why) = match &host.value {
            HostPattern::Wildcard(_) => (
                "a wildcard",
                "certificates for wildcards are issued over dns-01 alone, and the proxy cannot change the DNS",
            ),
            HostPattern::Any => ("any host", "a certificate needs at least one name"),
            HostPattern::Exact(Host::Address(_)) => (
                "an address",
                "the proxy requests certificates for names only",
            ),
            HostPattern::Exact(Host::Name(name)) if !name.contains('.') => (
                "a name of this network",
                "certificates are issued for names of the public DNS",
            ),
            HostPattern::Exact(Host::Name(_)) => continue,
        };
        let host_text = quote(&host.value.to_string());
        let what = format!("{host_text} is {what}, which tls = \"acme\" cannot serve");
        site.report(Problem::error(host.place, what).because(why).fix(
            "give it a site of its own, with tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }",
        ));
    }
}
