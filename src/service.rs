//! The life of a request. Read this file first.
//!
//! `server` calls [`Service::handle`] for each request that arrives over TLS, [`Service::handle_behind_proxy`]
//! for each request from a proxy that terminates TLS, and [`Service::handle_plain_http`] for each request that arrives on
//! `listen.http`. The inner functions (`decide`, `proxy`, `redirect_to_https`)
//! make the decisions and return a [`Rejection`] through `?`. The outer functions turn a rejection into a response,
//! write the access log and count.
//!
//! The order of the checks is the security argument: framing and size, host, client certificate, route, credentials, rights, then
//! everything else. What a configuration makes public (static responses, CORS preflights) needs no credentials; otherwise a client
//! that has not authenticated learns whether host and route exist, and nothing else.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode, request};
use hyper::body::Incoming;
use rustls_pki_types::UnixTime;

use crate::access::{Authorization, CatalogFilter};
use crate::access_log::{AccessLog, RequestRecord};
use crate::acme::{ACME_CHALLENGE_PATH, Challenges};
use crate::activity::ActivityTracker;
use crate::auth::{Identity, TokenService};
use crate::body::{Body, MinRate, UploadState};
use crate::connection::{ConnectionInfo, IncomingRequest};
use crate::forward::{ExternalOrigin, ForwardContext, Origin};
use crate::forwarded::ClientInfo;
use crate::log::LogLimiter;
use crate::metrics::SiteCounts;
use crate::net::cidr::Networks;
use crate::net::host::https_authority;
use crate::net::host_map::HostMap;
use crate::registry::is_registry_path;
use crate::rejection::Rejection;
use crate::site::{Route, RouteMatch, Site, Sites, StaticContent};
use crate::target::{self, Target};
use crate::text::shorten;
use crate::tls::ClientCa;

mod catalog;
mod challenge_file;
mod classify;
mod concurrency;
mod head_checks;
mod request_scope;
mod static_response;
mod token_endpoint;
mod websocket;

use classify::{Authorized, ClassifiedRequest, authorize, classify};
pub use concurrency::ConcurrencyLimits;
use head_checks::{
    check_content_length, check_expectation, check_framing, check_header_fields,
    check_target_length,
};
use request_scope::RequestScope;
use token_endpoint::TokenEndpoint;

/// The limits that apply to each request, and the trusted proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The maximum number of header fields.
    pub head_fields: usize,
    /// The maximum length of path and query in bytes.
    pub target_size: usize,
    /// How long the client may send nothing within a request body.
    pub body_idle: Duration,
    /// The minimum rate of a request body while the proxy waits for the client.
    pub min_rate: MinRate,
    /// The peers whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Networks,
}

/// Everything that is needed to respond to a request. Each snapshot has one.
#[derive(Debug)]
pub struct Service {
    /// The sites of the configuration.
    pub sites: Sites,
    /// The limits, and the trusted proxies.
    pub settings: Settings,
    /// The access log; `None` if it is off.
    pub access_log: Option<AccessLog>,
    /// The responses to http-01 challenges of certificate authorities; `None` without ACME.
    pub challenges: Option<Arc<Challenges>>,
    /// The concurrency limits of catalog walks and token requests. They outlive a reload.
    pub concurrency_limits: Arc<ConcurrencyLimits>,
    /// The active transfers and the recent rejections. They outlive a reload.
    pub activity: Arc<ActivityTracker>,
    /// The counters of requests that match no site.
    pub unknown_site_counts: Arc<SiteCounts>,
    /// Limits the log lines about untrusted peers of `listen.behind_proxy`. It outlives a reload.
    pub untrusted_peer_lines: Arc<LogLimiter>,
    /// Limits the log lines about upstreams at which requests failed. It outlives a reload.
    pub upstream_fault_lines: Arc<LogLimiter>,
}

/// A request, taken apart. It is boxed, because it moves from one future into the next.
struct ReceivedRequest {
    /// The number of the worker that serves the connection.
    worker: usize,
    connection: Arc<ConnectionInfo>,
    client_info: ClientInfo,
    parts: request::Parts,
    body: Incoming,
    upload: Arc<UploadState>,
}

impl Service {
    /// Responds to a request that arrived over TLS, on the worker with the number `worker`.
    pub async fn handle(&self, worker: usize, request: IncomingRequest) -> Response<Body> {
        let request = Box::new(self.receive(worker, request));
        let mut scope = self.open_scope(&request);
        let result = self.decide(request, &mut scope).await;
        let response = result.unwrap_or_else(|rejection| scope.reject(&rejection));
        scope.finish(response)
    }

