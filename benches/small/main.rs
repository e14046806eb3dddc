//! What a request meets on its way through the gate, each thing alone: `cargo bench`, or `cargo bench grants` for some.
//!
//! Only the public API is used, so what is private is measured in the smallest public thing around it, and the name of
//! the measurement says which. None of this replaces `benches/peers`, which measures what users get: here a change shows
//! that is too small to be seen there.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot be made fails by panicking"
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

/// A runtime as a worker has it: one thread.
fn worker() -> LocalRuntime {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap()
}

/// The result of a future that has nothing to wait for, without a runtime's turn in the figure.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits for something"),
    }
}
