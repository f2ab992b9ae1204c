"""Measures two databases by turns with pgbench; see bench-db.sh."""

import argparse
import contextlib
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from db_contenders import TICKS, Machines, Postgres, Rung, note, say, until

HALF_OF_50_MS = 25
INTERACTIVE_CLIENTS = 32
MODES = {"select-only": ["-S"], "simple-update": ["-N"], "TPC-B-like": []}
# One autocommit statement, for the distant machines.
UPDATE = r"""\set aid random(1, 100000 * :scale)
\set delta random(-5000, 5000)
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
"""

CONTENDERS = {"postgres": Postgres, "rung": Rung}


def pgbench(options, server, arguments):
    enter, where, environment = server.client()
    command = [*enter, os.path.join(options.postgres, "pgbench"), *arguments, *where]
    isolation = options.isolation.replace(" ", r"\ ")
    settings = {"PGOPTIONS": f"-c default_transaction_isolation={isolation}"}
    environment = os.environ | environment | settings
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def fill(options, server):
    begun = time.monotonic()
    done = pgbench(options, server, ["-i", "-q", "-s", str(options.scale)])
    if done.returncode != 0:
        raise SystemExit(f"bench-db: pgbench -i on {server.name}: {done.stderr}")
    note(f"{server.name}: filled with {options.scale * 100_000} rows in {time.monotonic() - begun:.1f} s")


def measure(options, server, arguments, clients):
    """Transactions per second, CPU microseconds and mean latency of one run, or why not."""
    common = ["-n", "-c", str(clients), "-j", str(min(clients, 2)), "-s", str(options.scale)]
    if options.isolation != "read committed":
        # Only there a program has to expect that a transaction fails.
        common += ["--max-tries", "100"]
    if "-t" not in arguments:
        common += ["-T", str(options.seconds)]
    before = server.processor_time()
    done = pgbench(options, server, [*common, *arguments])
    ticks = server.processor_time() - before

    def figure(pattern):
        found = re.search(pattern, done.stdout)
        return float(found[1]) if found else None

    rate, count = figure(r"tps = ([\d.]+)"), figure(r"actually processed: (\d+)")
    if done.returncode != 0 or not rate or not count:
        lines = done.stderr.strip().splitlines()
        return {"problem": lines[0] if lines else f"exit code {done.returncode}"}
    return {
        "rate": rate,
        "cpu": ticks / TICKS / count * 1e6,
        "latency": figure(r"latency average = ([\d.]+)"),
        "failed": figure(r"failed transactions: (\d+)") or 0,
        "retried": figure(r"transactions retried: (\d+)") or 0,
    }


def medians(runs):
    problems = [run["problem"] for run in runs if "problem" in run]
    if problems:
        return {"problem": problems[0]}
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def cell(result):
    if "problem" in result:
        return f"{'failed':>9} {'':>7} {'':>8}"
    return f"{result['rate']:>9.0f} {result['cpu']:>7.0f} {result['latency']:>8.2f}"


class Table:
    """Prints rows of two contenders as they come, and keeps what loses."""

    def __init__(self, title, left, right):
        self.title, self.left, self.right, self.loses = title, left, right, []
        say(f"\n{title}: {left} | {right}")
        say(f"{'':<36}{'tx/s':>9} {'cpu us':>7} {'mean ms':>8} | {'tx/s':>9} {'cpu us':>7} "
            f"{'mean ms':>8} | {'tx/s x':>7} {'cpu x':>6}")

    def row(self, label, left, right):
        line = f"{label:<36}{cell(left)} | {cell(right)} |"
        if "problem" in left or "problem" in right:
            say(line)
            for name, result in ((self.left, left), (self.right, right)):
                if "problem" in result:
                    say(f"    {name}: {result['problem']}")
                    self.loses.append(f"{self.title}, {label}: {name} failed")
            return
        rate = right["rate"] / left["rate"]
        cpu = right["cpu"] / left["cpu"] if left["cpu"] else float("nan")
        marks = [word for word, lost in (("slower", rate < 1), ("more cpu", cpu > 1)) if lost]
        for name, result in ((self.left, left), (self.right, right)):
            if result["failed"]:
                marks.append(f"{name}: {result['failed']:.0f} failed")
            if result["retried"]:
                marks.append(f"{name}: {result['retried']:.0f} retried")
        say(f"{line} {rate:>7.2f} {cpu:>6.2f}  {', '.join(marks)}".rstrip())
        if rate < 1:
            self.loses.append(f"{self.title}, {label}: {rate:.2f} x the throughput")
        if cpu > 1:
            self.loses.append(f"{self.title}, {label}: {cpu:.2f} x the CPU time")


