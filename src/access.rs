//! Who may do what: from an identity and what it asks to a [`Permit`].
//!
//! `service` calls it for every request that is not refused before. [`Grants`] are the rule of a route that has some,
//! made by `config`. This is the only module that can make a [`Permit`], and `forward` demands one: what was not
//! permitted here cannot be forwarded.

use std::sync::Arc;

use crate::auth::Identity;
use crate::registry::{Action, Operation, Scope};

mod actions;
mod grants;
mod pattern;
mod who;

pub use actions::Actions;
pub use grants::{Grant, Grants, Subjects};
pub use pattern::{Malformed, Pattern};
pub use who::Who;

/// What a request asks for.
#[derive(Debug)]
pub enum Asked {
    /// An operation of the registry API; it is forwarded as rebuilt from its parsed form.
    Operation(Operation),
    /// A path and query outside the registry API, forwarded as sent.
    Path(String),
}

/// Proof that an identity may have what it asked for. Made here only.
#[derive(Debug)]
pub struct Permit {
    asked: Asked,
}

impl Permit {
    /// The target to send upstream: path and query.
    pub fn target(&self) -> String {
        match &self.asked {
            Asked::Operation(operation) => operation.target(),
            Asked::Path(target) => target.clone(),
        }
    }

    /// The permitted operation, under the registry API.
    pub fn operation(&self) -> Option<&Operation> {
        match &self.asked {
            Asked::Operation(operation) => Some(operation),
            Asked::Path(_) => None,
        }
    }
}

/// What an identity may have of what it asked for.
#[derive(Debug)]
pub enum Permitted {
    /// All of it.
    Whole(Permit),
    /// Of the list of repositories, those that it may pull.
    Part(Listing),
}

/// The right to read the list of repositories, page by page, and to show some of it. Made here only.
#[derive(Debug)]
pub struct Listing {
    grants: Arc<Grants>,
    user: Option<String>,
    network: bool,
    operation: Operation,
}

impl Listing {
    /// What was asked for, with the client's own page.
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// A page of the list, to be read by the gate: of `size`, or of the upstream's own choice, after `last`.
    pub fn page(&self, size: Option<usize>, last: Option<&str>) -> Permit {
        Permit {
            asked: Asked::Operation(self.operation.clone().at_page(size, last)),
        }
    }

    /// Whether the identity may learn that there is such a repository.
    pub fn shows(&self, repository: &str) -> bool {
        let who = Who {
            user: self.user.as_deref(),
            network: self.network,
        };
        self.grants.allows(who, Action::Pull, Some(repository))
    }
}

/// Not allowed.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Nobody has logged in, and somebody must.
    #[error("authentication required")]
    Anonymous,
    /// The token that was shown is for something else. Another one may do.
    #[error("the token is not for this")]
    Scope,
    /// A known user without the right. The words are the same whether what was asked for exists or not.
    #[error("requested access to the resource is denied")]
    Forbidden,
}

/// The rule of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone may do everything; or the upstream decides.
    Everyone,
    /// Every verified user may do everything.
    Verified,
    /// What the grants give, and nothing else.
    Granted(Arc<Grants>),
}

impl Access {
    /// Grants `asked`, or says who may not have it.
    ///
    /// Rights come before scopes: where a user has no right, no token would help, and none is asked for.
    /// A mount reads its source: without the right to pull there, a plain upload starts. A path outside of the
    /// registry API is in no grant, so with grants it is nobody's.
    pub fn permit(&self, identity: &Identity, asked: Asked) -> Result<Permitted, Denied> {
        let asked = match self {
            Self::Granted(grants) => granted(grants, identity, asked)?,
            Self::Everyone | Self::Verified => {
                self.admit(identity)?;
                asked
            }
        };
        let asked = match identity.scope() {
            Some(scope) => within(scope, asked)?,
            None => asked,
        };
        match (self, asked) {
            (Self::Granted(grants), Asked::Operation(operation))
                if operation.action() == Action::Catalog && !grants.pulls_everything(identity) =>
            {
                Ok(Permitted::Part(Listing {
                    grants: Arc::clone(grants),
                    user: identity.user().map(str::to_owned),
                    network: identity.is_network(),
                    operation,
                }))
            }
            (_, asked) => Ok(Permitted::Whole(Permit { asked })),
        }
    }

