//! HTTP/2 clients that make the gate work for nothing: cut, or the cost is bounded; others are served meanwhile.
//!
//! Each abuse meets an executable of its own, so that its memory can be measured. The classes are those of
//! CVE-2023-44487, CVE-2025-8671, VU#421644, CVE-2019-9511 to 9518 and of the "HTTP/2 bombs".

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::binary::{Gate, configured};
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, INITIAL_WINDOW,
    PADDED, PING, PREFACE, PRIORITY, RST_STREAM, RawH2, SETTINGS, WINDOW_UPDATE, frame,
    header_block, setting,
};
use crate::support::{Proxy, Registry, TestRequest, config, pause};

/// Abusive messages of one connection.
const MANY: usize = 10_000;
/// What they may cost in KiB, with the few connections and the buffers that go with them.
const MEMORY: u64 = 8 * 1024;

const USUAL: [(&[u8], &[u8]); 5] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/v2/"),
    (b"authorization", b"Basic YWxpY2U6cHc="),
];

/// What becomes of an abusive connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Cut,
    Served,
}

fn get(stream: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &header_block(&USUAL),
    )
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Sends what `message` makes of each stream, and reads what comes now and then, until the gate has had enough.
/// Then: how many were sent, and whether the connection was cut.
fn abuse(frames: &mut RawH2, step: usize, mut message: impl FnMut(u32) -> Vec<u8>) -> (usize, End) {
    for sent in (0..MANY).step_by(step) {
        let bytes: Vec<u8> = (0..step)
            .flat_map(|_| message(frames.next_stream_id()))
            .collect();
        if frames.try_send(bytes).is_err() || !frames.ping_round_trip() {
            return (sent + step, End::Cut);
        }
    }
    (MANY, End::Served)
}

/// Runs an abuse against a gate of its own, and checks that it costs little and that others do not notice.
#[track_caller]
fn assert_others_unaffected(name: &str, run: impl FnOnce(SocketAddr) -> End + Send, expected: End) {
    let registry = Registry::accepting_all();
    let (_dir, file) = configured(config("", "").upstream(&registry.url()));
    let gate = Gate::start(&file);
    let mut other = gate.client();
    let mut ask = |what: &str| {
        let began = Instant::now();
        assert_eq!(
            other.exchange(&TestRequest::alice("GET", "/v2/")).status,
            200,
            "{name}: {what}"
        );
        began.elapsed()
    };
    // Every worker has served, and has its buffers.
    ask("before");
    for _ in 0..4 {
        let mut frames = RawH2::connect(gate.address);
        frames.send(get(1));
        assert!(frames.ping_round_trip());
    }
    let before = gate.memory();
    let (end, slowest) = std::thread::scope(|scope| {
        let abusing = scope.spawn(|| run(gate.address));
        let mut slowest = Duration::ZERO;
        while !abusing.is_finished() {
            slowest = slowest.max(ask("meanwhile"));
        }
        (abusing.join().unwrap(), slowest)
    });
    let more = gate.memory().saturating_sub(before);
    println!("{name}: {end:?}, {more} KiB, others waited {slowest:?} at most");
    ask("after");
    assert_eq!(end, expected, "{name}");
    assert!(more < MEMORY, "{name}: {more} KiB");
    assert!(slowest < Duration::from_secs(2), "{name}: {slowest:?}");
}

#[test]
fn rapid_reset() {
    // As fast as it goes, and slow enough for each stream to be looked at.
    for step in [1000, 1] {
        let run = |gate| {
            let mut frames = RawH2::connect(gate);
            let (sent, end) = abuse(&mut frames, step, |stream| {
                [get(stream), reset(stream)].concat()
            });
            assert!(sent <= 1000, "only after {sent}");
            end
        };
        assert_others_unaffected(&format!("rapid reset by {step}"), run, End::Cut);
    }
}

#[test]
fn resets_on_the_gates_side() {
    type Trick = fn(u32) -> Vec<u8>;
    let tricks: [(&str, Trick); 6] = [
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
    for (name, trick) in tricks {
        let run = |gate| {
            let mut frames = RawH2::connect(gate);
            let (sent, end) = abuse(&mut frames, 10, |stream| {
                [get(stream), trick(stream)].concat()
            });
            assert!(sent <= 1500, "{name}: only after {sent}");
            end
        };
        assert_others_unaffected(name, run, End::Cut);
    }
}

#[test]
fn continuation_without_end() {
    for size in [0, 1, 4000] {
        let run = |gate| {
            let mut frames = RawH2::connect(gate);
            frames.send(frame(HEADERS, END_STREAM, 1, &header_block(&USUAL)));
            let piece = frame(
                CONTINUATION,
                0,
                1,
                &header_block(&[(b"x", &vec![b'x'; size])]),
            );
            for _ in 0..MANY {
                if frames.try_send(&piece).is_err() {
                    return End::Cut;
                }
            }
            if frames.ping_round_trip() {
                End::Served
            } else {
                End::Cut
            }
        };
        assert_others_unaffected(&format!("continuation of {size}"), run, End::Cut);
    }
}

#[test]
fn fields_that_unpack_to_much_are_refused() {
    let run = |gate| {
        let mut frames = RawH2::connect_with(gate, &[(INITIAL_WINDOW, 0)]);
        // One field in the table of the connection, and references to it: a byte each.
        let (mut packed, name) = (header_block(&USUAL), b"\x40\x01a\x64");
        packed.extend(name);
        packed.extend([b'v'; 100]);
        packed.extend(vec![0xbe; 12_000]);
        for _ in 0..100 {
            let stream = frames.next_stream_id();
            if frames
                .try_send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &packed))
                .is_err()
            {
                return End::Cut;
            }
        }
        if frames.ping_round_trip() {
            End::Served
        } else {
            End::Cut
        }
    };
    assert_others_unaffected("bomb", run, End::Cut);
}

