//! Rights held against a model: the rules once more, as plainly as they can be said, and random requests to both.
//!
//! The model knows rules as they are written, and expands every pattern into all that it can stand for. A failure
//! prints the seed; `SEED=…` runs that one again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use serde_json::Value;
use tidegate::access::{Access, Authorization, Denied, LiveGrants, RequestedAccess};
use tidegate::auth::token::TokenIssuer;
use tidegate::auth::token::keys::SigningKeys;
use tidegate::auth::{
    Authenticator, HashingSettings, Identity, PasswordVerifier, ThrottleSettings,
};
use tidegate::config::parse;
use tidegate::htpasswd::LiveUsers;
use tidegate::net::addr::{ClientAddr, PeerAddr};
use tidegate::registry::{Operation, Parsed, Scope};
use tidegate::www_authenticate;

use crate::support::proxy::TestConfig;
use crate::support::proxy::directory;
use crate::support::{
    DIGEST, Exchange, HttpVersion, Proxy, Registry, TestRequest, config, exchange,
};

// The model.

/// A grant as it is written.
#[derive(Clone, Debug)]
struct Rule {
    to: Vec<String>,
    repositories: Vec<String>,
    actions: Vec<&'static str>,
}

/// All grants of a route, and the groups.
#[derive(Clone, Debug, Default)]
struct Rules {
    groups: BTreeMap<String, Vec<String>>,
    all: Vec<Rule>,
}

/// What a token is for: `catalog`, and actions by repository.
type Scoped = BTreeMap<String, Vec<&'static str>>;

/// Who asks: a user, or nobody; by a token or not.
#[derive(Clone, Debug)]
struct Who {
    user: Option<String>,
    scope: Option<Scoped>,
}

#[derive(Clone, Debug)]
enum Wanted {
    Ping,
    Catalog,
    /// An action on a repository.
    On(&'static str, String),
    /// A push whose blob is to come from a repository, or from anywhere.
    Mount(String, Option<String>),
    /// A read of what no repository can have.
    Absent(String),
    /// No operation, or none of this method.
    Wrong(u16),
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Sent on, with its mount or without.
    Sent {
        mounts: bool,
    },
    /// These of the names there are.
    Listed(Vec<String>),
    LogIn,
    Forbidden,
    Wrong(u16),
}

impl Rules {
    fn is_for(&self, rule: &Rule, user: Option<&str>) -> bool {
        rule.to.iter().any(|to| match (to.as_str(), user) {
            ("@anonymous", _) | ("@users", Some(_)) => true,
            (name, Some(user)) if !name.starts_with('@') => name == user,
            (group, Some(user)) => {
                let members = self.groups.get(&group[1..]);
                members.is_some_and(|members| members.iter().any(|member| member == user))
            }
            (_, None) => false,
        })
    }

