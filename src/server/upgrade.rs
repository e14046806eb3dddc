//! An upgrade of the executable in place (USR2): the process starts its executable again and passes the listening sockets to
//! the new process. The old process drains when the new one is ready, and continues to serve if the new one fails.
//!
//! `server` is the old side, `cli` the new one. They talk over a SOCK_SEQPACKET socket pair, one end of which is the standard
//! input of the new process:
//!
//! ```text
//! old process                           new process
//!   socket 0.0.0.0:443  + descriptor →
//!   pid-file /run/…     + descriptor →
//!   end                              →  loads the configuration, starts everything
//!                                    ←  ready, or failed: REASON
//!   go                               →  serves
//! ```
//!
//! No connection is lost, because both processes hold the same sockets: a connection in a backlog is accepted by one of them.
//! The exception is the connection limit: there, each listener has accepted one connection that waits, and closes it at the end.
//! A restart of the service would have to wait for the transfers in progress, or cut them; here the new process accepts
//! connections while the old one drains.

use std::ffi::OsString;
use std::future::pending;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use super::sockets::InheritedSockets;
use crate::net::listener::{ListeningSocket, UNIX};

/// How this process was started.
#[derive(Clone, Debug)]
pub struct LaunchCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl LaunchCommand {
    /// Reads the command line of this process. The program is the path that was used to start it, not the file that this path
    /// led to: a package upgrade replaces the file, and a symbolic link may lead to another version by the time of the upgrade.
    ///
    /// # Errors
    /// The path of the executable cannot be determined.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let called_as = arguments.next().map(PathBuf::from);
        // A name without a directory was found in $PATH.
        let program = match called_as.filter(|path| path.components().count() > 1) {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        Ok(Self {
            program,
            arguments: arguments.collect(),
        })
    }

    /// The command for the new process, without the variables by which systemd passes sockets and a watchdog to this process
    /// only.
    fn command(&self, channel: OwnedFd) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env(HANDOVER_VARIABLE, "1")
            .stdin(Stdio::from(channel));
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command
    }
}

/// What the old process passes to the new one.
#[derive(Debug)]
pub(crate) struct HandoverPayload {
    /// Each listening socket with the configuration value that names it.
    pub(crate) sockets: Vec<(String, ListeningSocket)>,
    /// The path and the locked descriptor of the pid file.
    pub(crate) pid_file: Option<(PathBuf, OwnedFd)>,
}

/// The upgrade that is requested or in progress, if there is one. Dropping the value gives up the upgrade in progress: its channel
/// is closed without `go`, and the new process ends.
#[derive(Debug, Default)]
pub(crate) struct UpgradeState {
    is_requested: bool,
    outcome: Option<oneshot::Receiver<Result<SuccessorProcess, String>>>,
    /// The log files were reopened since the new process was started, which may have opened them before.
    has_reopen: bool,
}

impl UpgradeState {
    pub(crate) fn is_running(&self) -> bool {
        self.outcome.is_some()
    }

    /// Requests an upgrade, which the main loop starts as soon as no reload is being built.
    pub(crate) fn request(&mut self) {
        self.is_requested = true;
    }

    /// Whether an upgrade was requested since the last call.
    pub(crate) fn take_request(&mut self) -> bool {
        std::mem::take(&mut self.is_requested)
    }

    /// Records that the log files were reopened.
    pub(crate) fn record_reopen(&mut self) {
        self.has_reopen = true;
    }

    /// Whether the log files were reopened since the new process was started.
    pub(crate) fn has_reopen(&self) -> bool {
        self.has_reopen
    }

