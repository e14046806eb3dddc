//! The commands with which clients trust the CA of a self-signed site, log in and push. Printed by `tidegate ca` and by
//! `tidegate init`.
//!
//! Every path and name in a command is quoted for a POSIX shell.

use std::path::Path;

use crate::htpasswd::shell_word;

/// How each client learns to trust the CA in the file `ca`, an absolute path.
pub(crate) fn trust(authority: &str, ca: &Path) -> String {
    let ca = shell_word(&ca.to_string_lossy());
    let word = |text: &str| shell_word(text);
    let docker = word(&format!("/etc/docker/certs.d/{authority}/ca.crt"));
    let podman = word(&format!("/etc/containers/certs.d/{authority}/ca.crt"));
    let podman_user = format!(
        "~/.config/containers/certs.d/{}",
        word(&format!("{authority}/ca.crt"))
    );
    let containerd = format!("/etc/containerd/certs.d/{authority}");
    let (node_ca, node_hosts) = (
        format!("{containerd}/ca.crt"),
        format!("{containerd}/hosts.toml"),
    );
    let url = format!("https://{authority}");
    let hosts = word(&format!(
        "server = \"{url}\"\\n[host.\"{url}\"]\\n  ca = \"{node_ca}\"\\n"
    ));
    let system = word(&format!(
        "/usr/local/share/ca-certificates/tidegate-{}.crt",
        file_name(authority)
    ));
    let (node_ca, node_hosts) = (word(&node_ca), word(&node_hosts));
    format!(
        "docker (no restart is needed):
  sudo install -D -m 644 {ca} {docker}
podman, skopeo, buildah and CRI-O:
  sudo install -D -m 644 {ca} {podman}
podman, skopeo and buildah, for one user without root:
  install -D -m 644 {ca} {podman_user}
curl:
  curl --cacert {ca} {}
Kubernetes nodes with containerd (config_path = \"/etc/containerd/certs.d\" in its config.toml):
  sudo install -D -m 644 {ca} {node_ca}
  printf {hosts} | sudo tee {node_hosts}
every program of a Debian or Ubuntu machine (docker and containerd need a restart then):
  sudo install -m 644 {ca} {system} && sudo update-ca-certificates
",
        word(&format!("{url}/v2/")),
    )
}

/// How each client logs in as `user` and uses the registry. `ca` is the CA file of a self-signed site.
pub(crate) fn first_use(authority: &str, user: &str, ca: Option<&Path>) -> String {
    let user = shell_word(user);
    let place = shell_word(authority);
    let image = shell_word(&format!("{authority}/team/alpine:3"));
    let skopeo = shell_word(&format!("docker://{authority}/team/alpine:3"));
    let catalog = shell_word(&format!("https://{authority}/v2/_catalog"));
    let cacert = ca.map_or_else(String::new, |ca| {
        format!("--cacert {} ", shell_word(&ca.to_string_lossy()))
    });
    format!(
        "docker:
  docker login -u {user} {place}
  docker pull alpine:3 && docker tag alpine:3 {image}
  docker push {image}
podman:
  podman login -u {user} {place}
  podman pull docker.io/library/alpine:3
  podman push docker.io/library/alpine:3 {image}
skopeo:
  skopeo login -u {user} {place}
  skopeo copy docker://docker.io/library/alpine:3 {skopeo}
curl:
  curl {cacert}-u {user} {catalog}
"
    )
}

/// The authority as a part of a file name without the characters that have a meaning in a shell or a path.
fn file_name(authority: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let replaced = authority.chars().map(|c| if is_plain(c) { c } else { '-' });
    replaced.collect()
}
