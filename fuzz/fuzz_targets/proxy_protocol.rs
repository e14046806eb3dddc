//! Feeds arbitrary bytes to the parser of PROXY headers: `cargo fuzz run proxy_protocol`.
//!
//! A header that the parser finds complete is never longer than the input, is parsed the same without the bytes that follow
//! it, and is incomplete by exactly one byte without its last byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::net::proxy_protocol::{Header, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Header::Complete { length, client }) = parse(bytes) {
        let header = bytes.get(..length).expect("no longer than what came");
        assert_eq!(parse(header).expect("the same"), Header::Complete { length, client });
        assert!(matches!(parse(&header[..length - 1]), Ok(Header::Incomplete { missing: 1 })));
    }
});
