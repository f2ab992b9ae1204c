"""Tests of the notes site, over real connections.

With DATABASE_URL, also with that database, where a table "notes" is made.
"""

import http.client
import json
import os
import threading
import unittest

import app


class Quiet(app.Handler):
    def log_message(self, format, *args):
        pass


class NotesTest(unittest.TestCase):
    def setUp(self):
        self.server = app.Server(("127.0.0.1", 0), app.NotesInMemory())
        self.server.RequestHandlerClass = Quiet
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.client = http.client.HTTPConnection(*self.server.server_address, timeout=20)

    def tearDown(self):
        self.client.close()
        self.server.finish()
        self.thread.join()

    def ask(self, method, path, body=None, kind=None):
        headers = {"Content-Type": kind} if kind else {}
        self.client.request(method, path, body, headers)
        response = self.client.getresponse()
        return response.status, response.read().decode()

    def test_a_note_is_added_listed_and_removed_on_one_connection(self):
        status, body = self.ask("POST", "/notes", json.dumps({"text": " hi "}), "application/json")
        self.assertEqual(status, 201)
        note = json.loads(body)
        self.assertEqual(note["text"], "hi")
        self.assertEqual(json.loads(self.ask("GET", "/notes")[1]), [note])
        self.assertEqual(self.ask("DELETE", f"/notes/{note['id']}"), (204, ""))
        self.assertEqual(self.ask("DELETE", f"/notes/{note['id']}")[0], 404)

    def test_the_form_adds_a_note_and_the_page_escapes_it(self):
        form = "application/x-www-form-urlencoded"
        self.assertEqual(self.ask("POST", "/notes", "text=%3Cb%3E&x=1", form)[0], 303)
        status, page = self.ask("GET", "/")
        self.assertEqual(status, 200)
        self.assertIn("<li>&lt;b&gt; ", page)

    def test_bad_bodies_are_refused(self):
        for body in ["", "{}", "[1]", "nonsense", json.dumps({"text": 1}), json.dumps({"text": "x" * 2001})]:
            self.assertEqual(self.ask("POST", "/notes", body, "application/json")[0], 400, body)
        self.assertEqual(self.ask("POST", "/notes", "x" * (app.MAX_BODY + 1), "application/json")[0], 400)

    def test_other_paths_are_not_found(self):
        self.assertEqual(self.ask("GET", "/up"), (200, "up\n"))
        self.assertEqual(self.ask("GET", "/other")[0], 404)
        self.assertEqual(self.ask("DELETE", "/notes/x")[0], 404)

    def test_the_page_says_where_the_notes_are(self):
        self.assertIn("end with it", self.ask("GET", "/")[1])
        self.assertIsInstance(app.notes_for(None), app.NotesInMemory)

    def test_what_the_database_refuses_is_answered(self):
        def unavailable():
            raise app.Unavailable("it is away")

        self.server.notes.all = unavailable
        self.assertEqual(self.ask("GET", "/notes")[0], 503)
        self.assertEqual(self.ask("GET", "/up")[0], 200)

    def test_a_stop_ends_idle_connections(self):
        self.assertEqual(self.ask("GET", "/up")[0], 200)
        self.server.finish()
        self.assertEqual(self.client.sock.recv(1), b"")


@unittest.skipUnless(os.environ.get("DATABASE_URL") and app.psycopg, "needs DATABASE_URL and psycopg")
class NotesInDatabaseTest(unittest.TestCase):
    def test_two_processes_have_the_same_notes(self):
        one, other = (app.notes_for(os.environ["DATABASE_URL"]) for _ in range(2))
        note = one.add("it's 100% \\ ü")
        self.assertIn(note, other.all())
        self.assertTrue(other.remove(note["id"]))
        self.assertFalse(one.remove(note["id"]))
        self.assertNotIn(note, one.all())


if __name__ == "__main__":
    unittest.main()
