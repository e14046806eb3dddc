//! Where log lines go: a queue and one thread that writes, so that no request ever waits for a disk or a pipe.
//!
//! `cli` opens a [`Sink`] for the process's own log, `snapshot` one for the access log. A line that finds
//! the queue full is dropped and counted; it knows nothing of what the lines say.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the lines end up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The process's standard output, as journald and containers want it.
    Stdout,
    /// A file that is appended to and can be reopened after a rotation.
    File(PathBuf),
}

/// The writing end of a log; cheap to clone, and finished when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Sink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Option<SyncSender<Line>>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

enum Line {
    Text(Vec<u8>),
    Reopen,
}

impl Sink {
    /// Opens `destination` and starts its thread; fails when the file cannot be opened for appending.
    pub fn open(destination: Destination) -> io::Result<Self> {
        let mut output = Output::open(destination)?;
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&dropped);
        let thread = std::thread::Builder::new()
            .name("tidegate-log".to_owned())
            .spawn(move || output.write_all_of(&lines, &seen))?;
        let shared = Shared {
            queue: Some(queue),
            dropped,
            thread: Some(thread),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Queues a line that ends in a line feed; drops and counts it when the queue is full.
    pub fn write(&self, line: Vec<u8>) {
        if let Some(queue) = &self.shared.queue
            && queue.try_send(Line::Text(line)).is_err()
        {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file anew, behind the lines already queued: what logrotate asks for.
    pub fn reopen(&self) {
        if let Some(queue) = &self.shared.queue {
            // A full queue means that the destination is stuck; the next reopen finds it again.
            let _ = queue.try_send(Line::Reopen);
        }
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Self::write(self, line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Shared {
    /// Lets the thread write what is queued, but never hangs on a pipe that nobody reads.
    fn drop(&mut self) {
        self.queue = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        let until = Instant::now() + LAST_LINES;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

struct Output {
    destination: Destination,
    file: Option<File>,
}

impl Output {
    fn open(destination: Destination) -> io::Result<Self> {
        let file = match &destination {
            Destination::Stdout => None,
            Destination::File(path) => {
                Some(OpenOptions::new().create(true).append(true).open(path)?)
            }
        };
        Ok(Self { destination, file })
    }

    fn write_all_of(&mut self, lines: &Receiver<Line>, dropped: &AtomicU64) {
        while let Ok(line) = lines.recv() {
            match line {
                Line::Text(text) if self.write(&text).is_err() => {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
                Line::Text(_) => {}
                // A file that cannot be opened anew leaves the old one in use: better than silence.
                Line::Reopen => {
                    if let Ok(fresh) = Self::open(self.destination.clone()) {
                        *self = fresh;
                    }
                }
            }
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(text),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(text)?;
                out.flush()
            }
        }
    }
}

/// Lines that may wait: some seconds of a busy gate, at most about 8 MiB.
const QUEUE: usize = 32 * 1024;
/// How long the end of the process may wait for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_a_reopened_file_is_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = Sink::open(Destination::File(path.clone())).unwrap();
        sink.write(b"one\n".to_vec());
        sink.write(b"two\n".to_vec());
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");

        let sink = Sink::open(Destination::File(path.clone())).unwrap();
        let rotated = dir.path().join("access.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        sink.reopen();
        sink.write(b"three\n".to_vec());
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        assert_eq!(std::fs::read(&rotated).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(Sink::open(Destination::File("/nonexistent/dir/log".into())).is_err());
    }
}
