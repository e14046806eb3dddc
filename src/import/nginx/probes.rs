//! The requests with which the importer compares nginx and tidegate, derived from the literals of the configuration.
//!
//! Each location, pattern, host, address, network and password file of the input gives requests inside and outside of it, so that
//! each difference between the two configurations has a request that shows it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Method;

use crate::config::Config;

use crate::import::nginx::access::Networks;
use crate::import::nginx::context::Context;
use crate::import::nginx::if_blocks::condition_words;
use crate::import::nginx::location::Matcher;
use crate::import::nginx::parser::Directive;
use crate::import::nginx::pattern::samples;
use crate::import::nginx::request::Request;

/// The values of each property of a request.
pub(crate) struct Probes {
    addresses: Vec<SocketAddr>,
    hosts: Vec<String>,
    paths: Vec<String>,
    methods: Vec<Method>,
    clients: Vec<IpAddr>,
    files: Vec<Option<String>>,
    certificates: Vec<bool>,
}

impl Probes {
    /// Derives the values from a configuration and the addresses at which its sites are reached.
    pub(crate) fn new(
        context: &Context<'_>,
        http: &[Directive],
        addresses: Vec<SocketAddr>,
    ) -> Self {
        let mut literals = Literals::default();
        literals.read(context, http);
        let mut clients: Vec<IpAddr> = vec![IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9))];
        if !literals.clients.is_empty() {
            clients.push(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)));
            clients.extend(literals.clients.iter().copied());
        }
        let methods: &[Method] = if literals.has_methods {
            &ALL_METHODS
        } else {
            &FEW_METHODS
        };
        let mut hosts: Vec<String> = literals.hosts.iter().cloned().collect();
        hosts.push(UNKNOWN_HOST.to_owned());
        let mut files = vec![None];
        files.extend(literals.files.iter().cloned().map(Some));
        Self {
            addresses,
            hosts,
            paths: literals.all_paths(),
            methods: methods.to_vec(),
            clients,
            files,
            certificates: if literals.has_certificates {
                vec![false, true]
            } else {
                vec![false]
            },
        }
    }

    /// The hosts.
    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Calls `visit` for every request, with the paths of the routes of `config` as well. A `true` skips the other clients and
    /// credentials for the same path and method.
    pub(crate) fn each(&self, config: &Config, mut visit: impl FnMut(&Request) -> bool) {
        let mut paths: BTreeSet<String> = self.paths.iter().cloned().collect();
        for site in &config.sites {
            let routes = site.routes.iter().map(|route| &route.path);
            let responses = site.responses.iter().map(|response| &response.path);
            for path in routes.chain(responses) {
                add_around(&mut paths, path);
            }
        }
        for address in &self.addresses {
            for host in &self.hosts {
                for path in &paths {
                    for method in &self.methods {
                        self.each_client(*address, host, path, method, &mut visit);
                    }
                }
            }
        }
    }

    fn each_client(
        &self,
        address: SocketAddr,
        host: &str,
        path: &str,
        method: &Method,
        visit: &mut impl FnMut(&Request) -> bool,
    ) {
        for has_certificate in &self.certificates {
            for valid_in in &self.files {
                for client in &self.clients {
                    let request = Request {
                        address,
                        host: host.to_owned(),
                        method: method.clone(),
                        path: path.to_owned(),
                        client: *client,
                        valid_in: valid_in.clone(),
                        has_certificate: *has_certificate,
                    };
                    if visit(&request) {
                        return;
                    }
                }
            }
        }
    }
}

/// What the directives of a configuration name.
#[derive(Default)]
struct Literals {
    paths: BTreeSet<String>,
    /// Texts that regular expressions match, which need not begin with a slash.
    samples: BTreeSet<String>,
    hosts: BTreeSet<String>,
    clients: BTreeSet<IpAddr>,
    files: BTreeSet<String>,
    has_methods: bool,
    has_certificates: bool,
}