    /// Responds to a request that arrived on an address of `listen.behind_proxy`, on the worker with the number `worker`.
    ///
    /// The proxy in front has terminated TLS, so the scheme of the client is in its `X-Forwarded-Proto`. Each request is checked,
    /// so that a reload that removes a proxy from `listen.trusted_proxies` applies to the open connections of that proxy.
    pub async fn handle_behind_proxy(
        &self,
        worker: usize,
        request: IncomingRequest,
    ) -> Response<Body> {
        let request = Box::new(self.receive(worker, request));
        let mut scope = self.open_scope(&request);
        let result = match self.check_front_end(&request) {
            Ok(()) => self.decide(request, &mut scope).await,
            Err(rejection) => {
                // A malformed target keeps the format that its path has as the client sent it.
                if let Ok(target) = Target::parse(&request.parts) {
                    scope.format.is_registry = is_registry_path(target.path());
                }
                Err(rejection)
            }
        };
        let response = result.unwrap_or_else(|rejection| scope.reject(&rejection));
        scope.finish(response)
    }

    /// Checks that a trusted proxy sent the request, and that its client used https.
    fn check_front_end(&self, request: &ReceivedRequest) -> Result<(), Rejection> {
        let connection = &request.connection;
        if !connection.is_trusted(&self.settings.trusted_proxies) {
            if let Some(left_out) = self.untrusted_peer_lines.admit_one(Instant::now()) {
                tracing::warn!(
                    peer = %connection.peer, listener = %connection.listener, left_out,
                    "rejected a request of a peer that is not in listen.trusted_proxies"
                );
            }
            return Err(Rejection::UntrustedPeer);
        }
        if request.client_info.scheme == "https" {
            Ok(())
        } else {
            Err(Rejection::PlainHttp)
        }
    }

    /// Responds to a request that arrived over plain HTTP, which is never forwarded to an upstream: an http-01
    /// challenge (RFC 8555 section 8.3) gets its key authorization, and everything else a redirect to https or an
    /// error.
    ///
    /// A registry client is not redirected: it has sent its password in the clear by then, and would do so again with
    /// the next request. It gets an error with the reason instead.
    pub async fn handle_plain_http(&self, request: IncomingRequest) -> Response<Body> {
        // The worker number only chooses a connection to an upstream.
        let request = self.receive(0, request);
        let mut scope = self.open_scope(&request);
        let result = match self.key_authorization(&request.parts).await {
            Some(key_authorization) => Ok(challenge_file_response(key_authorization)),
            None => self.respond_over_plain_http(&request, &mut scope).await,
        };
        let response = result.unwrap_or_else(|rejection| scope.reject(&rejection));
        scope.finish(response)
    }

    /// The counters of each site, some more than once, and those of requests that match no site.
    pub fn site_counts(&self) -> impl Iterator<Item = &Arc<SiteCounts>> {
        let sites = self.sites.all().map(|site| &site.counts);
        sites.chain([&self.unknown_site_counts])
    }

    fn receive(&self, worker: usize, request: IncomingRequest) -> ReceivedRequest {
        let IncomingRequest {
            request,
            connection,
            upload,
        } = request;
        let (parts, body) = request.into_parts();
        let client_info = client_info(&connection, &parts, &self.settings.trusted_proxies);
        ReceivedRequest {
            worker,
            connection,
            client_info,
            parts,
            body,
            upload,
        }
    }

