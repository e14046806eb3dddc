//! Access control: `auth_basic`, `allow`, `deny`, `satisfy` and rules by method as the keys of a route.
//!
//! A restriction without a key is an error, with which the caller closes the route.

use std::net::IpAddr;

use crate::net::cidr::{self, Cidr};
use crate::registry::is_registry_path;

use crate::import::nginx::context::Context;
use crate::import::nginx::output::{Grant, Line, Value};
use crate::import::nginx::scope::Scope;
use crate::import::nginx::unsupported;

/// The keys and grants of a route.
#[derive(Debug, Default)]
pub(crate) struct Access {
    pub(crate) lines: Vec<Line>,
    pub(crate) grants: Vec<Grant>,
    /// Whether tidegate verifies users.
    pub(crate) has_users: bool,
}

/// What a location requires of the methods that read, write and delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MethodAccess {
    pub(crate) read: Requirement,
    pub(crate) write: Requirement,
    pub(crate) delete: Requirement,
}

/// What nginx requires of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Requirement {
    Nothing,
    /// Credentials that are valid in this file.
    Password(String),
    /// nginx forwards no request.
    Closed,
}

/// A password file and the realm that clients display; `None` for a realm that is not constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PasswordFile {
    pub(crate) htpasswd: String,
    realm: Option<String>,
}

/// Translates the access control of a location, or returns why its route has to be closed. `by_method` is what the location requires
/// of each method, if that differs.
pub(crate) fn access(
    context: &mut Context<'_>,
    scope: &Scope<'_>,
    path: &str,
    by_method: Option<&MethodAccess>,
) -> Result<Access, String> {
    if let Some(directive) = unsupported::restriction(scope) {
        return Err(format!("{} has no counterpart", directive.name));
    }
    let login = login(context, scope)?;
    warn_of_login(context, scope, login.as_ref());
    let networks = Networks::read(scope)?;
    let mut access = match by_method {
        Some(by_method) => with_methods(context, by_method, scope, login.as_ref(), path)?,
        None => without_grants(scope, login.as_ref()),
    };
    let is_any = scope.value("satisfy") == "any";
    if networks.deny_all() && !(is_any && login.is_some()) {
        return Err(DENY_ALL.to_owned());
    }
    let mut lines = networks.lines();
    // Under satisfy any, networks that are only denied are those that need the password. Without an allow, every client needs it.
    if is_any && login.is_some() && !lines.iter().any(|line| line.key == "allow") {
        lines.clear();
    }
    if is_any && login.is_some() && !lines.is_empty() {
        if !access.grants.is_empty() {
            return Err("satisfy any and rules by method at the same time".to_owned());
        }
        let line = Line::text("satisfy", "any");
        access
            .lines
            .push(line.with_comment("an address or a password is sufficient"));
    }
    access.lines.extend(lines);
    Ok(access)
}

/// The error of [`access`] for a location that denies all addresses.
pub(crate) const DENY_ALL: &str = "deny all";

/// The password file in effect; `None` if no password is required. The path of the file may have variables, which is an error.
pub(crate) fn login(
    context: &Context<'_>,
    scope: &Scope<'_>,
) -> Result<Option<PasswordFile>, &'static str> {
    let basic = scope.get("auth_basic");
    let file = scope.get("auth_basic_user_file");
    let (Some(basic), Some(file)) = (basic.filter(|basic| basic.first() != "off"), file) else {
        return Ok(None);
    };
    let htpasswd = context.file_path(file.first());
    let is_constant = |realm: &&str| !realm.contains('$') && !realm.chars().any(char::is_control);
    Ok(Some(PasswordFile {
        htpasswd: htpasswd.ok_or("auth_basic_user_file has variables")?,
        realm: Some(basic.first()).filter(is_constant).map(str::to_owned),
    }))
}

fn warn_of_login(context: &mut Context<'_>, scope: &Scope<'_>, login: Option<&PasswordFile>) {
    let basic = scope.get("auth_basic");
    let Some(basic) = basic.filter(|basic| basic.first() != "off") else {
        return;
    };
    match login {
        None => context.warn(
            basic.at,
            "auth_basic without auth_basic_user_file: nginx requires no password, and neither does tidegate",
        ),
        Some(login) if login.realm.is_none() => context.warn(
            basic.at,
            "the realm of auth_basic is not constant; tidegate sends its default realm",
        ),
        Some(_) => {}
    }
}

