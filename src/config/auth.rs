//! From an `auth` table to an [`Auth`], in a site or in a route.
//!
//! Called by `sites` and `routes`. The files that it names are opened by `snapshot`.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;

use super::Auth;
use super::problem::Problem;
use super::sites::SiteParser;
use super::table::{Spanned, Table};
use super::units;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Basic,
    Token,
    Upstream,
    None,
}

impl SiteParser<'_, '_> {
    pub(super) fn auth(&self, auth: &Table<'_>) -> Option<Auth> {
        let modes = [
            ("basic", Mode::Basic),
            ("token", Mode::Token),
            ("upstream", Mode::Upstream),
            ("none", Mode::None),
        ];
        auth.required(
            "mode",
            "mode = \"basic\", \"token\", \"upstream\" or \"none\"",
        );
        let mode = auth.parse("mode", |text| units::word(text, &modes));
        let htpasswd = self.file(auth, "htpasswd");
        let realm = auth.string("realm");
        let secret = auth.parse("secret", units::secret);
        let secret = secret.map(|secret| secret.map(|secret| secret.below(self.base)));
        let lifetime = lifetime(auth);
        let mode = mode?.value;
        refuse_without_use(auth, mode);
        if matches!(mode, Mode::Basic | Mode::Token) {
            auth.required(
                "htpasswd",
                "htpasswd = \"htpasswd\", a file made by tidegate htpasswd add",
            );
        }
        match mode {
            Mode::Upstream => Some(Auth::LeftToUpstream),
            Mode::None => Some(Auth::Open),
            Mode::Basic => Some(Auth::Basic {
                challenge: challenge(auth, realm)?,
                htpasswd: htpasswd?,
            }),
            Mode::Token => Some(Auth::Token {
                challenge: challenge(auth, realm)?,
                htpasswd: htpasswd?,
                secret,
                lifetime,
            }),
        }
    }

    fn file(&self, auth: &Table<'_>, key: &'static str) -> Option<Spanned<PathBuf>> {
        let path = auth.parse(key, units::live_file)?;
        Some(path.map(|path| self.base.join(path)))
    }
}

/// A key that would silently do nothing is a mistake about who is asked for what.
fn refuse_without_use(auth: &Table<'_>, mode: Mode) {
    let place = |keys: &[&'static str]| keys.iter().find_map(|key| auth.place_of(key));
    if !matches!(mode, Mode::Basic | Mode::Token)
        && let Some(place) = place(&["htpasswd", "realm"])
    {
        let what = "a password file or a realm without mode = \"basic\" or \"token\"";
        auth.report(
            Problem::error(place, what)
                .because("nobody would be asked for a password here")
                .fix("write mode = \"basic\", or remove them"),
        );
    }
    if mode != Mode::Token
        && let Some(place) = place(&["secret", "lifetime"])
    {
        let what = "a secret or a lifetime without mode = \"token\"";
        auth.report(
            Problem::error(place, what)
                .because("no tokens would be given out here")
                .fix("write mode = \"token\", or remove them"),
        );
    }
}

fn challenge(auth: &Table<'_>, realm: Option<Spanned<String>>) -> Option<HeaderValue> {
    let text = realm
        .as_ref()
        .map_or("Registry realm", |realm| &realm.value);
    let challenge = crate::www_authenticate::basic_challenge(text);
    if challenge.is_none() {
        let place = realm.map(|realm| realm.place);
        auth.report(
            Problem::error(place, "the realm holds a control character")
                .because("it stands in a header (RFC 9110 section 5.5)")
                .fix("use visible characters and blanks"),
        );
    }
    challenge
}

/// Clients take anything below a minute for a minute.
fn lifetime(auth: &Table<'_>) -> Duration {
    let Some(written) = auth.duration("lifetime") else {
        return LIFETIME;
    };
    if !(SHORTEST..=LONGEST).contains(&written.value) {
        let what = format!("{} is out of range", auth.dotted("lifetime"));
        auth.report(
            Problem::error(written.place, what)
                .because("clients reckon with a minute at least, and a stolen token is good for its whole life")
                .fix("write a duration from \"1m\" to \"24h\""),
        );
        return LIFETIME;
    }
    written.value
}

/// A push of some layers on one token, and not much longer.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
