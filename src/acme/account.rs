//! The account at a certificate authority (CA): loaded from `state.dir`, or created.
//!
//! Called by `renewal` for each attempt. The private key is the account: a party that has it may order certificates in the
//! name of the account, and can do nothing else.

use std::time::Duration;

use instant_acme::{Account, AccountCredentials, NewAccount};
use serde_json::{Value, json};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::error::{Error, run_blocking};
use super::http_client::{AcmeHttpClient, RetryAfter};
use super::managed_hosts::Acme;
use super::store::Store;
use crate::state_file::Lock;

/// Returns the stored account, or creates one. Its requests record the CA's `Retry-After` in `retry_after`.
///
/// Creating an account means to agree to the CA's terms of service.
pub(super) async fn open(acme: &Acme, retry_after: &RetryAfter) -> Result<Account, Error> {
    let _lock = lock(acme.store()).await?;
    let store = acme.store().clone();
    let read =
        run_blocking(move || store.account().map_err(Error::file("the ACME account"))).await?;
    let settings = acme.settings();
    let builder = || {
        let client = AcmeHttpClient::new(&settings.roots, retry_after.clone());
        Account::builder_with_http(Box::new(client))
    };
    let contact = settings
        .email
        .as_ref()
        .map(|email| format!("mailto:{email}"));
    let contacts: Vec<_> = contact.as_deref().into_iter().collect();
    let Some(stored) = read else {
        let new_account = NewAccount {
            contact: &contacts,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let directory = settings.directory.clone();
        let (account, credentials) = builder().create(&new_account, directory, None).await?;
        save(acme, &credentials).await?;
        tracing::info!(
            account = account.id(),
            "created an account at the certificate authority"
        );
        return Ok(account);
    };
    let damaged = |error: serde_json::Error| Error::DamagedAccount {
        path: acme.store().account_path().display().to_string(),
        what: error.to_string(),
    };
    let stored: Value = serde_json::from_slice(&stored).map_err(damaged)?;
    let stored_email = stored
        .get("email")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let stored_credentials = stored.get("credentials").cloned().unwrap_or_default();
    let parse = || serde_json::from_value::<AccountCredentials>(stored_credentials.clone());
    // `AccountCredentials` cannot be cloned, so it is parsed again where it is needed a second time.
    let account = builder()
        .from_credentials(parse().map_err(damaged)?)
        .await?;
    if stored_email != settings.email {
        account.update_contacts(&contacts).await?;
        save(acme, &parse().map_err(damaged)?).await?;
    }
    Ok(account)
}

async fn save(acme: &Acme, credentials: &AccountCredentials) -> Result<(), Error> {
    let content = json!({ "email": acme.settings().email, "credentials": credentials });
    let content = Zeroizing::new(content.to_string().into_bytes());
    let store = acme.store().clone();
    let what = acme.store().account_path().display().to_string();
    run_blocking(move || store.save_account(&content).map_err(Error::file(what))).await
}

/// Waits for the lock of the account, so that several hosts or several instances of the proxy create only one account.
async fn lock(store: &Store) -> Result<Lock, Error> {
    let mut waited = Duration::ZERO;
    loop {
        let store = store.clone();
        let lock =
            run_blocking(move || store.lock_account().map_err(Error::file("a lock"))).await?;
        match lock {
            Some(lock) => return Ok(lock),
            None if waited >= LOCK_TIMEOUT => return Err(Error::Timeout(waited.as_secs())),
            None => sleep(LOCK_INTERVAL).await,
        }
        waited += LOCK_INTERVAL;
    }
}

/// The longest wait for another task that creates the account: as long as its requests to the CA may take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(90);
/// The time between two attempts to take the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);
