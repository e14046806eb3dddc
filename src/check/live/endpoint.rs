//! What one endpoint of a route answers to `GET /v2/`, and whether the route can work with that answer.
//!
//! Called by `inspect`. Every outcome is a fact, or a problem with its cause and its remedy.

use http::{StatusCode, header, response};

use crate::check::live::bearer::{Challenge, RealmFault};
use crate::check::live::listener::speaks_tls;
use crate::check::live::remedy::{errno_remedy, unix_remedy};
use crate::config::problem::{Position, Problem};
use crate::config::{Auth, Config, Route, Site};
use crate::forward::Forward;
use crate::site;
use crate::upstream::{self, Endpoint, EndpointSettings, Error, HandshakeError, HandshakeFault};

/// One endpoint of one route.
pub(super) struct Subject<'a> {
    pub(super) place: Position,
    pub(super) config: &'a Config,
    pub(super) site: &'a Site,
    pub(super) built: &'a site::Site,
    pub(super) route: &'a Route,
    pub(super) forward: &'a Forward,
    pub(super) endpoint: &'a Endpoint,
    pub(super) settings: &'a EndpointSettings,
}

/// The outcome of one `GET /v2/` without credentials.
pub(super) struct Probe {
    answer: Result<response::Parts, Error>,
    /// The port speaks TLS where the URL says `http://`, or plain HTTP where the URL says `https://`.
    has_other_scheme: bool,
}

impl Probe {
    /// Asks the endpoint. Where the answer looks like that of the other protocol, the other protocol is tried as well.
    pub(super) async fn send(endpoint: &Endpoint, settings: &EndpointSettings) -> Self {
        let answer = upstream::probe(endpoint, settings).await;
        let has_other_scheme = match endpoint {
            Endpoint::Tcp { host, port } if may_be_tls(&answer) => speaks_tls(host, *port).await,
            Endpoint::Tls { host, port } if may_be_plain(&answer) => {
                let (host, port) = (host.clone(), *port);
                let plain = Endpoint::Tcp { host, port };
                upstream::probe(&plain, settings).await.is_ok()
            }
            _ => false,
        };
        Self {
            answer,
            has_other_scheme,
        }
    }

    /// True for 200: the endpoint lets everyone in.
    pub(super) fn is_open(&self) -> bool {
        matches!(&self.answer, Ok(head) if head.status == StatusCode::OK)
    }
}

