//! `check --live --push`: a blob of a few bytes goes through the proxy's own listener into a registry and comes back, as a
//! client's blob does.
//!
//! Called by `inspect`. The bytes are always the same, so that one blob is left behind however often the check runs. A
//! response that stops the push is told by its cause: a wrong password and a missing right are no faults of the registry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use zeroize::Zeroizing;

use crate::check::live::bearer::{Challenge, token};
use crate::check::live::listener::{ListenerClient, of_authority, with_certificate};
use crate::config::problem::Problem;
use crate::config::{self, Auth, Certificate, Config};
use crate::net::listener::ListenAddr;
use crate::registry::is_name;
use crate::secret::Password;
use crate::snapshot::Snapshot;
use crate::text::to_hex;
use crate::tls::trust::ClientAuthMode;

/// What is pushed where.
#[derive(Debug)]
pub struct Push {
    /// The repository.
    pub repository: String,
    /// The user; `None` pushes without a login.
    pub login: Option<(String, Password)>,
}

/// Pushes and pulls; returns what was done and what is left behind, or the problem that ended it.
pub(super) async fn run(
    push: &Push,
    config: &Config,
    snapshot: &Snapshot,
    file: &Path,
) -> Result<Vec<String>, Problem> {
    let repository = &push.repository;
    if !is_name(repository) {
        return Err(
            error(format!("no repository can be called {repository:?}")).fix(
                "write a name such as team/app: lower-case letters, digits, and . _ - between them",
            ),
        );
    }
    let (site, route) = destination(push, config, snapshot)?;
    let mut bindings = config.listen.https.iter();
    let address = bindings.find_map(|binding| match binding {
        ListenAddr::Address(address) if address.port() != 0 => Some(*address),
        _ => None,
    });
    let address = address.ok_or_else(|| {
        error("listen.https names no address with a port, so there is nothing to connect to")
            .because("the addresses of sockets that systemd passes are not in the file")
            .fix("check with a client: docker push, or curl")
    })?;
    if let Some(clients) = &site.clients
        && clients.demand == ClientAuthMode::Required
    {
        return Err(Problem::error(
            clients.ca.place,
            "the site demands a client certificate, and the check has none",
        )
        .fix("check with a client that has one: curl --cert FILE --key FILE"));
    }
    let round_trip = RoundTrip {
        client: client(site, config, snapshot, address)?,
        outer: site.external.as_ref().map(|origin| {
            let (scheme, authority) = (&origin.scheme, &origin.authority);
            format!("{scheme}://{authority}")
        }),
        user: push.login.as_ref().map(|(user, _)| user.as_str()),
        basic: push.login.as_ref().map(basic).transpose()?,
        repository,
        route,
        file,
    };
    round_trip.make().await
}

/// The first site whose registry can hold the repository, with the route of the repository.
fn destination<'a>(
    push: &Push,
    config: &'a Config,
    snapshot: &Snapshot,
) -> Result<(&'a config::Site, &'a config::Route), Problem> {
    let path = format!("/v2/{}/blobs/uploads/", push.repository);
    let found = config.sites.iter().find_map(|site| {
        let mut all = snapshot.service.sites.all();
        let built = all.find(|built| Some(&built.name) == site.hosts.first())?;
        let leads_to = built.route(&path).filter(|route| route.registry)?;
        let mut routes = site.routes.iter();
        Some((site, routes.find(|route| route.path == leads_to.path)?))
    });
    found.ok_or_else(|| {
        error(format!("no route of any site leads from {path} to a registry"))
            .fix("name a repository that a [[site.route]] with an upstream covers, or correct route.path")
    })
}