    fn of<'a>(&'a self, user: Option<&'a str>, action: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.all.iter().filter(move |rule| {
            let implied = action == "pull" && rule.actions.contains(&"push");
            self.is_for(rule, user) && (implied || rule.actions.contains(&action))
        })
    }

    fn may(&self, user: Option<&str>, action: &str, name: &str) -> bool {
        self.of(user, action).any(|rule| {
            rule.repositories
                .iter()
                .any(|pattern| fits(pattern, user, name))
        })
    }

    fn pulls_everything(&self, user: Option<&str>) -> bool {
        self.of(user, "pull")
            .any(|rule| rule.repositories.iter().any(|pattern| pattern == "**"))
    }

    /// Something is granted to anyone, and he has shown a token.
    fn lets_in(&self, who: &Who) -> bool {
        let anyone = self
            .all
            .iter()
            .any(|rule| rule.to.iter().any(|to| to == "@anonymous"));
        who.user.is_some() || (anyone && who.scope.is_some())
    }

    /// `is_alone` where no other route of the site can hold repositories, `is_here` for those of this route.
    fn judge(&self, who: &Who, wanted: &Wanted, place: &Place<'_>) -> Verdict {
        let user = who.user.as_deref();
        let denied = || {
            if user.is_some() {
                Verdict::Forbidden
            } else {
                Verdict::LogIn
            }
        };
        let has_right = match wanted {
            Wanted::Ping => self.lets_in(who),
            Wanted::Catalog => self.of(user, "catalog").next().is_some(),
            Wanted::On(action, name) => self.may(user, action, name),
            Wanted::Mount(name, _) => self.may(user, "push", name),
            Wanted::Absent(name) => self.may(user, "pull", name),
            Wanted::Wrong(status) if self.lets_in(who) => return Verdict::Wrong(*status),
            Wanted::Wrong(_) => return Verdict::LogIn,
        };
        if !has_right {
            return denied();
        }
        let in_scope = |action: &str, name: &str| match &who.scope {
            None => true,
            Some(scope) => scope.get(name).is_some_and(|actions| {
                actions.contains(&action) || (action == "pull" && actions.contains(&"push"))
            }),
        };
        match wanted {
            Wanted::Ping | Wanted::Wrong(_) => Verdict::Sent { mounts: false },
            Wanted::Catalog if !in_scope("catalog", "") => Verdict::LogIn,
            Wanted::Catalog if place.is_alone && self.pulls_everything(user) => {
                Verdict::Sent { mounts: false }
            }
            Wanted::Catalog => {
                let names = place.names.iter().filter(|name| (place.is_here)(name));
                let names = names.filter(|name| self.may(user, "pull", name));
                Verdict::Listed(names.cloned().collect())
            }
            Wanted::On(action, name) if in_scope(action, name) => Verdict::Sent { mounts: false },
            // Another token would do, and the client may have it.
            Wanted::Mount(_, Some(from))
                if (place.is_here)(from)
                    && self.may(user, "pull", from)
                    && !in_scope("pull", from) =>
            {
                Verdict::LogIn
            }
            Wanted::Mount(name, from) if in_scope("push", name) => Verdict::Sent {
                mounts: match from {
                    Some(from) => (place.is_here)(from) && self.may(user, "pull", from),
                    None => place.is_alone && self.pulls_everything(user) && who.scope.is_none(),
                },
            },
            Wanted::Absent(name) if in_scope("pull", name) => Verdict::Wrong(404),
            Wanted::On(..) | Wanted::Mount(..) | Wanted::Absent(_) => Verdict::LogIn,
        }
    }

    /// What of these a token is given for.
    fn grant(&self, user: Option<&str>, asked: &Scoped) -> Scoped {
        let kept = asked.iter().map(|(name, actions)| {
            let may = |action: &&&str| match name.as_str() {
                "" => self.of(user, "catalog").next().is_some(),
                name => self.may(user, action, name),
            };
            (name.clone(), actions.iter().filter(may).copied().collect())
        });
        kept.collect()
    }

    /// As TOML; `all` are the tables of a route.
    fn written(&self) -> (String, String) {
        let list = |words: &[String]| format!("{words:?}");
        let groups = self
            .groups
            .iter()
            .map(|(name, users)| format!("{name} = {}\n", list(users)));
        let rules = self.all.iter().map(|rule| {
            format!(
                "[[site.route.grant]]\nto = {}\nrepositories = {}\nactions = {:?}\n",
                list(&rule.to),
                list(&rule.repositories),
                rule.actions
            )
        });
        (
            format!("[groups]\n{}", groups.collect::<String>()),
            rules.collect(),
        )
    }
}

/// Where a request is judged.
struct Place<'a> {
    is_alone: bool,
    is_here: fn(&str) -> bool,
    names: &'a [String],
}

/// By all that the pattern can stand for.
fn fits(pattern: &str, user: Option<&str>, name: &str) -> bool {
    let parts: Vec<_> = pattern.split('/').collect();
    let name: Vec<_> = name.split('/').collect();
    expanded(&parts, name.len()).iter().any(|parts| {
        parts
            .iter()
            .zip(&name)
            .all(|(part, component)| match *part {
                "*" => true,
                "{user}" => user == Some(*component),
                literal => literal == *component,
            })
    })
}