    fn open_scope(&self, request: &ReceivedRequest) -> RequestScope<'_> {
        let client = request.client_info.client;
        let mut record = RequestRecord::begin(
            self.access_log.as_ref(),
            client,
            Arc::clone(&request.upload),
            &self.unknown_site_counts,
            &request.parts,
        );
        record.set_peer(request.connection.peer, client);
        let tls = request.connection.tls.as_ref();
        if let Some(certificate) = tls.and_then(|tls| tls.certificate.as_ref()) {
            record.set_certificate(certificate.subject());
        }
        RequestScope::new(
            record,
            &self.activity,
            &self.upstream_fault_lines,
            &request.parts,
        )
    }

    /// Decides on a request that arrived over TLS, here or at a trusted proxy.
    async fn decide<'a>(
        &'a self,
        request: Box<ReceivedRequest>,
        scope: &mut RequestScope<'a>,
    ) -> Result<Response<Body>, Rejection> {
        check_target_length(&request.parts, self.settings.target_size)?;
        check_header_fields(&request.parts, self.settings.head_fields)?;
        check_framing(&request.parts)?;
        let (target, site) = self
            .find_trusted_site(&request, scope)
            .inspect_err(|_| scope.set_requested_host(&request.parts))?;
        let matched = site
            .match_route(target.path())
            .ok_or_else(|| Rejection::Unrouted(unrouted_message(site, target.path())))?;
        let route = match matched {
            RouteMatch::Response(response) => {
                return static_response::respond(response, &target, &scope.format);
            }
            RouteMatch::Route(route) => route,
        };
        scope.format.is_registry &= route.registry;
        let headers = &request.parts.headers;
        scope.cors = route.cors.response_for(headers);
        if let Some(cors) = &scope.cors
            && let Some(response) = cors.preflight(&request.parts.method, headers)
        {
            route
                .authenticator
                .check_network(request.client_info.client)?;
            return Ok(response);
        }
        match route.authenticator.token_service(target.path()) {
            // Boxed, so that the future of every other request does not have room for this rare case.
            Some(tokens) => {
                Box::pin(self.issue_token(tokens, route, &target, request, scope)).await
            }
            None => {
                scope.upstream = route.forward.upstream().authorities();
                self.proxy(site, route, &target, request, scope).await
            }
        }
    }

    /// Finds the site that the request addresses, and checks that this connection may carry requests for it.
    fn find_trusted_site(
        &self,
        request: &ReceivedRequest,
        scope: &mut RequestScope<'_>,
    ) -> Result<(Target, &Site), Rejection> {
        let (target, site) = self.find_site(request, scope)?;
        if self.sites.any_client_ca() {
            check_client_certificate(&self.sites, site, &request.connection, UnixTime::now())?;
        }
        Ok((target, site))
    }

    fn find_site(
        &self,
        request: &ReceivedRequest,
        scope: &mut RequestScope<'_>,
    ) -> Result<(Target, &Site), Rejection> {
        let target = Target::parse(&request.parts)?;
        scope.format.is_registry = is_registry_path(target.path());
        let site = site_of(self.sites.on(&request.connection.listener), &target)?;
        scope.record.set_site(&site.counts);
        Ok((target, site))
    }

    /// Responds to a request to the token endpoint of a route.
    async fn issue_token(
        &self,
        tokens: TokenService<'_>,
        route: &Route,
        target: &Target,
        request: Box<ReceivedRequest>,
        scope: &mut RequestScope<'_>,
    ) -> Result<Response<Body>, Rejection> {
        let ReceivedRequest {
            client_info,
            parts,
            body,
            upload,
            ..
        } = *request;
        scope.record.set_token_request();
        let body = self.request_body(route, &parts, body, upload, scope)?;
        let endpoint = TokenEndpoint::new(tokens, &route.access, &self.concurrency_limits);
        endpoint
            .handle(&parts, target.query(), body, client_info.client, scope)
            .await
    }

    /// Forwards a request to the upstream if the client may perform the operation.
    async fn proxy(
        &self,
        site: &Site,
        route: &Route,
        target: &Target,
        request: Box<ReceivedRequest>,
        scope: &mut RequestScope<'_>,
    ) -> Result<Response<Body>, Rejection> {
        // Parsed before authentication, so that the access log names the operation. `authorize` reports a parse error
        // only to clients that may send requests here at all.
        let classified = classify(site, route, &request.parts, target);
        let operation = classified
            .as_ref()
            .ok()
            .and_then(ClassifiedRequest::operation);
        scope.record.set_operation(operation);
        let external = external_origin(site, target, request.client_info.scheme);
        let authenticator = &route.authenticator;
        scope.format.challenge =
            authenticator.challenge(external.scheme, external.authority, operation);
        let identity = authenticator
            .authenticate(&request.parts.headers, request.client_info.client)
            .await
            .inspect_err(|_| {
                let user = authenticator.known_user(&request.parts.headers);
                scope.record.set_attempted_user(user);
            })?;
        scope.record.set_user(identity.name());
        let authorization = match authorize(&route.access, &identity, classified)? {
            Authorized::Forward(authorization) => authorization,
            Authorized::Redirect(location) => return Ok(redirect_to_canonical(&location)),
        };
        check_expectation(&request.parts.headers)?;
        let handshake = websocket::read_handshake(route, &request.parts, target, external)?;
        if handshake.is_some() {
            scope.record.set_websocket();
        }
        scope.start_transfer();
        // The parts of the request stay in the box: as variables, they would have places of their own in this future.
        let (body, upload) = (request.body, request.upload);
        let body = self.request_body(route, &request.parts, body, upload, scope)?;
        let context = ForwardContext {
            client_info: &request.client_info,
            target,
            external,
            is_site: &|host| site.is_named(host),
            user: identity.user(),
            websocket: handshake.as_ref(),
            request_id: scope.id.as_str(),
            worker: request.worker,
        };
        let started = Instant::now();
        let response = match authorization {
            Authorization::Full(permit) => {
                let transfer = scope.record.transfer();
                let mut sent = pin!(route.forward.send(permit, request.parts, body, &context));
                poll_fn(|cx| match transfer {
                    Some(transfer) if transfer.poll_cut(cx).is_ready() => {
                        Poll::Ready(Err(Rejection::Cut))
                    }
                    _ => sent.as_mut().poll(cx).map_err(Rejection::from),
                })
                .await?
            }
            Authorization::FilteredCatalog(filter) => {
                let parts = &request.parts;
                Box::pin(self.list_repositories(site, route, &filter, &identity, parts, &context))
                    .await?
            }
        };
        scope.record_response_head(started);
        Ok(response)
    }

    /// Responds with the part of the catalog that the identity may see.
    async fn list_repositories(
        &self,
        site: &Site,
        route: &Route,
        filter: &CatalogFilter,
        identity: &Identity,
        parts: &request::Parts,
        context: &ForwardContext<'_>,
    ) -> Result<Response<Body>, Rejection> {
        let _permit = self
            .concurrency_limits
            .acquire_catalog(identity, context.client_info.client)?;
        let is_on_route = |name: &str| site.may_list(route, name);
        catalog::respond(&route.forward, filter, parts, context, &is_on_route).await
    }

    /// The request body, bounded and counted. Nothing of it is read here, so that no `100 Continue` has been sent.
    fn request_body(
        &self,
        route: &Route,
        parts: &request::Parts,
        body: Incoming,
        upload: Arc<UploadState>,
        scope: &mut RequestScope<'_>,
    ) -> Result<Body, Rejection> {
        if let Some(max_body) = route.max_body {
            check_content_length(&parts.headers, max_body)?;
        }
        let Settings {
            body_idle,
            min_rate,
            ..
        } = self.settings;
        Ok(scope.request_body(body, upload, route.max_body, body_idle, min_rate))
    }

    /// The key authorization for the http-01 challenge that the request asks for, if this proxy has published one.
    async fn key_authorization(&self, parts: &request::Parts) -> Option<String> {
        let challenges = self.challenges.as_ref()?;
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return None;
        }
        let token = parts.uri.path().strip_prefix(ACME_CHALLENGE_PATH)?;
        challenges.http01_response(token).await
    }

    /// Responds with the file of an ACME client, if the route has a directory of them, and otherwise with a redirect or an error.
    async fn respond_over_plain_http(
        &self,
        request: &ReceivedRequest,
        scope: &mut RequestScope<'_>,
    ) -> Result<Response<Body>, Rejection> {
        let (target, site) = self
            .find_site(request, scope)
            .inspect_err(|_| scope.set_requested_host(&request.parts))?;
        if let Some(RouteMatch::Response(response)) = site.match_route(target.path())
            && let StaticContent::Webroot(webroot) = &response.content
        {
            let client = request.client_info.client;
            let permit = self.concurrency_limits.acquire_challenge_file(client)?;
            let method = &request.parts.method;
            let content =
                challenge_file::read_requested(webroot, method, target.path(), permit).await?;
            return Ok(challenge_file_response(content));
        }
        redirect_to_https(request, site, &target, scope)
    }
}

