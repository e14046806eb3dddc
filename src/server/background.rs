//! The periodic work of the main runtime: health checks, ACME renewals, and the samples of the status page.
//!
//! `server` polls these futures while it serves. They contain only the timers: `upstream` decides when a check is due and what
//! follows from its result, `acme` which certificate is due, and `state` what is recorded.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};

use crate::acme::Renewals;
use crate::state::{History, ServerState};

/// Runs the first health check of every endpoint, for at most [`FIRST_CHECKS_TIMEOUT`]. In an upgrade the new process calls this
/// before it serves. The old process serves meanwhile, so the checks delay no request.
pub(crate) async fn run_first_health_checks(state: &ServerState) {
    let mut checks = JoinSet::new();
    spawn_due_checks(state, &mut checks);
    // An endpoint whose check has no result by then is checked again by `run_health_checks`.
    let _ = timeout(FIRST_CHECKS_TIMEOUT, async {
        while checks.join_next().await.is_some() {}
    })
    .await;
}

/// Runs health checks when they are due. Never returns. Dropping the future aborts the checks in progress.
pub(crate) async fn run_health_checks(state: &ServerState) {
    let mut ticks = ticks_every(HEALTH_CHECK_TICK);
    let mut checks = JoinSet::new();
    loop {
        ticks.tick().await;
        spawn_due_checks(state, &mut checks);
        // Reaps the finished checks. A panic in one was logged by the panic hook.
        while checks.try_join_next().is_some() {}
    }
}

fn spawn_due_checks(state: &ServerState, checks: &mut JoinSet<()>) {
    for route in state.snapshot().service.sites.routes() {
        for check in route.forward.upstream().due_checks(Instant::now()) {
            checks.spawn(check.run());
        }
    }
}

/// Orders and renews ACME certificates when they are due. Never returns. Dropping the future, which happens when the server
/// stops accepting connections, aborts the orders in progress.
pub(crate) async fn run_acme_renewals(state: &ServerState) {
    let mut ticks = ticks_every(ACME_TICK);
    let mut renewals = Renewals::default();
    loop {
        ticks.tick().await;
        let acme = state.snapshot().acme.clone();
        renewals.tick(acme.as_ref(), OffsetDateTime::now_utc());
    }
}

/// Records the history of the status page. Never returns.
pub(crate) async fn record_history(state: Arc<ServerState>) {
    let mut ticks = ticks_every(History::TICK);
    loop {
        ticks.tick().await;
        let snapshot = state.snapshot();
        state
            .history()
            .record(std::time::Instant::now(), &snapshot.service);
    }
}

/// After a delay, the next tick is a full interval later: ticks that were missed are not made up for.
fn ticks_every(interval: Duration) -> Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The time limit of the checks before an upgrade. A registry that works responds within much less.
const FIRST_CHECKS_TIMEOUT: Duration = Duration::from_secs(2);
/// Half of the shortest interval between two checks of an endpoint.
const HEALTH_CHECK_TICK: Duration = Duration::from_millis(125);
/// Bounds the delay until a certificate that another process stored in `state.dir` is used.
const ACME_TICK: Duration = Duration::from_secs(1);