/// All patterns of this length without `**`.
fn expanded<'a>(parts: &[&'a str], length: usize) -> Vec<Vec<&'a str>> {
    let Some((first, rest)) = parts.split_first() else {
        return if length == 0 {
            vec![Vec::new()]
        } else {
            Vec::new()
        };
    };
    let most = if *first == "**" {
        length
    } else {
        length.min(1)
    };
    let first = if *first == "**" { "*" } else { first };
    let with = |count: usize| {
        let tails = expanded(rest, length - count);
        tails
            .into_iter()
            .map(move |tail| [vec![first; count], tail].concat())
    };
    (1..=most).flat_map(with).collect()
}

// Chance.

/// The same numbers for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    /// A fresh seed, or the one that is to be run again.
    fn new() -> (u64, Self) {
        let fresh = || RandomState::new().hash_one("seed");
        let seed = std::env::var("SEED").map_or_else(|_| fresh(), |seed| seed.parse().unwrap());
        (seed, Self(seed))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn some<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..=self.below(most)).map(|_| one(self)).collect()
    }

    fn happens(&mut self, one_of: usize) -> bool {
        self.below(one_of) == 0
    }
}

/// One of them is no path component, and is at home nowhere.
const USERS: [&str; 5] = ["alice", "bob", "a.b", "Ann", "x@y"];
const WORDS: [&str; 7] = ["team", "home", "alice", "bob", "a.b", "other", "tags"];
const ACTIONS: [&str; 4] = ["pull", "push", "delete", "catalog"];

fn a_name(dice: &mut Dice) -> String {
    dice.some(3, |dice| dice.one(&WORDS)).join("/")
}

fn a_pattern(dice: &mut Dice) -> String {
    if dice.happens(7) {
        return "**".to_owned();
    }
    let parts = dice.some(3, |dice| match dice.below(7) {
        0 => "*",
        1 => "**",
        2 => "{user}",
        _ => dice.one(&WORDS),
    });
    parts.join("/")
}

fn some_rules(dice: &mut Dice, with_anonymous: bool) -> Rules {
    let groups = ["ci", "team"].map(|name| {
        let users = dice.some(2, |dice| dice.one(&USERS).to_owned());
        (name.to_owned(), users)
    });
    let to = |dice: &mut Dice| match dice.below(8) {
        0 if with_anonymous => "@anonymous".to_owned(),
        0 | 1 => "@users".to_owned(),
        2 => "@ci".to_owned(),
        3 => "@team".to_owned(),
        _ => dice.one(&USERS).to_owned(),
    };
    let all = dice.some(4, |dice| Rule {
        to: dice.some(2, to),
        repositories: dice.some(2, a_pattern),
        actions: dice.some(2, |dice| dice.one(&ACTIONS)),
    });
    Rules {
        groups: groups.into(),
        all,
    }
}

fn a_scope(dice: &mut Dice, about: &[String]) -> Scoped {
    let mut scope = Scoped::new();
    for _ in 0..dice.below(4) {
        let name = if dice.happens(3) {
            a_name(dice)
        } else {
            dice.one(about)
        };
        let actions: Vec<_> = dice.some(2, |dice| dice.one(&ACTIONS[..3]));
        scope.entry(name).or_default().extend(actions);
    }
    if dice.happens(3) {
        scope.insert(String::new(), vec!["catalog"]);
    }
    scope
}

fn words(scope: &Scoped) -> Vec<String> {
    let entries = scope.iter().map(|(name, actions)| match name.as_str() {
        "" => "registry:catalog:*".to_owned(),
        name => format!("repository:{name}:{}", actions.join(",")),
    });
    entries.collect()
}

