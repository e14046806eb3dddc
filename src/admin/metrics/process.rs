//! What the kernel reports about this process (proc(5), getrlimit(2)).
//!
//! Only the directory of the process is read: the systemd unit hides everything else in `/proc` (`ProcSubset=pid`).

use std::fs;
use std::time::Duration;

/// Figures of this process. A figure that the kernel does not report is `None`.
#[derive(Debug, Default)]
pub(crate) struct ProcessStats {
    /// CPU time in user and kernel mode.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) open_descriptors: Option<usize>,
    pub(crate) max_descriptors: Option<u64>,
    pub(crate) threads: Option<u64>,
}

impl ProcessStats {
    /// Reads the figures of this moment.
    pub(crate) fn read() -> Self {
        let stat = read("/proc/self/stat").as_deref().and_then(Stat::parse);
        Self {
            cpu_seconds: stat.map(|stat| stat.cpu_seconds),
            resident_bytes: resident_bytes(),
            virtual_bytes: stat.map(|stat| stat.virtual_bytes),
            open_descriptors: open_descriptors(),
            max_descriptors: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            threads: stat.map(|stat| stat.threads),
        }
    }
}

/// The fields of `/proc/self/stat` that are shown.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    virtual_bytes: u64,
}

impl Stat {
    /// The second field is the name of the program in parentheses. It may contain spaces and parentheses itself, so the
    /// fields are counted from the last closing parenthesis.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(") ")?;
        // proc(5) counts from 1, and `fields` begins with field 3.
        let field =
            |number: usize| -> Option<u64> { fields.split(' ').nth(number - 3)?.parse().ok() };
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            virtual_bytes: field(23)?,
        })
    }
}

fn seconds(ticks: u64) -> f64 {
    Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)).as_secs_f64()
}

fn resident_bytes() -> Option<u64> {
    let text = read("/proc/self/status")?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Does not count the descriptor of the directory that is being read.
fn open_descriptors() -> Option<usize> {
    let all = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(all.saturating_sub(1))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `USER_HZ`: the kernel reports times to programs in this unit, whatever its own timer frequency is.
const TICKS_PER_SECOND: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_look_like_fields() {
        let fields: Vec<_> = (4..=52).map(|number| number.to_string()).collect();
        let text = format!("1 (a) b (c) S {}", fields.join(" "));
        let stat = Stat::parse(&text).unwrap();
        assert_eq!(
            (stat.cpu_seconds, stat.threads, stat.virtual_bytes),
            (0.29, 20, 23)
        );
        assert_eq!(Stat::parse("1 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
