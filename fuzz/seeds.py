#!/usr/bin/env python3
"""Writes the handwritten seeds of the fuzz targets into corpus/.

Seeds are examples of what each parser accepts, and of what it must refuse for a
reason. Coverage-guided mutation starts from them. Run it again after changing
it; it only adds files.
"""

import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def seed(target, *inputs):
    directory = os.path.join(HERE, "corpus", target)
    os.makedirs(directory, exist_ok=True)
    for data in inputs:
        if isinstance(data, str):
            data = data.encode()
        with open(os.path.join(directory, hashlib.sha1(data).hexdigest()), "wb") as file:
            file.write(data)


def pack(value):
    """MessagePack, as rmp-serde writes it with named fields."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        for bits, mark, form in ((8, 0xCC, ">B"), (16, 0xCD, ">H"), (32, 0xCE, ">I"), (64, 0xCF, ">Q")):
            if value < 128:
                return bytes([value])
            if value < 1 << bits:
                return bytes([mark]) + struct.pack(form, value)
    if isinstance(value, str):
        data = value.encode()
        if len(data) < 32:
            return bytes([0xA0 | len(data)]) + data
        return b"\xda" + struct.pack(">H", len(data)) + data
    if isinstance(value, bytes):
        return b"\xc5" + struct.pack(">H", len(value)) + value
    if isinstance(value, (list, tuple)):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(pack, value))
    if isinstance(value, dict):
        items = b"".join(pack(key) + pack(item) for key, item in value.items())
        return b"\xde" + struct.pack(">H", len(value)) + items
    raise TypeError(type(value))


def request_heads():
    host = "Host: a.test\r\n"
    return [
        f"GET / HTTP/1.1\r\n{host}\r\n",
        f"\r\nPOST /a?b=c HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\nabc",
        f"POST /a HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTrailer: x\r\n\r\n",
        "GET http://a.test:80/x HTTP/1.1\r\nHost: a.test:80\r\nConnection: close, X-A\r\nX-A: 1\r\n\r\n",
        f"OPTIONS * HTTP/1.1\r\n{host}Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        f"GET /ws HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\nCookie: a=b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:8080\r\nX-Forwarded-For: 1.2.3.4\r\nX_Real_Ip: 1\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}A: b\r\n c\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}A : b\r\n\r\n",
        f"GET / HTTP/1.1\n{host}\r\n",
        f"GET / HTTP/1.1\r\n{host}A: \t b \x80\xff \t\r\nB:\r\n\r\n",
        f"CONNECT a.test:80 HTTP/1.1\r\n{host}\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]


def response_heads():
    return [
        b"\1HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: timeout=5, max=9\r\n\r\n",
        b"\1HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b"\1HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
        b"\0HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
        b"\1HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"\1HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"\1HTTP/1.1 204\r\n\r\n",
        b"\1HTTP/1.1 99 Low\r\n\r\n",
        b"\1HTTP/1.1 200 \xff\r\nA:\x80\r\n\r\n",
        b"\1HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
    ]


def bodies():
    return [
        b"\3\1" + b"5\r\nhello\r\n0\r\n\r\nrest",
        b"\3\4" + b"A;a=b;c=\"d\\\"e\"\r\n0123456789\r\n1\r\nx\r\n0\r\nT: v\r\nU:\r\n\r\n",
        b"\3\7" + b"00000000000000f\r\n",
        b"\3\7" + b"ffffffffffffffff\r\n",
        b"\3\7" + b"1\nx\r\n",
        b"\3\2" + b"0\r\nA: b\r\n",
        b"\0\5hello",
        b"\1\5hello world",
        b"\2\5hello",
    ]


def dns_name(text):
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".") if label) + b"\0"


def dns_query(name, kind, opt=None, flags=0x0100, klass=1):
    head = struct.pack(">6H", 0x1234, flags, 1, 0, 0, 0 if opt is None else 1)
    body = dns_name(name) + struct.pack(">2H", kind, klass)
    if opt is not None:
        payload, bits, data = opt
        body += b"\0" + struct.pack(">HHIH", 41, payload, bits, len(data)) + data
    return head + body


def dns_queries():
    cookie = struct.pack(">HH", 10, 8) + b"\x24\x64\xc4\xab\xcf\x10\xc9\x57"
    long_cookie = struct.pack(">HH", 10, 24) + b"\x24\x64\xc4\xab\xcf\x10\xc9\x57" + b"\1\0\0\0" + bytes(12)
    subnet = struct.pack(">HHHBB", 8, 7, 1, 24, 0) + b"\x0a\x14\x01"
    keepalive = struct.pack(">HH", 11, 0)
    return [
        dns_query("a.test", 1),
        dns_query("WwW.a.TeSt", 28),
        dns_query("x.p.a.test", 1, (1232, 0x8000, b"")),
        dns_query("a.test", 2, (4096, 0, cookie)),
        dns_query("a.test", 6, (512, 0, subnet + long_cookie + keepalive)),
        dns_query("b.test", 1),
        dns_query("b.test", 255, (100, 0, b"")),
        dns_query("b.test", 2, (1232, 0, subnet)),
        dns_query("ns1.a.test", 1),
        dns_query("a.test", 252),
        dns_query("a.test", 251),
        dns_query("a.test", 1, klass=3),
        dns_query("foreign.example", 1),
        dns_query("a.test", 1, (1232, 1 << 16, b"")),
        dns_query("a.test", 16, (1232, 0, b"\0\x0a\0\x03abc")),
        dns_query("a.test", 1, flags=0x2800),
        dns_query("a.test", 1, flags=0x8180),
        dns_query("a.test", 1, flags=0x0110)[:12] + b"\xc0\x0c\0\1\0\1",
        struct.pack(">6H", 7, 0x100, 2, 0, 0, 0) + (dns_name("a.test") + b"\0\1\0\1") * 2,
        struct.pack(">6H", 7, 0x100, 1, 1, 0, 0) + dns_name("a.test") + b"\0\1\0\1"
        + b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x01\2\3\4",
    ]


FAILURE = {"code": "no-quorum", "what": "it was not done", "why": "because", "next": "wait"}


def frame(kind, rest):
    return struct.pack(">IB", 1 + len(rest), kind) + rest


def frames():
    request = frame(0, struct.pack(">QHI", 7, 4, 2500) + b"body")
    answer = frame(1, struct.pack(">Q", 7) + b"answer")
    refused = frame(2, struct.pack(">Q", 7) + pack({"failed": FAILURE}))
    unit = frame(2, struct.pack(">Q", 8) + pack("overloaded"))
    large = frame(2, struct.pack(">Q", 8) + pack({"answer-too-large": {"size": 9, "limit": 8}}))
    post = frame(3, struct.pack(">H", 2) + b"post")
    return [b"\3" + request + answer, b"\7" + refused + post, b"\1" + unit + large, b"\2" + request[:9],
            b"\2" + b"\xff\xff\xff\xff", b"\1" + frame(9, b"")]


def identity(node, name, left=False, v6=False):
    address = bytes(15) + b"\1" if v6 else bytes([127, 0, 0, 10 + node])
    texts = b"".join(bytes([len(text)]) + text for text in (b"east", name))
    return (bytes([left | v6 << 1]) + struct.pack(">Q", node) + b"\3\0" + address
            + struct.pack(">H", 7400) + texts)


def member(node, state):
    return identity(node, b"n%d" % node, left=state == 2, v6=node == 5) + b"\x81\1" + bytes([state])


def packet(tag, extra=b"", updates=()):
    head = b"\1" + identity(2, b"n2") + b"\0" + identity(1, b"n1") + bytes([tag]) + extra
    return head + (struct.pack(">H", len(updates)) + b"".join(updates) if updates else b"")


def packets():
    third = identity(3, b"n3")
    return [
        packet(0, b"\x11", [member(3, 0), member(4, 1), member(5, 2)]),
        packet(1, b"\x11"),
        packet(2, b"\x12" + third),
        packet(3, b"\x12" + third, [member(2, 0)]),
        packet(4, b"\x12" + third),
        packet(5, b"\x12" + third),
        packet(6),
        packet(7, b"", [member(3, 0)]),
        packet(8, b"", [member(1, 1), member(1, 2)]),
        packet(9),
        packet(10),
    ]


def states():
    everyone = [member(2, 0), member(1, 0), member(3, 1), member(4, 2), member(5, 0)]
    return [b"\1" + struct.pack(">H", count) + b"".join(everyone[:count]) for count in (1, 2, 5)]


def messages(items):
    return b"".join(bytes([kind]) + struct.pack(">H", len(data)) + data for kind, data in items)


def position(term, index):
    return {"term": term, "index": index}


BALLOT = {"term": 7, "node": 3, "granted": True}
MEMBERSHIP = {"voters": [[1, 2, 3], [2, 3, 4]], "learners": [5]}


def raft_requests():
    def request(body, entries=b""):
        head = pack({"generation": 1, "group": 0, "request": body})
        return struct.pack(">I", len(head)) + head + entries

    def entry(data, term=7):
        return struct.pack(">QI", term, len(data)) + data

    entries = [b"\0", b"\1hello", b"\2" + pack(MEMBERSHIP)]
    append = {"ballot": BALLOT, "previous": position(6, 41), "commit": position(6, 40), "entries": 3}
    empty = {**append, "previous": None, "commit": None, "entries": 0}
    vote = {"ballot": BALLOT, "last": position(6, 41), "transfer": False}
    raw = [
        request({"Append": append}, b"".join(map(entry, entries))),
        request({"Append": empty}),
        request({"Vote": vote}),
        request({"PreVote": {**vote, "last": None}}),
        request({"Transfer": {"ballot": BALLOT, "to": 2, "last": None}}),
        request({"ReadIndex": {"deadline_ms": 900}}),
    ]
    framed = [b"\1" + bytes([len(item) - 4 & 255]) + item[4:] for item in raw]
    return [b"\0" + item for item in raw] + framed


def snapshots():
    header = pack({"group": 0, "last": position(6, 41), "membership_at": position(1, 1),
                   "membership": MEMBERSHIP})
    empty = pack({"group": 9, "last": None, "membership_at": None,
                  "membership": {"voters": [], "learners": []}})
    return [
        b"\x41" + bytes([len(header)]) + header + b"state " * 40,
        b"\3" + bytes([len(empty)]) + empty,
        b"\0\0RUNGSNAP" + struct.pack(">III", 1, len(empty), 0) + empty,
        b"\0\0RUNGSNAP" + struct.pack(">III", 2, 0, 0),
    ]


def calls():
    call = {"incarnation": 3, "role": "web", "name": "agent", "body": b"\0\xff"}
    return [pack(call), pack({**call, "role": None}), pack({"incarnation": 3, "name": "x", "body": b""}),
            pack({**call, "later": [1, {"a": None}]}), pack([3, "lb", "positional", b"x"])]


MANIFEST = """name = "photos"
domain = "photos.test"

