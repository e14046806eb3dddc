//! Manifests by tag and by digest, the tags of a repository, and the catalog.
//!
//! `registry` calls this module. A manifest's content is checked only for its references, which must be in the repository.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::answer::{Answer, ApiError, bytes, empty, page, set, set_digest, url};
use crate::registry::{Call, wrong_method};
use crate::store::{Manifest, Store};

/// Handles every request under `/v2/NAME/manifests/REFERENCE`.
pub(crate) async fn answer(
    call: &Call<'_>,
    reference: &str,
    body: &mut Incoming,
) -> Result<Answer, ApiError> {
    match call.head.method {
        Method::GET | Method::HEAD => {
            let manifest = call.store.manifest(&call.repository, reference);
            manifest.map(|manifest| read(&manifest)).ok_or_else(unknown)
        }
        Method::PUT => {
            let collected = Limited::new(body, LARGEST).collect().await;
            let text = collected
                .map_err(|_| ApiError::bad("MANIFEST_INVALID", "a manifest has at most 4 MiB"))?;
            write(call, reference, &text.to_bytes())
        }
        Method::DELETE => call
            .store
            .remove_manifest(&call.repository, reference)
            .then(|| empty(StatusCode::ACCEPTED))
            .ok_or_else(unknown),
        _ => Err(wrong_method()),
    }
}

/// Handles `/v2/NAME/tags/list`.
pub(crate) fn tags(call: &Call<'_>) -> Result<Answer, ApiError> {
    let tags = call.store.tags(&call.repository);
    let tags = tags.ok_or_else(|| {
        ApiError::unknown("NAME_UNKNOWN", "repository name not known to registry")
    })?;
    let rest = json!({ "name": call.repository });
    Ok(page(call.head, tags, rest, "tags"))
}

/// Handles `/v2/_catalog`.
pub(crate) fn catalog(store: &Arc<Store>, head: &Parts) -> Answer {
    page(head, store.repositories(), json!({}), "repositories")
}

fn read(manifest: &Manifest) -> Answer {
    let content = &manifest.content;
    let mut answer = bytes(StatusCode::OK, content.body(0..content.length()));
    let media_type = manifest.media_type.clone();
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    set_digest(&mut answer, content.digest());
    answer
}

fn write(call: &Call<'_>, reference: &str, text: &Bytes) -> Result<Answer, ApiError> {
    let media_type = read_type(call.head.headers.get(header::CONTENT_TYPE), text, call)?;
    let mut draft = call.store.draft();
    draft.append(text)?;
    let content = draft.finish();
    let digest = content.digest().to_owned();
    // A digest contains a colon, a tag never does.
    let tag = (!reference.contains(':')).then_some(reference);
    if tag.is_none() && reference != digest {
        let message = "provided digest did not match uploaded content";
        return Err(ApiError::bad("DIGEST_INVALID", message));
    }
    let manifest = Manifest {
        media_type,
        content,
    };
    call.store.add_manifest(&call.repository, tag, manifest);
    let mut answer = empty(StatusCode::CREATED);
    let location = url(call.head, &call.path("manifests", &digest));
    set(&mut answer, header::LOCATION, location);
    set_digest(&mut answer, &digest);
    Ok(answer)
}

/// The media type of a manifest whose fields are consistent.
fn read_type(
    media_type: Option<&HeaderValue>,
    text: &[u8],
    call: &Call<'_>,
) -> Result<HeaderValue, ApiError> {
    let invalid = |message: &str| ApiError::bad("MANIFEST_INVALID", message);
    let media_type = media_type.ok_or_else(|| invalid("a manifest needs a Content-Type"))?;
    let manifest: Value =
        serde_json::from_slice(text).map_err(|_| invalid("a manifest is a JSON object"))?;
    let own = manifest.get("mediaType").and_then(Value::as_str);
    if own.is_some_and(|own| own.as_bytes() != media_type.as_bytes()) {
        return Err(invalid("mediaType and Content-Type differ"));
    }
    if manifest.get("schemaVersion") != Some(&json!(2)) {
        return Err(invalid("only schemaVersion 2 is known"));
    }
    check_references(call, &manifest)?;
    Ok(media_type.clone())
}

fn check_references(call: &Call<'_>, manifest: &Value) -> Result<(), ApiError> {
    let list = |key| {
        manifest
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    // A layer with URLs is stored at these URLs.
    let layers = list("layers").filter(|layer| layer.get("urls").is_none());
    let blobs = manifest.get("config").into_iter().chain(layers);
    let has_blob = |digest: &str| call.store.blob(&call.repository, digest).is_some();
    let has_manifest = |digest: &str| call.store.manifest(&call.repository, digest).is_some();
    let missing =
        find_missing(blobs, has_blob).or_else(|| find_missing(list("manifests"), has_manifest));
    match missing {
        None => Ok(()),
        Some(digest) => {
            let message = format!("{digest} is not in this repository");
            Err(ApiError::bad("MANIFEST_BLOB_UNKNOWN", message))
        }
    }
}

/// The digest of the first descriptor that refers to missing content.
fn find_missing<'a>(
    mut descriptors: impl Iterator<Item = &'a Value>,
    is_there: impl Fn(&str) -> bool,
) -> Option<String> {
    let digest = |descriptor: &'a Value| descriptor.get("digest").and_then(Value::as_str);
    descriptors
        .find(|descriptor| !digest(descriptor).is_some_and(&is_there))
        .map(|descriptor| {
            digest(descriptor)
                .unwrap_or("a reference without digest")
                .to_owned()
        })
}

fn unknown() -> ApiError {
    ApiError::unknown("MANIFEST_UNKNOWN", "manifest unknown")
}

/// The limit of the CNCF registry.
const LARGEST: usize = 4 * 1024 * 1024;
