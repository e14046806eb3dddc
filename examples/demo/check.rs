//! The check of the demo, step by step: a request without a password is rejected, then a blob and a manifest are pushed and pulled.
//!
//! `main` runs it for `--check`. It prints a line per step and stops at the first step that fails.

use std::fmt::Debug;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Client, Reply};
use crate::content::Pieces;
use crate::crypto::{digest, random};
use crate::setup::{REALM, RunningProxy, Setup};
use crate::{Failure, say};

/// A client with a password, and the origin that every URL in a response must have.
struct Push {
    client: Client,
    origin: String,
}

/// Runs all steps.
pub(crate) async fn run(setup: &Setup, proxy: &RunningProxy) -> Result<(), Failure> {
    let origin = format!("https://{}", proxy.host());
    let registry = setup.registry();
    say(&format!(
        "proxy at {origin}, registry in memory at {registry}"
    ));
    let client = Client::named(proxy, setup.user(), setup.password())?;
    reject_bad_credentials(setup, proxy)
        .await
        .map_err(at("login"))?;
    be_let_in(&client).await.map_err(at("login"))?;
    let push = Push { client, origin };
    let blob = Bytes::from(random(FIRST_CHUNK + SECOND_CHUNK)?);
    push.blob_in_chunks(&blob).await.map_err(at("push"))?;
    push.read_blob(&blob).await.map_err(at("pull"))?;
    push.mount_blob(&blob).await.map_err(at("mount"))?;
    let manifest = push.config_and_manifest(&blob).await.map_err(at("push"))?;
    push.read_manifest(&manifest).await.map_err(at("pull"))?;
    push.read_lists().await.map_err(at("lists"))?;
    push.remove(&manifest).await.map_err(at("delete"))?;
    say("all good");
    Ok(())
}

async fn reject_bad_credentials(setup: &Setup, proxy: &RunningProxy) -> Result<(), Failure> {
    let anonymous = Client::anonymous(proxy)?;
    let challenge = be_challenged(&anonymous).await?;
    say(&format!("login    without a password: 401, {challenge}"));
    let wrong = Client::named(proxy, setup.user(), "guess")?;
    be_challenged(&wrong).await?;
    say("login    with a wrong password: 401");
    Ok(())
}

async fn be_challenged(client: &Client) -> Result<String, Failure> {
    let reply = client.ask(Method::GET, "/v2/").await?;
    let reply = reply.expect_status(StatusCode::UNAUTHORIZED)?;
    let challenge = reply.field(header::WWW_AUTHENTICATE)?;
    same("realm", challenge.contains(REALM), true)?;
    same("error", reply.code()?.as_str(), "UNAUTHORIZED")?;
    Ok(challenge.to_owned())
}

async fn be_let_in(client: &Client) -> Result<(), Failure> {
    let reply = client.ask(Method::GET, "/v2/").await?;
    let reply = reply.expect_status(StatusCode::OK)?;
    let version = reply.field(HeaderName::from_static("docker-distribution-api-version"))?;
    say(&format!("login    with the right one: 200, {version}"));
    Ok(())
}

impl Push {
    /// Uploads a first chunk of unknown length, then a second chunk with its range, then the digest.
    async fn blob_in_chunks(&self, blob: &Bytes) -> Result<(), Failure> {
        let begin = self.client.ask(Method::POST, UPLOADS).await?;
        let mut location = self.location(&begin.expect_status(StatusCode::ACCEPTED)?)?;
        say(&format!("push     upload begun at {location}"));

        let (mut second, size) = (blob.clone(), blob.len());
        let first = Pieces::from(second.split_to(FIRST_CHUNK)).chunked();
        let request = self.client.request(Method::PATCH, &location)?;
        let reply = self.client.send(request, first).await?;
        let reply = reply.expect_status(StatusCode::ACCEPTED)?;
        let reached = format!("0-{}", FIRST_CHUNK - 1);
        same("Range", reply.field(header::RANGE)?, &reached)?;
        location = self.location(&reply)?;
        say(&format!("push     {FIRST_CHUNK} bytes, chunked: 202"));

        let place = format!("{FIRST_CHUNK}-{}", size - 1);
        let request = self.client.request(Method::PATCH, &location)?;
        let request = request.header(header::CONTENT_RANGE, place);
        let reply = self.client.send(request, second.into()).await?;
        let reply = reply.expect_status(StatusCode::ACCEPTED)?;
        location = self.location(&reply)?;
        say(&format!(
            "push     {SECOND_CHUNK} bytes with their length: 202"
        ));

        let digest = digest(blob);
        self.finish(&location, &digest, Pieces::default()).await?;
        say(&format!("push     blob {digest}: 201"));
        Ok(())
    }

    async fn read_blob(&self, blob: &Bytes) -> Result<(), Failure> {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", digest(blob));
        let head = self.client.ask(Method::HEAD, &path).await?;
        let head = head.expect_status(StatusCode::OK)?;
        let length = head.field(header::CONTENT_LENGTH)?;
        same("Content-Length", length, &blob.len().to_string())?;
        let whole = self.client.ask(Method::GET, &path).await?;
        let whole = whole.expect_status(StatusCode::OK)?;
        same("digest", digest(&whole.body), digest(blob))?;
        say(&format!(
            "pull     blob: 200, {} bytes, same digest",
            whole.body.len()
        ));

        let request = self.client.request(Method::GET, &path)?;
        let request = request.header(header::RANGE, format!("bytes={FIRST_CHUNK}-"));
        let part = self.client.send(request, Pieces::default()).await?;
        let part = part.expect_status(StatusCode::PARTIAL_CONTENT)?;
        let expected = digest(&blob.slice(FIRST_CHUNK..));
        same("digest of the part", digest(&part.body), expected)?;
        let range = part.field(header::CONTENT_RANGE)?;
        say(&format!("pull     part of it: 206, {range}"));
        Ok(())
    }

