//! Closes every route through which tidegate would forward a request that nginx does not forward.
//!
//! The importer translates locations by their usual meaning. Then [`close_differences`] builds the configuration, compares the model of
//! tidegate with the model of nginx for all probes, and closes or narrows the routes and sites with a difference, until there is
//! none.

use std::path::Path;

use http::Method;

use crate::config;
use crate::config::Config;

use crate::import::nginx::nginx_model::{Cause, NginxModel, Outcome, Verdict};
use crate::import::nginx::output;
use crate::import::nginx::output::{OutputConfig, Route, RouteAction, Site};
use crate::import::nginx::parser::SourcePos;
use crate::import::nginx::probes::Probes;
use crate::import::nginx::request::Request;
use crate::import::nginx::tidegate_model;
use crate::import::nginx::tidegate_model::Forwarded;

/// A remark with its position.
type Warning = (SourcePos, String);

/// A request that tidegate forwards and nginx does not, or not in the same way.
struct Difference {
    request: Request,
    forwarded: Forwarded,
    verdict: Verdict,
}

/// Closes all differences. Returns a warning for each change.
pub(crate) fn close_differences(
    output: &mut OutputConfig,
    model: &NginxModel<'_>,
    probes: &Probes,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let Some(config) = build(output) else {
            // A configuration with errors does not start, so it opens nothing.
            if let Some(site) = output.sites.first() {
                warnings.push((site.at, NOT_COMPARED.to_owned()));
            }
            return warnings;
        };
        let differences = find(&config, model, probes, &mut warnings);
        if differences.is_empty() {
            return warnings;
        }
        for difference in &differences {
            if let Some(warning) = close(output, &config, model, probes, difference) {
                warnings.push(warning);
            }
        }
        output.sites.retain(|site| !site.hosts.is_empty());
        if output.sites.is_empty() {
            return warnings;
        }
    }
    for site in &mut output.sites {
        warnings.push((
            site.at,
            "every route of this site is closed: the comparison with nginx did not end".to_owned(),
        ));
        for route in &mut site.routes {
            close_route(route, "the comparison with nginx did not end");
        }
    }
    warnings
}

fn build(output: &OutputConfig) -> Option<Config> {
    let mut text = String::new();
    output::write_tables(&mut text, output, &[]);
    let (config, problems) = config::parse(Path::new("/etc/tidegate/proxy.toml"), text.as_bytes());
    config.filter(|_| !problems.has_errors())
}

/// The differences: one for each route and cause.
fn find(
    config: &Config,
    model: &NginxModel<'_>,
    probes: &Probes,
    warnings: &mut Vec<Warning>,
) -> Vec<Difference> {
    let mut differences: Vec<Difference> = Vec::new();
    probes.each(config, |request| {
        let Some(forwarded) = tidegate_model::forward(config, request) else {
            return false;
        };
        let verdict = respond(model, request);
        if is_same(&forwarded, &verdict) {
            return false;
        }
        if request.method == Method::OPTIONS {
            // tidegate handles OPTIONS as GET, so it shows nothing that GET does not show.
            let get = Request {
                method: Method::GET,
                ..request.clone()
            };
            if is_same(&forwarded, &respond(model, &get)) {
                let warning = (verdict.cause.at, OPTIONS.to_owned());
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
                return false;
            }
        }
        if verdict.cause.is_unrestricted {
            let what = format!("{}: {NOTHING_THERE}", verdict.cause.label);
            let warning = (verdict.cause.at, what);
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
            return false;
        }
        let is_known = differences.iter().any(|known| {
            known.forwarded.site == forwarded.site
                && known.forwarded.route == forwarded.route
                && known.verdict.cause.cover == verdict.cause.cover
                && known.verdict.server == verdict.server
                && (known.forwarded.host == forwarded.host || forwarded.host == request.host)
        });
        if !is_known {
            differences.push(Difference {
                request: request.clone(),
                forwarded,
                verdict,
            });
        }
        true
    });
    differences
}

/// What nginx does with a request. A redirect to the path with a slash counts as what nginx does with that path.
fn respond(model: &NginxModel<'_>, request: &Request) -> Verdict {
    let verdict = model.respond(request);
    if !verdict.cause.is_slash_redirect || verdict.outcome != Outcome::Closed {
        return verdict;
    }
    let with_slash = Request {
        path: format!("{}/", request.path),
        ..request.clone()
    };
    model.respond(&with_slash)
}

fn is_same(forwarded: &Forwarded, verdict: &Verdict) -> bool {
    match &verdict.outcome {
        Outcome::Closed => false,
        Outcome::Forward {
            urls,
            sends_authorization,
        } => {
            forwarded.urls.iter().all(|url| urls.contains(url))
                && (*sends_authorization || !forwarded.sends_authorization)
        }
    }
}

