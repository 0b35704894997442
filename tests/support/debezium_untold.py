"""What the captured messages do not tell, by run and step: columns whose value is read again.

    unknown types              absent from the message
    `name`                     null in the stream
    NULL numerics, `precise`   NaN looks the same
    money, timetz, varbit,
    intervals as averages      destroyed
    times under `connect`      cut off
    unchanged TOAST            the placeholder, or null
    nested arrays              destroyed; what looks like one is not trusted either
    `huge`                     beyond what Python converts to decimal digits

A run with schemas is listed where it differs from the one without.
"""

from __future__ import annotations

from collections.abc import Mapping

_UNKNOWN = {"c_composite", "c_int4multirange"}
_NAME = {"c_name"}
_NUMERICS = {"c_numeric", "c_numeric_12_4", "c_numeric_20_0"}
_LOST = {"c_interval", "c_money", "c_timetz", "c_varbit"}
_TOAST = {"body", "e"}
_LONG = {"bigs", "bin", "doc", "h", "huge", "nums", "reals", "s", "tags", "uuids"}
_VECTORS = {"e", "small"}

UNTOLD: Mapping[str, Mapping[str, set[str]]] = {
    "edges": {
        "numeric NaN": _UNKNOWN | _NAME | _NUMERICS,
        "numeric(12,4) NaN": _UNKNOWN | _NAME | _NUMERICS,
        "numeric Infinity": _UNKNOWN | _NAME | _NUMERICS,
        "numeric 1e300 and 1e-30": _UNKNOWN | _NAME | {"c_numeric_12_4", "c_numeric_20_0"},
        "real and double NaN, Infinity": _UNKNOWN | _NAME | _NUMERICS,
        "real and double extremes": _UNKNOWN | _NAME | _NUMERICS,
        "bigint extremes": _UNKNOWN | _NAME | _NUMERICS,
        "timestamp infinity": _UNKNOWN | _NAME | _NUMERICS,
        "date infinity": _UNKNOWN | _NAME | _NUMERICS,
        "BC and far dates": _UNKNOWN | _NAME | _NUMERICS,
        "year 10000 and later": _UNKNOWN | _NAME | _NUMERICS,
        "time 24:00, negative interval": _UNKNOWN | _NAME | _NUMERICS | {"c_interval", "c_timetz"},
        "empty values": _UNKNOWN | _NAME | _NUMERICS,
        "nested arrays": _UNKNOWN | _NAME | _NUMERICS | {"c_int_array", "c_text_array"},
        "json null, json scalar": _UNKNOWN | _NAME | _NUMERICS,
        "placeholder as a real value": _UNKNOWN | _NAME | _NUMERICS,
        "text of control characters": _UNKNOWN | _NAME | _NUMERICS,
        "money negative": _UNKNOWN | _NAME | _NUMERICS | {"c_money"},
        "empty sparse vector": _UNKNOWN | _NAME | _NUMERICS,
    },
    "edges_double": {
        "numeric NaN": _UNKNOWN | _NAME,
        "numeric(12,4) NaN": _UNKNOWN | _NAME,
        "numeric Infinity": _UNKNOWN | _NAME,
        "numeric 1e300 and 1e-30": _UNKNOWN | _NAME,
        "real and double NaN, Infinity": _UNKNOWN | _NAME,
        "real and double extremes": _UNKNOWN | _NAME,
        "bigint extremes": _UNKNOWN | _NAME,
        "timestamp infinity": _UNKNOWN | _NAME | {"c_timestamp"},
        "date infinity": _UNKNOWN | _NAME,
        "BC and far dates": _UNKNOWN | _NAME | {"c_timestamp"},
        "year 10000 and later": _UNKNOWN | _NAME | {"c_timestamp"},
        "time 24:00, negative interval": _UNKNOWN | _NAME | {"c_interval", "c_time", "c_timetz"},
        "empty values": _UNKNOWN | _NAME,
        "nested arrays": _UNKNOWN | _NAME | {"c_int_array", "c_text_array"},
        "json null, json scalar": _UNKNOWN | _NAME,
        "placeholder as a real value": _UNKNOWN | _NAME,
        "text of control characters": _UNKNOWN | _NAME,
        "money negative": _UNKNOWN | _NAME | {"c_money"},
        "empty sparse vector": _UNKNOWN | _NAME,
    },
    "edges_string_isostring": {
        "numeric NaN": _UNKNOWN | _NAME,
        "numeric(12,4) NaN": _UNKNOWN | _NAME,
        "numeric Infinity": _UNKNOWN | _NAME,
        "numeric 1e300 and 1e-30": _UNKNOWN | _NAME,
        "real and double NaN, Infinity": _UNKNOWN | _NAME,
        "real and double extremes": _UNKNOWN | _NAME,
        "bigint extremes": _UNKNOWN | _NAME,
        "timestamp infinity": _UNKNOWN | _NAME,
        "date infinity": _UNKNOWN | _NAME,
        "BC and far dates": _UNKNOWN | _NAME,
        "year 10000 and later": _UNKNOWN | _NAME,
        "time 24:00, negative interval": _UNKNOWN | _NAME | {"c_interval", "c_time", "c_timetz"},
        "empty values": _UNKNOWN | _NAME,
        "nested arrays": _UNKNOWN | _NAME | {"c_int_array", "c_text_array"},
        "json null, json scalar": _UNKNOWN | _NAME,
        "placeholder as a real value": _UNKNOWN | _NAME,
        "text of control characters": _UNKNOWN | _NAME,
        "money negative": _UNKNOWN | _NAME | {"c_money"},
        "empty sparse vector": _UNKNOWN | _NAME,
    },
    "flat_defaults": {
        "snapshot": _VECTORS,
        "insert": {"e"},
        "update; e unchanged TOAST": {"e"},
        "update; e is NULL": _VECTORS,
        "set small to NULL": _VECTORS,
        "primary key change; e unchanged TOAST": {"e"},
    },
    "flat_delete_to_tombstone": {
        "primary key change; e unchanged TOAST": {"e"},
    },
    "flat_drop": {
        "primary key change; e unchanged TOAST": {"e"},
    },
    "flat_op": {
        "update; e unchanged TOAST": {"e"},
        "update; e is NULL": _VECTORS,
        "set small to NULL": _VECTORS,
        "primary key change; e unchanged TOAST": {"e"},
    },
    "flat_rewrite": {
        "primary key change; e unchanged TOAST": {"e"},
    },
    "flat_rewrite_with_tombstone": {
        "primary key change; e unchanged TOAST": {"e"},
    },
    "flat_tombstone": {
        "primary key change; e unchanged TOAST": {"e"},
    },
    "incremental": {
        "update after it": {"e"},
    },
    "kinds": {
        "snapshot": _UNKNOWN | _NUMERICS | _LOST,
        "insert": _UNKNOWN | _NAME | _LOST,
        "insert of NULLs": _UNKNOWN | _NAME | _NUMERICS,
    },
    "kinds_double_isostring": {
        "snapshot": _UNKNOWN | _LOST,
        "insert": _UNKNOWN | _NAME | _LOST,
        "insert of NULLs": _UNKNOWN | _NAME,
    },
    "kinds_microseconds_unknown": {
        "snapshot": _NUMERICS | _LOST,
        "insert": _LOST,
        "insert of NULLs": _NUMERICS,
    },
    "kinds_nanoseconds": {
        "snapshot": _UNKNOWN | _NUMERICS | _LOST,
        "insert": _UNKNOWN | _NAME | _LOST,
        "insert of NULLs": _UNKNOWN | _NAME | _NUMERICS,
    },
    "kinds_string_connect": {
        "snapshot": _UNKNOWN | {"c_money", "c_time", "c_timestamp", "c_timetz", "c_varbit"},
        "insert": _UNKNOWN | _NAME | {"c_money", "c_time", "c_timestamp", "c_timetz", "c_varbit"},
        "insert of NULLs": _UNKNOWN | _NAME,
    },
    "life_default": {
        "snapshot": {"n"},
        "insert NULL vectors": {"n"},
        "update title; e and body unchanged TOAST": _TOAST,
        "update title; all vectors NULL": _VECTORS | {"n"},
        "update body; e unchanged TOAST": {"e"},
        "update small; e unchanged TOAST": {"e"},
        "set e and small to NULL": _VECTORS,
        "update without effect": _TOAST,
        "primary key change; e and body unchanged TOAST": _TOAST,
        "ADD COLUMN: update of an old row": _VECTORS | {"n"},
    },
    "life_fail": {
        "snapshot": {"n"},
    },
    "life_full": {
        "snapshot": {"n"},
        "insert NULL vectors": {"n"},
        "update title; all vectors NULL": {"n"},
    },
    "life_placeholder": {
        "snapshot": {"n"},
        "update title; e and body unchanged TOAST": _TOAST,
        "update title; all vectors NULL": _VECTORS | {"n"},
        "update body; e unchanged TOAST": {"e"},
        "update small; e unchanged TOAST": {"e"},
    },
    "life_skip": {
        "snapshot": {"n"},
        "update title; e and body unchanged TOAST": _TOAST,
        "update title; all vectors NULL": _VECTORS | {"n"},
    },
    "reselect_default": {
        "snapshot": {"n"},
        "update title; all vectors NULL": _VECTORS | {"n"},
        "set e and small to NULL": _VECTORS,
    },
    "reselect_default_no_nulls": {
        "snapshot": {"n"},
        "update title; e and body unchanged TOAST": {"e"},
        "update title; all vectors NULL": _VECTORS | {"n"},
        "update body; e unchanged TOAST": {"e"},
    },
    "reselect_full": {
        "snapshot": {"n"},
        "update title; all vectors NULL": {"n"},
    },
    "toast": {
        "snapshot": {"huge"},
        "update title; all that is long unchanged": _TOAST
        | {"bigs", "bin", "doc", "h", "huge", "nums", "reals", "s", "tags", "uuids"},
        "primary key change; all that is long unchanged": _TOAST
        | {"bigs", "bin", "doc", "h", "huge", "nums", "reals", "s", "tags", "uuids"},
    },
    "toast_full": {
        "snapshot": {"huge"},
        "update title; all that is long unchanged": {"huge"},
    },
    "toast_not_null": {
        "snapshot": {"huge"},
    },
    "transactions": {
        "snapshot": {"n"},
        "two tables in one transaction": {"n"},
    },
    "transactions.schemas": {
        "snapshot": {"n"},
    },
}