/// A client of this site at this address, which accepts the certificate of the configuration alone.
pub(super) fn client(
    site: &config::Site,
    config: &Config,
    snapshot: &Snapshot,
    address: SocketAddr,
) -> Result<ListenerClient, Problem> {
    let mut hosts = site.hosts.iter().filter(|host| !host.contains('*'));
    let host = hosts.next().ok_or_else(|| {
        error("the site has only patterns in site.hosts, and no name to ask for")
            .fix("add a name of the site to site.hosts")
    })?;
    let tls = match &site.certificate {
        Certificate::SelfSigned(place) => {
            of_authority(&config.state_dir.join("ca.pem")).map_err(|cause| {
                Problem::error(
                    *place,
                    format!("the CA of the self-signed certificate is unknown: {cause}"),
                )
                .because("the proxy makes it at its first start, in state.dir")
                .fix("start the proxy, and run the check as the same user (sudo -u tidegate)")
            })?
        }
        Certificate::Files { .. } | Certificate::Acme(_) => {
            let mut all = snapshot.certificates().iter();
            let own = all.find(|one| Some(one.site()) == site.hosts.first().map(String::as_str));
            let pair = own.and_then(|own| own.shown().current());
            let leaf = pair.and_then(|pair| pair.chain().first().cloned());
            let leaf = leaf.ok_or_else(|| {
                error(format!("{host} has no certificate yet"))
                    .fix("start the proxy, which orders one, and wait for it: the log tells")
            })?;
            with_certificate(leaf).map_err(|cause| error(format!("cannot set up TLS: {cause}")))?
        }
    };
    let address = reachable(address);
    Ok(ListenerClient {
        address,
        host: host.clone(),
        tls,
        sends_proxy_header: config.listen.proxy_protocol.contains(address.ip()),
    })
}

/// A listener on all addresses is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn error(what: impl Into<String>) -> Problem {
    Problem::error(None, what)
}

fn basic((user, password): &(String, Password)) -> Result<HeaderValue, Problem> {
    let mut pair = Zeroizing::new(format!("{user}:").into_bytes());
    pair.extend_from_slice(password.as_bytes());
    let encoded = Zeroizing::new(Base64::encode_string(&pair));
    authorization(&format!("Basic {}", *encoded))
}

