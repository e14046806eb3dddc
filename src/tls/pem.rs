//! PEM files: what certificates and keys they hold, and what else.
//!
//! Called by `certs` and `self_signed`. It decodes sections; what is inside them is judged by the callers.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::certs::Error;
use crate::bounded_file::{ReadError, RegularFile};

/// What a PEM file holds.
pub(super) struct PemFile {
    /// In the file's order.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// The first unencrypted key: PKCS#8, PKCS#1 or SEC1.
    pub(super) key: Option<Zeroizing<PrivateKeyDer<'static>>>,
    /// Every label between `-----BEGIN` and the dashes, known or not.
    labels: Vec<String>,
    encrypted: bool,
    /// The file's permission bits.
    pub(super) mode: u32,
}

/// Reads a file of certificates, of a key, or of both. Text around the sections is ignored.
///
/// # Errors
/// When the file cannot be read or a section cannot be decoded.
pub(super) fn read(path: &Path) -> Result<PemFile, Error> {
    let (text, mode) = read_file(path).map_err(|cause| Error::Unreadable {
        path: path.into(),
        cause: cause.into(),
    })?;
    let mut sections = PemFile {
        certificates: Vec::new(),
        key: None,
        labels: labels(&text),
        encrypted: is_encrypted(&text),
        mode,
    };
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    for item in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        match item {
            Ok((kind, der)) => sections.keep(kind, der),
            // The header lines of an old encrypted key are no base64: that is said by `encrypted`.
            Err(_) if sections.encrypted => {}
            Err(cause) => {
                return Err(Error::Malformed {
                    path: path.into(),
                    what: format!("a PEM section is damaged ({})", describe(&cause)),
                });
            }
        }
    }
    Ok(sections)
}

impl PemFile {
    /// What the file holds, for the sentence that says what it lacks.
    pub(super) fn describe(&self) -> String {
        if self.labels.is_empty() {
            return "nothing in PEM form (DER and PKCS#12 files must be converted with openssl)"
                .into();
        }
        let mut kinds: Vec<String> = self.labels.iter().map(|label| article(label)).collect();
        kinds.dedup();
        kinds.join(", ")
    }

    /// Whether a key stands in the file, but under a password.
    pub(super) fn is_encrypted(&self) -> bool {
        self.key.is_none() && self.encrypted
    }

    fn keep(&mut self, kind: SectionKind, der: Vec<u8>) {
        if kind == SectionKind::Certificate {
            return self.certificates.push(der.into());
        }
        let key = PrivateKeyDer::from_pem(kind, der).map(Zeroizing::new);
        if self.key.is_none() {
            self.key = key;
        }
    }
}

/// The whole file, which may hold a private key, and its permission bits.
fn read_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), ReadError> {
    let file = RegularFile::open(path)?;
    let text = Zeroizing::new(file.read(MAX_FILE)?);
    Ok((text, file.metadata().mode() & 0o7777))
}

fn labels(text: &[u8]) -> Vec<String> {
    let begins = lines(text).filter_map(|line| line.strip_prefix("-----BEGIN "));
    begins
        .filter_map(|rest| rest.trim_end().strip_suffix("-----"))
        .take(MAX_LABELS)
        .map(|label| label.escape_debug().to_string())
        .collect()
}

/// PKCS#8 says so in its label; the older forms in a header line (RFC 1421 §4.6.1.1).
fn is_encrypted(text: &[u8]) -> bool {
    lines(text).any(|line| {
        line.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || line.starts_with("Proc-Type: 4,ENCRYPTED")
    })
}

/// Lines that are text; binary ones hold no label.
fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter_map(|line| std::str::from_utf8(line).ok())
}

fn article(label: &str) -> String {
    match label {
        "CERTIFICATE" => "a certificate".into(),
        "PUBLIC KEY" => "a public key".into(),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => "a certificate request".into(),
        "EC PARAMETERS" | "DH PARAMETERS" => "key parameters".into(),
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => "a private key".into(),
        "ENCRYPTED PRIVATE KEY" => "an encrypted private key".into(),
        other => format!("\"{other}\""),
    }
}

/// Never the section itself: it may be a key.
fn describe(cause: &rustls_pki_types::pem::Error) -> &'static str {
    use rustls_pki_types::pem::Error as Pem;
    match cause {
        Pem::MissingSectionEnd { .. } => "its END line is missing",
        Pem::IllegalSectionStart { .. } => "its BEGIN line is cut",
        Pem::Base64Decode(_) => "it is not base64",
        _ => "it cannot be decoded",
    }
}

/// The largest accepted file in bytes; a certificate chain has a few KiB.
const MAX_FILE: u64 = 1 << 20;
/// Enough to recognise a file by.
const MAX_LABELS: usize = 4;
/// Some editors begin a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
