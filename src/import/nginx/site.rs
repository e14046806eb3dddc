//! A `server` block as a site: its hosts and certificates.
//!
//! `importer` decides which server blocks become sites; `routes` translates the locations.

use crate::config::address::host_pattern;

use crate::import::nginx::context::Context;
use crate::import::nginx::if_blocks;
use crate::import::nginx::nginx_model::NginxModel;
use crate::import::nginx::output::{Line, Site, Value};
use crate::import::nginx::parser::Directive;
use crate::import::nginx::routes;
use crate::import::nginx::server_block::ServerBlock;

/// Translates a server block. Returns `None` if the site would have no route or no host. `has_tls` is whether tidegate terminates TLS,
/// and `is_new` is whether no site before has the host at the same address.
pub(crate) fn site<'a>(
    context: &mut Context<'_>,
    model: &NginxModel<'a>,
    server: &ServerBlock<'a>,
    has_tls: bool,
    is_new: impl FnMut(&str) -> bool,
) -> Option<Site> {
    let (hosts, hosts_comment) = site_hosts(context, server, is_new)?;
    let mut lines = Vec::new();
    if has_tls {
        lines.push(certificate(context, server));
        lines.extend(client_certificates(context, server));
    }
    if_blocks::note(context, server.directive.inner());
    let routes = routes::all(context, model, server);
    if routes.is_empty() {
        context.warn(
            server.directive.at,
            "the server block is left out: none of its locations could be imported",
        );
        return None;
    }
    Some(Site {
        at: server.directive.at,
        hosts,
        hosts_comment,
        addresses: Vec::new(),
        listen: Vec::new(),
        lines,
        routes,
    })
}

fn site_hosts(
    context: &mut Context<'_>,
    server: &ServerBlock<'_>,
    mut is_new: impl FnMut(&str) -> bool,
) -> Option<(Vec<String>, String)> {
    let at = server.directive.at;
    let found = hosts(server.directive);
    for name in &found.unsupported {
        context.warn(
            at,
            format!("server_name {name} is left out: a host is a name or *.name, without regular expressions"),
        );
    }
    let mut comment = String::new();
    let mut names = found.names;
    if names.is_empty() && server.is_default {
        comment.push_str("any host, as nginx's default server");
        names.push("*".to_owned());
    } else if server.listens.iter().any(|listen| listen.is_default) {
        comment.push_str(
            "the response to other hosts is 421; nginx's default_server also served them: add \"*\" for that",
        );
    }
    if found.has_wildcard {
        comment.push_str(if comment.is_empty() { "" } else { "; " });
        comment.push_str("*. is exactly one label");
    }
    let total = names.len();
    names.retain(|name| is_new(name));
    if names.len() < total {
        context.warn(
            at,
            "an earlier server block has the same host, and only that one receives its requests",
        );
    }
    (!names.is_empty()).then_some((names, comment))
}

fn certificate(context: &mut Context<'_>, server: &ServerBlock<'_>) -> Line {
    let certs = server.scope.all("ssl_certificate");
    let keys = server.scope.all("ssl_certificate_key");
    for more in certs.iter().skip(1) {
        context.warn(more.at, "a site has one certificate; the first one is used");
    }
    let constant = |found: &[&Directive]| {
        let first = found.first()?;
        context
            .file_path(first.first())
            .filter(|path| !path.contains("data:"))
    };
    match (constant(&certs), constant(&keys)) {
        (Some(cert), Some(key)) => {
            Line::new("tls", Value::table([("cert", &*cert), ("key", &*key)]))
        }
        _ => {
            context.warn(
                server.directive.at,
                "no certificate file: clients have to trust tidegate's own CA, or write tls = { cert = \"…\", key = \"…\" }",
            );
            Line::text("tls", "self-signed").with_comment("nginx had no certificate file here")
        }
    }
}

fn client_certificates(context: &mut Context<'_>, server: &ServerBlock<'_>) -> Vec<Line> {
    let Some(verify) = server.scope.get("ssl_verify_client") else {
        return Vec::new();
    };
    let mut conditions = server.directive.all("if");
    let is_demanded = conditions.any(|condition| {
        let words = if_blocks::condition_words(condition);
        words
            .first()
            .is_some_and(|word| word == "$ssl_client_verify")
            && condition.all("return").next().is_some()
    });
    let kind = match verify.first() {
        "on" => "required",
        "optional" if is_demanded => "required",
        "optional" => "optional",
        "off" => return Vec::new(),
        _ => {
            context.warn(
                verify.at,
                "ssl_verify_client requested certificates without verification; tidegate requests none",
            );
            return Vec::new();
        }
    };
    let ca = server.scope.get("ssl_client_certificate");
    let Some(ca) = ca.and_then(|ca| context.file_path(ca.first())) else {
        return Vec::new();
    };
    vec![Line::text("client_ca", ca), Line::text("client_auth", kind)]
}

/// The names of a server block.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// The patterns of `site.hosts`, each once.
    pub(crate) names: Vec<String>,
    /// Whether a pattern `*.x` of any depth became a pattern of one label.
    pub(crate) has_wildcard: bool,
    /// The names without a pattern, such as regular expressions.
    pub(crate) unsupported: Vec<String>,
}

/// Translates the `server_name` directives of a server block.
pub(crate) fn hosts(server: &Directive) -> Hosts {
    let mut hosts = Hosts::default();
    for name in server.all("server_name").flat_map(|names| &names.args) {
        // No client sends `_` or the empty name.
        if name == "_" || name == "--" || name.is_empty() {
            continue;
        }
        let patterns = match name.strip_prefix('.') {
            Some(parent) => vec![parent.to_owned(), format!("*.{parent}")],
            None => vec![name.trim_end_matches('.').to_ascii_lowercase()],
        };
        for pattern in patterns {
            hosts.add(&pattern, name);
        }
    }
    hosts
}

impl Hosts {
    fn add(&mut self, pattern: &str, written: &str) {
        let pattern = match host_pattern(pattern) {
            Ok(pattern) if pattern.to_string() != "*" => pattern.to_string(),
            _ => {
                self.unsupported.push(written.to_owned());
                return;
            }
        };
        self.has_wildcard |= pattern.starts_with("*.");
        if !self.names.contains(&pattern) {
            self.names.push(pattern);
        }
    }
}
