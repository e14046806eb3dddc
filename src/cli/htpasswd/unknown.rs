//! A user with whom nobody can sign in: why, or who may have been meant.
//!
//! For `htpasswd` of `cli`.

use super::{Failure, User, shown};
use crate::config::nearest::nearest;
use crate::htpasswd;

/// There is no line with which this user could sign in: why, or who may have been meant.
pub(super) fn unknown(of: &User, text: &[u8]) -> Failure {
    let (user, file) = (shown(&of.user), of.file.display());
    let listed = htpasswd::list(text);
    let named = listed
        .iter()
        .find(|listed| listed.user.as_ref() == Some(&user));
    if let Some((line, Err(kind))) = named.map(|listed| (listed.line, listed.scheme)) {
        let (what, remedy) = kind.explain(&of.file, Some(&user));
        return format!("{file}, line {line}, user {user}: {what}; {remedy}").into();
    }
    let names = listed.iter().filter_map(|listed| listed.user.as_deref());
    let hint =
        nearest(&user, names).map_or_else(String::new, |name| format!("; did you mean {name}?"));
    format!("{file}: there is no user {user}{hint}").into()
}
