//! Traditional DES crypt(3): 13 characters, of which two are the salt.
//!
//! The algorithm is DES of FIPS 46-3 with a change of Unix V7: each of 12 salt bits swaps a pair of outputs of the
//! expansion E. So a DES library cannot compute it, and no maintained crate does. The tests compare this implementation with
//! libc. The key is 8 characters of 7 bits each, and a block of zeros is encrypted 25 times. The S-boxes are tables indexed
//! by secret bits, so that the CPU cache can reveal them. That is accepted here, because such a password can be guessed
//! anyway.

use std::array;
use std::sync::LazyLock;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::crypt64;

/// Whether a stored hash is one that crypt(3) could have written.
pub(super) fn is_well_formed(stored: &[u8]) -> bool {
    stored.len() == LENGTH && crypt64::is_encoded(stored, UNUSED_BITS)
}

/// Whether the password has the stored digest. Returns `false` for a hash that is not DES crypt.
pub(super) fn verify(stored: &[u8], password: &[u8]) -> bool {
    let Some((&[first, second], digest)) = stored.split_first_chunk() else {
        return false;
    };
    let (Some(low), Some(high)) = (crypt64::decode(first), crypt64::decode(second)) else {
        return false;
    };
    let salt = u32::from(low) | (u32::from(high) << 6);
    encode(hash(password, salt)).ct_eq(digest).into()
}

/// A well-formed hash that no password matches, because no digest ends in `z`. Verifying it takes the full time.
pub(super) fn unmatchable() -> Vec<u8> {
    [b"..".as_slice(), &[b'z'; LENGTH - 2]].concat()
}

fn hash(password: &[u8], salt: u32) -> u64 {
    let keys = schedule(key(password));
    let swaps = swaps(salt);
    let (mut left, mut right) = (0, 0);
    for _ in 0..ITERATIONS {
        for &round_key in keys.iter() {
            (left, right) = (right, left ^ feistel(right, round_key, swaps));
        }
        // The final permutation of one encryption and the initial permutation of the next cancel out; the swap remains.
        (left, right) = (right, left);
    }
    permute((u64::from(left) << 32) | u64::from(right), 64, &FINAL)
}

/// The key: seven bits of each character, and a parity bit that is not used.
fn key(password: &[u8]) -> Zeroizing<u64> {
    let mut bytes = Zeroizing::new([0; 8]);
    for (byte, character) in bytes.iter_mut().zip(password) {
        *byte = character << 1;
    }
    Zeroizing::new(u64::from_be_bytes(*bytes))
}

/// The sixteen round keys.
fn schedule(key: Zeroizing<u64>) -> Zeroizing<[u64; 16]> {
    let selected = permute(*key, 64, &CHOICE_1);
    let (mut c, mut d) = (selected >> 28, selected & HALF_KEY);
    Zeroizing::new(ROTATIONS.map(|by| {
        (c, d) = (rotate(c, by), rotate(d, by));
        permute((c << 28) | d, 56, &CHOICE_2)
    }))
}

fn rotate(half: u64, by: u32) -> u64 {
    ((half << by) | (half >> (28 - by))) & HALF_KEY
}

/// The mask of the outputs of E that the salt swaps: bit i of the salt, counted from the lowest, swaps the outputs i and
/// i + 24, counted from the highest.
fn swaps(salt: u32) -> u64 {
    u64::from(salt.reverse_bits() >> 8)
}

/// The round function of DES.
fn feistel(right: u32, round_key: u64, swaps: u64) -> u32 {
    let expanded = (0..8).fold(0, |bits, group| {
        // Each group has six bits and begins with the last bit of the group of four before.
        (bits << 6) | u64::from(right.rotate_left((group * 4 + 31) % 32) >> 26)
    });
    let differing = ((expanded >> 24) ^ expanded) & swaps;
    let mixed = expanded ^ differing ^ (differing << 24) ^ round_key;
    SUBSTITUTED
        .iter()
        .zip([42, 36, 30, 24, 18, 12, 6, 0])
        .fold(0, |bits, (table, shift)| {
            let [.., six] = (mixed >> shift).to_be_bytes();
            bits | entry(table, six & 63)
        })
}