/// What is wanted, and how it is asked for.
fn a_request(dice: &mut Dice, name: String) -> (Wanted, &'static str, String) {
    let on = |action, method, rest: &str| {
        (
            Wanted::On(action, name.clone()),
            method,
            format!("/v2/{name}/{rest}"),
        )
    };
    let blob = format!("blobs/{DIGEST}");
    match dice.below(20) {
        0 => (Wanted::Ping, dice.one(&["GET", "HEAD"]), "/v2/".to_owned()),
        1 | 2 => (Wanted::Catalog, "GET", "/v2/_catalog".to_owned()),
        3 => on("pull", dice.one(&["GET", "HEAD", "OPTIONS"]), "manifests/x"),
        4 => on("pull", "GET", "tags/list"),
        5 => on("pull", "HEAD", &blob),
        6 => on("pull", "GET", &format!("referrers/{DIGEST}")),
        7 => on("push", "PUT", "manifests/x"),
        8 => on(
            "push",
            dice.one(&["GET", "PATCH", "PUT", "DELETE"]),
            "blobs/uploads/u",
        ),
        9 => on("push", "POST", "blobs/uploads/"),
        10 => on("delete", "DELETE", dice.one(&["manifests/x", &blob])),
        11 => on("delete", "DELETE", &format!("manifests/{DIGEST}")),
        12 => (Wanted::Wrong(405), "HEAD", format!("/v2/{name}/tags/list")),
        13 => (Wanted::Wrong(400), "GET", format!("/v2/{name}/X/tags/list")),
        14 => {
            let target = format!("/v2/{name}/blobs/uploads/?mount={DIGEST}");
            (Wanted::Mount(name, None), "POST", target)
        }
        15 => {
            let target = format!("/v2/{name}/manifests/.INVALID");
            (Wanted::Absent(name), dice.one(&["GET", "HEAD"]), target)
        }
        _ => {
            let from = a_name(dice);
            let target = format!("/v2/{name}/blobs/uploads/?mount={DIGEST}&from={from}");
            (Wanted::Mount(name, Some(from)), "POST", target)
        }
    }
}

fn all_names(dice: &mut Dice) -> Vec<String> {
    let mut names = dice.some(30, a_name);
    names.sort();
    names.dedup();
    names
}

// The decision alone.

/// The identities that `auth` makes of real credentials.
struct Door {
    authenticator: Authenticator,
    client: ClientAddr,
    _dir: tempfile::TempDir,
}

impl Door {
    fn new() -> Self {
        let dir = directory();
        let file = dir.path().join("htpasswd");
        std::fs::write(&file, passwords()).unwrap();
        let hashing = HashingSettings {
            threads: 1,
            queue: 10,
            wait: Duration::from_secs(30),
        };
        let throttle = ThrottleSettings {
            guesses: 0,
            window: Duration::from_secs(1),
        };
        let logins = Arc::new(PasswordVerifier::start(hashing, throttle).unwrap());
        let users = LiveUsers::load(&file).unwrap();
        let basic = Authenticator::basic(
            users,
            logins,
            1024,
            www_authenticate::basic_challenge("r").unwrap(),
        );
        let keys = SigningKeys::in_memory().unwrap();
        let tokens = TokenIssuer::new(keys, "s", "/v2/", Duration::from_secs(600));
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Self {
            authenticator: basic.with_tokens(tokens),
            client: PeerAddr::new(peer).client(),
            _dir: dir,
        }
    }

    async fn identity(&self, user: Option<&str>, token: Option<(&Access, &Scoped)>) -> Identity {
        let mut headers = HeaderMap::new();
        if let Some(user) = user {
            let login = Base64::encode_string(format!("{user}:pw").as_bytes());
            headers.insert(AUTHORIZATION, format!("Basic {login}").parse().unwrap());
        }
        if let Some((access, asked)) = token {
            let service = self.authenticator.token_service("/v2/_token").unwrap();
            let identity = service.authenticate(&headers, self.client).await.unwrap();
            let words = words(asked);
            let scope = access.grant(&identity, Scope::parse(words.iter().map(String::as_str)));
            let issued = service.issue(&identity, &scope, SystemTime::now()).unwrap();
            headers.insert(
                AUTHORIZATION,
                format!("Bearer {}", issued.token).parse().unwrap(),
            );
        }
        self.authenticator
            .authenticate(&headers, self.client)
            .await
            .unwrap()
    }
}

