//! The bytes that one side writes are those that the other side reads, and every violation is reported. The differential tests
//! at the end compare the stream with that of `tokio-rustls`.

use std::io::ErrorKind;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::prop_oneof;
use proptest::sample::Index;
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::TestRunner;
use rustls::client::ClientConnection;
use rustls::{AlertDescription, ConnectionTrafficSecrets, SupportedProtocolVersion, version};
use rustls_pki_types::ServerName;
use tokio::io::{
    AsyncReadExt, AsyncWriteExt, DuplexStream, Join, ReadHalf, SimplexStream, WriteHalf, duplex,
    join, simplex, split,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::super::accept;
use super::super::tests::{Client, TestPki, unnamed_listener};
use super::*;

async fn connect(
    version: &'static SupportedProtocolVersion,
    pipe_size: usize,
) -> (Client, TlsStream<DuplexStream>) {
    let pki = TestPki::new();
    let tls = pki.tls(&[&["a.test"]]);
    let (near, far) = duplex(pipe_size);
    let mut config = pki.client(&[version], &[]);
    config.enable_secret_extraction = true;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("a.test").unwrap();
    let (client, server) = tokio::join!(
        connector.connect(name, near),
        accept(far, &tls, unnamed_listener())
    );
    (client.unwrap(), server.unwrap().stream)
}

/// Returns bytes that differ from place to place.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

/// Writes all bytes in pieces of growing sizes, each of them as two slices.
async fn write_all_vectored(to: &mut (impl AsyncWrite + Unpin), sent: &[u8]) {
    let (mut at, mut size) = (0, 1);
    while at < sent.len() {
        let piece = &sent[at..sent.len().min(at + size)];
        let (one, two) = piece.split_at(piece.len() / 3);
        let slices = [IoSlice::new(one), IoSlice::new(two)];
        at += to.write_vectored(&slices).await.unwrap();
        size = size * 3 + 1;
        size = if size > 700_000 { 1 } else { size };
    }
    to.flush().await.unwrap();
    to.shutdown().await.unwrap();
}

/// Reads all bytes in pieces of growing sizes.
async fn read_all(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let (mut received, mut size) = (Vec::new(), 1);
    loop {
        let mut room = vec![0; size];
        let count = from.read(&mut room).await.unwrap();
        if count == 0 {
            return received;
        }
        received.extend_from_slice(&room[..count]);
        size = if size > 300_000 { 1 } else { size * 2 + 1 };
    }
}

/// Polls a read once. The cooperative budget of tokio is off, so that `Pending` means that there are no bytes.
async fn poll_read_once(
    stream: &mut (impl AsyncRead + Unpin),
    room: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let poll = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, room)));
    tokio::task::unconstrained(poll).await
}

/// Encrypts the client's next record.
fn encrypt(tls: &mut ClientConnection, plaintext: &[u8]) -> Vec<u8> {
    io::Write::write_all(&mut tls.writer(), plaintext).unwrap();
    pending_records(tls)
}

/// Returns the records that the client has to send.
fn pending_records(tls: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut records).unwrap();
    }
    records
}

#[tokio::test]
async fn all_bytes_arrive_in_pieces_of_any_size() {
    let sent = bytes(3_000_000);
    for version in [&version::TLS13, &version::TLS12] {
        for pipe_size in [5000, 1 << 20] {
            let (client, server) = connect(version, pipe_size).await;
            let (mut from_client, mut to_client) = split(client);
            let (mut from_server, mut to_server) = split(server);
            let all = async {
                tokio::join!(
                    read_all(&mut from_client),
                    read_all(&mut from_server),
                    write_all_vectored(&mut to_client, &sent),
                    write_all_vectored(&mut to_server, &sent),
                )
            };
            let all = tokio::time::timeout(std::time::Duration::from_secs(30), all).await;
            let (at_client, at_server, ..) = all.expect("the transfer ends");
            assert!(at_client == sent && at_server == sent, "{pipe_size}");
        }
    }
}

/// Flushes `stream` once.
async fn flush_once(stream: &mut TlsStream<DuplexStream>) -> Poll<io::Result<()>> {
    let flush = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_flush(cx)));
    tokio::task::unconstrained(flush).await
}

/// Sends so much to a client that reads that its stream may hold back what follows. Runs without tokio's cooperative budget,
/// because a write that the budget delays looks like one that the socket refuses.
async fn prove_reading(client: &mut Client, server: &mut TlsStream<DuplexStream>) {
    let piece = bytes(256 * 1024);
    let mut room = vec![0; piece.len()];
    for _ in 0..=SOCKET_BUFFERS / piece.len() {
        server.write_all(&piece).await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut room).await.unwrap();
    }
}

