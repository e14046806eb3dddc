//! The HTTPS client for requests to a certificate authority.
//!
//! `account` creates one for each attempt, and instant-acme sends all its requests through it. instant-acme's own client has
//! no deadline and no bound for the response, and drops the `Retry-After` of an error response; this client has all three.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::upstream::ServerRoots;

/// An HTTPS client for one attempt.
pub(super) struct AcmeHttpClient {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    retry_after: RetryAfter,
}

/// The `Retry-After` of the last response, if it was an error response that had one. Clones share the value.
#[derive(Clone, Debug, Default)]
pub(super) struct RetryAfter(Arc<Mutex<Option<Duration>>>);

impl RetryAfter {
    pub(super) fn get(&self) -> Option<Duration> {
        *self.0.lock()
    }

    fn set(&self, retry_after: Option<Duration>) {
        *self.0.lock() = retry_after;
    }
}

/// The reason why there is no usable response, with all causes in one text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TransportError(String);

impl AcmeHttpClient {
    pub(super) fn new(roots: &ServerRoots, retry_after: RetryAfter) -> Self {
        let mut config = roots.client_config().clone();
        // The connector requires an empty list, and sets the protocols itself.
        config.alpn_protocols = Vec::new();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .build();
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            retry_after,
        }
    }
}

impl HttpClient for AcmeHttpClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let (sent, retry_after) = (self.client.request(request), self.retry_after.clone());
        Box::pin(async move {
            let response = timeout(REQUEST_TIMEOUT, async {
                let response = sent.await.map_err(|error| error_chain(&error))?;
                collect(response, &retry_after).await
            });
            let response = match response.await {
                Ok(response) => response,
                Err(_elapsed) => Err(format!("no response within {REQUEST_TIMEOUT:?}")),
            };
            response.map_err(|why| Error::Other(Box::new(TransportError(format!("{host}: {why}")))))
        })
    }
}

/// Reads the whole response, and records its `Retry-After`.
async fn collect(
    response: Response<Incoming>,
    retry_after: &RetryAfter,
) -> Result<BytesResponse, String> {
    let (parts, body) = response.into_parts();
    let is_error = parts.status.is_client_error() || parts.status.is_server_error();
    retry_after.set(if is_error {
        parse_retry_after(&parts.headers, SystemTime::now())
    } else {
        None
    });
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| error_chain(&*error))?.to_bytes();
    // An error response that is no problem document comes from a proxy or a portal in between. Report its status, because
    // instant-acme would only report that the body is not JSON.
    let is_json = |value: &HeaderValue| value.as_bytes().windows(4).any(|part| part == b"json");
    if is_error && !parts.headers.get(CONTENT_TYPE).is_some_and(is_json) {
        return Err(format!("responded {}", parts.status));
    }
    Ok(BytesResponse {
        parts,
        body: Box::new(body),
    })
}

/// Parses `Retry-After`, which is a number of seconds or a date (RFC 9110 section 10.2.3).
fn parse_retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

fn error_chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The longest wait for the whole response to one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest accepted response body in bytes; a certificate chain has about 10 KiB.
const MAX_BODY_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", Some(59)),
            ("Fri, 31 Dec 1999 23:58:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            assert_eq!(
                parse_retry_after(&headers, now),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
        assert_eq!(parse_retry_after(&HeaderMap::new(), now), None);
    }
}
