//! A CA and the certificate of the proxy, created with `openssl` as an operator would create them.
//!
//! `lab` creates them once for each test.

use std::path::{Path, PathBuf};

use super::process::{command, run};

/// The files of one CA and one server, in one directory.
pub(crate) struct Certs {
    dir: PathBuf,
}

impl Certs {
    /// Creates `trust/ca.crt`, `server.pem` and `server.key` in `dir`.
    pub(crate) fn make(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("trust")).unwrap();
        let certs = Self {
            dir: dir.to_owned(),
        };
        certs.openssl(&format!(
            "{KEY} -subj /CN=lab -keyout ca.key -out trust/ca.crt"
        ));
        certs.openssl(&format!(
            "{KEY} -subj /CN=localhost -addext subjectAltName={NAMES} -addext basicConstraints=critical,CA:FALSE \
             -CA trust/ca.crt -CAkey ca.key -keyout server.key -out server.pem"
        ));
        certs
    }

    /// The CA of client certificates, which is created on the first call.
    pub(crate) fn client_ca(&self) -> PathBuf {
        let file = self.dir.join("clients.crt");
        if !file.exists() {
            self.openssl(&format!(
                "{KEY} -subj /CN=clients -keyout clients.key -out clients.crt"
            ));
        }
        file
    }

    /// Writes a client certificate and its key into `folder`, under the file names that docker and skopeo expect.
    pub(crate) fn issue_client_certificate(&self, folder: &Path) {
        self.client_ca();
        std::fs::create_dir_all(folder).unwrap();
        let folder = folder.display();
        self.openssl(&format!(
            "{KEY} -subj /CN=robot -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=clientAuth \
             -CA clients.crt -CAkey clients.key -keyout {folder}/client.key -out {folder}/client.cert"
        ));
    }

    /// A directory that has only `ca.crt`: skopeo and podman use a key in the directory as the key of a client certificate.
    pub(crate) fn trust_dir(&self) -> PathBuf {
        self.dir.join("trust")
    }

    /// The certificate of the CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.trust_dir().join("ca.crt")
    }

    /// The certificate of the proxy.
    pub(crate) fn cert(&self) -> PathBuf {
        self.dir.join("server.pem")
    }

    /// The private key of the proxy.
    pub(crate) fn key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// The SHA-256 digest of the proxy's public key in base64, for the pin that Chromium accepts.
    pub(crate) fn pin(&self) -> String {
        self.openssl("x509 -in server.pem -noout -pubkey -out server.pub");
        self.openssl("pkey -pubin -in server.pub -outform der -out server.spki");
        self.openssl("dgst -sha256 -binary -out server.pin server.spki");
        self.openssl("base64 -in server.pin").trim().to_owned()
    }

    fn openssl(&self, arguments: &str) -> String {
        let mut command = command("openssl", &self.dir);
        run(command
            .args(arguments.split_whitespace())
            .current_dir(&self.dir))
        .succeeds()
    }
}

const KEY: &str = "req -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256";
const NAMES: &str = "DNS:localhost,DNS:registry.test,IP:127.0.0.1,IP:::1";
