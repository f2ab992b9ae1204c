"""An app with the faults that the tests ask for by variables."""
import http.server
import json
import os
import signal
import sys
import threading
import time

if os.environ.get("IGNORE_TERM"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ.get("CRASH_AT_START"):
    print("first line")
    print("cannot find the database", file=sys.stderr)
    sys.exit(3)
if os.environ.get("FORK"):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(3600)
if os.environ.get("SPAM"):
    def spam():
        while True:
            sys.stdout.write("spam " * 200 + "\n")
    threading.Thread(target=spam, daemon=True).start()

well = True
served = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global well, served
        path = self.path.split("?")[0]
        status, body = 200, "ok"
        if path == "/up":
            status = 200 if well and not os.environ.get("NEVER_HEALTHY") else 503
        else:
            served += 1
        if path == "/env":
            body = json.dumps(dict(os.environ))
        elif path == "/who":
            own = open("/proc/self/status").read()
            body = json.dumps({"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
                               "sid": os.getsid(0), "pid": os.getpid(), "status": own,
                               "cwd": os.getcwd(), "fds": sorted(os.listdir("/proc/self/fd"))})
        elif path == "/slow":
            time.sleep(float(self.path.split("=")[1]))
            body = "slow"
        elif path == "/served":
            body = str(served)
        elif path == "/crash":
            os._exit(7)
        elif path == "/sicken":
            well = False
        elif path == "/upgrade":
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
            while True:
                got = self.connection.recv(1000)
                if not got:
                    break
                self.connection.sendall(got)
            self.close_connection = True
            return
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


host = os.environ.get("BIND") or os.environ["HOST"]
print("listening", flush=True)
Server((host, int(os.environ["PORT"])), Handler).serve_forever()
