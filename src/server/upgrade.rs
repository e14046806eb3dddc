//! An upgrade in place: the program is started anew and gets the listening sockets; the old process drains when the new
//! one serves, and goes on when it does not.
//!
//! `server` hands over, `cli` receives. The two talk over a pair of sockets, of which the new process finds one as its
//! standard input: one message for each descriptor, then `end`; `ready` or `failed` comes back, and `go` ends it. No
//! connection is lost: the sockets are the same, and whoever waits in them waits for either process.

use std::ffi::OsString;
use std::future::pending;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::sync::oneshot;

use crate::server::InheritedSockets;

/// How this process was started.
#[derive(Clone, Debug)]
pub struct LaunchCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// What is handed over.
#[derive(Debug)]
pub(super) struct HandoverPayload {
    pub(super) sockets: Vec<(String, TcpListener)>,
    /// The locked pid file, and where it is.
    pub(super) pid_file: Option<(PathBuf, OwnedFd)>,
}

/// An upgrade that runs, if one does.
#[derive(Debug, Default)]
pub(super) struct UpgradeState {
    outcome: Option<oneshot::Receiver<Result<SuccessorProcess, String>>>,
}

/// A process that is ready to go on.
#[derive(Debug)]
pub(super) struct SuccessorProcess {
    pub(super) pid: u32,
    channel: OwnedFd,
}

/// What a successor got.
#[derive(Debug)]
pub struct HandoverReceiver {
    channel: OwnedFd,
    /// The sockets.
    pub inherited: InheritedSockets,
    /// The locked pid file, and where it is.
    pub pid_file: Option<(PathBuf, OwnedFd)>,
}

impl LaunchCommand {
    /// By the path that was used, not by the file behind it: a package replaces the file, a link may lead elsewhere
    /// by then.
    ///
    /// # Errors
    /// The system does not tell the path.
    pub fn of_this_process() -> io::Result<Self> {
        let mut words = std::env::args_os();
        let called = words.next().map(PathBuf::from);
        let program = match called.filter(|path| path.components().count() > 1) {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        Ok(Self {
            program,
            arguments: words.collect(),
        })
    }

    /// Without what the service manager meant for this process alone.
    fn command(&self, channel: OwnedFd) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env(HANDOVER, "1")
            .stdin(Stdio::from(channel));
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command
    }
}

impl UpgradeState {
    pub(super) fn is_running(&self) -> bool {
        self.outcome.is_some()
    }

    /// Starts the successor and talks to it, on a thread of its own.
    pub(super) fn begin(
        &mut self,
        start: LaunchCommand,
        estate: HandoverPayload,
    ) -> io::Result<()> {
        let (tell, outcome) = oneshot::channel();
        std::thread::Builder::new()
            .name("tidegate-upgrade".to_owned())
            .spawn(move || {
                // Nobody listens when the gate has been told to stop meanwhile: the successor then sees no `go`.
                let _ = tell.send(succeed(&start, &estate));
            })?;
        self.outcome = Some(outcome);
        Ok(())
    }

    /// Who succeeds, or why nobody does; never when no upgrade runs.
    pub(super) async fn outcome(&mut self) -> Result<SuccessorProcess, String> {
        let Some(outcome) = &mut self.outcome else {
            return pending().await;
        };
        let ended = outcome.await;
        self.outcome = None;
        ended.unwrap_or_else(|_gone| Err("the upgrade's thread panicked".to_owned()))
    }
}

impl SuccessorProcess {
    /// It is the service from now on.
    pub(super) fn go(&self) -> io::Result<()> {
        send(&self.channel, "go", None)
    }
}

fn succeed(start: &LaunchCommand, estate: &HandoverPayload) -> Result<SuccessorProcess, String> {
    let (channel, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| format!("no pair of sockets: {error}"))?;
    let mut child = start
        .command(theirs)
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", start.program.display()))?;
    match introduce(&channel, estate) {
        Ok(()) => Ok(SuccessorProcess {
            pid: child.id(),
            channel,
        }),
        Err(why) => Err(format!("{why}{}", end(&mut child))),
    }
}

