//! `request_headers` and `response_headers`: fields that the operator sets or removes.
//!
//! Called by `routes`.

use http::{HeaderName, HeaderValue};

use super::super::problem::{Problem, quote};
use super::super::table::Table;
use crate::forward::headers::{Edits, is_reserved};

pub(super) fn edits(route: &Table<'_>, key: &'static str) -> Edits {
    let mut edits = Edits::new();
    for (name, value) in route.pairs(key).unwrap_or_default() {
        let header = HeaderName::from_bytes(name.as_bytes()).ok();
        match header {
            None => route.report(
                Problem::error(name.place, format!("{} is no header name", quote(&name)))
                    .because("a field name is a token (RFC 9110 section 5.6.2)")
                    .fix("use letters, digits and \"-\""),
            ),
            Some(header) if is_reserved(&header) => route.report(
                Problem::error(name.place, format!("{header} cannot be set or removed"))
                    .because(
                        "Host, framing, hop-by-hop fields, X-Forwarded-*, X-Real-IP and X-Request-Id are the gate's own, \
                         and names with \"_\" never reach an upstream",
                    )
                    .fix("remove it"),
            ),
            Some(header) if value.is_empty() => edits.push((header, None)),
            Some(header) => match HeaderValue::from_str(&value) {
                Ok(value) => edits.push((header, Some(value))),
                Err(_) => route.report(
                    Problem::error(
                        value.place,
                        format!("the value of {header} cannot stand in a header"),
                    )
                    .because("a field value holds no control characters (RFC 9110 section 5.5)")
                    .fix("use visible characters, blanks and tabs"),
                ),
            },
        }
    }
    edits
}
