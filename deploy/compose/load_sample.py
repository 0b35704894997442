"""Loads the packages data set into the database app, as the application's role, once.

Also makes the publication, which only the tables' owner may; the bridge's role needs no more than to
replicate and to read. Run by the service `sample`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cli
from bridge.postgres import sample
from bridge.postgres.connection import connect

DATA = Path(cli.__file__).with_name("data") / "packages"
PUBLICATION = "bridge_sample"


def main() -> int:
    """Load it if it is not there: in one transaction, so that a kill leaves nothing half."""
    url = Path("/run/secrets/postgres_url").read_text(encoding="utf-8").strip()
    with connect(url, read_only=False) as connection, connection.transaction():
        found = connection.execute("SELECT to_regclass('public.packages')").fetchone()
        if found is not None and found[0] is not None:
            print("sample: is there already")
            return 0
        rows = sample.load(connection, DATA)
        connection.execute("GRANT SELECT ON packages TO bridge")
        connection.execute(
            f"CREATE PUBLICATION {PUBLICATION} FOR TABLE packages"
            " WITH (publish_via_partition_root = true)"
        )
    print(f"sample: {rows} rows in public.packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
