//! The process's own log: one subscriber, writing through a queue.
//!
//! Called by `serve` once, before anything can be said.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;

use crate::config::Log;
use crate::log::Sink;

/// One subscriber for the process, writing through a queue. Without colours: escape codes in a log
/// are how a client would forge what an operator sees. Of the libraries only warnings are written:
/// at finer levels they show header values.
pub(super) fn start(log: &Log) -> std::io::Result<Sink> {
    let sink = Sink::open(
        log.destination.clone(),
        if log.json { lost_json } else { lost_text },
    )?;
    let libraries = log.level.min(LevelFilter::WARN);
    let targets = Targets::new()
        .with_default(libraries)
        .with_target("tidegate", log.level);
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(ToSink(sink.clone()));
    let registry = tracing_subscriber::registry();
    let set = if log.json {
        tracing::subscriber::set_global_default(
            registry.with(layer.json().flatten_event(true).with_filter(targets)),
        )
    } else {
        tracing::subscriber::set_global_default(registry.with(layer.with_filter(targets)))
    };
    set.map_err(std::io::Error::other)?;
    // In the log, as everything else is: a write to standard error could stall the thread. Without the message, which
    // may hold what a client sent.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        tracing::error!(place, "a request or a task panicked; the others go on");
    }));
    Ok(sink)
}

/// As the subscriber writes it; only the time stamp is shorter.
fn lost_text(lost: u64) -> String {
    format!("{}  WARN log lines were lost lost={lost}\n", now())
}

fn lost_json(lost: u64) -> String {
    let time = now();
    format!(
        "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"log lines were lost\",\"lost\":{lost}}}\n"
    )
}

fn now() -> String {
    OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .unwrap_or_default()
}

struct ToSink(Sink);

impl<'a> MakeWriter<'a> for ToSink {
    type Writer = Sink;

    fn make_writer(&'a self) -> Sink {
        self.0.clone()
    }
}
