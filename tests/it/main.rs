//! Integration tests: the real server in this process, real sockets, and a fake registry behind it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::too_many_lines,
    reason = "a test fails by panicking, and a table of cases is long"
)]

mod aborts;
mod access_log;
mod acme;
mod acme_orders;
mod admin;
mod answers;
mod balancer;
mod behind_proxy;
mod binary;
mod catalogue;
mod challenge_files;
mod client_certificates;
mod credentials;
mod deadlines;
mod downgrade;
mod drain;
mod early;
mod early_h2;
mod endpoints;
mod failures;
mod findings;
mod fleet;
mod forwarded;
mod framing;
mod grammar;
mod grants;
mod h2_abuse;
mod h2_bodies;
mod handshakes;
mod harbor;
mod hostile;
mod hostile_h2;
mod htpasswd_command;
mod htpasswd_tools;
mod import;
mod include;
mod init;
mod installed;
mod limits;
mod listeners;
mod live_certificates;
mod live_check;
mod live_grants;
mod live_passwords;
mod locations;
mod memory;
mod metrics;
mod model;
mod modes;
mod passwords;
mod ping;
mod query;
mod reload;
mod reload_command;
mod remedies;
mod repeats;
mod rights;
mod route_responses;
mod routes;
mod rules;
mod shared_bounds;
mod shared_rights;
mod sites;
mod stalled;
mod status_page;
mod storm;
mod streaming;
mod stuck;
mod supervised;
mod support;
mod terminal;
mod throttle;
mod tls;
mod together;
mod tokens;
mod ui_routes;
mod upstream_shares;
mod upstream_tls;
mod websocket;
