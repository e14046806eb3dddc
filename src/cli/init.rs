//! `tidegate init`: writes a first proxy.toml and password file, checks them as `tidegate check` does, and prints what to do next.
//!
//! Each setting is an option; the command asks on the terminal for a setting whose option is missing. It overwrites no file. If
//! the check rejects the new files, or if the generated password cannot be printed, the command removes the files again: it
//! leaves either a configuration that starts, or nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::client_commands::first_use;
use super::output::{EXIT_CONFIG_REJECTED, EXIT_USAGE, print_line, rejection_message, warn};
use super::password_prompt;
use crate::config::problem::Problem;
use crate::config::{self, toml_string};
use crate::htpasswd::generate::{self, HashParams, USUAL_COST};
use crate::htpasswd::{edit, shell_word, store};
use crate::net::host::https_authority;
use crate::secret::Password;
use crate::snapshot::{BuildMode, Snapshot};
use crate::tls::{self, self_signed};

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The directory for proxy.toml and htpasswd; it is created if necessary
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The name by which clients address the registry, such as docker.example.com
    #[arg(long)]
    host: Option<String>,
    /// The port for clients [default: 8443 with --self-signed, else 443]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The registry behind the proxy [default: http://127.0.0.1:5000]
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Use this certificate chain, in PEM form
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with_all = ["acme", "self_signed"])]
    certificate: Option<PathBuf>,
    /// The private key of the certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Obtain a certificate from Let's Encrypt, which writes to this address if there is a problem
    #[arg(long, value_name = "EMAIL", conflicts_with = "self_signed")]
    acme: Option<String>,
    /// Issue a certificate from the proxy's own CA, which every client must be configured to trust
    #[arg(long)]
    self_signed: bool,
    /// The name of the first user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Take the user's password from the first line of standard input
    #[arg(long, conflicts_with = "generate")]
    stdin: bool,
    /// Generate a random password and print it
    #[arg(long)]
    generate: bool,
}

/// The reason why nothing was written, and the exit code.
struct InitError {
    message: String,
    exit_code: u8,
}

impl InitError {
    fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_code: EXIT_USAGE,
        }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_code: 1,
        }
    }
}

pub(crate) fn run(args: &InitArgs) -> ExitCode {
    match init(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            warn(&format!("{}\nnothing was written", error.message));
            ExitCode::from(error.exit_code)
        }
    }
}

fn init(args: &InitArgs) -> Result<(), InitError> {
    let dir = std::path::absolute(&args.dir)
        .map_err(|error| InitError::failed(format!("{}: {error}", args.dir.display())))?;
    let (config_file, password_file) = (dir.join("proxy.toml"), dir.join("htpasswd"));
    for file in [&config_file, &password_file] {
        // A link without a target counts as existing as well: writing would follow it.
        if file.symlink_metadata().is_ok() {
            return Err(InitError::failed(format!(
                "{} exists already, and init overwrites no file; name another directory: tidegate init DIR",
                file.display()
            )));
        }
    }
    let draft = Draft::complete(args, &dir)?;
    let user = complete_user(args)?;
    let password = new_password(args, &user)?;
    let params = HashParams::Bcrypt { cost: USUAL_COST };
    let hash = params
        .check(&password)
        .and_then(|()| params.hash(&password))
        .map_err(|error| InitError::usage(error.to_string()))?;

    let mut written = WrittenFiles::default();
    written.create_dir(&dir)?;
    written.create(&config_file, draft.toml().as_bytes())?;
    let added = store::update_or_create(&password_file, LOCK_TIMEOUT, |text| {
        edit::set(text, user.as_bytes(), &hash)
    });
    added.map_err(|error| InitError::failed(error.to_string()))?;
    written.files.push(password_file.clone());
    let report = check(&config_file)?;
    if args.generate {
        print_password(&user, &password)?;
    }
    written.keep();

    print_line(&format!(
        "wrote {}\nwrote {} with the user {user}\n{report}",
        config_file.display(),
        password_file.display()
    ));
    print_line(draft.next_steps(&config_file, &user).trim_end());
    Ok(())
}

