//! The token endpoint: who gives a password, or none, gets a token for what he may do of what he asks.
//!
//! `service` calls it for the one path of a route in token mode. Fewer rights than were asked for are no error, not
//! even none at all (distribution, "Token Authentication Specification"): the request that needs them is refused later.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, request};
use http_body::Body as _;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::{ConcurrencyLimits, check_expectation};
use crate::access::Access;
use crate::access_log::Record;
use crate::auth::TokenService;
use crate::auth::token::IssuedToken;
use crate::auth::token::request::TokenRequest;
use crate::body::{self, Body};
use crate::net::addr::ClientAddr;
use crate::rejection::{Rejection, ResponseFormat};
use crate::target::Target;

/// A request at the endpoint.
pub(super) struct TokenEndpointRequest<'a> {
    parts: &'a request::Parts,
    query: Option<&'a str>,
    client: ClientAddr,
    body: Body,
    limiters: &'a ConcurrencyLimits,
}

impl<'a> TokenEndpointRequest<'a> {
    pub(super) fn new(
        parts: &'a request::Parts,
        target: &'a Target,
        client: ClientAddr,
        body: Body,
        limiters: &'a ConcurrencyLimits,
    ) -> Self {
        Self {
            parts,
            query: target.query(),
            client,
            body,
            limiters,
        }
    }
}

/// By GET with Basic credentials or none, as most clients ask; by POST with a form, as containerd asks first.
pub(super) async fn answer(
    tokens: TokenService<'_>,
    access: &Access,
    asking: TokenEndpointRequest<'_>,
    record: &mut Record,
    manner: &mut ResponseFormat,
) -> Result<Response<Body>, Rejection> {
    let TokenEndpointRequest {
        parts,
        query,
        client,
        body,
        limiters,
    } = asking;
    manner.registry = true;
    manner.challenge = Some(tokens.challenge());
    tokens.admit(client)?;
    let (identity, scope) = match parts.method {
        Method::GET => {
            let proved = tokens.authenticate(&parts.headers, client).await;
            let identity = proved.inspect_err(|_| {
                record.attempted_user(tokens.known_user(&parts.headers));
            })?;
            record.user(identity.name());
            (
                identity,
                parse(query.unwrap_or_default().as_bytes())?.scope(),
            )
        }
        Method::POST => {
            check_expectation(&parts.headers)?;
            let entered = limiters.acquire_token_form(client)?;
            let form = parse(&read(body).await?)?;
            drop(entered);
            let scope = form.scope();
            let known_user = tokens.known_user_of(&form);
            let proved = tokens.authenticate_form(form, client).await;
            let identity = proved.inspect_err(|_| record.attempted_user(known_user))?;
            record.user(identity.name());
            (identity, scope)
        }
        _ => return Err(Rejection::TokenMethod),
    };
    let granted = access.grant(&identity, scope);
    let issued = tokens.issue(&identity, &granted, SystemTime::now())?;
    Ok(response(&issued))
}

fn parse(text: &[u8]) -> Result<TokenRequest, Rejection> {
    TokenRequest::parse(text).map_err(|malformed| Rejection::Auth(malformed.into()))
}

/// A form that is small and comes soon. It holds a password, so the copy is wiped.
async fn read(mut body: Body) -> Result<Zeroizing<Vec<u8>>, body::Error> {
    let mut text = Zeroizing::new(Vec::with_capacity(FORM));
    let reading = async {
        while let Some(frame) = next(&mut body).await? {
            if text.len() + frame.len() > FORM {
                return Err(body::Error::TooLarge { limit: FORM as u64 });
            }
            text.extend_from_slice(&frame);
        }
        Ok(())
    };
    let read = tokio::time::timeout(FORM_WAIT, reading).await;
    read.map_err(|_| body::Error::Idle(FORM_WAIT))??;
    Ok(text)
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, body::Error> {
    let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
    let frame = frame.transpose()?;
    // A body carries data frames only.
    Ok(frame.and_then(|frame| frame.into_data().ok()))
}

/// As the specification has it, under both names of the token.
fn response(issued: &IssuedToken) -> Response<Body> {
    let answer = json!({
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.lifetime.as_secs(),
        "issued_at": OffsetDateTime::from(issued.at).format(&Rfc3339).ok(),
    });
    let bytes = answer.to_string().into_bytes();
    let length = HeaderValue::from(bytes.len());
    let mut response = Response::new(Body::full(bytes));
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_LENGTH, length),
    ] {
        headers.insert(name, value);
    }
    response
}

/// Bytes of a form: a password of 4 KiB with every byte escaped, and a scope.
const FORM: usize = 20 * 1024;
/// For all of it.
const FORM_WAIT: Duration = Duration::from_secs(30);
