//! Tests of every format with known hashes, and with arbitrary bytes.

use proptest::prelude::*;

use super::*;
use crate::htpasswd::{Entry, MAX_PASSWORD};
use crate::secret::Password;

/// Known hashes, computed by libxcrypt, OpenSSL, Apache's documentation and nginx's `auth_basic.t`.
const RIGHT: &[(&[u8], &str)] = &[
    (b"password", "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb."),
    (b"myPassword", "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/"),
    (b"pw", "$apr1$saltsalt$x78Y39ym2RjUNQHTLgwHz/"),
    (b"", "$apr1$salt$AnXM5PAEa9T4ruYbwPoUh/"),
    (b"p\xc3\xa4ss", "$apr1$12345678$YAhDyWUifQDxaeOF9tUcV/"),
    (b"password", "$1$salt$qJH7.N4xYta3aEG/dfqo/0"),
    (b"password", "$1$$I2o9Z7NcvQAKp7wyCTlia0"),
    (b"password", "sa3tHJ3/KuYvI"),
    (b"passwordXYZ", "sa3tHJ3/KuYvI"),
    (b"", "abmF1QH4PEr.E"),
    (b"myPassword", "rqXexS6ZhobKA"),
    (
        b"myPassword",
        "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC",
    ),
    (
        b"U*U",
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    ),
    (
        b"U*U",
        "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    ),
    (
        b"U*U",
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    ),
    (
        b"U*U*U",
        "$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a",
    ),
    (
        b"",
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy",
    ),
    (
        LONG,
        "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui",
    ),
    (
        LONGER,
        "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui",
    ),
    (
        b"\xa3",
        "$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq",
    ),
    (
        b"\xa3",
        "$2a$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq",
    ),
    (
        b"\xff\xff\xa3",
        "$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e",
    ),
    (
        b"pw",
        "$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u",
    ),
    (b"password", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="),
    (b"myPassword", "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="),
    (b"password", "{SSHA}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0"),
    (
        b"Hello world!",
        "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
    ),
    (
        b"Hello world!",
        "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA",
    ),
    (
        b"Hello world!",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    (
        b"Hello world!",
        "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ),
    (
        b"pw",
        "$5$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5",
    ),
    (
        b"pw",
        "$6$saltsalt$pauPrmdmG4BTE9h2HPmywiw152IFch6BJCEsaY6D.PLTfpV8sqvXwWdyfsgVgozkYH9B80bAip/08R2BPH2xk/",
    ),
    (
        b"pw",
        "$6$rounds=5000$saltsalt$pauPrmdmG4BTE9h2HPmywiw152IFch6BJCEsaY6D.PLTfpV8sqvXwWdyfsgVgozkYH9B80bAip/08R2BPH2xk/",
    ),
    (
        b"",
        "$6$saltsalt$qkTgsCrWMTAS9gBGcf9W60sFfH.hU0oTCAOJjhbz5tSp/sU3/xXZK4OFwCtq8lIIdpJ6CatVdOTSHKp97TPkt/",
    ),
    (
        b"p\xc3\xa4ss",
        "$6$saltsalt$diHZ9pHajWguXJt5DhmxxOqqQtb6VXQJO61uDTYZg0KvweLf4WVHMDTz3vJcPLmYTsOPf./9fP7Nq8LRI78tO1",
    ),
    (
        b"p\xe4ss",
        "$6$saltsalt$S2C32fhurKIrJ6oay3PMeFGWJmiWfezKKMVrcTQBjqn1nF2aL4yeZ2WV31vfiIxD1f8NgjbArQ/5M2G3KmfjV/",
    ),
];
const LONG: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const LONGER: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored";

fn entry(stored: &str) -> Entry {
    let stored = stored.as_bytes();
    Entry::new(Scheme::parse(stored).unwrap(), 1, stored)
}

fn password(bytes: &[u8]) -> Password {
    Password::new(bytes.to_vec())
}

#[test]
fn right_passwords_match_and_wrong_ones_do_not() {
    for (right, stored) in RIGHT {
        let entry = entry(stored);
        assert!(entry.verify(&password(right)), "{stored}");
        assert!(!entry.verify(&password(b"wrong")), "{stored}");
        let mut near = right.to_vec();
        match near.first_mut() {
            Some(first) => *first ^= 1,
            None => near.push(b'x'),
        }
        assert!(!entry.verify(&password(&near)), "{stored}");
    }
}

#[test]
fn passwords_with_nul_or_too_many_bytes_never_match() {
    for (right, stored) in RIGHT {
        let entry = entry(stored);
        for nul in [
            &[right, b"\0".as_slice()].concat(),
            &[right, b"\0junk".as_slice()].concat(),
        ] {
            assert!(!entry.verify(&password(nul)), "{stored}");
        }
        let padded = [right, [b'x'; MAX_PASSWORD].as_slice()].concat();
        assert_eq!(padded.len() <= MAX_PASSWORD, right.is_empty());
        if !right.is_empty() {
            assert!(!entry.verify(&password(&padded)), "{stored}");
        }
    }
}

#[test]
fn bcrypt_reads_72_bytes() {
    let made = ::bcrypt::hash_with_salt_bytes([b'x'; 80], 4, [7; 16]).unwrap();
    let entry = entry(std::str::from_utf8(&made).unwrap());
    assert!(entry.verify(&password(&[b'x'; 72])));
    assert!(entry.verify(&password(&[b'x'; MAX_PASSWORD])));
    assert!(!entry.verify(&password(&[b'x'; 71])));
    assert!(!entry.verify(&password(&[b'x'; MAX_PASSWORD + 1])));
}

#[test]
fn the_countermeasure_of_libxcrypt_is_not_implemented() {
    let entry = entry("$2a$05$/OK.fbVrR/bpIqNJ5ianF.nqd1wy.pTMdcvrRWxyiGL2eMz.2a85.");
    assert!(!entry.verify(&password(b"\xff\xff\xa3")));
}

#[test]
fn schemes_are_recognised() {
    let scheme = |stored: &str| Scheme::parse(stored.as_bytes()).unwrap();
    assert_eq!(scheme("$apr1$salt$Xxd1irWT9ycqoYxGFn4cb."), Scheme::Apr1);
    assert_eq!(scheme("$1$$I2o9Z7NcvQAKp7wyCTlia0"), Scheme::Md5);
    assert_eq!(scheme("sa3tHJ3/KuYvI"), Scheme::Des);
    for cost in 4..=MAX_COST {
        let stored = format!("$2b${cost:02}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW");
        assert_eq!(scheme(&stored), Scheme::Bcrypt { cost });
    }
}

#[test]
fn unsupported_formats_are_named() {
    for (stored, scheme) in [
        ("_J9..rasmEedsvB6g8/6", Scheme::BsdiDes),
        ("{PLAIN}password", Scheme::Plain),
        ("{PLAIN}", Scheme::Plain),
        ("{MD5}X03MO1qnZdYdgyfeuILPmQ==", Scheme::Unknown),
        ("$9$whatever", Scheme::Unknown),
        (
            "$2$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            Scheme::Bcrypt2,
        ),
        (
            "$2x$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e",
            Scheme::BcryptX,
        ),
        (
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$U4SOHmDd8SvW5vCUKSMR6N835VPwFAtgYNhQ9mFFeL5",
            Scheme::Yescrypt,
        ),
        (
            "$gy$j9T$F5Jx5fExrKuPp53xLKQ..1$3vaJEj.EQFNwxqXgxrAb0zENEKPjgY8dCuXu/WESUm4",
            Scheme::GostYescrypt,
        ),
        (
            "$7$CU..../....2Q9obwLhin8qvQl6sisAO/$oHaGrbvBhpZkNaG.sHTL4Aq0fl.FdqAr848mdOW6EN.",
            Scheme::Scrypt,
        ),
        (
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$x",
            Scheme::Argon2,
        ),
    ] {
        assert_eq!(
            Scheme::parse(stored.as_bytes()),
            Err(UnusableHash::Unsupported(scheme)),
            "{stored}"
        );
    }
}

#[test]
fn unusable_fields_have_different_reasons() {
    for (stored, rejection) in [
        ("", UnusableHash::Empty),
        ("*0", UnusableHash::Locked),
        ("*1", UnusableHash::Locked),
        ("!", UnusableHash::Locked),
        ("!$6$salt$x", UnusableHash::Locked),
        ("secret", UnusableHash::PlainText),
        ("$ecret", UnusableHash::PlainText),
        ("!secret", UnusableHash::PlainText),
        ("{secret", UnusableHash::PlainText),
        ("päßwörd", UnusableHash::PlainText),
        // 13 and 20 characters that are not DES crypt: an unused bit is set, or a character is not a digit.
        ("sa3tHJ3/KuYvJ", UnusableHash::PlainText),
        ("sa3tHJ3/KuYv-", UnusableHash::PlainText),
        ("_J9..rasmEedsvB6g8/-", UnusableHash::PlainText),
    ] {
        assert_eq!(Scheme::parse(stored.as_bytes()), Err(rejection), "{stored}");
    }
    assert_eq!(
        Scheme::parse(&[b'x'; MAX_HASH + 1]),
        Err(UnusableHash::TooLong)
    );
    assert_eq!(
        Scheme::parse(&[b'x'; MAX_HASH]),
        Err(UnusableHash::PlainText)
    );
}

#[test]
fn damaged_md5_is_rejected() {
    for stored in [
        "$1$",
        "$apr1$",
        "$apr1$short",
        "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb",
        "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb..",
        "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb2",
        "$apr1$salt$Xxd1irWT9ycqoYxGFn4c+.",
        "$apr1$saltsalts$Xxd1irWT9ycqoYxGFn4cb.",
        "$apr1$sält$Xxd1irWT9ycqoYxGFn4cb.",
    ] {
        let rejection = UnusableHash::Malformed(md5_crypt::FORMAT);
        assert_eq!(Scheme::parse(stored.as_bytes()), Err(rejection), "{stored}");
    }
}

#[test]
fn damaged_sha_is_rejected() {
    let mut damaged = vec![
        ("{SHA}", sha1::FORMAT),
        ("{SHA}_____Mm5Pz8GgiULbPgzG37mj9g=", sha1::FORMAT),
        ("{SHA}Zm9vCg==", sha1::FORMAT),
        ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g", sha1::FORMAT),
        ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9h=", sha1::FORMAT),
        ("{SHA}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0", sha1::FORMAT),
        ("{SSHA}_____wQadOA1e+/f+T+H3eCQQhRzYWx0", sha1::FORMAT),
        ("{SSHA}Zm9vCg==", sha1::FORMAT),
    ];
    damaged.extend(
        [
            "$5$",
            "$6$rounds=10$salt$x",
            "$5$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB",
            "$5$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hBz",
            "$5$saltsaltsaltsalts$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5",
            "$5$rounds=05000$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5",
            "$5$rounds=$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5",
            "$5$rounds=+9999$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5",
            "$5$rounds=99999999999$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5",
            "$6$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5",
        ]
        .map(|stored| (stored, sha_crypt::FORMAT)),
    );
    for (stored, shape) in damaged {
        let rejection = UnusableHash::Malformed(shape);
        assert_eq!(Scheme::parse(stored.as_bytes()), Err(rejection), "{stored}");
    }
}

#[test]
fn rounds_out_of_range_are_rejected() {
    for rounds in [999, 1_000_001, 999_999_999] {
        let stored =
            format!("$5$rounds={rounds}$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5");
        assert_eq!(
            Scheme::parse(stored.as_bytes()),
            Err(UnusableHash::Rounds { rounds })
        );
    }
}

#[test]
fn damaged_bcrypt_is_rejected() {
    for stored in [
        "$2y$",
        "$2y$5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2y$+5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe",
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeWW",
        // An unused bit is set in the salt, and in the digest; then a letter of two bytes, with 60 bytes in total.
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC/E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeX",
        "$2y$05$CCCCCCCCCCCCCCCCCCCCé.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe",
    ] {
        let rejection = UnusableHash::Malformed(bcrypt::FORMAT);
        assert_eq!(Scheme::parse(stored.as_bytes()), Err(rejection), "{stored}");
    }
}

#[test]
fn costs_out_of_range_are_rejected() {
    for cost in [0, 3, 18, 31, 99] {
        let stored = format!("$2y${cost:02}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW");
        assert_eq!(
            Scheme::parse(stored.as_bytes()),
            Err(UnusableHash::Cost { cost })
        );
    }
}

#[test]
fn the_unmatchable_hash_takes_the_full_time_and_is_not_accepted_in_a_file() {
    for scheme in [
        Scheme::Des,
        Scheme::Md5,
        Scheme::Apr1,
        Scheme::Sha256Crypt { rounds: 1000 },
        Scheme::Sha512Crypt { rounds: 5000 },
        Scheme::Bcrypt { cost: 4 },
    ] {
        let stored = scheme.unmatchable();
        assert!(Scheme::parse(&stored).is_err(), "{scheme}");
        assert!(!scheme.verify(&stored, b""), "{scheme}");
        // The same hash with a possible last digit is accepted, so its salt, length and magic are valid.
        let mut sound = stored.clone();
        *sound.last_mut().unwrap() = b'.';
        assert_eq!(Scheme::parse(&sound), Ok(scheme));
    }
}

#[test]
fn the_unmatchable_sha_1_is_not_accepted_in_a_file() {
    for scheme in [Scheme::Sha, Scheme::SaltedSha] {
        let stored = scheme.unmatchable();
        assert!(Scheme::parse(&stored).is_err(), "{scheme}");
        assert!(!scheme.verify(&stored, b""), "{scheme}");
    }
}

#[test]
fn the_unmatchable_bcrypt_takes_the_time_of_its_cost() {
    let time = |cost| {
        let scheme = Scheme::Bcrypt { cost };
        let stored = scheme.unmatchable();
        let started = std::time::Instant::now();
        assert!(!scheme.verify(&stored, b"password"));
        started.elapsed()
    };
    // The second takes 64 times the work. A verification that ended early would take the same time for both.
    assert!(time(10) > time(4) * 4);
}

#[test]
fn more_expensive_schemes_are_greater() {
    let order = [
        Scheme::Unknown,
        Scheme::Sha,
        Scheme::Des,
        Scheme::Md5,
        Scheme::Sha512Crypt { rounds: 5000 },
        Scheme::Sha512Crypt { rounds: 5001 },
        Scheme::Bcrypt { cost: 4 },
        Scheme::Bcrypt { cost: 5 },
    ];
    assert!(order.is_sorted());
}

/// Texts that begin like a hash of any scheme. bcrypt has the lowest costs, which bounds the time.
fn hash_like() -> impl Strategy<Value = Vec<u8>> {
    let head = prop::sample::select(vec![
        "",
        "$apr1$",
        "$apr1$salt$",
        "$apr1$$",
        "$1$",
        "$1$saltsalt$",
        "$2a$04$",
        "$2b$04$",
        "$2y$05$",
        "$2y$",
        "$2y$99$",
        "$2x$05$",
        "$2$",
        "$5$",
        "$5$saltsalt$",
        "$5$rounds=1000$$",
        "$6$rounds=9$",
        "$6$rounds=1000$salt$",
        "$y$j9T$",
        "$gy$",
        "$7$",
        "_",
        "{SHA}",
        "{SSHA}",
        "{PLAIN}",
        "$argon2id$",
        "*",
        "!",
        "$",
        "{",
    ]);
    let digits = prop::collection::vec((0..64_u8).prop_map(crypt64::encode), 0..64);
    let exact = prop::sample::select(vec![13_usize, 20, 22, 43, 53, 86]).prop_flat_map(|length| {
        prop::collection::vec((0..64_u8).prop_map(crypt64::encode), length)
    });
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    (head, prop_oneof![digits, exact, bytes])
        .prop_map(|(head, tail)| [head.as_bytes(), &tail].concat())
}

fn schemes() -> impl Strategy<Value = Scheme> {
    prop_oneof![
        Just(Scheme::Des),
        Just(Scheme::Md5),
        Just(Scheme::Apr1),
        Just(Scheme::Sha),
        Just(Scheme::SaltedSha),
        Just(Scheme::Sha256Crypt { rounds: 1000 }),
        Just(Scheme::Sha512Crypt { rounds: 1000 }),
        Just(Scheme::Bcrypt { cost: 4 }),
        Just(Scheme::Bcrypt { cost: 0 }),
        Just(Scheme::Bcrypt { cost: 255 }),
    ]
}

proptest! {
    #[test]
    fn no_hash_and_no_password_panics(stored in hash_like(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(scheme) = Scheme::parse(&stored) {
            let entry = Entry::new(scheme, 1, &stored);
            prop_assert!(!entry.verify(&Password::new(bytes)));
        }
    }

    #[test]
    fn verify_does_not_panic_on_hashes_that_parse_rejects(
        scheme in schemes(),
        stored in hash_like(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(!scheme.verify(&stored, &bytes));
    }
}
