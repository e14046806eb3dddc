//! HTTP/2 clients that cause work without a useful request. The proxy closes the connection or bounds the cost, and serves
//! other clients meanwhile.
//!
//! Most tests start the executable as a process of its own, so that the memory of the process can be measured. The classes of
//! abuse are those of CVE-2023-44487, CVE-2025-8671, VU#421644, CVE-2019-9511 to 9518 and of the "HTTP/2 bombs".

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::binary::{ServeProcess, configured};
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, INITIAL_WINDOW,
    PADDED, PING, PREFACE, PRIORITY, RST_STREAM, RawH2, SETTINGS, WINDOW_UPDATE, frame,
    header_block, setting,
};
use crate::support::{Proxy, Registry, config, pause};

/// The number of abusive messages on one connection.
const MESSAGES: usize = 10_000;
/// The memory in KiB that an abuse may cost the proxy, including the buffers of the few connections of the test.
const MEMORY_LIMIT: u64 = 8 * 1024;

/// The header section of an ordinary request.
const HEAD: [(&[u8], &[u8]); 5] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/v2/"),
    (b"authorization", b"Basic YWxpY2U6cHc="),
];

/// What the proxy does with an abusive connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The proxy closes the connection.
    Closed,
    /// The proxy serves the connection to the last message.
    Served,
}

fn get(stream: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &header_block(&HEAD),
    )
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Sends the result of `message` for up to [`MESSAGES`] streams, and exchanges a PING after every `step` messages, until the
/// proxy closes the connection. Returns the number of messages sent, and whether the proxy closed the connection.
fn abuse(frames: &mut RawH2, step: usize, mut message: impl FnMut(u32) -> Vec<u8>) -> (usize, End) {
    for sent in (0..MESSAGES).step_by(step) {
        let bytes: Vec<u8> = (0..step)
            .flat_map(|_| message(frames.next_stream_id()))
            .collect();
        if frames.try_send(bytes).is_err() || !frames.ping_round_trip() {
            return (sent + step, End::Closed);
        }
    }
    (MESSAGES, End::Served)
}

/// Runs an abuse against a new process, and asserts that the abuse costs little memory and does not delay another client.
#[track_caller]
fn assert_abuse_is_contained(
    name: &str,
    run: impl FnOnce(SocketAddr) -> End + Send,
    expected: End,
) {
    let registry = Registry::accepting_all();
    let (_dir, file) = configured(config("", "").upstream(&registry.url()));
    let proxy = ServeProcess::start(&file);
    let mut other = proxy.client();
    let mut request_once = |what: &str| {
        let began = Instant::now();
        assert_eq!(other.ping(), 200, "{name}: {what}");
        began.elapsed()
    };
    // Before the measurement, every worker serves a connection and allocates its buffers.
    request_once("before");
    for _ in 0..4 {
        let mut frames = RawH2::connect(proxy.address);
        frames.send(get(1));
        assert!(frames.ping_round_trip());
    }
    let before = proxy.memory();
    let (end, slowest) = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| run(proxy.address));
        let mut slowest = Duration::ZERO;
        while !attacker.is_finished() {
            slowest = slowest.max(request_once("meanwhile"));
        }
        (attacker.join().unwrap(), slowest)
    });
    let more = proxy.memory().saturating_sub(before);
    println!("{name}: {end:?}, {more} KiB, another client waited {slowest:?} at most");
    request_once("after");
    assert_eq!(end, expected, "{name}");
    assert!(more < MEMORY_LIMIT, "{name}: {more} KiB");
    assert!(slowest < Duration::from_secs(2), "{name}: {slowest:?}");
}

