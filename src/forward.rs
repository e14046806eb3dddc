//! To the registry and back: the only way to an upstream, and it demands a [`Permit`].
//!
//! Called by `service` with a permitted request. It sends what was permitted, not what was written,
//! and repairs in the answer what the registry says about its own address.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, Uri, request};
use http_body::Body as _;

use crate::access::Permit;
use crate::body::Body;
use crate::registry::Operation;
use crate::target::Target;
use crate::upstream::{self, ResponseBody, Upstream};

pub mod headers;
mod origin;

use crate::forwarded::ClientInfo;
use headers::Edits;
pub(crate) use origin::UrlRewriter;
pub use origin::{ExternalOrigin, Origin};

/// Where a route leads to, and what is changed on the way.
#[derive(Debug)]
pub struct Forward {
    upstream: Arc<Upstream>,
    keep_authorization: bool,
    internal: Vec<Origin>,
    edits: HeaderEdits,
}

/// Fields that the operator sets or removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// On requests to the upstream.
    pub request: Edits,
    /// On answers of the upstream.
    pub response: Edits,
}

/// What surrounds a request: who asks, where, and as what it is known.
pub struct ForwardContext<'a> {
    /// Who is asking.
    pub asker: &'a ClientInfo,
    /// What the client wrote.
    pub target: &'a Target,
    /// The origin that answers are to name.
    pub outer: ExternalOrigin<'a>,
    /// Whether a host name is one of the site's.
    pub is_site: &'a (dyn Fn(&str) -> bool + Sync),
    /// The request's id.
    pub request_id: &'a str,
    /// The worker that serves the connection.
    pub worker: usize,
}

/// Why there is no answer of the upstream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The upstream, or the client's body on its way there.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// A form on an upload route: registries obey fields in it before those of the query.
    #[error("a form is no upload; send application/octet-stream")]
    Form,
    /// The target cannot be written as a request line.
    #[error("the request target is malformed")]
    Target,
}

impl Forward {
    /// `keep_authorization` where the upstream checks credentials itself; `internal` are further origins by which it
    /// calls itself.
    pub fn new(
        upstream: Arc<Upstream>,
        keep_authorization: bool,
        internal: Vec<Origin>,
        edits: HeaderEdits,
    ) -> Self {
        Self {
            upstream,
            keep_authorization,
            internal,
            edits,
        }
    }

    /// The connections it uses, for the next snapshot.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Whether a client that addressed `outer` is led to `outer` by this URL in a response: the URL names the upstream, or
    /// the site itself, by one of the origins that are replaced.
    pub fn rewrites(&self, url: &str, outer: &Origin, is_site: &dyn Fn(&str) -> bool) -> bool {
        let repair = UrlRewriter {
            outer: outer.to_external(),
            host: &outer.authority,
            upstream: self.upstream.authorities(),
            internal: &self.internal,
            is_site,
        };
        repair.is_rewritten(url)
    }

    /// Sends a permitted request, and returns the upstream's answer as the client is to see it.
    pub fn send<'a>(
        &'a self,
        permit: Permit,
        parts: request::Parts,
        body: Body,
        around: &'a ForwardContext<'a>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send + 'a {
        // Outside of the block, as in `upstream`.
        let request = self.request(&permit, parts, body, around);
        async move {
            let upload = permit.operation().and_then(Operation::upload);
            let client = around.asker.client.network();
            let sent = self.upstream.send(around.worker, client, upload, request?);
            let answer = sent.await?;
            Ok(self.rewrite_response(answer, around))
        }
    }

    /// An answer as the client is to see it.
    fn rewrite_response(
        &self,
        answer: Response<ResponseBody>,
        around: &ForwardContext<'_>,
    ) -> Response<Body> {
        let (mut parts, body) = answer.into_parts();
        headers::strip_response(&mut parts.headers);
        let repair = UrlRewriter {
            outer: around.outer,
            host: around.target.authority(),
            upstream: self.upstream.authorities(),
            internal: &self.internal,
            is_site: around.is_site,
        };
        repair.headers(&mut parts.headers);
        if self.keep_authorization {
            headers::secure_cookies(&mut parts.headers);
        }
        headers::edit(&mut parts.headers, &self.edits.response);
        let body = if body.is_end_stream() {
            Body::empty()
        } else {
            Body::stream(body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        response
    }

    fn request(
        &self,
        permit: &Permit,
        mut parts: request::Parts,
        body: Body,
        around: &ForwardContext<'_>,
    ) -> Result<Request<Body>, Error> {
        headers::strip_request(&mut parts.headers, self.keep_authorization);
        if permit.operation().is_some_and(Operation::is_upload) {
            force_media_type(&mut parts.headers, &parts.method, &body)?;
        }
        let host = around.target.host_header().clone();
        headers::add_request(&mut parts.headers, host, around.asker, around.request_id);
        headers::edit(&mut parts.headers, &self.edits.request);
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = Uri::try_from(permit.target()).map_err(|_| Error::Target)?;
        *request.headers_mut() = parts.headers;
        Ok(request)
    }
}

/// A registry reads `mount`, `from`, `digest` and `_state` from a form body before it reads the query,
/// so no upload reaches it under the media type of a form.
fn force_media_type(headers: &mut HeaderMap, method: &Method, body: &Body) -> Result<(), Error> {
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        return Ok(());
    }
    // Clients say it of a body of no bytes, too.
    let has_bytes = body.size_hint().exact() != Some(0);
    if has_bytes && headers.get_all(CONTENT_TYPE).iter().any(is_form) {
        return Err(Error::Form);
    }
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    Ok(())
}

fn is_form(value: &HeaderValue) -> bool {
    let kind = value.as_bytes().to_ascii_lowercase();
    let kind = kind.trim_ascii_start();
    kind.starts_with(b"application/x-www-form-urlencoded") || kind.starts_with(b"multipart/")
}
