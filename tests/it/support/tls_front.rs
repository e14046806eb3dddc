//! A TLS server in front of a fake registry, as an inner nginx would be, or the TLS of the registry itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::Registry;

/// The server name (SNI) of a client, and whether it resumed a session.
type ClientHello = (Option<String>, bool);

/// A running TLS server. Dropping it closes all of its connections.
pub(crate) struct TlsFront {
    runtime: Option<Runtime>,
    port: u16,
    hellos: Arc<Mutex<Vec<ClientHello>>>,
    clients: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

impl TlsFront {
    /// Presents a certificate and relays the bytes to the registry.
    pub(crate) fn start(registry: &Registry, pair: &(String, String)) -> Self {
        Self::start_with(registry, pair, Arc::new(NoClientAuth))
    }

    /// Presents a certificate and requires a client certificate of this CA.
    pub(crate) fn requiring(registry: &Registry, pair: &(String, String), authority: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Self::start_with(registry, pair, verifier.build().unwrap())
    }

    fn start_with(
        registry: &Registry,
        (certificate, key): &(String, String),
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Self {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        let registry_address: SocketAddr = registry.authority().parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let hellos = Arc::default();
        let seen = Arc::clone(&hellos);
        let clients = Arc::default();
        let shown = Arc::clone(&clients);
        runtime.spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, shown) = (Arc::clone(&seen), Arc::clone(&shown));
                tokio::spawn(relay(
                    acceptor.clone(),
                    stream,
                    registry_address,
                    seen,
                    shown,
                ));
            }
        });
        Self {
            runtime: Some(runtime),
            port,
            hellos,
            clients,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// One entry for each completed handshake.
    pub(crate) fn client_hellos(&self) -> Vec<ClientHello> {
        self.hellos.lock().unwrap().clone()
    }

    /// The certificates that clients have presented, one for each handshake.
    pub(crate) fn clients(&self) -> Vec<CertificateDer<'static>> {
        self.clients.lock().unwrap().clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn relay(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    registry_address: SocketAddr,
    hellos: Arc<Mutex<Vec<ClientHello>>>,
    clients: Arc<Mutex<Vec<CertificateDer<'static>>>>,
) {
    // A client that does not trust the certificate aborts the handshake.
    let Ok(mut outer) = acceptor.accept(stream).await else {
        return;
    };
    {
        let session = outer.get_ref().1;
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let hello = (session.server_name().map(str::to_owned), resumed);
        hellos.lock().unwrap().push(hello);
        let shown = session.peer_certificates().unwrap_or_default().first();
        clients.lock().unwrap().extend(shown.cloned());
    }
    let Ok(mut inner) = TcpStream::connect(registry_address).await else {
        return;
    };
    // However the relay ends, both sides are closed.
    let _ = copy_bidirectional(&mut outer, &mut inner).await;
    let _ = outer.shutdown().await;
}
