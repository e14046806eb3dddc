//! What must hold whatever a head's target and Host are.
//!
//! Compiled for tests and for `cargo fuzz` only.

use http::{Request, Version, header};

use super::Target;

/// Reads the first line as the target, and each further one as a Host.
///
/// # Panics
/// When something does not hold.
pub fn check(bytes: &[u8]) {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let mut head = Request::builder()
            .version(version)
            .uri(lines.next().unwrap_or_default());
        for host in lines {
            head = head.header(header::HOST, host);
        }
        let Ok(request) = head.body(()) else { return };
        let Ok(target) = Target::parse(&request.into_parts().0) else {
            continue;
        };
        let path = target.path();
        assert!(path.starts_with('/') && !path.contains("//"), "{target:?}");
        assert!(!path.contains(char::is_control), "{target:?}");
        assert!(
            path.split('/')
                .all(|segment| segment != "." && segment != ".."),
            "{target:?}"
        );
        let raw = [target.raw_path(), target.query().unwrap_or_default()].concat();
        assert!(
            raw.bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#'),
            "{target:?}"
        );
        let authority = target.authority();
        assert!(!authority.contains(['@', '/', ' ', ',', '%']), "{target:?}");
        assert_eq!(target.host(), target.host().to_ascii_lowercase());
    }
}
