//! The running server: listening sockets, worker threads, the snapshot in use, and the commands that change them.
//!
//! `cli` starts a [`Server`] and runs it until a signal stops it; a test or the demo starts one on port 0. Everything that
//! outlives a reload belongs to this module or to `state`.
//!
//! The main runtime runs [`Server::run`]: the accept loops (`acceptors`), the commands of signals, reloads, upgrades, health
//! checks, ACME, and the admin listener. Each worker thread (`workers`) serves the connections that the accept loops pass to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::admin::Admin;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config};
use crate::connection::ShutdownTrigger;
use crate::log::LogWriter;
use crate::net::conn_limit::ConnectionLimit;
use crate::snapshot::{BuildMode, Snapshot};
use crate::state::{LifecyclePhase, ServerState};

mod acceptors;
mod admin_link;
mod background;
mod file_watcher;
pub mod pid_file;
mod reload;
pub mod service_manager;
pub mod signals;
mod sockets;
pub mod upgrade;
mod watchdog;
mod workers;

use acceptors::Acceptors;
use file_watcher::FileWatcher;
use pid_file::PidFile;
use reload::{BuiltConfig, ReloadQueue, StartupSettings};
use service_manager::{StatusReporter, SystemdNotifier};
pub use sockets::{Address, InheritedSockets, Scheme};
use upgrade::{HandoverPayload, LaunchCommand, SuccessorProcess, UpgradeState};
use workers::Workers;

/// A command to a running server. Signals become commands in [`signals`].
#[derive(Debug)]
pub enum Command {
    /// Reload the configuration. The result is sent back if a sender is given.
    Reload(Option<oneshot::Sender<Result<(), Problems>>>),
    /// Close and reopen the log files, so that a rotated file is released.
    ReopenLogs,
    /// Start the executable again, and hand the listening sockets to the new process.
    Upgrade,
    /// Stop accepting connections, let requests finish, and return. A second `Stop` closes all connections immediately.
    Stop,
}

/// What the process provides to its server. The default is enough for a test.
#[derive(Debug, Default)]
pub struct ProcessContext {
    /// The log of the process, which [`Command::ReopenLogs`] reopens.
    pub log: Option<LogWriter>,
    /// The service manager, which is notified of start, reload and stop.
    pub manager: SystemdNotifier,
    /// The listening sockets that the process inherited.
    pub inherited: InheritedSockets,
    /// How the process was started. An upgrade runs this command again; without it an upgrade fails.
    pub launch_command: Option<LaunchCommand>,
}

/// A server whose sockets listen.
#[derive(Debug)]
pub struct Server {
    config_file: PathBuf,
    state: Arc<ServerState>,
    acceptors: Acceptors,
    workers: Workers,
    shutdown: ShutdownTrigger,
    log: Option<LogWriter>,
    startup_settings: StartupSettings,
    status: StatusReporter,
    launch_command: Option<LaunchCommand>,
    _file_watcher: FileWatcher,
}

/// The reason why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is invalid, and would not start on another machine or at another time either.
    InvalidConfig(Problems),
    /// The configuration is valid, but the system did not provide what it needs: an address is in use, or no thread could be
    /// created.
    Runtime(Problems),
}

impl From<StartError> for Problems {
    fn from(error: StartError) -> Self {
        match error {
            StartError::InvalidConfig(problems) | StartError::Runtime(problems) => problems,
        }
    }
}

/// Work of the main loop that can be in progress while the server serves.
#[derive(Default)]
struct BackgroundTasks {
    reloads: ReloadQueue,
    upgrade: UpgradeState,
    watchdog: Option<JoinHandle<()>>,
}

/// The reason why the main loop ended.
enum LoopEnd {
    Stop,
    Upgraded(SuccessorProcess),
    WorkerPanicked,
}

/// The reason why a server ended that was not told to: a worker thread has panicked outside the task of a connection. Further
/// connections would be passed to that worker and lost, so a restart of the process is the only remedy.
#[derive(Debug, thiserror::Error)]
#[error("a worker thread has panicked, so that this process cannot serve any more")]
pub struct WorkerPanicked;

