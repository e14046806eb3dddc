//! Metrics: counters that each module increments for itself, and their text exposition for Prometheus.
//!
//! Each module keeps counters of these types next to what they count, and `admin` reads them for a scrape. Every
//! label has a bounded number of values: sites and endpoints are those of the configuration, all others are lists in
//! `labels` and `alerts`. Nothing that a client writes (a repository, a user, a host, a method) becomes a label
//! value.
//!
//! To count is to add to an atomic of the thread's own: without a lock, without a look-up by name, and without a
//! cache line that the workers share.

mod alerts;
pub(crate) mod counter;
mod exposition;
mod labels;
mod process;
mod site;

pub use alerts::{AlertSender, TlsAlert, TlsAlerts};
pub use counter::Counter;
pub use exposition::{ExpositionFormat, Family, Kind, Value, write};
pub use labels::{Operation, RejectionReason};
pub use process::{Connections, LoginCounts, Protocol};
pub use site::{Buckets, SiteCounts, SiteSums, SiteTotals, ThreadCounts};
