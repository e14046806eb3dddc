//! The files of nginx's configuration, as the importer asks for them.
//!
//! [`Disk`] is the machine's; tests have their own. Called by `include` alone.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Where files come from.
pub trait Files {
    /// The bytes of a file.
    ///
    /// # Errors
    ///
    /// It is not there, is no file, may not be read, or is larger than any configuration.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The names in a folder, in any order.
    ///
    /// # Errors
    ///
    /// It is not there, is no folder, or may not be read.
    fn names(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// One spelling for each file, links followed; the path itself when there is none.
    fn canonical(&self, path: &Path) -> PathBuf;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Opening a pipe would wait for a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let mut bytes = Vec::new();
        let mut file = std::fs::File::open(path)?.take(LARGEST + 1);
        file.read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            let what = "larger than 16 MiB, which no configuration is";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(bytes)
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(folder)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }
}

const LARGEST: u64 = 16 * 1024 * 1024;
