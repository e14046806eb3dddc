//! What is sent arrives, in whatever pieces; what is broken is told, and nothing after it passes.

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::prop_oneof;
use proptest::sample::Index;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use rustls::client::ClientConnection;
use rustls::{ConnectionTrafficSecrets, SupportedProtocolVersion, version};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::super::accept;
use super::super::tests::{Client, World};
use super::*;

async fn pair(
    version: &'static SupportedProtocolVersion,
    room: usize,
) -> (Client, Stream<DuplexStream>) {
    let world = World::new();
    let tls = world.tls(&[&["a.test"]]);
    let (near, far) = duplex(room);
    let mut config = world.client(&[version], &[]);
    config.enable_secret_extraction = true;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("a.test").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, near), accept(far, &tls));
    (client.unwrap(), server.unwrap().stream)
}

/// Bytes that differ from place to place.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

/// Writes all in pieces of growing sizes, one of them as two slices at once.
async fn send(to: &mut (impl AsyncWrite + Unpin), said: &[u8]) {
    let (mut at, mut size) = (0, 1);
    while at < said.len() {
        let piece = &said[at..said.len().min(at + size)];
        let (one, two) = piece.split_at(piece.len() / 3);
        let slices = [io::IoSlice::new(one), io::IoSlice::new(two)];
        at += to.write_vectored(&slices).await.unwrap();
        size = size * 3 + 1;
        size = if size > 700_000 { 1 } else { size };
    }
    to.flush().await.unwrap();
    to.shutdown().await.unwrap();
}

/// Reads all in pieces of growing sizes.
async fn take_all(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let (mut got, mut size) = (Vec::new(), 1);
    loop {
        let mut room = vec![0; size];
        let count = from.read(&mut room).await.unwrap();
        if count == 0 {
            return got;
        }
        got.extend_from_slice(&room[..count]);
        size = if size > 300_000 { 1 } else { size * 2 + 1 };
    }
}

#[tokio::test]
async fn all_that_is_sent_arrives_in_whatever_pieces() {
    let said = bytes(3_000_000);
    for version in [&version::TLS13, &version::TLS12] {
        for room in [5000, 1 << 20] {
            let (client, server) = pair(version, room).await;
            let (mut from_client, mut to_client) = tokio::io::split(client);
            let (mut from_server, mut to_server) = tokio::io::split(server);
            let all = async {
                tokio::join!(
                    take_all(&mut from_client),
                    take_all(&mut from_server),
                    send(&mut to_client, &said),
                    send(&mut to_server, &said),
                )
            };
            let all = tokio::time::timeout(std::time::Duration::from_secs(30), all).await;
            let (at_client, at_server, ..) = all.expect("an end");
            assert!(at_client == said && at_server == said, "{room}");
        }
    }
}

#[tokio::test]
async fn an_end_without_a_goodbye_is_an_error() {
    let (mut client, mut server) = pair(&version::TLS13, 1 << 16).await;
    client.write_all(b"all of it").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(take_all(&mut server).await, b"all of it");

    let (mut client, mut server) = pair(&version::TLS13, 1 << 16).await;
    client.write_all(b"a part").await.unwrap();
    client.flush().await.unwrap();
    let (plain, _) = client.into_inner();
    drop(plain);
    let mut got = [0; 6];
    server.read_exact(&mut got).await.unwrap();
    let ended = server.read_u8().await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_record_that_was_changed_is_told_and_ends_the_stream() {
    let (client, mut server) = pair(&version::TLS13, 1 << 16).await;
    let (mut plain, mut tls) = client.into_inner();
    let mut record = sealed(&mut tls, b"changed on the way");
    *record.last_mut().unwrap() ^= 1;
    plain.write_all(&record).await.unwrap();
    plain
        .write_all(&sealed(&mut tls, b"what follows"))
        .await
        .unwrap();
    for _ in 0..2 {
        let refused = server.read_u8().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData);
    }
    assert!(server.write_all(b"more").await.is_err());
    assert!(server.shutdown().await.is_err());
    drop(server);
    let mut told = Vec::new();
    plain.read_to_end(&mut told).await.unwrap();
    tls.read_tls(&mut told.as_slice()).unwrap();
    let told = tls.process_new_packets().unwrap_err();
    let expected = rustls::AlertDescription::BadRecordMac;
    assert_eq!(told, rustls::Error::AlertReceived(expected));
}

#[tokio::test]
async fn who_waits_for_the_rest_of_a_record_holds_its_beginning_alone() {
    let (client, mut server) = pair(&version::TLS13, 1 << 16).await;
    let (mut plain, mut tls) = client.into_inner();
    let record = sealed(&mut tls, b"in two parts");
    plain.write_all(&record[..7]).await.unwrap();
    let mut room = [0; 64];
    let mut room = ReadBuf::new(&mut room);
    let waits = poll_once(&mut server, &mut room).await;
    assert!(waits.is_pending());
    assert_eq!(server.incoming.held(), (false, 7));
    // Meanwhile there is nothing in the way of an answer.
    server.write_all(b"an answer").await.unwrap();
    plain.write_all(&record[7..]).await.unwrap();
    assert!(poll_once(&mut server, &mut room).await.is_ready());
    assert_eq!(room.filled(), b"in two parts");
    assert_eq!(server.incoming.held(), (false, 0));
}

