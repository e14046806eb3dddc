//! A response as a client receives it, in either HTTP version.

use serde_json::Value;

/// A parsed response.
#[derive(Clone, Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: u16,
    /// The fields in order, with names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body arrived completely.
    pub(crate) is_whole: bool,
    /// The status codes of the interim responses (1xx) before this response.
    pub(crate) interim: Vec<u16>,
    /// The number of trailer fields.
    pub(crate) trailers: usize,
}

impl TestResponse {
    /// All values of the field `name`.
    pub(crate) fn header_values(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of the field `name`, which must occur exactly once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let values = self.header_values(name);
        assert_eq!(values.len(), 1, "{name} in {self:?}");
        values[0]
    }

    pub(crate) fn has_header(&self, name: &str) -> bool {
        !self.header_values(name).is_empty()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks the header section and the body that every rejection under `/v2/` has. A response to HEAD needs
    /// [`Self::assert_rejection_head`].
    #[track_caller]
    pub(crate) fn assert_rejection(&self, status: u16, code: &str) {
        self.assert_rejection_head(status);
        assert_eq!(self.header("content-length"), self.body.len().to_string());
        let body: Value = serde_json::from_slice(&self.body).expect("a JSON body");
        let errors = body["errors"].as_array().expect("a list of errors");
        assert_eq!(errors.len(), 1, "{body}");
        assert_eq!(errors[0]["code"], code, "{body}");
        assert!(!errors[0]["message"].as_str().unwrap().is_empty());
        let detail = errors[0].get("detail").expect("a detail member");
        // Without a detail, docker repeats a request for 50 seconds after UNAUTHORIZED or DENIED.
        assert_eq!(detail.is_null(), !matches!(status, 401 | 403), "{body}");
    }

    /// Checks the header section that every rejection under `/v2/` has.
    #[track_caller]
    pub(crate) fn assert_rejection_head(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.is_whole, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json");
        assert_eq!(
            self.header("docker-distribution-api-version"),
            "registry/2.0"
        );
        assert!(!self.header("x-request-id").is_empty());
        assert!(!self.has_header("server"), "{self:?}");
        let length: usize = self.header("content-length").parse().unwrap();
        assert!(length > 0);
        let challenges = usize::from(status == 401);
        assert_eq!(
            self.header_values("www-authenticate").len(),
            challenges,
            "{self:?}"
        );
    }

    /// Returns the status, the header fields without `X-Request-Id` and `Date`, and the body. Two responses that a client must
    /// not be able to tell apart are equal in them.
    pub(crate) fn without_request_id(&self) -> (u16, Vec<(String, String)>, Vec<u8>) {
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| name != "x-request-id" && name != "date");
        (self.status, headers, self.body.clone())
    }
}