    /// Whether `identity` may learn anything at all here, such as what is wrong with its request. With grants, so may
    /// every verified user, also one who is allowed nothing: it is his own request, and he proved who he is.
    pub fn admit(&self, identity: &Identity) -> Result<(), Denied> {
        match self {
            Self::Everyone => Ok(()),
            Self::Verified | Self::Granted(_) if Who::from(identity).is_known() => Ok(()),
            Self::Verified | Self::Granted(_) => Err(denied(identity)),
        }
    }

    /// Whether a user, or with `None` someone who has not logged in, may do this; `catalog` and `ping` have no
    /// repository. The same judgement as [`Self::permit`]'s, for what is no request: the scope of a token.
    pub fn allows<'a>(
        &self,
        who: impl Into<Who<'a>>,
        action: Action,
        repository: Option<&str>,
    ) -> bool {
        let who = who.into();
        match self {
            Self::Everyone => true,
            Self::Verified => who.is_known(),
            Self::Granted(grants) => grants.allows(who, action, repository),
        }
    }

    /// All that a user may do with a repository.
    pub fn effective<'a>(&self, who: impl Into<Who<'a>>, repository: &str) -> Actions {
        let who = who.into();
        match self {
            Self::Granted(grants) => grants.effective(who, repository),
            Self::Verified if !who.is_known() => Actions::default(),
            Self::Everyone | Self::Verified => Actions::all(),
        }
    }

    /// What of `asked` a token for this identity is good for, perhaps nothing.
    pub fn grant(&self, identity: &Identity, asked: Scope) -> Scope {
        asked.retain(|repository, action| self.allows(identity, action, repository))
    }
}

/// What the grants leave of `asked`.
fn granted(grants: &Grants, identity: &Identity, asked: Asked) -> Result<Asked, Denied> {
    let operation = match asked {
        Asked::Operation(operation) => operation,
        Asked::Path(_) => return Err(denied(identity)),
    };
    let who = Who::from(identity);
    // Whoever shows a token, be it one for nobody in particular, has found the way in that a ping points to.
    let is_known_ping = operation.action() == Action::Ping && identity.scope().is_some();
    if !is_known_ping && !grants.allows(who, operation.action(), operation.repository()) {
        return Err(denied(identity));
    }
    let operation = with_right_to_mount(grants, who, operation);
    Ok(Asked::Operation(operation))
}

/// What a token's scope leaves of `asked`. A mount reads its source: without that in the scope a plain upload starts,
/// and so it does where the registry would choose the source.
fn within(scope: &Scope, asked: Asked) -> Result<Asked, Denied> {
    let operation = match asked {
        Asked::Operation(operation) => operation,
        // No scope speaks of paths.
        Asked::Path(_) => return Err(Denied::Scope),
    };
    if !scope.allows(operation.repository(), operation.action()) {
        return Err(Denied::Scope);
    }
    let may_mount = operation.mount().is_none_or(|mount| {
        mount
            .from
            .is_some_and(|source| scope.allows(Some(source), Action::Pull))
    });
    Ok(Asked::Operation(if may_mount {
        operation
    } else {
        operation.without_mount()
    }))
}

/// The blob that is mounted becomes readable where it is mounted to. Without a source the registry chooses one, out of
/// all it has.
fn with_right_to_mount(grants: &Grants, who: Who<'_>, operation: Operation) -> Operation {
    let may = operation.mount().is_none_or(|mount| match mount.from {
        Some(_) => grants.allows(who, Action::Pull, mount.from),
        None => grants.pulls_everything(who),
    });
    if may {
        operation
    } else {
        operation.without_mount()
    }
}

