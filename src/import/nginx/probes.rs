//! The requests with which the importer compares nginx and tidegate, derived from the literals of the configuration.
//!
//! Each location, pattern, host, address, network and password file of the input gives requests inside and outside of it, so that
//! each difference between the two configurations has a request that shows it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use http::Method;
use regex::bytes::Regex;

use crate::config::Site;

use crate::import::nginx::access::Networks;
use crate::import::nginx::if_blocks::condition_words;
use crate::import::nginx::location::Matcher;
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::pattern::{PatternCache, samples};
use crate::import::nginx::request::{RequestProperty, USUAL_CLIENT};

/// The properties of the requests that are compared.
pub(crate) struct Probes {
    hosts: Vec<String>,
    /// What `http` names outside of the server blocks.
    common: Literals,
    /// What each server block names.
    servers: HashMap<SourcePos, Literals>,
    patterns: PatternCache,
    /// The paths that are compared; `None` if they are too many.
    paths: RefCell<HashMap<ServerAndSite, Option<BTreeSet<String>>>>,
}

/// The positions of nginx's server block and of the server block from which a site was made.
type ServerAndSite = (Option<SourcePos>, SourcePos);

/// The properties of the requests for one host: those that can make a difference between a server block of nginx and a site.
pub(crate) struct HostProbes {
    pub(crate) paths: BTreeSet<String>,
    /// An address that no directive names, addresses inside of each network, and addresses directly around it.
    pub(crate) clients: Vec<IpAddr>,
    /// The usual methods, the methods that a directive names, and one that no directive names.
    pub(crate) methods: Vec<Method>,
}

impl Probes {
    /// Derives the properties from a configuration.
    pub(crate) fn new(http: &[Directive]) -> Self {
        let mut common = Literals::default();
        let mut servers = HashMap::new();
        for directive in http {
            let directives = std::slice::from_ref(directive);
            if directive.name == "server" {
                let mut server = Literals::default();
                server.read(directives);
                servers.insert(directive.at, server);
            } else {
                common.read(directives);
            }
        }
        let all = std::iter::once(&common).chain(servers.values());
        let mut named = Literals::default();
        for literals in all {
            named.extend(literals);
        }
        let patterns = PatternCache::default();
        Self {
            hosts: named.all_hosts(&patterns),
            common,
            servers,
            patterns,
            paths: RefCell::default(),
        }
    }

    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// What `http` and these server blocks name.
    fn named(&self, servers: impl IntoIterator<Item = SourcePos>) -> Literals {
        let mut named = self.common.clone();
        let servers = servers.into_iter();
        for literals in servers.filter_map(|at| self.servers.get(&at)) {
            named.extend(literals);
        }
        named
    }

    /// The paths around all literals of a server block; `None` if there are too many.
    pub(crate) fn paths_of(&self, server: SourcePos) -> Option<BTreeSet<String>> {
        self.named([server]).all_paths(&self.patterns)
    }

    /// The properties of the requests that nginx's server block at `server` and tidegate's site receive; `site_at` is the server
    /// block from which the site was made. Returns `None` if there are more than a comparison can have.
    pub(crate) fn for_host(
        &self,
        server: Option<SourcePos>,
        site_at: SourcePos,
        site: &Site,
    ) -> Option<HostProbes> {
        let named = self.named(server.into_iter().chain([site_at]));
        let mut known = self.paths.borrow_mut();
        let paths = known
            .entry((server, site_at))
            .or_insert_with(|| named.all_paths(&self.patterns));
        let mut paths = paths.clone()?;
        let routes = site.routes.iter().map(|route| &route.path);
        let responses = site.responses.iter().map(|response| &response.path);
        for path in routes.chain(responses) {
            if !named.paths.contains(path) {
                add_around(&mut paths, path);
            }
        }
        let clients = named.all_clients();
        let is_possible = paths.len() <= MAX_PATHS
            && clients.len() <= MAX_CLIENTS
            && self.hosts.len() <= MAX_HOSTS;
        is_possible.then(|| HostProbes {
            paths,
            clients,
            methods: named.all_methods(),
        })
    }
}

