//! Tests of where and when a token is valid, and that a changed token is invalid.

use proptest::prelude::*;

use super::*;

const SECRET: &[u8] = b"q8vX0m3nT5kL7pR9sW1yZ2bC4dF6gH8jK0lM2nP4qS6=";
const PREVIOUS: &[u8] = b"0123456789abcdef0123456789abcdef";
const LINE: &[u8] = b"$2y$10$line";
const LIFETIME: Duration = Duration::from_secs(900);

fn issuer_of(secret: &[u8], site: &str, route: &str) -> TokenIssuer {
    TokenIssuer::new(SigningKeys::parse(secret).unwrap(), site, route, LIFETIME)
}

fn issuer() -> TokenIssuer {
    issuer_of(SECRET, "a.example", "/v2/")
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn pull() -> Scope {
    Scope::parse(["repository:a/b:pull"])
}

/// A token of alice, issued in the first second.
fn token(issuer: &TokenIssuer) -> String {
    issuer.issue(b"alice", LINE, &pull(), at(0)).token
}

fn verify(
    issuer: &TokenIssuer,
    token: &str,
    now: SystemTime,
) -> Result<VerifiedToken, InvalidToken> {
    issuer.verify(
        token.as_bytes(),
        |user| (user == b"alice").then_some(LINE),
        now,
    )
}

#[test]
fn a_token_has_its_user_and_scope() {
    let issued = issuer().issue(b"alice", LINE, &pull(), at(0));
    assert_eq!((issued.at, issued.lifetime), (at(0), LIFETIME));
    let verified = verify(&issuer(), &issued.token, at(0)).unwrap();
    assert_eq!(
        (verified.user.as_slice(), verified.scope),
        (&b"alice"[..], pull())
    );
    // RFC 6750 section 2.1 allows these characters.
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    assert!(issued.token.bytes().all(is_legal));
}

#[test]
fn anonymous_clients_get_a_token_without_a_user() {
    let issued = issuer().issue(b"", b"", &pull(), at(0));
    let looked_up = |_: &[u8]| -> Option<&[u8]> { panic!("an anonymous token needs no lookup") };
    let verified = issuer()
        .verify(issued.token.as_bytes(), looked_up, at(1))
        .unwrap();
    assert!(verified.user.is_empty());
}

#[test]
fn a_token_expires_and_clocks_may_differ_by_a_minute() {
    let token = token(&issuer());
    for (seconds, is_valid) in [
        (0, true),
        (900, true),
        (959, true),
        (960, false),
        (1_000_000, false),
    ] {
        assert_eq!(
            verify(&issuer(), &token, at(seconds)).is_ok(),
            is_valid,
            "{seconds}"
        );
    }
    let early = |seconds: u64| at(0) - Duration::from_secs(seconds);
    assert!(verify(&issuer(), &token, early(60)).is_ok());
    assert_eq!(verify(&issuer(), &token, early(61)), Err(InvalidToken));
    assert_eq!(verify(&issuer(), &token, UNIX_EPOCH), Err(InvalidToken));
}

#[test]
fn a_token_is_invalid_at_another_route_or_with_another_key() {
    let token = token(&issuer());
    for other in [
        issuer_of(SECRET, "b.example", "/v2/"),
        issuer_of(SECRET, "a.example", "/v2/team/"),
        issuer_of(SECRET, "a.example/", "v2/"),
        issuer_of(PREVIOUS, "a.example", "/v2/"),
    ] {
        assert_eq!(verify(&other, &token, at(1)), Err(InvalidToken));
    }
}

#[test]
fn a_changed_line_or_a_removed_user_invalidates_a_token() {
    let token = token(&issuer());
    for line in [None, Some(&b"$2y$10$other"[..]), Some(&b""[..])] {
        assert_eq!(
            issuer().verify(token.as_bytes(), |_| line, at(1)),
            Err(InvalidToken)
        );
    }
}

#[test]
fn a_rotation_keeps_tokens_of_the_previous_key_valid() {
    let old = token(&issuer_of(PREVIOUS, "a.example", "/v2/"));
    let both = issuer_of(&[SECRET, PREVIOUS].join(&b'\n'), "a.example", "/v2/");
    assert!(verify(&both, &old, at(1)).is_ok());
    let new = token(&both);
    assert!(verify(&issuer(), &new, at(1)).is_ok());
    assert_eq!(verify(&issuer(), &old, at(1)), Err(InvalidToken));
}

#[test]
fn the_token_endpoint_is_below_the_route() {
    assert_eq!(issuer().path(), "/v2/_token");
    assert_eq!(issuer_of(SECRET, "a", "/").path(), "/_token");
    assert_eq!(issuer_of(SECRET, "a", "/v2").path(), "/v2/_token");
}

#[test]
fn a_token_with_a_changed_bit_is_invalid() {
    let token = token(&issuer());
    for index in 0..token.len() {
        for bit in 0..8 {
            let mut changed = token.clone().into_bytes();
            changed[index] ^= 1 << bit;
            let seen = issuer().verify(&changed, |_| Some(LINE), at(1));
            assert_eq!(seen, Err(InvalidToken), "bit {bit} of byte {index}");
        }
    }
    for end in 0..token.len() {
        assert_eq!(
            issuer().verify(&token.as_bytes()[..end], |_| Some(LINE), at(1)),
            Err(InvalidToken)
        );
    }
    for longer in ["=", "A", ".", ".A", "\n"] {
        assert_eq!(
            verify(&issuer(), &format!("{token}{longer}"), at(1)),
            Err(InvalidToken)
        );
        assert_eq!(
            verify(&issuer(), &format!("{longer}{token}"), at(1)),
            Err(InvalidToken)
        );
    }
}

#[test]
fn a_token_can_have_the_longest_scope() {
    let all: Vec<_> = (0..1000)
        .map(|n| format!("repository:team/app{n}:*"))
        .collect();
    let scope = Scope::parse(all.iter().map(String::as_str));
    let long = [b'u'; 1024];
    let issued = issuer().issue(&long, LINE, &scope, at(0));
    let verified = issuer()
        .verify(issued.token.as_bytes(), |_| Some(LINE), at(0))
        .unwrap();
    assert_eq!(verified.scope, scope);
    assert!(issued.token.len() <= MAX_TOKEN);
}

proptest! {
    #[test]
    fn an_issued_token_is_valid(user in proptest::collection::vec(any::<u8>(), 1..40), line: Vec<u8>, name in "[a-z]{1,9}(/[a-z]{1,9}){0,3}") {
        let scope = Scope::parse([format!("repository:{name}:*").as_str()]);
        let issued = issuer().issue(&user, &line, &scope, at(0));
        let verified = issuer().verify(issued.token.as_bytes(), |asked| (asked == user).then_some(&line), at(5)).unwrap();
        prop_assert_eq!(verified, VerifiedToken { user, scope });
        let another = [line.as_slice(), b"x"].concat();
        prop_assert!(issuer().verify(issued.token.as_bytes(), |_| Some(&another), at(5)).is_err());
    }

    #[test]
    fn random_bytes_are_not_a_token(claims: Vec<u8>, mac: Vec<u8>, raw: Vec<u8>) {
        let token = [claims, mac].map(|part| Base64UrlUnpadded::encode_string(&part)).join(".");
        prop_assert!(issuer().verify(token.as_bytes(), |_| Some(LINE), at(0)).is_err());
        prop_assert!(issuer().verify(&raw, |_| Some(LINE), at(0)).is_err());
    }

    #[test]
    fn claims_decode_to_what_was_encoded(key: [u8; 4], issued: u64, expires: u64, user: Vec<u8>, scope: String) {
        let claims = Claims { key, issued, expires, user: &user, scope: &scope };
        let encoded = claims.encode();
        prop_assert_eq!(Claims::decode(&encoded), Some(claims));
    }
}
