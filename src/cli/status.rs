//! `tidegate status`: what the running proxy does, for a terminal of 80 columns or more.
//!
//! The data is `/status.json` of the admin listener; this module has the arguments and the layout. Names that a client chose are
//! escaped, so that they cannot send control sequences to the terminal.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::admin_client::{AdminClient, AdminError};
use super::args::ConfigArgs;
use super::output::{escape_lines, fail, print};
use super::table::{Column, Table, wrap};
use crate::admin::status_page::format;
use crate::config::problem::escape;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print /status.json of the admin listener as it is, in one line
    #[arg(long)]
    json: bool,
    /// Print it again every two seconds, until the command is interrupted
    #[arg(long)]
    watch: bool,
}

pub(crate) fn run(args: &StatusArgs) -> ExitCode {
    let is_screen = args.watch && !args.json && std::io::stdout().is_terminal();
    let mut is_first = true;
    loop {
        // The process is searched for each time, because a restart or an upgrade replaces it.
        let fetched = AdminClient::find(&args.config.file)
            .and_then(|client| fetch(&client, args.json).map_err(AdminError::failed));
        let text = match fetched {
            Ok(text) => text,
            // A proxy that restarts responds again soon.
            Err(error) if is_screen && !is_first => format!("{error}\n"),
            Err(error) => return error.report(),
        };
        let shown = match is_screen {
            true => format!("{CLEAR_SCREEN}{}", clip(&text, terminal_size().1)),
            false if is_first || args.json => text,
            false => format!("\n{text}"),
        };
        // The reader has closed the pipe, or the disk is full.
        if let Err(error) = print(&shown) {
            return fail(&format!("cannot write to standard output: {error}"));
        }
        if !args.watch {
            return ExitCode::SUCCESS;
        }
        is_first = false;
        std::thread::park_timeout(WATCH_INTERVAL);
    }
}

fn fetch(client: &AdminClient, is_json: bool) -> Result<String, String> {
    let response = client.send(&Method::GET, "/status.json")?;
    if !response.is_success() {
        return Err(format!(
            "{}: {}",
            client.address(),
            escape_lines(&response.text())
        ));
    }
    if is_json {
        return Ok(response.text());
    }
    let status = serde_json::from_slice(response.body()).map_err(|error| {
        format!(
            "{}: the response is no JSON: {error}; does tidegate listen there?",
            client.address()
        )
    })?;
    Ok(render(&status, terminal_size().0))
}

/// The columns and rows of the terminal; 80 columns if standard output is no terminal.
fn terminal_size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    let (columns, rows) = size.filter(|(columns, _)| *columns > 0).unwrap_or((80, 24));
    (columns.clamp(40, 200), rows.max(5))
}

/// The first lines of a text, so that the top of the screen does not scroll away.
fn clip(text: &str, rows: usize) -> String {
    let count = text.lines().count();
    if count < rows {
        return text.to_owned();
    }
    let kept = rows.saturating_sub(2);
    let mut clipped: String = text
        .lines()
        .take(kept)
        .flat_map(|line| [line, "\n"])
        .collect();
    clipped.push_str(&format!(
        "… {} more lines; enlarge the terminal\n",
        count - kept
    ));
    clipped
}

