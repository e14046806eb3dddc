//! The thread that reloads password files, grant files and certificates when they change, without a reload of the
//! configuration, and that rotates the ticket keys that several instances share.
//!
//! `server` starts one [`FileWatcher`]. It runs on a thread of its own, because a system call on a stalled network mount can
//! block for minutes: neither the workers, nor the accept loops, nor the end of the server may wait for it. `htpasswd`,
//! `snapshot::grant_files` and `tls` decide whether a file has changed and read it; this module polls them and logs the results.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

use crate::config::problem::{Problem, Problems};
use crate::file_watch::POLL_INTERVAL;
use crate::htpasswd::{Change, Event, LiveUsers};
use crate::snapshot::SiteCertificate;
use crate::snapshot::certificates::{KEEPS_LAST_CERTIFICATE, Source};
use crate::snapshot::grant_files::{GrantEvent, KEEPS_LAST_GRANTS, LiveGrantFile};
use crate::snapshot::passwords::{KEEPS_LAST_USERS, file_warnings};
use crate::state::ServerState;
use crate::tls::{CertEvent, CertSlot, CertWarning, ReloadingCert, TicketKeyEvent};

/// The thread. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct FileWatcher {
    /// Nothing is ever sent. The thread ends when this sender is dropped.
    _stop: Sender<()>,
}

impl FileWatcher {
    /// Starts the thread. It polls the files of the snapshot that is in use at that moment.
    ///
    /// # Errors
    /// The system cannot create a thread.
    pub(crate) fn start(state: &Arc<ServerState>) -> io::Result<Self> {
        // A weak reference, so that a thread that is blocked in a system call does not keep a stopped server alive.
        let state = Arc::downgrade(state);
        Self::start_polling(POLL_INTERVAL, move || poll_files(&state))
    }

    fn start_polling(interval: Duration, poll: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = channel();
        std::thread::Builder::new()
            .name("tidegate-files".to_owned())
            .spawn(move || run(&stopped, interval, poll))?;
        Ok(Self { _stop: stop })
    }
}

fn run(stopped: &Receiver<()>, interval: Duration, poll: impl Fn()) {
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        // A panic must not end the thread: all later changes of the files would be missed.
        if catch_unwind(AssertUnwindSafe(&poll)).is_err() {
            tracing::error!("the check of files for changes panicked");
        }
    }
}

fn poll_files(state: &Weak<ServerState>) {
    let Some(state) = state.upgrade() else {
        return;
    };
    let snapshot = state.snapshot();
    let passwords = snapshot.passwords().to_vec();
    let grant_files = snapshot.grant_files().to_vec();
    let certificates = snapshot.certificates().to_vec();
    let ticket_keys = snapshot.shared_ticket_keys().cloned();
    let upstream_certificates = snapshot.upstream_certificates();
    // Polling may block for long. A snapshot that a reload replaces meanwhile must be freed.
    drop((snapshot, state));
    for users in passwords {
        log_password_event(&users, users.poll());
    }
    for file in grant_files {
        log_grant_event(&file, &file.poll());
    }
    let now = OffsetDateTime::now_utc();
    poll_certificates(&certificates, now);
    if let Some(keys) = ticket_keys {
        log_ticket_key_event(keys.poll(SystemTime::now()));
    }
    for files in upstream_certificates {
        let event = match files.poll(now) {
            CertEvent::Renewed(mut warnings) => {
                warnings.retain(|warning| !warning.concerns_servers_only());
                CertEvent::Renewed(warnings)
            }
            event => event,
        };
        log_certificate_event(&files, event, std::iter::empty());
        log_warnings(files.slot().take_new_expiry_warnings(files.cert(), now));
    }
}

fn log_ticket_key_event(event: TicketKeyEvent) {
    match event {
        TicketKeyEvent::Unchanged => {}
        TicketKeyEvent::Rotated => tracing::info!("the key of TLS session tickets was rotated"),
        TicketKeyEvent::Failed(error) => tracing::error!(
            "tls.ticket_keys: {error}; the last key stays in use for six hours, and then clients make full handshakes"
        ),
    }
}

fn log_password_event(users: &LiveUsers, event: Event) {
    match event {
        Event::Unchanged => {}
        Event::Changed(change) => log_password_change(users, &change),
        Event::Failed(error) => {
            let problem = Problem::error(None, error.to_string()).because(KEEPS_LAST_USERS);
            tracing::error!("{}", Problems::new(users.path()).line(&problem));
        }
        Event::Recovered => {
            tracing::info!(path = %users.path().display(), "password file can be read again");
        }
    }
}

