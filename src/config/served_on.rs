//! `site.listen`: the addresses on which a site is served, and what they mean for the other keys of the site.
//!
//! Called by `sites`.

use std::path::Path;

use super::address::resolve_address;
use super::document::Spanned;
use super::form::Items;
use super::keys::site;
use super::listen::Listen;
use super::problem::Problem;
use super::table::Table;
use super::value::write;
use crate::net::listener::ListenAddr;

/// The addresses on which one site is served.
pub(crate) struct ServedOn {
    /// The addresses in `site.listen`; `None` if the site is served on all addresses.
    pub(crate) listen: Option<Vec<ListenAddr>>,
    /// Whether the site is served on an address of `listen.https`. True if `[listen]` could not be read.
    pub(crate) has_https: bool,
    /// The first address of `listen.behind_proxy` among them.
    pub(crate) behind_proxy: Option<ListenAddr>,
    /// Whether the site is served on an address of `listen.http`. True if `[listen]` could not be read.
    pub(crate) has_http: bool,
    /// `listen.public_port`, or the port of the first address of `listen.https` among them. 443 if there is none, because the
    /// proxy in front usually has this port.
    pub(crate) https_port: u16,
}

impl ServedOn {
    /// Reads `site.listen`, the addresses that serve a site. `listen` has the addresses of the `[listen]` table; it is `None` if that
    /// table has an error, which was reported. Relative paths of Unix sockets are resolved against `base`, the folder of the main
    /// configuration file, also for a site in an included file: the paths name sockets of `[listen]`, which is in the main file.
    pub(crate) fn read(table: &Table<'_>, listen: Option<&Listen>, base: &Path) -> Self {
        let written = table.get(&site::LISTEN);
        let written = written.map(|list| resolved(table, list, base));
        if let (Some(written), Some(listen)) = (&written, listen) {
            if written.is_written_empty() {
                table.report(
                    Problem::error(written.place, "site.listen is empty")
                        .because("the site would be served nowhere")
                        .fix("remove the line to serve the site on all addresses"),
                );
            }
            for address in &written.value.items {
                check_address(table, address, listen);
            }
        }
        let own: Option<Vec<_>> = written.map(|written| written.value.into_values().collect());
        let is_on = |address: &&ListenAddr| {
            let own = own.as_ref();
            own.is_none_or(|own| own.contains(address))
        };
        let https = listen.and_then(|listen| listen.https.iter().find(is_on));
        let behind_proxy = listen.and_then(|listen| listen.behind_proxy.iter().find(is_on));
        if let Some(place) = table.place_of(&site::LISTEN)
            && listen.is_some()
            && https.or(behind_proxy).is_none()
            && own.as_ref().is_some_and(|own| !own.is_empty())
        {
            table.report(
                Problem::error(
                    place,
                    "site.listen has no https and no behind_proxy address",
                )
                .because("the addresses of listen.http only redirect to https")
                .fix("add an address of listen.https or listen.behind_proxy"),
            );
        }
        Self {
            has_https: https.is_some() || listen.is_none(),
            has_http: listen.is_none_or(|listen| listen.http.iter().any(|address| is_on(&address))),
            https_port: listen
                .and_then(|listen| listen.public_port)
                .or_else(|| https.and_then(ListenAddr::port))
                .unwrap_or(443),
            behind_proxy: behind_proxy.cloned(),
            listen: own,
        }
    }

    /// Reports keys of a site that have no meaning on its addresses.
    pub(crate) fn check_keys(&self, table: &Table<'_>) {
        if let (Some(place), Some(address)) = (table.place_of(&site::CLIENT_CA), &self.behind_proxy)
        {
            let what = format!("client_ca on a site that is served on {address}");
            table.report(
                Problem::error(place, what)
                    .because("the proxy in front terminates TLS there, so the client certificate does not arrive here")
                    .fix(
                        "remove client_ca and let the proxy in front require certificates, or write site.listen with addresses of \
                         listen.https only",
                    ),
            );
        }
        if let Some(place) = table.place_of(&site::TLS)
            && !self.has_https
            && self.behind_proxy.is_some()
        {
            table.report(
                Problem::warning(
                    place,
                    "site.tls on a site that no address of listen.https serves",
                )
                .because("the certificate is never used: the proxy in front has its own")
                .fix("remove the line, or add an https address"),
            );
        }
    }

    /// Whether a site with this `site.listen` shares an address with this one.
    pub(crate) fn overlaps(&self, other: Option<&[ListenAddr]>) -> bool {
        let (Some(own), Some(other)) = (&self.listen, other) else {
            return true;
        };
        own.iter().any(|address| other.contains(address))
    }
}

/// Makes the paths of sockets absolute, as those of `[listen]` are.
fn resolved(
    table: &Table<'_>,
    mut list: Spanned<Items<ListenAddr>>,
    base: &Path,
) -> Spanned<Items<ListenAddr>> {
    for item in &mut list.value.items {
        let address = resolve_address(item.value.clone(), base);
        if let Some(address) = table.accept(&site::LISTEN, item.place, address) {
            item.value = address;
        }
    }
    list
}

/// Reports an address that `[listen]` does not have.
fn check_address(table: &Table<'_>, address: &Spanned<ListenAddr>, listen: &Listen) {
    if listen.of_sites().any(|known| *known == address.value) {
        return;
    }
    let what = format!(
        "site.listen has {}, which is no address of https, http or behind_proxy",
        address.value
    );
    let known: Vec<_> = listen.of_sites().map(ListenAddr::to_string).collect();
    let problem = Problem::error(address.place, what);
    let problem = if listen.admin.binding() == Some(&address.value) {
        problem.because("the admin listener serves no sites")
    } else {
        problem.because(
            "site.listen selects among the addresses of [listen], as they are written there",
        )
    };
    table.report(problem.fix(match known.as_slice() {
        [only] => write(only),
        _ => format!("write one of {}", known.join(", ")),
    }));
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, parse};
    use std::path::Path;

    /// A configuration with these lines of `[listen]`, and a site for each list of lines.
    fn read(listen: &str, sites: &[&str]) -> (Option<Config>, String) {
        let mut text = format!("[listen]\n{listen}\n");
        for lines in sites {
            text += &format!(
                "[[site]]\n{lines}\n[[site.route]]\npath = \"/v2/\"\nupstream = \"http://127.0.0.1:5000\"\n\
                 auth = {{ mode = \"basic\", htpasswd = \"users\" }}\n"
            );
        }
        let (config, problems) = parse(Path::new("x"), text.as_bytes());
        (config, problems.to_string())
    }

    const TLS: &str = "tls = \"self-signed\"";

    #[test]
    fn a_site_behind_a_proxy_needs_no_certificate() {
        let (config, problems) = read(
            "behind_proxy = [\"unix:/run/t.sock\"]",
            &["hosts = [\"a\"]"],
        );
        assert_eq!(problems, "");
        let config = config.unwrap();
        assert!(config.sites[0].certificate.is_none());
        assert_eq!(config.sites[0].https_port, 443);
        let both = "https = [\"[::]:443\"]\nbehind_proxy = [\"unix:/run/t.sock\"]";
        let (_, problems) = read(both, &["hosts = [\"a\"]"]);
        assert!(problems.contains("missing key \"tls\""), "{problems}");
        let only = "hosts = [\"a\"]\nlisten = [\"unix:/run/t.sock\"]";
        let other = format!("hosts = [\"b\"]\n{TLS}");
        assert_eq!(read(both, &[only, &other]).1, "");
    }

    #[test]
    fn each_bad_input_has_its_own_error() {
        let site = format!("hosts = [\"a\"]\n{TLS}");
        let with = |line: &str| format!("{site}\n{line}");
        let on = |address: &str| with(&format!("listen = [\"{address}\"]"));
        let https = "https = [\"[::]:443\", \"[::]:8443\"]";
        let plain = "hosts = [\"a\"]";
        let unix = "behind_proxy = [\"unix:/run/t.sock\"]";
        let cases = [
            (
                "http = [\"[::]:80\"]",
                vec![site.clone()],
                "behind a proxy that terminates TLS",
            ),
            (
                "behind_proxy = []",
                vec![site.clone()],
                "listen.behind_proxy is empty",
            ),
            (
                "behind_proxy = [\"[::]:80\"]",
                vec![plain.to_owned()],
                "write trusted_proxies = ",
            ),
            (
                "behind_proxy = [\"[::]:80\"]\ntrusted_proxies = []",
                vec![plain.to_owned()],
                "no network is in listen.trusted_proxies",
            ),
            (
                "behind_proxy = [\"/run/t.sock\"]",
                vec![plain.to_owned()],
                "write \"unix:/run/t.sock\"",
            ),
            (
                "https = [\"unix:/run/t.sock\"]",
                vec![site.clone()],
                "only listen.behind_proxy",
            ),
            (
                unix,
                vec![with("client_ca = \"ca.pem\"")],
                "does not arrive here",
            ),
            (unix, vec![site.clone()], "warning: site.tls on a site"),
            (https, vec![with("listen = []")], "site.listen is empty"),
            (
                https,
                vec![on("[::]:444")],
                "write one of [::]:443, [::]:8443",
            ),
            (
                https,
                vec![on("[::]:443")],
                "no site is served on [::]:8443",
            ),
            (
                https,
                vec![site.clone(), on("[::]:443")],
                "the host a was named before",
            ),
            (
                "https = [\"[::]:443\"]\nhttp = [\"[::]:80\"]",
                vec![on("[::]:80")],
                "only redirect to https",
            ),
            (
                "https = [\"[::]:443\"]\nadmin = \"[::1]:9\"",
                vec![on("[::1]:9")],
                "serves no sites",
            ),
            (
                "behind_proxy = [\"unix:/run/t.sock\"]\nadmin = \"unix:/run/t.sock\"",
                vec![plain.to_owned()],
                "is in both listen.behind_proxy and listen.admin",
            ),
        ];
        for (listen, sites, expected) in cases {
            let sites: Vec<_> = sites.iter().map(String::as_str).collect();
            let (_, problems) = read(listen, &sites);
            assert!(problems.contains(expected), "{expected} in {problems}");
        }
    }

    #[test]
    fn two_sites_share_a_name_on_different_addresses() {
        let https = "https = [\"[::]:443\", \"127.0.0.1:8443\"]";
        let on = |address: &str| format!("hosts = [\"a\"]\n{TLS}\nlisten = [\"{address}\"]");
        let (config, problems) = read(https, &[&on("[::]:443"), &on("127.0.0.1:8443")]);
        assert_eq!(problems, "");
        let sites = config.unwrap().sites;
        let names: Vec<_> = sites.iter().map(|site| site.name.as_str()).collect();
        assert_eq!(names, ["a@[::]:443", "a@127.0.0.1:8443"]);
        assert_eq!([sites[0].https_port, sites[1].https_port], [443, 8443]);
    }
}
