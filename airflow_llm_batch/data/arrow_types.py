"""JSON schemas as Arrow types. Needs pyarrow, the extra ``parquet``."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

#: what a plain JSON type is in a column
PLAIN: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
#: whatever has no one type is stored as JSON text
JSON_TEXT = pa.string()
#: structures nested deeper than this are stored as JSON text; recursive ones would never end
DEEPEST = 20


def arrow_type(schema: Any, root: dict[str, Any] | None = None, depth: int = 0) -> pa.DataType:
    """The Arrow type of values that fit a JSON schema: objects are structs, arrays lists, all of them nullable.

    What has no single type (a union, an open object, a recursive definition) is JSON text.
    """
    root = root if root is not None else schema
    schema = resolve(schema, root)
    if depth > DEEPEST or not isinstance(schema, dict):
        return JSON_TEXT
    options = [option for option in (resolve(o, root) for o in schema.get("anyOf") or ()) if not is_null(option)]
    if options:
        return arrow_type(options[0], root, depth + 1) if len(options) == 1 else JSON_TEXT
    kinds = schema.get("type")
    kinds = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
    kind = kinds[0] if len(kinds) == 1 else type_of_constants(schema) if kinds == [None] else None
    if kind == "object" and schema.get("properties"):
        if schema.get("additionalProperties") not in (None, False) or schema.get("patternProperties"):
            return JSON_TEXT
        fields = schema["properties"].items()
        return pa.struct([pa.field(name, arrow_type(inner, root, depth + 1)) for name, inner in fields])
    if kind == "array" and isinstance(schema.get("items"), dict) and "prefixItems" not in schema:
        return pa.list_(arrow_type(schema["items"], root, depth + 1))
    return PLAIN.get(kind or "", JSON_TEXT)


def resolve(schema: Any, root: dict[str, Any]) -> Any:
    """The schema a local ``$ref`` points to."""
    for _ in range(DEEPEST):
        if not isinstance(schema, dict) or "$ref" not in schema:
            return schema
        target: Any = root
        for part in filter(None, str(schema["$ref"]).removeprefix("#").split("/")):
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        schema = target
    return None


def is_null(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def type_of_constants(schema: dict[str, Any]) -> str | None:
    """The type of an ``enum`` or ``const`` without one."""
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    kinds = {type(value) for value in values if value is not None}
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return names.get(kinds.pop()) if len(kinds) == 1 else None