/// Servers answer a plain request on a TLS port with 400 (Go, nginx, tidegate), with an alert, or by closing.
fn may_be_tls(answer: &Result<response::Parts, Error>) -> bool {
    match answer {
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

/// A server of plain HTTP answers a ClientHello with 400, by closing, or waits for the end of a line.
fn may_be_plain(answer: &Result<response::Parts, Error>) -> bool {
    match answer {
        Err(Error::Tls(error)) => matches!(
            error.fault(),
            HandshakeFault::NotTls | HandshakeFault::Closed
        ),
        Err(Error::ConnectTimeout(_) | Error::Silent(_)) => true,
        _ => false,
    }
}

impl Subject<'_> {
    /// A fact where the route works with the answer, a problem where it does not.
    pub(super) fn judge(&self, probe: &Probe) -> Result<String, Problem> {
        if probe.has_other_scheme {
            return Err(self.other_scheme());
        }
        match &probe.answer {
            Err(error) => Err(self.unanswered(error)),
            Ok(head) if self.route.registry => self.judge_registry(head),
            Ok(head) => Ok(format!("{} answers ({})", self.endpoint, head.status)),
        }
    }

    /// True where the proxy asks for passwords in front of an endpoint that lets everyone in.
    pub(super) fn guards(&self, probe: &Probe) -> bool {
        !matches!(self.route.auth, Auth::Open | Auth::LeftToUpstream) && probe.is_open()
    }

    fn error(&self, what: String) -> Problem {
        Problem::error(self.place, what)
    }

    fn other_scheme(&self) -> Problem {
        let (endpoint, authority) = (self.endpoint, self.endpoint.authority());
        if matches!(endpoint, Endpoint::Tls { .. }) {
            return self
                .error(format!("{endpoint} speaks plain HTTP, not TLS"))
                .because("the TLS handshake fails, so every request gets 502")
                .fix(format!(
                    "write \"http://{authority}\", or let the registry speak TLS where others can listen on the network between"
                ));
        }
        self.error(format!("{endpoint} speaks TLS, not plain HTTP"))
            .because("it refuses every request that comes without TLS")
            .fix(format!(
                "write \"https://{authority}\", and the file of its CA in upstream.ca where this system does not trust that CA"
            ))
    }

    fn unanswered(&self, error: &Error) -> Problem {
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
                format!("{endpoint} took no connection within {time:?}"),
                "correct the address, start that machine, or open the port in the firewalls between".to_owned(),
            ),
            Error::Tls(error) => self.handshake_failure(error),
            Error::Silent(time) => (
                format!("{endpoint} takes connections and was silent for {time:?}"),
                "look at the log of the registry: it is overloaded, or another kind of server listens there".to_owned(),
            ),
            Error::Closed(_) | Error::Write(_) => (
                format!("{endpoint} closed the connection without a response"),
                "look at the log of what listens there: it may be no HTTP server, or want a PROXY header".to_owned(),
            ),
            Error::Malformed(reason) => (
                format!("what listens at {endpoint} does not speak HTTP/1.1 ({reason})"),
                "write the address of the registry; ss -ltnp shows which programs listen on this machine".to_owned(),
            ),
            Error::Busy | Error::Body(_) => (
                format!("{endpoint}: {error}"),
                "check again".to_owned(),
            ),
        };
        self.error(format!("no answer: {what}"))
            .because(format!("every request for {endpoint} fails"))
            .fix(fix)
    }

    fn handshake_failure(&self, error: &HandshakeError) -> (String, String) {
        let endpoint = self.endpoint;
        let fix = match error.fault() {
            HandshakeFault::NotTls => {
                "write the address of the registry, or http:// where it speaks no TLS".to_owned()
            }
            HandshakeFault::Closed | HandshakeFault::Alert => {
                "look at the log of what listens there: it may want a client certificate, another name or another version of TLS"
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
                "set the clocks of both machines: timedatectl shows this one's".to_owned()
            }
            HandshakeFault::Other => "look at the log of what listens there".to_owned(),
        };
        (format!("cannot trust {endpoint}: {error}"), fix)
    }

    fn judge_registry(&self, head: &response::Parts) -> Result<String, Problem> {
        let endpoint = self.endpoint;
        let is_left = matches!(self.route.auth, Auth::LeftToUpstream);
        let status = head.status;
        match status {
            StatusCode::OK if is_web_page(head) => Err(self
                .error(format!("{endpoint} answers /v2/ with a web page: it is no registry"))
                .because("a registry answers with JSON or with an empty body, so clients cannot use this server")
                .fix("write the address of the registry itself, not that of its web interface")),
            StatusCode::OK if is_left => Err(self
                .error(format!("{endpoint} asks nobody for a password, and neither does the gate"))
                .because("mode = \"upstream\" leaves the login to the registry: anyone may push")
                .fix("write mode = \"basic\" with a password file, or give the registry its own users")),
            StatusCode::OK => Ok(format!("{endpoint} answers as a registry does")),
            StatusCode::UNAUTHORIZED if is_left => self.judge_challenge(head),
            StatusCode::UNAUTHORIZED => Err(self.own_password(head)),
            _ if status.is_redirection() => Err(self.redirects(head)),
            StatusCode::NOT_FOUND => Err(self
                .error(format!("{endpoint} has nothing at /v2/ ({status}): it is no registry"))
                .because("clients ask for /v2/ first, so every docker login, pull and push fails")
                .fix("write the address and port of the registry; a registry below a path (http.prefix) must be moved to /")),
            StatusCode::FORBIDDEN => Err(self
                .error(format!("{endpoint} forbids /v2/ ({status})"))
                .because("a registry answers 200, or 401, so every request fails")
                .fix("allow the address of this machine in the registry, or in the proxy before it")),
            StatusCode::BAD_REQUEST => Err(self
                .error(format!("{endpoint} refuses GET /v2/ as a bad request ({status})"))
                .because("a registry answers 200, or 401, so every request fails")
                .fix("look at the log of what listens there: it may want another Host, or a PROXY header")),
            _ if status.is_server_error() => Err(self
                .error(format!("{endpoint} is out of order: it answers {status} to /v2/"))
                .because("every request gets the same answer")
                .fix("look at the log of the registry: its storage, or what it depends on, does not work")),
            _ => Err(Problem::warning(
                self.place,
                format!("{endpoint} answers {status} to /v2/"),
            )
            .because("a registry answers 200, or 401")
            .fix("see whether another server listens there")),
        }
    }

    /// The registry asks for credentials on a route where the proxy checks them and passes none on.
    fn own_password(&self, head: &response::Parts) -> Problem {
        let endpoint = self.endpoint;
        let schemes = head.headers.get_all(header::WWW_AUTHENTICATE);
        let schemes = schemes.iter().filter_map(|value| value.to_str().ok());
        let asked: Vec<_> = schemes.map(shortened).collect();
        let leads_here = self.realm_fault(head).is_some();
        let realm = if leads_here {
            "; its token realm leads back to this site, whose tokens it does not know"
        } else {
            ""
        };
        self.error(format!(
            "{endpoint} asks for a password of its own ({})",
            match asked.as_slice() {
                [] => "401 without a challenge".to_owned(),
                some => some.join(", "),
            }
        ))
        .because(format!(
            "the gate passes no Authorization on in this mode, so every client is refused{realm}"
        ))
        .fix(
            "remove the auth section from the registry's configuration and let it listen on 127.0.0.1 alone, or write \
             mode = \"upstream\" where the registry is to check the passwords (Harbor)",
        )
    }

    /// The registry has users of its own, which is what mode "upstream" is for, if clients can get at its token service.
    fn judge_challenge(&self, head: &response::Parts) -> Result<String, Problem> {
        let endpoint = self.endpoint;
        if !head.headers.contains_key(header::WWW_AUTHENTICATE) {
            return Err(self
                .error(format!("{endpoint} answers 401 without WWW-Authenticate"))
                .because("clients do not know how to log in, so every login fails")
                .fix("see whether another server listens there, and correct the authentication of the registry"));
        }
        let Some((realm, fault)) = self.realm_fault(head) else {
            return Ok(format!(
                "{endpoint} answers as a registry does that knows its users"
            ));
        };
        let problem = self.error(format!(
            "the token realm of {endpoint} is {}, {}",
            shortened(&realm),
            match fault {
                RealmFault::NoRoute => "for which this site has no route",
                RealmFault::Closed => "which a route with respond closes",
                RealmFault::Registry => "which lies below the gate's own /v2/",
                RealmFault::OwnTokens => "which is the gate's own token endpoint",
                RealmFault::Password =>
                    "which is on a route that asks for a password of the gate's own",
            }
        ));
        let host = self.site.hosts.first().map_or("HOST", String::as_str);
        Err(problem
            .because("clients fetch their tokens there, so every docker login, pull and push fails")
            .fix(match fault {
                RealmFault::NoRoute | RealmFault::Closed | RealmFault::Password => {
                    "add a [[site.route]] with that path, the upstream of the token service and auth = { mode = \"upstream\" } (Harbor: path = \"/service/\"; one route with path = \"/\" does as well)".to_owned()
                }
                RealmFault::Registry | RealmFault::OwnTokens => format!(
                    "write the URL of the token service itself into the registry's auth.token.realm, such as https://{host}/service/token; \
                     or remove the auth section from the registry and write mode = \"token\" here"
                ),
            }))
    }

    /// The Bearer realm with what is wrong with it, where it leads to this site and cannot work there.
    fn realm_fault(&self, head: &response::Parts) -> Option<(String, RealmFault)> {
        let challenge = Challenge::of(&head.headers)?;
        let fault = challenge.fault(self)?;
        Some((challenge.realm().to_owned(), fault))
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
            .because("a registry answers 200, or 401; the gate follows no redirect, and clients are led past it");
        let is_to_tls = matches!(endpoint, Endpoint::Tcp { .. })
            && location.is_some_and(|location| location.starts_with("https://"));
        if is_to_tls {
            return problem.fix("write the https:// address of the registry, or one at which it speaks plain HTTP without a redirect");
        }
        problem.fix("write the address of the registry itself")
    }
}

/// The beginning of a field value that a server chose.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// True for HTML, which no registry answers `/v2/` with.
fn is_web_page(head: &response::Parts) -> bool {
    let kind = head.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| {
        kind.trim_start()
            .to_ascii_lowercase()
            .starts_with("text/html")
    })
}

/// Characters of a field value that are shown.
const MAX_SHOWN: usize = 200;
