//! The `[[site.route]]` tables: where a route leads, and which clients may use it.
//!
//! Called by `sites`.

use std::path::Path;

use http::{HeaderName, HeaderValue, StatusCode};

use super::auth::{self, Auth};
use super::document::Spanned;
use super::form::{AnyKey, Form as _, Key, List, Named, Status, Text};
use super::grant_file::{self, GrantFile};
use super::grants::{self, GrantedRoute, Groups, RouteGrants};
use super::keys::respond;
use super::keys::route::{self, ForwardedWord};
use super::problem::{Position, Problem, quote};
use super::table::{ScalarOrTable, Table};
use super::upstreams::{self, Upstream, UpstreamLimits};
use super::url::ExternalUrl;
use super::value::{placeholders, write};
use crate::acme::ACME_CHALLENGE_PATH;
use crate::forward::headers::{Edits, FieldValue, ForwardedField, RequestEdits, is_reserved};
use crate::forward::{HeaderEdits, Origin};
use crate::net::cidr::{Cidr, Networks};
use crate::net::network_policy::NetworkPolicy;
use crate::registry::is_registry_path;
use crate::site::{Cors, StaticContent, StaticResponse};
use crate::template::Placeholder;

/// A `[[site.route]]` table with an upstream.
#[derive(Clone, Debug)]
pub struct Route {
    /// The position of its `auth`, or of the one of its site.
    pub auth_place: Position,
    /// The prefix of the paths that it serves.
    pub path: String,
    /// Whether `/v2/` below the path is a registry.
    pub is_registry: bool,
    /// Whether clients may open WebSockets.
    pub allows_websocket: bool,
    /// How clients log in.
    pub auth: Auth,
    /// The destination.
    pub upstream: Upstream,
    /// The maximum size of a request body in bytes.
    pub max_body: Option<u64>,
    /// Further origins by which the upstream calls itself.
    pub internal_origins: Vec<Origin>,
    /// The header fields that are set and removed.
    pub edits: HeaderEdits,
    /// The client networks that may use the route.
    pub network_policy: NetworkPolicy,
    /// The origins whose web pages may use the route.
    pub cors: Cors,
    /// The rights of users; with `None`, and without a [`Self::grant_file`], every verified user may do everything.
    pub grants: Option<RouteGrants>,
    /// A file with further rights of users.
    pub grant_file: Option<GrantFile>,
}

impl Route {
    /// Whether grants decide what users may do, in the configuration or in a file of their own.
    pub fn has_grants(&self) -> bool {
        self.grants.is_some() || self.grant_file.is_some()
    }
}

/// The result of reading a `[[site.route]]` table.
pub(crate) enum RouteOrResponse {
    /// A route to an upstream.
    Route(Box<Route>),
    /// A response of the proxy itself.
    Response(StaticResponse),
}

impl RouteOrResponse {
    /// The prefix of the paths.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Route(route) => &route.path,
            Self::Response(response) => &response.path,
        }
    }
}

/// What a route needs of its site and of the whole file.
pub(crate) struct RouteContext<'a> {
    /// The folder of relative paths.
    pub(crate) base: &'a Path,
    /// The limits of every upstream.
    pub(crate) limits: UpstreamLimits,
    /// The groups that grants may name.
    pub(crate) groups: &'a Groups,
    /// The `auth` of the site; `None` also if it is wrong.
    pub(crate) site_auth: Option<Auth>,
    /// The position of the site's `auth`, if it is written.
    pub(crate) site_auth_place: Option<Position>,
}

