//! Numbers about what the gate does: counted by whoever does it, and written out in the form that Prometheus reads.
//!
//! Each module keeps counters of these types beside what they count, and `admin` gathers them when it is asked. Every
//! label has a bounded number of values: sites and endpoints are those of the configuration, all others are lists
//! here. Nothing that a client writes (a repository, a user, a host, a method) ever becomes one.
//!
//! To count is to add to an atomic of the thread's own; no lock, no look-up by name, nothing shared with other workers.

mod alerts;
pub(crate) mod counter;
mod process;
mod site;
mod text;
mod words;

pub use alerts::{AlertSender, TlsAlert, TlsAlerts};
pub use counter::Counter;
pub use process::{Connections, Logins, Protocol};
pub use site::{Buckets, ByteCounter, Shard, SiteCounts, SiteSums, Totals};
pub use text::{ExpositionFormat, Family, Kind, Value, write};
pub use words::{Operation, Reason};
