"""Values of rows, as prompts, request bodies and JSON can hold them: rows come out of pandas, SQL and Parquet."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec

#: types that are what they are
PLAIN = frozenset({str, int, bool, type(None)})
#: pandas' words for a value that is not there
NULLS = frozenset({"NaTType", "NAType"})


def written(text: Any) -> Any:
    """The list or mapping that a template has made text of, as JSON or Python write it; anything else as it is."""
    if not isinstance(text, str) or text.lstrip()[:1] not in ("[", "{"):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


class Nanoseconds(str):
    """A moment to the nanosecond in ISO format, which ``datetime`` cannot hold."""

    __slots__ = ()


def plain(value: Any) -> Any:
    """The value as plain Python: NaN, NaT and NA are null, numpy's and pandas' scalars are Python's, sets are lists in
    order (the same rows must make the same bytes in every process)."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is float or isinstance(value, Decimal):
        return None if value != value else float(value) if kind is not float and isinstance(value, float) else value
    if isinstance(value, Mapping):
        return {str(plain(name)): plain(inner) for name, inner in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(inner) for inner in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if kind.__name__ in NULLS:
        return None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, datetime):
        return moment(value)
    if kind.__module__ == "numpy":
        return of_numpy(value)
    if isinstance(value, timedelta) and kind is not timedelta:
        # pandas' durations; ISO 8601 has room for their nanoseconds.
        return as_duration(value)
    if isinstance(value, date) and kind is not date:
        return date(value.year, value.month, value.day)
    if isinstance(value, str) and kind is not Nanoseconds:
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    return plain(float(value)) if isinstance(value, float) else value


def moment(value: datetime) -> datetime | Nanoseconds:
    """A datetime without what its library adds; pandas' keep their nanoseconds."""
    if getattr(value, "nanosecond", 0):
        return Nanoseconds(value.isoformat())
    return value if type(value) is datetime else datetime.fromisoformat(value.isoformat())


def as_duration(value: Any) -> timedelta | str:
    if getattr(value, "nanoseconds", 0):
        return str(value.isoformat())
    return timedelta(value.days, value.seconds, value.microseconds)


def of_numpy(value: Any) -> Any:
    if hasattr(value, "dtype") and value.dtype.kind == "M" and not value.shape:
        text = str(value)
        return None if text == "NaT" else Nanoseconds(text) if len(text) > len("2026-01-01T00:00:00.000000") else text
    if hasattr(value, "dtype") and value.dtype.kind == "m" and not value.shape:
        if str(value) == "NaT":
            return None
        exact = value.astype("timedelta64[us]")
        return exact.tolist() if exact == value else str(value)
    made = value.tolist() if hasattr(value, "tolist") else value
    return plain(made) if type(made) is not type(value) else str(value)


def as_text(value: Any) -> str:
    """A column's value inside a prompt: what is not there is empty, lists and objects are JSON.

    :raises TypeError: for bytes, whose encoding nobody told, and for what has no text of its own.
    """
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("bytes; decode them first")
    if isinstance(value, dict | list | bool):
        return to_json(value).decode()
    text = str(value).replace("T", " ", 1) if isinstance(value, Nanoseconds) else str(value)
    # A place in memory is another one in every process: a retry would take the same rows for others, and pay anew.
    if f"{id(value):x}" in text:
        raise TypeError(f"a value of type {type(value).__name__}, which has no text of its own")
    return text


def foreign(value: Any) -> Any:
    """What msgspec writes for types that it does not know; it refuses the rest."""
    if isinstance(value, Nanoseconds):
        return str.__str__(value)
    raise TypeError(f"a value of type {type(value).__name__}")


to_json = msgspec.json.Encoder(enc_hook=foreign).encode
#: keys sorted: the same rows make the same bytes in every process
to_stable_json = msgspec.json.Encoder(enc_hook=foreign, order="deterministic").encode
