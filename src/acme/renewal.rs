//! When certificates are renewed, and one attempt to renew one.
//!
//! [`Renewals`] is the state: `server` calls [`Renewals::tick`] once a second on the main runtime. For each host that is due,
//! it starts a [`RenewalTask`], which loads the stored certificate, decides whether a new one is needed, and orders it. The
//! result, a [`RenewalOutcome`], determines when the host is due again. The times themselves are computed at the end of this
//! file by functions that take `now` and the random number `jitter` (0 to 1) as arguments.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{Account, CertificateIdentifier, ChallengeType};
use time::OffsetDateTime;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use super::account;
use super::error::{Error, RetryClass, challenge_name, run_blocking};
use super::http_client::RetryAfter;
use super::managed_hosts::{Acme, ManagedHost};
use super::order::{self, IssuedCertificate, OrderRequest};
use crate::tls::CertifiedPair;

/// The renewal state of all managed hosts, and the tasks that run. Dropping it aborts the tasks.
#[derive(Default)]
pub struct Renewals {
    acme: Option<Arc<Acme>>,
    hosts: HashMap<String, HostState>,
    running: JoinSet<RenewalOutcome>,
}

/// The renewal state of one host.
struct HostState {
    managed: Arc<ManagedHost>,
    /// The time of the next task.
    due: OffsetDateTime,
    /// No certificate is ordered before this time, because an order has failed.
    retry_at: OffsetDateTime,
    /// The part of `retry_at` that the certificate authority (CA) has set by `Retry-After`.
    retry_after: Option<OffsetDateTime>,
    /// The number of failures since the last success.
    failures: u32,
    window: Option<RenewalWindow>,
    task: Option<Id>,
}

impl Renewals {
    /// Processes the tasks that have ended, and starts those that are due.
    ///
    /// `acme` has the hosts of the current snapshot. If it is another one than before, after a reload, the delays after
    /// failures are dropped, because the operator may have corrected their cause. A `Retry-After` of the CA stays in force.
    pub fn tick(&mut self, acme: Option<&Arc<Acme>>, now: OffsetDateTime) {
        while let Some(ended) = self.running.try_join_next_with_id() {
            self.record_outcome(ended, now);
        }
        let is_same = match (&self.acme, acme) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.acme = acme.cloned();
            self.replace_hosts(now);
        }
        self.start_tasks(now);
    }

    fn replace_hosts(&mut self, now: OffsetDateTime) {
        let mut old = std::mem::take(&mut self.hosts);
        for managed in self.acme.iter().flat_map(|acme| acme.hosts()) {
            let known = old.remove(managed.host());
            // A host whose ACME directory has changed is a new `ManagedHost`, and starts without the old state.
            let known = known.filter(|host| Arc::ptr_eq(&host.managed, managed));
            let host = known.map_or_else(
                || HostState::new(Arc::clone(managed), now),
                |host| HostState {
                    due: now,
                    retry_at: host.retry_after.map_or(now, |at| at.max(now)),
                    failures: 0,
                    ..host
                },
            );
            self.hosts.insert(managed.host().to_owned(), host);
        }
    }

    fn start_tasks(&mut self, now: OffsetDateTime) {
        let Some(acme) = &self.acme else { return };
        let room = MAX_CONCURRENT_TASKS.saturating_sub(self.running.len());
        for host in longest_due(&mut self.hosts, now, room) {
            let task = RenewalTask {
                acme: Arc::clone(acme),
                managed: Arc::clone(&host.managed),
                challenge_type: challenge_type(acme.settings().has_http_listener, host.failures),
                window: host.window.clone(),
                may_order: host.retry_at <= now,
                now,
                jitter: random_jitter(),
            };
            host.task = Some(self.running.spawn(task.run()).id());
        }
    }

    fn record_outcome(
        &mut self,
        ended: Result<(Id, RenewalOutcome), JoinError>,
        now: OffsetDateTime,
    ) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(join_error) => {
                let error = Error::Panicked(format!("the order panicked: {join_error}"));
                let retry_after = None;
                (
                    join_error.id(),
                    RenewalOutcome::Failed { error, retry_after },
                )
            }
        };
        let acme = self.acme.as_ref();
        let has_http_listener = acme.is_some_and(|acme| acme.settings().has_http_listener);
        // A host that a reload has removed has no state any more.
        let mut hosts = self.hosts.values_mut();
        if let Some(host) = hosts.find(|host| host.task == Some(id)) {
            host.task = None;
            host.record_outcome(outcome, has_http_listener, now);
        }
    }
}

