//! Sees to it that certificates are got and renewed, on the main runtime.
//!
//! Run beside the commands by `server`, so it ends when the gate accepts no more. What is due, and what comes of it, is
//! known by `acme`; here is only the clock.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;

use crate::acme::Renewals;
use crate::state::ServerState;

/// Never returns. Dropped, it ends the orders under way.
pub(super) async fn run(gate: &ServerState) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut renewals = Renewals::default();
    loop {
        tick.tick().await;
        let acme = gate.snapshot().acme.clone();
        renewals.tick(acme.as_ref(), OffsetDateTime::now_utc());
    }
}

/// Nobody waits longer for a certificate that another process got.
const TICK: Duration = Duration::from_secs(1);
