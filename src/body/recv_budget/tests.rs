//! Tests of the receive budget: its counters, changed in the order in which a connection changes them.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;
use crate::net::addr::ClientAddr;

/// Counts how often it was woken.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, and a waker that counts how often its reading task is woken.
struct Reader {
    share: Arc<ConnectionShare>,
    waker: Arc<CountingWaker>,
}

impl Reader {
    fn new(budget: &Arc<RecvBudget>) -> Self {
        Self::from("192.0.2.1", budget)
    }

    /// A connection of the client at `address`.
    fn from(address: &str, budget: &Arc<RecvBudget>) -> Self {
        let group = ClientAddr::new(address.parse().unwrap()).network().group();
        let (share, waker) = (ConnectionShare::new(budget, group), Arc::default());
        Self { share, waker }
    }

    fn may_read(&self) -> bool {
        let waker = Waker::from(Arc::clone(&self.waker));
        let cx = Context::from_waker(&waker);
        self.share.poll_may_read(&cx).is_ready()
    }

    fn wakeups(&self) -> usize {
        self.waker.0.load(Ordering::Relaxed)
    }
}

/// A budget of which one client network group may use `share`, which is half of the limit.
fn budget(share: usize) -> Arc<RecvBudget> {
    Arc::new(RecvBudget::new(2 * share))
}

