//! TLS to an upstream: session resumption, and an error for each kind of invalid certificate.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::*;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn make() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn trust(&self) -> ServerRoots {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        ServerRoots::of_file(&path).unwrap()
    }

    fn server(&self, name: &str, years: std::ops::Range<i32>) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Responds to one request on each connection. Returns the port and a count of resumed sessions.
async fn serve(acceptor: Option<TlsAcceptor>) -> (u16, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let resumed = Arc::new(Mutex::new(0));
    let count = Arc::clone(&resumed);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(acceptor) = &acceptor else {
                let _ = stream.write_all(OK.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
                continue;
            };
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let kind = stream.get_ref().1.handshake_kind();
            if kind == Some(rustls::HandshakeKind::Resumed) {
                *count.lock().unwrap() += 1;
            }
            assert_eq!(stream.get_ref().1.server_name(), Some("localhost"));
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.starts_with("GET /v2/ "));
            let last = OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
            stream.write_all(last.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (port, resumed)
}

fn upstream(port: u16, trust: Option<ServerRoots>) -> Upstream {
    let host = "localhost".to_owned();
    let mut settings = settings(Endpoint::Tls { host, port });
    settings.each.trust = trust;
    Upstream::new(settings, 1, &[])
}

#[tokio::test]
async fn a_verified_upstream_responds_and_sessions_are_resumed() {
    let ca = Ca::make();
    let (port, resumed) = serve(Some(ca.server("localhost", 2020..2090))).await;
    let upstream = upstream(port, Some(ca.trust()));
    for _ in 0..3 {
        assert_get_ok(&upstream).await;
    }
    assert_eq!(*resumed.lock().unwrap(), 2);
}

#[tokio::test]
async fn the_error_says_what_is_wrong_with_a_certificate() {
    let (ca, other) = (Ca::make(), Ca::make());
    let now = 2020..2090;
    for (acceptor, trust, expected) in [
        (
            Some(other.server("localhost", now.clone())),
            Some(ca.trust()),
            "localhost: its certificate was not issued by a CA that is trusted here; name the CA's file in upstream.ca",
        ),
        (
            Some(ca.server("elsewhere", now.clone())),
            Some(ca.trust()),
            "its certificate is for another name",
        ),
        (
            Some(ca.server("localhost", 2000..2001)),
            Some(ca.trust()),
            "its certificate has expired",
        ),
        (
            Some(ca.server("localhost", 2089..2090)),
            Some(ca.trust()),
            "its certificate is not valid yet",
        ),
        (
            None,
            Some(ca.trust()),
            "the server does not speak TLS on this port",
        ),
        (
            Some(ca.server("localhost", now.clone())),
            None,
            "no CA is trusted here",
        ),
    ] {
        let (port, _) = serve(acceptor).await;
        let error = upstream(port, trust)
            .send(0, client(), None, get())
            .await
            .err();
        let error = error.expect("an error");
        assert!(matches!(error, Error::Tls(_)), "{error:?}");
        let text = error.with_source();
        assert!(
            text.contains(expected),
            "{text:?} does not contain {expected:?}"
        );
    }
}