[web]
command = "./photos --port $PORT"
instances = "2..8"
health = "/up?full=1"
allow_public_listen = true
test = "./photos check"
drain_timeout = "90s"

[env]
GREETING = "hello\\n"
COUNT = 3
DEBUG = false
"""


def manifests():
    short = 'name = "a"\ndomain = "A.Test."\n[web]\ncommand = "x"\n'
    return [MANIFEST, short, short + "instances = 3\n", short + "[db]\n", short + 'drain_timeout = "500ms"',
            short + 'env = { A = 1 }\n', short.replace("x", "''"), 'name = 1', short + "[env]\nPORT = 1\n",
            'web.command = """x"""\nname = \'a\'\ndomain = "a"\nenv.B = "\\u00e9"\n']


def tar_of(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = 0o755
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content.decode()
                archive.addfile(info)
    # Python pads to 10 KiB; two blocks of zeros are enough.
    return out.getvalue().rstrip(b"\0").ljust(512, b"\0")


def tar_padded(entries):
    data = tar_of(entries)
    return data + bytes(-len(data) % 512 + 1024)


def zstd_raw(content):
    frame = b"\x28\xb5\x2f\xfd\x00\x50"
    assert len(content) < 1 << 17
    return frame + struct.pack("<I", len(content) << 3 | 1)[:3] + content


def bundles():
    short = b'name = "a"\ndomain = "a.test"\n[web]\ncommand = "x"\n'
    usual = tar_padded([
        ("rung.toml", tarfile.REGTYPE, short),
        ("bin", tarfile.DIRTYPE, b""),
        ("bin/x", tarfile.REGTYPE, b"#!/bin/sh\n"),
        ("bin/y", tarfile.SYMTYPE, b"../bin/x"),
    ])
    long_name = tar_padded([("rung.toml", tarfile.REGTYPE, short), ("d" * 120, tarfile.REGTYPE, b"x")])
    hard = tar_padded([("rung.toml", tarfile.REGTYPE, short), ("h", tarfile.LNKTYPE, b"rung.toml")])
    lists = [
        b"0a\0one\xff5d\0\xff0d/b\0two\xff2d/l\0../a",
        b"5d\0\xff2d/l\0..\xff0d/l/x\0evil",
        b"2l\0d\xff5d\0\xff0l/x\0evil",
        b"2l\0/etc\xff0l/passwd\0evil",
        b"0../x\0evil\xff0a//b\0\xff0./c\0\xff0/abs\0",
        b"0a\0one\xff0a\0two",
        b"0a\0one\xff0a/b\0two",
        b"L\0\0" + b"n" * 130 + b"\xff0n\0long",
        b"K\0\0" + b"t" * 130 + b"\xff2n\0t",
        b"10h\0\xff1h\0rung.toml\xff3c\0\xff4b\0\xff6f\0\xff7o\0\xffxp\0\xffgp\0\xffSs\0",
        b"\x7f0rung.toml\0" + short,
        b"\x7f0x\0y",
        b"\x7f2rung.toml\0x\xff0x\0y",
    ]
    seeds = [b"\0" + zstd_raw(usual), b"\1" + usual, b"\1" + long_name, b"\1" + hard]
    try:
        squeezed = subprocess.run(["zstd", "-q", "-19"], input=usual, capture_output=True, check=True)
        seeds.append(b"\0" + squeezed.stdout)
    except (OSError, subprocess.CalledProcessError):
        pass
    return seeds + [b"\2" + entries for entries in lists]


def q(*numbers):
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def wal_bodies():
    image = (b"\x0b" + q(4) + b"\3" + q(10, 14, 9) + struct.pack("<H", 2)
             + b"\1" + struct.pack("<I", 2) + b"ab" + b"\2" + struct.pack("<I", 0)
             + q(1, 10, 11) + q(2, 12, 14))
    return {
        "batch": b"\1rungwal" + q(4096),
        "entry": b"\2" + q(4, 10, 7) + b"\1hello",
        "copy": b"\3" + q(4, 10, 7) + b"\1hello",
        "truncate": b"\4" + q(4, 10),
        "purge": b"\5" + q(4, 10),
        "meta": b"\6" + q(4) + b"\1vote",
        "drop": b"\7" + q(4),
        "free": b"\x08" + q(1),
        "cleared": b"\x09",
        "manifest": b"\x0a\0",
        "older": b"\x0a\1" + q(1, 5000) + q(1, 5000) + q(2, 6000),
        "image": image,
        "small image": b"\x0b" + q(4) + b"\0" + struct.pack("<H", 0),
        "head end": b"\x0c",
    }


def wal_logs():
    b = wal_bodies()

    def records(*items):
        return b"".join(
            item if isinstance(item, bytes) and item[0] in (5, 6) and len(item) == 2
            else bytes([0, len(item)]) + item
            for item in items
        )

    def raw(data):
        return bytes([7, len(data)]) + data

    batch, next_segment = b"\5\0", b"\6\0"
    entry = [b"\2" + q(4, index, 7) + b"\1x" for index in range(1, 6)]
    image = b"\x0b" + q(4) + b"\1" + q(1, 2) + struct.pack("<H", 0) + q(1, 1, 2)
    first = records(b["manifest"], b["head end"], batch, *entry[:2])
    with_meta = records(b["manifest"], b["head end"], batch, b["meta"], *entry[:3], batch,
                        b"\4" + q(4, 3), b"\5" + q(4, 1), b["cleared"], b["drop"])
    second = records(b"\x0a\0" + q(1, 4096 + 500), image, b["head end"], batch, *entry[2:4], b"\x08" + q(1))
    return [
        first, with_meta, first + next_segment + second,
        first + raw(b"torn"), first + raw(bytes(64)) + records(batch, entry[3]),
        records(b["manifest"], b["small image"], b["copy"], b["head end"], batch),
        records(b["manifest"], b["head end"]), b"", records(b["manifest"]),
        records(b["older"], b["image"], b["head end"], batch),
    ]


def certificates():
    """Made by openssl, once: each run would give others."""
    out = []
    if os.path.isdir(os.path.join(HERE, "corpus", "certificate")):
        return out
    with tempfile.TemporaryDirectory() as place:
        key, csr, crt = (os.path.join(place, name) for name in ("key", "csr", "crt"))
        uri = "URI:spiffe://000000000000000a/dc/east/node/000000000000000b"

        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], check=True, capture_output=True)

        try:
            openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
            openssl("pkcs8", "-topk8", "-nocrypt", "-in", key, "-outform", "DER", "-out", key + ".der")
            openssl("req", "-new", "-key", key, "-subj", "/", "-outform", "DER", "-out", csr)
            openssl("req", "-x509", "-new", "-key", key, "-subj", "/CN=a", "-days", "3650",
                    "-addext", "subjectAltName=" + uri, "-outform", "DER", "-out", crt)
        except (OSError, subprocess.CalledProcessError):
            return out
        read = {}
        for name in (csr, crt, key + ".der"):
            with open(name, "rb") as file:
                read[name] = file.read()
        stored = pack({"version": 1, "key": read[key + ".der"], "certificate": read[crt],
                       "authority": read[crt]})
        out = [b"\0" + read[crt], b"\1" + read[csr], b"\2" + stored, b"\3" + read[key + ".der"]]
    return out


def node_messages():
    mesh = {"V4": [[127, 0, 0, 11], 7400]}
    address = {"V4": [127, 0, 0, 11]}
    joiner = {"secret": bytes(32), "csr": b"csr", "node": 11, "name": "n1", "dc": "east", "mesh": mesh,
              "admin": mesh, "public": address, "pins": {"lb": "include", "web": "exclude"},
              "version": "0.1.0", "now_ms": 1_700_000_000_000}
    record = {"id": 11, "name": "n1", "dc": "east", "mesh": mesh, "admin": mesh, "public": address}
    cluster = {"name": "rung", "id": 10, "created_ms": 5, "ca_certificate": b"ca"}
    manifest = {"name": "a", "domain": "a.test", "web": {
        "command": "x", "instances": {"min": 1, "max": 2}, "drain_timeout_ms": 30000}}
    release = {"digest": bytes(32), "size": 9, "manifest": manifest, "created_ms": 6}
    app = {"name": "a", "releases": {1: release}, "current": 1, "web": 2}
    state = {"format": 1, "index": 3, "cluster": cluster, "nodes": {11: record}, "removed": {12: 2},
             "roles": {"lb": {"want": 2, "owners": {11: 4}}}, "apps": {"a": app},
             "instances": {5: {"id": 5, "app": "a", "release": 1, "env_version": 0, "node": 11,
                               "placed_ms": 7}},
             "operations": {}, "events": [], "audit": [], "next_id": 8}
    change = {"change": {"kind": "scale-web", "app": None, "count": 4}, "dry_run": False, "if_index": 3,
              "requested_by": "me"}

    def proposal(command):
        return {"at_ms": 5, "if_index": None, "by": "me", "command": command}

    typed = [
        (0, {"join": joiner}), (0, {"renew": {"node": 11, "csr": b"csr", "now_ms": 5}}),
        (1, {"cluster": 10, "cluster_name": "rung", "node": 11, "certificate": b"c", "ca_certificate": b"a",
             "peers": [{"node": 12, "mesh": mesh, "incarnation": 2}]}),
        (2, {"admit": joiner}), (2, "tokens"), (2, "barrier"), (2, {"change": change}),
        (2, {"create_token": {"ttl_s": 60, "uses": 1}}), (2, {"revoke_token": {"id": "x", "by": "me"}}),
        (2, {"started": {"node": 11, "incarnation": 2, "mesh": mesh, "admin": mesh, "public": address,
                         "version": "0.1.0"}}),
        (3, {"index": 7}), (4, {"answer": {"index": 7}}), (4, {"refused": FAILURE}),
        (4, {"not_leader": {"leader": 12}}), (5, "leave"), (5, {"open": {"cluster_key": bytes(32)}}),
        (6, {"state": state}), (6, {"leadership": {"voters": [11], "leader": None, "term": 3}}),
        (6, {"delta": {"index": 4, "updates": [{"node": [11, None]}, {"next_id": 9},
                                               {"app": ["a", app]}]}}),
        (7, {"digest": bytes(32)}), (8, {"app": "a"}), (9, FAILURE), (11, state),
        (10, proposal({"set_cordoned": {"node": 11, "on": True}})),
        (10, proposal({"all": [{"drain_instance": {"id": 5}}, {"all": []}]})),
        (10, proposal({"put_release": {"app": "a", "release": 1, "digest": bytes(32), "size": 9,
                                       "manifest": manifest}})),
        (10, proposal({"set_pin": {"node": 11, "role": "lb", "pin": None}})),
        (10, proposal({"note": {"kind": "k", "message": "m", "node": None, "app": None}})),
    ]
    changes = [
        {"kind": "scale-web", "app": None, "count": 4}, {"kind": "deploy", "bundle": "00" * 32},
        {"kind": "rollback", "app": "a", "release": None}, {"kind": "drain", "node": "n1"},
        {"kind": "set-env", "app": "a", "set": {"A": "b"}, "unset": ["C"]},
        {"kind": "move", "role": "web", "node": "n4", "from": "n3"},
        {"kind": "cordon", "node": "n1", "on": True},
    ]
    texts = [(12, {**change, "change": item}) for item in changes]
    texts += [(13, {"ttl_s": 60, "uses": 1, "requested_by": "me"}), (15, FAILURE)]
    return ([bytes([kind]) + pack(value) for kind, value in typed]
            + [bytes([kind]) + json.dumps(value).encode() for kind, value in texts])


def main():
    seed("http_request_head", *(text.encode("latin-1") for text in request_heads()))
    seed("http_response_head", *response_heads())
    seed("http_body", *bodies())
    seed("dns_question", *dns_queries())
    seed("dns_respond", *(bytes([n % 8, n]) + query for n, query in enumerate(dns_queries() * 2)))
    seed("mesh_frames", *frames())
    seed("join_answer", b"\0certificate", b"\1" + pack(FAILURE), b"\1" + pack({"code": "internal", "what": ""}), b"\2")
    part = "A" * 43
    seed("join_token", f"rung1.{part}.{part}", f"rung1.{part[1:]}_.{part[1:]}-", f"rung2.{part}.{part}")
    uri = "spiffe://000000000000000a/dc/east-1/node/000000000000000b"
    seed("peer_uri", uri, uri + "/", uri.replace("a", "A"), uri.replace("east", ""), "spiffe://")
    seed("certificate", *certificates())
    seed("stream_header", q(5)[::-1] + b"\0", q(5)[::-1] + b"\1", q(5)[::-1] + b"\2", q(5))
    seed("membership_packet", *packets())
    seed("membership_state", *states())
    seed("membership_swim", messages([(4, packet) for packet in packets()]),
         messages([(2, states()[2]), (40, packets()[0]), (80, packets()[8]), (255, packets()[1])]),
         messages([(3, states()[2]), (0, packets()[8]), (255, b""), (255, b""), (255, packets()[2])]))
    seed("raft_request", *raft_requests())
    seed("raft_entry", b"\0", b"\0\0", b"\1hello", b"\2" + pack(MEMBERSHIP), b"\3",
         b"\2" + pack({"voters": [], "learners": []}))
    seed("raft_snapshot", *snapshots())
    seed("actor_call", *calls())
    seed("manifest", *manifests())
    seed("bundle", *bundles())
    seed("wal_record", *wal_bodies().values())
    batch = b"\1rungwal" + q(4096)
    seed("wal_segment", b"\1\0\x10" + bytes(64) + batch, b"\2\x01\x08" + b"rungwal" * 9, b"\0\0\0",
         b"\1\0\0" + struct.pack("<IIQ", 0, 16, 3) + batch)
    seed("wal_recovery", *wal_logs())
    seed("admin_query", "since=7&follow=true", "app=a%20b&lines=100", "token=%e2%9c%93", "since=%zz",
         "since=1&since=2", "other=1", "&&follow", "app=%00", "lines=-1")
    seed("settings_file",
         'name = "n1"\ndc = "east"\nbind = "127.0.0.11"\npublic = "::1"\nport_offset = 100\n'
         'roles = "lb,dns"\ncluster = "rung"\n', "auto", "lb, dns,web", 'port_offset = -1', "other = 1")
    seed("node_messages", *node_messages())


if __name__ == "__main__":
    main()
