//! Frames found however they are cut, heads timed, resets and floods counted.

use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags, 0, 0, 0, 1]);
    bytes.extend(payload);
    bytes
}

/// Behind the preface.
fn begun() -> Frames {
    let mut frames = Frames::new(Instant::now());
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
fn only_resets_that_tell_of_trouble_count() {
    let mut frames = begun();
    let resets = [0, 8, 1]
        .map(|code: u32| frame(RST_STREAM, 0, &code.to_be_bytes()))
        .concat();
    assert_eq!(frames.read(&resets, Instant::now()).resets, 2);
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
        frame(PING, ACK, b"12345678"),
        frame(SETTINGS, ACK, &[]),
        frame(DATA, END_STREAM, &[]),
        frame(DATA, 0, b"x"),
        frame(WINDOW_UPDATE, 0, b"1234"),
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
            let (mut walker, mut found) = (Walker::new(0), Vec::new());
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
