//! The gate as a whole: its state, connections, logins, reloads and logs.

use std::time::{SystemTime, UNIX_EPOCH};

use super::super::ready::Readiness;
use super::{Sample, family, single, whole};
use crate::metrics::{AlertSender, Connections, Counter, Family, Kind, TlsAlert, Value};
use crate::snapshot::Snapshot;
use crate::state::ServerState;

pub(super) fn families(gate: &ServerState, snapshot: &Snapshot) -> Vec<Family> {
    let mut families = vec![
        family(
            Kind::Gauge,
            "tidegate_build_info",
            "Always 1; the label says which version runs.",
            vec![(
                vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
                Value::Whole(1),
            )],
        ),
        single(
            Kind::Gauge,
            "tidegate_ready",
            "Whether /readyz says 200.",
            whole(usize::from(Readiness::of(gate).is_ready())),
        ),
        single(
            Kind::Gauge,
            "tidegate_transfers",
            "Pushes and pulls that are under way.",
            whole(snapshot.service.board.count()),
        ),
        single(
            Kind::Gauge,
            "tidegate_http2_upload_memory_bytes",
            "What unread HTTP/2 uploads hold; limits.h2_memory bounds it.",
            whole(gate.budget().held()),
        ),
    ];
    families.extend(connections(gate));
    families.extend(logins(snapshot));
    families.extend(reloads(gate));
    families.push(family(
        Kind::Counter,
        "tidegate_log_lines_dropped",
        "Log lines that were lost, since nobody took them or the disk did not.",
        dropped(gate, snapshot),
    ));
    families
}

fn connections(gate: &ServerState) -> [Family; 7] {
    let (counts, slots) = (gate.connections(), gate.slots());
    let open = counts.opened().into_iter();
    let open = open.map(|(word, count)| (vec![("protocol", word.to_owned())], whole(count)));
    [
        family(
            Kind::Gauge,
            "tidegate_connections",
            "Connections of clients that are open, by what is spoken.",
            open.collect(),
        ),
        single(
            Kind::Gauge,
            "tidegate_connections_limit",
            "As many connections may be open at once.",
            whole(slots.max()),
        ),
        single(
            Kind::Counter,
            "tidegate_connections_accepted",
            "Connections of clients that were taken.",
            Value::Whole(slots.accepted()),
        ),
        single(
            Kind::Counter,
            "tidegate_connections_refused",
            "Connections that were closed at once, since their client had too many.",
            Value::Whole(slots.rejected()),
        ),
        family(
            Kind::Counter,
            "tidegate_handshake_failures",
            "TLS handshakes that came to nothing, by reason; closed is a client that left, as health checks of balancers do.",
            by(
                "reason",
                [
                    ("failed", &counts.handshake_failed),
                    ("closed", &counts.handshake_closed),
                    ("late", &counts.handshake_late),
                    ("plain_http", &counts.handshake_plain),
                ],
            ),
        ),
        family(
            Kind::Counter,
            "tidegate_tls_handshake_alerts",
            "TLS handshakes that ended with an alert, by alert and by the side that sent it; unknown_ca and bad_certificate of a client say that it does not trust the certificate.",
            alerts(counts),
        ),
        family(
            Kind::Counter,
            "tidegate_connections_closed",
            "Connections that have ended after their handshake, by reason; http2_abuse is a client cut for resets or idle frames.",
            by(
                "reason",
                [
                    ("done", &counts.done),
                    ("broken", &counts.broken),
                    ("head_timeout", &counts.late_head),
                    ("idle", &counts.idle),
                    ("write_timeout", &counts.late_write),
                    ("http2_abuse", &counts.abused),
                ],
            ),
        ),
    ]
}

fn alerts(counts: &Connections) -> Vec<Sample> {
    let row = |(sender, alert, count): (AlertSender, TlsAlert, u64)| {
        let labels = [("alert", alert.as_str()), ("sent_by", sender.as_str())];
        let labels = labels.map(|(name, value)| (name, value.to_owned()));
        (labels.to_vec(), Value::Whole(count))
    };
    counts.alerts.counts().map(row).collect()
}

fn logins(snapshot: &Snapshot) -> [Family; 3] {
    let logins = snapshot.logins();
    let counts = logins.counts();
    [
        family(
            Kind::Counter,
            "tidegate_logins",
            "Passwords that came with requests, by what came of them; remembered is a right one that cost no hash.",
            by(
                "outcome",
                [
                    ("remembered", &counts.remembered),
                    ("right", &counts.right),
                    ("wrong", &counts.wrong),
                    ("throttled", &counts.throttled),
                    ("busy", &counts.busy),
                ],
            ),
        ),
        single(
            Kind::Counter,
            "tidegate_password_hashes",
            "Password hashes that were computed.",
            Value::Whole(counts.hashes.get()),
        ),
        single(
            Kind::Gauge,
            "tidegate_password_hashes_waiting",
            "Passwords that wait for a hash thread.",
            whole(logins.waiting()),
        ),
    ]
}

fn reloads(gate: &ServerState) -> [Family; 3] {
    let reloads = gate.reloads();
    let (succeeded, failed) = reloads.counts();
    let last = reloads.last();
    let row = |outcome: &str, count| (vec![("outcome", outcome.to_owned())], Value::Whole(count));
    [
        family(
            Kind::Counter,
            "tidegate_config_reloads",
            "Reloads by outcome; after one that failed the configuration before it stays in use.",
            vec![row("succeeded", succeeded), row("failed", failed)],
        ),
        single(
            Kind::Gauge,
            "tidegate_config_last_reload_successful",
            "Whether the last reload succeeded; 1 before the first.",
            whole(usize::from(last.failed.is_none())),
        ),
        single(
            Kind::Gauge,
            "tidegate_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was taken.",
            Value::Real(unix_seconds(last.taken)),
        ),
    ]
}

fn dropped(gate: &ServerState, snapshot: &Snapshot) -> Vec<Sample> {
    let logs = [("access", snapshot.access_log()), ("process", gate.log())];
    let all = logs.into_iter().map(|(name, sink)| {
        let lost = sink.map_or(0, crate::log::LogWriter::dropped);
        (vec![("log", name.to_owned())], Value::Whole(lost))
    });
    all.collect()
}

fn by<const N: usize>(label: &'static str, counters: [(&str, &Counter); N]) -> Vec<Sample> {
    let row = |(word, counter): (&str, &Counter)| {
        (vec![(label, word.to_owned())], Value::Whole(counter.get()))
    };
    counters.into_iter().map(row).collect()
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