/// Reads a route.
pub(crate) fn read(table: &Table<'_>, context: &RouteContext<'_>) -> Option<RouteOrResponse> {
    table.require(&route::PATH, "path = \"/v2/\"");
    let path = table.get(&route::PATH);
    if let Some(path) = &path {
        check_case(table, path);
    }
    if table.place_of(&route::RESPOND).is_some() {
        return static_response(table, path, context.base).map(RouteOrResponse::Response);
    }
    table.require(&route::UPSTREAM, "upstream = \"http://127.0.0.1:5000\"");
    let auth = route_auth(table, context);
    let is_registry = table.value(&route::REGISTRY);
    let upstream = upstreams::read(
        table,
        context.base,
        context.limits,
        is_registry,
        path.as_ref().map(|path| path.value.as_str()),
    );
    if let (Some(path), Some(Auth::Token { .. })) = (&path, &auth) {
        check_token(table, path, is_registry);
    }
    let max_body = table.value(&route::MAX_BODY);
    let allows_websocket = allows_websocket(table, is_registry);
    let edits = HeaderEdits {
        request: request_edits(table, auth.as_ref()),
        forwarded: forwarded(table, path.as_ref()),
        response: response_edits(table),
    };
    let granted_route = GrantedRoute {
        auth: auth.clone(),
        path: path.as_ref().map(|path| path.value.clone()),
        is_registry: is_registry && may_be_registry(path.as_ref()),
    };
    let grants = grants::read(table, context.groups, &granted_route);
    let internal_origins = origins(table, &route::INTERNAL_ORIGINS);
    let network_policy = network_policy(table, auth.as_ref(), grants.as_ref());
    let grant_file = grant_file::read(
        table,
        context.base,
        context.groups,
        granted_route,
        &network_policy,
        grants.as_ref(),
    );
    let cors = origins(table, &route::CORS);
    let auth_place = table.place_of(&route::AUTH).or(context.site_auth_place);
    Some(RouteOrResponse::Route(Box::new(Route {
        auth_place: auth_place.unwrap_or_else(|| table.place()),
        path: path?.value,
        is_registry,
        allows_websocket,
        auth: auth?,
        upstream: upstream?,
        max_body: (max_body > 0).then_some(max_body),
        internal_origins: internal_origins.into_iter().map(Origin::from).collect(),
        edits,
        network_policy,
        cors: Cors::new(cors.iter().map(ToString::to_string)),
        grants,
        grant_file,
    })))
}

/// Warns of a path that differs from the path of the registry API in case only.
fn check_case(table: &Table<'_>, path: &Spanned<String>) {
    let Some(rest) = path.strip_prefix("/V2") else {
        return;
    };
    if !rest.is_empty() && !rest.starts_with('/') {
        return;
    }
    let what = format!("no registry client ever requests {}", path.value);
    table.report(
        Problem::warning(path.place, what)
            .because("the API is below /v2/, and upper and lower case are different paths (RFC 3986 section 6.2.2.1)")
            .fix(write(format_args!("/v2{rest}"))),
    );
}

/// Returns the `auth` of the route, or that of its site.
fn route_auth(table: &Table<'_>, context: &RouteContext<'_>) -> Option<Auth> {
    if context.site_auth_place.is_none() {
        table.require(
            &route::AUTH,
            "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }, here or in the site",
        );
    }
    match table.table(&route::AUTH) {
        Some(auth) => auth::read(&auth, context.base),
        None => context.site_auth.clone(),
    }
}

/// Checks a route with `mode = "token"`. Tokens are for repositories, and docker requests a token for all of them where `/v2/` is.
fn check_token(table: &Table<'_>, path: &Spanned<String>, is_registry: bool) {
    if !is_registry {
        let what = "a route that is no registry has mode = \"token\"";
        table.report(
            Problem::error(table.place_of(&route::REGISTRY), what)
                .because("tokens are for repositories; a client could reach nothing else with one")
                .fix("write mode = \"basic\""),
        );
    }
    if !matches!(path.trim_end_matches('/'), "" | "/v2") {
        let what = format!("the route {} has tokens of its own", path.value);
        table.report(
            Problem::warning(path.place, what)
                .because("docker, podman and skopeo request tokens at /v2/, and such tokens are not valid here")
                .fix("serve all of /v2/ by one route"),
        );
    }
}

/// Reads `websocket`. A registry has no WebSockets, so the key has no meaning there.
fn allows_websocket(table: &Table<'_>, is_registry: bool) -> bool {
    let written = table.get(&route::WEBSOCKET);
    if let (true, Some(written)) = (is_registry, &written) {
        table.report(
            Problem::error(written.place, "websocket on a route with a registry")
                .because(
                    "the registry API has no WebSockets; the key is valid on routes with registry = false",
                )
                .fix("remove it, or add registry = false to the route"),
        );
    }
    !is_registry && written.is_none_or(|written| written.value)
}

/// Whether `/v2/` or a part of it is below the path. A path that was rejected may be one, because it has a problem already.
fn may_be_registry(path: Option<&Spanned<String>>) -> bool {
    path.is_none_or(|path| path.trim_end_matches('/').is_empty() || is_registry_path(path))
}

