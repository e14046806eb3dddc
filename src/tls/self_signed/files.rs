//! The files of the gate's own CA, and the form of what is in them.
//!
//! Called by `self_signed` alone; what the files mean is known there.

use std::path::Path;
use std::time::Duration;

use base64ct::{Base64, Encoding};

use super::Error;
use crate::state_file::{self, Lock};

/// 0700, unless it is there already.
pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    state_file::make_dir(dir).map_err(|cause| Error::Write {
        path: dir.into(),
        cause,
    })
}

/// The lock under which a CA is created. See [`state_file::lock`].
pub(super) fn lock(path: &Path) -> Result<Lock, Error> {
    state_file::lock(path, LOCK_PATIENCE).map_err(|cause| Error::Write {
        path: path.into(),
        cause,
    })
}

/// As [`state_file::replace`].
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    state_file::replace(path, content).map_err(|cause| Error::Write {
        path: path.into(),
        cause,
    })
}

/// A certificate as text (RFC 7468 §2).
pub(super) fn to_pem(der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (place, character) in text.chars().enumerate() {
        if place > 0 && place.is_multiple_of(64) {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}

/// Another process needs some milliseconds to create a CA.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
