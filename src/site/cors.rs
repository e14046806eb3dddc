//! Pages of other origins: which of them may use a route from within a browser (the Fetch standard's CORS protocol).
//!
//! A browser asks first, by an OPTIONS that never carries a password; `service` has it answered here. What the page
//! then asks for is judged like any other request, and its answer says that the page may read it.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::body::Body;

/// The origins a route shares its answers with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<String>,
}

/// What an answer of such a route says about it.
#[derive(Clone, Debug)]
pub struct CorsResponse {
    /// The page's origin, when it is one of those named.
    origin: Option<HeaderValue>,
}

impl Cors {
    /// Origins as browsers write them: `https://ui.example.com`, the scheme's own port left out.
    pub fn new(origins: impl IntoIterator<Item = String>) -> Self {
        Self {
            origins: origins.into_iter().collect(),
        }
    }

    /// Nothing where no origin is named.
    pub fn sharing(&self, headers: &HeaderMap) -> Option<CorsResponse> {
        if self.origins.is_empty() {
            return None;
        }
        let mut fields = headers.get_all(header::ORIGIN).iter();
        let origin = match (fields.next(), fields.next()) {
            (Some(origin), None) => Some(origin),
            _ => None,
        };
        let is_named = |origin: &&HeaderValue| {
            self.origins
                .iter()
                .any(|named| named.as_bytes() == origin.as_bytes())
        };
        Some(CorsResponse {
            origin: origin.filter(is_named).cloned(),
        })
    }
}

impl CorsResponse {
    /// The answer to a browser that asks for a page of a named origin what the page may do. Any other OPTIONS is a
    /// request like all others.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
        let is_preflight = method == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight || self.origin.is_none() {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static("600"),
        );
        // With credentials a `*` would be a name (Fetch, section 3.3.4): what is asked for is said back.
        if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        for field in [
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_REQUEST_HEADERS,
        ] {
            answer.append(header::VARY, field.into());
        }
        Some(response)
    }

    /// Marks an answer as one that the page may read. Where an origin is named, the gate's word is the only one.
    pub fn apply(self, headers: &mut HeaderMap) {
        headers.append(header::VARY, header::ORIGIN.into());
        let Some(origin) = self.origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// What a page that shows a registry reads, beyond what every page may (Fetch, section 2.2.2).
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Docker-Content-Digest, Docker-Distribution-Api-Version, Link, Location, Range, WWW-Authenticate, X-Request-Id",
);
