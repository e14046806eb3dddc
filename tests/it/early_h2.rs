//! Early responses on HTTP/2: after a complete response, the proxy keeps the stream open for some seconds, so that the
//! client can read the response before the RST_STREAM arrives. Such kept streams do not delay other requests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::binary::{ServeProcess, configured};
use crate::early::rejected_uploads;
use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, Outcome, PING, RST_STREAM, RawH2,
    SETTINGS, WINDOW_UPDATE, frame, header_block,
};
use crate::support::{Proxy, Registry, TestRequest, config};

const NO_ERROR: [u8; 4] = [0; 4];
/// The longest time for which a stream is kept, and a shorter time.
const GRACE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(3);

fn head(request: &TestRequest) -> Vec<u8> {
    let names: Vec<Vec<u8>> = request
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase().into_bytes())
        .collect();
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", request.method.as_bytes()),
        (b":scheme", b"https"),
        (b":authority", request.host.as_bytes()),
        (b":path", request.target.as_bytes()),
    ];
    for (name, (_, value)) in names.iter().zip(&request.headers) {
        fields.push((name, value));
    }
    header_block(&fields)
}

/// Connects and acknowledges the proxy's SETTINGS, so that the proxy's window sizes apply.
fn connect(proxy: &Proxy) -> RawH2 {
    connect_to(proxy.https())
}

fn connect_to(address: SocketAddr) -> RawH2 {
    let mut frames = RawH2::connect(address);
    frames.send(frame(SETTINGS, ACK, 0, &[]));
    frames
}

fn anonymous() -> TestRequest {
    TestRequest::new("PATCH", "/v2/a/blobs/uploads/u")
}

/// Sends the header section and the first bytes of an upload.
fn begin_upload(frames: &mut RawH2, request: &TestRequest) -> u32 {
    let stream = frames.next_stream_id();
    frames.send(frame(HEADERS, END_HEADERS, stream, &head(request)));
    frames.send(frame(DATA, 0, stream, &[b'x'; 16_000]));
    stream
}

/// Reads the frames up to the end of the response on `stream`, and returns its status.
fn read_response(frames: &mut RawH2, stream: u32) -> u16 {
    let status = match frames.read_outcome(stream) {
        Outcome::Status(status) => status,
        other => panic!("{other:?} on {stream}"),
    };
    loop {
        let frame = frames.read_frame().expect("an open connection");
        assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{frame:?}");
        if frame.stream == stream && frame.flags & END_STREAM != 0 {
            return status;
        }
    }
}

/// The frames that the proxy had sent when it acknowledged a PING.
fn frames_until_ping(frames: &mut RawH2) -> Vec<Frame> {
    frames.send(frame(PING, 0, 0, b"barrier?"));
    let mut seen = Vec::new();
    loop {
        let frame = frames.read_frame().expect("an open connection");
        if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == b"barrier?" {
            return seen;
        }
        seen.push(frame);
    }
}

fn assert_served(frames: &mut RawH2) {
    let stream = frames.next_stream_id();
    let ping = head(&TestRequest::alice("GET", "/v2/"));
    frames.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &ping));
    assert_eq!(frames.read_outcome(stream), Outcome::Status(200));
}

/// Reads until the proxy resets `stream`.
fn read_reset(frames: &mut RawH2, stream: u32) {
    loop {
        let frame = frames.read_frame().expect("an open connection");
        if frame.kind == RST_STREAM && frame.stream == stream {
            assert_eq!(frame.payload, NO_ERROR);
            return;
        }
        assert!(!matches!(frame.kind, GOAWAY), "{frame:?}");
    }
}

