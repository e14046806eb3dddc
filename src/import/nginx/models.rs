//! The two models of the comparison, for the test that compares them with the real programs.

use std::path::{Path, PathBuf};

use crate::config;

use crate::import::nginx::context::Context;
use crate::import::nginx::error::Error;
use crate::import::nginx::importer;
use crate::import::nginx::includes;
use crate::import::nginx::includes::FileSource;
use crate::import::nginx::nginx_model::NginxModel;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::tidegate_model::Sites;

pub use crate::import::nginx::request::Request;
pub use crate::import::nginx::tidegate_model::Forwarded;
pub use crate::import::nginx::verdict::Outcome;

/// What the model says that nginx does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The outcome.
    pub outcome: Outcome,
    /// Whether nginx rejects no client but has nothing to forward.
    pub is_only_missing: bool,
    /// Whether nginx does not forward the request only because its path has no slash at its end.
    pub is_slash_redirect: bool,
    /// Whether nginx forwards the request although its path only begins with the text of the location: `/uix` for `/ui`.
    pub is_sibling: bool,
}

/// What nginx with these files does with each request, according to the model.
///
/// # Errors
///
/// The files cannot be read, or are not nginx's syntax.
pub fn nginx(
    files: &dyn FileSource,
    names: &[PathBuf],
    prefix: &Path,
    requests: &[Request],
) -> Result<Vec<Prediction>, Error> {
    let input = includes::read(files, names, prefix)?;
    let context = Context::new(&input.http, prefix);
    let servers = importer::servers(&Scope::new(&input.http));
    let model = NginxModel::new(&context, &input.http, &servers);
    let predict = |request: &Request| {
        let server = model.server(request.address, &request.host);
        let verdict = model.respond(server, request);
        Prediction {
            outcome: verdict.outcome,
            is_only_missing: verdict.cause.is_only_missing,
            is_slash_redirect: verdict.cause.is_slash_redirect,
            is_sibling: verdict.cause.is_sibling,
        }
    };
    Ok(requests.iter().map(predict).collect())
}

/// What tidegate with this `proxy.toml` forwards of each request, according to the model; `None` for its own responses. Without a
/// valid configuration it forwards nothing.
pub fn tidegate(toml: &str, requests: &[Request]) -> Vec<Option<Forwarded>> {
    let (config, problems) = config::parse(Path::new("/etc/tidegate/proxy.toml"), toml.as_bytes());
    let config = config.filter(|_| !problems.has_errors());
    let sites = config.as_ref().map(Sites::new);
    let forward = |request: &Request| sites.as_ref()?.forward(request.address, request);
    requests.iter().map(forward).collect()
}
