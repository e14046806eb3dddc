//! The configuration: one TOML file, read once, with every problem of it in one report.
//!
//! `check`, start and reload all call [`load`]. What a key means is known in `build`, `listen`, `sites`, `routes`, `upstreams`,
//! `grants` and `auth`; `exposure` warns of what is open to every client or cannot work;
//! the rest knows nothing of tidegate's keys: [`document`] reads the text, [`table`] hands out values
//! with their places, [`units`] reads what stands in a string, and [`problem`] is what a person sees.
//! [`nginx`] makes such a file out of nginx's; nothing else here knows of it.
//! Of the files that a config names, none is opened here: that is `snapshot`'s part.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::access::{Grants, Subjects};
use crate::auth::{HashingSettings, ThrottleSettings};
use crate::forward::{HeaderEdits, Origin};
use crate::log::Destination;
use crate::net::network_policy::NetworkPolicy;
use crate::site::{Cors, StaticResponse};
use crate::tls::ClientAuthMode;
use crate::{bounded_file, connection, service, tls, upstream};

use document::Document;
use problem::{Position, Problem, Problems};
use table::Spanned;

mod acme;
mod auth;
mod build;
pub mod document;
mod exposure;
mod grants;
mod keys;
mod lines;
mod listen;
pub(crate) mod nearest;
mod networks;
pub mod problem;
mod routes;
mod sites;
mod syntax;
pub mod table;
pub mod units;
mod upstreams;

pub use keys::KEYS;
pub use listen::{Admin, AdminSocket, Listen};

/// Every module's settings, and the sites.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses and threads.
    pub listen: Listen,
    /// The process's own log and the access log.
    pub log: Log,
    /// Where the gate keeps what it makes itself.
    pub state_dir: PathBuf,
    /// Where the paths of logs and of `state.dir` are written.
    pub places: Places,
    /// Versions of TLS.
    pub tls: tls::Settings,
    /// Where the certificates of sites with `tls = "acme"` come from.
    pub acme: Acme,
    /// Bounds of a connection.
    pub connection: connection::Settings,
    /// Bounds of a request.
    pub service: service::Settings,
    /// The hash threads.
    pub hashing: HashingSettings,
    /// How much guessing is too much.
    pub throttle: ThrottleSettings,
    /// Connections at once, in all.
    pub connections: usize,
    /// Connections at once, of one client.
    pub connections_per_client: usize,
    /// Bytes that unread request bodies of HTTP/2 may hold, all connections together.
    pub h2_memory: usize,
    /// Longest decoded credentials in bytes.
    pub basic_size: usize,
    /// How long transfers may go on after TERM.
    pub drain: Duration,
    /// At least one.
    pub sites: Vec<Site>,
}

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written.
    pub level: tracing::level_filters::LevelFilter,
    /// JSON objects instead of words.
    pub json: bool,
    /// The process's own log.
    pub destination: Destination,
    /// One line a request; `None` is off.
    pub access: Option<Destination>,
}

/// The places of paths that are judged together with the file system. `None` for a path that is not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// `log.file`
    pub log_file: Option<Position>,
    /// `log.access_file`
    pub access_file: Option<Position>,
    /// `state.dir`
    pub state_dir: Option<Position>,
}

/// A certificate authority that speaks ACME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The URL of its directory, https.
    pub directory: String,
    /// Where it may write to.
    pub email: Option<String>,
    /// The file of the CAs that the directory's own certificate is checked by, in place of the system's.
    pub directory_ca: Option<Spanned<PathBuf>>,
}

/// One `[[site]]`.
#[derive(Clone, Debug)]
pub struct Site {
    /// As [`crate::site::Site::hosts`]; at least one.
    pub hosts: Vec<String>,
    /// Where its certificate comes from.
    pub certificate: Certificate,
    /// What its clients must show.
    pub clients: Option<ClientAuth>,
    /// What clients are told instead of what they addressed.
    pub external: Option<Origin>,
    /// Those that lead to an upstream.
    pub routes: Vec<Route>,
    /// Those that the gate answers itself.
    pub responses: Vec<StaticResponse>,
}

