//! Images in the archive format of `docker save`, created without network access and without a base image.
//!
//! The tests with docker, podman and skopeo load these archives.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::process::{command, run, sha256};

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// An image with layers of random bytes.
pub(crate) struct Image {
    dir: PathBuf,
    layers: usize,
}

impl Image {
    /// Creates an image in the new directory `dir`, with one layer of random bytes for each of `sizes`.
    pub(crate) fn make(dir: &Path, sizes: &[u64]) -> Self {
        std::fs::create_dir(dir).unwrap();
        for (number, size) in sizes.iter().enumerate() {
            let file = format!("file{number}");
            write_random(&dir.join(&file), *size);
            tar(dir, &layer(number), &[file]);
        }
        let image = Self {
            dir: dir.to_owned(),
            layers: sizes.len(),
        };
        std::fs::write(dir.join("config.json"), image.config()).unwrap();
        image
    }

    /// Writes the archive with `name` (`HOST/REPOSITORY:TAG`) and returns its path.
    pub(crate) fn archive(&self, name: &str) -> PathBuf {
        let layers: Vec<String> = (0..self.layers).map(layer).collect();
        let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": layers }]);
        std::fs::write(self.dir.join("manifest.json"), manifest.to_string()).unwrap();
        let members = ["manifest.json", "config.json"].map(String::from);
        tar(
            &self.dir,
            "archive.tar",
            &[&members, layers.as_slice()].concat(),
        );
        self.dir.join("archive.tar")
    }

    fn config(&self) -> String {
        let digests = (0..self.layers)
            .map(|number| format!("sha256:{}", sha256(&self.dir.join(layer(number)))));
        json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Cmd": ["/none"] },
            "rootfs": { "type": "layers", "diff_ids": digests.collect::<Vec<_>>() },
        })
        .to_string()
    }
}

/// Writes `size` random bytes, which cannot be compressed.
pub(crate) fn write_random(path: &Path, size: u64) {
    let mut bytes = File::open("/dev/urandom").unwrap().take(size);
    std::io::copy(&mut bytes, &mut File::create(path).unwrap()).unwrap();
}

fn layer(number: usize) -> String {
    format!("layer{number}.tar")
}

fn tar(dir: &Path, archive: &str, members: &[String]) {
    let mut command = command("tar", dir);
    run(command
        .arg("-C")
        .arg(dir)
        .args(["-cf"])
        .arg(dir.join(archive))
        .args(members))
    .succeeds();
}
