//! Who is asking: from an `Authorization` header to an [`Identity`].
//!
//! `service` asks, once a request, before anything else is done with it, and answers at the token endpoint with
//! what [`TokenService`] issues. This is the only module that can make an [`Identity`]; what the identity may do is
//! decided by `access`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::htpasswd::{LiveUsers, Users};
use crate::net::addr::ClientAddr;
use crate::registry::{Operation, Scope};

mod basic;
mod hashing;
mod identity;
mod logins;
mod sharded;
mod throttle;
pub mod token;
mod verified;

use crate::net::network_policy::Decision;
use crate::net::network_policy::NetworkPolicy;
use crate::www_authenticate::Challenge;
pub(crate) use basic::{Credentials, is_basic};
pub use hashing::Settings as HashingSettings;
pub use identity::Identity;
use identity::IdentityKind;
pub use logins::PasswordVerifier;
use logins::VerifyError;
pub use throttle::Settings as ThrottleSettings;
use token::TokenIssuer;
pub use token::service::TokenService;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// User and password were checked, and are wrong.
    #[error("wrong credentials")]
    Wrong,
    /// The same at the token endpoint, where nothing but a password is asked for: docker shows these words.
    #[error("incorrect user name or password")]
    Login,
    /// An `Authorization` field that is no Basic credentials, or whose credentials are longer than `limits.basic_size`.
    /// The client gets the same answer as for [`Error::Wrong`]. The log tells the two apart, since nothing was checked here:
    /// fail2ban counts only passwords that were checked.
    #[error("unusable credentials")]
    Unusable,
    /// The same at the token endpoint, with the answer of [`Error::Login`] there.
    #[error("unusable user name or password")]
    UnusableLogin,
    /// A token that is not ours, or not any more: its time is over, or its user's line has changed.
    #[error("invalid token")]
    Token,
    /// Nobody may come from this client network.
    #[error("access from this network is not allowed")]
    Network,
    /// No telling what token is asked for.
    #[error(transparent)]
    Malformed(#[from] token::form::MalformedRequest),
    /// More than one `Authorization` field: which one counts would be a guess.
    #[error("more than one Authorization field")]
    Twice,
    /// Too many wrong passwords came from this client network lately.
    #[error("too many wrong passwords; try again later")]
    TooMany {
        /// After which one of them ceases to count.
        after: Duration,
    },
    /// The hash threads are at capacity.
    #[error("too many passwords are being checked")]
    Busy,
}

/// Checks the credentials of one route.
#[derive(Debug)]
pub struct Authenticator {
    mode: Mode,
    admission: NetworkPolicy,
}

#[derive(Debug)]
enum Mode {
    Basic(Basic),
    LeftToUpstream,
    Open,
}

#[derive(Debug)]
struct Basic {
    users: Arc<LiveUsers>,
    logins: Arc<PasswordVerifier>,
    /// Decoded credentials longer than this, in bytes, are wrong.
    size: usize,
    challenge: HeaderValue,
    /// In token mode.
    tokens: Option<Box<TokenIssuer>>,
}

impl Authenticator {
    /// HTTP Basic against a password file; `challenge` is made by [`challenge`].
    pub fn basic(
        users: Arc<LiveUsers>,
        logins: Arc<PasswordVerifier>,
        size: usize,
        challenge: HeaderValue,
    ) -> Self {
        Self::of(Mode::Basic(Basic {
            users,
            logins,
            size,
            challenge,
            tokens: None,
        }))
    }

    fn of(mode: Mode) -> Self {
        Self {
            mode,
            admission: NetworkPolicy::default(),
        }
    }

    /// The same, for these client networks.
    #[must_use]
    pub fn with_network_policy(self, admission: NetworkPolicy) -> Self {
        Self { admission, ..self }
    }

    /// The same, with tokens for who has given his password, and for anyone: then these are what is asked for.
    #[must_use]
    pub fn with_tokens(mut self, tokens: TokenIssuer) -> Self {
        if let Mode::Basic(basic) = &mut self.mode {
            basic.tokens = Some(Box::new(tokens));
        }
        self
    }

    /// The upstream checks the `Authorization` header itself, and gets it untouched.
    pub fn passthrough() -> Self {
        Self::of(Mode::LeftToUpstream)
    }

    /// Nobody is asked for anything.
    pub fn anonymous() -> Self {
        Self::of(Mode::Open)
    }

    /// Refuses clients of networks from which nobody may come; the networks ask for no more than the address.
    pub fn check_network(&self, client: ClientAddr) -> Result<(), Error> {
        match self.admission.evaluate(client) {
            Decision::Refused => Err(Error::Network),
            Decision::Credentials | Decision::Enough => Ok(()),
        }
    }

