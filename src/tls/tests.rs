//! Handshakes with a rustls client over an in-memory pipe, and with openssl over a socket.

use std::sync::{Arc, LazyLock};

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Output;
use std::task::{Context, Poll};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any};
use proptest::sample::Index;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use rustls::client::{ClientConfig, ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::{
    AlertDescription, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    SupportedProtocolVersion, version,
};
use rustls_pki_types::{CertificateDer, ServerName};
use time::OffsetDateTime;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client};

use super::crypto_provider::is_aes_128;
use super::self_signed::{LocalCa, in_memory, load_or_create};
use super::*;
use crate::metrics::{AlertSender, TlsAlert};
use crate::net::listener::ListenAddr;

pub(in crate::tls) type Client = client::TlsStream<DuplexStream>;
type Failed = HandshakeError<DuplexStream>;

/// An address that no site names.
pub(in crate::tls) fn unnamed_listener() -> &'static ListenAddr {
    static LISTENER: LazyLock<ListenAddr> = LazyLock::new(|| ListenAddr::Named("any".to_owned()));
    &LISTENER
}

/// A CA, from which sites get their certificates and which clients trust, and the ticket keys of one process.
pub(in crate::tls) struct TestPki {
    ca: LocalCa,
    tickets: TicketKeys,
}

impl TestPki {
    pub(in crate::tls) fn new() -> Self {
        Self {
            ca: in_memory(now()).unwrap(),
            tickets: TicketKeys::new().unwrap(),
        }
    }

    fn site(&self, hosts: &[&str]) -> TlsSite {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let pair = self.ca.issue(&hosts, now()).unwrap();
        TlsSite {
            hosts,
            listen: None,
            slot: CertSlot::new(pair, now()),
            client_ca: None,
        }
    }

    pub(in crate::tls) fn tls(&self, sites: &[&[&str]]) -> TlsConfigs {
        self.tls_from(MinVersion::V1_2, sites)
    }

    fn tls_from(&self, min_version: MinVersion, sites: &[&[&str]]) -> TlsConfigs {
        let sites = sites.iter().map(|hosts| self.site(hosts)).collect();
        TlsConfigs::new(&Settings { min_version }, sites, &self.tickets).unwrap()
    }

    pub(in crate::tls) fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> ClientConfig {
        client_of(self.ca.certificate(), versions, alpn)
    }

    fn any_client(&self) -> ClientConfig {
        self.client(rustls::ALL_VERSIONS, &[])
    }
}

