//! Writes log lines: a queue, and one thread per log that writes to the file, so that no request ever waits for a
//! disk or a pipe.
//!
//! `cli` opens a [`LogWriter`] for the log of the process, `snapshot` opens one for the access log. A line is dropped
//! and counted if the queue is full or if it cannot be written; the number of dropped lines is reported in the log
//! itself as soon as a line can be written again. [`LogLine`] formats lines; their content is up to the callers.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

mod limiter;
mod line;
mod queue;

pub use limiter::LogLimiter;
use line::lost_lines;
pub use line::{LogFormat, LogLine, with_line_buffer};
use queue::{Batch, Drained, MAX_BATCH_BYTES, Queue};

/// Where the lines of a log are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output of the process, as journald and containers expect.
    Stdout,
    /// A file, to which lines are appended, and which can be reopened after a rotation.
    File(PathBuf),
}

/// The writer of a log; cheap to clone.
///
/// After the last clone is dropped, the thread of the log writes the lines that are still queued, and ends. The drop
/// does not wait for that, since a worker may drop the last clone with the last request of an old snapshot. Before
/// the process exits, [`finish_all`] waits.
#[derive(Clone, Debug)]
pub struct LogWriter {
    shared: Arc<WriterShared>,
}

struct WriterShared {
    destination: Destination,
    format: LogFormat,
    queue: Arc<Queue>,
}

/// The queues of all logs whose threads run, for [`finish_all`].
static QUEUES: Mutex<Vec<Weak<Queue>>> = Mutex::new(Vec::new());

/// Waits until the queued lines of every log of the process are written, also of logs whose [`LogWriter`]s are
/// dropped. Waits for at most one second, since a pipe may have no reader. Blocks the thread, so it may be called
/// only when the process exits.
pub fn finish_all() {
    let queues: Vec<_> = QUEUES.lock().iter().filter_map(Weak::upgrade).collect();
    wait_until_written(&queues);
}

fn wait_until_written(queues: &[Arc<Queue>]) {
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    while queues.iter().any(|queue| queue.bytes() > 0) && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Written by hand, so that queued log lines do not appear in debug output.
impl fmt::Debug for WriterShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogWriter(..)")
    }
}

impl LogWriter {
    /// Opens `destination` and starts the thread of the log. The callers write their lines in `format`, in which the thread
    /// reports the number of lost lines.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread cannot be started.
    pub fn open(destination: Destination, format: LogFormat) -> io::Result<Self> {
        let mut output = Output::open(destination.clone(), format)?;
        let queue = Arc::<Queue>::default();
        let output_queue = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("tidegate-log".to_owned())
            .spawn(move || output.run(&output_queue))?;
        let mut queues = QUEUES.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&queue));
        Ok(Self {
            shared: Arc::new(WriterShared {
                destination,
                format,
                queue,
            }),
        })
    }

    /// Where the lines are written.
    pub fn destination(&self) -> &Destination {
        &self.shared.destination
    }

    /// The format of the lines.
    pub fn format(&self) -> LogFormat {
        self.shared.format
    }

    /// Queues a line, which must end with a line feed. The line is dropped and counted if the queue is full.
    pub fn write(&self, line: &[u8]) {
        self.shared.queue.push(line);
    }

    /// The number of lines that were lost so far.
    pub fn dropped(&self) -> u64 {
        self.shared.queue.dropped()
    }

    /// Waits until the queued lines are written, for at most one second, since a pipe may have no reader. Blocks the
    /// thread.
    pub fn finish(&self) {
        wait_until_written(&[Arc::clone(&self.shared.queue)]);
    }

    /// Reopens the file after the lines that are already queued are written, as logrotate asks for.
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
    /// Makes the thread end after it has written the queued lines.
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The file of a log, which only the thread of the log uses.
struct Output {
    destination: Destination,
    format: LogFormat,
    file: File,
    /// The last write ended within a line.
    has_partial_line: bool,
}

