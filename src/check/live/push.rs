//! `check --live --push`: pushes a blob of a few bytes through the running proxy into the registry and pulls it again, as a
//! client does.
//!
//! The bytes are always the same, so that at most one blob remains in the registry, however often the check runs. A failure
//! is reported with its cause: a wrong password and a missing right are not faults of the registry.

use std::net::SocketAddr;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use zeroize::Zeroizing;

use crate::check::live::OnStep;
use crate::check::live::bearer::{Challenge, bearer_credentials};
use crate::check::live::client::{ListenerClient, trust_ca, trust_certificate};
use crate::config::problem::{Problem, quote};
use crate::config::{self, Auth, Certificate, Config};
use crate::net::addr::local_address;
use crate::net::listener::ListenAddr;
use crate::registry::is_name;
use crate::secret::Password;
use crate::snapshot::Snapshot;
use crate::text;
use crate::tls::ClientAuthMode;

/// The repository to push to, and the login.
#[derive(Debug)]
pub struct Push {
    /// The repository.
    pub repository: String,
    /// User and password; `None` pushes without a login.
    pub login: Option<(String, Password)>,
    /// The host to push to, in lower case; `None` stands for the first site that has a route for the repository.
    pub host: Option<String>,
}

/// Pushes and pulls the blob. Returns what was done and what remains in the registry, or the problem that ended the push.
pub(crate) async fn run(
    push: &Push,
    config: &Config,
    snapshot: &Snapshot,
    file: &Path,
    on_step: OnStep<'_>,
) -> Result<Vec<String>, Problem> {
    let repository = &push.repository;
    if !is_name(repository) {
        return Err(
            error(format!("no repository can have the name {repository:?}")).fix(
                "write a name such as team/app: lower-case letters, digits, and . _ - between them",
            ),
        );
    }
    let (site, route) = destination(push, config, snapshot)?;
    if site.certificate.is_none() {
        return Err(no_https_address(site));
    }
    let bindings = config.listen.https.iter();
    let mut bindings = bindings.filter(|binding| site.is_on(binding));
    let address = bindings.find_map(|binding| match binding {
        ListenAddr::Address(address) if address.port() != 0 => Some(*address),
        _ => None,
    });
    let address = address.ok_or_else(|| {
        error("listen.https names no address with a port, so there is nothing to connect to")
            .because("the file does not have the addresses of the sockets that systemd passes")
            .fix("check with a client: docker push, or curl")
    })?;
    if let Some(client_auth) = &site.client_auth
        && client_auth.mode == ClientAuthMode::Required
    {
        return Err(Problem::error(
            client_auth.ca.place,
            "the site requires a client certificate, and the check has none",
        )
        .fix("check with a client that has one: curl --cert FILE --key FILE"));
    }
    let round_trip = RoundTrip {
        client: match &push.host {
            Some(host) => client_for(host, site, config, snapshot, address)?,
            None => client(site, config, snapshot, address)?,
        },
        external_origin: site.external_url.as_ref().map(|origin| {
            let (scheme, authority) = (&origin.scheme, &origin.authority);
            format!("{scheme}://{authority}")
        }),
        user: push.login.as_ref().map(|(user, _)| user.as_str()),
        basic: push.login.as_ref().map(basic).transpose()?,
        repository,
        route,
        file,
    };
    round_trip.run(on_step).await
}

fn no_https_address(site: &config::Site) -> Problem {
    error(format!("no address of listen.https serves {}", site.name))
        .because("the check does not pose as the proxy in front, for which listen.behind_proxy is")
        .fix("check through the proxy in front: docker push, or curl")
}

/// Chooses the site and the route through which the blob is pushed: the site that serves `push.host` or, without a host, the
/// first site that has a route to a registry for the repository.
///
/// # Errors
/// No site serves the host, or no such site has a route to a registry for the repository.
fn destination<'a>(
    push: &Push,
    config: &'a Config,
    snapshot: &Snapshot,
) -> Result<(&'a config::Site, &'a config::Route), Problem> {
    let path = format!("/v2/{}/blobs/uploads/", push.repository);
    let only = match &push.host {
        Some(host) => {
            let site = snapshot.service.sites.find(host);
            let site = site.ok_or_else(|| {
                let hosts: Vec<_> = config.sites.iter().flat_map(|site| &site.hosts).collect();
                let hosts = hosts.iter().take(MAX_HOSTS).map(|host| host.as_str());
                error(format!("no site has the host {}", quote(host))).fix(format!(
                    "name one of {} with --host",
                    hosts.collect::<Vec<_>>().join(", ")
                ))
            })?;
            Some(&site.name)
        }
        None => None,
    };
    let sites = config.sites.iter();
    let mut sites = sites.filter(|site| only.is_none_or(|only| *only == site.name));
    let found = sites.find_map(|site| {
        let mut all = snapshot.service.sites.all();
        let built = all.find(|built| built.name == site.name)?;
        let matched = built.route(&path).filter(|route| route.is_registry)?;
        let mut routes = site.routes.iter();
        Some((site, routes.find(|route| route.path == matched.path)?))
    });
    found.ok_or_else(|| {
        let sites = match &push.host {
            Some(host) => format!("the site of {host} has no registry route"),
            None => "no site has a registry route".to_owned(),
        };
        error(format!("{sites} for {path}"))
            .fix("name a repository that a [[site.route]] with an upstream covers, or correct route.path")
    })
}