/// Checks that the proxy resets `stream` with a delay after its response. The client is still sending the body.
fn assert_reset_is_delayed(mut frames: RawH2, stream: u32, status: u16) {
    assert_eq!(read_response(&mut frames, stream), status);
    let ended = Instant::now();
    // These bytes are more than a socket buffer holds, and less than the window of the stream.
    for _ in 0..32 {
        frames.send(frame(DATA, 0, stream, &[b'x'; 16_000]));
    }
    let seen = frames_until_ping(&mut frames);
    assert!(
        !seen.iter().any(|received| received.kind == RST_STREAM),
        "{status}: {seen:?}"
    );
    // The proxy sends no WINDOW_UPDATE for bytes that it discards.
    let grants = |received: &Frame| received.kind == WINDOW_UPDATE && received.stream == stream;
    assert!(!seen.iter().any(grants), "{status}: {seen:?}");
    read_reset(&mut frames, stream);
    let gap = ended.elapsed();
    assert!(gap > SHORT, "{status}: reset after {gap:?}");
    assert!(gap < GRACE * 4, "{status}: reset after {gap:?}");
    assert!(frames.ping_round_trip(), "{status}");
}

#[test]
fn a_rejection_is_complete_seconds_before_the_reset() {
    let (_registry, cases, holder) = rejected_uploads();
    std::thread::scope(|scope| {
        for case in &cases {
            // The Content-Length exceeds the limit. The second case of 413 below exceeds the limit while it sends.
            let request = match case.status {
                413 => case.request.clone().header("content-length", "1000000000"),
                _ => case.request.clone(),
            };
            scope.spawn(move || {
                let mut frames = connect(&case.proxy);
                let stream = begin_upload(&mut frames, &request);
                assert_reset_is_delayed(frames, stream, case.status);
            });
        }
        scope.spawn(|| {
            let case = cases.iter().find(|case| case.status == 413).unwrap();
            let mut frames = connect(&case.proxy);
            let stream = begin_upload(&mut frames, &case.request);
            for _ in 0..5 {
                frames.send(frame(DATA, 0, stream, &[b'x'; 16_000]));
            }
            // The proxy read the bytes before the limit, so that it may send a WINDOW_UPDATE here.
            assert_eq!(read_response(&mut frames, stream), 413);
            let ended = Instant::now();
            read_reset(&mut frames, stream);
            assert!(ended.elapsed() > SHORT, "{:?}", ended.elapsed());
        });
    });
    drop(holder);
}

#[test]
fn an_early_response_of_the_upstream_is_complete_seconds_before_the_reset() {
    let registry = Registry::start(|exchange| {
        exchange.more();
        exchange.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope");
        exchange.close();
    });
    let proxy = Proxy::with_defaults(&registry);
    let mut frames = connect(&proxy);
    let stream = begin_upload(
        &mut frames,
        &TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u"),
    );
    assert_eq!(read_response(&mut frames, stream), 403);
    let ended = Instant::now();
    let seen = frames_until_ping(&mut frames);
    assert!(
        !seen.iter().any(|received| received.kind == RST_STREAM),
        "{seen:?}"
    );
    read_reset(&mut frames, stream);
    assert!(ended.elapsed() > SHORT, "{:?}", ended.elapsed());
}

#[test]
fn a_client_that_ends_its_request_gets_no_reset() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for is_reset in [false, true] {
        let mut frames = connect(&proxy);
        let stream = begin_upload(&mut frames, &anonymous());
        assert_eq!(read_response(&mut frames, stream), 401);
        frames.send(if is_reset {
            frame(RST_STREAM, 0, stream, &NO_ERROR)
        } else {
            frame(DATA, END_STREAM, stream, b"the end")
        });
        let seen = frames_until_ping(&mut frames);
        assert!(
            !seen.iter().any(|received| received.kind == RST_STREAM),
            "{seen:?}"
        );
        assert_served(&mut frames);
    }
}

