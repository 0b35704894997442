"""`script/bench`: what is measured, and how."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks import backfill


def main() -> None:
    """Parse, run, save, and print where the results are."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("backfill", help="rows/s, CPU and memory of the backfill")
    one.add_argument("--rows", type=int, default=60_000, help="rows at 1536 dimensions")
    one.add_argument("--dimension", type=int, action="append", help="default: 1536 and 384")
    one.add_argument("--workers", type=int, default=2)
    one.add_argument("--no-server", action="store_true", help="only COPY and the null target")
    one.add_argument("--no-index", action="store_true", help="do not wait for the index")
    one.add_argument("--json", type=Path, default=Path("benchmarks/results/backfill.json"))
    arguments = parser.parse_args()
    reports = [
        backfill.run(
            # The same amount of vector bytes at every dimension.
            rows=arguments.rows * (1 if dimension >= 1536 else 1536 // dimension),
            dimension=dimension,
            workers=arguments.workers,
            qdrant_url=os.environ.get("QDRANT_URL"),
            with_server=not arguments.no_server,
            with_index=not arguments.no_index,
        )
        for dimension in arguments.dimension or (1536, 384)
    ]
    backfill.save(arguments.json, reports)
    print(f"results: {arguments.json}")


if __name__ == "__main__":
    main()
