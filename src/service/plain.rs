//! Requests that came without TLS: sent on to https, and never forwarded. A certificate authority that looks whether a
//! host is ours (http-01, RFC 8555, section 8.3) gets its answer here.
//!
//! A registry client must not be redirected: it would have sent its password in the clear by then, and
//! would do so again. It gets words instead.

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::opened::{RequestScope, asker};
use super::{IncomingRequest, Service};
use crate::body::Body;
use crate::registry::is_registry_path;
use crate::rejection::Rejection;
use crate::site::Site;
use crate::target::Target;

impl Service {
    /// Answers a request that came over plain HTTP.
    pub async fn answer_plain(&self, exchange: IncomingRequest) -> Response<Body> {
        let IncomingRequest {
            request,
            connection,
            received,
        } = exchange;
        let (parts, _unread) = request.into_parts();
        let asker = asker(&connection, &parts, &self.settings.trusted_proxies);
        let mut opened = RequestScope::new(self, &connection, asker.client, &received, &parts);
        let result = match self.key_authorization(&parts).await {
            Some(answer) => Ok(key_authorization(answer)),
            None => self.redirect_to_https(&parts, asker.scheme, &mut opened),
        };
        let response = result.unwrap_or_else(|refusal| opened.refuse(&refusal, &self.board));
        opened.close(response)
    }

    /// For tokens that are known; every other request goes the usual way.
    async fn key_authorization(&self, parts: &http::request::Parts) -> Option<String> {
        let challenges = self.challenges.as_ref()?;
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return None;
        }
        let token = parts.uri.path().strip_prefix(CHALLENGES)?;
        challenges.http01_response(token).await
    }

    fn redirect_to_https(
        &self,
        parts: &http::request::Parts,
        scheme: &str,
        opened: &mut RequestScope,
    ) -> Result<Response<Body>, Rejection> {
        let found = self.find_plain_site(parts, opened);
        let (target, site) = found.inspect_err(|_| opened.no_site(parts))?;
        // Who speaks https to a proxy that speaks plain HTTP to us would be sent round in circles.
        if opened.manner.registry || scheme == "https" {
            return Err(Rejection::PlainHttp);
        }
        let authority = match &site.external {
            Some(origin) => origin.authority.clone(),
            None => self.https_authority(target.host()),
        };
        let location = format!(
            "https://{authority}{}",
            super::wanted::effective_operation(&target)
        );
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        let headers = response.headers_mut();
        // The target was parsed: its bytes are legal in a header.
        if let Ok(location) = HeaderValue::from_str(&location) {
            headers.insert(header::LOCATION, location);
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        Ok(response)
    }

    fn find_plain_site(
        &self,
        parts: &http::request::Parts,
        opened: &mut RequestScope,
    ) -> Result<(Target, &Site), Rejection> {
        let target = Target::of(parts)?;
        opened.manner.registry = is_registry_path(target.path());
        let site = self.site_of(&target)?;
        opened.record.site(&site.counts);
        Ok((target, site))
    }

    fn https_authority(&self, host: &str) -> String {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        match self.settings.https_port {
            443 => host,
            port => format!("{host}:{port}"),
        }
    }
}

fn key_authorization(text: String) -> Response<Body> {
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(Body::full(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

const CHALLENGES: &str = "/.well-known/acme-challenge/";
const OCTETS: &str = "application/octet-stream";