/// A field value that is not printed and is overwritten in memory after its use.
fn authorization(value: &str) -> Result<HeaderValue, Problem> {
    let bytes = Bytes::from_owner(Zeroizing::new(value.as_bytes().to_vec()));
    let value = HeaderValue::from_maybe_shared(bytes);
    let mut value = value.map_err(|_| error("the credentials cannot be written into a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A blob's way into the registry and back.
struct RoundTrip<'a> {
    client: ListenerClient,
    /// `external_url`: what clients are told instead of what they asked for.
    outer: Option<String>,
    user: Option<&'a str>,
    basic: Option<HeaderValue>,
    repository: &'a str,
    route: &'a config::Route,
    file: &'a Path,
}

impl RoundTrip<'_> {
    async fn make(&self) -> Result<Vec<String>, Problem> {
        let repository = self.repository;
        let start = format!("/v2/{repository}/blobs/uploads/");
        let begun = self
            .ask(Method::POST, &start, b"", StatusCode::ACCEPTED)
            .await?;
        let upload = self.location(begun.headers())?;
        let sum = to_hex(digest(&SHA256, BLOB).as_ref());
        let joint = if upload.contains('?') { '&' } else { '?' };
        let end = format!("{upload}{joint}digest=sha256:{sum}");
        self.ask(Method::PUT, &end, BLOB, StatusCode::CREATED)
            .await?;
        let blob = format!("/v2/{repository}/blobs/sha256:{sum}");
        let pulled = self.ask(Method::GET, &blob, b"", StatusCode::OK).await?;
        if pulled.body() != BLOB {
            return Err(error(format!("{blob} came back with other bytes than were sent"))
                .because("something between the check and the registry's storage changes contents")
                .fix("look for a cache or a filter before or behind the proxy, and at the registry's storage"));
        }
        let (host, address) = (self.client.authority(), self.client.address);
        Ok(vec![
            format!(
                "{host}/{repository} at {address}: a blob of {} bytes was pushed and pulled",
                BLOB.len()
            ),
            format!(
                "left in {repository}: sha256:{sum}, which no manifest names, until the registry's garbage collection"
            ),
        ])
    }

    /// Sends a request, with a token where the response asks for one, and expects this status.
    async fn ask(
        &self,
        method: Method,
        target: &str,
        body: &'static [u8],
        expected: StatusCode,
    ) -> Result<Response<Bytes>, Problem> {
        let first = self
            .send(&method, target, body, self.basic.as_ref())
            .await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return self.expect(first, expected, &method, target);
        }
        let Some(challenge) = Challenge::of(first.headers()) else {
            return Err(self.unauthorized(&first));
        };
        let token = self.fetch_token(&challenge).await?;
        let second = self.send(&method, target, body, Some(&token)).await?;
        if second.status() == StatusCode::UNAUTHORIZED {
            return Err(match self.user {
                Some(_) => self.denied(None),
                None => self.login_required(),
            });
        }
        self.expect(second, expected, &method, target)
    }

    async fn fetch_token(&self, challenge: &Challenge) -> Result<HeaderValue, Problem> {
        let realm = challenge.realm();
        let (Some(origin), Some(target)) = (challenge.origin(), challenge.target()) else {
            return Err(error(format!("the token realm {realm} is no URL"))
                .fix("correct auth.token.realm in the registry's configuration"));
        };
        if origin != self.told_origin() {
            return Err(error(format!("tokens are fetched at {realm}, which is not this proxy"))
                .because("the check sends the password to the proxy alone")
                .fix("check with docker login and docker push; where the URL is the registry's own, add its origin to internal_origins"));
        }
        let reply = self
            .send(&Method::GET, &target, b"", self.basic.as_ref())
            .await?;
        if reply.status() == StatusCode::UNAUTHORIZED {
            return Err(self.unauthorized(&reply));
        }
        let reply = self.expect(reply, StatusCode::OK, &Method::GET, &target)?;
        let token = token(reply.body()).ok_or_else(|| {
            error(format!(
                "the token endpoint {realm} answered without a token"
            ))
            .fix("look at the log of the token service, and at what listens there")
        })?;
        authorization(&token)
    }

    async fn send(
        &self,
        method: &Method,
        target: &str,
        body: &'static [u8],
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, self.client.authority())
            .header(header::CONNECTION, "close");
        if *method != Method::GET {
            request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        }
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::from_static(body)))
            .map_err(|cause| error(format!("{} is no request target: {cause}", path(target))))?;
        let sent = self.client.send(request).await;
        sent.map_err(|cause| self.client.problem(&cause, self.file))
    }

    /// The origin that clients are told.
    fn told_origin(&self) -> String {
        let own = || format!("https://{}", self.client.authority());
        self.outer.clone().unwrap_or_else(own)
    }

    /// Where the upload goes on. A client follows `Location` to the letter, so it must lead to this site.
    fn location(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let value = headers.get(header::LOCATION);
        let text = value.and_then(|value| value.to_str().ok());
        let text = text.ok_or_else(|| {
            error("the upload was begun, and no Location says where it goes on")
                .fix("see whether the server behind the proxy is a registry")
        })?;
        let uri: Uri = text.parse().map_err(|_| {
            error(format!("the upload goes on at {text:?}, which is no URL"))
                .fix("look at the registry's configuration (http.host, http.relativeurls)")
        })?;
        if let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) {
            let told = format!("{scheme}://{authority}");
            let expected = self.told_origin();
            if told != expected {
                return Err(error(format!("the upload goes on at {told}, not at {expected}"))
                    .because("a client follows it to the letter, and may not get there")
                    .fix(format!(
                        "where {told} is the registry, write internal_origins = [\"{told}\"]; where it is this proxy as clients see it, write external_url = \"{told}\""
                    )));
            }
        }
        let target = uri.path_and_query().map(PathAndQuery::as_str);
        Ok(target.unwrap_or_default().to_owned())
    }

    fn expect(
        &self,
        reply: Response<Bytes>,
        expected: StatusCode,
        method: &Method,
        target: &str,
    ) -> Result<Response<Bytes>, Problem> {
        let status = reply.status();
        if status == expected {
            return Ok(reply);
        }
        if status == StatusCode::FORBIDDEN {
            return Err(self.denied(Some(&reply)));
        }
        let (address, file) = (self.client.address, self.file.display());
        let what = format!(
            "{method} {} at {address} answered {status}, not {expected}{}",
            path(target),
            said(&reply)
        );
        Err(match status {
            StatusCode::MISDIRECTED_REQUEST => error(what)
                .because(format!(
                    "the running proxy does not know the host {}: it has an older configuration, or another program has the port",
                    self.client.host
                ))
                .fix(format!("tidegate reload -c {file}")),
            StatusCode::TOO_MANY_REQUESTS => error(what)
                .because("there were too many wrong passwords from this machine, so the password was not checked")
                .fix(format!("wait {}, then check again", waiting(&reply))),
            StatusCode::NOT_FOUND => error(what)
                .because("the running proxy has no such route (an older configuration), or the registry does not know the repository")
                .fix(format!(
                    "tidegate reload -c {file}; a registry with projects (Harbor) wants {} to begin with an existing one",
                    self.repository
                )),
            StatusCode::METHOD_NOT_ALLOWED => error(what)
                .because("the registry takes no pushes")
                .fix("look for storage.maintenance.readonly or a proxy.remoteurl (a pull-through cache) in its configuration"),
            StatusCode::SERVICE_UNAVAILABLE => error(what)
                .because("the proxy or the registry is at capacity, or the registry's storage does not work")
                .fix("check again, and look at the logs of both"),
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => error(what)
                .because("the proxy got no valid response from the registry")
                .fix("look at what this check says about the endpoint, and at the logs of both"),
            _ if status.is_server_error() => error(what)
                .fix("look at the log of the registry: it may not write to its storage"),
            _ => error(what).fix("look at the access log of the proxy and at the log of the registry"),
        })
    }

    /// A 401 to a request without credentials, or to a password.
    fn unauthorized(&self, reply: &Response<Bytes>) -> Problem {
        let host = self.client.authority();
        let shown = reply.headers().get(header::WWW_AUTHENTICATE);
        let htpasswd = match &self.route.auth {
            Auth::Basic {
                htpasswd,
                challenge,
            }
            | Auth::Token {
                htpasswd,
                challenge,
                ..
            } if shown == Some(challenge) => Some(htpasswd.value.display()),
            Auth::Basic { .. } | Auth::Token { .. } | Auth::Open => {
                return Problem::error(
                    self.route.upstream.place,
                    "the registry behind the proxy asks for a password of its own (401 Unauthorized)",
                )
                .because("the proxy passes no Authorization on in this mode, so every client is refused")
                .fix("remove the auth section from the registry's configuration, or write mode = \"upstream\"");
            }
            Auth::LeftToUpstream => None,
        };
        let Some(user) = self.user else {
            return self.login_required();
        };
        let Some(htpasswd) = htpasswd else {
            return error(format!(
                "wrong password: the registry does not let {user} in (401 Unauthorized)"
            ))
            .because("mode = \"upstream\" leaves the login to the registry; the registry itself works")
            .fix("give the name and password of a user of the registry (of Harbor, with a login by OIDC: the CLI secret)");
        };
        error(format!(
            "wrong password: {host} does not let {user} in (401 Unauthorized)"
        ))
        .because(format!(
            "the password does not match the line of {user} in {htpasswd}, or there is no such line; the registry was not asked"
        ))
        .fix(format!("tidegate htpasswd verify {htpasswd} {user} tries a password, tidegate htpasswd add {htpasswd} {user} sets a new one"))
    }

    fn login_required(&self) -> Problem {
        let host = self.client.authority();
        error(format!("{host} asks for a password (401 Unauthorized)"))
            .fix("name a user with --user NAME; the check then asks for the password")
    }

    /// The problem to report when the proxy accepted the login and rejected the push with 403.
    fn denied(&self, reply: Option<&Response<Bytes>>) -> Problem {
        let (repository, file) = (self.repository, self.file.display());
        let subject = self.user.unwrap_or("a client without a login");
        let said = reply.map(said).unwrap_or_default();
        let problem = error(format!("{subject} may not push to {repository}{said}"));
        let Some(user) = self.user else {
            return problem
                .because("no password was sent")
                .fix("name a user with --user NAME; the check then asks for the password");
        };
        let problem = problem
            .because("the password is right, and the right to push is missing; the registry works");
        match &self.route.auth {
            Auth::LeftToUpstream | Auth::Open => problem.fix(format!(
                "give {subject} the right to push in the registry (in Harbor: a role in the project that may push)"
            )),
            Auth::Basic { .. } | Auth::Token { .. } if self.route.granted.is_some() => problem.fix(format!(
                "tidegate check -c {file} --who {user} --may push {repository} says what the grants give; add a [[site.route.grant]]"
            )),
            Auth::Basic { .. } | Auth::Token { .. } => problem.fix(
                "look at route.allow and route.deny, which may leave this machine out, and at what the registry itself forbids",
            ),
        }
    }
}

/// The path of a target, without its query.
fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// The beginning of a response's body, for a message.
fn said(reply: &Response<Bytes>) -> String {
    let text = String::from_utf8_lossy(reply.body());
    let text: String = text.trim().chars().take(MAX_SAID).collect();
    if text.is_empty() {
        return String::new();
    }
    format!(": {text}")
}

fn waiting(reply: &Response<Bytes>) -> String {
    let seconds = reply.headers().get(header::RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    seconds.map_or_else(
        || "some minutes".to_owned(),
        |seconds| format!("{seconds} s"),
    )
}

const BLOB: &[u8] = b"tidegate check --live --push\n";
/// Characters of a response's body that are shown.
const MAX_SAID: usize = 300;