/// Reads a route with `respond`, and reports the keys that it does not use.
fn static_response(
    table: &Table<'_>,
    path: Option<Spanned<String>>,
    base: &Path,
) -> Option<StaticResponse> {
    let response = response(table, path.as_ref(), base);
    if let Some(place) = table.place_of(&route::UPSTREAM) {
        table.report(
            Problem::error(place, "a route has both respond and upstream")
                .because("no request would ever reach the upstream")
                .fix("remove one of them"),
        );
    }
    let useless: [&dyn AnyKey; 14] = [
        &route::AUTH,
        &route::GRANT,
        &route::GRANT_FILE,
        &route::REGISTRY,
        &route::MAX_BODY,
        &route::INTERNAL_ORIGINS,
        &route::REQUEST_HEADERS,
        &route::RESPONSE_HEADERS,
        &route::ALLOW,
        &route::DENY,
        &route::SATISFY,
        &route::CORS,
        &route::FORWARDED,
        &route::WEBSOCKET,
    ];
    for key in useless {
        if let Some(place) = table.place_of(key) {
            let what = format!("{} in a route with respond", key.name());
            table.report(
                Problem::error(place, what)
                    .because("every client gets the same response there, without a password")
                    .fix("remove it"),
            );
        }
    }
    let (status, content) = response?;
    Some(StaticResponse {
        path: path?.value,
        status,
        content,
    })
}

/// Reads the value of `respond`: a status, a table with a status and a location or a text, or a table with a directory.
fn response(
    table: &Table<'_>,
    path: Option<&Spanned<String>>,
    base: &Path,
) -> Option<(StatusCode, StaticContent)> {
    let response = match table.scalar_or_table(&route::RESPOND)? {
        ScalarOrTable::Scalar(item) => {
            let status = item.spanned(Status.read(&item)?);
            check_status(table, "respond", &status, Content::Usual);
            return Some((status.value, StaticContent::Usual));
        }
        ScalarOrTable::Table(response) => response,
    };
    if response.place_of(&respond::FILES).is_some() {
        let files = webroot(table, &response, path)?;
        return Some((StatusCode::OK, StaticContent::Webroot(base.join(files))));
    }
    response.require(&respond::STATUS, "status = 308");
    let status = response.get(&respond::STATUS);
    let (location, text) = (
        response.get(&respond::LOCATION),
        response.get(&respond::TEXT),
    );
    if let (Some(_), Some(text)) = (&location, &text) {
        table.report(
            Problem::error(text.place, "respond has both location and text")
                .because("a client that follows a redirect does not display a text")
                .fix("remove one of them"),
        );
    }
    let is_written = |key: &dyn AnyKey| response.place_of(key).is_some();
    let kind = if is_written(&respond::LOCATION) {
        Content::Location
    } else if is_written(&respond::TEXT) {
        Content::Text
    } else {
        Content::Usual
    };
    if let Some(status) = &status {
        check_status(table, "respond.status", status, kind);
    }
    let content = match (kind, location, text) {
        (Content::Usual, ..) => StaticContent::Usual,
        (Content::Location, location, _) => StaticContent::Location(location?.value),
        (Content::Text, _, text) => StaticContent::Text(text?.value),
    };
    Some((status?.value, content))
}

/// Reads `respond.files`, the directory of an ACME client, and reports keys and a path that do not fit.
fn webroot(
    table: &Table<'_>,
    response: &Table<'_>,
    path: Option<&Spanned<String>>,
) -> Option<String> {
    let others: [&dyn AnyKey; 3] = [&respond::STATUS, &respond::LOCATION, &respond::TEXT];
    if let Some((other, place)) = others
        .into_iter()
        .find_map(|other| Some((other, response.place_of(other)?)))
    {
        table.report(
            Problem::error(
                place,
                format!("respond has both files and {}", other.name()),
            )
            .because("the response is the file, or 404")
            .fix("remove one of them"),
        );
    }
    if let Some(path) = path
        && path.trim_end_matches('/') != ACME_CHALLENGE_PATH.trim_end_matches('/')
    {
        table.report(
            Problem::error(path.place, format!("respond.files on the route {}", path.value))
                .because("the proxy serves files for the challenges of certificate authorities only (RFC 8555 section 8.3)")
                .fix(format!("write path = \"{ACME_CHALLENGE_PATH}\"")),
        );
    }
    Some(response.get(&respond::FILES)?.value)
}

/// What a response has besides its status.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Usual,
    Location,
    Text,
}

/// Checks that the status fits the rest of the response.
fn check_status(table: &Table<'_>, name: &str, status: &Spanned<StatusCode>, kind: Content) {
    let code = status.as_u16();
    let report = |why: &str, fix: &str| {
        table.report(
            Problem::error(status.place, format!("{name} is {code}"))
                .because(why)
                .fix(fix),
        );
    };
    let is_redirect = matches!(code, 301 | 302 | 303 | 307 | 308);
    match kind {
        Content::Location if !is_redirect => report(
            "clients follow a location only with a status of a redirect",
            "write status = 308, or 301, 302, 303 or 307",
        ),
        Content::Usual | Content::Text if status.is_redirection() || matches!(code, 401 | 407) => {
            report(
                "a response with this status names a destination or a challenge, and the route has neither",
                "write a status such as 404 or 403, or { status = 308, location = \"https://ui.example.com{path}\" }",
            );
        }
        Content::Text if matches!(code, 204 | 205) => report(
            "a response with this status has no body (RFC 9110 section 15.3.5)",
            "write status = 200, or remove the text",
        ),
        Content::Usual | Content::Location | Content::Text => {}
    }
}

