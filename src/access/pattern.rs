//! Patterns of repository names in grants, such as `team/**` and `home/{user}/*`.
//!
//! `config` parses patterns, and `grants` matches names with them. Matching allocates nothing, and takes at most as many steps
//! as the number of segments in the pattern times the number of components in the name.

use std::fmt;

use crate::registry::is_name;

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Box<[Segment]>,
}

/// The part of a pattern between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// The component itself.
    Literal(Box<str>),
    /// `*`: any one component.
    One,
    /// `**`: one or more components.
    Many,
    /// `{user}`: the component that is the name of the user.
    User,
}

/// The reason why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedPattern {
    /// The text is empty, or has nothing between two slashes.
    #[error("the pattern has an empty path component")]
    Empty,
    /// A `*` is only a part of a component, as in `team-*` or `***`.
    #[error("a * represents a whole path component, never a part of one")]
    Star,
    /// A brace is not part of `{user}` as a whole component, as in `{group}` or `x-{user}`.
    #[error("{{user}} is the only placeholder, and represents a whole path component")]
    Placeholder,
}

impl Pattern {
    /// Parses a pattern. A component that no repository name can have is not an error; see [`Self::can_match`].
    pub fn parse(text: &str) -> Result<Self, MalformedPattern> {
        let segments: Result<_, _> = text.split('/').map(Segment::parse).collect();
        Ok(Self {
            segments: segments?,
        })
    }

    /// Whether the pattern matches at least one valid repository name.
    pub fn can_match(&self) -> bool {
        let shortest: Vec<_> = self
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(text) => text,
                Segment::One | Segment::Many | Segment::User => "a",
            })
            .collect();
        is_name(&shortest.join("/"))
    }

    /// Whether the pattern matches every repository name.
    pub fn is_everything(&self) -> bool {
        matches!(*self.segments, [Segment::Many])
    }

    /// Whether the pattern contains `{user}`.
    pub fn is_of_user(&self) -> bool {
        self.segments.contains(&Segment::User)
    }

    /// Whether some matching name begins with these components, or consists of them.
    pub fn may_match_under(&self, components: &[&str]) -> bool {
        let mut all = components.iter();
        for segment in &self.segments {
            match (segment, all.next()) {
                (_, None) | (Segment::Many, Some(_)) => return true,
                (Segment::Literal(text), Some(component)) if **text != **component => return false,
                (Segment::Literal(_) | Segment::One | Segment::User, Some(_)) => {}
            }
        }
        all.next().is_none()
    }

    /// Whether the pattern matches a repository name, with `user` in the place of `{user}`. The caller passes valid repository
    /// names only, so `{user}` never matches for a user whose name cannot be a component.
    pub fn matches(&self, user: Option<&str>, repository: &str) -> bool {
        match_segments(
            &self.segments,
            repository.split('/'),
            |segment, component| match segment {
                Segment::Literal(text) => **text == **component,
                Segment::One => true,
                Segment::User => user == Some(component),
                Segment::Many => false,
            },
        )
    }

    /// Whether this pattern matches every name that `other` matches. The result may be `false` although it does, and is never
    /// `true` if it does not.
    pub fn covers(&self, other: &Self) -> bool {
        match_segments(
            &self.segments,
            other.segments.iter(),
            |segment, theirs| match segment {
                Segment::One => !matches!(theirs, Segment::Many),
                Segment::Literal(_) | Segment::User => segment == *theirs,
                Segment::Many => false,
            },
        )
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, MalformedPattern> {
        match text {
            "" => Err(MalformedPattern::Empty),
            "*" => Ok(Self::One),
            "**" => Ok(Self::Many),
            "{user}" => Ok(Self::User),
            _ if text.contains('*') => Err(MalformedPattern::Star),
            _ if text.contains(['{', '}']) => Err(MalformedPattern::Placeholder),
            _ => Ok(Self::Literal(text.into())),
        }
    }
}

/// Matches a sequence of symbols with wildcards, backtracking to the last `**` only: every symbol that an earlier `**` could
/// match, the last one can match too. A `**` first matches one symbol, and one more each time the rest does not match.
fn match_segments<S>(
    segments: &[Segment],
    mut rest: impl Iterator<Item = S> + Clone,
    matches_one: impl Fn(&Segment, &S) -> bool,
) -> bool {
    let mut at = 0;
    let mut retry = None;
    loop {
        let mut ahead = rest.clone();
        match (segments.get(at), ahead.next()) {
            (None, None) => return true,
            (Some(Segment::Many), Some(_)) => {
                at += 1;
                retry = Some((at, ahead.clone()));
                rest = ahead;
            }
            (Some(segment), Some(symbol)) if matches_one(segment, &symbol) => {
                at += 1;
                rest = ahead;
            }
            _ => {
                let Some((after, mut from)) = retry else {
                    return false;
                };
                if from.next().is_none() {
                    return false;
                }
                at = after;
                rest = from.clone();
                retry = Some((after, from));
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            f.write_str(match segment {
                Segment::Literal(text) => text,
                Segment::One => "*",
                Segment::Many => "**",
                Segment::User => "{user}",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