/// Checks the new configuration as `tidegate check` does. The result is the report if the configuration would start.
fn check(file: &Path) -> Result<String, InitError> {
    let (config, mut problems) = config::load(file);
    let snapshot =
        config.and_then(|config| Snapshot::build(&config, None, BuildMode::Check, &mut problems));
    if snapshot.is_none() || problems.has_errors() {
        return Err(InitError {
            message: rejection_message(&problems),
            exit_code: EXIT_CONFIG_REJECTED,
        });
    }
    if problems.is_empty() {
        return Ok(format!("{}: the configuration is good", file.display()));
    }
    Ok(format!(
        "{problems}{}: the configuration would start, with {}",
        file.display(),
        problems.summary()
    ))
}

/// The settings from which the configuration is written.
#[derive(Clone)]
struct Draft {
    dir: PathBuf,
    host: String,
    port: u16,
    upstream: String,
    certificate: CertificateSource,
}

#[derive(Clone)]
enum CertificateSource {
    Files { cert: PathBuf, key: PathBuf },
    Acme { email: String },
    SelfSigned,
}

impl Draft {
    /// Takes the settings from the options, and asks for those that are missing.
    fn complete(args: &InitArgs, dir: &Path) -> Result<Self, InitError> {
        let missing = missing_options(args);
        if !missing.is_empty() && !may_ask(args) {
            return Err(InitError::usage(format!(
                "there is no terminal to ask on; add {}",
                missing.join(", ")
            )));
        }
        let mut draft = Self {
            dir: dir.to_owned(),
            host: "localhost".to_owned(),
            port: 443,
            upstream: DEFAULT_UPSTREAM.to_owned(),
            certificate: CertificateSource::SelfSigned,
        };
        let base = draft.clone();
        draft.host = ask(
            args.host.as_deref(),
            "--host",
            "Name by which clients address the registry, such as docker.example.com: ",
            |host| base.normalized_host(host),
        )?;
        draft.upstream = if args.upstream.is_none() && !may_ask(args) {
            base.upstream.clone()
        } else {
            let question = format!("Address of the registry [{DEFAULT_UPSTREAM}]: ");
            ask(args.upstream.as_deref(), "--upstream", &question, |text| {
                let upstream = if text.is_empty() {
                    DEFAULT_UPSTREAM
                } else {
                    text
                };
                let base = base.clone();
                let draft = Self {
                    upstream: upstream.to_owned(),
                    ..base
                };
                draft.problem().map(|()| upstream.to_owned())
            })?
        };
        draft.certificate = base.complete_certificate(args)?;
        draft.port = args.port.unwrap_or(match draft.certificate {
            CertificateSource::SelfSigned => 8443,
            CertificateSource::Files { .. } | CertificateSource::Acme { .. } => 443,
        });
        // Each setting was checked by itself. Together they can still contradict each other: ACME for an IP address.
        draft.problem().map_err(InitError::usage)?;
        Ok(draft)
    }

    /// The host in the form that the configuration gives it.
    fn normalized_host(&self, host: &str) -> Result<String, String> {
        if host.is_empty() {
            return Err("write a name, such as docker.example.com".to_owned());
        }
        if host.contains('*') {
            return Err("name one host here; add other hosts to proxy.toml later".to_owned());
        }
        let draft = Self {
            host: host.to_owned(),
            ..self.clone()
        };
        draft.problem()?;
        let (config, _) = config::parse(&self.dir.join("proxy.toml"), draft.toml().as_bytes());
        let hosts = config.and_then(|config| config.sites.into_iter().next());
        let normalized = hosts.and_then(|site| site.hosts.into_iter().next());
        Ok(normalized.unwrap_or_else(|| host.to_owned()))
    }

    fn complete_certificate(&self, args: &InitArgs) -> Result<CertificateSource, InitError> {
        match (&args.certificate, &args.key, &args.acme) {
            (Some(cert), Some(key), _) => usable_pair(cert, key).map_err(InitError::usage),
            (_, _, Some(email)) => self
                .usable_email(email)
                .map_err(|problem| InitError::usage(format!("--acme: {problem}"))),
            _ if args.self_signed => Ok(CertificateSource::SelfSigned),
            _ => self.ask_certificate(),
        }
    }