/// Gives everything, and waits until the successor has made something of it.
fn introduce(channel: &OwnedFd, estate: &HandoverPayload) -> Result<(), String> {
    let give = || -> io::Result<String> {
        set_socket_timeout(channel, Timeout::Recv, Some(PATIENCE))?;
        for (words, socket) in &estate.sockets {
            send(channel, &format!("{SOCKET}{words}"), Some(socket.as_fd()))?;
        }
        if let Some((path, file)) = &estate.pid_file {
            let words = format!("{PID_FILE}{}", path.display());
            send(channel, &words, Some(file.as_fd()))?;
        }
        send(channel, "end", None)?;
        Ok(receive(channel)?.0)
    };
    match give() {
        Ok(words) if words == "ready" => Ok(()),
        Ok(words) => Err(words.strip_prefix(FAILED).unwrap_or(&words).to_owned()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(format!("the new process was not ready within {PATIENCE:?}"))
        }
        Err(error) => Err(format!("the new process does not answer: {error}")),
    }
}

/// It must not run beside this process.
fn end(child: &mut Child) -> String {
    // It may have ended already.
    let _ = child.kill();
    match child.wait() {
        Ok(status) => format!(" ({status})"),
        Err(_) => String::new(),
    }
}

impl HandoverReceiver {
    /// What the process that started this one hands over; nothing when it was started otherwise.
    ///
    /// # Errors
    /// The other process ended, or is none of ours.
    pub fn receive() -> io::Result<Option<Self>> {
        if std::env::var_os(HANDOVER).is_none() {
            return Ok(None);
        }
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        set_socket_timeout(&channel, Timeout::Recv, Some(PATIENCE))?;
        let mut handover = Self {
            channel,
            inherited: InheritedSockets::default(),
            pid_file: None,
        };
        loop {
            match receive(&handover.channel)? {
                (words, None) if words == "end" => return Ok(Some(handover)),
                (words, Some(descriptor)) => handover.keep(&words, descriptor)?,
                (words, None) => return Err(unknown(&words)),
            }
        }
    }

    fn keep(&mut self, words: &str, descriptor: OwnedFd) -> io::Result<()> {
        if let Some(words) = words.strip_prefix(SOCKET) {
            let socket = TcpListener::from(descriptor);
            self.inherited.add(words.to_owned(), socket);
        } else if let Some(path) = words.strip_prefix(PID_FILE) {
            self.pid_file = Some((Path::new(path).to_owned(), descriptor));
        } else {
            return Err(unknown(words));
        }
        Ok(())
    }

    /// Says that this process is ready, and returns when it is the service.
    ///
    /// # Errors
    /// The other process does not say so: then it serves, and this one must not.
    pub fn ready(&self) -> io::Result<()> {
        send(&self.channel, "ready", None)?;
        match receive(&self.channel)?.0.as_str() {
            "go" => Ok(()),
            words => Err(unknown(words)),
        }
    }

    /// Says why this process ends.
    pub fn failed(&self, why: &str) {
        let mut words = format!("{FAILED}{why}");
        words.truncate(words.floor_char_boundary(LONGEST));
        // Its end tells as well.
        let _ = send(&self.channel, &words, None);
    }
}

fn unknown(words: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("an upgrade does not begin with {words:?}"),
    )
}

fn send(channel: &OwnedFd, words: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(
        channel,
        &[IoSlice::new(words.as_bytes())],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive(channel: &OwnedFd) -> io::Result<(String, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut words = vec![0; LONGEST];
    let message = recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut words)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    words.truncate(message.bytes);
    if words.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended"));
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let words = String::from_utf8(words)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((words, descriptor))
}

const HANDOVER: &str = "TIDEGATE_HANDOVER";
const SOCKET: &str = "socket ";
const PID_FILE: &str = "pid-file ";
const FAILED: &str = "failed: ";
/// A path and some words.
const LONGEST: usize = 8192;
/// For reading the configuration, password files and certificates, perhaps of a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);
