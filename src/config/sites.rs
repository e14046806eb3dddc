//! From the `[[site]]` tables to [`Site`]s: what each key means, and what the values mean together.
//!
//! Called by `build` alone.

use std::collections::HashMap;
use std::path::Path;

use super::build::UpstreamLimits;
use super::grants::Groups;
use super::problem::Problem;
use super::routes::Lead;
use super::table::{Spanned, Table, Written};
use super::units::{self, Host, HostPattern};
use super::{Certificate, ClientAuth, Site, acme};
use crate::forward::Origin;
use crate::registry::is_registry_path;
use crate::tls::ClientAuthMode;

/// Reads every site.
pub(super) fn read(root: &Table<'_>, base: &Path, limits: UpstreamLimits) -> Vec<Site> {
    root.required("site", "[[site]] with hosts, tls and a [[site.route]]");
    let groups = Groups::read(root);
    let mut taken = HashMap::new();
    let tables = root.tables("site");
    tables
        .iter()
        .filter_map(|table| {
            SiteParser {
                table,
                base,
                limits,
                groups: &groups,
            }
            .site(&mut taken)
        })
        .collect()
}

pub(super) struct SiteParser<'a, 'b> {
    table: &'a Table<'b>,
    pub(super) base: &'a Path,
    pub(super) limits: UpstreamLimits,
    pub(super) groups: &'a Groups,
}

impl SiteParser<'_, '_> {
    fn site(&self, taken: &mut HashMap<String, usize>) -> Option<Site> {
        let patterns = self.hosts();
        let hosts = self.names(&patterns, taken);
        let certificate = self.certificate();
        if let Some(Certificate::Acme(_)) = certificate {
            acme::check_hosts(self.table, &patterns);
        }
        let clients = self.clients();
        let external = self
            .table
            .parse("external_url", units::external_url)
            .map(|url| Origin {
                scheme: url.scheme.to_string(),
                authority: url.authority(),
            });
        let auth_table = self.table.table("auth");
        let auth = auth_table.as_ref().and_then(|auth| self.auth(auth));
        let site_place = self.table.place_of("auth");
        self.table
            .required("route", "[[site.route]] with path, upstream and auth");
        let tables = self.table.tables("route");
        let leads: Vec<_> = tables
            .iter()
            .map(|route| self.lead(route, auth.as_ref(), site_place))
            .collect();
        self.check_paths(&tables, &leads);
        let (mut routes, mut responses) = (Vec::new(), Vec::new());
        for lead in leads.into_iter().flatten() {
            match lead {
                Lead::Route(route) => routes.push(*route),
                Lead::Response(response) => responses.push(response),
            }
        }
        Some(Site {
            hosts,
            certificate: certificate?,
            clients,
            external,
            routes,
            responses,
        })
    }

    fn hosts(&self) -> Vec<Spanned<HostPattern>> {
        self.table
            .required("hosts", "hosts = [\"docker.example.com\"]");
        let Some(list) = self.table.parse_each("hosts", units::host_pattern) else {
            return Vec::new();
        };
        if list.is_written_empty() {
            self.table
                .report(Problem::error(list.place, "site.hosts is empty").fix(
                    "write hosts = [\"docker.example.com\"], with the hosts that clients use",
                ));
        }
        list.value.into_items()
    }

    /// The hosts as [`Site::hosts`] has them; `taken` has those of the sites before, with their lines.
    fn names(
        &self,
        patterns: &[Spanned<HostPattern>],
        taken: &mut HashMap<String, usize>,
    ) -> Vec<String> {
        let mut hosts = Vec::new();
        for host in patterns {
            let name = match &host.value {
                HostPattern::Exact(Host::Name(name)) => name.clone(),
                HostPattern::Exact(Host::Address(address)) => address.to_string(),
                HostPattern::Below(parent) => format!("*.{parent}"),
                HostPattern::Any => "*".to_owned(),
            };
            if let Some(line) = taken.insert(name.clone(), host.place.line) {
                let what = format!("the host {name} was named before, in line {line}");
                self.table.report(
                    Problem::error(host.place, what)
                        .because("only the first site would ever get its requests")
                        .fix("remove it here, or in the other site"),
                );
            }
            hosts.push(name);
        }
        hosts
    }

