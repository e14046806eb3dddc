//! Handshakes with a rustls client over memory, and with openssl over a socket.

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
use rustls::{AlertDescription, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use time::OffsetDateTime;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client};

use super::self_signed::{LocalCa, in_memory};
use super::*;
use crate::metrics::{AlertSender, TlsAlert};

pub(in crate::tls) type Client = client::TlsStream<DuplexStream>;
type Refused = HandshakeError<DuplexStream>;

/// Sites of one CA, and clients that trust it.
pub(in crate::tls) struct World {
    authority: LocalCa,
    tickets: TicketKeys,
}

impl World {
    pub(in crate::tls) fn new() -> Self {
        Self {
            authority: in_memory(now()).unwrap(),
            tickets: TicketKeys::new().unwrap(),
        }
    }

    fn site(&self, hosts: &[&str]) -> TlsSite {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let pair = self.authority.issue(&hosts, now()).unwrap();
        TlsSite {
            hosts,
            shown: CertSlot::new(pair, now()),
            trust: None,
        }
    }

    pub(in crate::tls) fn tls(&self, sites: &[&[&str]]) -> Tls {
        self.tls_from(MinVersion::V1_2, sites)
    }

    fn tls_from(&self, min_version: MinVersion, sites: &[&[&str]]) -> Tls {
        let sites = sites.iter().map(|hosts| self.site(hosts)).collect();
        Tls::new(&Settings { min_version }, sites, &self.tickets).unwrap()
    }

    pub(in crate::tls) fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> ClientConfig {
        client_of(self.authority.certificate_pem(), versions, alpn)
    }

    fn any_client(&self) -> ClientConfig {
        self.client(&FROM_1_2, &[])
    }
}

/// A client that trusts this certificate alone.
pub(in crate::tls) fn client_of(
    root: &str,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(root.as_bytes()).unwrap();
    roots.add(root).unwrap();
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

/// Changed hellos of one run.
const HELLOS: usize = 2000;

/// A handshake, then one byte to the client: tickets travel before it.
pub(in crate::tls) async fn shake_over<IO: AsyncRead + AsyncWrite + Unpin>(
    (near, far): (DuplexStream, IO),
    tls: &Tls,
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
        let mut accepted = accept(far, tls).await?;
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

async fn shake(tls: &Tls, config: &ClientConfig, name: &str) -> (Client, TlsInfo) {
    let (client, info) = shake_over(duplex(4096), tls, config, name).await;
    (client.unwrap(), info.unwrap())
}

/// The kind of the client's next handshake.
async fn kind(tls: &Tls, config: &ClientConfig, name: &str) -> HandshakeKind {
    let (client, _) = shake(tls, config, name).await;
    client.get_ref().1.handshake_kind().unwrap()
}

fn shown(client: &Client) -> CertificateDer<'static> {
    client.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// What the gate answers to bytes that no rustls client would send.
async fn answer_to(tls: &Tls, bytes: &[u8]) -> (Result<TlsInfo, Refused>, Vec<u8>) {
    let (mut near, far) = duplex(1 << 17);
    near.write_all(bytes).await.unwrap();
    let accepted = accept(far, tls).await.map(|accepted| accepted.info);
    let mut answer = Vec::new();
    if !matches!(accepted, Err(HandshakeError::PlainHttp(_))) {
        near.read_to_end(&mut answer).await.unwrap();
    }
    (accepted, answer)
}

#[tokio::test]
async fn alpn_picks_http2_first_and_may_be_absent() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
    let cases: [(&[&str], bool); 4] = [
        (&["http/1.1", "h2"], true),
        (&["h2"], true),
        (&["http/1.1"], false),
        (&[], false),
    ];
    for (offered, http2) in cases {
        let config = world.client(&FROM_1_2, offered);
        let (client, info) = shake(&tls, &config, "a.test").await;
        let expected = TlsInfo {
            sni: Some("a.test".into()),
            version: "TLSv1.3",
            http2,
            certificate: None,
        };
        assert_eq!(info, expected, "{offered:?}");
        let agreed = client.get_ref().1.alpn_protocol();
        let expected: Option<&[u8]> = match (offered.is_empty(), http2) {
            (true, _) => None,
            (_, true) => Some(b"h2"),
            (_, false) => Some(b"http/1.1"),
        };
        assert_eq!(agreed, expected);
    }
}

#[tokio::test]
async fn unknown_protocols_are_refused() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
    let config = world.client(&FROM_1_2, &["spdy/3", "acme-tls/1"]);
    let (client, info) = shake_over(duplex(4096), &tls, &config, "a.test").await;
    assert!(matches!(
        info,
        Err(HandshakeError::Tls(failure)) if failure.error == rustls::Error::NoApplicationProtocol
    ));
    let heard = client.unwrap_err().downcast::<rustls::Error>().unwrap();
    let alert = AlertDescription::NoApplicationProtocol;
    assert_eq!(heard, rustls::Error::AlertReceived(alert));
}

