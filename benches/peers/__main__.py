"""Compares the processor time of tidegate, nginx, HAProxy and Caddy for the same work, on one machine, in one run.

    python3 benches/peers [growth] [--rounds N] [--seconds N] [--only NAME,...] [--peers NAME,...] [--plot FILE.svg]

Each proxy runs alone on processor 0; clients and upstreams share processor 1. The rounds are interleaved. The result of a
workload is the median, over the rounds, of the ratio to nginx within a round. nginx and HAProxy run with two configurations:
the usual one and a tuned one. `relay` copies bytes between two sockets, which is the lower bound of a transfer.
`growth` measures tidegate alone: with many sites, users, connections and grants, and the memory of stalled transfers.
All traffic is on 127.0.0.1, and every process is ended. Other load on the machine distorts the figures.
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
from sites import PROFILED, SOURCES, Site
from workloads import WORKLOADS, Options, measure


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["growth"], help="measure tidegate alone, with growing configurations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement of requests")
    parser.add_argument("--blob-mib", type=int, default=1024, help="size of a transfer")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections")
    parser.add_argument("--only", type=names(WORKLOADS), default=list(WORKLOADS), metavar="NAME,...", help=", ".join(WORKLOADS))
    parser.add_argument("--peers", type=names(SOURCES), default=None, metavar="NAME,...", help=", ".join(SOURCES))
    parser.add_argument("--ours", metavar="COMMAND", help="the command that starts tidegate, with {config} for its configuration; default: the release build")
    parser.add_argument("--profiled", metavar="COMMAND", help="the command that starts a build with a profile, which is measured as well (tidegate-profiled)")
    parser.add_argument("--json", metavar="FILE", help="write the figures of every round to this file")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the ratios as bars")
    given = parser.parse_args()
    if given.peers is None:
        given.peers = [peer for peer in SOURCES if peer != PROFILED or given.profiled]
    elif PROFILED in given.peers and not given.profiled:
        parser.error(f"{PROFILED} needs --profiled COMMAND")
    return given


def names(known):
    """Returns a parser of a comma-separated list of known names."""
    def parse(text):
        listed = text.split(",")
        for name in listed:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return listed
    return parse


def main():
    """Runs all measurements. Every process that was started ends with this one, also at Ctrl-C and TERM."""
    given = arguments()
    proxies = {peer.partition("-")[0] for peer in given.peers} - {"tidegate"}
    programs.demand(sorted({"nginx", "wrk", "h2load", "curl", "htpasswd", "openssl", "taskset"} | proxies))
    ours = programs.ours(given.ours, given.profiled)
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
    """Measures all workloads with all proxies."""
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
    """Returns every figure of every round, for a JSON file."""
    plain = {name: {peer: [dataclasses.asdict(figure) for figure in figures] for peer, figures in got.items()}
             for name, got in results.items()}
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"versions": versions, "workloads": plain}, file, indent=1)


if __name__ == "__main__":
    main()
