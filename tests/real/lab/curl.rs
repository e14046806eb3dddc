//! curl as a client of the registry API: sends one request and returns the parsed response.
//!
//! Tests use it to check statuses, header fields and bodies, and to push a blob or a manifest that another client then pulls.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Lab, MIB, Outcome, run, sha256, write_random};

/// curl, configured with the CA of the lab and one HTTP version.
pub(crate) struct Curl<'lab> {
    lab: &'lab Lab,
    version: &'static str,
}

/// The response to a request of curl.
pub(crate) struct Response {
    /// The status of the last response.
    pub(crate) status: u16,
    /// The HTTP version, `"1.1"` or `"2"`.
    pub(crate) version: String,
    /// The body of the last response.
    pub(crate) body: Vec<u8>,
    /// The command line and the output of `--verbose`.
    pub(crate) transcript: String,
    head: String,
}

impl<'lab> Curl<'lab> {
    /// `version` is `--http1.1` or `--http2`.
    pub(crate) fn new(lab: &'lab Lab, version: &'static str) -> Self {
        Self { lab, version }
    }

    /// Sends a request without credentials. `options` are options of curl.
    pub(crate) fn request(&self, path: &str, options: &[&str]) -> Response {
        let url = if path.starts_with("https:") {
            path.to_owned()
        } else {
            self.lab.url(path)
        };
        let (head, body) = (
            self.lab.path("response.head"),
            self.lab.path("response.body"),
        );
        let _absent = std::fs::remove_file(&body);
        let mut command = self.lab.command("curl");
        command.args([
            "--silent",
            "--show-error",
            "--verbose",
            self.version,
            "--write-out",
            WRITE_OUT,
        ]);
        command.arg("--cacert").arg(self.lab.certs().ca());
        command
            .arg("--dump-header")
            .arg(&head)
            .arg("--output")
            .arg(&body)
            .args(options)
            .arg(url);
        let outcome = run(&command);
        Response::new(
            outcome,
            &std::fs::read_to_string(head).unwrap(),
            std::fs::read(body).unwrap_or_default(),
        )
    }

    /// Sends a request with the credentials of [`USER`](super::USER).
    pub(crate) fn request_as_user(&self, path: &str, options: &[&str]) -> Response {
        let credentials = Lab::credentials();
        self.request(path, &[&["--user", &credentials], options].concat())
    }

    /// Starts an upload and returns its URL.
    pub(crate) fn start_upload(&self, repository: &str) -> String {
        let response = self.request_as_user(
            &format!("/v2/{repository}/blobs/uploads/"),
            &["--request", "POST"],
        );
        assert_eq!(response.status, 202, "{response:?}");
        let location = response.field("location");
        assert!(
            location.starts_with(&self.lab.url("/")),
            "{location} does not lead through the proxy"
        );
        location
    }

    /// Uploads a file as one blob with `PUT`, and returns its digest and the response.
    pub(crate) fn push_blob(&self, repository: &str, file: &std::path::Path) -> (String, Response) {
        let digest = format!("sha256:{}", sha256(file));
        let location = self.start_upload(repository);
        let url = format!("{location}&digest={digest}");
        let response = self.request_as_user(&url, &["--upload-file", file.to_str().unwrap()]);
        assert_eq!(response.status, 201, "{response:?}");
        (digest, response)
    }

    /// Pushes a small image tagged `latest` and returns its manifest.
    pub(crate) fn push_image(&self, repository: &str) -> String {
        let layer = self.random_file("layer", MIB);
        let config = self.lab.path("config");
        std::fs::write(&config, "{}").unwrap();
        let part = |kind: &str, file: &PathBuf| {
            let (digest, _) = self.push_blob(repository, file);
            let size = std::fs::metadata(file).unwrap().len();
            json!({ "mediaType": kind, "digest": digest, "size": size })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part("application/vnd.oci.image.config.v1+json", &config),
            "layers": [part("application/vnd.oci.image.layer.v1.tar", &layer)],
        })
        .to_string();
        let kind = format!("Content-Type: {MANIFEST}");
        let options = [
            "--request",
            "PUT",
            "--header",
            &kind,
            "--data-binary",
            &manifest,
        ];
        let response =
            self.request_as_user(&format!("/v2/{repository}/manifests/latest"), &options);
        assert_eq!(response.status, 201, "{response:?}");
        manifest
    }

    /// Writes a file of random bytes into the directory of the lab and returns its path.
    pub(crate) fn random_file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.lab.path(name);
        write_random(&path, size);
        path
    }
}

impl Response {
    fn new(outcome: Outcome, heads: &str, body: Vec<u8>) -> Self {
        let transcript = outcome.story().to_owned();
        let output = outcome.succeeds();
        let (status, version) = output.trim().split_once(' ').unwrap();
        // The file of curl begins with the heads of interim responses and redirects.
        let heads = heads.replace("\r\n", "\n");
        let head = heads.trim_end().rsplit("\n\n").next().unwrap().to_owned();
        Self {
            status: status.parse().unwrap(),
            version: version.to_owned(),
            body,
            transcript,
            head,
        }
    }

    /// All values of a header field, in order.
    pub(crate) fn fields(&self, name: &str) -> Vec<String> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .collect()
    }

    /// Asserts that a header field is present once, and returns its value.
    pub(crate) fn field(&self, name: &str) -> String {
        let values = self.fields(name);
        assert_eq!(values.len(), 1, "{name} must be present once: {self:?}");
        values[0].clone()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("invalid JSON ({error}): {self:?}"))
    }

    /// The code of the first error in the body.
    pub(crate) fn code(&self) -> String {
        let code = self.json()["errors"][0]["code"].as_str().map(str::to_owned);
        code.unwrap_or_else(|| panic!("no error code: {self:?}"))
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(1000)];
        write!(f, "{}\n{}", self.transcript, String::from_utf8_lossy(body))
    }
}

/// The media type of the manifests that [`Curl::push_image`] pushes.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const WRITE_OUT: &str = "%{http_code} %{http_version}";
