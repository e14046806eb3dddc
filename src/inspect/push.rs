//! `check --live --push`: a tiny blob goes through the gate's own listener into a registry and comes back, as a client's
//! does.
//!
//! Called by `inspect`. Its bytes are always the same, so that however often this is done, one blob is left behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use base64ct::{Base64, Encoding as _};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use zeroize::Zeroizing;

use super::bearer::{Challenge, token};
use super::listener::{Listener, Reply, Request, of_authority, with_certificate};
use crate::config::{self, Certificate, Config};
use crate::listen::Binding;
use crate::registry::is_name;
use crate::secret::Password;
use crate::snapshot::Snapshot;

/// What is to be tried.
#[derive(Debug)]
pub struct Push {
    /// Into which repository.
    pub repository: String,
    /// As whom; nobody where nobody is asked.
    pub login: Option<(String, Password)>,
}

/// Pushes and pulls; says what was done and what is left, or in one sentence what is wrong.
pub(super) async fn run(
    push: &Push,
    config: &Config,
    snapshot: &Snapshot,
) -> Result<Vec<String>, String> {
    if !is_name(&push.repository) {
        return Err(format!("no repository can be called {:?}", push.repository));
    }
    let site = site(push, config, snapshot)?;
    let trip = Trip {
        listener: listener(site, config, snapshot)?,
        outer: site.external.as_ref().map(|origin| {
            let (scheme, authority) = (&origin.scheme, &origin.authority);
            format!("{scheme}://{authority}")
        }),
        basic: push.login.as_ref().map(basic),
    };
    trip.make(&push.repository).await
}

/// The first site whose registry may hold the repository.
fn site<'a>(
    push: &Push,
    config: &'a Config,
    snapshot: &Snapshot,
) -> Result<&'a config::Site, String> {
    let path = format!("/v2/{}/blobs/uploads/", push.repository);
    let leads = |site: &&config::Site| {
        let mut all = snapshot.service.sites.all();
        let built = all.find(|built| Some(&built.name) == site.hosts.first());
        built
            .and_then(|built| built.route(&path))
            .is_some_and(|route| route.registry)
    };
    let site = config.sites.iter().find(leads);
    site.ok_or_else(|| format!("no route of any site leads from {path} to a registry"))
}

fn listener(site: &config::Site, config: &Config, snapshot: &Snapshot) -> Result<Listener, String> {
    let mut bindings = config.listen.https.iter();
    let address = bindings
        .find_map(|binding| match binding {
            Binding::Address(address) if address.port() != 0 => Some(*address),
            _ => None,
        })
        .ok_or("listen.https names no address with a port that could be asked")?;
    let mut hosts = site.hosts.iter().filter(|host| !host.contains('*'));
    let host = hosts
        .next()
        .ok_or("the site has only patterns of hosts, and no name by which it could be asked")?;
    let tls = match &site.certificate {
        Certificate::SelfSigned(_) => of_authority(&config.state_dir.join("ca.pem"))?,
        Certificate::Files { .. } => {
            let mut all = snapshot.certificates().iter();
            let own = all.find(|one| Some(one.site()) == site.hosts.first().map(String::as_str));
            let pair = own.map(|own| own.shown().current());
            let leaf = pair.and_then(|pair| pair.chain().first().cloned());
            let leaf = leaf.ok_or("the site has no certificate")?;
            with_certificate(leaf).map_err(|error| error.to_string())?
        }
    };
    Ok(Listener {
        address: here(address),
        host: host.clone(),
        tls,
    })
}

/// What listens on all addresses is asked on the loopback.
fn here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn basic((user, password): &(String, Password)) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(format!("{user}:").into_bytes());
    pair.extend_from_slice(password.as_bytes());
    let encoded = Zeroizing::new(Base64::encode_string(&pair));
    Zeroizing::new(format!("Basic {}", *encoded))
}

