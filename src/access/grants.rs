//! Grants: who may do what where. Pure: a user's name, an action and a repository in, yes or no out.
//!
//! `config` makes them, [`super::Access`] asks them. They add up, and what none of them gives is not allowed.

use std::collections::{BTreeSet, HashMap};

use super::actions::Actions;
use super::pattern::Pattern;
use super::who::Principal;
use crate::registry::{Action, is_name};

/// All grants of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    grants: Box<[Grant]>,
    /// Places of those that may be for somebody who is not named, ascending.
    unnamed: Box<[usize]>,
    /// Places of all others by the users that they name, ascending: a request looks at its own user's, however many there
    /// are.
    named: HashMap<String, Vec<usize>>,
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
    /// `@network`: whoever comes from a network that is enough alone.
    pub network: bool,
    /// By name, those of groups among them.
    pub users: BTreeSet<String>,
}

impl Grants {
    /// In the order of the configuration.
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        let grants: Box<[Grant]> = grants.into_iter().collect();
        let (mut unnamed, mut named) = (Vec::new(), HashMap::<_, Vec<_>>::new());
        for (place, grant) in grants.iter().enumerate() {
            let Subjects {
                anyone,
                verified,
                network,
                users,
            } = &grant.subjects;
            if *anyone || *verified || *network {
                unnamed.push(place);
                continue;
            }
            for user in users {
                named.entry(user.clone()).or_default().push(place);
            }
        }
        Self {
            grants,
            unnamed: unnamed.into(),
            named,
        }
    }

    /// Whether a user, or with `None` someone who has not logged in, may do this. `catalog` asks for no repository;
    /// to ping is every verified user's right, and nobody else's: not a network's either, or docker would never send
    /// a password from there.
    pub fn allows<'a>(
        &self,
        who: impl Into<Principal<'a>>,
        action: Action,
        repository: Option<&str>,
    ) -> bool {
        let who = who.into();
        match action {
            Action::Ping => who.user.is_some(),
            Action::Catalog => self
                .of(who)
                .any(|grant| grant.actions.contains(Action::Catalog)),
            Action::Pull | Action::Push | Action::Delete => repository
                .is_some_and(|repository| self.matching(who, action, repository).next().is_some()),
        }
    }

    /// What a user may do with this repository; `catalog` is of no repository.
    pub fn effective<'a>(&self, who: impl Into<Principal<'a>>, repository: &str) -> Actions {
        if !is_name(repository) {
            return Actions::default();
        }
        let who = who.into();
        let given = self
            .of(who)
            .filter(|grant| grant.fits(who.user, repository));
        given.fold(Actions::default(), |sum, grant| sum.with(grant.actions))
    }

    /// The grants that give this right to this repository. A name that is none has no rights to it.
    pub fn matching<'a>(
        &'a self,
        who: impl Into<Principal<'a>>,
        action: Action,
        repository: &'a str,
    ) -> impl Iterator<Item = &'a Grant> {
        let (who, is_meant) = (who.into(), is_name(repository));
        self.of(who).filter(move |grant| {
            is_meant && grant.actions.contains(action) && grant.fits(who.user, repository)
        })
    }

    /// The grants that are for a user at all, in the order of the configuration.
    pub fn of<'a>(&'a self, who: impl Into<Principal<'a>>) -> impl Iterator<Item = &'a Grant> {
        let who = who.into();
        let own = who.user.and_then(|user| self.named.get(user));
        let mut own = own.map_or(&[][..], Vec::as_slice).iter().peekable();
        let mut unnamed = self.unnamed.iter().peekable();
        let places = std::iter::from_fn(move || match (own.peek(), unnamed.peek()) {
            (Some(mine), Some(other)) if mine < other => own.next(),
            (_, Some(_)) => unnamed.next(),
            (_, None) => own.next(),
        });
        let grants = places.filter_map(|place| self.grants.get(*place));
        grants.filter(move |grant| grant.subjects.include(who))
    }

    /// Whether a user may pull every repository there is, whatever its name.
    pub fn can_pull_all<'a>(&'a self, who: impl Into<Principal<'a>>) -> bool {
        self.of(who).any(|grant| {
            grant.actions.contains(Action::Pull)
                && grant.patterns.iter().any(Pattern::is_everything)
        })
    }

    /// Whether one of them is to `@network`.
    pub fn mentions_network(&self) -> bool {
        self.grants.iter().any(|grant| grant.subjects.network)
    }

    /// Pairs of grants of which the second gives nothing that the first does not.
    pub fn shadowed(&self) -> impl Iterator<Item = (&Grant, &Grant)> {
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
            && self.subjects.covers(&other.subjects)
            && other.patterns.iter().all(is_below)
    }
}

impl Subjects {
    /// Whether it is for a user, or with `None` for someone who has not logged in.
    pub fn include<'a>(&self, who: impl Into<Principal<'a>>) -> bool {
        let who = who.into();
        let is_named = |user| self.verified || self.users.contains(user);
        self.anyone || (self.network && who.network) || who.user.is_some_and(is_named)
    }

    fn covers(&self, other: &Self) -> bool {
        if self.anyone {
            return true;
        }
        !other.anyone
            && (self.network || !other.network)
            && (self.verified || (!other.verified && self.users.is_superset(&other.users)))
    }
}

#[cfg(test)]
mod tests;
