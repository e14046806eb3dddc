//! Probes an endpoint of a route with `GET /v2/`, and judges whether the route can work with the response.
//!
//! The result is a fact (a sentence that says what works), or a problem with its cause and its remedy.

use http::{StatusCode, Uri, header, response};

use crate::check::live::bearer::Challenge;
use crate::check::live::client::speaks_tls;
use crate::check::live::remedy::{errno_remedy, unix_remedy};
use crate::config::problem::{Position, Problem};
use crate::config::{Auth, Route, Site};
use crate::forward::{Forward, Origin};
use crate::forwarded::API_VERSION;
use crate::net::host::https_authority;
use crate::registry::is_registry_path;
use crate::site::{self, RouteMatch};
use crate::upstream::{self, Endpoint, EndpointSettings, Error, HandshakeError, HandshakeFault};

/// An endpoint of a route, with the settings and the built parts of the route.
pub(crate) struct EndpointCheck<'a> {
    /// The position of `upstream` in the configuration file.
    pub(crate) position: Position,
    pub(crate) site: &'a Site,
    pub(crate) built_site: &'a site::Site,
    pub(crate) route: &'a Route,
    pub(crate) forward: &'a Forward,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) settings: &'a EndpointSettings,
}

/// The outcome of one `GET /v2/` without credentials.
pub(crate) struct Probe {
    response: Result<response::Parts, Error>,
    /// The port speaks TLS where the URL says `http://`, or plain HTTP where the URL says `https://`.
    has_other_scheme: bool,
}

impl Probe {
    /// Sends the request. If the result is typical of a wrong scheme, the other scheme is tried as well.
    pub(crate) async fn send(endpoint: &Endpoint, settings: &EndpointSettings) -> Self {
        let response = upstream::probe(endpoint, settings).await;
        let has_other_scheme = match endpoint {
            Endpoint::Tcp { host, port } if may_be_tls(&response) => speaks_tls(host, *port).await,
            Endpoint::Tls { host, port } if may_be_plain_http(&response) => {
                let (host, port) = (host.clone(), *port);
                let plain = Endpoint::Tcp { host, port };
                upstream::probe(&plain, settings).await.is_ok()
            }
            _ => false,
        };
        Self {
            response,
            has_other_scheme,
        }
    }

    /// Whether the response is 200: the endpoint requires no password.
    pub(crate) fn is_open(&self) -> bool {
        matches!(&self.response, Ok(head) if head.status == StatusCode::OK)
    }
}

/// Whether this may be the response of a TLS port to a request without TLS: 400 (Go, nginx, tidegate), a TLS alert, or a
/// closed connection.
fn may_be_tls(response: &Result<response::Parts, Error>) -> bool {
    match response {
        Ok(head) => matches!(
            head.status,
            StatusCode::BAD_REQUEST | StatusCode::UPGRADE_REQUIRED
        ),
        Err(error) => matches!(
            error,
            Error::Malformed(_) | Error::Closed(_) | Error::Write(_) | Error::Silent(_)
        ),
    }
}

/// Whether this may be the reaction of a plain HTTP port to a ClientHello: 400, a closed connection, or silence, because the
/// server waits for the end of a line.
fn may_be_plain_http(response: &Result<response::Parts, Error>) -> bool {
    match response {
        Err(Error::Tls(error)) => matches!(
            error.fault(),
            HandshakeFault::NotTls | HandshakeFault::Closed
        ),
        Err(Error::ConnectTimeout(_) | Error::Silent(_)) => true,
        _ => false,
    }
}

/// Why no client can get a token at a token realm that leads to this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RealmFault {
    /// The site has no route for the path.
    NoRoute,
    /// The path belongs to a route with `respond`.
    StaticResponse,
    /// The path lies in the registry API, where the proxy passes only the operations of the API.
    RegistryApi,
    /// The path is the proxy's own token endpoint, whose tokens the registry does not accept.
    OwnTokens,
    /// The route of the path checks the proxy's passwords and passes no `Authorization` on.
    OwnPasswords,
}

