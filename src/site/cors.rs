//! CORS: which origins may use a route from within a browser (Fetch standard, section 3.3).
//!
//! Called by `service`. A browser first sends a preflight request, an OPTIONS that never carries credentials;
//! [`CorsResponse::preflight`] responds to it. The requests of the page itself are authenticated and authorized like
//! all others, and [`CorsResponse::apply`] adds to their responses that the page may read them.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::body::Body;

/// The origins whose pages may read the responses of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<String>,
}

/// The CORS header fields for the response to one request.
#[derive(Clone, Debug)]
pub struct CorsResponse {
    /// The `Origin` of the request, if the configuration names it.
    origin: Option<HeaderValue>,
}

impl Cors {
    /// Takes the origins as browsers write them: `https://ui.example.com`, without the default port of the scheme.
    pub fn new(origins: impl IntoIterator<Item = String>) -> Self {
        Self {
            origins: origins.into_iter().collect(),
        }
    }

    /// The CORS header fields for a request with these header fields; `None` if the configuration names no origin for
    /// the route.
    pub fn response_for(&self, headers: &HeaderMap) -> Option<CorsResponse> {
        if self.origins.is_empty() {
            return None;
        }
        let mut fields = headers.get_all(header::ORIGIN).iter();
        let origin = match (fields.next(), fields.next()) {
            (Some(origin), None) => Some(origin),
            _ => None,
        };
        Some(CorsResponse {
            origin: origin
                .filter(|origin| self.names(origin.as_bytes()))
                .cloned(),
        })
    }

    /// Whether the configuration names this origin.
    pub fn names(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|named| named.as_bytes() == origin)
    }
}

impl CorsResponse {
    /// The response to a preflight request of an origin that the configuration names. Returns `None` for any other
    /// request, also for any other OPTIONS, which is handled like all other methods.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
        let is_preflight = method == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight || self.origin.is_none() {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let allowed = response.headers_mut();
        allowed.insert(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
        allowed.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static("600"),
        );
        // For a request with credentials, `*` is not a wildcard (Fetch, section 3.3.4), so the requested names are
        // listed.
        if let Some(requested) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            allowed.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
        }
        for field in [
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_REQUEST_HEADERS,
        ] {
            allowed.append(header::VARY, field.into());
        }
        Some(response)
    }

    /// Adds the CORS header fields to a response. If the configuration names the origin, they replace those of the
    /// upstream.
    pub fn apply(self, headers: &mut HeaderMap) {
        headers.append(header::VARY, header::ORIGIN.into());
        let Some(origin) = self.origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let credentials = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    }
}

const ALLOWED_METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// The response header fields that a page which shows a registry reads, in addition to those that every page may read
/// (Fetch, section 2.2.2).
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "Docker-Content-Digest, Docker-Distribution-Api-Version, Link, Location, Range, WWW-Authenticate, X-Request-Id",
);
