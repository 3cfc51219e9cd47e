"""OpenAPI's ``nullable``, which JSON schema does not know: a null would be paid for, and not fit."""

from __future__ import annotations

from typing import Any

#: keywords whose members are schemas by name, and those that hold values
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
VALUES = frozenset({"enum", "const", "default", "examples", "example"})
NULL = {"type": "null"}
#: what belongs to the whole of a schema, whichever of two it is
BESIDE = ("description", "title", "$defs", "definitions", "$schema", "$id")


def with_nulls(schema: Any) -> Any:
    """A schema in which what is ``nullable`` may be null."""
    if isinstance(schema, list):
        return [with_nulls(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        name: {key: with_nulls(inner) for key, inner in value.items()}
        if name in NAMED and isinstance(value, dict)
        else value
        if name in VALUES
        else with_nulls(value)
        for name, value in schema.items()
    }
    if made.get("nullable") is not True:
        return made
    del made["nullable"]
    if isinstance(made.get("type"), str) and not made.keys() & {"enum", "const", "$ref", "anyOf", "oneOf", "allOf"}:
        return {**made, "type": [made["type"], "null"]}
    beside = {name: made.pop(name) for name in BESIDE if name in made}
    return {**beside, "anyOf": [made, NULL]}