#[tokio::test]
async fn held_bytes_are_sent_when_the_hold_is_released() {
    const FRAME: usize = 16 * 1024 + 9;
    let sent = bytes(10 * FRAME);
    let (mut client, mut server) = connect(&version::TLS13, 1 << 20).await;
    tokio::task::unconstrained(prove_reading(&mut client, &mut server)).await;
    let hold = server.send_hold();
    hold.begin();
    for frame in sent.chunks(FRAME) {
        server.write_all(frame).await.unwrap();
        server.flush().await.unwrap();
    }
    let mut room = vec![0; sent.len()];
    let early = poll_read_once(&mut client, &mut ReadBuf::new(&mut room)).await;
    assert!(early.is_pending(), "nothing is sent during the hold");
    assert!(hold.release(), "a flush is owed");
    assert!(!hold.release(), "one flush is enough");
    server.flush().await.unwrap();
    client.read_exact(&mut room).await.unwrap();
    assert!(room == sent);
}

#[tokio::test]
async fn a_hold_ends_at_a_full_buffer() {
    let (mut client, mut server) = connect(&version::TLS13, 1 << 20).await;
    tokio::task::unconstrained(prove_reading(&mut client, &mut server)).await;
    server.send_hold().begin();
    let mut accepted = 0;
    let fill = std::future::poll_fn(|cx| {
        let written = Pin::new(&mut server).poll_write(cx, &[0; 16 * 1024]);
        let Poll::Ready(Ok(count)) = written else {
            return Poll::Ready(());
        };
        accepted += count;
        assert!(accepted < 2 << 20, "a client that reads nothing");
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    fill.await;
    assert!(accepted > 1 << 20, "{accepted}");
    drop(client);
}

#[tokio::test]
async fn an_alert_is_owed_after_a_hold() {
    let (mut client, mut server) = connect(&version::TLS13, 1 << 20).await;
    tokio::task::unconstrained(prove_reading(&mut client, &mut server)).await;
    let (mut pipe, mut tls) = client.into_inner();
    let mut record = encrypt(&mut tls, b"changed on the way");
    *record.last_mut().unwrap() ^= 1;
    pipe.write_all(&record).await.unwrap();
    let hold = server.send_hold();
    hold.begin();
    assert!(server.read_u8().await.is_err());
    assert!(hold.release(), "the alert waits");
    server.flush().await.unwrap();
    drop(server);
    let mut response = Vec::new();
    pipe.read_to_end(&mut response).await.unwrap();
    tls.read_tls(&mut response.as_slice()).unwrap();
    let error = tls.process_new_packets().unwrap_err();
    let expected = AlertDescription::BadRecordMac;
    assert_eq!(error, rustls::Error::AlertReceived(expected));
}

#[tokio::test]
async fn nothing_is_held_back_while_the_client_does_not_read() {
    let (client, mut server) = connect(&version::TLS13, 4096).await;
    let hold = server.send_hold();
    hold.begin();
    server.write_all(&[0; 16 * 1024]).await.unwrap();
    assert!(
        flush_once(&mut server).await.is_pending(),
        "h2 must see that the client does not read"
    );
    drop(client);
}

#[tokio::test]
async fn nothing_is_held_back_while_the_socket_is_full() {
    let (mut client, mut server) = connect(&version::TLS13, 1 << 20).await;
    tokio::task::unconstrained(prove_reading(&mut client, &mut server)).await;
    while flush_once(&mut server).await.is_ready() {
        server.write_all(&[0; 16 * 1024]).await.unwrap();
    }
    server.send_hold().begin();
    assert!(
        flush_once(&mut server).await.is_pending(),
        "h2 must see that the client has stopped reading"
    );
    drop(client);
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error() {
    let (mut client, mut server) = connect(&version::TLS13, 1 << 16).await;
    client.write_all(b"all of it").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"all of it");

    let (mut client, mut server) = connect(&version::TLS13, 1 << 16).await;
    client.write_all(b"a part").await.unwrap();
    client.flush().await.unwrap();
    let (pipe, _) = client.into_inner();
    drop(pipe);
    let mut received = [0; 6];
    server.read_exact(&mut received).await.unwrap();
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_corrupted_record_ends_the_stream_with_an_alert() {
    let (client, mut server) = connect(&version::TLS13, 1 << 16).await;
    let (mut pipe, mut tls) = client.into_inner();
    let mut record = encrypt(&mut tls, b"changed on the way");
    *record.last_mut().unwrap() ^= 1;
    pipe.write_all(&record).await.unwrap();
    pipe.write_all(&encrypt(&mut tls, b"what follows"))
        .await
        .unwrap();
    for _ in 0..2 {
        let error = server.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
    assert!(server.write_all(b"more").await.is_err());
    assert!(server.shutdown().await.is_err());
    drop(server);
    let mut response = Vec::new();
    pipe.read_to_end(&mut response).await.unwrap();
    tls.read_tls(&mut response.as_slice()).unwrap();
    let error = tls.process_new_packets().unwrap_err();
    let expected = AlertDescription::BadRecordMac;
    assert_eq!(error, rustls::Error::AlertReceived(expected));
}

/// Whether there is a pooled buffer, and the number of bytes of an incomplete record that are kept without one.
fn memory_of(incoming: &CiphertextIn) -> (bool, usize) {
    (incoming.buffer.is_some(), incoming.partial.len())
}

#[tokio::test]
async fn an_incomplete_record_occupies_no_pooled_buffer() {
    let (client, mut server) = connect(&version::TLS13, 1 << 16).await;
    let (mut pipe, mut tls) = client.into_inner();
    let record = encrypt(&mut tls, b"in two parts");
    pipe.write_all(&record[..7]).await.unwrap();
    let mut room = [0; 64];
    let mut room = ReadBuf::new(&mut room);
    let read = poll_read_once(&mut server, &mut room).await;
    assert!(read.is_pending());
    assert_eq!(memory_of(&server.incoming), (false, 7));
    // Writing is possible meanwhile.
    server.write_all(b"a response").await.unwrap();
    pipe.write_all(&record[7..]).await.unwrap();
    assert!(poll_read_once(&mut server, &mut room).await.is_ready());
    assert_eq!(room.filled(), b"in two parts");
    assert_eq!(memory_of(&server.incoming), (false, 0));
}

/// One direction of a TLS 1.3 connection with AES-128-GCM, for records that rustls does not send.
struct RecordCipher {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence_number: u64,
}

impl RecordCipher {
    fn new((sequence_number, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            panic!("the proxy prefers AES-128-GCM");
        };
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap();
        Self {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().unwrap(),
            sequence_number,
        }
    }

    /// The nonce of the next record (RFC 8446 section 5.3).
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        let number = self.sequence_number.to_be_bytes();
        for (to, from) in nonce[4..].iter_mut().zip(number) {
            *to ^= from;
        }
        self.sequence_number += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn encrypt(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        let mut inner = [content, &[content_type]].concat();
        let [high, low] = ((inner.len() + 16) as u16).to_be_bytes();
        let header = [23, 3, 3, high, low];
        let nonce = self.next_nonce();
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut inner)
            .unwrap();
        [&header[..], &inner].concat()
    }

    /// Decrypts records, and returns the type and the content of each.
    fn decrypt(&mut self, mut records: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut decrypted = Vec::new();
        while let Some((header, rest)) = records.split_first_chunk::<5>() {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let (record, rest) = rest.split_at(length);
            records = rest;
            let nonce = self.next_nonce();
            let mut record = record.to_vec();
            let inner = self
                .key
                .open_in_place(nonce, Aad::from(*header), &mut record)
                .unwrap();
            let (content_type, content) = inner.split_last().unwrap();
            decrypted.push((*content_type, content.to_vec()));
        }
        decrypted
    }
}

/// Takes the keys of the client's connection.
fn ciphers<IO>(client: client::TlsStream<IO>) -> (IO, RecordCipher, RecordCipher) {
    let (pipe, tls) = client.into_inner();
    #[allow(
        deprecated,
        reason = "there is no other way for a test to write records of its own"
    )]
    let secrets = tls.dangerous_extract_secrets().unwrap();
    (
        pipe,
        RecordCipher::new(secrets.tx),
        RecordCipher::new(secrets.rx),
    )
}

#[tokio::test]
async fn writing_is_possible_between_the_parts_of_a_key_update() {
    let (client, mut server) = connect(&version::TLS13, 1 << 16).await;
    let (mut pipe, mut to_server, mut to_client) = ciphers(client);
    // A KeyUpdate that requests one in return (RFC 8446 section 4.6.3), in three records.
    for part in [&[24, 0][..], &[0, 1], &[1]] {
        pipe.write_all(&to_server.encrypt(HANDSHAKE, part))
            .await
            .unwrap();
        let mut room = [0; 64];
        let read = poll_read_once(&mut server, &mut ReadBuf::new(&mut room)).await;
        assert!(read.is_pending());
        server.write_all(b"a response").await.unwrap();
    }
    drop(server);
    let mut sent = Vec::new();
    pipe.read_to_end(&mut sent).await.unwrap();
    // The last response comes after the KeyUpdate, and is encrypted with new keys.
    let last = sent.len() - (RECORD_HEADER + b"a response".len() + 1 + 16);
    let records = without_tickets(to_client.decrypt(&sent[..last]));
    let response = (APPLICATION_DATA, b"a response".to_vec());
    let key_update = (HANDSHAKE, vec![24, 0, 0, 1, 0]);
    assert_eq!(records, [response.clone(), response, key_update]);
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Removes NewSessionTicket messages.
fn without_tickets(records: Vec<(u8, Vec<u8>)>) -> Vec<(u8, Vec<u8>)> {
    let is_ticket = |(content_type, content): &(u8, Vec<u8>)| {
        *content_type == HANDSHAKE && content.first() == Some(&4)
    };
    records.into_iter().filter(|it| !is_ticket(it)).collect()
}

/// Records of the client and other bytes, in pieces that end anywhere.
#[tokio::test]
async fn only_authentic_bytes_are_delivered() {
    let mut runner = TestRunner::deterministic();
    let part = prop_oneof![
        4 => vec(any::<u8>(), 0..3000).prop_map(Sent::Data),
        1 => vec(any::<u8>(), 1..40).prop_map(Sent::Garbage),
        // The header of a record with any type and length.
        1 => (20_u8..25, any::<u16>()).prop_map(|(content_type, length)| {
            let [high, low] = length.to_be_bytes();
            Sent::Garbage(vec![content_type, 3, 3, high, low])
        }),
        1 => any::<Index>().prop_map(Sent::Corrupted),
    ];
    let parts = vec((part, 1_usize..5000), 1..12);
    let (mut intact, mut broken) = (0, 0);
    for version in [&version::TLS13, &version::TLS12] {
        for _ in 0..150 {
            let (client, mut server) = connect(version, 1 << 20).await;
            let (mut pipe, mut tls) = client.into_inner();
            let (mut sent, mut received, mut is_intact) = (Vec::new(), Vec::new(), true);
            for (part, size) in parts.new_tree(&mut runner).unwrap().current() {
                let records = part.to_records(&mut tls);
                match part {
                    Sent::Data(bytes) if is_intact => sent.extend(bytes),
                    Sent::Data(_) => {}
                    Sent::Garbage(_) | Sent::Corrupted(_) => is_intact = false,
                }
                for piece in records.chunks(size) {
                    pipe.write_all(piece).await.unwrap();
                    let mut room = vec![0; size];
                    let mut room = ReadBuf::new(&mut room);
                    if let Poll::Ready(Ok(())) = poll_read_once(&mut server, &mut room).await {
                        received.extend_from_slice(room.filled());
                    }
                    let _ = server.write_all(b"a response").await;
                }
            }
            let _ = pipe.shutdown().await;
            let mut rest = Vec::new();
            let end = server.read_to_end(&mut rest).await;
            received.extend(rest);
            // The data before the first unauthentic byte has arrived, and nothing else.
            assert!(received == sent, "{} of {}", received.len(), sent.len());
            assert!(end.is_err());
            intact += usize::from(is_intact);
            broken += usize::from(!is_intact);
        }
    }
    assert!(intact > 10 && broken > 100, "{intact} {broken}");
}

/// Bytes that a client sends after its handshake.
#[derive(Clone, Debug)]
enum Sent {
    /// A record, or several.
    Data(Vec<u8>),
    /// Bytes without encryption.
    Garbage(Vec<u8>),
    /// A record of which the byte at this place is changed.
    Corrupted(Index),
}

impl Sent {
    fn to_records(&self, tls: &mut ClientConnection) -> Vec<u8> {
        match self {
            Self::Data(bytes) => encrypt(tls, bytes),
            Self::Garbage(bytes) => bytes.clone(),
            Self::Corrupted(at) => {
                let mut record = encrypt(tls, b"changed");
                // Not in the header, whose version is ignored (RFC 8446 section 5.1).
                let at = RECORD_HEADER + at.index(record.len() - RECORD_HEADER);
                record[at] ^= 0x55;
                record
            }
        }
    }
}

// ===== Differential tests against tokio-rustls =====

/// A pipe whose two directions have buffers of their own.
type Pipe = Join<ReadHalf<SimplexStream>, WriteHalf<SimplexStream>>;

fn pipe(to_server: usize, to_client: usize) -> (Pipe, Pipe) {
    let (server_read, client_write) = simplex(to_server);
    let (client_read, server_write) = simplex(to_client);
    (
        join(client_read, client_write),
        join(server_read, server_write),
    )
}

/// A server of this crate and one of `tokio-rustls` with the same configuration, each with a client.
struct BothServers {
    own: (client::TlsStream<Pipe>, TlsStream<Pipe>),
    tokio_rustls: (
        client::TlsStream<Pipe>,
        tokio_rustls::server::TlsStream<Pipe>,
    ),
}

impl BothServers {
    async fn connect(
        version: &'static SupportedProtocolVersion,
        (to_server, to_client): (usize, usize),
    ) -> Self {
        let pki = TestPki::new();
        let configs = pki.tls(&[&["a.test"]]);
        let mut config = pki.client(&[version], &[]);
        config.enable_secret_extraction = true;
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("a.test").unwrap();
        let (near, far) = pipe(to_server, to_client);
        let (client, server) = tokio::join!(
            connector.connect(name.clone(), near),
            accept(far, &configs, unnamed_listener())
        );
        let own = (client.unwrap(), server.unwrap().stream);
        let acceptor = TlsAcceptor::from(configs.choose(Some("a.test")));
        let (near, far) = pipe(to_server, to_client);
        let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        Self {
            own,
            tokio_rustls: (client.unwrap(), server.unwrap()),
        }
    }
}

/// How reading has ended.
#[derive(Debug, PartialEq)]
enum End {
    /// Nothing has ended.
    Open,
    CloseNotify,
    Error(ErrorKind, Option<rustls::Error>),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        Self::Error(kind, error.downcast::<rustls::Error>().ok())
    }
}

/// The plaintext that one side has read, and the end of it.
#[derive(PartialEq)]
struct Read {
    plaintext: Vec<u8>,
    end: End,
}

/// A short form, because the plaintext may have megabytes.
impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {:?}", self.plaintext.len(), self.end)
    }
}

