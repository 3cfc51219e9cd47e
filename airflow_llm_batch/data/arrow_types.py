"""JSON schemas, and kinds of columns, as Arrow types and the values that go there. Needs pyarrow."""

from __future__ import annotations

import base64
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa

from airflow_llm_batch.exceptions import Unwritable
from airflow_llm_batch.providers.json_lines import legal

#: what a plain JSON type is in a column
PLAIN: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamp_tz": pa.timestamp("us", "UTC"),
    "timestamp_ns": pa.timestamp("ns"),
    "timestamp_ns_tz": pa.timestamp("ns", "UTC"),
    "binary": pa.binary(),
}
#: kinds that JSON has, and what their values are
EXACTLY: dict[str, type] = {"string": str, "integer": int, "boolean": bool}
#: whatever has no one type is stored as JSON text
JSON_TEXT = pa.string()
#: structures nested deeper than this are stored as JSON text
DEEPEST = 20
#: fields of a struct, nested ones included; what has more is stored as JSON text
MOST_FIELDS = 1000


def arrow_type(schema: dict[str, Any]) -> pa.DataType:
    """The Arrow type of values that fit a JSON schema: closed objects are structs, arrays lists, all of them nullable.

    What has no single type (a union, an object that may have other properties, a recursive definition) is JSON text.
    """
    return Types(schema).of(schema)


