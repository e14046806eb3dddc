//! A thread that looks at the live files of the snapshot in use, passwords and certificates, so that a change needs no
//! reload.
//!
//! Started by the server, and ended with it. The thread is its own, since a look at a stalled mount may take minutes:
//! workers and listeners must not wait for it, and neither does the server's end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use time::OffsetDateTime;

use super::certificates;
use crate::config::problem::{Problem, Problems};
use crate::htpasswd::{Change, Event, LiveUsers};
use crate::snapshot::passwords::{KEPT, remarks};
use crate::state::ServerState;

/// The thread, until dropped.
#[derive(Debug)]
pub(super) struct Files {
    /// Nothing is sent: the thread ends when this is gone.
    _end: Sender<()>,
}

impl Files {
    /// Fails when the system gives no thread.
    pub(super) fn start(gate: &Arc<ServerState>) -> io::Result<Self> {
        // A thread that is stuck must not keep a server alive that has ended.
        let gate = Arc::downgrade(gate);
        Self::every(INTERVAL, move || look_at_all(&gate))
    }

    fn every(interval: Duration, look: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (end, ended) = channel();
        std::thread::Builder::new()
            .name("tidegate-files".to_owned())
            .spawn(move || run(&ended, interval, look))?;
        Ok(Self { _end: end })
    }
}

fn run(ended: &Receiver<()>, interval: Duration, look: impl Fn()) {
    while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        // Nobody would notice that the files are live no more.
        if catch_unwind(AssertUnwindSafe(&look)).is_err() {
            tracing::error!("a look at the live files panicked");
        }
    }
}

fn look_at_all(gate: &Weak<ServerState>) {
    let Some(gate) = gate.upgrade() else {
        return;
    };
    let snapshot = gate.snapshot();
    let (files, shown) = (
        snapshot.passwords().to_vec(),
        snapshot.certificates().to_vec(),
    );
    // The looks may take long, and what they replaced must not live on meanwhile.
    drop((snapshot, gate));
    for live in files {
        tell(&live, live.poll());
    }
    certificates::look_at_all(&shown, OffsetDateTime::now_utc());
}

fn tell(live: &LiveUsers, event: Event) {
    match event {
        Event::Unchanged => {}
        Event::Changed(change) => tell_change(live, &change),
        Event::Failed(error) => {
            let problem = Problem::error(None, error.to_string()).because(KEPT);
            tracing::error!("{}", Problems::new(live.path()).line(&problem));
        }
        Event::Recovered => {
            tracing::info!(path = %live.path().display(), "password file can be read again");
        }
    }
}

fn tell_change(live: &LiveUsers, change: &Change) {
    let words = Problems::new(live.path());
    for remark in remarks(live.path(), &change.problems, &live.current()) {
        tracing::warn!("{}", words.line(&remark));
    }
    tracing::info!(
        path = %live.path().display(),
        users = change.users,
        added = change.added,
        removed = change.removed,
        changed = change.changed,
        "password file reloaded"
    );
}

/// A change is in use after two looks that see it: within a second, and within two when it changes again in between.
const INTERVAL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_thread_survives_a_panic_and_ends_with_its_owner() {
        let (tell, told) = channel();
        let looks = std::sync::atomic::AtomicUsize::new(0);
        let look = move || {
            let number = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let _ = tell.send(number);
            assert!(number > 0, "on purpose");
        };
        let files = Files::every(Duration::from_millis(1), look).unwrap();
        let patience = Duration::from_secs(30);
        for number in 0..3 {
            assert_eq!(told.recv_timeout(patience), Ok(number));
        }
        drop(files);
        // The thread has dropped its end.
        let until = Instant::now() + patience;
        while told.recv_timeout(patience) != Err(RecvTimeoutError::Disconnected) {
            assert!(Instant::now() < until, "the thread goes on");
        }
    }

    #[test]
    fn the_end_is_not_waited_for_until_the_next_look() {
        let (tell, told) = channel::<()>();
        let look = move || {
            let _ = tell.send(());
        };
        let files = Files::every(Duration::from_secs(3600), look).unwrap();
        drop(files);
        let ended = told.recv_timeout(Duration::from_secs(30));
        assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
    }
}
