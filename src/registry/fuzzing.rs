//! What must hold whatever a request asks of a registry.
//!
//! Compiled for tests and for `cargo fuzz` only.

use http::Method;

use super::{Operation, Parsed, is_registry_path};

/// Reads the first line as the method, the second as the path and the third as the query.
///
/// # Panics
/// When something does not hold.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let method = lines
        .next()
        .and_then(|it| Method::from_bytes(it.as_bytes()).ok());
    let (Some(method), Some(path)) = (method, lines.next()) else {
        return;
    };
    let operation = match Operation::parse(&method, path, lines.next()) {
        Ok(Parsed::Operation(operation)) => operation,
        Ok(Parsed::Redirect {
            operation,
            location,
        }) => {
            assert!(
                location.starts_with("/v2/") && !location.starts_with("//"),
                "{location}"
            );
            assert!(
                location.bytes().all(|byte| byte.is_ascii_graphic()),
                "{location}"
            );
            operation
        }
        // Answered and never sent, with the right to read its repository.
        Ok(Parsed::Missing { operation, invalid }) => {
            assert_eq!(invalid.status(), http::StatusCode::NOT_FOUND);
            assert_eq!(operation.action(), super::Action::Pull);
            assert!(operation.repository().is_some_and(super::is_name));
            return;
        }
        Err(invalid) => {
            assert!(invalid.status().is_client_error() && !invalid.to_string().is_empty());
            return;
        }
    };
    let target = operation.target();
    let is_clean = |byte: u8| byte.is_ascii_graphic() && byte != b'#' && byte != b'\\';
    assert!(target.bytes().all(is_clean), "{target}");
    assert!(
        !target.contains("//") && target.matches('?').count() <= 1,
        "{target}"
    );
    let (path, query) = target
        .split_once('?')
        .map_or((&*target, None), |(path, query)| (path, Some(query)));
    assert!(is_registry_path(path) && !path.contains('%'), "{target}");
    assert!(
        path.split('/')
            .all(|segment| segment != "." && segment != ".."),
        "{target}"
    );
    // A redirect's operation may be one whose own method the plain form refuses: a HEAD of a list.
    let again = Operation::parse(&method, path, query)
        .or_else(|_| Operation::parse(&Method::GET, path, query));
    assert_eq!(
        again,
        Ok(Parsed::Operation(operation)),
        "read again it is something else"
    );
}