#[tokio::test]
async fn each_name_gets_its_certificate() {
    let world = World::new();
    let sites = vec![
        world.site(&["First.test", "10.0.0.1"]),
        world.site(&["b.test", "*.b.test"]),
        world.site(&["special.b.test", "b.test"]),
        world.site(&["*"]),
    ];
    let leaves: Vec<_> = sites
        .iter()
        .map(|s| s.shown.current().unwrap().chain()[0].clone())
        .collect();
    let tls = Tls::new(&Settings::default(), sites, &world.tickets).unwrap();
    for (name, site) in [
        ("FIRST.test", 0),
        ("b.test", 1),
        ("x.B.test", 1),
        ("special.b.test", 2),
        ("10.0.0.1", 0),
    ] {
        let (client, _) = shake(&tls, &world.any_client(), name).await;
        assert_eq!(shown(&client), leaves[site], "{name}");
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
async fn without_a_star_unknown_names_get_the_first_site() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"], &["*.b.test"]]);
    let first = tls.choose(None);
    for name in ["unknown", "b.test", "x.y.b.test"] {
        assert!(Arc::ptr_eq(&first, &tls.choose(Some(name))), "{name}");
    }
    assert!(!Arc::ptr_eq(&first, &tls.choose(Some("x.b.test"))));
}

#[test]
fn no_site_is_an_error() {
    let tls = Tls::new(
        &Settings::default(),
        Vec::new(),
        &TicketKeys::new().unwrap(),
    );
    assert!(matches!(tls.err(), Some(Error::NoSites)));
}

/// Gives one byte at a time, and makes its reader wait for each.
struct Trickle {
    io: DuplexStream,
    ready: bool,
}

impl AsyncRead for Trickle {
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

impl AsyncWrite for Trickle {
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
async fn a_hello_in_single_bytes_is_understood() {
    let world = World::new();
    let tls = world.tls(&[&["first.test"], &["b.test"]]);
    let config = world.client(&FROM_1_2, &["h2"]);
    let (near, far) = duplex(4096);
    let pipe = (
        near,
        Trickle {
            io: far,
            ready: false,
        },
    );
    let (client, info) = shake_over(pipe, &tls, &config, "b.test").await;
    client.unwrap();
    assert_eq!(info.unwrap().sni.as_deref(), Some("b.test"));
}

#[tokio::test]
async fn a_hello_in_small_records_is_understood() {
    let world = World::new();
    let tls = world.tls(&[&["first.test"], &["b.test"]]);
    let mut config = world.any_client();
    config.max_fragment_size = Some(64);
    let (client, info) = shake(&tls, &config, "b.test").await;
    assert_eq!(info.sni.as_deref(), Some("b.test"));
    let (other, _) = shake(&tls, &world.any_client(), "b.test").await;
    assert_eq!(shown(&client), shown(&other));
}

#[tokio::test]
async fn versions_follow_the_settings() {
    let world = World::new();
    let old = world.client(&[&version::TLS12], &["h2"]);
    let (_, info) = shake(&world.tls(&[&["a.test"]]), &old, "a.test").await;
    assert_eq!((info.version, info.http2), ("TLSv1.2", true));

    let strict = world.tls_from(MinVersion::V1_3, &[&["a.test"]]);
    let (client, info) = shake_over(duplex(4096), &strict, &old, "a.test").await;
    assert!(matches!(info, Err(HandshakeError::Tls(_))), "{info:?}");
    let heard = client.unwrap_err().downcast::<rustls::Error>().unwrap();
    let alert = AlertDescription::ProtocolVersion;
    assert_eq!(heard, rustls::Error::AlertReceived(alert));
    let (_, info) = shake(&strict, &world.any_client(), "a.test").await;
    assert_eq!(info.version, "TLSv1.3");
}

/// A hello of one cipher suite, as an old client sends it.
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
async fn old_versions_and_weak_suites_are_refused() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
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
        let (info, answer) = answer_to(&tls, &hello).await;
        assert!(
            matches!(info, Err(HandshakeError::Tls(_))),
            "{what}: {info:?}"
        );
        assert_eq!(answer[..], [21, 3, 3, 0, 2, 2, alert], "{what}");
    }
    // The same hello with a suite we know gets an answer: the refusals above have the reasons they claim.
    let (mut near, far) = duplex(1 << 16);
    near.write_all(&old_hello(0x0303, good)).await.unwrap();
    let serve = async { accept(far, &tls).await.map(|accepted| accepted.info) };
    let look = async {
        let first = near.read_u8().await.unwrap();
        drop(near);
        first
    };
    let (info, first) = tokio::join!(serve, look);
    assert_eq!(first, 22);
    assert!(matches!(info, Err(HandshakeError::Closed)), "{info:?}");
}

#[tokio::test]
async fn plain_http_is_told_apart_and_can_still_be_answered() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
    for start in [
        "G",
        "GET /v2/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (mut near, far) = duplex(4096);
        near.write_all(start.as_bytes()).await.unwrap();
        let Err(HandshakeError::PlainHttp(mut io)) = accept(far, &tls).await else {
            panic!("{start:?} is plain HTTP");
        };
        io.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        drop(io);
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HTTP/1.1 400 Bad Request\r\n");
    }
}

