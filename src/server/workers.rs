//! The worker threads. Each has a current-thread runtime and serves the connections that the accept loops pass to it.
//!
//! A connection stays on its worker: its tasks, its upstream connections and its timers belong to that thread. Measured against
//! one multi-threaded runtime, this saves a quarter of the CPU time of small HTTP/2 requests.
//!
//! The way of a request through this file: [`Dispatcher::dispatch`] queues an accepted socket for the worker with the fewest
//! connections. The worker spawns [`Worker::serve`], which takes the timeouts and the TLS settings from the snapshot, reads the
//! PROXY header if there is one, and calls `connection`. `connection` serves HTTP and calls back for each request (the closures
//! of [`Worker::https_handler`], [`Worker::behind_proxy_handler`] and [`Worker::http_handler`]); the closure takes the snapshot that is current at that moment and
//! calls its `service`. The snapshot is therefore read once per connection and once per request, because a connection may
//! outlive many reloads, while a request uses one configuration.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::sockets::Scheme;
use super::watchdog::Heartbeat;
use crate::connection::{
    self, AcceptedConnection, ConnectionContext, IncomingRequest, ResponseFuture, ShutdownSignal,
    ShutdownTrigger,
};
use crate::net::addr::PeerAddr;
use crate::net::conn_limit::ConnectionPermit;
use crate::net::listener::{AcceptedStream, ListenAddr};
use crate::state::ServerState;

/// The handles of all worker threads.
#[derive(Debug)]
pub(crate) struct Workers {
    handles: Arc<[WorkerHandle]>,
    abort: watch::Sender<bool>,
    /// The number of workers that have not ended.
    running: watch::Receiver<usize>,
    /// The number of workers that were started.
    started: usize,
}

/// Passes accepted connections to the workers.
#[derive(Clone, Debug)]
pub(crate) struct Dispatcher {
    handles: Arc<[WorkerHandle]>,
}

#[derive(Debug)]
struct WorkerHandle {
    queue: mpsc::UnboundedSender<QueuedConnection>,
    open_connections: Arc<AtomicUsize>,
    heartbeat: Heartbeat,
}

impl Workers {
    /// Starts `count` threads. The workers drain when `shutdown` is triggered. They beat for the watchdog if it has a timeout.
    ///
    /// # Errors
    /// The system cannot create a runtime or a thread.
    pub(crate) fn start(
        count: usize,
        state: &Arc<ServerState>,
        shutdown: &ShutdownTrigger,
        watchdog_timeout: Option<Duration>,
    ) -> io::Result<Self> {
        let abort = watch::Sender::new(false);
        let running_sender = watch::Sender::new(count);
        let running = running_sender.subscribe();
        let mut handles = Vec::new();
        for number in 0..count {
            let (queue, queued) = mpsc::unbounded_channel();
            let heartbeat = Heartbeat::default();
            let thread = WorkerThread {
                worker: Worker {
                    number,
                    state: Arc::clone(state),
                    shutdown: shutdown.subscribe(),
                },
                heartbeat: watchdog_timeout.map(|timeout| (heartbeat.clone(), timeout)),
                abort: abort.subscribe(),
                running: RunningWorker(running_sender.clone()),
            };
            let (report_error, start_error) = std::sync::mpsc::channel();
            std::thread::Builder::new()
                .name(format!("tidegate-{number}"))
                .spawn(move || match local_runtime() {
                    Ok(runtime) => {
                        drop(report_error);
                        thread.run(runtime, queued);
                    }
                    Err(error) => {
                        // `start` waits for this message, or for the drop of the sender.
                        let _ = report_error.send(error);
                    }
                })?;
            if let Ok(error) = start_error.recv() {
                return Err(error);
            }
            handles.push(WorkerHandle {
                queue,
                open_connections: Arc::default(),
                heartbeat,
            });
        }
        Ok(Self {
            handles: handles.into(),
            abort,
            running,
            started: count,
        })
    }

    /// The number of workers.
    pub(crate) fn count(&self) -> usize {
        self.started
    }

    /// The number of open connections on all workers.
    pub(crate) fn open_connections(&self) -> usize {
        self.handles
            .iter()
            .map(|worker| worker.open_connections.load(Ordering::Relaxed))
            .sum()
    }

    /// The heartbeats of all workers. They beat only if the workers were started with a watchdog timeout.
    pub(crate) fn heartbeats(&self) -> Vec<Heartbeat> {
        let heartbeats = self.handles.iter().map(|worker| worker.heartbeat.clone());
        heartbeats.collect()
    }

    pub(crate) fn dispatcher(&self) -> Dispatcher {
        Dispatcher {
            handles: Arc::clone(&self.handles),
        }
    }

