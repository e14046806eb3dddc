"""Draws the ratios to nginx as bars, in one SVG file with a light and a dark colour scheme."""
from html import escape

from report import REFERENCE, ratio

# Colours that colour-blind readers can tell apart (Okabe and Ito).
COLOURS = {"tidegate": "#0072b2", "tidegate-profiled": "#56b4e9", "nginx-tuned": "#009e73", "haproxy": "#e69f00", "haproxy-tuned": "#d55e00",
           "caddy": "#cc79a7", "relay": "#999999"}
LEFT, WIDTH, BAR, GAP, TOP = 110, 560, 11, 14, 64
MOST = 2.0  # the maximum length of a bar; the number beside it is not limited
STYLE = """text { font: 12px system-ui, sans-serif; fill: #222 } .small { font-size: 10px } .line { stroke: #222 }
.grid { stroke: #ccc } @media (prefers-color-scheme: dark) { text { fill: #ddd } .line { stroke: #ddd } .grid { stroke: #444 } }"""


def write(path, results, peers, versions):
    """Draws a group of bars for each workload."""
    shown = [peer for peer in peers if peer != REFERENCE]
    parts, y = [], TOP
    for name, got in results.items():
        bars = [(peer, ratio(got, peer)) for peer in shown]
        bars = [(peer, value) for peer, value in bars if value is not None]
        parts.append(f'<text x="{LEFT - 8}" y="{y + len(bars) * BAR / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for peer, value in bars:
            parts.append(_bar(y, peer, value))
            y += BAR
        y += GAP
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join([_head(y + 10, versions), _scale(y), *parts, _legend(shown), "</svg>", ""]))


def _x(value):
    return LEFT + min(value, MOST) / MOST * WIDTH


def _bar(y, peer, value):
    end = _x(value)
    return (f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR - 1}" fill="{COLOURS[peer]}"/>'
            f'<text class="small" x="{end + 4:.1f}" y="{y + BAR - 2}">{value:.2f}{" →" if value > MOST else ""}</text>')


def _head(height, versions):
    size = f"0 0 {LEFT + WIDTH + 60} {height}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img">\n<style>{STYLE}</style>\n'
            f'<title>Cost for the same work, nginx = 1</title>\n<text x="{LEFT}" y="16">Processor time for the same work '
            f'(idle: memory), nginx = 1; shorter is better</text>\n<text class="small" x="{LEFT}" y="32">{escape(versions)}</text>')


def _scale(bottom):
    steps = [step / 2 for step in range(int(MOST * 2) + 1)]
    lines = [f'<line class="{"line" if step == 1 else "grid"}" x1="{_x(step)}" x2="{_x(step)}" y1="{TOP - 6}" y2="{bottom - GAP + 4}"/>'
             f'<text class="small" x="{_x(step)}" y="{bottom + 4}" text-anchor="middle">{step:g}</text>' for step in steps]
    return "\n".join(lines)


def _legend(peers):
    parts, x = [], LEFT
    for peer in peers:
        parts.append(f'<rect x="{x}" y="42" width="10" height="10" fill="{COLOURS[peer]}"/>'
                     f'<text class="small" x="{x + 14}" y="51">{escape(peer)}</text>')
        x += 30 + 6 * len(peer)
    return "\n".join(parts)
