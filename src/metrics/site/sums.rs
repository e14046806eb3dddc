//! A site's numbers in five sums: quick to add up, for whoever looks every few seconds.
//!
//! Called by `admin` for its plots. What a scrape tells in full is in [`super::Totals`].

use std::ops::AddAssign;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::super::Reason;
use super::super::words::is_server_error;
use super::{Shard, SiteCounts};

/// What has come together so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteSums {
    /// Requests that have ended.
    pub requests: u64,
    /// Those of them with a status of 500 and above.
    pub errors: u64,
    /// What the gate answered itself, but for how every login begins and for clients that were gone.
    pub refused: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
}

impl SiteCounts {
    /// The sums at this moment.
    pub fn sums(&self) -> SiteSums {
        let mut sums = SiteSums::default();
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            sums += shard.sums();
        }
        sums
    }
}

impl Shard {
    fn sums(&self) -> SiteSums {
        let mut sums = SiteSums::default();
        for statuses in &self.requests {
            for (number, count) in statuses.iter().enumerate() {
                let count = count.load(Relaxed);
                sums.requests += count;
                if is_server_error(number) {
                    sums.errors += count;
                }
            }
        }
        for (reason, count) in Reason::ALL.into_iter().zip(&self.refused) {
            if !matches!(reason, Reason::NoCredentials | Reason::ClientGone) {
                sums.refused += count.load(Relaxed);
            }
        }
        let all = |counts: &[AtomicU64]| counts.iter().map(|count| count.load(Relaxed)).sum();
        sums.received = all(&self.received);
        sums.sent = all(&self.sent);
        sums
    }
}

impl AddAssign for SiteSums {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.refused += other.refused;
        self.received += other.received;
        self.sent += other.sent;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::Operation;
    use super::*;

    #[test]
    fn sums_are_those_of_all_threads_and_say_nothing_of_logins_that_begin() {
        let site = SiteCounts::new("a");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let shard = site.shard();
                    shard.request(Operation::Pull, 200, Duration::ZERO);
                    shard.request(Operation::Push, 502, Duration::ZERO);
                    shard.refused(Reason::UpstreamBroken);
                    shard.refused(Reason::NoCredentials);
                    shard.refused(Reason::ClientGone);
                    shard.sent(Operation::Pull, 5);
                });
            }
        });
        let expected = SiteSums {
            requests: 6,
            errors: 3,
            refused: 3,
            received: 0,
            sent: 15,
        };
        assert_eq!(site.sums(), expected);
    }
}