/// A client that trusts only this root certificate.
pub(in crate::tls) fn client_of(
    root: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// The number of corrupted ClientHellos in one run.
const CORRUPTED_HELLOS: usize = 2000;

/// Performs a handshake, then sends one byte to the client, so that the client has processed the session tickets before it.
pub(in crate::tls) async fn handshake_over<IO: AsyncRead + AsyncWrite + Unpin>(
    (near, far): (DuplexStream, IO),
    tls: &TlsConfigs,
    config: &ClientConfig,
    name: &str,
) -> (io::Result<Client>, Result<TlsInfo, HandshakeError<IO>>) {
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = async {
        let mut stream = connector.connect(name, near).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let server = async {
        let mut accepted = accept(far, tls, unnamed_listener()).await?;
        accepted
            .stream
            .write_all(b"x")
            .await
            .map_err(HandshakeError::Io)?;
        accepted.stream.flush().await.map_err(HandshakeError::Io)?;
        Ok(accepted.info)
    };
    tokio::join!(client, server)
}

async fn handshake(tls: &TlsConfigs, config: &ClientConfig, name: &str) -> (Client, TlsInfo) {
    let (client, info) = handshake_over(duplex(4096), tls, config, name).await;
    (client.unwrap(), info.unwrap())
}

/// Performs a handshake, and returns whether it was resumed.
async fn handshake_kind(tls: &TlsConfigs, config: &ClientConfig, name: &str) -> HandshakeKind {
    let (client, _) = handshake(tls, config, name).await;
    client.get_ref().1.handshake_kind().unwrap()
}

fn server_certificate(client: &Client) -> CertificateDer<'static> {
    client.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// Sends raw bytes, and returns the result of the handshake and the bytes of the response.
async fn response_to(tls: &TlsConfigs, bytes: &[u8]) -> (Result<TlsInfo, Failed>, Vec<u8>) {
    let (mut near, far) = duplex(1 << 17);
    near.write_all(bytes).await.unwrap();
    let accepted = accept(far, tls, unnamed_listener())
        .await
        .map(|accepted| accepted.info);
    let mut response = Vec::new();
    if !matches!(accepted, Err(HandshakeError::PlainHttp(_))) {
        near.read_to_end(&mut response).await.unwrap();
    }
    (accepted, response)
}

#[tokio::test]
async fn alpn_prefers_http2_and_may_be_absent() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    let cases: [(&[&str], bool); 4] = [
        (&["http/1.1", "h2"], true),
        (&["h2"], true),
        (&["http/1.1"], false),
        (&[], false),
    ];
    for (offered, is_http2) in cases {
        let config = pki.client(rustls::ALL_VERSIONS, offered);
        let (client, info) = handshake(&tls, &config, "a.test").await;
        let expected = TlsInfo {
            sni: Some("a.test".into()),
            version: "TLSv1.3",
            is_http2,
            certificate: None,
        };
        assert_eq!(info, expected, "{offered:?}");
        let negotiated = client.get_ref().1.alpn_protocol();
        let expected: Option<&[u8]> = match (offered.is_empty(), is_http2) {
            (true, _) => None,
            (_, true) => Some(b"h2"),
            (_, false) => Some(b"http/1.1"),
        };
        assert_eq!(negotiated, expected);
    }
}

#[tokio::test]
async fn unknown_alpn_protocols_are_rejected() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    let config = pki.client(rustls::ALL_VERSIONS, &["spdy/3", "acme-tls/1"]);
    let (client, info) = handshake_over(duplex(4096), &tls, &config, "a.test").await;
    assert!(matches!(
        info,
        Err(HandshakeError::Tls(failure)) if failure.error == rustls::Error::NoApplicationProtocol
    ));
    let received = client.unwrap_err().downcast::<rustls::Error>().unwrap();
    let alert = AlertDescription::NoApplicationProtocol;
    assert_eq!(received, rustls::Error::AlertReceived(alert));
}

#[tokio::test]
async fn each_name_gets_its_certificate() {
    let pki = TestPki::new();
    let sites = vec![
        pki.site(&["First.test", "10.0.0.1"]),
        pki.site(&["b.test", "*.b.test"]),
        pki.site(&["special.b.test", "b.test"]),
        pki.site(&["*"]),
    ];
    let leaves: Vec<_> = sites
        .iter()
        .map(|s| s.slot.current().unwrap().chain()[0].clone())
        .collect();
    let tls = TlsConfigs::new(&Settings::default(), sites, &pki.tickets).unwrap();
    for (name, site) in [
        ("FIRST.test", 0),
        ("b.test", 1),
        ("x.B.test", 1),
        ("special.b.test", 2),
        ("10.0.0.1", 0),
    ] {
        let (client, _) = handshake(&tls, &pki.any_client(), name).await;
        assert_eq!(server_certificate(&client), leaves[site], "{name}");
    }
    let index = |name: Option<&str>| {
        let chosen = tls.choose(name);
        let sites = [Some("first.test"), Some("b.test"), Some("special.b.test")];
        let same = |known: &Option<&str>| Arc::ptr_eq(&chosen, &tls.choose(*known));
        sites.iter().position(same).unwrap_or(3)
    };
    assert_eq!(index(None), 0);
    assert_eq!(index(Some("x.b.test.")), 1);
    for other in ["x.y.b.test", "unknown", "", "*", "..b.test"] {
        assert_eq!(index(Some(other)), 3, "{other}");
    }
}

#[tokio::test]
async fn without_a_catch_all_site_unknown_names_get_the_first_site() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"], &["*.b.test"]]);
    let first = tls.choose(None);
    for name in ["unknown", "b.test", "x.y.b.test"] {
        assert!(Arc::ptr_eq(&first, &tls.choose(Some(name))), "{name}");
    }
    assert!(!Arc::ptr_eq(&first, &tls.choose(Some("x.b.test"))));
}

#[test]
fn an_address_has_the_certificates_of_its_own_sites() {
    let pki = TestPki::new();
    let address = |port: u16| ListenAddr::Address(([127, 0, 0, 1], port).into());
    let site = |host, listen: Option<u16>| TlsSite {
        listen: listen.map(|port| vec![address(port)]),
        ..pki.site(&[host])
    };
    let sites = vec![
        site("a.test", Some(1)),
        site("b.test", None),
        site("a.test", Some(2)),
    ];
    let tls = TlsConfigs::new(&Settings::default(), sites, &pki.tickets).unwrap();
    let selected = |port, name| {
        let selected = tls.select(&address(port), name)?;
        Some(Arc::as_ptr(&selected.config))
    };
    let (first, second, third) = (
        selected(1, None),
        selected(1, Some("b.test")),
        selected(2, Some("a.test")),
    );
    assert!(first != second && second != third && first != third);
    for (port, name, expected) in [
        (1, Some("a.test"), first),
        (1, Some("x.test"), first),
        (2, None, second),
        (2, Some("b.test"), second),
        (3, None, second),
        (3, Some("a.test"), second),
    ] {
        assert_eq!(selected(port, name), expected, "{name:?} on {port}");
    }
    let tls = TlsConfigs::new(
        &Settings::default(),
        vec![site("a.test", Some(1))],
        &pki.tickets,
    );
    assert!(tls.unwrap().select(&address(3), None).is_none());
}

/// A stream that returns one byte per read, and `Poll::Pending` before each.
struct OneByteAtATime {
    io: DuplexStream,
    ready: bool,
}

impl AsyncRead for OneByteAtATime {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ready = !self.ready;
        if !self.ready {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut one = ReadBuf::new(buffer.initialize_unfilled_to(1));
        let done = Pin::new(&mut self.io).poll_read(context, &mut one);
        let read = one.filled().len();
        buffer.advance(read);
        done
    }
}

impl AsyncWrite for OneByteAtATime {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[tokio::test]
async fn a_client_hello_in_single_bytes_is_accepted() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["first.test"], &["b.test"]]);
    let config = pki.client(rustls::ALL_VERSIONS, &["h2"]);
    let (near, far) = duplex(4096);
    let pipe = (
        near,
        OneByteAtATime {
            io: far,
            ready: false,
        },
    );
    let (client, info) = handshake_over(pipe, &tls, &config, "b.test").await;
    client.unwrap();
    assert_eq!(info.unwrap().sni.as_deref(), Some("b.test"));
}

#[tokio::test]
async fn a_client_hello_in_small_records_is_accepted() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["first.test"], &["b.test"]]);
    let mut config = pki.any_client();
    config.max_fragment_size = Some(64);
    let (client, info) = handshake(&tls, &config, "b.test").await;
    assert_eq!(info.sni.as_deref(), Some("b.test"));
    let (other, _) = handshake(&tls, &pki.any_client(), "b.test").await;
    assert_eq!(server_certificate(&client), server_certificate(&other));
}

#[tokio::test]
async fn min_version_is_enforced() {
    let pki = TestPki::new();
    let old = pki.client(&[&version::TLS12], &["h2"]);
    let (_, info) = handshake(&pki.tls(&[&["a.test"]]), &old, "a.test").await;
    assert_eq!((info.version, info.is_http2), ("TLSv1.2", true));

    let strict = pki.tls_from(MinVersion::V1_3, &[&["a.test"]]);
    let (client, info) = handshake_over(duplex(4096), &strict, &old, "a.test").await;
    assert!(matches!(info, Err(HandshakeError::Tls(_))), "{info:?}");
    let received = client.unwrap_err().downcast::<rustls::Error>().unwrap();
    let alert = AlertDescription::ProtocolVersion;
    assert_eq!(received, rustls::Error::AlertReceived(alert));
    let (_, info) = handshake(&strict, &pki.any_client(), "a.test").await;
    assert_eq!(info.version, "TLSv1.3");
}

