//! A client of a registry behind TLS: one connection per request; a request without a response is an error.
//!
//! `check` uses it. The client trusts a single CA, follows no redirect and repeats no request.

use std::net::SocketAddr;
use std::sync::Arc;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Builder;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Failure;
use crate::content::Pieces;
use crate::setup::RunningProxy;

/// A client of one proxy, with or without a password.
pub(crate) struct Client {
    address: SocketAddr,
    host: String,
    connector: TlsConnector,
    authorization: Option<HeaderValue>,
}

/// A complete response.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    /// A client without credentials.
    pub(crate) fn anonymous(proxy: &RunningProxy) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&proxy.ca)?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            address: proxy.address,
            host: proxy.host(),
            connector: TlsConnector::from(Arc::new(config)),
            authorization: None,
        })
    }

    /// A client with a user name and a password.
    pub(crate) fn named(proxy: &RunningProxy, user: &str, password: &str) -> Result<Self, Failure> {
        let credentials = Base64::encode_string(format!("{user}:{password}").as_bytes());
        let authorization = HeaderValue::try_from(format!("Basic {credentials}"))?;
        Ok(Self {
            authorization: Some(authorization),
            ..Self::anonymous(proxy)?
        })
    }

    /// Begins a request, for [`Self::send`]. `target` is a path, or a URL of which only path and query are used.
    pub(crate) fn request(&self, method: Method, target: &str) -> Result<Builder, Failure> {
        let uri: Uri = target.parse()?;
        let path = uri.path_and_query().ok_or("a request needs a path")?;
        let mut request = Request::builder()
            .method(method)
            .uri(path.as_str())
            .header(header::HOST, &self.host);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        Ok(request)
    }

    pub(crate) async fn send(&self, request: Builder, body: Pieces) -> Result<Reply, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost")?;
        let stream = TokioIo::new(self.connector.connect(name, stream).await?);
        let (mut sender, connection) = http1::handshake(stream).await?;
        // An error of the connection also ends the response, where it is reported.
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.body(body)?).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Sends a request without a body.
    pub(crate) async fn ask(&self, method: Method, target: &str) -> Result<Reply, Failure> {
        let request = self.request(method, target)?;
        self.send(request, Pieces::default()).await
    }
}

impl Reply {
    /// The value of a field that must be present exactly once.
    pub(crate) fn field(&self, name: impl Into<HeaderName>) -> Result<&str, Failure> {
        let name = name.into();
        let mut values = self.headers.get_all(&name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value.to_str()?),
            (None, _) => Err(format!("the answer has no {name}").into()),
            _ => Err(format!("the answer has {name} more than once").into()),
        }
    }

    /// Returns an error with the content of the response unless its status is `expected`.
    pub(crate) fn expect_status(self, status: StatusCode) -> Result<Self, Failure> {
        if self.status == status {
            return Ok(self);
        }
        let said = String::from_utf8_lossy(&self.body);
        Err(format!("expected {status}, got {}: {said}", self.status).into())
    }

    /// The code of the OCI error body.
    pub(crate) fn code(&self) -> Result<String, Failure> {
        let body: Value = serde_json::from_slice(&self.body)?;
        let code = body.pointer("/errors/0/code").and_then(Value::as_str);
        Ok(code.ok_or("the answer reports no error")?.to_owned())
    }
}