fn passwords() -> String {
    let lines = USERS.map(|user| format!("{user}:{}\n", bcrypt::hash("pw", 4).unwrap()));
    lines.concat()
}

/// As the configuration makes it.
fn access(rules: &Rules) -> Access {
    let (groups, grants) = rules.written();
    let text = config(&groups, &grants).lines("auth", TOKEN);
    let text = text.upstream("http://127.0.0.1:1").to_string();
    let (config, problems) = parse(Path::new("x"), text.as_bytes());
    assert!(!problems.has_errors(), "{problems}");
    let granted = config.unwrap().sites[0].routes[0].granted.clone();
    Access::Granted(LiveGrants::new(granted.unwrap().grants))
}

fn decided(
    access: &Access,
    identity: &Identity,
    asked: RequestedAccess,
    names: &[String],
) -> Verdict {
    match access.permit(identity, asked) {
        Ok(Authorization::Full(permit)) => Verdict::Sent {
            mounts: permit.target().contains("mount="),
        },
        Ok(Authorization::FilteredCatalog(listing)) => {
            let shown = names.iter().filter(|name| listing.is_visible(name));
            Verdict::Listed(shown.cloned().collect())
        }
        Err(Denied::Anonymous | Denied::Scope) => Verdict::LogIn,
        Err(Denied::Forbidden) => Verdict::Forbidden,
    }
}

#[tokio::test]
async fn ten_thousand_decisions_are_the_models() {
    let (seed, mut dice) = Dice::new();
    let door = Door::new();
    let mut old = (some_rules(&mut dice, true), None);
    let mut seen = BTreeMap::<&str, usize>::new();
    for round in 0..400 {
        let rules = some_rules(&mut dice, true);
        let access = access(&rules);
        let names = all_names(&mut dice);
        for _ in 0..25 {
            let name = dice.one(&names);
            let (wanted, method, target) = a_request(&mut dice, name);
            let user = (!dice.happens(4)).then(|| dice.one(&USERS));
            let mut who = Who {
                user: user.map(str::to_owned),
                scope: None,
            };
            let mut token = None;
            let asked = a_scope(&mut dice, &names);
            if dice.happens(2) {
                // Some tokens are older than the rights of today.
                let (minting, by) = match &old {
                    (before, Some(access)) if dice.happens(3) => (before, access),
                    _ => (&rules, &access),
                };
                who.scope = Some(minting.grant(user, &asked));
                token = Some((by, &asked));
            }
            let identity = door.identity(user, token).await;
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let (path, query) = target
                .split_once('?')
                .map_or((&*target, None), |(path, query)| (path, Some(query)));
            let place = Place {
                is_alone: true,
                is_here: |_| true,
                names: &names,
            };
            let expected = rules.judge(&who, &wanted, &place);
            let found = match Operation::parse(&method, path, query) {
                Ok(Parsed::Operation(operation)) => decided(
                    &access,
                    &identity,
                    RequestedAccess::Operation(operation),
                    &names,
                ),
                Ok(Parsed::Redirect { .. }) => unreachable!("{target}"),
                Ok(Parsed::Missing { operation, invalid }) => {
                    match decided(
                        &access,
                        &identity,
                        RequestedAccess::Operation(operation),
                        &names,
                    ) {
                        Verdict::Sent { .. } => Verdict::Wrong(invalid.status().as_u16()),
                        refused => refused,
                    }
                }
                Err(invalid) => match access.admit(&identity) {
                    Ok(()) => Verdict::Wrong(invalid.status().as_u16()),
                    Err(_) => Verdict::LogIn,
                },
            };
            assert_eq!(
                found, expected,
                "SEED={seed} round {round}: {who:?} {method} {target}\n{rules:#?}"
            );
            *seen.entry(kind(&found)).or_default() += 1;
        }
        old = (rules, Some(access));
    }
    // Chance leaves nothing out.
    for kind in ["sent", "mounted", "listed", "log in", "forbidden", "wrong"] {
        assert!(
            seen.get(kind).is_some_and(|count| *count >= 50),
            "SEED={seed}: {seen:?}"
        );
    }
}

