"""`script/bench pinecone`: records/s, CPU and memory of the Pinecone backfill, and where the time goes.

Three processes on the cores that there are: the stand-in, a server that acknowledges every write, and
the backfill's reading and writing, which is what is measured (this module with `--child`). In one run:

    decode      one page, decoded by the SDK over and over; and turned into points; and encoded
    unlimited   everything, with no limit on either side
    limited     with the documented limits (list 200/s, fetch 100/s) kept by both sides, at a dimension
                at which the limit is what bounds

Only ratios within one run say something: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backfill.pinecone_copy import NamespaceCopy
from backfill.pinecone_reader import CopyOptions, Reader
from backfill.pinecone_state import NamespaceProgress
from benchmarks.measure import machine, resident_bytes, usage
from bridge.collection_spec import VectorSpec
from bridge.pinecone.client import Access, PineconeIndex
from bridge.pinecone.mapping import PineconeMapping
from bridge.pinecone.plan import IndexPlan, PlannedVector
from bridge.pinecone.reader import record_bytes
from bridge.qdrant.channel import endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.wire import encode_upsert
from tests.support.pinecone_server import KEY

LIST, FETCH, PAGE = 200.0, 100.0, 100


def run(*, records: int, dimension: int, limited: int, limited_records: int) -> dict[str, Any]:
    """All figures."""
    figures = [measure("unlimited", records=records, dimension=dimension, limits=False)]
    if limited:
        found = measure("limited", records=limited_records, dimension=limited, limits=True)
        found["of_the_limit"] = round(found["records_per_second"] / (FETCH * PAGE), 3)
        figures.append(found)
    for one in figures:
        print(json.dumps(one))
    return {"machine": machine(), "dimension": dimension, "figures": figures}


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command of `script/bench`."""
    one = commands.add_parser("pinecone", help="records/s, CPU and memory of the Pinecone backfill")
    one.add_argument("--records", type=int, default=100_000, help="records without a limit")
    one.add_argument("--dimension", type=int, default=1536)
    one.add_argument("--limited", type=int, default=64, metavar="DIMENSION",
                     help="dimension of the run with Pinecone's limits; 0: none")  # fmt: skip
    one.add_argument("--limited-records", type=int, default=200_000)
    one.add_argument("--json", type=Path, default=Path("benchmarks/results/pinecone.json"))
    one.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    report = run(
        records=arguments.records,
        dimension=arguments.dimension,
        limited=arguments.limited,
        limited_records=arguments.limited_records,
    )
    save(arguments.json, report)


def measure(name: str, *, records: int, dimension: int, limits: bool) -> dict[str, Any]:
    """One run: three processes, the figures of the one that is measured."""
    more = ("--list-limit", f"{LIST + 1:g}", "--fetch-limit", f"{FETCH + 1:g}") if limits else ()
    stand_in = (
        "tests.support.pinecone_server", "--records", str(records), "--dimension", str(dimension),
        "--namespaces", "4", *more,
    )  # fmt: skip
    with _server(*stand_in) as pinecone, _server("benchmarks.null_server") as null:
        child = (
            sys.executable, "-m", "benchmarks.pinecone", "--child", "--records", str(records),
            "--dimension", str(dimension), "--pinecone", pinecone.split()[-1], "--null", null,
            *(("--limited",) if limits else ()),
        )  # fmt: skip
        told = subprocess.run(child, stdout=subprocess.PIPE, check=True, text=True).stdout
    return {"name": name, **json.loads(told.splitlines()[-1])}


@contextmanager
def _server(*module: str) -> Iterator[str]:
    """A server of ours as a process; what it prints when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", *module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


# --- what is measured -----------------------------------------------------------------------------


class _Forgetful:
    """A state store that keeps what it is told as long as it lives."""

    pipeline = "benchmark"

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Mapping[str, Any]] = {}

    def put_all(self, kind: str, records: Mapping[str, Mapping[str, Any]]) -> None:
        self.kept.update({(kind, name): record for name, record in records.items()})


def _plan(counts: Mapping[str, int], dimension: int) -> IndexPlan:
    spec = VectorSpec(name="", shape="dense", distance="dot", dimension=dimension)
    return IndexPlan(
        label="pinecone:bench",
        host="",
        layout="joint",
        collections={name: "bench" for name in counts},
        counts=counts,
        vectors=(PlannedVector(source="", spec=spec),),
        id_field="__id__",
        namespace_field="namespace",
        float_fields=("price",),
    )


def child(*, records: int, dimension: int, pinecone: str, null: str, limited: bool) -> None:
    """The backfill's copy; prints its figures."""
    index = PineconeIndex(Access(api_key=KEY, index="bench", service_host=pinecone))
    index.describe()
    counts = index.stats().counts
    plan = _plan(counts, dimension)
    options = CopyOptions(
        list_per_second=LIST if limited else 0.0, fetch_per_second=FETCH if limited else 0.0
    )
    reader = Reader(index, options, lambda event: None, record_bytes=record_bytes([dimension]))
    target = ServerTarget(endpoint(f"http://127.0.0.1:{null}", api_key=None))
    store: Any = _Forgetful()
    copy = NamespaceCopy(
        reader,
        plan.mappings(),
        [NamespaceProgress(label=plan.label, namespace=name) for name in counts],
        target=target,
        store=store,
        options=options,
        tell=lambda event: None,
        counts=counts,
        present_may_stay=False,
        now=lambda: "",
    )
    parts = _parts(index, plan.mappings()[next(iter(counts))], next(iter(counts)))
    before = usage()
    done = copy.run()
    after = usage()
    seconds = after.wall - before.wall
    assert sum(one.written for one in done.values()) == records, done
    print(
        json.dumps(
            {
                "records": records,
                "dimension": dimension,
                "seconds": round(seconds, 2),
                "records_per_second": round(records / seconds),
                "cpu_us_per_record": round((after.cpu - before.cpu) / records * 1e6, 1),
                "peak_mib": round(resident_bytes([_own()]) / 2**20),
                "requests_at_once": reader.most,
                "us_per_record": parts,
            }
        )
    )


def _own() -> int:
    import os

    return os.getpid()


def _parts(index: PineconeIndex, mapping: PineconeMapping, namespace: str) -> dict[str, float]:
    """Microseconds a record of each step, one after the other and nothing beside them."""
    ids = index.list_page(namespace, None).ids
    from pinecone._internal.adapters.vectors_adapter import VectorsAdapter

    inner: Any = index._index
    body = inner._http.get("/vectors/fetch", params={"ids": list(ids), "namespace": namespace})
    page = index.fetch(namespace, ids)
    points, _letters = mapping.points(namespace, page.records)
    steps: Sequence[tuple[str, Callable[[], object]]] = (
        ("fetch_and_decode", lambda: index.fetch(namespace, ids)),
        ("of_it_decode", lambda: VectorsAdapter.to_fetch_response(body.content)),
        ("points", lambda: mapping.points(namespace, page.records)),
        ("encode", lambda: encode_upsert("bench", points)),
    )
    return {name: round(_best(step) / len(ids) * 1e6, 1) for name, step in steps}


def _best(step: Callable[[], object], times: int = 7) -> float:
    found = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        step()
        found = min(found, time.perf_counter() - started)
    return found


def save(path: Path, report: Mapping[str, Any]) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def main() -> None:
    """The child's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", action="store_true", required=True)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--pinecone", required=True)
    parser.add_argument("--null", required=True)
    parser.add_argument("--limited", action="store_true")
    given = vars(parser.parse_args())
    del given["child"]
    gc.freeze()
    child(**given)


if __name__ == "__main__":
    main()
