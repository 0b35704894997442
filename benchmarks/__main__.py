"""`script/bench`: what is measured, and how."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks import backfill, debezium, pinecone, sync, sync_transaction, verify


def main() -> None:
    """Parse, run, save, and print where the results are."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_backfill(commands)
    _add_sync(commands)
    _add_debezium(commands)
    pinecone.add_to(commands)
    verify.add_to(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)
    print(f"results: {arguments.json}")


def _add_backfill(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = commands.add_parser("backfill", help="rows/s, CPU and memory of the backfill")
    one.add_argument("--rows", type=int, default=60_000, help="rows at 1536 dimensions")
    one.add_argument("--dimension", type=int, action="append", help="default: 1536 and 384")
    one.add_argument("--workers", type=int, default=2)
    one.add_argument("--no-server", action="store_true", help="only COPY and the null target")
    one.add_argument("--no-index", action="store_true", help="do not wait for the index")
    one.add_argument("--json", type=Path, default=Path("benchmarks/results/backfill.json"))
    one.set_defaults(run=_backfill)


def _add_sync(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = commands.add_parser("sync", help="changes/s, lag and memory of the daemon")
    one.add_argument("--rows", type=int, default=20_000, help="rows changed in each backlog")
    one.add_argument("--dimension", type=int, action="append", help="default: 1536 and 384")
    one.add_argument("--rate", type=int, default=1000, help="changes/s while the lag is measured")
    one.add_argument("--seconds", type=float, default=10.0, help="of each such rate; 0: no lag")
    one.add_argument("--transaction", type=int, default=1_000_000, metavar="ROWS",
                     help="rows of one huge transaction, 384 dimensions; 0: none")  # fmt: skip
    one.add_argument("--away", type=float, default=60.0, metavar="SECONDS",
                     help="for which the target is away at its beginning")  # fmt: skip
    one.add_argument("--no-server", action="store_true", help="only the null target")
    one.add_argument("--json", type=Path, default=Path("benchmarks/results/sync.json"))
    one.set_defaults(run=_sync)


def _backfill(arguments: argparse.Namespace) -> None:
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


def _add_debezium(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = commands.add_parser("debezium", help="events/s and memory of reading Kafka")
    one.add_argument("--rows", type=int, default=20_000, help="messages in the topic")
    one.add_argument("--dimension", type=int, action="append", help="default: 384 and 1536")
    one.add_argument("--json", type=Path, default=Path("benchmarks/results/debezium.json"))
    one.set_defaults(run=_debezium)


def _debezium(arguments: argparse.Namespace) -> None:
    dimensions = arguments.dimension or (384, 1536)
    reports = [debezium.run(rows=arguments.rows, dimension=one) for one in dimensions]
    sync.save(arguments.json, reports)


def _sync(arguments: argparse.Namespace) -> None:
    reports = [
        sync.run(
            rows=arguments.rows,
            dimension=dimension,
            rate=arguments.rate,
            seconds=arguments.seconds,
            qdrant_url=os.environ.get("QDRANT_URL"),
            with_server=not arguments.no_server,
        )
        for dimension in arguments.dimension or (1536, 384)
    ]
    if arguments.transaction:
        away = arguments.away
        reports.append(sync_transaction.run(rows=arguments.transaction, away_seconds=away))
    sync.save(arguments.json, reports)


if __name__ == "__main__":
    main()
