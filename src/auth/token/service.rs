//! The token service of a route, and what a token that comes back is worth.
//!
//! `service` asks at the token endpoint, `auth` for requests that carry a token. Tokens are made and proved in `token`;
//! here they meet the users.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use super::form::TokenRequest;
use super::{IssuedToken, TokenIssuer};
use crate::auth::basic::after_scheme;
use crate::auth::{Basic, Error, Identity, IdentityKind, single_authorization};
use crate::htpasswd::{Entry, Users};
use crate::net::addr::ClientAddr;
use crate::net::network_policy::{Decision, NetworkPolicy};
use crate::registry::Scope;
use crate::www_authenticate::Challenge;

/// The token service of a route.
#[derive(Debug)]
pub struct TokenService<'a> {
    basic: &'a Basic,
    tokens: &'a TokenIssuer,
    admission: &'a NetworkPolicy,
    /// One state of the file for password and token: a token must not be bound to a line that was never proved.
    users: Arc<Users>,
}

impl<'a> TokenService<'a> {
    pub(in crate::auth) fn new(
        basic: &'a Basic,
        tokens: &'a TokenIssuer,
        admission: &'a NetworkPolicy,
    ) -> Self {
        Self {
            basic,
            tokens,
            admission,
            users: basic.users.current(),
        }
    }

    /// Refuses clients of networks from which nobody may come, before anything of theirs is read.
    pub fn admit(&self, client: ClientAddr) -> Result<(), Error> {
        self.network(client).map(drop)
    }

    /// Who asks, by a password in the headers. A token begets no token: it would never end.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        let header = single_authorization(headers)?;
        let network = self.network(client)?;
        let identity = self.basic.authenticate(&self.users, header, client);
        identity.await.map(network).map_err(in_words)
    }

    /// Who asks, by a password in a form.
    pub async fn authenticate_form(
        &self,
        form: TokenRequest,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        let network = self.network(client)?;
        match form.credentials()? {
            None => Ok(network(Identity::of(IdentityKind::Anonymous))),
            Some(credentials) if credentials.len() > self.basic.size => Err(Error::UnusableLogin),
            Some(credentials) => {
                let identity = self.basic.check(&self.users, credentials, client);
                identity.await.map(network).map_err(in_words)
            }
        }
    }

    /// The user that the headers name, see [`Authenticator::known_user`](crate::auth::Authenticator::known_user).
    pub fn known_user(&self, headers: &HeaderMap) -> Option<String> {
        self.basic.known_user(headers)
    }

    /// The same for a form.
    pub fn known_user_of(&self, form: &TokenRequest) -> Option<String> {
        self.basic.known_name(form.user()?)
    }

    /// What the client's network makes of an identity. A wrong password stays one here: it is what a login is about.
    fn network(&self, client: ClientAddr) -> Result<fn(Identity) -> Identity, Error> {
        match self.admission.evaluate(client) {
            Decision::Refused => Err(Error::Network),
            Decision::Credentials => Ok(|identity| identity),
            Decision::Enough => Ok(Identity::with_network),
        }
    }

    /// A token for who has been authenticated here, good for `granted`.
    pub fn issue(
        &self,
        identity: &Identity,
        granted: &Scope,
        now: SystemTime,
    ) -> Result<IssuedToken, Error> {
        let (user, stored) = match &identity.kind {
            IdentityKind::User { bytes, .. } => {
                let entry = self.users.find(bytes).ok_or(Error::Login)?;
                (&bytes[..], entry.stored())
            }
            IdentityKind::Anonymous | IdentityKind::LeftToUpstream => (&[][..], &[][..]),
        };
        Ok(self.tokens.issue(user, stored, granted, now))
    }

    /// What to ask those for whose password was wrong.
    pub fn challenge(&self) -> Challenge {
        Challenge::Basic(self.basic.challenge.clone())
    }
}

fn in_words(error: Error) -> Error {
    match error {
        Error::Wrong => Error::Login,
        Error::Unusable => Error::UnusableLogin,
        other => other,
    }
}

impl Basic {
    /// Who shows this token.
    pub(in crate::auth) fn bearer(
        &self,
        tokens: &TokenIssuer,
        header: &[u8],
        now: SystemTime,
    ) -> Result<Identity, Error> {
        let token = after_scheme(header, b"Bearer").ok_or(Error::Token)?;
        let users = self.users.current();
        let stored = |user: &[u8]| users.find(user).map(Entry::stored);
        let bearer = tokens
            .verify(token, stored, now)
            .map_err(|_| Error::Token)?;
        let identity = if bearer.user.is_empty() {
            Identity::of(IdentityKind::Anonymous)
        } else {
            Identity::user_named(&bearer.user)
        };
        Ok(identity.with_scope(bearer.scope))
    }
}
