//! The opening handshake of a WebSocket (RFC 6455 section 4).
//!
//! `service` reads the handshake of a client with [`WebSocketHandshake::read`], after the client may send the request, and
//! `forward` compares the upstream's response with it. A tunnel begins only if the client has asked for a WebSocket and the
//! upstream has proved, by a value that depends on the client's key, that it has opened one: an upstream that merely repeats a
//! status that a client chose would otherwise read the bytes of the tunnel as further requests.

use base64ct::{Base64, Encoding as _};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Version, request};
use sha1::{Digest as _, Sha1};

use crate::text::list_elements;

/// The handshake of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketHandshake {
    /// The `Sec-WebSocket-Accept` of an upstream that opens the WebSocket.
    accept: String,
}

/// Why a request to change the protocol is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// `Upgrade` names another protocol, or several.
    #[error("this connection can change to a WebSocket, and to no other protocol")]
    Protocol,
    /// The method is not GET.
    #[error("a WebSocket is opened by GET")]
    Method,
    /// The request has a body.
    #[error("the request that opens a WebSocket has no body")]
    Body,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("the proxy knows version 13 of WebSockets only")]
    Version,
    /// `Sec-WebSocket-Key` is missing or malformed.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    /// A page of another origin has sent the request from within a browser.
    #[error("pages of this origin may not open a WebSocket here")]
    Origin,
}

impl WebSocketHandshake {
    /// Reads the handshake of a request. `None` if the request does not ask for another protocol, so that it is forwarded without
    /// `Upgrade`: on HTTP/1.0, and without the option `upgrade` in `Connection`, a recipient ignores the field (RFC 9110 section
    /// 7.8).
    ///
    /// # Errors
    /// Fails if the request asks for another protocol than a WebSocket, or is no valid handshake.
    pub fn read(parts: &request::Parts) -> Result<Option<Self>, WebSocketError> {
        let headers = &parts.headers;
        let is_upgrade = |option: &[u8]| option.eq_ignore_ascii_case(b"upgrade");
        if parts.version != Version::HTTP_11
            || !headers.contains_key(header::UPGRADE)
            || !list_elements(headers, &header::CONNECTION).any(is_upgrade)
        {
            return Ok(None);
        }
        let protocol = single(headers, header::UPGRADE).ok_or(WebSocketError::Protocol)?;
        if !protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
            return Err(WebSocketError::Protocol);
        }
        if parts.method != Method::GET {
            return Err(WebSocketError::Method);
        }
        let is_empty = |length: &HeaderValue| length.as_bytes().iter().all(|digit| *digit == b'0');
        if headers.contains_key(header::TRANSFER_ENCODING)
            || headers
                .get(header::CONTENT_LENGTH)
                .is_some_and(|length| !is_empty(length))
        {
            return Err(WebSocketError::Body);
        }
        let version = single(headers, header::SEC_WEBSOCKET_VERSION);
        if version.is_none_or(|version| version != "13") {
            return Err(WebSocketError::Version);
        }
        let key = single(headers, header::SEC_WEBSOCKET_KEY).ok_or(WebSocketError::Key)?;
        let mut bytes = [0; 18];
        match Base64::decode(key.as_bytes(), &mut bytes) {
            Ok(decoded) if decoded.len() == 16 => {}
            _ => return Err(WebSocketError::Key),
        }
        let hash = Sha1::new()
            .chain_update(key.as_bytes())
            .chain_update(ACCEPT_SUFFIX)
            .finalize();
        Ok(Some(Self {
            accept: Base64::encode_string(&hash),
        }))
    }

    /// Whether a 101 with these header fields opens the WebSocket. The codec has checked `Upgrade` and `Connection`.
    pub(crate) fn is_accepted_by(&self, headers: &HeaderMap) -> bool {
        single(headers, header::SEC_WEBSOCKET_ACCEPT)
            .is_some_and(|accept| accept.as_bytes() == self.accept.as_bytes())
    }
}

/// The value of a field that occurs once.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The text that RFC 6455 section 1.3 defines for the hash of a key.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a GET with these header fields over HTTP/1.1, after `change`.
    fn read_changed(
        fields: &[(&str, &str)],
        change: impl Fn(&mut request::Parts),
    ) -> Result<Option<WebSocketHandshake>, WebSocketError> {
        let mut request = http::Request::get("/ws");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        change(&mut parts);
        WebSocketHandshake::read(&parts)
    }

    /// The handshake of RFC 6455 section 1.3, with this field in place of the one of the same name.
    fn read_with(name: &str, value: &str) -> Result<Option<WebSocketHandshake>, WebSocketError> {
        let mut fields = vec![
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
        read_changed(&fields, |_| ())
    }

    #[test]
    fn the_handshake_of_the_rfc_is_accepted_by_its_response_alone() {
        let handshake = read_with("upgrade", "WebSocket").unwrap().unwrap();
        for (accept, is_accepted) in [
            (&["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="][..], true),
            (&["s3pPLMBiTxaQ9kYGzzhZRbK+xOO="], false),
            (&["dGhlIHNhbXBsZSBub25jZQ=="], false),
            (
                &[
                    "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                    "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                ],
                false,
            ),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append("sec-websocket-accept", HeaderValue::from_static(value));
            }
            assert_eq!(
                handshake.is_accepted_by(&headers),
                is_accepted,
                "{accept:?}"
            );
        }
    }

    #[test]
    fn a_request_that_is_no_valid_handshake_is_rejected() {
        use WebSocketError as E;
        for (name, value, error) in [
            ("upgrade", "h2c", E::Protocol),
            ("upgrade", "websocket, h2c", E::Protocol),
            ("upgrade", "websocket/13", E::Protocol),
            ("upgrade", "", E::Protocol),
            ("sec-websocket-version", "8", E::Version),
            ("sec-websocket-version", "13, 8", E::Version),
            ("sec-websocket-key", "", E::Key),
            ("sec-websocket-key", "dGhlIHNhbXBsZQ==", E::Key),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ", E::Key),
            (
                "sec-websocket-key",
                "dGhlIHNhbXBsZSBub25jZSBpcyBsb25n",
                E::Key,
            ),
            ("content-length", "1", E::Body),
            ("transfer-encoding", "chunked", E::Body),
        ] {
            assert_eq!(read_with(name, value), Err(error), "{name}: {value}");
        }
        let fields = [
            ("upgrade", "websocket"),
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
        ];
        assert_eq!(read_changed(&fields, |_| ()), Err(E::Protocol));
        let post = |parts: &mut request::Parts| parts.method = Method::POST;
        assert_eq!(read_changed(&fields[1..], post), Err(E::Method));
        assert!(read_with("content-length", "0").unwrap().is_some());
    }

    #[test]
    fn an_upgrade_that_a_recipient_ignores_is_none() {
        assert_eq!(read_with("connection", "keep-alive"), Ok(None));
        assert_eq!(read_changed(&[("connection", "upgrade")], |_| ()), Ok(None));
        let fields = [("upgrade", "h2c"), ("connection", "upgrade")];
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let old = |parts: &mut request::Parts| parts.version = version;
            assert_eq!(read_changed(&fields, old), Ok(None));
        }
    }
}