#[test]
fn kept_streams_leave_half_of_a_connection_to_requests() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("[limits]\nh2_streams = 4\n", ""));
    let mut frames = connect(&proxy);
    let began = Instant::now();
    let first = begin_upload(&mut frames, &anonymous());
    assert_eq!(read_response(&mut frames, first), 401);
    let second = begin_upload(&mut frames, &anonymous());
    assert_eq!(read_response(&mut frames, second), 401);
    for _ in 0..4 {
        let third = begin_upload(&mut frames, &anonymous());
        assert_eq!(frames.read_outcome(third), Outcome::Status(401));
        read_reset(&mut frames, third);
        assert!(began.elapsed() < SHORT, "{:?}", began.elapsed());
        assert_served(&mut frames);
    }
    read_reset(&mut frames, first);
    read_reset(&mut frames, second);
    assert!(began.elapsed() > SHORT);
    assert_served(&mut frames);
}

#[test]
fn kept_streams_do_not_hold_up_a_shutdown() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut frames = connect(&proxy);
    let stream = begin_upload(&mut frames, &anonymous());
    assert_eq!(read_response(&mut frames, stream), 401);
    let began = Instant::now();
    let reading = std::thread::spawn(move || {
        let mut has_goaway = false;
        while let Some(received) = frames.read_frame() {
            has_goaway |= received.kind == GOAWAY;
            // The proxy sends the second GOAWAY after the acknowledgement of this PING.
            if received.kind == PING && received.flags & ACK == 0 {
                frames.send(frame(PING, ACK, 0, &received.payload));
            }
        }
        has_goaway
    });
    let log = proxy.stop_and_read_access_log();
    assert!(began.elapsed() < SHORT, "{:?}", began.elapsed());
    assert!(log.contains(" status=401 "), "{log}");
    assert!(reading.join().unwrap());
}

/// Bytes that the client sends on a kept stream take no memory, and use no window of the connection.
#[test]
fn bytes_on_a_kept_stream_do_not_use_the_window_of_the_connection() {
    let registry = Registry::accepting_all();
    let keys = "[limits]\nh2_window = \"128KiB\"\nh2_connection_window = \"128KiB\"\nh2_memory = \"1MiB\"\n";
    let proxy = Proxy::start(&registry, config(keys, ""));
    let mut frames = connect(&proxy);
    let began = Instant::now();
    for _ in 0..10 {
        let stream = begin_upload(&mut frames, &anonymous());
        assert_eq!(read_response(&mut frames, stream), 401);
        for _ in 0..4 {
            frames.send(frame(DATA, 0, stream, &[b'x'; 16_000]));
        }
        assert!(frames.ping_round_trip());
    }
    let stream = begin_upload(
        &mut frames,
        &TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u"),
    );
    frames.send(frame(DATA, END_STREAM, stream, &[b'x'; 16_000]));
    assert_eq!(frames.read_outcome(stream), Outcome::Status(200));
    assert!(began.elapsed() < GRACE, "{:?}", began.elapsed());
    frames.send(frame(SETTINGS, 0, 0, &[]));
    assert!(frames.ping_round_trip());
}

#[test]
fn kept_streams_use_little_memory() {
    const CONNECTIONS: usize = 4;
    /// Half of the default limit of streams.
    const STREAMS: usize = 50;
    let registry = Registry::accepting_all();
    let (_dir, file) = configured(config("", "").upstream(&registry.url()));
    let server = ServeProcess::start(&file);
    let mut connections: Vec<RawH2> = (0..CONNECTIONS)
        .map(|_| connect_to(server.address))
        .collect();
    for frames in &mut connections {
        assert_served(frames);
    }
    let before = server.memory();
    for frames in &mut connections {
        for _ in 0..STREAMS {
            let stream = begin_upload(frames, &anonymous());
            assert_eq!(read_response(frames, stream), 401);
            for _ in 0..10 {
                frames.send(frame(DATA, 0, stream, &[b'x'; 16_000]));
            }
        }
        assert!(frames.ping_round_trip());
    }
    let more = server.memory().saturating_sub(before);
    println!("{} kept streams: {more} KiB", CONNECTIONS * STREAMS);
    assert!(more < 8 * 1024, "{more} KiB");
}
