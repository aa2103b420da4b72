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
# how much more is let pass
ALLOWED = 1.05
UNITS = {
    "init": "instructions of start-up",
    "first": "instructions of the first request",
    "warm": "instructions of a warm request",
    "rss_kib": "KiB of memory at the most",
    "zip_bytes": "bytes of the zip",
}
# what may never be exceeded, on any machine and whatever the budget says: the bars of docs/performance.md that are met
CEILINGS = {"rss_kib": 9 * 1024, "zip_bytes": 2_600_000}
COLD_START_CEILING = 12_000_000


def connect_users(around, built, count):
    """Lets `finish` connect so many users, from number 0 on: the other stories are about them."""
    first = around.new_users(count)
    around.tell("event " + json.dumps(cases.FINISH.event))
    with measure.running(around, [built / "finish"], cases.FINISH):
        around.tell("wait")
        measure.checked(cases.FINISH, around.tell(f"invoke {count} {first}"))
    Case.connected = first + count


def weigh(around, target, built, case):
    """What the budget is about: all that comes out the same each time."""
    binary = built / case.name
    zipped = (target / "zips" / f"{case.name}.zip").stat().st_size
    memory = [measure.timed(around, case, [binary], 50)["rss_mib"] * 1024 for _ in range(3)]
    return {**measure.counted(around, case, binary), "rss_kib": round(min(memory)), "zip_bytes": zipped}


@contextlib.contextmanager
def scales(target, built):
    with measure.world(target / "world" / "bench") as around:
        connect_users(around, built, 51)
        yield lambda case: weigh(around, target, built, case)


def excesses(name, now, budget):
    """What is more than it may be, and how to look."""
    for what, unit in UNITS.items():
        most = min(budget.get(what, math.inf) * ALLOWED, CEILINGS.get(what, math.inf))
        if now[what] <= most:
            continue
        yield f"{name} takes {now[what]:,} {unit}: at most {most:,.0f}, the budget is {budget.get(what, 'none')}"
        if what == "zip_bytes":
            yield "  what came in: git log -p -- Cargo.lock; cargo tree --edges features --package shared"
        elif what == "rss_kib":
            yield f"  what is kept: valgrind --tool=massif, as measure.py starts callgrind; checks/bench/run --profile {name}"
        else:
            yield f"  where they go: checks/bench/run --profile {name}; on the commit before too, and compare"
    if name == cases.FINISH.name and now["init"] + now["first"] > COLD_START_CEILING:
        yield f"{name} takes {now['init'] + now['first']:,} instructions to its first answer: at most {COLD_START_CEILING:,}"


def check(target, built):
    machine = platform.machine()
    budgets = json.loads(BUDGET.read_text()).get(machine, {})
    if not budgets:
        print(f"{BUDGET.name} has nothing for {machine}: held against the ceilings alone; checks/bench/run --budget measures one")
    with scales(target, built) as weigh:
        weighed = {case.name: weigh(case) for case in CASES}
    print(f"{'function':<14} {'init':>12} {'first':>12} {'warm':>12} {'memory':>9} {'zip':>10}")
    over = []
    for name, now in weighed.items():
        print(f"{name:<14} {now['init']:>12,} {now['first']:>12,} {now['warm']:>12,} {now['rss_kib']:>5} KiB {now['zip_bytes']:>10,}")
        over += excesses(name, now, budgets.get(name, {}))
    if over:
        print("\n".join(over))
        sys.exit("over the budget. If it is worth its price: checks/bench/run --budget, and say in the commit what it buys.")


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
    with measure.world(target / "world" / "bench") as around:
        connect_users(around, built, 1 + case.counted)
        print(measure.counted(around, case, built / name, out))
    command = ["callgrind_annotate", "--inclusive=yes", str(out)]
    print(f"start-up and {1 + case.counted} requests, callees included; the same without them: drop --inclusive=yes\n$ {' '.join(command)}")
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