/// The hosts whose task is to start now, at most `limit`: those that have waited longest, because in the order of the map, the
/// hosts at its end would never get a turn if there are many.
fn longest_due(
    hosts: &mut HashMap<String, HostState>,
    now: OffsetDateTime,
    limit: usize,
) -> impl Iterator<Item = &mut HostState> {
    hosts.values_mut().for_each(|host| host.follow_clock(now));
    let is_due = |host: &&mut HostState| host.task.is_none() && host.due <= now;
    let mut due: Vec<_> = hosts.values_mut().filter(is_due).collect();
    due.sort_by_key(|host| host.due);
    due.into_iter().take(limit)
}

impl HostState {
    fn new(managed: Arc<ManagedHost>, now: OffsetDateTime) -> Self {
        Self {
            managed,
            due: now,
            retry_at: now,
            retry_after: None,
            failures: 0,
            window: None,
            task: None,
        }
    }

    /// Limits each planned time to the longest interval for which it can have been planned, counted from `now`. A planned time is
    /// further away only if the clock was set back after it was planned. Without the limit, a machine that starts with a clock
    /// that is years fast would renew no certificate for years once its clock is right.
    fn follow_clock(&mut self, now: OffsetDateTime) {
        self.due = self.due.min(now + CHECK_INTERVAL);
        self.retry_at = self.retry_at.min(now + MAX_DELAY);
        self.retry_after = self.retry_after.map(|at| at.min(now + MAX_DELAY));
        if let Some(window) = &mut self.window {
            window.query_at = window.query_at.min(now + MAX_DELAY);
        }
    }

    fn record_outcome(
        &mut self,
        outcome: RenewalOutcome,
        has_http_listener: bool,
        now: OffsetDateTime,
    ) {
        match outcome {
            RenewalOutcome::Locked => self.due = now + LOCKED_INTERVAL,
            RenewalOutcome::Delayed => self.due = self.retry_at.min(now + CHECK_INTERVAL),
            RenewalOutcome::Valid { renew_at, window } => {
                self.failures = 0;
                self.retry_after = None;
                self.window = window;
                // Another process may renew the certificate earlier.
                self.due = renew_at.min(now + CHECK_INTERVAL);
            }
            RenewalOutcome::Failed { error, retry_after } => {
                self.failures = self.failures.saturating_add(1);
                let class = if has_http_listener && self.failures == 1 && error.is_about_challenge()
                {
                    RetryClass::TryOtherChallenge
                } else {
                    error.retry_class()
                };
                let delay = retry_delay(class, self.failures, random_jitter(), retry_after);
                self.retry_at = now + delay;
                self.due = self.retry_at.min(now + CHECK_INTERVAL);
                self.retry_after = retry_after.map(|retry_after| now + retry_after.min(delay));
                self.log_failure(&error, class, delay, now);
            }
        }
    }

    fn log_failure(&self, error: &Error, class: RetryClass, delay: Duration, now: OffsetDateTime) {
        let host = self.managed.host();
        if class == RetryClass::TryOtherChallenge {
            tracing::warn!(%host, %error, "no certificate with tls-alpn-01; trying http-01");
            return;
        }
        let serving = match self.managed.slot().current() {
            None => "there is no certificate: handshakes fail".to_owned(),
            Some(pair) if pair.not_after() <= now => "the certificate has expired".to_owned(),
            Some(pair) => format!(
                "the current certificate is valid until {}",
                pair.not_after()
            ),
        };
        let retry_in_seconds = delay.as_secs();
        tracing::error!(%host, %error, serving, retry_in_seconds, "no new certificate");
    }
}

