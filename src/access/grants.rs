//! Grants: which principals may perform which actions on which repositories.
//!
//! `config` builds the [`Grants`] of a route from its `[[site.route.grant]]` tables, and `Access` evaluates them. Grants add
//! up, and an action that no grant allows is denied. This module does no input or output and knows no requests.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::pattern::Pattern;
use crate::auth::Identity;
use crate::registry::{Action, is_name};

/// All grants of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    grants: Box<[Grant]>,
    /// The indices of the grants that may apply to a principal that they do not name, in ascending order.
    unnamed: Box<[usize]>,
    /// The indices of all other grants by the users that they name, in ascending order. A request visits only the grants of its
    /// own user, however many there are.
    named: HashMap<String, Vec<usize>>,
}

/// One `[[site.route.grant]]`, with its groups resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The principals that the grant applies to.
    pub subjects: Subjects,
    /// The repositories: a name must match one of the patterns. For `catalog` the patterns do not count.
    pub patterns: Vec<Pattern>,
    /// The granted actions.
    pub actions: Actions,
    /// The line of the grant, for messages.
    pub line: usize,
    /// The file of the grant; `None` for the file that has the route.
    pub file: Option<Arc<Path>>,
}

/// The principals that a grant applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subjects {
    /// `@anonymous`: every client, logged in or not.
    pub anyone: bool,
    /// `@users`: every verified user.
    pub verified: bool,
    /// `@network`: every client of a network that needs no credentials (`satisfy = "any"`).
    pub network: bool,
    /// The named users, including the members of named groups.
    pub users: BTreeSet<String>,
}

