//! Errors of the registry API: [`RegistryError`] for an invalid request, the error codes of the OCI distribution
//! specification and of `distribution`, and the error body.
//!
//! `rejection` writes the body of every rejection under `/v2/` with it. Clients print the code in lower case with spaces, and
//! then the message. They print codes that they do not know as `unknown`.

use std::fmt;

use http::StatusCode;
use serde_json::{Value, json};

/// The reason why a request is not an operation of the registry API. The messages are sent to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The name of the repository, or of the source of a mount, is invalid. The text is the reason.
    #[error("invalid repository name: {0}")]
    Name(&'static str),
    /// The reference of a manifest is neither a tag nor a digest.
    #[error(
        "invalid tag: at most 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'"
    )]
    Tag,
    /// A digest in the path, or in the parameter `digest` or `mount`, is invalid.
    #[error("invalid digest: expected algorithm:value, as in sha256: and 64 lower case hex digits")]
    Digest,
    /// The query is invalid. The text is the reason.
    #[error("invalid query: {0}")]
    Query(&'static str),
    /// A read of a manifest by a reference that no manifest can have. The response is 404, as for any manifest that does not
    /// exist: the OCI conformance suite requests `.INVALID` and expects 404.
    #[error(
        "manifest unknown: its reference is neither a tag (at most 128 letters, digits, '_', '.' and '-', not starting \
         with '.' or '-') nor a digest (algorithm:value)"
    )]
    UnknownManifest,
    /// The query has more `tag` parameters than one push may have.
    #[error("too many tags for one push: at most {}", MAX_TAGS)]
    TooManyTags,
    /// The parameter `n` is not a number, or is too large.
    #[error("invalid number of results requested: at most {}", MAX_PAGE_SIZE)]
    PageSize,
    /// The path is invalid. The text is the reason.
    #[error("invalid path: {0}")]
    Path(&'static str),
    /// The path is not one of the API.
    #[error("the registry API has no such endpoint")]
    NotFound,
    /// The path does not allow the method.
    #[error("method not allowed here; allowed: {allow}")]
    Method {
        /// The value of the Allow field.
        allow: &'static str,
    },
}

/// An error code that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The credentials are missing or wrong.
    Unauthorized,
    /// The identity is known, but is not allowed to do this.
    Denied,
    /// The upstream or the proxy cannot process the request now.
    Unavailable,
    /// The client has sent too many requests, or too many wrong passwords.
    TooManyRequests,
    /// The repository name is invalid.
    NameInvalid,
    /// The repository does not exist.
    NameUnknown,
    /// The tag is invalid.
    TagInvalid,
    /// The digest is invalid.
    DigestInvalid,
    /// The manifest does not exist.
    ManifestUnknown,
    /// The manifest is invalid.
    ManifestInvalid,
    /// The body is longer than allowed.
    SizeInvalid,
    /// The API does not have this endpoint, or not with this method.
    Unsupported,
    /// The upload is invalid.
    BlobUploadInvalid,
    /// The parameter `n` is out of range.
    PaginationNumberInvalid,
    /// An internal error of the proxy.
    Unknown,
}

impl ErrorCode {
    /// The code as it is in the body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unavailable => "UNAVAILABLE",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::TagInvalid => "TAG_INVALID",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unsupported => "UNSUPPORTED",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl RegistryError {
    /// The error code. A missing endpoint has UNSUPPORTED, because oras reads NAME_UNKNOWN as a missing repository.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Name(_) | Self::Path(_) => ErrorCode::NameInvalid,
            Self::Tag | Self::TooManyTags => ErrorCode::TagInvalid,
            Self::UnknownManifest => ErrorCode::ManifestUnknown,
            Self::Digest => ErrorCode::DigestInvalid,
            Self::PageSize => ErrorCode::PaginationNumberInvalid,
            Self::Query(_) | Self::NotFound | Self::Method { .. } => ErrorCode::Unsupported,
        }
    }

    /// The status: 404 and 405 for what the API does not have, 414 for too many tags (distribution specification, "Pushing
    /// Manifests"), and 400 for what cannot be parsed.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::UnknownManifest => StatusCode::NOT_FOUND,
            Self::TooManyTags => StatusCode::URI_TOO_LONG,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Name(_)
            | Self::Tag
            | Self::Digest
            | Self::Query(_)
            | Self::PageSize
            | Self::Path(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The error body, `{"errors":[{"code":…,"message":…,"detail":…}]}`. The detail is an object with the given key and value, or
/// null. A line feed ends the body, so that after `curl` the prompt of the shell begins on a line of its own.
pub fn body(code: ErrorCode, message: &str, detail: Option<(&str, &str)>) -> Vec<u8> {
    let message = Value::from(message);
    let detail = detail.map_or(Value::Null, |(key, value)| json!({ key: value }));
    // The object is formatted here because serde_json would sort the keys. serde_json formats the values.
    format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":{message},\"detail\":{detail}}}]}}\n")
        .into_bytes()
}

/// The maximum number of tags of one push. The distribution specification demands at least ten.
pub(super) const MAX_TAGS: usize = 64;
/// The maximum number of entries on a page of a list; the default of `catalog.maxentries` in `distribution`.
pub const MAX_PAGE_SIZE: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_json_for_any_message() {
        for message in [
            "plain",
            "a \"quote\" and \\",
            "line\nbreak\u{1}\u{7f}",
            "ünïcode\u{2028}",
            "</script>",
            "",
        ] {
            let parsed: Value =
                serde_json::from_slice(&body(ErrorCode::Denied, message, None)).unwrap();
            let expected =
                json!({"errors": [{"code": "DENIED", "message": message, "detail": null}]});
            assert_eq!(parsed, expected, "{message:?}");
        }
    }

    #[test]
    fn the_body_has_the_usual_order_of_keys_and_the_detail() {
        let bytes = body(ErrorCode::NameInvalid, "no", Some(("name\"", "x\\")));
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"errors":[{"code":"NAME_INVALID","message":"no","detail":{"name\"":"x\\"}}]}"#,
                "\n"
            )
        );
    }

    #[test]
    fn each_error_has_its_code_and_status() {
        let cases = [
            (RegistryError::Name("x"), "NAME_INVALID", 400),
            (RegistryError::Path("x"), "NAME_INVALID", 400),
            (RegistryError::Tag, "TAG_INVALID", 400),
            (RegistryError::Digest, "DIGEST_INVALID", 400),
            (RegistryError::Query("x"), "UNSUPPORTED", 400),
            (RegistryError::PageSize, "PAGINATION_NUMBER_INVALID", 400),
            (RegistryError::NotFound, "UNSUPPORTED", 404),
            (RegistryError::UnknownManifest, "MANIFEST_UNKNOWN", 404),
            (RegistryError::TooManyTags, "TAG_INVALID", 414),
            (RegistryError::Method { allow: "GET" }, "UNSUPPORTED", 405),
        ];
        for (invalid, code, status) in cases {
            assert_eq!(
                (invalid.code().as_str(), invalid.status().as_u16()),
                (code, status),
                "{invalid}"
            );
        }
    }
}