/// One task for one host. It checks the stored certificate, and orders a new one if that is due.
struct RenewalTask {
    acme: Arc<Acme>,
    managed: Arc<ManagedHost>,
    challenge_type: ChallengeType,
    window: Option<RenewalWindow>,
    /// Whether the task may order. During the delay after a failure, it only looks for a certificate that another process has
    /// obtained.
    may_order: bool,
    now: OffsetDateTime,
    /// A random number from 0 to 1.
    jitter: f64,
}

/// The result of a task.
enum RenewalOutcome {
    /// There is a valid certificate, which is due for renewal at `renew_at`.
    Valid {
        renew_at: OffsetDateTime,
        window: Option<RenewalWindow>,
    },
    /// Another process holds the lock of the host, because it orders a certificate.
    Locked,
    /// A certificate is needed, but must not be ordered yet.
    Delayed,
    /// The order failed.
    Failed {
        error: Error,
        /// The `Retry-After` of the CA's last error response.
        retry_after: Option<Duration>,
    },
}

/// The CA's suggestion when to renew a certificate (ACME renewal information, RFC 9773).
#[derive(Clone, Debug)]
struct RenewalWindow {
    /// The certificate in DER.
    certificate: Vec<u8>,
    /// A time in the suggested window; `None` if the CA makes no suggestion.
    renew_at: Option<OffsetDateTime>,
    /// The time at which the CA is asked again.
    query_at: OffsetDateTime,
}

