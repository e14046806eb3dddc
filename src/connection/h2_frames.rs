//! Counts the frames of an HTTP/2 connection before h2 processes them.
//!
//! h2 has no hook for frames that belong to no request. `inspect` passes every byte of both directions to a [`FrameScanner`],
//! which reads the nine bytes of each frame header (RFC 9113 section 4.1) and skips the payload. [`ClientFrames`] and
//! `state` keep the counts that the abuse limits need. No payload is kept, and none is validated.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

/// Finds the frame headers in one direction of a connection.
#[derive(Debug)]
pub(crate) struct FrameScanner {
    /// The number of bytes to skip: the rest of a payload, or of the client's connection preface.
    skip: usize,
    /// The beginning of a frame, as far as it has arrived.
    start: Vec<u8>,
}

/// A frame whose beginning has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    length: usize,
    frame_type: u8,
    flags: u8,
    stream: u32,
    /// The length of the padding of a padded DATA frame, from the first byte of its payload.
    padding: u8,
    /// The error code of a RST_STREAM frame.
    error_code: u32,
}

impl FrameScanner {
    /// Creates the scanner of the side that sends `preface` bytes before its first frame.
    pub(crate) fn new(preface: usize) -> Self {
        Self {
            skip: preface,
            start: Vec::new(),
        }
    }

    /// Scans more bytes, and calls `on_frame` for each frame whose header ends in them.
    pub(crate) fn scan(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.skip > 0 {
                return;
            }
            let missing = self.wanted().saturating_sub(self.start.len());
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            self.start.extend_from_slice(now);
            bytes = rest;
            if self.start.len() < self.wanted() {
                if bytes.is_empty() {
                    return;
                }
                continue;
            }
            if let Some(frame) = Frame::parse(&self.start) {
                self.skip = (frame.length + HEADER_LENGTH).saturating_sub(self.start.len());
                on_frame(frame);
            }
            self.start.clear();
        }
    }

    /// Whether a frame has arrived in part.
    pub(crate) fn is_mid_frame(&self) -> bool {
        self.skip > 0 || !self.start.is_empty()
    }

    /// The number of bytes of a frame that are read: its header, and the error code of RST_STREAM or the padding length of DATA.
    fn wanted(&self) -> usize {
        match self.start.as_slice() {
            [0, 0, 4, RST_STREAM, _, _, _, _, _, ..] => HEADER_LENGTH + 4,
            [0, 0, 0, ..] => HEADER_LENGTH,
            [_, _, _, DATA, flags, _, _, _, _, ..] if flags & PADDED != 0 => HEADER_LENGTH + 1,
            _ => HEADER_LENGTH,
        }
    }
}

impl Frame {
    fn parse(start: &[u8]) -> Option<Self> {
        let (&[a, b, c, frame_type, flags, d, e, f, g], payload) =
            start.split_first_chunk::<HEADER_LENGTH>()?;
        let error_code = payload
            .first_chunk::<4>()
            .map_or(0, |code| u32::from_be_bytes(*code));
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            frame_type,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes([d, e, f, g]) & (u32::MAX >> 1),
            padding: payload.first().copied().unwrap_or_default(),
            error_code,
        })
    }

    /// Whether the frame carries a part of a field section.
    fn is_field_block(self) -> bool {
        matches!(self.frame_type, HEADERS | CONTINUATION)
    }

    /// Whether a CONTINUATION frame follows.
    fn has_continuation(self) -> bool {
        self.is_field_block() && self.flags & END_HEADERS == 0
    }

    /// Whether the frame is RST_STREAM. The error code does not matter: the sender chooses it, and the work that the stream
    /// caused is the same.
    fn is_reset(self) -> bool {
        self.frame_type == RST_STREAM
    }

    /// Whether a frame of the proxy resets a stream because of an error. RST_STREAM with NO_ERROR follows a complete response to
    /// a request whose body the proxy does not need (RFC 9113 section 8.1): nothing was cancelled there.
    pub(crate) fn is_error_reset(self) -> bool {
        self.is_reset() && self.error_code != NO_ERROR
    }

    /// What a frame of the client changes about the request of its stream.
    fn request_change(self) -> Option<RequestChange> {
        let ends_stream = self.flags & END_STREAM != 0;
        match self.frame_type {
            HEADERS if !ends_stream => Some(RequestChange::Open),
            HEADERS | DATA if ends_stream => Some(RequestChange::End),
            RST_STREAM => Some(RequestChange::End),
            _ => None,
        }
    }

    /// The number of body bytes in a DATA frame, without its padding.
    fn data_length(self) -> usize {
        let padding = match self.flags & PADDED {
            0 => 0,
            _ => 1 + usize::from(self.padding),
        };
        match self.frame_type {
            DATA => self.length.saturating_sub(padding),
            _ => 0,
        }
    }

    /// Whether the frame causes work and advances no request. Flags that the sender is free to set (ACK, padding) make no
    /// difference. [`ClientFrames`] judges WINDOW_UPDATE.
    fn is_overhead(self) -> bool {
        match self.frame_type {
            DATA => self.data_length() == 0 && self.flags & END_STREAM == 0,
            HEADERS | RST_STREAM | WINDOW_UPDATE | CONTINUATION => false,
            _ => true,
        }
    }
}

