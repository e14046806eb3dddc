//! The product at work with nothing else installed: a registry in memory, and the gate in front of it with a
//! certificate of its own and a fresh password.
//!
//! `cargo run --example demo` prints the lines to try and serves until Ctrl-C; with `-- --check` it pushes and pulls
//! through the gate itself and says what happened. What it writes lies in a temporary directory that ends with it.
//! Not a registry to work with: everything in it is gone at the end.

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

use setup::{Gate, Setup};

/// Why the demo ends, in words for whoever runs it.
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
    let (server, gate) = setup.open(&[USUAL_PORT, ANY_PORT], "access = true")?;
    say(&setup.lines_to_try(&gate));
    server.run(commands).await;
    Ok(())
}

async fn check(setup: &Setup) -> Result<(), Failure> {
    let (server, gate) = setup.open(&[ANY_PORT], "access = false")?;
    let (commands, obeyed) = mpsc::channel(1);
    let (checked, _cut) = tokio::join!(check_and_stop(setup, &gate, commands), server.run(obeyed));
    checked
}

async fn check_and_stop(
    setup: &Setup,
    gate: &Gate,
    commands: mpsc::Sender<Command>,
) -> Result<(), Failure> {
    let checked = timeout(CHECKED_WITHIN, check::run(setup, gate)).await;
    // A server that has stopped already needs no telling.
    let _ = commands.send(Command::Stop).await;
    checked.unwrap_or_else(|_| Err(format!("not done after {CHECKED_WITHIN:?}").into()))
}

/// Libraries keep the cause of an error out of its own words.
fn with_sources(failure: &(dyn Error + 'static)) -> String {
    let mut words = failure.to_string();
    let mut source = failure.source();
    while let Some(error) = source {
        words.push_str(&format!(": {error}"));
        source = error.source();
    }
    words
}

/// To standard output; a reader that left is no reason to fail.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

const USAGE: &str = "Usage: cargo run --example demo [-- --check]
  without --check   serve until Ctrl-C, and print the lines to try
  --check           push and pull through the gate, say what happened, and end";
/// What scripts expect of a command line that makes no sense.
const WRONG_USAGE: u8 = 2;
const USUAL_PORT: u16 = 8443;
/// The system chooses one.
const ANY_PORT: u16 = 0;
/// What the registry holds at most, in bytes.
const MOST: u64 = 512 * 1024 * 1024;
/// Takes about a second; a machine under load gets its chance.
const CHECKED_WITHIN: Duration = Duration::from_secs(60);
