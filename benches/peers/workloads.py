"""The workloads, and the measurement of one workload with one proxy."""
import time
from dataclasses import dataclass

import load
from sites import BLOB

FEW = 4  # connections, so that each gets a response in time if every request costs a hash of 60 ms
SETTLED = 3  # seconds after which an idle connection has released its buffers


@dataclass
class Workload:
    """A workload, and the unit of its cost."""

    says: str
    unit: str  # request, GiB or connection
    run: object  # (port, options) -> Done; None for the measurement of memory
    login: str = "open"
    relay_to: str = ""  # the upstream for the relay of bytes, if the workload is measured with it
    version: str = "http/1.1"  # the HTTP version of idle connections, as TLS names it (ALPN)


@dataclass
class Figure:
    """One measurement, in microseconds for each request, milliseconds for each GiB, or KiB for each connection."""

    cost: float
    rate: float = 0.0
    p99: float = 0.0
    peak: float = 0.0


def _blob(options):
    return f"{options.folder}/blobs/{BLOB}"


WORKLOADS = {
    "ping": Workload("GET /v2/ over HTTP/1.1, kept alive, no password", "request",
                     lambda port, options: load.requests(port, options.seconds)),
    "ping-auth": Workload("the same with a password: apr1 in nginx and tidegate, sha256 in HAProxy, bcrypt in Caddy", "request",
                          lambda port, options: load.requests(port, options.seconds, connections=FEW), "auth"),
    "ping-bcrypt": Workload("the same with bcrypt of cost 10 for all", "request",
                            lambda port, options: load.requests(port, options.seconds, connections=FEW), "bcrypt"),
    "ping-h2": Workload("GET /v2/ over HTTP/2, 8 connections of 16 streams", "request",
                        lambda port, options: load.streams(port, options.seconds)),
    "manifest": Workload("16 KiB over HTTP/1.1, kept alive", "request",
                         lambda port, options: load.requests(port, options.seconds, load.MANIFEST)),
    "handshake": Workload("a TLS 1.3 handshake for each request; wrk resumes its sessions, so without a signature", "request",
                          lambda port, options: load.requests(port, options.seconds, connections=16, close=True)),
    "pull": Workload("a blob over HTTP/1.1", "GiB",
                     lambda port, options: load.pull(port, scheme=options.scheme), relay_to="UPSTREAM"),
    "pull-h2": Workload("a blob over HTTP/2", "GiB", lambda port, options: load.pull(port, "--http2")),
    "push": Workload("an upload with a length over HTTP/1.1", "GiB",
                     lambda port, options: load.push(port, _blob(options), scheme=options.scheme), relay_to="SINK"),
    "push-chunked": Workload("an upload in chunks over HTTP/1.1", "GiB",
                             lambda port, options: load.push(port, _blob(options), chunked=True, scheme=options.scheme),
                             relay_to="SINK"),
    "push-h2": Workload("an upload over HTTP/2", "GiB", lambda port, options: load.push(port, _blob(options), "--http2")),
    "idle": Workload("memory of an idle TLS connection after one request over HTTP/1.1", "connection", None),
    "idle-h2": Workload("the same after one request over HTTP/2", "connection", None, version="h2"),
}
SCALES = {"request": 1e6, "GiB": 1e3}


@dataclass
class Options:
    """The options of a run."""

    folder: str
    seconds: int
    idle: int
    scheme: str = "https"


def measure(site, peer, workload, options):
    """Starts a proxy, runs the workload on it, and ends it."""
    relay = {"relay_to": workload.relay_to} if peer == "relay" else {}
    proxy, port = site.start(peer, workload.login, **relay)
    options.scheme = "http" if peer == "relay" else "https"
    try:
        if workload.run is None:
            return Figure(idle_kib(proxy, port, options.idle, workload.version))
        before = proxy.cpu()
        done = workload.run(port, options)
        cost = (proxy.cpu() - before) / done.work * SCALES[workload.unit]
        return Figure(cost, done.work / done.seconds, done.p99, proxy.memory("VmHWM"))
    finally:
        proxy.stop()


def idle_kib(proxy, port, count, version):
    """Returns the resident memory that each of the connections adds, in KiB."""
    before = proxy.memory()
    request = load.h2_request(load.PING) if version == "h2" else load.head("GET", load.PING)
    connections = load.Connections(port, count, request, version)
    connections.read()
    time.sleep(SETTLED)
    grown = proxy.memory() - before
    connections.close()
    return grown * 1024 / count
