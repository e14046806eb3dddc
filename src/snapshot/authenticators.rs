//! The authenticator of each route: combines the route's `auth` with the loaded password files and the token secret.
//!
//! Used while a snapshot is built. The token secret comes from a file, from a systemd credential, or from `state.dir`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;

use super::build_mode::BuildMode;
use super::passwords;
use crate::auth::token::TokenIssuer;
use crate::auth::token::keys::{self, LoadedSecret, SigningKeys};
use crate::auth::{Authenticator, PasswordVerifier};
use crate::config::Secret;
use crate::config::Spanned;
use crate::config::problem::{Position, Problem, Problems};
use crate::config::{self, Auth, Config};
use crate::htpasswd::{LiveUsers, shell_word};

/// What all authenticators of a snapshot share.
pub(crate) struct AuthenticatorBuilder<'a> {
    pub(crate) config: &'a Config,
    /// The password files that could be loaded.
    pub(crate) passwords: &'a [Arc<LiveUsers>],
    /// `None` if the verifier could not be started, which was reported.
    pub(crate) verifier: Option<&'a Arc<PasswordVerifier>>,
    pub(crate) mode: BuildMode,
}

impl AuthenticatorBuilder<'_> {
    /// The authenticator of a route. `None` if a part of it is missing, which was reported.
    pub(crate) fn build(
        &self,
        site: &str,
        route: &config::Route,
        problems: &mut Problems,
    ) -> Option<Authenticator> {
        self.check_granted_users(route, problems);
        match &route.auth {
            Auth::Basic {
                htpasswd,
                challenge,
            } => self.basic(htpasswd, challenge),
            Auth::Token {
                htpasswd,
                challenge,
                secret,
                lifetime,
            } => {
                let basic = self.basic(htpasswd, challenge);
                let keys = self.signing_keys(secret.as_ref(), problems)?;
                let tokens = TokenIssuer::new(keys, site, &route.path, *lifetime);
                Some(basic?.with_tokens(tokens))
            }
            Auth::LeftToUpstream => Some(Authenticator::passthrough()),
            Auth::Open => Some(Authenticator::anonymous()),
        }
    }

    fn check_granted_users(&self, route: &config::Route, problems: &mut Problems) {
        if let (Some(grants), Some(file)) = (&route.grants, passwords::file_of(&route.auth))
            && let Some(users) = passwords::find(self.passwords, file)
        {
            let users = users.current();
            passwords::check_named_users(&grants.named_users, &users, file, problems);
            passwords::check_user_patterns(&grants.user_patterns, &users, file, problems);
        }
    }

    fn basic(&self, htpasswd: &Spanned<PathBuf>, challenge: &HeaderValue) -> Option<Authenticator> {
        let users = passwords::find(self.passwords, htpasswd)?;
        Some(Authenticator::basic(
            Arc::clone(users),
            Arc::clone(self.verifier?),
            self.config.basic_size,
            challenge.clone(),
        ))
    }

    /// Loads the keys from the configured secret, or from the proxy's own secret in `state.dir`, which is created if the snapshot
    /// is to serve.
    fn signing_keys(
        &self,
        configured: Option<&Spanned<Secret>>,
        problems: &mut Problems,
    ) -> Option<SigningKeys> {
        let dir = &self.config.state_dir;
        let place = configured.map(|secret| secret.place);
        let loaded = match (configured.map(|secret| &secret.value), self.mode) {
            (Some(Secret::File(file)), _) => keys::load(file).map(Some),
            (Some(Secret::Credential(name)), _) => self.load_credential(name, place, problems)?,
            (None, BuildMode::Serve) => keys::find_or_make(dir).map(Some),
            (None, BuildMode::Check) => keys::find_or_may_make(dir),
        };
        let keys = match loaded {
            Ok(Some(LoadedSecret { keys, exposed })) => {
                if let Some(mode) = exposed {
                    problems.push(exposed_secret(configured, mode));
                }
                return Some(keys);
            }
            // In a check, the secret does not exist yet or is visible to the service only. Random keys take its place.
            Ok(None) => {
                SigningKeys::in_memory().map_err(|error| Problem::of_file_error(None, error))
            }
            Err(error) => Err(unusable_secret(configured, &error)),
        };
        keys.map_err(|problem| problems.push(problem)).ok()
    }

    /// Loads a credential that systemd passes to the service (systemd.exec(5)). `Some(Ok(None))` if this is a check and only the
    /// service can read the credential, and `None` if there is no credential; both are reported.
    fn load_credential(
        &self,
        name: &str,
        place: Option<Position>,
        problems: &mut Problems,
    ) -> Option<Result<Option<LoadedSecret>, keys::Error>> {
        let loaded = credential_path(name).map(|file| keys::load(&file));
        match (loaded, self.mode) {
            (None | Some(Err(keys::Error::Read { .. })), BuildMode::Check) => {
                problems.push(unreadable_credential(place, name));
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

/// The path of a credential of this service. `None` if the process is not a service, or if its unit passes no credentials.
fn credential_path(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty())?;
    Some(PathBuf::from(dir).join(name))
}

fn unreadable_credential(place: Option<Position>, name: &str) -> Problem {
    let what = format!("the credential {name} was not checked");
    Problem::warning(place, what).because("systemd makes it readable for the service only")
}

fn missing_credential(place: Option<Position>, name: &str) -> Problem {
    let what = format!("there is no credential {name}: CREDENTIALS_DIRECTORY is not set");
    Problem::error(place, what)
        .because("systemd sets it for services whose units pass credentials")
        .fix(format!(
            "write LoadCredential={name}:/etc/tidegate/{name} in the unit, or name a file here"
        ))
}

/// The problem of a token secret that cannot be used. If the file is missing, the operator may have none yet.
fn unusable_secret(configured: Option<&Spanned<Secret>>, error: &keys::Error) -> Problem {
    let problem = Problem::of_file_error(configured.map(|secret| secret.place), error);
    match (configured.map(|secret| &secret.value), error) {
        (Some(Secret::File(path)), keys::Error::Read { cause, .. })
            if cause.kind() == io::ErrorKind::NotFound =>
        {
            let file = shell_word(&path.to_string_lossy());
            problem.fix(format!(
                "make one: (umask 027; openssl rand -base64 32 > {file}), and let the proxy's user read it; or leave secret out, and \
                 the proxy creates one in state.dir"
            ))
        }
        _ => problem,
    }
}

fn exposed_secret(configured: Option<&Spanned<Secret>>, mode: u32) -> Problem {
    let file = match configured.map(|secret| &secret.value) {
        Some(Secret::File(path)) => shell_word(&path.to_string_lossy()),
        Some(Secret::Credential(_)) | None => "FILE".to_owned(),
    };
    let place = configured.map(|secret| secret.place);
    let what =
        format!("the token secret is accessible to every user of this machine (mode {mode:04o})");
    Problem::warning(place, what)
        .because("with the secret a user can create tokens for any other user")
        .fix(format!(
            "chmod o= {file}, and write a new secret into it: openssl rand -base64 32 > {file}"
        ))
}
