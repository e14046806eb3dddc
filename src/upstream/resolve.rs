//! Host names of upstreams to addresses, by the system's resolver.
//!
//! Called by `connect`. `getaddrinfo` blocks its thread for as long as the DNS servers are silent, and cannot be cancelled.
//! So it runs on threads of its own, of which the whole process has few; there is one lookup at a time for each name,
//! whose result all that wait for the name share, for [`FRESH`] after its end, too. A connect that gives up leaves nothing
//! behind but the lookup itself.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Lookups of one process.
pub(super) struct Resolver {
    lookup: Box<LookUp>,
    max_threads: usize,
    state: Mutex<State>,
}

/// What asks the system for the addresses of a name, and blocks.
type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

#[derive(Default)]
struct State {
    names: HashMap<String, Lookup>,
    /// Names whose lookup has not begun.
    waiting: VecDeque<String>,
    threads: usize,
}

/// The lookup of one name: under way, or the result of the last one.
struct Lookup {
    result: watch::Sender<Option<Found>>,
    ended: Option<Instant>,
}

/// An `io::Error` cannot be cloned, so its parts are.
type Found = Result<Arc<[SocketAddr]>, Failure>;

#[derive(Clone, Debug)]
struct Failure {
    errno: Option<i32>,
    kind: io::ErrorKind,
    text: String,
}

/// The addresses of `host` with `port`, in the resolver's order. An IP literal needs no lookup.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    static SYSTEM: LazyLock<Arc<Resolver>> =
        LazyLock::new(|| Arc::new(Resolver::new(MAX_THREADS, look_up)));
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let mut addresses = SYSTEM.resolve(host).await?;
    for address in &mut addresses {
        address.set_port(port);
    }
    Ok(addresses)
}

fn look_up(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((host, 0).to_socket_addrs()?.collect())
}

impl Resolver {
    fn new(
        max_threads: usize,
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            lookup: Box::new(lookup),
            max_threads,
            state: Mutex::default(),
        }
    }

    async fn resolve(self: &Arc<Self>, host: &str) -> io::Result<Vec<SocketAddr>> {
        let mut result = self.begin(host)?;
        let found = match result.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            // The lookup was given up without a result.
            Err(_) => None,
        };
        match found {
            Some(Ok(addresses)) => Ok(addresses.to_vec()),
            Some(Err(failure)) => Err(failure.into()),
            None => Err(no_thread("the lookup did not end")),
        }
    }

    /// Joins the lookup of `host`, or begins one.
    fn begin(self: &Arc<Self>, host: &str) -> io::Result<watch::Receiver<Option<Found>>> {
        let (result, needs_thread) = {
            let mut state = self.lock();
            state.names.retain(|_, lookup| lookup.is_usable());
            if let Some(lookup) = state.names.get(host) {
                return Ok(lookup.result.subscribe());
            }
            let (sender, result) = watch::channel(None);
            let lookup = Lookup {
                result: sender,
                ended: None,
            };
            state.names.insert(host.to_owned(), lookup);
            state.waiting.push_back(host.to_owned());
            let needs_thread = state.threads < self.max_threads;
            state.threads += usize::from(needs_thread);
            (result, needs_thread)
        };
        if needs_thread {
            let resolver = Arc::clone(self);
            let thread = thread::Builder::new().name("resolve".to_owned());
            if let Err(error) = thread.spawn(move || resolver.run()) {
                self.give_up();
                return Err(no_thread(error));
            }
        }
        Ok(result)
    }

    /// Looks names up until none waits.
    fn run(&self) {
        let mut thread = Thread {
            resolver: self,
            is_counted: true,
        };
        while let Some(host) = thread.next() {
            let found = (self.lookup)(&host);
            let found = found.map(Arc::from).map_err(|error| Failure::of(&error));
            self.end(&host, found);
        }
    }

    /// A failure is told to those that wait for it, and to no one later.
    fn end(&self, host: &str, found: Found) {
        let mut state = self.lock();
        if found.is_err() {
            if let Some(lookup) = state.names.remove(host) {
                lookup.result.send_replace(Some(found));
            }
        } else if let Some(lookup) = state.names.get_mut(host) {
            lookup.ended = Some(Instant::now());
            lookup.result.send_replace(Some(found));
        }
    }

    /// A thread could not be started, or has gone. If it was the last one, no waiting name has a chance.
    fn give_up(&self) {
        let mut state = self.lock();
        state.threads = state.threads.saturating_sub(1);
        if state.threads == 0 {
            state.waiting.clear();
            // The lookups that have no result; their receivers learn of it.
            state.names.retain(|_, lookup| lookup.ended.is_some());
        }
    }

    /// Each change of the state is complete before anything in it can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// A thread that looks names up, counted while it lives.
