//! Which header fields the proxy passes on, removes and adds, in both directions: functions on header maps.
//!
//! `forward` calls them. The order is important: first all fields that must not pass are removed from the sender's header
//! section, then the proxy adds its own. A sender can therefore not remove the proxy's fields by naming them in `Connection`
//! (`Connection: X-Forwarded-For`).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::context::ForwardContext;
use crate::forwarded::{ClientInfo, FORWARDED_FOR, FORWARDED_PROTO, REAL_IP, REQUEST_ID};
use crate::net::host::with_brackets;
use crate::template::{Placeholder, Template};
use crate::text::list_elements;

/// Fields that the operator sets, or removes if the value is `None`.
pub type Edits = Vec<(HeaderName, Option<HeaderValue>)>;

/// Fields of requests that the operator sets, or removes if the value is `None`.
pub type RequestEdits = Vec<(HeaderName, Option<FieldValue>)>;

/// The value of a request field that the operator sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// The same value for every request.
    Fixed(HeaderValue),
    /// A value with placeholders.
    Template(Template),
}

/// A field that tells the upstream more about the request of the client, if the route asks for it (`route.forwarded`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardedField {
    /// `X-Forwarded-Host`: the host and port of the URLs that clients use.
    Host,
    /// `X-Forwarded-Port`: the port of the URLs that clients use.
    Port,
    /// `X-Forwarded-Prefix`: the path of the route without the slash at its end.
    Prefix(HeaderValue),
    /// `X-Original-URI`: path and query byte for byte as the client sent them.
    OriginalUri,
}

/// Removes the fields of a request that must not reach the upstream.
///
/// `Authorization` is kept with `keep_authorization`, where the upstream checks the credentials.
pub(crate) fn strip_request(headers: &mut HeaderMap, keep_authorization: bool) {
    remove_connection_options_and(headers, |name| {
        is_hop_by_hop(name)
            || is_forwarding_header(name.as_str())
            || (name == header::AUTHORIZATION && !keep_authorization)
    });
    join_cookies(headers);
}

/// Adds the fields of the proxy to a request: Host, the client, the scheme, and the request id.
pub(crate) fn add_request(
    headers: &mut HeaderMap,
    host: HeaderValue,
    client: &ClientInfo,
    request_id: &str,
) {
    headers.insert(header::HOST, host);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(client.scheme));
    headers.insert(FORWARDED_FOR, client.forwarded_for().clone());
    headers.insert(REAL_IP, client.real_ip().clone());
    // The ids that the proxy creates are legal field values.
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Adds a field about the request of the client. A field of this name that the client sent was removed before.
pub(crate) fn add_forwarded(
    headers: &mut HeaderMap,
    field: &ForwardedField,
    context: &ForwardContext<'_>,
) {
    let external = context.external;
    let (name, value) = match field {
        ForwardedField::Host => (
            FORWARDED_HOST,
            HeaderValue::from_str(external.authority).ok(),
        ),
        ForwardedField::Port => (FORWARDED_PORT, external.port().map(HeaderValue::from)),
        ForwardedField::Prefix(prefix) => (FORWARDED_PREFIX, Some(prefix.clone())),
        ForwardedField::OriginalUri => (
            ORIGINAL_URI,
            HeaderValue::from_str(&context.target.path_and_query()).ok(),
        ),
    };
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

/// Sets `Upgrade` of a message that opens a WebSocket. `Connection` is set where the message is written.
pub(crate) fn set_upgrade(headers: &mut HeaderMap) {
    let websocket = HeaderValue::from_static("websocket");
    headers.insert(header::UPGRADE, websocket);
}

/// Removes the fields of a response that concern only the upstream and the proxy.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    remove_connection_options_and(headers, |name| {
        is_hop_by_hop(name) || name.as_str().starts_with("x-accel-")
    });
}

fn remove_connection_options_and(headers: &mut HeaderMap, filter: impl Fn(&HeaderName) -> bool) {
    let mut removed = connection_options(headers);
    removed.extend(headers.keys().filter(|name| filter(name)).cloned());
    for name in removed {
        headers.remove(name);
    }
}

/// Adds the attribute `Secure` to cookies. An upstream behind the proxy does not know that clients use https.
pub(crate) fn secure_cookies(headers: &mut HeaderMap) {
    if let header::Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) {
        for cookie in cookies.iter_mut() {
            let mut attributes = cookie.as_bytes().split(|byte| *byte == b';').skip(1);
            if !attributes.any(|attribute| attribute.trim_ascii().eq_ignore_ascii_case(b"secure"))
                && let Ok(secure) =
                    HeaderValue::from_bytes(&[cookie.as_bytes(), b"; Secure"].concat())
            {
                *cookie = secure;
            }
        }
    }
}

