//! `tidegate ca`: prints the CA certificate of the self-signed sites, and where each client expects it.
//!
//! The certificate is alone on standard output, so that it can be redirected into a file; the instructions are on standard
//! error. The command needs the configuration and the certificate, which every user of the machine may read, and no private key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use super::args::ConfigArgs;
use super::client_commands::trust;
use super::output::{EXIT_CONFIG_REJECTED, fail, print, rejection_message, warn};
use crate::config::{self, Certificate, Config, Site};
use crate::net::host::https_authority;
use crate::tls::self_signed;

pub(crate) fn run(args: &ConfigArgs) -> ExitCode {
    let (config, problems) = config::load(&args.file);
    let config = match config {
        Some(config) if !problems.has_errors() => config,
        _ => {
            warn(&rejection_message(&problems));
            return ExitCode::from(EXIT_CONFIG_REJECTED);
        }
    };
    let file = args.file.display();
    if !config.sites.iter().any(is_self_signed) {
        return fail(&format!(
            "{file}: no site has tls = \"self-signed\", so there is no CA of the proxy's own; clients must trust the authority that issued the certificates"
        ));
    }
    let path = match std::path::absolute(self_signed::ca_file(&config.state_dir)) {
        Ok(path) => path,
        Err(error) => return fail(&format!("cannot find the working directory: {error}")),
    };
    let pem = match self_signed::read_ca_pem(&path) {
        Ok(Some(pem)) => pem,
        Ok(None) => {
            return fail(&format!(
                "{}: there is no CA yet; the first start creates it: tidegate serve -c {file}",
                path.display()
            ));
        }
        Err(error) => return fail(&error.to_string()),
    };
    if let Err(error) = print(&pem) {
        return fail(&format!("cannot write to standard output: {error}"));
    }
    warn(&format!(
        "The certificate of the CA is in {}. Copy this file to each client, and never the key of the CA.",
        path.display()
    ));
    if let Some(remark) = unreadable_for_others(&path) {
        warn(&remark);
    }
    for authority in self_signed_authorities(&config) {
        warn(&format!("\nTo trust {authority}:\n"));
        warn(trust(&authority, &path).trim_end());
    }
    ExitCode::SUCCESS
}

fn is_self_signed(site: &Site) -> bool {
    matches!(site.certificate, Some(Certificate::SelfSigned(_)))
}

/// The authorities by which clients address the self-signed sites. The host `*` includes `localhost`. For a site that has
/// only hosts such as `*.example.com`, the result has `registry.example.com` as an example.
fn self_signed_authorities(config: &Config) -> Vec<String> {
    let of_site = |site: &Site| match &site.external_url {
        Some(origin) => vec![origin.authority.clone()],
        None => {
            let has_names = site.hosts.iter().any(|host| !host.starts_with("*."));
            let names = site.hosts.iter().filter_map(|host| match host.as_str() {
                "*" => Some("localhost".to_owned()),
                host => match host.strip_prefix("*.") {
                    None => Some(host.to_owned()),
                    Some(domain) => (!has_names).then(|| format!("registry.{domain}")),
                },
            });
            names
                .map(|host| https_authority(&host, site.https_port))
                .collect()
        }
    };
    let sites = config.sites.iter().filter(|site| is_self_signed(site));
    let mut all: Vec<String> = Vec::new();
    for authority in sites.flat_map(of_site) {
        if !all.contains(&authority) {
            all.push(authority);
        }
    }
    all
}

/// A remark if other users of this machine cannot read the file, as after an upgrade from a version that kept it private.
fn unreadable_for_others(path: &Path) -> Option<String> {
    let lacks = |path: &Path, bits| {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & bits != bits)
    };
    let dir = path.parent()?;
    if lacks(dir, 0o001) {
        return Some(format!(
            "Other users of this machine cannot enter {0}; chmod o+x {0} lets them read the certificate, and nothing else.",
            dir.display()
        ));
    }
    lacks(path, 0o004).then(|| {
        format!(
            "Other users of this machine cannot read it; chmod 644 {} lets them.",
            path.display()
        )
    })
}
