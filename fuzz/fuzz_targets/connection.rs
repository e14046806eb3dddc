//! Arbitrary bytes of a client, split at arbitrary points: run by `cargo fuzz run connection`.
//!
//! The first byte selects the HTTP version, the next three say where the stream is split. The properties are asserted in
//! `connection::fuzzing`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::connection::fuzzing::{check_http1, check_http2};

fuzz_target!(|input: &[u8]| {
    let [how, cuts @ ..] = input else { return };
    let Some((cuts, bytes)) = cuts.split_at_checked(3) else {
        return;
    };
    if how & 1 == 1 {
        check_http2(bytes, cuts);
    } else {
        check_http1(bytes, cuts);
    }
});
