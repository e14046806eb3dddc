//! A request that can be sent in both HTTP versions.

use base64ct::{Base64, Encoding};

use super::{Client, Proxy, TestResponse, h2};

/// The HTTP version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

impl HttpVersion {
    pub(crate) const BOTH: [Self; 2] = [Self::Http1, Self::Http2];
}

/// A builder for a request.
#[derive(Clone, Debug)]
pub(crate) struct TestRequest {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Option<Vec<u8>>,
    /// Whether the body is chunked on HTTP/1; on HTTP/2, the request then has no Content-Length.
    pub(crate) is_chunked: bool,
}

impl TestRequest {
    /// A request without credentials.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: "localhost".to_owned(),
            headers: Vec::new(),
            body: None,
            is_chunked: false,
        }
    }

    /// A request with credentials that [`super::config`] accepts.
    pub(crate) fn alice(method: &str, target: &str) -> Self {
        Self::new(method, target).basic_auth(b"alice:pw")
    }

    pub(crate) fn basic_auth(self, credentials: &[u8]) -> Self {
        let value = format!("Basic {}", Base64::encode_string(credentials));
        self.header("authorization", value)
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let pair = (name.to_owned(), value.as_ref().to_vec());
        self.headers.push(pair);
        self
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) fn chunked(mut self) -> Self {
        self.is_chunked = true;
        self
    }

    /// The header section in HTTP/1 format.
    pub(crate) fn head(&self) -> Vec<u8> {
        let first = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let mut head = first.into_bytes();
        if !self.host.is_empty() {
            head.extend(format!("Host: {}\r\n", self.host).bytes());
        }
        for (name, value) in &self.headers {
            head.extend(name.bytes().chain(*b": "));
            head.extend(value);
            head.extend(b"\r\n");
        }
        match &self.body {
            _ if self.is_chunked => head.extend(b"Transfer-Encoding: chunked\r\n"),
            Some(body) => head.extend(format!("Content-Length: {}\r\n", body.len()).bytes()),
            None => {}
        }
        head.extend(b"\r\n");
        head
    }

    /// The body in HTTP/1 format, with chunks of at most 64 KiB.
    pub(crate) fn framed_body(&self) -> Vec<u8> {
        let body = self.body.as_deref().unwrap_or_default();
        if !self.is_chunked {
            return body.to_vec();
        }
        let mut framed = Vec::with_capacity(body.len() + body.len() / 512);
        for piece in body.chunks(64 * 1024) {
            framed.extend(chunk(piece));
        }
        framed.extend(b"0\r\n\r\n");
        framed
    }
}

/// One chunk in HTTP/1 format.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.extend(bytes);
    framed.extend(b"\r\n");
    framed
}

/// Sends a request on a new connection and reads the response. Must not be called inside a runtime.
pub(crate) fn exchange(proxy: &Proxy, http: HttpVersion, request: &TestRequest) -> TestResponse {
    match http {
        HttpVersion::Http1 => Client::connect(proxy).exchange(request),
        HttpVersion::Http2 => {
            h2::block_on(async { h2::H2Client::connect(proxy).await.exchange(request).await })
        }
    }
}

/// Sends `GET /v2/` with the credentials of alice as [`exchange`] does, and returns the status of the response.
pub(crate) fn ping(proxy: &Proxy, http: HttpVersion) -> u16 {
    exchange(proxy, http, &TestRequest::alice("GET", "/v2/")).status
}
