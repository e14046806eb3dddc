//! Headers of load balancers, and malformed ones.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// A header of version 2.
fn header(version: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE_V2, &[version, family], &length, rest].concat()
}

fn v4_rest(tlvs: &[u8]) -> Vec<u8> {
    [&[192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 1, 0xbb][..], tlvs].concat()
}

fn v6_rest() -> Vec<u8> {
    let source = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets();
    [&source[..], &[0; 16], &[1, 2, 3, 4]].concat()
}

fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let line = |text: &str| text.as_bytes().to_vec();
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
    assert_eq!(longest.len(), MAX_LINE);
    vec![
        (
            line("PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n"),
            Some("192.0.2.7"),
        ),
        (
            line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n"),
            Some("255.255.255.255"),
        ),
        (
            line("PROXY TCP6 2001:DB8::7 ::1 1 2\r\n"),
            Some("2001:db8::7"),
        ),
        (
            line("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 56324 443\r\n"),
            Some("::ffff:192.0.2.7"),
        ),
        (
            line("PROXY TCP6 ::FFFF:C000:0207 ::ffff:10.0.0.1 0 0\r\n"),
            Some("::ffff:192.0.2.7"),
        ),
        (
            line("PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 56324 443\r\n"),
            Some("::ffff:192.0.2.7"),
        ),
        (
            line("PROXY TCP6 2001:db8::7 ::ffff:10.0.0.1 56324 443\r\n"),
            Some("2001:db8::7"),
        ),
        (
            line("PROXY TCP6 2001:db8::7 10.0.0.1 56324 443\r\n"),
            Some("2001:db8::7"),
        ),
        (
            line("PROXY TCP4 192.0.2.7 ::ffff:10.0.0.1 56324 443\r\n"),
            Some("192.0.2.7"),
        ),
        (
            line("PROXY TCP4 192.0.2.7 2001:db8::1 56324 443\r\n"),
            Some("192.0.2.7"),
        ),
        (
            header(
                0x21,
                0x21,
                &[
                    &"::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets()[..],
                    &[0; 20],
                ]
                .concat(),
            ),
            Some("::ffff:192.0.2.7"),
        ),
        (line("PROXY UNKNOWN\r\n"), None),
        (line("PROXY UNKNOWN anything  at all\r\n"), None),
        (longest.into_bytes(), None),
        (header(0x21, 0x11, &v4_rest(&[])), Some("192.0.2.7")),
        (
            header(0x21, 0x11, &v4_rest(&[4, 0, 2, 9, 9, 1, 0, 0])),
            Some("192.0.2.7"),
        ),
        (header(0x21, 0x21, &v6_rest()), Some("2001:db8::7")),
        (header(0x21, 0x00, &[]), None),
        (header(0x21, 0x00, &[1, 2, 3]), None),
        (header(0x20, 0x00, &[]), None),
        (header(0x20, 0x11, &v4_rest(&[])), None),
        (header(0x20, 0x31, &[0; 216]), None),
        (
            header(
                0x21,
                0x11,
                &v4_rest(&[&[0xe0, 0x0f, 0xf1][..], &[7; 4081]].concat()),
            ),
            Some("192.0.2.7"),
        ),
    ]
}

#[test]
fn both_versions_name_the_client() {
    for (bytes, expected) in good() {
        let client = expected.map(|text| text.parse().unwrap());
        let length = bytes.len();
        let complete = Header::Complete { length, client };
        assert_eq!(parse(&bytes).unwrap(), complete, "{bytes:?}");
        // Bytes after the header are not parsed, even if they are another header.
        let followed = [&bytes[..], b"PROXY TCP4 6.6.6.6 6.6.6.6 1 1\r\n"].concat();
        assert_eq!(parse(&followed).unwrap(), complete);
    }
}

#[tokio::test]
async fn a_header_may_arrive_in_two_pieces_and_no_byte_after_it_is_read() {
    for (bytes, expected) in good() {
        let client = expected.map(|text| text.parse().unwrap());
        let cuts: Vec<usize> = if bytes.len() > 300 {
            vec![1, 16, 17, 4000]
        } else {
            (0..=bytes.len()).collect()
        };
        for cut in cuts {
            let (mut near, mut far) = duplex(8192);
            let (first, second) = bytes.split_at(cut);
            near.write_all(first).await.unwrap();
            let reading = read(&mut far);
            let writing = async {
                tokio::task::yield_now().await;
                near.write_all(second).await.unwrap();
                near.write_all(b"\x16hello").await.unwrap();
            };
            let (read, ()) = tokio::join!(reading, writing);
            assert_eq!(read.unwrap(), client, "{bytes:?} at {cut}");
            drop(near);
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"\x16hello", "{bytes:?} at {cut}");
        }
    }
}

#[test]
fn missing_never_exceeds_the_rest_of_the_header() {
    for (bytes, _) in good() {
        for end in 0..bytes.len() {
            let Header::Incomplete { missing } = parse(&bytes[..end]).unwrap() else {
                panic!("complete at {end}: {bytes:?}");
            };
            assert!(
                (1..=bytes.len() - end).contains(&missing),
                "{missing} at {end}: {bytes:?}"
            );
        }
    }
}

#[test]
fn a_wrong_signature_is_an_error_at_its_first_wrong_byte() {
    for bytes in [
        &b"\x16\x03\x01"[..],
        b"G",
        b"proxy tcp4",
        b"PROXY\t",
        b" PROXY",
        b"\r\n\r\n\0\r\nQUIP",
        b"\n",
        b"\0",
    ] {
        assert!(matches!(parse(bytes), Err(Error::Missing)), "{bytes:?}");
    }
}