    fn ask_certificate(&self) -> Result<CertificateSource, InitError> {
        let question = "Certificate: \"self-signed\", \"acme\" (Let's Encrypt) or \"file\": ";
        let kind = ask(None, "--self-signed", question, |kind| match kind {
            "self-signed" | "acme" | "file" => Ok(kind.to_owned()),
            _ => Err("write one of the three words".to_owned()),
        })?;
        match kind.as_str() {
            "acme" => {
                let question = "Mail address for Let's Encrypt: ";
                ask(None, "--acme", question, |email| self.usable_email(email))
            }
            "file" => {
                let named = |text: &str| match text {
                    "" => Err("name a file".to_owned()),
                    text => Ok(text.to_owned()),
                };
                loop {
                    let cert = ask(None, "", "File with the certificate chain: ", named)?;
                    let key = ask(None, "", "File with its private key: ", named)?;
                    match usable_pair(Path::new(&cert), Path::new(&key)) {
                        Ok(pair) => return Ok(pair),
                        Err(problem) => warn(&problem),
                    }
                }
            }
            _ => Ok(CertificateSource::SelfSigned),
        }
    }

    fn usable_email(&self, email: &str) -> Result<CertificateSource, String> {
        if email.is_empty() {
            return Err("write a mail address, such as admin@example.com".to_owned());
        }
        let certificate = CertificateSource::Acme {
            email: email.to_owned(),
        };
        let host = "docker.example.com".to_owned();
        let draft = Self {
            host,
            certificate: certificate.clone(),
            ..self.clone()
        };
        draft.problem().map(|()| certificate)
    }

    /// The first error of the configuration that would be written.
    fn problem(&self) -> Result<(), String> {
        let (_, problems) = config::parse(&self.dir.join("proxy.toml"), self.toml().as_bytes());
        match problems.errors().next() {
            None => Ok(()),
            Some(problem) => Err(one_line(problem)),
        }
    }

    fn toml(&self) -> String {
        let mut text = String::from(
            "# Written by \"tidegate init\". The sample proxy.toml of the documentation explains every key.\n\n[listen]\n",
        );
        text += &format!("https = [\"[::]:{}\"]\n", self.port);
        if self.has_http_listener() {
            text += "# Let's Encrypt may check the name here; browsers are sent to https.\nhttp = [\"[::]:80\"]\n";
        }
        if self.has_own_state_dir() {
            text += "\n# What the proxy keeps: its CA or its ACME account and certificates, and the pid file.\n[state]\ndir = \"state\"\n";
        }
        let tls = match &self.certificate {
            CertificateSource::SelfSigned => "\"self-signed\"".to_owned(),
            CertificateSource::Acme { email } => {
                text += &format!("\n[acme]\nemail = {}\n", toml_string(email));
                "\"acme\"".to_owned()
            }
            CertificateSource::Files { cert, key } => format!(
                "{{ cert = {}, key = {} }}",
                toml_string(&cert.to_string_lossy()),
                toml_string(&key.to_string_lossy())
            ),
        };
        let (host, upstream) = (toml_string(&self.host), toml_string(&self.upstream));
        text += &format!(
            "\n[[site]]\nhosts = [{host}]\ntls = {tls}\n\n[[site.route]]\npath = \"/v2/\"\nupstream = {upstream}\n\
             auth = {{ mode = \"basic\", htpasswd = \"htpasswd\" }}\n"
        );
        text
    }

    /// Whether the proxy listens on port 80 for http-01 challenges. With another https port than 443, ports are forwarded to this
    /// machine or a proxy precedes it, so port 80 of this machine is not the one that the ACME authority connects to.
    fn has_http_listener(&self) -> bool {
        matches!(self.certificate, CertificateSource::Acme { .. }) && self.port == 443
    }

    /// Whether `state.dir` is next to the configuration. The systemd unit sets `StateDirectory=` for the one in `/etc/tidegate`.
    fn has_own_state_dir(&self) -> bool {
        self.dir != Path::new("/etc/tidegate")
    }