#[test]
fn a_client_that_opens_and_resets_streams_is_disconnected() {
    // With the step 1, a PING after each stream gives the proxy time to process the stream before the reset.
    for step in [1000, 1] {
        let run = |address| {
            let mut frames = RawH2::connect(address);
            let (sent, end) = abuse(&mut frames, step, |stream| {
                [get(stream), reset(stream)].concat()
            });
            assert!(sent <= 1000, "only after {sent}");
            end
        };
        assert_abuse_is_contained(&format!("rapid reset, step {step}"), run, End::Closed);
    }
}

#[test]
fn a_client_that_provokes_resets_by_the_proxy_is_disconnected() {
    type StreamError = fn(u32) -> Vec<u8>;
    let stream_errors: [(&str, StreamError); 6] = [
        ("window by 0", |stream| {
            frame(WINDOW_UPDATE, 0, stream, &[0; 4])
        }),
        ("window too large", |stream| {
            frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())
        }),
        ("short priority", |stream| {
            frame(PRIORITY, 0, stream, &[0; 4])
        }),
        ("priority on itself", |stream| {
            frame(
                PRIORITY,
                0,
                stream,
                &[&stream.to_be_bytes()[..], &[16]].concat(),
            )
        }),
        ("second head", |stream| get(stream)),
        ("data behind the end", |stream| frame(DATA, 0, stream, b"x")),
    ];
    for (name, stream_error) in stream_errors {
        let run = |address| {
            let mut frames = RawH2::connect(address);
            let (sent, end) = abuse(&mut frames, 10, |stream| {
                [get(stream), stream_error(stream)].concat()
            });
            assert!(sent <= 1500, "{name}: only after {sent}");
            end
        };
        assert_abuse_is_contained(name, run, End::Closed);
    }
}

#[test]
fn a_head_of_endless_continuation_frames_closes_the_connection() {
    for size in [0, 1, 4000] {
        let run = |address| {
            let mut frames = RawH2::connect(address);
            frames.send(frame(HEADERS, END_STREAM, 1, &header_block(&HEAD)));
            let piece = frame(
                CONTINUATION,
                0,
                1,
                &header_block(&[(b"x", &vec![b'x'; size])]),
            );
            for _ in 0..MESSAGES {
                if frames.try_send(&piece).is_err() {
                    return End::Closed;
                }
            }
            if frames.ping_round_trip() {
                End::Served
            } else {
                End::Closed
            }
        };
        assert_abuse_is_contained(&format!("CONTINUATION of {size} bytes"), run, End::Closed);
    }
}

#[test]
fn an_hpack_bomb_closes_the_connection() {
    let run = |address| {
        let mut frames = RawH2::connect_with(address, &[(INITIAL_WINDOW, 0)]);
        // The block adds one field to the dynamic table of HPACK and refers to that field 12,000 times, with one byte each.
        let (mut packed, name) = (header_block(&HEAD), b"\x40\x01a\x64");
        packed.extend(name);
        packed.extend([b'v'; 100]);
        packed.extend(vec![0xbe; 12_000]);
        for _ in 0..100 {
            let stream = frames.next_stream_id();
            if frames
                .try_send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &packed))
                .is_err()
            {
                return End::Closed;
            }
        }
        if frames.ping_round_trip() {
            End::Served
        } else {
            End::Closed
        }
    };
    assert_abuse_is_contained("HPACK bomb", run, End::Closed);
}

