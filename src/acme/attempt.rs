//! One look at one host: whether its certificate is good for a while yet, and an order when it is not.
//!
//! Called by `renewals`, as a task of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{Account, CertificateIdentifier, ChallengeType, Error};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use x509_parser::parse_x509_certificate;

use super::account::{self, blocking};
use super::failure::{Failure, name};
use super::order::{self, IssuedCertificate, OrderRequest};
use super::schedule;
use super::web::RetryAfter;
use super::{Acme, ManagedHost};
use crate::tls::certs::CertifiedPair;

/// When the authority wants a certificate renewed (RFC 9773).
#[derive(Clone, Debug)]
pub(super) struct RenewalWindow {
    /// The certificate it is about, DER.
    about: Vec<u8>,
    /// `None` when the authority has nothing to say.
    renew: Option<OffsetDateTime>,
    ask_again: OffsetDateTime,
}

/// What a look is made with.
pub(super) struct RenewalTask {
    pub(super) acme: Arc<Acme>,
    pub(super) kept: Arc<ManagedHost>,
    pub(super) way: ChallengeType,
    pub(super) suggestion: Option<RenewalWindow>,
    /// Not while a failure is waited out: then what another process got is all that is looked for.
    pub(super) may_order: bool,
    pub(super) now: OffsetDateTime,
    /// From 0 to 1.
    pub(super) chance: f64,
}

/// What came of it.
pub(super) enum RenewalOutcome {
    /// There is a good certificate; it is to be renewed at this time.
    Good {
        renewal: OffsetDateTime,
        suggestion: Option<RenewalWindow>,
    },
    /// Another process orders.
    Busy,
    /// There is none, and it is not the time to order.
    Waiting,
    Failed {
        failure: Failure,
        /// What the authority asked for.
        wait: Option<Duration>,
    },
}

impl RenewalTask {
    pub(super) async fn run(self) -> RenewalOutcome {
        let asked = RetryAfter::default();
        let outcome = match timeout(DEADLINE, self.go(&asked)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Failure::Late(DEADLINE.as_secs())),
        };
        outcome.unwrap_or_else(|failure| RenewalOutcome::Failed {
            failure,
            wait: asked.wait(),
        })
    }

    async fn go(&self, asked: &RetryAfter) -> Result<RenewalOutcome, Failure> {
        let (store, host) = (self.acme.store.clone(), self.kept.host().to_owned());
        let locked = blocking(move || {
            let lock = store.lock_host(&host);
            lock.map_err(Failure::file("a lock"))
        });
        // Held over the whole order, by a file: of several processes one orders.
        let Some(_lock) = locked.await? else {
            return Ok(RenewalOutcome::Busy);
        };
        let stored = self.stored().await;
        let Some(stored) = stored else {
            return self.order(None, asked).await;
        };
        let suggestion = self.suggestion(&stored, asked).await;
        let renewal = renewal(&stored, suggestion.as_ref()).unwrap_or(self.now);
        if renewal > self.now {
            return Ok(RenewalOutcome::Good {
                renewal,
                suggestion,
            });
        }
        let replaces = suggestion.filter(|suggestion| suggestion.renew.is_some());
        let replaces = replaces.and_then(|_| identifier(&stored));
        self.order(replaces, asked).await
    }

    /// What lies in the folder; one that is new, by another process's order, is in use from now on.
    async fn stored(&self) -> Option<CertifiedPair> {
        let (store, host, now) = (
            self.acme.store.clone(),
            self.kept.host().to_owned(),
            self.now,
        );
        let loaded = blocking(move || Ok(store.load(&host, now))).await;
        let pair = match loaded {
            Ok(Ok(pair)) => pair?,
            Ok(Err(error)) => {
                tracing::warn!(host = self.kept.host(), %error, "the stored certificate cannot be used");
                return None;
            }
            Err(error) => {
                tracing::warn!(host = self.kept.host(), %error, "the stored certificate cannot be read");
                return None;
            }
        };
        if !self.kept.shown.holds(&pair) && pair.covers(self.kept.host()) {
            tracing::info!(host = self.kept.host(), until = %pair.not_after().date(), "certificate taken over");
            self.kept.shown.replace(pair.clone(), self.now);
        }
        Some(pair)
    }

    /// What the authority suggests for this certificate, asked for when it is time to. No answer is no failure: the
    /// certificate's own dates stand.
    async fn suggestion(&self, pair: &CertifiedPair, asked: &RetryAfter) -> Option<RenewalWindow> {
        let leaf = pair.chain().first().map(|leaf| leaf.to_vec());
        let leaf = leaf.unwrap_or_default();
        if let Some(known) = &self.suggestion
            && known.about == leaf
            && known.ask_again > self.now
        {
            return self.suggestion.clone();
        }
        let account = match account::open(&self.acme, asked).await {
            Ok(account) => account,
            Err(error) => {
                tracing::debug!(host = self.kept.host(), %error, "no suggestion when to renew");
                return Some(silent(leaf, self.now));
            }
        };
        Some(
            match suggested(&account, pair, self.now, self.chance).await {
                Some((renew, ask_again)) => RenewalWindow {
                    about: leaf,
                    renew: Some(renew),
                    ask_again,
                },
                None => silent(leaf, self.now),
            },
        )
    }

    async fn order(
        &self,
        replaces: Option<CertificateIdentifier<'static>>,
        asked: &RetryAfter,
    ) -> Result<RenewalOutcome, Failure> {
        if !self.may_order {
            return Ok(RenewalOutcome::Waiting);
        }
        let (host, began) = (self.kept.host(), Instant::now());
        let challenges = Arc::clone(self.acme.challenges());
        let sweep = move || {
            challenges.sweep(SystemTime::now());
            Ok(())
        };
        blocking(sweep).await?;
        tracing::info!(%host, by = name(&self.way), "ordering a certificate");
        let mut tried = self.once(replaces.clone(), asked).await;
        // An authority behind a balancer may know the nonces of only one of its machines; each time three were tried.
        for _ in 0..NONCE_TRIES {
            match &tried {
                Err(failure) if failure.is("badNonce") => {}
                _ => break,
            }
            tried = self.once(replaces.clone(), asked).await;
        }
        let issued = match tried {
            // A directory that lost its memory, as one for tests does at each start.
            Err(failure) if failure.is("accountDoesNotExist") => {
                tracing::warn!(%failure, "making a new account");
                let store = self.acme.store.clone();
                let forget = move || {
                    let forgotten = store.forget_account();
                    forgotten.map_err(Failure::file("the ACME account"))
                };
                blocking(forget).await?;
                self.once(replaces, asked).await?
            }
            issued => issued?,
        };
        let pair = self.save(issued).await?;
        self.kept.shown.replace(pair.clone(), self.now);
        let seconds = began.elapsed().as_secs_f64();
        tracing::info!(%host, until = %pair.not_after().date(), seconds, "certificate issued");
        let renewal = renewal(&pair, None).unwrap_or(self.now);
        if renewal <= self.now {
            // An order a second would follow otherwise.
            return Err(Failure::Ended(
                "for a certificate that is as good as over".to_owned(),
            ));
        }
        Ok(RenewalOutcome::Good {
            renewal,
            suggestion: None,
        })
    }

    async fn once(
        &self,
        replaces: Option<CertificateIdentifier<'static>>,
        asked: &RetryAfter,
    ) -> Result<IssuedCertificate, Failure> {
        let account = account::open(&self.acme, asked).await?;
        let wanted = OrderRequest {
            host: self.kept.host(),
            way: self.way.clone(),
            replaces,
        };
        order::run(&account, wanted, self.acme.challenges()).await
    }

    async fn save(&self, issued: IssuedCertificate) -> Result<CertifiedPair, Failure> {
        let (store, host, now) = (
            self.acme.store.clone(),
            self.kept.host().to_owned(),
            self.now,
        );
        blocking(move || Ok(store.save(&host, &issued.chain, &issued.key, now)?)).await
    }
}

