//! Password files that other tools have written: Apache's `htpasswd`, `openssl passwd`, and the crypt(3) of the C library,
//! which the test calls through perl. A missing tool is a failure.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::thread;

use tidegate::htpasswd::{self, Scheme};
use tidegate::secret::Password;

#[test]
fn bcrypt_hashes_of_htpasswd_are_verified() {
    assert_reads_hashes_of_htpasswd(&["-nbB", "-C", "4"], Scheme::Bcrypt { cost: 4 });
}

#[test]
fn apr1_hashes_of_htpasswd_are_verified() {
    assert_reads_hashes_of_htpasswd(&["-nbm"], Scheme::Apr1);
}

#[test]
fn des_hashes_of_htpasswd_are_verified() {
    assert_reads_hashes_of_htpasswd(&["-nbd"], Scheme::Des);
}

#[test]
fn sha_hashes_of_htpasswd_are_verified() {
    assert_reads_hashes_of_htpasswd(&["-nbs"], Scheme::Sha);
}

#[test]
fn sha_crypt_hashes_of_htpasswd_are_verified() {
    let rounds = 5000;
    assert_reads_hashes_of_htpasswd(&["-nb2"], Scheme::Sha256Crypt { rounds });
    assert_reads_hashes_of_htpasswd(&["-nb5"], Scheme::Sha512Crypt { rounds });
}

#[test]
fn sha_crypt_hashes_of_openssl_are_verified() {
    let rounds = 5000;
    assert_reads_hashes_of_openssl("-5", Scheme::Sha256Crypt { rounds });
    assert_reads_hashes_of_openssl("-6", Scheme::Sha512Crypt { rounds });
}

#[test]
fn sha_crypt_hashes_of_crypt_are_verified() {
    let salt = |magic: &'static [u8]| {
        move |numbers: &mut Numbers| {
            let length = numbers.below(17);
            let head = [magic, b"rounds=1234$"].concat();
            [head, numbers.digits(length), b"$".to_vec()].concat()
        }
    };
    let rounds = 1234;
    assert_reads_hashes_of_crypt(60, Scheme::Sha256Crypt { rounds }, salt(b"$5$"));
    assert_reads_hashes_of_crypt(60, Scheme::Sha512Crypt { rounds }, salt(b"$6$"));
}

#[test]
fn apr1_hashes_of_openssl_are_verified() {
    assert_reads_hashes_of_openssl("-apr1", Scheme::Apr1);
}

#[test]
fn md5_hashes_of_openssl_are_verified() {
    assert_reads_hashes_of_openssl("-1", Scheme::Md5);
}

#[test]
fn des_hashes_of_crypt_are_verified() {
    // A thousand pairs cover every salt character in both positions, and passwords of all bytes.
    let salt = |numbers: &mut Numbers| numbers.digits(2);
    assert_reads_hashes_of_crypt(1000, Scheme::Des, salt);
}

#[test]
fn md5_hashes_of_crypt_are_verified() {
    let salt = |numbers: &mut Numbers| {
        let length = numbers.below(9);
        [b"$1$".to_vec(), numbers.digits(length), b"$".to_vec()].concat()
    };
    assert_reads_hashes_of_crypt(60, Scheme::Md5, salt);
}

#[test]
fn bcrypt_hashes_of_crypt_are_verified() {
    let salt = |numbers: &mut Numbers| {
        let letter = [b'b', b'y'][numbers.below(2)];
        let last = b".Oeu"[numbers.below(4)];
        [
            b"$2",
            [letter].as_slice(),
            b"$04$",
            &numbers.digits(21),
            &[last],
        ]
        .concat()
    };
    assert_reads_hashes_of_crypt(60, Scheme::Bcrypt { cost: 4 }, salt);
}