#[test]
fn frames_without_effect_in_great_number_close_the_connection() {
    type Message = fn(u32) -> Vec<u8>;
    let messages: [(&str, Message); 12] = [
        ("PING with ACK", |_| frame(PING, ACK, 0, b"12345678")),
        ("SETTINGS with ACK", |_| frame(SETTINGS, ACK, 0, &[])),
        ("SETTINGS", |_| frame(SETTINGS, 0, 0, &setting(&(3, 100)))),
        ("PING", |_| frame(PING, 0, 0, b"12345678")),
        ("PRIORITY", |stream| {
            frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16])
        }),
        ("empty DATA", |_| frame(DATA, 0, 1, &[])),
        ("DATA of padding", |_| frame(DATA, PADDED, 1, &[9; 10])),
        ("WINDOW_UPDATE", |_| {
            frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())
        }),
        ("WINDOW_UPDATE of a stream", |_| {
            frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())
        }),
        ("unknown frames", |_| frame(0xfa, 0, 0, b"x")),
        ("GOAWAY", |_| frame(GOAWAY, 0, 0, &[0; 8])),
        ("SETTINGS of windows", |stream| {
            frame(SETTINGS, 0, 0, &setting(&(INITIAL_WINDOW, stream * 1000)))
        }),
    ];
    for (name, message) in messages {
        let run = |address| {
            let mut frames = RawH2::connect(address);
            // An upload keeps one stream open meanwhile.
            let upload = [
                &[(b":method".as_slice(), b"PATCH".as_slice())],
                &HEAD[1..3],
                &[(b":path", b"/v2/a/blobs/uploads/u"), HEAD[4]],
            ]
            .concat();
            let stream = frames.next_stream_id();
            frames.send(frame(HEADERS, END_HEADERS, stream, &header_block(&upload)));
            abuse(&mut frames, 100, message).1
        };
        assert_abuse_is_contained(name, run, End::Closed);
    }
}

/// The client opens the windows of the stream and of the connection by one byte at a time, which takes two WINDOW_UPDATE
/// frames for every byte of the response.
#[test]
fn a_client_that_reads_byte_by_byte_is_served() {
    const LENGTH: usize = 3000;
    let registry = Registry::responding(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n{}",
        "x".repeat(LENGTH)
    ));
    let proxy = Proxy::with_defaults(&registry);
    let mut frames = RawH2::connect_with(proxy.https(), &[(INITIAL_WINDOW, 1)]);
    let stream = frames.next_stream_id();
    frames.send(get(stream));
    let mut received = 0;
    while received < LENGTH {
        let frame = frames.read_frame().expect("the connection is open");
        assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{frame:?}");
        if frame.kind == DATA {
            received += frame.payload.len();
            let update = |stream| {
                crate::support::frames::frame(WINDOW_UPDATE, 0, stream, &1_u32.to_be_bytes())
            };
            let updates = [update(stream), update(0)].concat();
            frames.send(updates.repeat(frame.payload.len()));
        }
    }
    assert!(frames.ping_round_trip());
}

/// The bound on resets holds for every error code, because the client chooses the code.
#[test]
fn rapid_resets_are_bounded_for_every_error_code() {
    for code in [0_u32, 1, 5, 7, 0xffff_ffff] {
        let proxy = Proxy::with_defaults(&Registry::accepting_all());
        let mut frames = RawH2::connect(proxy.https());
        let (sent, end) = abuse(&mut frames, 10, |stream| {
            [
                get(stream),
                frame(RST_STREAM, 0, stream, &code.to_be_bytes()),
            ]
            .concat()
        });
        assert_eq!(end, End::Closed, "code {code}");
        assert!(sent <= 1000, "code {code}: only after {sent}");
    }
}

#[test]
fn a_client_that_sends_pings_and_reads_nothing_is_disconnected() {
    let run = |address| {
        let mut frames = RawH2::connect(address);
        let many = frame(PING, 0, 0, b"12345678").repeat(MESSAGES);
        // The client does not read the ACK frames.
        let _ = frames.try_send(many);
        if frames.ping_round_trip() {
            End::Served
        } else {
            End::Closed
        }
    };
    assert_abuse_is_contained("PING without reading", run, End::Closed);
}

