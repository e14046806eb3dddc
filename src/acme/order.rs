//! One order, from the names to a chain and its key (RFC 8555, section 7.4).
//!
//! Called by `attempt`, which holds the host's lock.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::account::blocking;
use super::failure::Failure;
use crate::tls::challenges::{ChallengeKey, Challenges};

/// What is ordered.
pub(super) struct OrderRequest<'a> {
    pub(super) host: &'a str,
    /// How the authority is to look whether the host is ours.
    pub(super) way: ChallengeType,
    /// The certificate that this one is to replace.
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
}

/// PEM.
pub(super) struct IssuedCertificate {
    pub(super) chain: String,
    pub(super) key: Zeroizing<String>,
}

/// Orders, answers the challenges, and fetches what was issued.
pub(super) async fn run(
    account: &Account,
    wanted: OrderRequest<'_>,
    challenges: &Arc<Challenges>,
) -> Result<IssuedCertificate, Failure> {
    let mut answered = PublishedChallenges {
        challenges,
        given: Vec::new(),
    };
    let issued = go(account, wanted, &mut answered).await;
    answered.take_back().await;
    issued
}

async fn go(
    account: &Account,
    wanted: OrderRequest<'_>,
    answered: &mut PublishedChallenges<'_>,
) -> Result<IssuedCertificate, Failure> {
    let names = [Identifier::Dns(wanted.host.to_owned())];
    let mut order = begin(account, &names, wanted.replaces).await?;
    authorize(&mut order, &wanted.way, wanted.host, answered).await?;
    // What was authorized lately needs no wait.
    if order.state().status == OrderStatus::Pending {
        let ready = order.poll_ready(&POLLING).await;
        if !matches!(ready, Ok(OrderStatus::Ready)) {
            return Err(why(&mut order, &wanted.way, ready).await);
        }
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([wanted.host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&POLLING).await?;
    Ok(IssuedCertificate {
        chain,
        key: Zeroizing::new(key.serialize_pem()),
    })
}

/// A replacement that the authority does not take for one is an order like any other.
async fn begin(
    account: &Account,
    names: &[Identifier],
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Failure> {
    if let Some(replaces) = replaces {
        match account
            .new_order(&NewOrder::new(names).replaces(replaces))
            .await
        {
            Ok(order) => return Ok(order),
            Err(error) => {
                let error = Failure::from(error);
                if error.is("rateLimited") || error.is("accountDoesNotExist") {
                    return Err(error);
                }
                tracing::debug!(%error, "the order cannot be a replacement");
            }
        }
    }
    Ok(account.new_order(&NewOrder::new(names)).await?)
}

async fn authorize(
    order: &mut Order,
    way: &ChallengeType,
    host: &str,
    answered: &mut PublishedChallenges<'_>,
) -> Result<(), Failure> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            // Another order's failure, perhaps; the next order begins anew.
            other => return Err(Failure::Ended(format!("{other:?}").to_lowercase())),
        }
        let challenge = authorization.challenge(way.clone());
        let mut challenge = challenge.ok_or_else(|| Failure::NotOffered(way.clone()))?;
        let subject = match way {
            ChallengeType::Http01 => PublishedChallenge::Token(challenge.token.clone()),
            _ => PublishedChallenge::Host(host.to_owned()),
        };
        let text = challenge.key_authorization().as_str().to_owned();
        answered.give(subject, text).await?;
        challenge.set_ready().await.map_err(|error| match error {
            Error::Api(problem) => Failure::Challenge(way.clone(), problem),
            other => other.into(),
        })?;
    }
    Ok(())
}

/// What the authority did not like is written at the challenge, not at the order.
async fn why(order: &mut Order, way: &ChallengeType, ready: Result<OrderStatus, Error>) -> Failure {
    if let Err(error) = &ready
        && !matches!(error, Error::Api(_))
    {
        return match ready {
            Err(error) => error.into(),
            Ok(_) => Failure::Ended("not ready".to_owned()),
        };
    }
    match (problem(order).await, ready) {
        (Some(problem), _) => Failure::Challenge(way.clone(), problem),
        (None, Err(error)) => error.into(),
        (None, Ok(status)) => Failure::Ended(format!("{status:?}").to_lowercase()),
    }
}

async fn problem(order: &mut Order) -> Option<Problem> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        let mut problems = state.challenges.iter().filter_map(|c| c.error.clone());
        if let Some(problem) = problems.next() {
            return Some(problem);
        }
    }
    None
}

/// What is answered while an order runs. What stays behind when it is cut off is swept up later.
struct PublishedChallenges<'a> {
    challenges: &'a Arc<Challenges>,
    given: Vec<PublishedChallenge>,
}

#[derive(Clone)]
enum PublishedChallenge {
    Token(String),
    Host(String),
}

impl PublishedChallenge {
    fn subject(&self) -> ChallengeKey<'_> {
        match self {
            Self::Token(token) => ChallengeKey::Token(token),
            Self::Host(host) => ChallengeKey::Host(host),
        }
    }
}

impl PublishedChallenges<'_> {
    async fn give(&mut self, given: PublishedChallenge, text: String) -> Result<(), Failure> {
        self.given.push(given.clone());
        let challenges = Arc::clone(self.challenges);
        let what = challenges.dir().display().to_string();
        blocking(move || {
            let put = challenges.put(given.subject(), &text);
            put.map_err(Failure::file(what))
        })
        .await
    }

    async fn take_back(self) {
        let (challenges, given) = (Arc::clone(self.challenges), self.given);
        let done = blocking(move || {
            for given in &given {
                challenges.take_back(given.subject());
            }
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "an answer to the certificate authority was not taken back");
        }
    }
}

/// For each of the two waits; authorities answer within seconds.
const POLLING: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));
