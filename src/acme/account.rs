//! The account at a directory: found in the state folder, or made there.
//!
//! Called by `attempt`. The key is the account: who has it may order in its name, and nothing else.

use std::time::Duration;

use instant_acme::{Account, AccountCredentials, NewAccount};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::Acme;
use super::failure::Failure;
use super::store::Store;
use super::web::{AcmeHttpClient, RetryAfter};
use crate::state_file::Lock;

/// The account that is stored, or a new one. `asked` learns what waits the directory asks for.
///
/// To make one is to agree to the authority's terms of service.
pub(super) async fn open(acme: &Acme, asked: &RetryAfter) -> Result<Account, Failure> {
    let _lock = lock(&acme.store).await?;
    let store = acme.store.clone();
    let read = blocking(move || store.account().map_err(Failure::file("the ACME account"))).await?;
    let builder = || {
        Account::builder_with_http(Box::new(AcmeHttpClient::new(
            &acme.settings.trust,
            asked.clone(),
        )))
    };
    let contact = acme
        .settings
        .email
        .as_ref()
        .map(|email| format!("mailto:{email}"));
    let contacts: Vec<_> = contact.as_deref().into_iter().collect();
    let Some(stored) = read else {
        let wanted = NewAccount {
            contact: &contacts,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let directory = acme.settings.directory.clone();
        let (account, credentials) = builder().create(&wanted, directory, None).await?;
        save(acme, &credentials).await?;
        tracing::info!(
            account = account.id(),
            "made an account at the certificate authority"
        );
        return Ok(account);
    };
    let damaged = |what: serde_json::Error| Failure::Account {
        path: acme.store.account_path().display().to_string(),
        what: what.to_string(),
    };
    let stored: Value = serde_json::from_slice(&stored).map_err(damaged)?;
    let known = stored
        .get("email")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let credentials = stored.get("credentials").cloned().unwrap_or_default();
    let credentials: AccountCredentials = serde_json::from_value(credentials).map_err(damaged)?;
    let again = stored.get("credentials").cloned().unwrap_or_default();
    let account = builder().from_credentials(credentials).await?;
    if known != acme.settings.email {
        account.update_contacts(&contacts).await?;
        let again: AccountCredentials = serde_json::from_value(again).map_err(damaged)?;
        save(acme, &again).await?;
    }
    Ok(account)
}

async fn save(acme: &Acme, credentials: &AccountCredentials) -> Result<(), Failure> {
    let content = json!({ "email": acme.settings.email, "credentials": credentials });
    let content = Zeroizing::new(content.to_string().into_bytes());
    let store = acme.store.clone();
    let what = acme.store.account_path().display().to_string();
    blocking(move || store.save_account(&content).map_err(Failure::file(what))).await
}

/// Two hosts of a gate, or two gates, make one account between them.
async fn lock(store: &Store) -> Result<Lock, Failure> {
    let mut waited = Duration::ZERO;
    loop {
        let store = store.clone();
        let tried = blocking(move || store.lock_account().map_err(Failure::file("a lock"))).await?;
        match tried {
            Some(lock) => return Ok(lock),
            None if waited >= PATIENCE => return Err(Failure::Late(waited.as_secs())),
            None => sleep(STEP).await,
        }
        waited += STEP;
    }
}

/// On a thread where a slow disk holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::Broken(error.to_string())))
}

/// As long as the directory may take to make an account.
const PATIENCE: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_millis(100);
