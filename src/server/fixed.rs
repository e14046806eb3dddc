//! Settings that only a start can change, remembered so that a reload can say so.
//!
//! Called by `server`.

use crate::config::{Config, Log};

/// Settings that only a start can change.
#[derive(Debug)]
pub(super) struct StartupSettings {
    workers: usize,
    connections: usize,
    connections_per_client: usize,
    log: Log,
}

impl StartupSettings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            workers: config.listen.workers,
            connections: config.connections,
            connections_per_client: config.connections_per_client,
            log: config.log.clone(),
        }
    }

    /// The keys whose new value a reload does not obey.
    pub(super) fn diff(&self, config: &Config) -> Vec<&'static str> {
        let log = &config.log;
        let keys = [
            ("listen.workers", self.workers != config.listen.workers),
            ("limits.connections", self.connections != config.connections),
            (
                "limits.connections_per_client",
                self.connections_per_client != config.connections_per_client,
            ),
            ("log.level", self.log.level != log.level),
            ("log.file", self.log.destination != log.destination),
            ("log.format", self.log.json != log.json),
        ];
        keys.into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| key)
            .collect()
    }
}