@contextlib.contextmanager
def contenders(options, nodes, machines):
    """Both of them, filled; only one is measured at a time."""
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o755)
        servers = []
        for place, kind in enumerate((options.left, options.right)):
            server = CONTENDERS[kind](options, folder, 15432 + 10 * place, nodes, machines)
            stack.callback(server.end)
            fill(options, server)
            servers.append(server)
        yield servers


def by_turns(options, servers, arguments, clients):
    runs = [[], []]
    for turn in range(options.rounds):
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            runs[place].append(measure(options, servers[place], arguments, clients))
    return [medians(of_one) for of_one in runs]


def compare(options, title, nodes):
    with contenders(options, nodes, None) as servers:
        table = Table(title, servers[0].name, servers[1].name)
        for mode in options.modes:
            arguments = MODES[mode]
            for protocol in ("simple", "prepared"):
                for clients in options.clients:
                    label = f"{mode}, {protocol}, {clients} client{'s' if clients > 1 else ''}"
                    results = by_turns(options, servers, [*arguments, "-M", protocol], clients)
                    table.row(label, *results)
    return table.loses


def compare_far(options):
    """Autocommit updates by many clients, with the machines near and far."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("iptables"):
        say("\nskipped: 50 ms between machines needs root, iproute2 and iptables")
        return []
    packet_delay = os.path.join(options.rung, "packet-delay")
    machines = Machines(3, packet_delay)
    try:
        with contenders(options, 3, machines) as servers:
            with open(os.path.join(servers[0].folder, "update.sql"), "w", encoding="utf-8") as file:
                file.write(UPDATE)
            title = (f"autocommit updates, {options.far_clients} clients at the primary "
                     "(CPU time includes connecting)")
            table = Table(title, servers[0].name, servers[1].name)
            # A number of transactions, not a time, which connecting could use up.
            arguments = ["-f", file.name, "-M", "prepared", "-t", str(options.far_transactions)]
            near = by_turns(options, servers, arguments, options.far_clients)
            table.row("near", *near)
            machines.delay(HALF_OF_50_MS)
            until("packets are late", lambda: machines.round_trip() > 2 * HALF_OF_50_MS - 1, 10)
            far = by_turns(options, servers, arguments, options.far_clients)
            table.row(f"{machines.round_trip():.0f} ms round trip", *far)
            interactive = [*MODES["simple-update"], "-M", "prepared"]
            several = by_turns(options, servers, interactive, INTERACTIVE_CLIENTS)
            table.row(f"the same, interactive, {INTERACTIVE_CLIENTS} clients", *several)
            for server, before, after in zip(servers, near, far):
                if "rate" in before and "rate" in after:
                    share = after["rate"] / before["rate"]
                    say(f"    {server.name}: far is {share:.0%} of near")
    finally:
        machines.end()
    return table.loses


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--rung", required=True)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=10)
    parser.add_argument("--clients", type=lambda text: [int(word) for word in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--far-clients", type=int, default=1000)
    parser.add_argument("--far-transactions", type=int, default=30, help="of each client")
    parser.add_argument("--parts", default="one,three,far")
    parser.add_argument("--modes", type=lambda text: text.split(","), default=list(MODES))
    parser.add_argument("--isolation", default="read committed")
    parser.add_argument("--left", choices=CONTENDERS, default="postgres")
    parser.add_argument("--right", choices=CONTENDERS, default="rung")
    options = parser.parse_args()
    options.rung = os.path.abspath(options.rung)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    say(f"{os.cpu_count()} processors, {options.seconds} s a run, medians of {options.rounds} rounds, "
        f"scale {options.scale}, {options.isolation}")
    parts = {
        "one": lambda: compare(options, "one node against one server", 1),
        "three": lambda: compare(options, "three nodes against a server with a synchronous standby", 3),
        "far": lambda: compare_far(options),
    }
    loses = []
    for part in options.parts.split(","):
        if part not in parts:
            raise SystemExit(f"bench-db: there is no part {part}; there are {', '.join(parts)}")
        loses += parts[part]()
    say("\nWhat loses:" if loses else "\nNothing loses.")
    for line in loses:
        say(f"  {line}")


if __name__ == "__main__":
    main()