/// Returns the ClientHello of an old client, with this version and this cipher suite.
fn old_hello(version: u16, suite: u16) -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 6, 0, 4, 4, 3, 4, 1, // signature_algorithms: ecdsa and rsa with sha256
    ];
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.push(0); // no session
    body.extend([0, 2]);
    body.extend(suite.to_be_bytes());
    body.extend([1, 0]); // no compression
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}

#[tokio::test]
async fn old_versions_and_weak_cipher_suites_are_rejected() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    let good = 0xc02b; // ECDHE-ECDSA-AES128-GCM-SHA256
    for (what, hello, alert) in [
        ("TLS 1.1", old_hello(0x0302, good), 70),
        ("TLS 1.0", old_hello(0x0301, good), 70),
        ("SSL 3", old_hello(0x0300, good), 70),
        ("CBC", old_hello(0x0303, 0xc009), 40),
        ("RSA key exchange", old_hello(0x0303, 0x009c), 40),
        ("RC4", old_hello(0x0303, 0x0005), 40),
        ("null", old_hello(0x0303, 0x0002), 40),
    ] {
        let (info, response) = response_to(&tls, &hello).await;
        assert!(
            matches!(info, Err(HandshakeError::Tls(_))),
            "{what}: {info:?}"
        );
        assert_eq!(response[..], [21, 3, 3, 0, 2, 2, alert], "{what}");
    }
    // The same ClientHello with a supported suite gets a ServerHello, so the rejections above have the claimed reasons.
    let (mut near, far) = duplex(1 << 16);
    near.write_all(&old_hello(0x0303, good)).await.unwrap();
    let serve = async {
        accept(far, &tls, unnamed_listener())
            .await
            .map(|accepted| accepted.info)
    };
    let client = async {
        let first = near.read_u8().await.unwrap();
        drop(near);
        first
    };
    let (info, first) = tokio::join!(serve, client);
    assert_eq!(first, 22);
    assert!(matches!(info, Err(HandshakeError::Closed)), "{info:?}");
}

#[tokio::test]
async fn plain_http_is_recognized_and_can_still_get_a_response() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    for start in [
        "G",
        "GET /v2/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (mut near, far) = duplex(4096);
        near.write_all(start.as_bytes()).await.unwrap();
        let Err(HandshakeError::PlainHttp(mut io)) = accept(far, &tls, unnamed_listener()).await
        else {
            panic!("{start:?} is plain HTTP");
        };
        io.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        drop(io);
        let mut response = String::new();
        near.read_to_string(&mut response).await.unwrap();
        assert_eq!(response, "HTTP/1.1 400 Bad Request\r\n");
    }
}

#[tokio::test]
async fn a_first_record_without_client_hello_gets_an_alert_and_an_early_close_is_no_failure() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    let unexpected = TlsAlert::UnexpectedMessage;
    let decode = TlsAlert::DecodeError;
    let endless = [&b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"[..], &[0; 16_380]].concat();
    let empty = b"\x16\x03\x01\x00\x00".repeat(100);
    for (what, garbage, alert, number) in [
        (
            "application data",
            &b"\x17\x03\x03\x00\x05hello"[..],
            unexpected,
            10,
        ),
        (
            "ChangeCipherSpec",
            b"\x14\x03\x03\x00\x01\x01",
            unexpected,
            10,
        ),
        (
            "a ServerHello",
            b"\x16\x03\x01\x00\x04\x0e\x00\x00\x00",
            unexpected,
            10,
        ),
        (
            "half a message, then data",
            b"\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x01x",
            unexpected,
            10,
        ),
        ("empty records", &empty, decode, 50),
        (
            "an unknown content type",
            b"\x00\x01\x02\x03\x04\x05",
            decode,
            50,
        ),
        (
            "a ServerHello as the first message",
            b"\x16\x03\x01\x00\x05\x02\x00\x00\x00\x00",
            decode,
            50,
        ),
        ("a version from the future", &[0x16; 64], decode, 50),
        (
            "an oversized record",
            b"\x16\x03\x01\xff\xff\x01\x00",
            decode,
            50,
        ),
        ("an oversized ClientHello", &endless, decode, 50),
        ("text", b"get / http/1.0\r\n\r\n", decode, 50),
        ("zeros", &[0; 4096], decode, 50),
    ] {
        let (info, response) = response_to(&tls, garbage).await;
        let Err(HandshakeError::Tls(failure)) = info else {
            panic!("{what}: {info:?}");
        };
        assert_eq!(response, [21, 3, 3, 0, 2, 2, number], "{what}: {failure:?}");
        let alert_sent = (failure.sender, failure.alert);
        assert_eq!(
            alert_sent,
            (AlertSender::Proxy, alert),
            "{what}: {failure:?}"
        );
    }
    // There is no response to an alert.
    let (info, response) = response_to(&tls, b"\x15\x03\x03\x00\x02\x02\x30").await;
    let Err(HandshakeError::Tls(failure)) = info else {
        panic!("{info:?}");
    };
    let alert_sent = (failure.sender, failure.alert);
    assert_eq!(alert_sent, (AlertSender::Client, TlsAlert::UnknownCa));
    assert!(response.is_empty(), "{response:?}");
    for cut in [&b""[..], b"\x16\x03\x01", &old_hello(0x0303, 0xc02b)[..20]] {
        let (near, far) = duplex(4096);
        let (_, ()) = tokio::join!(
            async {
                assert!(matches!(
                    accept(far, &tls, unnamed_listener()).await,
                    Err(HandshakeError::Closed)
                ))
            },
            async {
                let mut near = near;
                near.write_all(cut).await.unwrap();
            }
        );
    }
}

