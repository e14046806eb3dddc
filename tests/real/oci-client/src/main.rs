//! `tidegate-oci-client ACTION REFERENCE …` runs one operation of oci-client on a registry.
//!
//! The tests with real clients run this program. `OCI_CA` is the file of the CA to trust. If `OCI_USER` and `OCI_PASSWORD` are
//! not set, the program sends no credentials. Errors of oci-client are printed unchanged.

use std::env::{args, var};
use std::error::Error;
use std::process::ExitCode;

use oci_client::client::{
    Certificate, CertificateEncoding, Client, ClientConfig, Config, ImageLayer,
};
use oci_client::manifest::OciManifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match run(&arguments).await {
        Ok(output) => {
            println!("{output}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}\n{error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let (client, auth) = (client()?, auth());
    match arguments {
        ["login", image] => {
            let operation = RegistryOperation::Pull;
            client.auth(&image.parse()?, &auth, operation).await?;
            Ok("logged in".to_owned())
        }
        ["pull", image] => pull(&client, &image.parse()?, &auth).await,
        ["push", image, file] => {
            let layers = [ImageLayer::oci_v1(std::fs::read(file)?, None)];
            let config = Config::oci_v1(b"{}".to_vec(), None);
            let image = image.parse()?;
            let pushed = client.push(&image, &layers, config, &auth, None).await?;
            Ok(pushed.manifest_url)
        }
        ["mount", image, source, digest] => {
            let (image, source): (Reference, Reference) = (image.parse()?, source.parse()?);
            client.auth(&image, &auth, RegistryOperation::Push).await?;
            client.mount_blob(&image, &source, digest).await?;
            Ok("mounted".to_owned())
        }
        ["catalog", image] => {
            let listed = client.catalog(&image.parse()?, &auth, None, None).await?;
            Ok(listed.repositories.join("\n"))
        }
        _ => Err(format!("no such action: {arguments:?}").into()),
    }
}

/// Pulls the manifest and every layer, and returns the digest of the manifest.
async fn pull(
    client: &Client,
    image: &Reference,
    auth: &RegistryAuth,
) -> Result<String, Box<dyn Error>> {
    let (manifest, digest) = client.pull_manifest(image, auth).await?;
    let OciManifest::Image(manifest) = manifest else {
        return Err("an index where an image was expected".into());
    };
    for layer in &manifest.layers {
        let mut bytes = Vec::new();
        client.pull_blob(image, layer, &mut bytes).await?;
    }
    Ok(digest)
}

fn client() -> Result<Client, Box<dyn Error>> {
    let ca = Certificate {
        encoding: CertificateEncoding::Pem,
        data: std::fs::read(var("OCI_CA")?)?,
    };
    Ok(Client::try_from(ClientConfig {
        tls_certs_only: vec![ca],
        ..ClientConfig::default()
    })?)
}

fn auth() -> RegistryAuth {
    match (var("OCI_USER"), var("OCI_PASSWORD")) {
        (Ok(user), Ok(password)) => RegistryAuth::Basic(user, password),
        _ => RegistryAuth::Anonymous,
    }
}
