//! The open challenges, by which a certificate authority (CA) validates that a host leads to this proxy: tokens over plain
//! HTTP (http-01, RFC 8555 section 8.3) and certificates over TLS (tls-alpn-01, RFC 8737).
//!
//! `order` publishes the responses while an order runs. The plain HTTP listener asks for tokens, and `tls` asks for
//! certificates through [`AlpnChallenges`]. Each response is kept in memory and in a file: if several instances of the proxy
//! share one `state.dir`, the CA may reach any of them. No response is a secret, because the CA's check is open to every
//! client. This file knows nothing of orders.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::tls::{ACME_TLS_ALPN, AlpnChallenges, server_provider};
use crate::{bounded_file, state_file};

/// The responses to the challenges of the orders that are running.
#[derive(Debug)]
pub struct Challenges {
    dir: PathBuf,
    /// The key authorizations by file name.
    published: Mutex<HashMap<String, String>>,
    /// Bounds the number of files that are read at the same time.
    reads: Arc<Semaphore>,
}

/// The identifier in a CA's request, by which the response is found.
#[derive(Clone, Copy, Debug)]
pub enum ChallengeKey<'a> {
    /// http-01: the token in the path.
    Token(&'a str),
    /// tls-alpn-01: the host in the ClientHello.
    Host(&'a str),
}

impl ChallengeKey<'_> {
    /// Returns the name of the response's file; `None` if the key is not fit for a file name. The key comes from a client.
    fn file_name(self) -> Option<String> {
        let (kind, text) = match self {
            Self::Token(token) => ("http", token),
            Self::Host(host) => ("alpn", host),
        };
        // A token is base64url; the other characters are those of a host name.
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_valid = (1..=253).contains(&text.len()) && text.bytes().all(is_allowed);
        // The extension keeps the whole key in the name of the draft, whose extension `state_file::replace` exchanges.
        is_valid.then(|| format!("{kind}-{text}.txt"))
    }
}

impl Challenges {
    /// Creates the store for responses with files in `dir`, which is created with the first file.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            published: Mutex::default(),
            reads: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)),
        }
    }

    /// The directory with the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Publishes a response, in this process and in the file. Blocks.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn publish(&self, key: ChallengeKey<'_>, key_authorization: &str) -> io::Result<()> {
        let name = key.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        state_file::make_dir(&self.dir)?;
        state_file::replace(&self.dir.join(&name), key_authorization.as_bytes())?;
        let mut published = self.published.lock();
        published.insert(name, key_authorization.to_owned());
        Ok(())
    }

    /// Withdraws a response. Blocks.
    pub fn unpublish(&self, key: ChallengeKey<'_>) {
        if let Some(name) = key.file_name() {
            self.published.lock().remove(&name);
            // If the file cannot be removed, a later order removes it as stale.
            let _ = fs::remove_file(self.dir.join(name));
        }
    }

    /// Removes the files of orders that were interrupted, for example by a crash. Blocks.
    pub fn remove_stale(&self, now: SystemTime) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.map(|then| now.duration_since(then).unwrap_or_default());
            if age.is_ok_and(|age| age > STALE_AGE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Returns the body of the response to `GET /.well-known/acme-challenge/TOKEN` (http-01).
    pub async fn http01_response(&self, token: &str) -> Option<String> {
        self.find(ChallengeKey::Token(token)).await
    }

    /// Returns the TLS configuration for a tls-alpn-01 challenge about this host.
    async fn alpn_config(&self, host: &str) -> Option<Arc<ServerConfig>> {
        let key_authorization = self.find(ChallengeKey::Host(host)).await?;
        let config = alpn_config(host, &key_authorization);
        config
            .inspect_err(|error| {
                tracing::error!(%host, %error, "no certificate for a challenge could be created");
            })
            .ok()
    }

    async fn find(&self, key: ChallengeKey<'_>) -> Option<String> {
        let name = key.file_name()?;
        if let Some(published) = self.published.lock().get(&name) {
            return Some(published.clone());
        }
        let path = self.dir.join(name);
        self.run_bounded(READ_TIMEOUT, move || read(&path).ok())
            .await
    }

    /// Runs a blocking read on a thread of the runtime. Any client can cause such a read, so the number of reads at the same
    /// time is bounded. The read itself holds its permit: a disk that does not respond would otherwise occupy another thread
    /// with each request whose timeout has passed.
    async fn run_bounded<T: Send + 'static>(
        &self,
        read_timeout: Duration,
        read: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let permit = Arc::clone(&self.reads).try_acquire_owned().ok()?;
        let reading = spawn_blocking(move || {
            let found = read();
            drop(permit);
            found
        });
        timeout(read_timeout, reading).await.ok()?.ok()?
    }
}

