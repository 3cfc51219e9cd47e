"""Structured answers, checked against the schema they were asked to fit."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import jsonschema_rs
import msgspec

from airflow_llm_batch.data.output_schema import without_sets
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.json_lines import legal
from airflow_llm_batch.providers.schemas import VALUE, is_object
from airflow_llm_batch.results import Result

#: characters of a validator's message that are kept
LONGEST = 300
#: vLLM's, SGLang's and Ollama's; their chat templates may have written the first tag themselves
THOUGHT_ENDS = ("</think>", "</thinking>")
FENCE = "```"
LANGUAGE = re.compile(r"[ \t]*[a-zA-Z][a-zA-Z0-9_+-]*[ \t]*(?=[\r\n{\[\"])")
#: what is seen as nothing around an answer; JSON knows the first four
BLANKS = " \t\r\n\xa0\u2028\u2029\u200b\u2060\ufeff"
#: what a JSON text may hold escaped alone, and models write as it is
CONTROL = re.compile(r"[\x00-\x1f]")
OPENING = re.compile("<think(ing)?>")


class OutputCheck:
    """Parses and validates the answers to a request with a schema.

    An answer that does not fit makes its row ``invalid``: the reason is told, the raw text is kept.

    :param schema: JSON schema, any draft.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        made = validator(without_sets(schema))
        self.validate, self.is_valid = made.validate, made.is_valid
        #: vendors want an object at the root, and got one around a schema of anything else
        self.may_be_wrapped = not is_object(schema)

    def __call__(self, result: Result, *whose: msgspec.Raw) -> None:
        """:param whose: the row's key and columns, which a schema does not ask for."""
        if result.status != "succeeded" or result.tool_calls:
            return
        try:
            output = self.unwrapped(answered(result))
            self.validate(output)
        except jsonschema_rs.ValidationError as error:
            place = "".join(f"[{part!r}]" for part in error.instance_path)
            reason = f"The answer does not fit the schema{f' at {place}' if place else ''}: {error.message}"
            refuse(result, "schema_mismatch", reason)
        except (ValueError, RecursionError) as error:
            refuse(result, "not_json", f"The answer is not JSON: {error}")
        else:
            result.output = output

    def unwrapped(self, output: Any) -> Any:
        if self.may_be_wrapped and isinstance(output, dict) and output.keys() == {VALUE}:
            return output[VALUE]
        return output


def parsed(text: str) -> Any:
    """An answer's JSON. Halves of surrogate pairs, where a model cut an emoji in two, are made legal, and line ends and
    tabs that it wrote into a text as they are stay there.

    :raises ValueError: for what is none.
    """
    try:
        return msgspec.json.decode(text)
    except ValueError:
        if "\\u" not in text and not CONTROL.search(text):
            raise
        return legal(json.loads(text, strict=False, parse_constant=no_number, parse_float=finite))


def answered(result: Result) -> Any:
    """An answer's JSON, also where a server without constrained decoding and without a parser of thoughts has left them
    before it, or a model has put it in a fence. Thoughts go where they belong; the text stays as it was written.

    :raises ValueError: for what is none.
    """
    text = result.text or ""
    try:
        return parsed(text)
    except ValueError:
        thought, tag, rest = next((cut for end in THOUGHT_ENDS if (cut := text.partition(end))[1]), ("", "", text))
        inner = unfenced(rest)
        if inner == text:
            raise
        output = parsed(inner)
        if tag and not result.reasoning:
            result.reasoning = OPENING.sub("", thought, count=1).strip() or None
        return output


def unfenced(text: str) -> str:
    """What a text has between its first fence, which begins a line, and its last; the text where it has none. By hand:
    models are known to end in thousands of blanks, on which a pattern would spend its time."""
    text = text.strip(BLANKS).strip()
    start, end = text.find(FENCE), text.rfind(FENCE)
    if end < start + len(FENCE) or text[:start].rpartition("\n")[2].strip():
        return text
    inner = text[start + len(FENCE) : end].strip("`")
    language = LANGUAGE.match(inner)
    return inner[language.end() if language else 0 :].strip(BLANKS).strip()


def no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def finite(text: str) -> float:
    """:raises ValueError: for a number that no float holds."""
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {text} is out of range")
    return number


def refuse(result: Result, code: str, message: str) -> None:
    result.status, result.error_code, result.error_message = "invalid", code, message[:LONGEST]


def validator(schema: dict[str, Any]) -> Any:
    """A validator that asks nobody for remote schemas.

    :raises InputError: for a schema that is none.
    """

    def refuse_remote(uri: str) -> Any:
        raise ValueError("schemas elsewhere are not looked up; put the definition into $defs")

    try:
        return jsonschema_rs.validator_for(schema, retriever=refuse_remote)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"output is not a usable JSON schema: {reason}. Nothing was sent.") from None
