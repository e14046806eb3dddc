"""Measures how the cost of a request and the memory of tidegate grow with its configuration and load (`growth`)."""
import statistics
import time

import load
from processes import LOAD_CPU, PROXY_CPU
from workloads import SETTLED

BUSY = 10  # connections that send requests
TRANSFERS = 200
SENT = 1 << 20
MEMORY_RETURNED = 12  # seconds after which jemalloc has returned freed memory, which it keeps for ten


def run(site, options, rounds):
    """Prints a table. Each figure is the median of the rounds, which are interleaved."""
    cases = {f"{name}, {many}": (many, measured) for name, counts, measured in GROWTH for many in counts}
    got = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (many, measured) in cases.items():
            got[name].append(measured(site, options, many))
    print("| | us a request | requests a second | MiB |\n|---|---|---|---|")
    for name, figures in got.items():
        cost, rate, memory = (statistics.median(column) for column in zip(*figures))
        print(f"| {name} | {cost:.2f} | {rate:.0f} | {memory:.1f} |")
    print("\n| a transfer that stands still | KiB of memory each |\n|---|---|")
    for name, measured in (("download", stalled_pulls), ("upload", stalled_pushes)):
        print(f"| {name} | {statistics.median(measured(site, options) for _ in range(rounds)):.1f} |")


def _cost(site, options, login="open", cpu=PROXY_CPU, path=load.PING, held=0, **words):
    proxy, port = site.start("tidegate", login, cpu, **words)
    idle = load.Connections(port, held, load.head("GET", load.PING))
    try:
        idle.read()
        # One-time work, such as the hash of the first login, does not belong to the cost of a request.
        load.requests(port, 1, path, BUSY)
        # Neither does the second check of a password file that was written recently.
        time.sleep(SETTLED)
        before = proxy.cpu()
        done = load.requests(port, options.seconds, path, BUSY)
        return (proxy.cpu() - before) / done.work * 1e6, done.work / done.seconds, proxy.memory()
    finally:
        idle.close()
        proxy.stop()


def sites(site, options, many):
    """Adds sites before the site that the requests address."""
    text = "".join(SITE.replace("NUMBER", str(number)).replace("DIR", site.folder) for number in range(many - 1))
    return _cost(site, options, SITES=text.replace("PORT", str(site.words["UPSTREAM"])))


def users(site, options, many):
    """Uses a password file with this number of lines. The login is cached after the first request."""
    site.write_users("htpasswd-apr1", site.hashes["apr1"], many - 1)
    try:
        return _cost(site, options, "auth")
    finally:
        site.write_users("htpasswd-apr1", site.hashes["apr1"], 0)


def connections(site, options, many):
    """Opens this number of connections, of which a few send requests."""
    return _cost(site, options, held=many - BUSY)


def grants(site, options, many):
    """Adds grants before the grant that allows the request."""
    text = "".join(GRANT.replace("NUMBER", str(number)) for number in range(many - 1)) + LAST_GRANT
    return _cost(site, options, "auth", path=load.MANIFEST, GRANTS=text)


def workers(site, options, many):
    """Uses this number of workers. The second worker shares its processor with the load generator."""
    cpu = PROXY_CPU if many == 1 else f"{PROXY_CPU},{LOAD_CPU}"
    return _cost(site, options, cpu=cpu, WORKERS=many)


def stalled_pulls(site, options):
    """Starts downloads whose client stops reading."""
    return _stalled(site, load.head("GET", load.PULL), b"")


def stalled_pushes(site, options):
    """Starts uploads whose client stops sending."""
    return _stalled(site, load.head("PATCH", load.PUSH, "Content-Length: 1000000000"), bytes(SENT))


def _stalled(site, head, sent):
    proxy, port = site.start("tidegate")
    try:
        before = proxy.memory()
        transfers = load.Connections(port, TRANSFERS, head)
        transfers.write(sent)
        time.sleep(MEMORY_RETURNED)
        grown = proxy.memory() - before
        transfers.close()
        return grown * 1024 / TRANSFERS
    finally:
        proxy.stop()


GROWTH = [
    ("sites", (1, 1000), sites),
    ("users", (1, 100_000), users),
    ("connections", (100, 9_900), connections),
    ("grants", (1, 1000), grants),
    ("workers", (1, 2), workers),
]
SITE = """[[site]]
hosts = ["sNUMBER.example.com"]
tls = { cert = "DIR/cert.pem", key = "DIR/key.pem" }
auth = { mode = "none" }
[[site.route]]
path = "/v2/"
upstream = "http://127.0.0.1:PORT"
"""
GRANT = """[[site.route.grant]]
to = ["userNUMBER"]
repositories = ["teamNUMBER/**"]
actions = ["push"]
"""
LAST_GRANT = """[[site.route.grant]]
to = ["alice"]
repositories = ["bench"]
actions = ["pull"]
"""
