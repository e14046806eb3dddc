//! Authorization: decides whether an identity may do what it requests, and issues a [`Permit`].
//!
//! `service` calls [`Access::permit`] for every request that was not rejected before. `config` builds the [`Grants`] of a
//! route. This is the only module that can create a [`Permit`], and `forward` requires one, so a request that was not
//! permitted here cannot be forwarded.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::auth::Identity;
use crate::registry::{Action, Mount, Operation, Scope, is_name};

mod grants;
mod pattern;

pub use grants::{Actions, Grant, Grants, Principal, Subjects};
pub use pattern::{MalformedPattern, Pattern};

/// The access that a request needs.
#[derive(Debug)]
pub enum RequestedAccess {
    /// An operation of the registry API, which is rebuilt from its parsed form when it is forwarded.
    Operation(Operation),
    /// The list of repositories, some of which belong to other routes of the site. It is always filtered.
    SharedList(Operation),
    /// A path and query outside of the registry API, which are forwarded as the client sent them.
    Path(String),
}

impl RequestedAccess {
    /// The operation, if the request is one of the registry API.
    pub fn operation(&self) -> Option<&Operation> {
        match self {
            Self::Operation(operation) | Self::SharedList(operation) => Some(operation),
            Self::Path(_) => None,
        }
    }

    /// Removes a mount from the request unless `is_allowed` accepts it, so that a plain upload starts. A mounted blob becomes
    /// readable in the repository to which it is mounted.
    fn without_mount_unless(self, is_allowed: impl FnOnce(Mount<'_>) -> bool) -> Self {
        match self {
            Self::Operation(operation) if !operation.mount().is_none_or(is_allowed) => {
                Self::Operation(operation.without_mount())
            }
            other => other,
        }
    }
}

/// Proof that an identity may perform a request. Only this module creates it.
#[derive(Debug)]
pub struct Permit {
    request: RequestedAccess,
}

impl Permit {
    /// The request target for the upstream: path and query.
    pub fn target(&self) -> String {
        match &self.request {
            RequestedAccess::Operation(operation) | RequestedAccess::SharedList(operation) => {
                operation.target()
            }
            RequestedAccess::Path(target) => target.clone(),
        }
    }

    /// The permitted operation, if the request is one of the registry API.
    pub fn operation(&self) -> Option<&Operation> {
        self.request.operation()
    }
}

/// What an identity may have of its request.
#[derive(Debug)]
pub enum Authorization {
    /// The whole request is permitted.
    Full(Permit),
    /// The request is for the list of repositories, and the identity may see those that it may pull.
    FilteredCatalog(CatalogFilter),
}

/// The right to read the list of repositories page by page, and to pass on the visible ones. Only this module creates it.
#[derive(Debug)]
pub struct CatalogFilter {
    access: Access,
    user: Option<String>,
    network: bool,
    operation: Operation,
}

impl CatalogFilter {
    /// The requested operation, with the page that the client asked for.
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// A permit for the proxy to read a page of the list after `last`, of `size` entries or of as many as the upstream chooses.
    pub fn catalog_page(&self, size: Option<usize>, last: Option<&str>) -> Permit {
        Permit {
            request: RequestedAccess::Operation(self.operation.clone().at_page(size, last)),
        }
    }

    /// Whether the identity may learn that the repository exists. Returns `false` for a name that the registry grammar does
    /// not allow.
    pub fn is_visible(&self, repository: &str) -> bool {
        let principal = Principal {
            user: self.user.as_deref(),
            network: self.network,
        };
        is_name(repository)
            && self
                .access
                .allows(principal, Action::Pull, Some(repository))
    }
}

/// The reason why a request is not permitted.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The client has not logged in, and the operation needs a login.
    #[error("authentication required")]
    Anonymous,
    /// The scope of the token does not cover the operation. Another token may.
    #[error("the token is not for this")]
    Scope,
    /// The user has no grant for the operation. The message is the same whether the requested resource exists or not.
    #[error("requested access to the resource is denied")]
    Forbidden,
}

/// The grants of one route, which are replaced while the proxy serves if they are in a file of their own.
#[derive(Debug)]
pub struct LiveGrants(ArcSwap<Grants>);

impl LiveGrants {
    /// Creates the grants as they were first read.
    pub fn new(grants: Arc<Grants>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(grants)))
    }

    /// The grants in use. Takes no lock.
    pub fn current(&self) -> Arc<Grants> {
        self.0.load_full()
    }

    /// Replaces the grants. Requests that were permitted before go on.
    pub fn replace(&self, grants: Arc<Grants>) {
        self.0.store(grants);
    }
}

/// The authorization rule of one route.
#[derive(Clone, Debug)]
pub enum Access {
    /// Every client may do everything, or the upstream decides.
    Everyone,
    /// Every verified user may do everything.
    Verified,
    /// A client may do what the grants allow, and nothing else.
    Granted(Arc<LiveGrants>),
}

impl Access {
    /// Permits `request`, or returns why it is denied.
    ///
    /// Grants are checked before the scope of a token: without a grant, no other token would help, so the client is not asked
    /// for one. A mount reads its source: without the right to pull there, a plain upload starts; with the right but with a
    /// token that does not cover it, the client is asked for another token. No grant covers a path outside of the registry
    /// API, so with grants such a path is denied.
    pub fn permit(
        &self,
        identity: &Identity,
        request: RequestedAccess,
    ) -> Result<Authorization, Denied> {
        let request = match self {
            Self::Granted(grants) => check_grants(&grants.current(), identity, request)?,
            Self::Verified if !Principal::from(identity).is_known() => {
                return Err(denied(identity));
            }
            Self::Everyone | Self::Verified => request,
        };
        let request = match identity.scope() {
            Some(scope) => intersect_scope(scope, request)?,
            None => request,
        };
        Ok(match self.catalog_filter(identity, request) {
            Ok(filter) => Authorization::FilteredCatalog(filter),
            Err(request) => Authorization::Full(Permit { request }),
        })
    }

    /// The filter for a request for the list of repositories, if the identity may see only some of them. Any other request is
    /// returned as the error. An upstream that verifies the credentials decides itself what it lists.
    fn catalog_filter(
        &self,
        identity: &Identity,
        request: RequestedAccess,
    ) -> Result<CatalogFilter, RequestedAccess> {
        let sees_all = match self {
            Self::Granted(grants) => grants.current().can_pull_all(identity),
            Self::Everyone | Self::Verified => true,
        };
        let operation = match request {
            RequestedAccess::SharedList(operation) if !identity.is_left_to_upstream() => operation,
            RequestedAccess::Operation(operation)
                if operation.action() == Action::Catalog && !sees_all =>
            {
                operation
            }
            request => return Err(request),
        };
        Ok(CatalogFilter {
            access: self.clone(),
            user: identity.user().map(str::to_owned),
            network: identity.is_network(),
            operation,
        })
    }

    /// Checks whether `identity` may learn anything about its request, such as why the request is malformed.
    ///
    /// With grants, every verified user may, also without any grant, because its request reveals nothing to others. A client
    /// with an anonymous token may if something is granted to anonymous clients, because another token would not repair the
    /// request. All others must log in.
    pub fn require_login(&self, identity: &Identity) -> Result<(), Denied> {
        let is_known = Principal::from(identity).is_known();
        let needs_no_login = match self {
            Self::Everyone => true,
            Self::Verified => is_known,
            Self::Granted(grants) => is_known || may_ping(&grants.current(), identity),
        };
        if needs_no_login {
            Ok(())
        } else {
            Err(Denied::Anonymous)
        }
    }

    /// Whether a principal may perform an action. `catalog` and `ping` have no repository. The decision is that of
    /// [`Self::permit`], for uses that have no request, such as the scope of a token.
    pub fn allows<'a>(
        &self,
        principal: impl Into<Principal<'a>>,
        action: Action,
        repository: Option<&str>,
    ) -> bool {
        let principal = principal.into();
        match self {
            Self::Everyone => true,
            Self::Verified => principal.is_known(),
            Self::Granted(grants) => grants.current().allows(principal, action, repository),
        }
    }

    /// The part of the requested scope that a token for this identity gets. It may be empty.
    pub fn grant(&self, identity: &Identity, requested: Scope) -> Scope {
        requested.retain(|repository, action| self.allows(identity, action, repository))
    }
}

/// Checks a request against the grants, and removes a mount whose source the identity may not pull.
fn check_grants(
    grants: &Grants,
    identity: &Identity,
    request: RequestedAccess,
) -> Result<RequestedAccess, Denied> {
    let Some(operation) = request.operation() else {
        return Err(denied(identity));
    };
    let principal = Principal::from(identity);
    let is_allowed_ping = operation.action() == Action::Ping && may_ping(grants, identity);
    if !is_allowed_ping && !grants.allows(principal, operation.action(), operation.repository()) {
        return Err(denied(identity));
    }
    Ok(request.without_mount_unless(|mount| match mount.from {
        Some(_) => grants.allows(principal, Action::Pull, mount.from),
        // The registry chooses the source among all its repositories.
        None => grants.can_pull_all(principal),
    }))
}

/// Whether the identity may ping. A client that presents a token, even an anonymous one, has completed the challenge of
/// `GET /v2/`; it may ping if at least one grant applies to it.
fn may_ping(grants: &Grants, identity: &Identity) -> bool {
    identity.scope().is_some() && grants.for_principal(identity).next().is_some()
}

/// Checks a request against the scope of a token. No scope covers a path outside of the registry API, nor a source that the
/// registry chooses: a mount without a source becomes a plain upload.
///
/// A mount that still names its source has passed [`check_grants`]: the client may pull there, and only its token does not
/// cover it. The client is then asked for another token, by a challenge with both scopes, and can still mount. A source that
/// the client may not pull was removed before, so its mount is a plain upload whatever the scope of the token.
fn intersect_scope(scope: &Scope, request: RequestedAccess) -> Result<RequestedAccess, Denied> {
    let operation = request.operation().ok_or(Denied::Scope)?;
    if !scope.allows(operation.repository(), operation.action()) {
        return Err(Denied::Scope);
    }
    let source = operation.mount().and_then(|mount| mount.from);
    if source.is_some_and(|source| !scope.allows(Some(source), Action::Pull)) {
        return Err(Denied::Scope);
    }
    Ok(request.without_mount_unless(|mount| mount.from.is_some()))
}

/// The reason for a denial, which decides how the client can go on: an anonymous client can log in, and a client with an
/// anonymous token can get another token.
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

    /// Anonymous clients may pull `pub/**`, push to `drop/*` and read the list of repositories.
    fn open() -> Access {
        let grant = |pattern: &str, actions: &[Action]| Grant {
            subjects: Subjects {
                anyone: true,
                ..Subjects::default()
            },
            patterns: vec![Pattern::parse(pattern).unwrap()],
            actions: actions.iter().copied().collect(),
            line: 1,
            file: None,
        };
        Access::Granted(LiveGrants::new(Arc::new(Grants::new([
            grant("pub/**", &[Action::Pull, Action::Catalog]),
            grant("drop/*", &[Action::Push]),
        ]))))
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
    async fn anonymous_clients_may_what_is_granted_to_them_and_must_otherwise_log_in() {
        let (access, identity) = (open(), anonymous().await);
        let may = |method: Method, path: &str| {
            let permitted = access.permit(&identity, operation(&method, path, None));
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
        // Clients decide by the response to this request whether to log in.
        assert!(!may(Method::GET, "/v2/"));
        let path = RequestedAccess::Path("/metrics".to_owned());
        assert!(matches!(
            access.permit(&identity, path),
            Err(Denied::Anonymous)
        ));
        assert!(matches!(
            access.require_login(&identity),
            Err(Denied::Anonymous)
        ));
    }

    #[tokio::test]
    async fn an_upload_mounts_only_from_repositories_that_may_be_pulled() {
        let (access, identity) = (open(), anonymous().await);
        for (from, mounts) in [
            ("&from=pub/a", true),
            ("&from=drop/b", true),
            ("&from=secret", false),
            ("", false),
        ] {
            let query = format!("mount={DIGEST}{from}");
            let request = operation(&Method::POST, "/v2/drop/a/blobs/uploads/", Some(&query));
            let Ok(Authorization::Full(permit)) = access.permit(&identity, request) else {
                panic!("no permit for {from:?}");
            };
            assert_eq!(permit.target().contains("mount="), mounts, "{from:?}");
            assert_eq!(permit.target().contains("from="), mounts, "{from:?}");
        }
    }

    #[tokio::test]
    async fn the_list_of_repositories_is_filtered() {
        let request = operation(&Method::GET, "/v2/_catalog", Some("n=5&last=b"));
        let Ok(Authorization::FilteredCatalog(filter)) = open().permit(&anonymous().await, request)
        else {
            panic!("not filtered");
        };
        assert!(filter.is_visible("pub/a") && filter.is_visible("drop/a"));
        assert!(!filter.is_visible("secret") && !filter.is_visible("pub/A"));
        let page = |size, last| filter.catalog_page(size, last).target();
        assert_eq!(page(Some(7), Some("a/b")), "/v2/_catalog?n=7&last=a%2Fb");
        assert_eq!(page(None, None), "/v2/_catalog");
    }

    #[test]
    fn actions_are_checked_without_a_request() {
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