/// Returns a ClientHello with the server name `name`, which may be invalid.
fn client_hello_for(pki: &TestPki, name: &[u8]) -> Vec<u8> {
    let config = Arc::new(pki.any_client());
    let placeholder = "x".repeat(name.len());
    let server_name = ServerName::try_from(placeholder.clone()).unwrap();
    let mut client = rustls::ClientConnection::new(config, server_name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let windows = hello.windows(name.len());
    let at = windows
        .clone()
        .position(|bytes| bytes == placeholder.as_bytes());
    let at = at.unwrap();
    hello[at..at + name.len()].copy_from_slice(name);
    hello
}

#[tokio::test]
async fn an_invalid_server_name_is_reported() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    for name in [
        &b"localhost:8443"[..],
        b"a b.test",
        b"a.test\n2026",
        b"\xff.test",
        b"-.test-",
    ] {
        let (info, response) = response_to(&tls, &client_hello_for(&pki, name)).await;
        let Err(HandshakeError::Tls(failure)) = info else {
            panic!("{name:?}: {info:?}");
        };
        assert_eq!(response, [21, 3, 3, 0, 2, 2, 47], "{failure:?}");
        assert_eq!(failure.alert, TlsAlert::IllegalParameter);
        assert!(failure.reason().contains("no host name"), "{failure}");
        assert_eq!(failure.server_name, Some(name.escape_ascii().to_string()));
    }
    // An IP address as the server name violates RFC 6066. rustls treats it as no name.
    let (near, far) = duplex(1 << 16);
    let (mut reading, mut writing) = tokio::io::split(near);
    writing
        .write_all(&client_hello_for(&pki, b"127.0.0.1"))
        .await
        .unwrap();
    let serve = async {
        accept(far, &tls, unnamed_listener())
            .await
            .map(|accepted| accepted.info)
    };
    let client = async {
        let first = reading.read_u8().await.unwrap();
        drop((reading, writing));
        first
    };
    let (info, first) = tokio::join!(serve, client);
    assert_eq!(first, 22);
    assert!(matches!(info, Err(HandshakeError::Closed)), "{info:?}");
}

#[tokio::test]
async fn the_alert_of_a_client_that_does_not_trust_the_certificate_is_reported() {
    let (pki, other) = (TestPki::new(), TestPki::new());
    let tls = pki.tls(&[&["a.test"]]);
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        let config = other.client(versions, &[]);
        let (_, info) = handshake_over(duplex(4096), &tls, &config, "a.test").await;
        let Err(HandshakeError::Tls(failure)) = info else {
            panic!("{info:?}");
        };
        let alert_sent = (failure.sender, failure.alert);
        assert_eq!(alert_sent, (AlertSender::Client, TlsAlert::UnknownCa));
        assert_eq!(failure.server_name.as_deref(), Some("a.test"));
        assert_eq!(
            failure.reason(),
            "the client does not trust the certificate"
        );
    }
}