/// The earlier of the two: the authority's suggestion, and the time when a third of the life is left.
fn renewal(pair: &CertifiedPair, suggestion: Option<&RenewalWindow>) -> Option<OffsetDateTime> {
    let leaf = pair.chain().first()?;
    let (_, parsed) = parse_x509_certificate(leaf).ok()?;
    let own = schedule::renewal(parsed.validity().not_before.to_datetime(), pair.not_after());
    let suggested = suggestion.and_then(|suggestion| suggestion.renew);
    Some(suggested.map_or(own, |suggested| suggested.min(own)))
}

fn silent(about: Vec<u8>, now: OffsetDateTime) -> RenewalWindow {
    RenewalWindow {
        about,
        renew: None,
        ask_again: schedule::ask_again(now, SILENCE),
    }
}

fn identifier(pair: &CertifiedPair) -> Option<CertificateIdentifier<'static>> {
    let identifier = CertificateIdentifier::try_from(pair.chain().first()?).ok()?;
    Some(identifier.into_owned())
}

async fn suggested(
    account: &Account,
    pair: &CertifiedPair,
    now: OffsetDateTime,
    chance: f64,
) -> Option<(OffsetDateTime, OffsetDateTime)> {
    match account.renewal_info(&identifier(pair)?).await {
        Ok((info, wait)) => {
            let window = info.suggested_window;
            let renew = schedule::within(window.start, window.end, chance);
            Some((renew, schedule::ask_again(now, wait)))
        }
        Err(Error::Unsupported(_)) => None,
        Err(error) => {
            tracing::debug!(%error, "no suggestion when to renew");
            None
        }
    }
}

/// Orders begun anew because of nonces.
const NONCE_TRIES: u32 = 2;
/// All of it, two waits for the authority included.
const DEADLINE: Duration = Duration::from_secs(300);
/// Between two questions to an authority that has no suggestion.
const SILENCE: Duration = Duration::from_secs(12 * 3600);
