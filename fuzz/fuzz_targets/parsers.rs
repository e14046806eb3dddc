//! Feeds arbitrary bytes to one of the proxy's own parsers: `cargo fuzz run parsers`.
//!
//! The first byte selects the parser. The properties are in `tidegate::fuzzing::parsers`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::fuzzing::parsers;

fuzz_target!(|input: &[u8]| {
    let Some((parser, bytes)) = input.split_first() else { return };
    match parser % 5 {
        0 => parsers::check_htpasswd(bytes),
        1 => parsers::check_authorization(bytes),
        2 => parsers::check_response_headers(bytes),
        3 => parsers::check_registry_request(bytes),
        _ => parsers::check_target(bytes),
    }
});
