//! The files of the gate's own CA: written whole or not at all, and never readable by others.
//!
//! Called by `self_signed` alone; what the files mean is known there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64ct::{Base64, Encoding};

use super::Error;

/// 0700, unless it is there already.
pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|cause| Error::Write {
        path: dir.into(),
        cause,
    })
}

/// 0600 from the first moment, and after a crash either the old content or the new.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    replace(path, content).map_err(|cause| Error::Write {
        path: path.into(),
        cause,
    })
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    // What a crash left behind may have another mode or owner.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    // The new name itself must be on the disk (fsync(2)).
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
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