/// The status as lines of at most `width` characters.
fn render(status: &Value, width: usize) -> String {
    let mut lines = summary(status, width);
    let count = |key: &str| number(status, key).unwrap_or_default();
    let sections = [
        (
            "transfers",
            count("transfer_count"),
            transfers(status),
            "no transfers",
        ),
        (
            "endpoints",
            count("endpoint_count"),
            endpoints(status),
            "no endpoints",
        ),
        ("sites", count("site_count"), sites(status), "no sites"),
        (
            "recent rejections",
            rows(status, "rejections").count() as u64,
            rejections(status),
            "no rejections since the start",
        ),
    ];
    for (title, count, table, none) in sections {
        lines.push(String::new());
        if count == 0 {
            lines.push(none.to_owned());
            continue;
        }
        lines.push(format!("{title} ({count})"));
        let table = table.lines(width);
        let shown = table.len().saturating_sub(1) as u64;
        lines.extend(table);
        if shown < count {
            lines.push(format!(
                "  … {} more in --json or on the status page",
                count - shown
            ));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The state of the process, and what needs attention.
fn summary(status: &Value, width: usize) -> Vec<String> {
    let ready = match status.get("ready").and_then(Value::as_bool) {
        Some(true) => "ready",
        _ => "not ready",
    };
    let first = format!(
        "tidegate {} on {}: {}, {ready}, up {}",
        text(status, "version"),
        text(status, "host"),
        text(status, "phase"),
        duration(number(status, "uptime_seconds")),
    );
    let connections = status.get("connections").unwrap_or(&Value::Null);
    let (requests, received, sent) = last_minute(status);
    let second = format!(
        "{} of {} connections; in the last minute {} requests, {} in, {} out",
        number(connections, "open").unwrap_or_default(),
        number(connections, "max").unwrap_or_default(),
        plain(&format::frequency(requests)),
        plain(&format::rate(received)),
        plain(&format::rate(sent)),
    );
    let mut lines = wrap(&first, width);
    lines.extend(wrap(&second, width));
    for (key, label) in [
        ("not_ready_reasons", "not ready"),
        ("errors", "error"),
        ("warnings", "warning"),
    ] {
        for message in rows(status, key) {
            let message = escape(message.as_str().unwrap_or_default());
            lines.extend(wrap(&format!("{label}: {message}"), width));
        }
    }
    lines
}

/// Requests, received bytes and sent bytes per second.
fn last_minute(status: &Value) -> (f64, u64, u64) {
    let samples: Vec<_> = rows(status, "samples").collect();
    let latest = samples.iter().rev().take(SAMPLES_PER_MINUTE);
    let sum = |key: &str| -> f64 {
        let values = latest
            .clone()
            .filter_map(|sample| sample.get(key)?.as_f64());
        // Without samples, `sum` would return -0, which is shown with its sign.
        values.fold(0.0, |sum, value| sum + value)
    };
    let seconds = sum("seconds").max(1.0);
    let rate = |key| sum(key) / seconds;
    (
        rate("requests"),
        rate("received") as u64,
        rate("sent") as u64,
    )
}

fn transfers(status: &Value) -> Table {
    let mut table = Table::new([
        Column::number("ID"),
        Column::text("WHAT"),
        Column::text("REPOSITORY"),
        Column::text("USER"),
        Column::number("MOVED"),
        Column::number("%"),
        Column::number("RATE"),
        Column::number("LEFT"),
    ]);
    for row in rows(status, "transfers") {
        let rate = number(row, "bytes_per_second").unwrap_or_default();
        let percent = number(row, "percent");
        let left = number(row, "seconds_left");
        table.push([
            number(row, "id").unwrap_or_default().to_string(),
            text(row, "operation"),
            text(row, "repository"),
            text(row, "user"),
            plain(&format::bytes(number(row, "bytes").unwrap_or_default())),
            percent.map_or_else(|| UNKNOWN.to_owned(), |percent| percent.to_string()),
            match rate {
                0 => "waiting".to_owned(),
                rate => plain(&format::rate(rate)),
            },
            left.map_or_else(|| UNKNOWN.to_owned(), |left| duration(Some(left))),
        ]);
    }
    table
}

fn endpoints(status: &Value) -> Table {
    let mut table = Table::new([
        Column::text("ENDPOINT"),
        Column::text("STATE"),
        Column::text("SINCE (UTC)"),
        Column::number("REQUESTS"),
    ]);
    for row in rows(status, "endpoints") {
        table.push([
            text(row, "address"),
            text(row, "state"),
            day_and_time(&text(row, "down_since")),
            number(row, "requests").unwrap_or_default().to_string(),
        ]);
    }
    table
}

fn sites(status: &Value) -> Table {
    let mut table = Table::new([
        Column::text("SITE"),
        Column::text("CERT UNTIL"),
        Column::number("DAYS"),
        Column::number("REQUESTS"),
        Column::number("REJECTED"),
        Column::number("ERRORS"),
    ]);
    for row in rows(status, "sites") {
        let name = match number(row, "other_names") {
            None | Some(0) => text(row, "name"),
            Some(others) => format!("{} +{others}", text(row, "name")),
        };
        let certificate = row.get("certificate").unwrap_or(&Value::Null);
        let until = match certificate.is_null() {
            true => "no certificate yet".to_owned(),
            false => text(certificate, "until")
                .chars()
                .take(DATE_LENGTH)
                .collect(),
        };
        let days = certificate.get("days_left").and_then(Value::as_i64);
        let days = days.map_or_else(|| UNKNOWN.to_owned(), |days| days.to_string());
        let totals = row.get("totals").unwrap_or(&Value::Null);
        let total = |key| match number(totals, key) {
            Some(total) => total.to_string(),
            None => UNKNOWN.to_owned(),
        };
        table.push([
            name,
            until,
            days,
            total("requests"),
            total("rejections"),
            total("errors"),
        ]);
    }
    table
}

fn rejections(status: &Value) -> Table {
    let mut table = Table::new([
        Column::text("TIME (UTC)"),
        Column::text("REASON"),
        Column::text("USER"),
        Column::text("CLIENT"),
        Column::text("REQUEST"),
    ]);
    for row in rows(status, "rejections").take(SHOWN_REJECTIONS) {
        table.push([
            day_and_time(&text(row, "time")),
            text(row, "reason"),
            text(row, "user"),
            text(row, "client"),
            text(row, "request"),
        ]);
    }
    table
}

fn rows<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    let rows = value.get(key).and_then(Value::as_array);
    rows.into_iter().flatten()
}

/// The string in a field of a JSON object, with control characters escaped, because the terminal would interpret them. A dash if
/// the field is `null` or missing.
fn text(value: &Value, key: &str) -> String {
    let text = value.get(key).and_then(Value::as_str);
    text.map_or_else(|| UNKNOWN.to_owned(), escape)
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

/// Shortens a time in RFC 3339 to month, day and time, such as `12-31 23:59:58`.
fn day_and_time(time: &str) -> String {
    match time.get(5..19) {
        Some(shown) => shown.replace('T', " "),
        None => time.to_owned(),
    }
}

fn duration(seconds: Option<u64>) -> String {
    plain(&format::duration(Duration::from_secs(
        seconds.unwrap_or_default(),
    )))
}

/// The text with plain spaces in place of those that keep a number and its unit on one line of the page.
fn plain(text: &str) -> String {
    text.replace(['\u{a0}', '\u{202f}'], " ")
}

const UNKNOWN: &str = "-";
/// A date in RFC 3339 has this many characters.
const DATE_LENGTH: usize = 10;
/// The status has a sample for every five seconds.
const SAMPLES_PER_MINUTE: usize = 12;
/// The rejections that are shown, the latest first.
const SHOWN_REJECTIONS: usize = 10;
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Moves the cursor to the top left corner and erases the screen (ECMA-48: CUP and ED).
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";
const EXAMPLES: &str = "Examples:
  tidegate status                     one look
  tidegate status --watch             again every two seconds, until Ctrl-C
  tidegate status --json | jq -r '.transfers[] | [.id, .repository, .user] | @tsv'
  tidegate cut 12                     end the transfer with this ID

The data comes from listen.admin, or from the admin socket that the service has by default. Exit codes: 0 done, 1 failed,
78 the configuration cannot be read and no running process is found.";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Value {
        json!({
            "version": "0.1.0", "host": "gate", "phase": "serving", "ready": true, "uptime_seconds": 7500,
            "warnings": [
                "http://10.0.0.2:5000 is down since 2026-11-28T10:00:00Z: the connection was refused by the registry",
                "the reload failed: \"tls\" of site 'a' \u{1b}[2J",
            ],
            "connections": { "open": 3, "max": 10_000 },
            "samples": [{ "seconds": 5.0, "requests": 10, "received": 0, "sent": 10_485_760 }],
            "transfer_count": 3,
            "transfers": [
                { "id": 12, "operation": "pull", "repository": "team/an/application/with/a/long/name", "user": "alice",
                  "bytes": 360_710_144_u64, "length": 1_503_238_553_u64, "percent": 24, "bytes_per_second": 9_500_000, "seconds_left": 7500 },
                { "id": 13, "operation": "push", "repository": "x\u{1b}[2J", "user": null, "bytes": 0, "percent": null,
                  "bytes_per_second": 0, "seconds_left": null },
            ],
            "endpoint_count": 1,
            "endpoints": [{ "address": "http://10.0.0.2:5000", "state": "down", "down_since": "2026-11-28T10:00:00Z", "requests": 0 }],
            "site_count": 1,
            "sites": [{ "name": "docker.example.com", "other_names": 2,
                "certificate": { "until": "2026-12-31T00:00:00Z", "days_left": 32 },
                "totals": { "requests": 1, "rejections": 2, "errors": 3 } }],
            "rejections": [{ "time": "2026-11-28T10:00:01Z", "reason": "upstream_unreachable", "user": null,
                "client": "2001:db8:1111:2222:3333:4444:5555:6666", "request": "GET /v2/team/app/manifests/latest" }],
        })
    }

    #[test]
    fn every_line_fits_and_only_control_characters_are_escaped() {
        for width in [80, 132] {
            let shown = render(&status(), width);
            for line in shown.lines() {
                assert!(line.chars().count() <= width, "{line}");
            }
            assert!(!shown.contains('\x1b'), "{shown}");
            for words in [
                "tidegate 0.1.0 on gate: serving, ready, up 2 h 5 min",
                "3 of 10000 connections; in the last minute 2/s requests, 0 B/s in, 2 MiB/s out",
                "warning: http://10.0.0.2:5000 is down",
                "\"tls\" of site 'a' \\u{1b}[2J",
                "transfers (3)",
                "344 MiB  24  9.06 MiB/s  2 h 5 min",
                "waiting",
                "… 1 more",
                "down   11-28 10:00:00",
                "docker.example.com +2  2026-12-31",
                "upstream_unreacha",
            ] {
                let flat = shown.replace("\n  ", " ");
                assert!(flat.contains(words), "{words} in {shown}");
            }
        }
    }

    #[test]
    fn a_status_without_anything_is_shown() {
        let shown = render(&json!({}), 80);
        assert!(shown.contains("no transfers") && shown.contains("not ready"));
        assert!(shown.contains(" 0/s requests"), "{shown}");
    }

    #[test]
    fn a_text_that_is_longer_than_the_screen_ends_with_a_count() {
        assert_eq!(clip("a\nb\n", 3), "a\nb\n");
        let clipped = clip("a\nb\nc\nd\n", 4);
        assert_eq!(clipped, "a\nb\n… 2 more lines; enlarge the terminal\n");
    }
}
