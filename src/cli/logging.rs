//! The process's own log: one subscriber, writing through a queue.
//!
//! Called by `serve` once, before anything can be said. The form of a line is that of the access log, see
//! [`LogLine`]: there are no colours, and control characters are escaped, since escape codes in a log are how a client
//! would forge what an operator sees.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::prelude::*;

use crate::config::Log;
use crate::log::{LogLine, LogWriter, lost_lines, with_line_buffer};

/// Starts the log of the process. Of the libraries only warnings are written: at finer levels they show header values.
pub(super) fn start(log: &Log) -> std::io::Result<LogWriter> {
    let lost = match log.json {
        true => |lost| lost_lines(true, lost),
        false => |lost| lost_lines(false, lost),
    };
    let sink = LogWriter::open(log.destination.clone(), lost)?;
    let libraries = log.level.min(LevelFilter::WARN);
    let targets = Targets::new()
        .with_default(libraries)
        .with_target("tidegate", log.level);
    let lines = Lines {
        sink: sink.clone(),
        is_json: log.json,
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(targets));
    tracing::subscriber::set_global_default(registry).map_err(std::io::Error::other)?;
    // In the log, as everything else is: a write to standard error could stall the thread. Without the message, which
    // may hold what a client sent.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        tracing::error!(place, "a request or a task panicked; the others go on");
    }));
    Ok(sink)
}

/// Writes every event as one line.
struct Lines {
    sink: LogWriter,
    is_json: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        with_line_buffer(|buffer| {
            write_event(event, buffer, self.is_json);
            self.sink.write(buffer.as_bytes());
        });
    }
}

/// The message comes first, wherever the event has it.
fn write_event(event: &Event<'_>, buffer: &mut String, is_json: bool) {
    let mut message = Message::default();
    event.record(&mut message);
    let level = event.metadata().level().as_str();
    let mut line = LogLine::begin(buffer, is_json, level, &message.0);
    event.record(&mut Fields(&mut line));
    line.end();
}

/// Reads the message of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
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

/// Writes every field but the message.
struct Fields<'a, 'b>(&'a mut LogLine<'b>);

impl Visit for Fields<'_, '_> {
    /// What `%value` displays comes here as well.
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

    /// With three decimals. JSON has neither infinity nor NaN.
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

/// tracing's name for the message.
const MESSAGE: &str = "message";

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps the lines in memory.
    struct Kept(Arc<Mutex<String>>, bool);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            write_event(event, &mut self.0.lock().unwrap(), self.1);
        }
    }

    fn written(is_json: bool, log: impl FnOnce()) -> String {
        let lines = Arc::<Mutex<String>>::default();
        let registry = tracing_subscriber::registry().with(Kept(Arc::clone(&lines), is_json));
        tracing::subscriber::with_default(registry, log);
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    fn speak() {
        let host = "a.example\n2026 INFO access \u{1b}[2J";
        tracing::warn!(%host, count = 3, left = -1, is_up = true, "{} went wrong\nbadly", "it");
    }

    #[test]
    fn text_lines_have_the_level_the_message_and_quoted_fields() {
        let text = written(false, speak);
        let (_time, rest) = text.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "WARN it went wrong\\nbadly host=\"a.example\\n2026 INFO access \\u001b[2J\" count=3 left=-1 is_up=true\n"
        );
    }

    #[test]
    fn json_lines_begin_with_the_keys_of_the_access_log() {
        let json = written(true, speak);
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