/// Where certificate authorities fetch key authorizations (RFC 8555 section 8.3).
pub const ACME_CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

fn read(path: &Path) -> io::Result<String> {
    let text = bounded_file::read(path, MAX_FILE_BYTES)?;
    String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The source of TLS configurations for tls-alpn-01 challenges about a set of hosts.
#[derive(Debug)]
pub(super) struct AlpnChallengeResolver {
    challenges: Arc<Challenges>,
    hosts: HashSet<String>,
}

impl AlpnChallengeResolver {
    /// `hosts` are in lower case, without a trailing dot.
    pub(super) fn new(challenges: Arc<Challenges>, hosts: HashSet<String>) -> Self {
        Self { challenges, hosts }
    }
}

impl AlpnChallenges for AlpnChallengeResolver {
    fn config_for<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Arc<ServerConfig>>> + Send + 'a>> {
        Box::pin(async move {
            if !self.hosts.contains(host) {
                return None;
            }
            self.challenges.alpn_config(host).await
        })
    }
}

/// Creates a certificate whose critical extension acmeIdentifier contains the digest of the key authorization (RFC 8737
/// section 3).
fn alpn_config(host: &str, key_authorization: &str) -> Result<Arc<ServerConfig>, AlpnConfigError> {
    let proof = digest(&SHA256, key_authorization.as_bytes());
    let mut params = CertificateParams::new([host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(proof.as_ref())];
    let key_pair = KeyPair::generate()?;
    let certificate = params.self_signed(&key_pair)?;
    let private_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key_pair.serialize_der()));
    let certified_key = CertifiedKey::new(
        vec![certificate.der().clone()],
        any_supported_type(&private_key)?,
    );
    let mut config = ServerConfig::builder_with_provider(Arc::new(server_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key)));
    config.alpn_protocols = vec![ACME_TLS_ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[derive(Debug, thiserror::Error)]
enum AlpnConfigError {
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// The number of files that are read at the same time.
const MAX_CONCURRENT_READS: usize = 8;
/// The longest wait for a file; after it, the challenge counts as unknown.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest accepted file in bytes; a token and a thumbprint have about 90.
const MAX_FILE_BYTES: u64 = 1024;
/// The age after which a file belongs to no running order.
const STALE_AGE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// However many requests have timed out, at most `MAX_CONCURRENT_READS` reads hang at the same time.
    #[tokio::test]
    async fn a_read_that_hangs_keeps_its_permit_after_its_request_has_timed_out() {
        let challenges = Challenges::new(PathBuf::from("unused"));
        let mut hanging = Vec::new();
        for _ in 0..MAX_CONCURRENT_READS {
            let (resume, disk) = mpsc::channel::<()>();
            hanging.push(resume);
            let read = move || disk.recv().ok();
            assert_eq!(challenges.run_bounded(Duration::ZERO, read).await, None);
        }
        assert_eq!(challenges.reads.available_permits(), 0);
        let rejected = challenges.run_bounded(READ_TIMEOUT, || Some(())).await;
        assert_eq!(rejected, None, "one more read was started");
        // When one read has ended, another one can start.
        drop(hanging.pop());
        let permit = timeout(READ_TIMEOUT, challenges.reads.acquire()).await;
        drop(permit.expect("a read that ended returns its permit"));
        assert_eq!(
            challenges.run_bounded(READ_TIMEOUT, || Some(())).await,
            Some(())
        );
    }
}