class Types:
    """The types of one schema's parts; each definition's is made once.

    :ivar endless: references to definitions that hold themselves.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.made: dict[str, pa.DataType] = {}
        self.endless = endless_refs(root)

    def of(self, schema: Any, depth: int = 0) -> pa.DataType:
        if not isinstance(schema, dict) or depth > DEEPEST:
            return JSON_TEXT
        if "$ref" in schema:
            ref = str(schema["$ref"])
            if ref not in self.made:
                self.made[ref] = JSON_TEXT if ref in self.endless else self.of(target_of(self.root, ref), depth + 1)
            return self.made[ref]
        options = [option for option in schema.get("anyOf") or schema.get("oneOf") or () if not is_null(option)]
        if options:
            return self.of(options[0], depth + 1) if len(options) == 1 else JSON_TEXT
        kinds = schema.get("type")
        kinds = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
        if kinds == [None]:
            kind = type_of_constants(schema)
        if kind == "object":
            return self.struct(schema, depth)
        if kind == "array" and isinstance(schema.get("items"), dict) and "prefixItems" not in schema:
            return pa.list_(self.of(schema["items"], depth + 1))
        return PLAIN[kind] if kind in ("string", "integer", "number", "boolean") else JSON_TEXT

    def struct(self, schema: dict[str, Any], depth: int) -> pa.DataType:
        closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
        properties = schema.get("properties")
        if not closed or not isinstance(properties, dict) or not properties or "allOf" in schema:
            return JSON_TEXT
        made = pa.struct([pa.field(name, self.of(inner, depth + 1)) for name, inner in properties.items()])
        return made if fields_in(made) <= MOST_FIELDS else JSON_TEXT


def fields_in(kind: pa.DataType) -> int:
    return 1 + sum(fields_in(kind.field(place).type) for place in range(kind.num_fields))


def endless_refs(root: dict[str, Any]) -> set[str]:
    """The references whose definition leads back to itself, or nowhere."""
    leads: dict[str, set[str]] = {}
    queue = list(refs_in(root))
    while queue:
        ref = queue.pop()
        if ref not in leads:
            leads[ref] = refs_in(target_of(root, ref))
            queue += leads[ref]
    endless = set()
    for ref in leads:
        seen: set[str] = set()
        ahead = list(leads[ref])
        while ahead and ref not in seen:
            if (name := ahead.pop()) not in seen:
                seen.add(name)
                ahead += leads[name]
        if ref in seen or target_of(root, ref) is None:
            endless.add(ref)
    return endless


def refs_in(schema: Any) -> set[str]:
    found: set[str] = set()
    queue = [schema]
    while queue:
        part = queue.pop()
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                found.add(part["$ref"])
            queue += (inner for name, inner in part.items() if name not in ("$defs", "definitions", "enum", "const"))
        elif isinstance(part, list):
            queue += part
    return found


def target_of(root: Any, ref: str) -> Any:
    """What a local reference points to, None for one that points nowhere."""
    if not ref.startswith("#"):
        return None
    target: Any = root
    for part in filter(None, ref.removeprefix("#").split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, dict) else None
    return target


def is_null(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def type_of_constants(schema: dict[str, Any]) -> str | None:
    """The type of an ``enum`` or ``const`` without one."""
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    kinds = {type(value) for value in values if value is not None}
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return names.get(kinds.pop()) if len(kinds) == 1 else None


def of_any_length(kind: pa.DataType) -> pa.DataType:
    """The type that every reader takes: pyarrow before 26 reads no null among lists of fixed size."""
    return pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind


def fit(value: Any, kind: pa.DataType) -> Any:
    """An answer, which fits its schema, for a column of the schema's type.

    :raises Unwritable: for what the column cannot hold, and the schema allows.
    """
    if value is None:
        return None
    if pa.types.is_struct(kind):
        if not isinstance(value, dict):
            raise Unwritable(f"{as_json(value)[:80]} is no object")
        return {field.name: fit(value.get(field.name), field.type) for field in kind}
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            raise Unwritable(f"{as_json(value)[:80]} is no array")
        return [fit(item, kind.value_type) for item in value]
    if pa.types.is_string(kind):
        return legal_text(value) if isinstance(value, str) else as_json(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        if pa.types.is_boolean(kind) and isinstance(value, bool):
            return value
        raise Unwritable(f"{as_json(value)[:80]} is not of the column's type {kind}")
    if pa.types.is_int64(kind):
        if not -(2**63) <= value < 2**63 or value != int(value):
            raise Unwritable(f"the number {value} has more than the 64 bits that an integer column holds")
        return int(value)
    try:
        return float(value)
    except OverflowError:
        raise Unwritable(f"the number {str(value)[:80]} is too large for a column of numbers") from None


def kind_type(kind: str) -> pa.DataType:
    """The Arrow type of a kind of column (``data.kinds``)."""
    if kind.startswith("decimal:"):
        return pa.decimal128(38, int(kind.removeprefix("decimal:")))
    if kind.startswith("list:"):
        return pa.list_(kind_type(kind.removeprefix("list:")))
    return PLAIN.get(kind, JSON_TEXT)


def stored(value: Any, kind: str) -> Any:
    """A key or pass-through value, decoded from JSON, for a column of a kind that planning met."""
    if value is None:
        return None
    if kind in EXACTLY:
        if type(value) is not EXACTLY[kind]:
            raise TypeError(f"{as_json(value)[:80]} is a {type(value).__name__}")
        return value
    if kind.startswith("list:"):
        return [stored(item, kind.removeprefix("list:")) for item in value]
    if kind.startswith("decimal:"):
        return Decimal(str(value))
    return CONVERT[kind](value) if kind in CONVERT else as_json(value)


def nanoseconds(text: str) -> int:
    """A moment in ISO format as nanoseconds since 1970."""
    head, _, fraction = text[:19], text[19:20], text[20:]
    digits = "".join(c for c in fraction[:9] if c.isdigit()) if text[19:20] == "." else ""
    zone = fraction[len(digits) :] if digits else text[19:]
    at = datetime.fromisoformat(f"{head}{zone if zone else '+00:00'}")
    return int(at.timestamp()) * 10**9 + int(digits.ljust(9, "0") or 0)


CONVERT: dict[str, Any] = {
    "number": float,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "timestamp_tz": datetime.fromisoformat,
    "timestamp_ns": nanoseconds,
    "timestamp_ns_tz": nanoseconds,
    "binary": base64.b64decode,
}


def legal_text(text: Any) -> str:
    """A text that a column takes: lone halves of surrogate pairs are U+FFFD, and what is no text is JSON."""
    if not isinstance(text, str):
        return as_json(text)
    return text if text.isascii() or is_utf8(text) else str(legal(text))


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