impl Literals {
    fn read(&mut self, context: &Context<'_>, directives: &[Directive]) {
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
                "allow" | "deny" => {
                    self.clients
                        .extend(Networks::addresses_around(directive.first()));
                }
                "auth_basic_user_file" => {
                    self.files.extend(context.file_path(directive.first()));
                }
                "limit_except" => self.has_methods = true,
                "ssl_verify_client" => self.has_certificates |= directive.first() != "off",
                "if" => self.read_condition(&condition_words(directive)),
                "map" => self.read_map(directive),
                "geo" => {
                    for entry in directive.inner() {
                        self.clients.extend(Networks::addresses_around(&entry.name));
                    }
                }
                _ => {}
            }
            if !matches!(directive.name.as_str(), "map" | "geo" | "upstream") {
                self.read(context, directive.inner());
            }
        }
    }

    fn read_condition(&mut self, words: &[String]) {
        let [variable, operator, operand] = words else {
            return;
        };
        self.add_operand(
            variable,
            operator.contains('~'),
            operator.contains('*'),
            operand,
        );
    }

    fn read_map(&mut self, map: &Directive) {
        for entry in map.inner() {
            let (is_pattern, operand) = match entry.name.strip_prefix('~') {
                Some(pattern) => (true, pattern.trim_start_matches('*')),
                None => (false, entry.name.as_str()),
            };
            let ignores_case = entry.name.starts_with("~*");
            self.add_operand(map.first(), is_pattern, ignores_case, operand);
        }
    }

    /// Adds the value with which a variable is compared.
    fn add_operand(&mut self, source: &str, is_pattern: bool, ignores_case: bool, operand: &str) {
        self.has_methods |= source.contains("$request_method");
        self.has_certificates |= source.contains("$ssl_client");
        if source.contains("uri") {
            if is_pattern {
                self.add_pattern(operand, ignores_case);
            } else {
                self.paths.insert(operand.to_owned());
            }
        }
        if source.contains("host") {
            if is_pattern {
                self.hosts.extend(samples(operand));
            } else {
                self.add_host(operand);
            }
        }
        if source == "$remote_addr" && !is_pattern {
            self.clients.extend(Networks::addresses_around(operand));
        }
    }

    fn add_pattern(&mut self, pattern: &str, ignores_case: bool) {
        for sample in samples(pattern) {
            if ignores_case {
                self.samples.insert(sample.to_ascii_uppercase());
            }
            self.samples.insert(sample);
        }
    }

    fn add_host(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        if let Some(pattern) = name.strip_prefix('~') {
            self.hosts.extend(samples(pattern));
        } else if let Some(parent) = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')) {
            self.hosts.insert(format!("sub.{parent}"));
            self.hosts.insert(format!("a.sub.{parent}"));
            self.hosts.insert(parent.to_owned());
        } else if let Some(start) = name.strip_suffix(".*") {
            self.hosts.insert(format!("{start}.example"));
        } else if !matches!(name.as_str(), "_" | "" | "--" | "default") {
            self.hosts.insert(name);
        }
    }

    /// The paths around all literals and samples. A sample of a pattern that is not anchored is put below each literal as well.
    fn all_paths(&self) -> Vec<String> {
        let mut paths = BTreeSet::new();
        let mut literals = self.paths.clone();
        literals.extend(["/".to_owned(), "/v2/".to_owned()]);
        for path in &literals {
            add_around(&mut paths, path);
        }
        for sample in &self.samples {
            let rest = sample.trim_start_matches('/');
            if sample.starts_with('/') {
                add_around(&mut paths, sample);
            }
            for literal in &literals {
                let below = format!("{}/{rest}", literal.trim_end_matches('/'));
                if below.len() <= MAX_PATH {
                    paths.insert(format!("{below}/manifests/t"));
                    paths.insert(below);
                }
                paths.insert(format!("{}/x{rest}", literal.trim_end_matches('/')));
            }
        }
        paths.retain(|path| is_canonical(path));
        paths.into_iter().collect()
    }
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
    let is_plain =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'?' | b'#' | b'\\');
    path.starts_with('/')
        && path.len() <= MAX_PATH
        && path.bytes().all(is_plain)
        && !path.contains("//")
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

const MAX_PATH: usize = 200;
const UNKNOWN_HOST: &str = "unknown-host.invalid";
const ALL_METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];
/// The methods if no directive depends on the method. On a registry, POST reaches upload URLs and PUT manifests.
const FEW_METHODS: [Method; 3] = [Method::GET, Method::POST, Method::PUT];
