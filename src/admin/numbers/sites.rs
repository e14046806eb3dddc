//! What requests came to, site by site.

use std::collections::BTreeMap;

use super::{Sample, family};
use crate::metrics::{Family, Kind, SiteCounts, SiteTotals, Value};
use crate::snapshot::Snapshot;

/// Of every site, and of requests of none, whose site is `-`; a site that nobody has asked anything says nothing.
pub(super) fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut sites: BTreeMap<&str, &SiteCounts> = BTreeMap::new();
    for counts in snapshot.service.site_counts() {
        sites.insert(counts.name(), counts);
    }
    let totals: Vec<_> = sites
        .into_iter()
        .map(|(name, counts)| (name, counts.totals()))
        .collect();
    let mut families = Vec::from(requests(&totals));
    families.extend(bytes(&totals));
    families.extend(failures(&totals));
    families
}

type SiteMetrics<'a> = [(&'a str, SiteTotals)];

fn requests(all: &SiteMetrics<'_>) -> [Family; 3] {
    let requests = each(all, |totals| {
        let row = |(operation, status, count)| {
            let labels = vec![
                (
                    "operation",
                    crate::metrics::Operation::as_str(operation).to_owned(),
                ),
                ("status", status),
            ];
            (labels, Value::Whole(count))
        };
        totals.requests.iter().cloned().map(row).collect()
    });
    let seconds = each(all, |totals| {
        let asked = totals
            .durations
            .iter()
            .filter(|(_, buckets)| buckets.count() > 0);
        asked
            .map(|(operation, buckets)| {
                let labels = vec![("operation", operation.as_str().to_owned())];
                (labels, Value::Buckets(buckets.clone()))
            })
            .collect()
    });
    let upstream = each(all, |totals| {
        let known =
            (totals.request_count > 0).then(|| Value::Buckets(totals.upstream_waits.clone()));
        known
            .map(|buckets| (Vec::new(), buckets))
            .into_iter()
            .collect()
    });
    [
        family(
            Kind::Counter,
            "tidegate_requests",
            "Requests that have ended, by site, operation and status; 499 is a request without a response.",
            requests,
        ),
        family(
            Kind::Histogram,
            "tidegate_request_duration_seconds",
            "Time from the head of the request to the last byte of its response.",
            seconds,
        ),
        family(
            Kind::Histogram,
            "tidegate_upstream_time_to_first_byte_seconds",
            "Time from the end of the request, its body included, to the head of the upstream's response; 0 if the upstream responded before the end of the request.",
            upstream,
        ),
    ]
}

fn bytes(all: &SiteMetrics<'_>) -> [Family; 2] {
    let moved = |which: fn((u64, u64)) -> u64| {
        each(all, |totals| {
            let rows = totals.bytes.iter().filter(|_| totals.request_count > 0);
            rows.map(|(operation, received, sent)| {
                let labels = vec![("operation", operation.as_str().to_owned())];
                (labels, Value::Whole(which((*received, *sent))))
            })
            .collect()
        })
    };
    [
        family(
            Kind::Counter,
            "tidegate_received_bytes",
            "Bytes of bodies that came from clients.",
            moved(|(received, _)| received),
        ),
        family(
            Kind::Counter,
            "tidegate_sent_bytes",
            "Bytes of bodies that went to clients.",
            moved(|(_, sent)| sent),
        ),
    ]
}

fn failures(all: &SiteMetrics<'_>) -> [Family; 2] {
    let refused = each(all, |totals| {
        let rows = totals
            .rejections
            .iter()
            .filter(|_| totals.request_count > 0);
        rows.map(|(reason, count)| {
            let labels = vec![("reason", reason.as_str().to_owned())];
            (labels, Value::Whole(*count))
        })
        .collect()
    });
    let broken = each(all, |totals| {
        let rows = totals.aborts.iter().filter(|_| totals.request_count > 0);
        rows.map(|(end, count)| {
            (
                vec![("termination", (*end).to_owned())],
                Value::Whole(*count),
            )
        })
        .collect()
    });
    [
        family(
            Kind::Counter,
            "tidegate_rejections",
            "Requests that the proxy rejected, by reason; every login begins with no_credentials.",
            refused,
        ),
        family(
            Kind::Counter,
            "tidegate_aborted_responses",
            "Responses that were aborted, by the termination in the access log.",
            broken,
        ),
    ]
}

/// The samples of all sites, each with its site in front.
fn each(all: &SiteMetrics<'_>, samples: impl Fn(&SiteTotals) -> Vec<Sample>) -> Vec<Sample> {
    let of_site = |(site, totals): &(&str, SiteTotals)| -> Vec<Sample> {
        let named = samples(totals).into_iter().map(|(labels, value)| {
            let mut all = vec![("site", (*site).to_owned())];
            all.extend(labels);
            (all, value)
        });
        named.collect()
    };
    all.iter().flat_map(of_site).collect()
}
