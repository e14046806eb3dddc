//! Pairs of files that openssl creates, chains that rcgen creates, and random bytes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use tempfile::TempDir;
use time::Duration;

use super::*;
use crate::tls::tests::{client_of, handshake_over, openssl, s_client};
use crate::tls::{CertSlot, Settings, TicketKeys, TlsConfigs, TlsSite};

/// A temporary directory with test files.
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

    /// Writes a self-signed certificate for `a.test`, which is no CA, for the private key in the file `key`.
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
    ) -> Result<(CertifiedPair, Vec<CertWarning>), Error> {
        load_pair(&self.path(cert), &self.path(key), now)
    }

    fn load(&self, cert: &str, key: &str) -> Result<(CertifiedPair, Vec<CertWarning>), Error> {
        self.load_at(cert, key, OffsetDateTime::now_utc())
    }

    /// Fails to load the pair, and returns the error message without the path of the faulty file, with which it begins.
    fn load_error(&self, cert: &str, key: &str, faulty: &str) -> String {
        let message = self.load(cert, key).unwrap_err().to_string();
        let path = self.path(faulty).display().to_string();
        let rest = message
            .strip_prefix(&path)
            .unwrap_or_else(|| panic!("{message}"));
        assert!(rest.contains("; "), "no remedy: {message}");
        rest.to_owned()
    }

    fn tls(&self, pair: CertifiedPair) -> TlsConfigs {
        let hosts = vec!["a.test".into()];
        let site = TlsSite {
            hosts,
            listen: None,
            slot: CertSlot::new(pair, OffsetDateTime::now_utc()),
            client_ca: None,
        };
        TlsConfigs::new(
            &Settings::default(),
            vec![site],
            &TicketKeys::new().unwrap(),
        )
        .unwrap()
    }
}

const P256: &str = "ecparam -name prime256v1 -genkey -noout -out";

#[tokio::test]
async fn every_kind_and_form_of_key_works_with_openssl() {
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
            let message = String::from_utf8_lossy(&done.stderr);
            assert!(
                done.status.success() && info.is_some(),
                "{key} {version}: {message}"
            );
        }
    }
}

#[tokio::test]
async fn a_certificate_with_ca_true_is_served_with_a_warning() {
    let files = Files::new();
    files
        .openssl("req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 30 -subj /CN=a.test -addext subjectAltName=DNS:a.test")
        .protect("key", 0o600);
    let (pair, warnings) = files.load("cert", "key").unwrap();
    let path = files.path("cert");
    assert_eq!(warnings, [CertWarning::CaAsLeaf { path }]);
    let line = "-servername a.test -CAfile cert -verify_return_error -verify_hostname a.test";
    let (info, done) = s_client(&files.tls(pair), files.0.path(), line).await;
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_eq!(info.unwrap().sni.as_deref(), Some("a.test"));

    // rustls clients reject it, as the warning says.
    let (pair, _) = files.load("cert", "key").unwrap();
    let client = client_of(&pair.chain()[0], rustls::ALL_VERSIONS, &[]);
    let tls = files.tls(pair);
    let (result, _) = handshake_over(tokio::io::duplex(4096), &tls, &client, "a.test").await;
    let message = result.unwrap_err().to_string();
    assert!(message.contains("CaUsedAsEndEntity"), "{message}");
}

#[test]
fn one_file_may_contain_certificate_and_key_in_any_order() {
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
fn names_and_dates_are_parsed() {
    let files = Files::new();
    files.openssl(&format!("{P256} key")).certify("key", "cert");
    let (pair, _) = files.load("cert", "key").unwrap();
    let names: Vec<String> = pair.names().iter().map(SubjectAltName::to_string).collect();
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
    let message: Vec<String> = pair
        .uncovered(path, &hosts)
        .iter()
        .map(CertWarning::to_string)
        .collect();
    assert_eq!(message.len(), 2);
    assert!(
        message[0].starts_with(
            "c.pem: the certificate does not cover \"b.test\", only a.test, *.b.test, 10.0.0.1:"
        ),
        "{message:?}"
    );
    assert!(message[1].contains("\"10.0.0.2\""));
    assert!(format!("{pair:?}").starts_with("CertifiedPair(a.test, *.b.test, 10.0.0.1, until "));
}

#[test]
fn the_error_names_a_file_that_cannot_be_read() {
    let files = Files::new();
    files.openssl(&format!("{P256} key")).certify("key", "cert");
    assert!(
        files
            .load_error("no", "key", "no")
            .contains("correct the path")
    );
    assert!(
        files
            .load_error("cert", "no", "no")
            .contains("correct the path")
    );
    assert!(
        files
            .load_error(".", "key", ".")
            .contains("name a readable PEM file")
    );
    files.write("huge", vec![b'-'; (1 << 20) + 1]);
    assert!(
        files
            .load_error("huge", "key", "huge")
            .contains("larger than 1 MiB")
    );
}

#[test]
fn the_error_says_what_a_wrong_file_contains() {
    let files = Files::new();
    files
        .openssl(&format!("{P256} key"))
        .certify("key", "cert")
        .openssl("req -new -key key -out request -subj /CN=a")
        .openssl("x509 -in cert -outform der -out cert.der")
        .openssl("pkey -in key -pubout -out public")
        .write("empty", "");
    let swapped = files.load_error("key", "cert", "key");
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
        assert!(
            files.load_error(file, "key", file).contains(holds),
            "{file}"
        );
        assert!(
            files.load_error("cert", file, file).contains(holds),
            "{file}"
        );
    }
    let none = files.load_error("cert", "cert", "cert");
    assert!(
        none.contains("no private key in it, it holds a certificate;"),
        "{none}"
    );
}

