"""Schemas on their way to the vendors, judged by the emulator, whose rules come from the vendors' documentation.

``python tests/unit/test_schema_fitting.py`` writes the README's table anew.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel

from airflow_llm_batch.data import ChatRequest, RawRequest
from airflow_llm_batch.data.output_schema import json_schema
from airflow_llm_batch.data.outputs import OutputCheck
from airflow_llm_batch.emulator.schema_rules import anthropic_problem, openai_problem
from airflow_llm_batch.emulator.schemas import fill_schema
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.providers.schemas import ANTHROPIC, GEMINI, OPENAI, Unfit, fit, is_object
from airflow_llm_batch.results import Result

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- schemas: tests/unit/test_schema_fitting.py -->", "<!-- /schemas -->"
VENDORS = {"OpenAI": OpenAI("http://h"), "Anthropic": Anthropic("http://h")}


LOOK_AHEAD = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"


class Product(BaseModel):
    name: str


class Described(BaseModel):
    product: Product = Field(description="what it is about")


class Car(BaseModel):
    kind: Literal["car"]


class Bike(BaseModel):
    kind: Literal["bike"]


class Union(BaseModel):
    items: list[Annotated[Car | Bike, Field(discriminator="kind")]]


class Defaults(BaseModel):
    note: str | None = None
    stars: int = 3


class Bounds(BaseModel):
    score: int = Field(ge=1, le=10)
    summary: str = Field(max_length=280)
    tags: list[str] = Field(min_length=2, max_length=5)


class Money(BaseModel):
    model_config = ConfigDict(regex_engine="python-re")
    total: Annotated[str, Field(pattern=LOOK_AHEAD)]


class Pair(BaseModel):
    at: tuple[int, int]


class Open(BaseModel):
    attributes: dict[str, str]


class Anything(BaseModel):
    value: Any


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Comment(BaseModel):
    text: str
    replies: list[Comment] = []


class Holder(BaseModel):
    comment: Comment


class Listed(RootModel[list[Product]]):
    pass


class Mixed(BaseModel):
    code: Literal["a", 1, None]


class Colour(BaseModel):
    """A name beyond ASCII is only a name."""

    model_config = ConfigDict(title="Größe")
    value: Optional[Literal["rot", "blau"]]  # noqa: UP045


def closed(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def deep(levels):
    return closed(a=deep(levels - 1)) if levels else {"type": "string"}


def many(count, schema):
    return closed(**{f"p{n}": schema for n in range(count)})


TEXT = {"type": "string"}
LEFT_OPEN = {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}
#: what it is, the schema, and what becomes of it: at OpenAI, at Anthropic
FEATURES: list[tuple[str, Any, str, str]] = [
    ("closed object, every property required", closed(a=TEXT), "as it is", "as it is"),
    ("properties with defaults (a model's)", Defaults, "fitted", "fitted"),
    ("described reference (`$ref` with siblings)", Described, "fitted", "fitted"),
    ("discriminated union (`oneOf`)", Union, "fitted", "fitted"),
    ("bounds, lengths", Bounds, "fitted", "fitted"),
    ("pattern with look-ahead (a decimal)", Money, "fitted", "fitted"),
    ("tuple (`prefixItems`)", Pair, "fitted", "fitted"),
    ("values of several types, null among them", Mixed, "fitted", "fitted"),
    ("a title that is not ASCII", Colour, "fitted", "as it is"),
    ("array at the root", Listed, "fitted", "fitted"),
    ("union at the root", {"anyOf": [closed(a=TEXT), closed(b=TEXT)]}, "fitted", "fitted"),
    ("`allOf` of objects", {"allOf": [closed(a=TEXT), {"required": ["a"]}]}, "fitted", "fitted"),
    ("recursive definition", Holder, "fitted", "refused"),
    ("recursive root", Comment, "fitted", "refused"),
    ("properties of any name (`dict`, `patternProperties`)", Open, "non-strict", "refused"),
    ("a model that allows extra properties", Extra, "non-strict", "refused"),
    ("any value (`Any`, `{}`)", Anything, "non-strict", "refused"),
    (
        "optional properties (a schema's)",
        {**closed(a=TEXT, b=TEXT), "required": ["a"]},
        "non-strict",
        "as it is",
    ),
    ("an object left open (a schema's)", LEFT_OPEN, "non-strict", "fitted"),
    ("more than 10 levels", deep(11), "non-strict", "as it is"),
    ("more than 1,000 enum values", closed(a={**TEXT, "enum": [*map(str, range(1001))]}), "non-strict", "as it is"),
    ("more than 24 optional properties", {**many(26, TEXT), "required": []}, "non-strict", "refused"),
    ("more than 16 unions", many(17, {"anyOf": [TEXT, {"type": "null"}]}), "as it is", "refused"),
]  # fmt: skip


def asked(vendor, output):
    """What becomes of a schema, and the body that is sent."""
    request = ChatRequest("m", user="{text}", output=output, max_tokens=9).compile()({"text": "hi"})
    given = request.body["response_format"]["json_schema"]["schema"]
    try:
        body = VENDORS[vendor].translate(request).body
    except InputError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert re.search(r"'[^']+' at .*Nothing was sent", message)
        return "refused", None
    if vendor == "Anthropic":
        sent = body["output_config"]["format"]["schema"]
        assert anthropic_problem(sent) is None
        return "as it is" if sent == given else "fitted", sent
    message = body["response_format"]["json_schema"]
    assert openai_problem(message["name"], message["schema"], message["strict"]) is None
    same = message["schema"] == given and message["name"] == request.body["response_format"]["json_schema"]["name"]
    return ("as it is" if same else "fitted") if message["strict"] else "non-strict", message["schema"]


def table():
    rows = ["| schema | OpenAI | Anthropic |", "|---|---|---|"]
    for name, output, *_ in FEATURES:
        rows.append(f"| {name} | {' | '.join(asked(vendor, output)[0] for vendor in VENDORS)} |")
    return "\n".join(rows)


@pytest.mark.parametrize(("name", "output", "openai", "anthropic"), FEATURES, ids=[f[0] for f in FEATURES])
def test_a_schema_is_fitted_sent_loose_or_refused_before_it_is_sent(name, output, openai, anthropic):
    """The vendors' documented rules take whatever is sent; what cannot be is refused by keyword and place."""
    assert (asked("OpenAI", output)[0], asked("Anthropic", output)[0]) == (openai, anthropic)


