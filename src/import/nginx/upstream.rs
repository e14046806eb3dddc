//! `proxy_pass` and `upstream` blocks as `route.upstream`.
//!
//! Called by `route`.

use crate::config::url::upstream_url;

use crate::import::nginx::draft::{Line, Value};
use crate::import::nginx::scope::Scope;
use crate::import::nginx::translate::Importer;
use crate::import::nginx::tree::Directive;
use crate::import::nginx::{path, units};

/// `scheme://authority path`, or a socket.
struct Target {
    scheme: &'static str,
    /// A name, a name with a port, or `unix:/path`.
    authority: String,
    path: String,
}

impl<'a> Importer<'a> {
    /// The line of the route, or why there is none.
    pub(super) fn upstream(
        &mut self,
        pass: &'a Directive,
        scope: &Scope<'a>,
        location: &str,
    ) -> Result<Line, String> {
        let written = resolved(pass.first(), scope)
            .ok_or("the address of proxy_pass is known only when a request comes")?;
        let target =
            target(&written).ok_or("the address of proxy_pass is neither http:// nor https://")?;
        if !keeps_path(&target.path, location) {
            return Err(format!(
                "proxy_pass changes the path ({location} becomes {}), which the gate never does",
                target.path
            ));
        }
        let block = self.upstreams.get(target.authority.as_str()).copied();
        let servers = match block {
            Some(block) => self.servers(block),
            None => vec![target.authority.clone()],
        };
        let mut urls: Vec<String> = Vec::new();
        for server in servers {
            let url = if server.starts_with("unix:") {
                server
            } else {
                format!("{}://{server}", target.scheme)
            };
            let is_good = upstream_url(&url).is_ok();
            if !is_good {
                self.remarks.warn(
                    pass.at,
                    "an address of the upstream cannot be read, and is left out",
                );
            } else if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.len() > MOST {
            urls.truncate(MOST);
            let what = format!("an upstream has at most {MOST} addresses; the others are left out");
            self.remarks.warn(pass.at, what);
        }
        if urls.is_empty() {
            return Err("the upstream has no address that the gate could use".to_owned());
        }
        Ok(self.upstream_line(urls, pass, scope))
    }

    fn upstream_line(&mut self, urls: Vec<String>, pass: &Directive, scope: &Scope<'a>) -> Line {
        let mut table = Vec::new();
        let mut remark = String::new();
        let is_tls = urls.iter().any(|url| url.starts_with("https://"));
        if is_tls {
            self.authority(pass, scope, &mut table);
        }
        for (directive, key) in [
            ("proxy_connect_timeout", "connect_timeout"),
            ("proxy_read_timeout", "read_timeout"),
        ] {
            let Some(time) = scope.one(directive).and_then(|d| units::time(d.first())) else {
                continue;
            };
            if time > 0 && !(key == "read_timeout" && time == USUAL_READ) {
                table.push((key.to_owned(), Value::Text(units::written_time(time))));
            }
        }
        match scope.one("proxy_read_timeout") {
            None => remark
                .push_str("waits 900s for the upstream; nginx waited 60s, as nothing was written"),
            Some(_) if table.iter().any(|(key, _)| key == "read_timeout") => {
                remark.push_str(
                    "read_timeout is silence of the upstream, its head included, never a total",
                );
            }
            Some(_) => {}
        }
        let line = match urls.as_slice() {
            [url] if table.is_empty() => Line::text("upstream", url),
            _ => {
                table.insert(0, ("urls".to_owned(), Value::List(urls)));
                Line::new("upstream", Value::Table(table))
            }
        };
        line.beside(remark)
    }

    fn authority(&mut self, pass: &Directive, scope: &Scope<'a>, table: &mut Vec<(String, Value)>) {
        let verifies = scope
            .one("proxy_ssl_verify")
            .is_some_and(|verify| verify.first() == "on");
        let named = scope.one("proxy_ssl_trusted_certificate");
        if let Some(ca) = named.and_then(|ca| path::constant(ca.first(), self.prefix)) {
            table.push(("ca".to_owned(), Value::Text(ca)));
        }
        if !verifies {
            self.remarks.warn(
                pass.at,
                "nginx did not verify the upstream's certificate; the gate does: name its CA with ca = \"…\" in the route's upstream",
            );
        }
        if let Some(own) = scope.one("proxy_ssl_certificate") {
            self.remarks.warn(
                own.at,
                "the gate shows no certificate of its own to an upstream",
            );
        }
    }

    /// The servers of an `upstream` block that take part.
    fn servers(&mut self, block: &'a Directive) -> Vec<String> {
        let mut servers = Vec::new();
        for server in block.all("server") {
            let has = |word: &str| server.args.iter().any(|arg| arg == word);
            if has("down") {
                self.remarks
                    .unsupported_as(IDLE, server.at, "server … down");
            } else if has("backup") {
                self.remarks.warn(
                    server.at,
                    "a backup server is left out: all addresses of an upstream take part alike",
                );
            } else {
                servers.push(server.first().to_owned());
            }
        }
        servers
    }
}

/// With variables that were set to a constant replaced.
fn resolved(text: &str, scope: &Scope<'_>) -> Option<String> {
    let mut text = text.to_owned();
    for _ in 0..VARIABLES {
        let Some((before, behind)) = text.split_once('$') else {
            return Some(text);
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, rest) = match behind.strip_prefix('{') {
            Some(inner) => inner.split_once('}')?,
            None => behind.split_at(behind.find(|c| !is_name(c)).unwrap_or(behind.len())),
        };
        let value = match name {
            // The whole target behind its address, which is what is sent without it.
            "request_uri" | "uri" if rest.is_empty() => "",
            _ => scope.variable(name)?,
        };
        text = format!("{before}{value}{rest}");
    }
    None
}

fn target(text: &str) -> Option<Target> {
    let (scheme, rest) = match text.split_once("://")? {
        ("http", rest) => ("http", rest),
        ("https", rest) => ("https", rest),
        _ => return None,
    };
    if let Some(socket) = rest.strip_prefix("unix:") {
        let (path, uri) = socket.split_once(':').unwrap_or((socket, ""));
        return Some(Target {
            scheme,
            authority: format!("unix:{path}"),
            path: uri.to_owned(),
        });
    }
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    Some(Target {
        scheme,
        authority: authority.to_owned(),
        path: path.to_owned(),
    })
}

/// Without a path nginx sends what came; with the location's own, the same.
fn keeps_path(path: &str, location: &str) -> bool {
    path.is_empty() || path == location
}

/// More addresses of one registry are a mistake.
const MOST: usize = 64;
/// The default of `read_timeout`, in milliseconds.
const USUAL_READ: u64 = 900_000;
/// In one address; a variable that holds itself would never end.
const VARIABLES: usize = 8;
const IDLE: &str = "addresses of an upstream that nginx did not use";
