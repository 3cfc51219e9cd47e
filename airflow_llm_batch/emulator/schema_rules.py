"""JSON schemas the vendors refuse, by OpenAI's Structured Outputs guide, Anthropic's page of that name and their SDKs.

Where these are silent about a keyword it is taken, unless users report that the vendor refuses it.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]

TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
DEFINITIONS = ("$defs", "definitions")
OPENAI_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
ANTHROPIC_FORMATS = (*OPENAI_FORMATS, "uri")

# Not minLength and maxLength: the guide has them refused to fine-tuned models only. default: Azure refuses it still.
OPENAI_REFUSED = (
    "oneOf", "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "default",
    "patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "prefixItems",
    "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems", "contentSchema",
)  # fmt: skip
ANTHROPIC_REFUSED = {
    "number": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "string": ("maxLength", "minLength"),
    "array": ("contains", "maxContains", "maxItems", "minContains", "prefixItems", "unevaluatedItems", "uniqueItems"),
    "object": (
        "dependentRequired", "dependentSchemas", "else", "if", "maxProperties", "minProperties", "patternProperties",
        "propertyNames", "then", "unevaluatedProperties",
    ),
}  # fmt: skip
BESIDE_UNION = {"$defs", "$ref", "additionalProperties", "discriminator", "properties", "required", "type"}

# Escapes, classes (nothing within one is special) and openings of groups.
REGEX_PART = re.compile(r"\\.|\[\^?\]?(?:\\.?|[^\]\\])*(?:\]|\Z)|\(\?<?.", re.DOTALL)


def openai_problem(name: Any, schema: Any, strict: bool, context: str = "response_format") -> str | None:
    """OpenAI's message about a ``json_schema`` format or, as ``context`` says, a ``function``; None if it is taken."""
    places = {"response_format": "response_format.json_schema.name", "function": "tools[0].function.name"}
    place = places.get(context, f"{context}.name")
    if not isinstance(name, str):
        missing = f"Missing required parameter: '{place}'."
        return missing if name is None else f"Invalid type for '{place}': expected a string."
    if len(name) > 64:
        most = "Expected a string with maximum length 64, but got a string with length"
        return f"Invalid '{place}': string too long. {most} {len(name)} instead."
    if not re.fullmatch("[a-zA-Z0-9_-]+", name):
        pattern = "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        return f"Invalid '{place}': string does not match pattern. {pattern}"
    if mapping(schema).get("type") != "object":
        got = ", ".join(types(mapping(schema))) or None
        problem: str | None = f"""schema must be a JSON Schema of 'type: "object"', got 'type: "{got}"'."""
    else:
        problem = next(openai_problems(schema), None) if strict else None
    if problem is None or problem.startswith("Invalid JSON schema"):
        return problem
    return f"Invalid schema for {context} '{name}': {problem}"


def openai_problems(schema: dict[str, Any]) -> Iterator[str]:
    """What strict mode has against a schema, in the order in which it is found."""
    banned = "'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level"
    top = (key for key in ("oneOf", "anyOf", "enum", "not") if key in schema)
    yield from (f"schema must have type 'object' and not have {banned}. Found '{key}'." for key in top)
    properties = values = characters = longest = deepest = 0
    for path, node, level in nodes(schema):
        for problem in openai_node_problems(node, schema):
            yield f"{'context' if problem.startswith('$ref') else 'In context'}={path}, {problem}"
        if {"(?=", "(?!", "(?<=", "(?<!"}.intersection(regex_parts(node)):
            spot = "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in path)
            yield f"Invalid JSON schema: regex lookaround is not supported. Found at ${spot}.pattern."
        enum = sequence(node.get("enum"))
        length = sum(map(len, strings(enum)))
        keys = [key for place in ("properties", *DEFINITIONS) for key in mapping(node.get(place))]
        properties += len(mapping(node.get("properties")))
        values += len(enum)
        characters += length + sum(map(len, [*keys, *strings([node.get("const")])]))
        longest = max(longest, length if len(enum) > 250 else 0)
        deepest = max(deepest, level)
    if deepest > 10:
        yield f"{deepest} levels of nesting exceeds limit of 10."
    if properties > 5000:
        yield f"{properties} parameters exceeds limit of 5000."
    if values > 1000:
        where = "in total within a single schema when using structured outputs"
        yield f"Expected at most 1000 enum values {where}, but received {values}."
    if longest > 15_000:
        where = "across enum values when there are more than 250 enum values"
        yield f"Expected at most 15000 total characters {where}, but received {longest}."
    if characters > 120_000:
        where = "across property names, definition names, enum values and const values"
        yield f"Expected at most 120000 total characters {where}, but received {characters}."


