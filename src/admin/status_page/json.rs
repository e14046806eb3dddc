//! `/status.json`: the data of the status page as JSON, for scripts and for `tidegate status`. `docs/watch.md` documents the
//! fields.
//!
//! Fields may be added; a field that exists keeps its name and its meaning. Times are in RFC 3339 and UTC, rates are bytes per
//! second, and an unknown value is `null`.

use serde_json::{Value, json};

use super::format::iso_time;
use super::model::{EndpointRow, SiteRow, Status, TransferRow};
use crate::activity::RejectedRequest;
use crate::metrics::SiteSums;
use crate::state::{LifecyclePhase, Sample, ServerState};
use crate::upstream;

/// The state of this moment as one line of JSON.
pub(crate) fn render(state: &ServerState) -> String {
    format!("{}\n", document(&Status::of(state)))
}

fn document(status: &Status) -> Value {
    let (succeeded, failed) = status.reloads;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "host": status.host,
        "time": iso_time(status.now),
        "uptime_seconds": status.uptime.as_secs(),
        "phase": match status.phase {
            LifecyclePhase::Starting => "starting",
            LifecyclePhase::Serving => "serving",
            LifecyclePhase::Withdrawing => "withdrawing",
            LifecyclePhase::Draining => "draining",
        },
        "ready": status.readiness.is_ready(),
        "not_ready_reasons": status.readiness.reasons(),
        "errors": status.readiness.errors(),
        "warnings": status.readiness.warnings(),
        "configuration": {
            "since": iso_time(status.last_reload.in_use_since),
            "reloads": succeeded,
            "failed_reloads": failed,
            "last_failure": status.last_reload.failed.as_ref().map(|(at, cause)| {
                json!({ "time": iso_time(*at), "cause": cause })
            }),
        },
        "connections": { "open": status.open_connections, "max": status.max_connections },
        "transfer_count": status.transfers.count,
        "transfers": list(&status.transfers.shown, transfer),
        "endpoint_count": status.endpoints.count,
        "endpoints": list(&status.endpoints.shown, endpoint),
        "site_count": status.sites.count,
        "sites": list(&status.sites.shown, site),
        "rejections": list(&status.rejections, rejection),
        "samples": list(&status.samples, sample),
    })
}

fn list<T>(rows: &[T], row: impl Fn(&T) -> Value) -> Value {
    Value::Array(rows.iter().map(row).collect())
}

fn transfer(row: &TransferRow) -> Value {
    json!({
        "id": row.number,
        "operation": row.operation.as_str(),
        "repository": row.repository,
        "user": known(&row.user),
        "client": row.client,
        "site": row.site,
        "bytes": row.bytes,
        "length": row.length,
        "percent": row.percent(),
        "bytes_per_second": row.rate,
        "seconds": row.age.as_secs(),
        "seconds_left": row.time_left().map(|left| left.as_secs()),
    })
}

fn endpoint(row: &EndpointRow) -> Value {
    let (state, outage) = match &row.status {
        upstream::Status::Up => ("up", None),
        upstream::Status::Unchecked => ("unchecked", None),
        upstream::Status::Down(outage) => ("down", Some(outage)),
    };
    json!({
        "address": row.name,
        "state": state,
        "down_since": outage.map(|outage| iso_time(outage.since)),
        "cause": outage.map(|outage| outage.cause.to_string()),
        "requests": row.requests,
    })
}

fn site(row: &SiteRow) -> Value {
    json!({
        "name": row.name,
        "other_names": row.other_names,
        "certificate": row.validity.as_ref().map(|validity| json!({
            "until": iso_time(validity.until),
            "days_left": validity.days_left,
            "is_expiring": row.is_expiring,
        })),
        "totals": row.sums.as_ref().map(sums),
    })
}

fn rejection(row: &RejectedRequest) -> Value {
    json!({
        "time": iso_time(row.at),
        "client": row.client,
        "user": known(&row.user),
        "site": known(&row.site),
        "request": row.request,
        "reason": row.reason.as_str(),
        "message": row.message,
    })
}

/// The counts of one interval of about five seconds.
fn sample(sample: &Sample) -> Value {
    let mut value = sums(&sample.sums);
    if let Value::Object(fields) = &mut value {
        fields.insert("seconds".to_owned(), json!(sample.took.as_secs_f64()));
    }
    value
}

fn sums(sums: &SiteSums) -> Value {
    json!({
        "requests": sums.requests,
        "rejections": sums.rejections,
        "errors": sums.errors,
        "received": sums.received,
        "sent": sums.sent,
    })
}

fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
