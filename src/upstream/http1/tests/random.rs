//! Properties for arbitrary bytes: no panic, no cut response that looks complete, no influence of the reads.

use proptest::prelude::*;

use super::super::read_body::ResponseFraming;
use super::*;
use crate::fuzzing::upstream::{Scenario, check};

/// Splits `bytes` into pieces whose lengths are `at`, modulo the remaining length.
fn split(bytes: &[u8], at: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for at in at {
        let (piece, more) = rest.split_at(at % (rest.len() + 1));
        pieces.push(piece.to_vec());
        rest = more;
    }
    pieces.push(rest.to_vec());
    pieces
}

/// `body` in chunks whose sizes follow `sizes`.
fn chunk(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in split(body, sizes).iter().filter(|it| !it.is_empty()) {
        out.extend_from_slice(format!("{:X};x=\"y\"\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"000\r\nA: b\r\n\r\n");
    out
}

fn decode(pieces: &[Vec<u8>]) -> Result<(Vec<u8>, bool), String> {
    let mut chunked = ResponseFraming::chunked();
    let mut body = Vec::new();
    for piece in pieces {
        let mut bytes = piece.clone();
        let decoded = chunked.decode(&mut bytes).map_err(|it| it.to_string())?;
        body.extend_from_slice(&bytes[..decoded.payload]);
    }
    Ok((body, chunked.is_complete()))
}

/// Bytes that resemble a response often enough to get beyond the head.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"HTTP/1.1 100 \r\n\r\n".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"5\r\nhello\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| {
        let mut all = b"HTTP/1.1 200 OK\r\n".to_vec();
        all.extend(parts.concat());
        all
    })
}

/// Responses whose parts are valid, but whose combination often is not.
fn combinations() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204 \r\n",
        "HTTP/1.1 304 \r\n",
        "HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 \r\n",
    ]);
    let field = prop::sample::select(vec![
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
    ]);
    let body = prop::sample::select(vec!["", "hello", "5\r\nhello\r\n", "0\r\n\r\n", "x"]);
    let fields = prop::collection::vec(field, 0..3);
    let bodies = prop::collection::vec(body, 0..3);
    (start, fields, bodies).prop_map(|(start, fields, bodies)| {
        format!("{start}{}\r\n{}", fields.concat(), bodies.concat()).into_bytes()
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in prop::collection::vec(any::<usize>(), 0..4)) {
        let ended = get(split(&bytes, &at), After::End);
        prop_assert!(ended.is_err() || bytes.starts_with(b"HTTP/1."));
    }

    #[test]
    fn random_responses_do_not_panic_and_their_bodies_are_shorter(bytes in noise(), at in prop::collection::vec(any::<usize>(), 0..4)) {
        if let Ok(received) = get(split(&bytes, &at), After::End) {
            prop_assert!(received.body.len() < bytes.len());
            prop_assert!(received.error.is_none() || !received.is_pooled);
        }
    }

    #[test]
    fn the_properties_of_the_fuzz_target_hold(bytes in prop_oneof![noise(), combinations(), combinations()], cuts in prop::collection::vec(any::<u8>(), 3), how in any::<[bool; 3]>()) {
        let [is_head, has_body, ends_in_reset] = how;
        check(Scenario { is_head, has_body, ends_in_reset }, &bytes, &cuts);
    }

    #[test]
    fn a_cut_response_never_looks_complete(
        body in prop::collection::vec(any::<u8>(), 1..400),
        sizes in prop::collection::vec(any::<usize>(), 0..5),
        at in prop::collection::vec(any::<usize>(), 0..4),
        is_chunked in any::<bool>(),
        cut in any::<usize>(),
    ) {
        let mut response = if is_chunked {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes()
        };
        response.extend(if is_chunked { chunk(&body, &sizes) } else { body.clone() });
        let whole = get(split(&response, &at), After::Silence).unwrap();
        prop_assert!(whole.error.is_none() && whole.is_pooled);
        prop_assert_eq!(&whole.body, &body);
        response.truncate(cut % response.len());
        if let Ok(received) = get(split(&response, &at), After::End) {
            prop_assert!(received.error.is_some() && !received.is_pooled);
            prop_assert!(body.starts_with(&received.body));
        }
    }

    #[test]
    fn chunks_are_decoded_independently_of_the_reads(
        body in prop::collection::vec(any::<u8>(), 0..300),
        sizes in prop::collection::vec(any::<usize>(), 0..6),
        at in prop::collection::vec(any::<usize>(), 0..12),
        flip in prop::option::of((any::<usize>(), any::<u8>())),
    ) {
        let mut bytes = chunk(&body, &sizes);
        if let Some((at, byte)) = flip {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let one = decode(std::slice::from_ref(&bytes));
        prop_assert_eq!(&decode(&split(&bytes, &at)), &one);
        if flip.is_none() {
            prop_assert_eq!(one, Ok((body, true)));
        }
    }

    #[test]
    fn the_decoder_reads_what_the_writer_writes(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..100)) {
        let wire = Wire::new(["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], After::Silence);
        let written = Arc::clone(&wire.written);
        let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        prop_assert!(run(exchange(wire, Method::PATCH, Frames::body(&slices, None))).is_ok());
        let written = written.lock().unwrap().clone();
        let head = b"PATCH /v2/ HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        prop_assert!(written.starts_with(head));
        prop_assert_eq!(decode(&[written[head.len()..].to_vec()]), Ok((frames.concat(), true)));
    }
}
