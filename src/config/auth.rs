//! An `auth` table of a site or of a route: how clients log in.
//!
//! Called by `sites` and `routes`. The files that the table names are opened by `snapshot`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;

use super::document::Spanned;
use super::form::AnyKey;
use super::keys::auth::{self, Mode};
use super::problem::Problem;
use super::table::Table;
use super::value::Secret;

/// How clients log in.
#[derive(Clone, Debug)]
pub enum Auth {
    /// HTTP Basic.
    Basic {
        /// The password file.
        htpasswd: Spanned<PathBuf>,
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// Tokens of the proxy, which clients get for a password.
    Token {
        /// The password file.
        htpasswd: Spanned<PathBuf>,
        /// The value of `WWW-Authenticate` in responses of the token endpoint.
        challenge: HeaderValue,
        /// The secret that signs the tokens; `None` for the one that the proxy creates in [`super::Config::state_dir`].
        secret: Option<Spanned<Secret>>,
        /// How long a token is valid.
        lifetime: Duration,
    },
    /// The upstream authenticates clients.
    LeftToUpstream,
    /// There is no authentication.
    Open,
}

/// Reads the table. Relative paths in it are below `base`.
pub(crate) fn read(table: &Table<'_>, base: &Path) -> Option<Auth> {
    table.require(
        &auth::MODE,
        "mode = \"basic\", \"token\", \"upstream\" or \"none\"",
    );
    // All values are read before the mode is known, so that every problem is reported.
    let mode = table.get(&auth::MODE);
    let htpasswd = table.get(&auth::HTPASSWD);
    let htpasswd = htpasswd.map(|path| path.map(|path| base.join(path)));
    let realm = table.get(&auth::REALM);
    let secret = table.get(&auth::SECRET);
    let secret = secret.map(|secret| secret.map(|secret| secret.below(base)));
    let lifetime = table.value(&auth::LIFETIME);
    let mode = mode?.value;
    reject_useless_keys(table, mode);
    if matches!(mode, Mode::Basic | Mode::Token) {
        table.require(
            &auth::HTPASSWD,
            "htpasswd = \"htpasswd\", a file made by tidegate htpasswd add",
        );
    }
    match mode {
        Mode::Upstream => Some(Auth::LeftToUpstream),
        Mode::None => Some(Auth::Open),
        Mode::Basic => Some(Auth::Basic {
            challenge: challenge(table, realm)?,
            htpasswd: htpasswd?,
        }),
        Mode::Token => Some(Auth::Token {
            challenge: challenge(table, realm)?,
            htpasswd: htpasswd?,
            secret,
            lifetime,
        }),
    }
}

/// Reports keys that the mode does not use. Their author expects a password or a token to be required.
fn reject_useless_keys(table: &Table<'_>, mode: Mode) {
    let first_place = |keys: [&dyn AnyKey; 2]| keys.into_iter().find_map(|key| table.place_of(key));
    if !matches!(mode, Mode::Basic | Mode::Token)
        && let Some(place) = first_place([&auth::HTPASSWD, &auth::REALM])
    {
        let what = "a password file or a realm without mode = \"basic\" or \"token\"";
        table.report(
            Problem::error(place, what)
                .because("no client would need a password here")
                .fix("write mode = \"basic\", or remove them"),
        );
    }
    if mode != Mode::Token
        && let Some(place) = first_place([&auth::SECRET, &auth::LIFETIME])
    {
        let what = "a secret or a lifetime without mode = \"token\"";
        table.report(
            Problem::error(place, what)
                .because("no tokens would be issued here")
                .fix("write mode = \"token\", or remove them"),
        );
    }
}

fn challenge(table: &Table<'_>, realm: Option<Spanned<String>>) -> Option<HeaderValue> {
    let text = realm.as_ref().map_or(DEFAULT_REALM, |realm| &realm.value);
    let challenge = crate::www_authenticate::basic_challenge(text);
    if challenge.is_none() {
        table.report(
            Problem::error(
                realm.map(|realm| realm.place),
                "the realm contains a control character",
            )
            .because("it is sent in a header field (RFC 9110 section 5.5)")
            .fix("use visible characters and blanks"),
        );
    }
    challenge
}

const DEFAULT_REALM: &str = "Registry realm";