/// The message of the log for a path without a route. A client chooses the path, so only its beginning is repeated.
fn unrouted_message(site: &Site, path: &str) -> String {
    let shown = shorten(path, MAX_LOGGED_PATH);
    format!("no route for {shown} at site {}", site.name)
}

/// The maximum length of a path in a message, in bytes.
const MAX_LOGGED_PATH: usize = 128;

/// A redirect to the same target over https; an error for a registry client.
fn redirect_to_https(
    request: &ReceivedRequest,
    site: &Site,
    target: &Target,
    scope: &RequestScope<'_>,
) -> Result<Response<Body>, Rejection> {
    // A client that speaks https to a trusted proxy, which speaks plain HTTP to this one, would get the same redirect again
    // and again.
    if scope.format.is_registry || request.client_info.scheme == "https" {
        return Err(Rejection::PlainHttp);
    }
    let authority = match &site.external_url {
        Some(origin) => origin.authority.clone(),
        None => https_authority(target.host(), site.https_port),
    };
    let location = format!("https://{authority}{}", target.path_and_query());
    Ok(redirect(StatusCode::PERMANENT_REDIRECT, &location))
}

/// The site among `sites` that the request addresses. An absolute request target takes precedence over the Host field. It
/// may name another host than the Host field does, but not another site (RFC 9112 section 3.2.2): a request that was
/// smuggled past a proxy in front looks like that.
fn site_of<'a>(sites: &'a HostMap<Arc<Site>>, target: &Target) -> Result<&'a Site, Rejection> {
    let site = sites.find(target.host()).ok_or(Rejection::UnknownSite)?;
    let is_same_site = |host| {
        sites
            .find(host)
            .is_some_and(|other| Arc::ptr_eq(site, other))
    };
    if target.overridden_host().is_none_or(is_same_site) {
        Ok(site)
    } else {
        Err(target::Error::ForeignAuthority.into())
    }
}

