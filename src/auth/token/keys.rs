//! The keys that sign tokens, derived from a secret: a file with one line, or with two lines while the secret is rotated.
//!
//! `snapshot` loads the file that the configuration names, or else the one in `state.dir`, which is created if it is
//! missing. Keys are not shown by `Debug`.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;
use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use crate::bounded_file::{ReadError, RegularFile};
use crate::state_file;

/// The key that signs tokens, and the previous key during a rotation. Tokens of both are valid.
#[derive(Clone)]
pub struct SigningKeys {
    signing: TokenKey,
    previous: Option<TokenKey>,
}

/// One key, with an identifier that is part of each token.
#[derive(Clone)]
pub(super) struct TokenKey {
    pub(super) id: [u8; 4],
    pub(super) key: hmac::Key,
}

/// The keys of a secret file.
#[derive(Debug)]
pub struct LoadedSecret {
    /// The keys.
    pub keys: SigningKeys,
    /// The mode of the file, if every user of the machine can read or write it.
    pub exposed: Option<u32>,
}

/// The reason why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is missing or cannot be read.
    #[error("cannot read the token secret {}: {cause}; check that it exists and that this user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// The content of the file is not a secret.
    #[error("{}: {weak}; make one with: openssl rand -base64 32", path.display())]
    Weak {
        /// The file.
        path: PathBuf,
        /// The reason.
        weak: WeakSecret,
    },
    /// The file could not be created.
    #[error("cannot create the token secret {}: {cause}; {}", path.display(), state_file::write_remedy(cause))]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// The operating system provides no random bytes.
    #[error("the system provides no random bytes")]
    Random(#[from] Unspecified),
}

/// The reason why a text is not accepted as a secret. No message repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    /// The file has no line, or more than two.
    #[error("the file has {0} lines; it must have one secret, or two while the secret is rotated")]
    Lines(usize),
    /// A line has bytes other than printable ASCII, or spaces.
    #[error("line {0} is not a secret: it has characters other than printable ASCII, or spaces")]
    Letters(usize),
    /// A line has fewer than 32 characters.
    #[error("the secret in line {0} is shorter than 32 characters, and could be guessed")]
    Short(usize),
    /// A line has fewer than 8 different characters.
    #[error("the secret in line {0} repeats a few characters, and could be guessed")]
    Monotonous(usize),
    /// The file is larger than 8 KiB.
    #[error("the file is larger than 8 KiB; check that the right file is named")]
    Large,
}

impl SigningKeys {
    /// Parses the text of a file. The key of the first line signs.
    pub fn parse(text: &[u8]) -> Result<Self, WeakSecret> {
        let lines: Vec<_> = text
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
            .collect();
        match lines.as_slice() {
            [one] => Ok(Self {
                signing: TokenKey::parse(*one)?,
                previous: None,
            }),
            [first, second] => Ok(Self {
                signing: TokenKey::parse(*first)?,
                previous: Some(TokenKey::parse(*second)?),
            }),
            other => Err(WeakSecret::Lines(other.len())),
        }
    }

    /// Creates keys that are stored nowhere.
    pub fn in_memory() -> Result<Self, Error> {
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(secret.as_mut_slice())?;
        Ok(Self {
            signing: TokenKey::new(secret.as_slice()),
            previous: None,
        })
    }

    /// The key that signs new tokens.
    pub(super) fn signing(&self) -> &TokenKey {
        &self.signing
    }

    /// The key with this identifier.
    pub(super) fn find(&self, id: [u8; 4]) -> Option<&TokenKey> {
        let mut all = std::iter::once(&self.signing).chain(&self.previous);
        all.find(|key| key.id == id)
    }
}

impl TokenKey {
    fn parse((index, line): (usize, &[u8])) -> Result<Self, WeakSecret> {
        let number = index + 1;
        if !line.iter().all(u8::is_ascii_graphic) {
            return Err(WeakSecret::Letters(number));
        }
        if line.len() < MIN_SECRET {
            return Err(WeakSecret::Short(number));
        }
        let distinct = (b'!'..=b'~').filter(|byte| line.contains(byte)).count();
        if distinct < MIN_DISTINCT {
            return Err(WeakSecret::Monotonous(number));
        }
        Ok(Self::new(line))
    }

    fn new(secret: &[u8]) -> Self {
        let key = hmac::Key::new(HMAC_SHA256, secret);
        let mut id = [0; 4];
        for (to, from) in id.iter_mut().zip(hmac::sign(&key, KEY_ID_LABEL).as_ref()) {
            *to = *from;
        }
        Self { id, key }
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys(..)")
    }
}

/// Reads a secret file.
pub fn load(path: &Path) -> Result<LoadedSecret, Error> {
    let weak = |weak| Error::Weak {
        path: path.into(),
        weak,
    };
    let failed = |error| match error {
        ReadError::TooLarge { .. } => weak(WeakSecret::Large),
        error => Error::Read {
            path: path.into(),
            cause: error.into(),
        },
    };
    let file = RegularFile::open(path).map_err(failed)?;
    let text = Zeroizing::new(file.read(MAX_FILE).map_err(failed)?);
    let keys = SigningKeys::parse(&text).map_err(weak)?;
    // The group may read the file, because a service that does not run as root reads it through its group.
    let mode = file.metadata().mode();
    let exposed = (mode & 0o007 != 0).then_some(mode & 0o7777);
    Ok(LoadedSecret { keys, exposed })
}

/// Reads the secret file in `dir`, the state directory. Returns `None` if there is none.
pub fn find(dir: &Path) -> Result<Option<LoadedSecret>, Error> {
    match load(&secret_file(dir)) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(Error::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the secret file in `dir`, as [`find`] does.
///
/// # Errors
/// There is no file, and this process could not create one.
pub fn find_or_may_make(dir: &Path) -> Result<Option<LoadedSecret>, Error> {
    let found = find(dir)?;
    if found.is_none() {
        state_file::may_make(dir).map_err(|cause| Error::Write {
            path: secret_file(dir),
            cause,
        })?;
    }
    Ok(found)
}

/// Reads the secret file in `dir`, and creates it first if it is missing. Two processes that create it at the same time use
/// the same secret.
pub fn find_or_make(dir: &Path) -> Result<LoadedSecret, Error> {
    if let Some(loaded) = find(dir)? {
        return Ok(loaded);
    }
    let path = secret_file(dir);
    let mut secret = Zeroizing::new([0; 32]);
    rand::fill(secret.as_mut_slice())?;
    let line = Zeroizing::new(Base64::encode_string(secret.as_slice()) + "\n");
    let created =
        state_file::make_state_dir(dir).and_then(|()| state_file::make(&path, line.as_bytes()));
    created.map_err(|cause| Error::Write {
        path: path.clone(),
        cause,
    })?;
    load(&path)
}

fn secret_file(dir: &Path) -> PathBuf {
    dir.join("token-secret")
}

/// Separates the identifier of a key from every other use of the secret.
const KEY_ID_LABEL: &[u8] = b"tidegate token key 1";
/// The minimum length of a secret in characters. 32 hexadecimal digits have 128 bits.
const MIN_SECRET: usize = 32;
/// The minimum number of different characters in a secret. Of ten million secrets with 32 random hexadecimal digits, fewer
/// than one has less.
const MIN_DISTINCT: usize = 8;
/// The maximum size of a secret file in bytes.
const MAX_FILE: u64 = 8 * 1024;

#[cfg(test)]
mod tests;
