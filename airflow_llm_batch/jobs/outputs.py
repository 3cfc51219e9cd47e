"""Structured answers, checked against the schema they were asked to fit."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.models import Result

#: characters of a validator's message that are kept
LONGEST = 300


class OutputCheck:
    """Parses and validates the answers to a request with a schema.

    An answer that does not fit makes its row ``invalid``: the reason is told, the raw text is kept.

    :param schema: JSON schema, any draft.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.decode = msgspec.json.Decoder().decode
        self.validate = validator(schema).validate

    def __call__(self, result: Result) -> None:
        if result.status != "succeeded" or result.tool_calls:
            return
        try:
            output = self.decode(result.text or "")
            self.validate(output)
        except jsonschema_rs.ValidationError as error:
            place = "".join(f"[{part!r}]" for part in error.instance_path)
            told = f"The answer does not fit the schema{f' at {place}' if place else ''}: {error.message}"
            refuse(result, "schema_mismatch", told)
        except (ValueError, RecursionError) as error:
            refuse(result, "not_json", f"The answer is not JSON: {error}")
        else:
            result.output = output


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
