"""A physical standby of an embedded Postgres 18, to be promoted.

with standby_of(primary) as standby:
    synchronize_slots(primary, standby, slot)
    promote(standby)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import ClientCursor

from bridge.postgres.embedded import EmbeddedPostgres
from tests.support.databases import SETTINGS, Database

_SLOT = "standby"
_TRIES = 1500


@contextmanager
def standby_of(primary: EmbeddedPostgres, *, port: int | None = None) -> Iterator[EmbeddedPostgres]:
    """A running standby; `port`: where it finds the primary, if not where that listens."""
    admin = Database(name="postgres", url=primary.url(), server=primary)
    admin.execute("SELECT pg_create_physical_replication_slot(%s)", (_SLOT,))
    settings = {
        **SETTINGS,
        "primary_conninfo": f"host=127.0.0.1 port={port or primary.port} user=postgres dbname=postgres",
        "primary_slot_name": _SLOT,
        "hot_standby_feedback": "on",
        "wal_receiver_timeout": "2s",
        "wal_retrieve_retry_interval": "200ms",
    }
    standby = EmbeddedPostgres.temporary(primary.version, settings)
    try:
        # The directory as the server's own account needs it, filled by that account.
        standby._prepare_directory()
        taken = standby._run(
            "pg_basebackup", "-D", str(standby.data_directory), "-d", primary.url(),
            "-X", "stream", "-c", "fast", "--no-sync",
        )  # fmt: skip
        assert taken.returncode == 0, taken.stderr
        signal_file = standby.data_directory / "standby.signal"
        signal_file.touch()
        standby.start()
        yield standby
    finally:
        standby.remove()


def make_failover_slot(primary: EmbeddedPostgres, database: Database, slot: str) -> None:
    """As an administrator does it: the slot is one that standbys keep. Nobody reads from it now."""
    with database.connect(replication="database", cursor_factory=ClientCursor) as connection:
        connection.execute(f"ALTER_REPLICATION_SLOT {slot} (FAILOVER true)".encode())


def synchronize_slots(primary: EmbeddedPostgres, standby: EmbeddedPostgres, slot: str) -> None:
    """Return once the standby has the slot and would keep it at a promotion.

    The slot must be read from meanwhile: the standby takes it when it has come to where the standby's
    own log begins.
    """
    source = Database(name="postgres", url=primary.url(), server=primary)
    admin = Database(name="postgres", url=standby.url(), server=standby)
    pause = threading.Event()
    for _ in range(_TRIES):
        source.execute("SELECT pg_log_standby_snapshot()")
        await_replayed(primary, standby)
        admin.execute("SELECT pg_sync_replication_slots()")
        if admin.execute(
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND synced AND NOT temporary",
            (slot,),
        ):
            return
        pause.wait(0.02)
    raise TimeoutError(f"the standby never got the slot {slot}")


def await_replayed(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Return once the standby has all that the primary has written by now."""
    ((lsn,),) = Database(name="postgres", url=primary.url(), server=primary).execute(
        "SELECT pg_current_wal_flush_lsn()::text"
    )
    admin = Database(name="postgres", url=standby.url(), server=standby)
    pause = threading.Event()
    for _ in range(_TRIES):
        if admin.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,)) == [(True,)]:
            return
        pause.wait(0.02)
    raise TimeoutError(f"the standby never came to {lsn}")


def promote(standby: EmbeddedPostgres) -> None:
    """Return when it takes writes."""
    Database(name="postgres", url=standby.url(), server=standby).execute("SELECT pg_promote()")
