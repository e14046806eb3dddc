//! What must hold whatever an Authorization header says.
//!
//! Compiled for tests and for `cargo fuzz` only.

use super::basic::{Credentials, is_basic};

/// Reads `header` as the value of one.
///
/// # Panics
/// When something does not hold.
pub fn check(header: &[u8]) {
    let Ok(Some(credentials)) = Credentials::parse(header, MOST) else {
        return;
    };
    assert!(is_basic(header), "credentials of no scheme");
    assert!(credentials.len() <= MOST, "longer than allowed");
    let user = &credentials.user;
    assert!(
        !user.is_empty() && !user.contains(&b':'),
        "the first colon ends the name"
    );
}

const MOST: usize = 100;
