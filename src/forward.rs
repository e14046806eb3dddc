//! Forwards a request to the upstream and the response back. A request can be forwarded only with a [`Permit`].
//!
//! `service` calls [`Forward::send`]. In front of a registry, path and query are written from the operation in the permit, not
//! from the bytes that the client sent; elsewhere they are forwarded as sent, or mapped (`path_map`). The header fields are
//! filtered in both directions (`headers`), and URLs in the response that name the registry's own address are rewritten
//! (`url_rewrite`). The 101 response to a WebSocket handshake (`websocket`) has the connection to the upstream as its body.

use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, request};
use http_body::Body as _;

use crate::access::Permit;
use crate::body::{Body, Tunnel};
use crate::registry::Operation;
use crate::upstream::{self, HostHeader, ResponseBody, Upstream};

mod context;
pub mod headers;
mod path_map;
mod url_rewrite;
mod websocket;

pub use context::ForwardContext;
pub use path_map::PathMap;
pub use url_rewrite::{ExternalOrigin, Origin};
pub use websocket::{WebSocketError, WebSocketHandshake};

use headers::{Edits, ForwardedField, RequestEdits};
pub(crate) use url_rewrite::UrlRewriter;

/// The upstream of a route, and the changes to requests and responses on the way.
#[derive(Debug)]
pub struct Forward {
    upstream: Arc<Upstream>,
    keep_authorization: bool,
    internal_origins: Vec<Origin>,
    edits: HeaderEdits,
    path_map: Option<PathMap>,
}

/// The header fields that the operator sets or removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// The fields of requests to the upstream.
    pub request: RequestEdits,
    /// The fields that tell the upstream more about the request of the client.
    pub forwarded: Vec<ForwardedField>,
    /// The fields of the upstream's responses.
    pub response: Edits,
}

/// Why there is no response of the upstream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The upstream failed, or the client's body on its way there.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The request sends a form to an upload route, where a registry may prefer fields of the form to those of the query.
    #[error("a form is no upload; send application/octet-stream")]
    Form,
    /// The target cannot be written in a request line.
    #[error("the request target is malformed")]
    Target,
}

impl Forward {
    /// Creates the forwarding of a route. With `keep_authorization`, the upstream checks the credentials.
    /// `internal_origins` are further origins that the upstream uses for itself in URLs.
    pub fn new(
        upstream: Arc<Upstream>,
        keep_authorization: bool,
        internal_origins: Vec<Origin>,
        edits: HeaderEdits,
    ) -> Self {
        Self {
            upstream,
            keep_authorization,
            internal_origins,
            edits,
            path_map: None,
        }
    }

    /// Replaces the path of the route by a path of the upstream. Only a request outside of the registry API is mapped.
    pub fn with_path_map(self, path_map: Option<PathMap>) -> Self {
        Self { path_map, ..self }
    }

    /// Whether the upstream checks the credentials of clients.
    pub fn keeps_authorization(&self) -> bool {
        self.keep_authorization
    }

    /// The upstream of the route.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Whether a `url` in a response is rewritten for a client that addressed `external`. `check --live` asks this about the
    /// realm of a Bearer challenge.
    pub fn rewrites(&self, url: &str, external: &Origin, is_site: &dyn Fn(&str) -> bool) -> bool {
        let rewriter = UrlRewriter {
            external: external.to_external(),
            host: &external.authority,
            endpoints: self.upstream.authorities(),
            internal_origins: &self.internal_origins,
            is_site,
            path_map: None,
        };
        rewriter.rewrite_url(url).is_some()
    }

