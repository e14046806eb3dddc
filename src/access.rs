//! Who may do what: from an identity and what it asks to a [`Permit`].
//!
//! `service` calls it for every request that is not refused before. [`Grants`] are the rule of a route that has some,
//! made by `config`. This is the only module that can make a [`Permit`], and `forward` demands one: what was not
//! permitted here cannot be forwarded.

use std::sync::Arc;

use crate::auth::Identity;
use crate::registry::{Action, Mount, Operation, Scope, is_name};

mod actions;
mod grants;
mod pattern;
mod who;

pub use actions::Actions;
pub use grants::{Grant, Grants, Subjects};
pub use pattern::{MalformedPattern, Pattern};
pub use who::Principal;

/// What a request asks for.
#[derive(Debug)]
pub enum RequestedAccess {
    /// An operation of the registry API; it is forwarded as rebuilt from its parsed form.
    Operation(Operation),
    /// The list of repositories, of which some lie under other routes: nobody gets it unseen.
    SharedList(Operation),
    /// A path and query outside the registry API, forwarded as sent.
    Path(String),
}

impl RequestedAccess {
    /// What is asked of the registry API.
    pub fn operation(&self) -> Option<&Operation> {
        match self {
            Self::Operation(operation) | Self::SharedList(operation) => Some(operation),
            Self::Path(_) => None,
        }
    }

    /// The same, its mount turned into a plain upload where the source may not be read: a blob that is mounted becomes
    /// readable where it is mounted to.
    fn mount_if(self, may: impl FnOnce(Mount<'_>) -> bool) -> Self {
        match self {
            Self::Operation(operation) if !operation.mount().is_none_or(may) => {
                Self::Operation(operation.without_mount())
            }
            asked => asked,
        }
    }
}

/// Proof that an identity may have what it asked for. Made here only.
#[derive(Debug)]
pub struct Permit {
    asked: RequestedAccess,
}

impl Permit {
    /// The target to send upstream: path and query.
    pub fn target(&self) -> String {
        match &self.asked {
            RequestedAccess::Operation(operation) | RequestedAccess::SharedList(operation) => {
                operation.target()
            }
            RequestedAccess::Path(target) => target.clone(),
        }
    }

    /// The permitted operation, under the registry API.
    pub fn operation(&self) -> Option<&Operation> {
        self.asked.operation()
    }
}

/// What an identity may have of what it asked for.
#[derive(Debug)]
pub enum Authorization {
    /// All of it.
    Whole(Permit),
    /// Of the list of repositories, those that it may pull.
    Part(CatalogFilter),
}

/// The right to read the list of repositories, page by page, and to show some of it. Made here only.
#[derive(Debug)]
pub struct CatalogFilter {
    access: Access,
    user: Option<String>,
    network: bool,
    operation: Operation,
}

impl CatalogFilter {
    /// What was asked for, with the client's own page.
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// A page of the list, to be read by the gate: of `size`, or of the upstream's own choice, after `last`.
    pub fn catalog_page(&self, size: Option<usize>, last: Option<&str>) -> Permit {
        Permit {
            asked: RequestedAccess::Operation(self.operation.clone().at_page(size, last)),
        }
    }

    /// Whether the identity may learn that the repository exists. `false` for a name that the registry grammar does not allow.
    pub fn is_visible(&self, repository: &str) -> bool {
        let who = Principal {
            user: self.user.as_deref(),
            network: self.network,
        };
        is_name(repository) && self.access.allows(who, Action::Pull, Some(repository))
    }
}

/// Not allowed.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The client has not logged in, and the operation needs a login.
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
    /// A mount reads its source: without the right to pull there, a plain upload starts; with the right and a token that
    /// lacks it, another token is asked for. A path outside of the registry API is in no grant, so with grants it is
    /// denied.
    pub fn permit(
        &self,
        identity: &Identity,
        asked: RequestedAccess,
    ) -> Result<Authorization, Denied> {
        let asked = match self {
            Self::Granted(grants) => granted(grants, identity, asked)?,
            Self::Verified if !Principal::from(identity).is_known() => {
                return Err(denied(identity));
            }
            Self::Everyone | Self::Verified => asked,
        };
        let asked = match identity.scope() {
            Some(scope) => within(scope, asked)?,
            None => asked,
        };
        Ok(match self.in_part(identity, asked) {
            Ok(listing) => Authorization::Part(listing),
            Err(asked) => Authorization::Whole(Permit { asked }),
        })
    }

    /// A list of which the identity may see some only; or what was asked for, to be had as it is. An upstream that
    /// knows who is asking decides itself what it lists.
    fn in_part(
        &self,
        identity: &Identity,
        asked: RequestedAccess,
    ) -> Result<CatalogFilter, RequestedAccess> {
        let sees_all = match self {
            Self::Granted(grants) => grants.can_pull_all(identity),
            Self::Everyone | Self::Verified => true,
        };
        let operation = match asked {
            RequestedAccess::SharedList(operation) if !identity.is_left_to_upstream() => operation,
            RequestedAccess::Operation(operation)
                if operation.action() == Action::Catalog && !sees_all =>
            {
                operation
            }
            whole => return Err(whole),
        };
        Ok(CatalogFilter {
            access: self.clone(),
            user: identity.user().map(str::to_owned),
            network: identity.is_network(),
            operation,
        })
    }

