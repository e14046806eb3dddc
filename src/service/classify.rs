//! Finds out what a request asks for, before its client is authenticated; and decides, once the identity is known,
//! whether the request goes on.
//!
//! Called by `service`. A request that asks for nothing valid is an error of [`classify`], which [`authorize`]
//! reports only to clients that may send requests on the route at all.

use http::{Method, request};

use crate::access::{Access, Authorization, RequestedAccess};
use crate::auth::Identity;
use crate::registry::{Action, Operation, Parsed, RegistryError, is_registry_path};
use crate::rejection::Rejection;
use crate::site::{Route, Site};
use crate::target::Target;

/// What a request asks for.
pub(super) enum ClassifiedRequest {
    /// The request is forwarded if the client has this access.
    Forward(RequestedAccess),
    /// The path has a slash too many or too few. The client is redirected to `location` if it may perform the
    /// operation.
    Redirect {
        operation: Operation,
        location: String,
    },
    /// The request reads something that cannot exist. The client gets the error `invalid` if it may perform the
    /// operation, that is, if it may read the repository.
    Missing {
        operation: Operation,
        invalid: RegistryError,
    },
}

impl ClassifiedRequest {
    /// The operation of the registry API, if the request is one.
    pub(super) fn operation(&self) -> Option<&Operation> {
        match self {
            Self::Forward(access) => access.operation(),
            Self::Redirect { operation, .. } | Self::Missing { operation, .. } => Some(operation),
        }
    }
}

/// Reads what a request asks for from its request line, whatever the client may do.
pub(super) fn classify(
    site: &Site,
    route: &Route,
    parts: &request::Parts,
    target: &Target,
) -> Result<ClassifiedRequest, Rejection> {
    if !(route.is_registry && is_registry_path(target.path())) {
        if matches!(parts.method, Method::TRACE | Method::CONNECT) {
            return Err(Rejection::MethodNotAllowed);
        }
        let access = RequestedAccess::Path(target.path_and_query());
        return Ok(ClassifiedRequest::Forward(access));
    }
    match Operation::parse(&parts.method, target.raw_path(), target.query())? {
        Parsed::Operation(operation) => {
            let access = restrict_to_route(operation, site, route);
            Ok(ClassifiedRequest::Forward(access))
        }
        Parsed::Redirect {
            operation,
            location,
        } => Ok(ClassifiedRequest::Redirect {
            operation,
            location,
        }),
        Parsed::Missing { operation, invalid } => {
            Ok(ClassifiedRequest::Missing { operation, invalid })
        }
    }
}

/// Restricts an operation to the repositories of its route.
///
/// A cross-repository mount reads a blob of another repository. If that repository is on another route, the mount
/// would read it under the conditions of that route, which this request has not met. The proxy then drops the mount,
/// so that a plain upload starts instead, as the distribution specification asks of a registry that cannot mount. A
/// mount without a source lets the registry choose one. It is dropped where some repositories are on another route.
///
/// The catalog is filtered for the same reason where some repositories are on another route.
fn restrict_to_route(operation: Operation, site: &Site, route: &Route) -> RequestedAccess {
    if operation.action() == Action::Catalog && !site.may_list_all(route) {
        return RequestedAccess::SharedList(operation);
    }
    let is_on_route = operation.mount().is_none_or(|mount| match mount.from {
        Some(source) => site.can_contain_blob(route, source, mount.digest),
        None => site.may_list_all(route),
    });
    RequestedAccess::Operation(if is_on_route {
        operation
    } else {
        operation.without_mount()
    })
}

/// What the proxy does with a request that the client may send.
pub(super) enum Authorized {
    Forward(Authorization),
    /// Redirects the client to this location.
    Redirect(String),
}

/// Decides whether the client may send the request. If the request is invalid, the error is reported only to clients
/// that may send requests on this route; other clients get the same rejection as for a valid request.
pub(super) fn authorize(
    access: &Access,
    identity: &Identity,
    classified: Result<ClassifiedRequest, Rejection>,
) -> Result<Authorized, Rejection> {
    match classified {
        Ok(ClassifiedRequest::Forward(requested)) => {
            Ok(Authorized::Forward(access.permit(identity, requested)?))
        }
        Ok(ClassifiedRequest::Redirect {
            operation,
            location,
        }) => {
            access.permit(identity, RequestedAccess::Operation(operation))?;
            Ok(Authorized::Redirect(location))
        }
        Ok(ClassifiedRequest::Missing { operation, invalid }) => {
            access.permit(identity, RequestedAccess::Operation(operation))?;
            Err(invalid.into())
        }
        Err(rejection) => {
            access.require_login(identity)?;
            Err(rejection)
        }
    }
}