    /// Returns when a worker has ended although none was told to: its thread has panicked outside the task of a connection. Its
    /// count of open connections stays the lowest, so that every further connection would be passed to it and lost.
    pub(crate) async fn lost_one(&mut self) {
        let started = self.started;
        // An error means that all workers have ended.
        let _ = self.running.wait_for(|running| *running < started).await;
    }

    /// Returns when every worker has drained or was aborted.
    pub(crate) async fn finished(&mut self) {
        // An error means that all senders are dropped, which also means that the last worker has ended.
        let _ = self.running.wait_for(|running| *running == 0).await;
    }

    /// Makes every worker close its connections and end immediately.
    pub(crate) fn abort(&self) {
        self.abort.send_replace(true);
    }
}

impl Dispatcher {
    /// Queues a connection for the worker with the fewest open connections.
    pub(crate) fn dispatch(
        &self,
        stream: AcceptedStream,
        peer: PeerAddr,
        permit: ConnectionPermit,
        (scheme, listener): (Scheme, &Arc<ListenAddr>),
    ) {
        let least_busy = self
            .handles
            .iter()
            .min_by_key(|worker| worker.open_connections.load(Ordering::Relaxed));
        if let Some(worker) = least_busy {
            worker.open_connections.fetch_add(1, Ordering::Relaxed);
            let guard = ConnectionGuard {
                open_connections: Arc::clone(&worker.open_connections),
                permit,
            };
            // Sending fails after the worker has drained. The connection is then closed by dropping it.
            let _ = worker.queue.send(QueuedConnection {
                stream,
                peer,
                scheme,
                listener: Arc::clone(listener),
                guard,
            });
        }
    }
}

/// An accepted connection on its way to a worker.
#[derive(Debug)]
struct QueuedConnection {
    stream: AcceptedStream,
    peer: PeerAddr,
    scheme: Scheme,
    listener: Arc<ListenAddr>,
    guard: ConnectionGuard,
}

/// Counts one connection of a worker, and holds the connection's permit, until it is dropped.
#[derive(Debug)]
struct ConnectionGuard {
    open_connections: Arc<AtomicUsize>,
    permit: ConnectionPermit,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the thread of a worker needs until it ends.
struct WorkerThread {
    worker: Worker,
    /// The heartbeat and the watchdog timeout, if there is a watchdog.
    heartbeat: Option<(Heartbeat, Duration)>,
    abort: watch::Receiver<bool>,
    running: RunningWorker,
}

/// Counts a worker as running until it is dropped, which a panic of the thread does as well.
struct RunningWorker(watch::Sender<usize>);

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.0
            .send_modify(|running| *running = running.saturating_sub(1));
    }
}

impl WorkerThread {
    fn run(mut self, runtime: LocalRuntime, queued: mpsc::UnboundedReceiver<QueuedConnection>) {
        runtime.block_on(async {
            if let Some((heartbeat, timeout)) = self.heartbeat {
                tokio::spawn(heartbeat.beat(timeout));
            }
            tokio::select! {
                () = self.worker.run(queued) => {}
                _ = self.abort.wait_for(|abort| *abort) => {}
            }
        });
        // Dropping the runtime closes the connections that are left.
        drop(runtime);
        drop(self.running);
    }
}

/// Creates the runtime of a worker. A connection shares its state between tasks that are not `Send`, which only a `LocalRuntime`
/// can spawn. Such a runtime cannot move to another thread, so the thread of the worker creates it.
fn local_runtime() -> io::Result<LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}

/// What the connections of a worker share.
#[derive(Clone)]
struct Worker {
    number: usize,
    state: Arc<ServerState>,
    shutdown: ShutdownSignal,
}

impl Worker {
    /// Serves until the shutdown begins and the last connection is closed.
    async fn run(self, mut queued: mpsc::UnboundedReceiver<QueuedConnection>) {
        let mut connections = JoinSet::new();
        let mut shutdown = Box::pin(self.shutdown.clone().started());
        loop {
            tokio::select! {
                Some(next) = queued.recv() => {
                    connections.spawn_local(self.clone().serve(next));
                }
                Some(ended) = connections.join_next() => log_panic(ended),
                () = &mut shutdown => break,
            }
        }
        queued.close();
        // The connections that were queued before the shutdown are served: their clients are connected already.
        while let Some(next) = queued.recv().await {
            connections.spawn_local(self.clone().serve(next));
        }
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    }

