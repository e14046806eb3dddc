//! `tls = "self-signed"`: the gate's own CA, kept in a directory, and the certificates it issues.
//!
//! Called by `snapshot` for sites that have no certificate, and with [`in_memory`] by `check`, which writes
//! nothing. A CA is never replaced: clients trust it by name, so a damaged one is the operator's to decide about.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::{DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::certs::{self, CertifiedPair};
use super::chain::{Certificate, order_chain};
use super::names::normal;
use crate::net::host::parse_address;
use crate::text::to_hex;

mod files;

use self::files::{lock, make_dir, to_pem, write_private};

/// A CA that can issue.
pub struct LocalCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    not_after: OffsetDateTime,
    path: Option<PathBuf>,
}

/// Why there is no CA, or no certificate from it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each sentence names its fields")]
pub enum Error {
    /// A file or the directory could not be made.
    #[error("{path}: {cause}; let the gate's user write there", path = path.display())]
    Write { path: PathBuf, cause: io::Error },
    /// A file that is there cannot be used.
    #[error(
        "{cause}; or, if the CA is lost, remove ca.pem and ca-key.pem: a new one is made, which every client must then trust"
    )]
    Damaged { cause: certs::Error },
    /// The certificate is not the one made for this key here.
    #[error("{path}: not the CA certificate that belongs to ca-key.pem; restore it, or remove it: it is made again from the key", path = path.display())]
    Foreign { path: PathBuf },
    /// Ten years are over.
    #[error("{path}: the CA expired on {}; remove ca.pem and ca-key.pem: a new one is made, which every client must then trust", since.date(), path = path.display())]
    Expired {
        path: PathBuf,
        since: OffsetDateTime,
    },
    /// A host that no certificate can name.
    #[error("{host:?} is neither a host name nor an address, so no certificate can name it")]
    Host { host: String },
    /// The library failed, for want of random bytes or by its own fault.
    #[error("no certificate could be made")]
    Issue(#[source] rcgen::Error),
}

/// The CA kept as `ca.pem` and `ca-key.pem` in `dir`, made when there is none. Files are 0600, a new directory 0700.
///
/// When only the key is there, the certificate is made again: name and key stay, so clients go on trusting it.
///
/// Several processes may share the directory. What is missing is created under a lock, so that all of them end with the same
/// CA: the CA of a process whose key another one replaced would be lost with that process, after clients have trusted it.
///
/// # Errors
/// When the files cannot be used or made.
pub fn load_or_create(dir: &Path, now: OffsetDateTime) -> Result<LocalCa, Error> {
    let (cert, key) = (dir.join("ca.pem"), dir.join("ca-key.pem"));
    // A file that cannot be examined is not missing: reading it reports why.
    let is_missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    if !is_missing(&cert) {
        return load(read_key_pair(&key)?, cert, now);
    }
    make_dir(dir)?;
    let _lock = lock(&dir.join("ca.lock"))?;
    if !is_missing(&cert) {
        // Another process has created the CA in the meantime.
        return load(read_key_pair(&key)?, cert, now);
    }
    if !is_missing(&key) {
        return create(read_key_pair(&key)?, cert, now);
    }
    let pair = KeyPair::generate().map_err(Error::Issue)?;
    // The key is written first: after a crash between the two, the certificate can be made again from the key.
    write_private(&key, Zeroizing::new(pair.serialize_pem()).as_bytes())?;
    create(pair, cert, now)
}

/// The CA that [`load_or_create`] would give, without writing anything: one that is kept is read, and one that would be
/// made is made in memory, if this process could write it to `dir`.
///
/// # Errors
/// As [`load_or_create`].
pub fn inspect(dir: &Path, now: OffsetDateTime) -> Result<LocalCa, Error> {
    let (cert, key) = (dir.join("ca.pem"), dir.join("ca-key.pem"));
    let found = (cert.try_exists(), key.try_exists());
    let may_make = || {
        crate::state_file::may_make(dir).map_err(|cause| Error::Write {
            path: dir.into(),
            cause,
        })
    };
    if let (Ok(false), Ok(false)) = found {
        may_make()?;
        return in_memory(now);
    }
    let pair = read_key_pair(&key)?;
    if let Ok(false) = found.0 {
        may_make()?;
        return LocalCa::new(pair, now);
    }
    load(pair, cert, now)
}

/// A CA that ends with the process.
///
/// # Errors
/// When the system has no random bytes.
pub fn in_memory(now: OffsetDateTime) -> Result<LocalCa, Error> {
    let pair = KeyPair::generate().map_err(Error::Issue)?;
    LocalCa::new(pair, now)
}

impl LocalCa {
    fn new(pair: KeyPair, now: OffsetDateTime) -> Result<Self, Error> {
        let params = authority_params(&pair, now);
        let certificate = params.self_signed(&pair).map_err(Error::Issue)?;
        Ok(Self {
            pem: certificate.pem(),
            not_after: params.not_after,
            issuer: Issuer::new(params, pair),
            path: None,
        })
    }

