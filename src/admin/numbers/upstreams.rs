//! How the endpoints are, and how long the certificates last.

use std::collections::{BTreeMap, BTreeSet};

use super::{Sample, family, whole};
use crate::metrics::{Family, Kind, Value};
use crate::snapshot::Snapshot;

/// Of each endpoint of the configuration once, and of each site's certificate.
pub(super) fn families(snapshot: &Snapshot) -> [Family; 3] {
    let (up, busy) = endpoints(snapshot);
    [
        family(
            Kind::Gauge,
            "tidegate_upstream_endpoint_up",
            "Whether the endpoint takes connections and answers checks, as far as is known.",
            up,
        ),
        family(
            Kind::Gauge,
            "tidegate_upstream_endpoint_requests",
            "Requests that are under way at the endpoint or wait for it.",
            busy,
        ),
        family(
            Kind::Gauge,
            "tidegate_certificate_expiry_timestamp_seconds",
            "When clients begin to refuse the chain that the site shows now.",
            certificates(snapshot),
        ),
    ]
}

fn endpoints(snapshot: &Snapshot) -> (Vec<Sample>, Vec<Sample>) {
    let mut seen = BTreeSet::new();
    let mut endpoints: BTreeMap<String, (bool, usize)> = BTreeMap::new();
    for route in snapshot.service.sites.routes() {
        for state in route.forward.upstream().states() {
            if seen.insert(state.node) {
                let (is_up, busy) = endpoints.entry(state.name).or_insert((true, 0));
                *is_up &= state.is_up;
                *busy += state.busy;
            }
        }
    }
    let (mut up, mut busy) = (Vec::new(), Vec::new());
    for (name, (is_up, count)) in endpoints {
        let labels = vec![("endpoint", name)];
        up.push((labels.clone(), whole(usize::from(is_up))));
        busy.push((labels, whole(count)));
    }
    (up, busy)
}

fn certificates(snapshot: &Snapshot) -> Vec<Sample> {
    let mut until = BTreeMap::new();
    for certificate in snapshot.certificates() {
        // A host that waits for its first certificate has no series yet.
        if let Some(at) = certificate.until() {
            let at = u64::try_from(at.unix_timestamp()).unwrap_or(0);
            until.insert(certificate.site(), at);
        }
    }
    let all = until.into_iter();
    all.map(|(site, at)| (vec![("site", site.to_owned())], Value::Whole(at)))
        .collect()
}
