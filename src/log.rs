//! Where log lines go: a queue and one thread that writes, so that no request ever waits for a disk or a pipe.
//!
//! `cli` opens a [`Sink`] for the process's own log, `snapshot` one for the access log. A line that finds
//! the queue full is dropped and counted, and so is one that cannot be written; how many is said in the log itself as
//! soon as it can be. It knows nothing of what the lines say.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
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

/// The line that says how many were lost, in the log's own form.
pub type LostLine = fn(u64) -> String;

#[derive(Debug)]
struct Shared {
    queue: Option<SyncSender<Line>>,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

/// What both ends of the queue count.
#[derive(Debug, Default)]
struct State {
    /// Lines that nobody was told of yet.
    lost: AtomicU64,
    /// All lines that were lost so far.
    dropped: AtomicU64,
    /// Bytes in the queue.
    queued: AtomicUsize,
}

impl State {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

enum Line {
    Text(Vec<u8>),
    Reopen,
}

impl Sink {
    /// Opens `destination` and starts its thread; fails when the file cannot be opened for appending.
    pub fn open(destination: Destination, lost_line: LostLine) -> io::Result<Self> {
        let mut output = Output::open(destination)?;
        let (queue, lines) = sync_channel(QUEUE);
        let state = Arc::<State>::default();
        let seen = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("tidegate-log".to_owned())
            .spawn(move || output.write_all_of(&lines, &seen, lost_line))?;
        let shared = Shared {
            queue: Some(queue),
            state,
            thread: Some(thread),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Queues a line that ends in a line feed; drops and counts it when the queue is full.
    pub fn write(&self, line: Vec<u8>) {
        let Some(queue) = &self.shared.queue else {
            return;
        };
        let (state, size) = (&self.shared.state, line.len());
        let fits = state.queued.fetch_add(size, Ordering::Relaxed) + size <= QUEUE_BYTES;
        if !fits || queue.try_send(Line::Text(line)).is_err() {
            state.queued.fetch_sub(size, Ordering::Relaxed);
            state.lose();
        }
    }

    /// Lines that were lost so far.
    pub fn dropped(&self) -> u64 {
        self.shared.state.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines so far are written, but never hangs on a pipe that nobody reads.
    pub fn finish(&self) {
        let until = Instant::now() + LAST_LINES;
        while self.shared.state.queued.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(1));
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
    file: File,
    is_torn: bool,
}

impl Output {
    fn open(destination: Destination) -> io::Result<Self> {
        let file = match &destination {
            // Not through std's, whose lock a stuck write would hold for ever.
            Destination::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            Destination::File(path) => OpenOptions::new().create(true).append(true).open(path)?,
        };
        Ok(Self {
            destination,
            file,
            is_torn: false,
        })
    }

    fn write_all_of(&mut self, lines: &Receiver<Line>, state: &State, lost_line: LostLine) {
        while let Ok(line) = lines.recv() {
            match line {
                Line::Text(text) => {
                    self.tell_lost(state, lost_line);
                    if self.write(&text).is_err() {
                        state.lose();
                    }
                    state.queued.fetch_sub(text.len(), Ordering::Relaxed);
                }
                // A file that cannot be opened anew leaves the old one in use: better than silence.
                Line::Reopen => {
                    if let Ok(fresh) = Self::open(self.destination.clone()) {
                        *self = fresh;
                    }
                }
            }
        }
        self.tell_lost(state, lost_line);
    }

    fn tell_lost(&mut self, state: &State, lost_line: LostLine) {
        let lost = state.lost.load(Ordering::Relaxed);
        if lost > 0 && self.write(lost_line(lost).as_bytes()).is_ok() {
            state.lost.fetch_sub(lost, Ordering::Relaxed);
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.destination == Destination::Stdout {
            // Two logs may share it, and neither must write into a line of the other.
            let mut is_torn = STDOUT_IS_TORN
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            write_line(&mut self.file, &mut is_torn, text)
        } else {
            write_line(&mut self.file, &mut self.is_torn, text)
        }
    }
}

/// What follows a line that went out in part begins on a line of its own.
fn write_line(file: &mut impl Write, is_torn: &mut bool, text: &[u8]) -> io::Result<()> {
    if *is_torn {
        file.write_all(b"\n")?;
        *is_torn = false;
    }
    let mut rest = text;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                *is_torn = rest.len() < text.len();
                return Err(error);
            }
        }
    }
    Ok(())
}

static STDOUT_IS_TORN: Mutex<bool> = Mutex::new(false);
/// Lines that may wait: some seconds of a busy gate.
const QUEUE: usize = 32 * 1024;
/// What they may hold: a line may be as long as a path.
const QUEUE_BYTES: usize = 8 << 20;
/// How long the end of the process may wait for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn lost_line(lost: u64) -> String {
        format!("lost {lost}\n")
    }