#[test]
fn frames_that_ask_for_nothing() {
    type Idle = fn(u32) -> Vec<u8>;
    let idle: [(&str, Idle); 12] = [
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
    for (name, message) in idle {
        let run = |gate| {
            let mut frames = RawH2::connect(gate);
            // A stream that stays open meanwhile.
            let upload = [
                &[(b":method".as_slice(), b"PATCH".as_slice())],
                &USUAL[1..3],
                &[(b":path", b"/v2/a/blobs/uploads/u"), USUAL[4]],
            ]
            .concat();
            let stream = frames.next_stream_id();
            frames.send(frame(HEADERS, END_HEADERS, stream, &header_block(&upload)));
            abuse(&mut frames, 100, message).1
        };
        assert_others_unaffected(name, run, End::Cut);
    }
}

/// One byte at a time, on the stream and on the connection: two WINDOW_UPDATE frames for every byte of the response.
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
        let frame = frames.read_frame().expect("an open connection");
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

/// The client chooses the error code of a reset.
#[test]
fn rapid_reset_with_any_code() {
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
        assert_eq!(end, End::Cut, "code {code}");
        assert!(sent <= 1000, "code {code}: only after {sent}");
    }
}

#[test]
fn answers_to_frames_do_not_pile_up() {
    let run = |gate| {
        let mut frames = RawH2::connect(gate);
        let many = frame(PING, 0, 0, b"12345678").repeat(MANY);
        // Nothing is ever read.
        let _ = frames.try_send(many);
        if frames.ping_round_trip() {
            End::Served
        } else {
            End::Cut
        }
    };
    assert_others_unaffected("PING without reading", run, End::Cut);
}

#[test]
fn windows_that_stay_shut_hold_little() {
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
    let gate = Gate::start(&file);
    let mut warm = RawH2::connect(gate.address);
    warm.send(get(1));
    assert!(warm.ping_round_trip());
    let before = gate.memory();
    let mut frames = RawH2::connect_with(gate.address, &[(INITIAL_WINDOW, 1)]);
    let mut blob = USUAL;
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
    // Every stream ends by the gate, which has told the registry by then.
    let mut open: Vec<u32> = streams.clone();
    let mut most = 0;
    while !open.is_empty() {
        let Some(frame) = frames.read_frame() else {
            break;
        };
        most = most.max(gate.memory().saturating_sub(before));
        if frame.kind == RST_STREAM {
            open.retain(|stream| *stream != frame.stream);
        }
    }
    println!("shut windows: {most} KiB for {} streams", streams.len());
    assert!(open.is_empty(), "{open:?}");
    assert!(most < MEMORY, "{most} KiB");
}

#[test]
fn a_head_that_does_not_end_is_held_to_its_time() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("[limits]\nhead = \"300ms\"\n", ""));
    let open = frame(HEADERS, END_STREAM, 1, &header_block(&USUAL));
    let heads = [&open[..], &open[..20], &get(1)[..20]];
    let begun = heads.map(|bytes| (RawH2::connect(proxy.https()), bytes));
    let hellos = [&[][..], &PREFACE[..10]];
    let begun = begun
        .into_iter()
        .chain(hellos.map(|bytes| (RawH2::connect_without_settings(proxy.https()), bytes)));
    for (mut frames, bytes) in begun {
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
    // Between two requests there is no head.
    let mut frames = RawH2::connect(proxy.https());
    frames.send(frame(PING, 0, 0, b"12345678"));
    pause(Duration::from_millis(700));
    assert!(frames.ping_round_trip());
}

#[test]
fn h2_resets() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("[limits]\nh2_resets = 5\n", ""));
    let mut frames = RawH2::connect(proxy.https());
    let upload = [
        &[(b":method".as_slice(), b"PATCH".as_slice())],
        &USUAL[1..3],
        &[(b":path", b"/v2/a/blobs/uploads/u"), USUAL[4]],
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
    // A goodbye that cuts nothing: what runs may end.
    let told = |it: &Frame| it.kind == GOAWAY && it.payload[4..8] == [0; 4];
    assert!(std::iter::from_fn(|| frames.read_frame()).any(|it| told(&it)));
    frames.send(frame(PING, ACK, 0, &[0; 8]));
    frames.send(frame(DATA, END_STREAM, kept, b"whole"));
    let outcome = frames.read_outcome(kept);
    assert_eq!(outcome, crate::support::frames::Outcome::Status(200));
}