/// Returns the ClientHello of a current client, with a hybrid key share, and that of an old client.
fn client_hellos(pki: &TestPki) -> [Vec<u8>; 2] {
    let config = Arc::new(pki.client(rustls::ALL_VERSIONS, &["h2", "http/1.1"]));
    let name = ServerName::try_from("a.test").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    [hello, old_hello(0x0303, 0xc02b)]
}

#[tokio::test]
async fn no_corrupted_client_hello_causes_a_panic_or_a_connection() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    let hellos = client_hellos(&pki);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(1));
    let change = (any::<Index>(), any::<u8>(), 0..3_u8);
    let changes = (any::<bool>(), vec(change, 1..6), any::<Index>());
    for _ in 0..CORRUPTED_HELLOS {
        let (is_old, changes, end) = changes.new_tree(&mut runner).unwrap().current();
        let mut bytes = hellos[usize::from(is_old)].clone();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                _ => bytes.insert(at, byte),
            }
        }
        if end.index(4) == 0 {
            bytes.truncate(end.index(bytes.len()));
        }
        let (mut near, far) = duplex(1 << 17);
        near.write_all(&bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let accepted = timeout(
            Duration::from_secs(5),
            accept(far, &tls, unnamed_listener()),
        )
        .await;
        // No client key is involved, so no ClientHello can lead to a connection.
        let result = accepted
            .expect("the handshake ends")
            .map(|accepted| accepted.info);
        assert!(result.is_err(), "{result:?} of {bytes:02x?}");
    }
    let (client, _) = handshake(&tls, &pki.any_client(), "a.test").await;
    assert!(client.get_ref().1.protocol_version().is_some());
}

#[tokio::test]
async fn traffic_keys_can_be_updated_repeatedly() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    let (near, far) = duplex(1 << 17);
    let connector = TlsConnector::from(Arc::new(pki.client(&[&version::TLS13], &[])));
    let name = ServerName::try_from("a.test").unwrap();
    let (client, server) = tokio::join!(
        connector.connect(name, near),
        accept(far, &tls, unnamed_listener())
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap().stream);
    for round in 0..40 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_u8(round).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), round);
        server.write_u8(round).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), round);
    }
}

#[tokio::test]
async fn aes_128_and_the_clients_first_group_are_selected() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    for versions in [rustls::ALL_VERSIONS, &[&version::TLS12]] {
        let (client, _) = handshake(&tls, &pki.client(versions, &[]), "a.test").await;
        let connection = client.get_ref().1;
        assert!(is_aes_128(&connection.negotiated_cipher_suite().unwrap()));
        let hybrid = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group == NamedGroup::X25519MLKEM768, hybrid, "{group:?}");
    }
}

#[tokio::test]
async fn sessions_are_resumed_after_a_reload_but_not_after_a_restart() {
    let pki = TestPki::new();
    for versions in [rustls::ALL_VERSIONS, &[&version::TLS12]] {
        let config = pki.client(versions, &["h2"]);
        let tls = pki.tls(&[&["a.test"], &["b.test"]]);
        assert_ne!(
            handshake_kind(&tls, &config, "a.test").await,
            HandshakeKind::Resumed
        );
        assert_eq!(
            handshake_kind(&tls, &config, "a.test").await,
            HandshakeKind::Resumed
        );
        let reloaded = pki.tls(&[&["a.test"]]);
        assert_eq!(
            handshake_kind(&reloaded, &config, "a.test").await,
            HandshakeKind::Resumed
        );
        let restarted = TestPki {
            tickets: TicketKeys::new().unwrap(),
            ca: TestPki::new().ca,
        };
        let sites = vec![pki.site(&["a.test"])];
        let other = TlsConfigs::new(&Settings::default(), sites, &restarted.tickets).unwrap();
        assert_ne!(
            handshake_kind(&other, &config, "a.test").await,
            HandshakeKind::Resumed
        );
    }
}

