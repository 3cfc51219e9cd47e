"""Lines of Gemini's result files, and inline responses that were made lines.

``{"key", "response"}`` or ``{"key", "error"}``; inline ones have their key in ``metadata``. A batch that succeeded may
hold lines of either kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from airflow_llm_batch.providers.coerce import Count, Name, Some, members, whole
from airflow_llm_batch.providers.endings import unreadable
from airflow_llm_batch.providers.gemini.results import read_error, read_response
from airflow_llm_batch.providers.troubles import tells
from airflow_llm_batch.results import Result

#: what an answer has of which there is none in an error
ANSWER = ("candidates", "promptFeedback", "prompt_feedback", "embedding", "embeddings", "usageMetadata")


class Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: Some
    candidates_token_count: Count
    cached_content_token_count: Count = 0
    thoughts_token_count: Count | None = None
    tool_use_prompt_token_count: None = None
    prompt_tokens_details: tuple[PlainTokens] | None = None
    candidates_tokens_details: tuple[PlainTokens] | None = None
    service_tier: Name | None = None
    traffic_type: Literal["ON_DEMAND"] | None = None


class PlainTokens(msgspec.Struct):
    modality: Literal["TEXT"]


class Text(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    text: str
    thought_signature: str | None = None


class Content(msgspec.Struct):
    parts: tuple[Text]


class Candidate(msgspec.Struct, rename="camel"):
    content: Content
    finish_reason: Literal["STOP"]
    grounding_metadata: None = None
    citation_metadata: None = None
    logprobs_result: None = None


class Response(msgspec.Struct, rename="camel"):
    candidates: tuple[Candidate]
    usage_metadata: Usage
    model_version: Name
    embedding: None = None
    embeddings: None = None
    error: None = None


class Answered(msgspec.Struct):
    """The line of a row that was answered with one text and finished it; every other line is another type."""

    response: Response
    key: str = ""
    custom_id: str = ""
    status_code: Literal[200] = 200
    error: None = None


decode_answered = msgspec.json.Decoder(Answered).decode


def read_frequent(line: bytes) -> Result | None:
    """What ``read_line`` makes of the most frequent lines, at half the price; None for all others."""
    try:
        answer = decode_answered(line)
    except (ValueError, RecursionError):
        return None
    response, usage = answer.response, answer.response.usage_metadata
    text = response.candidates[0].content.parts[0].text
    model = response.model_version.removeprefix("models/")
    row = answer.key or answer.custom_id
    if not text or not model or not row:
        return None
    return Result(
        custom_id=row,
        status="succeeded",
        text=text,
        finish_reason="STOP",
        model=model,
        input_tokens=usage.prompt_token_count,
        cached_tokens=usage.cached_content_token_count,
        output_tokens=usage.candidates_token_count + (usage.thoughts_token_count or 0),
        reasoning_tokens=usage.thoughts_token_count,
        service_tier=usage.service_tier.lower() if usage.service_tier else None,
    )


def id_of(line: Mapping[str, Any]) -> str:
    """:raises KeyError: for a line that names no row."""
    for value in (line.get("key"), line.get("custom_id"), members(line.get("metadata")).get("key")):
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    raise KeyError("key")


def read_line(line: dict[str, Any]) -> Result:
    """A parsed line.

    :raises KeyError: for a line that names no row, or tells nothing of it.
    """
    result = Result(custom_id=id_of(line))
    response, error = line.get("response"), line.get("error")
    if "embedding" in line and response is None:
        response = line
    # A call's status is kept beside its error; a batch's rows have none.
    status = whole(line.get("status_code")) or 0
    status = 0 if 200 <= status < 300 else status
    if "response" not in line and "error" not in line and response is None:
        raise KeyError("response")
    held = members(response)
    if tells(error) or status or (response is None and "error" in line):
        read_error(error, result, status)
    elif tells(held.get("error")) and not any(held.get(name) for name in ANSWER):
        read_error(held["error"], result)
    elif held:
        read_response(dict(held), result)
    else:
        unreadable(result, "it has no response")
    return result
