//! HTTPS to a directory: every request has a deadline, every answer a bound, and a wait that the authority asks for is not
//! lost.
//!
//! Made by `account` for each attempt; called by instant-acme alone, whose own client has none of the three.

use parking_lot::Mutex;
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
use tokio::time::timeout;

use crate::upstream::ServerRoots;

/// A client of one directory.
pub(super) struct AcmeHttpClient {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    asked: RetryAfter,
}

/// The last wait that came with a refusal.
#[derive(Clone, Debug, Default)]
pub(super) struct RetryAfter(Arc<Mutex<Option<Duration>>>);

impl RetryAfter {
    pub(super) fn wait(&self) -> Option<Duration> {
        *self.0.lock()
    }

    fn note(&self, wait: Option<Duration>) {
        *self.0.lock() = wait;
    }
}

/// Why there is no answer, with everything that lies below it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TransportError(String);

impl AcmeHttpClient {
    pub(super) fn new(trust: &ServerRoots, asked: RetryAfter) -> Self {
        let mut config = trust.client_config().clone();
        // The connector sets its own.
        config.alpn_protocols = Vec::new();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .build();
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            asked,
        }
    }
}

impl HttpClient for AcmeHttpClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let (sent, asked) = (self.client.request(request), self.asked.clone());
        Box::pin(async move {
            let answer = timeout(DEADLINE, async {
                let response = sent.await.map_err(|error| chain(&error))?;
                collect(response, &asked).await
            });
            let answer = match answer.await {
                Ok(answer) => answer,
                Err(_elapsed) => Err(format!("no answer within {DEADLINE:?}")),
            };
            answer.map_err(|why| Error::Other(Box::new(TransportError(format!("{host}: {why}")))))
        })
    }
}

async fn collect(
    response: Response<Incoming>,
    asked: &RetryAfter,
) -> Result<BytesResponse, String> {
    let (parts, body) = response.into_parts();
    let is_refused = parts.status.is_client_error() || parts.status.is_server_error();
    asked.note(if is_refused {
        wait(&parts.headers, SystemTime::now())
    } else {
        None
    });
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map_err(|error| chain(&*error))?.to_bytes();
    // What is no problem document says at least its status: a proxy or a portal in between answers like this.
    let is_json = |value: &HeaderValue| value.as_bytes().windows(4).any(|part| part == b"json");
    if is_refused && !parts.headers.get(CONTENT_TYPE).is_some_and(is_json) {
        return Err(format!("answered {}", parts.status));
    }
    Ok(BytesResponse {
        parts,
        body: Box::new(body),
    })
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

const DEADLINE: Duration = Duration::from_secs(30);
/// Chains have some 10 KiB.
const LONGEST: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
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
                wait(&headers, now),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
        assert_eq!(wait(&HeaderMap::new(), now), None);
    }
}
