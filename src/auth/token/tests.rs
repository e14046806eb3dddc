//! What a token is worth where, and that a changed one is worth nothing.

use proptest::prelude::*;

use super::*;

const SECRET: &[u8] = b"q8vX0m3nT5kL7pR9sW1yZ2bC4dF6gH8jK0lM2nP4qS6=";
const FORMER: &[u8] = b"0123456789abcdef0123456789abcdef";
const LINE: &[u8] = b"$2y$10$line";
const LIFE: Duration = Duration::from_secs(900);

fn tokens(secret: &[u8], site: &str, route: &str) -> TokenIssuer {
    TokenIssuer::new(SigningKeys::parse(secret).unwrap(), site, route, LIFE)
}

fn usual() -> TokenIssuer {
    tokens(SECRET, "a.example", "/v2/")
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn pull() -> Scope {
    Scope::parse(["repository:a/b:pull"])
}

/// Alice's, of the first second.
fn token(tokens: &TokenIssuer) -> String {
    tokens.issue(b"alice", LINE, &pull(), at(0)).token
}

fn verify(
    tokens: &TokenIssuer,
    token: &str,
    now: SystemTime,
) -> Result<VerifiedToken, InvalidToken> {
    tokens.verify(
        token.as_bytes(),
        |user| (user == b"alice").then_some(LINE),
        now,
    )
}

#[test]
fn a_token_says_who_and_what() {
    let issued = usual().issue(b"alice", LINE, &pull(), at(0));
    assert_eq!((issued.at, issued.lifetime), (at(0), LIFE));
    let good = verify(&usual(), &issued.token, at(0)).unwrap();
    assert_eq!((good.user.as_slice(), good.scope), (&b"alice"[..], pull()));
    // As RFC 6750 section 2.1 wants it.
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    assert!(issued.token.bytes().all(is_legal));
}

#[test]
fn nobody_in_particular_has_a_token_of_his_own() {
    let issued = usual().issue(b"", b"", &pull(), at(0));
    let looked_up = |_: &[u8]| -> Option<&[u8]> { panic!("nobody has a line") };
    let good = usual()
        .verify(issued.token.as_bytes(), looked_up, at(1))
        .unwrap();
    assert!(good.user.is_empty());
}

#[test]
fn a_token_ends_and_clocks_may_differ_by_a_minute() {
    let token = token(&usual());
    for (seconds, is_good) in [
        (0, true),
        (900, true),
        (959, true),
        (960, false),
        (1_000_000, false),
    ] {
        assert_eq!(
            verify(&usual(), &token, at(seconds)).is_ok(),
            is_good,
            "{seconds}"
        );
    }
    let early = |seconds: u64| at(0) - Duration::from_secs(seconds);
    assert!(verify(&usual(), &token, early(60)).is_ok());
    assert_eq!(verify(&usual(), &token, early(61)), Err(InvalidToken));
    assert_eq!(verify(&usual(), &token, UNIX_EPOCH), Err(InvalidToken));
}

#[test]
fn a_token_is_worth_nothing_elsewhere() {
    let token = token(&usual());
    for other in [
        tokens(SECRET, "b.example", "/v2/"),
        tokens(SECRET, "a.example", "/v2/team/"),
        tokens(SECRET, "a.example/", "v2/"),
        tokens(FORMER, "a.example", "/v2/"),
    ] {
        assert_eq!(verify(&other, &token, at(1)), Err(InvalidToken));
    }
}

#[test]
fn a_changed_line_or_a_user_who_is_gone_ends_a_token() {
    let token = token(&usual());
    for line in [None, Some(&b"$2y$10$other"[..]), Some(&b""[..])] {
        assert_eq!(
            usual().verify(token.as_bytes(), |_| line, at(1)),
            Err(InvalidToken)
        );
    }
}

#[test]
fn rotation_takes_two_lines() {
    let old = token(&tokens(FORMER, "a.example", "/v2/"));
    let both = tokens(&[SECRET, FORMER].join(&b'\n'), "a.example", "/v2/");
    assert!(verify(&both, &old, at(1)).is_ok());
    let new = token(&both);
    assert!(verify(&usual(), &new, at(1)).is_ok());
    assert_eq!(verify(&usual(), &old, at(1)), Err(InvalidToken));
}

#[test]
fn the_endpoint_lies_below_the_route() {
    assert_eq!(usual().path(), "/v2/_token");
    assert_eq!(tokens(SECRET, "a", "/").path(), "/_token");
    assert_eq!(tokens(SECRET, "a", "/v2").path(), "/v2/_token");
}

#[test]
fn every_bit_counts() {
    let token = token(&usual());
    for index in 0..token.len() {
        for bit in 0..8 {
            let mut changed = token.clone().into_bytes();
            changed[index] ^= 1 << bit;
            let seen = usual().verify(&changed, |_| Some(LINE), at(1));
            assert_eq!(seen, Err(InvalidToken), "bit {bit} of byte {index}");
        }
    }
    for end in 0..token.len() {
        assert_eq!(
            usual().verify(&token.as_bytes()[..end], |_| Some(LINE), at(1)),
            Err(InvalidToken)
        );
    }
    for longer in ["=", "A", ".", ".A", "\n"] {
        assert_eq!(
            verify(&usual(), &format!("{token}{longer}"), at(1)),
            Err(InvalidToken)
        );
        assert_eq!(
            verify(&usual(), &format!("{longer}{token}"), at(1)),
            Err(InvalidToken)
        );
    }
}

#[test]
fn the_longest_scope_still_makes_a_token() {
    let all: Vec<_> = (0..1000)
        .map(|n| format!("repository:team/app{n}:*"))
        .collect();
    let scope = Scope::parse(all.iter().map(String::as_str));
    let long = [b'u'; 1024];
    let issued = usual().issue(&long, LINE, &scope, at(0));
    let good = usual()
        .verify(issued.token.as_bytes(), |_| Some(LINE), at(0))
        .unwrap();
    assert_eq!(good.scope, scope);
    assert!(issued.token.len() <= MOST);
}

proptest! {
    #[test]
    fn what_is_minted_is_verified(user in proptest::collection::vec(any::<u8>(), 1..40), line: Vec<u8>, name in "[a-z]{1,9}(/[a-z]{1,9}){0,3}") {
        let scope = Scope::parse([format!("repository:{name}:*").as_str()]);
        let issued = usual().issue(&user, &line, &scope, at(0));
        let good = usual().verify(issued.token.as_bytes(), |asked| (asked == user).then_some(&line), at(5)).unwrap();
        prop_assert_eq!(good, VerifiedToken { user, scope });
        let another = [line.as_slice(), b"x"].concat();
        prop_assert!(usual().verify(issued.token.as_bytes(), |_| Some(&another), at(5)).is_err());
    }

    #[test]
    fn no_bytes_are_a_token(said: Vec<u8>, mac: Vec<u8>, raw: Vec<u8>) {
        let token = [said, mac].map(|part| Base64UrlUnpadded::encode_string(&part)).join(".");
        prop_assert!(usual().verify(token.as_bytes(), |_| Some(LINE), at(0)).is_err());
        prop_assert!(usual().verify(&raw, |_| Some(LINE), at(0)).is_err());
    }

    #[test]
    fn claims_are_read_as_written(key: [u8; 4], issued: u64, expires: u64, user: Vec<u8>, scope: String) {
        let claims = Claims { key, issued, expires, user: &user, scope: &scope };
        let written = claims.write();
        prop_assert_eq!(Claims::read(&written), Some(claims));
    }
}
