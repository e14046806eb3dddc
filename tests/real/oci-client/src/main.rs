//! `tidegate-oci-client ACTION REFERENCE …`: one operation of oci-client on a registry.
//!
//! Run by the real-client tests. `OCI_CA` names the CA to trust; without `OCI_USER` and `OCI_PASSWORD` it goes
//! without a login. What the client makes of an error is printed as it is.

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
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match act(&words).await {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}\n{error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn act(words: &[&str]) -> Result<String, Box<dyn Error>> {
    let (client, auth) = (client()?, auth());
    match words {
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
        _ => Err(format!("no such action: {words:?}").into()),
    }
}

/// The manifest and every layer; says the manifest's digest.
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
