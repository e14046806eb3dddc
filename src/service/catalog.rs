//! The list of repositories for someone who may see some of it.
//!
//! Called by `service` in place of `forward`. It walks the upstream's pages, keeps what may be shown, and answers with
//! a page of its own: nothing of what is hidden stands in its body, its `Link`, or an error.
//!
//! One name more than the page holds is looked for, so that a `Link` leads to something that may be seen, and so that
//! a page of hidden names at the end is not told by one. The `Link` goes on after the last name that is shown: it
//! costs another look at the hidden ones behind it, and names none of them.
//!
//! The upstream is never asked to go on after a name that may not be seen: some registries go on elsewhere when they
//! do not have it, which would tell. The list is then walked from its beginning.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, request};
use http_body::Body as _;
use tokio::time::{Instant, timeout_at};

use crate::access::CatalogFilter;
use crate::body::Body;
use crate::forward::{Forward, ForwardContext};
use crate::registry::RegistryError;
use crate::registry::catalog::{self, CatalogError};
use crate::registry::errors::MAX_PAGE_SIZE;
use crate::rejection::Rejection;

/// Reads as much of the list as it takes, and answers; `is_here` says which repositories the route that is asked may
/// name.
pub(super) async fn answer(
    forward: &Forward,
    listing: &CatalogFilter,
    parts: &request::Parts,
    around: &ForwardContext<'_>,
    is_here: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Response<Body>, Rejection> {
    if parts.method != Method::GET {
        return Err(RegistryError::Method { allow: "GET" }.into());
    }
    let size = catalog::page_size(listing.operation().page_size())?;
    if size == 0 {
        return Ok(page(&[], None));
    }
    let shows = |name: &str| listing.is_visible(name) && is_here(name);
    let place = listing.operation().last().filter(|last| !last.is_empty());
    let (last, after) = match place {
        Some(last) if !shows(last) => (None, Some(last)),
        last => (last.map(str::to_owned), None),
    };
    let mut walk = CatalogWalk {
        forward,
        listing,
        shows: &shows,
        after,
        around,
        agent: parts.headers.get(header::USER_AGENT),
        size: Some(MAX_PAGE_SIZE),
        last,
        shown: Vec::new(),
    };
    let is_whole = walk.run(size).await?;
    let mut shown = walk.shown;
    let goes_on = !is_whole || shown.len() > size;
    shown.truncate(size);
    let link = shown.last().filter(|_| goes_on);
    let link = link.map(|last| catalog::link(size, last));
    Ok(page(&shown, link))
}

struct CatalogWalk<'a> {
    forward: &'a Forward,
    listing: &'a CatalogFilter,
    /// Whether the identity may see a repository in the list of this route.
    shows: &'a (dyn Fn(&str) -> bool + Sync),
    /// A place between the names that may be seen.
    after: Option<&'a str>,
    around: &'a ForwardContext<'a>,
    agent: Option<&'a HeaderValue>,
    /// Entries asked for at once; nothing leaves it to the upstream.
    size: Option<usize>,
    /// The last name that was looked at.
    last: Option<String>,
    shown: Vec<String>,
}

struct CatalogPage {
    names: Vec<String>,
    goes_on: bool,
}

impl CatalogWalk<'_> {
    /// False when there may be more that the bounds did not let it see.
    async fn run(&mut self, wanted: usize) -> Result<bool, Rejection> {
        let until = Instant::now() + TIME;
        for _ in 0..PAGES {
            let Ok(page) = timeout_at(until, self.next()).await else {
                break;
            };
            let page = page?;
            if self.take(page, wanted) {
                return Ok(true);
            }
        }
        // Without a name to go on from, a list that ends here would pass for the whole.
        if self.shown.is_empty() {
            return Err(CatalogError::TooLong.into());
        }
        Ok(false)
    }

    /// True when there is no need to go on. A page that ends where the last one did is that one again.
    fn take(&mut self, page: CatalogPage, wanted: usize) -> bool {
        let last = page.names.last().cloned();
        if last.is_none() || last == self.last {
            return true;
        }
        self.last = last;
        let visible = page
            .names
            .into_iter()
            .filter(|name| (self.shows)(name))
            .filter(|name| {
                self.after
                    .is_none_or(|after| catalog::is_after(name, after))
            });
        let missing = (wanted + 1).saturating_sub(self.shown.len());
        self.shown.extend(visible.take(missing));
        self.shown.len() > wanted || !page.goes_on
    }

    /// An upstream with a lower `catalog.maxentries` refuses a large page; its own size it never refuses.
    async fn next(&mut self) -> Result<CatalogPage, Rejection> {
        let mut answer = self.ask().await?;
        if answer.status() == StatusCode::BAD_REQUEST && self.size.take().is_some() {
            answer = self.ask().await?;
        }
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                return Err(CatalogError::Missing.into());
            }
            _ => return Err(CatalogError::Unreadable.into()),
        }
        let links = answer.headers().get_all(header::LINK);
        let goes_on = links
            .iter()
            .any(|link| link.to_str().is_ok_and(catalog::has_next_page));
        let body = collect(answer.into_body()).await?;
        let names = catalog::parse(&body)?;
        Ok(CatalogPage { names, goes_on })
    }

    /// Of the client's fields only its name goes along: a condition or a coding would change the answer.
    async fn ask(&self) -> Result<Response<Body>, Rejection> {
        let permit = self.listing.catalog_page(self.size, self.last.as_deref());
        let (mut parts, ()) = Request::new(()).into_parts();
        if let Some(agent) = self.agent {
            parts.headers.insert(header::USER_AGENT, agent.clone());
        }
        let sent = self.forward.send(permit, parts, Body::empty(), self.around);
        Ok(sent.await?)
    }
}

async fn collect(body: Body) -> Result<Vec<u8>, CatalogError> {
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

fn page(names: &[String], link: Option<String>) -> Response<Body> {
    let body = catalog::body(names);
    let mut headers = header::HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    // An encoded name is legal in a header by construction.
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        headers.insert(header::LINK, link);
    }
    let mut response = Response::new(Body::full(body));
    *response.headers_mut() = headers;
    response
}

/// Pages of the upstream's that one request may cost: 100 000 names.
const PAGES: usize = 100;
/// All of them together; clients wait for a minute at least.
const TIME: Duration = Duration::from_secs(30);
