//! The requests in a stream of HTTP/1, as the RFCs write them and as simply as can be.
//!
//! Called by `fuzzing`, to be held against what the gate understood.

use super::Understood;

/// All requests up to the first thing that is not exactly as it should be.
pub(super) fn requests(mut bytes: &[u8]) -> Vec<Understood> {
    let mut found = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let Some((head, rest)) = split_once(bytes, b"\r\n\r\n") else {
            return found;
        };
        let Some((method, framing)) = read(head) else {
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
            Framing::Chunked => unchunk(rest),
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
    /// Whatever follows is no body, and no request.
    Tunnel,
    /// Whatever follows cannot be read.
    Unknown,
}

fn read(head: &[u8]) -> Option<(String, Framing)> {
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
    // Of a tunnel's body nothing is read.
    let framing = match framing {
        Framing::Length(0) if method == "CONNECT" => Framing::Tunnel,
        Framing::Length(_) | Framing::Chunked if method == "CONNECT" => Framing::Unknown,
        framing => framing,
    };
    Some((method, framing))
}

fn unchunk(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (line, rest) = split_once(bytes, b"\r\n")?;
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return None;
        }
        let digits = match split_once(line, b";") {
            // White space may stand before an extension, as much as the gate keeps of a line.
            Some((size, _)) if size.len() < KEPT => {
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
            return Some((body, trailers(rest)?));
        }
        let (data, rest) = rest.split_at_checked(size)?;
        body.extend_from_slice(data);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
}

/// What follows them.
fn trailers(mut bytes: &[u8]) -> Option<&[u8]> {
    for _ in 0..=TRAILERS {
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

/// A name, which is a token, and a value without controls (RFC 9110 sections 5.1 and 5.5).
fn is_field(line: &[u8]) -> bool {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
        return false;
    };
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    !name.is_empty() && name.iter().all(is_token) && !value.iter().any(is_control)
}

/// Bytes of a chunk's first line in which its size must have ended.
const KEPT: usize = 64;

/// As many as hyper takes.
const TRAILERS: usize = 100;

fn split_once<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|part| part == mark)?;
    Some((bytes.get(..at)?, bytes.get(at + mark.len()..)?))
}
