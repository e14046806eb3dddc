//! The parts of `tidegate check` that go beyond loading the configuration: probes of upstreams and listeners (`--live`), and
//! queries about rights (`--who`).
//!
//! `cli` calls them with a configuration and the snapshot that was built from it.

pub mod live;
pub mod rights;