#[test]
fn a_paused_connection_is_read_again_once_its_body_has_taken_enough() {
    let budget = budget(4 * MIN_UNTHROTTLED);
    let (reader, other) = (Reader::new(&budget), Reader::new(&budget));
    let (body, _other) = (
        StreamShare::new(&reader.share),
        StreamShare::new(&other.share),
    );
    other.share.record_read(MIN_UNTHROTTLED / 2);
    reader.share.record_read(4 * MIN_UNTHROTTLED);
    assert!(reader.may_read(), "at the limit, not over it");
    reader
        .share
        .record_read(MIN_UNTHROTTLED + MIN_UNTHROTTLED / 2);
    assert!(!reader.may_read());
    assert!(other.may_read(), "below the threshold it continues");
    body.record_taken(MIN_UNTHROTTLED / 2);
    assert_eq!(reader.wakeups(), 0);
    body.record_taken(MIN_UNTHROTTLED);
    assert_eq!(reader.wakeups(), 1, "the sum is below the limit again");
    assert!(reader.may_read());
    drop(reader);
    drop(body);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_connection_below_the_threshold_is_read_while_others_keep_the_sum_over_the_limit() {
    let budget = budget(MIN_UNTHROTTLED);
    let (stuck, reader) = (Reader::new(&budget), Reader::new(&budget));
    let (_stuck, body) = (
        StreamShare::new(&stuck.share),
        StreamShare::new(&reader.share),
    );
    stuck.share.record_read(10 * MIN_UNTHROTTLED);
    reader.share.record_read(2 * MIN_UNTHROTTLED);
    assert!(!stuck.may_read() && !reader.may_read());
    body.record_taken(MIN_UNTHROTTLED);
    assert_eq!((reader.wakeups(), stuck.wakeups()), (1, 0));
    assert!(reader.may_read() && !stuck.may_read());
}

#[test]
fn memory_that_one_connection_releases_wakes_another() {
    let budget = budget(2 * MIN_UNTHROTTLED);
    let (ending, reader) = (Reader::new(&budget), Reader::new(&budget));
    let (_ending, _body) = (
        StreamShare::new(&ending.share),
        StreamShare::new(&reader.share),
    );
    ending.share.record_read(2 * MIN_UNTHROTTLED);
    reader.share.record_read(2 * MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    drop((ending, _ending));
    assert_eq!((reader.wakeups(), budget.used()), (1, 2 * MIN_UNTHROTTLED));
    assert!(reader.may_read());
    // A reload with a higher limit wakes it too.
    reader.share.record_read(MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    budget.set_limit(2 * 3 * MIN_UNTHROTTLED);
    assert_eq!(reader.wakeups(), 2);
    assert!(reader.may_read());
}

#[test]
fn a_connection_whose_bodies_all_wait_uses_nothing() {
    let budget = budget(0);
    let reader = Reader::new(&budget);
    let (first, second) = (
        StreamShare::new(&reader.share),
        StreamShare::new(&reader.share),
    );
    reader.share.record_read(5 * MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    first.record_waiting();
    assert_eq!(
        reader.wakeups(),
        0,
        "all bytes may belong to the other body"
    );
    second.record_waiting();
    assert_eq!((reader.wakeups(), budget.used()), (1, 0));
    // Data for a body that waits wakes its task, and counts until it is taken.
    let task = Arc::new(CountingWaker::default());
    let waker = second.waker(&Waker::from(Arc::clone(&task)));
    assert!(reader.may_read());
    reader.share.record_read(2 * MIN_UNTHROTTLED);
    waker.wake_by_ref();
    reader.share.begin_poll();
    assert_eq!(task.0.load(Ordering::Relaxed), 1);
    assert_eq!(budget.used(), 2 * MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    // A body that is closed gives up its share, however much of it is unread.
    second.close();
    second.close();
    assert_eq!((reader.wakeups(), budget.used()), (2, 0));
    assert!(reader.may_read());
}

#[test]
fn frames_that_belong_to_no_body_use_no_memory_and_pause_no_connection() {
    let budget = budget(0);
    let reader = Reader::new(&budget);
    for _ in 0..3 {
        reader.share.begin_poll();
        assert!(reader.may_read());
        reader.share.record_read(MIN_UNTHROTTLED);
        reader.share.record_read(1);
        let wakeups = reader.wakeups();
        // It is not read in this poll, but it is polled again.
        assert!(!reader.may_read());
        assert_eq!(reader.wakeups(), wakeups + 1);
    }
    // The bytes count for a request that was among the frames.
    let body = StreamShare::new(&reader.share);
    reader.share.begin_poll();
    assert!(!reader.may_read());
    drop(body);
    assert!(reader.may_read());
}

#[test]
fn a_pause_is_visible_to_idle_timers() {
    let budget = budget(0);
    let reader = Reader::new(&budget);
    let body = StreamShare::new(&reader.share);
    let mut seen = 0;
    assert!(!reader.share.paused_since(&mut seen));
    reader.share.record_read(2 * MIN_UNTHROTTLED);
    assert!(!reader.may_read());
    assert!(reader.share.paused_since(&mut seen));
    assert!(reader.share.paused_since(&mut seen), "the pause continues");
    body.record_taken(2 * MIN_UNTHROTTLED);
    assert!(reader.may_read());
    assert!(reader.share.paused_since(&mut seen));
    assert!(!reader.share.paused_since(&mut seen));
}

#[test]
fn an_ipv6_48_that_uses_its_share_pauses_no_other_group() {
    let budget = budget(4 * MIN_UNTHROTTLED);
    let flood: Vec<_> = (0..8)
        .map(|number| Reader::from(&format!("2001:db8:0:{number}::1"), &budget))
        .collect();
    let _bodies: Vec<_> = flood
        .iter()
        .map(|reader| StreamShare::new(&reader.share))
        .collect();
    for _ in 0..8 {
        for reader in &flood {
            if reader.may_read() {
                reader.share.record_read(MIN_UNTHROTTLED);
            }
        }
    }
    // Each of them is read from until it uses more than the threshold, as any connection is.
    assert_eq!(budget.used(), flood.len() * 2 * MIN_UNTHROTTLED);
    let other = Reader::from("192.0.2.1", &budget);
    let _body = StreamShare::new(&other.share);
    assert!(other.may_read());
    drop((flood, _bodies, other, _body));
    budget.set_limit(16 * MIN_UNTHROTTLED);
    let other = Reader::from("192.0.2.1", &budget);
    let _body = StreamShare::new(&other.share);
    let flood = [
        Reader::from("2001:db8::1", &budget),
        Reader::from("2001:db8:0:1::1", &budget),
    ];
    let _bodies = flood
        .each_ref()
        .map(|reader| StreamShare::new(&reader.share));
    while flood[0].may_read() {
        flood[0].share.record_read(MIN_UNTHROTTLED);
    }
    assert_eq!(budget.used(), 9 * MIN_UNTHROTTLED);
    for _ in 0..3 {
        assert!(other.may_read());
        other.share.record_read(MIN_UNTHROTTLED);
    }
    assert!(!flood[0].may_read() && other.may_read());
    flood[1].share.record_read(2 * MIN_UNTHROTTLED);
    assert!(!flood[1].may_read(), "it is in the same /48");
}

#[test]
fn a_paused_group_is_read_again_when_another_group_releases_memory() {
    let budget = budget(4 * MIN_UNTHROTTLED);
    let (first, second) = (
        Reader::from("192.0.2.1", &budget),
        Reader::from("192.0.2.2", &budget),
    );
    let bodies = [
        StreamShare::new(&first.share),
        StreamShare::new(&second.share),
    ];
    first.share.record_read(4 * MIN_UNTHROTTLED);
    second.share.record_read(3 * MIN_UNTHROTTLED);
    assert!(!first.may_read() && !second.may_read());
    bodies[0].record_taken(2 * MIN_UNTHROTTLED);
    assert_eq!((first.wakeups(), second.wakeups()), (1, 1));
    assert!(first.may_read() && second.may_read());
    let live_groups = |budget: &RecvBudget| {
        let groups = budget.groups.lock();
        groups
            .values()
            .filter(|group| group.strong_count() > 0)
            .count()
    };
    assert_eq!(live_groups(&budget), 2);
    drop((first, second, bodies));
    assert_eq!((live_groups(&budget), budget.used()), (0, 0));
    assert!(budget.paused.lock().is_empty());
}

/// Drops what it holds when it is woken.
struct DroppingWaker(Mutex<Option<Arc<ConnectionShare>>>);

impl Wake for DroppingWaker {
    fn wake(self: Arc<Self>) {
        let share = self.0.lock().take();
        drop(share);
    }
}

#[test]
fn a_connection_that_ends_while_it_is_woken_blocks_no_thread() {
    let budget = budget(4 * MIN_UNTHROTTLED);
    let (ending, other) = (
        Reader::new(&budget).share,
        Reader::from("192.0.2.2", &budget).share,
    );
    let body = StreamShare::new(&other);
    // An open body that waits for no data.
    ending.open_bodies.fetch_add(1, Ordering::Relaxed);
    ending.record_read(3 * MIN_UNTHROTTLED);
    other.record_read(3 * MIN_UNTHROTTLED);
    let waker = Arc::new(DroppingWaker(Mutex::new(Some(Arc::clone(&ending)))));
    let waker = Waker::from(waker);
    assert!(
        ending
            .poll_may_read(&Context::from_waker(&waker))
            .is_pending()
    );
    // The waker has the last reference.
    drop(ending);
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        body.record_taken(MIN_UNTHROTTLED);
        drop(body);
        let _ = done.send(());
    });
    let finished = finished.recv_timeout(std::time::Duration::from_secs(10));
    assert!(finished.is_ok(), "the thread waits for its own lock");
    drop((other, waker));
    assert_eq!(budget.used(), 0);
}
