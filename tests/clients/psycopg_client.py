"""What psycopg 3 sends: parameters of many types, transactions, COPY, cursors, pipelines."""

import datetime
import decimal
import os
import uuid

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

URL = os.environ["DATABASE_URL"]


def types(connection):
    connection.execute(
        "CREATE TABLE things (id bigserial PRIMARY KEY, small smallint, number integer, big bigint,"
        " real real, double double precision, exact numeric(20, 4), flag boolean, word varchar(40),"
        " note text, raw bytea, day date, moment timestamptz, plain timestamp, hour time,"
        " document jsonb, key uuid)"
    )
    row = {
        "small": -5, "number": 7, "big": 2**62, "real": 1.5, "double": 0.1,
        "exact": decimal.Decimal("12345678.9012"), "flag": True, "word": "naïve",
        "note": "line\nline 'quoted' \\ and \U0001f600", "raw": bytes(range(256)),
        "day": datetime.date(2024, 2, 29),
        "moment": datetime.datetime(2024, 2, 29, 12, 30, 45, 123456, datetime.timezone.utc),
        "plain": datetime.datetime(1999, 12, 31, 23, 59, 59),
        "hour": datetime.time(13, 14, 15), "document": Jsonb({"a": [1, None, "x"]}),
        "key": uuid.UUID("8a6e0804-2bd0-4672-b79d-d97027f9071a"),
    }
    names = ", ".join(row)
    marks = ", ".join(f"%({name})s" for name in row)
    insert = f"INSERT INTO things ({names}) VALUES ({marks}) RETURNING id"
    for binary in (False, True):
        number = connection.execute(insert, row, binary=binary).fetchone()[0]
        with connection.cursor(row_factory=dict_row, binary=binary) as cursor:
            found = cursor.execute("SELECT * FROM things WHERE id = %s", (number,)).fetchone()
        assert found.pop("id") == number
        expected = row | {"document": {"a": [1, None, "x"]}}
        assert found == expected, (binary, found)
    nothing = connection.execute("INSERT INTO things DEFAULT VALUES RETURNING *").fetchone()
    assert nothing[1:] == (None,) * (len(nothing) - 1), nothing


def transactions(connection):
    connection.execute("CREATE TABLE counters (name text PRIMARY KEY, value integer NOT NULL)")
    with connection.transaction():
        connection.execute("INSERT INTO counters VALUES ('a', 1)")
        try:
            with connection.transaction():
                connection.execute("INSERT INTO counters VALUES ('a', 2)")
            raise AssertionError("a key was taken twice")
        except psycopg.errors.UniqueViolation as error:
            assert error.diag.constraint_name == "counters_pkey", error.diag.constraint_name
        connection.execute("UPDATE counters SET value = value + 10 WHERE name = 'a'")
    assert connection.execute("TABLE counters").fetchall() == [("a", 11)]
    try:
        with connection.transaction():
            connection.execute("DELETE FROM counters")
            connection.execute("SELECT 1 / 0")
    except psycopg.errors.DivisionByZero:
        pass
    assert connection.execute("SELECT count(*) FROM counters").fetchone() == (1,)


def many(connection):
    connection.execute("CREATE TABLE lines (number integer PRIMARY KEY, text text)")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO lines VALUES (%s, %s)", [(n, f"line {n}") for n in range(300)])
        assert cursor.rowcount == 300, cursor.rowcount
        with cursor.copy("COPY lines (number, text) FROM STDIN") as copy:
            for number in range(300, 1000):
                copy.write_row((number, f"tab\t{number}"))
        with cursor.copy("COPY (SELECT number, text FROM lines ORDER BY number) TO STDOUT") as copy:
            copied = list(copy.rows())
        assert len(copied) == 1000 and copied[999] == ("999", "tab\t999"), copied[-1]
    with connection.transaction(), connection.cursor(name="part") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT number FROM lines ORDER BY number")
        assert [row[0] for row in cursor] == list(range(1000))
    with connection.pipeline():
        sent = [connection.execute("SELECT text FROM lines WHERE number = %s", (n,)) for n in range(50)]
        assert [cursor.fetchone()[0] for cursor in sent] == [f"line {n}" for n in range(50)]
    some = connection.execute("SELECT count(*) FROM lines WHERE number = ANY(%s)", ([1, 2, 5000],))
    assert some.fetchone() == (2,)


with psycopg.connect(URL, autocommit=True) as connection:
    for part in (types, transactions, many):
        part(connection)
    for number in range(20):  # More than it takes to be prepared by name.
        assert connection.execute("SELECT %s::int + 1", (number,)).fetchone() == (number + 1,)
print("psycopg", psycopg.__version__)
