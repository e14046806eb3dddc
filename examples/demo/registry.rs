//! A registry in memory: the distribution API over plain HTTP on a loopback address, without users, like `registry:2`.
//!
//! `main` starts it. This module routes a request to its handler in `blobs`, `uploads` or `manifests`.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tidegate::registry::is_name;
use tokio::net::{TcpListener, TcpStream};

use crate::answer::{Answer, ApiError, is_head, json};
use crate::content::Pieces;
use crate::store::Store;
use crate::{blobs, manifests, uploads};

/// A request with its repository and the rest of its path.
pub(crate) struct Call<'a> {
    pub(crate) store: &'a Arc<Store>,
    pub(crate) head: &'a Parts,
    pub(crate) repository: String,
}

/// Starts a registry that keeps at most `most` bytes. It stops when the runtime is dropped.
pub(crate) async fn start(most: u64) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(accept(listener, Store::new(most)));
    Ok(address)
}

async fn accept(listener: TcpListener, store: Arc<Store>) {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                tokio::spawn(serve(stream, Arc::clone(&store)));
            }
            // Most likely out of file descriptors; connections that close release some.
            Err(_) => tokio::time::sleep(BREATH).await,
        }
    }
}

async fn serve(stream: TcpStream, store: Arc<Store>) {
    let service = service_fn(|request| {
        let store = Arc::clone(&store);
        async move { Ok::<_, Infallible>(answer(&store, request).await) }
    });
    // An error here means that the client closed the connection; no one reads a report of it.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(store: &Arc<Store>, request: Request<Incoming>) -> Answer {
    let (head, mut body) = request.into_parts();
    let mut answer = respond(store, &head, &mut body)
        .await
        .unwrap_or_else(ApiError::into_answer);
    // A client that is still sending does not read yet, so the response follows the end of the request body.
    while let Some(Ok(_)) = body.frame().await {}
    let version = HeaderValue::from_static("registry/2.0");
    answer.headers_mut().insert(API_VERSION, version);
    if is_head(&head) {
        *answer.body_mut() = Pieces::default();
    }
    answer
}

async fn respond(
    store: &Arc<Store>,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Answer, ApiError> {
    let path = head.uri.path().strip_prefix("/v2/");
    let parts: Vec<_> = path.unwrap_or("none").split('/').collect();
    let call = |name: &[&str]| Call::new(store, head, name);
    match parts.as_slice() {
        [""] => read_only(head).map(|()| json(StatusCode::OK, &json!({}))),
        ["_catalog"] => read_only(head).map(|()| manifests::catalog(store, head)),
        [name @ .., "tags", "list"] => {
            read_only(head)?;
            manifests::tags(&call(name)?)
        }
        [name @ .., "manifests", reference] => {
            manifests::answer(&call(name)?, reference, body).await
        }
        [name @ .., "blobs", "uploads", id] => uploads::answer(&call(name)?, id, body).await,
        [name @ .., "blobs", digest] => blobs::answer(&call(name)?, digest),
        _ => Err(ApiError::unknown("UNSUPPORTED", "no such endpoint")),
    }
}

impl<'a> Call<'a> {
    fn new(store: &'a Arc<Store>, head: &'a Parts, name: &[&str]) -> Result<Self, ApiError> {
        let repository = name.join("/");
        if !is_name(&repository) {
            return Err(ApiError::bad("NAME_INVALID", "invalid repository name"));
        }
        Ok(Self {
            store,
            head,
            repository,
        })
    }

    /// The path of a resource of this repository.
    pub(crate) fn path(&self, kind: &str, which: &str) -> String {
        format!("/v2/{}/{kind}/{which}", self.repository)
    }
}

/// The response to a method that the endpoint does not support.
pub(crate) fn wrong_method() -> ApiError {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    ApiError::new(status, "UNSUPPORTED", "the endpoint has no such method")
}

fn read_only(head: &Parts) -> Result<(), ApiError> {
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    is_read.then_some(()).ok_or_else(wrong_method)
}

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// The pause before the next accept after an error.
const BREATH: Duration = Duration::from_millis(100);
