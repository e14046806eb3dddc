//! Files as openssl makes them, chains as rcgen makes them, and bytes that nobody made.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use tempfile::TempDir;
use time::Duration;

use super::*;
use crate::tls::shown::CertSlot;
use crate::tls::tests::{client_of, openssl, s_client, shake_over};
use crate::tls::{Settings, TicketKeys, Tls, TlsSite};

/// A directory with files in it.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(name), content).unwrap();
        self.protect(name, 0o600)
    }

    fn protect(&self, name: &str, mode: u32) -> &Self {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn openssl(&self, line: &str) -> &Self {
        openssl(self.0.path(), line);
        self
    }

    /// `cert` for `a.test`, no CA, for the key in `key`.
    fn certify(&self, key: &str, cert: &str) -> &Self {
        self.openssl(&format!(
            "req -x509 -new -key {key} -out {cert} -days 30 -subj /CN=a.test \
             -addext subjectAltName=DNS:a.test,DNS:*.b.test,IP:10.0.0.1 \
             -addext basicConstraints=critical,CA:FALSE"
        ))
    }

    fn load_at(
        &self,
        cert: &str,
        key: &str,
        now: OffsetDateTime,
    ) -> Result<(CertifiedPair, Vec<Warning>), Error> {
        load(&self.path(cert), &self.path(key), now)
    }

    fn load(&self, cert: &str, key: &str) -> Result<(CertifiedPair, Vec<Warning>), Error> {
        self.load_at(cert, key, OffsetDateTime::now_utc())
    }

    /// The sentence of the error, which names the file at fault.
    fn refusal(&self, cert: &str, key: &str, at_fault: &str) -> String {
        let said = self.load(cert, key).unwrap_err().to_string();
        let path = self.path(at_fault).display().to_string();
        let rest = said.strip_prefix(&path).unwrap_or_else(|| panic!("{said}"));
        assert!(rest.contains("; "), "no remedy: {said}");
        rest.to_owned()
    }

    fn tls(&self, pair: CertifiedPair) -> Tls {
        let hosts = vec!["a.test".into()];
        let site = TlsSite {
            hosts,
            shown: CertSlot::new(pair, OffsetDateTime::now_utc()),
            trust: None,
        };
        Tls::new(
            &Settings::default(),
            vec![site],
            &TicketKeys::new().unwrap(),
        )
        .unwrap()
    }
}

const P256: &str = "ecparam -name prime256v1 -genkey -noout -out";

#[tokio::test]
async fn every_form_of_key_serves_openssl() {
    let files = Files::new();
    files
        .openssl("genrsa -traditional -out pkcs1 2048")
        .openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out rsa-pkcs8")
        .openssl(&format!("{P256} sec1"))
        .openssl("ecparam -name prime256v1 -genkey -out parameters-sec1")
        .openssl("pkcs8 -topk8 -nocrypt -in sec1 -out ec-pkcs8")
        .openssl("ecparam -name secp384r1 -genkey -noout -out p384")
        .openssl("ecparam -name secp521r1 -genkey -noout -out p521")
        .openssl("genpkey -algorithm ed25519 -out ed25519");
    for (key, begins) in [
        ("pkcs1", "-----BEGIN RSA PRIVATE KEY"),
        ("rsa-pkcs8", "-----BEGIN PRIVATE KEY"),
        ("sec1", "-----BEGIN EC PRIVATE KEY"),
        ("parameters-sec1", "-----BEGIN EC PARAMETERS"),
        ("ec-pkcs8", "-----BEGIN PRIVATE KEY"),
        ("p384", "-----BEGIN EC PRIVATE KEY"),
        ("p521", "-----BEGIN EC PRIVATE KEY"),
        ("ed25519", "-----BEGIN PRIVATE KEY"),
    ] {
        assert!(files.read(key).starts_with(begins), "{key}");
        files.certify(key, "cert").protect(key, 0o600);
        let (pair, warnings) = files.load("cert", key).unwrap();
        assert_eq!(warnings, [], "{key}");
        for version in ["-tls1_3", "-tls1_2"] {
            let line =
                format!("{version} -CAfile cert -verify_return_error -verify_hostname a.test");
            let (info, done) = s_client(&files.tls(pair.clone()), files.0.path(), &line).await;
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(
                done.status.success() && info.is_some(),
                "{key} {version}: {said}"
            );
        }
    }
}