/// Reads the header fields of responses that the operator sets or removes.
fn response_edits(table: &Table<'_>) -> Edits {
    let fields = fields(table, &route::RESPONSE_HEADERS);
    let edits = fields.into_iter().filter_map(|(name, value)| {
        Some(match value.is_empty() {
            true => (name, None),
            false => (name.clone(), Some(field_value(table, &name, &value)?)),
        })
    });
    edits.collect()
}

/// Reads the header fields of requests that the operator sets or removes. Their values may have placeholders.
fn request_edits(table: &Table<'_>, auth: Option<&Auth>) -> RequestEdits {
    use Placeholder::{Client, Host, Scheme, User};
    let fields = fields(table, &route::REQUEST_HEADERS);
    let edits = fields.into_iter().filter_map(|(name, value)| {
        if value.is_empty() {
            return Some((name, None));
        }
        let fixed = field_value(table, &name, &value)?;
        let template = match placeholders(&value, &[Host, Scheme, Client, User]) {
            Ok(template) => template,
            Err(error) => {
                let what = format!("the value of {name}: {error}");
                table.report(Problem::error(value.place, what).fix(error.remedy()));
                return None;
            }
        };
        if template.has(User) && matches!(auth, Some(Auth::LeftToUpstream | Auth::Open)) {
            table.report(
                Problem::error(
                    value.place,
                    format!("the value of {name} has {{user}} where the proxy verifies no user"),
                )
                .because("the value would always be empty")
                .fix("write mode = \"basic\" or \"token\", or remove the placeholder"),
            );
            return None;
        }
        let value = match template.as_literal() {
            Some(_) => FieldValue::Fixed(fixed),
            None => FieldValue::Template(template),
        };
        Some((name, Some(value)))
    });
    edits.collect()
}

/// Reads a table of header fields, without those that the operator must not name.
fn fields(table: &Table<'_>, key: &Key<Named<Text<String>>>) -> Vec<(HeaderName, Spanned<String>)> {
    let mut accepted = Vec::new();
    let fields = table
        .get(key)
        .into_iter()
        .flat_map(|fields| fields.value.values);
    for (name, value) in fields {
        let header = HeaderName::from_bytes(name.as_bytes()).ok();
        match header {
            None => table.report(
                Problem::error(name.place, format!("{} is no header name", quote(&name)))
                    .because("a field name is a token (RFC 9110 section 5.6.2)")
                    .fix("use letters, digits and \"-\""),
            ),
            Some(header) if is_reserved(&header) => table.report(
                Problem::error(name.place, format!("{header} cannot be set or removed"))
                    .because(
                        "Host, framing, hop-by-hop fields, X-Forwarded-*, X-Real-IP and X-Request-Id belong to the proxy, \
                         and names with \"_\" never reach an upstream",
                    )
                    .fix("remove it"),
            ),
            Some(header) => accepted.push((header, value)),
        }
    }
    accepted
}

fn field_value(
    table: &Table<'_>,
    name: &HeaderName,
    value: &Spanned<String>,
) -> Option<HeaderValue> {
    let parsed = HeaderValue::from_str(value);
    if parsed.is_err() {
        table.report(
            Problem::error(
                value.place,
                format!("the value of {name} is not valid in a header field"),
            )
            .because("a field value has no control characters (RFC 9110 section 5.5)")
            .fix("use visible characters, blanks and tabs"),
        );
    }
    parsed.ok()
}

/// Reads the further fields about the client's request that the upstream gets.
fn forwarded(table: &Table<'_>, path: Option<&Spanned<String>>) -> Vec<ForwardedField> {
    let words = table.get(&route::FORWARDED).into_iter();
    let words = words.flat_map(|list| list.value.into_values());
    let prefix = path
        .map(|path| path.trim_end_matches('/'))
        .unwrap_or_default();
    let fields = words.filter_map(|word| {
        Some(match word {
            ForwardedWord::Host => ForwardedField::Host,
            ForwardedWord::Port => ForwardedField::Port,
            // There is no prefix to tell of on a route with the path "/".
            ForwardedWord::Prefix if prefix.is_empty() => return None,
            ForwardedWord::Prefix => ForwardedField::Prefix(HeaderValue::from_str(prefix).ok()?),
            ForwardedWord::OriginalUri => ForwardedField::OriginalUri,
        })
    });
    fields.collect()
}