/// Applies the fields of the operator.
pub(crate) fn edit(headers: &mut HeaderMap, edits: &Edits) {
    for (name, value) in edits {
        match value {
            Some(value) => headers.insert(name, value.clone()),
            None => headers.remove(name),
        };
    }
}

/// Applies the fields of the operator to a request. A value that is empty, or that would not be legal in a header field,
/// removes the field, so that a value of the client never takes its place.
pub(crate) fn edit_request(
    headers: &mut HeaderMap,
    edits: &RequestEdits,
    context: &ForwardContext<'_>,
) {
    for (name, value) in edits {
        let value = match value {
            None => None,
            Some(FieldValue::Fixed(value)) => Some(value.clone()),
            Some(FieldValue::Template(template)) => {
                let value = render(template, context);
                HeaderValue::from_bytes(value.as_bytes())
                    .ok()
                    .filter(|value| !value.is_empty())
            }
        };
        match value {
            Some(value) => headers.insert(name, value),
            None => headers.remove(name),
        };
    }
}

fn render(template: &Template, context: &ForwardContext<'_>) -> String {
    let client = context.client_info.client.to_string();
    let host = with_brackets(context.target.host());
    // A name with bytes that are not UTF-8 has lost them, and the upstream drops spaces around a field value (RFC 9110 section
    // 5.5). What is left could be the name of another user.
    let is_whole =
        |user: &&str| !user.contains('\u{fffd}') && user.trim_matches([' ', '\t']) == *user;
    let user = context.user.filter(is_whole);
    template.render(|placeholder| match placeholder {
        Placeholder::Host => &host,
        Placeholder::Scheme => context.client_info.scheme,
        Placeholder::Client => &client,
        Placeholder::User => user.unwrap_or_default(),
        // The configuration does not allow these here.
        Placeholder::Path | Placeholder::Query => "",
    })
}

/// Whether the operator must not set the field: it frames or routes a message, is hop-by-hop, or carries what the proxy states
/// about the client.
pub fn is_reserved(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || name == header::HOST
        || name == header::CONTENT_LENGTH
        || is_forwarding_header(name.as_str())
}

/// The names in all `Connection` fields (RFC 9110 section 7.6.1), without the fields that frame, route, describe or authorise a
/// message: a sender must not be able to remove those.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    // `keep-alive` is the usual option, and a field of that name is removed in any case.
    let options = list_elements(headers, &header::CONNECTION)
        .filter(|option| !option.eq_ignore_ascii_case(b"keep-alive"));
    let names = options.filter_map(|option| HeaderName::from_bytes(option).ok());
    let kept = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
    ];
    names.filter(|name| !kept.contains(name)).collect()
}

/// Whether the field applies to one connection (RFC 9110 section 7.6.1), or has no meaning after the proxy (`Expect`,
/// `HTTP2-Settings`, proxy authentication).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
    )
}

/// Whether the field states who the client is or what it requested.
///
/// Such a field from a client is a forgery, and a registry builds its URLs from these fields, with `Forwarded` before all
/// others. Upstreams that map fields to CGI variables read `_` in a name as `-`, so every name with `_` counts as well.
fn is_forwarding_header(name: &str) -> bool {
    name.contains('_')
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-original-")
        || name.starts_with("proxy-")
        || matches!(
            name,
            "forwarded"
                | "x-forwarded"
                | "x-real-ip"
                | "x-request-id"
                | "x-rewrite-url"
                | "x-http-method-override"
                | "x-http-method"
                | "x-method-override"
                | "proxy"
        )
}

