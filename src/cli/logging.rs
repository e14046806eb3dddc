//! The log of the process: a `tracing` subscriber that writes each event as one line through a queue.
//!
//! `cli::serve` starts it before anything is logged. A line has the format of the access log, see [`LogLine`]: it has no colours,
//! and control characters are escaped, because a client could forge what an operator sees by sending escape sequences.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::prelude::*;

use crate::config::Log;
use crate::log::{LogFormat, LogLine, LogWriter, with_line_buffer};

/// Starts the log of the process, and logs panics. Libraries are logged at level WARN at most, because their finer levels contain
/// the values of header fields.
pub(crate) fn start(log: &Log) -> std::io::Result<LogWriter> {
    let writer = LogWriter::open(log.destination.clone(), log.format)?;
    let libraries = log.level.min(LevelFilter::WARN);
    let targets = Targets::new()
        .with_default(libraries)
        .with_target("tidegate", log.level);
    let layer = LineLayer(writer.clone());
    let registry = tracing_subscriber::registry().with(layer.with_filter(targets));
    tracing::subscriber::set_global_default(registry).map_err(std::io::Error::other)?;
    // The default hook writes to standard error, which could block the thread. The message of the panic is not logged, because
    // it may contain data that a client sent.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        tracing::error!(place, "a request or a task panicked; all others continue");
    }));
    Ok(writer)
}

/// Writes every event as one line.
struct LineLayer(LogWriter);

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        with_line_buffer(|buffer| {
            write_event(event, buffer, self.0.format());
            self.0.write(buffer.as_bytes());
        });
    }
}

/// Writes the message first, whatever its position among the fields of the event.
fn write_event(event: &Event<'_>, buffer: &mut String, format: LogFormat) {
    let mut message = MessageVisitor::default();
    event.record(&mut message);
    let level = event.metadata().level().as_str();
    let mut line = LogLine::begin(buffer, format, level, &message.0);
    event.record(&mut FieldVisitor(&mut line));
    line.end();
}

/// Extracts the message of an event.
#[derive(Default)]
struct MessageVisitor(String);

impl Visit for MessageVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == MESSAGE {
            self.0 = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            value.clone_into(&mut self.0);
        }
    }
}

/// Writes every field except the message.
struct FieldVisitor<'a, 'b>(&'a mut LogLine<'b>);

impl Visit for FieldVisitor<'_, '_> {
    /// tracing calls this for `?value` and for `%value`.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != MESSAGE {
            self.0.text(field.name(), &format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE {
            self.0.text(field.name(), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.literal(field.name(), value);
    }

    /// Writes three decimals. Infinity and NaN become text, because JSON has no numbers for them.
    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.0.literal(field.name(), format_args!("{value:.3}")),
            false => self.0.text(field.name(), &value.to_string()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.literal(field.name(), value);
    }
}

/// The name under which tracing passes the message of an event.
const MESSAGE: &str = "message";

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Collects the lines in memory.
    struct MemoryLayer(Arc<Mutex<String>>, LogFormat);

    impl<S: Subscriber> Layer<S> for MemoryLayer {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            write_event(event, &mut self.0.lock().unwrap(), self.1);
        }
    }

    fn lines_of(format: LogFormat, log: impl FnOnce()) -> String {
        let lines = Arc::<Mutex<String>>::default();
        let registry = tracing_subscriber::registry().with(MemoryLayer(Arc::clone(&lines), format));
        tracing::subscriber::with_default(registry, log);
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    fn log_event() {
        let host = "a.example\n2026 INFO access \u{1b}[2J";
        tracing::warn!(%host, count = 3, left = -1, is_up = true, "{} went wrong\nbadly", "it");
    }

    #[test]
    fn text_lines_have_the_level_the_message_and_quoted_fields() {
        let text = lines_of(LogFormat::Text, log_event);
        let (_time, rest) = text.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "WARN it went wrong\\nbadly host=\"a.example\\n2026 INFO access \\u001b[2J\" count=3 left=-1 is_up=true\n"
        );
    }

    #[test]
    fn json_lines_begin_with_the_keys_of_the_access_log() {
        let json = lines_of(LogFormat::Json, log_event);
        assert!(json.starts_with("{\"time\":\""), "{json}");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "it went wrong\nbadly");
        assert_eq!(value["host"], "a.example\n2026 INFO access \u{1b}[2J");
        assert_eq!(
            (&value["count"], &value["left"], &value["is_up"]),
            (&3.into(), &(-1).into(), &true.into())
        );
        assert_eq!(json.lines().count(), 1);
    }
}