#[tokio::test]
async fn a_first_record_that_is_no_hello_gets_an_alert_and_silence_is_no_fault() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
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
            "a change of cipher",
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
            "no type of a record",
            b"\x00\x01\x02\x03\x04\x05",
            decode,
            50,
        ),
        (
            "no hello",
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
        ("an oversized hello", &endless, decode, 50),
        ("text", b"get / http/1.0\r\n\r\n", decode, 50),
        ("zeros", &[0; 4096], decode, 50),
    ] {
        let (info, answer) = answer_to(&tls, garbage).await;
        let Err(HandshakeError::Tls(failure)) = info else {
            panic!("{what}: {info:?}");
        };
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, number], "{what}: {failure:?}");
        let told = (failure.sender, failure.alert);
        assert_eq!(told, (AlertSender::Proxy, alert), "{what}: {failure:?}");
    }
    // An alert is not answered.
    let (info, answer) = answer_to(&tls, b"\x15\x03\x03\x00\x02\x02\x30").await;
    let Err(HandshakeError::Tls(failure)) = info else {
        panic!("{info:?}");
    };
    let told = (failure.sender, failure.alert);
    assert_eq!(told, (AlertSender::Client, TlsAlert::UnknownCa));
    assert!(answer.is_empty(), "{answer:?}");
    for cut in [&b""[..], b"\x16\x03\x01", &old_hello(0x0303, 0xc02b)[..20]] {
        let (near, far) = duplex(4096);
        let (_, ()) = tokio::join!(
            async {
                assert!(matches!(
                    accept(far, &tls).await,
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

/// A hello that asks for `name`, whatever it is.
fn hello_for(world: &World, name: &[u8]) -> Vec<u8> {
    let config = Arc::new(world.any_client());
    let stand_in = "x".repeat(name.len());
    let server_name = ServerName::try_from(stand_in.clone()).unwrap();
    let mut client = rustls::ClientConnection::new(config, server_name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let windows = hello.windows(name.len());
    let at = windows
        .clone()
        .position(|bytes| bytes == stand_in.as_bytes());
    let at = at.unwrap();
    hello[at..at + name.len()].copy_from_slice(name);
    hello
}

#[tokio::test]
async fn a_server_name_that_is_rejected_is_told() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
    for name in [
        &b"localhost:8443"[..],
        b"a b.test",
        b"a.test\n2026",
        b"\xff.test",
        b"-.test-",
    ] {
        let (info, answer) = answer_to(&tls, &hello_for(&world, name)).await;
        let Err(HandshakeError::Tls(failure)) = info else {
            panic!("{name:?}: {info:?}");
        };
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 47], "{failure:?}");
        assert_eq!(failure.alert, TlsAlert::IllegalParameter);
        assert!(failure.reason().contains("no host name"), "{failure}");
        assert_eq!(failure.server_name, Some(name.escape_ascii().to_string()));
    }
    // An address in place of a name breaks RFC 6066, and is read as no name at all.
    let (near, far) = duplex(1 << 16);
    let (mut reading, mut writing) = tokio::io::split(near);
    writing
        .write_all(&hello_for(&world, b"127.0.0.1"))
        .await
        .unwrap();
    let serve = async { accept(far, &tls).await.map(|accepted| accepted.info) };
    let look = async {
        let first = reading.read_u8().await.unwrap();
        drop((reading, writing));
        first
    };
    let (info, first) = tokio::join!(serve, look);
    assert_eq!(first, 22);
    assert!(matches!(info, Err(HandshakeError::Closed)), "{info:?}");
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_says_so() {
    let (world, other) = (World::new(), World::new());
    let tls = world.tls(&[&["a.test"]]);
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        let config = other.client(versions, &[]);
        let (_, info) = shake_over(duplex(4096), &tls, &config, "a.test").await;
        let Err(HandshakeError::Tls(failure)) = info else {
            panic!("{info:?}");
        };
        let told = (failure.sender, failure.alert);
        assert_eq!(told, (AlertSender::Client, TlsAlert::UnknownCa));
        assert_eq!(failure.server_name.as_deref(), Some("a.test"));
        assert_eq!(
            failure.reason(),
            "the client does not trust the certificate"
        );
    }
}

/// Of a client as it is, hybrid key share and all, and of an old one.
fn hellos(world: &World) -> [Vec<u8>; 2] {
    let config = Arc::new(world.client(&FROM_1_2, &["h2", "http/1.1"]));
    let name = ServerName::try_from("a.test").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    [hello, old_hello(0x0303, 0xc02b)]
}

#[tokio::test]
async fn no_hello_makes_it_stumble() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
    let hellos = hellos(&world);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(1));
    let change = (any::<Index>(), any::<u8>(), 0..3_u8);
    let changes = (any::<bool>(), vec(change, 1..6), any::<Index>());
    for _ in 0..HELLOS {
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
        let accepted = timeout(Duration::from_secs(5), accept(far, &tls)).await;
        // Nobody has shown a key: whatever the hello said, there is no connection.
        let refused = accepted.expect("an end").map(|accepted| accepted.info);
        assert!(refused.is_err(), "{refused:?} of {bytes:02x?}");
    }
    let (client, _) = shake(&tls, &world.any_client(), "a.test").await;
    assert!(client.get_ref().1.protocol_version().is_some());
}

#[tokio::test]
async fn keys_may_be_renewed_again_and_again() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
    let (near, far) = duplex(1 << 17);
    let connector = TlsConnector::from(Arc::new(world.client(&[&version::TLS13], &[])));
    let name = ServerName::try_from("a.test").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, near), accept(far, &tls));
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
async fn the_gate_prefers_aes_128_and_follows_the_clients_groups() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
    for versions in [&FROM_1_2[..], &[&version::TLS12]] {
        let (client, _) = shake(&tls, &world.client(versions, &[]), "a.test").await;
        let connection = client.get_ref().1;
        assert!(is_aes_128(&connection.negotiated_cipher_suite().unwrap()));
        let hybrid = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group == NamedGroup::X25519MLKEM768, hybrid, "{group:?}");
    }
}

