//! The life of a request. Read this file first.
//!
//! `server` calls [`Service::answer`] for every request of every connection. The inner function, `decide`, makes the decisions
//! and returns a [`Rejection`] through `?`. The outer function logs and counts, and turns a rejection into a response.
//!
//! The order of the checks is the security argument: host, route, credentials, rights, then everything else. A client that has
//! not authenticated learns nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, request};
use hyper::body::Incoming;
use rustls_pki_types::UnixTime;

use crate::access::{Authorization, CatalogFilter};
use crate::access_log::AccessLog;
use crate::activity::ActivityTracker;
use crate::auth::{Identity, TokenService};
use crate::body::{Body, MinRate, UploadState};
use crate::connection::{ConnectionInfo, IncomingRequest};
use crate::forward::ForwardContext;
use crate::forwarded::ClientInfo;
use crate::metrics::SiteCounts;
use crate::net::cidr::Networks;
use crate::registry::is_registry_path;
use crate::rejection::Rejection;
use crate::site::{Route, RouteMatch, Site, Sites};
use crate::target::{self, Target};

mod bare;
mod catalog;
mod inflow;
mod limiter;
mod opened;
mod outer;
mod plain;
mod tokens;
mod trust;
mod wanted;

use bare::{redirect, static_response};
pub use limiter::ConcurrencyLimits;
use opened::RequestScope;
use outer::{challenge, external_origin};
use wanted::{Authorized, Wanted, authorize, classify};

/// What bounds a single request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most header fields.
    pub head_fields: usize,
    /// Longest path and query in bytes.
    pub target_size: usize,
    /// Longest silence within a request body.
    pub body_idle: Duration,
    /// The least of a request body that comes while it is waited for.
    pub floor: MinRate,
    /// Where plain HTTP is sent to.
    pub https_port: u16,
    /// Peers whose `X-Forwarded-For` and `-Proto` are believed.
    pub trusted_proxies: Networks,
}

/// Everything a request is answered from; one for each snapshot.
#[derive(Debug)]
pub struct Service {
    /// The sites.
    pub sites: Sites,
    /// The bounds.
    pub settings: Settings,
    /// The access log; `None` when it is off.
    pub access_log: Option<AccessLog>,
    /// What certificate authorities are answered over plain HTTP.
    pub challenges: Option<Arc<crate::tls::challenges::Challenges>>,
    /// What only so many may be at.
    pub limiters: Arc<ConcurrencyLimits>,
    /// What moves, and what was refused.
    pub board: Arc<ActivityTracker>,
    /// Requests of no site.
    pub elsewhere: Arc<SiteCounts>,
}

impl Service {
    /// Answers a request that came over TLS, on the worker of this number.
    pub async fn answer(&self, worker: usize, exchange: IncomingRequest) -> Response<Body> {
        let IncomingRequest {
            request,
            connection,
            received,
        } = exchange;
        let (parts, incoming) = request.into_parts();
        let asker = opened::asker(&connection, &parts, &self.settings.trusted_proxies);
        let mut opened = RequestScope::new(self, &connection, asker.client, &received, &parts);
        let asking = Box::new(ReceivedRequest {
            worker,
            connection,
            asker,
            parts,
            incoming,
            received,
        });
        let result = self.decide(asking, &mut opened).await;
        let response = result.unwrap_or_else(|refusal| opened.refuse(&refusal, &self.board));
        opened.close(response)
    }

    /// The counters of every site, one or more times, and of requests of none.
    pub fn counts(&self) -> impl Iterator<Item = &Arc<SiteCounts>> {
        let sites = self.sites.all().map(|site| &site.counts);
        sites.chain([&self.elsewhere])
    }

    /// The site that the request addresses. An absolute target counts, and may name another host than the Host field does,
    /// but not another site (RFC 9112 section 3.2.2): a request smuggled past a proxy in front looks like that.
    fn site_of(&self, target: &Target) -> Result<&Site, Rejection> {
        let site = self.sites.find(target.host()).ok_or(Rejection::NoSite)?;
        let is_same = |host| {
            self.sites
                .find(host)
                .is_some_and(|other| std::ptr::eq(site, other))
        };
        if target.overridden_host().is_none_or(is_same) {
            Ok(site)
        } else {
            Err(target::Error::ForeignAuthority.into())
        }
    }

    async fn decide(
        &self,
        asking: Box<ReceivedRequest>,
        opened: &mut RequestScope,
    ) -> Result<Response<Body>, Rejection> {
        self.check_size(&asking.parts)?;
        check_message(&asking.parts)?;
        let found = self.find_site(&asking, opened);
        let (target, site) = found.inspect_err(|_| opened.no_site(&asking.parts))?;
        let route = match site.lead(target.path()).ok_or(Rejection::NoRoute)? {
            RouteMatch::Response(response) => return static_response(response.status),
            RouteMatch::Route(route) => route,
        };
        opened.manner.registry &= route.registry;
        let headers = &asking.parts.headers;
        opened.sharing = route.cors.sharing(headers);
        if let Some(sharing) = &opened.sharing
            && let Some(answer) = sharing.preflight(&asking.parts.method, headers)
        {
            route.authenticator.check_network(asking.asker.client)?;
            return Ok(answer);
        }
        let addressed = MatchedRoute {
            site,
            route,
            target: &target,
        };
        match route.authenticator.token_service(target.path()) {
            // In a box: what is rarely done is not to be carried by every request's future.
            Some(tokens) => Box::pin(self.token(tokens, &addressed, asking, opened)).await,
            None => self.pass(&addressed, asking, opened).await,
        }
    }

    /// The site that the request addresses, where this connection may carry requests for it.
    fn find_site(
        &self,
        asking: &ReceivedRequest,
        opened: &mut RequestScope,
    ) -> Result<(Target, &Site), Rejection> {
        let target = Target::of(&asking.parts)?;
        opened.manner.registry = is_registry_path(target.path());
        let site = self.site_of(&target)?;
        opened.record.site(&site.counts);
        trust::check(&self.sites, site, &asking.connection, UnixTime::now())?;
        Ok((target, site))
    }

    /// Answers at the token endpoint.
    async fn token(
        &self,
        tokens: TokenService<'_>,
        addressed: &MatchedRoute<'_>,
        asking: Box<ReceivedRequest>,
        opened: &mut RequestScope,
    ) -> Result<Response<Body>, Rejection> {
        let MatchedRoute { route, target, .. } = *addressed;
        opened.record.token();
        let parts = &asking.parts;
        let client_body = (asking.incoming, asking.received);
        let body = self.body(route, &parts.headers, client_body, &opened.record)?;
        let client = asking.asker.client;
        let asked = tokens::TokenEndpointRequest::new(parts, target, client, body, &self.limiters);
        let RequestScope { record, manner, .. } = opened;
        tokens::answer(tokens, &route.access, asked, record, manner).await
    }

    /// Passes a request on to the upstream, when whoever asks may have what is asked for.
    async fn pass(
        &self,
        addressed: &MatchedRoute<'_>,
        asking: Box<ReceivedRequest>,
        opened: &mut RequestScope,
    ) -> Result<Response<Body>, Rejection> {
        let MatchedRoute {
            site,
            route,
            target,
        } = *addressed;
        let ReceivedRequest {
            worker,
            asker,
            parts,
            incoming,
            received,
            ..
        } = *asking;
        let RequestScope {
            id, record, manner, ..
        } = opened;
        // Parsed first, so that the log says what was wanted; told only to those who may ask here.
        let wanted = classify(site, route, &parts, target);
        let operation = wanted.as_ref().ok().and_then(Wanted::operation);
        record.operation(operation);
        let outer = external_origin(site, target, asker.scheme);
        manner.challenge = challenge(route, outer, operation);
        let authenticator = &route.authenticator;
        let proved = authenticator
            .authenticate(&parts.headers, asker.client)
            .await;
        let identity = proved.inspect_err(|_| {
            record.attempted_user(authenticator.known_user(&parts.headers));
        })?;
        record.user(identity.name());
        let permitted = match authorize(&route.access, &identity, wanted)? {
            Authorized::Forward(permitted) => permitted,
            Authorized::Redirect(location) => return Ok(redirect(&location)),
        };
        check_expectation(&parts.headers)?;
        record.show(&self.board);
        let client_body = (incoming, received);
        let body = self.body(route, &parts.headers, client_body, record)?;
        let around = ForwardContext {
            asker: &asker,
            target,
            outer,
            is_site: &|host| site.is_named(host),
            request_id: id.as_str(),
            worker,
        };
        let began = Instant::now();
        let answer = match permitted {
            Authorization::Full(permit) => route.forward.send(permit, parts, body, &around).await?,
            Authorization::FilteredCatalog(listing) => {
                let asked = (site, route, &listing);
                Box::pin(self.list(asked, &identity, &parts, &around)).await?
            }
        };
        record.upstream(began.elapsed());
        Ok(answer)
    }

    /// The part of the list of repositories that the identity may see.
    async fn list(
        &self,
        (site, route, listing): (&Site, &Route, &CatalogFilter),
        identity: &Identity,
        parts: &request::Parts,
        around: &ForwardContext<'_>,
    ) -> Result<Response<Body>, Rejection> {
        let _entered = self
            .limiters
            .acquire_catalog(identity, around.asker.client)?;
        let is_here = |name: &str| site.may_list(route, name);
        catalog::answer(&route.forward, listing, parts, around, &is_here).await
    }

    fn check_size(&self, parts: &request::Parts) -> Result<(), Rejection> {
        let target = parts
            .uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        if target > self.settings.target_size {
            return Err(Rejection::TargetTooLong);
        }
        if parts.headers.len() > self.settings.head_fields {
            return Err(Rejection::TooManyFields);
        }
        Ok(())
    }
}

/// A request, taken apart. Boxed, since it is handed on from one future into the next.
struct ReceivedRequest {
    worker: usize,
    connection: Arc<ConnectionInfo>,
    asker: ClientInfo,
    parts: request::Parts,
    incoming: Incoming,
    received: Arc<UploadState>,
}

/// Where a request leads.
#[derive(Clone, Copy)]
struct MatchedRoute<'a> {
    site: &'a Site,
    route: &'a Route,
    target: &'a Target,
}

/// What no gate forwards, and framing that could be read in two ways (RFC 9112 section 6.1).
fn check_message(parts: &request::Parts) -> Result<(), Rejection> {
    if parts.method == Method::CONNECT {
        return Err(Rejection::Method);
    }
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Rejection::TransferCoding),
    }
}

/// The only expectation there is (RFC 9110 section 10.1.1).
fn check_expectation(headers: &HeaderMap) -> Result<(), Rejection> {
    let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(known) {
        Ok(())
    } else {
        Err(Rejection::Expectation)
    }
}
