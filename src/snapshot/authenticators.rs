//! Who is asked for what on each of a config's routes: password files and token secrets, opened.
//!
//! Called while a snapshot is built.

use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;

use super::{BuildMode, SnapshotBuilder, passwords};
use crate::auth::token::TokenIssuer;
use crate::auth::token::secret::{self, LoadedSecret, SigningKeys};
use crate::auth::{Authenticator, PasswordVerifier};
use crate::config::Secret;
use crate::config::Spanned;
use crate::config::problem::{Position, Problem, Problems};
use crate::config::{self, Auth};

impl SnapshotBuilder<'_> {
    pub(super) fn authenticator(
        &self,
        site: &str,
        route: &config::Route,
        logins: Option<&Arc<PasswordVerifier>>,
        problems: &mut Problems,
    ) -> Option<Authenticator> {
        self.check_named(route, problems);
        match &route.auth {
            Auth::Basic {
                htpasswd,
                challenge,
            } => self.basic(htpasswd, challenge, logins),
            Auth::Token {
                htpasswd,
                challenge,
                secret,
                lifetime,
            } => {
                let basic = self.basic(htpasswd, challenge, logins);
                let keys = self.keys(secret.as_ref(), problems)?;
                let tokens = TokenIssuer::new(keys, site, &route.path, *lifetime);
                Some(basic?.with_tokens(tokens))
            }
            Auth::LeftToUpstream => Some(Authenticator::passthrough()),
            Auth::Open => Some(Authenticator::anonymous()),
        }
    }

    fn check_named(&self, route: &config::Route, problems: &mut Problems) {
        if let (Some(granted), Some(file)) = (&route.granted, passwords::file_of(&route.auth))
            && let Some(users) = passwords::find(&self.passwords, file)
        {
            let users = users.current();
            passwords::check_named(&granted.named, &users, file, problems);
            passwords::check_homes(&granted.homes, &users, file, problems);
        }
    }

    fn basic(
        &self,
        htpasswd: &Spanned<PathBuf>,
        challenge: &HeaderValue,
        logins: Option<&Arc<PasswordVerifier>>,
    ) -> Option<Authenticator> {
        let users = passwords::find(&self.passwords, htpasswd)?;
        Some(Authenticator::basic(
            Arc::clone(users),
            Arc::clone(logins?),
            self.config.basic_size,
            challenge.clone(),
        ))
    }

    /// From the file that is named, or from the one of the gate's own, which is made when it serves.
    fn keys(
        &self,
        named: Option<&Spanned<Secret>>,
        problems: &mut Problems,
    ) -> Option<SigningKeys> {
        let dir = &self.config.state_dir;
        let loaded = match (named.map(|named| &named.value), self.purpose) {
            (Some(Secret::File(file)), _) => secret::load(file).map(Some),
            (Some(Secret::Credential(name)), _) => self.credential(name, named, problems)?,
            (None, BuildMode::Serve) => secret::find_or_make(dir).map(Some),
            (None, BuildMode::Check) => secret::find_or_may_make(dir),
        };
        let place = named.map(|named| named.place);
        match loaded {
            Ok(Some(LoadedSecret { keys, exposed })) => {
                if let Some(mode) = exposed {
                    problems.push(exposed_secret(place, mode));
                }
                Some(keys)
            }
            // It would be made, or passed by systemd. These are used by nobody.
            Ok(None) => super::report(problems, SigningKeys::in_memory()),
            Err(error) => {
                problems.push(Problem::error(place, error.to_string()));
                None
            }
        }
    }

    /// What systemd passes to the service; `None` within when only the service can see it, without when there is none.
    fn credential(
        &self,
        name: &str,
        named: Option<&Spanned<Secret>>,
        problems: &mut Problems,
    ) -> Option<Result<Option<LoadedSecret>, secret::Error>> {
        let place = named.map(|named| named.place);
        let loaded = credential(name).map(|file| secret::load(&file));
        match (loaded, self.purpose) {
            (None | Some(Err(secret::Error::Read { .. })), BuildMode::Check) => {
                problems.push(unseen_credential(place, name));
                Some(Ok(None))
            }
            (None, BuildMode::Serve) => {
                problems.push(missing_credential(place, name));
                None
            }
            (Some(loaded), _) => Some(loaded.map(Some)),
        }
    }
}

/// A check outside of the service cannot see what systemd passes to it.
fn unseen_credential(place: Option<Position>, name: &str) -> Problem {
    let what = format!("the credential {name} was not looked at");
    Problem::warning(place, what).because("systemd shows it to the service alone")
}

fn missing_credential(place: Option<Position>, name: &str) -> Problem {
    let what = format!("there is no credential {name}: CREDENTIALS_DIRECTORY is not set");
    Problem::error(place, what)
        .because("systemd sets it for services whose units pass credentials")
        .fix(format!(
            "write LoadCredential={name}:/etc/tidegate/{name} in the unit, or name a file here"
        ))
}

fn exposed_secret(place: Option<Position>, mode: u32) -> Problem {
    let what = format!("every user of this machine can get at the token secret (mode {mode:04o})");
    Problem::warning(place, what)
        .because("whoever has it makes tokens for any user")
        .fix("chmod o= it, and write a new secret into it")
}

/// Where systemd has put the service's credential of this name; nowhere, when the process is no service of it or the
/// unit passes none (systemd.exec(5)).
fn credential(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty())?;
    Some(PathBuf::from(dir).join(name))
}
