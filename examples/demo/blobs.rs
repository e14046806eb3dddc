//! Complete blobs: reading a whole blob or a range, and deleting.
//!
//! `registry` calls this module; `uploads` creates blobs.

use std::ops::Range;

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};

use crate::answer::{Answer, ApiError, bytes, empty, is_head, set, set_digest};
use crate::content::Blob;
use crate::registry::{Call, wrong_method};

/// What a `Range` field asks of content of a given length.
enum Wanted {
    Whole,
    Part(Range<u64>),
    Nothing,
}

/// Handles every request under `/v2/NAME/blobs/DIGEST`.
pub(crate) fn answer(call: &Call<'_>, digest: &str) -> Result<Answer, ApiError> {
    match call.head.method {
        Method::GET | Method::HEAD => {
            let blob = call.store.blob(&call.repository, digest);
            blob.map(|blob| read(call, &blob)).ok_or_else(unknown)
        }
        Method::DELETE => call
            .store
            .remove_blob(&call.repository, digest)
            .then(|| empty(StatusCode::ACCEPTED))
            .ok_or_else(unknown),
        _ => Err(wrong_method()),
    }
}

fn read(call: &Call<'_>, blob: &Blob) -> Answer {
    let length = blob.length();
    let wanted = match call.head.headers.get(header::RANGE) {
        Some(range) if !is_head(call.head) => wanted(range, length),
        _ => Wanted::Whole,
    };
    let mut answer = match wanted {
        Wanted::Whole => bytes(StatusCode::OK, blob.body(0..length)),
        Wanted::Part(part) => {
            let range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            let mut answer = bytes(StatusCode::PARTIAL_CONTENT, blob.body(part));
            set(&mut answer, header::CONTENT_RANGE, range);
            answer
        }
        Wanted::Nothing => {
            let mut answer = empty(StatusCode::RANGE_NOT_SATISFIABLE);
            set(
                &mut answer,
                header::CONTENT_RANGE,
                format!("bytes */{length}"),
            );
            return answer;
        }
    };
    set(
        &mut answer,
        header::CONTENT_TYPE,
        "application/octet-stream",
    );
    set(&mut answer, header::ACCEPT_RANGES, "bytes");
    set_digest(&mut answer, blob.digest());
    answer
}

/// Parses a single range (RFC 9110 section 14.1.2). A server may ignore several ranges and invalid ones (section 14.2).
fn wanted(range: &HeaderValue, length: u64) -> Wanted {
    let Some((first, last)) = range
        .to_str()
        .ok()
        .and_then(|range| range.strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::Whole;
    };
    let part = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.is_empty() => first..length,
        (Err(_), Ok(count)) if first.is_empty() => length.saturating_sub(count)..length,
        _ => return Wanted::Whole,
    };
    if part.is_empty() {
        Wanted::Nothing
    } else {
        Wanted::Part(part)
    }
}

fn unknown() -> ApiError {
    ApiError::unknown("BLOB_UNKNOWN", "blob unknown to registry")
}