/// A client of this site at this address, which accepts only the certificate of the configuration.
pub(crate) fn client(
    site: &config::Site,
    config: &Config,
    snapshot: &Snapshot,
    address: SocketAddr,
) -> Result<ListenerClient, Problem> {
    let mut hosts = site.hosts.iter().filter(|host| !host.contains('*'));
    let host = hosts.next().ok_or_else(|| {
        error("site.hosts has only patterns, and no name to connect to")
            .fix("add a name of the site to site.hosts")
    })?;
    client_for(host, site, config, snapshot, address)
}

/// As [`client`], for one host of the site.
fn client_for(
    host: &str,
    site: &config::Site,
    config: &Config,
    snapshot: &Snapshot,
    address: SocketAddr,
) -> Result<ListenerClient, Problem> {
    let certificate = site.certificate.as_ref();
    let certificate = certificate.ok_or_else(|| no_https_address(site))?;
    let tls = match certificate {
        Certificate::SelfSigned(place) => {
            trust_ca(&config.state_dir.join("ca.pem")).map_err(|cause| {
                Problem::error(
                    *place,
                    format!("cannot load the CA of the self-signed certificate: {cause}"),
                )
                .because("the proxy creates the CA at its first start, in state.dir")
                .fix("start the proxy, and run the check as the same user (sudo -u tidegate)")
            })?
        }
        Certificate::Files { .. } | Certificate::Acme(_) => {
            let mut all = snapshot.certificates().iter();
            let certificate = all.find(|certificate| {
                let mut hosts = certificate.hosts().iter();
                certificate.site() == site.name || hosts.any(|known| known == host)
            });
            let pair = certificate.and_then(|certificate| certificate.slot().current());
            let leaf = pair.and_then(|pair| pair.chain().first().cloned());
            let leaf = leaf.ok_or_else(|| {
                error(format!("{host} has no certificate yet"))
                    .fix("start the proxy, which orders a certificate, and wait until the log reports it")
            })?;
            trust_certificate(leaf).map_err(|cause| error(format!("cannot set up TLS: {cause}")))?
        }
    };
    let address = local_address(address);
    Ok(ListenerClient {
        address,
        host: host.to_owned(),
        tls,
        sends_proxy_header: config.listen.proxy_protocol.contains(address.ip()),
    })
}

fn error(what: impl Into<String>) -> Problem {
    Problem::error(None, what)
}

fn basic((user, password): &(String, Password)) -> Result<HeaderValue, Problem> {
    let mut credentials = Zeroizing::new(format!("{user}:").into_bytes());
    credentials.extend_from_slice(password.as_bytes());
    let encoded = Zeroizing::new(Base64::encode_string(&credentials));
    authorization(&format!("Basic {}", *encoded))
}

