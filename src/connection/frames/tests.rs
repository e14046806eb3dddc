//! Frames found however they are cut, heads timed, resets and floods counted.

use proptest::prelude::*;

use super::*;

const SETTINGS: u8 = 4;
const PING: u8 = 6;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend(payload);
    bytes
}

/// Behind the preface.
fn begun() -> ClientFrames {
    let mut frames = ClientFrames::new(Instant::now());
    let passed = frames.read(&[b'P'; 23], Instant::now());
    assert!(passed.is_in_head, "half a preface");
    assert!(!frames.read(b"P", Instant::now()).is_in_head);
    frames
}

#[test]
fn a_head_is_open_until_its_last_byte() {
    let mut frames = begun();
    let mut seen = |bytes: &[u8]| {
        let passed = frames.read(bytes, Instant::now());
        (passed.has_ended_head, passed.is_in_head)
    };
    let whole = frame(HEADERS, END_HEADERS, b"abc");
    assert_eq!(seen(&whole), (true, false));
    assert_eq!(seen(&whole[..10]), (false, true));
    assert_eq!(seen(&whole[10..]), (true, false));
    assert_eq!(seen(&frame(HEADERS, 0, b"a")), (false, true));
    assert_eq!(seen(&frame(CONTINUATION, 0, b"b")), (false, true));
    assert_eq!(seen(&frame(CONTINUATION, END_HEADERS, b"c")), (true, false));
    assert_eq!(seen(&frame(DATA, 0, b"c")[..10]), (false, false));
    assert_eq!(seen(&[]), (false, false));
}

#[test]
fn resets_of_the_client_count_whatever_their_code_is() {
    let mut frames = begun();
    let codes = [0, 1, 5, 7, 8, 11, 0xff, u32::MAX];
    let resets = codes
        .map(|code: u32| frame(RST_STREAM, 0, &code.to_be_bytes()))
        .concat();
    let passed = frames.read(&resets, Instant::now());
    assert_eq!(passed.resets, codes.len());
}

#[test]
fn resets_of_the_proxy_count_unless_they_follow_a_complete_response() {
    let sent = |code: u32| {
        let mut counted = false;
        let bytes = frame(RST_STREAM, 0, &code.to_be_bytes());
        FrameScanner::new(0).walk(&bytes, |frame| counted = frame.is_error_reset());
        counted
    };
    assert_eq!([0, 1, 8].map(sent), [false, true, true]);
}

#[test]
fn a_request_is_open_until_the_client_ends_or_either_side_resets_it() {
    let on = |stream: u8, mut bytes: Vec<u8>| {
        bytes[8] = stream;
        bytes
    };
    let mut frames = begun();
    let mut open = |bytes: &[u8]| {
        frames.read(bytes, Instant::now());
        frames.open_requests()
    };
    assert_eq!(
        open(&on(1, frame(HEADERS, END_HEADERS | END_STREAM, b"x"))),
        0
    );
    assert_eq!(open(&on(3, frame(HEADERS, END_HEADERS, b"x"))), 1);
    assert_eq!(open(&on(5, frame(HEADERS, 0, b"x"))), 2);
    assert_eq!(open(&on(5, frame(CONTINUATION, END_HEADERS, b"x"))), 2);
    assert_eq!(open(&on(3, frame(DATA, 0, b"x"))), 2);
    assert_eq!(open(&on(3, frame(DATA, END_STREAM, b"x"))), 1);
    assert_eq!(
        open(&on(5, frame(HEADERS, END_HEADERS | END_STREAM, b"x"))),
        0
    );
    assert_eq!(open(&on(7, frame(HEADERS, END_HEADERS, b"x"))), 1);
    assert_eq!(open(&on(7, frame(RST_STREAM, 0, &[0; 4]))), 0);
    assert_eq!(open(&on(9, frame(HEADERS, END_HEADERS, b"x"))), 1);
    let reset = on(9, frame(RST_STREAM, 0, &[0; 4]));
    FrameScanner::new(0).walk(&reset, |frame| frames.sent(frame));
    assert_eq!(frames.open_requests(), 0);
}

/// Frames that move nothing, with each flag and value that their sender is free to choose.
#[test]
fn no_flag_makes_idle_work_look_useful() {
    const ACK: u8 = 1;
    for idle in [
        frame(PING, 0, b"12345678"),
        frame(PING, ACK, b"12345678"),
        frame(SETTINGS, 0, &[]),
        frame(SETTINGS, ACK, &[]),
        frame(DATA, 0, &[]),
        frame(DATA, PADDED, &[0]),
        frame(DATA, PADDED, &[3, 0, 0, 0]),
        frame(DATA, PADDED, &[200, 0]),
        frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        frame(WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff]),
        frame(2, 0, b"12345"),
        frame(16, 0, b"12345"),
        frame(99, 0xff, &[1]),
    ] {
        let mut frames = begun();
        let now = Instant::now();
        let flood = idle.repeat(FLOOD as usize);
        assert!(!frames.read(&flood, now).is_flood, "{idle:?}");
        assert!(frames.read(&idle, now).is_flood, "{idle:?}");
    }
    let mut frames = begun();
    let padded = frame(DATA, PADDED, &[2, b'x', 0, 0]);
    let useful = padded.repeat(FLOOD as usize * 10);
    assert!(!frames.read(&useful, Instant::now()).is_flood);
}

#[test]
fn a_client_may_announce_every_byte_that_it_was_sent() {
    let mut frames = begun();
    let now = Instant::now();
    let update = frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]);
    frames.sent_data(5000);
    let both_windows = update.repeat(10_000);
    assert!(!frames.read(&both_windows, now).is_flood);
    assert!(!frames.read(&update.repeat(FLOOD as usize), now).is_flood);
    assert!(frames.read(&update, now).is_flood);
}

#[test]
fn frames_that_move_nothing_are_forgiven_with_time() {
    let mut frames = begun();
    let start = Instant::now();
    let work = [
        frame(PING, 0, b"12345678"),
        frame(SETTINGS, 0, &[]),
        frame(DATA, 0, &[]),
        frame(2, 0, b"12345"),
        frame(99, 0, &[]),
    ]
    .concat();
    let other = [
        frame(DATA, END_STREAM, &[]),
        frame(DATA, 0, b"x"),
        frame(HEADERS, END_HEADERS, b"x"),
    ]
    .concat();
    let most = FLOOD as usize / 5;
    assert!(!frames.read(&work.repeat(most), start).is_flood);
    assert!(!frames.read(&other.repeat(most * 10), start).is_flood);
    let later = start + PERIOD * 5;
    assert!(!frames.read(&work, later).is_flood);
    assert!(frames.read(&work, later).is_flood);
}

proptest! {
    #[test]
    fn the_cut_makes_no_difference(
        list in prop::collection::vec((0..12_u8, any::<u8>(), 0..20_usize), 0..20),
        size in 1..30_usize,
    ) {
        let bytes: Vec<u8> = list.iter().flat_map(|(kind, flags, size)| frame(*kind, *flags, &vec![1; *size])).collect();
        let find = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut walker, mut found) = (FrameScanner::new(0), Vec::new());
            for piece in pieces {
                walker.walk(piece, |frame| found.push(frame));
            }
            assert!(!walker.is_within());
            found
        };
        let whole = find(&mut [bytes.as_slice()].into_iter());
        prop_assert_eq!(whole.len(), list.len());
        prop_assert_eq!(whole, find(&mut bytes.chunks(size)));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        begun().read(&bytes, Instant::now());
    }
}