/// What a frame of the client changes about the request of its stream.
enum RequestChange {
    /// The request begins, and more of it follows.
    Open,
    /// The request is complete or reset.
    End,
}

/// The counts of the frames that a client sends.
#[derive(Debug)]
pub(crate) struct ClientFrames {
    scanner: FrameScanner,
    /// A field section has begun and its last frame has not ended. The connection preface counts as the beginning of one.
    is_in_head: bool,
    /// The current frame of the field section is not its last one.
    has_continuation: bool,
    /// The number of overhead frames, reduced by one for each [`FORGIVE_INTERVAL`].
    overhead: u32,
    /// The time up to which `overhead` was reduced.
    forgiven_until: Instant,
    /// The number of WINDOW_UPDATE frames that the client may have a reason to send.
    window_updates_allowed: u64,
    /// The streams whose request the client has begun and has neither ended nor reset.
    open_requests: HashSet<u32>,
}

/// What the bytes of one read contained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameSummary {
    /// The number of RST_STREAM frames.
    pub(crate) resets: usize,
    /// Whether a field section or the connection preface ended.
    pub(crate) has_ended_head: bool,
    /// Whether a field section or the connection preface is incomplete.
    pub(crate) is_in_head: bool,
    /// Whether the client has sent more overhead frames than the limit.
    pub(crate) is_flood: bool,
}

