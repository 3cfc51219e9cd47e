"""The JSON schema of an answer: as it was given, as it is asked for, and as answers are held to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_llm_batch.exceptions import InputError

Schema = dict[str, Any]
#: where bodies hold the schema of their answers
SCHEMAS = (
    ("response_format", "json_schema", "schema"),
    ("text", "format", "schema"),
    ("output_config", "format", "schema"),
)
#: of JSON schema, that say what fits
KEYWORDS = frozenset(
    {"type", "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "items", "$ref"}
    | {"prefixItems", "anyOf", "oneOf", "allOf", "not", "if", "enum", "const", "contains", "$dynamicRef"}
)
#: keywords whose members are schemas by name, and those that hold values
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
VALUES = frozenset({"enum", "const", "default", "examples", "example"})
#: what belongs to the whole of a schema that may be null, too
BESIDE = ("description", "title", "$defs", "definitions", "$schema", "$id")
#: beside which a type is not all that says what fits
FITTING = frozenset({"enum", "const", "$ref", "anyOf", "oneOf", "allOf"})


def json_schema(output: Any) -> dict[str, Any] | None:
    """A Pydantic model class or a JSON schema as a JSON schema.

    :raises InputError: for anything else, an object that is no schema among it.
    """
    if isinstance(output, dict) and output and not output.keys() & KEYWORDS:
        raise InputError(
            f"output has {', '.join(map(repr, output))} and none of JSON schema's keywords, so any answer would fit; "
            "give the schema itself ({'type': 'object', 'properties': ...}), no example, and nothing around it. "
            "Nothing was sent."
        )
    if isinstance(output, dict):
        return with_nulls(output)
    if output is None:
        return None
    if hasattr(output, "model_json_schema"):
        return model_schema(output)
    raise InputError(f"output is {output!r}; give a Pydantic model class or a JSON schema as a dict. Nothing was sent.")


def asked_schema(output: Any) -> dict[str, Any]:
    """The schema as it is asked for: of a Pydantic model every property, those with a default too."""
    if isinstance(output, dict):
        return with_nulls(output)
    return model_schema(output, every=True)


def model_schema(model: Any, every: bool = False) -> dict[str, Any]:
    """A Pydantic model's schema.

    :raises InputError: for a model with what JSON has no form for.
    """
    from pydantic.errors import PydanticUserError

    try:
        schema = closed_objects(model.model_json_schema(), every)
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"output {model.__name__} has no JSON schema: {reason}. Nothing was sent.") from None
    return schema


def changed(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """A schema in which every schema is what ``change`` makes of it, the innermost first."""
    if isinstance(schema, list):
        return [changed(inner, change) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    made = {}
    for name, value in schema.items():
        if name in NAMED and isinstance(value, dict):
            made[name] = {key: changed(inner, change) for key, inner in value.items()}
        else:
            made[name] = value if name in VALUES else changed(value, change)
    return change(made)


def closed_objects(schema: Schema, every: bool = False) -> Schema:
    """A Pydantic model's schema with objects closed that the model leaves so: it ignores what it does not name.

    :param every: require every property, as strict modes want it.
    """

    def close(part: Schema) -> Schema:
        if part.get("type") == "object" and isinstance(part.get("properties"), dict):
            if every:
                part["required"] = list(part["properties"])
            part.setdefault("additionalProperties", False)
        return part

    closed: Schema = changed(schema, close)
    return closed


def with_nulls(schema: Schema) -> Schema:
    """A schema in which what OpenAPI calls ``nullable`` may be null: JSON schema does not know the word, and a null
    would be paid for, and not fit."""

    def null(part: Schema) -> Schema:
        if part.get("nullable") is not True:
            return part
        rest = {name: value for name, value in part.items() if name != "nullable"}
        if isinstance(rest.get("type"), str) and not rest.keys() & FITTING:
            return {**rest, "type": [rest["type"], "null"]}
        beside = {name: rest.pop(name) for name in BESIDE if name in rest}
        return {**beside, "anyOf": [rest, {"type": "null"}]}

    made: Schema = changed(schema, null)
    return made


def without_sets(schema: Schema) -> Schema:
    """A schema that takes duplicates: a Pydantic model reads its sets from them, and no vendor holds answers to it."""
    made: Schema = changed(schema, lambda part: {name: part[name] for name in part if name != "uniqueItems"})
    return made


def schema_of(body: Any) -> Schema | None:
    """The JSON schema that a body asks an answer to fit, in chat completions, the Responses API or messages."""
    for path in SCHEMAS:
        found = body
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found
    return None
