"""What the emulator refuses of schemas is what the vendors' documentation, SDKs and users say the vendors refuse."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import anthropic
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, Field

from airflow_llm_batch.emulator.schema_rules import anthropic_problem, openai_problem

CLOSED = {"additionalProperties": False}
TEXT = {"type": "string"}
LIST = {"type": "array", "items": TEXT}


def obj(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), **CLOSED}


def of(**keywords):
    """An object of one field, ``x``."""
    return obj(x=keywords)


def nested(levels):
    return obj(x=nested(levels - 1)) if levels else TEXT


def node(ref):
    return {
        "type": "object",
        "properties": {"next": {"anyOf": [ref, {"type": "null"}]}},
        "required": ["next"],
        **CLOSED,
    }


THING = {"$defs": {"thing": obj(a=TEXT)}}
ALPHABET = [chr(97 + n) for n in range(26)]
TYPELESS = "In context=('properties', 'x'), schema must have a 'type' key."
NOT_FALSE = "'additionalProperties' is required to be supplied and to be false."
TOP = "not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level. Found"
NOT_ALL = "'required' is required to be supplied and to be an array including every key in properties."
NO_CLOSING = "For 'object' type, 'additionalProperties' must be explicitly set to false"
CIRCULAR = "Circular reference detected in schema definitions: "
EMPTY = "Empty schema ({}) that accepts any JSON value is not supported"
FAR = "reference can only point to definitions defined at the top level of the schema."


def banned(keyword):
    return f"In context=('properties', 'x'), '{keyword}' is not permitted."


def unsupported(kind, keyword):
    return f"For '{kind}' type, property '{keyword}' is not supported"


# The rule, as documented or reported; a schema; what OpenAI's strict mode says of it; what Anthropic says of it.
RULES = [
    ("basic types", obj(a=TEXT, b={"type": "number"}, c={"type": "integer"}, d={"type": "boolean"}), None, None),
    ("arrays and nested objects", obj(a={"type": "array", "items": obj(b=TEXT)}), None, None),
    ("annotations", {**of(type="string", title="T", description="d"), "title": "T", "description": "d"}, None, None),
    ("nullable by a list of types", of(type=["string", "null"]), None, None),
    ("nullable by anyOf", of(anyOf=[TEXT, {"type": "null"}]), None, None),
    ("anyOf of objects", of(anyOf=[obj(a=TEXT), obj(b=TEXT)], description="either"), None, None),
    ("an enum", of(type="string", enum=["a", "b"]), None, None),
    ("a const", of(type="string", const="a"), None, None),
    ("an object of no properties", obj(), None, None),
    ("a property called as a keyword", obj(default=TEXT, oneOf=TEXT, minimum=TEXT, pattern=TEXT), None, None),
    # the root
    ("the root must be an object", {"type": "array", "items": TEXT}, "got 'type: \"array\"'.", None),
    ("the root must have a type", {"anyOf": [obj(a=TEXT)]}, "got 'type: \"None\"'.", None),
    ("the root must not be nullable", {**obj(), "type": ["object", "null"]}, "got 'type: \"object, null\"'.", None),
    ("no anyOf at the root", {**obj(a=TEXT), "anyOf": [obj(a=TEXT)]}, f"{TOP} 'anyOf'.", "For 'anyOf', 'add"),
    ("no oneOf at the root", {**obj(a=TEXT), "oneOf": [obj(a=TEXT)]}, f"{TOP} 'oneOf'.", "Schema type 'oneOf' is not"),
    # objects
    ("additionalProperties is there", {"type": "object", "properties": {}}, f"=(), {NOT_FALSE}", NO_CLOSING),
    ("in nested objects too", of(type="object", properties={}), f"=('properties', 'x'), {NOT_FALSE}", NO_CLOSING),
    ("additionalProperties not true", {**obj(), "additionalProperties": True}, NOT_FALSE, "Properties: true' is not"),
    ("additionalProperties a schema", {**obj(), "additionalProperties": TEXT}, NOT_FALSE, "Properties: object' is"),
    ("nullable objects closed too", of(type=["object", "null"], properties={}), NOT_FALSE, NO_CLOSING),
    ("objects need properties", {"type": "object", **CLOSED}, "object schema missing properties.", None),
    ("all fields must be required", {**obj(a=TEXT), "required": []}, f"{NOT_ALL} Missing 'a'.", None),
    ("required must be there", {"type": "object", "properties": {"a": TEXT}, **CLOSED}, "Missing 'a'.", None),
    ("required has known keys only", {**obj(a=TEXT), "required": ["a", "b"]}, "Extra required key 'b' supplied.", None),
    # types
    ("every schema has a type", of(description="anything"), TYPELESS, EMPTY),
    ("an empty schema", of(), TYPELESS, EMPTY),
    ("a boolean schema", obj(x=True), TYPELESS, EMPTY),
    ("a default is no type", of(title="Value", default=None), banned("default"), "Schema type is missing for schema"),
    ("an enum needs a type at OpenAI", of(enum=["a", "b"]), TYPELESS, None),
    ("a const needs a type at OpenAI", of(const="a"), TYPELESS, None),
    ("an unknown type", of(type="text"), "'text' is not valid under any of the given schemas.", "type 'text' is not"),
    ("a type that is no string", of(type=7), "'<number>' is not valid", "Schema type '<number>' is not"),
    ("an array without items", of(type="array"), "array schema missing items.", None),
    ("items of a tuple", of(type="array", items=[TEXT]), "'x', 'items'), schema must have", "a single object schema"),
    # composition
    ("nested oneOf", of(oneOf=[TEXT]), banned("oneOf"), "Schema type 'oneOf' is not supported"),
    ("allOf", of(allOf=[obj(a=TEXT)]), banned("allOf"), None),
    ("allOf with $ref", {**of(allOf=[{"$ref": "#/$defs/thing"}]), **THING}, banned("allOf"), "For 'allOf', '$ref'"),
    ("allOf beside properties", of(**obj(a=TEXT), allOf=[obj(a=TEXT)]), banned("allOf"), "'additionalProperties, prop"),
    ("type beside anyOf", of(type="string", anyOf=[TEXT]), None, "For 'anyOf', 'type' is not supported"),
    ("definitions beside anyOf", {"anyOf": [obj()], **THING}, "got 'type: \"None\"'.", "For 'anyOf', '$defs' is not"),
    ("anyOf must have schemas", of(anyOf=[]), "[] should be non-empty.", None),
    ("anyOf's schemas keep the rules", of(anyOf=[{"type": "object"}]), "'x', 'anyOf', '0'), 'additional", NO_CLOSING),
    ("not", of(type="string", **{"not": TEXT}), banned("not"), "Schema keyword 'not' is not supported"),
    ("if", {**obj(a=TEXT), "if": obj(a=TEXT)}, "In context=(), 'if' is not permitted.", unsupported("object", "if")),
    ("then and else", {**obj(), "then": {}, "else": {}}, "'then' is not permitted.", "properties else, then are not"),
    ("dependentRequired", of(**obj(), dependentRequired={}), banned("dependentRequired"), "'dependentRequired' is not"),
    ("dependentSchemas", of(**obj(), dependentSchemas={}), banned("dependentSchemas"), "'dependentSchemas' is not"),
    # constraints
    ("minimum", of(type="integer", minimum=1), None, unsupported("integer", "minimum")),
    ("several", of(type="number", minimum=1, maximum=2), None, "'number' type, properties maximum, minimum are not"),
    ("exclusiveMaximum", of(type="number", exclusiveMaximum=1), None, unsupported("number", "exclusiveMaximum")),
    ("multipleOf", of(type="number", multipleOf=2), None, unsupported("number", "multipleOf")),
    ("of a nullable number", of(type=["integer", "null"], minimum=1), None, unsupported("number", "minimum")),
    ("minLength", of(type="string", minLength=1), None, unsupported("string", "minLength")),
    ("maxLength", of(type="string", maxLength=1), None, unsupported("string", "maxLength")),
    ("minItems of 1", of(**LIST, minItems=1), None, None),
    ("minItems of 2", of(**LIST, minItems=2), None, "'minItems' values other than 0 or 1 are not"),
    ("maxItems", of(**LIST, maxItems=2), None, unsupported("array", "maxItems")),
    ("uniqueItems", of(**LIST, uniqueItems=True), banned("uniqueItems"), unsupported("array", "uniqueItems")),
    ("prefixItems", of(**LIST, prefixItems=[TEXT]), banned("prefixItems"), unsupported("array", "prefixItems")),
    ("contains", of(**LIST, contains=TEXT), banned("contains"), unsupported("array", "contains")),
    ("minProperties", of(**obj(), minProperties=1), banned("minProperties"), unsupported("object", "minProperties")),
    ("propertyNames", of(**obj(), propertyNames={}), banned("propertyNames"), unsupported("object", "propertyNames")),
    ("patternProperties", of(**obj(), patternProperties={}), banned("patternProperties"), "'patternProperties' is not"),
    ("default", of(type="string", default="a"), banned("default"), None),
    # strings
    ("format", of(type="string", format="date-time"), None, None),
    ("format uri", of(type="string", format="uri"), "'uri' is not a valid format.", None),
    ("an unknown format", of(type="string", format="phone"), "'phone' is not a valid", "format 'phone' is not supp"),
    ("pattern", of(type="string", pattern=r"^[A-Z(?=]{2}(?:-\d+)?\(\?=$"), None, None),
    ("look-ahead", of(type="string", pattern="^(?=a)b"), "Found at $.properties.x.pattern.", "Invalid regex in"),
    ("look-behind", of(type="string", pattern="(?<!a)b"), "regex lookaround is not supported.", "Invalid regex in"),
    ("a back-reference", of(type="string", pattern=r"(a)\1"), None, "Invalid regex in pattern field"),
    ("a word boundary", of(type="string", pattern=r"\bword\b"), None, "Invalid regex in pattern field"),
    ("Unicode classes", of(type="string", pattern=r"^\p{L}+$"), r"'^\p{L}+$' is not a 'regex'.", None),
    # enums
    ("a mixed enum", of(type=["string", "integer"], enum=["a", 1]), "must be of the same type", "Enum value 'a'"),
    ("enum of objects", of(type="object", properties={}, **CLOSED, enum=[{}]), None, "Enum values must be strings"),
    ("a nullable enum", of(type=["string", "null"], enum=["a", None]), None, "declared type '['string', 'null']'"),
    ("an enum of another type", of(type="string", enum=["a", None]), None, "does not match declared type 'string'"),
    ("1000 enum values", of(type="integer", enum=list(range(1000))), None, None),
    ("1001 enum values", of(type="integer", enum=list(range(1001))), "at most 1000 enum values in total", None),
    ("250 long enum values", of(type="string", enum=[f"{n:090}" for n in range(250)]), None, None),
    ("251 long enum values", of(type="string", enum=[f"{n:090}" for n in range(251)]), "15000 total characters", None),
    # references
    ("definitions", {**of(**{"$ref": "#/$defs/thing"}), **THING}, None, None),
    ("definitions of old", {**of(**{"$ref": "#/definitions/thing"}), "definitions": THING["$defs"]}, None, None),
    ("definitions keep the rules", {**obj(), "$defs": {"a": {"type": "object"}}}, "('$defs', 'a'), 'addit", NO_CLOSING),
    ("words beside $ref", {**of(**{"$ref": "#/$defs/thing"}, title="T"), **THING}, "$ref cannot have keywords", None),
    ("a reference to nothing", of(**{"$ref": "#/$defs/a"}), "'#/$defs/a' which was not found", "non-existent"),
    ("a reference out", of(**{"$ref": "https://example.com/a"}), FAR, "External $ref is not supported"),
    ("a reference to a property", obj(a=TEXT, b={"$ref": "#/properties/a"}), FAR, None),
    ("recursion of the root", node({"$ref": "#"}), None, f"{CIRCULAR}# -> #. Self-referencing"),
    ("recursion of a definition", {**obj(), "$defs": {"n": node({"$ref": "#/$defs/n"})}}, None, f"{CIRCULAR}n -> n."),
    (
        "recursion of two definitions",
        {**obj(), "$defs": {"a": node({"$ref": "#/$defs/b"}), "b": node({"$ref": "#/$defs/a"})}},
        None,
        CIRCULAR,
    ),
    # sizes
    ("10 levels of nesting", nested(10), None, None),
    ("11 levels of nesting", nested(11), "11 levels of nesting exceeds limit of 10.", None),
    ("5000 properties", obj(**{f"p{n}": TEXT for n in range(5000)}), None, None),
    ("5001 properties", obj(**{f"p{n}": TEXT for n in range(5001)}), "5001 parameters exceeds limit of 5000.", None),
    ("long names", obj(**{f"{n:060}": TEXT for n in range(2000)}), None, None),
    ("too long names", obj(**{f"{n:061}": TEXT for n in range(2000)}), "120000 total characters across property", None),
    ("24 optional", {**obj(**dict.fromkeys(ALPHABET, TEXT)), "required": ["a", "b"]}, "Missing 'c'.", None),
    ("25 optional", {**obj(**dict.fromkeys(ALPHABET, TEXT)), "required": ["a"]}, "Missing 'b'.", "parameters (25)"),
    ("16 unions", obj(**{key: {"type": ["string", "null"]} for key in ALPHABET[:16]}), None, None),
    ("17 unions", obj(**{key: {"anyOf": [TEXT]} for key in ALPHABET[:17]}), None, "(17 parameters with type arrays or"),
]  # fmt: skip


def agrees(problem, fragment):
    return problem is None if fragment is None else fragment in (problem or "")


@pytest.mark.parametrize(
    ("schema", "refusal", "other_refusal"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES]
)
def test_the_documented_rules(schema, refusal, other_refusal):
    assert agrees(openai_problem("thing", schema, True), refusal), openai_problem("thing", schema, True)
    assert agrees(anthropic_problem(schema), other_refusal), anthropic_problem(schema)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a-Z_9", None),
        ("n" * 64, None),
        ("n" * 65, "maximum length 64, but got a string with length 65 instead."),
        ("a.b", "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."),
        ("naïve", "Invalid 'response_format.json_schema.name': string does not match pattern."),
        ("", "string does not match pattern"),
        ("a\n", "string does not match pattern"),
        (None, "Missing required parameter: 'response_format.json_schema.name'."),
        (7, "Invalid type for 'response_format.json_schema.name': expected a string."),
    ],
)
def test_openai_names(name, message):
    assert agrees(openai_problem(name, obj(), True), message)
    assert agrees(openai_problem(name, obj(), False), message)


def test_the_message_says_what_is_refused():
    wrong = of(type="string", format="uri")
    assert openai_problem("weather", wrong, True) == (
        "Invalid schema for response_format 'weather': In context=('properties', 'x'), 'uri' is not a valid format."
    )
    assert openai_problem("weather", wrong, True, "function").startswith("Invalid schema for function 'weather': In ")
    assert "tools[0].function.name" in openai_problem("a b", wrong, True, "function")


def test_without_strict_only_the_name_and_the_root_count():
    assert openai_problem("a", {"type": "object", "oneOf": [{"default": 1}]}, False) is None
    assert "got 'type: \"array\"'." in openai_problem("a", {"type": "array"}, False)
    for nothing in (None, [], "object", 1, True, {}):
        assert "got 'type: \"None\"'." in openai_problem("a", nothing, False)


def test_anthropic_needs_a_schema():
    assert anthropic_problem(None) == "Field required"
    assert anthropic_problem([]) == "Input should be a valid dictionary"


KEYWORDS = [
    "type", "properties", "required", "additionalProperties", "items", "anyOf", "allOf", "oneOf", "$ref", "$defs",
    "definitions", "enum", "const", "format", "pattern", "minItems", "minimum", "description", "x",
]  # fmt: skip
WORDS = st.sampled_from(
    ["object", "array", "string", "null", "#", "#/", "#/$defs/x", "#/anyOf/0", "uri", "(?=", "[", "\\"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYWORDS) | st.text(), inner, max_size=6)
    ),
    max_leaves=30,
)


@settings(max_examples=400)
@given(odd=JSON, schema=JSON | JSON.map(lambda odd: {**of(), "properties": {"x": odd}, "$defs": odd}))
def test_no_value_is_too_odd(odd, schema):
    for problem in (
        openai_problem("a", schema, True),
        openai_problem(odd, schema, False),
        anthropic_problem(schema),
    ):
        assert problem is None or problem


def test_deep_and_wide_schemas_end():
    deep = TEXT
    for _ in range(5000):
        deep = {"anyOf": [deep]}
    assert openai_problem("a", obj(x=deep), True) is None
    assert anthropic_problem(obj(x=deep)) is None
    chain = {f"d{n}": node({"$ref": f"#/$defs/d{n + 1}"}) for n in range(2000)}
    assert anthropic_problem({**obj(), "$defs": {**chain, "d2000": TEXT}}).startswith("Schemas contains too many param")
    assert anthropic_problem({**obj(), "$defs": {**chain, "d2000": node({"$ref": "#/$defs/d0"})}}).startswith(CIRCULAR)
    assert openai_problem("a", {**obj(), "$defs": {**chain, "d2000": node({"$ref": "#/$defs/d0"})}}, True) is None
    for pattern in ("(" * 5000, "[a" * 100_000, "(?:a" * 5000):
        assert openai_problem("a", of(type="string", pattern=pattern), True).endswith("is not a 'regex'.")
        assert anthropic_problem(of(type="string", pattern=pattern)) is None


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Part(BaseModel):
    mood: Mood = Field(description="how it was")
    kind: Literal["part"]
    scores: list[Annotated[int, Field(ge=0, le=10)]]


class Whole(BaseModel):
    name: Annotated[str, Field(min_length=1)]
    site: AnyUrl
    part: Part = Field(description="the one")
    others: list[Part] | None
    either: Part | int | None
    limits: Annotated[list[str], Field(min_length=2, max_length=5)]


def test_what_the_sdks_make_of_models_is_taken():
    tool = openai.pydantic_function_tool(Part)["function"]
    assert tool["strict"]
    assert openai_problem(tool["name"], tool["parameters"], True, "function") is None
    assert anthropic_problem(anthropic.transform_schema(Whole)) is None
    assert anthropic_problem(Whole.model_json_schema()).startswith("For ")
    assert NOT_FALSE in openai_problem("whole", Whole.model_json_schema(), True)
