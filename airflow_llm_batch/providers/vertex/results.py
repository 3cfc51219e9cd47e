"""Result lines of Vertex AI's batches, in the neutral shape.

``{"status": "", "request": {...}, "response": {...}}`` with what names the row; a ``status`` that says something is an
error, such as ``Bad Request: {"error": {...}}``. Every field is coerced when it is read.

Source: the guides of batch inference; errors as seen at discuss.ai.google.dev (107293), keys of embeddings as LiteLLM
and RubyLLM read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from airflow_llm_batch.providers.anthropic.results import read_line as read_anthropic
from airflow_llm_batch.providers.anthropic.results import read_message
from airflow_llm_batch.providers.coerce import id_of, members, text_of, whole
from airflow_llm_batch.providers.endings import fail, unreadable
from airflow_llm_batch.providers.gemini.results import read_error, read_response
from airflow_llm_batch.providers.gemini.words import get
from airflow_llm_batch.providers.troubles import trouble_of
from airflow_llm_batch.providers.vertex.requests import ROW
from airflow_llm_batch.results import Result

#: what an answer of Gemini's has at least one of
ANSWERS = ("candidates", "promptFeedback", "embedding", "embeddings")


def row_of(line: Mapping[str, Any]) -> str:
    """The ``custom_id`` of a line, sent or answered.

    :raises KeyError: for a line that names no row.
    """
    with suppress(KeyError):
        return id_of(line)
    instance = members(line.get("instance"))
    labels = members(members(line.get("request")).get("labels"))
    for found in (line.get("key"), labels.get(ROW), instance.get("key")):
        if isinstance(found, str) and found:
            return found
    raise KeyError("custom_id")


def read_line(line: dict[str, Any]) -> Result:
    """A parsed line of results.

    :raises KeyError: for a line that names no row.
    """
    if isinstance(line.get("result"), dict):
        # As Anthropic itself writes it.
        return read_anthropic(line)
    result = Result(custom_id=row_of(line))
    response = members(line.get("response"))
    # Partner models' answers have been seen in an HTTP answer.
    body = members(response.get("body")) or response
    if body.get("type") == "message" or ("content" in body and "candidates" not in body):
        read_message(dict(body), result)
    elif any(get(body, name) is not None for name in ANSWERS):
        read_response(dict(body), result)
    elif (error := error_in(line, body)) is not None:
        failed(error, whole(line.get("status_code")) or 0, result)
    elif body:
        read_response(dict(body), result)
    else:
        unreadable(result, "the line has neither an answer nor an error")
    if result.model:
        result.model = result.model.removesuffix("@default")
    return result


def error_in(line: Mapping[str, Any], body: Mapping[str, Any]) -> Any:
    """What a line tells as its error, None for nothing."""
    for error in (line.get("error"), body.get("error"), line.get("status")):
        if error not in (None, "", {}, []):
            return error
    return None


def failed(error: Any, status: int, result: Result) -> None:
    """Fill in a row that was not answered.

    :param status: the HTTP status of a call, 0 for a batch's row.
    """
    if isinstance(error, str):
        words, brace, rest = error.partition("{")
        inner = None
        if brace:
            # A list of one, too.
            text = brace + (rest.rstrip().removesuffix("]") if words.endswith("[") else rest)
            with suppress(ValueError, RecursionError):
                inner = msgspec.json.decode(text)
        if isinstance(inner, dict):
            error = inner
        elif brace:
            error = {"message": error}
        else:
            error = plain_error(words)
    inner = members(error).get("error")
    error = inner if isinstance(inner, dict) else error
    if not status or 200 <= status < 300:
        code = whole(members(error).get("code")) or 0
        status = code if 400 <= code < 600 else 0
    if status:
        fail(result, trouble_of(error, status))
    else:
        read_error(error, result)
    result.error_message = result.error_message or text_of(error)


def plain_error(text: str) -> dict[str, str]:
    """``RESOURCE_EXHAUSTED: Quota exceeded`` as a status and a message."""
    word, colon, rest = text.partition(":")
    if colon and word.replace("_", "").replace(" ", "").isalpha() and len(word) < 40:
        return {"status": word.strip().upper().replace(" ", "_"), "message": rest.strip() or text}
    return {"status": text, "message": text} if text.replace("_", "").isupper() else {"message": text}
