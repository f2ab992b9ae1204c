#!/usr/bin/env python3
"""Measures a cluster of many nodes on this machine, and one node alone.

    scripts/bench-nodes.sh [NODES]

Prints: time from start to serving of one node, its idle memory and CPU with all
roles; then for NODES nodes the time until each has the full view, the time until
a killed one is known to be down everywhere, and idle memory and CPU of a node.
Run it on an otherwise idle machine.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(os.environ["RUNG_BIN"])
TICKS = os.sysconf("SC_CLK_TCK")
IDLE_SECONDS = 10


def address(k):
    return f"127.0.{50 + k // 200}.{10 + k % 200}"


def start(place, k, *arguments):
    data = place / f"n{k}"
    data.mkdir()
    log = open(data / "rungd.log", "wb")
    command = [BIN / "rungd", "--data", data, "--name", f"n{k}", "--bind", address(k)]
    command += ["--dc", "east" if k % 2 else "west", *arguments]
    return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def ctl(place, k, *arguments):
    command = [BIN / "ctl", "--data", place / f"n{k}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def status(place, k):
    done = ctl(place, k, "status", "-o", "json")
    return json.loads(done.stdout) if done.returncode == 0 else None


def wait(what, seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"gave up after {seconds} s waiting for {what}")
        time.sleep(0.02)


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mib(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            pss = int(line.split()[1]) / 1024
        if line.startswith("Rss:"):
            rss = int(line.split()[1]) / 1024
    return rss, pss


def idle(processes):
    before = [cpu_seconds(p.pid) for p in processes]
    time.sleep(IDLE_SECONDS)
    used = [cpu_seconds(p.pid) - b for p, b in zip(processes, before)]
    memory = [memory_mib(p.pid) for p in processes]
    middle = len(processes) // 2
    share = sorted(100 * u / IDLE_SECONDS for u in used)[middle]
    rss = sorted(m[0] for m in memory)[middle]
    pss = sorted(m[1] for m in memory)[middle]
    return f"{share:.1f}% of a core, {rss:.0f} MiB resident ({pss:.0f} MiB its own share)"


def stop(processes):
    for p in processes:
        p.send_signal(signal.SIGTERM)
    for p in processes:
        try:
            p.wait(40)
        except subprocess.TimeoutExpired:
            p.kill()


def answers_http(k):
    try:
        with socket.create_connection((address(k), 8080), 0.2) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return client.recv(12).startswith(b"HTTP/1.1")
    except OSError:
        return False


def one_node():
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        os.chmod(place, 0o755)
        began = time.monotonic()
        node = start(place, 1)
        wait("the first node to serve", 30, lambda: answers_http(1))
        print(f"one node, empty directory: start to serving {1000 * (time.monotonic() - began):.0f} ms")
        time.sleep(3)
        print(f"one node, all roles, idle: {idle([node])}")
        stop([node])
        began = time.monotonic()
        (place / "n1" / "rungd.log").unlink()
        log = open(place / "n1" / "rungd.log", "wb")
        node = subprocess.Popen([BIN / "rungd", "--data", place / "n1"], stdout=log, stderr=log)
        wait("the node to serve again", 30, lambda: answers_http(1))
        print(f"one node, restarted: start to serving {1000 * (time.monotonic() - began):.0f} ms")
        stop([node])


def many(count):
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        os.chmod(place, 0o755)
        nodes = [start(place, 1)]
        wait("the first node", 30, lambda: status(place, 1))
        token = place / "token"
        token.write_text(ctl(place, 1, "token", "create", "--uses", str(count)).stdout)
        began = time.monotonic()
        join = ["--join", f"{address(1)}:7400", "--token-file", token]
        nodes += [start(place, k, *join) for k in range(2, count + 1)]

        def sees(k, state, wanted):
            seen = status(place, k)
            if not seen or len(seen["nodes"]) < count:
                return False
            return sum(n["state"] == state for n in seen["nodes"]) == wanted

        waiting = set(range(1, count + 1))
        while waiting:
            waiting = {k for k in waiting if not sees(k, "alive", count)}
            if time.monotonic() - began > 120:
                sys.exit(f"no full view on {sorted(waiting)}")
        print(f"{count} nodes: all processes started to full view everywhere {time.monotonic() - began:.1f} s")
        time.sleep(10)
        print(f"{count} nodes, idle, the median node: {idle(nodes)}")
        victim = count
        nodes[victim - 1].kill()
        killed = time.monotonic()
        # Each node is asked in turn; the time is when the last one knew.
        waiting = set(range(1, count))
        while waiting:
            waiting = {k for k in waiting if not sees(k, "down", 1)}
            if time.monotonic() - killed > 60:
                sys.exit(f"not known down on {sorted(waiting)}")
        print(f"{count} nodes: kill -9 to known down everywhere {time.monotonic() - killed:.1f} s")
        stop([n for n in nodes if n.poll() is None])


one_node()
many(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
