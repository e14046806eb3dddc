"""The clients: each function puts a load on a proxy and says how much work was done, in what time, and how late."""
import base64
import re
import ssl
import socket
import subprocess
import time
from dataclasses import dataclass

from processes import LOAD_CPU
from sites import BLOB, PASSWORD, SMALL, USER

GIB = 1 << 30
LOGIN = "Authorization: Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PING, MANIFEST, PULL, PUSH = "/v2/", f"/v2/bench/manifests/{SMALL}", f"/v2/bench/blobs/{BLOB}", "/v2/up/blobs/uploads/x"
IN_MS = {"us": 1e-3, "ms": 1, "s": 1e3}
A_CLIENTS_SHARE = 500  # connections from one address, below what any proxy allows one client


@dataclass
class Done:
    """Requests or GiB, seconds, and the 99th percentile in milliseconds where it is known."""

    work: float
    seconds: float
    p99: float = 0.0


def requests(port, seconds, path=PING, connections=32, close=False):
    """As many requests over HTTP/1.1 as there is time for; with `close` each on a connection of its own."""
    fields = ["-H", LOGIN] + (["-H", "Connection: close"] if close else [])
    said = _run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency"] + fields + [_url(port, path)])
    done = re.search(r"(\d+) requests in ([\d.]+)(m?s)", said)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    late = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    if wrong or not done or done[1] == "0":
        raise RuntimeError(f"not every answer was a good one, or none came in time (--seconds):\n{said}")
    p99 = float(late[1]) * IN_MS[late[2]] if late else 0.0
    return Done(int(done[1]), float(done[2]) * IN_MS[done[3]] / 1e3, p99)


def streams(port, seconds):
    """As many pings over HTTP/2: 8 connections with 16 streams each."""
    said = _run(["h2load", "-t1", "-c8", "-m16", f"-D{seconds}", "-H", LOGIN, _url(port, PING)])
    took, good = re.search(r"finished in ([\d.]+)(us|ms|s)", said), re.search(r"status codes: (\d+) 2xx", said)
    return Done(int(good[1]), float(took[1]) * IN_MS[took[2]] / 1e3)


def pull(port, version="--http1.1", scheme="https"):
    """One blob."""
    return _curl(port, PULL, "%{size_download}", "200", [version], scheme)


def push(port, file, version="--http1.1", chunked=False, scheme="https"):
    """One upload, with a length or in chunks."""
    words = [version, "-X", "PATCH", "-T", file] + (["-H", "Transfer-Encoding: chunked"] if chunked else [])
    return _curl(port, PUSH, "%{size_upload}", "202", words, scheme)


def _curl(port, path, size, status, words, scheme):
    began = time.monotonic()
    said = _run(["curl", "-sk", "-u", f"{USER}:{PASSWORD}", "-o", "/dev/null", "-w", "%{http_code} " + size] + words
                + [_url(port, path, scheme)])
    took = time.monotonic() - began
    got, count = said.split()
    if got != status:
        raise RuntimeError(f"{path}: {got} instead of {status}")
    return Done(int(count) / GIB, took)


class Connections:
    """TLS connections that are open at once, and do nothing more when they have said what they say first."""

    def __init__(self, port, count, head):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.open = []
        for number in range(count):
            source = (f"127.0.1.{1 + number // A_CLIENTS_SHARE}", 0)
            plain = socket.create_connection(("127.0.0.1", port), 10, source)
            # What is not read stays on the other side, not in this side's buffers.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            connection = context.wrap_socket(plain, server_hostname="localhost")
            connection.sendall(head)
            self.open.append(connection)

    def read(self):
        """Reads the first of each answer."""
        for connection in self.open:
            connection.recv(4096)

    def write(self, data):
        """Sends more on each."""
        for connection in self.open:
            connection.sendall(data)

    def close(self):
        """Closes them all."""
        for connection in self.open:
            connection.close()


def head(method, path, *fields):
    """A request's head as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", LOGIN, *fields, "", ""]
    return "\r\n".join(lines).encode()


def _url(port, path, scheme="https"):
    return f"{scheme}://localhost:{port}{path}"


def _run(argv):
    done = subprocess.run(["taskset", "-c", LOAD_CPU] + argv, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout
