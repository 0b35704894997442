"""The configuration: layers, origins, secrets, and what is refused with which words."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest

from bridge.config import TableChoice, json_schema, load
from bridge.errors import UsageError
from cli.config_command import config_lines, config_report, schema_text
from tests.support.config_place import Workplace

CANARY = "c4n4ry-s3cret"

EXAMPLE = """\
pipeline: shop
postgres:
  url: postgresql://bridge@db.internal/app
pinecone:
  index: products
  host: https://products-abc.svc.pinecone.io
  namespaces: all
qdrant:
  url: https://qdrant.internal:6334
  write_ordering: weak
tables:
  public.products:
    collection: products
    key: [id]
    columns: [id, title, embedding]
    id: {template: "doc-{id}"}
    nulls: explicit
    numeric: float
    vectors:
      embedding: {name: embedding, distance: cosine, on_disk: false, hnsw: {m: 16}}
    payload_indexes: auto
    payload: {page_content: document, metadata: cmetadata}
    where: {deleted_at: null, lang: [en, de]}
sync:
  source: postgres
  slot: bridge_shop
  publication: bridge_shop
  window: {operations: 2000, bytes: 16777216, milliseconds: 50}
kafka:
  bootstrap_servers: kafka:9092
  group: bridge_shop
  topics: {shop.public.products: public.products}