#[tokio::test]
async fn the_bare_openssl_certificate_works_and_warns() {
    let files = Files::new();
    files
        .openssl("req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 30 -subj /CN=a.test -addext subjectAltName=DNS:a.test")
        .protect("key", 0o600);
    let (pair, warnings) = files.load("cert", "key").unwrap();
    let path = files.path("cert");
    assert_eq!(warnings, [Warning::AuthorityAsLeaf { path }]);
    let line = "-servername a.test -CAfile cert -verify_return_error -verify_hostname a.test";
    let (info, done) = s_client(&files.tls(pair), files.0.path(), line).await;
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_eq!(info.unwrap().sni.as_deref(), Some("a.test"));

    // What the warning says of rustls clients.
    let (pair, _) = files.load("cert", "key").unwrap();
    let client = client_of(&files.read("cert"), rustls::ALL_VERSIONS, &[]);
    let tls = files.tls(pair);
    let (refused, _) = shake_over(tokio::io::duplex(4096), &tls, &client, "a.test").await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("CaUsedAsEndEntity"), "{said}");
}

#[test]
fn one_file_may_hold_both_in_any_order() {
    let files = Files::new();
    files.openssl(&format!("{P256} key")).certify("key", "cert");
    let (cert, key) = (files.read("cert"), files.read("key"));
    files
        .write("cert-first", format!("{cert}{key}"))
        .write("key-first", format!("{key}\r\n some words \r\n{cert}"))
        .write("crlf", format!("\u{feff}{cert}{key}").replace('\n', "\r\n"))
        .write("no-last-newline", format!("{key}{}", cert.trim_end()));
    for name in ["cert-first", "key-first", "crlf", "no-last-newline"] {
        let (pair, warnings) = files.load(name, name).unwrap();
        assert_eq!((pair.chain().len(), warnings.len()), (1, 0), "{name}");
    }
}

#[test]
fn names_and_dates_are_known() {
    let files = Files::new();
    files.openssl(&format!("{P256} key")).certify("key", "cert");
    let (pair, _) = files.load("cert", "key").unwrap();
    let names: Vec<String> = pair.names().iter().map(Name::to_string).collect();
    assert_eq!(names, ["a.test", "*.b.test", "10.0.0.1"]);
    let left = pair.not_after() - OffsetDateTime::now_utc();
    assert!(
        left > Duration::days(29) && left <= Duration::days(30),
        "{left}"
    );
    for host in ["A.test", "x.b.test", "*.b.test", "10.0.0.1"] {
        assert!(pair.covers(host), "{host}");
    }
    let path = Path::new("c.pem");
    let hosts = ["a.test", "*", "b.test", "10.0.0.2"].map(String::from);
    let said: Vec<String> = pair
        .uncovered(path, &hosts)
        .iter()
        .map(Warning::to_string)
        .collect();
    assert_eq!(said.len(), 2);
    assert!(
        said[0].starts_with(
            "c.pem: the certificate does not cover \"b.test\", only a.test, *.b.test, 10.0.0.1:"
        ),
        "{said:?}"
    );
    assert!(said[1].contains("\"10.0.0.2\""));
    assert!(format!("{pair:?}").starts_with("Pair(a.test, *.b.test, 10.0.0.1, until "));
}

#[test]
fn missing_and_forbidden_files_are_named() {
    let files = Files::new();
    files.openssl(&format!("{P256} key")).certify("key", "cert");
    assert!(
        files
            .refusal("no", "key", "no")
            .contains("correct the path")
    );
    assert!(
        files
            .refusal("cert", "no", "no")
            .contains("correct the path")
    );
    assert!(
        files
            .refusal(".", "key", ".")
            .contains("name a readable PEM file")
    );
    files.write("huge", vec![b'-'; (1 << 20) + 1]);
    assert!(
        files
            .refusal("huge", "key", "huge")
            .contains("larger than 1 MiB")
    );
    let forbidden = io::Error::from(io::ErrorKind::PermissionDenied);
    assert!(remedy(&forbidden).contains("chmod 0640"));
}

