//! Builds a [`Config`] from a document: the settings of the whole process here, and those of sites and routes in `sites`.
//!
//! Called by `config::parse`. A wrong value is reported and replaced by the default, so that one run finds every problem.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::acme::{self, Acme};
use super::document::{Document, Spanned};
use super::exposure;
use super::form::{Key, Text};
use super::keys::{self, limits, log, state, throttle, tls as tls_keys};
use super::listen::{self, Listen};
use super::problem::Position;
use super::sites::{self, Site};
use super::table::Table;
use super::upstreams::UpstreamLimits;
use crate::auth::{HashingSettings, ThrottleSettings};
use crate::body::MinRate;
use crate::log::{Destination, LogFormat};
use crate::{connection, service, tls};

/// The settings of every module, and the sites.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses and threads.
    pub listen: Listen,
    /// The process log and the access log.
    pub log: Log,
    /// The directory for what the proxy creates itself: keys, certificates, secrets.
    pub state_dir: PathBuf,
    /// The positions of the paths of logs and of `state.dir` in the file.
    pub places: Places,
    /// The versions of TLS.
    pub tls: tls::Settings,
    /// The directory of the ticket keys that several instances share; `None` keeps the keys in memory.
    pub ticket_keys: Option<Spanned<PathBuf>>,
    /// The authority for sites with `tls = "acme"`.
    pub acme: Acme,
    /// The limits of a connection.
    pub connection: connection::Settings,
    /// The limits of a request.
    pub service: service::Settings,
    /// The threads that hash passwords.
    pub hashing: HashingSettings,
    /// The limit on wrong passwords.
    pub throttle: ThrottleSettings,
    /// The maximum number of client connections.
    pub connections: usize,
    /// The maximum number of connections of one client network.
    pub connections_per_client: usize,
    /// The maximum number of bytes that unread request bodies of HTTP/2 buffer, all connections together.
    pub h2_memory: usize,
    /// The maximum length of decoded credentials in bytes.
    pub basic_size: usize,
    /// How long transfers may continue after SIGTERM.
    pub drain: Duration,
    /// How long the proxy continues to accept connections after SIGTERM, while it reports that it is not ready.
    pub drain_delay: Duration,
    /// The sites; at least one.
    pub sites: Vec<Site>,
}

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written.
    pub level: tracing::level_filters::LevelFilter,
    /// The format of both logs.
    pub format: LogFormat,
    /// The destination of the process log.
    pub destination: Destination,
    /// The destination of the access log, which has one line for each request; `None` turns it off.
    pub access: Option<Destination>,
}

/// The positions of paths that are checked together with the file system. `None` stands for a path that is not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The position of `log.file`.
    pub log_file: Option<Position>,
    /// The position of `log.access_file`.
    pub access_file: Option<Position>,
    /// The position of `state.dir`.
    pub state_dir: Option<Position>,
    /// The position of `listen.admin`.
    pub admin: Option<Position>,
    /// The position of `listen.behind_proxy`.
    pub behind_proxy: Option<Position>,
}

/// Reads the whole document. The result is `None` if the addresses to listen on are missing, because no config can be built then.
pub(crate) fn config(document: &Document<'_>, base: &Path) -> Option<Config> {
    let root = Table::root(document, keys::KEYS);
    let listen = listen::read(&root);
    let mut places = Places::default();
    for table in root.tables_at(&keys::LISTEN) {
        places.admin = table.place_of(&keys::listen::ADMIN);
        places.behind_proxy = table.place_of(&keys::listen::BEHIND_PROXY);
    }
    let log = log(&root, base, &mut places);
    let state_dir = state_dir(&root, base, &mut places);
    let limits = root.table_or_empty(&keys::LIMITS);
    let upstream = UpstreamLimits {
        connections: limits.value(&limits::UPSTREAM_CONNECTIONS),
        queue: limits.value(&limits::UPSTREAM_QUEUE),
        queue_wait: limits.value(&limits::UPSTREAM_WAIT),
    };
    let connection = connection(&limits);
    let sites = sites::read(&root, upstream, listen.as_ref());
    if let Some(listen) = &listen {
        exposure::check(&root, listen, &sites);
    }
    let config = Config {
        service: service(&limits, listen.as_ref(), connection.min_rate),
        connection,
        hashing: hashing(&limits),
        throttle: throttle(&root),
        connections: limits.value(&limits::CONNECTIONS),
        connections_per_client: limits.value(&limits::CONNECTIONS_PER_CLIENT),
        h2_memory: limits.value(&limits::H2_MEMORY),
        basic_size: limits.value(&limits::BASIC_SIZE),
        drain: limits.value(&limits::DRAIN),
        drain_delay: limits.value(&limits::DRAIN_DELAY),
        ticket_keys: ticket_keys(&root, base),
        tls: tls_settings(&root),
        acme: acme::read(&root, base),
        log,
        state_dir,
        places,
        sites,
        listen: listen?,
    };
    Some(config)
}

