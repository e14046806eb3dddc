//! The frames of an HTTP/2 connection as they pass, counted before h2 sees them.
//!
//! h2 has no hook for frames that make no request. `heard` shows every byte of both directions to a [`FrameScanner`], which
//! looks at the nine bytes in front of each frame (RFC 9113 section 4.1) and steps over the rest; [`ClientFrames`] and `watch`
//! keep what it found. It judges no frame's content and keeps none.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

/// Finds where frames begin and end.
#[derive(Debug)]
pub(super) struct FrameScanner {
    /// Bytes to step over: the rest of a payload, or the client's preface.
    skip: usize,
    /// The beginning of a frame, as much of it as has come.
    start: Vec<u8>,
}

/// A frame whose beginning has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    /// The first byte of the payload of a padded DATA frame: the length of the padding.
    padding: u8,
    /// The error code of a RST_STREAM frame.
    code: u32,
}

impl FrameScanner {
    /// Of the side that sends `preface` bytes before its first frame.
    pub(super) fn new(preface: usize) -> Self {
        Self {
            skip: preface,
            start: Vec::new(),
        }
    }

    /// Follows more bytes, and tells of each frame that begins in them.
    pub(super) fn walk(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Frame)) {
        loop {
            let step = self.skip.min(bytes.len());
            self.skip -= step;
            bytes = bytes.get(step..).unwrap_or_default();
            if self.skip > 0 {
                return;
            }
            let wanted = self.wanted().saturating_sub(self.start.len());
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.start.extend_from_slice(now);
            bytes = rest;
            if self.start.len() < self.wanted() {
                if bytes.is_empty() {
                    return;
                }
                continue;
            }
            if let Some(frame) = Frame::read(&self.start) {
                self.skip = (frame.length + HEADER).saturating_sub(self.start.len());
                tell(frame);
            }
            self.start.clear();
        }
    }

    /// True when a payload or a frame's beginning has come in part.
    pub(super) fn is_within(&self) -> bool {
        self.skip > 0 || !self.start.is_empty()
    }

    /// How many bytes of a frame are looked at: its header, the error code of a reset, and the length of the padding of
    /// a DATA frame.
    fn wanted(&self) -> usize {
        match self.start.as_slice() {
            [0, 0, 4, RST_STREAM, _, _, _, _, _, ..] => HEADER + 4,
            [0, 0, 0, ..] => HEADER,
            [_, _, _, DATA, flags, _, _, _, _, ..] if flags & PADDED != 0 => HEADER + 1,
            _ => HEADER,
        }
    }
}

impl Frame {
    fn read(start: &[u8]) -> Option<Self> {
        let (&[a, b, c, kind, flags, d, e, f, g], payload) = start.split_first_chunk::<HEADER>()?;
        let code = payload
            .first_chunk::<4>()
            .map_or(0, |it| u32::from_be_bytes(*it));
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes([d, e, f, g]) & (u32::MAX >> 1),
            padding: payload.first().copied().unwrap_or_default(),
            code,
        })
    }

    /// Part of a head, of which more is to come in the next frame.
    fn leaves_head_open(self) -> bool {
        self.is_of_head() && self.flags & END_HEADERS == 0
    }

    fn is_of_head(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION)
    }

    /// True for a reset, whatever its error code: the sender chooses the code, and the work behind the stream is the same.
    fn is_reset(self) -> bool {
        self.kind == RST_STREAM
    }

    /// True for a reset of the proxy that tells of an error. RST_STREAM with NO_ERROR follows a complete response to a
    /// request whose body the proxy does not need (RFC 9113 section 8.1): nothing was cancelled there.
    pub(super) fn is_error_reset(self) -> bool {
        self.is_reset() && self.code != NO_ERROR
    }

    /// What the frame does to the request of its stream, on the client's side.
    fn request(self) -> Option<RequestChange> {
        let is_end = self.flags & END_STREAM != 0;
        match self.kind {
            HEADERS if !is_end => Some(RequestChange::Open),
            HEADERS | DATA if is_end => Some(RequestChange::End),
            RST_STREAM => Some(RequestChange::End),
            _ => None,
        }
    }

    /// Bytes of a body in a DATA frame, without its padding.
    pub(super) fn data(self) -> usize {
        let padding = match self.flags & PADDED {
            0 => 0,
            _ => 1 + usize::from(self.padding),
        };
        match self.kind {
            DATA => self.length.saturating_sub(padding),
            _ => 0,
        }
    }

    /// True for a frame that makes work and moves no request on. Flags that the sender is free to set (ACK, padding) make
    /// no difference. WINDOW_UPDATE is judged by [`ClientFrames`].
    fn is_control_overhead(self) -> bool {
        match self.kind {
            DATA => self.data() == 0 && self.flags & END_STREAM == 0,
            HEADERS | RST_STREAM | WINDOW_UPDATE | CONTINUATION => false,
            _ => true,
        }
    }
}

/// The request of a stream begins with more to come, or ends.
enum RequestChange {
    Open,
    End,
}

/// What a client's frames have come to.
#[derive(Debug)]
pub(super) struct ClientFrames {
    walker: FrameScanner,
    /// The preface counts as the beginning of a head.
    is_in_head: bool,
    /// The frame that is passing leaves the head open.
    stays_open: bool,
    /// Frames that move no request on, less those that time has forgiven.
    idle_work: u32,
    since: Instant,
    /// WINDOW_UPDATE frames that the client may have a reason to send.
    window_updates: u64,
    /// Streams whose request the client has begun and neither ended nor reset.
    open_requests: HashSet<u32>,
}

/// What more bytes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameSummary {
    pub(super) resets: usize,
    /// The end of a head came, the preface's among them.
    pub(super) has_ended_head: bool,
    pub(super) is_in_head: bool,
    pub(super) is_flood: bool,
}

impl ClientFrames {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            walker: FrameScanner::new(PREFACE),
            is_in_head: true,
            stays_open: false,
            idle_work: 0,
            since: now,
            window_updates: 0,
            open_requests: HashSet::new(),
        }
    }

    /// Streams whose request has not ended.
    pub(super) fn open_requests(&self) -> usize {
        self.open_requests.len()
    }

    /// The proxy sent the beginning of this frame.
    pub(super) fn sent(&mut self, frame: Frame) {
        self.sent_data(frame.data());
        if frame.is_reset() {
            self.open_requests.remove(&frame.stream);
        }
    }

    /// The proxy sent `bytes` of a body. The client may announce each byte that it consumed twice: for the window of the
    /// stream and for that of the connection.
    fn sent_data(&mut self, bytes: usize) {
        let allowed = (bytes as u64).saturating_mul(2);
        self.window_updates = self.window_updates.saturating_add(allowed);
    }

    /// Follows more bytes of the client.
    pub(super) fn read(&mut self, bytes: &[u8], now: Instant) -> FrameSummary {
        let mut passed = FrameSummary::default();
        let (mut is_in_head, mut stays_open) = (self.is_in_head, self.stays_open);
        let mut window_updates = self.window_updates;
        let open_requests = &mut self.open_requests;
        let mut work = 0;
        self.walker.walk(bytes, |frame| {
            // The one before it is over.
            passed.has_ended_head |= is_in_head && !stays_open;
            (is_in_head, stays_open) = match (frame.is_of_head(), is_in_head && stays_open) {
                (true, _) => (true, frame.leaves_head_open()),
                (false, is_open) => (is_open, is_open),
            };
            passed.resets += usize::from(frame.is_reset());
            match frame.request() {
                // After GOAWAY h2 ignores further requests without a reset, so that a client could open any number.
                Some(RequestChange::Open) if open_requests.len() < MOST_OPEN => {
                    open_requests.insert(frame.stream);
                }
                Some(RequestChange::End) => {
                    open_requests.remove(&frame.stream);
                }
                Some(RequestChange::Open) | None => {}
            }
            let is_idle_work = match frame.kind {
                // A flood of them announces bytes that the proxy never sent.
                WINDOW_UPDATE => match window_updates.checked_sub(1) {
                    Some(left) => {
                        window_updates = left;
                        false
                    }
                    None => true,
                },
                _ => frame.is_control_overhead(),
            };
            work += u32::from(is_idle_work);
        });
        self.window_updates = window_updates;
        if is_in_head && !stays_open && !self.walker.is_within() {
            (is_in_head, passed.has_ended_head) = (false, true);
        }
        (self.is_in_head, self.stays_open) = (is_in_head, stays_open);
        passed.is_in_head = is_in_head;
        passed.is_flood = work > 0 && self.is_flood(work, now);
        passed
    }

    fn is_flood(&mut self, work: u32, now: Instant) -> bool {
        let periods = now.duration_since(self.since).as_millis() / PERIOD.as_millis();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.since += PERIOD.saturating_mul(periods.min(FLOOD));
        self.idle_work = self.idle_work.saturating_sub(periods).saturating_add(work);
        self.idle_work > FLOOD
    }
}

const HEADER: usize = 9;
/// `PRI * HTTP/2.0` and what belongs to it (RFC 9113 section 3.4).
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const NO_ERROR: u32 = 0;

/// Requests that are followed: the largest value of `limits.h2_streams`.
const MOST_OPEN: usize = 10_000;
/// So many frames at once that move no request on; far more than any client sends to measure its network.
const FLOOD: u32 = 1000;
/// How long it takes until one of them is forgiven.
const PERIOD: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
