//! curl as a client of the registry API: one request, its answer in parts.
//!
//! Called by the tests that need to see status lines, fields and bytes, and by those that need a blob or a manifest to be there.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Lab, MIB, Outcome, run, sha256, write_random};

/// curl with the lab's CA and one HTTP version.
pub(crate) struct Curl<'lab> {
    lab: &'lab Lab,
    version: &'static str,
}

/// What came back.
pub(crate) struct Reply {
    /// The status of the last answer.
    pub(crate) status: u16,
    /// `"1.1"` or `"2"`.
    pub(crate) version: String,
    /// The body of the last answer.
    pub(crate) body: Vec<u8>,
    /// The command and what `--verbose` said.
    pub(crate) story: String,
    head: String,
}

impl<'lab> Curl<'lab> {
    /// `--http1.1` or `--http2`.
    pub(crate) fn new(lab: &'lab Lab, version: &'static str) -> Self {
        Self { lab, version }
    }

    /// Asks without credentials; `options` are curl's own.
    pub(crate) fn ask(&self, path: &str, options: &[&str]) -> Reply {
        let url = if path.starts_with("https:") {
            path.to_owned()
        } else {
            self.lab.url(path)
        };
        let (head, body) = (self.lab.path("reply.head"), self.lab.path("reply.body"));
        let _absent = std::fs::remove_file(&body);
        let mut command = self.lab.command("curl");
        command.args([
            "--silent",
            "--show-error",
            "--verbose",
            self.version,
            "--write-out",
            WANTED,
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
        Reply::new(
            outcome,
            &std::fs::read_to_string(head).unwrap(),
            std::fs::read(body).unwrap_or_default(),
        )
    }

    /// Asks with the good password.
    pub(crate) fn ask_as_user(&self, path: &str, options: &[&str]) -> Reply {
        let credentials = Lab::credentials();
        self.ask(path, &[&["--user", &credentials], options].concat())
    }

    /// Starts an upload and says the address to go on with.
    pub(crate) fn start_upload(&self, repository: &str) -> String {
        let reply = self.ask_as_user(
            &format!("/v2/{repository}/blobs/uploads/"),
            &["--request", "POST"],
        );
        assert_eq!(reply.status, 202, "{reply:?}");
        let location = reply.field("location");
        assert!(
            location.starts_with(&self.lab.url("/")),
            "{location} does not lead through the gate"
        );
        location
    }

    /// Uploads a file as one blob with `PUT` and says its digest.
    pub(crate) fn push_blob(&self, repository: &str, file: &std::path::Path) -> (String, Reply) {
        let digest = format!("sha256:{}", sha256(file));
        let location = self.start_upload(repository);
        let url = format!("{location}&digest={digest}");
        let reply = self.ask_as_user(&url, &["--upload-file", file.to_str().unwrap()]);
        assert_eq!(reply.status, 201, "{reply:?}");
        (digest, reply)
    }

    /// Pushes a small image tagged `latest`; says the manifest's text.
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
        let reply = self.ask_as_user(&format!("/v2/{repository}/manifests/latest"), &options);
        assert_eq!(reply.status, 201, "{reply:?}");
        manifest
    }

    /// A file of random bytes in the lab's folder.
    pub(crate) fn random_file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.lab.path(name);
        write_random(&path, size);
        path
    }
}

impl Reply {
    fn new(outcome: Outcome, heads: &str, body: Vec<u8>) -> Self {
        let story = outcome.story().to_owned();
        let written = outcome.succeeds();
        let (status, version) = written.trim().split_once(' ').unwrap();
        // Interim answers and redirects come first in curl's file.
        let heads = heads.replace("\r\n", "\n");
        let head = heads.trim_end().rsplit("\n\n").next().unwrap().to_owned();
        Self {
            status: status.parse().unwrap(),
            version: version.to_owned(),
            body,
            story,
            head,
        }
    }

    /// All values of a field, in order.
    pub(crate) fn fields(&self, name: &str) -> Vec<String> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .collect()
    }

    /// The value of a field that must be there once.
    pub(crate) fn field(&self, name: &str) -> String {
        let values = self.fields(name);
        assert_eq!(values.len(), 1, "{name} should be there once: {self:?}");
        values[0].clone()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The code of the first error in the body.
    pub(crate) fn code(&self) -> String {
        let code = self.json()["errors"][0]["code"].as_str().map(str::to_owned);
        code.unwrap_or_else(|| panic!("no error code: {self:?}"))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(1000)];
        write!(f, "{}\n{}", self.story, String::from_utf8_lossy(body))
    }
}

/// The media type of the manifests pushed here.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const WANTED: &str = "%{http_code} %{http_version}";
