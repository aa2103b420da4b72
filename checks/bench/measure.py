"""Starts the world, runs one process of a function after another in it, and measures each process."""

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
# time without an answer after which a function or the world counts as stuck
PATIENCE_S = 120


class World:
    """The program checks/bench/src, which surrounds one function at a time. Its source documents the commands."""

    def __init__(self, program, folder):
        self.ca = make_certificate(folder)
        self.users = 0
        self.process = subprocess.Popen([program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.variables = json.loads(self.process.stdout.readline())

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], PATIENCE_S)[0]:
            raise SystemExit(f"no answer to {command[:40]!r}: the function is stuck or has ended")
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("the world around the function ended")
        return json.loads(answer)

    def new_users(self, count):
        """The number of the first of `count` users without a row."""
        first, self.users = self.users, self.users + count
        return first

    def environment(self, case):
        """The variables that the template and Lambda set. Addresses and certificate authority are those of the world."""
        return {
            **self.variables,
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "DEFAULT_FLOW": case.flow,
            "AWS_DEFAULT_REGION": self.variables["AWS_REGION"],
            "AWS_SESSION_TOKEN": "made-up",
            "AWS_CA_BUNDLE": self.ca,
            "NODE_EXTRA_CA_CERTS": self.ca,
            "SSL_CERT_FILE": self.ca,
            "NODE_NO_WARNINGS": "1",
            "AWS_LAMBDA_FUNCTION_NAME": case.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        }

    def end(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def world(program):
    with tempfile.TemporaryDirectory() as folder:
        around = World(program, folder)
        try:
            yield around
        finally:
            around.end()


def make_certificate(folder):
    """Makes a certificate authority and its certificate for localhost, with P-256 as most hosts have. Returns the authority's file."""
    at = pathlib.Path(folder)
    (at / "names").write_text("subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2", "-subj", "/CN=made-up authority"],
        ["req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
         "-out", "certificate.pem", "-days", "2", "-extfile", "names"],
    ):
        subprocess.run(["openssl", *command], cwd=at, check=True, capture_output=True)
    return str(at / "ca.pem")


@contextlib.contextmanager
def running(around, command, case):
    """A process of a function, from its start to its end."""
    process = subprocess.Popen(
        command, env=around.environment(case), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        # on this signal, valgrind writes its counts
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cpu_seconds(process):
    """User and system time of all threads, in seconds: the process's clock as in clock_getcpuclockid(3), precise to 1 ns."""
    return time.clock_gettime((~process.pid << 3) | 2)


def peak_memory(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def checked(case, outcomes, first=False):
    """Returns the outcomes, if each has the status and the calls of the case. A failed invocation must not be measured."""
    calls = case.first_calls if first and case.first_calls else case.calls
    for outcome in outcomes:
        if outcome["status"] != case.status or (calls is not None and outcome["calls"] != calls):
            raise SystemExit(f"{case.name}: {outcome}, not {case.status} with {calls}")
    return outcomes


def timed(around, case, command, warm):
    """Measures one launch: start, first invocation, and `warm` more invocations."""
    first_user = case.users(around, 1 + warm)
    around.tell("event " + json.dumps(case.event))
    started = time.monotonic()
    with running(around, command, case) as process:
        around.tell("wait")
        init_s = time.monotonic() - started
        init_cpu = cpu_seconds(process)
        first = checked(case, around.tell(f"invoke 1 {first_user}"), first=True)[0]
        first_cpu = cpu_seconds(process) - init_cpu
        rest = checked(case, around.tell(f"invoke {warm} {first_user + 1}"))
        rest_cpu = cpu_seconds(process) - init_cpu - first_cpu
        return {
            "init_ms": init_s * 1000,
            "first_ms": first["ms"],
            "warm_ms": sorted(outcome["ms"] for outcome in rest),
            "own_ms": sorted(outcome["ms"] - outcome["calls_ms"] for outcome in rest),
            "init_cpu_ms": init_cpu * 1000,
            "first_cpu_ms": first_cpu * 1000,
            "warm_cpu_ms": rest_cpu * 1000 / warm,
            "rss_mib": peak_memory(process),
        }


def counted(around, case, binary, keep=None):
    """Instructions in user space, by callgrind: of init, of the first invocation, and of a warm invocation.

    The figures are differences between runs of three lengths. Of each length, the cheapest of several runs counts, because runs differ
    in how often a response arrives in two parts."""
    init, one, many = (
        min(instructions(around, case, binary, invocations, keep) for _ in range(runs))
        for invocations, runs in ((0, 5), (1, 5), (1 + case.counted, 3))
    )
    return {"init": init, "first": one - init, "warm": (many - one) // case.counted}


def instructions(around, case, binary, invocations, keep):
    """All instructions of one run."""
    with tempfile.TemporaryDirectory() as folder:
        out = keep or pathlib.Path(folder) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--log-file={folder}/log", str(binary)]
        first_user = case.users(around, invocations)
        around.tell("event " + json.dumps(case.event))
        with running(around, command, case):
            around.tell("wait")
            checked(case, around.tell(f"invoke {invocations} {first_user}"))
        return int(re.search(r"^(?:summary|totals): (\d+)", pathlib.Path(out).read_text(), re.MULTILINE)[1])