/// Closes one difference. Returns the warning, or `None` if an earlier change of this round may have closed it.
fn close(
    output: &mut OutputConfig,
    config: &Config,
    model: &NginxModel<'_>,
    probes: &Probes,
    difference: &Difference,
) -> Option<Warning> {
    let Difference {
        request,
        forwarded,
        verdict,
    } = difference;
    let taken: Vec<String> = output
        .sites
        .iter()
        .flat_map(|site| site.hosts.iter().cloned())
        .collect();
    let site = output.sites.get_mut(forwarded.site)?;
    let is_other_server = verdict.server != Some(site.at);
    let is_pattern = forwarded.host != request.host;
    if is_other_server || is_pattern {
        let names = if is_pattern {
            names_without_difference(config, model, probes, difference, &taken)
        } else {
            Vec::new()
        };
        if is_other_server || !names.is_empty() {
            return narrow_hosts(site, difference, names);
        }
    }
    close_path(site, difference)
}

/// The hosts that match the pattern of a site and for which the same request makes no difference.
fn names_without_difference(
    config: &Config,
    model: &NginxModel<'_>,
    probes: &Probes,
    difference: &Difference,
    taken: &[String],
) -> Vec<String> {
    let mut names = Vec::new();
    for host in probes.hosts() {
        let request = Request {
            host: host.clone(),
            ..difference.request.clone()
        };
        let Some(forwarded) = tidegate_model::forward(config, &request) else {
            continue;
        };
        let is_of_pattern = forwarded.site == difference.forwarded.site
            && forwarded.host == difference.forwarded.host;
        let is_name = config::address::host_pattern(host).is_ok() && !host.contains('*');
        if is_of_pattern
            && is_name
            && !host.ends_with(".invalid")
            && !taken.contains(host)
            && is_same(&forwarded, &respond(model, &request))
        {
            names.push(host.clone());
        }
    }
    names
}

/// Replaces the pattern of a site by names.
fn narrow_hosts(site: &mut Site, difference: &Difference, names: Vec<String>) -> Option<Warning> {
    let pattern = &difference.forwarded.host;
    let position = site.hosts.iter().position(|host| host == pattern)?;
    site.hosts.remove(position);
    site.hosts_comment.clear();
    let replaced = if names.is_empty() {
        "is left out".to_owned()
    } else {
        format!("became {}", names.join(", "))
    };
    site.hosts.extend(names);
    let what = format!(
        "host {pattern} {replaced}: nginx does not forward {} at {} ({})",
        difference.request, difference.request.address, difference.verdict.cause.label
    );
    Some((site.at, what))
}

/// Closes the paths for which the cause decides: by a route of their own, or by the conditions of the cause's location, or
/// else by closing the route.
fn close_path(site: &mut Site, difference: &Difference) -> Option<Warning> {
    let Difference {
        request,
        forwarded,
        verdict: Verdict { cause, .. },
    } = difference;
    let model = site
        .routes
        .iter()
        .find(|route| route.at == cause.at && matches!(route.action, RouteAction::Forward { .. }))
        .cloned();
    let is_narrower = cause.cover.len() > forwarded.route.trim_end_matches('/').len();
    if is_narrower {
        let path = cause.cover.clone();
        let is_same = |route: &Route| route.path.trim_end_matches('/') == path;
        if site.routes.iter().any(is_same) {
            // An earlier difference of this round added the route.
            return None;
        }
        let at = cause.at;
        let (action, what) = match model {
            Some(model) => (model.action, "has the conditions of"),
            None => (respond_403(cause), "is closed because of"),
        };
        site.routes.push(Route {
            at,
            location: format!("for {}", cause.label),
            path: path.clone(),
            comment: None,
            action,
        });
        let what = format!(
            "the route {path} {what} {}: nginx does not forward {request} as the route {} would",
            cause.label, forwarded.route
        );
        return Some((at, what));
    }
    let route = site
        .routes
        .iter_mut()
        .find(|route| route.path == forwarded.route)?;
    let what = match model.filter(|model| model.at != route.at) {
        Some(model) => {
            route.at = model.at;
            route.action = model.action;
            "has the conditions of"
        }
        None => {
            close_route(route, &cause.label);
            "is closed because of"
        }
    };
    let what = format!(
        "the route {} {what} {}: nginx does not forward {request} as the route would",
        route.path, cause.label
    );
    Some((cause.at, what))
}

fn close_route(route: &mut Route, reason: &str) {
    route.action = RouteAction::Respond(403, Some(format!("closed: {reason}")));
}

fn respond_403(cause: &Cause) -> RouteAction {
    RouteAction::Respond(403, Some(format!("closed: {}", cause.label)))
}

/// The maximum number of rounds. Each round closes at least one route or host, so more rounds are an error of the models.
const MAX_ROUNDS: usize = 200;
const NOT_COMPARED: &str = "the result has errors that tidegate check reports, so it is not compared with nginx: import again after the correction, or compare each route by hand";
const NOTHING_THERE: &str =
    "nginx serves files or responds with 404 to some paths that tidegate forwards to the upstream";
const OPTIONS: &str = "tidegate handles OPTIONS as GET: it forwards OPTIONS where nginx responded itself or required more";
