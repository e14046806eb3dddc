//! The upstream of a route: `proxy_pass` and `upstream` blocks as `route.upstream`.

use crate::config::url::{host_header, upstream_address, upstream_url};

use crate::import::nginx::context::Context;
use crate::import::nginx::output::{Line, Value};
use crate::import::nginx::parser::Directive;
use crate::import::nginx::request::split_variable;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::units;

/// The argument of a `proxy_pass`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassTarget {
    scheme: &'static str,
    /// A host, a host with a port, or `unix:/path`.
    authority: String,
    /// Empty if the path of the request is forwarded unchanged.
    pub(crate) path: String,
}

impl PassTarget {
    /// Reads the argument of a `proxy_pass`, or returns why it is no address.
    pub(crate) fn read(pass: &Directive, scope: &Scope<'_>) -> Result<Self, &'static str> {
        let written = resolve_variables(pass.first(), scope)
            .ok_or("the address of proxy_pass has variables")?;
        Self::parse(&written).ok_or("the address of proxy_pass is neither http:// nor https://")
    }

    /// Parses an address without variables.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://")? {
            ("http", rest) => ("http", rest),
            ("https", rest) => ("https", rest),
            _ => return None,
        };
        if let Some(socket) = rest.strip_prefix("unix:") {
            let (path, uri) = socket.split_once(':').unwrap_or((socket, ""));
            return Some(Self {
                scheme,
                authority: format!("unix:{path}"),
                path: uri.to_owned(),
            });
        }
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        Some(Self {
            scheme,
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Whether the upstream receives the path of the request unchanged: `proxy_pass` has no path, or the path of its
    /// location.
    pub(crate) fn keeps_path(&self, location: &str) -> bool {
        self.path.is_empty() || self.path == location
    }

    /// Whether Lua code in the `upstream` block chooses the address for each request.
    pub(crate) fn is_chosen_by_code(&self, context: &Context<'_>) -> bool {
        let block = context.upstreams.get(self.authority.as_str());
        block.is_some_and(|block| {
            let mut inner = block.inner().iter();
            inner.any(|d| d.name.starts_with("balancer_by_"))
        })
    }

    /// The URLs of the upstream, each once, with the name of an `upstream` block replaced by the servers that nginx uses.
    pub(crate) fn urls(&self, context: &Context<'_>) -> Vec<String> {
        let block = context.upstreams.get(self.authority.as_str());
        let servers = match block {
            Some(block) => block
                .all("server")
                .filter(|server| {
                    !server
                        .args
                        .iter()
                        .any(|arg| arg == "down" || arg == "backup")
                })
                .map(Directive::first)
                .collect(),
            None => vec![self.authority.as_str()],
        };
        let mut urls: Vec<String> = Vec::new();
        for server in servers {
            let url = if server.starts_with("unix:") {
                server.to_owned()
            } else {
                format!("{}://{server}", self.scheme)
            };
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        urls
    }
}

/// The upstream of a route.
pub(crate) struct Upstream {
    pub(crate) line: Line,
    /// Whether its path replaces the path of the route.
    pub(crate) has_path: bool,
}

/// Translates a `proxy_pass` into the line of the route, or returns why there is none. `may_have_path` is whether the path of the upstream
/// may replace the one of the location.
pub(crate) fn upstream(
    context: &mut Context<'_>,
    pass: &Directive,
    scope: &Scope<'_>,
    location: &str,
    may_have_path: bool,
) -> Result<Upstream, String> {
    let target = PassTarget::read(pass, scope)?;
    if target.is_chosen_by_code(context) {
        return Err("Lua code in the upstream block chooses the address".to_owned());
    }
    let has_path = !target.keeps_path(location);
    // With a slash at one end only, nginx inserts or removes a character of the rest.
    let is_replaced = may_have_path && target.path.ends_with('/') == location.ends_with('/');
    if has_path && !is_replaced {
        return Err(format!(
            "proxy_pass changes the path ({location} becomes {}) in a way that an upstream's URL does not",
            target.path
        ));
    }
    warn_of_unused_servers(context, &target);
    let mut urls = target.urls(context);
    let count = urls.len();
    urls.retain(|url| upstream_url(url).is_ok());
    if urls.len() < count {
        context.warn(
            pass.at,
            "an address of the upstream is not valid, and is left out",
        );
    }
    if urls.len() > MAX_URLS {
        urls.truncate(MAX_URLS);
        let what = format!("an upstream has at most {MAX_URLS} addresses; the others are left out");
        context.warn(pass.at, what);
    }
    if urls.is_empty() {
        return Err("the upstream has no address that tidegate can use".to_owned());
    }
    if has_path {
        for url in &mut urls {
            url.push_str(&target.path);
        }
        if urls
            .iter()
            .any(|url| upstream_address(url).is_err() || url.starts_with("unix:"))
        {
            return Err(
                "the address of proxy_pass has a path that tidegate does not accept".to_owned(),
            );
        }
    }
    warn_of_name(context, pass, &target);
    let host = host(context, scope, &target);
    Ok(Upstream {
        line: upstream_line(context, urls, host, pass, scope),
        has_path,
    })
}

fn warn_of_unused_servers(context: &mut Context<'_>, target: &PassTarget) {
    let Some(block) = context.upstreams.get(target.authority.as_str()).copied() else {
        return;
    };
    for server in block.all("server") {
        let has = |word: &str| server.args.iter().any(|arg| arg == word);
        if has("down") {
            context.unsupported_as(UNUSED_SERVER, server.at, "server … down");
        } else if has("backup") {
            context.warn(
                server.at,
                "a backup server is left out: tidegate uses all addresses of an upstream equally",
            );
        }
    }
}

/// Warns where a name may be that of an `upstream` block in a file that was not read.
fn warn_of_name(context: &mut Context<'_>, pass: &Directive, target: &PassTarget) {
    let name = &target.authority;
    let is_block = context.upstreams.contains_key(name.as_str());
    if !is_block && !name.contains([':', '.']) && name != "localhost" {
        let what = format!(
            "{name} has no port, and no upstream block has this name: if nginx.conf or another file has one, import that file as well"
        );
        context.warn(pass.at, what);
    }
}

/// The Host of requests to the upstream, as the key `host` has it; `None` for the Host of the client.
fn host(context: &mut Context<'_>, scope: &Scope<'_>, target: &PassTarget) -> Option<String> {
    let set = scope.all("proxy_set_header").into_iter();
    let mut set = set.filter(|set| set.first().eq_ignore_ascii_case("host"));
    let Some(set) = set.next_back() else {
        // nginx sends the name of the upstream. A registry on this machine or at an address needs the one of the client for its URLs.
        let name = &target.authority;
        let is_distant = name.contains('.') && !name.starts_with(|c: char| c.is_ascii_digit());
        let is_block = context.upstreams.contains_key(name.as_str());
        let is_sent = is_distant && !is_block && !name.starts_with("unix:");
        return is_sent.then(|| "upstream".to_owned());
    };
    match set.arg(1) {
        "$http_host" | "$host" | "$host:$server_port" | "$http_host:$server_port" => None,
        "$proxy_host" => Some("upstream".to_owned()),
        name if !name.contains('$') && host_header(name).is_ok() => Some(name.to_owned()),
        _ => {
            let what = "the upstream receives the Host of the client; nginx sent another value";
            context.warn(set.at, what);
            None
        }
    }
}

fn upstream_line(
    context: &mut Context<'_>,
    urls: Vec<String>,
    host: Option<String>,
    pass: &Directive,
    scope: &Scope<'_>,
) -> Line {
    let mut table = Vec::new();
    if urls.iter().any(|url| url.starts_with("https://")) {
        certificate_authority(context, pass, scope, &mut table);
    }
    table.extend(host.map(|host| ("host".to_owned(), Value::Text(host))));
    let timeout = |name: &str| units::parse_time(scope.value(name)).filter(|time| *time > 0);
    let connect_timeout = timeout("proxy_connect_timeout");
    let read_timeout = timeout("proxy_read_timeout").filter(|time| *time != DEFAULT_READ_TIMEOUT);
    for (key, time) in [
        ("connect_timeout", connect_timeout),
        ("read_timeout", read_timeout),
    ] {
        if let Some(time) = time {
            table.push((key.to_owned(), Value::Text(units::format_time(time))));
        }
    }
    let comment = if scope.get("proxy_read_timeout").is_none() {
        "read_timeout is 900s by default; nginx's default was 60s"
    } else if read_timeout.is_some() {
        "read_timeout bounds the silence of the upstream, also before its response; it is no total"
    } else {
        ""
    };
    let line = match urls.as_slice() {
        [url] if table.is_empty() => Line::text("upstream", url),
        _ => {
            table.insert(0, ("urls".to_owned(), Value::List(urls)));
            Line::new("upstream", Value::Table(table))
        }
    };
    line.with_comment(comment)
}

fn certificate_authority(
    context: &mut Context<'_>,
    pass: &Directive,
    scope: &Scope<'_>,
    table: &mut Vec<(String, Value)>,
) {
    let ca = scope.get("proxy_ssl_trusted_certificate");
    if let Some(ca) = ca.and_then(|ca| context.file_path(ca.first())) {
        table.push(("ca".to_owned(), Value::Text(ca)));
    }
    if scope.value("proxy_ssl_verify") != "on" {
        context.warn(
            pass.at,
            "nginx did not verify the upstream's certificate, tidegate does: name its CA with ca = \"…\" in the route's upstream",
        );
    }
    let file = |name| context.file_path(scope.value(name));
    let (cert, key) = (
        file("proxy_ssl_certificate"),
        file("proxy_ssl_certificate_key"),
    );
    if let (Some(cert), Some(key)) = (cert, key) {
        table.push(("cert".to_owned(), Value::Text(cert)));
        table.push(("key".to_owned(), Value::Text(key)));
    }
    if let Some(name) = scope.get("proxy_ssl_name") {
        match resolve_variables(name.first(), scope) {
            Some(text) => table.push(("server_name".to_owned(), Value::Text(text))),
            None if name.first() == "$proxy_host" => {}
            None => context.warn(
                name.at,
                "the name in the TLS handshake with the upstream is that of its URL: server_name cannot have a variable",
            ),
        }
    }
}

/// Replaces variables that `set` gives a constant value. Returns `None` if another variable remains.
fn resolve_variables(text: &str, scope: &Scope<'_>) -> Option<String> {
    let mut text = text.to_owned();
    for _ in 0..MAX_VARIABLES {
        let Some((before, behind)) = text.split_once('$') else {
            return Some(text);
        };
        let (name, rest) = split_variable(behind)?;
        let value = match name {
            // With the whole request target after the address, nginx sends what it sends without a path.
            "request_uri" if rest.is_empty() => "",
            "uri" if matches!(rest, "" | "$is_args$args" | "?$args") => {
                return Some(before.to_owned());
            }
            _ => scope.variable(name)?,
        };
        text = format!("{before}{value}{rest}");
    }
    None
}

/// The maximum number of addresses of a registry. More addresses are a mistake.
const MAX_URLS: usize = 64;
/// The default of `read_timeout` in milliseconds.
const DEFAULT_READ_TIMEOUT: u64 = 900_000;
/// The maximum number of variables that are replaced in one address. A variable whose value names itself would not end.
const MAX_VARIABLES: usize = 8;
const UNUSED_SERVER: &str = "addresses of an upstream that nginx did not use";