impl Server {
    /// Builds the snapshot, binds every address and starts the workers. Connections wait in the kernel's backlog until
    /// [`run`](Self::run) accepts them. On success the problems hold the warnings.
    ///
    /// # Errors
    /// The configuration is invalid, or the system did not provide a socket or a thread; the problems hold the errors.
    pub fn start(
        config_file: &Path,
        config: &Config,
        mut problems: Problems,
        process: ProcessContext,
    ) -> Result<(Self, Problems), StartError> {
        // First, because it raises the limit on open files, and everything below opens files.
        let connection_limit = connection_limit(config);
        let Some(snapshot) = Snapshot::build(config, None, BuildMode::Serve, &mut problems) else {
            return Err(StartError::InvalidConfig(problems));
        };
        let state = Arc::new(ServerState::new(
            snapshot,
            config.h2_memory,
            connection_limit.clone(),
            process.log.clone(),
        ));
        let shutdown = ShutdownTrigger::new();
        let bound = Acceptors::bind(
            config_file,
            &config.listen,
            process.inherited,
            &mut problems,
        );
        let Some(bound) = bound else {
            return Err(StartError::Runtime(problems));
        };
        let watchdog = process.manager.watchdog();
        let started = Workers::start(config.listen.workers, &state, &shutdown, watchdog)
            .and_then(|workers| Ok((workers, FileWatcher::start(&state)?)));
        let (workers, file_watcher) = match started {
            Ok(started) => started,
            Err(error) => {
                let what = format!("cannot start the threads: {error}");
                let remedy = "allow the process more threads and memory (TasksMax= and MemoryMax= in the unit, ulimit -u)";
                problems.push(Problem::error(None, what).fix(remedy));
                return Err(StartError::Runtime(problems));
            }
        };
        let admin = Admin::new(Arc::clone(&state));
        let acceptors = bound.into_acceptors(connection_limit, workers.dispatcher(), admin);
        let server = Self {
            config_file: config_file.to_owned(),
            state,
            acceptors,
            workers,
            shutdown,
            log: process.log,
            startup_settings: StartupSettings::new(config),
            status: StatusReporter::new(process.manager),
            launch_command: process.launch_command,
            _file_watcher: file_watcher,
        };
        Ok((server, problems))
    }

    /// Loads a configuration file and starts a server without a service manager, a pid file and a log, as tests and the demo
    /// need it.
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub fn open(config_file: &Path) -> Result<(Self, Problems), StartError> {
        match config::load(config_file) {
            (Some(config), problems) => {
                Self::start(config_file, &config, problems, ProcessContext::default())
            }
            (None, problems) => Err(StartError::InvalidConfig(problems)),
        }
    }

    /// The TCP addresses on which the server listens.
    pub fn addresses(&self) -> Vec<Address> {
        self.acceptors.addresses()
    }

    /// All addresses on which the server listens, except an admin listener in the file system, for logs.
    pub fn descriptions(&self) -> Vec<String> {
        self.acceptors.descriptions()
    }

    /// Hints for the operator, to be logged once at start.
    pub fn notes(&self) -> Vec<String> {
        self.state.snapshot().notes.clone()
    }

    /// Runs the first health check of every endpoint, for at most two seconds. A process that takes over from another one calls
    /// this before it serves, so that `/readyz` knows the state of the registry from its first response on.
    pub async fn check_upstreams(&self) {
        background::run_first_health_checks(&self.state).await;
    }

    /// Makes the server keep the locked pid file until it ends, and record the results of reloads next to it.
    pub fn set_pid_file(&mut self, pid_file: PidFile) {
        self.status.set_pid_file(pid_file);
    }

