"""Measures our functions, the peers and the floor in one run. Writes the tables of docs/performance.md and its picture."""

import dataclasses
import datetime
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import zipfile

import measure
import picture
from cases import ACCESS_TOKEN, CASES, FINISH, HELLO, PEER

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
LAUNCHES = 7
WARM = 300
# response times of Human API and DynamoDB in the run with delays, in milliseconds
HUMAN_API_MS, DYNAMODB_MS = 150, 5
MEMORIES = (128, 256, 512)
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: one vCPU comes with this memory
VCPU_MB = 1769
# one request in this number starts an environment, as docs/cost.md assumes
COLD_ONE_IN = 50


@dataclasses.dataclass
class Variant:
    """A measured variant: its case, its command, its sizes in bytes."""

    name: str
    case: object
    command: list
    binary: int | None
    zipped: int
    counted: bool = True


def variants(target, built):
    def ours(case):
        binary = built / case.name
        return Variant(case.name, case, [binary], binary.stat().st_size, (target / "checks/bench-zips" / f"{case.name}.zip").stat().st_size)

    hello = built / "hello"
    node, python = HERE / "peers/node", HERE / "peers/python"
    venv = target / "checks/bench-peer"
    site_packages = next((venv / "lib").glob("python3*/site-packages"))
    packages = [site_packages / name for name in ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "urllib3", "six.py")]
    node_version = os.popen("node --version").read().strip().removeprefix("v")
    yield Variant("`lambda_http` hello: the floor", HELLO, [hello], hello.stat().st_size, zipped([hello]))
    for case in CASES:
        yield ours(case)
    yield Variant(f"Node.js {node_version}, AWS SDK v3", PEER, ["node", node / "bootstrap.mjs"], None, zipped([node]), False)
    yield Variant(
        f"Python {python_version(venv)}, boto3", PEER, [venv / "bin/python", python / "bootstrap.py"], None, zipped([python, *packages]), False
    )


def python_version(venv):
    return re.search(r"version\s*=\s*(\S+)", (venv / "pyvenv.cfg").read_text())[1]