    fn next_steps(&self, config_file: &Path, user: &str) -> String {
        let config = shell_word(&config_file.to_string_lossy());
        let place = https_authority(&self.host, self.port);
        let mut steps = format!("\nStart the proxy:\n  tidegate serve -c {config}\n");
        if self.upstream == DEFAULT_UPSTREAM {
            steps += "If there is no registry yet, start one that only this machine can reach:\n  \
                      docker run -d --restart unless-stopped -p 127.0.0.1:5000:5000 -v registry:/var/lib/registry registry:2\n";
        }
        if !self.has_own_state_dir() {
            steps += "The systemd unit runs it as the user tidegate, which must be able to read the password file:\n  \
                      chgrp tidegate /etc/tidegate/htpasswd\n";
        }
        if self.port < 1024 {
            steps += &format!(
                "Port {} needs root, or the systemd unit, which grants CAP_NET_BIND_SERVICE.\n",
                self.port
            );
        }
        let mut ca = None;
        match &self.certificate {
            CertificateSource::SelfSigned => {
                steps += &format!(
                    "Then make each client trust the proxy's CA; this command prints how:\n  tidegate ca -c {config}\n"
                );
                ca = self
                    .has_own_state_dir()
                    .then(|| self_signed::ca_file(&self.dir.join("state")));
            }
            CertificateSource::Acme { .. } => {
                steps += &format!(
                    "Let's Encrypt must reach {} from the internet, on port 443 or 80.\n",
                    self.host
                );
            }
            CertificateSource::Files { .. } => {}
        }
        steps += &format!("\nThen, with the password of {user}:\n");
        steps + &first_use(&place, user, ca.as_deref())
    }
}

/// The options that are missing, and that a run without a terminal cannot do without.
fn missing_options(args: &InitArgs) -> Vec<&'static str> {
    let has_certificate = args.certificate.is_some() || args.acme.is_some() || args.self_signed;
    let wanted = [
        (args.host.is_some(), "--host NAME"),
        (
            has_certificate,
            "--self-signed or --acme EMAIL or --certificate FILE --key FILE",
        ),
        (args.user.is_some(), "--user NAME"),
        (args.stdin || args.generate, "--stdin or --generate"),
    ];
    let missing = wanted.into_iter().filter(|(is_given, _)| !is_given);
    missing.map(|(_, option)| option).collect()
}

/// Whether there is a terminal to ask on. With `--stdin`, standard input has the password.
fn may_ask(args: &InitArgs) -> bool {
    !args.stdin && io::stdin().is_terminal()
}

/// The value of an option, or the text that the user types in response to a question. The question is repeated until `accept`
/// returns a value.
fn ask<T>(
    given: Option<&str>,
    option: &str,
    question: &str,
    accept: impl Fn(&str) -> Result<T, String>,
) -> Result<T, InitError> {
    if let Some(given) = given {
        return accept(given).map_err(|problem| InitError::usage(format!("{option}: {problem}")));
    }
    loop {
        let mut err = io::stderr();
        let asked = err
            .write_all(question.as_bytes())
            .and_then(|()| err.flush());
        let mut line = String::new();
        let length = asked
            .and_then(|()| io::stdin().read_line(&mut line))
            .map_err(|error| {
                InitError::failed(format!("cannot read from the terminal: {error}"))
            })?;
        if length == 0 {
            return Err(InitError::failed("\nthe input has ended"));
        }
        match accept(line.trim()) {
            Ok(value) => return Ok(value),
            Err(problem) => warn(&problem),
        }
    }
}

/// The certificate and key with absolute paths, if they can be served.
fn usable_pair(cert: &Path, key: &Path) -> Result<CertificateSource, String> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (cert, key) = (absolute(cert)?, absolute(key)?);
    for path in [&cert, &key] {
        if path.to_str().is_none() {
            return Err(format!(
                "{}: a configuration is UTF-8 text, and this path is not; rename the file",
                path.display()
            ));
        }
    }
    tls::load_pair(&cert, &key, time::OffsetDateTime::now_utc())
        .map_err(|error| error.to_string())?;
    Ok(CertificateSource::Files { cert, key })
}

