//! What a request asks for, before anyone knows who asks; and, once that is known, whether it goes on.
//!
//! Called by `service`. What is wrong with a request is an error here, and it is told only to those who may ask at all.

use http::{Method, request};

use crate::access::{Access, Authorization, RequestedAccess};
use crate::auth::Identity;
use crate::registry::{Action, Operation, Parsed, RegistryError, is_registry_path};
use crate::rejection::Rejection;
use crate::site::{Route, Site};
use crate::target::Target;

/// What a request asks for.
pub(super) enum Wanted {
    Forward(RequestedAccess),
    /// A spelling with a slash too many or too few, of something that may be permitted.
    Redirect {
        operation: Operation,
        location: String,
    },
    /// A read of what cannot exist in a repository that may be read.
    Missing {
        operation: Operation,
        invalid: RegistryError,
    },
}

impl Wanted {
    pub(super) fn operation(&self) -> Option<&Operation> {
        match self {
            Self::Forward(asked) => asked.operation(),
            Self::Redirect { operation, .. } | Self::Missing { operation, .. } => Some(operation),
        }
    }
}

/// Reads it from the request line; judges nothing.
pub(super) fn classify(
    site: &Site,
    route: &Route,
    parts: &request::Parts,
    target: &Target,
) -> Result<Wanted, Rejection> {
    if !(route.registry && is_registry_path(target.path())) {
        if matches!(parts.method, Method::TRACE | Method::CONNECT) {
            return Err(Rejection::Method);
        }
        return Ok(Wanted::Forward(RequestedAccess::Path(effective_operation(
            target,
        ))));
    }
    match Operation::parse(&parts.method, target.raw_path(), target.query())? {
        Parsed::Operation(operation) => Ok(Wanted::Forward(restrict_mount(operation, site, route))),
        Parsed::Redirect {
            operation,
            location,
        } => Ok(Wanted::Redirect {
            operation,
            location,
        }),
        Parsed::Missing { operation, invalid } => Ok(Wanted::Missing { operation, invalid }),
    }
}

/// A mount reads a blob of another repository. One that lies under another route is read under that route's
/// conditions, which this request has not met: a plain upload starts instead, as the specification asks
/// of a registry that cannot mount. Without a source the registry chooses one, so it must not be asked
/// where some of its repositories lie under another route. So must the list of all of them not be given as it is.
fn restrict_mount(operation: Operation, site: &Site, route: &Route) -> RequestedAccess {
    if operation.action() == Action::Catalog && !site.lists_all(route) {
        return RequestedAccess::SharedList(operation);
    }
    let is_ours = operation.mount().is_none_or(|mount| match mount.from {
        Some(source) => site.can_contain_blob(route, source, mount.digest),
        None => site.lists_all(route),
    });
    RequestedAccess::Operation(if is_ours {
        operation
    } else {
        operation.without_mount()
    })
}

/// Path and query, byte for byte.
pub(super) fn effective_operation(target: &Target) -> String {
    match target.query() {
        Some(query) => format!("{}?{query}", target.raw_path()),
        None => target.raw_path().to_owned(),
    }
}

/// What is done with a request that is permitted.
pub(super) enum Authorized {
    Forward(Authorization),
    Redirect(String),
}

/// Judges what is wanted; what is wrong with it is told to those who may ask here.
pub(super) fn authorize(
    access: &Access,
    identity: &Identity,
    wanted: Result<Wanted, Rejection>,
) -> Result<Authorized, Rejection> {
    match wanted {
        Ok(Wanted::Forward(asked)) => Ok(Authorized::Forward(access.permit(identity, asked)?)),
        Ok(Wanted::Redirect {
            operation,
            location,
        }) => {
            access.permit(identity, RequestedAccess::Operation(operation))?;
            Ok(Authorized::Redirect(location))
        }
        Ok(Wanted::Missing { operation, invalid }) => {
            access.permit(identity, RequestedAccess::Operation(operation))?;
            Err(invalid.into())
        }
        Err(refusal) => {
            access.admit(identity)?;
            Err(refusal)
        }
    }
}
