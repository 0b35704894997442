"""Minutes of everything at once through Kafka; hours of it by hand: `python -m tests.faults.soak_debezium`.

Each part of it is in `test_debezium_stack.py` too, in the order in which it is hardest; so nothing of this
runs with the others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak_debezium import soak
from tests.support.kafka_stack import stack


@pytest.mark.long
@pytest.mark.parametrize(("seconds", "seed"), [(60, 20_261_124), (120, 20_261_125)])
def test_everything_at_once_through_kafka(tmp_path: Path, seconds: float, seed: int) -> None:
    with stack() as running:
        report = soak(seconds, seed, tmp_path, running)
    print(report)
    assert report.problems == []
    assert report.done and report.statements, "nothing was done"
