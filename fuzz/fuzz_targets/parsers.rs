//! Arbitrary bytes for the parsers of the gate's own: run by `cargo fuzz run parsers`.
//!
//! The first byte says which of them; lines are what it is given. What must hold is asserted beside the code, in the
//! `fuzzing` of each module.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::{auth, forward, htpasswd, registry, target};

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else { return };
    match which % 5 {
        0 => htpasswd::fuzzing::check(bytes),
        1 => auth::fuzzing::check(bytes),
        2 => forward::fuzzing::check(bytes),
        3 => registry::fuzzing::check(bytes),
        _ => target::fuzzing::check(bytes),
    }
});
