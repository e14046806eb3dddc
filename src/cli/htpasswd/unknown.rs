//! A user with whom nobody can sign in: why, or who may have been meant.
//!
//! For `htpasswd` of `cli`.

use super::{Failure, User, shown};
use crate::htpasswd;

/// There is no line with which this user could sign in: why, or who may have been meant.
pub(super) fn unknown(of: &User, text: &[u8]) -> Failure {
    let (user, file) = (shown(&of.user), of.file.display());
    let listed = htpasswd::list(text);
    let named = listed
        .iter()
        .find(|listed| listed.user.as_ref() == Some(&user));
    if let Some((line, Err(kind))) = named.map(|listed| (listed.line, listed.scheme)) {
        return format!("{file}, line {line}, user {user}: {kind}").into();
    }
    let names = listed.iter().filter_map(|listed| listed.user.as_deref());
    let hint =
        nearest(&user, names).map_or_else(String::new, |name| format!("; did you mean {name}?"));
    format!("{file}: there is no user {user}{hint}").into()
}

/// The name that differs least, in one place and by at most a third of its letters; case does not count.
fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = names.filter_map(|name| {
        let apart = apart(written, name);
        let allowed = (written.len().max(name.len()) / 3).max(1);
        (apart <= allowed && apart < name.len()).then_some((apart, name))
    });
    near.min_by_key(|&(apart, _)| apart).map(|(_, name)| name)
}

/// How long the part is in which two names differ; two letters that changed places count as one.
fn apart(one: &str, other: &str) -> usize {
    let [one, other] = [one, other].map(|name| name.to_lowercase().into_bytes());
    let start = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let ends = one.iter().rev().zip(other.iter().rev());
    let end = ends.take_while(|(a, b)| a == b).count();
    let [shorter, longer] = [one.len().min(other.len()), one.len().max(other.len())];
    match (one.get(start..start + 2), other.get(start..start + 2)) {
        (Some([a, b]), Some([c, d])) if (a, b) == (d, c) && start + 2 + end == longer => 1,
        _ => longer - (start + end).min(shorter),
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_name_with_a_slip_is_found() {
        let names = ["alice", "bob", "carol", "Łukasz"];
        for (written, meant) in [
            ("alcie", Some("alice")),
            ("ALICE", Some("alice")),
            ("alic", Some("alice")),
            ("bobb", Some("bob")),
            ("rob", Some("bob")),
            ("łukas", Some("Łukasz")),
            ("ann", None),
            ("b", None),
            ("", None),
            ("somebody else", None),
        ] {
            assert_eq!(nearest(written, names.into_iter()), meant, "{written}");
        }
    }
}
