//! Arbitrary bytes of an upstream, cut at arbitrary points: run by `cargo fuzz run upstream`.
//!
//! The first byte says what is asked and how the stream ends, the next three where it is cut. What must hold is asserted
//! beside the codec, in `upstream::fuzzing`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::upstream::fuzzing::{Asked, check};

fuzz_target!(|input: &[u8]| {
    let [how, cuts @ ..] = input else { return };
    let Some((cuts, bytes)) = cuts.split_at_checked(3) else {
        return;
    };
    let asked = Asked {
        is_head: how & 1 == 1,
        has_body: how & 2 == 2,
        ends_in_reset: how & 4 == 4,
    };
    check(asked, bytes, cuts);
});