/// Translates rules that differ by method into grants.
fn with_methods(
    context: &mut Context<'_>,
    by_method: &MethodAccess,
    scope: &Scope<'_>,
    login_outside: Option<&PasswordFile>,
    path: &str,
) -> Result<Access, String> {
    use Requirement::{Closed, Nothing, Password};
    let MethodAccess {
        read,
        write,
        delete,
    } = by_method;
    let limit = scope.own().iter().find(|d| d.name == "limit_except");
    let mut inside = None;
    if let Some(limit) = limit {
        let scope = scope.inner(limit.inner());
        inside = login(context, &scope)?;
        warn_of_login(context, &scope, inside.as_ref());
    }
    let logins = [login_outside, inside.as_ref()];
    let login = |file: &String| {
        let mut known = logins.into_iter().flatten();
        known
            .find(|login| login.htpasswd == *file)
            .cloned()
            .ok_or(BY_METHOD)
    };
    if read == write && write == delete {
        return match read {
            Closed => Err("nginx rejects every method".to_owned()),
            Nothing => Ok(without_grants(scope, None)),
            Password(file) => Ok(without_grants(scope, Some(&login(file)?))),
        };
    }
    let is_registry = path == "/" || is_registry_path(path.trim_end_matches('/'));
    if !is_registry {
        return Err(BY_METHOD.to_owned());
    }
    let to_users = |actions| {
        vec![Grant {
            to: "@users",
            actions,
        }]
    };
    let at = limit.map(|limit| limit.at);
    match (read, write, delete) {
        (Password(file), Closed, Closed) => Ok(with_grants("basic", &login(file)?, to_users(READ))),
        (Password(file), Closed, Password(other)) if file == other => {
            let actions = &["pull", "delete", "catalog"];
            Ok(with_grants("basic", &login(file)?, to_users(actions)))
        }
        (Password(file), Password(other), _) if file == other => {
            let at = at.or_else(|| Some(scope.own().first()?.at));
            if let Some(at) = at {
                context.warn(at, CANCELS);
            }
            Ok(with_grants("basic", &login(file)?, to_users(WRITE)))
        }
        (Password(file), Password(_), _) => {
            if let Some(at) = at {
                context.warn(
                    at,
                    "the password file in limit_except is another one: all users may read; grant actions = [\"push\"] to the users of that file, and add them to this one",
                );
            }
            Ok(with_grants("basic", &login(file)?, to_users(READ)))
        }
        (Nothing, Password(file), Password(_) | Closed) => {
            let users = match delete {
                Password(other) if other == file => &["push", "delete"][..],
                _ => &["push"][..],
            };
            if let Some(at) = at {
                context.warn(
                    at,
                    "limit_except became mode = \"token\" with grants: reading needs no password, and docker logs in for a push",
                );
            }
            let anyone = Grant {
                to: "@anonymous",
                actions: READ,
            };
            let mut grants = vec![anyone];
            grants.extend(to_users(users));
            Ok(with_grants("token", &login(file)?, grants))
        }
        _ => Err(BY_METHOD.to_owned()),
    }
}

fn without_grants(scope: &Scope<'_>, login: Option<&PasswordFile>) -> Access {
    let line = match login {
        Some(login) => auth_line("basic", login),
        None if removes_authorization(scope) => Line::new("auth", Value::table([("mode", "none")]))
            .with_comment("nginx required no password and removed Authorization"),
        None => Line::new("auth", Value::table([("mode", "upstream")]))
            .with_comment("nginx required no password; Authorization is forwarded to the upstream"),
    };
    Access {
        lines: vec![line],
        grants: Vec::new(),
        has_users: login.is_some(),
    }
}

/// Whether `proxy_set_header` removes or replaces the client's `Authorization`.
pub(crate) fn removes_authorization(scope: &Scope<'_>) -> bool {
    scope.all("proxy_set_header").iter().any(|set| {
        set.first().eq_ignore_ascii_case("authorization") && set.arg(1) != "$http_authorization"
    })
}

fn with_grants(mode: &str, login: &PasswordFile, grants: Vec<Grant>) -> Access {
    Access {
        lines: vec![auth_line(mode, login)],
        grants,
        has_users: true,
    }
}

fn auth_line(mode: &str, login: &PasswordFile) -> Line {
    let mut table = vec![
        ("mode".to_owned(), Value::Text(mode.to_owned())),
        ("htpasswd".to_owned(), Value::Text(login.htpasswd.clone())),
    ];
    if let Some(realm) = &login.realm {
        table.push(("realm".to_owned(), Value::Text(realm.clone())));
    }
    Line::new("auth", Value::Table(table))
}

/// The `allow` and `deny` rules in effect, up to the first rule for all addresses.
///
/// nginx applies the first rule that matches, tidegate the rule with the longest prefix. A rule that an earlier rule covers never
/// applies in nginx; without these rules both orders have the same result.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    /// Whether the rule is an `allow`, and its network.
    rules: Vec<(bool, Cidr)>,
    /// Whether the last rule is an `allow all` or a `deny all`; `None` without such a rule.
    all: Option<bool>,
}

