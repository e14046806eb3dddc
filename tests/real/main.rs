//! The tests with real clients. docker, skopeo, podman, curl, Chromium and others send requests to the tidegate executable, which
//! forwards them to Debian's `docker-registry`. The proxy terminates TLS with a certificate of a test CA. All connections use
//! loopback addresses.
//!
//! `cargo test --test real` runs these tests, and no other command runs them. `tests/run --install` installs the programs that
//! the tests need. The tests must run as root, because dockerd requires it. If a program is missing, the test fails and names
//! the Debian package; no test is skipped. Behaviour that needs no foreign program is tested in `tests/it`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "a failed test panics with a message and its location"
)]

mod lab;

mod access_log;
mod acme;
mod balancers;
mod big;
mod browser;
mod check;
mod client_certificates;
mod clients;
mod curl;
mod docker;
mod early_response;
mod front_ends;
mod harbor;
mod kubernetes;
mod logins;
mod nginx;
mod outage;
mod package;
mod podman;
mod prometheus;
mod release;
mod rights;
mod shared_rights;
mod skopeo;
mod status_page;
mod swarm;
mod tokens;
mod ui;
mod websocket;
