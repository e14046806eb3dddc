//! Benchmarks of single steps of a request: `cargo bench --package tidegate-benches`, with the name of a group for one group.
//!
//! Only the public API is used. A private step is measured in the smallest public function around it, and the name of the
//! benchmark says which. `benches/peers` measures what users get; these benchmarks show changes that are too small to be
//! seen there.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot be made panics"
)]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use criterion::Criterion;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

mod grammar;
mod grants;
mod lines;
mod logins;
mod passing;
mod wire;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    grammar::measure(&mut criterion);
    logins::measure(&mut criterion);
    grants::measure(&mut criterion);
    lines::measure(&mut criterion);
    passing::measure(&mut criterion);
    wire::measure(&mut criterion);
    criterion.final_summary();
}

/// A current-thread runtime, as a worker has it.
fn worker() -> LocalRuntime {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap()
}

/// Polls a future that is ready at its first poll, so that the figure contains no runtime.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the future is not ready"),
    }
}
