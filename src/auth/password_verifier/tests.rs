//! Tests of the password verifier with a password file of one user, whose hash is cheap.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::time::timeout;

use super::*;
use crate::htpasswd::parse;
use crate::net::addr::PeerAddr;
use crate::secret::Password;

fn users(file: &str) -> Arc<Users> {
    Arc::new(parse(file.as_bytes()).users)
}

fn home() -> ClientNetwork {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    PeerAddr::new(address).client().network()
}

fn elsewhere(last: u8) -> ClientNetwork {
    let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 1));
    PeerAddr::new(address).client().network()
}

fn credentials(user: &str, password: &str) -> Credentials {
    Credentials {
        user: user.into(),
        password: Password::new(password.into()),
    }
}

/// A verifier with one hash thread and one place in the queue.
fn verifier(wait: Duration) -> PasswordVerifier {
    let hashing = hash_pool::Settings {
        threads: 1,
        queue: 1,
        wait,
    };
    PasswordVerifier::start(hashing, LIMITS).unwrap()
}

const LIMITS: guess_limiter::Settings = guess_limiter::Settings {
    guesses: 3,
    window: Duration::from_secs(300),
};
const ALICE: &str = "alice:$apr1$saltsalt$x78Y39ym2RjUNQHTLgwHz/\n";
const CHANGED: &str = "alice:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n";

#[tokio::test]
async fn a_valid_login_is_cached_and_an_invalid_one_is_not() {
    let verifier = verifier(Duration::from_secs(10));
    for _ in 0..2 {
        assert!(matches!(
            verifier
                .verify(users(ALICE), credentials("alice", "pw"), home())
                .await,
            Ok(true)
        ));
        assert!(matches!(
            verifier
                .verify(users(ALICE), credentials("alice", "no"), home())
                .await,
            Ok(false)
        ));
        assert!(matches!(
            verifier
                .verify(users(ALICE), credentials("bob", "pw"), home())
                .await,
            Ok(false)
        ));
    }
    let known = |user: &str, password: &str, stored: &[u8]| {
        let password = Password::new(password.into());
        let key = verifier.state.cache.key(user.as_bytes(), &password, stored);
        verifier.state.cache.look_up(&key, home(), Instant::now()) == Lookup::Hit
    };
    assert!(known(
        "alice",
        "pw",
        b"$apr1$saltsalt$x78Y39ym2RjUNQHTLgwHz/"
    ));
    assert!(!known(
        "alice",
        "no",
        b"$apr1$saltsalt$x78Y39ym2RjUNQHTLgwHz/"
    ));
    assert!(!known("bob", "pw", b""));
    assert!(verifier.state.in_flight.lock().is_empty());
}

#[tokio::test]
async fn a_changed_line_invalidates_a_cached_login() {
    let verifier = verifier(Duration::from_secs(10));
    assert!(matches!(
        verifier
            .verify(users(ALICE), credentials("alice", "pw"), home())
            .await,
        Ok(true)
    ));
    assert!(matches!(
        verifier
            .verify(users(CHANGED), credentials("alice", "pw"), home())
            .await,
        Ok(false)
    ));
    assert!(matches!(
        verifier
            .verify(users("bob:x\n"), credentials("alice", "pw"), home())
            .await,
        Ok(false)
    ));
    assert!(matches!(
        verifier
            .verify(users(ALICE), credentials("alice", "pw"), home())
            .await,
        Ok(true)
    ));
}

#[tokio::test]
async fn concurrent_requests_with_the_same_credentials_share_one_hash() {
    let verifier = Arc::new(verifier(Duration::from_secs(10)));
    // The queue has one place, so twenty concurrent hashes would be rejected.
    for password in ["pw", "no"] {
        let checks = (0..20).map(|_| {
            let verifier = Arc::clone(&verifier);
            tokio::spawn(async move {
                verifier
                    .verify(users(ALICE), credentials("alice", password), home())
                    .await
            })
        });
        let checks: Vec<_> = checks.collect();
        for check in checks {
            assert_eq!(check.await.unwrap().unwrap(), password == "pw");
        }
    }
    assert!(verifier.state.in_flight.lock().is_empty());
}

