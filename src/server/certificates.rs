//! What is told of the sites' certificates as time passes: renewed, unusable, good again, near their end.
//!
//! Called by `files` at each of its looks.

use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::snapshot::SiteCertificate;
use crate::snapshot::certificates::{KEPT, Source};
use crate::tls::{CertEvent, CertSlot, CertWarning, ReloadingCert};

/// Looks at each pair of files once, however many sites share it, and at the age of what is shown.
pub(super) fn look_at_all(all: &[SiteCertificate], now: OffsetDateTime) {
    let mut seen: Vec<&Arc<CertSlot>> = Vec::new();
    for certificate in all {
        let shown = certificate.shown();
        if seen.iter().any(|known| Arc::ptr_eq(known, shown)) {
            continue;
        }
        seen.push(shown);
        if let Some(live) = certificate.live() {
            let sharing = all.iter().filter(|one| Arc::ptr_eq(one.shown(), shown));
            tell(live, live.poll(now), sharing);
        }
        tell_age(certificate, now);
    }
}

fn tell<'a>(
    live: &ReloadingCert,
    event: CertEvent,
    sharing: impl Iterator<Item = &'a SiteCertificate>,
) {
    match event {
        CertEvent::Unchanged => {}
        CertEvent::Renewed(warnings) => {
            let pair = live.slot().current();
            tracing::info!(
                path = %live.cert().display(),
                hosts = pair.as_ref().map(|pair| pair.names_in_short()),
                until = pair.map(|pair| pair.not_after().date().to_string()),
                "certificate renewed"
            );
            warn(warnings);
            sharing.for_each(|site| warn(site.uncovered_hosts()));
        }
        CertEvent::Failed(error) => {
            tracing::error!("{error}; {KEPT}");
        }
        CertEvent::Recovered => {
            tracing::info!(path = %live.cert().display(), "certificate and key can be used again");
        }
    }
}

fn tell_age(certificate: &SiteCertificate, now: OffsetDateTime) {
    let shown = certificate.shown();
    let (warnings, how) = match certificate.source() {
        Source::Files(live) => return warn(shown.take_new_expiry_warnings(live.cert(), now)),
        Source::SelfSigned => (
            shown.take_new_expiry_warnings(Path::new("self-signed"), now),
            "does",
        ),
        Source::Acme(file) => (shown.take_new_expiry_warnings(file, now), "tries"),
    };
    for warning in warnings {
        tracing::warn!("{warning}: a reload of the gate {how}");
    }
}

fn warn(warnings: Vec<CertWarning>) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