    async fn mount_blob(&self, blob: &Bytes) -> Result<(), Failure> {
        let digest = digest(blob);
        let target = format!("/v2/{OTHER}/blobs/uploads/?mount={digest}&from={REPOSITORY}");
        let reply = self.client.ask(Method::POST, &target).await?;
        let location = self.location(&reply.expect_status(StatusCode::CREATED)?)?;
        let reply = self.client.ask(Method::HEAD, &location).await?;
        reply.expect_status(StatusCode::OK)?;
        say(&format!("mount    the same blob in {OTHER}: 201"));
        Ok(())
    }

    /// Pushes a configuration blob in one request, and the manifest that refers to both blobs.
    async fn config_and_manifest(&self, blob: &Bytes) -> Result<Bytes, Failure> {
        let config = Bytes::from_static(b"{}");
        let begin = self.client.ask(Method::POST, UPLOADS).await?;
        let location = self.location(&begin.expect_status(StatusCode::ACCEPTED)?)?;
        let config_digest = digest(&config);
        self.finish(&location, &config_digest, config.into())
            .await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config_digest, "size": 2 },
            "layers": [{ "mediaType": "application/octet-stream", "digest": digest(blob), "size": blob.len() }],
        });
        let manifest = Bytes::from(manifest.to_string());
        let path = format!("/v2/{REPOSITORY}/manifests/{TAG}");
        let request = self.client.request(Method::PUT, &path)?;
        let request = request.header(header::CONTENT_TYPE, MANIFEST);
        let reply = self.client.send(request, manifest.clone().into()).await?;
        self.location(&reply.expect_status(StatusCode::CREATED)?)?;
        say(&format!("push     manifest {REPOSITORY}:{TAG}: 201"));
        Ok(manifest)
    }

    async fn read_manifest(&self, manifest: &Bytes) -> Result<(), Failure> {
        let expected = digest(manifest);
        for reference in [TAG, &expected] {
            let path = format!("/v2/{REPOSITORY}/manifests/{reference}");
            let reply = self.client.ask(Method::GET, &path).await?;
            let reply = reply.expect_status(StatusCode::OK)?;
            same("Content-Type", reply.field(header::CONTENT_TYPE)?, MANIFEST)?;
            same("digest", digest(&reply.body), expected.clone())?;
        }
        say("pull     manifest by tag and by digest: 200, same bytes");
        Ok(())
    }

    async fn read_lists(&self) -> Result<(), Failure> {
        let tags = format!("/v2/{REPOSITORY}/tags/list");
        for (path, key, entry) in [
            (tags.as_str(), "tags", TAG),
            ("/v2/_catalog", "repositories", REPOSITORY),
        ] {
            let reply = self.client.ask(Method::GET, path).await?;
            let reply = reply.expect_status(StatusCode::OK)?;
            let list: Value = serde_json::from_slice(&reply.body)?;
            same(key, list.get(key), Some(&json!([entry])))?;
            say(&format!("lists    {path}: 200, {list}"));
        }
        Ok(())
    }

    async fn remove(&self, manifest: &Bytes) -> Result<(), Failure> {
        let path = format!("/v2/{REPOSITORY}/manifests/{}", digest(manifest));
        let reply = self.client.ask(Method::DELETE, &path).await?;
        reply.expect_status(StatusCode::ACCEPTED)?;
        let reply = self.client.ask(Method::GET, &path).await?;
        let reply = reply.expect_status(StatusCode::NOT_FOUND)?;
        same("error", reply.code()?.as_str(), "MANIFEST_UNKNOWN")?;
        say("delete   the manifest: 202, then 404 MANIFEST_UNKNOWN");
        Ok(())
    }

    async fn finish(&self, location: &str, digest: &str, rest: Pieces) -> Result<(), Failure> {
        let joint = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{joint}digest={digest}");
        let request = self.client.request(Method::PUT, &target)?;
        let reply = self.client.send(request, rest).await?;
        let reply = reply.expect_status(StatusCode::CREATED)?;
        self.location(&reply)?;
        let stored = reply.field(crate::answer::DIGEST)?;
        same("Docker-Content-Digest", stored, digest)
    }

    /// The target of a Location. Clients do not send their password to another origin.
    fn location(&self, reply: &Reply) -> Result<String, Failure> {
        let location = reply.field(header::LOCATION)?;
        let is_ours = location
            .strip_prefix(&self.origin)
            .is_some_and(|path| path.starts_with('/'));
        if is_ours {
            Ok(location.to_owned())
        } else {
            Err(format!("Location leads to {location}, away from {}", self.origin).into())
        }
    }
}

fn same<T: PartialEq + Debug>(what: &str, got: T, expected: T) -> Result<(), Failure> {
    if got == expected {
        return Ok(());
    }
    Err(format!("{what} is {got:?} instead of {expected:?}").into())
}

/// Adds the name of the step to its error.
fn at(step: &'static str) -> impl Fn(Failure) -> Failure {
    move |failure| format!("{step}: {}", crate::with_sources(failure.as_ref())).into()
}

const REPOSITORY: &str = "team/app";
const UPLOADS: &str = "/v2/team/app/blobs/uploads/";
const OTHER: &str = "team/copy";
const TAG: &str = "v1";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// More bytes than any buffer between client and registry holds.
const FIRST_CHUNK: usize = 5 * 1024 * 1024;
const SECOND_CHUNK: usize = 3 * 1024 * 1024;
