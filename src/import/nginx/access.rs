//! Who may come in: `auth_basic`, `allow`, `deny`, `satisfy` and `limit_except` as a route's keys.
//!
//! Called by `route`. What restricts access in a way that has no key makes the route closed.

use crate::registry::is_registry_path;

use crate::import::nginx::draft::{Grant, Line, Value};
use crate::import::nginx::networks::Networks;
use crate::import::nginx::path;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::translate::Importer;
use crate::import::nginx::tree::Directive;

/// Keys and grants of a route.
#[derive(Debug, Default)]
pub(super) struct Access {
    pub(super) lines: Vec<Line>,
    pub(super) grants: Vec<Grant>,
}

/// A password file and what clients are told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Login {
    htpasswd: String,
    realm: Option<String>,
}

impl<'a> Importer<'a> {
    /// Who may use a route, or why it has to be closed.
    pub(super) fn access(&mut self, scope: &Scope<'a>, path: &str) -> Result<Access, String> {
        if let Some(foreign) = foreign_auth(scope) {
            return Err(format!("{} decided who comes in", foreign.name));
        }
        let login = self.login(scope)?;
        let networks = Networks::of(scope)?;
        let mut access = match scope.own().iter().find(|d| d.name == "limit_except") {
            Some(limit) => self.limited(limit, scope, login.as_ref(), path)?,
            None => plain(login.as_ref()),
        };
        let is_any = scope.one("satisfy").is_some_and(|d| d.first() == "any");
        if networks.is_nobody() && !(is_any && login.is_some()) {
            return Err("deny all".to_owned());
        }
        let lines = networks.lines();
        if is_any && login.is_some() && !lines.is_empty() {
            if !access.grants.is_empty() {
                return Err("satisfy any and limit_except at once".to_owned());
            }
            let line = Line::text("satisfy", "any");
            access
                .lines
                .push(line.beside("an address or a password is enough"));
        }
        access.lines.extend(lines);
        Ok(access)
    }

    /// The password that is asked for; nothing when nobody is.
    fn login(&mut self, scope: &Scope<'a>) -> Result<Option<Login>, String> {
        let Some(basic) = scope
            .one("auth_basic")
            .filter(|basic| basic.first() != "off")
        else {
            return Ok(None);
        };
        let Some(file) = scope.one("auth_basic_user_file") else {
            self.remarks.warn(
                basic.at,
                "auth_basic without auth_basic_user_file: nginx asks nobody for a password, and so does the gate",
            );
            return Ok(None);
        };
        let htpasswd = path::constant(file.first(), self.prefix)
            .ok_or("auth_basic_user_file is known only when a request comes")?;
        let realm = Some(basic.first().to_owned())
            .filter(|realm| !realm.contains('$') && !realm.chars().any(char::is_control));
        if realm.is_none() {
            self.remarks.warn(
                basic.at,
                "the realm of auth_basic is not constant; clients are shown the usual one",
            );
        }
        Ok(Some(Login { htpasswd, realm }))
    }

    /// `limit_except`: other methods than these have rules of their own.
    fn limited(
        &mut self,
        limit: &'a Directive,
        scope: &Scope<'a>,
        login: Option<&Login>,
        path: &str,
    ) -> Result<Access, String> {
        let free = |method: &str| limit.args.iter().any(|arg| arg == method);
        let may_write = ["POST", "PUT", "PATCH"].iter().all(|method| free(method));
        if may_write && free("GET") && free("DELETE") {
            return Ok(plain(login));
        }
        let is_read_only = free("GET") && limit.args.iter().all(|m| READS.contains(&m.as_str()));
        let is_registry = path == "/" || is_registry_path(path);
        let inner = scope.within(limit.inner());
        let denies = limit.all("deny").any(|deny| deny.first() == "all");
        let has_rules = limit.all("allow").next().is_some();
        if !is_registry || has_rules || !(is_read_only || (may_write && free("GET"))) {
            return Err("limit_except is neither read-only nor without deletion here".to_owned());
        }
        let inner_login = self.login(&inner)?;
        match (login, inner_login) {
            (Some(login), _) if denies => {
                let actions = if is_read_only { READ } else { WRITE };
                Ok(granted(
                    "basic",
                    login,
                    vec![Grant {
                        to: "@users",
                        actions,
                    }],
                ))
            }
            (None, Some(login)) if !denies && is_read_only => {
                self.remarks.warn(
                    limit.at,
                    "limit_except became mode = \"token\" with grants: reading needs no password, and docker logs in for a push",
                );
                Ok(granted("token", &login, anonymous_reads()))
            }
            (Some(login), Some(own)) if *login == own => Ok(plain(Some(login))),
            (Some(login), Some(_)) if is_read_only => {
                self.remarks.warn(
                    limit.at,
                    "the password file in limit_except is another one: all users may read; grant actions = [\"push\"] to those of that file, and add them to this one",
                );
                let grant = Grant {
                    to: "@users",
                    actions: READ,
                };
                Ok(granted("basic", login, vec![grant]))
            }
            _ => Err(
                "limit_except restricts what the gate cannot tell apart without users".to_owned(),
            ),
        }
    }
}

/// Another module that decides who comes in.
fn foreign_auth<'a>(scope: &Scope<'a>) -> Option<&'a Directive> {
    let is_foreign = |directive: &&Directive| {
        let name = directive.name.as_str();
        let decides =
            name.starts_with("auth_") || name.starts_with("access_by_") || name == "js_access";
        decides && !KNOWN.contains(&name)
    };
    let mut foreign = scope.every().filter(is_foreign);
    foreign.find(|found| {
        let counts = scope.one(&found.name).unwrap_or(found);
        counts.first() != "off"
    })
}

fn plain(login: Option<&Login>) -> Access {
    let line = match login {
        Some(login) => auth("basic", login),
        None => Line::new("auth", Value::table([("mode", "upstream")]))
            .beside("nginx asked for no password here; Authorization passes to the upstream"),
    };
    Access {
        lines: vec![line],
        grants: Vec::new(),
    }
}

fn granted(mode: &str, login: &Login, grants: Vec<Grant>) -> Access {
    Access {
        lines: vec![auth(mode, login)],
        grants,
    }
}

fn auth(mode: &str, login: &Login) -> Line {
    let mut table = vec![
        ("mode".to_owned(), Value::Text(mode.to_owned())),
        ("htpasswd".to_owned(), Value::Text(login.htpasswd.clone())),
    ];
    if let Some(realm) = &login.realm {
        table.push(("realm".to_owned(), Value::Text(realm.clone())));
    }
    Line::new("auth", Value::Table(table))
}

fn anonymous_reads() -> Vec<Grant> {
    let reads = Grant {
        to: "@anonymous",
        actions: READ,
    };
    let writes = Grant {
        to: "@users",
        actions: &["push", "delete"],
    };
    vec![reads, writes]
}

const READS: &[&str] = &["GET", "HEAD", "OPTIONS"];
const READ: &[&str] = &["pull", "catalog"];
const WRITE: &[&str] = &["push", "catalog"];
const KNOWN: &[&str] = &["auth_basic", "auth_basic_user_file", "auth_delay"];