fn complete_user(args: &InitArgs) -> Result<String, InitError> {
    ask(
        args.user.as_deref(),
        "--user",
        "Name of the first user: ",
        |user| {
            edit::check_name(user.as_bytes())
                .map(|()| user.to_owned())
                .map_err(|error| error.to_string())
        },
    )
}

fn new_password(args: &InitArgs, user: &str) -> Result<Password, InitError> {
    if args.generate {
        return generate::password().map_err(|error| InitError::failed(error.to_string()));
    }
    let password = if args.stdin {
        password_prompt::from_stdin()
    } else {
        password_prompt::ask_twice(user, HashParams::Bcrypt { cost: USUAL_COST })
    };
    password.map_err(|error| InitError::failed(error.to_string()))
}

fn print_password(user: &str, password: &Password) -> Result<(), InitError> {
    let label = format!("the password of {user}, which is stored nowhere else: ");
    let line = zeroize::Zeroizing::new([label.as_bytes(), password.as_bytes(), b"\n"].concat());
    let mut out = io::stdout();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .map_err(|error| {
            InitError::failed(format!(
                "the generated password could not be written to standard output: {error}"
            ))
        })
}

/// The files and the directory that the command has created so far. Dropping the value removes them, unless
/// [`keep`](Self::keep) was called.
#[derive(Default)]
struct WrittenFiles {
    files: Vec<PathBuf>,
    dir: Option<PathBuf>,
}

impl WrittenFiles {
    fn create_dir(&mut self, dir: &Path) -> Result<(), InitError> {
        if dir.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(dir).map_err(|error| {
            InitError::failed(format!(
                "{}: {error}; name a directory that this user can create: tidegate init DIR",
                dir.display()
            ))
        })?;
        self.dir = Some(dir.to_owned());
        Ok(())
    }

    fn create(&mut self, path: &Path, content: &[u8]) -> Result<(), InitError> {
        let failed = |error: io::Error| InitError::failed(format!("{}: {error}", path.display()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed)?;
        self.files.push(path.to_owned());
        file.write_all(content).map_err(failed)
    }

    fn keep(&mut self) {
        self.files.clear();
        self.dir = None;
    }
}

impl Drop for WrittenFiles {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        // Removes an empty directory only. Parent directories that the command created stay.
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// The problem and its remedy in one line, for a value that was typed at a prompt or passed as an option.
///
/// The checks of the configuration describe a value in a file: they begin with its key (`site.hosts: `), and quote the value to
/// write instead. There is no such file yet, and a typed value has no quotes, so that both are left out.
fn one_line(problem: &Problem) -> String {
    let keys = ["site.hosts: ", "site.route.upstream: ", "acme.email: "];
    let what = keys
        .into_iter()
        .find_map(|key| problem.what.strip_prefix(key));
    let what = what.unwrap_or(&problem.what);
    let Some(remedy) = &problem.remedy else {
        return what.to_owned();
    };
    let quoted = remedy.strip_prefix("write \"");
    match quoted.and_then(|rest| rest.split_once('"')) {
        Some((value, rest)) if !value.contains('\\') => format!("{what}; write {value}{rest}"),
        _ => format!("{what}; {remedy}"),
    }
}

const DEFAULT_UPSTREAM: &str = "http://127.0.0.1:5000";
/// The time to wait for the lock on the new password file. No other process uses the file yet.
const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// After `tidegate init --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  tidegate init                        asks for everything, and writes into this directory
  tidegate init first --host localhost --self-signed --user alice --generate
                                       for a first look, on port 8443 and without root
  tidegate init /etc/tidegate --host docker.example.com --acme admin@example.com --user alice
                                       with a certificate from Let's Encrypt
  pass show registry | tidegate init registry --host docker.example.com \\
      --certificate fullchain.pem --key privkey.pem --user alice --stdin

Exit codes: 0 written, 1 failed, 2 wrong command line, 78 the check rejects what was written. Unless the exit code
is 0, nothing is left behind.";
