"""What surrounds a daemon: how it begins, how it ends."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from bridge.config import Effective, Settings
from bridge.errors import Unreachable, UsageError
from bridge.retry import Retry
from cli import sync_command
from cli.help import Terminated
from cli.places import Place
from cli.service import Service, service


def test_sigterm_right_after_the_first_answer_ends_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/healthz` answers from before the daemon says so."""
    told: list[str] = []

    def tell(self: Service, event: str, **fields: object) -> None:
        told.append(event)
        if event == "listening":
            raise Terminated

    monkeypatch.setattr(Service, "tell", tell)
    settings = Settings.model_validate({"pipeline": "p", "http": {"listen": "127.0.0.1:0"}})
    with pytest.raises(SystemExit) as ended, service(settings):
        pytest.fail("it began")
    assert (ended.value.code, told) == (0, ["listening", "ended"])


@pytest.mark.parametrize("source", ["kafka", "postgres"])
def test_a_port_in_use_makes_one_think_of_another_process(source: str) -> None:
    """Kafka's readers hold no lease; of Postgres' it cannot be told while Qdrant is away."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given: dict[str, Any] = {
            "pipeline": "p",
            "qdrant": {"url": "http://127.0.0.1:1"},
            "tables": {"docs": {}},
            "http": {"listen": f"127.0.0.1:{taken.getsockname()[1]}"},
        }
        if source == "kafka":
            given["sync"] = {"source": "debezium"}
            given["kafka"] = {"bootstrap_servers": "k:9092", "topics": {"t": "docs"}}
        with pytest.raises(UsageError) as refused, service(Settings.model_validate(given)):
            pytest.fail("it began")
    assert "another process" in refused.value.hint and "free port" in refused.value.hint
    assert ("who runs pipeline p is not known" in refused.value.message) == (source == "postgres")


class Around:
    """A service that follows what it is given, and waits without losing time."""

    def __init__(self) -> None:
        self.followed: list[object] = []
        self.patiently = Retry(sleep=lambda seconds: None).call

    def state_of(self, place: Place) -> None:
        return None

    def tell(self, event: str, **fields: object) -> None:
        return None

    def follow(self, daemon: object) -> None:
        self.followed.append(daemon)


def test_a_target_that_is_away_while_a_daemon_reads_its_records_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Any] = [Unreachable("away"), Unreachable("away"), "the daemon"]

    def make_daemon(*_: object, **__: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Unreachable):
            raise answer
        return answer

    monkeypatch.setattr(sync_command, "make_daemon", make_daemon)
    monkeypatch.setattr(sync_command, "read_stream", lambda store: None)
    around = Around()
    sync_command.follow(cast(Effective, None), cast(Place, None), cast(Service, around))
    assert around.followed == ["the daemon"]
