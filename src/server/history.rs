//! The clock of what went on in the last minutes, on the main runtime.
//!
//! Started by `server`; what is taken down, and how much of it is kept, is known by `admin`.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::MissedTickBehavior;

use super::Shared;
use crate::admin::History;

/// Never returns.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(History::TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        shared
            .history
            .note(Instant::now(), &shared.snapshot().service);
    }
}