impl RenewalTask {
    async fn run(self) -> RenewalOutcome {
        let retry_after = RetryAfter::default();
        let outcome = match timeout(TASK_TIMEOUT, self.try_run(&retry_after)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Error::Timeout(TASK_TIMEOUT.as_secs())),
        };
        outcome.unwrap_or_else(|error| RenewalOutcome::Failed {
            error,
            retry_after: retry_after.get(),
        })
    }

    async fn try_run(&self, retry_after: &RetryAfter) -> Result<RenewalOutcome, Error> {
        let (store, host) = (self.acme.store().clone(), self.managed.host().to_owned());
        let locked = run_blocking(move || {
            let lock = store.lock_host(&host);
            lock.map_err(Error::file("a lock"))
        });
        // The lock is a file and is held until the end of the order, so only one of several processes orders.
        let Some(_lock) = locked.await? else {
            return Ok(RenewalOutcome::Locked);
        };
        let Some(stored) = self.load_stored().await else {
            return self.order(None, retry_after).await;
        };
        let window = self.renewal_window(&stored, retry_after).await;
        let renew_at = renewal_time(&stored, window.as_ref());
        if renew_at > self.now {
            return Ok(RenewalOutcome::Valid { renew_at, window });
        }
        let has_suggestion = window.is_some_and(|window| window.renew_at.is_some());
        let replaces = identifier(&stored).filter(|_| has_suggestion);
        self.order(replaces, retry_after).await
    }

    /// Loads the stored certificate. If another process has renewed it, it replaces the certificate in use.
    async fn load_stored(&self) -> Option<CertifiedPair> {
        let (store, now) = (self.acme.store().clone(), self.now);
        let host = self.managed.host().to_owned();
        let loaded = run_blocking(move || Ok(store.load(&host, now))).await;
        let host = self.managed.host();
        let pair = match loaded {
            Ok(Ok(pair)) => pair?,
            Ok(Err(error)) => {
                tracing::warn!(%host, %error, "the stored certificate cannot be used");
                return None;
            }
            Err(error) => {
                tracing::warn!(%host, %error, "the stored certificate cannot be read");
                return None;
            }
        };
        if !self.managed.slot().holds(&pair) && pair.covers(host) {
            tracing::info!(%host, until = %pair.not_after().date(), "certificate taken over");
            self.managed.slot().replace(pair.clone(), self.now);
        }
        Some(pair)
    }

    /// Returns the CA's suggestion for this certificate. The CA is asked only when the last suggestion is old. If it cannot be
    /// asked, that is no failure: the dates of the certificate determine the renewal.
    async fn renewal_window(
        &self,
        pair: &CertifiedPair,
        retry_after: &RetryAfter,
    ) -> Option<RenewalWindow> {
        let leaf = pair.chain().first().map(|leaf| leaf.to_vec());
        let certificate = leaf.unwrap_or_default();
        if let Some(known) = &self.window
            && known.certificate == certificate
            && known.query_at > self.now
        {
            return self.window.clone();
        }
        let suggestion = match account::open(&self.acme, retry_after).await {
            Ok(account) => self.query_suggestion(&account, pair).await,
            Err(error) => {
                tracing::debug!(host = self.managed.host(), %error, "{NO_SUGGESTION}");
                None
            }
        };
        Some(match suggestion {
            Some((renew_at, query_at)) => RenewalWindow {
                certificate,
                renew_at: Some(renew_at),
                query_at,
            },
            None => RenewalWindow {
                certificate,
                renew_at: None,
                query_at: next_query(self.now, NO_SUGGESTION_INTERVAL),
            },
        })
    }

    /// Asks the CA, and returns the time of the renewal and the time of the next question.
    async fn query_suggestion(
        &self,
        account: &Account,
        pair: &CertifiedPair,
    ) -> Option<(OffsetDateTime, OffsetDateTime)> {
        match account.renewal_info(&identifier(pair)?).await {
            Ok((info, interval)) => {
                let window = info.suggested_window;
                let renew_at = time_in_window(window.start, window.end, self.jitter);
                Some((renew_at, next_query(self.now, interval)))
            }
            Err(instant_acme::Error::Unsupported(_)) => None,
            Err(error) => {
                tracing::debug!(host = self.managed.host(), %error, "{NO_SUGGESTION}");
                None
            }
        }
    }

    async fn order(
        &self,
        replaces: Option<CertificateIdentifier<'static>>,
        retry_after: &RetryAfter,
    ) -> Result<RenewalOutcome, Error> {
        if !self.may_order {
            return Ok(RenewalOutcome::Delayed);
        }
        let (host, started) = (self.managed.host(), Instant::now());
        let challenges = Arc::clone(self.acme.challenges());
        let (store, managed) = (self.acme.store().clone(), Arc::clone(&self.managed));
        let prepare = move || {
            challenges.remove_stale(SystemTime::now());
            let path = store.certificate_path(managed.host());
            let checked = store.check_space(managed.host());
            checked.map_err(Error::file(path.display().to_string()))
        };
        run_blocking(prepare).await?;
        tracing::info!(%host, by = challenge_name(&self.challenge_type), "ordering a certificate");
        let issued = self.order_with_retries(replaces, retry_after).await?;
        let pair = self.save(issued).await?;
        self.managed.slot().replace(pair.clone(), self.now);
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(%host, until = %pair.not_after().date(), seconds, "certificate issued");
        let renew_at = renewal_time(&pair, None);
        if renew_at <= self.now {
            // Without this error, the host would be due immediately, and the proxy would order one certificate per second.
            return Err(Error::AlreadyDue);
        }
        Ok(RenewalOutcome::Valid {
            renew_at,
            window: None,
        })
    }

    /// Orders, and repeats the order after errors that a repetition may correct.
    async fn order_with_retries(
        &self,
        replaces: Option<CertificateIdentifier<'static>>,
        retry_after: &RetryAfter,
    ) -> Result<IssuedCertificate, Error> {
        let mut result = self.order_once(replaces.clone(), retry_after).await;
        // Behind a load balancer, each machine of a CA may know only its own nonces. instant-acme has tried three nonces in
        // each order.
        for _ in 0..NONCE_RETRIES {
            match &result {
                Err(error) if error.is_problem("badNonce") => {}
                _ => break,
            }
            result = self.order_once(replaces.clone(), retry_after).await;
        }
        match result {
            // The CA has lost its accounts, as a test CA does at each start.
            Err(error) if error.is_problem("accountDoesNotExist") => {
                tracing::warn!(%error, "creating a new account");
                let store = self.acme.store().clone();
                run_blocking(move || {
                    let set_aside = store.set_account_aside();
                    set_aside.map_err(Error::file("the ACME account"))
                })
                .await?;
                self.order_once(replaces, retry_after).await
            }
            result => result,
        }
    }

    async fn order_once(
        &self,
        replaces: Option<CertificateIdentifier<'static>>,
        retry_after: &RetryAfter,
    ) -> Result<IssuedCertificate, Error> {
        let account = account::open(&self.acme, retry_after).await?;
        let request = OrderRequest {
            host: self.managed.host(),
            challenge_type: self.challenge_type.clone(),
            replaces,
        };
        order::run(&account, request, self.acme.challenges()).await
    }

    async fn save(&self, issued: IssuedCertificate) -> Result<CertifiedPair, Error> {
        let (store, now) = (self.acme.store().clone(), self.now);
        let host = self.managed.host().to_owned();
        run_blocking(move || Ok(store.save(&host, &issued.chain, &issued.key, now)?)).await
    }
}

