//! From a document to a [`Config`]: the keys of the whole process. The sites are read in `sites`.
//!
//! Called by `config` alone. A wrong value is reported and its default taken, so that one run finds
//! every problem.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::document::Document;
use super::listen::{Listen, listen};
use super::problem::{Position, Problem};
use super::table::Table;
use super::{Config, Log, Places, acme, exposure, sites, units};
use crate::auth::{HashingSettings, ThrottleSettings};
use crate::body::MinRate;
use crate::log::Destination;
use crate::net::listener::ListenAddr;
use crate::{connection, service, tls};

/// What an upstream gets from the limits.
#[derive(Clone, Copy)]
pub(super) struct UpstreamLimits {
    pub(super) connections: usize,
    pub(super) queue: usize,
    pub(super) wait: Duration,
}

/// Reads everything; `None` when what is there makes no config at all.
pub(super) fn config(document: &Document, base: &Path) -> Option<Config> {
    let root = document.root();
    let listen = listen(&root);
    let mut places = Places::default();
    let log = log(&root, base, &mut places);
    let state_dir = state_dir(&root, base, &mut places);
    let tls = tls_settings(&root);
    let limits = root.table("limits");
    let limits = limits.as_ref();
    let upstream = UpstreamLimits {
        connections: count(limits, "upstream_connections", 256),
        queue: count(limits, "upstream_queue", 10_000),
        wait: wait(limits, "upstream_wait", 5),
    };
    let connection = connection(limits);
    let sites = sites::read(&root, base, upstream);
    if let Some(listen) = &listen {
        exposure::check(&root, listen, &sites);
    }
    let config = Config {
        service: service(limits, listen.as_ref(), connection.min_rate),
        connection,
        hashing: hashing(limits),
        throttle: throttle(&root),
        connections: count(limits, "connections", 10_000),
        connections_per_client: count(limits, "connections_per_client", 1024),
        h2_memory: bytes(limits, "h2_memory", MIB..=MIB * MIB, 256 * 1024 * 1024),
        basic_size: bytes(limits, "basic_size", 16..=64 * KIB, 1024),
        drain: wait(limits, "drain", 30),
        sites,
        listen: listen?,
        log,
        state_dir,
        places,
        tls,
        acme: acme::read(&root, base),
    };
    Some(config)
}

fn log(root: &Table<'_>, base: &Path, places: &mut Places) -> Log {
    let mut log = Log {
        level: LevelFilter::INFO,
        json: false,
        destination: Destination::Stdout,
        access: Some(Destination::Stdout),
    };
    let Some(table) = root.table("log") else {
        return log;
    };
    let levels = [
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    if let Some(level) = table.parse("level", |text| units::word(text, &levels)) {
        log.level = level.value;
    }
    if let Some(json) = table.parse("format", |text| {
        units::word(text, &[("text", false), ("json", true)])
    }) {
        log.json = json.value;
    }
    let file = |key, place: &mut Option<Position>| {
        let path = table.parse(key, units::text)?;
        *place = Some(path.place);
        Some(Destination::File(base.join(path.value)))
    };
    log.destination = file("file", &mut places.log_file).unwrap_or(Destination::Stdout);
    let access = file("access_file", &mut places.access_file).unwrap_or(Destination::Stdout);
    log.access = table.boolean_or("access", true).then_some(access);
    log
}

/// systemd names the directory that belongs to the unit.
fn state_dir(root: &Table<'_>, base: &Path, places: &mut Places) -> PathBuf {
    let written = root
        .table("state")
        .and_then(|state| state.parse("dir", units::text));
    places.state_dir = written.as_ref().map(|dir| dir.place);
    match (written, std::env::var_os("STATE_DIRECTORY")) {
        (Some(dir), _) => base.join(dir.value),
        (None, Some(dir)) => PathBuf::from(dir),
        (None, None) => PathBuf::from("/var/lib/tidegate"),
    }
}

fn tls_settings(root: &Table<'_>) -> tls::Settings {
    let versions = [
        ("1.2", tls::MinVersion::V1_2),
        ("1.3", tls::MinVersion::V1_3),
    ];
    let table = root.table("tls");
    let written = table
        .as_ref()
        .and_then(|tls| tls.parse("min_version", |text| units::word(text, &versions)));
    tls::Settings {
        min_version: written.map_or_else(tls::MinVersion::default, |version| version.value),
    }
}

fn connection(limits: Option<&Table<'_>>) -> connection::Settings {
    connection::Settings {
        handshake: wait(limits, "handshake", 10),
        head: wait(limits, "head", 15),
        head_size: bytes(limits, "head_size", 4 * KIB..=MIB, 32 * 1024),
        idle: wait(limits, "idle", 75),
        write_idle: wait(limits, "write_idle", 60),
        min_rate: MinRate {
            rate: bytes(limits, "min_rate", 1..=MIB, KIB),
            window: Duration::from_secs(60),
        },
        h2_streams: limits.map_or(100, |limits| {
            limits.integer_or("h2_streams", 1..=10_000, 100)
        }),
        h2_resets: count(limits, "h2_resets", 200),
        h2_window: bytes(limits, "h2_window", WINDOW, 4 * 1024 * 1024),
        h2_connection_window: bytes(limits, "h2_connection_window", WINDOW, 8 * 1024 * 1024),
    }
}

fn service(
    limits: Option<&Table<'_>>,
    listen: Option<&Listen>,
    min_rate: MinRate,
) -> service::Settings {
    service::Settings {
        head_fields: limits.map_or(100, |limits| {
            limits.integer_or("head_fields", 10..=100, 100)
        }),
        target_size: bytes(limits, "target_size", 256..=60 * KIB, 16 * 1024),
        body_idle: wait(limits, "body_idle", 60),
        min_rate,
        https_port: listen
            .and_then(|listen| listen.https.first())
            .and_then(ListenAddr::port)
            .unwrap_or(443),
        trusted_proxies: listen
            .map(|listen| listen.trusted_proxies.clone())
            .unwrap_or_default(),
    }
}

fn hashing(limits: Option<&Table<'_>>) -> HashingSettings {
    HashingSettings {
        threads: limits.map_or_else(cores, |limits| {
            limits.integer_or("hash_threads", 1..=256, cores())
        }),
        queue: count(limits, "hash_queue", 256),
        wait: wait(limits, "hash_wait", 60),
    }
}

fn throttle(root: &Table<'_>) -> ThrottleSettings {
    let table = root.table("throttle");
    ThrottleSettings {
        guesses: table
            .as_ref()
            .map_or(10, |table| table.integer_or("guesses", 0..=1000, 10)),
        window: wait(table.as_ref(), "window", 300),
    }
}

fn count(limits: Option<&Table<'_>>, key: &'static str, default: usize) -> usize {
    limits.map_or(default, |limits| {
        limits.integer_or(key, 1..=10_000_000, default)
    })
}

/// A duration that is not nothing: a limit of `0s` would end everything at once.
fn wait(limits: Option<&Table<'_>>, key: &'static str, default: u64) -> Duration {
    let default = Duration::from_secs(default);
    let Some(written) = limits.and_then(|limits| limits.duration(key)) else {
        return default;
    };
    if written.is_zero() {
        if let Some(limits) = limits {
            let what = format!("{} is zero", limits.dotted(key));
            limits.report(
                Problem::error(written.place, what)
                    .because("every wait would end at once")
                    .fix("write how long to wait, as in \"10s\""),
            );
        }
        return default;
    }
    written.value
}

fn bytes<T: TryFrom<u64>>(
    limits: Option<&Table<'_>>,
    key: &'static str,
    range: std::ops::RangeInclusive<u64>,
    default: T,
) -> T {
    let Some(written) = limits.and_then(|limits| limits.size(key)) else {
        return default;
    };
    match T::try_from(written.value) {
        Ok(size) if range.contains(&written.value) => size,
        _ => {
            if let Some(limits) = limits {
                let what = format!("{} is out of range", limits.dotted(key));
                let remedy = format!(
                    "write a size from {} to {} bytes",
                    range.start(),
                    range.end()
                );
                limits.report(Problem::error(written.place, what).fix(remedy));
            }
            default
        }
    }
}

/// As many as the process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// HTTP/2's default, and its largest window (RFC 9113 section 6.9).
const WINDOW: std::ops::RangeInclusive<u64> = 65_535..=0x7fff_ffff;
