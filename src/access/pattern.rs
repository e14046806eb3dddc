//! Patterns over repository names: `team/**`, `home/{user}/*`.
//!
//! `config` parses them, `grants` matches with them. Matching allocates nothing, and takes at most as many steps as
//! the pattern has parts times the name has components.

use std::fmt;

use crate::registry::is_name;

/// A pattern, taken apart once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Box<[Segment]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    /// `*`: one component.
    One,
    /// `**`: one or more.
    Many,
    /// `{user}`: one component, the user's name.
    User,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedPattern {
    /// Nothing, or nothing between two slashes.
    #[error("there is an empty path component in it")]
    Empty,
    /// `team-*`, `***`.
    #[error("a * stands for a whole path component, never for a part of one")]
    Star,
    /// `{group}`, `x-{user}`.
    #[error("{{user}} is the only placeholder, and stands for a whole path component")]
    Placeholder,
}

impl Pattern {
    /// Reads one. A component that no repository can have is none of the faults: see [`Self::can_match`].
    pub fn parse(text: &str) -> Result<Self, MalformedPattern> {
        let parts: Result<_, _> = text.split('/').map(Segment::parse).collect();
        Ok(Self { parts: parts? })
    }

    /// Whether some repository name of the registry API is of this form.
    pub fn can_match(&self) -> bool {
        let shortest: Vec<_> = self
            .parts
            .iter()
            .map(|part| match part {
                Segment::Literal(text) => text,
                Segment::One | Segment::Many | Segment::User => "a",
            })
            .collect();
        is_name(&shortest.join("/"))
    }

    /// Whether it fits every name there is.
    pub fn is_everything(&self) -> bool {
        matches!(*self.parts, [Segment::Many])
    }

    /// Whether it names the user's own place.
    pub fn is_of_user(&self) -> bool {
        self.parts.contains(&Segment::User)
    }

    /// Whether some name of this form begins with these components, or is made of them.
    pub fn may_match_under(&self, components: &[&str]) -> bool {
        let mut all = components.iter();
        for part in &self.parts {
            match (part, all.next()) {
                (_, None) | (Segment::Many, Some(_)) => return true,
                (Segment::Literal(text), Some(component)) if **text != **component => return false,
                (Segment::Literal(_) | Segment::One | Segment::User, Some(_)) => {}
            }
        }
        all.next().is_none()
    }

    /// Whether a name is of this form, `{user}` being `user`. The caller passes names of the registry's grammar only:
    /// so a user whose name is no path component is nowhere at home.
    pub fn matches(&self, user: Option<&str>, repository: &str) -> bool {
        run(
            &self.parts,
            repository.split('/'),
            |part, component| match part {
                Segment::Literal(text) => **text == **component,
                Segment::One => true,
                Segment::User => user == Some(component),
                Segment::Many => false,
            },
        )
    }

    /// Whether every name that `other` fits is fitted by this one. May say no of one that does, never yes of one that
    /// does not.
    pub fn covers(&self, other: &Self) -> bool {
        run(&self.parts, other.parts.iter(), |part, theirs| match part {
            Segment::One => !matches!(theirs, Segment::Many),
            Segment::Literal(_) | Segment::User => part == *theirs,
            Segment::Many => false,
        })
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

/// The wildcard algorithm that looks back at the last `**` only: what an earlier one could take, the last one can take,
/// too. A `**` takes one symbol at once, and one more each time the rest does not fit.
fn run<S>(
    parts: &[Segment],
    mut rest: impl Iterator<Item = S> + Clone,
    takes: impl Fn(&Segment, &S) -> bool,
) -> bool {
    let mut at = 0;
    let mut retry = None;
    loop {
        let mut ahead = rest.clone();
        match (parts.get(at), ahead.next()) {
            (None, None) => return true,
            (Some(Segment::Many), Some(_)) => {
                at += 1;
                retry = Some((at, ahead.clone()));
                rest = ahead;
            }
            (Some(part), Some(symbol)) if takes(part, &symbol) => {
                at += 1;
                rest = ahead;
            }
            _ => {
                let Some((behind, mut from)) = retry else {
                    return false;
                };
                if from.next().is_none() {
                    return false;
                }
                at = behind;
                rest = from.clone();
                retry = Some((behind, from));
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            f.write_str(match part {
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