def test_the_readmes_table_is_what_the_code_does():
    """Generated, and as it would be generated now."""
    text = README.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip() == table()


#: schemas as people write them: closed objects of everything
leaf = st.sampled_from(
    [
        TEXT, {"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"}, {"enum": ["a", "b"]},
        {"const": 4}, {"type": ["string", "null"]}, {"type": "string", "pattern": "^[a-z]{2}$"},
        {"type": "string", "format": "date"}, {"type": "string", "format": "uri", "description": "a link"},
        {"enum": ["a", 1, None]}, {"type": "number", "multipleOf": 0.5}, {"$ref": "#/$defs/Inner"},
        {"$ref": "#/$defs/Inner", "description": "beside"}, {"type": "string", "minLength": 2, "default": "ab"},
    ]
)  # fmt: skip
names = st.sampled_from(["a", "b", "default", "type", "properties", "$ref", "größe", "with space"])


def grown(inner):
    objects = st.dictionaries(names, inner, min_size=1, max_size=3).map(lambda p: closed(**p))
    arrays = st.builds(
        lambda items, more: {"type": "array", "items": items, **more},
        inner,
        st.sampled_from([{}, {"minItems": 2}, {"maxItems": 3}, {"uniqueItems": True}]),
    )
    unions = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    tuples = st.lists(inner, min_size=1, max_size=3).map(
        lambda p: {"type": "array", "prefixItems": p, "minItems": len(p), "maxItems": len(p)}
    )
    return objects | arrays | unions | tuples | st.builds(lambda o: {"oneOf": [o, {"type": "null"}]}, objects)


schemas = st.recursive(leaf, grown, max_leaves=8).map(
    lambda schema: {**schema, "$defs": {"Inner": closed(x={"type": "integer", "exclusiveMinimum": 3})}}
)


#: what Gemini's reference lists under responseJsonSchema
GEMINIS = frozenset(
    {"$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems"}
    | {"minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required"}
    | {"propertyOrdering"}
)


