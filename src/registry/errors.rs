//! The error codes of the OCI distribution specification and of `distribution`, and the body that carries one.
//!
//! `refusal` writes every answer of the gate under `/v2/` with it. Chooses no status but those of bad requests.
//!
//! Clients print the code in lower case with spaces, then the message; codes they do not know become `unknown`.

use std::fmt;

use http::StatusCode;
use serde_json::{Value, json};

use super::RegistryError;

/// A code that clients understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The identity is known and not allowed.
    Denied,
    /// The upstream or the gate cannot answer now.
    Unavailable,
    /// Come back later.
    TooManyRequests,
    /// Not a repository name.
    NameInvalid,
    /// No such repository.
    NameUnknown,
    /// Not a tag.
    TagInvalid,
    /// Not a digest.
    DigestInvalid,
    /// There is no such manifest.
    ManifestUnknown,
    /// Not an acceptable manifest.
    ManifestInvalid,
    /// A body longer than allowed.
    SizeInvalid,
    /// Not in this API, or not with this method.
    Unsupported,
    /// Not an acceptable upload.
    BlobUploadInvalid,
    /// `n` is out of range.
    PaginationNumberInvalid,
    /// The gate's own failure.
    Unknown,
}

impl ErrorCode {
    /// As it stands in the body.
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
    /// A missing endpoint is UNSUPPORTED: oras takes NAME_UNKNOWN for "the repository is missing".
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

    /// 404 and 405 for what the API lacks, 414 for too many tags (distribution specification, "Pushing Manifests"), 400
    /// for what cannot be read.
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

/// `{"errors":[{"code":…,"message":…,"detail":…}]}`; the detail is an object of the one given pair, or null.
pub fn body(code: ErrorCode, message: &str, detail: Option<(&str, &str)>) -> Vec<u8> {
    let message = Value::from(message);
    let detail = detail.map_or(Value::Null, |(key, value)| json!({ key: value }));
    // Written by hand for the order of the keys; the values are serde_json's.
    format!(r#"{{"errors":[{{"code":"{code}","message":{message},"detail":{detail}}}]}}"#)
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_json_for_any_message() {
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
    fn body_has_the_usual_order_of_keys_and_the_detail() {
        let bytes = body(ErrorCode::NameInvalid, "no", Some(("name\"", "x\\")));
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text,
            r#"{"errors":[{"code":"NAME_INVALID","message":"no","detail":{"name\"":"x\\"}}]}"#
        );
    }

    #[test]
    fn each_fault_has_its_code_and_status() {
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
