//! The files of nginx's configuration, as the importer asks for them.
//!
//! [`FsSource`] is the machine's; tests have their own. Called by `include` alone.

use std::io;
use std::path::{Path, PathBuf};

use crate::bounded_file;

/// Where files come from.
pub trait FileSource {
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
pub struct FsSource;

impl FileSource for FsSource {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(bounded_file::read(path, LARGEST)?)
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

/// The largest accepted file in bytes, more than any configuration of nginx has.
const LARGEST: u64 = 16 * 1024 * 1024;
