//! When a certificate is renewed, and how long a failure is waited out: arithmetic, with the time as an argument.
//!
//! Called by the rest of `acme`.

use std::time::Duration;

use time::OffsetDateTime;

/// What went wrong, as far as waiting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryClass {
    /// Nobody has refused anything: the authority cannot be reached, or a file not be written.
    Passing,
    /// The authority has said no. It counts refusals (Let's Encrypt allows five an hour for a host).
    Refused,
    /// It has asked in one of two ways, and not heard the right answer; the other has not been tried yet.
    OtherWayLeft,
}

/// When a third of its life is left: 30 days of 90, two of six.
pub(super) fn renewal(not_before: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
    let life = (not_after - not_before).max(time::Duration::ZERO);
    not_after - life / 3
}

/// How long to wait after this many failures in a row, the last included. `chance` is from 0 to 1, so that gates which
/// failed together do not come back together. What the authority asked for is never undercut.
pub(super) fn pause(
    kind: RetryClass,
    failures: u32,
    chance: f64,
    asked: Option<Duration>,
) -> Duration {
    let (first, most) = match kind {
        RetryClass::OtherWayLeft => (Duration::ZERO, Duration::ZERO),
        RetryClass::Passing => (Duration::from_secs(15), Duration::from_secs(3600)),
        RetryClass::Refused => (Duration::from_secs(300), Duration::from_secs(12 * 3600)),
    };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    // From four fifths to six fifths.
    let own = doubled
        .min(most)
        .mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
    let asked = asked.unwrap_or_default().min(LONGEST);
    own.max(asked)
}

/// A moment within the window that the authority suggests (RFC 9773, section 4.2); one that is past means now.
pub(super) fn within(start: OffsetDateTime, end: OffsetDateTime, chance: f64) -> OffsetDateTime {
    let width = (end - start).max(time::Duration::ZERO);
    start + width * chance.clamp(0.0, 1.0)
}

/// When to ask for a suggestion again: as often as the authority says, within reason (section 4.3.2).
pub(super) fn ask_again(now: OffsetDateTime, asked: Duration) -> OffsetDateTime {
    now + asked.clamp(Duration::from_secs(3600), Duration::from_secs(24 * 3600))
}

/// Nobody sets a gate aside for longer by a header.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_third_of_the_life_is_left() {
        let start = datetime!(2026-01-01 0:00 UTC);
        let after = |days| start + time::Duration::days(days);
        assert_eq!(renewal(start, after(90)), after(60));
        assert_eq!(renewal(start, after(6)), after(4));
        // Never later than the end, whatever a certificate says.
        assert_eq!(renewal(after(1), start), start);
    }

    #[test]
    fn pauses_double_and_end() {
        let minutes = |kind, failures| pause(kind, failures, 0.5, None).as_secs() / 60;
        let refused: Vec<_> = (1..=4).map(|n| minutes(RetryClass::Refused, n)).collect();
        assert_eq!(refused, [5, 10, 20, 40]);
        assert_eq!(minutes(RetryClass::Refused, 1000), 12 * 60);
        assert_eq!(
            pause(RetryClass::Passing, 1, 0.5, None),
            Duration::from_secs(15)
        );
        assert_eq!(minutes(RetryClass::Passing, 1000), 60);
        assert_eq!(
            pause(RetryClass::OtherWayLeft, 1, 1.0, None),
            Duration::ZERO
        );
    }

    #[test]
    fn a_pause_is_spread_and_never_below_what_was_asked() {
        let secs = |chance| pause(RetryClass::Refused, 1, chance, None).as_secs();
        assert_eq!((secs(0.0), secs(1.0)), (240, 360));
        let hour = Some(Duration::from_secs(3600));
        for kind in [
            RetryClass::Passing,
            RetryClass::Refused,
            RetryClass::OtherWayLeft,
        ] {
            assert_eq!(pause(kind, 1, 0.0, hour), Duration::from_secs(3600));
        }
        let year = Some(Duration::from_secs(365 * 24 * 3600));
        assert_eq!(pause(RetryClass::Passing, 1, 0.0, year), LONGEST);
    }

    #[test]
    fn a_suggestion_is_a_moment_of_the_window() {
        let (start, end) = (
            datetime!(2026-01-01 0:00 UTC),
            datetime!(2026-01-03 0:00 UTC),
        );
        assert_eq!(within(start, end, 0.5), datetime!(2026-01-02 0:00 UTC));
        assert_eq!(within(end, start, 0.5), end);
        let again = |secs| (ask_again(start, Duration::from_secs(secs)) - start).whole_hours();
        assert_eq!(
            (again(0), again(6 * 3600), again(u32::MAX.into())),
            (1, 6, 24)
        );
    }
}
