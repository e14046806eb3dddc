//! The proxy's own CA for sites with `tls = "self-signed"`, and the certificates that it issues.
//!
//! `snapshot` calls [`load_or_create`], which keeps the CA in `state.dir`; `tidegate check` calls [`inspect`], which writes
//! nothing. A CA is never replaced automatically, because clients have been configured to trust it: the operator decides what
//! happens to a damaged or expired CA.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::certificate::{Certificate, order_chain};
use super::certified_pair::{
    CertifiedPair, Error as CertificateError, read_certificates, read_private_key,
};
use super::pem;
use crate::net::host::{normalize_host, parse_address};
use crate::state_file;

/// A CA that issues certificates for the proxy's sites.
pub struct LocalCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: OffsetDateTime,
    path: Option<PathBuf>,
}

/// The reason why there is no CA, or no certificate from it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    /// A file or the directory could not be created.
    #[error("{path}: {cause}; {}, or write another state.dir", state_file::write_remedy(cause), path = path.display())]
    Write { path: PathBuf, cause: io::Error },
    /// An existing file cannot be used.
    #[error(
        "{cause}; or, if the CA is lost, remove ca.pem and ca-key.pem: a new one is created, which every client must then trust"
    )]
    Damaged { cause: CertificateError },
    /// The certificate was not created from the key.
    #[error("{path}: not the CA certificate that belongs to ca-key.pem; restore it, or remove it: it is created again from the key", path = path.display())]
    Foreign { path: PathBuf },
    /// The CA has reached its age of ten years.
    #[error("{path}: the CA expired on {}; remove ca.pem and ca-key.pem: a new one is created, which every client must then trust", since.date(), path = path.display())]
    Expired {
        path: PathBuf,
        since: OffsetDateTime,
    },
    /// A site has a host that no certificate can name.
    #[error(
        "{host:?} is neither a host name nor an address, so no certificate can name it; correct site.hosts"
    )]
    Host { host: String },
    /// The system returned no random bytes, or rcgen failed.
    #[error("no certificate could be created: {0}; start again, or name a certificate in site.tls")]
    Issue(#[source] rcgen::Error),
}

/// Loads the CA from `ca.pem` and `ca-key.pem` in `dir`, or creates it. The certificate has mode 0644, because clients need it,
/// and the key 0600. Other users may enter a new directory, but not list it.
///
/// If only the key exists, the certificate is created again from it: name and key stay the same, so clients continue to trust
/// the CA.
///
/// Several processes may share the directory. Missing files are created under a lock, so that all processes end with the same
/// CA: the CA of a process whose key another process replaced would be lost with that process, after clients have trusted it.
///
/// # Errors
/// If the files cannot be used or created.
pub fn load_or_create(dir: &Path, now: OffsetDateTime) -> Result<LocalCa, Error> {
    let (cert, key) = (ca_file(dir), dir.join("ca-key.pem"));
    let exists = |path: &Path| path.try_exists().map_err(write_error(dir));
    if exists(&cert)? {
        return load(read_key_pair(&key)?, cert, now);
    }
    state_file::make_state_dir(dir).map_err(write_error(dir))?;
    let lock = dir.join("ca.lock");
    let _lock = state_file::lock(&lock, LOCK_TIMEOUT).map_err(write_error(&lock))?;
    if exists(&cert)? {
        // Another process has created the CA in the meantime.
        return load(read_key_pair(&key)?, cert, now);
    }
    if exists(&key)? {
        return create(read_key_pair(&key)?, cert, now);
    }
    let key_pair = KeyPair::generate().map_err(Error::Issue)?;
    // The key is written first: after a crash between the two files, the certificate can be created again from the key.
    let pem = Zeroizing::new(key_pair.serialize_pem());
    state_file::replace(&key, pem.as_bytes()).map_err(write_error(&key))?;
    create(key_pair, cert, now)
}