    fn certificate(&self) -> Option<Certificate> {
        self.table.required(
            "tls",
            "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }",
        );
        match self.table.string_or_table("tls")? {
            Written::Full(files) => {
                files
                    .required("cert", "cert = \"fullchain.pem\"")
                    .required("key", "key = \"privkey.pem\"");
                let cert = files.parse("cert", units::live_file);
                let key = files.parse("key", units::live_file);
                Some(Certificate::Files {
                    cert: cert?.map(|path| self.base.join(path)),
                    key: self.base.join(key?.value),
                })
            }
            Written::Short(word) if word.value == "self-signed" => {
                Some(Certificate::SelfSigned(word.place))
            }
            Written::Short(word) if word.value == "acme" => Some(Certificate::Acme(word.place)),
            Written::Short(word) => {
                let what = "site.tls is neither a pair of files nor \"acme\" nor \"self-signed\"";
                self.table.report(
                    Problem::error(word.place, what)
                        .fix("write tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }"),
                );
                None
            }
        }
    }

    fn clients(&self) -> Option<ClientAuth> {
        let words = [
            ("required", ClientAuthMode::Required),
            ("optional", ClientAuthMode::Optional),
        ];
        let ca = self.table.parse("client_ca", units::text);
        let demand = self
            .table
            .parse("client_auth", |text| units::word(text, &words));
        if let (None, Some(place)) = (
            self.table.place_of("client_ca"),
            self.table.place_of("client_auth"),
        ) {
            self.table.report(
                Problem::error(place, "client_auth without client_ca")
                    .because("no client certificate would be asked for")
                    .fix("add client_ca = \"clients.pem\", the CA that issues them"),
            );
        }
        Some(ClientAuth {
            ca: ca?.map(|path| self.base.join(path)),
            demand: demand.map_or_else(ClientAuthMode::default, |demand| demand.value),
        })
    }

    fn check_paths(&self, tables: &[Table<'_>], leads: &[Option<Lead>]) {
        let mut seen = Vec::new();
        for (table, lead) in tables.iter().zip(leads) {
            let Some(lead) = lead else { continue };
            let prefix = lead.path().trim_end_matches('/');
            if seen.contains(&prefix) {
                let what = format!("the site has two routes for {}", lead.path());
                self.table
                    .report(Problem::error(table.place_of("path"), what).fix("remove one of them"));
            }
            seen.push(prefix);
            if let Lead::Route(route) = lead
                && is_unread(route, leads)
            {
                let what = format!(
                    "{} leads to a registry that another route guards",
                    route.path
                );
                self.table.report(
                    Problem::warning(table.place_of("registry"), what)
                        .because("with registry = false a mount is sent on as it came, and reads what lies there")
                        .fix("remove registry = false, or name another upstream"),
                );
            }
        }
    }
}

fn share_an_endpoint(one: &super::Route, other: &super::Route) -> bool {
    let (one, other) = (&one.upstream.settings, &other.upstream.settings);
    one.endpoints
        .iter()
        .any(|endpoint| other.endpoints.contains(endpoint))
}

/// Whether requests to a registry are read at another route and not at this one.
fn is_unread(route: &super::Route, leads: &[Option<Lead>]) -> bool {
    let mut others = leads.iter().flatten();
    !route.registry
        && is_registry_path(&route.path)
        && others.any(|other| match other {
            Lead::Route(other) => other.registry && share_an_endpoint(other, route),
            Lead::Response(_) => false,
        })
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    /// What is said of routes by their path and upstream, those that are no registry with a `!` in front.
    fn said(routes: &[(&str, &str)]) -> String {
        let mut text =
            "[listen]\nhttps = [\"[::1]:443\"]\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n"
                .to_owned();
        for (path, upstream) in routes {
            let registry = if path.starts_with('!') {
                "registry = false\n"
            } else {
                ""
            };
            let path = path.trim_start_matches('!');
            text += &format!(
                "[[site.route]]\npath = \"{path}\"\nupstream = \"http://{upstream}\"\nauth = {{ mode = \"none\" }}\n\
                 {registry}"
            );
        }
        let (_, problems) = parse(std::path::Path::new("x"), text.as_bytes());
        problems.to_string()
    }

    #[test]
    fn a_path_has_one_route() {
        let twice = said(&[("/v2/", "b"), ("/v2", "c")]);
        assert!(
            twice.contains("error: the site has two routes for /v2\n"),
            "{twice}"
        );
    }

    #[test]
    fn a_way_into_a_registry_without_its_grammar_is_warned_of() {
        let odd = said(&[("/v2/", "b"), ("!/v2/files/", "b")]);
        for word in ["14:1: warning: /v2/files/ leads to a registry", "a mount"] {
            assert!(odd.contains(word), "{word} in {odd}");
        }
        for fine in [
            &[("/v2/", "b"), ("!/v2/files/", "c")][..],
            &[("/v2/", "b"), ("!/", "b")],
            &[("/v2/", "b"), ("/v2/files/", "b")],
            &[("!/v2/", "b"), ("!/v2/files/", "b")],
        ] {
            assert_eq!(said(fine), "", "{fine:?}");
        }
    }
}