impl Read {
    fn new() -> Self {
        Self {
            plaintext: Vec::new(),
            end: End::Open,
        }
    }

    /// Reads until there is nothing more at present, into buffers of these sizes in turn.
    ///
    /// `tokio-rustls` may return an error before the plaintext of records that arrived together with the rejected one, and
    /// returns that plaintext afterwards; this crate returns the plaintext first. Therefore reading goes on after the first
    /// error, and ends at the second one in a row.
    async fn read_available<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        sizes: &mut impl Iterator<Item = usize>,
    ) {
        let mut errors = 0;
        while errors < 2 && self.end != End::CloseNotify {
            let mut room = vec![0; sizes.next().unwrap()];
            let mut room = ReadBuf::new(&mut room);
            match poll_read_once(stream, &mut room).await {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if room.filled().is_empty() => self.end = End::CloseNotify,
                Poll::Ready(Ok(())) => {
                    self.plaintext.extend_from_slice(room.filled());
                    errors = 0;
                }
                Poll::Ready(Err(error)) => {
                    errors += 1;
                    if self.end == End::Open {
                        self.end = error.into();
                    }
                }
            }
        }
    }

    /// Reads to the end.
    async fn read_to_end<S: AsyncRead + Unpin>(mut self, stream: &mut S, sizes: &[usize]) -> Self {
        for size in sizes.iter().cycle() {
            let mut room = vec![0; *size];
            match stream.read(&mut room).await {
                Ok(0) => {
                    self.end = End::CloseNotify;
                    break;
                }
                Ok(count) => self.plaintext.extend_from_slice(&room[..count]),
                Err(error) => {
                    self.end = error.into();
                    break;
                }
            }
        }
        self
    }
}