    /// A certificate for these hosts, good for 397 days: names, addresses, `*.x`; `*` alone stands for `localhost`.
    ///
    /// # Errors
    /// When a host is no name.
    pub fn issue(&self, hosts: &[String], now: OffsetDateTime) -> Result<CertifiedPair, Error> {
        let key = KeyPair::generate().map_err(Error::Issue)?;
        let params = self.leaf_params(subject_names(hosts)?, now);
        let signed = params.signed_by(&key, &self.issuer).map_err(Error::Issue)?;
        let private = PrivatePkcs8KeyDer::from(key.serialize_der());
        let private = Zeroizing::new(PrivateKeyDer::Pkcs8(private));
        let failed = || Error::Issue(rcgen::Error::CouldNotParseKeyPair);
        let signer = any_supported_type(&private).map_err(|_| failed())?;
        let leaf = Certificate::read(signed.der().clone()).ok_or_else(failed)?;
        let chain = order_chain(vec![leaf], signer.public_key().as_deref()).ok_or_else(failed)?;
        Ok(CertifiedPair::new(chain, signer))
    }

    /// The CA's certificate, for clients to trust.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// Where that certificate stands, unless it is in memory only.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn leaf_params(&self, names: Vec<SanType>, now: OffsetDateTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = with_common_name("tidegate self-signed".into());
        params.subject_alt_names = names;
        params.not_before = now - BACKDATED;
        params.not_after = (now + LEAF_LIFE).min(self.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params
    }
}

/// Everything but the dates follows from the key, so that the certificate can be made again from it.
fn authority_params(pair: &KeyPair, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.key_identifier_method = KeyIdMethod::Sha256;
    let id = params.key_identifier(pair);
    // Two CAs of one name would confuse clients that trust both.
    let mark = to_hex(id.get(..4).unwrap_or_default());
    params.distinguished_name = with_common_name(format!("tidegate CA {mark}"));
    params.not_before = now - BACKDATED;
    params.not_after = now + AUTHORITY_LIFE;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn with_common_name(common_name: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn create(pair: KeyPair, cert: PathBuf, now: OffsetDateTime) -> Result<LocalCa, Error> {
    let mut authority = LocalCa::new(pair, now)?;
    write_private(&cert, authority.pem.as_bytes())?;
    authority.path = Some(cert);
    Ok(authority)
}

/// The stored certificate must be the one this key would make again, dates aside: else what is issued from the
/// key would not lead to it.
fn load(pair: KeyPair, cert: PathBuf, now: OffsetDateTime) -> Result<LocalCa, Error> {
    let mut authority = LocalCa::new(pair, now)?;
    let stored = certs::read_certificates(&cert).map_err(|cause| Error::Damaged { cause })?;
    let path = cert.clone();
    let stored = stored
        .into_iter()
        .next()
        .filter(|c| is_made_by(&authority, c));
    let stored = stored.ok_or(Error::Foreign { path })?;
    if stored.not_after <= now {
        let (path, since) = (cert, stored.not_after);
        return Err(Error::Expired { path, since });
    }
    authority.pem = to_pem(&stored.der);
    authority.not_after = stored.not_after;
    authority.path = Some(cert);
    Ok(authority)
}

fn is_made_by(authority: &LocalCa, stored: &Certificate) -> bool {
    let made = rustls_pki_types::pem::PemObject::from_pem_slice(authority.pem.as_bytes());
    let made = made.ok().and_then(Certificate::read);
    made.is_some_and(|made| {
        stored.is_authority
            && stored.subject == made.subject
            && stored.public_key == made.public_key
            && stored.key_id == made.key_id
    })
}

fn read_key_pair(path: &Path) -> Result<KeyPair, Error> {
    let (key, _) = certs::read_key(path).map_err(|cause| Error::Damaged { cause })?;
    KeyPair::try_from(&*key).map_err(|_| Error::Damaged {
        cause: certs::Error::Malformed {
            path: path.into(),
            what: "the private key in it cannot be read".into(),
        },
    })
}

fn subject_names(hosts: &[String]) -> Result<Vec<SanType>, Error> {
    let mut names = Vec::with_capacity(hosts.len());
    for host in hosts {
        let name = subject_name(host).ok_or_else(|| Error::Host { host: host.clone() })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn subject_name(host: &str) -> Option<SanType> {
    if let Some(address) = parse_address(host) {
        return Some(SanType::IpAddress(address));
    }
    let host = normal(if host == "*" { "localhost" } else { host });
    DnsName::try_from(host.strip_prefix("*.").unwrap_or(&host)).ok()?;
    Some(SanType::DnsName(host.as_str().try_into().ok()?))
}

const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Apple's clients refuse more than 398 days; docker and Go do not care.
const LEAF_LIFE: Duration = Duration::days(397);
/// For clients whose clock is behind.
const BACKDATED: Duration = Duration::days(1);

#[cfg(test)]
mod tests;
