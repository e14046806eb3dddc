//! Tests of the guess limiter, among them one against a plain list of guesses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::auth::login_cache::LoginCache;
use crate::net::addr::PeerAddr;
use crate::secret::Password;

const SETTINGS: Settings = Settings {
    guesses: 3,
    window: Duration::from_secs(300),
};

struct Fixture {
    limiter: GuessLimiter,
    cache: LoginCache,
    start: Instant,
}

fn network(ip: impl Into<IpAddr>) -> ClientNetwork {
    PeerAddr::new(SocketAddr::new(ip.into(), 1))
        .client()
        .network()
}

fn number(number: u32) -> ClientNetwork {
    network(Ipv4Addr::from(number))
}

impl Fixture {
    fn new() -> Self {
        Self {
            limiter: GuessLimiter::new(),
            cache: LoginCache::new().unwrap(),
            start: Instant::now(),
        }
    }

    fn attempt(&self, network: ClientNetwork, user: &str, password: &str) -> Attempt {
        let secret = Password::new(password.into());
        let key = self.cache.key(user.as_bytes(), &secret, b"line");
        self.limiter
            .attempt(network, (user.as_bytes(), b"line"), key)
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn clear(&self, network: &str, seconds: u64) -> ClearedGuesses {
        self.limiter
            .clear(network.parse().unwrap(), SETTINGS, self.at(seconds))
    }

    /// Records a failed attempt, and returns whether it reaches the limit of its network.
    fn fail(&self, attempt: &Attempt, seconds: u64) -> bool {
        let reached = self
            .limiter
            .record_failure(attempt, SETTINGS, self.at(seconds));
        reached == Some(Exceeded::Network(attempt.network))
    }

    fn status(&self, attempt: &Attempt, seconds: u64) -> AttemptStatus {
        self.limiter.status(attempt, SETTINGS, self.at(seconds))
    }

    fn kept(&self) -> usize {
        let shards = self.limiter.shards.lock_each();
        shards
            .map(|shard| {
                let all: usize = shard.groups.values().map(Vec::len).sum();
                assert_eq!(shard.guesses, all);
                assert!(shard.groups.values().all(|guesses| !guesses.is_empty()));
                shard.guesses
            })
            .sum()
    }
}

#[test]
fn different_guesses_count_and_the_same_one_does_not() {
    let fixture = Fixture::new();
    let home = number(1);
    for again in 0..5 {
        let attempt = fixture.attempt(home, "alice", "one");
        assert!(!fixture.fail(&attempt, again));
        assert_eq!(fixture.status(&attempt, again), AttemptStatus::Wrong);
    }
    assert!(!fixture.fail(&fixture.attempt(home, "alice", "two"), 10));
    let third = fixture.attempt(home, "bob", "two");
    assert_eq!(fixture.status(&third, 20), AttemptStatus::Unknown);
    assert!(fixture.fail(&third, 20), "this attempt reaches the limit");
    let left = AttemptStatus::TooMany(Duration::from_secs(300 - 30));
    assert_eq!(
        fixture.status(&fixture.attempt(home, "carol", "x"), 30),
        left
    );
    // Credentials that were wrong are still reported as wrong, not as too many.
    assert_eq!(fixture.status(&third, 30), AttemptStatus::Wrong);
    assert_eq!(fixture.kept(), 3);
}

#[test]
fn a_guess_counts_for_the_window() {
    let fixture = Fixture::new();
    let home = number(1);
    for (password, at) in [("one", 0), ("two", 100), ("three", 200)] {
        fixture.fail(&fixture.attempt(home, "alice", password), at);
    }
    let next = fixture.attempt(home, "alice", "four");
    assert!(matches!(
        fixture.status(&next, 299),
        AttemptStatus::TooMany(_)
    ));
    assert_eq!(fixture.status(&next, 301), AttemptStatus::Unknown);
    assert!(fixture.fail(&next, 301));
    assert_eq!(
        fixture.status(&fixture.attempt(home, "alice", "five"), 301),
        AttemptStatus::TooMany(Duration::from_secs(99))
    );
    // The first guess has expired, so the same credentials would be a new guess.
    assert!(matches!(
        fixture.status(&fixture.attempt(home, "alice", "one"), 301),
        AttemptStatus::TooMany(_)
    ));
    assert_eq!(fixture.kept(), 3);
}

#[test]
fn guesses_of_one_network_do_not_lock_out_another() {
    let fixture = Fixture::new();
    for password in ["one", "two", "three"] {
        fixture.fail(&fixture.attempt(number(1), "alice", password), 0);
    }
    let home = fixture.attempt(number(2), "alice", "four");
    assert_eq!(fixture.status(&home, 0), AttemptStatus::Unknown);
}

#[test]
fn a_successful_login_clears_the_guesses_at_its_own_user_only() {
    let fixture = Fixture::new();
    let home = number(1);
    for (user, password) in [("alice", "one"), ("alice", "two"), ("bob", "one")] {
        fixture.fail(&fixture.attempt(home, user, password), 0);
    }
    let next = fixture.attempt(home, "carol", "x");
    fixture
        .limiter
        .record_success(&fixture.attempt(home, "carol", "y"));
    assert!(matches!(
        fixture.status(&next, 1),
        AttemptStatus::TooMany(_)
    ));
    fixture
        .limiter
        .record_success(&fixture.attempt(home, "alice", "right"));
    assert_eq!(fixture.status(&next, 1), AttemptStatus::Unknown);
    assert_eq!(fixture.kept(), 1);
}

#[test]
fn a_user_of_the_same_name_in_another_file_clears_nothing() {
    let fixture = Fixture::new();
    let home = number(1);
    for password in ["one", "two", "three"] {
        fixture.fail(&fixture.attempt(home, "admin", password), 0);
    }
    let key = fixture.attempt(home, "admin", "own").key();
    let other = fixture
        .limiter
        .attempt(home, (b"admin", b"another line"), key);
    fixture.limiter.record_success(&other);
    let next = fixture.attempt(home, "admin", "four");
    assert!(matches!(
        fixture.status(&next, 1),
        AttemptStatus::TooMany(_)
    ));
}

#[test]
fn a_network_is_an_address_or_64_bits_of_one() {
    let v6 = |text: &str| network(text.parse::<Ipv6Addr>().unwrap());
    assert_eq!(v6("2001:db8:0:1::1"), v6("2001:db8:0:1:ffff::2"));
    assert_ne!(v6("2001:db8:0:1::1"), v6("2001:db8:0:2::1"));
    assert_eq!(v6("::ffff:192.0.2.1"), network(Ipv4Addr::new(192, 0, 2, 1)));
    assert_ne!(number(1), number(2));
    assert_eq!(v6("2001:db8:0:1::1").to_string(), "2001:db8:0:1::/64");
    assert_eq!(number(1).to_string(), "0.0.0.1");
}

fn subnet(group: u16, number: usize) -> ClientNetwork {
    let text = format!("2001:db8:{group:x}:{number:x}::1");
    network(text.parse::<Ipv6Addr>().unwrap())
}

#[test]
fn the_guesses_of_all_networks_of_a_48_are_limited() {
    let fixture = Fixture::new();
    let mut checked = 0;
    let mut reached = Vec::new();
    for number in 0..1000 {
        let attempt = fixture.attempt(subnet(1, number), "alice", &number.to_string());
        if fixture.status(&attempt, 0) == AttemptStatus::Unknown {
            checked += 1;
            reached.extend(
                fixture
                    .limiter
                    .record_failure(&attempt, SETTINGS, fixture.at(0)),
            );
        }
    }
    assert_eq!(checked, SETTINGS.guesses * GROUP_SHARE);
    assert_eq!(reached, [Exceeded::Group(subnet(1, 0).group())]);
    assert_eq!(reached[0].to_string(), "2001:db8:1::/48");
    // Credentials that the network guessed itself are still reported as wrong, and another /48 is not affected.
    let first = fixture.attempt(subnet(1, 0), "alice", "0");
    assert_eq!(fixture.status(&first, 1), AttemptStatus::Wrong);
    let next = |group| fixture.attempt(subnet(group, 0), "alice", "next");
    let left = AttemptStatus::TooMany(Duration::from_secs(299));
    assert_eq!(fixture.status(&next(1), 1), left);
    assert_eq!(fixture.status(&next(2), 1), AttemptStatus::Unknown);
    assert_eq!(fixture.status(&next(1), 301), AttemptStatus::Unknown);
}

#[test]
fn one_guesser_in_a_48_does_not_lock_out_the_other_networks() {
    let fixture = Fixture::new();
    for guess in 0..1000 {
        let attempt = fixture.attempt(subnet(1, 0), "alice", &guess.to_string());
        if fixture.status(&attempt, 0) == AttemptStatus::Unknown {
            fixture.fail(&attempt, 0);
        }
    }
    for number in 1..100 {
        let other = fixture.attempt(subnet(1, number), "bob", "pw");
        assert_eq!(fixture.status(&other, 0), AttemptStatus::Unknown);
    }
}

#[test]
fn the_same_wrong_password_of_a_whole_48_is_one_guess() {
    let fixture = Fixture::new();
    for number in 0..1000 {
        let attempt = fixture.attempt(subnet(1, number), "robot", "expired");
        assert_eq!(
            fixture.status(&attempt, 0),
            AttemptStatus::Unknown,
            "{number}"
        );
        fixture.fail(&attempt, 0);
        assert_eq!(fixture.status(&attempt, 0), AttemptStatus::Wrong);
    }
    assert_eq!(fixture.kept(), 1000);
}

#[test]
fn comparisons_are_limited_and_a_successful_login_clears_them() {
    let fixture = Fixture::new();
    let may_compare = |network, password: &str, at| {
        let attempt = fixture.attempt(network, "alice", password);
        fixture
            .limiter
            .may_compare(&attempt, SETTINGS, fixture.at(at))
    };
    let home = number(1);
    for password in ["one", "two", "three"] {
        assert!(may_compare(home, password, 0));
    }
    assert!(!may_compare(home, "four", 1));
    assert!(
        may_compare(home, "one", 1),
        "the same credentials count once"
    );
    assert!(may_compare(number(2), "four", 1));
    // Comparisons do not count as wrong passwords.
    let next = fixture.attempt(home, "alice", "four");
    assert_eq!(fixture.status(&next, 1), AttemptStatus::Unknown);
    assert!(may_compare(home, "four", 301));
    fixture
        .limiter
        .record_success(&fixture.attempt(home, "alice", "right"));
    assert_eq!(fixture.kept(), 1);
    let group = (0..1000).filter(|at| may_compare(subnet(1, *at), &at.to_string(), 400));
    assert_eq!(group.count(), SETTINGS.guesses * GROUP_SHARE);
}

#[test]
fn with_the_limiter_off_no_guess_is_kept() {
    let fixture = Fixture::new();
    let off = Settings {
        guesses: 0,
        ..SETTINGS
    };
    for guess in 0..100 {
        let attempt = fixture.attempt(number(1), "alice", &guess.to_string());
        assert_eq!(
            fixture.limiter.record_failure(&attempt, off, fixture.start),
            None
        );
        assert!(fixture.limiter.may_compare(&attempt, off, fixture.start));
        assert_eq!(
            fixture.limiter.status(&attempt, off, fixture.start),
            AttemptStatus::Unknown
        );
    }
    assert_eq!(fixture.kept(), 0);
}

#[test]
fn a_million_sources_use_bounded_memory_and_do_not_erase_a_count() {
    let fixture = Fixture::new();
    let guesser = number(0);
    for password in ["one", "two", "three"] {
        fixture.fail(&fixture.attempt(guesser, "alice", password), 0);
    }
    let attempt = fixture.attempt(guesser, "alice", "four");
    for source in 1..=1_000_000 {
        let one = Attempt {
            network: number(source),
            ..attempt
        };
        fixture.fail(&one, 1);
    }
    assert!(matches!(
        fixture.status(&attempt, 2),
        AttemptStatus::TooMany(_)
    ));
    let kept = fixture.kept();
    assert!((MAX_GUESSES / 2..=MAX_GUESSES).contains(&kept), "{kept}");
    // Once the guesses have expired, the next guess that needs room removes them.
    for source in 0..1_000 {
        let one = Attempt {
            network: number(source + 2_000_000),
            ..attempt
        };
        fixture.fail(&one, 1000);
    }
    assert!(fixture.kept() <= MAX_GUESSES);
}

/// Repeats of the same wrong password do not count for a group, so nothing else bounds their number.
#[test]
fn a_group_cannot_erase_its_count_with_repeats_from_many_networks() {
    let fixture = Fixture::new();
    let of_group = |number: u128| network(Ipv6Addr::from(0x2001_0db8 << 96 | number << 64));
    let limit = u128::try_from(SETTINGS.guesses * GROUP_SHARE).unwrap();
    for number in 1..limit {
        fixture.fail(
            &fixture.attempt(of_group(number), "alice", &number.to_string()),
            0,
        );
    }
    for number in limit..20_000 {
        let repeat = fixture.attempt(of_group(number), "alice", "1");
        assert!(
            fixture
                .limiter
                .may_compare(&repeat, SETTINGS, fixture.at(1))
        );
        fixture.fail(&repeat, 1);
    }
    assert!(fixture.kept() <= MAX_OF_GROUP + SETTINGS.guesses * GROUP_SHARE);
    let last = fixture.attempt(of_group(20_001), "alice", "last");
    let reached = fixture
        .limiter
        .record_failure(&last, SETTINGS, fixture.at(2));
    assert_eq!(reached, Some(Exceeded::Group(last.network.group())));
}

proptest! {
    /// Compares the limiter with a list of all guesses.
    #[test]
    fn the_limiter_counts_as_a_plain_list_does(steps in prop::collection::vec((0..3_u32, 0..2_u8, 0..6_u8, 0..200_u64, any::<bool>()), 0..60)) {
        let fixture = Fixture::new();
        let mut list: Vec<(u32, u8, u8, u64)> = Vec::new();
        let mut now = 0;
        for (source, user, password, pause, right) in steps {
            now += pause;
            let attempt = fixture.attempt(number(source), &user.to_string(), &password.to_string());
            list.retain(|(.., at)| now - at <= SETTINGS.window.as_secs());
            let own: Vec<_> = list.iter().filter(|guess| guess.0 == source).collect();
            let expected = if own.iter().any(|guess| (guess.1, guess.2) == (user, password)) {
                "wrong"
            } else if own.len() >= SETTINGS.guesses {
                "too many"
            } else {
                "unknown"
            };
            let found = match fixture.status(&attempt, now) {
                AttemptStatus::Unknown => "unknown",
                AttemptStatus::Wrong => "wrong",
                AttemptStatus::TooMany(left) => {
                    prop_assert!(left <= SETTINGS.window);
                    "too many"
                }
            };
            prop_assert_eq!(found, expected);
            if found != "unknown" {
                continue;
            }
            if right {
                fixture.limiter.record_success(&attempt);
                list.retain(|guess| (guess.0, guess.1) != (source, user));
            } else {
                fixture.fail(&attempt, now);
                list.push((source, user, password, now));
            }
        }
    }
}

#[test]
fn cleared_guesses_are_those_of_the_networks_that_the_operator_names() {
    let subnet = |text: &str| network(text.parse::<IpAddr>().unwrap());
    let guessed = [
        "192.0.2.1",
        "192.0.2.2",
        "2001:db8:0:1::1",
        "2001:db8:0:2::1",
    ];
    for (cleared, networks) in [
        ("192.0.2.1", &guessed[..1]),
        ("192.0.2.0/24", &guessed[..2]),
        ("2001:db8:0:2::99", &guessed[3..]),
        ("2001:db8::/48", &guessed[2..]),
        ("::/0", &guessed[2..]),
        ("198.51.100.0/24", &[]),
    ] {
        let fixture = Fixture::new();
        for network in guessed {
            for password in ["one", "two", "three"] {
                fixture.fail(&fixture.attempt(subnet(network), "alice", password), 0);
            }
            let compared = fixture.attempt(subnet(network), "alice", "four");
            fixture
                .limiter
                .may_compare(&compared, SETTINGS, fixture.at(0));
        }
        let expected = ClearedGuesses {
            networks: networks.len(),
            guesses: 3 * networks.len(),
            limited_group: None,
        };
        assert_eq!(fixture.clear(cleared, 0), expected);
        assert_eq!(fixture.kept(), 4 * (guessed.len() - networks.len()));
        for network in guessed {
            let next = fixture.attempt(subnet(network), "alice", "five");
            let is_free = fixture.status(&next, 1) == AttemptStatus::Unknown;
            assert_eq!(is_free, networks.contains(&network), "{cleared} {network}");
        }
    }
}

#[test]
fn expired_guesses_are_removed_and_are_not_counted_as_cleared() {
    let fixture = Fixture::new();
    for (password, at) in [("one", 0), ("two", 100), ("three", 200)] {
        fixture.fail(&fixture.attempt(number(1), "alice", password), at);
    }
    fixture.fail(&fixture.attempt(number(2), "alice", "one"), 0);
    let expected = ClearedGuesses {
        networks: 1,
        guesses: 1,
        limited_group: None,
    };
    assert_eq!(fixture.clear("0.0.0.0/24", 401), expected);
    assert_eq!(fixture.kept(), 0);
}

#[test]
fn a_48_that_still_uses_up_its_limit_is_reported_with_what_was_cleared() {
    let fixture = Fixture::new();
    for number in 0..SETTINGS.guesses * GROUP_SHARE + 1 {
        let attempt = fixture.attempt(subnet(1, number), "alice", &number.to_string());
        fixture
            .limiter
            .record_failure(&attempt, SETTINGS, fixture.start);
    }
    let group = Some(subnet(1, 0).group());
    for (cleared, guesses, limited_group, is_limited) in [
        ("192.0.2.0/24", 0, None, true),
        ("2001:db8:2::/48", 0, None, true),
        ("2001:db8:1:ffff::1", 0, group, true),
        ("2001:db8:1:1::/64", 1, group, true),
        ("2001:db8:1:2::/64", 1, None, false),
    ] {
        let expected = ClearedGuesses {
            networks: guesses,
            guesses,
            limited_group,
        };
        assert_eq!(fixture.clear(cleared, 1), expected, "{cleared}");
        let next = fixture.attempt(subnet(1, 1), "alice", "another");
        let status = fixture.status(&next, 1);
        assert_eq!(
            matches!(status, AttemptStatus::TooMany(_)),
            is_limited,
            "{cleared}"
        );
    }
    assert_eq!(fixture.clear("2001:db8:1::/48", 301).guesses, 0);
    assert_eq!(fixture.kept(), 0);
}
