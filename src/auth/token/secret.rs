//! The secret behind the tokens: one line, or two while it is being changed.
//!
//! `snapshot` loads one from a file, or has one made where the gate keeps what is its own. A key never prints.

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

/// The key that signs, and one that may have signed before. Both verify.
#[derive(Clone)]
pub struct SigningKeys {
    signing: TokenKey,
    former: Option<TokenKey>,
}

#[derive(Clone)]
pub(super) struct TokenKey {
    pub(super) id: [u8; 4],
    pub(super) key: hmac::Key,
}

/// What a secret's file gave.
#[derive(Debug)]
pub struct LoadedSecret {
    /// The keys.
    pub keys: SigningKeys,
    /// The file's mode, when every user of the machine can get at it.
    pub exposed: Option<u32>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Missing, not permitted, or failing hardware.
    #[error("cannot read the token secret {}: {cause}; check that it exists and that this user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Read, and no secret.
    #[error("{}: {weak}; make one with: openssl rand -base64 32", path.display())]
    Weak {
        /// The file.
        path: PathBuf,
        /// Why not.
        weak: WeakSecret,
    },
    /// It could not be made.
    #[error("cannot make the token secret {}: {cause}; check state.dir", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The system has no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[from] Unspecified),
}

/// Why a text is no secret. None of these repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    /// No line, or more than two.
    #[error("{0} lines where one secret is expected, or two while it is being changed")]
    Lines(usize),
    /// Binary, or with spaces in it.
    #[error(
        "line {0} is no secret: something other than printable ASCII without spaces stands in it"
    )]
    Letters(usize),
    /// Fewer than 32 characters.
    #[error("the secret in line {0} is shorter than 32 characters, and could be guessed")]
    Short(usize),
    /// Fewer than 8 different characters.
    #[error("the secret in line {0} repeats a few characters, and could be guessed")]
    Monotonous(usize),
    /// More than 8 KiB.
    #[error("it is larger than 8 KiB, and hardly a secret")]
    Large,
}

impl SigningKeys {
    /// Reads the text of a file: the first line signs.
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
                former: None,
            }),
            [first, second] => Ok(Self {
                signing: TokenKey::parse(*first)?,
                former: Some(TokenKey::parse(*second)?),
            }),
            other => Err(WeakSecret::Lines(other.len())),
        }
    }

    /// Fresh ones that are kept nowhere.
    pub fn in_memory() -> Result<Self, Error> {
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(secret.as_mut_slice())?;
        Ok(Self {
            signing: TokenKey::new(secret.as_slice()),
            former: None,
        })
    }

    pub(super) fn signing(&self) -> &TokenKey {
        &self.signing
    }

    pub(super) fn find(&self, id: [u8; 4]) -> Option<&TokenKey> {
        let mut all = std::iter::once(&self.signing).chain(&self.former);
        all.find(|key| key.id == id)
    }
}

impl TokenKey {
    fn parse((index, line): (usize, &[u8])) -> Result<Self, WeakSecret> {
        let number = index + 1;
        if !line.iter().all(u8::is_ascii_graphic) {
            return Err(WeakSecret::Letters(number));
        }
        if line.len() < LEAST {
            return Err(WeakSecret::Short(number));
        }
        let distinct = (b'!'..=b'~').filter(|byte| line.contains(byte)).count();
        if distinct < LEAST_DISTINCT {
            return Err(WeakSecret::Monotonous(number));
        }
        Ok(Self::new(line))
    }

    fn new(secret: &[u8]) -> Self {
        let key = hmac::Key::new(HMAC_SHA256, secret);
        let mut id = [0; 4];
        for (to, from) in id.iter_mut().zip(hmac::sign(&key, LABEL).as_ref()) {
            *to = *from;
        }
        Self { id, key }
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Reads a secret's file.
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
    let text = Zeroizing::new(file.read(MOST).map_err(failed)?);
    let keys = SigningKeys::parse(&text).map_err(weak)?;
    // The group may read the file: that is how a service that does not run as root reads it.
    let mode = file.metadata().mode();
    let exposed = (mode & 0o007 != 0).then_some(mode & 0o7777);
    Ok(LoadedSecret { keys, exposed })
}

/// The secret of the gate's own in this directory, if there is one.
pub fn find(dir: &Path) -> Result<Option<LoadedSecret>, Error> {
    match load(&file_in(dir)) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(Error::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// As [`find`]; where there is none, an error unless this process could make one there.
pub fn find_or_may_make(dir: &Path) -> Result<Option<LoadedSecret>, Error> {
    let found = find(dir)?;
    if found.is_none() {
        state_file::may_make(dir).map_err(|cause| Error::Write {
            path: file_in(dir),
            cause,
        })?;
    }
    Ok(found)
}

/// The same, made when it is not there. Two processes that make one at the same time end with the same.
pub fn find_or_make(dir: &Path) -> Result<LoadedSecret, Error> {
    if let Some(loaded) = find(dir)? {
        return Ok(loaded);
    }
    let path = file_in(dir);
    let mut secret = Zeroizing::new([0; 32]);
    rand::fill(secret.as_mut_slice())?;
    let line = Zeroizing::new(Base64::encode_string(secret.as_slice()) + "\n");
    let made = state_file::make_dir(dir).and_then(|()| state_file::make(&path, line.as_bytes()));
    made.map_err(|cause| Error::Write {
        path: path.clone(),
        cause,
    })?;
    load(&path)
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("token-secret")
}

/// What names a key, among all that a secret may be used for.
const LABEL: &[u8] = b"tidegate token key 1";
/// Characters: of hex digits, that is 128 bits.
const LEAST: usize = 32;
/// 32 random hex digits have fewer than this less than once in ten million times.
const LEAST_DISTINCT: usize = 8;
/// Bytes of a file.
const MOST: u64 = 8 * 1024;

#[cfg(test)]
mod tests;
