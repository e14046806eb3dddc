//! Paths of files as nginx means them.
//!
//! Called by whoever meets one. No file is looked at.

use std::path::{Path, PathBuf};

/// Relative paths are relative to the prefix.
pub(super) fn absolute(text: &str, prefix: &Path) -> PathBuf {
    prefix.join(text)
}

/// The path as it stands in the proxy.toml; nothing for one that is known only when a request comes.
pub(super) fn constant(text: &str, prefix: &Path) -> Option<String> {
    let is_known = !text.is_empty() && !text.contains('$') && !text.contains('\0');
    let path = is_known.then(|| absolute(text, prefix))?;
    Some(path.to_string_lossy().into_owned())
}
