"""Draws the picture of docs/performance.md: CPU time of a cold start and of a warm request, for each variant."""

import math

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 190, 90, 56, 64
FROM, TO = 0.01, 1000  # milliseconds, on a logarithmic scale
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-weight: 600; font-size: 15px }
    .small { font-size: 12px; fill: #59636e }
    .line { stroke: #d1d9e0 }
    .cold { fill: #0969da }
    .warm { fill: #bc4c00 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .small { fill: #9198a1 }
      .line { stroke: #3d444d }
      .cold { fill: #4493f8 }
      .warm { fill: #f0883e }
    }"""


def x_of(ms):
    share = math.log(max(ms, FROM) / FROM) / math.log(TO / FROM)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def bar(y, ms, kind):
    end = x_of(ms)
    text = f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms" if ms >= 1 else f"{ms:.2f} ms"
    return [
        f'  <rect class="{kind}" x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="18" rx="2"/>',
        f'  <text x="{end + 6:.1f}" y="{y + 14}">{text}</text>',
    ]


def draw(rows, date):
    """`rows` are pairs of a name and its figures."""
    height = TOP + ROW * len(rows) + 44
    bottom = TOP + ROW * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">',
        '  <title id="title">CPU time of a cold start and of a warm request: ours, the floor and the peers</title>',
        f"  <style>{STYLE}\n  </style>",
        '  <text class="title" x="12" y="24">A popup\'s callback: CPU of a cold start, and of a warm request</text>',
        f'  <rect class="cold" x="12" y="37" width="12" height="12" rx="2"/><text class="small" x="30" y="48">start-up and first request</text>',
        f'  <rect class="warm" x="190" y="37" width="12" height="12" rx="2"/><text class="small" x="208" y="48">a warm request</text>',
    ]
    for power in range(round(math.log10(FROM)), round(math.log10(TO)) + 1):
        x = x_of(10**power)
        lines.append(f'  <line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{bottom}"/>')
        lines.append(f'  <text class="small" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{10**power:g} ms</text>')
    for number, (name, figures) in enumerate(rows):
        y = TOP + ROW * number
        lines.append(f'  <text x="12" y="{y + 27}">{name}</text>')
        lines += bar(y + 4, figures["init_cpu_ms"] + figures["first_cpu_ms"], "cold")
        lines += bar(y + 26, figures["warm_cpu_ms"], "warm")
    lines.append(f'  <text class="small" x="12" y="{bottom + 36}">Logarithmic scale: each line is ten times the previous one. Measured {date} by checks/bench/run.</text>')
    return "\n".join([*lines, "</svg>", ""])
