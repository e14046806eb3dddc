//! Feeds arbitrary bytes of an upstream, in arbitrary segments, to the HTTP/1 client codec: `cargo fuzz run upstream`.
//!
//! The first byte selects the request and how the stream ends, the next three are the lengths of the first segments. The
//! properties are in `tidegate::fuzzing::upstream`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::fuzzing::upstream::{Scenario, check};

fuzz_target!(|input: &[u8]| {
    let [flags, cuts @ ..] = input else { return };
    let Some((cuts, bytes)) = cuts.split_at_checked(3) else {
        return;
    };
    let scenario = Scenario {
        is_head: flags & 1 == 1,
        has_body: flags & 2 == 2,
        ends_in_reset: flags & 4 == 4,
    };
    check(scenario, bytes, cuts);
});
