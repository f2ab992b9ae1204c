"""Measures two databases by turns with pgbench; see bench-db.sh."""

import argparse
import contextlib
import json
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

NOBODY = 65534
TICKS = os.sysconf("SC_CLK_TCK")
HALF_OF_50_MS = 25
MODES = {"select-only": ["-S"], "simple-update": ["-N"], "TPC-B-like": []}
# One autocommit statement, for the distant machines.
UPDATE = r"""\set aid random(1, 100000 * :scale)
\set delta random(-5000, 5000)
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
"""


def say(text):
    print(text, flush=True)


def note(text):
    print(text, file=sys.stderr, flush=True)


def until(what, ask, patience=60):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.1)
    raise SystemExit(f"bench-db: gave up after {patience} s waiting until {what}")


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"bench-db: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def processor_time(pid):
    """Ticks of a process, and of its children that have ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rpartition(") ")[2].split()
    except OSError:
        return 0, 0
    return int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as found:
            return [int(word) for word in found.read().split()]
    except OSError:
        return []


class Machines:
    """Network namespaces, each with a cable of its own to a router that delays."""

    def __init__(self, count, packet_delay):
        self.prefix = f"rung-{os.getpid()}-bench-"
        self.packet_delay = packet_delay
        self.delaying = None
        self.count = count
        self.run("ip netns add", self.name("hub"))
        for index in range(count):
            name, link = self.name(index), f"v{index}"
            self.run("ip netns add", name)
            self.run(f"ip -n {self.name('hub')} link add name {link} type veth peer name eth0 netns {name}")
            self.run(f"ip -n {self.name('hub')} addr add 10.78.{index}.1/24 dev {link}")
            self.run(f"ip -n {self.name('hub')} link set dev {link} up")
            self.run(f"ip -n {name} link set dev lo up")
            self.run(f"ip -n {name} addr add {self.address(index)}/24 dev eth0")
            self.run(f"ip -n {name} link set dev eth0 up")
            self.run(f"ip -n {name} route add default via 10.78.{index}.1")
        run(self.enter("hub") + ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
        rule = "iptables -t mangle -A FORWARD -j NFQUEUE --queue-num 1 --queue-bypass"
        run(self.enter("hub") + rule.split())

    @staticmethod
    def run(*words):
        run(" ".join(words).split())

    def name(self, index):
        return f"{self.prefix}{index}"

    @staticmethod
    def address(index):
        return f"10.78.{index}.2"

    def enter(self, index):
        return ["nsenter", f"--net=/run/netns/{self.name(index)}", "--"]

    def delay(self, milliseconds):
        """Of every packet between two machines; 0 ends it."""
        if self.delaying:
            self.delaying.kill()
            self.delaying.wait()
            self.delaying = None
        if milliseconds:
            command = self.enter("hub") + [self.packet_delay, "1", str(milliseconds)]
            self.delaying = subprocess.Popen(command)

    def round_trip(self):
        """Milliseconds that a TCP connection takes, which is one round trip."""
        listen = "import socket;s=socket.create_server(('0.0.0.0',9));print('on',flush=True);s.accept()"
        connect = (
            "import socket,time;b=time.monotonic();"
            f"socket.create_connection(('{self.address(1)}',9));print(time.monotonic()-b)"
        )
        listener = subprocess.Popen(
            self.enter(1) + ["python3", "-c", listen], stdout=subprocess.PIPE, text=True
        )
        listener.stdout.readline()
        took = float(run(self.enter(0) + ["python3", "-c", connect]))
        listener.wait()
        listener.stdout.close()
        return took * 1000

    def end(self):
        self.delay(0)
        for index in [*range(self.count), "hub"]:
            subprocess.run(["ip", "netns", "del", self.name(index)], check=False)


class Postgres:
    """A server, and a synchronous standby if asked for."""

    name = "PostgreSQL 15"

    def __init__(self, options, folder, port, three, machines):
        self.bin, self.port, self.machines = options.postgres, port, machines
        self.folder = os.path.join(folder, f"postgres-{port}")
        os.mkdir(self.folder)
        self.servers = []
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        self.call(0, "initdb", "-D", self.data(0), "-A", "trust", "-U", "bench", "-E", "UTF8")
        self.configure(0, max_wal_senders=4)
        self.start(0)
        self.call(0, "createdb", *self.where(), "bench")
        if three:
            host = machines.address(0) if machines else "127.0.0.1"
            self.call(1, "pg_basebackup", "-h", host, "-p", str(port), "-U", "bench", "-R", "-X",
                      "stream", "-D", self.data(1))
            self.configure(1)
            self.start(1)
            self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.sql("SELECT pg_reload_conf()")
            until("the standby is synchronous", lambda: "sync" in self.sql(
                "SELECT sync_state FROM pg_stat_replication WHERE sync_state = 'sync'").split())

    def data(self, index):
        return os.path.join(self.folder, str(index))

    def prefix(self, index):
        """Its machine, and a user that is not root, whom PostgreSQL refuses."""
        words = self.machines.enter(index) if self.machines else []
        if os.geteuid() == 0:
            words += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
        return words

    def call(self, index, program, *arguments):
        return run(self.prefix(index) + [os.path.join(self.bin, program), *arguments], cwd=self.folder)

    def configure(self, index, **settings):
        settings |= {
            "port": self.port + index,
            "listen_addresses": "'*'" if self.machines else "'127.0.0.1'",
            "unix_socket_directories": f"'{self.folder}'",
            "max_connections": 1200,
            "shared_buffers": "'512MB'",
            "max_wal_size": "'4GB'",
        }
        with open(os.path.join(self.data(index), "postgresql.conf"), "a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        if self.machines:
            path = os.path.join(self.data(index), "pg_hba.conf")
            with open(path, "a", encoding="utf-8") as file:
                file.write("host all all 10.78.0.0/16 trust\nhost replication all 10.78.0.0/16 trust\n")

    def start(self, index):
        log = open(os.path.join(self.folder, f"{index}.log"), "wb")
        command = self.prefix(index) + [os.path.join(self.bin, "postgres"), "-D", self.data(index)]
        self.servers.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder))
        log.close()
        ready = [os.path.join(self.bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port + index)]
        enter = self.prefix(index)
        until("PostgreSQL takes connections", lambda: subprocess.run(enter + ready, check=False).returncode == 0)

    def where(self):
        return ["-h", "127.0.0.1", "-p", str(self.port), "-U", "bench"]

    def sql(self, statement):
        return self.call(0, "psql", *self.where(), "-d", "bench", "-Atc", statement)

    def client(self):
        """How pgbench gets there: a prefix, arguments, and its environment."""
        return (self.machines.enter(0) if self.machines else []), [*self.where(), "bench"], {}

    def processor_time(self):
        ticks = 0
        for server in self.servers:
            own, ended = processor_time(server.pid)
            ticks += own + ended + sum(processor_time(child)[0] for child in children(server.pid))
        return ticks

    def end(self):
        for server in reversed(self.servers):
            server.send_signal(signal.SIGINT)
            server.wait()


class Rung:
    """One node, or three with a copy each."""

    name = "Rung"

    def __init__(self, options, folder, port, three, machines):
        self.bin, self.machines = options.rung, machines
        self.folder = os.path.join(folder, f"rung-{port}")
        os.mkdir(self.folder)
        self.nodes = {}
        # Developers and tests use other networks.
        self.network = f"127.0.{50 + port % 40}"
        self.start("n1", 0)
        until("n1 answers", lambda: self.status())
        if three:
            token = os.path.join(self.folder, "token")
            with open(token, "w", encoding="utf-8") as file:
                file.write(self.ctl("token", "create", "--uses", "2"))
            for index in (1, 2):
                self.start(f"n{index + 1}", index, "--join", f"{self.address(0)}:7400", "--token-file", token)
            until("all nodes are alive", lambda: self.alive() == 3)
        self.ctl("db", "create", "bench")
        if three:
            self.ctl("scale", "replicas", "2")
        until("the database and its copies serve", lambda: self.serving(2 if three else 0))
        self.primary = self.shard()["primary"]
        urls = json.loads(self.ctl("db", "url", "bench", "-o", "json", node=self.primary))
        self.url = urls["url"]

    def address(self, index):
        return self.machines.address(index) if self.machines else f"{self.network}.{11 + index}"

    def start(self, name, index, *arguments):
        command = self.machines.enter(index) if self.machines else []
        command += [os.path.join(self.bin, "rungd"), "--data", os.path.join(self.folder, name),
                    "--name", name, "--bind", self.address(index), *arguments]
        log = open(os.path.join(self.folder, f"{name}.log"), "wb")
        self.nodes[name] = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()

    def ctl(self, *arguments, node="n1"):
        return run([os.path.join(self.bin, "ctl"), "--data", os.path.join(self.folder, node), *arguments])

    def status(self):
        asked = subprocess.run(
            [os.path.join(self.bin, "ctl"), "--data", os.path.join(self.folder, "n1"), "status", "-o", "json"],
            capture_output=True, text=True, check=False)
        return json.loads(asked.stdout) if asked.returncode == 0 else None

    def alive(self):
        status = self.status()
        return sum(node["state"] == "alive" for node in status["nodes"]) if status else 0

    def shard(self):
        status = self.status()
        shards = [shard for shard in status["db"] if shard["database"] == "bench"] if status else []
        return shards[0] if shards else None

    def serving(self, replicas):
        shard = self.shard()
        if not shard or not shard["primary"]:
            return False
        return sum(replica["state"] == "serving" for replica in shard["replicas"]) >= replicas

    def client(self):
        found = re.fullmatch(r"postgres://([^:]+):([^@]+)@([^:/]+):(\d+)/([^?]+).*", self.url)
        if not found:
            raise SystemExit(f"bench-db: the database's URL is not understood: {self.url}")
        user, password, host, port, database = found.groups()
        enter = self.machines.enter(int(self.primary[1:]) - 1) if self.machines else []
        return enter, ["-h", host, "-p", port, "-U", user, database], {"PGPASSWORD": password}

    def processor_time(self):
        return sum(processor_time(node.pid)[0] for node in self.nodes.values())

    def end(self):
        for node in self.nodes.values():
            node.kill()
        for node in self.nodes.values():
            node.wait()


CONTENDERS = {"postgres": Postgres, "rung": Rung}


def pgbench(options, server, arguments):
    enter, where, environment = server.client()
    command = [*enter, os.path.join(options.postgres, "pgbench"), *arguments, *where]
    environment = os.environ | environment | {"PGOPTIONS": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def fill(options, server):
    begun = time.monotonic()
    done = pgbench(options, server, ["-i", "-q", "-s", str(options.scale)])
    if done.returncode != 0:
        raise SystemExit(f"bench-db: pgbench -i on {server.name}: {done.stderr}")
    note(f"{server.name}: filled with {options.scale * 100_000} rows in {time.monotonic() - begun:.1f} s")


def measure(options, server, arguments, clients):
    """Transactions per second, CPU microseconds and mean latency of one run, or why not."""
    common = ["-n", "-c", str(clients), "-j", str(min(clients, 2)), "--max-tries", "100",
              "-s", str(options.scale)]
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
def contenders(options, three, machines):
    """Both of them, filled; only one is measured at a time."""
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o755)
        servers = []
        for place, kind in enumerate((options.left, options.right)):
            server = CONTENDERS[kind](options, folder, 15432 + 10 * place, three, machines)
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


def compare(options, title, three):
    with contenders(options, three, None) as servers:
        table = Table(title, servers[0].name, servers[1].name)
        for mode, arguments in MODES.items():
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
        with contenders(options, True, machines) as servers:
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
    parser.add_argument("--left", choices=CONTENDERS, default="postgres")
    parser.add_argument("--right", choices=CONTENDERS, default="rung")
    options = parser.parse_args()
    options.rung = os.path.abspath(options.rung)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    say(f"{os.cpu_count()} processors, {options.seconds} s a run, medians of {options.rounds} rounds, "
        f"scale {options.scale}")
    parts = {
        "one": lambda: compare(options, "one node against one server", False),
        "three": lambda: compare(options, "three nodes against a server with a synchronous standby", True),
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
