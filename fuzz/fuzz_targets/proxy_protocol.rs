//! Any bytes before TLS: a PROXY header is whole, a part, or none, and never more than what came.

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
