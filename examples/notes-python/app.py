"""A small site for notes: an HTML form and a JSON API, in memory."""

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

MAX_BODY = 64 * 1024
MAX_NOTES = 1000
IDLE_SECONDS = 75
FINISH_SECONDS = 30

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
These notes live in the memory of process {pid}{where} and end with it. Another
instance has others: reload to see.
</footer>
</html>
"""


class Notes:
    """The notes of this process; the oldest go when there are too many."""

    def __init__(self):
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._notes = {}

    def add(self, text):
        with self._lock:
            note = {"id": next(self._ids), "text": text, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
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


class BadRequest(Exception):
    """What the client sent cannot be used; the message says why."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    # The head and the body leave in one packet.
    wbufsize = -1
    disable_nagle_algorithm = True

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
        return PAGE.format(notes=notes, pid=os.getpid(), where=where)

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

    def __init__(self, address):
        self.notes = Notes()
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
    server = Server(address)
    finished = threading.Thread(target=server.finish)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: finished.is_alive() or finished.start())
    print(f"listening on {address[0]}:{address[1]}", flush=True)
    server.serve_forever(poll_interval=0.1)
    finished.join()


if __name__ == "__main__":
    main()
