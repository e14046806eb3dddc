//! What is followed, what is refused and where, however the bytes are cut.

use proptest::prelude::*;

use super::*;

/// Where the first refusal is, when bytes come in these pieces.
fn refusal<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<FramingViolation> {
    let mut framing = RequestFramingValidator::default();
    let mut before = 0;
    for piece in pieces {
        if let Err(refused) = framing.read(piece) {
            let at = before + refused.at;
            assert!(framing.read(b"x").is_err(), "it goes on");
            return Some(FramingViolation { at, ..refused });
        }
        before += piece.len();
    }
    None
}

/// The state after bytes that are in order.
fn after(bytes: &[u8]) -> State {
    let mut framing = RequestFramingValidator::default();
    framing.read(bytes).unwrap();
    framing.state
}

const POST: &str = "POST /x HTTP/1.1\r\nHost: a\r\n";

#[test]
fn bodies_are_followed_to_the_next_request() {
    let cases = [
        ("Content-Length: 3\r\n\r\nabc", State::Request),
        ("content-LENGTH:\t3 \r\n\r\nab", State::Sized(1)),
        ("Content-Length: 0\r\n\r\n", State::Request),
        ("\r\n", State::Request),
        ("\r\n\r\n\r\n", State::Request),
        ("Transfer-Encoding: chunked\r\n\r\n", State::ChunkSize),
        (
            "Transfer-Encoding: Chunked\r\n\r\na;x=\"1\"\r\n12",
            State::Chunk(8),
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\na \t ; x = \"1\"\r\n12",
            State::Chunk(8),
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n1 ;\r\nx\r\n0\t;\r\n",
            State::Trailers,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n",
            State::Trailers,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n",
            State::Request,
        ),
        ("Transfer-Encoding: gzip, chunked\r\n\r\n", State::Over),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            State::Over,
        ),
        ("X: a\r\nY", State::Fields),
    ];
    for (rest, state) in cases {
        assert_eq!(after(format!("{POST}{rest}").as_bytes()), state, "{rest:?}");
    }
    assert_eq!(after(b"CONNECT a:1 HTTP/1.1\r\n\r\n"), State::Over);
    let (at, place) = (24, Region::Behind);
    let tunnel = b"CONNECT a:1 HTTP/1.1\r\n\r\nGET";
    assert_eq!(
        refusal([tunnel.as_slice()]),
        Some(FramingViolation { at, place })
    );
}

#[test]
fn what_two_parsers_may_read_in_two_ways_is_refused() {
    // The byte at "!" is the one that is refused.
    let heads = [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r!\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r!\n",
        "Content-Length: 3\r\nContent-Length: 3\r!\n",
        "Content-Length: 3, 3\r!\n",
        "Content-Length: +3\r!\n",
        "Content-Length: 0x3\r!\n",
        "Content-Length: -1\r!\n",
        "Content-Length:\r!\n",
        "Content-Length: 18446744073709551616\r!\n",
        "Content-Length:\x0b3\r!\n",
        "Content-Length: 3\x0c\r!\n",
        "Content-Length: 00000000000000000000000000000000000000000000000003\r!\n",
        "X: a!\n",
        "X: a\r!b",
        "X: a!\0b",
        "X: a\r\n b\r!\n",
        "X: a\r\n\tb\r!\n",
    ];
    let bodies = [
        "0x1\r!\n",
        "+1\r!\n",
        "1_0\r!\n",
        " 1\r!\n",
        "1 \r!\n",
        "1 1;x\r!\n",
        "1 x;y\r!\n",
        " 1 ;x\r!\n",
        " ;x\r!\n",
        "1 !\n;x",
        "1 \r! ;x",
        "1!\x00;x",
        // Where the size ends is not seen any more.
        "1                                                                ;x\r!\n",
        "\r!\n",
        "1!\n",
        "1;a!\n",
        "1;a\r!b",
        "10000000000000001\r!\n",
        "00000000000000001\r!\n",
        // A size of which the end alone says what it is.
        "000000000000000000000000000000000000000000000000000000000000000000010\r!\n",
        "0000000000000000000000000000000000000000000000000000000000000001;x\r!\n",
        "1\r\nZ!Z",
        "1\r\nZ!\n",
        "0\r\n A: b\r!\n",
        "0\r\nA: b!\n",
    ];
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let all = heads.iter().map(|case| (String::new(), case, Region::Head));
    let all = all.chain(
        bodies
            .iter()
            .map(|case| (chunked.to_owned(), case, Region::Body)),
    );
    for (before, case, place) in all {
        let marked = format!("{POST}{before}{case}");
        let at = marked.find('!').unwrap();
        let bytes = marked.replacen('!', "", 1);
        let expected = Some(FramingViolation { at, place });
        assert_eq!(refusal([bytes.as_bytes()]), expected, "{case:?}");
        let single = bytes.as_bytes().chunks(1);
        assert_eq!(refusal(single), expected, "{case:?} byte by byte");
    }
}

#[test]
fn request_lines_that_are_none_are_refused() {
    for line in [
        "GET /x#y HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n",
        "GET /x HTTP/1.1\n",
    ] {
        assert!(refusal([line.as_bytes()]).is_some(), "{line:?}");
    }
}

#[test]
fn a_head_is_open_from_its_first_byte_to_its_end() {
    let mut framing = RequestFramingValidator::default();
    let mut seen = |bytes: &str| {
        framing.read(bytes.as_bytes()).unwrap();
        (framing.has_ended_head(), framing.is_in_head())
    };
    assert_eq!(seen("G"), (false, true));
    assert_eq!(seen("ET / HTTP/1.1\r\n\r"), (false, true));
    assert_eq!(seen("\n"), (true, false));
    assert_eq!(
        seen("GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab"),
        (true, false)
    );
    assert_eq!(seen("\r\n"), (false, false), "an empty line is no head");
    assert_eq!(seen("\r"), (false, true));
    assert_eq!(seen("\nGET / HTTP/1.1\r\n\r\nGET"), (true, true));
}

/// Pieces of requests, in and out of order.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "GET / HTTP/1.1\r\n",
        "POST /v2/ HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: ",
        "Transfer-Encoding: ",
        "chunked",
        "3",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "\0",
        "abc",
        " ",
        "\t",
        ":",
        ";",
        "1 ;x\r\nZ\r\n",
        "0\r\n",
        "1\r\nZ\r\n",
        "0000000000000000",
        "#",
    ];
    let word = prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
    let any = prop_oneof![8 => word, 1 => prop::collection::vec(any::<u8>(), 0..4)];
    prop::collection::vec(any, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn the_cut_makes_no_difference(bytes in hostile(), size in 1..9_usize) {
        prop_assert_eq!(refusal([bytes.as_slice()]), refusal(bytes.chunks(size)));
    }
}