#[test]
fn wrong_files_are_named_for_what_they_are() {
    let files = Files::new();
    files
        .openssl(&format!("{P256} key"))
        .certify("key", "cert")
        .openssl("req -new -key key -out request -subj /CN=a")
        .openssl("x509 -in cert -outform der -out cert.der")
        .openssl("pkey -in key -pubout -out public")
        .write("empty", "");
    let swapped = files.refusal("key", "cert", "key");
    assert!(
        swapped.contains("no certificate in it, it holds a private key"),
        "{swapped}"
    );
    for (file, holds) in [
        ("request", "it holds a certificate request"),
        ("cert.der", "nothing in PEM form"),
        ("empty", "nothing in PEM form"),
        ("public", "a public key"),
    ] {
        assert!(files.refusal(file, "key", file).contains(holds), "{file}");
        assert!(files.refusal("cert", file, file).contains(holds), "{file}");
    }
    let none = files.refusal("cert", "cert", "cert");
    assert!(
        none.contains("no private key in it, it holds a certificate;"),
        "{none}"
    );
}

#[test]
fn encrypted_keys_are_told_from_broken_ones() {
    let files = Files::new();
    files
        .openssl(&format!("{P256} key"))
        .certify("key", "cert")
        .openssl("pkcs8 -topk8 -in key -out pkcs8 -passout pass:secret")
        .openssl("ec -in key -out sec1 -aes128 -passout pass:secret");
    let all = files.read("sec1") + &files.read("cert");
    files.write("all", all);
    assert!(files.read("sec1").contains("Proc-Type: 4,ENCRYPTED"));
    for name in ["pkcs8", "sec1", "all"] {
        let said = files.refusal("cert", name, name);
        assert!(
            said.contains("is encrypted; decrypt it with: openssl pkey -in "),
            "{said}"
        );
    }
    // Beside a key that can be used it is no matter.
    assert!(files.load("all", "key").is_ok());
}

#[test]
fn keys_that_cannot_sign_are_refused() {
    let files = Files::new();
    files
        .openssl("genrsa -out rsa1024 1024")
        .openssl("ecparam -name secp256k1 -genkey -noout -out bitcoin")
        .openssl("genpkey -algorithm ed448 -out ed448");
    for (key, kind) in [
        ("rsa1024", "RSA with 1024 bits"),
        ("bitcoin", "EC on the curve 1.3.132.0.10"),
        ("ed448", "of type 1.3.101.113"),
    ] {
        let said = files.certify(key, "cert").refusal("cert", key, key);
        assert!(said.contains(kind), "{said}");
        assert!(said.contains("use RSA with 2048 to 8192 bits"), "{said}");
    }
}

#[test]
fn a_foreign_key_is_refused() {
    let files = Files::new();
    files
        .openssl(&format!("{P256} key"))
        .openssl(&format!("{P256} other"))
        .openssl("genrsa -out rsa 2048")
        .certify("key", "cert");
    for key in ["other", "rsa"] {
        let said = files.refusal("cert", key, key);
        assert!(
            said.contains("does not belong to the certificate in "),
            "{said}"
        );
        assert!(said.contains(&files.path("cert").display().to_string()));
    }
}