impl Grants {
    /// Creates the grants of a route, in the order of the configuration.
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        let grants: Box<[Grant]> = grants.into_iter().collect();
        let (mut unnamed, mut named) = (Vec::new(), HashMap::<_, Vec<_>>::new());
        for (index, grant) in grants.iter().enumerate() {
            let Subjects {
                anyone,
                verified,
                network,
                users,
            } = &grant.subjects;
            if *anyone || *verified || *network {
                unnamed.push(index);
                continue;
            }
            for user in users {
                named.entry(user.clone()).or_default().push(index);
            }
        }
        Self {
            grants,
            unnamed: unnamed.into(),
            named,
        }
    }

    /// All grants, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.grants.iter()
    }

    /// The number of grants.
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether there is no grant.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// Whether a principal may perform an action. `catalog` has no repository. Every verified user may ping, and no other
    /// principal: if a network were allowed to ping, docker would never send a password from there.
    pub fn allows<'a>(
        &self,
        principal: impl Into<Principal<'a>>,
        action: Action,
        repository: Option<&str>,
    ) -> bool {
        let principal = principal.into();
        match action {
            Action::Ping => principal.user.is_some(),
            Action::Catalog => self
                .for_principal(principal)
                .any(|grant| grant.actions.contains(Action::Catalog)),
            Action::Pull | Action::Push | Action::Delete => repository.is_some_and(|repository| {
                self.matching(principal, action, repository)
                    .next()
                    .is_some()
            }),
        }
    }

    /// The actions that a principal may perform on a repository.
    pub fn effective<'a>(&self, principal: impl Into<Principal<'a>>, repository: &str) -> Actions {
        if !is_name(repository) {
            return Actions::default();
        }
        let principal = principal.into();
        let matching = self
            .for_principal(principal)
            .filter(|grant| grant.matches(principal.user, repository));
        matching.fold(Actions::default(), |sum, grant| sum.with(grant.actions))
    }

    /// The grants that allow an action on a repository. For an invalid repository name there are none.
    pub fn matching<'a>(
        &'a self,
        principal: impl Into<Principal<'a>>,
        action: Action,
        repository: &'a str,
    ) -> impl Iterator<Item = &'a Grant> {
        let (principal, is_valid) = (principal.into(), is_name(repository));
        self.for_principal(principal).filter(move |grant| {
            is_valid && grant.actions.contains(action) && grant.matches(principal.user, repository)
        })
    }

    /// The grants that apply to a principal, in the order of the configuration.
    pub fn for_principal<'a>(
        &'a self,
        principal: impl Into<Principal<'a>>,
    ) -> impl Iterator<Item = &'a Grant> {
        let principal = principal.into();
        let own = principal.user.and_then(|user| self.named.get(user));
        let mut own = own.map_or(&[][..], Vec::as_slice).iter().peekable();
        let mut unnamed = self.unnamed.iter().peekable();
        let indices = std::iter::from_fn(move || match (own.peek(), unnamed.peek()) {
            (Some(mine), Some(other)) if mine < other => own.next(),
            (_, Some(_)) => unnamed.next(),
            (_, None) => own.next(),
        });
        let grants = indices.filter_map(|index| self.grants.get(*index));
        grants.filter(move |grant| grant.subjects.include(principal))
    }

    /// Whether a principal may pull every repository, whatever its name.
    pub fn can_pull_all<'a>(&'a self, principal: impl Into<Principal<'a>>) -> bool {
        self.for_principal(principal).any(|grant| {
            grant.actions.contains(Action::Pull)
                && grant.patterns.iter().any(Pattern::is_everything)
        })
    }

    /// Whether one of the grants applies to `@network`.
    pub fn mentions_network(&self) -> bool {
        self.grants.iter().any(|grant| grant.subjects.network)
    }

    /// Pairs of grants of which the second allows nothing that the first does not allow.
    pub fn shadowed(&self) -> impl Iterator<Item = (&Grant, &Grant)> {
        let covers = |(at, wide): (usize, &Grant), (narrow_at, narrow): (usize, &Grant)| {
            // Of two equivalent grants, the later one is shadowed.
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
    fn matches(&self, user: Option<&str>, repository: &str) -> bool {
        self.patterns
            .iter()
            .any(|pattern| pattern.matches(user, repository))
    }

    /// Whether this grant allows everything that `other` allows.
    fn covers(&self, other: &Self) -> bool {
        let is_covered = |theirs: &Pattern| self.patterns.iter().any(|own| own.covers(theirs));
        self.actions.covers(other.actions)
            && self.subjects.covers(&other.subjects)
            && other.patterns.iter().all(is_covered)
    }
}

impl Subjects {
    /// Whether a principal is one of the subjects.
    pub fn include<'a>(&self, principal: impl Into<Principal<'a>>) -> bool {
        let principal = principal.into();
        let is_named = |user| self.verified || self.users.contains(user);
        self.anyone || (self.network && principal.network) || principal.user.is_some_and(is_named)
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

/// The user and the network whose grants are evaluated. It is created from an [`Identity`] for a request, and from a name where
/// there is no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Principal<'a> {
    /// The verified user, if any.
    pub user: Option<&'a str>,
    /// The client is from a network that needs no credentials (`@network`).
    pub network: bool,
}

impl Principal<'_> {
    /// Whether the principal is more than an anonymous client.
    pub fn is_known(self) -> bool {
        self.user.is_some() || self.network
    }
}

/// A verified user, or an anonymous client for `None`.
impl<'a> From<Option<&'a str>> for Principal<'a> {
    fn from(user: Option<&'a str>) -> Self {
        Self {
            user,
            network: false,
        }
    }
}

impl<'a> From<&'a Identity> for Principal<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self {
            user: identity.user(),
            network: identity.is_network(),
        }
    }
}

/// A set of the actions `pull`, `push`, `delete` and `catalog`. A set with `push` always has `pull`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    bits: u8,
}

impl Actions {
    /// The set of all four actions.
    pub fn all() -> Self {
        GRANTABLE.into_iter().collect()
    }

    /// Whether the set has an action. It never has [`Action::Ping`], which cannot be granted.
    pub fn contains(self, action: Action) -> bool {
        self.bits & bit(action) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The union of two sets.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            bits: self.bits | other.bits,
        }
    }

    /// Whether the set has every action of `other`.
    pub fn covers(self, other: Self) -> bool {
        self.bits | other.bits == self.bits
    }

    /// Iterates in the order `pull`, `push`, `delete`, `catalog`.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        GRANTABLE
            .into_iter()
            .filter(move |action| self.contains(*action))
    }
}

/// Adds `pull` to `push`, because a client checks whether a blob exists before it uploads the blob.
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

/// Writes the actions as in `pull, push`.
impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, action) in self.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}{action}")?;
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

/// The actions that can be granted.
const GRANTABLE: [Action; 4] = [Action::Pull, Action::Push, Action::Delete, Action::Catalog];

#[cfg(test)]
mod tests;
