"""Secrets of the configuration: read from files, and never shown."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest

from bridge.errors import UsageError
from cli.config_command import config_lines, config_report
from tests.support.config_place import Workplace

CANARY = "c4n4ry-s3cret"


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_a_secret_file_is_read_relative_to_the_configuration(place: Workplace) -> None:
    (place.directory / "key").write_text(CANARY + "\n")
    effective = place.load("qdrant: {api_key_file: key}")
    assert effective.settings.qdrant.api_key is not None
    assert effective.settings.qdrant.api_key.get_secret_value() == CANARY
    assert effective.origin("qdrant.api_key") == f"file {place.directory / 'key'}"


def test_a_secret_and_its_file_in_one_layer_are_refused(place: Workplace) -> None:
    message = place.refusal(f"qdrant: {{api_key: {CANARY}, api_key_file: key}}")
    assert "qdrant.api_key and qdrant.api_key_file are both set" in message
    environ = {
        "QDRANT_BRIDGE_POSTGRES__URL": CANARY,
        "QDRANT_BRIDGE_POSTGRES__URL_FILE": "missing",
    }
    assert "both set" in place.refusal(environ=environ)


def test_a_higher_layers_secret_replaces_the_lower_layers_file(place: Workplace) -> None:
    environ = {"QDRANT_BRIDGE_QDRANT__API_KEY": "from-environment"}
    effective = place.load("qdrant: {api_key_file: missing}", environ=environ)
    assert effective.settings.qdrant.api_key is not None
    assert effective.settings.qdrant.api_key.get_secret_value() == "from-environment"
    assert effective.settings.qdrant.api_key_file is None


@pytest.mark.parametrize(
    ("content", "words"), [("", "empty"), ("\n", "empty"), (f"{CANARY}\nx\n", "more than one line")]
)
def test_a_secret_file_that_holds_no_secret_is_refused(
    place: Workplace, content: str, words: str
) -> None:
    (place.directory / "key").write_text(content)
    message = place.refusal("qdrant: {api_key_file: key}")
    assert words in message
    assert CANARY not in message


def test_a_secret_file_that_is_missing_is_refused(place: Workplace) -> None:
    message = place.refusal("postgres: {url_file: nowhere}")
    assert "postgres.url_file file" in message
    assert "No such file" in message


SECRETS = f"""\
postgres: {{url: "postgresql://bridge:{CANARY}@db/app?sslpassword={CANARY}"}}
qdrant: {{api_key: {CANARY}}}
pinecone: {{api_key: {CANARY}}}
"""


def test_no_secret_in_anything_that_is_shown(place: Workplace) -> None:
    effective = place.load(SECRETS)
    shown = [
        repr(effective),
        str(effective.settings),
        json.dumps(effective.redacted()),
        json.dumps(config_report(effective)),
        "\n".join(config_lines(effective)),
    ]
    assert not [text for text in shown if CANARY in text]
    assert effective.redacted()["postgres"]["url"] == (
        "postgresql://bridge:***@db/app?sslpassword=***"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"postgres: {{url: [{CANARY}]}}",
        f"postgres: {{url: {{password: {CANARY}}}}}",
        f"postgres: postgresql://u:{CANARY}@db/app",
        f"postgres: host=db password={CANARY}",
        f"postgres: {{uri: postgresql://u:{CANARY}@db/app}}",
        f"qdrant: {{url: 'https://u:{CANARY}@h:6334'}}",
        f"qdrant: {{api_key: {CANARY}, url: x}}",
        f"qdrant: {{api_key: '{CANARY}'}}\npassword: {CANARY}",
        f"qdrant: {CANARY}",
        "tables: {public.docs: {}}\nsync: {source: debezium}\n"
        "kafka: {bootstrap_servers: 'k:9092', topics: {t: public.docs}, "
        f"connect_url: 'http://u:{CANARY}@h:8083'}}",
    ],
)
def test_no_secret_in_a_refusal_nor_in_its_traceback(place: Workplace, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        place.load(text)
    assert CANARY not in caught.value.message
    assert CANARY not in caught.value.hint
    lines = traceback.format_exception(caught.value)
    assert CANARY not in "".join(lines).replace(text, "")
