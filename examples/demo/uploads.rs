//! Uploads: begun, sent in one piece or in several, asked about, finished under a digest, given up; and the mount,
//! which makes one needless.
//!
//! `registry` calls it. Bytes go to memory as they come, whatever the length.

use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::answer::{Answer, DIGEST, Refused, empty, parameter, set, url};
use crate::registry::{Call, wrong_method};
use crate::store::Upload;

/// Everything under `/v2/NAME/blobs/uploads/ID`; without an id, one begins.
pub(crate) async fn answer(
    call: &Call<'_>,
    id: &str,
    body: &mut Incoming,
) -> Result<Answer, Refused> {
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

/// A mount that does not work out is an upload like any other.
fn begin(call: &Call<'_>) -> Result<Answer, Refused> {
    let source = (parameter(call.head, "mount"), parameter(call.head, "from"));
    if let (Some(digest), Some(from)) = source
        && call.store.mount(&from, &call.repository, &digest)
    {
        return Ok(created(call, &digest));
    }
    let upload = call.store.begin_upload(&call.repository)?;
    Ok(state(call, &upload, StatusCode::ACCEPTED))
}

async fn receive(upload: &mut Upload, body: &mut Incoming) -> Result<(), Refused> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Refused::bad(
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

/// Whether a chunk says that it begins anywhere but where the last one ended.
fn is_elsewhere(call: &Call<'_>, upload: &Upload) -> bool {
    let range = call.head.headers.get(header::CONTENT_RANGE);
    range.is_some_and(|range| {
        let range = range.to_str().unwrap_or_default();
        let range = range.strip_prefix("bytes ").unwrap_or(range);
        let start = range.split_once('-').map(|(start, _)| start.parse());
        start != Some(Ok(upload.length()))
    })
}

fn finish(call: &Call<'_>, upload: Upload) -> Result<Answer, Refused> {
    let Some(digest) = parameter(call.head, "digest") else {
        return Err(Refused::bad("DIGEST_INVALID", "a digest is needed"));
    };
    let blob = upload.finish().ok_or_else(unknown)?;
    if blob.digest() != digest {
        let message = "provided digest did not match uploaded content";
        return Err(Refused::bad("DIGEST_INVALID", message));
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

/// Where the upload is, and how far it has come.
fn state(call: &Call<'_>, upload: &Upload, status: StatusCode) -> Answer {
    let mut answer = empty(status);
    if status == StatusCode::NO_CONTENT {
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let location = url(call.head, &call.path("blobs/uploads", upload.id()));
    set(&mut answer, header::LOCATION, location);
    // There is no way to write an empty range; clients know this one.
    let last = upload.length().saturating_sub(1);
    set(&mut answer, header::RANGE, format!("0-{last}"));
    set(&mut answer, UPLOAD_ID, upload.id());
    answer
}

fn unknown() -> Refused {
    Refused::unknown("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
}

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