    /// Starts the new process and talks to it, on a thread of its own.
    ///
    /// # Errors
    /// The system cannot create a thread.
    pub(crate) fn start(
        &mut self,
        command: LaunchCommand,
        payload: HandoverPayload,
    ) -> io::Result<()> {
        let (sender, outcome) = oneshot::channel();
        std::thread::Builder::new()
            .name("tidegate-upgrade".to_owned())
            .spawn(move || {
                // The receiver is gone if this process was stopped meanwhile. Dropping the result then closes the channel.
                let _ = sender.send(start_successor(&command, &payload));
            })?;
        self.outcome = Some(outcome);
        self.has_reopen = false;
        Ok(())
    }

    /// Waits for the upgrade in progress, and returns the new process or the reason of the failure. Stays pending while no
    /// upgrade is in progress.
    pub(crate) async fn outcome(&mut self) -> Result<SuccessorProcess, String> {
        let Some(outcome) = &mut self.outcome else {
            return pending().await;
        };
        let received = outcome.await;
        self.outcome = None;
        received.unwrap_or_else(|_closed| Err("the thread of the upgrade panicked".to_owned()))
    }
}

/// A new process that is ready, and waits for the permission to serve.
#[derive(Debug)]
pub(crate) struct SuccessorProcess {
    child: Child,
    channel: OwnedFd,
}

impl SuccessorProcess {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the new process. It is a child that was not waited for, so its process id is not in use by another process.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            tracing::warn!(%error, "cannot signal the new process");
        }
    }

    /// Lets the new process serve.
    ///
    /// # Errors
    /// The new process has ended since it was ready. It is reaped.
    pub(crate) fn go(&mut self) -> Result<(), String> {
        // The wait in `kill` is short: a process closes its end of the channel in one of the last steps of its exit.
        send(&self.channel, GO, None).map_err(|error| {
            let status = kill(&mut self.child);
            format!("the new process ended before it served: {error}{status}")
        })
    }
}

fn start_successor(
    command: &LaunchCommand,
    payload: &HandoverPayload,
) -> Result<SuccessorProcess, String> {
    let (channel, successors_end) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| format!("cannot create a socket pair: {error}"))?;
    let mut child = command.command(successors_end).spawn().map_err(|error| {
        let program = command.program.display();
        format!("cannot start {program}: {error}; put the program there, and send USR2 again")
    })?;
    match send_handover(&channel, payload) {
        Ok(()) => Ok(SuccessorProcess { child, channel }),
        Err(reason) => Err(format!("{reason}{}", kill(&mut child))),
    }
}