/// The entry of a table at a six-bit index.
#[expect(
    clippy::indexing_slicing,
    reason = "six bits index 64 entries; a default entry would be another cipher"
)]
fn entry<T: Copy>(table: &[T; 64], six: u8) -> T {
    table[usize::from(six)]
}

/// Encodes a block as digits of six bits, high bits first. Two zero bits fill the last digit.
fn encode(block: u64) -> [u8; LENGTH - 2] {
    let mut shift = 66;
    array::from_fn(|_| {
        shift -= 6;
        let [.., six] = (u128::from(block) << 2 >> shift).to_be_bytes();
        crypt64::encode(six)
    })
}

/// The bits of a value at the given positions. The standard counts positions from 1 at the highest of `width` bits.
fn permute(value: u64, width: u8, places: &[u8]) -> u64 {
    places.iter().fold(0, |bits, place| {
        (bits << 1) | ((value >> (width - place)) & 1)
    })
}

/// The S-boxes and the permutation P combined: for each group of six bits, the four output bits at their positions after P.
static SUBSTITUTED: LazyLock<[[u32; 64]; 8]> = LazyLock::new(|| {
    let mut shift = 32;
    S_BOXES.map(|rows| {
        shift -= 4;
        array::from_fn(|six| {
            // The outer two bits select the row, the inner four the column.
            let [six, ..] = six.to_le_bytes();
            let row = ((six >> 4) & 2) | (six & 1);
            let digit = entry(&rows, row * 16 + ((six >> 1) & 15));
            // P selects 32 bits, so the upper half is zero.
            let [.., a, b, c, d] = permute(u64::from(digit) << shift, 32, &P).to_be_bytes();
            u32::from_be_bytes([a, b, c, d])
        })
    })
});

/// The length of a stored hash.
const LENGTH: usize = 13;
/// The bits of the last digit that the 64 bits of the block do not fill.
const UNUSED_BITS: u8 = 0b11;
/// The number of encryptions.
const ITERATIONS: u32 = 25;
/// The bits of one half of the key.
const HALF_KEY: u64 = (1 << 28) - 1;
/// By how many bits both halves of the key rotate in each round.
const ROTATIONS: [u32; 16] = [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1];

/// The table of permuted choice 1 (FIPS 46-3).
#[rustfmt::skip]
const CHOICE_1: [u8; 56] = [
    57, 49, 41, 33, 25, 17,  9,  1, 58, 50, 42, 34, 26, 18, 10,  2, 59, 51, 43, 35, 27, 19, 11,  3, 60, 52, 44, 36,
    63, 55, 47, 39, 31, 23, 15,  7, 62, 54, 46, 38, 30, 22, 14,  6, 61, 53, 45, 37, 29, 21, 13,  5, 28, 20, 12,  4,
];

/// The table of permuted choice 2 (FIPS 46-3).
#[rustfmt::skip]
const CHOICE_2: [u8; 48] = [
    14, 17, 11, 24,  1,  5,  3, 28, 15,  6, 21, 10, 23, 19, 12,  4, 26,  8, 16,  7, 27, 20, 13,  2,
    41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
];

/// The table of the final permutation (FIPS 46-3).
#[rustfmt::skip]
const FINAL: [u8; 64] = [
    40, 8, 48, 16, 56, 24, 64, 32, 39, 7, 47, 15, 55, 23, 63, 31, 38, 6, 46, 14, 54, 22, 62, 30, 37, 5, 45, 13, 53, 21, 61, 29,
    36, 4, 44, 12, 52, 20, 60, 28, 35, 3, 43, 11, 51, 19, 59, 27, 34, 2, 42, 10, 50, 18, 58, 26, 33, 1, 41,  9, 49, 17, 57, 25,
];

/// The table of the permutation P (FIPS 46-3).
#[rustfmt::skip]
const P: [u8; 32] = [
    16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10, 2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25,
];