#[test]
fn damaged_sections_are_refused_without_quoting_them() {
    let files = Files::new();
    files.openssl(&format!("{P256} key")).certify("key", "cert");
    let (cert, key) = (files.read("cert"), files.read("key"));
    let cut = &cert.as_bytes()[..cert.len() / 2];
    files
        .write("cut", cut)
        .write("not-base64", cert.replace('\n', "\n!"))
        .write(
            "not-x509",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .write(
            "second",
            format!("{cert}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        )
        .write("cut-key", &key.as_bytes()[..key.len() / 2]);
    assert!(
        files
            .refusal("cut", "key", "cut")
            .contains("its END line is missing")
    );
    assert!(
        files
            .refusal("not-base64", "key", "not-base64")
            .contains("damaged")
    );
    assert!(
        files
            .refusal("not-x509", "key", "not-x509")
            .contains("certificate 1 is not in X.509 form")
    );
    assert!(
        files
            .refusal("second", "key", "second")
            .contains("certificate 2 ")
    );
    let said = files.refusal("cert", "cut-key", "cut-key");
    assert!(said.contains("its END line is missing"), "{said}");
    assert!(!said.contains(key.lines().nth(1).unwrap()));
}

#[test]
fn a_key_for_everyone_is_warned_of_but_a_group_is_not() {
    let files = Files::new();
    files.openssl(&format!("{P256} key")).certify("key", "cert");
    for (mode, exposed) in [
        (0o600, false),
        (0o400, false),
        (0o640, false),
        (0o644, true),
        (0o602, true),
    ] {
        let (_, warnings) = files.protect("key", mode).load("cert", "key").unwrap();
        let path = files.path("key");
        let expected = exposed.then_some(Warning::KeyExposed { path, mode });
        assert_eq!(warnings, Vec::from_iter(expected), "{mode:o}");
    }
    let said = warning::exposed(Path::new("k"), 0o644).unwrap().to_string();
    assert!(
        said.starts_with("k: ") && said.contains("(mode 0644)"),
        "{said}"
    );
}

#[test]
fn a_common_name_alone_is_warned_of() {
    let files = Files::new();
    files
        .openssl("req -x509 -newkey ed25519 -nodes -keyout key -out cert -days 30 -subj /CN=a.test -addext basicConstraints=critical,CA:FALSE")
        .protect("key", 0o600);
    let (pair, warnings) = files.load("cert", "key").unwrap();
    assert_eq!(
        warnings,
        [Warning::NoNames {
            path: files.path("cert")
        }]
    );
    assert!(!pair.covers("a.test"));
    assert_eq!(pair.uncovered(Path::new("c"), &["a.test".into()]), []);
}

/// A root, an intermediate and a leaf for `a.test`, each as PEM, and the leaf's key.
struct Family {
    root: String,
    middle: String,
    leaf: String,
    key: String,
    now: OffsetDateTime,
}

impl Family {
    fn new() -> Self {
        let now = OffsetDateTime::now_utc();
        let (root_params, root_key) = (params("root", true, now), KeyPair::generate().unwrap());
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let (middle_params, middle_key) =
            (params("middle", true, now), KeyPair::generate().unwrap());
        let middle = middle_params.signed_by(&middle_key, &root_issuer).unwrap();
        let middle_issuer = Issuer::new(middle_params, middle_key);
        let key = KeyPair::generate().unwrap();
        let leaf = params("leaf", false, now)
            .signed_by(&key, &middle_issuer)
            .unwrap();
        Self {
            root: root.pem(),
            middle: middle.pem(),
            leaf: leaf.pem(),
            key: key.serialize_pem(),
            now,
        }
    }

    /// What is sent, by name, and what is said about the file.
    fn load(&self, parts: &[&str], now: OffsetDateTime) -> (Vec<&'static str>, Vec<Warning>) {
        let files = Files::new();
        files.write("cert", parts.concat()).write("key", &self.key);
        let (pair, warnings) = files.load_at("cert", "key", now).unwrap();
        (
            pair.chain().iter().map(|der| self.name(der)).collect(),
            warnings,
        )
    }

    fn name(&self, der: &CertificateDer<'_>) -> &'static str {
        use rustls_pki_types::pem::PemObject;
        let is = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap() == *der;
        match () {
            () if is(&self.leaf) => "leaf",
            () if is(&self.middle) => "middle",
            () if is(&self.root) => "root",
            () => "stranger",
        }
    }
}

fn params(name: &str, is_authority: bool, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["a.test".into()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(if is_authority { 100 } else { 50 });
    params.use_authority_key_identifier_extension = true;
    if is_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

#[test]
fn chains_are_sent_in_order() {
    let family = Family::new();
    let stranger = Family::new();
    let (root, middle, leaf) = (
        family.root.as_str(),
        family.middle.as_str(),
        family.leaf.as_str(),
    );
    let cases: [(&[&str], &[&str], bool); 7] = [
        (&[leaf, middle], &["leaf", "middle"], true),
        (&[leaf, middle, root], &["leaf", "middle", "root"], true),
        (&[middle, leaf], &["leaf", "middle"], false),
        (&[root, middle, leaf], &["leaf", "middle", "root"], false),
        (&[leaf, root, middle], &["leaf", "middle", "root"], false),
        (
            &[leaf, middle, &stranger.root],
            &["leaf", "middle", "stranger"],
            true,
        ),
        // The same names with other keys are another family.
        (
            &[leaf, &stranger.middle, middle],
            &["leaf", "middle", "stranger"],
            false,
        ),
    ];
    for (file, sent, in_order) in cases {
        let (chain, warnings) = family.load(file, family.now);
        assert_eq!(chain, sent);
        let expected = matches!(warnings[..], [Warning::OutOfOrder { .. }]);
        assert!(
            expected != in_order && warnings.len() < 2,
            "{sent:?}: {warnings:?}"
        );
    }
}

#[test]
fn a_missing_issuer_is_warned_of() {
    let family = Family::new();
    for file in [vec![family.leaf.as_str()], vec![&family.leaf, &family.root]] {
        let (_, warnings) = family.load(&file, family.now);
        let [Warning::Incomplete { issuer, .. }] = &warnings[..] else {
            panic!("{warnings:?}");
        };
        assert_eq!(issuer, "CN=middle");
        assert!(
            warnings[0]
                .to_string()
                .contains("\"CN=middle\" is missing: append it")
        );
    }
}

#[test]
fn dates_are_judged_by_the_time_given() {
    let family = Family::new();
    let said = |after: Duration| {
        let (_, warnings) = family.load(&[&family.leaf, &family.middle], family.now + after);
        warnings
            .iter()
            .map(Warning::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(said(Duration::ZERO), "");
    // A quarter of its 51 days.
    assert_eq!(said(Duration::days(37)), "");
    assert!(said(Duration::days(38)).contains("of \"CN=leaf\" expires on "));
    assert!(said(Duration::days(51)).contains("of \"CN=leaf\" expired on "));
    let both = said(Duration::days(101));
    assert!(
        both.contains("\"CN=leaf\" expired") && both.contains("\"CN=middle\" expired"),
        "{both}"
    );
    assert!(said(Duration::days(-2)).contains("of \"CN=leaf\" is not valid before "));
}

#[test]
fn a_pair_fits_a_server() {
    let family = Family::new();
    let files = Files::new();
    files
        .write("cert", family.leaf.clone() + &family.middle)
        .write("key", &family.key);
    let (pair, _) = files.load("cert", "key").unwrap();
    assert!(pair.certified().keys_match().is_ok());
    let config: Arc<ServerConfig> = files.tls(pair).choose(Some("a.test"));
    assert_eq!(
        config.alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
}

/// Pieces from which files are made that look right from afar.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![
        Just("CERTIFICATE"),
        Just("PRIVATE KEY"),
        Just("RSA PRIVATE KEY"),
        Just("EC PRIVATE KEY"),
        Just("ENCRYPTED PRIVATE KEY"),
        Just("-"),
    ];
    let der = prop::collection::vec(any::<u8>(), 0..80);
    let section = (label, der).prop_map(|(label, der)| {
        let text = <base64ct::Base64 as base64ct::Encoding>::encode_string(&der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n").into_bytes()
    });
    let line = "(-----BEGIN |-----END |-----|Proc-Type: 4,ENCRYPTED|[ -~]{0,20}|\r|\n){0,6}";
    prop_oneof![
        section,
        line.prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..200),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_file_panics(cert in prop::collection::vec(piece(), 0..4), key in prop::collection::vec(piece(), 0..4)) {
        let files = Files::new();
        files.write("cert", cert.concat()).write("key", key.concat());
        let error = files.load("cert", "key").unwrap_err();
        let said = error.to_string();
        prop_assert!(said.starts_with(&files.0.path().display().to_string()), "{said}");
        prop_assert!(!said.contains('\n'), "{said}");
    }

    /// A certificate with some bytes changed is refused or served, and what is said stays on one line.
    #[test]
    fn no_certificate_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let pair = crate::tls::self_signed::in_memory(OffsetDateTime::UNIX_EPOCH).unwrap();
        let pair = pair.issue(&["a.test".into()], OffsetDateTime::UNIX_EPOCH).unwrap();
        let mut der = pair.chain()[0].to_vec();
        for (place, byte) in changes {
            let place = place.index(der.len());
            der[place] = byte;
        }
        if let Some(leaf) = Certificate::read(der.into()) {
            let chain = order_chain(vec![leaf], None).unwrap();
            for warning in warning::judge(Path::new("c"), &chain, OffsetDateTime::now_utc()) {
                prop_assert!(!warning.to_string().contains('\n'));
            }
        }
    }
}
