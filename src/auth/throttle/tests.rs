//! Who is slowed, for what, and for how long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::auth::verified::LoginCache;
use crate::net::addr::PeerAddr;
use crate::secret::Password;

const SETTINGS: Settings = Settings {
    guesses: 3,
    window: Duration::from_secs(300),
};

struct Lab {
    throttle: GuessLimiter,
    verified: LoginCache,
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

impl Lab {
    fn new() -> Self {
        Self {
            throttle: GuessLimiter::new(),
            verified: LoginCache::new().unwrap(),
            start: Instant::now(),
        }
    }

    fn tried(&self, network: ClientNetwork, user: &str, password: &str) -> Attempt {
        let secret = Password::new(password.into());
        let mark = self.verified.mark(user.as_bytes(), &secret, b"line");
        self.throttle
            .attempt(network, (user.as_bytes(), b"line"), mark)
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    /// Whether this wrong try reaches the bound of its network.
    fn wrong(&self, tried: &Attempt, seconds: u64) -> bool {
        let reached = self
            .throttle
            .record_failure(tried, SETTINGS, self.at(seconds));
        reached == Some(Exceeded::Network(tried.network))
    }

    fn before(&self, tried: &Attempt, seconds: u64) -> AttemptStatus {
        self.throttle.before(tried, SETTINGS, self.at(seconds))
    }

    fn kept(&self) -> usize {
        let shards = self.throttle.shards.all();
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
    let lab = Lab::new();
    let home = number(1);
    for again in 0..5 {
        let tried = lab.tried(home, "alice", "one");
        assert!(!lab.wrong(&tried, again));
        assert_eq!(lab.before(&tried, again), AttemptStatus::Wrong);
    }
    assert!(!lab.wrong(&lab.tried(home, "alice", "two"), 10));
    let third = lab.tried(home, "bob", "two");
    assert_eq!(lab.before(&third, 20), AttemptStatus::Unknown);
    assert!(
        lab.wrong(&third, 20),
        "it is the one too many, and said to be"
    );
    let left = AttemptStatus::TooMany(Duration::from_secs(300 - 30));
    assert_eq!(lab.before(&lab.tried(home, "carol", "x"), 30), left);
    // What was wrong is still told to be wrong, not to be too much.
    assert_eq!(lab.before(&third, 30), AttemptStatus::Wrong);
    assert_eq!(lab.kept(), 3);
}

#[test]
fn a_guess_counts_for_the_window() {
    let lab = Lab::new();
    let home = number(1);
    for (password, at) in [("one", 0), ("two", 100), ("three", 200)] {
        lab.wrong(&lab.tried(home, "alice", password), at);
    }
    let next = lab.tried(home, "alice", "four");
    assert!(matches!(lab.before(&next, 299), AttemptStatus::TooMany(_)));
    assert_eq!(lab.before(&next, 301), AttemptStatus::Unknown);
    assert!(lab.wrong(&next, 301));
    assert_eq!(
        lab.before(&lab.tried(home, "alice", "five"), 301),
        AttemptStatus::TooMany(Duration::from_secs(99))
    );
    // The first one is forgotten, so it is a guess again.
    assert!(matches!(
        lab.before(&lab.tried(home, "alice", "one"), 301),
        AttemptStatus::TooMany(_)
    ));
    assert_eq!(lab.kept(), 3);
}

#[test]
fn nobody_is_locked_out_from_elsewhere() {
    let lab = Lab::new();
    for password in ["one", "two", "three"] {
        lab.wrong(&lab.tried(number(1), "alice", password), 0);
    }
    let home = lab.tried(number(2), "alice", "four");
    assert_eq!(lab.before(&home, 0), AttemptStatus::Unknown);
}

#[test]
fn a_right_login_forgives_its_own_user_only() {
    let lab = Lab::new();
    let home = number(1);
    for (user, password) in [("alice", "one"), ("alice", "two"), ("bob", "one")] {
        lab.wrong(&lab.tried(home, user, password), 0);
    }
    let next = lab.tried(home, "carol", "x");
    lab.throttle.record_success(&lab.tried(home, "carol", "y"));
    assert!(matches!(lab.before(&next, 1), AttemptStatus::TooMany(_)));
    lab.throttle
        .record_success(&lab.tried(home, "alice", "right"));
    assert_eq!(lab.before(&next, 1), AttemptStatus::Unknown);
    assert_eq!(lab.kept(), 1);
}

#[test]
fn an_account_of_the_same_name_in_another_file_forgives_nothing() {
    let lab = Lab::new();
    let home = number(1);
    for password in ["one", "two", "three"] {
        lab.wrong(&lab.tried(home, "admin", password), 0);
    }
    let mark = lab.tried(home, "admin", "own").mark();
    let other = lab
        .throttle
        .attempt(home, (b"admin", b"another line"), mark);
    lab.throttle.record_success(&other);
    let next = lab.tried(home, "admin", "four");
    assert!(matches!(lab.before(&next, 1), AttemptStatus::TooMany(_)));
}

#[test]
fn a_network_is_an_address_or_64_bits_of_one() {
    let six = |text: &str| network(text.parse::<Ipv6Addr>().unwrap());
    assert_eq!(six("2001:db8:0:1::1"), six("2001:db8:0:1:ffff::2"));
    assert_ne!(six("2001:db8:0:1::1"), six("2001:db8:0:2::1"));
    assert_eq!(
        six("::ffff:192.0.2.1"),
        network(Ipv4Addr::new(192, 0, 2, 1))
    );
    assert_ne!(number(1), number(2));
    assert_eq!(six("2001:db8:0:1::1").to_string(), "2001:db8:0:1::/64");
    assert_eq!(number(1).to_string(), "0.0.0.1");
}

fn subnet(group: u16, number: usize) -> ClientNetwork {
    let text = format!("2001:db8:{group:x}:{number:x}::1");
    network(text.parse::<Ipv6Addr>().unwrap())
}

#[test]
fn a_48_that_rotates_its_64s_has_a_bounded_number_of_guesses() {
    let lab = Lab::new();
    let mut checked = 0;
    let mut reached = Vec::new();
    for number in 0..1000 {
        let tried = lab.tried(subnet(1, number), "alice", &number.to_string());
        if lab.before(&tried, 0) == AttemptStatus::Unknown {
            checked += 1;
            reached.extend(lab.throttle.record_failure(&tried, SETTINGS, lab.at(0)));
        }
    }
    assert_eq!(checked, SETTINGS.guesses * GROUP_SHARE);
    assert_eq!(reached, [Exceeded::Group(subnet(1, 0).group())]);
    assert_eq!(reached[0].to_string(), "2001:db8:1::/48");
    // What a network has guessed itself is still told to be wrong, and another /48 is not concerned.
    let first = lab.tried(subnet(1, 0), "alice", "0");
    assert_eq!(lab.before(&first, 1), AttemptStatus::Wrong);
    let next = |group| lab.tried(subnet(group, 0), "alice", "next");
    let left = AttemptStatus::TooMany(Duration::from_secs(299));
    assert_eq!(lab.before(&next(1), 1), left);
    assert_eq!(lab.before(&next(2), 1), AttemptStatus::Unknown);
    assert_eq!(lab.before(&next(1), 301), AttemptStatus::Unknown);
}

#[test]
fn one_guesser_in_a_48_does_not_lock_out_its_neighbours() {
    let lab = Lab::new();
    for guess in 0..1000 {
        let tried = lab.tried(subnet(1, 0), "alice", &guess.to_string());
        if lab.before(&tried, 0) == AttemptStatus::Unknown {
            lab.wrong(&tried, 0);
        }
    }
    for number in 1..100 {
        let neighbour = lab.tried(subnet(1, number), "bob", "pw");
        assert_eq!(lab.before(&neighbour, 0), AttemptStatus::Unknown);
    }
}

#[test]
fn the_same_wrong_password_of_a_whole_48_is_one_guess() {
    let lab = Lab::new();
    for number in 0..1000 {
        let tried = lab.tried(subnet(1, number), "robot", "expired");
        assert_eq!(lab.before(&tried, 0), AttemptStatus::Unknown, "{number}");
        lab.wrong(&tried, 0);
        assert_eq!(lab.before(&tried, 0), AttemptStatus::Wrong);
    }
    assert_eq!(lab.kept(), 1000);
}

#[test]
fn comparisons_are_bounded_and_a_right_login_gives_them_back() {
    let lab = Lab::new();
    let may = |network, password: &str, at| {
        let tried = lab.tried(network, "alice", password);
        lab.throttle.may_compare(&tried, SETTINGS, lab.at(at))
    };
    let home = number(1);
    for password in ["one", "two", "three"] {
        assert!(may(home, password, 0));
    }
    assert!(!may(home, "four", 1));
    assert!(may(home, "one", 1), "the same one again is no further one");
    assert!(may(number(2), "four", 1));
    // They are no wrong passwords.
    let next = lab.tried(home, "alice", "four");
    assert_eq!(lab.before(&next, 1), AttemptStatus::Unknown);
    assert!(may(home, "four", 301));
    lab.throttle
        .record_success(&lab.tried(home, "alice", "right"));
    assert_eq!(lab.kept(), 1);
    let group = (0..1000).filter(|at| may(subnet(1, *at), &at.to_string(), 400));
    assert_eq!(group.count(), SETTINGS.guesses * GROUP_SHARE);
}

#[test]
fn without_a_limit_nothing_is_kept() {
    let lab = Lab::new();
    let off = Settings {
        guesses: 0,
        ..SETTINGS
    };
    for guess in 0..100 {
        let tried = lab.tried(number(1), "alice", &guess.to_string());
        assert_eq!(lab.throttle.record_failure(&tried, off, lab.start), None);
        assert!(lab.throttle.may_compare(&tried, off, lab.start));
        assert_eq!(
            lab.throttle.before(&tried, off, lab.start),
            AttemptStatus::Unknown
        );
    }
    assert_eq!(lab.kept(), 0);
}

#[test]
fn a_million_sources_take_bounded_memory_and_wipe_out_no_count() {
    let lab = Lab::new();
    let guesser = number(0);
    for password in ["one", "two", "three"] {
        lab.wrong(&lab.tried(guesser, "alice", password), 0);
    }
    let tried = lab.tried(guesser, "alice", "four");
    for source in 1..=1_000_000 {
        let one = Attempt {
            network: number(source),
            ..tried
        };
        lab.wrong(&one, 1);
    }
    assert!(matches!(lab.before(&tried, 2), AttemptStatus::TooMany(_)));
    let kept = lab.kept();
    assert!((MOST / 2..=MOST).contains(&kept), "{kept}");
    // When they are over, the next one that needs room gets all of it.
    for source in 0..1_000 {
        let one = Attempt {
            network: number(source + 2_000_000),
            ..tried
        };
        lab.wrong(&one, 1000);
    }
    assert!(lab.kept() <= MOST);
}

proptest! {
    /// Against a list of everything that happened.
    #[test]
    fn it_counts_what_a_simple_list_counts(steps in prop::collection::vec((0..3_u32, 0..2_u8, 0..6_u8, 0..200_u64, any::<bool>()), 0..60)) {
        let lab = Lab::new();
        let mut list: Vec<(u32, u8, u8, u64)> = Vec::new();
        let mut now = 0;
        for (source, user, password, pause, right) in steps {
            now += pause;
            let tried = lab.tried(number(source), &user.to_string(), &password.to_string());
            list.retain(|(.., at)| now - at <= SETTINGS.window.as_secs());
            let own: Vec<_> = list.iter().filter(|guess| guess.0 == source).collect();
            let expected = if own.iter().any(|guess| (guess.1, guess.2) == (user, password)) {
                "wrong"
            } else if own.len() >= SETTINGS.guesses {
                "too many"
            } else {
                "unknown"
            };
            let found = match lab.before(&tried, now) {
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
                lab.throttle.record_success(&tried);
                list.retain(|guess| (guess.0, guess.1) != (source, user));
            } else {
                lab.wrong(&tried, now);
                list.push((source, user, password, now));
            }
        }
    }
}