impl ClientFrames {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            scanner: FrameScanner::new(PREFACE_LENGTH),
            is_in_head: true,
            has_continuation: false,
            overhead: 0,
            forgiven_until: now,
            window_updates_allowed: 0,
            open_requests: HashSet::new(),
        }
    }

    /// The number of streams whose request the client has not ended.
    pub(crate) fn open_requests(&self) -> usize {
        self.open_requests.len()
    }

    /// Records that the proxy sent a frame.
    pub(crate) fn record_sent(&mut self, frame: Frame) {
        self.allow_window_updates(frame.data_length());
        if frame.is_reset() {
            self.open_requests.remove(&frame.stream);
        }
    }

    /// Records that the proxy sent `bytes` of a body. The client may announce each byte that it consumed twice: for the window of
    /// the stream and for the window of the connection.
    fn allow_window_updates(&mut self, bytes: usize) {
        let allowed = (bytes as u64).saturating_mul(2);
        self.window_updates_allowed = self.window_updates_allowed.saturating_add(allowed);
    }

    /// Scans more bytes of the client.
    pub(crate) fn read(&mut self, bytes: &[u8], now: Instant) -> FrameSummary {
        let mut summary = FrameSummary::default();
        let (mut is_in_head, mut has_continuation) = (self.is_in_head, self.has_continuation);
        let mut window_updates_allowed = self.window_updates_allowed;
        let open_requests = &mut self.open_requests;
        let mut overhead = 0;
        self.scanner.scan(bytes, |frame| {
            // The frame before this one has ended, and with it the field section, if that was its last frame.
            summary.has_ended_head |= is_in_head && !has_continuation;
            (is_in_head, has_continuation) =
                match (frame.is_field_block(), is_in_head && has_continuation) {
                    (true, _) => (true, frame.has_continuation()),
                    (false, is_open) => (is_open, is_open),
                };
            summary.resets += usize::from(frame.is_reset());
            match frame.request_change() {
                // After GOAWAY h2 ignores further requests without a reset, so that a client could open any number.
                Some(RequestChange::Open) if open_requests.len() < MAX_OPEN_REQUESTS => {
                    open_requests.insert(frame.stream);
                }
                Some(RequestChange::End) => {
                    open_requests.remove(&frame.stream);
                }
                Some(RequestChange::Open) | None => {}
            }
            let is_overhead = match frame.frame_type {
                // A WINDOW_UPDATE beyond the allowed number announces bytes that the proxy never sent.
                WINDOW_UPDATE => match window_updates_allowed.checked_sub(1) {
                    Some(left) => {
                        window_updates_allowed = left;
                        false
                    }
                    None => true,
                },
                _ => frame.is_overhead(),
            };
            overhead += u32::from(is_overhead);
        });
        self.window_updates_allowed = window_updates_allowed;
        if is_in_head && !has_continuation && !self.scanner.is_mid_frame() {
            (is_in_head, summary.has_ended_head) = (false, true);
        }
        (self.is_in_head, self.has_continuation) = (is_in_head, has_continuation);
        summary.is_in_head = is_in_head;
        summary.is_flood = overhead > 0 && self.add_overhead(overhead, now);
        summary
    }

    /// Adds overhead frames. Returns whether they exceed the limit.
    fn add_overhead(&mut self, frames: u32, now: Instant) -> bool {
        let elapsed = now.duration_since(self.forgiven_until);
        let forgiven = elapsed.as_millis() / FORGIVE_INTERVAL.as_millis();
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.forgiven_until += FORGIVE_INTERVAL.saturating_mul(forgiven);
        self.overhead = self
            .overhead
            .saturating_sub(forgiven)
            .saturating_add(frames);
        self.overhead > MAX_OVERHEAD_FRAMES
    }
}

const HEADER_LENGTH: usize = 9;
/// The length of `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113 section 3.4).
const PREFACE_LENGTH: usize = 24;

// Frame types (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// An error code of RST_STREAM (RFC 9113 section 7).
const NO_ERROR: u32 = 0;

