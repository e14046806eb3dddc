//! Where log lines go: a queue and one thread that writes, so that no request ever waits for a disk or a pipe.
//!
//! `cli` opens a [`LogWriter`] for the process's own log, `snapshot` one for the access log. A line that finds
//! the queue full is dropped and counted, and so is one that cannot be written; how many is said in the log itself as
//! soon as it can be. The form of a line is [`LogLine`]'s; what the lines say is known to those who write them.

use parking_lot::{Mutex, MutexGuard};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

mod batch;
mod limiter;
mod line;
mod queue;

use batch::{BATCH, Batch, write_lines};
pub use limiter::LogLimiter;
pub use line::{LogLine, lost_lines, with_line_buffer};
use queue::{Drained, Queue};

/// Where the lines end up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The process's standard output, as journald and containers want it.
    Stdout,
    /// A file that is appended to and can be reopened after a rotation.
    File(PathBuf),
}

/// The writing end of a log; cheap to clone.
///
/// When the last clone is dropped, the thread writes what is still queued and then ends. Nothing waits for that, since the
/// last clone may be dropped by a worker with the last request of an old snapshot. Before the process ends, [`finish_all`]
/// waits.
#[derive(Clone, Debug)]
pub struct LogWriter {
    shared: Arc<WriterShared>,
}

/// The line that says how many were lost, in the log's own form.
pub type LostLine = fn(u64) -> String;

struct WriterShared {
    queue: Arc<Queue>,
}

/// The queues of all logs whose threads run, for the end of the process.
static QUEUES: Mutex<Vec<Weak<Queue>>> = Mutex::new(Vec::new());

/// Waits until the lines so far are written in every log of the process, also in the logs that no [`LogWriter`] leads to any more.
/// Never waits longer than a second: a pipe may have no reader. Blocks, so that only the end of the process may call it.
pub fn finish_all() {
    let queues: Vec<_> = queues().iter().filter_map(Weak::upgrade).collect();
    wait_until_written(&queues);
}

fn queues() -> MutexGuard<'static, Vec<Weak<Queue>>> {
    QUEUES.lock()
}

fn wait_until_written(queues: &[Arc<Queue>]) {
    let until = Instant::now() + LAST_LINES;
    while queues.iter().any(|queue| queue.bytes() > 0) && Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// By hand: the lines are no matter of a debug print.
impl fmt::Debug for WriterShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink(..)")
    }
}

