//! The list of repositories (`GET /v2/_catalog`) for a client that may see only some of it.
//!
//! `service` calls [`respond`] in place of [`Forward::send`]. It walks the pages of the upstream's catalog, keeps the
//! names that the client may see, and responds with a page of its own. No hidden name appears in its body, its `Link`
//! field, or an error.
//!
//! The walk looks for one name more than the page holds. So a `Link` always leads to a visible name, and the end of
//! the list looks the same whether or not hidden names follow. The `Link` continues after the last visible name: the
//! next request reads the hidden names after that one again, and names none of them.
//!
//! If the client names a repository that it may not see as the one to continue after, the walk starts at the beginning of the
//! list. The upstream gets no such name, because some registries continue at another place if they do not have it, which would
//! reveal whether it exists.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, request};
use http_body::Body as _;
use tokio::time::{Instant, timeout_at};

use crate::access::CatalogFilter;
use crate::body::{Body, JSON, full_response};
use crate::forward::{Forward, ForwardContext};
use crate::registry::RegistryError;
use crate::registry::catalog::{self, CatalogError};
use crate::registry::errors::MAX_PAGE_SIZE;
use crate::rejection::Rejection;

/// Reads as many pages of the upstream's catalog as the response needs, and responds. `is_on_route` returns whether the
/// requested route may list a repository.
pub(super) async fn respond(
    forward: &Forward,
    filter: &CatalogFilter,
    parts: &request::Parts,
    context: &ForwardContext<'_>,
    is_on_route: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Response<Body>, Rejection> {
    if parts.method != Method::GET {
        return Err(RegistryError::Method { allow: "GET" }.into());
    }
    let size = catalog::page_size(filter.operation().page_size())?;
    if size == 0 {
        return Ok(page_response(&[], None));
    }
    let is_visible = |name: &str| filter.is_visible(name) && is_on_route(name);
    let requested_last = filter.operation().last().filter(|last| !last.is_empty());
    let (last, after) = match requested_last {
        Some(last) if !is_visible(last) => (None, Some(last)),
        last => (last.map(str::to_owned), None),
    };
    let mut walk = CatalogWalk {
        forward,
        filter,
        is_visible: &is_visible,
        after,
        context,
        agent: parts.headers.get(header::USER_AGENT),
        upstream_page_size: Some(MAX_PAGE_SIZE),
        last,
        visible: Vec::new(),
    };
    let reached_end = walk.run(size).await?;
    let mut visible = walk.visible;
    let has_more = !reached_end || visible.len() > size;
    visible.truncate(size);
    let link = visible.last().filter(|_| has_more);
    let link = link.map(|last| catalog::link(size, last));
    Ok(page_response(&visible, link))
}

struct CatalogWalk<'a> {
    forward: &'a Forward,
    filter: &'a CatalogFilter,
    /// Whether the identity may see a repository in the list of this route.
    is_visible: &'a (dyn Fn(&str) -> bool + Sync),
    /// Only names after this one are listed. The client may not see this name, so the upstream is not asked to continue
    /// after it.
    after: Option<&'a str>,
    context: &'a ForwardContext<'a>,
    agent: Option<&'a HeaderValue>,
    /// The page size that the upstream is asked for; `None` leaves it to the upstream.
    upstream_page_size: Option<usize>,
    /// The last name that was read.
    last: Option<String>,
    visible: Vec<String>,
}

struct CatalogPage {
    names: Vec<String>,
    has_more: bool,
}

impl CatalogWalk<'_> {
    /// Walks until there is one visible name more than `wanted`, or until the list ends. Returns `false` if the
    /// limits on pages and time ended the walk earlier.
    async fn run(&mut self, wanted: usize) -> Result<bool, Rejection> {
        let deadline = Instant::now() + WALK_TIMEOUT;
        for _ in 0..MAX_PAGES {
            let Ok(page) = timeout_at(deadline, self.next_page()).await else {
                break;
            };
            let page = page?;
            if self.add_page(page, wanted) {
                return Ok(true);
            }
        }
        // Without a visible name there is no `Link`, and the empty page would look like the whole list.
        if self.visible.is_empty() {
            return Err(CatalogError::TooLong.into());
        }
        Ok(false)
    }

    /// Returns whether the walk is complete. A page with the same last name as the page before it is that page again.
    fn add_page(&mut self, page: CatalogPage, wanted: usize) -> bool {
        let last = page.names.last().cloned();
        if last.is_none() || last == self.last {
            return true;
        }
        self.last = last;
        let visible = page
            .names
            .into_iter()
            .filter(|name| (self.is_visible)(name))
            .filter(|name| {
                self.after
                    .is_none_or(|after| catalog::is_after(name, after))
            });
        let missing = (wanted + 1).saturating_sub(self.visible.len());
        self.visible.extend(visible.take(missing));
        self.visible.len() > wanted || !page.has_more
    }

    /// Fetches the next page. A registry with a lower `catalog.maxentries` rejects a large page size with 400; the walk
    /// then asks without a page size, which the registry never rejects.
    async fn next_page(&mut self) -> Result<CatalogPage, Rejection> {
        let mut response = self.request_page().await?;
        if response.status() == StatusCode::BAD_REQUEST && self.upstream_page_size.take().is_some()
        {
            response = self.request_page().await?;
        }
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                return Err(CatalogError::Missing.into());
            }
            _ => return Err(CatalogError::Unreadable.into()),
        }
        let links = response.headers().get_all(header::LINK);
        let has_more = links
            .iter()
            .any(|link| link.to_str().is_ok_and(catalog::has_next_page));
        let body = read_body(response.into_body()).await?;
        let names = catalog::parse(&body)?;
        Ok(CatalogPage { names, has_more })
    }

    /// Sends one request to the upstream. Of the client's header fields, only the name of the client program is
    /// passed on: a condition or an `Accept-Encoding` would change the response.
    async fn request_page(&self) -> Result<Response<Body>, Rejection> {
        let permit = self
            .filter
            .catalog_page(self.upstream_page_size, self.last.as_deref());
        let (mut parts, ()) = Request::new(()).into_parts();
        if let Some(agent) = self.agent {
            parts.headers.insert(header::USER_AGENT, agent.clone());
        }
        let response = self
            .forward
            .send(permit, parts, Body::empty(), self.context);
        Ok(response.await?)
    }
}

async fn read_body(body: Body) -> Result<Vec<u8>, CatalogError> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|_| CatalogError::Unreadable)?;
        let data: Bytes = frame.into_data().unwrap_or_default();
        if bytes.len() + data.len() > catalog::MAX_BODY {
            return Err(CatalogError::Unreadable);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn page_response(names: &[String], link: Option<String>) -> Response<Body> {
    let mut response = full_response(StatusCode::OK, JSON, catalog::body(names), false);
    // The name in the link is percent-encoded, so that its bytes are legal in a header field.
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// The maximum number of upstream pages that one request may cost: 100 000 names.
const MAX_PAGES: usize = 100;
/// The maximum time for all pages of one request. Clients wait for at least one minute.
const WALK_TIMEOUT: Duration = Duration::from_secs(30);
