"""bench.py TARGET BUILT [--check | --budget | --profile FUNCTION]: see checks/bench/run."""

import contextlib
import json
import math
import pathlib
import platform
import subprocess
import sys

import cases
import measure
from cases import CASES, Case

HERE = pathlib.Path(__file__).parent
BUDGET = HERE / "budget.json"
# tolerated ratio of a measured figure to its budget
ALLOWED = 1.10
UNITS = {
    "init": "instructions of start-up",
    "first": "instructions of the first request",
    "warm": "instructions of a warm request",
    "rss_kib": "KiB of peak memory",
    "zip_bytes": "bytes of the zip",
}
# Absolute limits for every machine, independent of the budget.
CEILINGS = {"rss_kib": 10 * 1024, "zip_bytes": 3_000_000}
COLD_START_CEILING = 13_500_000


def connect_users(around, built, count):
    """Lets `finish` connect this number of users. The cases of the other functions need connected users."""
    first = around.new_users(count)
    around.tell("event " + json.dumps(cases.FINISH.event))
    with measure.running(around, [built / "finish"], cases.FINISH):
        around.tell("wait")
        measure.checked(cases.FINISH, around.tell(f"invoke {count} {first}"))
    Case.connected = first + count


def weigh(around, target, built, case):
    """Measures the figures of the budget. They are the same in every run."""
    binary = built / case.name
    zipped = (target / "checks/bench-zips" / f"{case.name}.zip").stat().st_size
    memory = [measure.timed(around, case, [binary], 50)["rss_mib"] * 1024 for _ in range(3)]
    return {**measure.counted(around, case, binary), "rss_kib": round(min(memory)), "zip_bytes": zipped}


@contextlib.contextmanager
def scales(target, built):
    with measure.world(target / "debug" / "bench") as around:
        connect_users(around, built, 51)
        yield lambda case: weigh(around, target, built, case)


def excesses(name, now, budget):
    """Yields a message for each figure above its limit, and how to find the cause."""
    for what, unit in UNITS.items():
        most = min(budget.get(what, math.inf) * ALLOWED, CEILINGS.get(what, math.inf))
        if now[what] <= most:
            continue
        yield f"{name} takes {now[what]:,} {unit}: at most {most:,.0f}, the budget is {budget.get(what, 'none')}"
        if what == "zip_bytes":
            yield "  find new dependencies: git log -p -- Cargo.lock; cargo tree --edges features --package shared"
        elif what == "rss_kib":
            yield f"  find allocations: valgrind --tool=massif, as measure.py starts callgrind; checks/bench/run --profile {name}"
        else:
            yield f"  find the code: checks/bench/run --profile {name}; run it on the previous commit too, and compare"
    if name == cases.FINISH.name and now["init"] + now["first"] > COLD_START_CEILING:
        yield f"{name} takes {now['init'] + now['first']:,} instructions to its first response: at most {COLD_START_CEILING:,}"


def check(target, built):
    machine = platform.machine()
    budgets = json.loads(BUDGET.read_text()).get(machine, {})
    if not budgets:
        print(f"{BUDGET.name} has no budget for {machine}: only the ceilings apply. checks/bench/run --budget measures a budget")
    with scales(target, built) as weigh:
        weighed = {case.name: weigh(case) for case in CASES}
    print(f"{'function':<14} {'init':>12} {'first':>12} {'warm':>12} {'memory':>9} {'zip':>10}")
    over = []
    for name, now in weighed.items():
        print(f"{name:<14} {now['init']:>12,} {now['first']:>12,} {now['warm']:>12,} {now['rss_kib']:>5} KiB {now['zip_bytes']:>10,}")
        over += excesses(name, now, budgets.get(name, {}))
    if over:
        print("\n".join(over))
        sys.exit("over the budget. If the cost is justified, run checks/bench/run --budget, and give the reason in the commit.")


def write_budget(target, built):
    budgets = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    with scales(target, built) as weigh:
        budgets[platform.machine()] = {case.name: weigh(case) for case in CASES}
    BUDGET.write_text(json.dumps(budgets, indent=2) + "\n")
    print(BUDGET.read_text())


def profile(target, built, name):
    case = next((case for case in CASES if case.name == name), None)
    if case is None:
        sys.exit(f"no such function: {name}")
    out = target / "checks" / f"{name}.callgrind"
    with measure.world(target / "debug" / "bench") as around:
        connect_users(around, built, 1 + case.counted)
        print(measure.counted(around, case, built / name, out))
    command = ["callgrind_annotate", "--inclusive=yes", str(out)]
    print(f"start-up and {1 + case.counted} requests, including callees. To exclude callees, drop --inclusive=yes\n$ {' '.join(command)}")
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    print("\n".join(line[:200] for line in lines[:120]))


def main():
    target, built = (pathlib.Path(path) for path in sys.argv[1:3])
    match sys.argv[3:]:
        case ["--check"]:
            check(target, built)
        case ["--budget"]:
            write_budget(target, built)
        case ["--profile", name]:
            profile(target, built, name)
        case []:
            import report

            report.write(target, built, connect_users)
        case _:
            sys.exit("usage: checks/bench/run [--check | --budget | --profile FUNCTION]")


main()
