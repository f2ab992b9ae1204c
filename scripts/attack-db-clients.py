#!/usr/bin/env python3
"""Bad days of a database's clients, against a node that runs. See attack-db-clients.sh."""

import base64
import hashlib
import hmac
import os
import resource
import socket
import struct
import sys
import threading
import time
from urllib.parse import unquote, urlsplit

ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"


class Refused(Exception):
    def __init__(self, fields):
        super().__init__(f"{fields.get('C')}: {fields.get('M')}")
        self.code = fields.get("C")


class Client:
    """The wire protocol, no more than is needed; thousands of these fit into a process."""

    salted = {}

    def __init__(self, url, settings=()):
        self.address = (url.hostname, url.port)
        self.socket = socket.create_connection(self.address, timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb", buffering=65536)
        user, database = unquote(url.username), url.path.strip("/")
        words = [b"user", user.encode(), b"database", database.encode()]
        for name, value in settings:
            words += [name.encode(), value.encode()]
        body = struct.pack("!I", 196608) + b"\0".join(words) + b"\0\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self.log_in(unquote(url.password))

    def send(self, kind, body=b""):
        self.socket.sendall(kind + struct.pack("!I", len(body) + 4) + body)

    def message(self):
        head = self.file.read(5)
        if len(head) < 5:
            raise ConnectionError("the server closed the connection")
        kind, length = head[:1], struct.unpack("!I", head[1:])[0]
        body = self.file.read(length - 4)
        if kind == b"E":
            parts = [part.decode() for part in body.split(b"\0") if part]
            raise Refused({part[0]: part[1:] for part in parts})
        return kind, body

    def log_in(self, password):
        self.expect(b"R")
        bare = "n=,r=" + base64.b64encode(os.urandom(12)).decode()
        first = ("n,," + bare).encode()
        self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first)
        theirs = self.expect(b"R")[4:].decode()
        said = dict(part.split("=", 1) for part in theirs.split(","))
        key = (password, said["s"], said["i"])
        if key not in Client.salted:
            salt = base64.b64decode(said["s"])
            Client.salted[key] = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, int(said["i"]))
        client_key = hmac.digest(Client.salted[key], b"Client Key", "sha256")
        last = "c=biws,r=" + said["r"]
        signed = f"{bare},{theirs},{last}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        self.send(b"p", f"{last},p={base64.b64encode(proof).decode()}".encode())
        while True:
            kind, body = self.message()
            if kind == b"K":
                self.key = body
            if kind == b"Z":
                return

    def expect(self, wanted):
        kind, body = self.message()
        if kind != wanted:
            raise ConnectionError(f"{wanted} was expected, {kind} came")
        return body

    def query(self, text):
        """Executes, and gives the first column of the rows and the last tag."""
        self.send(b"Q", text.encode() + b"\0")
        return self.answer()

    def answer(self):
        rows, tag, refused = [], "", None
        while True:
            try:
                kind, body = self.message()
            except Refused as error:
                refused = error
                continue
            if kind == b"D":
                length = struct.unpack("!i", body[2:6])[0]
                rows.append(None if length < 0 else body[6 : 6 + length].decode())
            elif kind == b"C":
                tag = body[:-1].decode()
            elif kind == b"G":
                return rows, "COPY"
            elif kind == b"Z":
                if refused:
                    raise refused
                return rows, tag

    def cancel(self):
        with socket.create_connection(self.address, timeout=10) as other:
            other.sendall(struct.pack("!II", 16, 80877102) + self.key)
            other.recv(1)

    def close(self):
        self.file.close()
        self.socket.close()


