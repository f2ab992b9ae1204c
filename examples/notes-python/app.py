"""A small site for notes: an HTML form and a JSON API, in a database or in memory."""

import html
import http.server
import itertools
import json
import os
import signal
import socket
import threading
import time
import urllib.parse
import uuid

try:
    import psycopg
except ImportError:  # Then the notes stay in memory.
    psycopg = None

MAX_BODY = 64 * 1024
MAX_NOTES = 1000
IDLE_SECONDS = 75
FINISH_SECONDS = 30
# How long a visitor waits while the database has no primary.
PATIENCE_SECONDS = 15
# To the database, for each process.
CONNECTIONS = 8

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Notes</title>
<style>
body {{ font: 16px/1.5 system-ui; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }}
textarea {{ width: 100%; font: inherit; box-sizing: border-box }}
li {{ margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere }}
time, footer {{ color: #666; font-size: .85rem }}
</style>
<h1>Notes</h1>
<form method="post" action="/notes">
<label for="text">A new note</label>
<textarea id="text" name="text" rows="3" required maxlength="2000"></textarea>
<button>Add</button>
</form>
<ul>{notes}</ul>
<footer>
Process {pid}{where}. {kept}
</footer>
</html>
"""


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class NotesInMemory:
    """The notes of this process; the oldest go when there are too many."""

    kept = "These notes are in its memory and end with it. Another instance has others: reload to see."

    def __init__(self):
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._notes = {}

    def add(self, text):
        with self._lock:
            note = {"id": next(self._ids), "text": text, "at": now()}
            self._notes[note["id"]] = note
            while len(self._notes) > MAX_NOTES:
                del self._notes[next(iter(self._notes))]
            return note

    def all(self):
        with self._lock:
            return list(self._notes.values())

    def remove(self, number):
        with self._lock:
            return self._notes.pop(number, None) is not None


class Unavailable(Exception):
    """The notes cannot be reached for too long; the message says why."""


class NotesInDatabase:
    """The notes of all processes, in a table."""

    kept = "These notes are in the database, the same for every instance."

    def __init__(self, url):
        self._url = url
        self._free = []
        self._permits = threading.BoundedSemaphore(CONNECTIONS)
        self._run(lambda connection: connection.execute(
            "CREATE TABLE IF NOT EXISTS notes (id bigserial PRIMARY KEY, "
            "key uuid NOT NULL UNIQUE, text text NOT NULL, at text NOT NULL)"
        ))

    def add(self, text):
        # With a key of its own, so that adding it again after a lost answer adds nothing.
        key, at = uuid.uuid4(), now()

        def insert(connection):
            connection.execute(
                "INSERT INTO notes (key, text, at) VALUES (%s, %s, %s) ON CONFLICT (key) DO NOTHING",
                (key, text, at),
            )
            return connection.execute("SELECT id FROM notes WHERE key = %s", (key,)).fetchone()[0]

        return {"id": self._run(insert), "text": text, "at": at}

    def all(self):
        query = "SELECT id, text, at FROM notes ORDER BY id DESC LIMIT %s"
        rows = self._run(lambda connection: connection.execute(query, (MAX_NOTES,)).fetchall())
        return [{"id": number, "text": text, "at": at} for number, text, at in reversed(rows)]

    def remove(self, number):
        delete = "DELETE FROM notes WHERE id = %s"
        return self._run(lambda connection: connection.execute(delete, (number,)).rowcount) > 0

    def _run(self, work):
        """Does it with a connection, again while the database has no primary."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self._permits:
                    return self._attempt(work)
            except psycopg.OperationalError as error:
                # No connection, another primary, or an answer that was lost.
                if time.monotonic() > deadline:
                    raise Unavailable(f"the database is not available: {error}") from error
                time.sleep(0.1)

    def _attempt(self, work):
        try:
            connection = self._free.pop()
        except IndexError:
            connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
        try:
            result = work(connection)
        except BaseException:
            connection.close()
            raise
        self._free.append(connection)
        return result


def notes_for(url):
    """Where the notes are kept, given the database's URL if there is one."""
    if not url:
        return NotesInMemory()
    if psycopg is None:
        print("DATABASE_URL is set, but psycopg is not installed: notes stay in memory", flush=True)
        return NotesInMemory()
    return NotesInDatabase(url)


class BadRequest(Exception):
    """What the client sent cannot be used; the message says why."""


def answering(method):
    """The method, with an answer also when the database gives none."""

    def answered(self):
        try:
            method(self)
        except Unavailable as error:
            self.log_message("%s", error)
            self.answer(503, "text/plain", "that did not work just now; try again in a moment\n")

    return answered


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    # The head and the body leave in one packet.
    wbufsize = -1
    disable_nagle_algorithm = True

    @answering
    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        if path == "/":
            self.answer(200, "text/html; charset=utf-8", self.page())
        elif path == "/notes":
            self.answer_json(200, self.server.notes.all())
        elif path == "/up":
            self.answer(200, "text/plain", "up\n")
        else:
            self.answer(404, "text/plain", "no such page\n")

    do_HEAD = do_GET

    @answering
    def do_POST(self):
        try:
            body = self.body()
            if urllib.parse.urlsplit(self.path).path != "/notes":
                self.answer(404, "text/plain", "no such page\n")
                return
            note = self.server.notes.add(self.text_of(body))
        except BadRequest as error:
            self.close_connection = True
            self.answer(400, "text/plain", f"{error}\n")
            return
        if self.is_json():
            self.answer_json(201, note)
        else:
            self.answer(303, "text/plain", "", Location="/")

    @answering
    def do_DELETE(self):
        folder, _, number = urllib.parse.urlsplit(self.path).path.rpartition("/")
        known = folder == "/notes" and number.isascii() and number.isdigit()
        if known and self.server.notes.remove(int(number[:18])):
            self.answer(204, None, "")
        else:
            self.answer(404, "text/plain", "no such note\n")

    def is_json(self):
        return self.headers.get_content_type() == "application/json"

    def body(self):
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise BadRequest("a body needs a Content-Length")
        if int(length[:18]) > MAX_BODY:
            raise BadRequest(f"a body has at most {MAX_BYTES_TEXT}")
        return self.rfile.read(int(length))

    def text_of(self, body):
        try:
            if self.is_json():
                text = json.loads(body)["text"]
            else:
                text = urllib.parse.parse_qs(body.decode(), max_num_fields=10)["text"][0]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadRequest("expected a field \"text\"") from None
        if not isinstance(text, str) or not text.strip() or len(text) > 2000:
            raise BadRequest("a note has 1 to 2000 characters")
        return text.strip().replace("\r\n", "\n")

    def page(self):
        node = os.environ.get("RUNG_NODE")
        where = f" on {html.escape(node)}" if node else ""
        notes = "".join(
            f"<li>{html.escape(note['text'])} <time>{note['at']}</time></li>"
            for note in reversed(self.server.notes.all())
        )
        return PAGE.format(notes=notes, pid=os.getpid(), where=where, kept=self.server.notes.kept)

    def answer_json(self, status, value):
        self.answer(status, "application/json", json.dumps(value) + "\n")

    def answer(self, status, kind, text, **headers):
        data = text.encode()
        if self.server.stopping.is_set():
            self.close_connection = True
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_one_request(self):
        self.server.waiting(self.connection, True)
        super().handle_one_request()

    def parse_request(self):
        # The request line is here, so this connection is no longer idle.
        self.server.waiting(self.connection, False)
        return super().parse_request()

    def log_request(self, code="-", size="-"):
        if self.path != "/up":
            self.log_message('"%s" %s', self.requestline, int(code))

    def log_message(self, format, *args):
        print(format % args, flush=True)


MAX_BYTES_TEXT = f"{MAX_BODY // 1024} KiB"


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, notes):
        self.notes = notes
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._open = set()
        self._idle = set()
        super().__init__(address, Handler)

    def process_request(self, request, client_address):
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        super().shutdown_request(request)
        with self._lock:
            self._open.discard(request)
            self._idle.discard(request)

    def waiting(self, connection, is_waiting):
        """Notes that a connection waits for its next request, or has it."""
        with self._lock:
            (self._idle.add if is_waiting else self._idle.discard)(connection)
            if is_waiting and self.stopping.is_set():
                self._end(connection)

    def finish(self):
        """Stops accepting, ends idle connections, waits for the others."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._idle:
                self._end(connection)
        deadline = time.monotonic() + FINISH_SECONDS
        while self._open and time.monotonic() < deadline:
            time.sleep(0.02)

    @staticmethod
    def _end(connection):
        try:
            connection.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # The client has ended it already.


def main():
    address = (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000")))
    server = Server(address, notes_for(os.environ.get("DATABASE_URL")))
    finished = threading.Thread(target=server.finish)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: finished.is_alive() or finished.start())
    print(f"listening on {address[0]}:{address[1]}", flush=True)
    server.serve_forever(poll_interval=0.1)
    finished.join()


if __name__ == "__main__":
    main()