/// A transfer of data in both directions at the same time.
#[derive(Clone, Debug)]
struct Transfer {
    /// The number of bytes that the client sends, and the sizes of its writes.
    from_client: (usize, Vec<usize>),
    /// The number of bytes that the server sends, and the sizes of its writes.
    from_server: (usize, Vec<usize>),
    /// The sizes of the server's reads.
    reads: Vec<usize>,
    /// The server writes only after it has read the client's close_notify.
    is_half_close: bool,
    is_vectored: bool,
}

async fn write_in_pieces(
    stream: &mut (impl AsyncWrite + Unpin),
    (total, sizes): &(usize, Vec<usize>),
    is_vectored: bool,
) {
    let data = bytes(*total);
    let (mut at, mut sizes) = (0, sizes.iter().cycle());
    while at < data.len() {
        let piece = &data[at..data.len().min(at + sizes.next().unwrap())];
        at += if is_vectored {
            let (one, two) = piece.split_at(piece.len() / 4);
            let slices = [IoSlice::new(one), IoSlice::new(two), IoSlice::new(&[])];
            stream.write_vectored(&slices).await.unwrap()
        } else {
            stream.write(piece).await.unwrap()
        };
    }
    stream.flush().await.unwrap();
    stream.shutdown().await.unwrap();
}

