"""The load generators. Each function puts load on a proxy and returns the amount of work, the time, and the latency."""
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
CONNECTIONS_PER_ADDRESS = 500  # connections from one address, fewer than each proxy allows a client


@dataclass
class Done:
    """The number of requests or GiB, the seconds, and the 99th percentile of the latency in milliseconds if it was measured."""

    work: float
    seconds: float
    p99: float = 0.0


def requests(port, seconds, path=PING, connections=32, close=False):
    """Sends requests over HTTP/1.1 for the given time; with `close`, each on a new connection."""
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
    """Sends pings over HTTP/2 for the given time: 8 connections with 16 streams each."""
    said = _run(["h2load", "-t1", "-c8", "-m16", f"-D{seconds}", "-H", LOGIN, _url(port, PING)])
    took, good = re.search(r"finished in ([\d.]+)(us|ms|s)", said), re.search(r"status codes: (\d+) 2xx", said)
    return Done(int(good[1]), float(took[1]) * IN_MS[took[2]] / 1e3)


def pull(port, version="--http1.1", scheme="https"):
    """Downloads one blob."""
    return _curl(port, PULL, "%{size_download}", "200", [version], scheme)


def push(port, file, version="--http1.1", chunked=False, scheme="https"):
    """Uploads one blob, with a Content-Length or in chunks."""
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
    """TLS connections that are open at the same time and are idle after their first bytes."""

    def __init__(self, port, count, head, version="http/1.1"):
        context = ssl.create_default_context()
        context.set_alpn_protocols([version])
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.open = []
        for number in range(count):
            source = (f"127.0.1.{1 + number // CONNECTIONS_PER_ADDRESS}", 0)
            plain = socket.create_connection(("127.0.0.1", port), 10, source)
            # A small receive buffer, so that unread bytes stay with the proxy.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            connection = context.wrap_socket(plain, server_hostname="localhost")
            connection.sendall(head)
            self.open.append(connection)

    def read(self):
        """Reads the first byte of the response on each connection."""
        for connection in self.open:
            connection.recv(4096)

    def write(self, data):
        """Sends more bytes on each connection."""
        for connection in self.open:
            connection.sendall(data)

    def close(self):
        """Closes all connections."""
        for connection in self.open:
            connection.close()


def head(method, path, *fields):
    """Returns the head of a request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", LOGIN, *fields, "", ""]
    return "\r\n".join(lines).encode()


def h2_request(path):
    """Returns the first bytes of an HTTP/2 connection: the preface, empty SETTINGS, and the HEADERS of a GET request on stream 1."""
    fields = b"\x82\x87" + b"".join(
        index + bytes([len(value)]) + value.encode()  # literal fields without indexing, whose names are in the static table
        for index, value in ((b"\x04", path), (b"\x01", "localhost"), (b"\x0f\x08", LOGIN.partition(": ")[2]))
    )
    settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    headers = len(fields).to_bytes(3, "big") + bytes([1, 5, 0, 0, 0, 1])  # END_HEADERS and END_STREAM
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + headers + fields


def _url(port, path, scheme="https"):
    return f"{scheme}://localhost:{port}{path}"


def _run(argv):
    done = subprocess.run(["taskset", "-c", LOAD_CPU] + argv, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout
