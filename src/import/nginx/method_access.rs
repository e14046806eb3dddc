//! Access that depends on the method: `limit_except`, `if ($request_method …)` and `map $request_method` in front of a registry.
//!
//! The model of nginx says what each method requires, whatever directives decide that. `access` makes grants of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use http::Method;

use crate::import::nginx::access::{MethodAccess, Networks, Requirement};
use crate::import::nginx::location_search::LocationNode;
use crate::import::nginx::nginx_model::NginxModel;
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::request::{Request, USUAL_CLIENT};
use crate::import::nginx::scope::Scope;
use crate::import::nginx::verdict::Outcome;

/// What a location of the server block at this position requires of each method; `None` if the method does not decide. `path` is the
/// path of its route.
pub(crate) fn read<'a>(
    model: &NginxModel<'a>,
    server: SourcePos,
    location: &LocationNode<'a>,
    path: &str,
) -> Result<Option<MethodAccess>, &'static str> {
    let networks =
        Networks::read(&location.scope).map_err(|_| "allow or deny is not understood")?;
    let mut clients = vec![IpAddr::from(USUAL_CLIENT)];
    clients.extend(networks_in(&location.scope));
    clients.retain(|client| networks.decide(*client) != Some(false));
    let prefix = path.trim_end_matches('/');
    let prefix = if prefix.is_empty() { "/v2" } else { prefix };
    let mut found: Option<MethodAccess> = None;
    for client in clients {
        let mut is_by_method = false;
        let requirement = |method: Method| {
            let address = SocketAddr::from(([127, 0, 0, 1], 443));
            let path = format!("{prefix}/q/manifests/t");
            let mut request = Request {
                method,
                client,
                has_certificate: true,
                ..Request::get(address, model.first_name(server), &path)
            };
            let mut respond = |file: Option<String>| {
                request.valid_in = file;
                model.take_dependencies();
                let outcome = model.respond_in(server, location, &request);
                let read = model.take_dependencies();
                is_by_method |= read.method;
                (outcome, read.files)
            };
            match respond(None) {
                (Outcome::Forward { .. }, _) => Some(Requirement::Nothing),
                // What the model does not know is not the business of grants: `compare` closes it.
                (Outcome::Unknown, _) => None,
                (Outcome::Closed, files) => {
                    let mut files = files.into_iter();
                    let file = files.find(|file| {
                        let (outcome, _) = respond(Some(file.clone()));
                        matches!(outcome, Outcome::Forward { .. })
                    });
                    Some(file.map_or(Requirement::Closed, Requirement::Password))
                }
            }
        };
        let methods = [
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ];
        let all: Option<Vec<_>> = methods.into_iter().map(requirement).collect();
        let Some(all) = all.filter(|_| is_by_method) else {
            return Ok(None);
        };
        let [get, head, post, put, patch, delete] = all.as_slice() else {
            return Ok(None);
        };
        if get != head || post != put || post != patch {
            return Err("methods that belong together have different rules");
        }
        let access = MethodAccess {
            read: get.clone(),
            write: post.clone(),
            delete: delete.clone(),
        };
        if found
            .replace(access.clone())
            .is_some_and(|found| found != access)
        {
            return Err("the method and the network of the client decide together");
        }
    }
    Ok(found)
}

/// Addresses inside of all networks that a block and the blocks in it name, and around these networks.
fn networks_in(scope: &Scope<'_>) -> Vec<IpAddr> {
    fn collect(directives: &[Directive], found: &mut BTreeSet<IpAddr>) {
        for directive in directives {
            if matches!(directive.name.as_str(), "allow" | "deny") {
                found.extend(Networks::addresses_around(directive.first()));
            }
            if matches!(directive.name.as_str(), "limit_except" | "if") {
                collect(directive.inner(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    collect(scope.own(), &mut found);
    found.into_iter().take(MAX_CLIENTS).collect()
}

/// The number of clients for which the rules are read. `compare` compares all of them.
const MAX_CLIENTS: usize = 64;
