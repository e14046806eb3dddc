//! Asks endpoints whether they are there, on the main runtime.
//!
//! Run beside the commands by `server`. When a check is due, and what comes of it, is known by `upstream`; here is only
//! the clock.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::admin::Gate;

/// Never returns. Dropped, it ends the checks under way.
pub(super) async fn run(gate: &Gate) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checks = JoinSet::new();
    loop {
        tick.tick().await;
        for route in gate.snapshot().service.sites.routes() {
            for check in route.forward.upstream().due_checks(Instant::now()) {
                checks.spawn(check.run());
            }
        }
        // A check that panicked has said all there is to say.
        while checks.try_join_next().is_some() {}
    }
}

/// Half of the shortest wait between two checks.
const TICK: Duration = Duration::from_millis(125);
