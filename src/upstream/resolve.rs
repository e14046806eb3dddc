//! Resolves the host names of endpoints by the resolver of the system.
//!
//! `connect` calls [`resolve`] for each new connection. `getaddrinfo` blocks its thread for as long as the DNS servers are
//! silent, and it cannot be cancelled. It therefore runs on separate threads, of which the whole process has at most
//! [`MAX_THREADS`]. Each name has at most one lookup at a time. All connects to the name share its result, also for
//! [`MAX_RESULT_AGE`] after the end of the lookup. A connect that times out leaves nothing behind except the running lookup.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Returns the addresses of `host` with `port`, in the order of the resolver. An IP literal needs no lookup.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    static SYSTEM: LazyLock<Arc<Resolver>> =
        LazyLock::new(|| Arc::new(Resolver::new(MAX_THREADS, getaddrinfo)));
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let mut addresses = SYSTEM.resolve(host).await?;
    for address in &mut addresses {
        address.set_port(port);
    }
    Ok(addresses)
}

fn getaddrinfo(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((host, 0).to_socket_addrs()?.collect())
}

/// The lookups of the process and their threads.
struct Resolver {
    lookup: Box<BlockingLookup>,
    max_threads: usize,
    state: Mutex<State>,
}

/// A function that returns the addresses of a name and may block.
type BlockingLookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

#[derive(Default)]
struct State {
    lookups: HashMap<String, Lookup>,
    /// The names whose lookup has not begun.
    queue: VecDeque<String>,
    threads: usize,
}

/// The lookup of one name: queued, running, or ended successfully.
struct Lookup {
    result: watch::Sender<Option<LookupResult>>,
    ended: Option<Instant>,
}

type LookupResult = Result<Arc<[SocketAddr]>, LookupError>;

/// The parts of an `io::Error`, which cannot be cloned for several receivers.
#[derive(Clone, Debug)]
struct LookupError {
    errno: Option<i32>,
    kind: io::ErrorKind,
    text: String,
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
        let mut result = self.join_or_begin(host)?;
        let result = match result.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            // The lookup was abandoned, which dropped the sender.
            Err(_) => None,
        };
        match result {
            Some(Ok(addresses)) => Ok(addresses.to_vec()),
            Some(Err(error)) => Err(error.into()),
            None => Err(no_thread("the lookup did not end")),
        }
    }

    /// Joins the lookup of `host`, or begins one.
    fn join_or_begin(
        self: &Arc<Self>,
        host: &str,
    ) -> io::Result<watch::Receiver<Option<LookupResult>>> {
        let (result, needs_thread) = {
            let mut state = self.state.lock();
            state.lookups.retain(|_, lookup| lookup.is_usable());
            if let Some(lookup) = state.lookups.get(host) {
                return Ok(lookup.result.subscribe());
            }
            let (sender, result) = watch::channel(None);
            let lookup = Lookup {
                result: sender,
                ended: None,
            };
            state.lookups.insert(host.to_owned(), lookup);
            state.queue.push_back(host.to_owned());
            let needs_thread = state.threads < self.max_threads;
            state.threads += usize::from(needs_thread);
            (result, needs_thread)
        };
        if needs_thread {
            let resolver = Arc::clone(self);
            let thread = thread::Builder::new().name("resolve".to_owned());
            if let Err(error) = thread.spawn(move || resolver.run_thread()) {
                self.thread_is_gone(None);
                return Err(no_thread(error));
            }
        }
        Ok(result)
    }

    /// Performs lookups until the queue is empty.
    fn run_thread(&self) {
        let mut guard = ThreadGuard {
            resolver: self,
            is_counted: true,
            host: None,
        };
        while let Some(host) = guard.next_name() {
            let result = (self.lookup)(&host);
            let result = result
                .map(Arc::from)
                .map_err(|error| LookupError::from(&error));
            self.publish(&host, result);
        }
    }

    /// Sends a result to the connects that wait for it. A success is kept for later connects as well; a failure is not.
    fn publish(&self, host: &str, result: LookupResult) {
        let mut state = self.state.lock();
        if result.is_err() {
            if let Some(lookup) = state.lookups.remove(host) {
                lookup.result.send_replace(Some(result));
            }
        } else if let Some(lookup) = state.lookups.get_mut(host) {
            lookup.ended = Some(Instant::now());
            lookup.result.send_replace(Some(result));
        }
    }

    /// Stops counting a thread that could not be started or that has panicked, and abandons the lookup of `host`, which it was
    /// performing. If it was the last thread, the queued lookups are abandoned as well, because nothing would perform them.
    fn thread_is_gone(&self, host: Option<&str>) {
        let mut state = self.state.lock();
        state.threads = state.threads.saturating_sub(1);
        let is_last = state.threads == 0;
        if is_last {
            state.queue.clear();
        }
        // Dropping a sender without a result reports the failure to its receivers.
        state.lookups.retain(|name, lookup| {
            lookup.ended.is_some() || !(is_last || host == Some(name.as_str()))
        });
    }
}