#[test]
fn encrypted_keys_have_an_error_of_their_own() {
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
        let message = files.load_error("cert", name, name);
        assert!(
            message.contains("is encrypted; decrypt it with: openssl pkey -in "),
            "{message}"
        );
        assert!(
            message.ends_with(&format!("{name}.plain as the key")),
            "{message}"
        );
    }
    // An encrypted key in the certificate's file does not matter, because the key comes from the other file.
    assert!(files.load("all", "key").is_ok());
}

#[test]
fn unsupported_keys_are_rejected() {
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
        let message = files.certify(key, "cert").load_error("cert", key, key);
        assert!(message.contains(kind), "{message}");
        assert!(
            message.contains("use RSA with 2048 to 8192 bits"),
            "{message}"
        );
    }
}

#[test]
fn a_key_of_another_certificate_is_rejected() {
    let files = Files::new();
    files
        .openssl(&format!("{P256} key"))
        .openssl(&format!("{P256} other"))
        .openssl("genrsa -out rsa 2048")
        .certify("key", "cert");
    for key in ["other", "rsa"] {
        let message = files.load_error("cert", key, key);
        assert!(
            message.contains("does not belong to the certificate in "),
            "{message}"
        );
        assert!(message.contains(&files.path("cert").display().to_string()));
    }
}

#[test]
fn damaged_sections_are_rejected_without_quoting_them() {
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
            .load_error("cut", "key", "cut")
            .contains("its END line is missing")
    );
    assert!(
        files
            .load_error("not-base64", "key", "not-base64")
            .contains("damaged")
    );
    assert!(
        files
            .load_error("not-x509", "key", "not-x509")
            .contains("certificate 1 is not in X.509 form")
    );
    assert!(
        files
            .load_error("second", "key", "second")
            .contains("certificate 2 ")
    );
    let message = files.load_error("cert", "cut-key", "cut-key");
    assert!(message.contains("its END line is missing"), "{message}");
    assert!(!message.contains(key.lines().nth(1).unwrap()));
}

#[test]
fn a_key_file_that_all_users_can_access_causes_a_warning() {
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
        let expected = exposed.then_some(CertWarning::KeyExposed { path, mode });
        assert_eq!(warnings, Vec::from_iter(expected), "{mode:o}");
    }
    let message = check_key_mode(Path::new("k"), 0o644).unwrap().to_string();
    assert!(
        message.starts_with("k: ") && message.contains("(mode 0644)"),
        "{message}"
    );
}

#[test]
fn a_common_name_without_subject_alt_name_causes_a_warning() {
    let files = Files::new();
    files
        .openssl("req -x509 -newkey ed25519 -nodes -keyout key -out cert -days 30 -subj /CN=a.test -addext basicConstraints=critical,CA:FALSE")
        .protect("key", 0o600);
    let (pair, warnings) = files.load("cert", "key").unwrap();
    assert_eq!(
        warnings,
        [CertWarning::NoNames {
            path: files.path("cert")
        }]
    );
    assert!(!pair.covers("a.test"));
    assert_eq!(pair.uncovered(Path::new("c"), &["a.test".into()]), []);
}

/// A root, an intermediate and a leaf for `a.test`, in PEM form, and the private key of the leaf.
struct TestChain {
    root: String,
    intermediate: String,
    leaf: String,
    key: String,
    now: OffsetDateTime,
}

impl TestChain {
    fn new() -> Self {
        let now = OffsetDateTime::now_utc();
        let (root_params, root_key) = (params("root", true, now), KeyPair::generate().unwrap());
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let (intermediate_params, intermediate_key) = (
            params("intermediate", true, now),
            KeyPair::generate().unwrap(),
        );
        let intermediate = intermediate_params
            .signed_by(&intermediate_key, &root_issuer)
            .unwrap();
        let intermediate_issuer = Issuer::new(intermediate_params, intermediate_key);
        let key = KeyPair::generate().unwrap();
        let leaf = params("leaf", false, now)
            .signed_by(&key, &intermediate_issuer)
            .unwrap();
        Self {
            root: root.pem(),
            intermediate: intermediate.pem(),
            leaf: leaf.pem(),
            key: key.serialize_pem(),
            now,
        }
    }