    #[test]
    fn lines_arrive_in_order_and_a_reopened_file_is_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = Sink::open(Destination::File(path.clone()), lost_line).unwrap();
        sink.write(b"one\n".to_vec());
        sink.write(b"two\n".to_vec());
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");

        let sink = Sink::open(Destination::File(path.clone()), lost_line).unwrap();
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
        assert!(Sink::open(Destination::File("/nonexistent/dir/log".into()), lost_line).is_err());
    }

    #[test]
    fn a_pipe_that_nobody_reads_stalls_no_writer_and_what_is_lost_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        // Opened for both, so that neither end waits for the other.
        let mut reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let sink = Sink::open(Destination::File(path), lost_line).unwrap();
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        let line = |number: usize| format!("{number:099}\n").into_bytes();
        for number in 0..2 * QUEUE {
            let before = Instant::now();
            sink.write(line(number));
            longest = longest.max(before.elapsed());
        }
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(10),
            "{took:?}, {longest:?} at most"
        );
        let large = vec![b'x'; QUEUE_BYTES];
        sink.write(large);
        let lost = sink.shared.state.lost.load(Ordering::Relaxed);
        assert!(lost > 1000, "{lost}");
        let reading = std::thread::spawn(move || {
            let (mut said, mut space) = (Vec::new(), vec![0; 1 << 16]);
            while !said.ends_with(b"the last\n") {
                let count = io::Read::read(&mut reader, &mut space).unwrap();
                said.extend(space.get(..count).unwrap());
            }
            String::from_utf8(said).unwrap()
        });
        let state = Arc::clone(&sink.shared.state);
        while state.queued.load(Ordering::Relaxed) > 0 {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "not read in time"
            );
            std::thread::yield_now();
        }
        sink.write(b"the last\n".to_vec());
        let said = reading.join().unwrap();
        assert_eq!(said.matches("lost ").count(), 1);
        assert!(said.contains(&format!("\nlost {lost}\n")));
        let whole = said.lines().filter(|line| line.len() == 99).count();
        assert_eq!(whole as u64 + lost, 2 * QUEUE as u64 + 1);
    }

    #[test]
    fn a_full_disk_loses_lines_and_stalls_nobody() {
        let sink = Sink::open(Destination::File("/dev/full".into()), lost_line).unwrap();
        for _ in 0..1000 {
            sink.write(b"line\n".to_vec());
        }
        let until = Instant::now() + Duration::from_secs(10);
        while sink.shared.state.lost.load(Ordering::Relaxed) < 1000 {
            assert!(Instant::now() < until, "not written in time");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_line_behind_a_torn_one_begins_anew() {
        /// Takes so many bytes.
        struct Small(Vec<u8>, usize);
        impl Write for Small {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let room = self.1 - self.0.len();
                if room == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let count = room.min(bytes.len());
                self.0.extend(bytes.get(..count).unwrap());
                Ok(count)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut file, mut is_torn) = (Small(Vec::new(), 6), false);
        write_line(&mut file, &mut is_torn, b"one\n").unwrap();
        write_line(&mut file, &mut is_torn, b"two\n").unwrap_err();
        write_line(&mut file, &mut is_torn, b"three\n").unwrap_err();
        file.1 = 100;
        write_line(&mut file, &mut is_torn, b"four\n").unwrap();
        write_line(&mut file, &mut is_torn, b"five\n").unwrap();
        assert_eq!(file.0, b"one\ntw\nfour\nfive\n");
    }
}