http: {listen: "127.0.0.1:8080", hold_on_stop: false}
"""


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


# --- layers ---------------------------------------------------------------------------------------


def test_the_documented_example_is_taken(place: Workplace) -> None:
    settings = place.load(EXAMPLE).settings
    table = settings.tables["public.products"]
    assert table.key == ("id",)
    assert table.where == {"deleted_at": None, "lang": ("en", "de")}
    assert table.vectors != "none"
    assert table.vectors["embedding"].hnsw is not None
    assert table.vectors["embedding"].quantization is None
    assert settings.kafka is not None
    assert settings.kafka.bootstrap_servers == ("kafka:9092",)
    assert (settings.slot, settings.publication) == ("bridge_shop", "bridge_shop")


def test_without_anything_there_are_defaults() -> None:
    effective = load(None, {}, {})
    settings = effective.settings
    assert settings.qdrant.url == "http://localhost:6334"
    assert settings.http.address == ("127.0.0.1", 8080)
    assert settings.migration.shard_index_and_count == (0, 1)
    assert settings.sync is None
    assert effective.origins == {}


def test_a_flag_beats_the_environment_which_beats_the_file(place: Workplace) -> None:
    text = "qdrant: {url: 'http://file:1', timeout_seconds: 1, write_ordering: medium}"
    environ = {
        "QDRANT_BRIDGE_QDRANT__URL": "http://environment:1",
        "QDRANT_BRIDGE_QDRANT__TIMEOUT_SECONDS": "2",
    }
    effective = place.load(text, flags={"qdrant.url": "http://flag:1"}, environ=environ)
    assert effective.settings.qdrant.url == "http://flag:1"
    assert effective.settings.qdrant.timeout_seconds == 2
    assert effective.settings.qdrant.write_ordering == "medium"
    assert effective.origin("qdrant.url") == "flag"
    assert (
        effective.origin("qdrant.timeout_seconds")
        == "environment QDRANT_BRIDGE_QDRANT__TIMEOUT_SECONDS"
    )
    assert effective.origin("qdrant.write_ordering") == f"file {place.path}"
    assert effective.origin("qdrant.ca_file") == "default"


def test_a_flag_that_was_not_given_changes_nothing(place: Workplace) -> None:
    effective = place.load("pipeline: shop", flags={"pipeline": None})
    assert effective.settings.pipeline == "shop"


def test_origins_name_tables_in_their_one_spelling(place: Workplace) -> None:
    effective = place.load("tables: {Public.Docs: {collection: c}}")
    assert effective.origin("tables.public.docs.collection") == f"file {place.path}"
    assert effective.origin("tables.public.docs.nulls") == "default"


def test_an_empty_section_is_there_with_its_defaults(place: Workplace) -> None:
    settings = place.load("pipeline: p\nsync:\ntables:\n  public.docs:\n").settings
    assert settings.sync is not None
    assert settings.sync.window.operations == 2000
    assert settings.slot == "bridge_p"
    assert list(settings.tables) == ["public.docs"]


def test_a_slot_without_a_pipeline_is_a_usage_error(place: Workplace) -> None:
    settings = place.load("sync: {}").settings
    with pytest.raises(UsageError, match="neither pipeline nor sync"):
        _ = settings.slot


# --- environment ----------------------------------------------------------------------------------


def test_the_environment_gives_numbers_booleans_lists_and_mappings(place: Workplace) -> None:
    settings = place.load(
        "tables: {t: {}}",
        environ={
            "QDRANT_BRIDGE_MIGRATION__NUM_WORKERS": "4",
            "QDRANT_BRIDGE_MIGRATION__RESTART": "yes",
            "QDRANT_BRIDGE_ALLOW_PLAINTEXT": "true",
            "QDRANT_BRIDGE_PINECONE__NAMESPACES": "[a, b]",
            "QDRANT_BRIDGE_KAFKA__TOPICS": "{x: t}",
            "QDRANT_BRIDGE_KAFKA__BOOTSTRAP_SERVERS": "k1:9092, k2:9092",
        },
    ).settings
    assert settings.migration.num_workers == 4
    assert settings.migration.restart is True
    assert settings.allow_plaintext is True
    assert settings.pinecone is not None
    assert settings.pinecone.namespaces == ("a", "b")
    assert settings.kafka is not None
    assert settings.kafka.topics == {"x": "t"}
    assert settings.kafka.bootstrap_servers == ("k1:9092", "k2:9092")


def test_text_in_the_environment_stays_text_whatever_it_looks_like() -> None:
    environ = {"QDRANT_BRIDGE_QDRANT__API_KEY": "{12", "QDRANT_BRIDGE_PIPELINE": "2024"}
    settings = load(None, {}, environ).settings
    assert settings.qdrant.api_key is not None
    assert settings.qdrant.api_key.get_secret_value() == "{12"
    assert settings.pipeline == "2024"


def test_an_empty_variable_is_not_set(place: Workplace) -> None:
    effective = place.load("pipeline: shop", environ={"QDRANT_BRIDGE_PIPELINE": ""})
    assert effective.settings.pipeline == "shop"


def test_variables_of_a_kubernetes_service_of_our_name_are_no_settings() -> None:
    names = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8080_TCP"]
    names += ["PORT_8080_TCP_PROTO", "PORT_8080_TCP_PORT", "PORT_8080_TCP_ADDR"]
    environ = {f"QDRANT_BRIDGE_{name}": "tcp://10.0.0.1:8080" for name in names}
    assert load(None, {}, environ).origins == {}


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("QDRANT_BRIDGE_POSTGRES_URL", "did you mean QDRANT_BRIDGE_POSTGRES__URL?"),
        ("QDRANT_BRIDGE_QDRANT__APIKEY", "did you mean QDRANT_BRIDGE_QDRANT__API_KEY?"),
        ("QDRANT_BRIDGE_POSTGRES", "no such setting"),
        ("QDRANT_BRIDGE_TABLES__DOCS__KEY", "in the configuration file only"),
    ],
)
def test_an_unknown_variable_is_refused(place: Workplace, variable: str, words: str) -> None:
    message = place.refusal(environ={variable: CANARY})
    assert variable in message
    assert words in message
    assert CANARY not in message


def test_a_wrong_variable_is_named(place: Workplace) -> None:
    message = place.refusal(environ={"QDRANT_BRIDGE_MIGRATION__BATCH_SIZE": "many"})
    assert message == (
        "migration.batch_size (environment QDRANT_BRIDGE_MIGRATION__BATCH_SIZE): "
        "found 'many'; allowed: a whole number"
    )


def test_the_file_may_be_named_by_a_variable(place: Workplace) -> None:
    place.path.write_text("pipeline: named")
    effective = load(None, {}, {"QDRANT_BRIDGE_CONFIG": str(place.path)})
    assert effective.settings.pipeline == "named"
    assert effective.file == place.path


def test_the_shard_number_comes_from_an_indexed_job(place: Workplace) -> None:
    environ = {"JOB_COMPLETION_INDEX": "2"}
    effective = place.load(flags={"migration.shard": "/8"}, environ=environ)
    assert effective.settings.migration.shard_index_and_count == (2, 8)
    assert effective.origin("migration.shard") == "flag, environment JOB_COMPLETION_INDEX"
    given = place.load(flags={"migration.shard": "1/8"}, environ=environ)
    assert given.settings.migration.shard_index_and_count == (1, 8)


@pytest.mark.parametrize("shard", ["8/8", "-1/8", "1", "a/b", "0/0"])
def test_a_shard_out_of_range_is_refused(place: Workplace, shard: str) -> None:
    assert f"found {shard!r}" in place.refusal(flags={"migration.shard": shard})


def test_a_shard_count_without_an_index_is_refused(place: Workplace) -> None:
    assert "JOB_COMPLETION_INDEX is not set" in place.refusal(flags={"migration.shard": "/8"})


# --- the file -------------------------------------------------------------------------------------


def test_words_mean_what_yaml_1_2_says(place: Workplace) -> None:
    table = place.table("{where: {a: [no, on, y], b: 2024-01-01, c: 12:30, d: 010, e: true, f: ~}}")
    assert table.where == {
        "a": ("no", "on", "y"),
        "b": "2024-01-01",
        "c": "12:30",
        "d": 10,
        "e": True,
        "f": None,
    }


def test_where_keeps_true_and_one_apart(place: Workplace) -> None:
    where = place.table('{where: {a: 1, b: true, c: "1", d: not null}}').where
    assert json.dumps(where) == '{"a": 1, "b": true, "c": "1", "d": "not null"}'


def test_anchors_and_merge_keys_work(place: Workplace) -> None:
    text = "tables:\n  a: &base {nulls: omit}\n  b: {<<: *base, collection: c}\n"
    assert place.load(text).settings.tables["b"].nulls == "omit"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2", "line 2, column 2"),
        ("qdrant:\n\turl: x", "line 2, column 1"),
        ("pipeline: a\nhttp: {}\npipeline: b", "line 3: pipeline is there already, in line 1"),
        ("tables:\n  t: {where: {a: 1, a: 2}}", "line 2: tables.t.where.a is there already"),
        ("tables: {t: {where: {true: 1}}}", "line 1: a key must be text, found true or false"),
        ("tables: {5: {}}", "a key must be text, found a number"),
        ("- a", "found a list"),
        ("a: 1\n---\nb: 1", "expected a single document"),
        ("postgres: {url: !x y}", "must be quoted"),
        ("a: \x01", "a character that YAML does not allow"),
    ],
)
def test_malformed_files_are_refused_with_the_line(place: Workplace, text: str, words: str) -> None:
    message = place.refusal(text)
    assert message.startswith(str(place.path))
    assert words in message


def test_an_unquoted_secret_is_not_quoted_back(place: Workplace) -> None:
    for text in (f"*{CANARY}", f"!{CANARY}", f"[{CANARY}", f"'{CANARY}", f"{CANARY}: x: y"):
        with pytest.raises(UsageError) as caught:
            place.load(f"qdrant:\n  api_key: {text}\n")
        shown = "".join(traceback.format_exception(caught.value))
        assert CANARY not in shown


def test_files_that_cannot_be_read_are_refused(place: Workplace) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(place.directory / "missing.yaml", {}, {})
    with pytest.raises(UsageError, match="directory"):
        load(place.directory, {}, {})
    place.path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        load(place.path, {}, {})


# --- one table by flags ---------------------------------------------------------------------------


def test_flags_choose_one_table_and_lie_on_top_of_the_file(place: Workplace) -> None:
    choice = TableChoice(name="PRODUCTS", collection="other", distances={"embedding": "Dot"})
    text = (
        "tables:\n  products: {nulls: omit, vectors: {embedding: {on_disk: true}}}\n  b: {}\n"
        "kafka: {bootstrap_servers: k, topics: {t: b}}\n"
    )
    effective = place.load(text, table=choice)
    assert list(effective.settings.tables) == ["products"]
    table = effective.settings.tables["products"]
    assert (table.collection, table.nulls) == ("other", "omit")
    assert table.vectors != "none"
    assert table.vectors["embedding"].distance == "dot"
    assert table.vectors["embedding"].on_disk is True
    assert effective.origin("tables.products.collection") == "flag"
    assert effective.origin("tables.products.nulls") == f"file {place.path}"


def test_flags_alone_describe_a_table() -> None:
    choice = TableChoice(name='app."T"', key=("a", "b"), columns=("a", "b", "v"))
    settings = load(None, {}, {}, table=choice).settings
    assert settings.tables['app."T"'].key == ("a", "b")
    assert settings.collection_of('app."T"') == "T"


def test_flags_without_a_name_mean_the_only_table(place: Workplace) -> None:
    choice = TableChoice(collection="c")
    assert place.load("tables: {a: {}}", table=choice).settings.tables["a"].collection == "c"
    with pytest.raises(UsageError, match="has 2"):
        place.load("tables: {a: {}, b: {}}", table=choice)
    kept = place.load("tables: {a: {}, b: {}}", table=TableChoice()).settings.tables
    assert list(kept) == ["a", "b"]


# --- reports --------------------------------------------------------------------------------------


def test_the_report_has_settings_and_origins(place: Workplace) -> None:
    report = config_report(place.load(EXAMPLE, flags={"qdrant.url": "edge:///data"}))
    assert report["version"] == 1
    assert report["settings"]["qdrant"]["url"] == "edge:///data"
    assert report["origins"]["qdrant.url"] == "flag"
    assert report["settings"]["tables"]["public.products"]["where"]["lang"] == ["en", "de"]


def test_lines_show_value_and_origin(place: Workplace) -> None:
    lines = config_lines(place.load("tables: {t: {key: [id]}}"))
    assert f'tables.t.key: ["id"]  # file {place.path}' in lines
    assert 'qdrant.url: "http://localhost:6334"  # default' in lines


def test_the_schema_knows_every_section_and_no_other_key() -> None:
    schema = json.loads(schema_text())
    assert schema == json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) >= {"pipeline", "postgres", "qdrant", "tables", "sync"}
    assert {"type": "null"} in schema["properties"]["tables"]["additionalProperties"]["anyOf"]
    assert all("description" in entry for entry in schema["properties"].values())
