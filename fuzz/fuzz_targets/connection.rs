//! Feeds arbitrary bytes of a client, in arbitrary segments, to a connection: `cargo fuzz run connection`.
//!
//! The first byte selects the HTTP version, the next three are the lengths of the first segments. The properties are in
//! `tidegate::fuzzing::connection`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::fuzzing::connection::{check_http1, check_http2};

fuzz_target!(|input: &[u8]| {
    let [version, cuts @ ..] = input else { return };
    let Some((cuts, bytes)) = cuts.split_at_checked(3) else {
        return;
    };
    if version & 1 == 1 {
        check_http2(bytes, cuts);
    } else {
        check_http1(bytes, cuts);
    }
});