    /// Whether `identity` may learn anything at all here, such as what is wrong with its request. With grants, so may
    /// every verified user, also one who is allowed nothing: it is his own request, and he proved who he is. So may
    /// who shows a token for nobody in particular, where something is granted to anyone: another token would not mend
    /// the request. All others are asked to log in.
    pub fn admit(&self, identity: &Identity) -> Result<(), Denied> {
        let is_known = Principal::from(identity).is_known();
        let is_admitted = match self {
            Self::Everyone => true,
            Self::Verified => is_known,
            Self::Granted(grants) => is_known || may_ping(grants, identity),
        };
        if is_admitted {
            Ok(())
        } else {
            Err(Denied::Anonymous)
        }
    }

    /// Whether a user, or with `None` someone who has not logged in, may do this; `catalog` and `ping` have no
    /// repository. The same judgement as [`Self::permit`]'s, for what is no request: the scope of a token.
    pub fn allows<'a>(
        &self,
        who: impl Into<Principal<'a>>,
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

    /// What of `asked` a token for this identity is good for, perhaps nothing.
    pub fn grant(&self, identity: &Identity, asked: Scope) -> Scope {
        asked.retain(|repository, action| self.allows(identity, action, repository))
    }
}

/// What the grants leave of `asked`.
fn granted(
    grants: &Grants,
    identity: &Identity,
    asked: RequestedAccess,
) -> Result<RequestedAccess, Denied> {
    let Some(operation) = asked.operation() else {
        return Err(denied(identity));
    };
    let who = Principal::from(identity);
    let is_ping_let_in = operation.action() == Action::Ping && may_ping(grants, identity);
    if !is_ping_let_in && !grants.allows(who, operation.action(), operation.repository()) {
        return Err(denied(identity));
    }
    Ok(asked.mount_if(|mount| match mount.from {
        Some(_) => grants.allows(who, Action::Pull, mount.from),
        // The registry chooses one, out of all it has.
        None => grants.can_pull_all(who),
    }))
}

/// Whether the identity may ping. A client that presents a token, even an anonymous one, has completed the challenge of
/// `GET /v2/`; it may ping if at least one grant applies to it.
fn may_ping(grants: &Grants, identity: &Identity) -> bool {
    identity.scope().is_some() && grants.of(identity).next().is_some()
}

/// What a token's scope leaves of `asked`. No scope speaks of paths, and none of a source that the registry chooses: such a
/// mount becomes a plain upload.
///
/// A mount whose source is still named here has passed [`granted`]: the client may pull there and lacks the token for it
/// only. It is asked for another one, by a challenge with both scopes, and can still mount. A source that the client may
/// not pull never gets here, so its mount is a plain upload whatever the token says.
fn within(scope: &Scope, asked: RequestedAccess) -> Result<RequestedAccess, Denied> {
    let operation = asked.operation().ok_or(Denied::Scope)?;
    if !scope.allows(operation.repository(), operation.action()) {
        return Err(Denied::Scope);
    }
    let source = operation.mount().and_then(|mount| mount.from);
    if source.is_some_and(|source| !scope.allows(Some(source), Action::Pull)) {
        return Err(Denied::Scope);
    }
    Ok(asked.mount_if(|mount| mount.from.is_some()))
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
    use crate::auth::Authenticator;
    use crate::net::addr::PeerAddr;
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
        let open = Authenticator::anonymous();
        open.authenticate(&headers, client).await.unwrap()
    }

    fn operation(method: &Method, path: &str, query: Option<&str>) -> RequestedAccess {
        match Operation::parse(method, path, query) {
            Ok(Parsed::Operation(operation)) => RequestedAccess::Operation(operation),
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
        let path = RequestedAccess::Path("/metrics".to_owned());
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
            let Ok(Authorization::Whole(permit)) = access.permit(&nobody, asked) else {
                panic!("no permit for {from:?}");
            };
            assert_eq!(permit.target().contains("mount="), mounts, "{from:?}");
            assert_eq!(permit.target().contains("from="), mounts, "{from:?}");
        }
    }

    #[tokio::test]
    async fn the_list_is_permitted_in_part_only() {
        let asked = operation(&Method::GET, "/v2/_catalog", Some("n=5&last=b"));
        let Ok(Authorization::Part(listing)) = open().permit(&anonymous().await, asked) else {
            panic!("not in part");
        };
        assert!(listing.is_visible("pub/a") && listing.is_visible("drop/a"));
        assert!(!listing.is_visible("secret") && !listing.is_visible("pub/A"));
        let page = |size, last| listing.catalog_page(size, last).target();
        assert_eq!(page(Some(7), Some("a/b")), "/v2/_catalog?n=7&last=a%2Fb");
        assert_eq!(page(None, None), "/v2/_catalog");
    }

    #[test]
    fn rights_are_asked_without_a_request() {
        for (access, user, pulls, pushes) in [
            (Access::Everyone, None, true, true),
            (Access::Verified, None, false, false),
            (Access::Verified, Some("eve"), true, true),
            (open(), None, true, false),
            (open(), Some("eve"), true, false),
        ] {
            for (action, may) in [(Action::Pull, pulls), (Action::Push, pushes)] {
                let found = access.allows(user, action, Some("pub/a"));
                assert_eq!(found, may, "{access:?} {user:?} {action}");
            }
        }
        assert!(!open().allows(None, Action::Ping, None));
        assert!(open().allows(Some("eve"), Action::Ping, None));
    }
}
