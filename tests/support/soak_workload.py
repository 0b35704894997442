"""What the soak writes: connections that run random transactions until they are told to stop.

Every row has a `version` from one sequence, taken when its statement has the row; a key is only ever
inserted by the connection that owns it (its remainder). So for each key versions rise in the order of
commits, and whoever sees one fall has seen an older state.

`docs` knows no DDL: at the end it must be equal as it is. `notes` gets and loses columns, and rows that DDL
changes without events are touched at the end.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import psycopg

from tests.support.databases import Database

TABLES: Final = ("docs", "notes")
CONNECTIONS: Final = 3
_KEYS: Final = 2400
_BIG: Final = 1500
_MOST_COLUMNS: Final = 6

Execute = Callable[[str], Any]

SCHEMA: Final = (
    "CREATE SEQUENCE versions",
    "CREATE FUNCTION vec(n float8) RETURNS vector LANGUAGE sql IMMUTABLE AS"
    " $$SELECT array_agg(n + i * 0.5)::real[]::vector FROM generate_series(1, 600) i$$",
    "CREATE FUNCTION long(t text) RETURNS text LANGUAGE sql IMMUTABLE AS"
    " $$SELECT string_agg(md5(t || i), '') FROM generate_series(1, 150) i$$",
    *(
        f"CREATE TABLE {table} (id int PRIMARY KEY, version bigint NOT NULL, title text, price int,"
        " v vector(600), w halfvec(3))"
        for table in TABLES
    ),
    *(
        f"INSERT INTO {table} SELECT i, nextval('versions'), long('t' || i), i, vec(i), NULL"
        " FROM generate_series(1, 600) i"
        for table in TABLES
    ),
)


class Workload:
    """`start`, then `stop`; `done` counts statements that committed, by kind."""

    def __init__(self, database: Database, seed: int, *, pause_seconds: float = 0.03) -> None:
        self.done: Counter[str] = Counter()
        self._database = database
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._columns: list[str] = []
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(
                target=self._run, args=(number, random.Random(seed * 100 + number)), daemon=True
            )
            for number in range(CONNECTIONS)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all connections; raises what one of them died of."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self._errors:
            raise self._errors[0]

    def _run(self, number: int, numbers: random.Random) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with self._database.connect(autocommit=False) as connection:
                        while not self._stop.is_set():
                            self._transaction(connection, number, numbers)
                            self._stop.wait(self._pause_seconds)
                except psycopg.OperationalError:
                    # The server went away in the middle, or comes up.
                    self._stop.wait(0.1)
        except BaseException as error:
            self._errors.append(error)

    def _transaction(
        self, connection: psycopg.Connection[Any], number: int, numbers: random.Random
    ) -> None:
        kinds: list[str] = []
        try:
            for _ in range(numbers.choice((1, 1, 1, 2, 5))):
                if numbers.random() < 0.15:
                    connection.execute("SAVEPOINT s")
                    self._statement(connection.execute, number, numbers)
                    connection.execute("ROLLBACK TO s")
                    kinds.append("savepoint rolled back")
                else:
                    kinds.append(self._statement(connection.execute, number, numbers))
            if numbers.random() < 0.1:
                connection.rollback()
                kinds = ["rolled back"]
            else:
                connection.commit()
        except (
            psycopg.IntegrityError,
            psycopg.errors.DeadlockDetected,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.FeatureNotSupported,  # the row's type changed under a cached plan
        ):
            connection.rollback()
            kinds = ["refused"]
        with self._lock:
            self.done.update(kinds)

    def _statement(self, execute: Any, number: int, numbers: random.Random) -> str:
        table = numbers.choice(TABLES)
        if number == 0 and numbers.random() < 0.04:
            return self._ddl(execute, numbers)
        kind, statement = _statement(table, number, numbers)
        execute(statement)
        return kind

    def _ddl(self, execute: Any, numbers: random.Random) -> str:
        """Columns of `notes` that come, go and change their names."""
        rows = "SELECT attname FROM pg_attribute WHERE attrelid = 'notes'::regclass"
        listed = execute(rows + " AND attnum > 6 AND NOT attisdropped ORDER BY attnum").fetchall()
        columns = [name for (name,) in listed]
        new = f"c{numbers.randrange(10**6)}"
        choice = numbers.choice(("add", "add", "drop", "rename"))
        execute("SET LOCAL lock_timeout = '500ms'")
        if choice == "add" or not columns:
            if len(columns) >= _MOST_COLUMNS:
                return "nothing"
            kind = numbers.choice(("int", "text", "int DEFAULT 7", "text DEFAULT long('d')"))
            execute(f"ALTER TABLE notes ADD COLUMN {new} {kind}")
        elif choice == "drop":
            execute(f"ALTER TABLE notes DROP COLUMN {numbers.choice(columns)}")
        else:
            execute(f"ALTER TABLE notes RENAME COLUMN {numbers.choice(columns)} TO {new}")
        return f"{choice} column"


def _statement(table: str, number: int, numbers: random.Random) -> tuple[str, str]:
    """A kind and its statement; inserts and new keys are this connection's own."""
    key = numbers.randrange(1, _KEYS)
    own = key - key % CONNECTIONS + number + 1
    version = "version = nextval('versions')"
    low, n = numbers.randrange(1, _KEYS), numbers.randrange(10**6)
    row = f"nextval('versions'), {{title}}, {n}, {{v}}, '[1,{n % 100},3]'"
    title = numbers.choice((f"'short {n}'", f"long('t{n}')", "NULL"))
    vector = numbers.choice((f"vec({n})", f"vec({n})", "NULL"))
    one = row.format(title=title, v=vector)
    many = row.format(title=title, v=f"vec({n} + i)")
    statements: dict[str, tuple[int, str]] = {
        "insert": (
            20,
            f"INSERT INTO {table} (id, version, title, price, v, w) VALUES ({own}, {one})"
            " ON CONFLICT DO NOTHING",
        ),
        "update payload": (30, f"UPDATE {table} SET {version}, price = {n} WHERE id = {key}"),
        "update text": (10, f"UPDATE {table} SET {version}, title = {title} WHERE id = {key}"),
        "update vector": (10, f"UPDATE {table} SET {version}, v = {vector} WHERE id = {key}"),
        "update many": (
            4,
            f"UPDATE {table} SET {version}, price = -price WHERE id BETWEEN {low} AND {low + 150}",
        ),
        "delete": (8, f"DELETE FROM {table} WHERE id = {key}"),
        "delete many": (1, f"DELETE FROM {table} WHERE id BETWEEN {low} AND {low + 60}"),
        "change key": (8, f"UPDATE {table} SET {version}, id = {own} WHERE id = {key}"),
        "insert many": (
            1,
            f"INSERT INTO {table} (id, version, title, price, v, w) SELECT i, {many}"
            f" FROM generate_series({_KEYS + number * _BIG}, {_KEYS + number * _BIG + _BIG - 1}) i"
            " ON CONFLICT DO NOTHING",
        ),
        "delete the many": (1, f"DELETE FROM {table} WHERE id >= {_KEYS}"),
        "truncate": (0 if numbers.random() < 0.97 else 1, f"TRUNCATE {table}"),
    }
    kinds = list(statements)
    (kind,) = numbers.choices(kinds, weights=[statements[kind][0] for kind in kinds])
    return kind, statements[kind][1]