fn log(root: &Table<'_>, base: &Path, places: &mut Places) -> Log {
    let table = root.table_or_empty(&keys::LOG);
    let destination = |key: &Key<Text<String>>, place: &mut Option<Position>| {
        let Some(path) = table.get(key) else {
            return Destination::Stdout;
        };
        *place = Some(path.place);
        Destination::File(base.join(path.value))
    };
    let access = destination(&log::ACCESS_FILE, &mut places.access_file);
    Log {
        level: table.value(&log::LEVEL),
        format: table.value(&log::FORMAT),
        destination: destination(&log::FILE, &mut places.log_file),
        access: table.value(&log::ACCESS).then_some(access),
    }
}

fn state_dir(root: &Table<'_>, base: &Path, places: &mut Places) -> PathBuf {
    if let Some(dir) = root.table_or_empty(&keys::STATE).get(&state::DIR) {
        places.state_dir = Some(dir.place);
        return base.join(dir.value);
    }
    // systemd sets the variable to the directory that belongs to the unit (systemd.exec(5), StateDirectory=).
    let dir = std::env::var_os("STATE_DIRECTORY").and_then(listen::first_path);
    dir.unwrap_or_else(|| PathBuf::from("/var/lib/tidegate"))
}

fn tls_settings(root: &Table<'_>) -> tls::Settings {
    tls::Settings {
        min_version: root
            .table_or_empty(&keys::TLS)
            .value(&tls_keys::MIN_VERSION),
    }
}

fn ticket_keys(root: &Table<'_>, base: &Path) -> Option<Spanned<PathBuf>> {
    let dir = root
        .table_or_empty(&keys::TLS)
        .get(&tls_keys::TICKET_KEYS)?;
    Some(dir.map(|dir| base.join(dir)))
}

fn connection(limits: &Table<'_>) -> connection::Settings {
    connection::Settings {
        handshake: limits.value(&limits::HANDSHAKE),
        head: limits.value(&limits::HEAD),
        head_size: limits.value(&limits::HEAD_SIZE),
        idle: limits.value(&limits::IDLE),
        write_idle: limits.value(&limits::WRITE_IDLE),
        min_rate: MinRate {
            rate: limits.value(&limits::MIN_RATE),
            window: MIN_RATE_WINDOW,
        },
        h2_streams: limits.value(&limits::H2_STREAMS),
        h2_resets: limits.value(&limits::H2_RESETS),
        h2_window: limits.value(&limits::H2_WINDOW),
        h2_connection_window: limits.value(&limits::H2_CONNECTION_WINDOW),
    }
}

/// The time over which the rate of a client is averaged.
const MIN_RATE_WINDOW: Duration = Duration::from_secs(60);

fn service(limits: &Table<'_>, listen: Option<&Listen>, min_rate: MinRate) -> service::Settings {
    service::Settings {
        head_fields: limits.value(&limits::HEAD_FIELDS),
        target_size: limits.value(&limits::TARGET_SIZE),
        body_idle: limits.value(&limits::BODY_IDLE),
        min_rate,
        trusted_proxies: listen
            .map(|listen| listen.trusted_proxies.clone())
            .unwrap_or_default(),
    }
}

fn hashing(limits: &Table<'_>) -> HashingSettings {
    HashingSettings {
        threads: limits
            .get(&limits::HASH_THREADS)
            .map_or_else(listen::available_cores, |threads| threads.value),
        queue: limits.value(&limits::HASH_QUEUE),
        wait: limits.value(&limits::HASH_WAIT),
    }
}

fn throttle(root: &Table<'_>) -> ThrottleSettings {
    let table = root.table_or_empty(&keys::THROTTLE);
    ThrottleSettings {
        guesses: table.value(&throttle::GUESSES),
        window: table.value(&throttle::WINDOW),
    }
}
