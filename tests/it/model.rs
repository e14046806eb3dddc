//! Compares the decisions of `access` and of the whole proxy with a model: a second, simple implementation of the rules for
//! grants. Both get the same random grants and the same random requests.
//!
//! The model works on the grants as they are written in the configuration, and expands every pattern into all patterns without
//! `**` of the required length. A failure prints the seed; `SEED=…` runs the same case again.

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

/// A grant as it is written in the configuration.
#[derive(Clone, Debug)]
struct Rule {
    to: Vec<String>,
    repositories: Vec<String>,
    actions: Vec<&'static str>,
}

/// All grants of a route, and the groups of the configuration.
#[derive(Clone, Debug, Default)]
struct Rules {
    groups: BTreeMap<String, Vec<String>>,
    grants: Vec<Rule>,
}

/// The scope of a token: the actions by repository, and `catalog` under the empty name.
type TokenScope = BTreeMap<String, Vec<&'static str>>;

/// The identity of a request: a user or anonymous, and the scope of the token if the request has one.
#[derive(Clone, Debug)]
struct Requester {
    user: Option<String>,
    scope: Option<TokenScope>,
}

/// The operation of a request.
#[derive(Clone, Debug)]
enum RequestKind {
    Ping,
    Catalog,
    /// An action on a repository.
    Action(&'static str, String),
    /// A push to the first repository that mounts a blob from the second one, or from any repository.
    Mount(String, Option<String>),
    /// A read of a manifest whose reference is invalid, so that no repository can have it.
    Absent(String),
    /// A request that is no operation or has a wrong method, and the status of the response.
    Invalid(u16),
}

/// The decision about a request.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// The request is forwarded, with or without its mount.
    Forwarded { has_mount: bool },
    /// The response is a filtered list with these names.
    FilteredList(Vec<String>),
    /// The response is 401.
    Unauthorized,
    /// The response is 403.
    Forbidden,
    /// The response has this status, because the request is invalid.
    Invalid(u16),
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