/// A session store that offers the ticket of one name to every other name.
#[derive(Debug)]
struct SharedSessionStore(ClientSessionMemoryCache);

fn one_name() -> ServerName<'static> {
    ServerName::try_from("any.test").unwrap()
}

impl ClientSessionStore for SharedSessionStore {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(one_name(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&one_name())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: client_session::Tls12) {
        self.0.set_tls12_session(one_name(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<client_session::Tls12> {
        self.0.tls12_session(&one_name())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&one_name());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: client_session::Tls13) {
        self.0.insert_tls13_ticket(one_name(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<client_session::Tls13> {
        self.0.take_tls13_ticket(&one_name())
    }
}

mod client_session {
    pub(super) use rustls::client::{
        Tls12ClientSessionValue as Tls12, Tls13ClientSessionValue as Tls13,
    };
}

#[tokio::test]
async fn a_ticket_is_accepted_for_its_own_server_name_only() {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"], &["b.test"]]);
    for versions in [rustls::ALL_VERSIONS, &[&version::TLS12]] {
        let mut config = pki.client(versions, &[]);
        let store = SharedSessionStore(ClientSessionMemoryCache::new(8));
        config.resumption = Resumption::store(Arc::new(store));
        assert_ne!(
            handshake_kind(&tls, &config, "a.test").await,
            HandshakeKind::Resumed
        );
        assert_ne!(
            handshake_kind(&tls, &config, "b.test").await,
            HandshakeKind::Resumed
        );
        assert_eq!(
            handshake_kind(&tls, &config, "b.test").await,
            HandshakeKind::Resumed
        );
    }
}

/// Runs the openssl tool in a directory, and returns its standard output.
pub(in crate::tls) fn openssl(dir: &Path, line: &str) -> String {
    let done = std::process::Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("these tests need the openssl tool: install the package openssl");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {line}: {stderr}");
    String::from_utf8(done.stdout).unwrap()
}

/// Runs `openssl s_client` with these arguments, and serves its connection.
pub(in crate::tls) async fn s_client(
    tls: &TlsConfigs,
    dir: &Path,
    line: &str,
) -> (Option<TlsInfo>, Output) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &address])
        .args(line.split_whitespace())
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output();
    let server = async {
        let (io, _) = listener.accept().await.unwrap();
        let mut accepted = accept(io, tls, unnamed_listener()).await.ok()?;
        let mut rest = Vec::new();
        // Read until the client closes the connection. openssl may close it without close_notify.
        let _ = accepted.stream.read_to_end(&mut rest).await;
        Some(accepted.info)
    };
    let (done, info) = tokio::join!(client, server);
    (info, done.expect("these tests need the openssl tool"))
}

#[tokio::test]
async fn openssl_verifies_the_self_signed_site() {
    let dir = tempfile::tempdir().unwrap();
    let pki = TestPki {
        // Writes ca.pem, as an operator gets it.
        ca: load_or_create(dir.path(), now()).unwrap(),
        tickets: TicketKeys::new().unwrap(),
    };
    let tls = pki.tls(&[&["a.test", "*.b.test", "[::1]", "10.0.0.1"]]);
    let trust = "-CAfile ca.pem -verify_return_error -x509_strict";
    for (arguments, accepted) in [
        ("-servername a.test -verify_hostname a.test -alpn h2", true),
        (
            "-servername x.b.test -verify_hostname x.b.test -tls1_2",
            true,
        ),
        ("-noservername -verify_ip ::1", true),
        ("-noservername -verify_ip 10.0.0.1", true),
        ("-servername a.test -verify_hostname c.test", false),
    ] {
        let (info, done) = s_client(&tls, dir.path(), &format!("{trust} {arguments}")).await;
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.success(), accepted, "{arguments}: {stderr}");
        assert_eq!(info.is_some(), accepted, "{arguments}");
    }
}

#[test]
fn early_data_is_never_offered() {
    let pki = TestPki::new();
    for min_version in [MinVersion::V1_2, MinVersion::V1_3] {
        let config = pki.tls_from(min_version, &[&["a.test"]]).choose(None);
        assert_eq!(config.max_early_data_size, 0);
        assert_eq!(config.send_tls13_tickets, 1);
    }
}