fn kind(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Sent { mounts: true } => "mounted",
        Verdict::Sent { mounts: false } => "sent",
        Verdict::Listed(_) => "listed",
        Verdict::LogIn => "log in",
        Verdict::Forbidden => "forbidden",
        Verdict::Wrong(_) => "wrong",
    }
}

// The gate.

const BASIC: &str =
    "auth = { mode = \"basic\", htpasswd = \"htpasswd\", realm = \"Registry realm\" }";
const TOKEN: &str = "auth = { mode = \"token\", htpasswd = \"htpasswd\" }";

/// Under `/v2/other/` every user may do everything, by a password alone.
fn written(rules: &Rules, with_tokens: bool) -> TestConfig {
    let (groups, grants) = rules.written();
    let other =
        format!("[[site.route]]\npath = \"/v2/other/\"\nupstream = \"{{upstream}}\"\n{BASIC}\n");
    let text = config(
        &format!("[state]\ndir = \"{{dir}}/state\"\n{groups}"),
        &grants,
    );
    let text = if with_tokens {
        text.lines("auth", TOKEN)
    } else {
        text
    };
    text.append(&other)
}

fn is_other(name: &str) -> bool {
    name == "other" || name.starts_with("other/")
}

/// What the other route says.
fn judge_other(who: &Who, wanted: &Wanted) -> Verdict {
    match (wanted, &who.user, &who.scope) {
        (_, None, _) | (_, _, Some(_)) => Verdict::LogIn,
        (Wanted::Wrong(status), ..) => Verdict::Wrong(*status),
        (Wanted::Absent(_), ..) => Verdict::Wrong(404),
        (Wanted::Mount(_, from), ..) => Verdict::Sent {
            mounts: from.as_deref().is_some_and(is_other),
        },
        _ => Verdict::Sent { mounts: false },
    }
}

fn by(mut request: TestRequest, user: Option<&str>, token: Option<&str>) -> TestRequest {
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    } else if let Some(user) = user {
        request = request.basic_auth(format!("{user}:pw").as_bytes());
    }
    request
}

