"""Gives a large database a new replica under load; see bench-db-replica.sh."""

import argparse
import glob
import os
import signal
import subprocess
import sys
import tempfile
import time

from db_contenders import Rung, note, run, say, until

ROW = 1024
ROWS_OF_A_COPY = 100_000
WORK = r"""\set id random(1, :rows)
SELECT length(payload) FROM big WHERE id = :id;
\set id random(1, :rows)
UPDATE big SET touched = touched + 1 WHERE id = :id;
"""


class Client:
    """pgbench at a steady rate, which notes every transaction's time."""

    def __init__(self, options, server, folder, rows):
        self.folder = folder
        work = os.path.join(folder, "work.sql")
        with open(work, "w", encoding="utf-8") as file:
            file.write(WORK)
        enter, where, environment = server.client()
        command = [*enter, "pgbench", "-n", "-c", "8", "-j", "2", "-M", "prepared", "-f", work,
                   "-D", f"rows={rows}", "-R", str(options.rate), "-T", "3600", "-l",
                   "--log-prefix", os.path.join(folder, "transactions"), *where]
        self.errors = open(os.path.join(folder, "pgbench.log"), "wb")
        self.process = subprocess.Popen(command, stdout=self.errors, stderr=self.errors,
                                        env=os.environ | environment)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def transactions(self):
        """When each ended, and milliseconds since it was due."""
        found = []
        for path in glob.glob(os.path.join(self.folder, "transactions*")):
            with open(path, encoding="utf-8") as log:
                for line in log:
                    words = line.split()
                    # The last line may be half written.
                    if len(words) >= 7:
                        found.append((int(words[4]) + int(words[5]) / 1e6, int(words[2]) / 1000))
        return found


def rows_as_text(first, count):
    """Rows whose content does not compress to nothing."""
    for number in range(first, first + count):
        noise = os.urandom(ROW * 3 // 8).hex()
        yield f"{number}\t0\t{noise}{'.' * (ROW - len(noise))}\n".encode()


def psql(server, statement, rows=()):
    enter, where, environment = server.client()
    command = [*enter, "psql", "-qAt", "-v", "ON_ERROR_STOP=1", *where[:6], "-d", where[6], "-c", statement]
    asked = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env=os.environ | environment)
    try:
        asked.stdin.writelines(rows)
        asked.stdin.close()
    except BrokenPipeError:
        pass
    answer = asked.stdout.read().decode()
    if asked.wait() != 0:
        raise SystemExit(f"bench-db-replica: {statement} failed")
    return answer


def fill(server, rows):
    psql(server, "CREATE TABLE big (id bigint PRIMARY KEY, touched int NOT NULL, payload text NOT NULL)")
    for first in range(1, rows + 1, ROWS_OF_A_COPY):
        count = min(ROWS_OF_A_COPY, rows + 1 - first)
        psql(server, "COPY big FROM STDIN", rows_as_text(first, count))
    return rows


def size(path):
    return int(run(["du", "-sb", path]).split()[0])


def gib(number):
    return f"{number / 2**30:.2f} GiB"


def sizes(server, label):
    for name in sorted(server.nodes):
        data = os.path.join(server.folder, name)
        say(f"{label}: {name}: database {gib(size(os.path.join(data, 'db')))}, "
            f"log kept {gib(size(os.path.join(data, 'wal')))}")


def latencies(label, transactions, begun, ended):
    took = sorted(ms for at, ms in transactions if begun <= at < ended)
    if not took:
        say(f"{label:<22}no transaction")
        return
    rank = lambda share: took[min(len(took) - 1, int(share * len(took)))]
    say(f"{label:<22}{len(took):>8} transactions  p50 {rank(0.5):>7.1f} ms  p99 {rank(0.99):>7.1f} ms  "
        f"p99.9 {rank(0.999):>7.1f} ms  max {took[-1]:>7.1f} ms")


def measure(options, server, folder):
    rows = options.rows or int(options.gib * 2**30 / ROW)
    begun = time.monotonic()
    fill(server, rows)
    took = time.monotonic() - begun
    say(f"COPY of {rows} rows of {ROW} bytes: {took:.1f} s, {rows * ROW / took / 2**20:.0f} MiB/s")
    sizes(server, "before")
    client = Client(options, server, folder, rows)
    try:
        time.sleep(2)
        quiet = time.time()
        time.sleep(options.seconds)
        asked = time.time()
        server.ctl("scale", "replicas", "1", "--timeout", "30m")
        until("the replica serves", lambda: server.serving(1), patience=1800)
        served = time.time()
        time.sleep(options.seconds)
        ended = time.time()
        if client.process.poll() is not None:
            raise SystemExit(f"bench-db-replica: pgbench ended; see {client.errors.name}")
    finally:
        client.end()
    say(f"a new replica of it serves after {served - asked:.1f} s")
    transactions = client.transactions()
    latencies("before", transactions, quiet, asked)
    latencies("while it is made", transactions, asked, served)
    latencies("after", transactions, served, ended)
    sizes(server, "after")
    note(server.ctl("db", "show", "bench"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rung", required=True)
    parser.add_argument("--gib", type=float, default=5)
    parser.add_argument("--rows", type=int, help="instead of --gib")
    parser.add_argument("--rate", type=int, default=200, help="transactions a second")
    parser.add_argument("--seconds", type=int, default=20, help="before and after")
    options = parser.parse_args()
    options.rung = os.path.abspath(options.rung)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    say(f"{os.cpu_count()} processors, {options.rate} transactions/s of a read and an update by key, 8 clients")
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as folder:
        server = Rung(options, folder, 15452, 2, None, replicas=0)
        try:
            measure(options, server, folder)
        finally:
            server.end()


if __name__ == "__main__":
    main()
