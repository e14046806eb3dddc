//! `tidegate check`: probes of the running parts (`--live`), and which user may perform which action (`--who`).

pub mod live;
pub mod rights;
