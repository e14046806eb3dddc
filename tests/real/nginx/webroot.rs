//! The files of an ACME client: after the import, tidegate serves those that nginx served, and no others.

use std::fmt::Write as _;
use std::fs;

use super::{Pair, Ports, main_file};
use crate::lab::{Lab, run};

const TOKEN: &str = "/.well-known/acme-challenge/token-1";

/// Directives of a server block on port 80, and whether nginx and tidegate send the file. `{B}` is the path of challenges and `{R}` is
/// the directory with the files.
const BLOCKS: &[(&str, bool, bool)] = &[
    ("location {B} { root {R}; }", true, true),
    (
        "location ^~ /.well-known/acme-challenge { default_type text/plain; root {R}/; }",
        true,
        true,
    ),
    (
        "location /.well-known/ { allow all; root {R}; try_files $uri =404; }",
        true,
        true,
    ),
    (
        "location {B} { alias {R}{B}; try_files $uri =404; }",
        true,
        true,
    ),
    (
        "location ~ /\\.well-known/acme-challenge { root {R}; } location ~ /\\. { deny all; }",
        true,
        true,
    ),
    (
        "location ~ /\\.(?!well-known).* { deny all; } location {B} { root {R}; }",
        true,
        true,
    ),
    (
        "root {R}; auth_basic x; auth_basic_user_file u; location ^~ {B} { auth_basic off; } location = {B} { return 404; }",
        true,
        true,
    ),
    (
        "location {B} { alias {R}/.well-known/acme-challenge/; }",
        true,
        true,
    ),
    // The directory has no .well-known, or the rules are not the same for all clients.
    ("location {B} { alias {R}/plain/; }", true, false),
    ("location {B} { root {R}; deny 10.0.0.0/8; }", true, false),
    (
        "location {B} { root {R}; try_files /a$uri =404; }",
        false,
        false,
    ),
    (
        "location {B} { root {R}; auth_basic x; auth_basic_user_file u; }",
        false,
        false,
    ),
    (
        "return 301 https://$host$request_uri; location {B} { root {R}; }",
        false,
        false,
    ),
    (
        "location ~ /\\. { deny all; } location {B} { root {R}; }",
        false,
        false,
    ),
    (
        "location {B} { root {R}; } location = {B}token-1 { deny all; }",
        false,
        false,
    ),
    ("location {B} { root {R}; internal; }", false, false),
    (
        "if ($host ~ test) { return 403; } location {B} { root {R}; }",
        false,
        false,
    ),
];

#[test]
fn files_of_an_acme_client_are_served_as_by_nginx() {
    let lab = Lab::start();
    let root = lab.path("webroot");
    let below = root.join(".well-known/acme-challenge");
    for directory in [&below, &root.join("plain")] {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("token-1"), "key authorization").unwrap();
    }
    let config = |lab: &Lab, ports: Ports| {
        let Ports { tls, plain } = ports;
        let (cert, key) = (lab.certs().cert(), lab.certs().key());
        let (cert, key) = (cert.display(), key.display());
        let mut http = String::new();
        for (index, (block, ..)) in BLOCKS.iter().enumerate() {
            let block = block
                .replace("{B}", "/.well-known/acme-challenge/")
                .replace("{R}", &root.display().to_string());
            let _ = write!(
                http,
                "server {{ listen 127.0.0.1:{tls} ssl; server_name h{index}.test; ssl_certificate {cert}; ssl_certificate_key {key};\n\
                 location / {{ proxy_pass http://127.0.0.1:9; }} }}\n\
                 server {{ listen 127.0.0.1:{plain}; server_name h{index}.test; {block}\n\
                 location / {{ return 301 https://$host$request_uri; }} }}\n"
            );
        }
        main_file(lab, ports, &http)
    };
    let pair = Pair::of(lab, config, |toml| toml);
    let has_file = |index: usize, ports: Ports| {
        let mut curl = pair.lab.command("curl");
        curl.args(["--silent", "--max-time", "30", "--header"])
            .arg(format!("Host: h{index}.test"))
            .arg(format!("http://127.0.0.1:{}{TOKEN}", ports.plain));
        run(&curl).succeeds() == "key authorization"
    };
    for (index, (block, nginx, tidegate)) in BLOCKS.iter().enumerate() {
        assert_eq!(has_file(index, pair.nginx), *nginx, "nginx: {block}");
        assert_eq!(
            has_file(index, pair.tidegate),
            *tidegate,
            "tidegate: {block}"
        );
    }
}
