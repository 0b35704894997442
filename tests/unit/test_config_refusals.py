"""What the configuration refuses, with which words; and the short forms that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.config_place import Workplace


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tables: {public.products: {vectrs: {}}}", "tables.public.products.vectrs"),
        ("tables: {public.products: {vectrs: {}}}", "unknown key; did you mean 'vectors'?"),
        ("pipelin: x", "did you mean 'pipeline'?"),
        ("api_key: x", "did you mean 'pinecone.api_key' or 'qdrant.api_key'?"),
        ("write-ordering: weak", "did you mean 'qdrant.write_ordering'?"),
        ("tables: {t: {vectors: {e: {hnsw: {ef_construction: 9}}}}}", "mean 'ef_construct'?"),
        ("http: {zzz: 1}", "known here: listen, hold_on_stop"),
        ("qdrant: {write_ordering: fast}", "found 'fast'; allowed: weak, medium, strong"),
        ("qdrant: [a]", "found a list; allowed: a mapping"),
        ("tables: {t: {vectors: x}}", "found 'x'; allowed: none, or a mapping"),
        ("tables: {t: {payload_indexes: {a: words}}}", "allowed: keyword, integer, float"),
        ("tables: {t: {numeric: decimal}}", "allowed: float, string, integer, or a mapping"),
        ("tables: {t: {numeric: {a: decimal}}}", "tables.t.numeric.a"),
        ("tables: {t: {vectors: {e: {distance: l2}}}}", "allowed: cosine, dot, euclid, manhattan"),
        ("tables: {t: {vectors: {e: {quantization: fp8}}}}", "allowed: none, scalar, binary"),
        ("tables: {t: {vectors: {e: {quantization: {kind: binary, quantile: 0.9}}}}}", "scalar"),
        ("tables: {t: {vectors: {e: {hnsw: {m: true}}}}}", "found true; allowed: a whole number"),
        ("tables: {t: {key: id}}", "found 'id'; allowed: a list"),
        ("tables: {t: {key: []}}", "at least 1"),
        ("tables: {t: {key: [a, a]}}", "column 'a' is named twice"),
        ("tables: {t: {where: {price: 1.0}}}", "a fraction cannot be compared exactly"),
        ("tables: {t: {where: {a: []}}}", "an empty list matches no row"),
        ("tables: {t: {where: {a: [null]}}}", "null stands alone"),
        ("tables: {t: {where: {a: {b: c}}}}", "this kind of value"),
        ("tables: {t: {where: {a: 9223372036854775808}}}", "beyond 64 bits"),
        ("tables: {t: {id: {template: doc}}}", "it names no column"),
        ("tables: {t: {id: {template: 'x{}'}}}", "braces hold a column's name"),
        ("tables: {t: {id: {template: '{id!r}'}}}", "braces hold a column's name"),
        ("tables: {t: {id: {template: '{id'}}}", "tables.t.id.template"),
        ("tables: {t: {key: [a, b], id: {template: '{a}'}}}", "must name key column 'b'"),
        ("tables: {t: {key: [a], id: {template: '{a}{b}'}}}", "names 'b', which is no key column"),
        ("tables: {t: {id: {namespace: n}}}", "namespace needs a template"),
        ("tables: {t: {id: {scheme: qdrant-migration, template: '{a}'}}}", "takes neither"),
        ("tables: {t: {payload: {a: b, a.c: d}}}", "field 'a.c' lies inside field 'a'"),
        ("tables: {t: {payload: {a..c: d}}}", "has an empty part"),
        ("tables: {t: {payload: {'*': false}}}", '"*" takes true'),
        ("tables: {t: {payload: {a: true}}}", "field 'a' needs the name of a column"),
        ("tables: {my-table: {}}", "unexpected '-' at character 3"),
        ("tables: {docs: {}, DOCS: {}}", "docs is there twice"),
        ("tables: {a.docs: {}, b.docs: {}}", "tables a.docs and b.docs would share collection"),
        ("tables: {a: {collection: b}, b: {}}", "tables a and b would share collection 'b'"),
        ("kafka: {bootstrap_servers: k, topics: {x: y}}", "x names y, which is not in tables"),
        ("kafka: {topics: {x: y}}", "kafka.bootstrap_servers"),
        ("pipeline: Shop", "found 'Shop'; allowed: text that matches"),
        ("pipeline: " + "x" * 51, "allowed: text that matches"),
        ("pipeline: 7", "found 7; allowed: text"),
        ("sync: {slot: a-b}", "found 'a-b'"),
        ("sync: {publication: ''}", "allowed: text that is not empty"),
        ("sync: {window: {operations: 0}}", "found 0; allowed: at least 1"),
        ("qdrant: {timeout_seconds: 0}", "above 0"),
        ("qdrant: {url: localhost:6334}", "allowed: http://host:6334"),
        ("qdrant: {url: edge://data}", "three slashes"),
        ("qdrant: {url: 'http://h:x'}", "cannot be read"),
        ("qdrant: {url: 'https://h:6334/path?x=1'}", "nothing may follow"),
        ("http: {listen: '8080'}", "host:port"),
        ("http: {listen: '::1:8080'}", "brackets"),
        ("http: {listen: 'h:99999'}", "host:port"),
        ("migration: {num_workers: -1}", "at least 0"),
        ("migration: {batch_size: 1.5}", "found 1.5; allowed: a whole number"),
        ("pinecone: {namespaces: some}", "allowed: all, split, or a list"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(
    place: Workplace, text: str, words: str
) -> None:
    assert words in place.refusal(text)


def test_all_wrong_settings_are_told_at_once_with_their_lines(place: Workplace) -> None:
    message = place.refusal("pipelin: x\nqdrant:\n  write_ordering: fast\n")
    first, second, third = message.splitlines()
    assert first == "2 settings are wrong:"
    assert second.startswith(f"  pipelin ({place.path} line 1): ")
    assert third.startswith(f"  qdrant.write_ordering ({place.path} line 3): ")


def test_short_forms_are_taken(place: Workplace) -> None:
    table = place.table(
        "{vectors: {a: {quantization: binary, name: ''}, b: {}}, numeric: {p: string},"
        " payload: {x.y: c, '*': true}, payload_indexes: {x.y: keyword}}"
    )
    assert table.vectors != "none"
    assert table.vectors["a"].quantization is not None
    assert table.vectors["a"].quantization.kind == "binary"
    assert table.vectors["a"].name == ""
    assert (table.numeric_form("p"), table.numeric_form("q")) == ("string", "float")
    assert table.payload == {"x.y": "c", "*": True}
    assert place.table("{vectors: none, payload_indexes: none}").vectors == "none"