impl Transfer {
    /// Runs the transfer, and returns what the server and the client have read.
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        (client, server): (client::TlsStream<Pipe>, S),
    ) -> (Read, Read) {
        let (mut client_read, mut client_write) = split(client);
        let (mut server_read, mut server_write) = split(server);
        let serve = async {
            if self.is_half_close {
                let read = Read::new().read_to_end(&mut server_read, &self.reads).await;
                write_in_pieces(&mut server_write, &self.from_server, self.is_vectored).await;
                return read;
            }
            let read = Read::new().read_to_end(&mut server_read, &self.reads);
            let write = write_in_pieces(&mut server_write, &self.from_server, self.is_vectored);
            tokio::join!(read, write).0
        };
        let transfer = async {
            let (at_server, at_client, ()) = tokio::join!(
                serve,
                Read::new().read_to_end(&mut client_read, &[20_000]),
                write_in_pieces(&mut client_write, &self.from_client, false),
            );
            (at_server, at_client)
        };
        let limit = std::time::Duration::from_secs(30);
        let read = tokio::time::timeout(limit, transfer).await;
        read.expect("the transfer ends")
    }
}

#[tokio::test]
async fn transfers_are_the_same_as_with_tokio_rustls() {
    let mut runner = TestRunner::deterministic();
    let sizes = || vec(prop_oneof![500_usize..20_000, 500_usize..600_000], 1..6);
    let side = || {
        prop_oneof![
            (0_usize..2000, vec(1_usize..100, 1..6)),
            (0_usize..400_000, sizes()),
        ]
    };
    let transfer = (side(), side(), sizes(), any::<bool>(), any::<bool>()).prop_map(
        |(from_client, from_server, reads, is_half_close, is_vectored)| Transfer {
            from_client,
            from_server,
            reads,
            is_half_close,
            is_vectored,
        },
    );
    // Small pipes cause partial writes and reads, so that records end anywhere. The pipe to the client holds the last messages
    // of a handshake, because `accept` does not wait until they are sent: a server that reads or writes afterwards sends them.
    let buffer = |min| prop_oneof![min..5000_usize, 5000_usize..1_000_000];
    let cases = (transfer, (buffer(100), buffer(2500)));
    for version in [&version::TLS13, &version::TLS12] {
        for _ in 0..30 {
            let (transfer, buffers) = cases.new_tree(&mut runner).unwrap().current();
            let servers = BothServers::connect(version, buffers).await;
            let own = transfer.run(servers.own).await;
            let tokio_rustls = transfer.run(servers.tokio_rustls).await;
            assert_eq!(own, tokio_rustls, "{transfer:?} {buffers:?}");
            let (at_server, at_client) = own;
            assert_eq!(at_server.end, End::CloseNotify);
            assert!(at_server.plaintext == bytes(transfer.from_client.0));
            assert_eq!(at_client.end, End::CloseNotify);
            assert!(at_client.plaintext == bytes(transfer.from_server.0));
        }
    }
}

