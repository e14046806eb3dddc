//! How the endpoints are, and how long the certificates last.

use std::collections::{BTreeMap, BTreeSet};

use super::{Sample, family, whole};
use crate::metrics::{Family, Kind, Value};
use crate::snapshot::Snapshot;
use crate::upstream::Status;

/// Of each endpoint of the configuration once, and of each site's certificate.
pub(super) fn families(snapshot: &Snapshot) -> [Family; 4] {
    let (up, busy) = endpoints(snapshot);
    [
        family(
            Kind::Gauge,
            "tidegate_upstream_endpoint_up",
            "Whether the endpoint takes connections and answers checks, as far as is known; 0 also before its first check has ended.",
            up,
        ),
        family(
            Kind::Gauge,
            "tidegate_site_available",
            "0 while all endpoints of one of the site's routes are down; 1 otherwise, also before their first checks have ended.",
            sites(snapshot),
        ),
        family(
            Kind::Gauge,
            "tidegate_upstream_endpoint_active_requests",
            "Requests that are in progress at the endpoint or wait for it.",
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
                *is_up &= state.status == Status::Up;
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

fn sites(snapshot: &Snapshot) -> Vec<Sample> {
    let mut available = BTreeMap::new();
    for site in snapshot.service.sites.all() {
        let routes = &mut site.routes.iter();
        let is_available = routes.all(|route| route.forward.upstream().outage().is_none());
        available.insert(&site.name, is_available);
    }
    let all = available.into_iter();
    all.map(|(site, is_available)| {
        (
            vec![("site", site.clone())],
            whole(usize::from(is_available)),
        )
    })
    .collect()
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
