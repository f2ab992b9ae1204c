"""Databases to measure: PostgreSQL servers and Rung's nodes, on this machine or on
simulated ones. For bench-db.py and bench-db-replica.py."""

import json
import os
import re
import signal
import subprocess
import sys
import time

NOBODY = 65534
TICKS = os.sysconf("SC_CLK_TCK")
PROGRAM = os.path.basename(sys.argv[0])


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
    raise SystemExit(f"{PROGRAM}: gave up after {patience} s waiting until {what}")


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{PROGRAM}: {' '.join(command)}\n{done.stdout}{done.stderr}")
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
    """A server, with a synchronous standby if it is to be compared with several nodes."""

    name = "PostgreSQL 15"

    def __init__(self, options, folder, port, nodes, machines):
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
        if nodes > 1:
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
        enter = self.machines.enter(0) if self.machines else []
        return enter, [*self.where(), "bench"], {"PGSSLMODE": "disable"}

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
    """Nodes, and a database with a copy on each, or with so many replicas."""

    name = "Rung"

    def __init__(self, options, folder, port, nodes, machines, replicas=None):
        self.bin, self.machines = options.rung, machines
        self.folder = os.path.join(folder, f"rung-{port}")
        os.mkdir(self.folder)
        self.nodes = {}
        # Developers and tests use other networks.
        self.network = f"127.0.{50 + port % 40}"
        self.start("n1", 0)
        until("n1 answers", lambda: self.status())
        if nodes > 1:
            token = os.path.join(self.folder, "token")
            with open(token, "w", encoding="utf-8") as file:
                file.write(self.ctl("token", "create", "--uses", str(nodes - 1)))
            for index in range(1, nodes):
                self.start(f"n{index + 1}", index, "--join", f"{self.address(0)}:7400", "--token-file", token)
            until("all nodes are alive", lambda: self.alive() == nodes)
        self.ctl("db", "create", "bench")
        replicas = nodes - 1 if replicas is None else replicas
        until("the database serves", lambda: self.serving(0))
        self.ctl("scale", "replicas", str(replicas))
        until("the copies serve", lambda: self.serving(replicas))

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
        """At the primary, wherever it is now."""
        until("the database serves", lambda: self.serving(0))
        primary = self.shard()["primary"]
        url = json.loads(self.ctl("db", "url", "bench", "-o", "json", node=primary))["url"]
        found = re.fullmatch(r"postgres://([^:]+):([^@]+)@([^:/]+):(\d+)/([^?]+).*", url)
        if not found:
            raise SystemExit(f"{PROGRAM}: the database's URL is not understood: {url}")
        user, password, host, port, database = found.groups()
        enter = self.machines.enter(int(primary[1:]) - 1) if self.machines else []
        return enter, ["-h", host, "-p", port, "-U", user, database], {"PGPASSWORD": password, "PGSSLMODE": "disable"}

    def processor_time(self):
        return sum(processor_time(node.pid)[0] for node in self.nodes.values())

    def end(self):
        for node in self.nodes.values():
            node.kill()
        for node in self.nodes.values():
            node.wait()
