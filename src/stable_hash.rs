//! A hash function that gives the same result in every version of the proxy and on every machine.
//!
//! The hash functions of the standard library promise neither. `upstream::balance` hashes repository names and endpoint URLs,
//! because several proxies must send an upload to the same registry. `server::pid_file` hashes the path of the configuration
//! into the name of the pid file, because a command must find the file of a process of another version. Never change the
//! result for an input.
//!
//! The hash is not keyed: anyone can construct collisions. Do not use it for secrets, or for tables whose keys clients choose.

/// The 64-bit FNV-1a hash of `bytes`.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_test_vectors_hold() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