fn assert_reads_hashes_of_htpasswd(options: &[&str], scheme: Scheme) {
    let mut numbers = Numbers(0x5eed);
    for _ in 0..20 {
        let password = numbers.password();
        let mut arguments: Vec<OsString> = options.iter().map(Into::into).collect();
        arguments.extend(["alice".into(), OsString::from_vec(password.clone())]);
        let line = run("htpasswd", "apache2-utils", &arguments, b"");
        assert_can_log_in(&line, &password, scheme);
    }
}

fn assert_reads_hashes_of_openssl(option: &str, scheme: Scheme) {
    let mut numbers = Numbers(0x0551);
    for _ in 0..20 {
        let password = numbers.password();
        let length = 1 + numbers.below(8);
        let salt = OsString::from_vec(numbers.digits(length));
        let arguments = [
            "passwd".into(),
            option.into(),
            "-salt".into(),
            salt,
            "-stdin".into(),
        ];
        let hash = run(
            "openssl",
            "openssl",
            &arguments,
            &[&password, b"\n".as_slice()].concat(),
        );
        assert_can_log_in(&[b"alice:", hash.as_slice()].concat(), &password, scheme);
    }
}

/// Tests `count` hashes of crypt(3). One perl process computes all of them; it reads lines of salt and password in hexadecimal
/// digits.
fn assert_reads_hashes_of_crypt(
    count: usize,
    scheme: Scheme,
    salt: impl Fn(&mut Numbers) -> Vec<u8>,
) {
    let mut numbers = Numbers(0xc0de);
    let pairs: Vec<_> = (0..count)
        .map(|_| (salt(&mut numbers), numbers.password()))
        .collect();
    let input: String = pairs
        .iter()
        .map(|(salt, password)| format!("{} {}\n", hex(salt), hex(password)))
        .collect();
    let program = "while (<STDIN>) { my ($s, $p) = map { pack 'H*', $_ } /^(\\S*) (\\S*)$/; print crypt($p, $s), \"\\n\" }";
    let hashes = run("perl", "perl", &["-e", program], input.as_bytes());
    let hashes: Vec<_> = hashes
        .trim_ascii_end()
        .split(|&byte| byte == b'\n')
        .collect();
    assert_eq!(hashes.len(), count);
    for (hash, (_, password)) in hashes.into_iter().zip(pairs) {
        assert_can_log_in(&[b"alice:", hash].concat(), &password, scheme);
    }
}

/// Asserts that the line admits its user with this password, and not with another password.
fn assert_can_log_in(line: &[u8], password: &[u8], scheme: Scheme) {
    let text = String::from_utf8_lossy(line);
    let loaded = htpasswd::parse(line);
    let entry = loaded
        .users
        .find(b"alice")
        .unwrap_or_else(|| panic!("{text}: {:?}", loaded.problems));
    assert_eq!(entry.scheme(), scheme, "{text}");
    assert!(
        entry.verify(&Password::new(password.to_vec())),
        "{text} {password:?}"
    );
    let mut wrong = password.to_vec();
    match wrong.first_mut() {
        Some(first) => *first ^= 0x20,
        None => wrong.push(b'x'),
    }
    assert!(!entry.verify(&Password::new(wrong)), "{text} {password:?}");
}

fn run(tool: &str, package: &str, arguments: &[impl AsRef<OsStr>], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot run {tool}, of the Debian package {package}: {error}")
        });
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        // A second thread writes the input, because a deadlock would follow if the pipes of both directions were full. A write
        // error is ignored, because the tool may end before it has read everything; the output shows whether it succeeded.
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    let error_output = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} failed: {error_output}");
    output.stdout
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random number generator that produces the same numbers in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn digits(&mut self, length: usize) -> Vec<u8> {
        let all = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        (0..length).map(|_| all[self.below(64)]).collect()
    }

    /// A password of at most 40 bytes without NUL and without line ends.
    fn password(&mut self) -> Vec<u8> {
        let length = self.below(41);
        let bytes = (0..length).map(|_| 1 + self.below(255));
        bytes
            .map(|byte| u8::try_from(byte).unwrap())
            .map(|byte| if b"\r\n".contains(&byte) { b'-' } else { byte })
            .collect()
    }
}