/// What the directives of a configuration name.
#[derive(Clone, Default)]
struct Literals {
    paths: BTreeSet<String>,
    /// Regular expressions for paths, each with whether it ignores case.
    patterns: BTreeSet<(String, bool)>,
    hosts: BTreeSet<String>,
    /// What follows the asterisk or the dot of a name with subdomains.
    parents: BTreeSet<String>,
    /// Regular expressions for hosts.
    host_patterns: BTreeSet<String>,
    methods: BTreeSet<String>,
    /// Addresses inside of the networks and around them.
    clients: BTreeSet<IpAddr>,
}

impl Literals {
    fn read(&mut self, directives: &[Directive]) {
        for directive in directives {
            match directive.name.as_str() {
                "location" => match Matcher::read(directive) {
                    Some(Matcher::Exact(path) | Matcher::Prefix(path) | Matcher::NoRegex(path)) => {
                        self.paths.insert(path.to_owned());
                    }
                    Some(Matcher::Regex {
                        pattern,
                        ignores_case,
                    }) => self.add_pattern(pattern, ignores_case),
                    Some(Matcher::Named) | None => {}
                },
                "rewrite" => self.add_pattern(directive.first(), false),
                "server_name" => {
                    for name in &directive.args {
                        self.add_host(name);
                    }
                }
                "allow" | "deny" => self.add_network(directive.first()),
                "if" => self.read_condition(&condition_words(directive)),
                "map" => self.read_map(directive),
                "limit_except" => self.methods.extend(directive.args.iter().cloned()),
                "geo" => {
                    for entry in directive.inner() {
                        self.add_network(&entry.name);
                    }
                }
                _ => {}
            }
            if !matches!(directive.name.as_str(), "map" | "geo" | "upstream") {
                self.read(directive.inner());
            }
        }
    }

    fn read_condition(&mut self, words: &[String]) {
        let [variable, operator, operand] = words else {
            return;
        };
        let is_pattern = operator.contains('~');
        self.add_operand(variable, is_pattern, operator.contains('*'), operand);
    }

    fn read_map(&mut self, map: &Directive) {
        for entry in map.inner() {
            let (is_pattern, operand) = match entry.name.strip_prefix('~') {
                Some(pattern) => (true, pattern.trim_start_matches('*')),
                None => (false, entry.name.trim_start_matches('\\')),
            };
            let ignores_case = entry.name.starts_with("~*");
            self.add_operand(map.first(), is_pattern, ignores_case, operand);
            if !is_pattern {
                // The texts of a map match in any case.
                let lower = operand.to_ascii_lowercase();
                self.add_operand(map.first(), false, false, &lower);
            }
        }
    }

    /// Adds the value with which a property is compared.
    fn add_operand(&mut self, source: &str, is_pattern: bool, ignores_case: bool, operand: &str) {
        let values = || {
            if is_pattern {
                samples(operand).unwrap_or_default()
            } else {
                vec![operand.to_owned()]
            }
        };
        match RequestProperty::of_variable(source) {
            Some(RequestProperty::Path | RequestProperty::Target) if is_pattern => {
                self.add_pattern(operand, ignores_case);
            }
            Some(RequestProperty::Path | RequestProperty::Target) => {
                self.paths.insert(operand.to_owned());
            }
            Some(RequestProperty::Host) if is_pattern => {
                self.host_patterns.insert(operand.to_owned());
            }
            Some(RequestProperty::Host) => self.add_host(operand),
            Some(RequestProperty::Client) => {
                for value in values() {
                    self.add_network(&value);
                }
            }
            Some(RequestProperty::Method) => {
                for value in values() {
                    // Usual methods have upper-case letters.
                    if ignores_case {
                        self.methods.insert(value.to_ascii_uppercase());
                    }
                    self.methods.insert(value);
                }
            }
            None => {}
        }
    }

    fn add_pattern(&mut self, pattern: &str, ignores_case: bool) {
        self.patterns.insert((pattern.to_owned(), ignores_case));
    }

    fn add_network(&mut self, network: &str) {
        self.clients.extend(Networks::addresses_around(network));
    }