    /// Sends a permitted request, and returns the response for the client.
    pub fn send<'a>(
        &'a self,
        permit: Permit,
        parts: request::Parts,
        body: Body,
        context: &'a ForwardContext<'a>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send + 'a {
        // Outside of the async block, which would reserve space for the parts and for the request built from them.
        let request = self.upstream_request(&permit, parts, body, context);
        async move {
            let upload = permit.operation().and_then(Operation::upload);
            let client = context.client_info.client.network();
            let worker = context.worker;
            let response = self.upstream.send(worker, client, upload, request?).await?;
            check_switch(&response, context)?;
            Ok(self.rewrite_response(*response, context))
        }
    }

    fn upstream_request(
        &self,
        permit: &Permit,
        mut parts: request::Parts,
        body: Body,
        context: &ForwardContext<'_>,
    ) -> Result<Request<Body>, Error> {
        headers::strip_request(&mut parts.headers, self.keep_authorization);
        if permit.operation().is_some_and(Operation::is_upload) {
            force_media_type(&mut parts.headers, &parts.method, &body)?;
        }
        let host = match &self.upstream.settings().host {
            HostHeader::Name(name) => name.clone(),
            // The upstream sets the host of the endpoint when it has chosen one.
            HostHeader::Client | HostHeader::Endpoint => context.target.host_header().clone(),
        };
        let (client, id) = (context.client_info, context.request_id);
        headers::add_request(&mut parts.headers, host, client, id);
        for field in &self.edits.forwarded {
            headers::add_forwarded(&mut parts.headers, field, context);
        }
        headers::edit_request(&mut parts.headers, &self.edits.request, context);
        if context.websocket.is_some() {
            headers::set_upgrade(&mut parts.headers);
        }
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        let target = match &self.path_map {
            Some(path_map) if permit.operation().is_none() => {
                path_map.to_upstream(context.target).ok_or(Error::Target)?
            }
            _ => permit.target(),
        };
        *request.uri_mut() = Uri::try_from(target).map_err(|_| Error::Target)?;
        *request.headers_mut() = parts.headers;
        Ok(request)
    }

    /// Removes, rewrites and adds fields of a response for the client.
    fn rewrite_response(
        &self,
        response: Response<ResponseBody>,
        context: &ForwardContext<'_>,
    ) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        headers::strip_response(&mut parts.headers);
        let rewriter = UrlRewriter {
            external: context.external,
            host: match &self.upstream.settings().host {
                HostHeader::Name(name) => name.to_str().unwrap_or_default(),
                HostHeader::Client | HostHeader::Endpoint => context.target.authority(),
            },
            endpoints: self.upstream.authorities(),
            internal_origins: &self.internal_origins,
            is_site: context.is_site,
            path_map: self.path_map.as_ref(),
        };
        rewriter.rewrite_headers(&mut parts.headers);
        if self.keep_authorization {
            headers::secure_cookies(&mut parts.headers);
        }
        headers::edit(&mut parts.headers, &self.edits.response);
        let body = if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            headers::set_upgrade(&mut parts.headers);
            let upgrade = HeaderValue::from_static("upgrade");
            parts.headers.insert(CONNECTION, upgrade);
            self.tunnel(body)
        } else if body.is_end_stream() {
            Body::empty()
        } else {
            Body::stream(body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        response
    }

    /// The body of a 101 response: the connection to the upstream.
    fn tunnel(&self, body: ResponseBody) -> Body {
        body.into_tunnel()
            .map_or_else(Body::empty, |(upstream, first)| {
                Body::tunnel(Tunnel {
                    upstream,
                    first,
                    max_silence: self.upstream.settings().each.read_timeout,
                })
            })
    }
}

/// Rejects a 101 that does not accept the client's WebSocket.
fn check_switch(
    response: &Response<ResponseBody>,
    context: &ForwardContext<'_>,
) -> Result<(), Error> {
    let is_accepted = response.status() != StatusCode::SWITCHING_PROTOCOLS
        || context
            .websocket
            .is_some_and(|handshake| handshake.is_accepted_by(response.headers()));
    is_accepted
        .then_some(())
        .ok_or(Error::Upstream(upstream::Error::Malformed(
            "the 101 does not fit the key of the WebSocket handshake",
        )))
}

/// Sets the media type of an upload to `application/octet-stream`, and rejects forms.
///
/// A registry reads `mount`, `from`, `digest` and `_state` from the body of a form before it reads the query, where the proxy
/// has checked them.
fn force_media_type(headers: &mut HeaderMap, method: &Method, body: &Body) -> Result<(), Error> {
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        return Ok(());
    }
    // Some clients declare an empty body as a form, which is harmless.
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

fn is_form(content_type: &HeaderValue) -> bool {
    let media_type = content_type.as_bytes().to_ascii_lowercase();
    let media_type = media_type.trim_ascii_start();
    media_type.starts_with(b"application/x-www-form-urlencoded")
        || media_type.starts_with(b"multipart/")
}
