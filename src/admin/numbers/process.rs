//! The process as the system sees it, under the names that all Prometheus clients give (proc(5)).
//!
//! A number that the system does not tell is left out.

use std::fs;

use super::{single, whole};
use crate::metrics::{Family, Kind, Value};

pub(super) fn families() -> Vec<Family> {
    let stat = read("/proc/self/stat").as_deref().and_then(Stat::parse);
    let (cpu, start, size) = match stat {
        Some(stat) => (
            Some(stat.cpu),
            boot_time().map(|boot| boot + stat.started),
            Some(stat.virtual_bytes),
        ),
        None => (None, None, None),
    };
    let rows = [
        (
            Kind::Counter,
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            cpu.map(Value::Real),
        ),
        (
            Kind::Gauge,
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            start.map(Value::Real),
        ),
        (
            Kind::Gauge,
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            resident().map(Value::Whole),
        ),
        (
            Kind::Gauge,
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            size.map(Value::Whole),
        ),
        (
            Kind::Gauge,
            "process_open_fds",
            "Number of open file descriptors.",
            open_descriptors().map(whole),
        ),
        (
            Kind::Gauge,
            "process_max_fds",
            "Maximum number of open file descriptors.",
            most_descriptors().map(Value::Whole),
        ),
        (
            Kind::Gauge,
            "process_threads",
            "Number of OS threads in the process.",
            stat.map(|stat| Value::Whole(stat.threads)),
        ),
    ];
    let known = rows
        .into_iter()
        .filter_map(|(kind, name, help, value)| Some(single(kind, name, help, value?)));
    known.collect()
}

/// Of `/proc/self/stat`; times in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    cpu: f64,
    /// Since the system's start.
    started: f64,
    threads: u64,
    virtual_bytes: u64,
}

impl Stat {
    /// What stands in parentheses is the program's name, which may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(") ")?;
        // The first one here is the third of proc(5).
        let field =
            |number: usize| -> Option<u64> { fields.split(' ').nth(number - 3)?.parse().ok() };
        Some(Self {
            cpu: seconds(field(14)? + field(15)?),
            started: seconds(field(22)?),
            threads: field(20)?,
            virtual_bytes: field(23)?,
        })
    }
}

fn seconds(ticks: u64) -> f64 {
    std::time::Duration::from_millis(ticks * (1000 / TICKS)).as_secs_f64()
}

fn boot_time() -> Option<f64> {
    let text = read("/proc/stat")?;
    let mut lines = text.lines();
    let seconds = lines.find_map(|line| line.strip_prefix("btime "))?;
    seconds.parse().ok()
}

fn resident() -> Option<u64> {
    let text = read("/proc/self/status")?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Without the one that looks.
fn open_descriptors() -> Option<usize> {
    let all = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(all.saturating_sub(1))
}

fn most_descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `USER_HZ`, in which Linux tells times to every program, whatever its own clock.
const TICKS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_are_read_whatever_the_program_is_called() {
        let fields: Vec<_> = (4..=52).map(|number| number.to_string()).collect();
        let text = format!("1 (a) b (c) S {}", fields.join(" "));
        let stat = Stat::parse(&text).unwrap();
        assert_eq!((stat.cpu, stat.started), (0.29, 0.22));
        assert_eq!((stat.threads, stat.virtual_bytes), (20, 23));
        assert_eq!(Stat::parse("1 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_has_all_of_it() {
        let families = families();
        assert_eq!(families.len(), 7);
        for family in families {
            let (_, value) = &family.samples[0];
            let value = match value {
                Value::Whole(value) => *value as f64,
                Value::Real(value) => *value,
                Value::Buckets(_) => panic!("{}", family.name),
            };
            assert!(value >= 0.0, "{}", family.name);
        }
    }
}