    /// The identity behind a request's headers; no credentials, or an empty user, is anonymous.
    ///
    /// Where the network is enough, credentials that prove nothing take nothing away, as in nginx; nor do guesses that
    /// were made before from there.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        self.check_network(client)?;
        let proved = self.verify(headers, client).await;
        if self.admission.evaluate(client) != Decision::Enough {
            return proved;
        }
        let identity = match proved {
            Err(Error::Wrong | Error::Unusable | Error::Token | Error::TooMany { .. }) => {
                Identity::of(IdentityKind::Anonymous)
            }
            other => other?,
        };
        Ok(identity.with_network())
    }

    async fn verify(&self, headers: &HeaderMap, client: ClientAddr) -> Result<Identity, Error> {
        match &self.mode {
            Mode::Open => Ok(Identity::of(IdentityKind::Anonymous)),
            Mode::LeftToUpstream => {
                single_authorization(headers)?;
                Ok(Identity::of(IdentityKind::LeftToUpstream))
            }
            Mode::Basic(basic) => match (&basic.tokens, single_authorization(headers)?) {
                (Some(tokens), Some(header)) if !is_basic(header.as_bytes()) => {
                    basic.bearer(tokens, header.as_bytes(), SystemTime::now())
                }
                (_, header) => {
                    let users = basic.users.current();
                    basic.authenticate(&users, header, client).await
                }
            },
        }
    }

    /// What to ask someone for who must log in to do this, the gate being addressed at `scheme://authority`; nothing
    /// where the gate asks nobody.
    pub fn challenge(
        &self,
        scheme: &str,
        authority: &str,
        wanted: Option<&Operation>,
    ) -> Option<Challenge> {
        let Mode::Basic(basic) = &self.mode else {
            return None;
        };
        let Some(tokens) = &basic.tokens else {
            return Some(Challenge::Basic(basic.challenge.clone()));
        };
        let realm = format!("{scheme}://{authority}{}", tokens.path());
        let scope = wanted.map(Scope::of).unwrap_or_default();
        Some(Challenge::bearer(&realm, authority, &scope))
    }

    /// The user whom the `Authorization` field names, if the password file has this user: for the log, when the password
    /// was wrong or not looked at. An unknown name is never given, since it may be a password that was typed into the
    /// wrong field. Says nothing about the password.
    pub fn known_user(&self, headers: &HeaderMap) -> Option<String> {
        match &self.mode {
            Mode::Basic(basic) => basic.known_user(headers),
            Mode::LeftToUpstream | Mode::Open => None,
        }
    }

    /// The token service, if it is at this path.
    pub fn token_service(&self, path: &str) -> Option<TokenService<'_>> {
        let Mode::Basic(basic) = &self.mode else {
            return None;
        };
        let tokens = basic.tokens.as_deref()?;
        (tokens.path() == path).then_some(TokenService::new(basic, tokens, &self.admission))
    }

    /// True where nobody has to log in to the gate.
    pub fn is_open(&self) -> bool {
        !matches!(self.mode, Mode::Basic(_))
    }
}

impl Basic {
    async fn authenticate(
        &self,
        users: &Arc<Users>,
        header: Option<&HeaderValue>,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        let Some(header) = header else {
            return Ok(Identity::of(IdentityKind::Anonymous));
        };
        match Credentials::parse(header.as_bytes(), self.size).map_err(|_| Error::Unusable)? {
            None => Ok(Identity::of(IdentityKind::Anonymous)),
            Some(credentials) => self.check(users, credentials, client).await,
        }
    }

    fn known_user(&self, headers: &HeaderMap) -> Option<String> {
        let header = single_authorization(headers).ok()??;
        let credentials = Credentials::parse(header.as_bytes(), self.size).ok()??;
        self.known_name(&credentials.user)
    }

    fn known_name(&self, user: &[u8]) -> Option<String> {
        let entry = self.users.current().find(user).map(drop);
        entry.map(|()| String::from_utf8_lossy(user).into_owned())
    }

    async fn check(
        &self,
        users: &Arc<Users>,
        credentials: Credentials,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        let identity = Identity::user_named(&credentials.user);
        let users = Arc::clone(users);
        match self
            .logins
            .check(users, credentials, client.network())
            .await
        {
            Ok(true) => Ok(identity),
            Ok(false) => Err(Error::Wrong),
            Err(VerifyError::Busy) => Err(Error::Busy),
            Err(VerifyError::TooMany(after)) => {
                // Whoever guesses on waits for his answers, and does not keep the gate busy with them.
                tokio::time::sleep(after.min(DELAY)).await;
                Err(Error::TooMany { after })
            }
        }
    }
}

/// The `Authorization` field, when there is exactly one.
fn single_authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Error> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (field, None) => Ok(field),
        _ => Err(Error::Twice),
    }
}

/// How long a refused guess waits for its answer.
const DELAY: Duration = Duration::from_secs(1);
