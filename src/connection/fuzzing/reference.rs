//! A reference parser for the requests in an HTTP/1 stream, written from the RFCs and as simple as possible.
//!
//! `fuzzing` compares its result with the requests that the proxy served.

/// Returns each request as its method and its body, up to the first malformed or incomplete one. A body that is malformed or
/// incomplete is `None`.
pub(crate) fn requests(mut bytes: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let Some((head, rest)) = split_once(bytes, b"\r\n\r\n") else {
            return found;
        };
        let Some((method, framing)) = parse_head(head) else {
            return found;
        };
        let body = match framing {
            Framing::Tunnel => {
                found.push((method, Some(Vec::new())));
                return found;
            }
            Framing::Unknown => None,
            Framing::Length(length) => rest
                .split_at_checked(length)
                .map(|(body, rest)| (body.to_vec(), rest)),
            Framing::Chunked => decode_chunked(rest),
        };
        let Some((body, rest)) = body else {
            found.push((method, None));
            return found;
        };
        found.push((method, Some(body)));
        bytes = rest;
    }
}

enum Framing {
    Length(usize),
    Chunked,
    /// CONNECT: the bytes that follow are neither a body nor a request.
    Tunnel,
    /// The end of the body is not known.
    Unknown,
}

/// Parses a header section without its final empty line. Returns the method and the framing of the body.
fn parse_head(head: &[u8]) -> Option<(String, Framing)> {
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.split("\r\n");
    let line = lines.next()?;
    let method = line.split(' ').next()?.to_owned();
    if line.contains('#') || text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
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
    // The proxy does not read the body of CONNECT.
    let framing = match framing {
        Framing::Length(0) if method == "CONNECT" => Framing::Tunnel,
        Framing::Length(_) | Framing::Chunked if method == "CONNECT" => Framing::Unknown,
        framing => framing,
    };
    Some((method, framing))
}

/// Decodes a chunked body with its trailers. Returns the data, and the bytes that follow.
fn decode_chunked(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (line, rest) = split_once(bytes, b"\r\n")?;
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return None;
        }
        let digits = match split_once(line, b";") {
            // White space may precede an extension, as much as the proxy keeps of a line.
            Some((size, _)) if size.len() < MAX_CHUNK_SIZE_FIELD => {
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

/// Skips the trailers. Returns the bytes that follow.
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

/// Whether the line is a field: a name, which is a token, and a value without control characters (RFC 9110 sections 5.1 and
/// 5.5).
fn is_field(line: &[u8]) -> bool {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
        return false;
    };
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    !name.is_empty() && name.iter().all(is_token) && !value.iter().any(is_control)
}

/// The number of bytes of a chunk's first line within which its size must end.
const MAX_CHUNK_SIZE_FIELD: usize = 64;

/// The number of trailers that hyper accepts.
const MAX_TRAILERS: usize = 100;

fn split_once<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes
        .windows(separator.len())
        .position(|window| window == separator)?;
    Some((bytes.get(..at)?, bytes.get(at + separator.len()..)?))
}
