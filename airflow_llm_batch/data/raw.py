"""The vendor's whole answer, beside a record or in place of what a format cannot hold."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.results import Result


def as_written(line: bytes) -> Any:
    """A result line as a value in a record."""
    try:
        return msgspec.json.decode(line, type=msgspec.Raw)
    except ValueError:
        return parse_line(line)


def without_answer(result: Result, why: str, line: bytes | None) -> Result:
    """A result that its format cannot hold: ``invalid``, its text and the vendor's whole line kept."""
    result.status, result.error_code = "invalid", "unwritable"
    result.error_message = f"The file's format cannot hold this answer, it is in raw: {why}."
    for name in ("output", "embedding", "tool_calls", "choices", "logprobs", "citations", "tool_uses"):
        setattr(result, name, None)
    result.raw = None if line is None else line.decode("utf-8", "replace")
    return result