    fn add_host(&mut self, name: &str) {
        if let Some(pattern) = name.strip_prefix('~') {
            self.host_patterns.insert(pattern.to_owned());
            return;
        }
        let name = name.to_ascii_lowercase();
        if let Some(parent) = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')) {
            self.hosts.insert(format!("sub.{parent}"));
            self.hosts.insert(format!("a.sub.{parent}"));
            self.hosts.insert(parent.to_owned());
            self.parents.insert(parent.to_owned());
        } else if let Some(start) = name.strip_suffix(".*") {
            self.hosts.insert(format!("{start}.example"));
        } else if !matches!(name.as_str(), "_" | "" | "--" | "default") {
            self.hosts.insert(name);
        }
    }

    fn extend(&mut self, other: &Self) {
        self.paths.extend(other.paths.iter().cloned());
        self.patterns.extend(other.patterns.iter().cloned());
        self.hosts.extend(other.hosts.iter().cloned());
        self.clients.extend(other.clients.iter().copied());
        self.parents.extend(other.parents.iter().cloned());
        self.host_patterns
            .extend(other.host_patterns.iter().cloned());
        self.methods.extend(other.methods.iter().cloned());
    }

    /// The hosts that are named, hosts for each pattern alone and below each name with subdomains, and one that no directive names.
    fn all_hosts(&self, cache: &PatternCache) -> Vec<String> {
        let mut hosts = self.hosts.clone();
        let parents = self.parents.iter().map(String::as_str);
        let parents: Vec<&str> = parents.chain([UNKNOWN_HOST]).collect();
        for pattern in &self.host_patterns {
            let compiled = cache.compiled(pattern, true);
            let matches = |host: &String| {
                let pattern = compiled.as_ref().as_ref();
                pattern.is_none_or(|pattern| pattern.is_match(host.as_bytes()))
            };
            for sample in samples(pattern).unwrap_or_default() {
                let sample = sample.to_ascii_lowercase();
                let below = parents.iter().flat_map(|parent| {
                    ["", ".", "x.", ".x."].map(|gap| format!("{sample}{gap}{parent}"))
                });
                let all = below.chain([sample.clone()]);
                let all = all.flat_map(|host| [format!("x{host}"), format!("x.{host}"), host]);
                hosts.extend(all.filter(|host| is_host(host)).filter(matches));
            }
        }
        hosts.insert(UNKNOWN_HOST.to_owned());
        hosts.into_iter().collect()
    }

    /// The usual methods, those that are named, and one that is not.
    fn all_methods(&self) -> Vec<Method> {
        let is_method = |name: &&String| {
            let is_letter = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
            !METHODS.contains(&name.as_str()) && name.bytes().all(is_letter)
        };
        let named = self.methods.iter().filter(is_method);
        let all = METHODS.into_iter().chain(named.map(String::as_str));
        all.filter_map(|name| Method::from_bytes(name.as_bytes()).ok())
            .collect()
    }

    /// The addresses of clients: one that no directive names, and if there are networks, an IPv6 address and those around them.
    fn all_clients(&self) -> Vec<IpAddr> {
        let mut clients: Vec<IpAddr> = vec![USUAL_CLIENT.into()];
        if !self.clients.is_empty() {
            clients.push(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)));
            clients.extend(&self.clients);
        }
        clients
    }

    /// The paths around all literals, and for each pattern paths below each literal that the pattern matches; `None` if there are too
    /// many.
    fn all_paths(&self, cache: &PatternCache) -> Option<BTreeSet<String>> {
        let mut texts: Vec<(Rc<Option<Regex>>, String)> = Vec::new();
        for (pattern, ignores_case) in &self.patterns {
            let compiled = cache.compiled(pattern, *ignores_case);
            for sample in samples(pattern).unwrap_or_default() {
                let mut variants = BTreeSet::from([sample.clone()]);
                if *ignores_case {
                    variants.insert(sample.to_ascii_lowercase());
                    variants.insert(sample.to_ascii_uppercase());
                }
                let texts_of = |text| (Rc::clone(&compiled), text);
                texts.extend(variants.into_iter().map(texts_of));
            }
        }
        let mut literals = self.paths.clone();
        literals.extend(["/".to_owned(), "/v2/".to_owned()]);
        let whole = texts.iter().map(|(_, text)| text);
        literals.extend(whole.filter(|text| is_canonical(text)).cloned());
        if literals.len().saturating_mul(texts.len()) > MAX_COMBINATIONS {
            return None;
        }
        let mut paths = BTreeSet::new();
        for path in &literals {
            add_around(&mut paths, path);
            if paths.len() > MAX_PATHS {
                return None;
            }
        }
        for (pattern, text) in &texts {
            let matches = |path: &String| {
                let pattern = pattern.as_ref().as_ref();
                pattern.is_none_or(|pattern| pattern.is_match(path.as_bytes()))
            };
            for end in ends(text) {
                for literal in &literals {
                    let literal = literal.trim_end_matches('/');
                    let below = [
                        format!("{literal}/{end}"),
                        format!("{literal}/{end}/manifests/t"),
                        format!("{literal}/x{end}"),
                        format!("{literal}{end}"),
                    ];
                    let below = below.into_iter().filter(|path| is_canonical(path));
                    paths.extend(below.filter(matches));
                }
            }
            if paths.len() > MAX_PATHS {
                return None;
            }
        }
        Some(paths)
    }
}