def resident(pid):
    """Bytes that a process has in memory, and the most that it had."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return [int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")]


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")


def timed(client, text):
    began = time.monotonic()
    result = client.query(text)
    return time.monotonic() - began, result


class Bystander(threading.Thread):
    """Writes and reads all the while, and remembers the slowest."""

    def __init__(self, url, write=True):
        super().__init__(daemon=True)
        self.client, self.write, self.ends = Client(url), write, False
        self.slowest, self.done, self.failed = 0.0, 0, []

    def run(self):
        while not self.ends:
            try:
                took, _ = timed(self.client, "INSERT INTO beside VALUES (1)" if self.write else "SELECT count(*) FROM beside")
                self.slowest, self.done = max(self.slowest, took), self.done + 1
            except Refused as error:
                self.failed.append(str(error))
            time.sleep(0.01)

    def end(self):
        self.ends = True
        self.join(60)
        self.client.close()
        kind = "writes" if self.write else "reads"
        return f"{self.done} {kind} beside it, slowest {self.slowest * 1000:.0f} ms, {len(self.failed)} failed {self.failed[:1]}"


def idle(url, pid, count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < count + 200:
        sys.exit(f"this process may open {hard} files; {count + 200} are needed")
    before, _ = resident(pid)
    began, clients, slowest, refused = time.monotonic(), [], 0.0, None
    for number in range(count + 50):
        one = time.monotonic()
        try:
            clients.append(Client(url))
        except Refused as error:
            refused = error
            break
        slowest = max(slowest, time.monotonic() - one)
    took = time.monotonic() - began
    after, _ = resident(pid)
    each = (after - before) / len(clients)
    print(f"idle: {len(clients)} connections in {took:.1f} s, the slowest took {slowest * 1000:.0f} ms, {each / 1024:.1f} KiB of memory each")
    print(f"idle: the next one was told: {refused}")
    statement, _ = timed(clients[len(clients) // 2], "SELECT 1")
    write, _ = timed(clients[-1], "CREATE TABLE IF NOT EXISTS beside (n int)")
    print(f"idle: a statement of one of them took {statement * 1000:.1f} ms, a write {write * 1000:.1f} ms")
    began = time.monotonic()
    for client in clients:
        client.close()
    while True:
        try:
            Client(url).close()
            break
        except Refused:
            time.sleep(0.01)
    print(f"idle: all closed, and the next one let in after {time.monotonic() - began:.1f} s")


def copy(url, pid, megabytes):
    client = Client(url)
    client.query("DROP TABLE IF EXISTS big; CREATE TABLE big (id int PRIMARY KEY, body text)")
    reader = Bystander(url, write=False)
    reader.start()
    forget_peak(pid)
    before, _ = resident(pid)
    began, number, sent = time.monotonic(), 0, 0
    error = None
    try:
        client.send(b"Q", b"COPY big FROM STDIN\0")
        client.answer()
        while sent < megabytes << 20:
            rows = "".join(f"{n}\t{n:0>120}{'x' * 880}\n" for n in range(number, number + 1000)).encode()
            client.send(b"d", rows)
            number, sent = number + 1000, sent + len(rows)
        client.send(b"c")
        _, tag = client.answer()
    except (Refused, OSError) as caught:
        error, tag = caught, "nothing"
    took = time.monotonic() - began
    _, peak = resident(pid)
    print(f"copy in: {sent >> 20} MiB in {took:.1f} s: {error or tag}; memory {before >> 20} MiB before, {peak >> 20} MiB at most")
    print("copy in:", reader.end())
    if error:
        return
    for what, text in (("select", "SELECT id, body FROM big"), ("copy out", "COPY big TO STDOUT")):
        forget_peak(pid)
        began, received = time.monotonic(), 0
        client.send(b"Q", text.encode() + b"\0")
        kind, first, error = None, None, None
        while kind != b"Z":
            try:
                kind, body = client.message()
            except Refused as refused:
                error = refused
                continue
            if kind in (b"D", b"d"):
                first = first or time.monotonic() - began
                received += len(body)
        _, peak = resident(pid)
        print(f"{what}: {received >> 20} MiB in {time.monotonic() - began:.1f} s, the first row after {first or 0:.1f} s, memory {peak >> 20} MiB at most; {error or 'no error'}")
    client.close()


def endless(url, _pid, _):
    writer, reader = Bystander(url), Bystander(url, write=False)
    writer.start(), reader.start()
    client = Client(url, [("options", "-c statement_timeout=2s")])
    began = time.monotonic()
    try:
        client.query(ENDLESS)
    except Refused as error:
        print(f"endless read: after {time.monotonic() - began:.2f} s {error}")
    client.query("SET statement_timeout = 0")
    threading.Timer(2, client.cancel).start()
    began = time.monotonic()
    try:
        client.query(ENDLESS)
    except Refused as error:
        print(f"endless read, cancelled after 2 s: after {time.monotonic() - began:.2f} s {error}")
    print("endless read:", writer.end(), "and", reader.end())
    reader = Bystander(url, write=False)
    reader.start()
    client.query("SET statement_timeout = '3s'")
    began = time.monotonic()
    try:
        client.query(f"INSERT INTO beside {ENDLESS}")
    except Refused as error:
        print(f"endless write: after {time.monotonic() - began:.2f} s {error}")
    print("endless write:", reader.end())
    print("the connection goes on:", client.query("SELECT 1")[0])


def gone(url, _pid, _):
    """A client that begins to write and goes away: by closing, and without a word."""
    for how in ("closes", "is silent", "is silent and holds the writer", "is silent in a COPY"):
        writer = Client(url)
        other = Client(url)
        if how == "is silent in a COPY":
            other.query("COPY beside FROM STDIN")
        else:
            if "holds" in how:
                other.query("SET rung.optimistic = off")
            other.query("BEGIN")
            other.query("INSERT INTO beside VALUES (2)")
        reader = Bystander(url, write=False)
        reader.start()
        if how == "closes":
            other.close()
        took, _ = timed(writer, "INSERT INTO beside VALUES (3)")
        print(f"a client that writes and {how}: another's write took {took:.2f} s; {reader.end()}")
        if how != "closes":
            try:
                other.send(b"c") if "COPY" in how else None
                print("  it is told:", other.query("SELECT 1"))
            except (Refused, OSError) as error:
                print(f"  it is told: {error}")


def main():
    what, url, pid = sys.argv[1], urlsplit(sys.argv[2]), int(sys.argv[3])
    first = Client(url)
    first.query("CREATE TABLE IF NOT EXISTS beside (n int)")
    first.close()
    amount = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    {"idle": idle, "copy": copy, "endless": endless, "gone": gone}[what](url, pid, amount)


main()