    /// Accepts connections and executes commands until [`Command::Stop`], until the sender of the commands is dropped, or until
    /// an upgrade succeeds; then drains. Returns the number of connections that were still open at the end of the drain.
    ///
    /// # Errors
    /// A worker thread has panicked. All connections are then closed without a drain.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<usize, WorkerPanicked> {
        self.state.set_phase(LifecyclePhase::Serving);
        self.acceptors.accept();
        self.status.ready(&self.serving_summary());
        // Recorded until the end, because transfers can go on for a long time while the server drains.
        let history = tokio::spawn(background::record_history(Arc::clone(&self.state)));
        let mut tasks = BackgroundTasks {
            watchdog: watchdog::start(self.status.manager(), self.workers.heartbeats()),
            ..BackgroundTasks::default()
        };
        let mut is_forced = false;
        let mut successor = None;
        let end = self.run_commands(&mut commands, &mut tasks).await;
        // An upgrade that is not complete is given up before the drain: its process holds the listening sockets, and accepts
        // nothing.
        tasks.upgrade = UpgradeState::default();
        let has_panicked = matches!(end, LoopEnd::WorkerPanicked);
        match end {
            LoopEnd::Upgraded(process) => {
                successor = Some(process);
                // The phase stays `Serving`: a request to the admin listener of this process means the successor by now.
                self.acceptors.hand_over().await;
                if let Some(watchdog) = tasks.watchdog.take() {
                    watchdog.abort();
                }
            }
            LoopEnd::Stop => {
                let snapshot = self.state.snapshot();
                self.status.draining(snapshot.drain_delay, snapshot.drain);
                is_forced = self.withdraw(snapshot.drain_delay, &mut commands).await;
                drop(snapshot);
                self.state.set_phase(LifecyclePhase::Draining);
                self.acceptors.close().await;
            }
            LoopEnd::WorkerPanicked => {
                tracing::error!("{WorkerPanicked}; closing all connections");
                is_forced = true;
                self.state.set_phase(LifecyclePhase::Draining);
                self.acceptors.close().await;
            }
        }
        let cut = self.drain(commands, is_forced, successor).await;
        history.abort();
        if has_panicked {
            return Err(WorkerPanicked);
        }
        Ok(cut)
    }

    /// The main loop: executes commands and periodic work until the server is to accept no more connections.
    async fn run_commands(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        tasks: &mut BackgroundTasks,
    ) -> LoopEnd {
        let mut close_idle = tokio::time::interval(CLOSE_IDLE_INTERVAL);
        let state = Arc::clone(&self.state);
        let mut health_checks = Box::pin(background::run_health_checks(&state));
        let mut renewals = Box::pin(background::run_acme_renewals(&state));
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Reload(reply)) => tasks.reloads.request(reply),
                    Some(Command::ReopenLogs) => {
                        reopen_logs(self.log.as_ref(), &self.state);
                        tasks.upgrade.record_reopen();
                    }
                    Some(Command::Upgrade) => tasks.upgrade.request(),
                    Some(Command::Stop) | None => return LoopEnd::Stop,
                },
                (built, replies) = tasks.reloads.built() => {
                    let result = self.finish_reload(built);
                    for reply in replies {
                        // The receiver is gone if its caller gave up.
                        let _ = reply.send(result.clone());
                    }
                }
                outcome = tasks.upgrade.outcome() => {
                    match outcome.and_then(|successor| self.let_serve(successor)) {
                        Ok(successor) => {
                            // The new process may have read the files before these signals arrived here.
                            if tasks.reloads.is_due() {
                                successor.signal(Signal::HUP);
                            }
                            if tasks.upgrade.has_reopen() {
                                successor.signal(Signal::USR1);
                            }
                            return LoopEnd::Upgraded(successor);
                        }
                        Err(reason) => self.report_upgrade_failure(&reason),
                    }
                }
                () = self.workers.lost_one() => return LoopEnd::WorkerPanicked,
                _ = close_idle.tick() => self.state.snapshot().service.sites.close_idle(),
                () = &mut health_checks => {}
                () = &mut renewals => {}
            }
            // No upgrade during a reload: both processes would bind the addresses that are new in the configuration.
            if !tasks.reloads.is_building() && tasks.upgrade.take_request() {
                self.start_upgrade(&mut tasks.upgrade);
            }
            // No reload during an upgrade: both processes would bind the addresses that are new in the configuration.
            if tasks.reloads.is_due() && !tasks.upgrade.is_running() {
                self.status.reload_started();
                let (file, old) = (self.config_file.clone(), self.state.snapshot());
                tasks
                    .reloads
                    .start(file, self.startup_settings.clone(), old);
            }
        }
    }

    /// Puts a built configuration into use, and reports the result to the log, `state`, the service manager and the pid file.
    fn finish_reload(&mut self, built: Result<BuiltConfig, Problems>) -> Result<(), Problems> {
        let outcome = built.and_then(|built| self.apply(built));
        match &outcome {
            Ok(problems) => {
                for problem in problems.warnings() {
                    tracing::warn!("{}", problems.line(problem));
                }
                tracing::info!("reloaded");
            }
            Err(problems) => {
                for problem in problems.errors() {
                    tracing::error!("{}", problems.line(problem));
                }
                tracing::error!(
                    "not reloaded: {}; the old configuration stays in use",
                    problems.summary()
                );
            }
        }
        let failure = outcome.as_ref().err().map(one_line_summary);
        self.state
            .reloads()
            .record(SystemTime::now(), failure.clone());
        let serving = self.serving_summary();
        self.status.reload_finished(failure, &serving);
        outcome.map(|_warnings| ())
    }

    fn apply(&mut self, built: BuiltConfig) -> Result<Problems, Problems> {
        let BuiltConfig {
            config,
            snapshot,
            mut problems,
        } = built;
        // Binding is the last step that can fail: after it everything is replaced.
        let acceptors = &mut self.acceptors;
        if !acceptors.reconfigure(&self.config_file, &config.listen, &mut problems) {
            return Err(problems);
        }
        self.state.publish(snapshot, config.h2_memory);
        Ok(problems)
    }

    fn start_upgrade(&self, upgrade: &mut UpgradeState) {
        if upgrade.is_running() {
            return tracing::info!("an upgrade is in progress already");
        }
        let Some(command) = self.launch_command.clone() else {
            return self.report_upgrade_failure("this process does not know how it was started");
        };
        tracing::info!("upgrade: starting the new process");
        let started = self
            .handover_payload()
            .and_then(|payload| upgrade.start(command, payload));
        if let Err(error) = started {
            self.report_upgrade_failure(&error.to_string());
        }
    }

    fn handover_payload(&self) -> std::io::Result<HandoverPayload> {
        Ok(HandoverPayload {
            sockets: self.acceptors.duplicates()?,
            pid_file: self.status.duplicate_pid_file()?,
        })
    }

    fn report_upgrade_failure(&self, reason: &str) {
        tracing::error!("not upgraded: {reason}; this process continues to serve");
        let serving = self.serving_summary();
        let manager = self.status.manager();
        manager.status(&format!("{serving}; the last upgrade failed: {reason}"));
    }

    /// Makes the successor the main process of the service, and lets it serve.
    ///
    /// # Errors
    /// The successor has ended since it was ready. This process is then the main process again.
    fn let_serve(&mut self, mut successor: SuccessorProcess) -> Result<SuccessorProcess, String> {
        let manager = self.status.manager();
        // Sent first, because with NotifyAccess=main the service manager ignores the messages of any other process.
        manager.main_pid(successor.pid());
        if let Err(reason) = successor.go() {
            manager.main_pid(std::process::id());
            return Err(reason);
        }
        tracing::info!(pid = successor.pid(), "the new process takes over");
        // From now on this process sends no notifications: it is not the service any more. It closes its descriptor of the pid
        // file, and the lock stays with the duplicate that the successor holds.
        self.status = StatusReporter::default();
        Ok(successor)
    }

    /// Reports that the proxy is not ready, and continues to accept connections for `limits.drain_delay`: a load balancer that
    /// polls `/readyz` sends clients here until its next poll. Returns whether a second [`Command::Stop`] ended the wait.
    async fn withdraw(&self, delay: Duration, commands: &mut mpsc::Receiver<Command>) -> bool {
        if delay.is_zero() {
            return false;
        }
        self.state.set_phase(LifecyclePhase::Withdrawing);
        let late = LateCommands {
            log: self.log.as_ref(),
            state: &self.state,
            successor: None,
        };
        tracing::info!("not ready from now on; the listening sockets close in {delay:?}");
        tokio::select! {
            () = tokio::time::sleep(delay) => false,
            () = late.run_until_stop(commands) => true,
            // Never returns. Requests still need to know which endpoints are up.
            () = background::run_health_checks(&self.state) => false,
        }
    }

    /// Waits until the workers have finished their connections, at most for `limits.drain`, and closes the rest. Returns how
    /// many connections were closed that way. If `is_forced`, all connections are closed immediately. `successor` is the process
    /// that serves after an upgrade.
    async fn drain(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        is_forced: bool,
        successor: Option<SuccessorProcess>,
    ) -> usize {
        let limit = self.state.snapshot().drain;
        tracing::info!(
            connections = self.workers.open_connections(),
            "draining for at most {limit:?}"
        );
        self.shutdown.begin();
        let late = LateCommands {
            log: self.log.as_ref(),
            state: &self.state,
            successor: successor.as_ref(),
        };
        tokio::select! {
            _ = timeout(limit, self.workers.finished()), if !is_forced => {}
            () = late.run_until_stop(&mut commands), if !is_forced => {
                tracing::info!("second signal to stop: closing all connections immediately");
            }
            else => {}
        }
        let cut = self.workers.open_connections();
        self.shutdown.force_close();
        self.workers.abort();
        // A worker that is blocked in a system call ends with the process.
        let _ = timeout(ABORT_TIMEOUT, self.workers.finished()).await;
        self.acceptors.close_admin().await;
        self.status.remove_pid_file();
        tracing::info!(cut, "stopped");
        if let Some(log) = self.state.snapshot().access_log().cloned() {
            // Flushed here, because the caller may read the log after this returns. A panic of the task is logged by its hook.
            let _ = spawn_blocking(move || log.finish()).await;
        }
        cut
    }

    /// The status line for the service manager.
    fn serving_summary(&self) -> String {
        format!("serving on {}", self.descriptions().join(", "))
    }
}

