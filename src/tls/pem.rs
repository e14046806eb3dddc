//! Reading PEM files with certificates and private keys.
//!
//! Called by `certified_pair`, `client_auth` and `self_signed`. This file decodes the sections; their contents are checked by
//! the callers. It also records what else is in a file, so that an error message can name what an operator configured by mistake.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::bounded_file::{ReadError, RegularFile, is_closed_directory, is_hidden_by_unit};

/// The contents of a PEM file.
pub(super) struct PemFile {
    /// The certificates in the order of the file.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// The first unencrypted private key: PKCS#8, PKCS#1 or SEC1.
    pub(super) key: Option<Zeroizing<PrivateKeyDer<'static>>>,
    /// The labels of the sections (`-----BEGIN label-----`), known or not.
    labels: Vec<String>,
    has_encrypted_key: bool,
    /// The file's permission bits.
    pub(super) mode: u32,
}

/// The reason why a PEM file cannot be used. Each message names the file, the problem and a remedy.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    /// The file is missing, may not be read, or is not a regular file.
    #[error("{path}: {cause}; {}", remedy(cause), path = path.display())]
    Unreadable { path: PathBuf, cause: io::Error },
    /// A section is damaged, or its content does not match its label.
    #[error("{path}: {what}; copy the file again from where it was issued", path = path.display())]
    Malformed { path: PathBuf, what: String },
}

impl PemFile {
    /// Reads a file. Text around the PEM sections is ignored.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let (text, mode) = read_file(path).map_err(|cause| Error::Unreadable {
            path: path.into(),
            cause: cause.into(),
        })?;
        let mut file = Self {
            certificates: Vec::new(),
            key: None,
            labels: labels(&text),
            has_encrypted_key: has_encrypted_key(&text),
            mode,
        };
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            match section {
                Ok((kind, der)) => file.add_section(kind, der),
                // The header lines of a key in the traditional encrypted form are not base64. `has_encrypted_key` reports it.
                Err(_) if file.has_encrypted_key => {}
                Err(cause) => {
                    return Err(Error::Malformed {
                        path: path.into(),
                        what: format!("a PEM section is damaged ({})", describe_error(&cause)),
                    });
                }
            }
        }
        Ok(file)
    }

    fn add_section(&mut self, kind: SectionKind, der: Vec<u8>) {
        if kind == SectionKind::Certificate {
            return self.certificates.push(der.into());
        }
        let key = PrivateKeyDer::from_pem(kind, der).map(Zeroizing::new);
        if self.key.is_none() {
            self.key = key;
        }
    }

    /// Lists the contents of the file, for a message about what is missing in it.
    pub(super) fn describe(&self) -> String {
        if self.labels.is_empty() {
            return "nothing in PEM form (DER and PKCS#12 files must be converted with openssl)"
                .into();
        }
        let mut kinds: Vec<String> = self
            .labels
            .iter()
            .map(|label| describe_label(label))
            .collect();
        kinds.dedup();
        kinds.join(", ")
    }

    /// Whether the only private key in the file is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.key.is_none() && self.has_encrypted_key
    }
}

/// Returns the whole file, which may contain a private key, and its permission bits.
fn read_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), ReadError> {
    let file = RegularFile::open(path)?;
    let text = Zeroizing::new(file.read(MAX_FILE_BYTES)?);
    Ok((text, file.metadata().mode() & 0o7777))
}

fn labels(text: &[u8]) -> Vec<String> {
    let begins = text_lines(text).filter_map(|line| line.strip_prefix("-----BEGIN "));
    begins
        .filter_map(|rest| rest.trim_end().strip_suffix("-----"))
        .take(MAX_LABELS)
        .map(|label| label.escape_debug().to_string())
        .collect()
}

/// An encrypted PKCS#8 key has a label of its own; the traditional forms have a header line (RFC 1421 section 4.6.1.1).
fn has_encrypted_key(text: &[u8]) -> bool {
    text_lines(text).any(|line| {
        line.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || line.starts_with("Proc-Type: 4,ENCRYPTED")
    })
}

/// Returns the lines that are UTF-8. A binary line contains no label.
fn text_lines(text: &[u8]) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter_map(|line| std::str::from_utf8(line).ok())
}

fn describe_label(label: &str) -> String {
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

/// Describes an error without the text of the section, which may be a private key.
fn describe_error(cause: &rustls_pki_types::pem::Error) -> &'static str {
    use rustls_pki_types::pem::Error as PemError;
    match cause {
        PemError::MissingSectionEnd { .. } => "its END line is missing",
        PemError::IllegalSectionStart { .. } => "its BEGIN line is cut",
        PemError::Base64Decode(_) => "it is not base64",
        _ => "it cannot be decoded",
    }
}

/// A certificate in PEM form, in lines of 64 characters (RFC 7468, section 2).
pub(super) fn write_certificate(der: &[u8]) -> String {
    let base64 = Base64::encode_string(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = base64.as_str();
    while let Some((line, more)) = rest.split_at_checked(64) {
        text.extend([line, "\n"]);
        rest = more;
    }
    if !rest.is_empty() {
        text.extend([rest, "\n"]);
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// What the operator can do. The text has no semicolon, because the problem of a configuration is divided at the last one.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "correct the path, or put the file there",
        io::ErrorKind::PermissionDenied if is_hidden_by_unit(cause) => {
            "name copies of the files in another directory, such as /etc/tidegate, because the systemd unit hides /root and /home from the proxy"
        }
        io::ErrorKind::PermissionDenied if is_closed_directory(cause) => {
            "let the proxy's user enter the directory (chgrp, chmod 0750), or name copies of the files (for files of certbot, examples/certbot-deploy-hook makes them)"
        }
        io::ErrorKind::PermissionDenied => {
            "let the proxy's user read the file (chgrp, chmod 0640), or name copies of the files (for files of certbot, examples/certbot-deploy-hook makes them)"
        }
        _ => "name a readable PEM file",
    }
}

/// The largest accepted file in bytes; a certificate chain has a few KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The number of labels that a message lists.
const MAX_LABELS: usize = 4;
/// The UTF-8 byte order mark, which some editors put in front of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounded_file::closed_directory_error;

    #[test]
    fn a_file_that_may_not_be_read_has_its_own_remedy() {
        let forbidden = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(remedy(&forbidden).contains("chmod 0640"));
        let closed = |path: &str| closed_directory_error(Path::new(path));
        assert!(remedy(&closed("/etc/letsencrypt/live")).contains("chmod 0750"));
        assert!(remedy(&closed("/rooted")).contains("chmod 0750"));
        // The unit of the package has ProtectHome=, so that no mode of the directory helps.
        for hidden in ["/root", "/home/ann/certs", "/run/user/1000"] {
            let remedy = remedy(&closed(hidden));
            assert!(remedy.starts_with("name copies"), "{hidden}: {remedy}");
        }
    }

    #[test]
    fn the_last_semicolon_of_a_message_is_before_its_remedy() {
        let kinds = [
            io::Error::from(io::ErrorKind::PermissionDenied),
            io::Error::from(io::ErrorKind::NotFound),
            io::Error::from(io::ErrorKind::InvalidInput),
            closed_directory_error(Path::new("/etc/letsencrypt")),
            closed_directory_error(Path::new("/root")),
        ];
        for cause in kinds {
            let expected = remedy(&cause);
            let path = "key.pem".into();
            let message = Error::Unreadable { path, cause }.to_string();
            let (_, after) = message.rsplit_once("; ").unwrap();
            assert_eq!(after, expected);
        }
    }
}
