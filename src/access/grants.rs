//! Grants: who may do what where. Pure: a user's name, an action and a repository in, yes or no out.
//!
//! `config` makes them, [`super::Access`] asks them. They add up, and what none of them gives is not allowed.

use std::collections::BTreeSet;

use super::actions::Actions;
use super::pattern::Pattern;
use crate::registry::{Action, is_name};

/// All grants of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    grants: Box<[Grant]>,
}

/// One `[[site.route.grant]]`, with its groups resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub subjects: Subjects,
    /// Where; one of them is enough. `catalog` has no place: whoever has it anywhere may ask.
    pub patterns: Vec<Pattern>,
    /// What.
    pub actions: Actions,
    /// Its line in the configuration, for people.
    pub line: usize,
}

/// Whom a grant is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subjects {
    /// `@anonymous`: anyone, logged in or not.
    pub anyone: bool,
    /// `@users`: every verified user.
    pub verified: bool,
    /// By name, those of groups among them.
    pub users: BTreeSet<String>,
}

impl Grants {
    /// In the order of the configuration.
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        Self {
            grants: grants.into_iter().collect(),
        }
    }

    /// Whether `user`, or with `None` someone who has not logged in, may do this. `catalog` asks for no repository;
    /// to ping is every verified user's right, and nobody else's.
    pub fn allows(&self, user: Option<&str>, action: Action, repository: Option<&str>) -> bool {
        match action {
            Action::Ping => user.is_some(),
            Action::Catalog => self
                .of(user)
                .any(|grant| grant.actions.contains(Action::Catalog)),
            Action::Pull | Action::Push | Action::Delete => repository.is_some_and(|repository| {
                self.that_allow(user, action, repository).next().is_some()
            }),
        }
    }

    /// What `user` may do with this repository; `catalog` is of no repository.
    pub fn effective(&self, user: Option<&str>, repository: &str) -> Actions {
        if !is_name(repository) {
            return Actions::default();
        }
        let given = self.of(user).filter(|grant| grant.fits(user, repository));
        given.fold(Actions::default(), |sum, grant| sum.with(grant.actions))
    }

    /// The grants that give this right to this repository. A name that is none has no rights to it.
    pub fn that_allow<'a>(
        &'a self,
        user: Option<&'a str>,
        action: Action,
        repository: &'a str,
    ) -> impl Iterator<Item = &'a Grant> {
        let is_meant = is_name(repository);
        self.of(user).filter(move |grant| {
            is_meant && grant.actions.contains(action) && grant.fits(user, repository)
        })
    }

    /// The grants that are for `user` at all.
    pub fn of<'a>(&'a self, user: Option<&'a str>) -> impl Iterator<Item = &'a Grant> {
        self.grants
            .iter()
            .filter(move |grant| grant.subjects.include(user))
    }

    /// Whether `user` may pull every repository there is, whatever its name.
    pub fn pulls_everything(&self, user: Option<&str>) -> bool {
        self.of(user).any(|grant| {
            grant.actions.contains(Action::Pull)
                && grant.patterns.iter().any(Pattern::is_everything)
        })
    }

    /// Pairs of grants of which the second gives nothing that the first does not.
    pub fn covered(&self) -> impl Iterator<Item = (&Grant, &Grant)> {
        let covers = |(at, wide): (usize, &Grant), (narrow_at, narrow): (usize, &Grant)| {
            // Of two that say the same, the later one is one too many.
            at != narrow_at && wide.covers(narrow) && (at < narrow_at || !narrow.covers(wide))
        };
        self.grants.iter().enumerate().filter_map(move |narrow| {
            let mut all = self.grants.iter().enumerate();
            let (_, wide) = all.find(|wide| covers(*wide, narrow))?;
            Some((wide, narrow.1))
        })
    }
}

impl Grant {
    fn fits(&self, user: Option<&str>, repository: &str) -> bool {
        self.patterns
            .iter()
            .any(|pattern| pattern.matches(user, repository))
    }

    fn covers(&self, other: &Self) -> bool {
        let is_below = |theirs: &Pattern| self.patterns.iter().any(|own| own.covers(theirs));
        self.actions.covers(other.actions)
            && self.subjects.cover(&other.subjects)
            && other.patterns.iter().all(is_below)
    }
}

impl Subjects {
    /// Whether it is for `user`, or with `None` for someone who has not logged in.
    pub fn include(&self, user: Option<&str>) -> bool {
        self.anyone || user.is_some_and(|user| self.verified || self.users.contains(user))
    }

    fn cover(&self, other: &Self) -> bool {
        if self.anyone {
            return true;
        }
        !other.anyone
            && (self.verified || (!other.verified && self.users.is_superset(&other.users)))
    }
}

#[cfg(test)]
mod tests;