fn log_password_change(users: &LiveUsers, change: &Change) {
    let problems = Problems::new(users.path());
    for warning in file_warnings(users.path(), &change.problems, &users.current()) {
        tracing::warn!("{}", problems.line(&warning));
    }
    tracing::info!(
        path = %users.path().display(),
        users = change.users,
        added = change.added,
        removed = change.removed,
        changed = change.changed,
        "password file reloaded"
    );
}

fn log_grant_event(file: &LiveGrantFile, event: &GrantEvent) {
    match event {
        GrantEvent::Unchanged => {}
        GrantEvent::Changed(problems) => {
            for warning in problems.warnings() {
                tracing::warn!("{}", problems.line(warning));
            }
            let grants = file.grants().current().len();
            tracing::info!(path = %file.path().display(), grants, "grant file reloaded");
        }
        GrantEvent::Failed(problems) => {
            for error in problems.errors() {
                tracing::error!("{}", problems.line(error));
            }
            tracing::error!(path = %file.path().display(), "{KEEPS_LAST_GRANTS}");
        }
    }
}

/// Polls each pair of certificate and key once, however many sites share it, and logs certificates that expire soon.
fn poll_certificates(certificates: &[SiteCertificate], now: OffsetDateTime) {
    let mut seen: Vec<&Arc<CertSlot>> = Vec::new();
    for certificate in certificates {
        let slot = certificate.slot();
        if seen.iter().any(|known| Arc::ptr_eq(known, slot)) {
            continue;
        }
        seen.push(slot);
        if let Some(files) = certificate.files() {
            let sites = certificates
                .iter()
                .filter(|site| Arc::ptr_eq(site.slot(), slot));
            log_certificate_event(files, files.poll(now), sites);
        }
        log_expiry(certificate, now);
    }
}

/// `sites` are the sites that share the certificate.
fn log_certificate_event<'a>(
    files: &ReloadingCert,
    event: CertEvent,
    sites: impl Iterator<Item = &'a SiteCertificate>,
) {
    match event {
        CertEvent::Unchanged => {}
        CertEvent::Renewed(warnings) => {
            let pair = files.slot().current();
            tracing::info!(
                path = %files.cert().display(),
                hosts = pair.as_ref().map(|pair| pair.names_in_short()),
                until = pair.map(|pair| pair.not_after().date().to_string()),
                "certificate renewed"
            );
            log_warnings(warnings);
            sites.for_each(|site| log_warnings(site.uncovered_hosts()));
        }
        CertEvent::Failed(error) => {
            tracing::error!("{error}; {KEEPS_LAST_CERTIFICATE}");
        }
        CertEvent::Recovered => {
            tracing::info!(path = %files.cert().display(), "certificate and key can be used again");
        }
    }
}

fn log_expiry(certificate: &SiteCertificate, now: OffsetDateTime) {
    let slot = certificate.slot();
    let (warnings, remedy) = match certificate.source() {
        Source::Files(files) => {
            return log_warnings(slot.take_new_expiry_warnings(files.cert(), now));
        }
        Source::SelfSigned => (
            slot.take_new_expiry_warnings(Path::new("self-signed"), now),
            "a reload of the proxy issues a new one",
        ),
        Source::Acme(file) => (
            slot.take_new_expiry_warnings(file, now),
            "a reload of the proxy orders a new one",
        ),
    };
    for warning in warnings {
        tracing::warn!("{warning}: {remedy}");
    }
}

fn log_warnings(warnings: Vec<CertWarning>) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn the_thread_survives_a_panic_and_ends_with_its_owner() {
        let (sender, receiver) = channel();
        let polls = AtomicUsize::new(0);
        let poll = move || {
            let number = polls.fetch_add(1, Ordering::Relaxed);
            let _ = sender.send(number);
            assert!(number > 0, "on purpose");
        };
        let watcher = FileWatcher::start_polling(Duration::from_millis(1), poll).unwrap();
        for number in 0..3 {
            assert_eq!(receiver.recv_timeout(TIMEOUT), Ok(number));
        }
        drop(watcher);
        // The channel is disconnected when the thread has dropped the sender.
        let deadline = Instant::now() + TIMEOUT;
        while receiver.recv_timeout(TIMEOUT) != Err(RecvTimeoutError::Disconnected) {
            assert!(Instant::now() < deadline, "the thread still runs");
        }
    }

    #[test]
    fn dropping_the_watcher_ends_the_thread_without_waiting_for_the_next_poll() {
        let (sender, receiver) = channel::<()>();
        let poll = move || {
            let _ = sender.send(());
        };
        let watcher = FileWatcher::start_polling(Duration::from_secs(3600), poll).unwrap();
        drop(watcher);
        let ended = receiver.recv_timeout(TIMEOUT);
        assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
    }
}
