//! Uploads: start, one or several chunks, status, completion with a digest, cancellation; and the mount of a blob from another
//! repository.
//!
//! `registry` calls this module. Bytes are stored in memory as they arrive, also for a body of unknown length.

use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::answer::{Answer, ApiError, DIGEST, empty, parameter, set, url};
use crate::registry::{Call, wrong_method};
use crate::store::Upload;

/// Handles every request under `/v2/NAME/blobs/uploads/ID`; without an id, an upload starts.
pub(crate) async fn answer(
    call: &Call<'_>,
    id: &str,
    body: &mut Incoming,
) -> Result<Answer, ApiError> {
    if id.is_empty() {
        return match call.head.method {
            Method::POST => begin(call),
            _ => Err(wrong_method()),
        };
    }
    let taken = call.store.take_upload(&call.repository, id);
    let mut upload = taken.ok_or_else(unknown)?;
    match call.head.method {
        Method::GET => Ok(state(call, &upload, StatusCode::NO_CONTENT)),
        Method::PATCH => {
            if is_elsewhere(call, &upload) {
                return Ok(state(call, &upload, StatusCode::RANGE_NOT_SATISFIABLE));
            }
            receive(&mut upload, body).await?;
            Ok(state(call, &upload, StatusCode::ACCEPTED))
        }
        Method::PUT => {
            receive(&mut upload, body).await?;
            finish(call, upload)
        }
        Method::DELETE => {
            upload.dismiss();
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ => Err(wrong_method()),
    }
}

/// Mounts a blob, or starts a plain upload if the source does not have it.
fn begin(call: &Call<'_>) -> Result<Answer, ApiError> {
    let source = (parameter(call.head, "mount"), parameter(call.head, "from"));
    if let (Some(digest), Some(from)) = source
        && call.store.mount(&from, &call.repository, &digest)
    {
        return Ok(created(call, &digest));
    }
    let upload = call.store.begin_upload(&call.repository)?;
    Ok(state(call, &upload, StatusCode::ACCEPTED))
}

async fn receive(upload: &mut Upload, body: &mut Incoming) -> Result<(), ApiError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            ApiError::bad(
                "BLOB_UPLOAD_INVALID",
                "the upload ended before it was complete",
            )
        })?;
        if let Some(data) = frame.data_ref() {
            upload.append(data)?;
        }
    }
    Ok(())
}

/// Whether a chunk has a Content-Range that does not continue at the end of the bytes received.
fn is_elsewhere(call: &Call<'_>, upload: &Upload) -> bool {
    let range = call.head.headers.get(header::CONTENT_RANGE);
    range.is_some_and(|range| {
        let range = range.to_str().unwrap_or_default();
        let range = range.strip_prefix("bytes ").unwrap_or(range);
        let start = range.split_once('-').map(|(start, _)| start.parse());
        start != Some(Ok(upload.length()))
    })
}

fn finish(call: &Call<'_>, upload: Upload) -> Result<Answer, ApiError> {
    let Some(digest) = parameter(call.head, "digest") else {
        return Err(ApiError::bad("DIGEST_INVALID", "a digest is needed"));
    };
    let blob = upload.finish().ok_or_else(unknown)?;
    if blob.digest() != digest {
        let message = "provided digest did not match uploaded content";
        return Err(ApiError::bad("DIGEST_INVALID", message));
    }
    call.store.add_blob(&call.repository, blob);
    Ok(created(call, &digest))
}

fn created(call: &Call<'_>, digest: &str) -> Answer {
    let mut answer = empty(StatusCode::CREATED);
    let location = url(call.head, &call.path("blobs", digest));
    set(&mut answer, header::LOCATION, location);
    set(&mut answer, DIGEST, digest);
    answer
}

/// The response with the location of the upload and the range received.
fn state(call: &Call<'_>, upload: &Upload, status: StatusCode) -> Answer {
    let mut answer = empty(status);
    if status == StatusCode::NO_CONTENT {
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let location = url(call.head, &call.path("blobs/uploads", upload.id()));
    set(&mut answer, header::LOCATION, location);
    // HTTP cannot express an empty range; clients know this value.
    let last = upload.length().saturating_sub(1);
    set(&mut answer, header::RANGE, format!("0-{last}"));
    set(&mut answer, UPLOAD_ID, upload.id());
    answer
}

fn unknown() -> ApiError {
    ApiError::unknown("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
}

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