/// The client certificates that a site takes.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// A PEM file of those who issue them.
    pub ca: Spanned<PathBuf>,
    /// Whether one must come.
    pub demand: ClientAuthMode,
}

/// Where a certificate comes from.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// Two PEM files.
    Files {
        /// The chain, the site's own certificate first.
        cert: Spanned<PathBuf>,
        /// Its key.
        key: PathBuf,
    },
    /// Issued by a CA of the gate's own.
    SelfSigned(Position),
    /// Issued by an authority that is asked while the gate serves, one for each host.
    Acme(Position),
}

/// One `[[site.route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where its `auth`, or that of its site, is written.
    pub auth_place: Position,
    /// The prefix.
    pub path: String,
    /// Whether `/v2/` below it is a registry's.
    pub registry: bool,
    /// Who may come in.
    pub auth: Auth,
    /// Where it leads.
    pub upstream: Upstream,
    /// Largest request body in bytes.
    pub max_body: Option<u64>,
    /// Further origins by which the upstream calls itself.
    pub internal: Vec<Origin>,
    /// Fields set and removed.
    pub edits: HeaderEdits,
    /// Client networks.
    pub admission: NetworkPolicy,
    /// Origins whose pages may use it.
    pub cors: Cors,
    /// Who may do what; `None` is every verified user, everything.
    pub granted: Option<RouteGrants>,
}

/// A route's `upstream`.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Nobody is trusted yet.
    pub settings: upstream::Settings,
    /// Where its addresses are written.
    pub place: Position,
    /// The file of the CAs to be trusted in place of the system's.
    pub ca: Option<Spanned<PathBuf>>,
}

/// The `[[site.route.grant]]` tables of a route.
#[derive(Clone, Debug)]
pub struct RouteGrants {
    /// With their groups resolved.
    pub grants: Arc<Grants>,
    /// Every user who is named, himself or in a group.
    pub named: Vec<Spanned<String>>,
    /// Every pattern with `{user}` in it, and whom it is for.
    pub homes: Vec<(Spanned<String>, Subjects)>,
}

/// How a route learns who is asking.
#[derive(Clone, Debug)]
pub enum Auth {
    /// HTTP Basic.
    Basic {
        /// The password file.
        htpasswd: Spanned<PathBuf>,
        /// The `WWW-Authenticate` value.
        challenge: HeaderValue,
    },
    /// Tokens of the gate's own, for HTTP Basic.
    Token {
        /// The password file.
        htpasswd: Spanned<PathBuf>,
        /// The `WWW-Authenticate` value of the token endpoint.
        challenge: HeaderValue,
        /// Where the secret is; in [`Config::state_dir`] when none is named.
        secret: Option<Spanned<units::Secret>>,
        /// How long a token is good for.
        lifetime: Duration,
    },
    /// The upstream asks.
    LeftToUpstream,
    /// Nobody is asked.
    Open,
}

/// Reads a file. With errors among the problems there may still be a config: so that the files it names
/// can be looked at in the same run, not so that it is used.
pub fn load(file: &Path) -> (Option<Config>, Problems) {
    match bounded_file::read(file, MAX_FILE) {
        Ok(bytes) => parse(file, &bytes),
        Err(error) => {
            let mut problems = Problems::new(file);
            problems.push(
                Problem::error(None, format!("cannot read the configuration: {error}"))
                    .fix("name another file with -c FILE, or let the gate's user read this one"),
            );
            (None, problems)
        }
    }
}

/// The largest accepted configuration in bytes, enough for thousands of sites.
const MAX_FILE: u64 = 4 << 20;

/// Reads a file's bytes; paths in it are relative to the folder of `file`.
pub fn parse(file: &Path, bytes: &[u8]) -> (Option<Config>, Problems) {
    let text = match document::decode(bytes) {
        Ok(text) => text,
        Err(problem) => {
            let mut problems = Problems::new(file);
            problems.push(problem);
            return (None, problems);
        }
    };
    let document = Document::parse(file, text, KEYS);
    let base = file.parent().unwrap_or_else(|| Path::new(""));
    let is_whole = document.is_whole();
    let config = build::config(&document, base).filter(|_| is_whole);
    (config, document.into_problems())
}