    /// Serves one connection to its end.
    ///
    /// The future of the connection has room for the largest of the futures below, and the connection keeps that room while it is
    /// idle. Therefore every future but that of an HTTPS connection has a box of its own.
    async fn serve(self, queued: QueuedConnection) {
        let QueuedConnection {
            stream,
            peer,
            scheme,
            listener,
            mut guard,
        } = queued;
        let snapshot = self.state.snapshot();
        let (settings, tls) = (snapshot.connection.clone(), Arc::clone(&snapshot.tls));
        // A proxy that terminates TLS names the client in X-Forwarded-For.
        let has_proxy_header =
            scheme != Scheme::BehindProxy && snapshot.proxy_protocol.contains(peer.ip());
        // The connection may outlive many reloads, and must not keep a replaced snapshot in memory.
        drop(snapshot);
        let (state, shutdown) = (Arc::clone(&self.state), self.shutdown.clone());
        let context = ConnectionContext {
            settings: &settings,
            recv_budget: state.budget(),
            early_responses: state.early_responses(),
            shutdown: shutdown.clone(),
            metrics: state.connections(),
        };
        let stream = match stream {
            AcceptedStream::Tcp(stream) => stream,
            // Every Unix socket is one of `listen.behind_proxy`.
            AcceptedStream::Unix(stream) => {
                let accepted = AcceptedConnection::from_unix(stream, listener, settings.handshake);
                if let Ok(accepted) = accepted {
                    let handler = self.behind_proxy_handler();
                    Box::pin(connection::serve_behind_proxy(accepted, context, handler)).await;
                }
                return;
            }
        };
        let accepted = AcceptedConnection::new(stream, peer, listener, settings.handshake);
        // Fails if the socket cannot be registered with this runtime.
        let Ok(mut accepted) = accepted else {
            return;
        };
        if has_proxy_header {
            let Some(client) = Box::pin(accepted.read_proxy_header(shutdown)).await else {
                return;
            };
            if !guard.permit.reassign(client) {
                tracing::debug!(%client, "connection closed: too many connections of this client");
                return;
            }
        }
        match scheme {
            Scheme::Https => {
                let handler = self.https_handler();
                connection::serve_tls(accepted, context, tls, handler).await;
            }
            Scheme::BehindProxy => {
                let handler = self.behind_proxy_handler();
                Box::pin(connection::serve_behind_proxy(accepted, context, handler)).await;
            }
            // The accept loop passes connections of the admin listener to `admin`, never to a worker.
            Scheme::Http | Scheme::Admin => {
                Box::pin(connection::serve_plain(
                    accepted,
                    context,
                    self.http_handler(),
                ))
                .await;
            }
        }
        drop(guard);
    }

    /// Handles the requests of a TLS connection, each with the snapshot that is current when the request starts.
    fn https_handler(self) -> impl connection::Handler {
        move |request: IncomingRequest| -> ResponseFuture {
            let (snapshot, number) = (self.state.snapshot(), self.number);
            Box::pin(async move { Ok(snapshot.service.handle(number, request).await) })
        }
    }

    /// Handles the requests of a connection to `listen.behind_proxy`.
    fn behind_proxy_handler(self) -> impl connection::Handler {
        move |request: IncomingRequest| -> ResponseFuture {
            let (snapshot, number) = (self.state.snapshot(), self.number);
            Box::pin(async move { Ok(snapshot.service.handle_behind_proxy(number, request).await) })
        }
    }

    /// Handles the requests of a connection to `listen.http`: redirects to https, and ACME challenges.
    fn http_handler(self) -> impl connection::Handler {
        move |request: IncomingRequest| -> ResponseFuture {
            let snapshot = self.state.snapshot();
            Box::pin(async move { Ok(snapshot.service.handle_plain_http(request).await) })
        }
    }
}

/// A panic ends only the connection in which it happens, but is logged here.
fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the futures that an `async fn` returns.
    fn future_size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_an_idle_connection_is_small() {
        let size = future_size(Worker::serve);
        assert!(size <= 896, "{size} bytes");
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_noticed_and_counts_as_ended() {
        let sender = watch::Sender::new(2);
        let mut workers = Workers {
            handles: Arc::from([]),
            abort: watch::Sender::new(false),
            running: sender.subscribe(),
            started: 2,
        };
        let deadline = Duration::from_secs(10);
        let (panicking, other) = (RunningWorker(sender.clone()), RunningWorker(sender));
        let early = tokio::time::timeout(Duration::from_millis(1), workers.lost_one());
        assert!(early.await.is_err(), "both run");
        let thread = std::thread::spawn(move || {
            let _worker = panicking;
            panic!("a worker");
        });
        let noticed = tokio::time::timeout(deadline, workers.lost_one());
        assert!(noticed.await.is_ok());
        assert!(thread.join().is_err());
        drop(other);
        let all = tokio::time::timeout(deadline, workers.finished());
        assert!(all.await.is_ok(), "a drain does not wait for the worker");
    }
}