def zipped(paths):
    """Size of a zip of these files, in bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in paths:
            for file in [path] if path.is_file() else path.rglob("*"):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(path.parent))
    return len(buffer.getvalue())


def median_of(runs, name):
    return statistics.median(run[name] for run in runs)


def percentile(values, percent):
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def launches(around, variants, number, warm):
    """Launches the variants alternately, so that a slow minute of the machine affects all of them."""
    runs = {variant.name: [] for variant in variants}
    for launch in range(number):
        print(f"launch {launch + 1} of {number}", file=sys.stderr)
        for variant in variants:
            runs[variant.name].append(measure.timed(around, variant.case, variant.command, warm))
    return {name: medians(of_one) for name, of_one in runs.items()}


def medians(runs):
    warm_ms = [sorted(run["warm_ms"]) for run in runs]
    figures = {name: median_of(runs, name) for name in ("init_ms", "first_ms", "init_cpu_ms", "first_cpu_ms", "warm_cpu_ms", "rss_mib")}
    for percent in (50, 90, 99):
        figures[f"p{percent}"] = statistics.median(percentile(run, percent) for run in warm_ms)
    figures["own_p50"] = statistics.median(percentile(run["own_ms"], 50) for run in runs)
    return figures


def measured(target, built, connect_users):
    with measure.world(target / "world" / "bench") as around:
        connect_users(around, built, 1 + WARM)
        everybody = list(variants(target, built))
        figures = launches(around, everybody, LAUNCHES, WARM)
        around.tell(f"delay {HUMAN_API_MS} {DYNAMODB_MS} {DYNAMODB_MS}")
        delayed = launches(around, [variant for variant in everybody if variant.case in (FINISH, ACCESS_TOKEN)], 3, 50)
        around.tell("delay 0 0 0")
        for variant in everybody:
            of_this = figures[variant.name]
            if variant.name in delayed:
                of_this["delayed"] = delayed[variant.name]
            if variant.counted:
                of_this["instructions"] = measure.counted(around, variant.case, variant.command[0])
            yield variant, of_this


def millions(count):
    return f"{count / 1e6:.2f}"


def figures_table(rows):
    yield (
        "| | init ms | first ms | warm p50 | p90 | p99 ms | CPU init | first | warm ms | peak MiB | binary KiB | zip KiB "
        "| M instructions init | first | warm |"
    )
    yield "|---|" + "--:|" * 14
    for variant, f in rows:
        counts = f.get("instructions")
        cells = [
            f"{f['init_ms']:.1f}", f"{f['first_ms']:.2f}", f"{f['p50']:.2f}", f"{f['p90']:.2f}", f"{f['p99']:.2f}",
            f"{f['init_cpu_ms']:.1f}", f"{f['first_cpu_ms']:.2f}", f"{f['warm_cpu_ms']:.2f}", f"{f['rss_mib']:.1f}",
            f"{variant.binary // 1024:,}" if variant.binary else "–", f"{variant.zipped // 1024:,}",
            *([millions(counts[name]) for name in ("init", "first", "warm")] if counts else ["–"] * 3),
        ]
        yield f"| {variant.name} | " + " | ".join(cells) + " |"


def bars(rows):
    by_name = {variant.name: (variant, f) for variant, f in rows}
    variant, finish = by_name["finish"]
    hit = by_name["access-token"][1]["instructions"]["warm"]
    peers = [(variant.name, f) for variant, f in rows if variant.case is PEER]
    counts = finish["instructions"]
    cold = finish["init_cpu_ms"] + finish["first_cpu_ms"]
    yield "| bar | measured | |"
    yield "|---|--:|---|"

    def bar(text, figure, met):
        return f"| {text} | {figure} | {'met' if met else '**not met**'} |"

    def most(text, figure, limit, show):
        return bar(f"{text} ≤ {limit}", show(figure), figure <= limit)

    yield most("init + first, M instructions", (counts["init"] + counts["first"]) / 1e6, 13.5, "{:.2f}".format)
    yield most("first / warm", counts["first"] / counts["warm"], 1.2, "{:.2f}".format)
    yield most("warm, M instructions", counts["warm"] / 1e6, 2.1, "{:.2f}".format)
    yield most("peak memory, MiB", finish["rss_mib"], 10, "{:.1f}".format)
    yield most("zip, MB", variant.zipped / 1e6, 3.0, "{:.2f}".format)
    for name, peer in peers:
        times = (peer["init_cpu_ms"] + peer["first_cpu_ms"]) / cold
        yield bar(f"CPU of init + first: {name} takes at least 45 times as much", f"{times:.0f} times", times >= 45)
        times = peer["own_p50"] / finish["own_p50"]
        yield bar(f"warm p50 without delay, minus the sum of its calls: {name} takes at least twice as long", f"{times:.1f} times", times >= 2)
    yield most("`access-token` hit, warm, M instructions", hit / 1e6, 0.95, "{:.2f}".format)
    yield most(
        f"with {HUMAN_API_MS} ms at Human API and {DYNAMODB_MS} ms at DynamoDB, p50 minus the sum of its calls, ms",
        finish["delayed"]["own_p50"], 2.5, "{:.2f}".format,
    )


def prices():
    """The list prices on which docs/cost.md is based."""
    path = str(ROOT / "checks/cost/run")
    loader = importlib.machinery.SourceFileLoader("cost", path)
    cost = importlib.util.module_from_spec(importlib.util.spec_from_loader("cost", loader))
    loader.exec_module(cost)
    return cost.PRICES


def costs(rows):
    price = prices()
    yield "| a million callbacks, US$ | our own CPU, at any size | " + " | ".join(f"{memory} MB" for memory in MEMORIES) + " |"
    yield "|---|" + "--:|" * (1 + len(MEMORIES))
    for variant, f in rows:
        if variant.case not in (FINISH, PEER):
            continue
        cpu_ms = f["warm_cpu_ms"] + (f["init_cpu_ms"] + f["first_cpu_ms"] - f["warm_cpu_ms"]) / COLD_ONE_IN
        calls = variant.case.calls
        wait_ms = sum(DYNAMODB_MS if call.endswith("Item") else HUMAN_API_MS for call in calls)

        def dollars(memory, wait_ms=wait_ms, cpu_ms=cpu_ms):
            return 1000 * memory / 1024 * (cpu_ms * max(1, VCPU_MB / memory) + wait_ms) * price["lambda_gb_second"]

        for_requests = price["lambda_request"] * 1e6
        totals = " | ".join(f"{dollars(memory) + for_requests:.2f}" for memory in MEMORIES)
        yield f"| {variant.name} | {dollars(MEMORIES[0], 0):.3f} | {totals} |"


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, Linux {platform.release()}"


def write(target, built, connect_users):
    rows = list(measured(target, built, connect_users))
    today = datetime.date.today().isoformat()
    lines = [
        f"`checks/bench/run`, {today}, {machine()}: medians of {LAUNCHES} launches with {WARM} warm requests each.",
        "",
        *figures_table(rows),
        "",
        *bars(rows),
        "",
        *costs(rows),
        "",
    ]
    print("\n".join(lines))
    (target / "checks/bench.json").write_text(json.dumps([[variant.name, figures] for variant, figures in rows], indent=1))
    document = ROOT / "docs/performance.md"
    begin, end = "<!-- checks/bench/run -->\n", "<!-- end -->"
    before, rest = document.read_text().split(begin)
    document.write_text(before + begin + "\n".join(lines) + end + rest.split(end)[1])
    shown = [(v.name.replace("`", "").split(":")[0].replace("finish", "ours: finish"), f) for v, f in rows if v.case in (HELLO, FINISH, PEER)]
    (ROOT / "docs/performance.svg").write_text(picture.draw(shown, today))
