//! The files of an ACME client that runs beside the proxy, such as certbot with `--webroot`.
//!
//! Called by `service` for plain HTTP requests of routes with `respond.files`. The client writes each file below
//! `.well-known/acme-challenge` in the directory of the configuration. Nothing else of the directory is served: the last
//! segment of the path must be a token, and no symbolic link below the directory is followed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use rustix::fs::{Mode, OFlags, open, openat};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::acme::ACME_CHALLENGE_PATH;
use crate::net::fair_share::FairPermit;
use crate::rejection::Rejection;

/// The content of the challenge file that a request asks for. Every failure is a 404.
pub(super) async fn read_requested(
    webroot: &Path,
    method: &Method,
    path: &str,
    permit: FairPermit,
) -> Result<Vec<u8>, Rejection> {
    let token = path.strip_prefix(ACME_CHALLENGE_PATH).unwrap_or_default();
    if !matches!(*method, Method::GET | Method::HEAD) || !is_token(token) {
        return Err(Rejection::NoRoute);
    }
    let (webroot, token) = (PathBuf::from(webroot), token.to_owned());
    let reading = spawn_blocking(move || {
        let found = read(&webroot, &token);
        drop(permit);
        found
    });
    match timeout(READ_TIMEOUT, reading).await {
        Ok(Ok(Ok(content))) => Ok(content),
        _ => Err(Rejection::NoRoute),
    }
}

/// Whether the text is a token: characters of base64url, at least one (RFC 8555 section 8.3).
fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Reads a regular file. The operator may have configured a path with symbolic links, but an ACME client creates none.
fn read(webroot: &Path, token: &str) -> io::Result<Vec<u8>> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut parent = open(webroot, directory, Mode::empty())?;
    for name in [".well-known", "acme-challenge"] {
        parent = openat(&parent, name, directory | OFlags::NOFOLLOW, Mode::empty())?;
    }
    // With O_NONBLOCK, opening a named pipe does not wait for a process that writes to it.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(&parent, token, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut content = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SIZE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// A token of Let's Encrypt has 43 characters.
const MAX_TOKEN: usize = 128;

/// A key authorization is a token, a dot and 43 characters.
const MAX_SIZE: u64 = 1024;

const READ_TIMEOUT: Duration = Duration::from_secs(5);
