//! What must hold whatever stands in a password file.
//!
//! Compiled for tests and for `cargo fuzz` only.

use super::parse::parse;

/// Reads `bytes` as a file.
///
/// # Panics
/// When something does not hold.
pub fn check(bytes: &[u8]) {
    let loaded = parse(bytes);
    let lines = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).count();
    for problem in &loaded.problems {
        assert!((1..=lines).contains(&problem.line), "{problem}");
        assert!(!problem.to_string().contains(char::is_control), "{problem}");
    }
    assert!(loaded.users.len() + loaded.problems.len() <= 6 * (bytes.len() + 1));
}