/// Counts a lookup thread while it runs.
struct ThreadGuard<'a> {
    resolver: &'a Resolver,
    is_counted: bool,
    /// The name whose lookup the thread performs.
    host: Option<String>,
}

impl ThreadGuard<'_> {
    /// Takes the next name from the queue.
    ///
    /// If there is none, the thread stops being counted under the same lock, so that the next queued name gets a thread.
    fn next_name(&mut self) -> Option<String> {
        let mut state = self.resolver.state.lock();
        let next = state.queue.pop_front();
        if next.is_none() {
            state.threads = state.threads.saturating_sub(1);
            self.is_counted = false;
        }
        self.host.clone_from(&next);
        next
    }
}

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            self.resolver.thread_is_gone(self.host.as_deref());
        }
    }
}

impl Lookup {
    fn is_usable(&self) -> bool {
        self.ended
            .is_none_or(|ended| ended.elapsed() < MAX_RESULT_AGE)
    }
}

impl From<&io::Error> for LookupError {
    fn from(error: &io::Error) -> Self {
        Self {
            errno: error.raw_os_error(),
            kind: error.kind(),
            text: error.to_string(),
        }
    }
}

impl From<LookupError> for io::Error {
    fn from(error: LookupError) -> Self {
        match error.errno {
            Some(errno) => Self::from_raw_os_error(errno),
            None => Self::new(error.kind, error.text),
        }
    }
}

/// The proxy has no thread for the lookup. The kind `ResourceBusy` says that the endpoint is not at fault.
fn no_thread(cause: impl std::fmt::Display) -> io::Error {
    let text = format!("cannot look up the name: {cause}");
    io::Error::new(io::ErrorKind::ResourceBusy, text)
}

/// The number of lookups at the same time in the whole process. Most configurations have fewer names.
const MAX_THREADS: usize = 16;

/// How long a result is used after its lookup has ended. It is long enough that a burst of connects needs one lookup, and
/// shorter than the default of `connect_retry`, so that a retry follows a name that has changed.
const MAX_RESULT_AGE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use tokio::time::timeout;

    use super::*;

    /// A resolver whose lookups block until the test drops the sender, except the lookups of "quick" and "panics".
    fn blocked(max_threads: usize) -> (Arc<Resolver>, Sender<()>, Arc<AtomicUsize>) {
        let (release, released) = channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let lookups = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lookups);
        let resolver = Resolver::new(max_threads, move |host| {
            count.fetch_add(1, Ordering::SeqCst);
            assert_ne!(host, "panics");
            if host != "quick" {
                assert!(released.lock().recv().is_err());
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

    #[tokio::test]
    async fn a_lookup_that_panics_ends_while_other_lookups_run() {
        let (resolver, release, lookups) = blocked(2);
        let slow = spawn(&resolver, "slow");
        yield_often().await;
        for lookup in 2..4 {
            let error = timeout(Duration::from_secs(10), resolver.resolve("panics"));
            let error = error.await.expect("the connect does not wait").unwrap_err();
            assert!(
                error.to_string().contains("the lookup did not end"),
                "{error}"
            );
            assert_eq!(lookups.load(Ordering::SeqCst), lookup);
        }
        drop(release);
        assert!(slow.await.unwrap().is_ok(), "the other lookup goes on");
    }

    async fn yield_often() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_hundred_connects_to_one_name_share_one_lookup() {
        let (resolver, release, lookups) = blocked(4);
        let waiting: Vec<_> = (0..100).map(|_| spawn(&resolver, "slow")).collect();
        yield_often().await;
        assert_eq!(resolver.state.lock().threads, 1);
        // A connect that gives up leaves nothing behind.
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
    async fn a_silent_resolver_blocks_few_threads_and_no_other_names() {
        let (resolver, release, lookups) = blocked(3);
        let first = [spawn(&resolver, "a"), spawn(&resolver, "b")];
        yield_often().await;
        assert!(resolver.resolve("quick").await.is_ok());
        let more: Vec<_> = ["c", "d", "e", "unknown"]
            .map(|host| spawn(&resolver, host))
            .into();
        yield_often().await;
        assert!(resolver.state.lock().threads <= 3);
        let waited = timeout(Duration::from_millis(20), resolver.resolve("a"));
        assert!(waited.await.is_err(), "a wait for a lookup can time out");
        drop(release);
        for waiting in first.into_iter().chain(more) {
            if let Err(error) = waiting.await.unwrap() {
                assert_eq!(error.to_string(), "no such name");
            }
        }
        assert_eq!(lookups.load(Ordering::SeqCst), 7);
        // A failure is not kept.
        assert!(resolver.resolve("unknown").await.is_err());
        assert_eq!(lookups.load(Ordering::SeqCst), 8);
        while resolver.state.lock().threads > 0 {
            thread::yield_now();
        }
    }
}