/// Sends everything, and waits until the new process is ready or has failed.
fn send_handover(channel: &OwnedFd, payload: &HandoverPayload) -> Result<(), String> {
    let send_all = || -> io::Result<String> {
        set_socket_timeout(channel, Timeout::Recv, Some(START_TIMEOUT))?;
        for (name, socket) in &payload.sockets {
            let message = format!("{SOCKET_PREFIX}{name}");
            send(channel, &message, Some(socket.as_fd()))?;
        }
        if let Some((path, file)) = &payload.pid_file {
            let message = format!("{PID_FILE_PREFIX}{}", path.display());
            send(channel, &message, Some(file.as_fd()))?;
        }
        send(channel, END, None)?;
        Ok(receive(channel)?.0)
    };
    match send_all() {
        Ok(message) if message == READY => Ok(()),
        Ok(message) => Err(message
            .strip_prefix(FAILED_PREFIX)
            .unwrap_or(&message)
            .to_owned()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(format!(
            "the new process was not ready within {START_TIMEOUT:?}"
        )),
        Err(error) => Err(format!("the new process does not respond: {error}")),
    }
}

/// Ends a new process that has failed, because two processes must not serve, and returns its exit status for the message.
fn kill(child: &mut Child) -> String {
    // Fails if the process has ended already.
    let _ = child.kill();
    match child.wait() {
        Ok(status) => format!(" ({status})"),
        Err(_) => String::new(),
    }
}

/// The new side of an upgrade: the channel to the old process, and what came over it.
#[derive(Debug)]
pub struct HandoverReceiver {
    channel: OwnedFd,
    /// The listening sockets.
    pub inherited: InheritedSockets,
    /// The path and the locked descriptor of the pid file.
    pub pid_file: Option<(PathBuf, OwnedFd)>,
}

impl HandoverReceiver {
    /// Receives the sockets and the pid file from the old process. `None` if this process was not started by an upgrade.
    ///
    /// # Errors
    /// The old process has ended, or sends something else.
    pub fn receive() -> io::Result<Option<Self>> {
        if std::env::var_os(HANDOVER_VARIABLE).is_none() {
            return Ok(None);
        }
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        set_socket_timeout(&channel, Timeout::Recv, Some(START_TIMEOUT))?;
        let mut handover = Self {
            channel,
            inherited: InheritedSockets::default(),
            pid_file: None,
        };
        loop {
            match receive(&handover.channel)? {
                (message, None) if message == END => return Ok(Some(handover)),
                (message, Some(descriptor)) => handover.add(&message, descriptor)?,
                (message, None) => return Err(unexpected(&message)),
            }
        }
    }

    fn add(&mut self, message: &str, descriptor: OwnedFd) -> io::Result<()> {
        if let Some(name) = message.strip_prefix(SOCKET_PREFIX) {
            let socket = if name.starts_with(UNIX) {
                ListeningSocket::Unix(UnixListener::from(descriptor))
            } else {
                ListeningSocket::Tcp(TcpListener::from(descriptor))
            };
            self.inherited.add(name.to_owned(), socket);
        } else if let Some(path) = message.strip_prefix(PID_FILE_PREFIX) {
            self.pid_file = Some((Path::new(path).to_owned(), descriptor));
        } else {
            return Err(unexpected(message));
        }
        Ok(())
    }

    /// Reports to the old process that this one is ready, and returns when this one is to serve.
    ///
    /// # Errors
    /// The old process does not agree. It then continues to serve, and this process must end.
    pub fn ready(&self) -> io::Result<()> {
        send(&self.channel, READY, None)?;
        let message = receive(&self.channel)?.0;
        if message == GO {
            Ok(())
        } else {
            Err(unexpected(&message))
        }
    }

    /// Reports to the old process why this one does not start.
    pub fn failed(&self, reason: &str) {
        let mut message = format!("{FAILED_PREFIX}{reason}");
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        // If the message is not delivered, the old process notices the closed channel when this process ends.
        let _ = send(&self.channel, &message, None);
    }
}

fn unexpected(message: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("unexpected message in the upgrade channel: {message:?}"),
    )
}

/// Sends one message, with a descriptor as SCM_RIGHTS if there is one.
fn send(channel: &OwnedFd, message: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let data = [IoSlice::new(message.as_bytes())];
    retry_on_intr(|| sendmsg(channel, &data, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message, and its descriptor if it has one.
fn receive(channel: &OwnedFd) -> io::Result<(String, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; MAX_MESSAGE];
    // A signal interrupts a call with a timeout, whatever the flags of its handler are (signal(7)).
    let received = retry_on_intr(|| {
        let mut data = [IoSliceMut::new(&mut buffer)];
        recvmsg(channel, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    buffer.truncate(received.bytes);
    if buffer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the process has ended",
        ));
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let message = String::from_utf8(buffer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((message, descriptor))
}

/// The environment variable that tells the new process about the channel at its standard input.
const HANDOVER_VARIABLE: &str = "TIDEGATE_HANDOVER";
const SOCKET_PREFIX: &str = "socket ";
const PID_FILE_PREFIX: &str = "pid-file ";
const END: &str = "end";
const READY: &str = "ready";
const FAILED_PREFIX: &str = "failed: ";
const GO: &str = "go";
/// The largest message in bytes. The longest one has a path (PATH_MAX is 4096) or the reason of a failure.
const MAX_MESSAGE: usize = 8192;
/// The time for the new process to load the configuration, password files and certificates, possibly from a slow disk.
const START_TIMEOUT: Duration = Duration::from_secs(60);
