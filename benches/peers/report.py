"""Prints the figures: as text during the run, and as a Markdown table at the end."""
import statistics

UNITS = {"request": "us a request", "GiB": "ms a GiB", "connection": "KiB a connection"}
REFERENCE = "nginx"
# The peers against which the goals are set. Caddy is shown for comparison only, and a relay is no proxy.
RIVALS = ("nginx", "nginx-tuned", "haproxy", "haproxy-tuned")


def median(figures, field):
    """Returns the median of the rounds."""
    return statistics.median(getattr(figure, field) for figure in figures)


def ratio(got, peer, reference=REFERENCE):
    """Returns the median of the ratios to the reference within a round: a change of the machine's speed affects both in the same way."""
    if not got.get(reference) or not got.get(peer):
        return None
    return statistics.median(own.cost / other.cost for own, other in zip(got[peer], got[reference]))


def best(got):
    """Returns the rival with the lowest median."""
    rivals = [peer for peer in RIVALS if got.get(peer)]
    return min(rivals, key=lambda peer: median(got[peer], "cost"), default=None)


def show(name, workload, got):
    """Returns the figures of one workload as text."""
    print(f"\n{name}: {workload.says}; {UNITS[workload.unit]}")
    for peer, figures in got.items():
        times = ratio(got, peer)
        shown = f"{times:6.2f} x nginx" if times is not None else ""
        line = f"  {peer:14} {median(figures, 'cost'):10.1f} {shown}"
        if workload.run:
            line += (f"   {median(figures, 'rate'):10.2f} {workload.unit}s a second   p99 {median(figures, 'p99'):7.2f} ms"
                     f"   peak {median(figures, 'peak'):6.1f} MiB")
        print(line, flush=True)


def markdown(workloads, results, peers, versions):
    """Returns the table for the documentation: nginx in absolute units, the others as ratios to nginx, and tidegate as a ratio to
    the best of its rivals."""
    others = [peer for peer in peers if peer != REFERENCE]
    ours = [peer for peer in peers if peer.startswith("tidegate")]
    heads = others + [f"{peer} / best" for peer in ours]
    lines = [f"{versions}.", "", "| | nginx | " + " | ".join(heads) + " |", "|---|" + "---|" * (len(heads) + 1)]
    for name, got in results.items():
        unit = UNITS[workloads[name].unit]
        reference = f"{median(got[REFERENCE], 'cost'):.1f} {unit}" if REFERENCE in got else "–"
        cells = [ratio(got, peer) for peer in others] + [ratio(got, peer, best(got)) for peer in ours]
        shown = [f"{cell:.2f}" if cell is not None else "–" for cell in cells]
        lines.append(f"| {name} | {reference} | " + " | ".join(shown) + " |")
    return "\n".join(lines)
