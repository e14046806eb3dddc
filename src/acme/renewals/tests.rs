//! The ways to be asked, and what an outcome makes of the next look.

use time::macros::datetime;

use super::*;
use crate::tls::shown::CertSlot;

const NOW: OffsetDateTime = datetime!(2026-01-01 0:00 UTC);

fn host() -> Host {
    Host {
        kept: Arc::new(ManagedHost {
            host: "a.test".to_owned(),
            shown: CertSlot::empty(),
        }),
        due: NOW,
        wait_until: NOW,
        barred: None,
        failures: 0,
        suggestion: None,
        task: None,
    }
}

fn failed(failure: Failure, wait: Option<u64>) -> RenewalOutcome {
    let wait = wait.map(Duration::from_secs);
    RenewalOutcome::Failed { failure, wait }
}

#[test]
fn the_ways_alternate_where_there_are_two() {
    let alone: Vec<_> = (0..3)
        .map(|failures| challenge_type(false, failures))
        .collect();
    assert!(alone.iter().all(|way| *way == ChallengeType::TlsAlpn01));
    let both: Vec<_> = (0..3)
        .map(|failures| challenge_type(true, failures))
        .collect();
    let (tls, http) = (ChallengeType::TlsAlpn01, ChallengeType::Http01);
    assert_eq!(both, [tls.clone(), http, tls]);
}

#[test]
fn the_other_way_follows_at_once_and_then_comes_a_wait() {
    let mut host = host();
    let refused = || failed(Failure::NotOffered(ChallengeType::TlsAlpn01), None);
    host.note(refused(), true, NOW);
    assert_eq!(host.wait_until, NOW);
    host.note(refused(), true, NOW);
    assert!(
        host.wait_until >= NOW + Duration::from_secs(480),
        "{}",
        host.wait_until
    );
    // What another process gets is found before.
    assert_eq!(host.due, NOW + LOOK);
}

#[test]
fn what_the_authority_asked_for_is_waited_out() {
    let mut host = host();
    host.note(failed(Failure::Late(1), Some(7200)), false, NOW);
    assert_eq!(host.wait_until, NOW + Duration::from_secs(7200));
    assert_eq!(host.barred, Some(host.wait_until));
    let outcome = RenewalOutcome::Good {
        renewal: NOW + Duration::from_secs(1_000_000),
        suggestion: None,
    };
    host.note(outcome, false, NOW);
    assert_eq!(
        (host.failures, host.barred, host.due),
        (0, None, NOW + LOOK)
    );
}