/// One action of the client after its handshake.
#[derive(Clone, Debug)]
enum Action {
    Send(Sent),
    /// A KeyUpdate that requests one in return; nothing with TLS 1.2.
    UpdateKeys,
}

/// The client's last action.
#[derive(Clone, Debug)]
enum LastAction {
    CloseNotify,
    /// close_notify, and bytes after it.
    CloseNotifyAndGarbage,
    /// The end of the connection without close_notify, after a part of a record.
    Truncate(Index),
    /// A fatal alert.
    Alert,
}

/// Runs actions of the client one after the other. After each piece of its bytes, the server reads and writes.
#[derive(Clone, Debug)]
struct Dialogue {
    /// Each action, the sizes of the pieces in which its bytes arrive, and the size of the server's write.
    actions: Vec<(Action, usize, usize)>,
    last: LastAction,
    reads: Vec<usize>,
}

impl Dialogue {
    /// Returns what the server and the client have read.
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        (client, mut server): (client::TlsStream<Pipe>, S),
    ) -> (Read, Read) {
        let (mut pipe, mut tls) = client.into_inner();
        let (mut at_server, mut at_client) = (Read::new(), Read::new());
        let mut reads = self.reads.iter().copied().cycle();
        for (action, piece_size, response_size) in &self.actions {
            // rustls sends nothing after it has received a fatal alert.
            if at_client.end != End::Open {
                return (at_server, at_client);
            }
            let records = match action {
                Action::Send(sent) => sent.to_records(&mut tls),
                Action::UpdateKeys => {
                    // An error with TLS 1.2.
                    let _ = tls.refresh_traffic_keys();
                    pending_records(&mut tls)
                }
            };
            for piece in records.chunks(*piece_size) {
                pipe.write_all(piece).await.unwrap();
                at_server.read_available(&mut server, &mut reads).await;
            }
            if at_server.end == End::Open {
                server.write_all(&bytes(*response_size)).await.unwrap();
                server.flush().await.unwrap();
            }
            receive(&mut pipe, &mut tls, &mut at_client).await;
        }
        if at_client.end != End::Open {
            return (at_server, at_client);
        }
        let mut records = match self.last {
            LastAction::CloseNotify | LastAction::CloseNotifyAndGarbage => {
                tls.send_close_notify();
                pending_records(&mut tls)
            }
            LastAction::Truncate(_) => encrypt(&mut tls, b"the last record"),
            LastAction::Alert => {
                // A record that the client cannot decrypt makes it send an alert.
                let mut garbage = &[23, 3, 3, 0, 40, 0, 0, 0, 0, 0][..];
                tls.read_tls(&mut garbage).unwrap();
                let mut garbage = &[0; 35][..];
                tls.read_tls(&mut garbage).unwrap();
                let _ = tls.process_new_packets();
                pending_records(&mut tls)
            }
        };
        match &self.last {
            LastAction::CloseNotifyAndGarbage => records.extend(bytes(50)),
            LastAction::Truncate(end) => records.truncate(end.index(records.len())),
            LastAction::CloseNotify | LastAction::Alert => {}
        }
        pipe.write_all(&records).await.unwrap();
        at_server.read_available(&mut server, &mut reads).await;
        if matches!(self.last, LastAction::Truncate(_)) {
            pipe.shutdown().await.unwrap();
            at_server.read_available(&mut server, &mut reads).await;
        }
        if !matches!(at_server.end, End::Error(ErrorKind::InvalidData, _)) {
            server.write_all(b"the last response").await.unwrap();
            server.shutdown().await.unwrap();
        }
        receive(&mut pipe, &mut tls, &mut at_client).await;
        (at_server, at_client)
    }
}