impl Output {
    fn open(destination: Destination, format: LogFormat) -> io::Result<Self> {
        let file = match &destination {
            // A descriptor of our own: a write to `io::stdout()` that blocks would hold its lock for ever.
            Destination::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            Destination::File(path) => open_file(path)?,
        };
        Ok(Self {
            destination,
            format,
            file,
            has_partial_line: false,
        })
    }

    /// Writes everything that is queued until the queue is closed.
    ///
    /// The first line after a pause is written immediately. Then the thread sleeps for [`WRITE_INTERVAL`], so that on
    /// a busy log callers do not have to wake it, and many lines are written by one system call.
    fn run(&mut self, queue: &Queue) {
        let mut drained = Drained::default();
        while queue.take(&mut drained) {
            let Drained { batch, reopens } = &drained;
            let mut next = 0;
            for lines_before in reopens {
                self.write_batch(batch, next..*lines_before, queue);
                next = *lines_before;
                match Self::open(self.destination.clone(), self.format) {
                    Ok(reopened) => *self = reopened,
                    Err(error) => self.report_failed_reopen(&error),
                }
            }
            self.write_batch(batch, next..batch.ends.len(), queue);
            std::thread::park_timeout(WRITE_INTERVAL);
        }
        self.report_lost_lines(queue);
    }

    /// If the file cannot be opened again, the old one stays in use: lines in a rotated file are better than none. The
    /// rotation may compress or remove that file, so the operator has to know.
    fn report_failed_reopen(&self, error: &io::Error) {
        if let Destination::File(path) = &self.destination {
            tracing::error!(
                path = %path.display(),
                %error,
                "a log file cannot be opened again, and its lines still go to the renamed file; let the proxy's user \
                 create the file, and send USR1 again"
            );
        }
    }

    /// Writes some lines of a batch, with as many lines in one `write` as it may have bytes.
    fn write_batch(&mut self, batch: &Batch, lines: Range<usize>, queue: &Queue) {
        let max_bytes = match self.destination {
            Destination::Stdout => PIPE_BUF,
            Destination::File(_) => MAX_BATCH_BYTES,
        };
        let mut from = batch.start_of(lines.start);
        let mut ends = batch.ends.get(lines).unwrap_or_default();
        while !ends.is_empty() {
            let (piece, rest) = ends.split_at(Batch::count_fitting(from, ends, max_bytes));
            let to = piece.last().copied().unwrap_or(from);
            let text = batch.text.get(from..to).unwrap_or_default();
            self.report_lost_lines(queue);
            let written = from + self.write(text);
            let lost = piece.iter().filter(|end| **end > written).count();
            queue.count_lost(lost as u64);
            queue.finish(piece.len(), text.len());
            (from, ends) = (to, rest);
        }
    }

    fn report_lost_lines(&mut self, queue: &Queue) {
        let lost = queue.unreported();
        if lost > 0 {
            let line = lost_lines(self.format, lost);
            if self.write(line.as_bytes()) == line.len() {
                queue.mark_reported(lost);
            }
        }
    }

    /// Returns the number of bytes that were written.
    fn write(&mut self, text: &[u8]) -> usize {
        if self.destination == Destination::Stdout {
            // Two logs may share standard output, and neither must write into a line of the other.
            let mut has_partial_line = STDOUT_HAS_PARTIAL_LINE.lock();
            write_lines(&mut self.file, &mut has_partial_line, text)
        } else {
            write_lines(&mut self.file, &mut self.has_partial_line, text)
        }
    }
}

/// Opens a file for appending. A named pipe is opened for reading as well: opened for writing alone, it would make the start of
/// the process wait for a program that reads it.
fn open_file(path: &Path) -> io::Result<File> {
    let is_pipe = fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(is_pipe).open(path)
}

