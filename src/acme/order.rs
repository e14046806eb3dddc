//! One order at a certificate authority (CA), from the host name to the chain and its key (RFC 8555 section 7.4).
//!
//! Called by `renewal`, which holds the host's lock.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder,
    Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::challenges::{ChallengeKey, Challenges};
use super::error::{Error, run_blocking};

/// The parameters of an order.
pub(super) struct OrderRequest<'a> {
    pub(super) host: &'a str,
    /// The type of challenge by which the CA validates the host.
    pub(super) challenge_type: ChallengeType,
    /// The certificate that the new one replaces (RFC 9773 section 5).
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
}

/// The result of an order, in PEM form.
pub(super) struct IssuedCertificate {
    pub(super) chain: String,
    pub(super) key: Zeroizing<String>,
}

/// Places an order, responds to its challenges, and downloads the certificate. The responses are withdrawn afterwards.
pub(super) async fn run(
    account: &Account,
    request: OrderRequest<'_>,
    challenges: &Arc<Challenges>,
) -> Result<IssuedCertificate, Error> {
    let mut published = PublishedChallenges {
        challenges,
        keys: Vec::new(),
    };
    let issued = run_with(account, request, &mut published).await;
    published.unpublish().await;
    issued
}

async fn run_with(
    account: &Account,
    request: OrderRequest<'_>,
    published: &mut PublishedChallenges<'_>,
) -> Result<IssuedCertificate, Error> {
    let names = [Identifier::Dns(request.host.to_owned())];
    let mut order = create(account, &names, request.replaces).await?;
    authorize(&mut order, &request.challenge_type, request.host, published).await?;
    // If the CA has validated the host for a recent order, this order is ready already.
    if order.state().status == OrderStatus::Pending {
        let ready = order.poll_ready(&POLLING).await;
        if !matches!(ready, Ok(OrderStatus::Ready)) {
            return Err(validation_error(&mut order, &request.challenge_type, ready).await);
        }
    }
    let key_pair = KeyPair::generate()?;
    let mut params = CertificateParams::new([request.host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let signing_request = params.serialize_request(&key_pair)?;
    order.finalize_csr(signing_request.der()).await?;
    let chain = order.poll_certificate(&POLLING).await?;
    Ok(IssuedCertificate {
        chain,
        key: Zeroizing::new(key_pair.serialize_pem()),
    })
}

/// Creates an order. If the CA does not accept it as a replacement, creates an ordinary one.
async fn create(
    account: &Account,
    names: &[Identifier],
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    if let Some(replaces) = replaces {
        match account
            .new_order(&NewOrder::new(names).replaces(replaces))
            .await
        {
            Ok(order) => return Ok(order),
            Err(error) => {
                let error = Error::from(error);
                if error.is_problem("rateLimited") || error.is_problem("accountDoesNotExist") {
                    return Err(error);
                }
                tracing::debug!(%error, "the certificate authority does not accept the order as a replacement");
            }
        }
    }
    Ok(account.new_order(&NewOrder::new(names)).await?)
}

/// Publishes the response to each open challenge of the order, and asks the CA to check it.
async fn authorize(
    order: &mut Order,
    challenge_type: &ChallengeType,
    host: &str,
    published: &mut PublishedChallenges<'_>,
) -> Result<(), Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            // The authorization may have failed in another order. The next order gets a new authorization.
            other => return Err(Error::OrderEnded(format!("{other:?}").to_lowercase())),
        }
        let challenge = authorization.challenge(challenge_type.clone());
        let mut challenge =
            challenge.ok_or_else(|| Error::ChallengeNotOffered(challenge_type.clone()))?;
        let key = match challenge_type {
            ChallengeType::Http01 => PublishedKey::Token(challenge.token.clone()),
            _ => PublishedKey::Host(host.to_owned()),
        };
        let key_authorization = challenge.key_authorization().as_str().to_owned();
        published.publish(key, key_authorization).await?;
        challenge.set_ready().await.map_err(|error| match error {
            instant_acme::Error::Api(problem) => Error::Challenge(challenge_type.clone(), problem),
            other => other.into(),
        })?;
    }
    Ok(())
}

/// Returns the reason why an order did not become ready. The CA reports the problem in the challenge, not in the order.
async fn validation_error(
    order: &mut Order,
    challenge_type: &ChallengeType,
    ready: Result<OrderStatus, instant_acme::Error>,
) -> Error {
    match ready {
        // The CA could not be asked, so it cannot be asked for the problem either.
        Err(error) if !matches!(error, instant_acme::Error::Api(_)) => error.into(),
        ready => match (challenge_problem(order).await, ready) {
            (Some(problem), _) => Error::Challenge(challenge_type.clone(), problem),
            (None, Err(error)) => error.into(),
            (None, Ok(status)) => Error::OrderEnded(format!("{status:?}").to_lowercase()),
        },
    }
}

async fn challenge_problem(order: &mut Order) -> Option<Problem> {
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

/// The responses that are published while an order runs. If the order is dropped, its files are removed later as stale.
struct PublishedChallenges<'a> {
    challenges: &'a Arc<Challenges>,
    keys: Vec<PublishedKey>,
}

/// An owned [`ChallengeKey`].
#[derive(Clone)]
enum PublishedKey {
    Token(String),
    Host(String),
}

impl PublishedKey {
    fn as_key(&self) -> ChallengeKey<'_> {
        match self {
            Self::Token(token) => ChallengeKey::Token(token),
            Self::Host(host) => ChallengeKey::Host(host),
        }
    }
}

impl PublishedChallenges<'_> {
    async fn publish(&mut self, key: PublishedKey, key_authorization: String) -> Result<(), Error> {
        self.keys.push(key.clone());
        let challenges = Arc::clone(self.challenges);
        let what = challenges.dir().display().to_string();
        run_blocking(move || {
            let published = challenges.publish(key.as_key(), &key_authorization);
            published.map_err(Error::file(what))
        })
        .await
    }

    async fn unpublish(self) {
        let (challenges, keys) = (Arc::clone(self.challenges), self.keys);
        let done = run_blocking(move || {
            for key in &keys {
                challenges.unpublish(key.as_key());
            }
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "a response to a challenge was not withdrawn");
        }
    }
}

/// The limit for each of the two waits for the CA, which usually takes seconds.
const POLLING: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));
