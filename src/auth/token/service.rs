//! The token service of a route: authenticates the clients of the token endpoint and issues tokens to them.
//!
//! `service` creates it for each request to the token endpoint (see [`Authenticator::token_service`]).
//!
//! [`Authenticator::token_service`]: crate::auth::Authenticator::token_service

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use super::request::TokenRequest;
use super::{IssuedToken, TokenIssuer};
use crate::auth::identity::{Error, Identity, IdentityKind};
use crate::auth::password_auth::{PasswordAuth, single_authorization};
use crate::htpasswd::Users;
use crate::net::addr::ClientAddr;
use crate::net::network_policy::{Decision, NetworkPolicy};
use crate::registry::Scope;
use crate::www_authenticate::Challenge;

/// The token service of a route, for one request.
#[derive(Debug)]
pub struct TokenService<'a> {
    password_auth: &'a PasswordAuth,
    issuer: &'a TokenIssuer,
    network_policy: &'a NetworkPolicy,
    /// The same users verify the password and issue the token. With two states of the password file, the token could be
    /// bound to a stored hash that the password was not verified against.
    users: Arc<Users>,
}

impl<'a> TokenService<'a> {
    pub(in crate::auth) fn new(
        password_auth: &'a PasswordAuth,
        issuer: &'a TokenIssuer,
        network_policy: &'a NetworkPolicy,
    ) -> Self {
        Self {
            password_auth,
            issuer,
            network_policy,
            users: password_auth.users(),
        }
    }

    /// Checks whether the route admits the network of the client, before its request is parsed.
    ///
    /// # Errors
    /// [`Error::Network`] if it does not.
    pub fn check_network(&self, client: ClientAddr) -> Result<(), Error> {
        self.network_effect(client).map(drop)
    }

    /// Authenticates a client by the password in the `Authorization` field. A token is not accepted: a client could renew it
    /// for ever.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        let authorization = single_authorization(headers)?;
        let with_network = self.network_effect(client)?;
        self.password_auth
            .authenticate(&self.users, authorization, client)
            .await
            .map(with_network)
            .map_err(at_token_endpoint)
    }

    /// Authenticates a client by the password in a form.
    pub async fn authenticate_form(
        &self,
        form: TokenRequest,
        client: ClientAddr,
    ) -> Result<Identity, Error> {
        let with_network = self.network_effect(client)?;
        let Some(credentials) = form.credentials()? else {
            return Ok(with_network(Identity::new(IdentityKind::Anonymous)));
        };
        self.password_auth
            .authenticate_form(&self.users, credentials, client)
            .await
            .map(with_network)
            .map_err(at_token_endpoint)
    }

    /// The user that the `Authorization` field names, if the password file has this user; see
    /// [`Authenticator::known_user`](crate::auth::Authenticator::known_user).
    pub fn known_user(&self, headers: &HeaderMap) -> Option<String> {
        self.password_auth.known_user(headers)
    }

    /// The user that a form names, if the password file has this user.
    pub fn known_user_of(&self, form: &TokenRequest) -> Option<String> {
        self.password_auth.known_name(form.user()?)
    }

    /// What the network of the client adds to an identity. At the token endpoint a wrong password is an error also where the
    /// network needs no credentials, because the client is logging in.
    fn network_effect(&self, client: ClientAddr) -> Result<fn(Identity) -> Identity, Error> {
        match self.network_policy.evaluate(client) {
            Decision::Denied => Err(Error::Network),
            Decision::NeedsCredentials => Ok(|identity| identity),
            Decision::Sufficient => Ok(Identity::with_network),
        }
    }

    /// Issues a token with the scope `granted` to an identity that this service has authenticated.
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
        Ok(self.issuer.issue(user, stored, granted, now))
    }

    /// The challenge for a client whose password was wrong.
    pub fn challenge(&self) -> Challenge {
        self.password_auth.challenge()
    }
}

/// Replaces errors by those that have a message of their own at the token endpoint.
fn at_token_endpoint(error: Error) -> Error {
    match error {
        Error::Wrong => Error::Login,
        Error::Unusable => Error::UnusableLogin,
        other => other,
    }
}
