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

mod batch;

use batch::{BATCH, Batch, write_lines};

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
    batch: Batch,
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
            batch: Batch::default(),
        })
    }

    /// A busy log is written in pieces: whoever writes a line need not wake this thread within its [`NAP`], and many
    /// lines are one system call. The first line after a pause is written at once.
    fn write_all_of(&mut self, lines: &Receiver<Line>, state: &State, lost_line: LostLine) {
        while let Ok(first) = lines.recv() {
            let mut next = Some(first);
            while let Some(line) = next.take() {
                match line {
                    Line::Text(text) => next = self.gather(text, lines),
                    // A file that cannot be opened anew leaves the old one in use: better than silence.
                    Line::Reopen => {
                        if let Ok(fresh) = Self::open(self.destination.clone()) {
                            *self = fresh;
                        }
                    }
                }
                self.write_batch(state, lost_line);
                next = next.or_else(|| lines.try_recv().ok());
            }
            std::thread::park_timeout(NAP);
        }
        self.tell_lost(state, lost_line);
    }

    /// Takes this line and what waits behind it into the batch, up to what does not fit any more or is no line.
    fn gather(&mut self, text: Vec<u8>, lines: &Receiver<Line>) -> Option<Line> {
        let most = match self.destination {
            Destination::Stdout => PIPE,
            Destination::File(_) => BATCH,
        };
        self.batch.push(&text);
        loop {
            match lines.try_recv().ok()? {
                Line::Text(text) if self.batch.text.len() + text.len() <= most => {
                    self.batch.push(&text);
                }
                other => return Some(other),
            }
        }
    }

    fn write_batch(&mut self, state: &State, lost_line: LostLine) {
        if self.batch.ends.is_empty() {
            return;
        }
        self.tell_lost(state, lost_line);
        let batch = std::mem::take(&mut self.batch);
        let written = self.write(&batch.text);
        let lost = batch.ends.iter().filter(|end| **end > written);
        lost.for_each(|_| state.lose());
        state.queued.fetch_sub(batch.text.len(), Ordering::Relaxed);
        self.batch = batch.emptied();
    }

    fn tell_lost(&mut self, state: &State, lost_line: LostLine) {
        let lost = state.lost.load(Ordering::Relaxed);
        if lost > 0 {
            let line = lost_line(lost);
            if self.write(line.as_bytes()) == line.len() {
                state.lost.fetch_sub(lost, Ordering::Relaxed);
            }
        }
    }

    /// How many bytes went out.
    fn write(&mut self, text: &[u8]) -> usize {
        if self.destination == Destination::Stdout {
            // Two logs may share it, and neither must write into a line of the other.
            let mut is_torn = STDOUT_IS_TORN
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            write_lines(&mut self.file, &mut is_torn, text)
        } else {
            write_lines(&mut self.file, &mut self.is_torn, text)
        }
    }
}

static STDOUT_IS_TORN: Mutex<bool> = Mutex::new(false);
/// Lines that may wait: some seconds of a busy gate.
const QUEUE: usize = 32 * 1024;
/// What they may hold: a line may be as long as a path.
const QUEUE_BYTES: usize = 8 << 20;
/// Most of one write to a pipe, which other processes may write to: so much is not torn (POSIX, `PIPE_BUF`).
const PIPE: usize = 4096;
/// How late a line of a busy log may be.
const NAP: Duration = Duration::from_millis(5);
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
        let mut write = |file: &mut Small, text: &[u8]| write_lines(file, &mut is_torn, text);
        assert_eq!(write(&mut file, b"one\n"), 4);
        assert_eq!(write(&mut file, b"two\nand\n"), 2);
        assert_eq!(write(&mut file, b"three\n"), 0);
        file.1 = 100;
        assert_eq!(write(&mut file, b"four\nfive\n"), 10);
        assert_eq!(write(&mut file, b"six\n"), 4);
        assert_eq!(file.0, b"one\ntw\nfour\nfive\nsix\n");
    }

    #[test]
    fn lines_that_wait_go_out_together_and_each_is_lost_or_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (queue, lines) = sync_channel(QUEUE);
        let text = |number: usize| format!("{number:01023}\n").into_bytes();
        for number in 0..200 {
            queue.try_send(Line::Text(text(number))).unwrap();
        }
        queue.try_send(Line::Text(vec![b'x'; 2 * BATCH])).unwrap();
        queue.try_send(Line::Reopen).unwrap();
        queue.try_send(Line::Text(text(200))).unwrap();
        drop(queue);
        let mut output = Output::open(Destination::File(path.clone())).unwrap();
        let state = State::default();
        state
            .queued
            .fetch_add(201 * 1024 + 2 * BATCH, Ordering::Relaxed);
        let Ok(Line::Text(first)) = lines.try_recv() else {
            panic!("no line");
        };
        // As many as fit; the next one is handed back.
        assert!(matches!(output.gather(first, &lines), Some(Line::Text(_))));
        assert_eq!(output.batch.ends.len(), BATCH / 1024);
        output.write_all_of(&lines, &state, lost_line);
        assert_eq!(state.queued.load(Ordering::Relaxed), 1024);
        let written = std::fs::read(&path).unwrap();
        assert_eq!(written.len(), 200 * 1024 + 2 * BATCH);
        assert!(written.ends_with(&text(200)));
    }
}