#[test]
fn streams_whose_window_stays_closed_hold_little_memory() {
    let registry = Registry::start(|exchange| {
        exchange.body();
        let body = vec![b'x'; 1 << 20];
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        exchange.send(body);
    });
    let (_dir, file) =
        configured(config("[limits]\nwrite_idle = \"2s\"\n", "").upstream(&registry.url()));
    let proxy = ServeProcess::start(&file);
    let mut warm = RawH2::connect(proxy.address);
    warm.send(get(1));
    assert!(warm.ping_round_trip());
    let before = proxy.memory();
    let mut frames = RawH2::connect_with(proxy.address, &[(INITIAL_WINDOW, 1)]);
    let mut blob = HEAD;
    blob[3] = (b":path", b"/v2/a/manifests/x");
    let streams: Vec<u32> = (0..20).map(|_| frames.next_stream_id()).collect();
    for stream in &streams {
        frames.send(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            *stream,
            &header_block(&blob),
        ));
    }
    registry.wait_for_requests(|seen| seen.len() > streams.len());
    assert!(frames.ping_round_trip());
    // The proxy resets every stream after `limits.write_idle`.
    let mut open: Vec<u32> = streams.clone();
    let mut most = 0;
    while !open.is_empty() {
        let Some(frame) = frames.read_frame() else {
            break;
        };
        most = most.max(proxy.memory().saturating_sub(before));
        if frame.kind == RST_STREAM {
            open.retain(|stream| *stream != frame.stream);
        }
    }
    println!("closed windows: {most} KiB for {} streams", streams.len());
    assert!(open.is_empty(), "{open:?}");
    assert!(most < MEMORY_LIMIT, "{most} KiB");
}

#[test]
fn an_incomplete_head_or_preface_ends_the_connection_after_limits_head() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("[limits]\nhead = \"300ms\"\n", ""));
    let open = frame(HEADERS, END_STREAM, 1, &header_block(&HEAD));
    let heads = [&open[..], &open[..20], &get(1)[..20]];
    let clients = heads.map(|bytes| (RawH2::connect(proxy.https()), bytes));
    let hellos = [&[][..], &PREFACE[..10]];
    let clients = clients
        .into_iter()
        .chain(hellos.map(|bytes| (RawH2::connect_without_settings(proxy.https()), bytes)));
    for (mut frames, bytes) in clients {
        let began = Instant::now();
        let _ = frames.try_send(bytes);
        frames.read_to_goaway();
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    }
    assert!(registry.requests().is_empty());
    // Between two requests `limits.head` does not apply.
    let mut frames = RawH2::connect(proxy.https());
    frames.send(frame(PING, 0, 0, b"12345678"));
    pause(Duration::from_millis(700));
    assert!(frames.ping_round_trip());
}

#[test]
fn after_limits_h2_resets_the_proxy_sends_goaway_and_finishes_open_streams() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("[limits]\nh2_resets = 5\n", ""));
    let mut frames = RawH2::connect(proxy.https());
    let upload = [
        &[(b":method".as_slice(), b"PATCH".as_slice())],
        &HEAD[1..3],
        &[(b":path", b"/v2/a/blobs/uploads/u"), HEAD[4]],
    ]
    .concat();
    let kept = frames.next_stream_id();
    frames.send(frame(HEADERS, END_HEADERS, kept, &header_block(&upload)));
    assert!(frames.ping_round_trip());
    for number in 0..5 {
        let stream = frames.next_stream_id();
        frames.send(frame(HEADERS, END_HEADERS, stream, &header_block(&upload)));
        assert!(frames.ping_round_trip(), "after {number}");
        frames.send(reset(stream));
    }
    // The GOAWAY frame has the code NO_ERROR, and the open upload may finish (RFC 9113 section 6.8).
    let is_graceful_goaway = |it: &Frame| it.kind == GOAWAY && it.payload[4..8] == [0; 4];
    assert!(std::iter::from_fn(|| frames.read_frame()).any(|it| is_graceful_goaway(&it)));
    frames.send(frame(PING, ACK, 0, &[0; 8]));
    frames.send(frame(DATA, END_STREAM, kept, b"whole"));
    let outcome = frames.read_outcome(kept);
    assert_eq!(outcome, crate::support::frames::Outcome::Status(200));
}
