//! Integration tests: the real server in this process, real sockets, and a fake registry behind it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod answers;
mod credentials;
mod early;
mod failures;
mod forwarded;
mod grammar;
mod htpasswd_tools;
mod limits;
mod listeners;
mod passwords;
mod ping;
mod query;
mod rules;
mod streaming;
mod support;
mod tls;
