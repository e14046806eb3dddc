//! Tests that generated hashes are verified, and that unusable passwords are rejected.

use std::collections::HashSet;

use super::*;
use crate::htpasswd::parse;

const FAST: HashParams = HashParams::Bcrypt { cost: 4 };

fn secret(text: &[u8]) -> Password {
    Password::new(text.to_vec())
}

#[test]
fn a_generated_hash_matches_its_password_only() {
    for recipe in [
        FAST,
        HashParams::Apr1,
        HashParams::Sha256,
        HashParams::Sha512,
    ] {
        for text in [
            &b"x"[..],
            b"correct horse",
            "pä\u{20ac}".as_bytes(),
            &[b'y'; 72],
        ] {
            let hash = recipe.hash(&secret(text)).unwrap();
            let loaded = parse(&[b"bob:", hash.as_slice()].concat());
            let entry = loaded.users.find(b"bob").unwrap();
            assert!(entry.verify(&secret(text)));
            assert!(!entry.verify(&secret(b"wrong")));
        }
    }
    let made = FAST.hash(&secret(b"x")).unwrap();
    assert!(made.starts_with(b"$2y$04$") && made.len() == 60);
    let made = HashParams::Sha512.hash(&secret(b"x")).unwrap();
    assert!(made.starts_with(b"$6$rounds=100000$") && made.len() == 17 + 16 + 1 + 86);
}

#[test]
fn salts_and_passwords_never_repeat() {
    let hashes: HashSet<_> = (0..20)
        .map(|_| HashParams::Apr1.hash(&secret(b"x")).unwrap())
        .collect();
    assert_eq!(hashes.len(), 20);
    let passwords: HashSet<_> = (0..20)
        .map(|_| password().unwrap().as_bytes().to_vec())
        .collect();
    assert_eq!(passwords.len(), 20);
    let letters: HashSet<_> = passwords.iter().flatten().copied().collect();
    assert!(passwords.iter().all(|one| one.len() == 26));
    // Of 520 random letters, one of the 32 is missing in two of a million runs.
    assert_eq!(letters, LETTERS.iter().copied().collect());
}

#[test]
fn passwords_that_would_not_count_completely_are_rejected() {
    let long = vec![b'x'; MAX_PASSWORD + 1];
    for (recipe, text, fault) in [
        (FAST, &b""[..], UnusablePassword::Empty),
        (HashParams::Sha512, b"", UnusablePassword::Empty),
        (FAST, b"a\0b", UnusablePassword::Nul),
        (
            FAST,
            &long[..73],
            UnusablePassword::LongForBcrypt { length: 73 },
        ),
        (HashParams::Sha512, &long, UnusablePassword::Long),
        (
            HashParams::Bcrypt { cost: 3 },
            b"x",
            UnusablePassword::Cost(3),
        ),
        (
            HashParams::Bcrypt { cost: 18 },
            b"x",
            UnusablePassword::Cost(18),
        ),
    ] {
        assert_eq!(recipe.hash(&secret(text)), Err(fault));
    }
    assert_eq!(HashParams::Sha512.check(&secret(&long[1..])), Ok(()));
    assert_eq!(FAST.check(&secret(&long[..72])), Ok(()));
}