/// The table of the S-boxes (FIPS 46-3).
#[rustfmt::skip]
const S_BOXES: [[u8; 64]; 8] = [
    [14, 4, 13, 1, 2, 15, 11, 8, 3, 10, 6, 12, 5, 9, 0, 7, 0, 15, 7, 4, 14, 2, 13, 1, 10, 6, 12, 11, 9, 5, 3, 8,
     4, 1, 14, 8, 13, 6, 2, 11, 15, 12, 9, 7, 3, 10, 5, 0, 15, 12, 8, 2, 4, 9, 1, 7, 5, 11, 3, 14, 10, 0, 6, 13],
    [15, 1, 8, 14, 6, 11, 3, 4, 9, 7, 2, 13, 12, 0, 5, 10, 3, 13, 4, 7, 15, 2, 8, 14, 12, 0, 1, 10, 6, 9, 11, 5,
     0, 14, 7, 11, 10, 4, 13, 1, 5, 8, 12, 6, 9, 3, 2, 15, 13, 8, 10, 1, 3, 15, 4, 2, 11, 6, 7, 12, 0, 5, 14, 9],
    [10, 0, 9, 14, 6, 3, 15, 5, 1, 13, 12, 7, 11, 4, 2, 8, 13, 7, 0, 9, 3, 4, 6, 10, 2, 8, 5, 14, 12, 11, 15, 1,
     13, 6, 4, 9, 8, 15, 3, 0, 11, 1, 2, 12, 5, 10, 14, 7, 1, 10, 13, 0, 6, 9, 8, 7, 4, 15, 14, 3, 11, 5, 2, 12],
    [7, 13, 14, 3, 0, 6, 9, 10, 1, 2, 8, 5, 11, 12, 4, 15, 13, 8, 11, 5, 6, 15, 0, 3, 4, 7, 2, 12, 1, 10, 14, 9,
     10, 6, 9, 0, 12, 11, 7, 13, 15, 1, 3, 14, 5, 2, 8, 4, 3, 15, 0, 6, 10, 1, 13, 8, 9, 4, 5, 11, 12, 7, 2, 14],
    [2, 12, 4, 1, 7, 10, 11, 6, 8, 5, 3, 15, 13, 0, 14, 9, 14, 11, 2, 12, 4, 7, 13, 1, 5, 0, 15, 10, 3, 9, 8, 6,
     4, 2, 1, 11, 10, 13, 7, 8, 15, 9, 12, 5, 6, 3, 0, 14, 11, 8, 12, 7, 1, 14, 2, 13, 6, 15, 0, 9, 10, 4, 5, 3],
    [12, 1, 10, 15, 9, 2, 6, 8, 0, 13, 3, 4, 14, 7, 5, 11, 10, 15, 4, 2, 7, 12, 9, 5, 6, 1, 13, 14, 0, 11, 3, 8,
     9, 14, 15, 5, 2, 8, 12, 3, 7, 0, 4, 10, 1, 13, 11, 6, 4, 3, 2, 12, 9, 5, 15, 10, 11, 14, 1, 7, 6, 0, 8, 13],
    [4, 11, 2, 14, 15, 0, 8, 13, 3, 12, 9, 7, 5, 10, 6, 1, 13, 0, 11, 7, 4, 9, 1, 10, 14, 3, 5, 12, 2, 15, 8, 6,
     1, 4, 11, 13, 12, 3, 7, 14, 10, 15, 6, 8, 0, 5, 9, 2, 6, 11, 13, 8, 1, 4, 10, 7, 9, 5, 0, 15, 14, 2, 3, 12],
    [13, 2, 8, 4, 6, 15, 11, 1, 10, 9, 3, 14, 5, 0, 12, 7, 1, 15, 13, 8, 10, 3, 7, 4, 12, 5, 6, 11, 0, 14, 9, 2,
     7, 11, 4, 1, 9, 12, 14, 2, 0, 6, 10, 13, 15, 3, 5, 8, 2, 1, 14, 7, 4, 10, 8, 13, 15, 12, 9, 0, 3, 5, 6, 11],
];
