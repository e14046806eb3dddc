//! The counting, step by step as a connection does it.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;
use crate::net::addr::PeerAddr;

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection whose reader is watched.
struct Reader {
    holding: Arc<ConnectionShare>,
    woken: Arc<Count>,
}

impl Reader {
    fn new(budget: &Arc<RecvBudget>) -> Self {
        Self::from("192.0.2.1", budget)
    }

    /// Of a client at this address.
    fn from(address: &str, budget: &Arc<RecvBudget>) -> Self {
        let address: std::net::IpAddr = address.parse().unwrap();
        let group = PeerAddr::new((address, 1).into())
            .client()
            .network()
            .group();
        let (holding, woken) = (ConnectionShare::new(budget, group), Arc::default());
        Self { holding, woken }
    }

    fn may_read(&self) -> bool {
        let waker = Waker::from(Arc::clone(&self.woken));
        let cx = Context::from_waker(&waker);
        self.holding.poll_read_on(&cx).is_ready()
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

/// A cap whose half is `share`: as much as one client network group may hold.
fn budget(share: usize) -> Arc<RecvBudget> {
    Arc::new(RecvBudget::new(2 * share))
}

fn sum(budget: &RecvBudget) -> usize {
    budget.held()
}

#[test]
fn a_connection_over_the_cap_is_read_again_once_its_body_has_taken_what_it_holds() {
    let budget = budget(4 * MIN_UNTHROTTLED);
    let (reader, other) = (Reader::new(&budget), Reader::new(&budget));
    let (part, _other) = (
        StreamShare::new(&reader.holding),
        StreamShare::new(&other.holding),
    );
    other.holding.read(MIN_UNTHROTTLED / 2);
    reader.holding.read(4 * MIN_UNTHROTTLED);
    assert!(reader.may_read(), "at the cap, not over it");
    reader.holding.read(MIN_UNTHROTTLED + MIN_UNTHROTTLED / 2);
    assert!(!reader.may_read());
    assert!(other.may_read(), "below the floor it goes on");
    part.take(MIN_UNTHROTTLED / 2);
    assert_eq!(reader.woken(), 0);
    part.take(MIN_UNTHROTTLED);
    assert_eq!(reader.woken(), 1, "the sum is below the cap again");
    assert!(reader.may_read());
    drop(reader);
    drop(part);
    assert_eq!(sum(&budget), 0);
}

#[test]
fn a_connection_comes_below_the_floor_while_others_keep_the_sum_over_the_cap() {
    let budget = budget(MIN_UNTHROTTLED);
    let (stuck, reader) = (Reader::new(&budget), Reader::new(&budget));
    let (_stuck, part) = (
        StreamShare::new(&stuck.holding),
        StreamShare::new(&reader.holding),
    );
    stuck.holding.read(10 * MIN_UNTHROTTLED);
    reader.holding.read(2 * MIN_UNTHROTTLED);
    assert!(!stuck.may_read() && !reader.may_read());
    part.take(MIN_UNTHROTTLED);
    assert_eq!((reader.woken(), stuck.woken()), (1, 0));
    assert!(reader.may_read() && !stuck.may_read());
}

#[test]
fn what_one_connection_gives_back_wakes_another() {
    let budget = budget(2 * MIN_UNTHROTTLED);
    let (ending, reader) = (Reader::new(&budget), Reader::new(&budget));
    let (_ending, _part) = (
        StreamShare::new(&ending.holding),
        StreamShare::new(&reader.holding),
    );
    ending.holding.read(2 * MIN_UNTHROTTLED);
    reader.holding.read(2 * MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    drop((ending, _ending));
    assert_eq!((reader.woken(), sum(&budget)), (1, 2 * MIN_UNTHROTTLED));
    assert!(reader.may_read());
    // The same by a reload.
    reader.holding.read(MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    budget.set_limit(2 * 3 * MIN_UNTHROTTLED);
    assert_eq!(reader.woken(), 2);
    assert!(reader.may_read());
}

#[test]
fn a_connection_whose_bodies_all_wait_holds_nothing() {
    let budget = budget(0);
    let reader = Reader::new(&budget);
    let (first, second) = (
        StreamShare::new(&reader.holding),
        StreamShare::new(&reader.holding),
    );
    reader.holding.read(5 * MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    first.wait();
    assert_eq!(reader.woken(), 0, "the other one may have all of it");
    second.wait();
    assert_eq!((reader.woken(), sum(&budget)), (1, 0));
    // Data for a body that waits wakes it, and counts until it is taken.
    let task = Arc::new(Count::default());
    let waker = second.waker(&Waker::from(Arc::clone(&task)));
    assert!(reader.may_read());
    reader.holding.read(2 * MIN_UNTHROTTLED);
    waker.wake_by_ref();
    reader.holding.begin_turn();
    assert_eq!(task.0.load(Ordering::Relaxed), 1);
    assert_eq!(sum(&budget), 2 * MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    // A body that ends gives up its part, whatever it left unread.
    second.close();
    second.close();
    assert_eq!((reader.woken(), sum(&budget)), (2, 0));
    assert!(reader.may_read());
}

#[test]
fn frames_that_belong_to_no_body_hold_no_memory_and_stop_nobody() {
    let budget = budget(0);
    let reader = Reader::new(&budget);
    for _ in 0..3 {
        reader.holding.begin_turn();
        assert!(reader.may_read());
        reader.holding.read(MIN_UNTHROTTLED);
        reader.holding.read(1);
        let woken = reader.woken();
        // Not read in this turn, but there is a next one.
        assert!(!reader.may_read());
        assert_eq!(reader.woken(), woken + 1);
    }
    // A request that was among them holds what came.
    let part = StreamShare::new(&reader.holding);
    reader.holding.begin_turn();
    assert!(!reader.may_read());
    drop(part);
    assert!(reader.may_read());
}

#[test]
fn a_pause_is_seen_by_who_counts_silence() {
    let budget = budget(0);
    let reader = Reader::new(&budget);
    let part = StreamShare::new(&reader.holding);
    let mut seen = 0;
    assert!(!reader.holding.has_paused(&mut seen));
    reader.holding.read(2 * MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    assert!(reader.holding.has_paused(&mut seen));
    assert!(reader.holding.has_paused(&mut seen), "it lasts");
    part.take(2 * MIN_UNTHROTTLED);
    assert!(reader.may_read());
    assert!(reader.holding.has_paused(&mut seen));
    assert!(!reader.holding.has_paused(&mut seen));
}

#[test]
fn a_48_that_holds_its_share_stops_no_other() {
    let budget = budget(4 * MIN_UNTHROTTLED);
    let flood: Vec<_> = (0..8)
        .map(|number| Reader::from(&format!("2001:db8:0:{number}::1"), &budget))
        .collect();
    let _parts: Vec<_> = flood
        .iter()
        .map(|one| StreamShare::new(&one.holding))
        .collect();
    for _ in 0..8 {
        for reader in &flood {
            if reader.may_read() {
                reader.holding.read(MIN_UNTHROTTLED);
            }
        }
    }
    // Each of them is read from until it holds more than the floor, as any connection is.
    assert_eq!(sum(&budget), flood.len() * 2 * MIN_UNTHROTTLED);
    let other = Reader::from("192.0.2.1", &budget);
    let _part = StreamShare::new(&other.holding);
    assert!(other.may_read());
    drop((flood, _parts, other, _part));
    budget.set_limit(16 * MIN_UNTHROTTLED);
    let other = Reader::from("192.0.2.1", &budget);
    let _part = StreamShare::new(&other.holding);
    let flood = [
        Reader::from("2001:db8::1", &budget),
        Reader::from("2001:db8:0:1::1", &budget),
    ];
    let _parts = flood.each_ref().map(|one| StreamShare::new(&one.holding));
    while flood[0].may_read() {
        flood[0].holding.read(MIN_UNTHROTTLED);
    }
    assert_eq!(sum(&budget), 9 * MIN_UNTHROTTLED);
    for _ in 0..3 {
        assert!(other.may_read());
        other.holding.read(MIN_UNTHROTTLED);
    }
    assert!(!flood[0].may_read() && other.may_read());
    flood[1].holding.read(2 * MIN_UNTHROTTLED);
    assert!(!flood[1].may_read(), "the same /48");
}

#[test]
fn a_paused_group_is_read_again_when_another_one_gives_back() {
    let budget = budget(4 * MIN_UNTHROTTLED);
    let (first, second) = (
        Reader::from("192.0.2.1", &budget),
        Reader::from("192.0.2.2", &budget),
    );
    let parts = [
        StreamShare::new(&first.holding),
        StreamShare::new(&second.holding),
    ];
    first.holding.read(4 * MIN_UNTHROTTLED);
    second.holding.read(3 * MIN_UNTHROTTLED);
    assert!(!first.may_read() && !second.may_read());
    parts[0].take(2 * MIN_UNTHROTTLED);
    assert_eq!((first.woken(), second.woken()), (1, 1));
    assert!(first.may_read() && second.may_read());
    let names = |budget: &RecvBudget| {
        let groups = lock(&budget.groups);
        groups
            .values()
            .filter(|group| group.strong_count() > 0)
            .count()
    };
    assert_eq!(names(&budget), 2);
    drop((first, second, parts));
    assert_eq!((names(&budget), sum(&budget)), (0, 0));
    assert!(lock(&budget.paused).is_empty());
}
