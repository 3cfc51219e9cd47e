"""Result lines of Anthropic's message batches, in the neutral shape."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from airflow_llm_batch.models import Result, RowStatus
from airflow_llm_batch.providers.base import whole

ROW_OUTCOMES: dict[str, RowStatus] = {"canceled": "cancelled", "expired": "expired"}
STOPPED: dict[str, RowStatus] = {
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "refusal": "refused",
}


class Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class Text(msgspec.Struct):
    type: Literal["text"]
    text: str


class Message(msgspec.Struct):
    model: str
    content: tuple[Text]
    stop_reason: Literal["end_turn", "stop_sequence"]
    usage: Usage


class Succeeded(msgspec.Struct):
    type: Literal["succeeded"]
    message: Message


class Answered(msgspec.Struct):
    """The line of a row that was answered with one text and finished it; every other line is another type."""

    custom_id: str
    result: Succeeded


decode_answered = msgspec.json.Decoder(Answered).decode


def read_frequent(line: bytes) -> Result | None:
    """What ``read_line`` makes of the most frequent lines, at half the price; None for all others."""
    try:
        told = decode_answered(line)
    except (ValueError, RecursionError):
        return None
    message = told.result.message
    usage = message.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return Result(
        custom_id=told.custom_id,
        status="succeeded",
        text=message.content[0].text,
        finish_reason=message.stop_reason,
        model=message.model,
        input_tokens=usage.input_tokens + read + written,
        cached_tokens=read,
        cache_write_tokens=written,
        output_tokens=usage.output_tokens,
    )


def read_line(line: dict[str, Any]) -> Result:
    """A parsed line of a results stream."""
    told = line["result"]
    result = Result(custom_id=str(line["custom_id"]))
    if told["type"] == "errored":
        error = told.get("error") or {}
        error = error.get("error") or error
        result.error_code, result.error_message = error.get("type"), error.get("message")
    elif told["type"] != "succeeded":
        result.status = ROW_OUTCOMES.get(told["type"], "errored")
        result.error_code = f"batch_{result.status}"
    else:
        read_message(told["message"], result)
    return result


def read_message(message: dict[str, Any], result: Result) -> None:
    texts, calls = [], []
    for block in message.get("content") or ():
        if block.get("type") == "text":
            texts.append(block.get("text") or "")
        elif block.get("type") == "tool_use":
            calls.append({"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")})
    result.text = "".join(texts) if texts else None
    result.tool_calls = calls or None
    result.model = message.get("model")
    result.finish_reason = message.get("stop_reason")
    result.status = STOPPED.get(result.finish_reason or "", "succeeded")
    usage = message.get("usage") or {}
    fresh = whole(usage.get("input_tokens"))
    if fresh is not None:
        result.cached_tokens = whole(usage.get("cache_read_input_tokens")) or 0
        result.cache_write_tokens = whole(usage.get("cache_creation_input_tokens")) or 0
        result.input_tokens = fresh + result.cached_tokens + result.cache_write_tokens
    result.output_tokens = whole(usage.get("output_tokens"))