impl Networks {
    /// Reads the rules in effect, or returns why they cannot be read.
    pub(crate) fn read(scope: &Scope<'_>) -> Result<Self, String> {
        let mut networks = Self::default();
        for rule in scope.any_of(&["allow", "deny"]) {
            let is_allow = rule.name == "allow";
            match rule.first() {
                "all" => {
                    networks.all = Some(is_allow);
                    break;
                }
                "unix:" => {}
                text => {
                    let network = parse_network(text)
                        .ok_or_else(|| format!("{} does not name a network", rule.name))?;
                    let mut known = networks.rules.iter();
                    if !known.any(|(_, known)| known.covers(network)) {
                        networks.rules.push((is_allow, network));
                    }
                }
            }
        }
        Ok(networks)
    }

    /// Whether the address is allowed; `None` if no rule matches it, which nginx also allows.
    pub(crate) fn decide(&self, client: IpAddr) -> Option<bool> {
        let mut rules = self.rules.iter();
        let rule = rules.find(|(_, network)| network.contains(client));
        rule.map(|(is_allow, _)| *is_allow).or(self.all)
    }

    /// The number of rules.
    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether the rules say nothing about any client.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.all.is_none()
    }

    /// The prefix length of a network if it contains the address.
    pub(crate) fn prefix_containing(network: &str, client: IpAddr) -> Option<u8> {
        let network = parse_network(network).filter(|network| network.contains(client));
        network.map(Cidr::prefix)
    }

    /// Addresses inside of a network and directly around it.
    pub(crate) fn addresses_around(network: &str) -> Vec<IpAddr> {
        let Some(network) = parse_network(network) else {
            return Vec::new();
        };
        let (first, last) = network.range();
        let around = [first, last, first.wrapping_sub(1), last.wrapping_add(1)].into_iter();
        let around: Vec<IpAddr> = if network.is_ipv4() {
            // Beyond the last address, the numbers begin again.
            let bits = around.map(|bits| bits & u128::from(u32::MAX));
            bits.filter_map(|bits| Some(IpAddr::V4(u32::try_from(bits).ok()?.into())))
                .collect()
        } else {
            around.map(|bits| IpAddr::V6(bits.into())).collect()
        };
        // A mapped address is an IPv4 address for tidegate.
        let is_canonical = |address: &IpAddr| *address == address.to_canonical();
        around.into_iter().filter(is_canonical).collect()
    }

    /// Whether every address is allowed.
    pub(crate) fn allow_all(&self) -> bool {
        self.all != Some(false) && self.rules.iter().all(|(is_allow, _)| *is_allow)
    }

    /// Whether every address is denied.
    fn deny_all(&self) -> bool {
        self.all == Some(false) && !self.rules.iter().any(|(is_allow, _)| *is_allow)
    }

    /// The keys of the route. There are none if all addresses are allowed, or none.
    fn lines(&self) -> Vec<Line> {
        let of_kind = |kind: bool| {
            let rules = self.rules.iter();
            let rules = rules.filter(|(is_allow, _)| *is_allow == kind);
            let networks = rules.map(|(_, network)| short_form(*network));
            networks.collect::<Vec<_>>()
        };
        let (mut allow, deny) = (of_kind(true), of_kind(false));
        if self.all != Some(false) {
            if deny.is_empty() {
                return Vec::new();
            }
            // With `allow`, an address that is in neither list is rejected.
            if !allow.is_empty() {
                allow.push("all".to_owned());
            }
        } else if allow.is_empty() {
            return Vec::new();
        }
        let lists = [("allow", allow), ("deny", deny)];
        let written = lists.into_iter().filter(|(_, list)| !list.is_empty());
        written.map(|(key, list)| Line::list(key, list)).collect()
    }
}

/// Parses a network. As in nginx, the bits after the prefix are cleared. A mapped IPv4 address is not understood: nginx compares it
/// only with clients of a socket for both address families.
fn parse_network(text: &str) -> Option<Cidr> {
    let address: IpAddr = text.split('/').next()?.parse().ok()?;
    let (Ok(network) | Err(cidr::Error::HostBits(network))) = text.parse::<Cidr>() else {
        return None;
    };
    (address == address.to_canonical()).then_some(network)
}

/// Formats a network as an operator writes it: `10.0.0.0/8`, and a single address without `/32` or `/128`.
fn short_form(network: Cidr) -> String {
    let text = network.to_string();
    let suffix = if network.is_ipv4() { "/32" } else { "/128" };
    text.strip_suffix(suffix).unwrap_or(&text).to_owned()
}

/// Formats a network for the `proxy.toml`. Returns `None` for a host name or a socket.
pub(crate) fn format_network(text: &str) -> Option<String> {
    parse_network(text).map(short_form)
}

const CANCELS: &str = "users may not delete, but a user who may push may cancel an upload of a layer, which is a DELETE as well";
/// The reason of routes that no grant can express.
const BY_METHOD: &str = "the rules differ by method, and no grant has the same meaning";
/// The actions of a grant that permits the methods that read.
const READ: &[&str] = &["pull", "catalog"];
/// The actions of a grant that permits all methods but DELETE.
const WRITE: &[&str] = &["push", "catalog"];