/// A text without its first segments: all of it, and what follows each slash.
fn ends(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim_start_matches('/');
    let inner = text
        .match_indices('/')
        .filter_map(|(slash, _)| text.get(slash + 1..));
    std::iter::once(text)
        .chain(inner)
        .filter(|end| !end.is_empty())
}

/// Adds a path, paths below it, siblings that begin with the same text, and its parents.
fn add_around(paths: &mut BTreeSet<String>, path: &str) {
    if !is_canonical(path) {
        return;
    }
    let bare = path.trim_end_matches('/');
    let mut add = |text: String| {
        if is_canonical(&text) {
            paths.insert(text);
        }
    };
    let mut prefix = bare;
    loop {
        add(prefix.to_owned());
        for end in ["/", "/q", "/q/q", "/q/manifests/t", "/q/tags/list"] {
            add(format!("{prefix}{end}"));
        }
        if prefix.starts_with("/v2") {
            for end in [
                "/manifests/t",
                "/blobs/uploads/",
                "/_catalog",
                "/q/blobs/uploads/",
            ] {
                add(format!("{prefix}{end}"));
            }
        }
        let Some((parent, _)) = prefix.rsplit_once('/') else {
            break;
        };
        prefix = parent;
    }
    for start in [bare, path] {
        for end in [
            "q",
            "q/q",
            "q/manifests/t",
            "q/q/manifests/t",
            ".q",
            "-q/manifests/t",
        ] {
            add(format!("{start}{end}"));
        }
    }
    add(bare.to_ascii_uppercase());
}

/// Whether a path can be the canonical path of a request.
fn is_canonical(path: &str) -> bool {
    let is_possible = |character: char| !character.is_control() && !matches!(character, '\\' | ';');
    path.starts_with('/')
        && path.len() <= MAX_PATH
        && path.chars().all(is_possible)
        && !path.contains("//")
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Whether a text can be the host of a request.
fn is_host(text: &str) -> bool {
    let is_possible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut labels = text.split('.');
    labels.all(|label| !label.is_empty() && label.bytes().all(is_possible))
}

/// The maximum number of bytes of a path.
const MAX_PATH: usize = 5000;
/// The maximum number of paths for one host.
const MAX_PATHS: usize = 50_000;
/// The maximum number of combinations of a literal and a text that a pattern matches.
const MAX_COMBINATIONS: usize = 60_000;
/// The maximum number of clients for one host.
const MAX_CLIENTS: usize = 50_000;
/// The maximum number of hosts.
const MAX_HOSTS: usize = 5000;
/// The methods that are always compared: the usual ones, and one that no directive names.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "X-OTHER",
];
const UNKNOWN_HOST: &str = "unknown-host.invalid";