    /// Loads a file with these parts, and returns the names of the certificates that are sent, and the warnings.
    fn load(&self, parts: &[&str], now: OffsetDateTime) -> (Vec<&'static str>, Vec<CertWarning>) {
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
            () if is(&self.intermediate) => "intermediate",
            () if is(&self.root) => "root",
            () => "other",
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
    let chain_files = TestChain::new();
    let other = TestChain::new();
    let (root, intermediate, leaf) = (
        chain_files.root.as_str(),
        chain_files.intermediate.as_str(),
        chain_files.leaf.as_str(),
    );
    let cases: [(&[&str], &[&str], bool); 7] = [
        (&[leaf, intermediate], &["leaf", "intermediate"], true),
        (
            &[leaf, intermediate, root],
            &["leaf", "intermediate", "root"],
            true,
        ),
        (&[intermediate, leaf], &["leaf", "intermediate"], false),
        (
            &[root, intermediate, leaf],
            &["leaf", "intermediate", "root"],
            false,
        ),
        (
            &[leaf, root, intermediate],
            &["leaf", "intermediate", "root"],
            false,
        ),
        (
            &[leaf, intermediate, &other.root],
            &["leaf", "intermediate", "other"],
            true,
        ),
        // A certificate with the same name but another key is not the issuer.
        (
            &[leaf, &other.intermediate, intermediate],
            &["leaf", "intermediate", "other"],
            false,
        ),
    ];
    for (file, sent, in_order) in cases {
        let (chain, warnings) = chain_files.load(file, chain_files.now);
        assert_eq!(chain, sent);
        let expected = matches!(warnings[..], [CertWarning::OutOfOrder { .. }]);
        assert!(
            expected != in_order && warnings.len() < 2,
            "{sent:?}: {warnings:?}"
        );
    }
}

#[test]
fn a_missing_intermediate_causes_a_warning() {
    let chain_files = TestChain::new();
    for file in [
        vec![chain_files.leaf.as_str()],
        vec![&chain_files.leaf, &chain_files.root],
    ] {
        let (_, warnings) = chain_files.load(&file, chain_files.now);
        let [CertWarning::Incomplete { issuer, .. }] = &warnings[..] else {
            panic!("{warnings:?}");
        };
        assert_eq!(issuer, "CN=intermediate");
        assert!(
            warnings[0]
                .to_string()
                .contains("\"CN=intermediate\" is missing: append it")
        );
    }
}

#[test]
fn dates_are_compared_with_the_given_time() {
    let chain_files = TestChain::new();
    let message = |after: Duration| {
        let (_, warnings) = chain_files.load(
            &[&chain_files.leaf, &chain_files.intermediate],
            chain_files.now + after,
        );
        warnings
            .iter()
            .map(CertWarning::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(message(Duration::ZERO), "");
    // The warning begins when a quarter of the lifetime of 51 days is left.
    assert_eq!(message(Duration::days(37)), "");
    assert!(message(Duration::days(38)).contains("of \"CN=leaf\" expires on "));
    assert!(message(Duration::days(51)).contains("of \"CN=leaf\" expired on "));
    let both = message(Duration::days(101));
    assert!(
        both.contains("\"CN=leaf\" expired") && both.contains("\"CN=intermediate\" expired"),
        "{both}"
    );
    assert!(message(Duration::days(-2)).contains("of \"CN=leaf\" is not valid before "));
}

#[test]
fn a_pair_can_be_used_by_a_server() {
    let chain_files = TestChain::new();
    let files = Files::new();
    files
        .write("cert", chain_files.leaf.clone() + &chain_files.intermediate)
        .write("key", &chain_files.key);
    let (pair, _) = files.load("cert", "key").unwrap();
    assert!(pair.certified_key().keys_match().is_ok());
    let config: Arc<ServerConfig> = files.tls(pair).choose(Some("a.test"));
    assert_eq!(
        config.alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
}

/// Generates parts of files that resemble PEM files.
fn pem_part() -> impl Strategy<Value = Vec<u8>> {
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
    fn no_file_causes_a_panic(cert in prop::collection::vec(pem_part(), 0..4), key in prop::collection::vec(pem_part(), 0..4)) {
        let files = Files::new();
        files.write("cert", cert.concat()).write("key", key.concat());
        let error = files.load("cert", "key").unwrap_err();
        let message = error.to_string();
        prop_assert!(message.starts_with(&files.0.path().display().to_string()), "{message}");
        prop_assert!(!message.contains('\n'), "{message}");
    }

    /// A certificate with some changed bytes is rejected or served, and each warning is one line.
    #[test]
    fn no_certificate_causes_a_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let pair = crate::tls::self_signed::in_memory(OffsetDateTime::UNIX_EPOCH).unwrap();
        let pair = pair.issue(&["a.test".into()], OffsetDateTime::UNIX_EPOCH).unwrap();
        let mut der = pair.chain()[0].to_vec();
        for (place, byte) in changes {
            let place = place.index(der.len());
            der[place] = byte;
        }
        if let Some(leaf) = Certificate::parse(der.into()) {
            let chain = order_chain(vec![leaf], None).unwrap();
            for warning in check_chain(Path::new("c"), &chain, OffsetDateTime::now_utc()) {
                prop_assert!(!warning.to_string().contains('\n'));
            }
        }
    }
}