impl LogWriter {
    /// Opens `destination` and starts its thread; fails when the file cannot be opened for appending.
    pub fn open(destination: Destination, lost_line: LostLine) -> io::Result<Self> {
        let mut output = Output::open(destination)?;
        let queue = Arc::<Queue>::default();
        let lines = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("tidegate-log".to_owned())
            .spawn(move || output.write_all_of(&lines, lost_line))?;
        let mut queues = queues();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&queue));
        Ok(Self {
            shared: Arc::new(WriterShared { queue }),
        })
    }

    /// Queues a line that ends in a line feed; drops and counts it when the queue is full.
    pub fn write(&self, line: &[u8]) {
        self.shared.queue.push(line);
    }

    /// Lines that were lost so far.
    pub fn dropped(&self) -> u64 {
        self.shared.queue.dropped()
    }

    /// Waits until the lines so far are written, but for a second at most: a pipe may have no reader. Blocks.
    pub fn finish(&self) {
        wait_until_written(&[Arc::clone(&self.shared.queue)]);
    }

    /// Opens the file anew, behind the lines already queued: what logrotate asks for.
    pub fn reopen(&self) {
        self.shared.queue.reopen();
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Self::write(self, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for WriterShared {
    /// The thread ends when it has written what is queued.
    fn drop(&mut self) {
        self.queue.close();
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

    /// A busy log is written in pieces: whoever writes a line need not wake this thread within its [`NAP`], and many
    /// lines are one system call. The first line after a pause is written at once.
    fn write_all_of(&mut self, queue: &Queue, lost_line: LostLine) {
        let mut taken = Drained::default();
        while queue.take(&mut taken) {
            let Drained { batch, reopens } = &taken;
            let mut next = 0;
            for behind in reopens {
                self.write_pieces(batch, next..*behind, queue, lost_line);
                next = *behind;
                // A file that cannot be opened anew leaves the old one in use: better than silence.
                if let Ok(fresh) = Self::open(self.destination.clone()) {
                    *self = fresh;
                }
            }
            self.write_pieces(batch, next..batch.ends.len(), queue, lost_line);
            std::thread::park_timeout(NAP);
        }
        self.tell_lost(queue, lost_line);
    }

    /// Writes some lines of a batch, as many at once as one write may hold.
    fn write_pieces(
        &mut self,
        batch: &Batch,
        lines: Range<usize>,
        queue: &Queue,
        lost_line: LostLine,
    ) {
        let most = match self.destination {
            Destination::Stdout => PIPE,
            Destination::File(_) => BATCH,
        };
        let mut from = batch.begin(lines.start);
        let mut ends = batch.ends.get(lines).unwrap_or_default();
        while !ends.is_empty() {
            let (piece, rest) = ends.split_at(Batch::fitting(from, ends, most));
            let to = piece.last().copied().unwrap_or(from);
            let text = batch.text.get(from..to).unwrap_or_default();
            self.tell_lost(queue, lost_line);
            let written = from + self.write(text);
            let lost = piece.iter().filter(|end| **end > written).count();
            queue.drop_line(lost as u64);
            queue.done(piece.len(), text.len());
            (from, ends) = (to, rest);
        }
    }

    fn tell_lost(&mut self, queue: &Queue, lost_line: LostLine) {
        let lost = queue.lost();
        if lost > 0 {
            let line = lost_line(lost);
            if self.write(line.as_bytes()) == line.len() {
                queue.told(lost);
            }
        }
    }

    /// How many bytes went out.
    fn write(&mut self, text: &[u8]) -> usize {
        if self.destination == Destination::Stdout {
            // Two logs may share it, and neither must write into a line of the other.
            let mut is_torn = STDOUT_IS_TORN.lock();
            write_lines(&mut self.file, &mut is_torn, text)
        } else {
            write_lines(&mut self.file, &mut self.is_torn, text)
        }
    }
}

static STDOUT_IS_TORN: Mutex<bool> = Mutex::new(false);
/// Most of one write to a pipe, which other processes may write to: so much is not torn (POSIX, `PIPE_BUF`).
const PIPE: usize = 4096;
/// How late a line of a busy log may be.
const NAP: Duration = Duration::from_millis(5);
/// The longest time that the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::queue::{QUEUE, QUEUE_BYTES};
    use super::*;

    fn lost_line(lost: u64) -> String {
        format!("lost {lost}\n")
    }

    #[test]
    fn lines_arrive_in_order_and_a_reopened_file_is_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = LogWriter::open(Destination::File(path.clone()), lost_line).unwrap();
        sink.write(b"one\n");
        sink.write(b"two\n");
        sink.finish();
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");

        let sink = LogWriter::open(Destination::File(path.clone()), lost_line).unwrap();
        let rotated = dir.path().join("access.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        sink.reopen();
        sink.write(b"three\n");
        let queue = Arc::clone(&sink.shared.queue);
        drop(sink);
        wait_until_written(&[queue]);
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        assert_eq!(std::fs::read(&rotated).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(
            LogWriter::open(Destination::File("/nonexistent/dir/log".into()), lost_line).is_err()
        );
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
        let sink = LogWriter::open(Destination::File(path), lost_line).unwrap();
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        let line = |number: usize| format!("{number:099}\n").into_bytes();
        for number in 0..2 * QUEUE {
            let before = Instant::now();
            sink.write(&line(number));
            longest = longest.max(before.elapsed());
        }
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(10),
            "{took:?}, {longest:?} at most"
        );
        let large = vec![b'x'; QUEUE_BYTES];
        sink.write(&large);
        let lost = sink.shared.queue.lost();
        assert!(lost > 1000, "{lost}");
        let reading = std::thread::spawn(move || {
            let (mut said, mut space) = (Vec::new(), vec![0; 1 << 16]);
            while !said.ends_with(b"the last\n") {
                let count = io::Read::read(&mut reader, &mut space).unwrap();
                said.extend(space.get(..count).unwrap());
            }
            String::from_utf8(said).unwrap()
        });
        while sink.shared.queue.bytes() > 0 {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "not read in time"
            );
            std::thread::yield_now();
        }
        sink.write(b"the last\n");
        let said = reading.join().unwrap();
        assert_eq!(said.matches("lost ").count(), 1);
        assert!(said.contains(&format!("\nlost {lost}\n")));
        let whole = said.lines().filter(|line| line.len() == 99).count();
        assert_eq!(whole as u64 + lost, 2 * QUEUE as u64 + 1);
    }

    /// A worker drops the last [`LogWriter`] of an access log with the last request of an old snapshot.
    #[test]
    fn dropping_a_sink_waits_for_no_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        // Opened for both, so that neither end waits for the other.
        let mut reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let sink = LogWriter::open(Destination::File(path), lost_line).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // More than a pipe holds.
        for _ in 0..1000 {
            sink.write(&line);
        }
        let began = Instant::now();
        drop(sink);
        let took = began.elapsed();
        assert!(took < LAST_LINES / 2, "{took:?}");
        // What was queued is written nevertheless.
        let mut text = vec![0; 1000 * 1024];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert!(text.ends_with(&line));
    }

    #[test]
    fn a_full_disk_loses_lines_and_stalls_nobody() {
        let sink = LogWriter::open(Destination::File("/dev/full".into()), lost_line).unwrap();
        for _ in 0..1000 {
            sink.write(b"line\n");
        }
        let until = Instant::now() + Duration::from_secs(10);
        while sink.shared.queue.lost() < 1000 {
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
        let queue = Queue::default();
        let text = |number: usize| format!("{number:01023}\n").into_bytes();
        for number in 0..200 {
            queue.push(&text(number));
        }
        queue.push(&vec![b'x'; 2 * BATCH]);
        queue.reopen();
        queue.push(&text(200));
        queue.close();
        let mut output = Output::open(Destination::File(path.clone())).unwrap();
        std::fs::rename(&path, dir.path().join("rotated")).unwrap();
        output.write_all_of(&queue, lost_line);
        assert_eq!((queue.bytes(), queue.lost()), (0, 0));
        assert_eq!(std::fs::read(&path).unwrap(), text(200));
        let path = dir.path().join("rotated");
        let written = std::fs::read(&path).unwrap();
        assert_eq!(written.len(), 200 * 1024 + 2 * BATCH);
        assert!(written.starts_with(&text(0)));
    }

    #[test]
    fn a_write_holds_as_many_lines_as_fit_and_one_at_least() {
        let mut batch = Batch::default();
        for _ in 0..200 {
            batch.push(&[b'x'; 1024]);
        }
        batch.push(&[b'x'; 2 * BATCH]);
        assert_eq!(Batch::fitting(0, &batch.ends, BATCH), BATCH / 1024);
        assert_eq!(Batch::fitting(0, &batch.ends, PIPE), 4);
        let from = batch.begin(200);
        assert_eq!(from, 200 * 1024);
        assert_eq!(Batch::fitting(from, &batch.ends[200..], BATCH), 1);
    }
}