def openai_node_problems(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """What strict mode has against one schema within ``schema``, its inner ones aside."""
    if "$ref" in node:
        if others := ", ".join(repr(key) for key in node if key != "$ref"):
            yield f"$ref cannot have keywords {{{others}}}."
        where = target(schema, node["$ref"])
        if where is None and shown(node["$ref"]).startswith("#"):
            yield f"reference to component '{node['$ref']}' which was not found."
        if where is None or (where and (len(where) != 2 or where[0] not in DEFINITIONS)):
            yield "reference can only point to definitions defined at the top level of the schema."
        return
    declared, properties, required = types(node), mapping(node.get("properties")), strings(node.get("required"))
    yield from (f"'{key}' is not permitted." for key in OPENAI_REFUSED if key in node)
    yield from (f"'{one}' is not valid under any of the given schemas." for one in declared if one not in TYPES)
    if "anyOf" in node and not sequence(node["anyOf"]):
        yield "[] should be non-empty."
    if not declared and "anyOf" not in node:
        yield "schema must have a 'type' key."
    if "object" in declared or "properties" in node:
        if node.get("additionalProperties") is not False:
            yield "'additionalProperties' is required to be supplied and to be false."
        if not isinstance(node.get("properties"), dict):
            yield "object schema missing properties."
        rule = "'required' is required to be supplied and to be an array including every key in properties."
        yield from (f"{rule} Missing '{key}'." for key in properties if key not in required)
        yield from (f"{rule} Extra required key '{key}' supplied." for key in sorted(required - properties.keys()))
    if "array" in declared and "items" not in node:
        yield "array schema missing items."
    if len({kind(value) for value in sequence(node.get("enum"))} - {"null"}) > 1:
        yield "enum values must be of the same type."
    if "format" in node and node["format"] not in OPENAI_FORMATS:
        yield f"'{shown(node['format'])}' is not a valid format."
    try:
        re.compile(shown(node.get("pattern", "")))
    except (re.error, OverflowError, RecursionError, Warning):
        yield f"'{node['pattern']}' is not a 'regex'."


def anthropic_problem(schema: Any) -> str | None:
    """Anthropic's message about a format's schema or a strict tool's, less the field's name before it."""
    if not isinstance(schema, dict):
        return "Field required" if schema is None else "Input should be a valid dictionary"
    return next(anthropic_problems(schema), None)


def anthropic_problems(schema: dict[str, Any]) -> Iterator[str]:
    """What Anthropic has against a schema, in the order in which it is found."""
    optional = unions = 0
    links: dict[Path, set[Path]] = {}
    cycle: list[Path] = []
    for path, node, _ in nodes(schema):
        yield from anthropic_node_problems(node, schema)
        properties = mapping(node.get("properties"))
        optional += len(properties.keys() - strings(node.get("required")))
        unions += sum("anyOf" in mapping(p) or isinstance(mapping(p).get("type"), list) for p in properties.values())
        where = target(schema, node.get("$ref"))
        if where is not None and path[: len(where)] == where:
            cycle = [where, where]
        elif where and path and where[0] in DEFINITIONS and path[0] in DEFINITIONS and where[:2] != path[:2]:
            links.setdefault(path[:2], set()).add(where[:2])
    try:
        graphlib.TopologicalSorter(links).prepare()
    except graphlib.CycleError as error:
        cycle = error.args[1][::-1]
    if cycle:
        way = " -> ".join(place[-1] if place else "#" for place in cycle)
        why = "Self-referencing or mutually-referencing definitions are not supported."
        yield f"Circular reference detected in schema definitions: {way}. {why}"
    if optional > 24:
        what = f"too many optional parameters ({optional}), which would make grammar compilation inefficient"
        yield f"Schemas contains {what}. Reduce the number of optional parameters in your tool schemas (limit: 24)."
    if unions > 16:
        what = f"too many parameters with union types ({unions} parameters with type arrays or anyOf)"
        advice = "Reduce the number of nullable or union-typed parameters (limit: 16 parameters with unions)."
        yield f"Schemas contains {what}. This causes exponential compilation cost. {advice}"


def anthropic_node_problems(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:  # noqa: C901, PLR0915
    """What Anthropic has against one schema within ``schema``, its inner ones aside."""
    if not node.keys() - {"title", "description"}:
        yield "Empty schema ({}) that accepts any JSON value is not supported. Please specify a concrete type."
        return
    declared = types(node)
    if "oneOf" in node:
        yield "Schema type 'oneOf' is not supported"
    if "not" in node:
        yield "Schema keyword 'not' is not supported"
    if any("$ref" in mapping(part) for part in sequence(node.get("allOf"))):
        yield "For 'allOf', '$ref' is not supported"
    if node.keys() & {"anyOf", "allOf"} and (beside := node.keys() & BESIDE_UNION):
        yield f"For 'anyOf', '{', '.join(sorted(beside))}' is not supported"  # of allOf it says anyOf too
    if "$ref" in node and target(schema, node["$ref"]) is None:
        ref = shown(node["$ref"])
        lost = f"Invalid schema: Reference to non-existent definition: {ref}"
        yield lost if ref.startswith("#") else "External $ref is not supported"
    if not node.keys() & {"type", "$ref", "anyOf", "allOf", "enum", "const"}:
        yield "Invalid schema: Schema type is missing for schema: {...}"
    yield from (f"Schema type '{one}' is not supported" for one in declared if one not in TYPES)
    if "minItems" in node and node["minItems"] not in (0, 1):
        yield "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    for family, keywords in ANTHROPIC_REFUSED.items():
        if found := [key for key in keywords if key in node]:
            what = f"property '{found[0]}' is" if len(found) == 1 else f"properties {', '.join(found)} are"
            yield f"For '{declared[0] if len(declared) == 1 else family}' type, {what} not supported"
    if "object" in declared and "additionalProperties" not in node:
        yield "For 'object' type, 'additionalProperties' must be explicitly set to false"
    if (extra := node.get("additionalProperties", False)) is not False:
        given, advice = "true" if extra is True else kind(extra), "Please set 'additionalProperties' to false"
        yield f"For 'object' type, 'additionalProperties: {given}' is not supported. {advice}"
    if "items" in node and not isinstance(node["items"], dict):
        yield "Invalid schema: Array types must be specified with a single object schema for 'items'."
    for value in sequence(node.get("enum")):
        fitting = ("number", "integer") if kind(value) == "number" else (kind(value),)
        if isinstance(value, dict | list):
            yield "Invalid schema: Enum values must be strings, numbers, booleans, or null"
        elif isinstance(node.get("type"), list) or (declared and declared[0] not in fitting):
            shown_type = declared if isinstance(node["type"], list) else declared[0]
            yield f"Invalid schema: Enum value '{shown(value)}' does not match declared type '{shown_type}'"
    if "format" in node and "string" in (declared or ["string"]) and node["format"] not in ANTHROPIC_FORMATS:
        yield f"For 'string' type, format '{shown(node['format'])}' is not supported"
    for part in regex_parts(node):
        if (part.startswith("(?") and part != "(?:") or re.fullmatch(r"\\[bBk1-9]", part):
            yield f"Invalid regex in pattern field: '{part}' is not supported"


def nodes(schema: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Every schema in ``schema``, itself first: where it is, itself ({} if no object), how many levels down it is."""
    waiting: list[tuple[Path, Any, int]] = [((), schema, 0)]  # a list, for a schema may be deeper than the stack
    while waiting:
        path, node, level = waiting.pop()
        node = mapping(node)
        yield path, node, level
        inner = [
            ((*path, place, key), child, level + (place == "properties"))
            for place in ("properties", *DEFINITIONS)
            for key, child in mapping(node.get(place)).items()
        ]
        if "items" in node:
            inner.append(((*path, "items"), node["items"], level + 1))
        for place in ("anyOf", "allOf"):
            inner += [((*path, place, str(i)), child, level) for i, child in enumerate(sequence(node.get(place)))]
        waiting += reversed(inner)


def target(schema: Any, ref: Any) -> Path | None:
    """Where in the schema a reference leads; None when it leads out of it or nowhere."""
    if not isinstance(ref, str) or not re.match("#(/|$)", ref):
        return None
    path = tuple(part.replace("~1", "/").replace("~0", "~") for part in ref.split("/")[1:])
    for part in path:
        if isinstance(schema, list) and re.fullmatch("[0-9]{1,6}", part) and int(part) < len(schema):
            schema = schema[int(part)]
        elif part in mapping(schema):
            schema = schema[part]
        else:
            return None
    return path


def types(node: dict[str, Any]) -> list[str]:
    """The types a schema declares; what is no string is put in brackets, to be no type's name."""
    declared = node.get("type", [])
    given = declared if isinstance(declared, list) else [declared]
    return [one if isinstance(one, str) else f"<{kind(one)}>" for one in given]


def regex_parts(node: dict[str, Any]) -> list[str]:
    return REGEX_PART.findall(shown(node.get("pattern", "")))


def kind(value: Any) -> str:
    """The JSON type of a value."""
    kinds = ((type(None), "null"), (bool, "boolean"), (int | float, "number"), (str, "string"), (list, "array"))
    return next((name for python, name in kinds if isinstance(value, python)), "object")


def shown(value: Any) -> str:
    return value if isinstance(value, str) else kind(value)


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def strings(value: Any) -> set[str]:
    return {one for one in sequence(value) if isinstance(one, str)}