impl EndpointCheck<'_> {
    /// Judges the probe: a fact if the route works with the response, else a problem.
    pub(crate) fn judge(&self, probe: &Probe) -> Result<String, Problem> {
        if probe.has_other_scheme {
            return Err(self.wrong_scheme());
        }
        match &probe.response {
            Err(error) => Err(self.no_response(error)),
            Ok(head) if self.route.is_registry => self.judge_registry(head),
            Ok(head) => Ok(format!("{} responds ({})", self.endpoint, head.status)),
        }
    }

    /// Whether only the proxy asks for passwords: the route requires one, and the endpoint does not.
    pub(crate) fn is_protected_by_proxy(&self, probe: &Probe) -> bool {
        !matches!(self.route.auth, Auth::Open | Auth::LeftToUpstream) && probe.is_open()
    }

    fn error(&self, what: String) -> Problem {
        Problem::error(self.position, what)
    }

    fn wrong_scheme(&self) -> Problem {
        let (endpoint, authority) = (self.endpoint, self.endpoint.authority());
        if matches!(endpoint, Endpoint::Tls { .. }) {
            return self
                .error(format!("{endpoint} speaks plain HTTP, not TLS"))
                .because("the TLS handshake fails, so every request gets 502")
                .fix(format!(
                    "write \"http://{authority}\", or enable TLS in the registry if the network in between is not private"
                ));
        }
        self.error(format!("{endpoint} speaks TLS, not plain HTTP"))
            .because("it rejects every request without TLS")
            .fix(format!(
                "write \"https://{authority}\", and the file of its CA in upstream.ca if this system does not trust that CA"
            ))
    }

    fn no_response(&self, error: &Error) -> Problem {
        let endpoint = self.endpoint;
        let (what, fix) = match error {
            Error::Connect(cause) => {
                let (what, fix) = match endpoint {
                    Endpoint::Unix(_) => unix_remedy(cause, "the registry"),
                    Endpoint::Tcp { .. } | Endpoint::Tls { .. } => {
                        errno_remedy(cause, "the registry")
                    }
                };
                (format!("cannot connect to {endpoint}: {what}"), fix)
            }
            Error::Exhausted(cause) => {
                let (what, fix) = errno_remedy(cause, "the registry");
                (format!("cannot connect to {endpoint}: {what}"), fix)
            }
            Error::ConnectTimeout(time) => (
                format!("{endpoint} accepted no connection within {time:?}"),
                "correct the address, start that machine, or open the port in the firewalls between".to_owned(),
            ),
            Error::Tls(error) => self.handshake_failure(error),
            Error::Silent(time) => (
                format!("{endpoint} accepts connections and sent nothing for {time:?}"),
                "look at the log of the registry: it is overloaded, or another kind of server listens there".to_owned(),
            ),
            Error::Closed(_) | Error::Write(_) => (
                format!("{endpoint} closed the connection without a response"),
                "look at the log of the program that listens there: it may be no HTTP server, or expect a PROXY header".to_owned(),
            ),
            Error::Malformed(reason) => (
                format!("the program that listens at {endpoint} does not speak HTTP/1.1 ({reason})"),
                "write the address of the registry; ss -ltnp shows which programs listen on this machine".to_owned(),
            ),
            Error::Busy | Error::Body(_) => (
                format!("{endpoint}: {error}"),
                "run the check again".to_owned(),
            ),
        };
        self.error(format!("no response: {what}"))
            .because(format!("every request for {endpoint} fails"))
            .fix(fix)
    }

    fn handshake_failure(&self, error: &HandshakeError) -> (String, String) {
        let endpoint = self.endpoint;
        let fix = match error.fault() {
            HandshakeFault::NotTls => {
                "write the address of the registry, or http:// if it does not speak TLS".to_owned()
            }
            HandshakeFault::Closed | HandshakeFault::Alert => {
                "look at the log of the program that listens there: it may require a client certificate, another name or another version of TLS"
                    .to_owned()
            }
            HandshakeFault::UnknownIssuer => format!(
                "write upstream = {{ urls = [\"{endpoint}\"], ca = \"FILE\" }} with the file of the CA that issued the certificate"
            ),
            HandshakeFault::WrongName => {
                "write the URL with a name of the certificate, or have a certificate issued for the name in the URL".to_owned()
            }
            HandshakeFault::Expired => "renew the certificate of the registry".to_owned(),
            HandshakeFault::NotValidYet => {
                "set the clocks of both machines: timedatectl shows the clock of this machine".to_owned()
            }
            HandshakeFault::Other => "look at the log of the program that listens there".to_owned(),
        };
        (format!("cannot trust {endpoint}: {error}"), fix)
    }

    fn judge_registry(&self, head: &response::Parts) -> Result<String, Problem> {
        let endpoint = self.endpoint;
        let is_left_to_upstream = matches!(self.route.auth, Auth::LeftToUpstream);
        let status = head.status;
        match status {
            StatusCode::OK if is_web_page(head) => Err(self
                .error(format!("{endpoint} responds to /v2/ with a web page: it is no registry"))
                .because("a registry responds with JSON or with an empty body, so clients cannot use this server")
                .fix("write the address of the registry itself, not the address of its web interface")),
            StatusCode::OK if is_left_to_upstream => Err(self
                .error(format!("neither {endpoint} nor the proxy requires a password"))
                .because("mode = \"upstream\" leaves the login to the registry, so anyone may push")
                .fix("write mode = \"basic\" with a password file, or configure users in the registry")),
            StatusCode::OK if !head.headers.contains_key(API_VERSION) => Err(Problem::warning(
                self.position,
                format!("{endpoint} responds to /v2/ without Docker-Distribution-Api-Version: it may be no registry"),
            )
            .because("every common registry sends this field, and a web server that responds to every path does not")
            .fix("check which server listens there, and push a test blob: tidegate check --push REPOSITORY --user USER")),
            StatusCode::OK => Ok(format!("{endpoint} responds as a registry does")),
            StatusCode::UNAUTHORIZED if is_left_to_upstream => self.judge_challenge(head),
            StatusCode::UNAUTHORIZED => Err(self.own_password(head)),
            _ if status.is_redirection() => Err(self.redirects(head)),
            StatusCode::NOT_FOUND => Err(self
                .error(format!("{endpoint} has nothing at /v2/ ({status}): it is no registry"))
                .because("clients ask for /v2/ first, so every docker login, pull and push fails")
                .fix("write the address and port of the registry; a registry below a path (http.prefix) must be moved to /")),
            StatusCode::FORBIDDEN => Err(self
                .error(format!("{endpoint} forbids /v2/ ({status})"))
                .because("a registry responds with 200 or 401, so every request fails")
                .fix("allow the address of this machine in the registry, or in the proxy in front of it")),
            StatusCode::BAD_REQUEST => Err(self
                .error(format!("{endpoint} rejects GET /v2/ as a bad request ({status})"))
                .because("a registry responds with 200 or 401, so every request fails")
                .fix("look at the log of the program that listens there: it may expect another Host, or a PROXY header")),
            _ if status.is_server_error() => Err(self
                .error(format!("{endpoint} fails: it responds to /v2/ with {status}"))
                .because("every request gets this response")
                .fix("look at the log of the registry: its storage, or a service that it needs, does not work")),
            _ => Err(Problem::warning(
                self.position,
                format!("{endpoint} responds to /v2/ with {status}"),
            )
            .because("a registry responds with 200 or 401")
            .fix("check which server listens there")),
        }
    }

    /// The problem of a registry that requires a password on a route whose passwords the proxy checks.
    fn own_password(&self, head: &response::Parts) -> Problem {
        let endpoint = self.endpoint;
        let schemes = head.headers.get_all(header::WWW_AUTHENTICATE);
        let schemes = schemes.iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<_> = schemes.map(shortened).collect();
        let leads_here = self.realm_fault(head).is_some();
        let realm = if leads_here {
            "; its token realm leads back to this site, whose tokens the registry does not accept"
        } else {
            ""
        };
        self.error(format!(
            "{endpoint} requires a password of its own ({})",
            match challenges.as_slice() {
                [] => "401 without a challenge".to_owned(),
                challenges => challenges.join(", "),
            }
        ))
        .because(format!(
            "the proxy does not forward Authorization in this mode, so every client is rejected{realm}"
        ))
        .fix(
            "remove the auth section from the registry's configuration and let it listen on 127.0.0.1 alone, or write \
             mode = \"upstream\" if the registry is to check the passwords (Harbor)",
        )
    }

    /// Judges the challenge of a registry that has its own users, on a route with `mode = "upstream"`: clients must be able to
    /// reach its token service.
    fn judge_challenge(&self, head: &response::Parts) -> Result<String, Problem> {
        let endpoint = self.endpoint;
        if !head.headers.contains_key(header::WWW_AUTHENTICATE) {
            return Err(self
                .error(format!("{endpoint} responds with 401 without WWW-Authenticate"))
                .because("clients do not know how to log in, so every login fails")
                .fix("check which server listens there, and correct the authentication of the registry"));
        }
        let Some((realm, fault)) = self.realm_fault(head) else {
            return Ok(format!(
                "{endpoint} responds as a registry with its own users does"
            ));
        };
        let problem = self.error(format!(
            "the token realm of {endpoint} is {}, {}",
            shortened(&realm),
            match fault {
                RealmFault::NoRoute => "for which this site has no route",
                RealmFault::StaticResponse => "which belongs to a route with respond",
                RealmFault::RegistryApi => "which lies below /v2/ of the proxy itself",
                RealmFault::OwnTokens => "which is the proxy's own token endpoint",
                RealmFault::OwnPasswords => "which is on a route whose passwords the proxy checks",
            }
        ));
        let host = self.site.hosts.first().map_or("HOST", String::as_str);
        Err(problem
            .because("clients fetch their tokens there, so every docker login, pull and push fails")
            .fix(match fault {
                RealmFault::NoRoute | RealmFault::StaticResponse | RealmFault::OwnPasswords => {
                    "add a [[site.route]] with that path, the upstream of the token service and auth = { mode = \"upstream\" } (Harbor: path = \"/service/\"; a single route with path = \"/\" works as well)".to_owned()
                }
                RealmFault::RegistryApi | RealmFault::OwnTokens => format!(
                    "write the URL of the token service itself into the registry's auth.token.realm, such as https://{host}/service/token; \
                     or remove the auth section from the registry and write mode = \"token\" here"
                ),
            }))
    }

    /// The Bearer realm in the response and why no client can get a token there. `None` if a client can, and if the realm
    /// leads to another server.
    fn realm_fault(&self, head: &response::Parts) -> Option<(String, RealmFault)> {
        let challenge = Challenge::of(&head.headers)?;
        let realm = challenge.realm();
        if !self.leads_to_proxy(realm) {
            return None;
        }
        let uri: Uri = realm.parse().ok()?;
        let path = uri.path();
        let fault = match self.built_site.match_route(path) {
            None => RealmFault::NoRoute,
            Some(RouteMatch::Response(_)) => RealmFault::StaticResponse,
            Some(RouteMatch::Route(route)) => {
                if route.authenticator.token_service(path).is_some() {
                    RealmFault::OwnTokens
                } else if route.is_registry && is_registry_path(path) {
                    RealmFault::RegistryApi
                } else if !route.authenticator.is_open() {
                    RealmFault::OwnPasswords
                } else {
                    return None;
                }
            }
        };
        Some((realm.to_owned(), fault))
    }

    /// Whether clients of this site fetch their tokens through the proxy: the realm names the site, or an origin that the
    /// proxy replaces by the site's.
    fn leads_to_proxy(&self, realm: &str) -> bool {
        let is_site = |host: &str| self.built_site.is_named(host);
        let leads = |external: &Origin| self.forward.rewrites(realm, external, &is_site);
        if let Some(external) = &self.site.external_url {
            return leads(external);
        }
        let names = self.site.hosts.iter().filter(|host| !host.contains('*'));
        let mut origins = names.map(|host| Origin {
            scheme: "https".to_owned(),
            authority: https_authority(host, self.site.https_port),
        });
        origins.any(|origin| leads(&origin))
    }

    fn redirects(&self, head: &response::Parts) -> Problem {
        let endpoint = self.endpoint;
        let location = head.headers.get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let what = match location {
            Some(location) => format!(
                "{endpoint} redirects /v2/ to {} ({})",
                location, head.status
            ),
            None => format!("{endpoint} redirects /v2/ ({})", head.status),
        };
        let problem = self
            .error(what)
            .because("a registry responds with 200 or 401; the proxy does not follow redirects, and clients that do bypass it");
        let is_to_tls = matches!(endpoint, Endpoint::Tcp { .. })
            && location.is_some_and(|location| location.starts_with("https://"));
        if is_to_tls {
            return problem.fix("write the https:// address of the registry, or an address at which it speaks plain HTTP without a redirect");
        }
        problem.fix("write the address of the registry itself")
    }
}

/// The beginning of a field value that a server chose.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// Whether the response is HTML, which no registry sends for `/v2/`.
fn is_web_page(head: &response::Parts) -> bool {
    let media_type = head.headers.get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    media_type.is_some_and(|media_type| {
        media_type
            .trim_start()
            .to_ascii_lowercase()
            .starts_with("text/html")
    })
}

/// Maximum number of characters of a field value in a message.
const MAX_SHOWN: usize = 200;
