//! A set of actions.
//!
//! What a grant gives, and what an identity may do with one repository. `push` is always with `pull`.

use std::fmt;

use crate::registry::Action;

/// Some of `pull`, `push`, `delete` and `catalog`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    bits: u8,
}

impl Actions {
    /// All of them.
    pub fn all() -> Self {
        ALL.into_iter().collect()
    }

    /// Whether it is among them; [`Action::Ping`] never is, as no grant gives it.
    pub fn contains(self, action: Action) -> bool {
        self.bits & bit(action) != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// Those of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            bits: self.bits | other.bits,
        }
    }

    /// Whether each of `other` is among these.
    pub fn covers(self, other: Self) -> bool {
        self.bits | other.bits == self.bits
    }

    /// In the order `pull`, `push`, `delete`, `catalog`.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        ALL.into_iter().filter(move |action| self.contains(*action))
    }
}

/// Who writes must be able to look whether it is there.
impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let bits = actions.into_iter().fold(0, |bits, action| {
            let implied = match action {
                Action::Push => bit(Action::Pull),
                Action::Ping | Action::Pull | Action::Delete | Action::Catalog => 0,
            };
            bits | bit(action) | implied
        });
        Self { bits }
    }
}

/// `pull, push`
impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, action) in self.iter().enumerate() {
            let gap = if index > 0 { ", " } else { "" };
            write!(f, "{gap}{action}")?;
        }
        Ok(())
    }
}

const fn bit(action: Action) -> u8 {
    match action {
        Action::Ping => 0,
        Action::Pull => 1,
        Action::Push => 2,
        Action::Delete => 4,
        Action::Catalog => 8,
    }
}

const ALL: [Action; 4] = [Action::Pull, Action::Push, Action::Delete, Action::Catalog];