#[tokio::test]
async fn a_cancelled_request_does_not_cancel_the_hash_of_others() {
    let verifier = Arc::new(verifier(Duration::from_secs(10)));
    let first = verifier.verify(users(ALICE), credentials("alice", "pw"), home());
    let gone = timeout(Duration::ZERO, first).await;
    let second = verifier
        .verify(users(ALICE), credentials("alice", "pw"), home())
        .await;
    assert!(matches!(second, Ok(true)), "{gone:?}");
    assert!(verifier.state.in_flight.lock().is_empty());
}

#[tokio::test]
async fn too_many_guesses_are_rejected_and_a_cached_login_is_not() {
    let verifier = verifier(Duration::from_secs(10));
    let right = || verifier.verify(users(ALICE), credentials("alice", "pw"), home());
    assert_eq!(right().await, Ok(true));
    for guess in ["a", "b", "c"] {
        let wrong = verifier.verify(users(ALICE), credentials("alice", guess), home());
        assert_eq!(wrong.await, Ok(false));
    }
    let fourth = verifier.verify(users(ALICE), credentials("nobody", "d"), home());
    assert!(matches!(fourth.await, Err(VerifyError::TooMany(left)) if left <= LIMITS.window));
    let again = verifier.verify(users(ALICE), credentials("alice", "a"), home());
    assert_eq!(again.await, Ok(false));
    assert_eq!(right().await, Ok(true));
    // Other settings keep the state.
    let off = guess_limiter::Settings {
        guesses: 0,
        ..LIMITS
    };
    let after = verifier.with(verifier.hash_pool.settings(), off).unwrap();
    let fourth = after.verify(users(ALICE), credentials("nobody", "d"), home());
    assert_eq!(fourth.await, Ok(false));
    assert!(Arc::ptr_eq(&after.state, &verifier.state));
}

#[tokio::test]
async fn a_network_without_guesses_uses_only_logins_that_it_has_proved() {
    let verifier = verifier(Duration::from_secs(10));
    let check =
        |password, network| verifier.verify(users(ALICE), credentials("alice", password), network);
    assert_eq!(check("pw", home()).await, Ok(true));
    for guess in ["a", "b", "c"] {
        assert_eq!(check(guess, elsewhere(1)).await, Ok(false));
    }
    for guess in ["pw", "d"] {
        let found = check(guess, elsewhere(1)).await;
        assert!(
            matches!(found, Err(VerifyError::TooMany(_))),
            "{guess}: {found:?}"
        );
    }
    // Another network proves the login without a hash, and then keeps it when its guesses are used up.
    let hashes = verifier.counts().hashes.get();
    assert_eq!(check("pw", elsewhere(2)).await, Ok(true));
    assert_eq!(verifier.counts().hashes.get(), hashes);
    for guess in ["a", "b", "c"] {
        assert_eq!(check(guess, elsewhere(2)).await, Ok(false));
    }
    assert_eq!(check("pw", elsewhere(2)).await, Ok(true));
    assert!(matches!(
        check("d", elsewhere(2)).await,
        Err(VerifyError::TooMany(_))
    ));
}

