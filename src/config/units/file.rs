//! Files: those that may change while the gate runs, and a secret, which may be a credential of systemd.
//!
//! Called through `table`. Opens nothing and asks nobody where credentials are.

use std::path::{Path, PathBuf};

use super::{Error, write};

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// In what systemd passes to the service by this name.
    Credential(String),
}

impl Secret {
    /// A relative path is one below `base`.
    pub fn below(self, base: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(base.join(path)),
            Self::Credential(_) => self,
        }
    }
}

/// The path of a file that is looked at again while the gate runs.
///
/// # Errors
///
/// It is empty, or a credential, which systemd copies once.
pub fn live_file(text: &str) -> Result<String, Error> {
    if text.starts_with(CREDENTIAL) {
        return Err(Error::Superfluous {
            part: "\"credential:\"",
            why: "systemd copies a credential when the service starts, and a certificate or a password file changes \
                  while it runs",
            remedy: "write the path of the file itself".to_owned(),
        });
    }
    super::text(text)
}

/// A path, or `credential:NAME`.
///
/// # Errors
///
/// It is empty, or a name that systemd would not take (systemd.exec(5), `LoadCredential=`).
pub fn secret(text: &str) -> Result<Secret, Error> {
    let Some(name) = text.strip_prefix(CREDENTIAL) else {
        return super::text(text).map(|path| Secret::File(PathBuf::from(path)));
    };
    let is_name = (1..=255).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b':' | b'/'));
    if !is_name {
        return Err(Error::Malformed {
            expected: "\"credential:\" and the name in a unit's LoadCredential=",
            remedy: write("credential:token-secret"),
        });
    }
    Ok(Secret::Credential(name.to_owned()))
}

const CREDENTIAL: &str = "credential:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_file_or_a_credential() {
        let named = |name: &str| Ok(Secret::Credential(name.to_owned()));
        assert_eq!(secret("credential:token-secret"), named("token-secret"));
        assert_eq!(secret("credential:..a"), named("..a"));
        let file = secret("a/credential:b").unwrap();
        assert_eq!(file, Secret::File(PathBuf::from("a/credential:b")));
        let below = file.below(Path::new("/etc"));
        assert_eq!(below, Secret::File(PathBuf::from("/etc/a/credential:b")));
        assert_eq!(secret(""), Err(Error::Empty));
    }

    #[test]
    fn a_credential_is_never_a_path() {
        let long = "a".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "../passwd",
            "/etc/passwd",
            "a/b",
            "a:b",
            "a b",
            "a\n",
            "ä",
            &long,
        ] {
            let refused = secret(&format!("credential:{name}"));
            assert!(matches!(refused, Err(Error::Malformed { .. })), "{name}");
        }
    }

    #[test]
    fn what_changes_is_no_credential() {
        assert_eq!(live_file("a.pem").as_deref(), Ok("a.pem"));
        let refused = live_file("credential:key").unwrap_err();
        assert!(refused.why().unwrap().contains("changes while it runs"));
    }
}
