//! The real-client tests: docker, skopeo, podman, curl and Chromium talk through the real executable to Debian's
//! `docker-registry`, over TLS with a CA of their own and with nothing but loopback between them.
//!
//! `cargo test --test real` runs them and nothing else does; `tests/run --install` installs what they need first. They
//! want root, because dockerd does. A program that is missing is a failed test that names its package, never a skip.
//! What can be shown without foreign programs is tested in `tests/it`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed, and says where"
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