fn origins(table: &Table<'_>, key: &Key<List<ExternalUrl>>) -> Vec<ExternalUrl> {
    let Some(list) = table.get(key) else {
        return Vec::new();
    };
    if list.is_written_empty() {
        let what = format!("{} is empty", table.path_of(key));
        table.report(Problem::warning(list.place, what).fix("remove it"));
    }
    list.value.into_values().collect()
}

/// Reads `allow`, `deny` and `satisfy`, and checks them together with `auth` and the grants.
fn network_policy(
    table: &Table<'_>,
    auth: Option<&Auth>,
    grants: Option<&RouteGrants>,
) -> NetworkPolicy {
    let allow = networks(table, &route::ALLOW);
    let deny = networks(table, &route::DENY);
    let satisfy_any = table.get(&route::SATISFY).filter(|any| any.value);
    if let Some(satisfy_any) = satisfy_any {
        check_satisfy_any(table, satisfy_any.place, auth, grants);
        if allow.cover_most_addresses() && !deny.cover_most_addresses() {
            let what = "satisfy = \"any\" where allow contains nearly every address";
            table.report(
                Problem::warning(satisfy_any.place, what)
                    .because("a client from an allowed network needs no password, so nearly every client needs none")
                    .fix("name in allow only the networks that need no password, or remove satisfy"),
            );
        }
    } else if grants.is_some_and(|parsed| parsed.grants.mentions_network()) {
        let what = "a grant to \"@network\" without satisfy = \"any\"";
        table.report(
            Problem::error(table.place_of(&route::GRANT), what)
                .because("\"@network\" is every client from a network that needs no password, and no network is one")
                .fix("add satisfy = \"any\" and allow = [\"10.0.0.0/8\"] to the route, or remove it"),
        );
    }
    NetworkPolicy {
        allow,
        deny,
        suffices_alone: satisfy_any.is_some(),
    }
}

/// Checks a route with `satisfy = "any"`: it must name the networks that need no password, and other clients must need one.
fn check_satisfy_any(
    table: &Table<'_>,
    place: Position,
    auth: Option<&Auth>,
    grants: Option<&RouteGrants>,
) {
    let report = |what: &str, why: &str, fix: &str| {
        table.report(Problem::error(place, what).because(why).fix(fix));
    };
    if table.place_of(&route::ALLOW).is_none() {
        report(
            "satisfy = \"any\" without allow",
            "every network would suffice, and no client would need a password",
            "add allow = [\"10.0.0.0/8\"], the networks that need no password",
        );
    }
    match auth {
        Some(Auth::LeftToUpstream | Auth::Open) => report(
            "satisfy = \"any\" where the proxy requires no password",
            "there is no password that a network could replace",
            "remove it, or write mode = \"basic\"",
        ),
        Some(Auth::Basic { .. })
            if grants.is_some() || table.place_of(&route::GRANT_FILE).is_some() =>
        {
            report(
                "satisfy = \"any\" with grants and mode = \"basic\"",
                "docker decides by one request without a password, to /v2/, whether it ever sends one: either no client \
             could pull from the network without a login, or no client there could do more than the network may",
                "write mode = \"token\", or remove one of the two",
            )
        }
        Some(Auth::Basic { .. } | Auth::Token { .. }) | None => {}
    }
    if let (Some(Auth::Token { .. }), Some(parsed)) = (auth, grants)
        && !parsed.grants.mentions_network()
        && table.place_of(&route::GRANT_FILE).is_none()
    {
        let what = "satisfy = \"any\" with grants, none of which is to \"@network\"";
        table.report(
            Problem::warning(place, what)
                .because("a client without a password may do nothing from these networks, either")
                .fix("add \"@network\" to a grant"),
        );
    }
}

fn networks(table: &Table<'_>, key: &Key<List<Vec<Cidr>>>) -> Networks {
    let Some(list) = table.get(key) else {
        return Networks::default();
    };
    if list.is_written_empty() {
        let what = format!("{} is empty", table.path_of(key));
        table.report(
            Problem::error(list.place, what)
                .because("whether it means every client or none would be a guess")
                .fix("name networks, or \"all\", or remove it"),
        );
    }
    list.value.into_values().flatten().collect()
}

#[cfg(test)]
mod tests;
