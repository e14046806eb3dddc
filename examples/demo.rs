//! Shows the product with nothing else installed: a registry in memory, and tidegate in front of it with a self-signed
//! certificate and a generated password.
//!
//! `cargo run --example demo` prints the commands to try and serves until Ctrl-C. With `-- --check` the demo pushes and pulls
//! through the proxy itself and prints the result. All files are in a temporary directory that is removed at the end.
//! This registry is not for work: its content is lost when the demo ends.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tidegate::server::Command;
use tidegate::server::signals;
use tokio::sync::mpsc;
use tokio::time::timeout;

#[path = "demo/answer.rs"]
mod answer;
#[path = "demo/blobs.rs"]
mod blobs;
#[path = "demo/check.rs"]
mod check;
#[path = "demo/client.rs"]
mod client;
#[path = "demo/content.rs"]
mod content;
#[path = "demo/crypto.rs"]
mod crypto;
#[path = "demo/manifests.rs"]
mod manifests;
#[path = "demo/registry.rs"]
mod registry;
#[path = "demo/setup.rs"]
mod setup;
#[path = "demo/store.rs"]
mod store;
#[path = "demo/uploads.rs"]
mod uploads;

use setup::{RunningProxy, Setup};

/// The error that ends the demo, as text for the user.
type Failure = Box<dyn Error + Send + Sync>;

#[derive(Clone, Copy)]
enum Task {
    Serve,
    Check,
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = words.iter().map(|word| word.to_str()).collect();
    let task = match words.as_slice() {
        [] => Task::Serve,
        [Some("--check")] => Task::Check,
        [Some("--help" | "-h")] => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        _ => {
            complain(USAGE);
            return ExitCode::from(WRONG_USAGE);
        }
    };
    match run(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&format!("demo: {}", with_sources(failure.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let registry = registry::start(MOST).await?;
        let setup = Setup::new(registry)?;
        match task {
            Task::Serve => serve(&setup).await,
            Task::Check => check(&setup).await,
        }
    })
}

async fn serve(setup: &Setup) -> Result<(), Failure> {
    let commands = signals::commands()?;
    let (server, proxy) = setup.open(&[DEFAULT_PORT, ANY_PORT], "access = true")?;
    say(&setup.commands_to_try(&proxy));
    server.run(commands).await?;
    Ok(())
}

async fn check(setup: &Setup) -> Result<(), Failure> {
    let (server, proxy) = setup.open(&[ANY_PORT], "access = false")?;
    let (commands, command_receiver) = mpsc::channel(1);
    let (checked, ended) = tokio::join!(
        check_and_stop(setup, &proxy, commands),
        server.run(command_receiver)
    );
    ended?;
    checked
}

async fn check_and_stop(
    setup: &Setup,
    proxy: &RunningProxy,
    commands: mpsc::Sender<Command>,
) -> Result<(), Failure> {
    let checked = timeout(CHECK_TIMEOUT, check::run(setup, proxy)).await;
    // The server may have stopped already; then the command has no receiver.
    let _ = commands.send(Command::Stop).await;
    checked.unwrap_or_else(|_| Err(format!("not done after {CHECK_TIMEOUT:?}").into()))
}

/// Joins the messages of an error and of its sources, because many libraries leave the cause out of their own message.
fn with_sources(failure: &(dyn Error + 'static)) -> String {
    let mut words = failure.to_string();
    let mut source = failure.source();
    while let Some(error) = source {
        words.push_str(&format!(": {error}"));
        source = error.source();
    }
    words
}

/// Prints a line on standard output. A reader that closed its end of the pipe is no error.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

const USAGE: &str = "Usage: cargo run --example demo [-- --check]
  without --check   serve until Ctrl-C, and print the lines to try
  --check           push and pull through the proxy, say what happened, and end";
/// The exit code of a wrong command line.
const WRONG_USAGE: u8 = 2;
const DEFAULT_PORT: u16 = 8443;
/// Port 0: the system chooses a free port.
const ANY_PORT: u16 = 0;
/// The largest number of bytes that the registry keeps.
const MOST: u64 = 512 * 1024 * 1024;
/// The time limit of `--check`, which takes about one second on an idle machine.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