/// Returns the CA that [`load_or_create`] would return, without writing anything. A missing CA is created in memory, if this
/// process could write it to `dir`.
///
/// # Errors
/// As [`load_or_create`].
pub fn inspect(dir: &Path, now: OffsetDateTime) -> Result<LocalCa, Error> {
    let (cert, key) = (ca_file(dir), dir.join("ca-key.pem"));
    let exists = |path: &Path| path.try_exists().map_err(write_error(dir));
    if exists(&cert)? {
        return load(read_key_pair(&key)?, cert, now);
    }
    state_file::may_make(dir).map_err(write_error(dir))?;
    if exists(&key)? {
        return Ok(LocalCa::new(read_key_pair(&key)?, now)?.0);
    }
    in_memory(now)
}

/// The file with the certificate of the CA that is kept in `dir`.
pub fn ca_file(dir: &Path) -> PathBuf {
    dir.join("ca.pem")
}

/// The certificate of the CA in PEM form, for clients; `None` if there is no such file yet. Needs no key, and returns only the
/// certificate, whatever else was put into the file.
///
/// # Errors
/// If the file cannot be read, or contains no certificate.
pub fn read_ca_pem(path: &Path) -> Result<Option<String>, CertificateError> {
    let certificates = match read_certificates(path) {
        Ok(certificates) => certificates,
        Err(CertificateError::Pem(pem::Error::Unreadable { cause, .. }))
            if cause.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(certificates
        .first()
        .map(|certificate| pem::write_certificate(&certificate.der)))
}

/// Creates a CA that exists as long as the process.
///
/// # Errors
/// If the system returns no random bytes.
pub fn in_memory(now: OffsetDateTime) -> Result<LocalCa, Error> {
    let key_pair = KeyPair::generate().map_err(Error::Issue)?;
    Ok(LocalCa::new(key_pair, now)?.0)
}

fn create(key_pair: KeyPair, cert: PathBuf, now: OffsetDateTime) -> Result<LocalCa, Error> {
    let (mut ca, pem) = LocalCa::new(key_pair, now)?;
    state_file::replace_public(&cert, pem.as_bytes()).map_err(write_error(&cert))?;
    ca.path = Some(cert);
    Ok(ca)
}

/// Loads the certificate of the CA. It must be the one that this key would create again, apart from the dates; otherwise the
/// certificates that are issued with the key would not lead to it.
fn load(key_pair: KeyPair, cert: PathBuf, now: OffsetDateTime) -> Result<LocalCa, Error> {
    let (mut ca, _pem) = LocalCa::new(key_pair, now)?;
    let stored = read_certificates(&cert).map_err(|cause| Error::Damaged { cause })?;
    let stored = stored
        .into_iter()
        .next()
        .filter(|stored| ca.is_same_ca(stored));
    let Some(stored) = stored else {
        return Err(Error::Foreign { path: cert });
    };
    if stored.not_after <= now {
        let (path, since) = (cert, stored.not_after);
        return Err(Error::Expired { path, since });
    }
    ca.not_after = stored.not_after;
    ca.certificate = stored.der;
    ca.path = Some(cert);
    Ok(ca)
}

fn read_key_pair(path: &Path) -> Result<KeyPair, Error> {
    let (key, _mode) = read_private_key(path).map_err(|cause| Error::Damaged { cause })?;
    KeyPair::try_from(&*key).map_err(|_| Error::Damaged {
        cause: CertificateError::Pem(pem::Error::Malformed {
            path: path.into(),
            what: "the private key in it cannot be read".into(),
        }),
    })
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Write {
        path: path.into(),
        cause,
    }
}

impl LocalCa {
    /// Creates the certificate of a CA in memory, and returns it in PEM form as well.
    fn new(key_pair: KeyPair, now: OffsetDateTime) -> Result<(Self, String), Error> {
        let params = ca_params(&key_pair, now);
        let certificate = params.self_signed(&key_pair).map_err(Error::Issue)?;
        let pem = certificate.pem();
        let ca = Self {
            not_after: params.not_after,
            issuer: Issuer::new(params, key_pair),
            certificate: certificate.into(),
            path: None,
        };
        Ok((ca, pem))
    }

    /// Issues a certificate for these hosts, valid for 397 days. A host is a name, an address or `*.x`; for `*`, the
    /// certificate names `localhost`.
    ///
    /// # Errors
    /// If a certificate cannot name a host.
    pub fn issue(&self, hosts: &[String], now: OffsetDateTime) -> Result<CertifiedPair, Error> {
        let key_pair = KeyPair::generate().map_err(Error::Issue)?;
        let params = self.leaf_params(subject_alt_names(hosts)?, now);
        let signed = params
            .signed_by(&key_pair, &self.issuer)
            .map_err(Error::Issue)?;
        let private_key = PrivatePkcs8KeyDer::from(key_pair.serialize_der());
        let private_key = Zeroizing::new(PrivateKeyDer::Pkcs8(private_key));
        let failed = || Error::Issue(rcgen::Error::CouldNotParseKeyPair);
        let signing_key = any_supported_type(&private_key).map_err(|_| failed())?;
        let leaf = Certificate::parse(signed.der().clone()).ok_or_else(failed)?;
        let chain =
            order_chain(vec![leaf], signing_key.public_key().as_deref()).ok_or_else(failed)?;
        Ok(CertifiedPair::new(chain, signing_key))
    }

    /// The certificate of the CA in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The file with the certificate of the CA; `None` if it exists in memory only.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn is_same_ca(&self, stored: &Certificate) -> bool {
        let created = Certificate::parse(self.certificate.clone());
        created.is_some_and(|created| {
            stored.is_ca
                && stored.subject == created.subject
                && stored.public_key == created.public_key
                && stored.key_id == created.key_id
        })
    }

    fn leaf_params(&self, names: Vec<SanType>, now: OffsetDateTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = with_common_name("tidegate self-signed".into());
        params.subject_alt_names = names;
        params.not_before = now - BACKDATING;
        params.not_after = (now + LEAF_LIFETIME).min(self.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params
    }
}

/// Returns the parameters of the CA's certificate. All but the dates follow from the key, so that the certificate can be
/// created again from the key.
fn ca_params(key_pair: &KeyPair, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.key_identifier_method = KeyIdMethod::Sha256;
    let key_id = params.key_identifier(key_pair);
    // The name has a part of the key identifier, because two CAs with the same name confuse clients that trust both.
    let suffix: String = key_id
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    params.distinguished_name = with_common_name(format!("tidegate CA {suffix}"));
    params.not_before = now - BACKDATING;
    params.not_after = now + CA_LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn with_common_name(common_name: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn subject_alt_names(hosts: &[String]) -> Result<Vec<SanType>, Error> {
    let mut names = Vec::with_capacity(hosts.len());
    for host in hosts {
        let name = subject_alt_name(host).ok_or_else(|| Error::Host { host: host.clone() })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn subject_alt_name(host: &str) -> Option<SanType> {
    if let Some(address) = parse_address(host) {
        return Some(SanType::IpAddress(address));
    }
    let host = normalize_host(if host == "*" { "localhost" } else { host });
    DnsName::try_from(host.strip_prefix("*.").unwrap_or(&host)).ok()?;
    Some(SanType::DnsName(host.as_str().try_into().ok()?))
}

const CA_LIFETIME: Duration = Duration::days(3650);
/// Clients of Apple reject certificates that are valid for more than 398 days. docker and Go have no such limit.
const LEAF_LIFETIME: Duration = Duration::days(397);
/// The time by which the validity begins before `now`, for clients whose clock is slow.
const BACKDATING: Duration = Duration::days(1);
/// The longest wait for another process that creates the CA, which takes some milliseconds.
const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(test)]
mod tests;