#[tokio::test]
async fn an_answer_may_come_between_the_parts_of_a_key_update() {
    let (client, mut server) = pair(&version::TLS13, 1 << 16).await;
    let (mut plain, tls) = client.into_inner();
    #[allow(
        deprecated,
        reason = "nothing else lets a test write records of its own"
    )]
    let secrets = tls.dangerous_extract_secrets().unwrap();
    let (mut count, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
        panic!("the gate prefers AES-128");
    };
    let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap();
    let key = LessSafeKey::new(key);
    // A request to renew the keys (RFC 8446 section 4.6.3), in records of the handshake (22).
    for part in [&[24, 0][..], &[0, 1], &[1]] {
        let mut contents = [part, &[22]].concat();
        let length = (contents.len() + 16) as u16;
        let [high, low] = length.to_be_bytes();
        let head = [23, 3, 3, high, low];
        let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
        for (to, from) in nonce[4..].iter_mut().zip(u64::to_be_bytes(count)) {
            *to ^= from;
        }
        count += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(head), &mut contents)
            .unwrap();
        plain
            .write_all(&[&head[..], &contents].concat())
            .await
            .unwrap();
        let mut room = [0; 64];
        let waits = poll_once(&mut server, &mut ReadBuf::new(&mut room)).await;
        assert!(waits.is_pending());
        server.write_all(b"an answer").await.unwrap();
    }
    // Three answers of 31 bytes, and before the last one the update that was asked for, 27 bytes; tickets came before.
    drop(server);
    let mut sent = Vec::new();
    plain.read_to_end(&mut sent).await.unwrap();
    let mut sizes = Vec::new();
    let mut rest = sent.as_slice();
    while let [_, _, _, high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        sizes.push(length);
        rest = &more[length..];
    }
    assert!(sizes.ends_with(&[26, 26, 22, 26]), "{sizes:?}");
}

/// Polls once, as who has other things to do.
async fn poll_once(
    server: &mut Stream<DuplexStream>,
    room: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *server).poll_read(cx, room))).await
}

/// The client's next record.
fn sealed(tls: &mut ClientConnection, plain: &[u8]) -> Vec<u8> {
    io::Write::write_all(&mut tls.writer(), plain).unwrap();
    let mut record = Vec::new();
    tls.write_tls(&mut record).unwrap();
    record
}

/// What a client may send once it has the keys: records of its own and other bytes, in pieces that end anywhere.
#[tokio::test]
async fn nothing_that_comes_behind_the_handshake_makes_it_stumble() {
    let mut runner = TestRunner::deterministic();
    let part = prop_oneof![
        4 => vec(any::<u8>(), 0..3000).prop_map(Sent::Own),
        1 => vec(any::<u8>(), 1..40).prop_map(Sent::Bytes),
        // The head of a record, whatever kind and length.
        1 => (20_u8..25, any::<u16>()).prop_map(|(kind, length)| {
            let [high, low] = length.to_be_bytes();
            Sent::Bytes(vec![kind, 3, 3, high, low])
        }),
        1 => any::<Index>().prop_map(Sent::Changed),
    ];
    let parts = vec((part, 1_usize..5000), 1..12);
    let (mut whole, mut broken) = (0, 0);
    for version in [&version::TLS13, &version::TLS12] {
        for _ in 0..150 {
            let (client, mut server) = pair(version, 1 << 20).await;
            let (mut plain, mut tls) = client.into_inner();
            let (mut said, mut got, mut is_good) = (Vec::new(), Vec::new(), true);
            for (sent, size) in parts.new_tree(&mut runner).unwrap().current() {
                let mut wire = match &sent {
                    Sent::Own(bytes) => sealed(&mut tls, bytes),
                    Sent::Bytes(bytes) => bytes.clone(),
                    Sent::Changed(_) => sealed(&mut tls, b"changed"),
                };
                match sent {
                    Sent::Own(bytes) if is_good => said.extend(bytes),
                    Sent::Own(_) => {}
                    Sent::Bytes(_) => is_good = false,
                    Sent::Changed(at) => {
                        // Not in the head, whose version nobody looks at (RFC 8446 section 5.1).
                        let at = at.index(wire.len() - 5);
                        wire[5 + at] ^= 0x55;
                        is_good = false;
                    }
                }
                for piece in wire.chunks(size) {
                    plain.write_all(piece).await.unwrap();
                    let mut room = vec![0; size];
                    let mut room = ReadBuf::new(&mut room);
                    if let Poll::Ready(Ok(())) = poll_once(&mut server, &mut room).await {
                        got.extend_from_slice(room.filled());
                    }
                    let _ = server.write_all(b"an answer").await;
                }
            }
            let _ = plain.shutdown().await;
            let mut rest = Vec::new();
            let ended = server.read_to_end(&mut rest).await;
            got.extend(rest);
            // What was sealed before the first false byte has come, and nothing else has.
            assert!(got == said, "{} of {}", got.len(), said.len());
            assert!(ended.is_err());
            whole += usize::from(is_good);
            broken += usize::from(!is_good);
        }
    }
    assert!(whole > 10 && broken > 100, "{whole} {broken}");
}

#[derive(Clone, Debug)]
enum Sent {
    Own(Vec<u8>),
    Bytes(Vec<u8>),
    Changed(Index),
}