/// Returns the identifier of a certificate in ACME renewal information (RFC 9773 section 4.1).
fn identifier(pair: &CertifiedPair) -> Option<CertificateIdentifier<'static>> {
    let identifier = CertificateIdentifier::try_from(pair.chain().first()?).ok()?;
    Some(identifier.into_owned())
}

/// Selects the type of challenge for the next order. tls-alpn-01 comes first, because its port always belongs to the proxy. If
/// there is a plain HTTP listener, the types alternate with the number of failures.
fn challenge_type(has_http_listener: bool, failures: u32) -> ChallengeType {
    if has_http_listener && failures % 2 == 1 {
        ChallengeType::Http01
    } else {
        ChallengeType::TlsAlpn01
    }
}

/// The time of the CA's suggestion, or the time when a third of the certificate's lifetime is left, whichever is earlier.
fn renewal_time(pair: &CertifiedPair, window: Option<&RenewalWindow>) -> OffsetDateTime {
    let own = when_a_third_is_left(pair.not_before(), pair.not_after());
    let suggested = window.and_then(|window| window.renew_at);
    suggested.map_or(own, |suggested| suggested.min(own))
}

/// The time when a third of the lifetime is left: 30 days of 90, two days of six.
fn when_a_third_is_left(not_before: OffsetDateTime, not_after: OffsetDateTime) -> OffsetDateTime {
    let lifetime = (not_after - not_before).max(time::Duration::ZERO);
    not_after - lifetime / 3
}

/// A time in the window that the CA suggests (RFC 9773 section 4.2). A time in the past means to renew now.
fn time_in_window(start: OffsetDateTime, end: OffsetDateTime, jitter: f64) -> OffsetDateTime {
    let width = (end - start).max(time::Duration::ZERO);
    start + width * jitter.clamp(0.0, 1.0)
}

/// The time of the next question for a suggestion: after the interval that the CA has set, within bounds (RFC 9773 section
/// 4.3.2).
fn next_query(now: OffsetDateTime, interval: Duration) -> OffsetDateTime {
    now + interval.clamp(Duration::from_secs(3600), MAX_DELAY)
}

/// The delay after `failures` failures in a row, the last one included. It doubles with each failure, and `jitter` spreads it,
/// so that instances of the proxy that fail together do not retry together. It is never shorter than the CA's `Retry-After`.
fn retry_delay(
    class: RetryClass,
    failures: u32,
    jitter: f64,
    retry_after: Option<Duration>,
) -> Duration {
    let (first, max) = match class {
        RetryClass::TryOtherChallenge => (Duration::ZERO, Duration::ZERO),
        RetryClass::Transient => (Duration::from_secs(15), Duration::from_secs(3600)),
        RetryClass::Rejected => (Duration::from_secs(300), Duration::from_secs(12 * 3600)),
    };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    // The factor is between 0.8 and 1.2.
    let delay = doubled.min(max).mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0));
    let retry_after = retry_after.unwrap_or_default().min(MAX_DELAY);
    delay.max(retry_after)
}