/// Reads everything that the server has sent so far.
async fn receive(pipe: &mut Pipe, tls: &mut ClientConnection, at_client: &mut Read) {
    loop {
        let mut room = vec![0; 4096];
        let mut room = ReadBuf::new(&mut room);
        let Poll::Ready(Ok(())) = poll_read_once(pipe, &mut room).await else {
            return;
        };
        let mut records = room.filled();
        if records.is_empty() {
            return;
        }
        while !records.is_empty() {
            // The client stops reading after an error.
            if at_client.end != End::Open || tls.read_tls(&mut records).is_err() {
                return;
            }
            match tls.process_new_packets() {
                Ok(state) => {
                    let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
                    io::Read::read_exact(&mut tls.reader(), &mut plaintext).unwrap();
                    at_client.plaintext.extend(plaintext);
                    if state.peer_has_closed() {
                        at_client.end = End::CloseNotify;
                    }
                }
                Err(error) => at_client.end = End::Error(ErrorKind::InvalidData, Some(error)),
            }
        }
    }
}

#[tokio::test]
async fn violations_and_ends_are_the_same_as_with_tokio_rustls() {
    let mut runner = TestRunner::deterministic();
    let action = prop_oneof![
        8 => vec(any::<u8>(), 1..40_000).prop_map(|bytes| Action::Send(Sent::Data(bytes))),
        3 => vec(any::<u8>(), 1..300).prop_map(|bytes| Action::Send(Sent::Data(bytes))),
        3 => proptest::strategy::Just(Action::UpdateKeys),
        1 => vec(any::<u8>(), 1..40).prop_map(|bytes| Action::Send(Sent::Garbage(bytes))),
        1 => (20_u8..25, any::<u16>()).prop_map(|(content_type, length)| {
            let [high, low] = length.to_be_bytes();
            Action::Send(Sent::Garbage(vec![content_type, 3, 3, high, low]))
        }),
        1 => any::<Index>().prop_map(|at| Action::Send(Sent::Corrupted(at))),
    ];
    let last = prop_oneof![
        proptest::strategy::Just(LastAction::CloseNotify),
        proptest::strategy::Just(LastAction::CloseNotifyAndGarbage),
        any::<Index>().prop_map(LastAction::Truncate),
        proptest::strategy::Just(LastAction::Alert),
    ];
    let size = || prop_oneof![1_usize..50, 50_usize..50_000];
    let dialogue = (vec((action, size(), size()), 0..8), last, vec(size(), 1..5)).prop_map(
        |(actions, last, reads)| Dialogue {
            actions,
            last,
            reads,
        },
    );
    let mut ends = std::collections::HashMap::<String, usize>::new();
    for version in [&version::TLS13, &version::TLS12] {
        for _ in 0..150 {
            let dialogue = dialogue.new_tree(&mut runner).unwrap().current();
            // The pipes hold everything, so that no write has to wait.
            let servers = BothServers::connect(version, (1 << 22, 1 << 22)).await;
            let own = dialogue.run(servers.own).await;
            let tokio_rustls = dialogue.run(servers.tokio_rustls).await;
            assert_eq!(own, tokio_rustls, "{:?} {:?}", version, dialogue.last);
            let end = format!("{:?}, {:?}", own.0.end, own.1.end);
            *ends.entry(end).or_default() += 1;
        }
    }
    // Orderly ends, truncation, several violations, and an alert were all reached.
    assert!(ends.len() >= 5, "{ends:?}");
    for end in [
        "CloseNotify",
        "UnexpectedEof",
        "DecryptError",
        "AlertReceived",
    ] {
        assert!(ends.keys().any(|it| it.contains(end)), "{end}: {ends:?}");
    }
}