/// Someone unknown may yet log in; one with a token for nobody in particular may yet get another.
fn denied(identity: &Identity) -> Denied {
    match (identity.user(), identity.scope()) {
        (Some(_), _) => Denied::Forbidden,
        (None, Some(_)) => Denied::Scope,
        (None, None) => Denied::Anonymous,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use http::{HeaderMap, Method};

    use super::*;
    use crate::addr::PeerAddr;
    use crate::auth::Authenticator;
    use crate::registry::Parsed;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// Anyone may pull `pub/**`, push to `drop/*` and read the list.
    fn open() -> Access {
        let grant = |pattern: &str, actions: &[Action]| Grant {
            subjects: Subjects {
                anyone: true,
                ..Subjects::default()
            },
            patterns: vec![Pattern::parse(pattern).unwrap()],
            actions: actions.iter().copied().collect(),
            line: 1,
        };
        Access::Granted(Arc::new(Grants::new([
            grant("pub/**", &[Action::Pull, Action::Catalog]),
            grant("drop/*", &[Action::Push]),
        ])))
    }

    async fn anonymous() -> Identity {
        let headers = HeaderMap::new();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let client = PeerAddr::new(address).client();
        let open = Authenticator::open();
        open.authenticate(&headers, client).await.unwrap()
    }

    fn operation(method: &Method, path: &str, query: Option<&str>) -> Asked {
        match Operation::parse(method, path, query) {
            Ok(Parsed::Operation(operation)) => Asked::Operation(operation),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn someone_unknown_may_what_anyone_may_and_is_else_asked_to_log_in() {
        let (access, nobody) = (open(), anonymous().await);
        let may = |method: Method, path: &str| {
            let permitted = access.permit(&nobody, operation(&method, path, None));
            assert!(
                matches!(permitted, Ok(_) | Err(Denied::Anonymous)),
                "{path}"
            );
            permitted.is_ok()
        };
        assert!(may(Method::GET, "/v2/pub/a/tags/list"));
        assert!(may(Method::POST, "/v2/drop/a/blobs/uploads/"));
        assert!(!may(Method::PUT, "/v2/pub/a/manifests/x"));
        assert!(!may(Method::GET, "/v2/secret/tags/list"));
        // Clients decide by this one whether to log in.
        assert!(!may(Method::GET, "/v2/"));
        let path = Asked::Path("/metrics".to_owned());
        assert!(matches!(
            access.permit(&nobody, path),
            Err(Denied::Anonymous)
        ));
        assert!(matches!(access.admit(&nobody), Err(Denied::Anonymous)));
    }

    #[tokio::test]
    async fn a_permit_for_an_upload_mounts_only_what_may_be_pulled() {
        let (access, nobody) = (open(), anonymous().await);
        for (from, mounts) in [
            ("&from=pub/a", true),
            ("&from=drop/b", true),
            ("&from=secret", false),
            ("", false),
        ] {
            let query = format!("mount={DIGEST}{from}");
            let asked = operation(&Method::POST, "/v2/drop/a/blobs/uploads/", Some(&query));
            let Ok(Permitted::Whole(permit)) = access.permit(&nobody, asked) else {
                panic!("no permit for {from:?}");
            };
            assert_eq!(permit.target().contains("mount="), mounts, "{from:?}");
            assert_eq!(permit.target().contains("from="), mounts, "{from:?}");
        }
    }

    #[tokio::test]
    async fn the_list_is_permitted_in_part_only() {
        let asked = operation(&Method::GET, "/v2/_catalog", Some("n=5&last=b"));
        let Ok(Permitted::Part(listing)) = open().permit(&anonymous().await, asked) else {
            panic!("not in part");
        };
        assert!(listing.shows("pub/a") && listing.shows("drop/a"));
        assert!(!listing.shows("secret") && !listing.shows("pub/A"));
        let page = |size, last| listing.page(size, last).target();
        assert_eq!(page(Some(7), Some("a/b")), "/v2/_catalog?n=7&last=a%2Fb");
        assert_eq!(page(None, None), "/v2/_catalog");
    }

    #[test]
    fn rights_are_asked_without_a_request() {
        let all = "pull, push, delete, catalog";
        for (access, user, effective) in [
            (Access::Everyone, None, all),
            (Access::Verified, None, ""),
            (Access::Verified, Some("eve"), all),
            (open(), None, "pull, catalog"),
            (open(), Some("eve"), "pull, catalog"),
        ] {
            assert_eq!(access.effective(user, "pub/a").to_string(), effective);
            let pull = access.allows(user, Action::Pull, Some("pub/a"));
            assert_eq!(pull, !effective.is_empty(), "{access:?} {user:?}");
        }
        assert!(!open().allows(None, Action::Ping, None));
        assert!(open().allows(Some("eve"), Action::Ping, None));
    }
}
