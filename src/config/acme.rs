//! The `[acme]` table, and what `tls = "acme"` demands of a site's hosts.
//!
//! Called by `build` and `sites`. Nothing is asked of the directory here: `check` needs no network.

use std::path::Path;

use http::Uri;

use super::problem::Problem;
use super::table::{Spanned, Table};
use super::units::{self, Host, HostPattern};
use super::{Acme, problem};
use crate::acme::LETS_ENCRYPT;

/// Reads the table; without one it is Let's Encrypt.
pub(super) fn read(root: &Table<'_>, base: &Path) -> Acme {
    let table = root.table("acme");
    let table = table.as_ref();
    let directory = table.and_then(|acme| acme.parse("directory", directory));
    let email = table.and_then(|acme| acme.parse("email", email));
    let directory_ca = table.and_then(|acme| acme.parse("directory_ca", units::text));
    Acme {
        directory: directory.map_or_else(|| LETS_ENCRYPT.to_owned(), |url| url.value),
        email: email.map(|email| email.value),
        directory_ca: directory_ca.map(|path| path.map(|path| base.join(path))),
    }
}

/// Reports each host of a site with `tls = "acme"` for which no authority would issue a certificate, with the reason.
pub(super) fn check_hosts(site: &Table<'_>, hosts: &[Spanned<HostPattern>]) {
    for host in hosts {
        let (what, why) = match &host.value {
            HostPattern::Below(_) => (
                "a wildcard",
                "certificates for wildcards are issued over dns-01 alone, and the gate cannot change the DNS",
            ),
            HostPattern::Any => (
                "any host",
                "a certificate is for names, so there must be some",
            ),
            HostPattern::Exact(Host::Address(_)) => {
                ("an address", "the gate asks for certificates of names only")
            }
            HostPattern::Exact(Host::Name(name)) if !name.contains('.') => (
                "a name of this network",
                "certificates are issued for names of the public DNS",
            ),
            HostPattern::Exact(Host::Name(_)) => continue,
        };
        let problem = Problem::error(
            host.place,
            format!(
                "{} is {what}, which tls = \"acme\" cannot serve",
                problem::quote(&host.value.to_string())
            ),
        );
        site.report(problem.because(why).fix(
            "give it a site of its own, with tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }",
        ));
    }
}

fn directory(text: &str) -> Result<String, units::Error> {
    let url = text.parse::<Uri>().ok();
    let is_sound = |url: &Uri| url.scheme_str() == Some("https") && url.host().is_some();
    match url.filter(is_sound) {
        Some(_) => Ok(text.to_owned()),
        None => Err(units::Error::Malformed {
            expected: "the URL of an ACME directory over https",
            remedy: format!(
                "write {}, or the URL that your authority names",
                problem::quote(LETS_ENCRYPT)
            ),
        }),
    }
}

fn email(text: &str) -> Result<String, units::Error> {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.contains(|c: char| c.is_whitespace() || c.is_control() || ",:?<>".contains(c))
    };
    let parts = text.split_once('@');
    match parts.filter(|(user, host)| is_plain(user) && is_plain(host) && !host.contains('@')) {
        Some(_) => Ok(text.to_owned()),
        None => Err(units::Error::Malformed {
            expected: "one mail address",
            remedy: "write \"admin@example.com\"".to_owned(),
        }),
    }
}