    fn rules_for<'a>(
        &'a self,
        user: Option<&'a str>,
        action: &'a str,
    ) -> impl Iterator<Item = &'a Rule> {
        self.grants.iter().filter(move |rule| {
            let implied = action == "pull" && rule.actions.contains(&"push");
            self.is_for(rule, user) && (implied || rule.actions.contains(&action))
        })
    }

    fn may(&self, user: Option<&str>, action: &str, name: &str) -> bool {
        self.rules_for(user, action).any(|rule| {
            rule.repositories
                .iter()
                .any(|pattern| pattern_matches(pattern, user, name))
        })
    }

    fn may_pull_everything(&self, user: Option<&str>) -> bool {
        self.rules_for(user, "pull")
            .any(|rule| rule.repositories.iter().any(|pattern| pattern == "**"))
    }

    /// Whether the requester is a user, or has an anonymous token on a route with a grant to anonymous clients.
    fn is_admitted(&self, requester: &Requester) -> bool {
        let has_anonymous_grant = self
            .grants
            .iter()
            .any(|rule| rule.to.iter().any(|to| to == "@anonymous"));
        requester.user.is_some() || (has_anonymous_grant && requester.scope.is_some())
    }

    /// The decision that the rules require.
    fn decide(
        &self,
        requester: &Requester,
        kind: &RequestKind,
        route: &RouteContext<'_>,
    ) -> Decision {
        let user = requester.user.as_deref();
        let denied = || {
            if user.is_some() {
                Decision::Forbidden
            } else {
                Decision::Unauthorized
            }
        };
        let has_right = match kind {
            RequestKind::Ping => self.is_admitted(requester),
            RequestKind::Catalog => self.rules_for(user, "catalog").next().is_some(),
            RequestKind::Action(action, name) => self.may(user, action, name),
            RequestKind::Mount(name, _) => self.may(user, "push", name),
            RequestKind::Absent(name) => self.may(user, "pull", name),
            RequestKind::Invalid(status) if self.is_admitted(requester) => {
                return Decision::Invalid(*status);
            }
            RequestKind::Invalid(_) => return Decision::Unauthorized,
        };
        if !has_right {
            return denied();
        }
        let in_scope = |action: &str, name: &str| match &requester.scope {
            None => true,
            Some(scope) => scope.get(name).is_some_and(|actions| {
                actions.contains(&action) || (action == "pull" && actions.contains(&"push"))
            }),
        };
        match kind {
            RequestKind::Ping | RequestKind::Invalid(_) => Decision::Forwarded { has_mount: false },
            RequestKind::Catalog if !in_scope("catalog", "") => Decision::Unauthorized,
            RequestKind::Catalog if route.is_only_route && self.may_pull_everything(user) => {
                Decision::Forwarded { has_mount: false }
            }
            RequestKind::Catalog => {
                let names = route
                    .names
                    .iter()
                    .filter(|name| (route.has_repository)(name));
                let names = names.filter(|name| self.may(user, "pull", name));
                Decision::FilteredList(names.cloned().collect())
            }
            RequestKind::Action(action, name) if in_scope(action, name) => {
                Decision::Forwarded { has_mount: false }
            }
            // The user has the right but the token does not: a 401 makes the client request another token.
            RequestKind::Mount(_, Some(from))
                if (route.has_repository)(from)
                    && self.may(user, "pull", from)
                    && !in_scope("pull", from) =>
            {
                Decision::Unauthorized
            }
            RequestKind::Mount(name, from) if in_scope("push", name) => Decision::Forwarded {
                has_mount: match from {
                    Some(from) => (route.has_repository)(from) && self.may(user, "pull", from),
                    None => {
                        route.is_only_route
                            && self.may_pull_everything(user)
                            && requester.scope.is_none()
                    }
                },
            },
            RequestKind::Absent(name) if in_scope("pull", name) => Decision::Invalid(404),
            RequestKind::Action(..) | RequestKind::Mount(..) | RequestKind::Absent(_) => {
                Decision::Unauthorized
            }
        }
    }

    /// The part of the requested scope that a token for this user gets.
    fn granted_scope(&self, user: Option<&str>, requested: &TokenScope) -> TokenScope {
        let kept = requested.iter().map(|(name, actions)| {
            let may = |action: &&&str| match name.as_str() {
                "" => self.rules_for(user, "catalog").next().is_some(),
                name => self.may(user, action, name),
            };
            (name.clone(), actions.iter().filter(may).copied().collect())
        });
        kept.collect()
    }

    /// The groups and the grants as TOML.
    fn to_toml(&self) -> (String, String) {
        let list = |words: &[String]| format!("{words:?}");
        let groups = self
            .groups
            .iter()
            .map(|(name, users)| format!("{name} = {}\n", list(users)));
        let rules = self.grants.iter().map(|rule| {
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

/// The route for which a decision is made.
struct RouteContext<'a> {
    /// Whether no other route of the site can have repositories.
    is_only_route: bool,
    /// Whether a repository belongs to this route.
    has_repository: fn(&str) -> bool,
    /// All repositories of the registry.
    names: &'a [String],
}

/// Whether an expansion of the pattern matches the name.
fn pattern_matches(pattern: &str, user: Option<&str>, name: &str) -> bool {
    let parts: Vec<_> = pattern.split('/').collect();
    let name: Vec<_> = name.split('/').collect();
    expand(&parts, name.len()).iter().any(|parts| {
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

/// All expansions of a pattern that have this number of components and no `**`.
fn expand<'a>(parts: &[&'a str], length: usize) -> Vec<Vec<&'a str>> {
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
        let tails = expand(rest, length - count);
        tails
            .into_iter()
            .map(move |tail| [vec![first; count], tail].concat())
    };
    (1..=most).flat_map(with).collect()
}

// Random grants and requests.

/// A random number generator that produces the same numbers for the same seed (splitmix64).
struct Random(u64);

impl Random {
    /// A new seed, or the seed in the environment variable `SEED`, and a generator with this seed.
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

    fn choose<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn several<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..=self.below(most)).map(|_| one(self)).collect()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// The names Ann and x@y are no path components, so `{user}` never matches for them.
const USERS: [&str; 5] = ["alice", "bob", "a.b", "Ann", "x@y"];
const COMPONENTS: [&str; 7] = ["team", "home", "alice", "bob", "a.b", "other", "tags"];
const ACTIONS: [&str; 4] = ["pull", "push", "delete", "catalog"];

fn random_name(random: &mut Random) -> String {
    random
        .several(3, |random| random.choose(&COMPONENTS))
        .join("/")
}

fn random_pattern(random: &mut Random) -> String {
    if random.one_in(7) {
        return "**".to_owned();
    }
    let parts = random.several(3, |random| match random.below(7) {
        0 => "*",
        1 => "**",
        2 => "{user}",
        _ => random.choose(&COMPONENTS),
    });
    parts.join("/")
}

fn random_rules(random: &mut Random, with_anonymous: bool) -> Rules {
    let groups = ["ci", "team"].map(|name| {
        let users = random.several(2, |random| random.choose(&USERS).to_owned());
        (name.to_owned(), users)
    });
    let to = |random: &mut Random| match random.below(8) {
        0 if with_anonymous => "@anonymous".to_owned(),
        0 | 1 => "@users".to_owned(),
        2 => "@ci".to_owned(),
        3 => "@team".to_owned(),
        _ => random.choose(&USERS).to_owned(),
    };
    let grants = random.several(4, |random| Rule {
        to: random.several(2, to),
        repositories: random.several(2, random_pattern),
        actions: random.several(2, |random| random.choose(&ACTIONS)),
    });
    Rules {
        groups: groups.into(),
        grants,
    }
}

fn random_scope(random: &mut Random, about: &[String]) -> TokenScope {
    let mut scope = TokenScope::new();
    for _ in 0..random.below(4) {
        let name = if random.one_in(3) {
            random_name(random)
        } else {
            random.choose(about)
        };
        let actions: Vec<_> = random.several(2, |random| random.choose(&ACTIONS[..3]));
        scope.entry(name).or_default().extend(actions);
    }
    if random.one_in(3) {
        scope.insert(String::new(), vec!["catalog"]);
    }
    scope
}

/// The scope in the syntax of the token endpoint.
fn scope_parameters(scope: &TokenScope) -> Vec<String> {
    let entries = scope.iter().map(|(name, actions)| match name.as_str() {
        "" => "registry:catalog:*".to_owned(),
        name => format!("repository:{name}:{}", actions.join(",")),
    });
    entries.collect()
}

/// A random request about a repository: its kind, its method and its target.
fn random_request(random: &mut Random, name: String) -> (RequestKind, &'static str, String) {
    let action_on = |action, method, rest: &str| {
        (
            RequestKind::Action(action, name.clone()),
            method,
            format!("/v2/{name}/{rest}"),
        )
    };
    let blob = format!("blobs/{DIGEST}");
    match random.below(20) {
        0 => (
            RequestKind::Ping,
            random.choose(&["GET", "HEAD"]),
            "/v2/".to_owned(),
        ),
        1 | 2 => (RequestKind::Catalog, "GET", "/v2/_catalog".to_owned()),
        3 => action_on(
            "pull",
            random.choose(&["GET", "HEAD", "OPTIONS"]),
            "manifests/x",
        ),
        4 => action_on("pull", "GET", "tags/list"),
        5 => action_on("pull", "HEAD", &blob),
        6 => action_on("pull", "GET", &format!("referrers/{DIGEST}")),
        7 => action_on("push", "PUT", "manifests/x"),
        8 => action_on(
            "push",
            random.choose(&["GET", "PATCH", "PUT", "DELETE"]),
            "blobs/uploads/u",
        ),
        9 => action_on("push", "POST", "blobs/uploads/"),
        10 => action_on("delete", "DELETE", random.choose(&["manifests/x", &blob])),
        11 => action_on("delete", "DELETE", &format!("manifests/{DIGEST}")),
        12 => (
            RequestKind::Invalid(405),
            "HEAD",
            format!("/v2/{name}/tags/list"),
        ),
        13 => (
            RequestKind::Invalid(400),
            "GET",
            format!("/v2/{name}/X/tags/list"),
        ),
        14 => {
            let target = format!("/v2/{name}/blobs/uploads/?mount={DIGEST}");
            (RequestKind::Mount(name, None), "POST", target)
        }
        15 => {
            let target = format!("/v2/{name}/manifests/.INVALID");
            (
                RequestKind::Absent(name),
                random.choose(&["GET", "HEAD"]),
                target,
            )
        }
        _ => {
            let from = random_name(random);
            let target = format!("/v2/{name}/blobs/uploads/?mount={DIGEST}&from={from}");
            (RequestKind::Mount(name, Some(from)), "POST", target)
        }
    }
}

fn random_names(random: &mut Random) -> Vec<String> {
    let mut names = random.several(30, random_name);
    names.sort();
    names.dedup();
    names
}

// The decisions of `access` alone.

/// Creates identities from credentials, as only `auth` can.
struct IdentitySource {
    authenticator: Authenticator,
    client: ClientAddr,
    _dir: tempfile::TempDir,
}

impl IdentitySource {
    fn new() -> Self {
        let dir = directory();
        let file = dir.path().join("htpasswd");
        std::fs::write(&file, password_file()).unwrap();
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

    async fn identity(
        &self,
        user: Option<&str>,
        token: Option<(&Access, &TokenScope)>,
    ) -> Identity {
        let mut headers = HeaderMap::new();
        if let Some(user) = user {
            let login = Base64::encode_string(format!("{user}:pw").as_bytes());
            headers.insert(AUTHORIZATION, format!("Basic {login}").parse().unwrap());
        }
        if let Some((access, requested)) = token {
            let service = self.authenticator.token_service("/v2/_token").unwrap();
            let identity = service.authenticate(&headers, self.client).await.unwrap();
            let parameters = scope_parameters(requested);
            let scope = access.grant(
                &identity,
                Scope::parse(parameters.iter().map(String::as_str)),
            );
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

/// A password file in which every user of [`USERS`] has the password "pw".
fn password_file() -> String {
    let lines = USERS.map(|user| format!("{user}:{}\n", bcrypt::hash("pw", 4).unwrap()));
    lines.concat()
}

/// The `Access` that the proxy builds from a configuration with these grants.
fn access_for(rules: &Rules) -> Access {
    let (groups, grants) = rules.to_toml();
    let text = config(&groups, &grants).lines("auth", TOKEN);
    let text = text.upstream("http://127.0.0.1:1").to_string();
    let (config, problems) = parse(Path::new("x"), text.as_bytes());
    assert!(!problems.has_errors(), "{problems}");
    let granted = config.unwrap().sites[0].routes[0].grants.clone();
    Access::Granted(LiveGrants::new(granted.unwrap().grants))
}

fn decide(
    access: &Access,
    identity: &Identity,
    requested: RequestedAccess,
    names: &[String],
) -> Decision {
    match access.permit(identity, requested) {
        Ok(Authorization::Full(permit)) => Decision::Forwarded {
            has_mount: permit.target().contains("mount="),
        },
        Ok(Authorization::FilteredCatalog(listing)) => {
            let shown = names.iter().filter(|name| listing.is_visible(name));
            Decision::FilteredList(shown.cloned().collect())
        }
        Err(Denied::Anonymous | Denied::Scope) => Decision::Unauthorized,
        Err(Denied::Forbidden) => Decision::Forbidden,
    }
}

#[tokio::test]
async fn ten_thousand_decisions_of_access_agree_with_the_model() {
    let (seed, mut random) = Random::new();
    let identities = IdentitySource::new();
    let mut old = (random_rules(&mut random, true), None);
    let mut seen = BTreeMap::<&str, usize>::new();
    for round in 0..400 {
        let rules = random_rules(&mut random, true);
        let access = access_for(&rules);
        let names = random_names(&mut random);
        for _ in 0..25 {
            let name = random.choose(&names);
            let (kind, method, target) = random_request(&mut random, name);
            let user = (!random.one_in(4)).then(|| random.choose(&USERS));
            let mut requester = Requester {
                user: user.map(str::to_owned),
                scope: None,
            };
            let mut token = None;
            let requested = random_scope(&mut random, &names);
            if random.one_in(2) {
                // Some tokens were issued under other grants than those of the request.
                let (issuing_rules, issuing_access) = match &old {
                    (before, Some(access)) if random.one_in(3) => (before, access),
                    _ => (&rules, &access),
                };
                requester.scope = Some(issuing_rules.granted_scope(user, &requested));
                token = Some((issuing_access, &requested));
            }
            let identity = identities.identity(user, token).await;
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let (path, query) = target
                .split_once('?')
                .map_or((&*target, None), |(path, query)| (path, Some(query)));
            let route = RouteContext {
                is_only_route: true,
                has_repository: |_| true,
                names: &names,
            };
            let expected = rules.decide(&requester, &kind, &route);
            let found = match Operation::parse(&method, path, query) {
                Ok(Parsed::Operation(operation)) => decide(
                    &access,
                    &identity,
                    RequestedAccess::Operation(operation),
                    &names,
                ),
                Ok(Parsed::Redirect { .. }) => unreachable!("{target}"),
                Ok(Parsed::Missing { operation, invalid }) => {
                    match decide(
                        &access,
                        &identity,
                        RequestedAccess::Operation(operation),
                        &names,
                    ) {
                        Decision::Forwarded { .. } => Decision::Invalid(invalid.status().as_u16()),
                        rejected => rejected,
                    }
                }
                Err(invalid) => match access.require_login(&identity) {
                    Ok(()) => Decision::Invalid(invalid.status().as_u16()),
                    Err(_) => Decision::Unauthorized,
                },
            };
            assert_eq!(
                found, expected,
                "SEED={seed} round {round}: {requester:?} {method} {target}\n{rules:#?}"
            );
            *seen.entry(decision_name(&found)).or_default() += 1;
        }
        old = (rules, Some(access));
    }
    // The random requests must cover every kind of decision.
    for kind in DECISION_NAMES {
        assert!(
            seen.get(kind).is_some_and(|count| *count >= 50),
            "SEED={seed}: {seen:?}"
        );
    }
}

/// Every name that [`decision_name`] returns.
const DECISION_NAMES: [&str; 6] = [
    "forwarded",
    "mounted",
    "filtered",
    "unauthorized",
    "forbidden",
    "invalid",
];

fn decision_name(decision: &Decision) -> &'static str {
    match decision {
        Decision::Forwarded { has_mount: true } => "mounted",
        Decision::Forwarded { has_mount: false } => "forwarded",
        Decision::FilteredList(_) => "filtered",
        Decision::Unauthorized => "unauthorized",
        Decision::Forbidden => "forbidden",
        Decision::Invalid(_) => "invalid",
    }
}

// The decisions of the whole proxy.

const BASIC: &str =
    "auth = { mode = \"basic\", htpasswd = \"htpasswd\", realm = \"Registry realm\" }";
const TOKEN: &str = "auth = { mode = \"token\", htpasswd = \"htpasswd\" }";

/// A configuration with these grants. On a second route at `/v2/other/` every user may do everything, in mode `basic`.
fn proxy_config(rules: &Rules, with_tokens: bool) -> TestConfig {
    let (groups, grants) = rules.to_toml();
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

/// The decision that the other route requires.
fn decide_on_other_route(requester: &Requester, kind: &RequestKind) -> Decision {
    match (kind, &requester.user, &requester.scope) {
        (_, None, _) | (_, _, Some(_)) => Decision::Unauthorized,
        (RequestKind::Invalid(status), ..) => Decision::Invalid(*status),
        (RequestKind::Absent(_), ..) => Decision::Invalid(404),
        (RequestKind::Mount(_, from), ..) => Decision::Forwarded {
            has_mount: from.as_deref().is_some_and(is_other),
        },
        _ => Decision::Forwarded { has_mount: false },
    }
}

fn with_credentials(
    mut request: TestRequest,
    user: Option<&str>,
    token: Option<&str>,
) -> TestRequest {
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    } else if let Some(user) = user {
        request = request.basic_auth(format!("{user}:pw").as_bytes());
    }
    request
}

/// The same target in another spelling.
fn respell(random: &mut Random, target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if random.one_in(3) {
        let path = path.replace("/team", "/t%65am");
        // A slash may be escaped only within the repository name.
        let ends_name = |rest: &str| {
            let endpoints = ["blobs/", "manifests/", "tags/", "referrers/"];
            endpoints.iter().any(|endpoint| rest.starts_with(endpoint))
        };
        let mut parts = path.split("/t%65am/");
        let mut respelt = parts.next().unwrap_or_default().to_owned();
        for rest in parts {
            respelt += if ends_name(rest) {
                "/t%65am/"
            } else {
                "/t%65am%2f"
            };
            respelt += rest;
        }
        respelt
    } else {
        path.to_owned()
    };
    let query = match random.below(3) {
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
fn the_proxy_forwards_only_requests_that_the_model_permits() {
    let (seed, mut random) = Random::new();
    let names = random_names(&mut random);
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
    std::fs::write(dir.path().join("htpasswd"), password_file()).unwrap();
    let mut rules = random_rules(&mut random, true);
    let proxy = Proxy::start_in(dir, &registry.url(), proxy_config(&rules, true));
    let mut seen = BTreeMap::<&str, usize>::new();
    // The tokens so far with the identity and the scope of each. Some tokens are used after a reload has changed the grants.
    let mut tokens: Vec<(Requester, String)> = Vec::new();
    for round in 0..24 {
        let with_tokens = round % 3 > 0;
        rules = random_rules(&mut random, with_tokens);
        proxy.configure(&registry, proxy_config(&rules, with_tokens));
        proxy
            .reload()
            .unwrap_or_else(|problems| panic!("SEED={seed}: {problems}"));
        for _ in 0..40 {
            let name = random.choose(&names);
            let (kind, method, target) = random_request(&mut random, name);
            let user = (!random.one_in(4)).then(|| random.choose(&USERS));
            let mut requester = Requester {
                user: user.map(str::to_owned),
                scope: None,
            };
            let mut token = None;
            if with_tokens && random.one_in(2) {
                if tokens.is_empty() || !random.one_in(4) {
                    let requested = random_scope(&mut random, &names);
                    let target = format!(
                        "/v2/_token?scope={}",
                        scope_parameters(&requested).join("&scope=")
                    );
                    let token_response = exchange(
                        &proxy,
                        HttpVersion::Http1,
                        &with_credentials(TestRequest::new("GET", &target), user, None),
                    );
                    let issued: Value = serde_json::from_slice(&token_response.body).unwrap();
                    let requester = Requester {
                        scope: Some(rules.granted_scope(user, &requested)),
                        ..requester.clone()
                    };
                    tokens.push((requester, issued["token"].as_str().unwrap().to_owned()));
                    token = tokens.last().cloned();
                } else {
                    token = Some(random.choose(&tokens));
                }
            }
            if let Some((holder, _)) = &token {
                requester = holder.clone();
            }
            let token = token.map(|(_, token)| token);
            let request = with_credentials(
                TestRequest::new(method, &respell(&mut random, &target)),
                requester.user.as_deref(),
                token.as_deref(),
            );
            let is_on_other_route = match &kind {
                RequestKind::Action(_, name)
                | RequestKind::Mount(name, _)
                | RequestKind::Absent(name) => is_other(name),
                RequestKind::Invalid(_) => target.starts_with("/v2/other/"),
                RequestKind::Ping | RequestKind::Catalog => false,
            };
            let route = RouteContext {
                is_only_route: false,
                has_repository: |name| !is_other(name),
                names: &names,
            };
            let expected = match is_on_other_route {
                true => decide_on_other_route(&requester, &kind),
                false => rules.decide(&requester, &kind, &route),
            };
            let before = registry.requests().len();
            let response = exchange(&proxy, HttpVersion::Http1, &request);
            let forwarded: Vec<_> = registry.requests()[before..]
                .iter()
                .map(|seen| (seen.method.clone(), seen.target.clone()))
                .collect();
            let case = format!(
                "SEED={seed} round {round}: {requester:?} {request:?}\n{rules:#?}\n{response:?}\n{forwarded:?}"
            );
            *seen.entry(decision_name(&expected)).or_default() += 1;
            let status = match expected {
                Decision::Forwarded { has_mount } => {
                    let plain = target.split('?').next().unwrap().to_owned();
                    let sent = if has_mount {
                        target.replace("from=", "from=\0")
                    } else {
                        plain
                    };
                    let sent = match sent.split_once('\0') {
                        Some((head, from)) => format!("{head}{}", from.replace('/', "%2F")),
                        None => sent,
                    };
                    assert_eq!(forwarded, [(method.to_owned(), sent)], "{case}");
                    200
                }
                Decision::FilteredList(shown) => {
                    assert!(
                        forwarded.iter().all(|(method, target)| method == "GET"
                            && target.starts_with("/v2/_catalog?n=1000")),
                        "{case}"
                    );
                    let list: Value = serde_json::from_slice(&response.body).unwrap();
                    assert_eq!(list["repositories"], serde_json::json!(shown), "{case}");
                    assert!(!response.has_header("link"), "{case}");
                    200
                }
                Decision::Unauthorized => 401,
                Decision::Forbidden => 403,
                Decision::Invalid(status) => status,
            };
            assert_eq!(response.status, status, "{case}");
            assert!(status == 200 || forwarded.is_empty(), "{case}");
        }
    }
    for kind in DECISION_NAMES {
        assert!(seen.contains_key(kind), "SEED={seed}: {seen:?}");
    }
}
