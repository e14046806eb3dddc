//! Finds the server name in a ClientHello that rustls rejects, so that the log can name it.
//!
//! Called by `handshake` after an error, for the log alone: nothing is decided by this name. rustls rejects a hello whose
//! name has a port (`localhost:8443`) and does not say which name it was.

/// The first host name of the `server_name` extension (RFC 6066 section 3), escaped and of a bounded length. `bytes` are
/// the records that came (RFC 8446 section 5.1), whatever they are.
pub(super) fn requested_name(bytes: &[u8]) -> Option<String> {
    let hello = handshake_bytes(bytes);
    let mut fields = Fields(&hello);
    let is_client_hello = fields.number(1)? == 1;
    if !is_client_hello {
        return None;
    }
    // The length of the message, the legacy version and the random.
    fields.take(3 + 2 + 32)?;
    let _session_id = fields.vector(1)?;
    let _cipher_suites = fields.vector(2)?;
    let _compression_methods = fields.vector(1)?;
    let mut extensions = Fields(fields.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let body = extensions.vector(2)?;
        if kind == SERVER_NAME {
            let mut names = Fields(Fields(body).vector(2)?);
            let _name_type = names.number(1)?;
            return Some(shown(names.vector(2)?));
        }
    }
    None
}

fn shown(name: &[u8]) -> String {
    let kept = name.get(..NAME_BYTES).unwrap_or(name);
    let mut text = kept.escape_ascii().to_string();
    if kept.len() < name.len() {
        text.push_str("...");
    }
    text
}

/// The contents of the handshake records in front, put together: a hello may come in several records.
fn handshake_bytes(mut bytes: &[u8]) -> Vec<u8> {
    let mut contents = Vec::new();
    while let Some((&[HANDSHAKE, _, _, high, low], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (content, rest) = rest.split_at(length.min(rest.len()));
        contents.extend_from_slice(content);
        bytes = rest;
    }
    contents
}

/// Reads fields from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let bytes = self.take(bytes)?.iter();
        Some(bytes.fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector whose length is written in front of it in so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.take(length)
    }
}

const HANDSHAKE: u8 = 22;
const SERVER_NAME: usize = 0;
/// A host name has 253 characters at most (RFC 1035 section 2.3.4), and a port behind it six.
const NAME_BYTES: usize = 260;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello with this name, in records of `most` bytes.
    fn hello(name: &[u8], most: usize) -> Vec<u8> {
        let vector = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).unwrap();
            [&length.to_be_bytes()[..], bytes].concat()
        };
        let entry = [&[0][..], &vector(name)].concat();
        let padding = [&[0, 21][..], &vector(&[0; 7])].concat();
        let extension = [&[0, 0][..], &vector(&vector(&entry))].concat();
        let extensions = vector(&[padding, extension].concat());
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[0],
            &[0, 2, 19, 1],
            &[1, 0],
            &extensions,
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[1], &length[1..], &body].concat();
        let records = message
            .chunks(most)
            .map(|part| [&[22, 3, 1][..], &vector(part)].concat());
        records.collect::<Vec<_>>().concat()
    }

    #[test]
    fn the_name_of_a_hello_is_found_in_however_many_records_it_comes() {
        for most in [1, 7, 64, 16_384] {
            let name = requested_name(&hello(b"localhost:8443", most));
            assert_eq!(name.as_deref(), Some("localhost:8443"));
        }
        let name = requested_name(&hello(b"a\"\n\xff", 64));
        assert_eq!(name.as_deref(), Some("a\\\"\\n\\xff"));
        let name = requested_name(&hello(&[b'a'; 9000], 16_384)).unwrap();
        assert_eq!(name, format!("{}...", "a".repeat(260)));
    }

    proptest! {
        #[test]
        fn whatever_comes_gives_a_short_name_or_none(bytes: Vec<u8>, cut: usize, at: usize, byte: u8) {
            requested_name(&bytes);
            let mut hello = hello(b"a.test", 64);
            let length = hello.len();
            hello[at % length] = byte;
            hello.truncate(cut % (length + 1));
            let name = requested_name(&hello).unwrap_or_default();
            prop_assert!(name.len() <= 4 * NAME_BYTES + 3 && name.is_ascii());
        }
    }
}
