# What psycopg does through an encrypted connection whose server it verifies.
import os
import threading

import psycopg
from psycopg import errors

url = os.environ["DATABASE_URL"]

with psycopg.connect(url, channel_binding="require") as connection:
    assert connection.pgconn.ssl_in_use
    rows = [(n, "x" * (n % 3000)) for n in range(2000)]
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
        # More than fits into one record of TLS, both ways.
        with cursor.copy("COPY notes FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute("SELECT * FROM notes ORDER BY id")
        assert cursor.fetchall() == rows
        cursor.execute("SELECT %s::text", ["y" * 3_000_000])
        assert len(cursor.fetchone()[0]) == 3_000_000
        with connection.pipeline():
            answers = [connection.execute("SELECT body FROM notes WHERE id = %s", [n]) for n in range(100)]
        assert [answer.fetchone()[0] for answer in answers] == [body for _, body in rows[:100]]
    connection.commit()

    # The cancel request takes a connection of its own.
    timer = threading.Timer(0.5, connection.cancel)
    timer.start()
    try:
        connection.execute("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r")
        raise SystemExit("an endless statement ended")
    except errors.QueryCanceled:
        connection.rollback()
    timer.join()
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (2000,)

print("psycopg", psycopg.__version__, "over TLS")