#[test]
fn malformed_lines_of_version_1_are_errors() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP\r\n",
        "PROXY TCP4\r\n",
        "PROXY tcp4 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 -1\r\n",
        "PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 256.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 ::1 ::1 1 1\r\n",
        "PROXY TCP4 ::1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 ::ffff:1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 x 1 1\r\n",
        "PROXY TCP4 1.1.1.1 2001:db8::1.1.1.1 1 1\r\n",
        "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP6 1.1.1.1 ::1 1 1\r\n",
        "PROXY TCP6 ::1.1.1.1 ::1 1 1\r\n",
        "PROXY TCP6 64:ff9b::1.1.1.1 ::1 1 1\r\n",
        "PROXY TCP6 ::ffff:1.1.1 ::1 1 1\r\n",
        "PROXY TCP6 ::ffff:1.1.1.01 ::1 1 1\r\n",
        "PROXY TCP6 ::ffff:0:1.1.1.1 ::1 1 1\r\n",
        "PROXY TCP6 ::1 64:ff9b::1.1.1.1 1 1\r\n",
        "PROXY TCP6 [::1] ::1 1 1\r\n",
        "PROXY TCP6 fe80::1%1 ::1 1 1\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN\r\r\n",
        "PROXY UNKNOWN\rx",
        "PROXY UNKNOWNX\r\n",
    ] {
        assert!(
            matches!(parse(line.as_bytes()), Err(Error::Malformed(_))),
            "{line:?}"
        );
    }
    let unterminated = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    assert!(matches!(parse(&unterminated), Err(Error::Malformed(_))));
    assert!(matches!(
        parse(&unterminated[..MAX_LINE - 1]),
        Err(Error::Malformed(_))
    ));
    assert!(parse(&unterminated[..MAX_LINE - 2]).is_ok());
    let over = [
        b"PROXY UNKNOWN ".as_slice(),
        &[b'x'; MAX_LINE - 15],
        b"\r\n",
    ]
    .concat();
    assert!(matches!(parse(&over), Err(Error::Malformed(_))));
}

#[test]
fn malformed_headers_of_version_2_are_errors() {
    for bytes in [
        header(0x11, 0x11, &v4_rest(&[])),
        header(0x31, 0x11, &v4_rest(&[])),
        header(0x22, 0x11, &v4_rest(&[])),
        header(0x2f, 0x00, &[]),
        header(0x21, 0x12, &v4_rest(&[])),
        header(0x21, 0x10, &v4_rest(&[])),
        header(0x21, 0x31, &[0; 216]),
        header(0x21, 0x41, &v4_rest(&[])),
        header(0x21, 0x11, &v4_rest(&[])[..11]),
        header(0x21, 0x21, &v6_rest()[..35]),
        header(0x21, 0x11, &v4_rest(&[4])),
        header(0x21, 0x11, &v4_rest(&[4, 0])),
        header(0x21, 0x11, &v4_rest(&[4, 0, 2, 9])),
        header(0x21, 0x11, &v4_rest(&[4, 0xff, 0xff, 9])),
        header(0x21, 0x11, &[0; MAX_V2_REST + 1]),
        header(0x20, 0x00, &[0; u16::MAX as usize]),
    ] {
        assert!(
            matches!(parse(&bytes), Err(Error::Malformed(_))),
            "{bytes:?}"
        );
        // A length over the limit is an error before the rest has arrived.
        if bytes.len() > MAX_V2_REST {
            assert!(matches!(
                parse(&bytes[..V2_PREFIX]),
                Err(Error::Malformed(_))
            ));
        }
    }
}

#[tokio::test]
async fn a_close_before_the_header_differs_from_a_close_within_it() {
    for (sent, is_closed) in [
        (&b""[..], true),
        (b"PROXY TCP4 1.1", false),
        (SIGNATURE_V2, false),
    ] {
        let (mut near, mut far) = duplex(64);
        near.write_all(sent).await.unwrap();
        drop(near);
        let error = read(&mut far).await.unwrap_err();
        assert_eq!(matches!(error, Error::Closed), is_closed, "{error}");
        assert_eq!(matches!(error, Error::Io(_)), !is_closed, "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(
        begin in prop::sample::select(vec![Vec::new(), SIGNATURE_V1.to_vec(), b"PROXY TCP4 ".to_vec(), SIGNATURE_V2.to_vec(), header(0x21, 0x11, &[])[..14].to_vec()]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [begin, rest].concat();
        match parse(&bytes) {
            Ok(Header::Complete { length, .. }) => {
                prop_assert!(length <= bytes.len());
                // The same header without the bytes after it is complete, and with one byte less it is incomplete.
                prop_assert_eq!(parse(&bytes[..length]).unwrap(), parse(&bytes).unwrap());
                let is_incomplete = matches!(parse(&bytes[..length - 1]).unwrap(), Header::Incomplete { missing: 1 });
                prop_assert!(is_incomplete);
            }
            Ok(Header::Incomplete { missing }) => prop_assert!((1..=MAX_V2_REST + V2_PREFIX).contains(&missing)),
            Err(_) => {}
        }
    }

    #[test]
    fn both_versions_return_the_address_that_was_written(source: u32, six: u128, from: u16, to: u16) {
        let (source, six) = (Ipv4Addr::from(source), Ipv6Addr::from(six));
        let line = format!("PROXY TCP4 {source} 10.0.0.1 {from} {to}\r\n");
        let is = |bytes: &[u8], address: IpAddr| {
            matches!(parse(bytes), Ok(Header::Complete { client: Some(read), .. }) if read == address)
        };
        prop_assert!(is(line.as_bytes(), source.into()));
        let rest = [&six.octets()[..], &[0; 20]].concat();
        prop_assert!(is(&header(0x21, 0x21, &rest), six.into()));
    }
}
