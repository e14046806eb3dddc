//! The clock of what went on in the last minutes, on the main runtime.
//!
//! Started by `server`; what is taken down, and how much of it is kept, is known by `admin`.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::MissedTickBehavior;

use crate::state::History;
use crate::state::ServerState;

/// Never returns.
pub(super) async fn run(gate: Arc<ServerState>) {
    let mut tick = tokio::time::interval(History::TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        gate.history()
            .note(Instant::now(), &gate.snapshot().service);
    }
}