/// Writes whole lines, and returns the number of bytes of `text` that were written. If the write before ended within
/// a line, that line is ended first.
fn write_lines(file: &mut impl Write, has_partial_line: &mut bool, text: &[u8]) -> usize {
    if *has_partial_line {
        if file.write_all(b"\n").is_err() {
            return 0;
        }
        *has_partial_line = false;
    }
    let mut written = 0;
    while let Some(rest) = text.get(written..)
        && !rest.is_empty()
    {
        match file.write(rest) {
            Ok(count) if count > 0 => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => {
                let sent = text.get(..written).unwrap_or_default();
                *has_partial_line = !sent.is_empty() && !sent.ends_with(b"\n");
                break;
            }
        }
    }
    written
}

static STDOUT_HAS_PARTIAL_LINE: Mutex<bool> = Mutex::new(false);
/// The maximum number of bytes of one write to a pipe, to which other processes may write as well. The kernel writes
/// up to this number of bytes atomically (POSIX, `PIPE_BUF`).
const PIPE_BUF: usize = 4096;
/// How long the thread of a log sleeps after a write: the maximum delay of a line.
const WRITE_INTERVAL: Duration = Duration::from_millis(5);
/// How long the exit of the process waits for the queued lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::queue::{MAX_QUEUED_BYTES, MAX_QUEUED_LINES};
    use super::*;

    #[test]
    fn lines_are_written_in_order_and_reopen_creates_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let writer = LogWriter::open(Destination::File(path.clone()), LogFormat::Text).unwrap();
        writer.write(b"one\n");
        writer.write(b"two\n");
        writer.finish();
        drop(writer);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");

        let writer = LogWriter::open(Destination::File(path.clone()), LogFormat::Text).unwrap();
        let rotated = dir.path().join("access.log.1");
        fs::rename(&path, &rotated).unwrap();
        writer.reopen();
        writer.write(b"three\n");
        let queue = Arc::clone(&writer.shared.queue);
        drop(writer);
        wait_until_written(&[queue]);
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
        assert_eq!(fs::read(&rotated).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(
            LogWriter::open(
                Destination::File("/nonexistent/dir/log".into()),
                LogFormat::Text
            )
            .is_err()
        );
    }

    #[test]
    fn a_pipe_without_a_reader_stalls_no_writer_and_lost_lines_are_reported() {
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
        // Opened for reading and writing, so that `open` does not wait for the other end.
        let mut reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let writer = LogWriter::open(Destination::File(path), LogFormat::Text).unwrap();
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        let line = |number: usize| format!("{number:099}\n").into_bytes();
        for number in 0..2 * MAX_QUEUED_LINES {
            let before = Instant::now();
            writer.write(&line(number));
            longest = longest.max(before.elapsed());
        }
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(10),
            "{took:?}, {longest:?} at most"
        );
        let large = vec![b'x'; MAX_QUEUED_BYTES];
        writer.write(&large);
        let lost = writer.shared.queue.unreported();
        assert!(lost > 1000, "{lost}");
        let reading = std::thread::spawn(move || {
            let (mut text, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            while !text.ends_with(b"the last\n") {
                let count = io::Read::read(&mut reader, &mut buffer).unwrap();
                text.extend(buffer.get(..count).unwrap());
            }
            String::from_utf8(text).unwrap()
        });
        while writer.shared.queue.bytes() > 0 {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "not read in time"
            );
            std::thread::yield_now();
        }
        writer.write(b"the last\n");
        let text = reading.join().unwrap();
        assert_eq!(text.matches(" lost=").count(), 1);
        assert!(text.contains(&format!(" lost={lost}\n")));
        let whole = text.lines().filter(|line| line.len() == 99).count();
        assert_eq!(whole as u64 + lost, 2 * MAX_QUEUED_LINES as u64 + 1);
    }

    /// If opening waited for a reader, the test would never end.
    #[test]
    fn a_named_pipe_is_opened_without_a_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let writer = LogWriter::open(Destination::File(path.clone()), LogFormat::Text).unwrap();
        writer.write(b"one\n");
        let mut reader = File::open(&path).unwrap();
        let mut text = [0; 4];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert_eq!(&text, b"one\n");
    }

    /// A worker drops the last [`LogWriter`] of an access log with the last request of an old snapshot.
    #[test]
    fn dropping_a_writer_does_not_wait_for_a_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        // Opened for reading and writing, so that `open` does not wait for the other end.
        let mut reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let writer = LogWriter::open(Destination::File(path), LogFormat::Text).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // More than the buffer of a pipe.
        for _ in 0..1000 {
            writer.write(&line);
        }
        let began = Instant::now();
        drop(writer);
        let took = began.elapsed();
        assert!(took < FLUSH_TIMEOUT / 2, "{took:?}");
        // The queued lines are written nevertheless.
        let mut text = vec![0; 1000 * 1024];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert!(text.ends_with(&line));
    }

    #[test]
    fn a_full_disk_loses_lines_and_stalls_no_writer() {
        let writer =
            LogWriter::open(Destination::File("/dev/full".into()), LogFormat::Text).unwrap();
        for _ in 0..1000 {
            writer.write(b"line\n");
        }
        let until = Instant::now() + Duration::from_secs(10);
        while writer.shared.queue.unreported() < 1000 {
            assert!(Instant::now() < until, "not written in time");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_partial_line_is_ended_before_the_next_line() {
        /// A writer with room for a number of bytes.
        struct BoundedWriter(Vec<u8>, usize);
        impl Write for BoundedWriter {
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
        let (mut file, mut has_partial_line) = (BoundedWriter(Vec::new(), 6), false);
        let mut write =
            |file: &mut BoundedWriter, text: &[u8]| write_lines(file, &mut has_partial_line, text);
        assert_eq!(write(&mut file, b"one\n"), 4);
        assert_eq!(write(&mut file, b"two\nand\n"), 2);
        assert_eq!(write(&mut file, b"three\n"), 0);
        file.1 = 100;
        assert_eq!(write(&mut file, b"four\nfive\n"), 10);
        assert_eq!(write(&mut file, b"six\n"), 4);
        assert_eq!(file.0, b"one\ntw\nfour\nfive\nsix\n");
    }

    #[test]
    fn queued_lines_are_written_in_batches_around_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let queue = Queue::default();
        let text = |number: usize| format!("{number:01023}\n").into_bytes();
        for number in 0..200 {
            queue.push(&text(number));
        }
        queue.push(&vec![b'x'; 2 * MAX_BATCH_BYTES]);
        queue.reopen();
        queue.push(&text(200));
        queue.close();
        let mut output = Output::open(Destination::File(path.clone()), LogFormat::Text).unwrap();
        fs::rename(&path, dir.path().join("rotated")).unwrap();
        output.run(&queue);
        assert_eq!((queue.bytes(), queue.unreported()), (0, 0));
        assert_eq!(fs::read(&path).unwrap(), text(200));
        let path = dir.path().join("rotated");
        let written = fs::read(&path).unwrap();
        assert_eq!(written.len(), 200 * 1024 + 2 * MAX_BATCH_BYTES);
        assert!(written.starts_with(&text(0)));
    }

    #[test]
    fn a_batch_has_the_lines_that_fit_and_at_least_one() {
        let mut batch = Batch::default();
        for _ in 0..200 {
            batch.push(&[b'x'; 1024]);
        }
        batch.push(&[b'x'; 2 * MAX_BATCH_BYTES]);
        assert_eq!(
            Batch::count_fitting(0, &batch.ends, MAX_BATCH_BYTES),
            MAX_BATCH_BYTES / 1024
        );
        assert_eq!(Batch::count_fitting(0, &batch.ends, PIPE_BUF), 4);
        let from = batch.start_of(200);
        assert_eq!(from, 200 * 1024);
        assert_eq!(
            Batch::count_fitting(from, &batch.ends[200..], MAX_BATCH_BYTES),
            1
        );
    }
}
