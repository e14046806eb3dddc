//! Arbitrary bytes of a client, cut at arbitrary points: run by `cargo fuzz run connection`.
//!
//! The first byte says which HTTP version, the next three where the stream is cut. What must hold is asserted beside the
//! code, in `connection::fuzzing`.

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
