//! A CA and the gate's certificate, made with `openssl` as an operator would.
//!
//! Called by `lab` once for each test.

use std::path::{Path, PathBuf};

use super::process::{command, run};

/// The files of one CA and one server, all in one folder.
pub(crate) struct Certs {
    dir: PathBuf,
}

impl Certs {
    /// Makes `trust/ca.crt`, `server.pem` and `server.key` in `dir`.
    pub(crate) fn make(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("trust")).unwrap();
        let made = Self {
            dir: dir.to_owned(),
        };
        made.openssl(&format!(
            "{KEY} -subj /CN=lab -keyout ca.key -out trust/ca.crt"
        ));
        made.openssl(&format!(
            "{KEY} -subj /CN=localhost -addext subjectAltName={NAMES} -addext basicConstraints=critical,CA:FALSE \
             -CA trust/ca.crt -CAkey ca.key -keyout server.key -out server.pem"
        ));
        made
    }

    /// A CA for clients alone.
    pub(crate) fn client_ca(&self) -> PathBuf {
        let file = self.dir.join("clients.crt");
        if !file.exists() {
            self.openssl(&format!(
                "{KEY} -subj /CN=clients -keyout clients.key -out clients.crt"
            ));
        }
        file
    }

    /// Puts a certificate of that CA and its key into a folder, under the names by which docker and skopeo know them.
    pub(crate) fn identify(&self, folder: &Path) {
        self.client_ca();
        std::fs::create_dir_all(folder).unwrap();
        let folder = folder.display();
        self.openssl(&format!(
            "{KEY} -subj /CN=robot -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=clientAuth \
             -CA clients.crt -CAkey clients.key -keyout {folder}/client.key -out {folder}/client.cert"
        ));
    }

    /// A folder with nothing but `ca.crt`: skopeo and podman take a key in it for a client's.
    pub(crate) fn trusted(&self) -> PathBuf {
        self.dir.join("trust")
    }

    /// The CA's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.trusted().join("ca.crt")
    }

    /// The gate's certificate.
    pub(crate) fn cert(&self) -> PathBuf {
        self.dir.join("server.pem")
    }

    /// The gate's key.
    pub(crate) fn key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// The base64 SHA-256 of the gate's public key: what Chromium pins.
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