/// The content type and the content of a record.
type RawRecord<'a> = (u8, &'a [u8]);

#[tokio::test]
async fn unusual_records_are_handled_as_with_tokio_rustls() {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    const UNKNOWN: u8 = 25;
    let data = (APPLICATION_DATA, &b"data"[..]);
    let empty = (APPLICATION_DATA, &b""[..]);
    let long = bytes(MAX_RECORD_PLAINTEXT + 1);
    let cases: &[(&str, Vec<RawRecord<'_>>)] = &[
        ("data", vec![data, data]),
        ("empty records", vec![empty, data, empty, empty, data]),
        (
            "many empty records",
            [vec![empty; 100], vec![data]].concat(),
        ),
        (
            "close_notify, then data",
            vec![data, (ALERT, &[1, 0]), data],
        ),
        ("user_canceled, then data", vec![(ALERT, &[1, 90]), data]),
        ("a fatal alert", vec![data, (ALERT, &[2, 40]), data]),
        ("an alert of unknown level", vec![data, (ALERT, &[7, 40])]),
        ("half an alert", vec![data, (ALERT, &[2])]),
        ("an unknown content type", vec![data, (UNKNOWN, b"?")]),
        (
            "an encrypted ChangeCipherSpec",
            vec![data, (CHANGE_CIPHER_SPEC, &[1])],
        ),
        ("an oversized record", vec![data, (APPLICATION_DATA, &long)]),
        (
            "a record of the largest size",
            vec![(APPLICATION_DATA, &long[1..])],
        ),
        ("a KeyUpdate", vec![data, (HANDSHAKE, &[24, 0, 0, 1, 0])]),
        (
            "a KeyUpdate with request",
            vec![data, (HANDSHAKE, &[24, 0, 0, 1, 1])],
        ),
        (
            "a KeyUpdate in two records",
            vec![(HANDSHAKE, &[24, 0]), (HANDSHAKE, &[0, 1, 1])],
        ),
        (
            "data within a KeyUpdate",
            vec![(HANDSHAKE, &[24, 0]), data, (HANDSHAKE, &[0, 1, 1])],
        ),
        (
            "an invalid KeyUpdate",
            vec![data, (HANDSHAKE, &[24, 0, 0, 1, 7])],
        ),
        (
            "an unexpected ClientHello",
            vec![data, (HANDSHAKE, &[1, 0, 0, 0])],
        ),
        ("an empty handshake record", vec![data, (HANDSHAKE, &[])]),
    ];
    for (name, records) in cases {
        // In one piece, then byte by byte.
        for piece_size in [usize::MAX, 1] {
            let servers = BothServers::connect(&version::TLS13, (1 << 22, 1 << 22)).await;
            let own = send_raw(records, piece_size, servers.own).await;
            let tokio_rustls = send_raw(records, piece_size, servers.tokio_rustls).await;
            assert_eq!(own, tokio_rustls, "{name}, pieces of {piece_size}");
        }
    }
}

/// Sends these records and ends the connection. Returns what the server has read, and the records that it has sent.
async fn send_raw<S: AsyncRead + AsyncWrite + Unpin>(
    records: &[RawRecord<'_>],
    piece_size: usize,
    (client, mut server): (client::TlsStream<Pipe>, S),
) -> (Read, Vec<(u8, Vec<u8>)>) {
    let (mut pipe, mut to_server, mut to_client) = ciphers(client);
    let records = records
        .iter()
        .map(|(content_type, content)| to_server.encrypt(*content_type, content));
    let bytes = records.collect::<Vec<_>>().concat();
    let mut at_server = Read::new();
    let mut sizes = std::iter::repeat(100_000);
    for piece in bytes.chunks(piece_size) {
        pipe.write_all(piece).await.unwrap();
        at_server.read_available(&mut server, &mut sizes).await;
    }
    let mut sent = vec![0; 1 << 20];
    let mut sent = ReadBuf::new(&mut sent);
    // Shutting down only the pipe keeps the direction to the client readable.
    pipe.shutdown().await.unwrap();
    at_server.read_available(&mut server, &mut sizes).await;
    let _ = poll_read_once(&mut pipe, &mut sent).await;
    let sent = without_tickets(to_client.decrypt(sent.filled()));
    (at_server, sent)
}
