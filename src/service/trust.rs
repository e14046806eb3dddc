//! Whether a connection may carry a request for a site, where some sites ask for client certificates.
//!
//! Called by `service` once the site is known. The site follows from `Host`, but what the client had to show followed
//! from the name in its hello: a request may only go where the same would have been asked of it. 421 tells the client to
//! come on another connection (RFC 9110 section 15.5.20, RFC 9113 section 9.1.2).

use rustls_pki_types::UnixTime;

use crate::connection::ConnectionInfo;
use crate::rejection::Rejection;
use crate::site::{Site, Sites};

/// By the sites of this moment: a reload that changes whom a site trusts counts for open connections, too.
pub(super) fn check(
    sites: &Sites,
    site: &Site,
    connection: &ConnectionInfo,
    now: UnixTime,
) -> Result<(), Rejection> {
    if !sites.requires_trust_check() {
        return Ok(());
    }
    let tls = connection.tls.as_ref();
    let greeting = sites.site_for_sni(tls.and_then(|tls| tls.sni.as_deref()));
    let is_same = greeting.is_some_and(|greeting| greeting.trust == site.trust);
    let shown = tls.and_then(|tls| tls.certificate.as_deref());
    let admits = |trust: &crate::tls::ClientCa| trust.admits(shown, now);
    if is_same && site.trust.as_ref().is_none_or(admits) {
        return Ok(());
    }
    Err(Rejection::OtherTrust)
}