/// The client of the connection, or the client that a trusted proxy names.
///
/// If a PROXY header names no client, the other end of the connection is unknown. `X-Forwarded-For` and
/// `X-Forwarded-Proto` may then have been written by anyone, and are not believed even if the load balancer itself is
/// one of the trusted proxies.
fn client_info(
    connection: &ConnectionInfo,
    parts: &request::Parts,
    trusted_proxies: &Networks,
) -> ClientInfo {
    let scheme = if connection.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let is_trusted = connection.is_trusted(trusted_proxies);
    let trusted = is_trusted.then_some(trusted_proxies);
    let (client, field) = (connection.client, &connection.client_field);
    ClientInfo::new(client, field, scheme, &parts.headers, trusted)
}

/// Checks that this connection may carry requests for `site`. Called if some sites ask for client certificates.
///
/// The site follows from the Host field, but the client certificate that the proxy asked for followed from the SNI
/// name in the ClientHello. A request may only go to a site that would have asked for the same. The 421 tells the
/// client to open another connection (RFC 9110 section 15.5.20, RFC 9113 section 9.1.2).
///
/// The check uses the sites of the current snapshot: if a reload changes the certificate authorities of a site, the
/// change applies to open connections, too.
fn check_client_certificate(
    sites: &Sites,
    site: &Site,
    connection: &ConnectionInfo,
    now: UnixTime,
) -> Result<(), Rejection> {
    let Some(tls) = &connection.tls else {
        // A proxy in front has terminated TLS, so there is no client certificate here. The configuration does not permit a
        // site with `client_ca` on such an address.
        return match site.client_ca {
            Some(_) => Err(Rejection::OtherClientCa),
            None => Ok(()),
        };
    };
    let sites = sites.on(&connection.listener);
    let handshake_site = sites.find_by_server_name(tls.sni.as_deref());
    let is_same_ca = handshake_site.is_some_and(|handshake| handshake.client_ca == site.client_ca);
    let certificate = tls.certificate.as_deref();
    let admits = |client_ca: &ClientCa| client_ca.admits(certificate, now);
    if is_same_ca && site.client_ca.as_ref().is_none_or(admits) {
        return Ok(());
    }
    Err(Rejection::OtherClientCa)
}

/// The origin under which the client knows the proxy: the configured `external_url`, or else the origin that the
/// client addressed. The colon of an empty port is dropped: a URL is the same without it (RFC 3986 section 6.2.3),
/// and not every client accepts it.
fn external_origin<'a>(site: &'a Site, target: &'a Target, scheme: &'a str) -> ExternalOrigin<'a> {
    let authority = target.authority();
    let as_addressed = ExternalOrigin {
        scheme,
        authority: authority.strip_suffix(':').unwrap_or(authority),
    };
    site.external_url
        .as_ref()
        .map_or(as_addressed, Origin::to_external)
}

/// A redirect to the canonical spelling of the request target. `location` has no authority, so that the redirect is
/// right under every name by which clients reach the proxy.
fn redirect_to_canonical(location: &str) -> Response<Body> {
    redirect(StatusCode::MOVED_PERMANENTLY, location)
}

fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // The location is made of a parsed target and of the configuration, whose bytes are legal in a header field.
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(header::LOCATION, location);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// The response with the content of a challenge file (RFC 8555 section 8.3).
fn challenge_file_response(content: impl Into<Bytes>) -> Response<Body> {
    let content = content.into();
    let length = HeaderValue::from(content.len());
    let mut response = Response::new(Body::full(content));
    let headers = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    headers.insert(header::CONTENT_LENGTH, length);
    response
}