/// There and back.
struct Trip {
    listener: Listener,
    /// What clients are told, where that is not what they asked.
    outer: Option<String>,
    basic: Option<Zeroizing<String>>,
}

impl Trip {
    async fn make(&self, repository: &str) -> Result<Vec<String>, String> {
        let start = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.ask(Method::POST, &start, b"").await?;
        expect(&begun, StatusCode::ACCEPTED, &start)?;
        let upload = self.location(&begun.headers)?;
        let sum = hex(digest(&SHA256, BLOB).as_ref());
        let joint = if upload.contains('?') { '&' } else { '?' };
        let end = format!("{upload}{joint}digest=sha256:{sum}");
        let ended = self.ask(Method::PUT, &end, BLOB).await?;
        expect(&ended, StatusCode::CREATED, &upload)?;
        let blob = format!("/v2/{repository}/blobs/sha256:{sum}");
        let pulled = self.ask(Method::GET, &blob, b"").await?;
        expect(&pulled, StatusCode::OK, &blob)?;
        if pulled.body != BLOB {
            return Err(format!("{blob} came back with other bytes than went in"));
        }
        let (host, address) = (self.listener.authority(), self.listener.address);
        Ok(vec![
            format!(
                "{host}/{repository} at {address}: a blob of {} bytes was pushed and pulled",
                BLOB.len()
            ),
            format!(
                "left in {repository}: sha256:{sum}, which no manifest names, until the registry's garbage collection"
            ),
        ])
    }

    /// With a token, where one is asked for.
    async fn ask(&self, method: Method, target: &str, body: &[u8]) -> Result<Reply, String> {
        let request = Request {
            method,
            target,
            body,
        };
        let basic = self.basic.as_ref().map(|basic| basic.as_str());
        let first = self.send(&request, basic).await?;
        if first.status != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        let Some(place) = Challenge::of(&first.headers).and_then(|asked| asked.target()) else {
            return Ok(first);
        };
        let question = Request {
            method: Method::GET,
            target: &place,
            body: b"",
        };
        let reply = self.send(&question, basic).await?;
        expect(&reply, StatusCode::OK, "the token endpoint")?;
        let token = token(&reply.body).ok_or("the token endpoint gave no token")?;
        self.send(&request, Some(&token)).await
    }

    async fn send(
        &self,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Reply, String> {
        let reply = self.listener.ask(request, authorization).await;
        let path = request.target.split('?').next().unwrap_or_default();
        reply.map_err(|why| {
            format!(
                "{} {path} at {}: {why}",
                request.method, self.listener.address
            )
        })
    }

    /// Where an upload goes on, which must be where it was begun: a client follows it.
    fn location(&self, headers: &HeaderMap) -> Result<String, String> {
        let value = headers.get(header::LOCATION);
        let text = value.and_then(|value| value.to_str().ok());
        let text = text.ok_or("the upload was begun, and no Location says where it goes on")?;
        let uri: Uri = text
            .parse()
            .map_err(|_| format!("{text:?} is no Location"))?;
        if let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) {
            let told = format!("{scheme}://{authority}");
            let own = format!("https://{}", self.listener.authority());
            if told != *self.outer.as_ref().unwrap_or(&own) {
                let expected = self.outer.as_ref().unwrap_or(&own);
                return Err(format!(
                    "the upload goes on at {told}, where clients of {expected} may not get: see external_url and internal_origins"
                ));
            }
        }
        let target = uri.path_and_query().map(PathAndQuery::as_str);
        Ok(target.unwrap_or_default().to_owned())
    }
}

fn expect(reply: &Reply, status: StatusCode, what: &str) -> Result<(), String> {
    if reply.status == status {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&reply.body);
    let said: String = said.chars().take(MOST_SAID).collect();
    Err(format!(
        "{what} answered {} where {status} was due: {}",
        reply.status,
        said.trim().escape_debug()
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const BLOB: &[u8] = b"tidegate check --live --push\n";
/// Characters of an error that are shown.
const MOST_SAID: usize = 300;