/// Other spellings of the same.
fn spelt(dice: &mut Dice, target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if dice.happens(3) {
        let path = path.replace("/team", "/t%65am");
        // An escaped slash is one of the name only within the name.
        let ends_name = |rest: &str| {
            let words = ["blobs/", "manifests/", "tags/", "referrers/"];
            words.iter().any(|word| rest.starts_with(word))
        };
        let mut parts = path.split("/t%65am/");
        let mut spelt = parts.next().unwrap_or_default().to_owned();
        for rest in parts {
            spelt += if ends_name(rest) {
                "/t%65am/"
            } else {
                "/t%65am%2f"
            };
            spelt += rest;
        }
        spelt
    } else {
        path.to_owned()
    };
    let query = match dice.below(3) {
        0 => query.replace('/', "%2F"),
        1 => query.replace("from=", "%66rom="),
        _ => query.to_owned(),
    };
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

#[test]
fn nothing_arrives_at_the_registry_that_the_model_does_not_let_through() {
    let (seed, mut dice) = Dice::new();
    let names = all_names(&mut dice);
    let body = serde_json::json!({ "repositories": names }).to_string();
    let registry = Registry::start(move |exchange: &mut Exchange<'_>| {
        exchange.body();
        let body = if exchange.head.target.starts_with("/v2/_catalog") {
            &body
        } else {
            "{}"
        };
        let body = if exchange.head.method == "HEAD" {
            ""
        } else {
            body
        };
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    });
    let dir = directory();
    std::fs::write(dir.path().join("htpasswd"), passwords()).unwrap();
    let mut rules = some_rules(&mut dice, true);
    let proxy = Proxy::start_in(dir, &registry.url(), written(&rules, true));
    let mut seen = BTreeMap::<&str, usize>::new();
    // Tokens, and for whom and what they are; some outlive the rights they were minted under.
    let mut tokens: Vec<(Who, String)> = Vec::new();
    for round in 0..24 {
        let with_tokens = round % 3 > 0;
        rules = some_rules(&mut dice, with_tokens);
        proxy.configure(&registry, written(&rules, with_tokens));
        proxy
            .reload()
            .unwrap_or_else(|problems| panic!("SEED={seed}: {problems}"));
        for _ in 0..40 {
            let name = dice.one(&names);
            let (wanted, method, target) = a_request(&mut dice, name);
            let user = (!dice.happens(4)).then(|| dice.one(&USERS));
            let mut who = Who {
                user: user.map(str::to_owned),
                scope: None,
            };
            let mut token = None;
            if with_tokens && dice.happens(2) {
                if tokens.is_empty() || !dice.happens(4) {
                    let asked = a_scope(&mut dice, &names);
                    let target = format!("/v2/_token?scope={}", words(&asked).join("&scope="));
                    let answer = exchange(
                        &proxy,
                        HttpVersion::Http1,
                        &by(TestRequest::new("GET", &target), user, None),
                    );
                    let said: Value = serde_json::from_slice(&answer.body).unwrap();
                    let who = Who {
                        scope: Some(rules.grant(user, &asked)),
                        ..who.clone()
                    };
                    tokens.push((who, said["token"].as_str().unwrap().to_owned()));
                    token = tokens.last().cloned();
                } else {
                    token = Some(dice.one(&tokens));
                }
            }
            if let Some((holder, _)) = &token {
                who = holder.clone();
            }
            let token = token.map(|(_, token)| token);
            let request = by(
                TestRequest::new(method, &spelt(&mut dice, &target)),
                who.user.as_deref(),
                token.as_deref(),
            );
            let is_elsewhere = match &wanted {
                Wanted::On(_, name) | Wanted::Mount(name, _) | Wanted::Absent(name) => {
                    is_other(name)
                }
                Wanted::Wrong(_) => target.starts_with("/v2/other/"),
                Wanted::Ping | Wanted::Catalog => false,
            };
            let place = Place {
                is_alone: false,
                is_here: |name| !is_other(name),
                names: &names,
            };
            let expected = match is_elsewhere {
                true => judge_other(&who, &wanted),
                false => rules.judge(&who, &wanted, &place),
            };
            let before = registry.requests().len();
            let answer = exchange(&proxy, HttpVersion::Http1, &request);
            let arrived: Vec<_> = registry.requests()[before..]
                .iter()
                .map(|seen| (seen.method.clone(), seen.target.clone()))
                .collect();
            let case = format!(
                "SEED={seed} round {round}: {who:?} {request:?}\n{rules:#?}\n{answer:?}\n{arrived:?}"
            );
            *seen.entry(kind(&expected)).or_default() += 1;
            let status = match expected {
                Verdict::Sent { mounts } => {
                    let plain = target.split('?').next().unwrap().to_owned();
                    let sent = if mounts {
                        target.replace("from=", "from=\0")
                    } else {
                        plain
                    };
                    let sent = match sent.split_once('\0') {
                        Some((head, from)) => format!("{head}{}", from.replace('/', "%2F")),
                        None => sent,
                    };
                    assert_eq!(arrived, [(method.to_owned(), sent)], "{case}");
                    200
                }
                Verdict::Listed(shown) => {
                    assert!(
                        arrived.iter().all(|(method, target)| method == "GET"
                            && target.starts_with("/v2/_catalog?n=1000")),
                        "{case}"
                    );
                    let said: Value = serde_json::from_slice(&answer.body).unwrap();
                    assert_eq!(said["repositories"], serde_json::json!(shown), "{case}");
                    assert!(!answer.has_header("link"), "{case}");
                    200
                }
                Verdict::LogIn => 401,
                Verdict::Forbidden => 403,
                Verdict::Wrong(status) => status,
            };
            assert_eq!(answer.status, status, "{case}");
            assert!(status == 200 || arrived.is_empty(), "{case}");
        }
    }
    for kind in ["sent", "mounted", "listed", "log in", "forbidden", "wrong"] {
        assert!(seen.contains_key(kind), "SEED={seed}: {seen:?}");
    }
}
