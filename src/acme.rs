//! Certificates from a certificate authority (CA) over ACME (RFC 8555), ordered and renewed automatically.
//!
//! `snapshot` builds one [`Acme`] from the sites with `tls = "acme"`. `server` calls [`Renewals::tick`] once a second on the
//! main runtime, with the [`Acme`] of the current snapshot. A certificate that is issued goes into the
//! [`CertSlot`](crate::tls::CertSlot) from which handshakes take it, and into a file in `state.dir`. No request waits for
//! anything in this module.
//!
//! | file | content |
//! |---|---|
//! | `managed_hosts` | the settings, and the hosts of one snapshot |
//! | `renewal` | when a host is renewed, and one attempt to renew it |
//! | `account`, `order` | the account at the CA, and one order |
//! | `challenges` | the responses by which the CA validates a host |
//! | `store` | the files in `state.dir/acme` |
//! | `http_client`, `error` | HTTPS requests to the CA, and the errors of an attempt |

mod account;
mod challenges;
mod error;
mod http_client;
mod managed_hosts;
mod order;
mod renewal;
mod store;

pub use self::challenges::{ACME_CHALLENGE_PATH, Challenges};
pub use self::managed_hosts::{Acme, LETS_ENCRYPT, ManagedHost, Settings};
pub use self::renewal::Renewals;
