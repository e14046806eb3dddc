//! The token endpoint of a route in token mode: a client that presents a password, or none, gets a token for the part
//! of the requested scope that it may have.
//!
//! Called by `service` for the one path of the endpoint. A token with fewer rights than requested, or with none at
//! all, is no error (distribution, "Token Authentication Specification"): the request that needs the rights is
//! rejected later.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode, request};
use http_body::Body as _;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::concurrency::ConcurrencyLimits;
use super::head_checks::check_expectation;
use super::request_scope::RequestScope;
use crate::access::Access;
use crate::auth::TokenService;
use crate::auth::token::IssuedToken;
use crate::auth::token::request::TokenRequest;
use crate::body::{self, Body, JSON, full_response};
use crate::net::addr::ClientAddr;
use crate::rejection::Rejection;

/// The token endpoint of one route.
pub(super) struct TokenEndpoint<'a> {
    tokens: TokenService<'a>,
    access: &'a Access,
    limits: &'a ConcurrencyLimits,
}

impl<'a> TokenEndpoint<'a> {
    pub(super) fn new(
        tokens: TokenService<'a>,
        access: &'a Access,
        limits: &'a ConcurrencyLimits,
    ) -> Self {
        Self {
            tokens,
            access,
            limits,
        }
    }

    /// Responds to a request by GET with Basic credentials or none, as most clients send it, or by POST with a form,
    /// which containerd tries first.
    pub(super) async fn handle(
        &self,
        parts: &request::Parts,
        query: Option<&str>,
        body: Body,
        client: ClientAddr,
        scope: &mut RequestScope<'_>,
    ) -> Result<Response<Body>, Rejection> {
        let tokens = &self.tokens;
        scope.format.is_registry = true;
        scope.format.challenge = Some(tokens.challenge());
        tokens.check_network(client)?;
        let (identity, token_scope) = match parts.method {
            Method::GET => {
                let identity = tokens
                    .authenticate(&parts.headers, client)
                    .await
                    .inspect_err(|_| {
                        let user = tokens.known_user(&parts.headers);
                        scope.record.set_attempted_user(user);
                    })?;
                scope.record.set_user(identity.name());
                let request = parse_request(query.unwrap_or_default().as_bytes())?;
                (identity, request.scope())
            }
            Method::POST => {
                check_expectation(&parts.headers)?;
                let permit = self.limits.acquire_token_form(client)?;
                let form = parse_request(&read_form(body).await?)?;
                drop(permit);
                let token_scope = form.scope();
                let user = tokens.known_user_of(&form);
                let identity = tokens
                    .authenticate_form(form, client)
                    .await
                    .inspect_err(|_| scope.record.set_attempted_user(user))?;
                scope.record.set_user(identity.name());
                (identity, token_scope)
            }
            _ => return Err(Rejection::TokenMethod),
        };
        let granted = self.access.grant(&identity, token_scope);
        let token = tokens.issue(&identity, &granted, SystemTime::now())?;
        Ok(token_response(&token))
    }
}

/// Parses the parameters of a token request, which have the same syntax in a query and in a form.
fn parse_request(text: &[u8]) -> Result<TokenRequest, Rejection> {
    TokenRequest::parse(text).map_err(|malformed| Rejection::Auth(malformed.into()))
}

/// Reads a form of bounded size within a bounded time. The form may contain a password, so the buffer is wiped when
/// it is dropped.
async fn read_form(mut body: Body) -> Result<Zeroizing<Vec<u8>>, body::Error> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FORM_BYTES));
    let reading = async {
        while let Some(data) = next_data(&mut body).await? {
            if text.len() + data.len() > MAX_FORM_BYTES {
                return Err(body::Error::TooLarge {
                    limit: MAX_FORM_BYTES as u64,
                });
            }
            text.extend_from_slice(&data);
        }
        Ok(())
    };
    let read = tokio::time::timeout(FORM_TIMEOUT, reading).await;
    read.map_err(|_| body::Error::Idle(FORM_TIMEOUT))??;
    Ok(text)
}

async fn next_data(body: &mut Body) -> Result<Option<Bytes>, body::Error> {
    let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
    let frame = frame.transpose()?;
    // A `Body` has data frames only, no trailers.
    Ok(frame.and_then(|frame| frame.into_data().ok()))
}

/// The response of the token specification. It has the token under two names, because clients differ in which one they
/// read.
fn token_response(token: &IssuedToken) -> Response<Body> {
    let body = json!({
        "token": token.token,
        "access_token": token.token,
        "expires_in": token.lifetime.as_secs(),
        "issued_at": OffsetDateTime::from(token.at).format(&Rfc3339).ok(),
    });
    let mut response = full_response(StatusCode::OK, JSON, body.to_string(), false);
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

/// The maximum size of a form: room for a password of 4 KiB in which every byte is escaped, and a scope.
const MAX_FORM_BYTES: usize = 20 * 1024;
/// The maximum time for reading a whole form.
const FORM_TIMEOUT: Duration = Duration::from_secs(30);