def undocumented(schema):
    """A keyword that Gemini's reference does not list, or one beside a reference; None where there is none."""
    queue = [schema, *schema.get("$defs", {}).values()]
    while queue:
        node = queue.pop()
        if not isinstance(node, dict):
            continue
        if unknown := node.keys() - GEMINIS or ("$ref" in node and node.keys() - {"$ref", "$defs"}):
            return unknown
        if any(not isinstance(value, str | int | float) or isinstance(value, bool) for value in node.get("enum", ())):
            return node["enum"]
        queue += [*node.get("properties", {}).values(), *node.get("anyOf", ()), *node.get("prefixItems", ())]
        queue += [node.get("items"), node.get("additionalProperties")]
    return None


@pytest.mark.parametrize("examples", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_what_is_fitted_is_taken_and_loses_no_answer(examples):
    """Whatever fits the schema that was given fits the one that is sent, which the vendor's rules take; and an answer
    to the one that is sent is unwrapped into what the user's schema describes."""
    settings(max_examples=examples)(given(schemas, st.integers())(is_taken_whole))()


def is_taken_whole(schema, seed):
    rules = (
        (OPENAI, lambda s: openai_problem("o", s, True)),
        (ANTHROPIC, anthropic_problem),
        (GEMINI, undocumented),
    )
    for dialect, problem in rules:
        try:
            fitted = fit(schema, dialect)
        except Unfit:
            continue
        assert problem(fitted) is None
        value = fill_schema(schema, str(seed))
        try:
            jsonschema.validate(value, schema)
        except jsonschema.ValidationError:
            continue  # the filler draws blindly from some unions
        inside = value if is_object(schema) else {"value": value}
        jsonschema.validate(inside, fitted)
        result = Result(status="succeeded", text=json.dumps(inside))
        OutputCheck(schema)(result)
        assert (result.status, result.output) == ("succeeded", value)


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | names | leaf,
        lambda i: (
            st.lists(i, max_size=3)
            | st.dictionaries(
                names | st.sampled_from(["anyOf", "allOf", "oneOf", "items", "required", "enum", "$defs"]),
                i,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_fitting_ends_whatever_it_is_given(schema):
    """Any JSON for a schema: it is fitted or refused, and nothing else happens."""
    for dialect in (OPENAI, ANTHROPIC, GEMINI):
        if isinstance(schema, dict):
            with suppress(Unfit):
                fit(schema, dialect)


def test_strict_is_kept_and_refused_where_it_was_asked_for():
    """A raw request's ``strict``: false stays as it is, true is fitted or refused by keyword and path."""

    def raw(strict, schema):
        stated = {"name": "o", "schema": schema, **({} if strict is None else {"strict": strict})}
        body = {"model": "m", "messages": [], "response_format": {"type": "json_schema", "json_schema": stated}}
        return VENDORS["OpenAI"].translate(RawRequest(body).compile()({})).body["response_format"]["json_schema"]

    loose = json_schema(Open)
    assert raw(False, loose) == {"name": "o", "schema": loose, "strict": False}
    assert raw(None, loose)["strict"] is False
    assert raw(True, {**closed(a={**TEXT, "minLength": 1})})["schema"] == closed(
        a={**TEXT, "description": "(minLength: 1)"}
    )
    with pytest.raises(
        InputError, match=r"strict mode.*'additionalProperties' at /properties/attributes.*Nothing was sent"
    ):
        raw(True, loose)


def test_tools_are_fitted_where_they_are_strict():
    """Parameters that are no object are refused; strict ones are fitted or refused."""

    def sent(vendor, parameters, strict):
        function = {"name": "f", "parameters": parameters, **({"strict": True} if strict else {})}
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        body["tools"] = [{"type": "function", "function": function}]
        (tool,) = VENDORS[vendor].translate(RawRequest(body).compile()({})).body["tools"]
        return tool["function"]["parameters"] if vendor == "OpenAI" else tool["input_schema"]

    bounded = closed(n={"type": "integer", "minLength": 1})
    for vendor in VENDORS:
        assert sent(vendor, bounded, strict=False) == bounded
        assert "minLength" not in sent(vendor, bounded, strict=True)["properties"]["n"]
        with pytest.raises(InputError, match="object"):
            sent(vendor, {"type": "array", "items": TEXT}, strict=False)
        with pytest.raises(InputError, match="additionalProperties"):
            sent(vendor, closed(a={"type": "object", "additionalProperties": TEXT}), strict=True)


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}")