/// The number of open requests that are tracked: the largest value of `limits.h2_streams`.
const MAX_OPEN_REQUESTS: usize = 10_000;
/// The number of overhead frames that a client may send in one burst: far more than any client sends to measure the round trip.
const MAX_OVERHEAD_FRAMES: u32 = 1000;
/// The time after which one overhead frame is forgiven.
const FORGIVE_INTERVAL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(frame_type: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([frame_type, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    /// The counts of a client that has sent its connection preface.
    fn after_preface() -> ClientFrames {
        let mut frames = ClientFrames::new(Instant::now());
        let summary = frames.read(&[b'P'; 23], Instant::now());
        assert!(summary.is_in_head, "the preface is incomplete");
        assert!(!frames.read(b"P", Instant::now()).is_in_head);
        frames
    }

    #[test]
    fn a_head_is_incomplete_until_its_last_byte() {
        let mut frames = after_preface();
        let mut seen = |bytes: &[u8]| {
            let summary = frames.read(bytes, Instant::now());
            (summary.has_ended_head, summary.is_in_head)
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
        let mut frames = after_preface();
        let codes = [0, 1, 5, 7, 8, 11, 0xff, u32::MAX];
        let resets = codes
            .map(|code: u32| frame(RST_STREAM, 0, &code.to_be_bytes()))
            .concat();
        let summary = frames.read(&resets, Instant::now());
        assert_eq!(summary.resets, codes.len());
    }

    #[test]
    fn resets_of_the_proxy_count_unless_they_follow_a_complete_response() {
        let counts = |code: u32| {
            let mut is_counted = false;
            let bytes = frame(RST_STREAM, 0, &code.to_be_bytes());
            FrameScanner::new(0).scan(&bytes, |frame| is_counted = frame.is_error_reset());
            is_counted
        };
        assert_eq!([0, 1, 8].map(counts), [false, true, true]);
    }

    #[test]
    fn a_request_is_open_until_the_client_ends_or_either_side_resets_it() {
        let on = |stream: u8, mut bytes: Vec<u8>| {
            bytes[8] = stream;
            bytes
        };
        let mut frames = after_preface();
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
        FrameScanner::new(0).scan(&reset, |frame| frames.record_sent(frame));
        assert_eq!(frames.open_requests(), 0);
    }

    /// Sends overhead frames with each flag and value that their sender is free to choose.
    #[test]
    fn no_flag_hides_an_overhead_frame() {
        const ACK: u8 = 1;
        for overhead in [
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
            let mut frames = after_preface();
            let now = Instant::now();
            let burst = overhead.repeat(MAX_OVERHEAD_FRAMES as usize);
            assert!(!frames.read(&burst, now).is_flood, "{overhead:?}");
            assert!(frames.read(&overhead, now).is_flood, "{overhead:?}");
        }
        let mut frames = after_preface();
        let padded = frame(DATA, PADDED, &[2, b'x', 0, 0]);
        let useful = padded.repeat(MAX_OVERHEAD_FRAMES as usize * 10);
        assert!(!frames.read(&useful, Instant::now()).is_flood);
    }

    #[test]
    fn a_client_may_announce_every_byte_that_it_was_sent() {
        let mut frames = after_preface();
        let now = Instant::now();
        let update = frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]);
        frames.allow_window_updates(5000);
        let both_windows = update.repeat(10_000);
        assert!(!frames.read(&both_windows, now).is_flood);
        let burst = update.repeat(MAX_OVERHEAD_FRAMES as usize);
        assert!(!frames.read(&burst, now).is_flood);
        assert!(frames.read(&update, now).is_flood);
    }

    #[test]
    fn overhead_frames_are_forgiven_with_time() {
        let mut frames = after_preface();
        let start = Instant::now();
        let overhead = [
            frame(PING, 0, b"12345678"),
            frame(SETTINGS, 0, &[]),
            frame(DATA, 0, &[]),
            frame(2, 0, b"12345"),
            frame(99, 0, &[]),
        ]
        .concat();
        let useful = [
            frame(DATA, END_STREAM, &[]),
            frame(DATA, 0, b"x"),
            frame(HEADERS, END_HEADERS, b"x"),
        ]
        .concat();
        let max = MAX_OVERHEAD_FRAMES as usize / 5;
        assert!(!frames.read(&overhead.repeat(max), start).is_flood);
        assert!(!frames.read(&useful.repeat(max * 10), start).is_flood);
        let later = start + FORGIVE_INTERVAL * 5;
        assert!(!frames.read(&overhead, later).is_flood);
        assert!(frames.read(&overhead, later).is_flood);
        // A long pause forgives every frame, once.
        let much_later = later + FORGIVE_INTERVAL * MAX_OVERHEAD_FRAMES * 100;
        assert!(!frames.read(&overhead.repeat(max), much_later).is_flood);
        assert!(frames.read(&overhead, much_later).is_flood);
    }

    proptest! {
        #[test]
        fn the_frames_do_not_depend_on_how_the_bytes_are_split(
            list in prop::collection::vec((0..12_u8, any::<u8>(), 0..20_usize), 0..20),
            size in 1..30_usize,
        ) {
            let bytes: Vec<u8> = list.iter().flat_map(|(kind, flags, size)| frame(*kind, *flags, &vec![1; *size])).collect();
            let find = |pieces: &mut dyn Iterator<Item = &[u8]>| {
                let (mut scanner, mut found) = (FrameScanner::new(0), Vec::new());
                for piece in pieces {
                    scanner.scan(piece, |frame| found.push(frame));
                }
                assert!(!scanner.is_mid_frame());
                found
            };
            let whole = find(&mut [bytes.as_slice()].into_iter());
            prop_assert_eq!(whole.len(), list.len());
            prop_assert_eq!(whole, find(&mut bytes.chunks(size)));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            after_preface().read(&bytes, Instant::now());
        }
    }
}
