//! No bytes whatever panic, no cut looks whole, no split makes a difference.

use proptest::prelude::*;

use super::super::chunked::Chunked;
use super::*;
use crate::fuzzing::upstream::{Scenario, check};

/// Cuts `bytes` at `at`, taken modulo what is left.
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
    let mut chunked = Chunked::new();
    let mut body = Vec::new();
    for piece in pieces {
        let mut bytes = piece.clone();
        let decoded = chunked.decode(&mut bytes).map_err(|it| it.to_string())?;
        body.extend_from_slice(&bytes[..decoded.payload]);
    }
    Ok((body, chunked.is_done()))
}

/// Bytes that look like an answer often enough to get beyond the head.
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

/// Answers of which each part is right, and the whole often is not.
fn medley() -> impl Strategy<Value = Vec<u8>> {
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
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in prop::collection::vec(any::<usize>(), 0..4)) {
        let ended = get(split(&bytes, &at), After::End);
        prop_assert!(ended.is_err() || bytes.starts_with(b"HTTP/1."));
    }

    #[test]
    fn no_noise_panics_and_its_body_is_no_longer_than_itself(bytes in noise(), at in prop::collection::vec(any::<usize>(), 0..4)) {
        if let Ok(seen) = get(split(&bytes, &at), After::End) {
            prop_assert!(seen.body.len() < bytes.len());
            prop_assert!(seen.error.is_none() || !seen.is_pooled);
        }
    }

    #[test]
    fn the_properties_of_the_fuzz_target_hold(bytes in prop_oneof![noise(), medley(), medley()], cuts in prop::collection::vec(any::<u8>(), 3), how in any::<[bool; 3]>()) {
        let [is_head, has_body, ends_in_reset] = how;
        check(Scenario { is_head, has_body, ends_in_reset }, &bytes, &cuts);
    }

    #[test]
    fn a_cut_never_looks_whole(
        body in prop::collection::vec(any::<u8>(), 1..400),
        sizes in prop::collection::vec(any::<usize>(), 0..5),
        at in prop::collection::vec(any::<usize>(), 0..4),
        is_chunked in any::<bool>(),
        cut in any::<usize>(),
    ) {
        let mut answer = if is_chunked {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes()
        };
        answer.extend(if is_chunked { chunk(&body, &sizes) } else { body.clone() });
        let whole = get(split(&answer, &at), After::Silence).unwrap();
        prop_assert!(whole.error.is_none() && whole.is_pooled);
        prop_assert_eq!(&whole.body, &body);
        answer.truncate(cut % answer.len());
        if let Ok(seen) = get(split(&answer, &at), After::End) {
            prop_assert!(seen.error.is_some() && !seen.is_pooled);
            prop_assert!(body.starts_with(&seen.body));
        }
    }

    #[test]
    fn chunks_in_any_split_are_the_same_as_in_one(
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
    fn what_the_encoder_writes_the_decoder_reads(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..100)) {
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
