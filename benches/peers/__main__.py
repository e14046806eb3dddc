"""tidegate beside nginx, HAProxy and Caddy: the processor time of each for the same work, on one machine, in one run.

    python3 benches/peers [growth] [--rounds N] [--seconds N] [--only NAME,...] [--peers NAME,...] [--plot FILE.svg]

Every proxy in turn has processor 0 to itself; clients and upstreams share processor 1. The rounds are interleaved, and
the figure to quote is the median, over the rounds, of the ratio to nginx within a round. nginx and HAProxy are there
twice: as the recipes have them, and tuned. `relay` beside transfers is two sockets and nothing else, the least there is.
`growth` measures the gate alone: with many sites, users, connections and grants, and what a stalled transfer holds.
Everything stays on 127.0.0.1, and everything that is started is ended. Other work on the machine shows in the figures.
"""
import argparse
import dataclasses
import json
import resource
import signal
import sys
import tempfile

import growth
import plot
import programs
import report
from sites import SOURCES, Site
from workloads import WORKLOADS, Options, measure


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["growth"], help="the gate alone, as what it serves grows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of a run of requests")
    parser.add_argument("--blob-mib", type=int, default=1024, help="size of a transfer")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections")
    parser.add_argument("--only", type=names(WORKLOADS), default=list(WORKLOADS), metavar="NAME,...", help=", ".join(WORKLOADS))
    parser.add_argument("--peers", type=names(SOURCES), default=list(SOURCES), metavar="NAME,...", help=", ".join(SOURCES))
    parser.add_argument("--ours", metavar="COMMAND", help="the gate, with {config} for its file; else what cargo built")
    parser.add_argument("--json", metavar="FILE", help="every figure of every round")
    parser.add_argument("--plot", metavar="FILE.svg", help="the ratios as bars")
    return parser.parse_args()


def names(known):
    """Reads a list of them."""
    def parse(text):
        listed = text.split(",")
        for name in listed:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return listed
    return parse


def main():
    """Everything in order; what was started ends with it, also at Ctrl-C and TERM."""
    given = arguments()
    proxies = {peer.partition("-")[0] for peer in given.peers} - {"tidegate"}
    programs.demand(sorted({"nginx", "wrk", "h2load", "curl", "htpasswd", "openssl", "taskset"} | proxies))
    ours = programs.ours(given.ours)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="tidegate-peers-") as folder:
        site = Site(folder, ours, given.blob_mib)
        try:
            site.open()
            options = Options(folder, given.seconds, given.idle)
            if given.what == "growth":
                print(programs.versions(["tidegate"], ours))
                growth.run(site, options, given.rounds)
            else:
                compare(site, options, given)
        finally:
            site.close()


def compare(site, options, given):
    """All workloads over all proxies."""
    versions = programs.versions(given.peers, site.ours)
    print(versions)
    results = {}
    for name in given.only:
        workload = WORKLOADS[name]
        peers = given.peers + (["relay"] if workload.relay_to else [])
        got = {peer: [] for peer in peers}
        for _ in range(given.rounds):
            for peer in peers:
                try:
                    got[peer].append(measure(site, peer, workload, options))
                except RuntimeError as error:
                    sys.exit(f"{peer}, {name}: {error}")
        report.show(name, workload, got)
        results[name] = got
    shown = given.peers + (["relay"] if any(WORKLOADS[name].relay_to for name in given.only) else [])
    print("\n" + report.markdown(WORKLOADS, results, shown, versions))
    if given.plot:
        plot.write(given.plot, results, shown, versions)
    if given.json:
        write_json(given.json, results, versions)


def write_json(path, results, versions):
    """Every figure, for another look."""
    plain = {name: {peer: [dataclasses.asdict(figure) for figure in figures] for peer, figures in got.items()}
             for name, got in results.items()}
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"versions": versions, "workloads": plain}, file, indent=1)


if __name__ == "__main__":
    main()
