//! What a certificate authority is answered when it looks whether a host is ours: tokens over HTTP (RFC 8555, section 8.3)
//! and certificates over TLS (RFC 8737).
//!
//! `acme` puts answers here while an order runs; handshakes and the plain HTTP listener ask for them. Each is kept in
//! memory and in a file, so that of several gates with one `state.dir` whichever is asked can answer. No answer is a
//! secret: the authority shows it to whoever asks. Orders are not known here.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::Accepted;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{FROM_1_2, provider};
use crate::{bounded_file, state_file};

/// The answers of the orders that run.
#[derive(Debug)]
pub struct Challenges {
    dir: PathBuf,
    known: Mutex<HashMap<String, String>>,
    reads: Arc<Semaphore>,
}

/// What handshakes answer an authority by: the hosts whose certificates it issues, and no others.
#[derive(Debug)]
pub struct AlpnChallengeResolver {
    challenges: Arc<Challenges>,
    hosts: HashSet<String>,
}

impl AlpnChallengeResolver {
    /// `hosts` are in lower case, without a trailing dot.
    pub fn new(challenges: Arc<Challenges>, hosts: HashSet<String>) -> Self {
        Self { challenges, hosts }
    }

    /// What a handshake with an authority is to use; `None` for everybody else's. `name` is in normal form.
    pub(super) async fn to(
        &self,
        hello: &Accepted,
        name: Option<&str>,
    ) -> Option<Arc<ServerConfig>> {
        let host = name.filter(|name| asks(hello) && self.hosts.contains(*name))?;
        self.challenges.of_host(host).await
    }
}

/// What a challenge is about.
#[derive(Clone, Copy, Debug)]
pub enum ChallengeKey<'a> {
    /// http-01: the token in the path.
    Token(&'a str),
    /// tls-alpn-01: the host in the hello.
    Host(&'a str),
}

impl ChallengeKey<'_> {
    /// `None` when it is nothing that a file may be called.
    fn file_name(self) -> Option<String> {
        let (kind, text) = match self {
            Self::Token(token) => ("http", token),
            Self::Host(host) => ("alpn", host),
        };
        // base64url, or a host name.
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_sound = (1..=253).contains(&text.len()) && text.bytes().all(is_sound);
        // With an end of its own, so that what is written first is called by the whole name too.
        is_sound.then(|| format!("{kind}-{text}.txt"))
    }
}

impl Challenges {
    /// Answers whose files are in `dir`, which is made with the first of them.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            known: Mutex::default(),
            reads: Arc::new(Semaphore::new(READS)),
        }
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on this is answered, by this process and by the others. Blocks.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, subject: ChallengeKey<'_>, key_authorization: &str) -> io::Result<()> {
        let name = subject.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        state_file::make_dir(&self.dir)?;
        state_file::replace(&self.dir.join(&name), key_authorization.as_bytes())?;
        self.known().insert(name, key_authorization.to_owned());
        Ok(())
    }

    /// It is no longer answered. Blocks.
    pub fn take_back(&self, subject: ChallengeKey<'_>) {
        if let Some(name) = subject.file_name() {
            self.known().remove(&name);
            // Whatever stays is swept up by a later order.
            let _ = fs::remove_file(self.dir.join(name));
        }
    }

    /// Removes what orders left behind that were cut off. Blocks.
    pub fn sweep(&self, now: SystemTime) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|about| about.modified());
            let age = modified.map(|then| now.duration_since(then).unwrap_or_default());
            if age.is_ok_and(|age| age > STALE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The answer to a request for `/.well-known/acme-challenge/TOKEN`.
    pub async fn of_token(&self, token: &str) -> Option<String> {
        self.find(ChallengeKey::Token(token)).await
    }

    /// What the handshake with an authority that asks for this host is to use.
    async fn of_host(&self, host: &str) -> Option<Arc<ServerConfig>> {
        let authorization = self.find(ChallengeKey::Host(host)).await?;
        let made = configure(host, &authorization);
        made.inspect_err(
            |error| tracing::error!(%host, %error, "no certificate for a challenge could be made"),
        )
        .ok()
    }

    async fn find(&self, subject: ChallengeKey<'_>) -> Option<String> {
        let name = subject.file_name()?;
        if let Some(known) = self.known().get(&name) {
            return Some(known.clone());
        }
        let path = self.dir.join(name);
        self.run_bounded(PATIENCE, move || read(&path).ok()).await
    }

    /// Runs a blocking read on a thread of the runtime. Any client can cause such a read, so the number of reads at the same
    /// time is bounded. The read itself holds its permit: a disk that does not answer would otherwise take another thread
    /// with each request that has stopped waiting.
    async fn run_bounded<T: Send + 'static>(
        &self,
        patience: Duration,
        read: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let permit = Arc::clone(&self.reads).try_acquire_owned().ok()?;
        let reading = spawn_blocking(move || {
            let found = read();
            drop(permit);
            found
        });
        timeout(patience, reading).await.ok()?.ok()?
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.known.lock()
    }
}

/// Whether a hello is a certificate authority's: it offers that protocol and no other.
fn asks(hello: &Accepted) -> bool {
    let hello = hello.client_hello();
    hello.alpn().is_some_and(|offered| offered.eq([PROTOCOL]))
}

fn read(path: &Path) -> io::Result<String> {
    let text = bounded_file::read(path, LONGEST)?;
    String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A certificate that says, in a critical extension, what the authority wants to hear (RFC 8737, section 3).
fn configure(host: &str, authorization: &str) -> Result<Arc<ServerConfig>, Failure> {
    let proof = digest(&SHA256, authorization.as_bytes());
    let mut params = CertificateParams::new([host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(proof.as_ref())];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let certified = CertifiedKey::new(
        vec![certificate.der().clone()],
        any_supported_type(&private)?,
    );
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&FROM_1_2)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

const PROTOCOL: &[u8] = b"acme-tls/1";
/// Files open at once.
const READS: usize = 8;
/// A file is read within this, or not at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// A token and a thumbprint have some 90 bytes.
const LONGEST: u64 = 1024;
/// No order lives as long.
const STALE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Of reads that hang, no more than `READS` ever run, however many requests have given up on them.
    #[tokio::test]
    async fn a_read_that_hangs_keeps_its_permit_after_its_request_has_given_up() {
        let challenges = Challenges::new(PathBuf::from("unused"));
        let mut hanging = Vec::new();
        for _ in 0..READS {
            let (resume, disk) = mpsc::channel::<()>();
            hanging.push(resume);
            let read = move || disk.recv().ok();
            assert_eq!(challenges.run_bounded(Duration::ZERO, read).await, None);
        }
        assert_eq!(challenges.reads.available_permits(), 0);
        let refused = challenges.run_bounded(PATIENCE, || Some(())).await;
        assert_eq!(refused, None, "one more read was started");
        // As soon as one read has ended, there is room again.
        drop(hanging.pop());
        let permit = timeout(PATIENCE, challenges.reads.acquire()).await;
        drop(permit.expect("a read that ended returns its permit"));
        assert_eq!(
            challenges.run_bounded(PATIENCE, || Some(())).await,
            Some(())
        );
    }
}