/// An `Authorization` value that is not printed, and whose memory is overwritten after its use.
fn authorization(value: &str) -> Result<HeaderValue, Problem> {
    let bytes = Bytes::from_owner(Zeroizing::new(value.as_bytes().to_vec()));
    let value = HeaderValue::from_maybe_shared(bytes);
    let mut value = value
        .map_err(|_| error("the credentials have characters that a header field cannot have"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The push and the pull of the blob.
struct RoundTrip<'a> {
    client: ListenerClient,
    /// `external_url`: the origin in URLs for clients, if it is not the origin that a client addressed.
    external_origin: Option<String>,
    user: Option<&'a str>,
    basic: Option<HeaderValue>,
    repository: &'a str,
    route: &'a config::Route,
    file: &'a Path,
}

impl RoundTrip<'_> {
    async fn run(&self, on_step: OnStep<'_>) -> Result<Vec<String>, Problem> {
        let repository = self.repository;
        let address = self.client.address;
        on_step(&format!("pushing a blob to {repository} at {address}"));
        let start = format!("/v2/{repository}/blobs/uploads/");
        let started = self
            .request(Method::POST, &start, b"", StatusCode::ACCEPTED)
            .await?;
        let upload = self.location(started.headers())?;
        let sum = text::to_hex(digest(&SHA256, BLOB).as_ref());
        let separator = if upload.contains('?') { '&' } else { '?' };
        let end = format!("{upload}{separator}digest=sha256:{sum}");
        self.request(Method::PUT, &end, BLOB, StatusCode::CREATED)
            .await?;
        let blob = format!("/v2/{repository}/blobs/sha256:{sum}");
        on_step(&format!("pulling the blob from {repository}"));
        let pulled = self
            .request(Method::GET, &blob, b"", StatusCode::OK)
            .await?;
        if pulled.body() != BLOB {
            return Err(error(format!("{blob} has other bytes than those that were pushed"))
                .because("a program between the check and the registry's storage changes contents")
                .fix("look for a cache or a filter in front of or behind the proxy, and check the registry's storage"));
        }
        let host = self.client.authority();
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

    /// Sends a request and expects this status. If the response has a Bearer challenge, fetches a token and repeats the
    /// request with it.
    async fn request(
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
        if origin != self.origin() {
            return Err(error(format!("the token service is {realm}, which is not this proxy"))
                .because("the check sends the password only to the proxy")
                .fix("check with docker login and docker push; if the URL belongs to the registry, add its origin to internal_origins"));
        }
        let response = self
            .send(&Method::GET, &target, b"", self.basic.as_ref())
            .await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.unauthorized(&response));
        }
        let response = self.expect(response, StatusCode::OK, &Method::GET, &target)?;
        let credentials = bearer_credentials(response.body()).ok_or_else(|| {
            error(format!(
                "the response of the token endpoint {realm} has no token"
            ))
            .fix("look at the log of the token service, and check which program listens there")
        })?;
        authorization(&credentials)
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
            .map_err(|cause| error(format!("{} is not a request target: {cause}", path(target))))?;
        let sent = self.client.send(request).await;
        sent.map_err(|cause| self.client.problem(&cause, self.file))
    }

    /// The origin of this site in URLs for clients.
    fn origin(&self) -> String {
        let addressed = || format!("https://{}", self.client.authority());
        self.external_origin.clone().unwrap_or_else(addressed)
    }

    /// The target of the upload that was started. A client follows `Location` exactly, so it must lead to this site.
    fn location(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let value = headers.get(header::LOCATION);
        let text = value.and_then(|value| value.to_str().ok());
        let text = text.ok_or_else(|| {
            error("the response to the start of the upload has no Location")
                .fix("check whether the server behind the proxy is a registry")
        })?;
        let uri: Uri = text.parse().map_err(|_| {
            error(format!(
                "the Location of the upload is {text:?}, which is no URL"
            ))
            .fix("look at the registry's configuration (http.host, http.relativeurls)")
        })?;
        if let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) {
            let named = format!("{scheme}://{authority}");
            let expected = self.origin();
            if named != expected {
                return Err(error(format!("the Location of the upload leads to {named}, not to {expected}"))
                    .because("clients follow it exactly, and may not reach that address")
                    .fix(format!(
                        "if {named} is the registry, write internal_origins = [\"{named}\"]; if it is this proxy as clients see it, write external_url = \"{named}\""
                    )));
            }
        }
        let target = uri.path_and_query().map(PathAndQuery::as_str);
        Ok(target.unwrap_or_default().to_owned())
    }

    /// Returns a response with the expected status; any other status is a problem.
    fn expect(
        &self,
        response: Response<Bytes>,
        expected: StatusCode,
        method: &Method,
        target: &str,
    ) -> Result<Response<Bytes>, Problem> {
        let status = response.status();
        if status == expected {
            return Ok(response);
        }
        if status == StatusCode::FORBIDDEN {
            return Err(self.denied(Some(&response)));
        }
        let (address, file) = (self.client.address, self.file.display());
        let what = format!(
            "{method} https://{}{} at {address} got {status}, not {expected}{}",
            self.client.authority(),
            path(target),
            excerpt(&response)
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
                .fix(format!("wait {}, then check again", retry_after(&response))),
            StatusCode::NOT_FOUND => error(what)
                .because("the running proxy has no such route (an older configuration), or the registry does not know the repository")
                .fix(format!(
                    "tidegate reload -c {file}; in a registry with projects (Harbor), {} must begin with an existing project",
                    self.repository
                )),
            StatusCode::METHOD_NOT_ALLOWED => error(what)
                .because("the registry does not allow pushes")
                .fix("look for storage.maintenance.readonly or a proxy.remoteurl (a pull-through cache) in its configuration"),
            StatusCode::SERVICE_UNAVAILABLE => error(what)
                .because("the proxy or the registry is at capacity, or the registry's storage does not work")
                .fix("check again, and look at the logs of both"),
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => error(what)
                .because("the proxy got no valid response from the registry")
                .fix("look at the result of this check for the endpoint, and at the logs of both"),
            _ if status.is_server_error() => error(what)
                .fix("look at the log of the registry: it may be unable to write to its storage"),
            _ => error(what).fix("look at the access log of the proxy and at the log of the registry"),
        })
    }

    /// The problem for a 401 without a Bearer challenge: the password is missing or wrong, or the registry requires its own.
    fn unauthorized(&self, response: &Response<Bytes>) -> Problem {
        let host = self.client.authority();
        let received = response.headers().get(header::WWW_AUTHENTICATE);
        let htpasswd = match &self.route.auth {
            Auth::Basic {
                htpasswd,
                challenge,
            }
            | Auth::Token {
                htpasswd,
                challenge,
                ..
            } if received == Some(challenge) => Some(htpasswd.value.display()),
            Auth::Basic { .. } | Auth::Token { .. } | Auth::Open => {
                return Problem::error(
                    self.route.upstream.place,
                    "the registry behind the proxy requires a password of its own (401 Unauthorized)",
                )
                .because("the proxy does not forward Authorization in this mode, so every client is rejected")
                .fix("remove the auth section from the registry's configuration, or write mode = \"upstream\"");
            }
            Auth::LeftToUpstream => None,
        };
        let Some(user) = self.user else {
            return self.login_required();
        };
        let Some(htpasswd) = htpasswd else {
            return error(format!(
                "wrong password: the registry rejects the login of {user} (401 Unauthorized)"
            ))
            .because("mode = \"upstream\" leaves the login to the registry; the registry itself works")
            .fix("give the name and password of a user of the registry (of Harbor, with a login by OIDC: the CLI secret)");
        };
        error(format!(
            "wrong password: {host} rejects the login of {user} (401 Unauthorized)"
        ))
        .because(format!(
            "the password does not match the line of {user} in {htpasswd}, or there is no such line; the registry did not get the request"
        ))
        .fix(format!("tidegate htpasswd verify {htpasswd} {user} tries a password, tidegate htpasswd add {htpasswd} {user} sets a new one"))
    }

    fn login_required(&self) -> Problem {
        let host = self.client.authority();
        error(format!("{host} requires a password (401 Unauthorized)"))
            .fix("name a user with --user NAME; the check then asks for the password")
    }

    /// The problem for a login that was accepted without the right to push: a 403, or a token that does not suffice.
    fn denied(&self, response: Option<&Response<Bytes>>) -> Problem {
        let (repository, file) = (self.repository, self.file.display());
        let subject = self.user.unwrap_or("a client without a login");
        let excerpt = response.map(excerpt).unwrap_or_default();
        let problem = error(format!("{subject} may not push to {repository}{excerpt}"));
        let Some(user) = self.user else {
            return problem
                .because("no password was sent")
                .fix("name a user with --user NAME; the check then asks for the password");
        };
        let problem = problem.because(
            "the password is correct, and the right to push is missing; the registry works",
        );
        match &self.route.auth {
            Auth::LeftToUpstream | Auth::Open => problem.fix(format!(
                "give {subject} the right to push in the registry (in Harbor: a role in the project that may push)"
            )),
            Auth::Basic { .. } | Auth::Token { .. } if self.route.has_grants() => problem.fix(format!(
                "tidegate check -c {file} --who {user} --may push {repository} reports what the grants allow; add a grant"
            )),
            Auth::Basic { .. } | Auth::Token { .. } => problem.fix(
                "look at route.allow and route.deny, which may exclude this machine, and at the rules of the registry itself",
            ),
        }
    }
}

/// The path of a target, without its query.
fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// The beginning of a response's body, for a message; empty if the body is empty.
fn excerpt(response: &Response<Bytes>) -> String {
    let text = String::from_utf8_lossy(response.body());
    let text: String = text.trim().chars().take(MAX_EXCERPT).collect();
    if text.is_empty() {
        return String::new();
    }
    format!(": {text}")
}

/// The time in `Retry-After`, for a message.
fn retry_after(response: &Response<Bytes>) -> String {
    let seconds = response.headers().get(header::RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    seconds.map_or_else(
        || "some minutes".to_owned(),
        |seconds| format!("{seconds} s"),
    )
}

/// Maximum number of hosts in the remedy for an unknown one.
const MAX_HOSTS: usize = 8;
const BLOB: &[u8] = b"tidegate check --live --push\n";
/// Maximum number of characters of a response's body in a message.
const MAX_EXCERPT: usize = 300;