/// Joins the `Cookie` fields. A client may send one field per cookie over HTTP/2, but HTTP/1 needs a single field (RFC 9113
/// section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(b"; ".as_slice()))
    {
        headers.insert(header::COOKIE, joined);
    }
}

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::PeerAddr;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    /// The names in sorted order: a map keeps only the order of the values of one name.
    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn forged_and_hop_by_hop_fields_of_a_request_are_removed() {
        let mut headers = map(&[
            ("accept", "a"),
            ("accept", "b"),
            ("authorization", "Basic eDp5"),
            ("connection", "close, X-Private"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("forwarded", "host=evil"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-prefix", "/evil"),
            ("x_forwarded_proto", "gopher"),
            ("x-real-ip", "6.6.6.6"),
            ("x-original-url", "/"),
            ("proxy", "http://evil"),
            ("proxy-authorization", "Basic eDp5"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("x-request-id", "mine"),
        ]);
        strip_request(&mut headers, false);
        assert_eq!(names(&headers), ["accept"]);
        assert_eq!(headers.get_all("accept").iter().count(), 2);
    }

    #[test]
    fn authorization_is_kept_for_the_upstream_even_if_connection_names_it() {
        let mut headers = map(&[
            ("authorization", "Bearer x"),
            ("connection", "Authorization, Content-Length"),
        ]);
        headers.insert("content-length", HeaderValue::from(5));
        strip_request(&mut headers, true);
        assert_eq!(headers["authorization"], "Bearer x");
        assert_eq!(headers["content-length"], "5");
    }

    #[test]
    fn the_fields_of_the_proxy_are_added_after_the_removal() {
        let mut headers = map(&[
            ("connection", "x-forwarded-proto, host"),
            ("x-forwarded-proto", "http"),
            ("host", "a"),
        ]);
        strip_request(&mut headers, false);
        let client = PeerAddr::new("[2001:db8::1]:5".parse().unwrap()).client();
        let no_fields = HeaderMap::new();
        add_request(
            &mut headers,
            HeaderValue::from_static("Reg:8443"),
            &ClientInfo::new(client, &client.header_value(), "https", &no_fields, None),
            "id",
        );
        assert_eq!(headers["host"], "Reg:8443");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert_eq!(headers["x-real-ip"], "2001:db8::1");
        assert_eq!(headers["x-request-id"], "id");
    }

    #[test]
    fn cookie_fields_are_joined() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        strip_request(&mut headers, true);
        let fields: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(fields, ["a=1; b=2"]);
    }

    #[test]
    fn hop_by_hop_fields_of_a_response_are_removed() {
        let mut headers = map(&[
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("x-accel-redirect", "/etc"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("range", "0-5"),
        ]);
        strip_response(&mut headers);
        assert_eq!(names(&headers), ["range", "set-cookie"]);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn the_operator_sets_and_removes_fields() {
        let mut headers = map(&[("server", "x"), ("x-a", "1")]);
        let edits = vec![
            (HeaderName::from_static("server"), None),
            (
                HeaderName::from_static("strict-transport-security"),
                Some(HeaderValue::from_static("max-age=1")),
            ),
        ];
        edit(&mut headers, &edits);
        assert_eq!(names(&headers), ["strict-transport-security", "x-a"]);
        assert!(
            is_reserved(&header::HOST)
                && is_reserved(&FORWARDED_FOR)
                && is_reserved(&header::TRANSFER_ENCODING)
        );
        assert!(!is_reserved(&header::SERVER));
    }

    /// The value of a field with this template, for a request to `host` by `user`. `None` if the field is removed.
    fn rendered(template: &str, host: &str, user: &str) -> Option<String> {
        let allowed = [
            Placeholder::Host,
            Placeholder::Scheme,
            Placeholder::Client,
            Placeholder::User,
        ];
        let template = Template::parse(template, &allowed).unwrap();
        let request = http::Request::builder().uri("/x").header("host", host);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target = crate::target::Target::parse(&parts).unwrap();
        let client = PeerAddr::new("[2001:db8::1]:5".parse().unwrap()).client();
        let client_info = ClientInfo::new(
            client,
            &client.header_value(),
            "https",
            &parts.headers,
            None,
        );
        let context = ForwardContext {
            client_info: &client_info,
            target: &target,
            external: crate::forward::ExternalOrigin {
                scheme: "https",
                authority: host,
            },
            is_site: &|_| true,
            user: Some(user),
            websocket: None,
            request_id: "id",
            worker: 0,
        };
        let name = HeaderName::from_static("x-a");
        let mut headers = map(&[("x-a", "forged")]);
        let edits = vec![(name.clone(), Some(FieldValue::Template(template)))];
        edit_request(&mut headers, &edits, &context);
        let value = headers.get(name)?;
        Some(String::from_utf8(value.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn placeholders_of_a_field_are_filled_in_from_the_request() {
        let url = |host| rendered("{scheme}://{host}/ {client}", host, "alice").unwrap();
        assert_eq!(url("a.example:8443"), "https://a.example/ 2001:db8::1");
        assert_eq!(url("[::1]:8443"), "https://[::1]/ 2001:db8::1");
    }

    #[test]
    fn a_field_never_has_the_name_of_another_user() {
        let user = |user| rendered("{user}", "a", user);
        assert_eq!(user("alice").as_deref(), Some("alice"));
        assert_eq!(user("größe").as_deref(), Some("größe"));
        for ambiguous in ["alice ", " alice", "alice\t", "al\u{fffd}ice", "alice\nx"] {
            assert_eq!(user(ambiguous), None, "{ambiguous:?}");
        }
    }

    #[test]
    fn cookies_get_the_attribute_secure_once() {
        let mut headers = map(&[
            ("set-cookie", "sid=1; Path=/; HttpOnly"),
            ("set-cookie", "csrf=2; secure"),
            ("set-cookie", "secure=3"),
        ]);
        secure_cookies(&mut headers);
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(
            cookies,
            [
                "sid=1; Path=/; HttpOnly; Secure",
                "csrf=2; secure",
                "secure=3; Secure"
            ]
        );
    }
}