/// The limit on client connections: `limits.connections`, and at most half of the descriptors that the process may open,
/// because each connection may need a second descriptor for its upstream.
fn connection_limit(config: &Config) -> ConnectionLimit {
    let descriptors = sockets::raise_descriptor_limit();
    let connections = config.connections.min((descriptors / 2).max(1));
    if connections < config.connections {
        tracing::debug!(
            connections,
            descriptors,
            "limits.connections is lowered to half of the limit on open files"
        );
    }
    ConnectionLimit::new(connections, config.connections_per_client)
}

/// The first error, and how many problems there are.
fn one_line_summary(problems: &Problems) -> String {
    let first = problems.errors().next();
    let first = first.map_or_else(String::new, |problem| problems.line(problem));
    format!("{first} ({})", problems.summary())
}

fn reopen_logs(log: Option<&LogWriter>, state: &ServerState) {
    tracing::info!("opening the log files again");
    if let Some(log) = log {
        log.reopen();
    }
    if let Some(log) = state.snapshot().access_log() {
        log.reopen();
    }
}

/// The commands that arrive during a shutdown, or after an upgrade.
struct LateCommands<'a> {
    log: Option<&'a LogWriter>,
    state: &'a ServerState,
    /// The process that serves after an upgrade.
    successor: Option<&'a SuccessorProcess>,
}

