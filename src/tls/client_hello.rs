//! Finds the server name in a ClientHello that rustls has rejected.
//!
//! `handshake` calls it after an error, for the log only: no decision depends on the name. rustls rejects a ClientHello whose
//! server name has a port (`localhost:8443`), and neither its error nor its parser returns the name. An operator needs the name
//! to find the client that is configured wrongly.

/// Returns the first host name of the `server_name` extension (RFC 6066 section 3), escaped and with a bounded length. `bytes`
/// are the TLS records from the client (RFC 8446 section 5.1); they may be anything.
pub(super) fn rejected_server_name(bytes: &[u8]) -> Option<String> {
    let message = handshake_bytes(bytes);
    let mut fields = FieldReader(&message);
    if fields.number(1)? != CLIENT_HELLO {
        return None;
    }
    // The length of the message, the legacy version and the random.
    fields.take(3 + 2 + 32)?;
    let _session_id = fields.vector(1)?;
    let _cipher_suites = fields.vector(2)?;
    let _compression_methods = fields.vector(1)?;
    let mut extensions = FieldReader(fields.vector(2)?);
    while !extensions.0.is_empty() {
        let extension_type = extensions.number(2)?;
        let body = extensions.vector(2)?;
        if extension_type == SERVER_NAME {
            let mut names = FieldReader(FieldReader(body).vector(2)?);
            let _name_type = names.number(1)?;
            return Some(printable(names.vector(2)?));
        }
    }
    None
}

fn printable(name: &[u8]) -> String {
    let kept = name.get(..MAX_NAME_BYTES).unwrap_or(name);
    let mut text = kept.escape_ascii().to_string();
    if kept.len() < name.len() {
        text.push_str("...");
    }
    text
}

/// Concatenates the contents of the handshake records at the front, because a ClientHello may be split over several records.
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

/// Reads the fields of a handshake message from its front. Each method returns `None` if the message is too short.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a big-endian number of `bytes` bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let bytes = self.take(bytes)?.iter();
        Some(bytes.fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Reads a vector that begins with its length, a number of `length_bytes` bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.take(length)
    }
}

/// The content type of a record with handshake messages.
const HANDSHAKE: u8 = 22;
/// The type of a ClientHello message.
const CLIENT_HELLO: usize = 1;
/// The type of the server_name extension.
const SERVER_NAME: usize = 0;
/// The longest name in bytes that is kept: a host name has at most 253 characters (RFC 1035 section 2.3.4), and a port after
/// it six.
const MAX_NAME_BYTES: usize = 260;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Builds a ClientHello with this server name, in records of at most `max` bytes.
    fn hello(name: &[u8], max: usize) -> Vec<u8> {
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
            .chunks(max)
            .map(|part| [&[22, 3, 1][..], &vector(part)].concat());
        records.collect::<Vec<_>>().concat()
    }

    #[test]
    fn the_name_is_found_in_a_client_hello_of_any_number_of_records() {
        for max in [1, 7, 64, 16_384] {
            let name = rejected_server_name(&hello(b"localhost:8443", max));
            assert_eq!(name.as_deref(), Some("localhost:8443"));
        }
        let name = rejected_server_name(&hello(b"a\"\n\xff", 64));
        assert_eq!(name.as_deref(), Some("a\\\"\\n\\xff"));
        let name = rejected_server_name(&hello(&[b'a'; 9000], 16_384)).unwrap();
        assert_eq!(name, format!("{}...", "a".repeat(260)));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_short_name_or_none(bytes: Vec<u8>, cut: usize, at: usize, byte: u8) {
            rejected_server_name(&bytes);
            let mut hello = hello(b"a.test", 64);
            let length = hello.len();
            hello[at % length] = byte;
            hello.truncate(cut % (length + 1));
            let name = rejected_server_name(&hello).unwrap_or_default();
            prop_assert!(name.len() <= 4 * MAX_NAME_BYTES + 3 && name.is_ascii());
        }
    }
}
