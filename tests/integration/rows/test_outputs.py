"""Structured answers are checked on landing."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from support import read_jsonl
from support.jobs import chat, land, plan, spec, submit, texts

from airflow_llm_batch.data.outputs import LONGEST, OutputCheck
from airflow_llm_batch.emulator import answers
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.results import Result

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
    "required": ["n"],
    "additionalProperties": False,
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b", "c"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "tags", "x"]), inner, max_size=3),
    max_leaves=6,
)


def checked(text, **more):
    result = Result(status="succeeded", text=text, **more)
    OutputCheck(SCHEMA)(result)
    return result


@settings(max_examples=300)
@given(anything)
def test_what_another_validator_accepts_and_nothing_else_is_succeeded(value):
    """jsonschema is the judge; the raw text is kept either way."""
    fits = jsonschema.Draft202012Validator(SCHEMA).is_valid(value)
    result = checked(json.dumps(value))
    assert (result.status, result.output) == (("succeeded", value) if fits else ("invalid", None))
    assert result.text == json.dumps(value)
    assert fits or (result.error_code == "schema_mismatch" and len(result.error_message) <= LONGEST)


@pytest.mark.parametrize(
    "text", ["", None, "Sure! {}", '{"n": 1', '{"n": NaN}', "[" * 100_000, "Here it is: ```json\n{}\n```"]
)
def test_text_that_is_no_json_is_invalid(text):
    """And says so; nothing is guessed."""
    assert (checked(text).status, checked(text).error_code) == ("invalid", "not_json")


def test_the_place_and_the_reason_are_told():
    """So that a person can tell what the model got wrong."""
    assert checked('{"n": 1, "tags": ["a", "z"]}').error_message == (
        """The answer does not fit the schema at ['tags'][1]: "z" is not one of "a" or "b\""""
    )


@pytest.mark.parametrize("status", ["truncated", "refused", "errored"])
def test_other_statuses_and_tool_calls_are_left_as_they_are(status):
    """A truncated answer is not invalid besides, and a call of a tool has no text to check."""
    result = Result(status=status, text="{")
    OutputCheck(SCHEMA)(result)
    assert result.status == status
    assert checked(None, tool_calls=[{"name": "f"}]).status == "succeeded"


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"$ref": "http://example.com/s.json"}, "not looked up"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "does not exist"),
    ],
)
def test_a_schema_that_is_none_is_refused_before_anything_is_sent(hook, provider, store, emulator, schema, why):
    """Nobody pays for answers that cannot be checked."""
    with pytest.raises(InputError, match=rf"(?s){why}.*Nothing was sent"):
        plan(store, hook, spec(texts(1), chat(provider, output=schema)))
    assert not emulator.vendor.calls


class Score(BaseModel):
    """Needs what JSON schema can say and a strict mode cannot promise."""

    value: int = Field(ge=0, le=10)


def test_answers_that_break_a_promise_land_as_invalid(hook, provider, store, tmp_path, monkeypatch):
    """A model that answers 11 where 10 is the most: paid, kept, told apart, and counted."""
    values = iter(range(5, 30, 2))
    monkeypatch.setattr(answers, "fill_schema", lambda schema, seed: {"value": next(values)})
    submit(store, hook, spec(texts(5), chat(provider, output=Score)))
    manifest, rows = land(store, hook, store.job(), tmp_path)
    statuses = [row["status"] for row in rows]
    assert set(statuses) <= {"succeeded", "invalid"}
    for row in rows:
        value = json.loads(row["text"])["value"]
        assert row["status"] == ("succeeded" if value <= 10 else "invalid")
        assert row["output"] == ({"value": value} if value <= 10 else None)
        assert row["cost_usd"] > 0
    assert manifest.counts["invalid"] == statuses.count("invalid") > 0
    assert read_jsonl(manifest.files[0]) == rows
