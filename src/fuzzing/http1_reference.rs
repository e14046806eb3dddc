//! A reference parser for HTTP/1 requests (RFC 9112), which is as simple and as strict as possible.
//!
//! [`super::connection`] compares the requests that reach the handler with the result of this parser. It must therefore
//! stay independent of the proxy's own validator and of hyper.

/// A request as a recipient understands it: its method, and its body if the body is complete.
pub(crate) type ParsedRequest = (String, Option<Vec<u8>>);

/// All requests up to the first byte that breaks the grammar.
pub(crate) fn parse(mut bytes: &[u8]) -> Vec<ParsedRequest> {
    let mut requests = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let Some((head, rest)) = split_once(bytes, b"\r\n\r\n") else {
            return requests;
        };
        let Some((method, framing)) = parse_head(head) else {
            return requests;
        };
        let body = match framing {
            Framing::Tunnel => {
                requests.push((method, Some(Vec::new())));
                return requests;
            }
            Framing::Unknown => None,
            Framing::Length(length) => rest
                .split_at_checked(length)
                .map(|(body, rest)| (body.to_vec(), rest)),
            Framing::Chunked => decode_chunks(rest),
        };
        let Some((body, rest)) = body else {
            requests.push((method, None));
            return requests;
        };
        requests.push((method, Some(body)));
        bytes = rest;
    }
}

/// What follows a request head.
enum Framing {
    /// A body of this length.
    Length(usize),
    /// A body with the transfer coding `chunked`.
    Chunked,
    /// The bytes of a tunnel: neither a body nor another request.
    Tunnel,
    /// Bytes whose meaning is unknown.
    Unknown,
}

/// The method and the framing of a request whose head is `head`, without its last empty line.
fn parse_head(head: &[u8]) -> Option<(String, Framing)> {
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.split("\r\n");
    let request_line = lines.next()?;
    let method = request_line.split(' ').next()?.to_owned();
    if request_line.contains('#') || text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return None;
    }
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.contains([' ', '\t']) {
            return None;
        }
        let value = value.trim_matches([' ', '\t']).to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            _ => {}
        }
    }
    let framing = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) if method == "CONNECT" => Framing::Tunnel,
        ([], []) => Framing::Length(0),
        ([length], []) if length.bytes().all(|digit| digit.is_ascii_digit()) => {
            Framing::Length(length.parse().ok()?)
        }
        ([], [coding]) if coding == "chunked" => Framing::Chunked,
        ([], _) => Framing::Unknown,
        _ => return None,
    };
    // A CONNECT request has no body (RFC 9110 section 9.3.6): what a framing field announces is not read.
    let framing = match framing {
        Framing::Length(0) if method == "CONNECT" => Framing::Tunnel,
        Framing::Length(_) | Framing::Chunked if method == "CONNECT" => Framing::Unknown,
        framing => framing,
    };
    Some((method, framing))
}

/// Decodes a chunked body and returns it with the bytes that follow its trailer section.
fn decode_chunks(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (line, rest) = split_once(bytes, b"\r\n")?;
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return None;
        }
        let digits = match split_once(line, b";") {
            // White space before a chunk extension is accepted (RFC 9112 section 7.1.1), as far as the proxy's validator
            // buffers the line.
            Some((size, _)) if size.len() < MAX_SIZE_FIELD => {
                str::from_utf8(size).ok()?.trim_end_matches([' ', '\t'])
            }
            Some(_) => return None,
            None => str::from_utf8(line).ok()?,
        };
        if !(1..=16).contains(&digits.len())
            || !digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            return Some((body, skip_trailers(rest)?));
        }
        let (data, rest) = rest.split_at_checked(size)?;
        body.extend_from_slice(data);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
}

/// The bytes that follow the trailer section and its empty line.
fn skip_trailers(mut bytes: &[u8]) -> Option<&[u8]> {
    for _ in 0..=MAX_TRAILERS {
        let (line, rest) = split_once(bytes, b"\r\n")?;
        if line.is_empty() {
            return Some(rest);
        }
        if !is_field(line) {
            return None;
        }
        bytes = rest;
    }
    None
}

/// Whether `line` is a field: a name that is a token, and a value without control characters (RFC 9110 sections 5.1 and 5.5).
fn is_field(line: &[u8]) -> bool {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
        return false;
    };
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    !name.is_empty() && name.iter().all(is_token) && !value.iter().any(is_control)
}

/// The size of a chunk, with white space, has fewer bytes than this.
const MAX_SIZE_FIELD: usize = 64;

/// The number of trailer fields that hyper accepts.
const MAX_TRAILERS: usize = 100;

fn split_once<'a>(bytes: &'a [u8], delimiter: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes
        .windows(delimiter.len())
        .position(|window| window == delimiter)?;
    Some((bytes.get(..at)?, bytes.get(at + delimiter.len()..)?))
}