#[tokio::test]
async fn tickets_resume_and_survive_a_reload() {
    let world = World::new();
    for versions in [&FROM_1_2[..], &[&version::TLS12]] {
        let config = world.client(versions, &["h2"]);
        let tls = world.tls(&[&["a.test"], &["b.test"]]);
        assert_ne!(kind(&tls, &config, "a.test").await, HandshakeKind::Resumed);
        assert_eq!(kind(&tls, &config, "a.test").await, HandshakeKind::Resumed);
        let reloaded = world.tls(&[&["a.test"]]);
        assert_eq!(
            kind(&reloaded, &config, "a.test").await,
            HandshakeKind::Resumed
        );
        let restarted = World {
            tickets: TicketKeys::new().unwrap(),
            authority: World::new().authority,
        };
        let sites = vec![world.site(&["a.test"])];
        let other = Tls::new(&Settings::default(), sites, &restarted.tickets).unwrap();
        assert_ne!(
            kind(&other, &config, "a.test").await,
            HandshakeKind::Resumed
        );
    }
}

/// Offers what it was given for one name to every other.
#[derive(Debug)]
struct Confused(ClientSessionMemoryCache);

fn one_name() -> ServerName<'static> {
    ServerName::try_from("any.test").unwrap()
}

impl ClientSessionStore for Confused {
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
async fn a_ticket_of_one_name_is_worth_nothing_at_another() {
    let world = World::new();
    let tls = world.tls(&[&["a.test"], &["b.test"]]);
    for versions in [&FROM_1_2[..], &[&version::TLS12]] {
        let mut config = world.client(versions, &[]);
        let store = Confused(ClientSessionMemoryCache::new(8));
        config.resumption = Resumption::store(Arc::new(store));
        assert_ne!(kind(&tls, &config, "a.test").await, HandshakeKind::Resumed);
        assert_ne!(kind(&tls, &config, "b.test").await, HandshakeKind::Resumed);
        assert_eq!(kind(&tls, &config, "b.test").await, HandshakeKind::Resumed);
    }
}

/// Runs the openssl tool in a directory; what it prints is returned.
pub(in crate::tls) fn openssl(dir: &Path, line: &str) -> String {
    let done = std::process::Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("these tests need the openssl tool: install the package openssl");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {line}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

/// Serves one connection on a socket to `openssl s_client` with these arguments.
pub(in crate::tls) async fn s_client(
    tls: &Tls,
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
        let mut accepted = accept(io, tls).await.ok()?;
        let mut rest = Vec::new();
        // Until the client closes; how it does so is openssl's affair.
        let _ = accepted.stream.read_to_end(&mut rest).await;
        Some(accepted.info)
    };
    let (done, info) = tokio::join!(client, server);
    (info, done.expect("these tests need the openssl tool"))
}

#[tokio::test]
async fn openssl_verifies_the_self_signed_site() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), world.authority.certificate_pem()).unwrap();
    let tls = world.tls(&[&["a.test", "*.b.test", "[::1]", "10.0.0.1"]]);
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
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.success(), accepted, "{arguments}: {said}");
        assert_eq!(info.is_some(), accepted, "{arguments}");
    }
}

#[test]
fn early_data_is_never_invited() {
    let world = World::new();
    for min_version in [MinVersion::V1_2, MinVersion::V1_3] {
        let config = world.tls_from(min_version, &[&["a.test"]]).choose(None);
        assert_eq!(config.max_early_data_size, 0);
        assert_eq!(config.send_tls13_tickets, 1);
    }
}