#[tokio::test]
async fn guesses_that_are_cancelled_before_they_count_reveal_no_cached_password() {
    let hashing = hash_pool::Settings {
        threads: 1,
        queue: 100,
        wait: Duration::from_secs(10),
    };
    let verifier = Arc::new(PasswordVerifier::start(hashing, LIMITS).unwrap());
    let right = || credentials("alice", "pw");
    assert_eq!(
        verifier.verify(users(ALICE), right(), home()).await,
        Ok(true)
    );
    // The only thread is kept busy, so that no guess has its turn.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (started, has_started) = tokio::sync::oneshot::channel();
    let holder = Arc::clone(&verifier);
    let holding = tokio::spawn(async move {
        let job = move || {
            let _ = started.send(());
            Ok(held.recv().is_ok())
        };
        holder.hash_pool.run(home(), job).await.is_ok()
    });
    has_started.await.unwrap();
    for guess in 0..LIMITS.guesses {
        let wrong = credentials("alice", &guess.to_string());
        let given_up = verifier.verify(users(ALICE), wrong, elsewhere(1));
        assert!(timeout(Duration::ZERO, given_up).await.is_err());
    }
    let given_up = verifier.verify(users(ALICE), right(), elsewhere(1));
    assert!(
        timeout(Duration::ZERO, given_up).await.is_err(),
        "the response came immediately"
    );
    // The network is not locked out: its passwords have their turn.
    let waiting = verifier.verify(users(ALICE), right(), elsewhere(1));
    release.send(()).unwrap();
    assert_eq!(waiting.await, Ok(true));
    assert!(holding.await.unwrap());
    assert!(verifier.state.in_flight.lock().is_empty());
}

#[tokio::test]
async fn concurrent_guesses_are_not_hashed_beyond_the_limit() {
    let hashing = hash_pool::Settings {
        threads: 1,
        queue: 100,
        wait: Duration::from_secs(10),
    };
    let verifier = Arc::new(PasswordVerifier::start(hashing, LIMITS).unwrap());
    for user in ["alice", "nobody"] {
        let verifier = Arc::new(
            verifier
                .with(verifier.hash_pool.settings(), LIMITS)
                .unwrap(),
        );
        let checks: Vec<_> = (0..20)
            .map(|guess| {
                let verifier = Arc::clone(&verifier);
                let address = SocketAddr::from((Ipv4Addr::from(u32::from(user == "alice")), 1));
                let network = PeerAddr::new(address).client().network();
                let guess = Credentials {
                    user: user.into(),
                    password: Password::new(vec![b'a' + guess]),
                };
                tokio::spawn(async move { verifier.verify(users(ALICE), guess, network).await })
            })
            .collect();
        let mut wrong = 0;
        for check in checks {
            match check.await.unwrap() {
                Ok(is_valid) => wrong += usize::from(!is_valid),
                Err(rejected) => assert!(matches!(rejected, VerifyError::TooMany(_))),
            }
        }
        assert_eq!(wrong, LIMITS.guesses, "{user}");
    }
}

#[tokio::test]
async fn a_request_waits_for_the_hash_of_another_no_longer_than_for_its_own() {
    let wait = Duration::from_millis(200);
    let verifier = Arc::new(verifier(wait));
    let (release, held) = std::sync::mpsc::channel::<()>();
    // The only thread is kept busy, so no check has its turn.
    let holder = Arc::clone(&verifier);
    let held = tokio::spawn(async move {
        holder
            .hash_pool
            .run(home(), move || Ok(held.recv().is_ok()))
            .await
            .is_ok()
    });
    tokio::task::yield_now().await;
    let start = Instant::now();
    let checks: Vec<_> = (0..10)
        .map(|_| {
            let verifier = Arc::clone(&verifier);
            tokio::spawn(async move {
                verifier
                    .verify(users(ALICE), credentials("alice", "pw"), home())
                    .await
            })
        })
        .collect();
    for check in checks {
        assert_eq!(check.await.unwrap(), Err(VerifyError::Busy));
    }
    assert!(start.elapsed() < wait * 5, "{:?}", start.elapsed());
    release.send(()).unwrap();
    drop(held);
}

/// The requests that have waited for one hash end at the same time, on several workers.
#[test]
fn the_last_of_several_requests_removes_the_entry_of_their_hash() {
    let verifier = verifier(Duration::from_secs(10));
    let state = &verifier.state;
    let have_joined = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for number in 0..20_000_u32 {
                    let user = number.to_be_bytes();
                    let key = state.cache.key(&user, &Password::new(Vec::new()), b"");
                    let flight = SingleFlight::join(state, FlightKey::AllNetworks(key));
                    have_joined.wait();
                    drop(flight);
                }
            });
        }
    });
    assert_eq!(state.in_flight.lock().len(), 0);
}