impl LateCommands<'_> {
    /// Executes the commands until [`Command::Stop`]. Stays pending when the sender of the commands is dropped.
    async fn run_until_stop(&self, commands: &mut mpsc::Receiver<Command>) {
        loop {
            match commands.recv().await {
                Some(Command::Stop) => return,
                Some(Command::ReopenLogs) => {
                    reopen_logs(self.log, self.state);
                    self.pass_on(Signal::USR1);
                }
                Some(Command::Reload(_)) => self.pass_on(Signal::HUP),
                Some(Command::Upgrade) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Passes a signal on to the successor. The sender of the signal may not have known yet which process serves.
    fn pass_on(&self, signal: Signal) {
        if let Some(successor) = self.successor {
            successor.signal(signal);
        }
    }
}

/// The interval at which idle connections to upstreams are closed.
const CLOSE_IDLE_INTERVAL: Duration = Duration::from_secs(15);
/// The time for the workers to end after their connections were aborted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_loses_a_worker_ends_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("proxy.toml");
        let text = format!(
            "[state]\ndir = \"{0}\"\n[listen]\nbehind_proxy = [\"unix:{0}/http.sock\"]\nworkers = 1\n\
             [[site]]\nhosts = [\"localhost\"]\n[[site.route]]\npath = \"/\"\nregistry = false\n\
             upstream = \"http://127.0.0.1:1\"\nauth = {{ mode = \"none\" }}\n",
            dir.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let (server, _warnings) = Server::open(&file).unwrap();
        let (_commands, received) = mpsc::channel(1);
        // The threads end without a shutdown, as after a panic.
        server.workers.abort();
        let ended = timeout(Duration::from_secs(10), server.run(received)).await;
        assert!(ended.expect("the server ends").is_err());
    }
}