/// Returns a random number from 0 to 1; 0.5 if the system has no random bytes.
fn random_jitter() -> f64 {
    let mut bytes = [0; 2];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}

/// The log message if there is no renewal information for a certificate.
const NO_SUGGESTION: &str = "the certificate authority suggests no time for the renewal";
/// The number of hosts that are checked or renewed at the same time.
const MAX_CONCURRENT_TASKS: usize = 4;
/// The longest duration of a task, which includes two waits for the CA.
const TASK_TIMEOUT: Duration = Duration::from_secs(300);
/// The number of further orders after an order that failed because of its nonces.
const NONCE_RETRIES: u32 = 2;
/// The time until the next check of a host for which another process orders a certificate.
const LOCKED_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time between two checks of a host, by which a certificate that another process has obtained is found.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// The time between two questions to a CA that makes no suggestion.
const NO_SUGGESTION_INTERVAL: Duration = Duration::from_secs(12 * 3600);
/// The longest time until an order is repeated, or the CA is asked for a suggestion again. It also bounds `Retry-After`, so that
/// one header cannot disable the renewal.
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::tls::CertSlot;

    const NOW: OffsetDateTime = datetime!(2026-01-01 0:00 UTC);

    fn host() -> HostState {
        let managed = ManagedHost::new("a.test".to_owned(), CertSlot::empty());
        HostState::new(Arc::new(managed), NOW)
    }

    fn failed(error: Error, retry_after: Option<u64>) -> RenewalOutcome {
        let retry_after = retry_after.map(Duration::from_secs);
        RenewalOutcome::Failed { error, retry_after }
    }

    #[test]
    fn challenge_types_alternate_if_there_are_two() {
        let one: Vec<_> = (0..3)
            .map(|failures| challenge_type(false, failures))
            .collect();
        assert!(one.iter().all(|it| *it == ChallengeType::TlsAlpn01));
        let both: Vec<_> = (0..3)
            .map(|failures| challenge_type(true, failures))
            .collect();
        let (tls, http) = (ChallengeType::TlsAlpn01, ChallengeType::Http01);
        assert_eq!(both, [tls.clone(), http, tls]);
    }

    #[test]
    fn the_other_challenge_follows_without_delay_and_then_comes_a_delay() {
        let mut host = host();
        let rejected = || failed(Error::ChallengeNotOffered(ChallengeType::TlsAlpn01), None);
        host.record_outcome(rejected(), true, NOW);
        assert_eq!(host.retry_at, NOW);
        host.record_outcome(rejected(), true, NOW);
        assert!(
            host.retry_at >= NOW + Duration::from_secs(480),
            "{}",
            host.retry_at
        );
        // A certificate that another process obtains is found earlier.
        assert_eq!(host.due, NOW + CHECK_INTERVAL);
    }

    #[test]
    fn retry_after_delays_the_next_order() {
        let mut host = host();
        host.record_outcome(failed(Error::Timeout(1), Some(7200)), false, NOW);
        assert_eq!(host.retry_at, NOW + Duration::from_secs(7200));
        assert_eq!(host.retry_after, Some(host.retry_at));
        let outcome = RenewalOutcome::Valid {
            renew_at: NOW + Duration::from_secs(1_000_000),
            window: None,
        };
        host.record_outcome(outcome, false, NOW);
        assert_eq!(
            (host.failures, host.retry_after, host.due),
            (0, None, NOW + CHECK_INTERVAL)
        );
    }

    #[test]
    fn every_host_gets_its_turn_however_many_there_are() {
        let names = (0..1000).map(|number| number.to_string());
        let mut hosts: HashMap<_, _> = names.map(|name| (name, host())).collect();
        let mut turns = 0;
        for seconds in 0..250 {
            let now = NOW + Duration::from_secs(seconds);
            for host in longest_due(&mut hosts, now, MAX_CONCURRENT_TASKS) {
                turns += u32::from(host.failures == 0);
                host.failures += 1;
                host.due = now + CHECK_INTERVAL;
            }
        }
        assert_eq!(turns, 1000, "each has had one turn before any has had two");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_end_the_renewals() {
        let years_later = NOW + Duration::from_secs(4 * 365 * 24 * 3600);
        let mut hosts = HashMap::from([("a.test".to_owned(), host())]);
        let host = hosts.get_mut("a.test").unwrap();
        let rejected = failed(Error::OrderEnded("invalid".to_owned()), Some(3600));
        host.record_outcome(rejected, false, years_later);
        host.window = Some(RenewalWindow {
            certificate: Vec::new(),
            renew_at: None,
            query_at: next_query(years_later, Duration::ZERO),
        });
        assert_eq!(longest_due(&mut hosts, NOW, 4).count(), 0);
        let later = NOW + CHECK_INTERVAL;
        assert_eq!(longest_due(&mut hosts, later, 4).count(), 1);
        let host = &hosts["a.test"];
        assert_eq!(host.retry_at, NOW + MAX_DELAY);
        assert_eq!(host.window.as_ref().unwrap().query_at, NOW + MAX_DELAY);
    }

    #[test]
    fn a_certificate_is_due_when_a_third_of_its_lifetime_is_left() {
        let after = |days| NOW + time::Duration::days(days);
        assert_eq!(when_a_third_is_left(NOW, after(90)), after(60));
        assert_eq!(when_a_third_is_left(NOW, after(6)), after(4));
        // Never later than the end, even if a certificate ends before it begins.
        assert_eq!(when_a_third_is_left(after(1), NOW), NOW);
    }

    #[test]
    fn delays_double_up_to_a_maximum() {
        let minutes = |class, failures| retry_delay(class, failures, 0.5, None).as_secs() / 60;
        let rejected: Vec<_> = (1..=4).map(|n| minutes(RetryClass::Rejected, n)).collect();
        assert_eq!(rejected, [5, 10, 20, 40]);
        assert_eq!(minutes(RetryClass::Rejected, 1000), 12 * 60);
        assert_eq!(
            retry_delay(RetryClass::Transient, 1, 0.5, None),
            Duration::from_secs(15)
        );
        assert_eq!(minutes(RetryClass::Transient, 1000), 60);
        assert_eq!(
            retry_delay(RetryClass::TryOtherChallenge, 1, 1.0, None),
            Duration::ZERO
        );
    }

    #[test]
    fn a_delay_is_spread_and_never_below_retry_after() {
        let secs = |jitter| retry_delay(RetryClass::Rejected, 1, jitter, None).as_secs();
        assert_eq!((secs(0.0), secs(1.0)), (240, 360));
        let hour = Some(Duration::from_secs(3600));
        for class in [
            RetryClass::Transient,
            RetryClass::Rejected,
            RetryClass::TryOtherChallenge,
        ] {
            assert_eq!(retry_delay(class, 1, 0.0, hour), Duration::from_secs(3600));
        }
        let year = Some(Duration::from_secs(365 * 24 * 3600));
        assert_eq!(retry_delay(RetryClass::Transient, 1, 0.0, year), MAX_DELAY);
    }

    #[test]
    fn a_suggestion_is_a_time_in_the_window() {
        let end = datetime!(2026-01-03 0:00 UTC);
        assert_eq!(
            time_in_window(NOW, end, 0.5),
            datetime!(2026-01-02 0:00 UTC)
        );
        assert_eq!(time_in_window(end, NOW, 0.5), end);
        let hours = |secs| (next_query(NOW, Duration::from_secs(secs)) - NOW).whole_hours();
        assert_eq!(
            (hours(0), hours(6 * 3600), hours(u32::MAX.into())),
            (1, 6, 24)
        );
    }
}
