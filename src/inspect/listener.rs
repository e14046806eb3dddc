//! A client of the gate's own listener: TLS to the address of the configuration, one request a connection.
//!
//! Called by `push`. Who answers there must show the very certificate of the configuration, or one of the gate's own CA:
//! whoever else holds the port gets no password.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::bounded_file;

/// Where it is, and by what name it is asked.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) tls: Arc<ClientConfig>,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What is asked; the target is in origin-form.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) target: &'a str,
    pub(super) body: &'a [u8],
}

impl Listener {
    /// What `Host` says.
    pub(super) fn authority(&self) -> String {
        match self.address.port() {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// Asks, and reads the answer to its end.
    pub(super) async fn ask(
        &self,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Reply, String> {
        let asked = timeout(PATIENCE, self.exchange(request, authorization)).await;
        let bytes = asked.map_err(|_elapsed| format!("no answer within {PATIENCE:?}"))??;
        parse(&bytes).ok_or_else(|| "what came is no whole HTTP answer".to_owned())
    }

    async fn exchange(
        &self,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Vec<u8>, String> {
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| format!("{} is no name for a certificate", self.host))?;
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| format!("cannot connect: {error}; does the gate run?"))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let mut stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| format!("no TLS: {error}"))?;
        let head = self.head(request, authorization);
        let written = async {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(request.body).await?;
            stream.flush().await
        };
        written
            .await
            .map_err(|error| format!("it broke off: {error}"))?;
        let mut bytes = Vec::new();
        // Where it ends without a goodbye, the length tells whether all has come.
        let _ = stream.take(MOST).read_to_end(&mut bytes).await;
        Ok(bytes)
    }

    fn head(&self, request: &Request<'_>, authorization: Option<&str>) -> Zeroizing<String> {
        let Request {
            method,
            target,
            body,
        } = request;
        let mut head = Zeroizing::new(format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {}\r\n",
            self.authority(),
            body.len()
        ));
        if let Some(authorization) = authorization {
            head.extend(["Authorization: ", authorization, "\r\n"]);
        }
        head.push_str("\r\n");
        head
    }
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut raw = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = raw.parse(bytes).ok()? else {
        return None;
    };
    let mut headers = HeaderMap::new();
    for field in raw.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    let rest = bytes.get(length..)?;
    let body = match headers.get(header::CONTENT_LENGTH) {
        Some(length) => rest.get(..length.to_str().ok()?.parse().ok()?)?.to_vec(),
        None if headers.contains_key(header::TRANSFER_ENCODING) => chunks(rest)?,
        None => rest.to_vec(),
    };
    Some(Reply {
        status: StatusCode::from_u16(raw.code?).ok()?,
        headers,
        body,
    })
}

fn chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) else {
            return None;
        };
        if size == 0 {
            return Some(body);
        }
        let size = usize::try_from(size).ok()?;
        let end = start.checked_add(size)?;
        body.extend(rest.get(start..end)?);
        rest = rest.get(end..)?.strip_prefix(b"\r\n")?;
    }
}

/// TLS with whoever shows this certificate.
pub(super) fn with_certificate(shown: CertificateDer<'static>) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let same = Same {
        shown,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(same))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// TLS with whoever has a certificate of the CA in this file.
pub(super) fn of_authority(path: &Path) -> Result<Arc<ClientConfig>, String> {
    let text = bounded_file::read(path, MAX_CA)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    if added == 0 {
        return Err(format!("{} holds no CA", path.display()));
    }
    let builder = ClientConfig::builder_with_provider(provider());
    let config = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The configuration says which certificate it is, so there is nothing to be vouched for.
#[derive(Debug)]
struct Same {
    shown: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Same {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.shown {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General(
            "another certificate is shown than the configuration names; does the gate run with it?"
                .to_owned(),
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
/// More than any answer to what is asked here.
const MOST: u64 = 1 << 20;
/// The largest accepted file of CA certificates, in bytes.
const MAX_CA: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_none() {
        let reply = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((reply.status.as_u16(), reply.body), (200, b"hi".to_vec()));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, b"hi!");
        for cut in 0..chunked.len() - 4 {
            assert!(parse(&chunked[..cut]).is_none(), "{cut}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi").is_none());
        assert!(parse(b"").is_none() && parse(b"what").is_none());
    }
}
