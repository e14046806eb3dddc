//! Runs the health checks of endpoints, on the main runtime.
//!
//! `server` runs them beside the commands, from the moment on at which the proxy listens: the first checks delay nothing.
//! `upstream` decides when a check is due and what follows from it; here is only the clock.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use crate::state::ServerState;

/// Runs the first check of every endpoint, for [`FIRST`] at most. A process that takes over from another one does so before
/// it serves: the other one serves meanwhile, and the new one is ready as soon as it is asked.
pub(super) async fn first(gate: &ServerState) {
    let mut checks = JoinSet::new();
    for route in gate.snapshot().service.sites.routes() {
        for check in route.forward.upstream().due_checks(Instant::now()) {
            checks.spawn(check.run());
        }
    }
    // What has no outcome by then is checked again by `run`.
    let _ = timeout(FIRST, async { while checks.join_next().await.is_some() {} }).await;
}

/// Never returns. Dropped, it ends the checks under way.
pub(super) async fn run(gate: &ServerState) {
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

/// Longer than a registry that works takes to respond.
const FIRST: Duration = Duration::from_secs(2);
/// Half of the shortest wait between two checks.
const TICK: Duration = Duration::from_millis(125);