struct Thread<'a> {
    resolver: &'a Resolver,
    is_counted: bool,
}

impl Thread<'_> {
    /// The next name. When there is none, the thread does not count any more from the same moment, so that the next name
    /// gets a thread.
    fn next(&mut self) -> Option<String> {
        let mut state = self.resolver.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.threads = state.threads.saturating_sub(1);
            self.is_counted = false;
        }
        next
    }
}

impl Drop for Thread<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            self.resolver.give_up();
        }
    }
}

impl Lookup {
    fn is_usable(&self) -> bool {
        self.ended.is_none_or(|ended| ended.elapsed() < FRESH)
    }
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        Self {
            errno: error.raw_os_error(),
            kind: error.kind(),
            text: error.to_string(),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure.errno {
            Some(errno) => Self::from_raw_os_error(errno),
            None => Self::new(failure.kind, failure.text),
        }
    }
}

/// The proxy lacks a thread: nothing is known of the endpoint then.
fn no_thread(cause: impl std::fmt::Display) -> io::Error {
    let text = format!("cannot look up the name: {cause}");
    io::Error::new(io::ErrorKind::ResourceBusy, text)
}

/// Lookups at once in the whole process, of as many names: more than most configurations have.
const MAX_THREADS: usize = 16;

/// How long a result is used after its lookup has ended. A burst of connects needs one lookup, and a name that leads
/// elsewhere is followed within the time of a retry.
const FRESH: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A resolver whose lookups wait until the test lets go of the sender, but for those of "quick".
    fn blocked(max_threads: usize) -> (Arc<Resolver>, Sender<()>, Arc<AtomicUsize>) {
        let (release, held) = channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let lookups = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lookups);
        let resolver = Resolver::new(max_threads, move |host| {
            count.fetch_add(1, Ordering::SeqCst);
            if host != "quick" {
                let held = held.lock();
                assert!(held.recv().is_err());
            }
            match host {
                "unknown" => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
                _ => Ok(vec![SocketAddr::from(([192, 0, 2, 1], 0))]),
            }
        });
        (Arc::new(resolver), release, lookups)
    }

    fn spawn(
        resolver: &Arc<Resolver>,
        host: &str,
    ) -> tokio::task::JoinHandle<io::Result<Vec<SocketAddr>>> {
        let (resolver, host) = (Arc::clone(resolver), host.to_owned());
        tokio::spawn(async move { resolver.resolve(&host).await })
    }

    async fn turn() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_hundred_connects_to_one_name_are_one_lookup() {
        let (resolver, release, lookups) = blocked(4);
        let waiting: Vec<_> = (0..100).map(|_| spawn(&resolver, "slow")).collect();
        turn().await;
        assert_eq!(resolver.lock().threads, 1);
        // Those that give up leave nothing behind.
        for waiting in waiting.iter().take(50) {
            waiting.abort();
        }
        drop(release);
        for waiting in waiting.into_iter().skip(50) {
            let addresses = waiting.await.unwrap().unwrap();
            assert_eq!(addresses, [SocketAddr::from(([192, 0, 2, 1], 0))]);
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_silent_resolver_takes_few_threads_and_leaves_other_names_alone() {
        let (resolver, release, lookups) = blocked(3);
        let first = [spawn(&resolver, "a"), spawn(&resolver, "b")];
        turn().await;
        assert!(resolver.resolve("quick").await.is_ok());
        let more: Vec<_> = ["c", "d", "e", "unknown"]
            .map(|host| spawn(&resolver, host))
            .into();
        turn().await;
        assert!(resolver.lock().threads <= 3);
        let waited = tokio::time::timeout(Duration::from_millis(20), resolver.resolve("a"));
        assert!(waited.await.is_err(), "a wait can be given up");
        drop(release);
        for waiting in first.into_iter().chain(more) {
            let found = waiting.await.unwrap();
            if let Err(error) = found {
                assert_eq!(error.to_string(), "no such name");
            }
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 7);
        // A failure is not kept.
        assert!(resolver.resolve("unknown").await.is_err());
        assert_eq!(lookups.load(Ordering::SeqCst), 8);
        while resolver.lock().threads > 0 {
            thread::yield_now();
        }
    }
}
