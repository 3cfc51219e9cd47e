"""Result lines of Anthropic's message batches, in the neutral shape.

Every field is coerced when it is read: whatever JSON stands in its place, the row gets a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from airflow_llm_batch.providers.coerce import (
    Count,
    Name,
    cut_call,
    id_of,
    members,
    objects,
    text_of,
    tool_call,
    whole,
    word,
)
from airflow_llm_batch.providers.endings import Endings, as_choice, fail, judge, says, unreadable
from airflow_llm_batch.providers.troubles import trouble_of
from airflow_llm_batch.results import Result, RowStatus

ROW_OUTCOMES: dict[str, RowStatus] = {"canceled": "cancelled", "cancelled": "cancelled", "expired": "expired"}
ENDINGS = Endings(
    good=frozenset({"end_turn", "stop_sequence"}),
    calling=frozenset({"tool_use"}),
    cut=frozenset({"max_tokens", "model_context_window_exceeded"}),
)
#: blocks that fields of their own hold; all others, results of tools and files made by them, are media
READ = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})


#: iterations that the totals leave out: what it took to compact a conversation, at the rates of the answer's model, and
#: the advice of another model, at that one's (platform.claude.com: compaction, advisor tool)
COMPACTION, ADVICE = "compaction", "advisor_message"
#: the word for an answer at a higher speed, which costs more
FAST = "fast"


class CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: Count = 0
    ephemeral_1h_input_tokens: Count = 0


class OutputDetails(msgspec.Struct):
    thinking_tokens: Count | None = None


class Usage(msgspec.Struct):
    input_tokens: Count
    output_tokens: Count
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None
    server_tool_use: None = None
    service_tier: Name | None = None
    inference_geo: Name | None = None
    iterations: tuple[()] | None = None
    speed: Literal["standard"] | None = None
    output_tokens_details: OutputDetails | None = None


class Text(msgspec.Struct):
    type: Literal["text"]
    text: str
    citations: tuple[()] | None = None


class Message(msgspec.Struct):
    model: Name
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
        answer = decode_answered(line)
    except (ValueError, RecursionError):
        return None
    message = answer.result.message
    usage = message.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    kept, thought = usage.cache_creation, usage.output_tokens_details
    apart = kept.ephemeral_5m_input_tokens + kept.ephemeral_1h_input_tokens if kept else 0
    if not says(message.content[0].text) or apart > written:
        return None
    return Result(
        custom_id=answer.custom_id,
        status="succeeded",
        text=message.content[0].text,
        finish_reason=message.stop_reason,
        model=message.model,
        input_tokens=usage.input_tokens + read + written or None,
        cached_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=kept.ephemeral_1h_input_tokens if kept else None,
        output_tokens=usage.output_tokens,
        reasoning_tokens=thought.thinking_tokens if thought else None,
        service_tier=usage.service_tier,
        inference_geo=usage.inference_geo,
    )


def read_line(line: dict[str, Any]) -> Result:
    """A parsed line of a results stream.

    :raises KeyError: for a line that names no row, or tells nothing of it.
    """
    result = Result(custom_id=id_of(line))
    outcome = members(line.get("result"))
    if not outcome:
        raise KeyError("result")
    kind, message = outcome.get("type"), outcome.get("message")
    if kind == "succeeded" and isinstance(message, dict) and message and message.get("type") != "error":
        read_message(message, result)
    elif kind == "succeeded" and not isinstance(message, dict):
        unreadable(result, "it has no message")
    elif isinstance(kind, str) and kind in ROW_OUTCOMES:
        result.status = ROW_OUTCOMES[kind]
        result.error_code = f"batch_{result.status}"
    else:
        # A call's status is kept beside its error; a batch's rows have none.
        status = whole(outcome.get("status_code")) or 0
        error = (
            outcome.get("error") or (message if kind == "succeeded" else None) or {"message": f"result type {kind!r}"}
        )
        fail(result, trouble_of(error, 0 if 200 <= status < 300 else status))
    return result


def read_message(message: dict[str, Any], result: Result) -> None:
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else objects(content)

    def of(kind: str) -> list[dict[str, Any]]:
        return [block for block in blocks if block.get("type") == kind]

    texts, thoughts = of("text"), of("thinking")
    result.text = "".join(text_of(block.get("text")) or "" for block in texts) if texts else None
    result.reasoning = "\n".join(filter(None, (text_of(block.get("thinking")) for block in thoughts))) or None
    result.citations = [note for block in texts for note in objects(block.get("citations"))] or None
    calls = [tool_call(block.get("id"), block.get("name"), block.get("input")) for block in of("tool_use")]
    result.tool_calls = calls or None
    result.model = word(message.get("model"))
    result.finish_reason = word(message.get("stop_reason"))
    read_usage(members(message.get("usage")), result)
    details = members(message.get("stop_details"))
    refusal = text_of(details.get("explanation")) if result.finish_reason == "refusal" else None
    media = [block for block in blocks if not (isinstance(kind := block.get("type"), str) and kind in READ)]
    # What the model asked of the vendor's tools is no answer; what they made may be one.
    made = [block for block in media if block.get("type") != "server_tool_use"]
    result.choices = [{"media": made}] if made else None
    judge(result, ENDINGS, refusal, word(details.get("category")), cut_call=cut_call(calls))
    result.choices = [{"media": media}] if media else None
    if media:
        result.choices = [as_choice(result)]


def read_usage(usage: Mapping[str, Any], result: Result) -> None:
    iterations = objects(usage.get("iterations"))
    parts = [usage, *(one for one in iterations if one.get("type") == COMPACTION)]
    kept = [members(part.get("cache_creation")) for part in parts]
    fresh = whole(usage.get("input_tokens"))
    if fresh is not None:
        apart = total(kept, "ephemeral_5m_input_tokens") + total(kept, "ephemeral_1h_input_tokens")
        result.cached_tokens = whole(total(parts, "cache_read_input_tokens"))
        result.cache_write_tokens = whole(max(total(parts, "cache_creation_input_tokens"), apart))
        prompt = total(parts, "input_tokens") + (result.cached_tokens or 0) + (result.cache_write_tokens or 0)
        # No prompt is empty: where 0 is told, nobody has counted.
        result.input_tokens = whole(prompt) or None
    result.cache_write_1h_tokens = whole(total(kept, "ephemeral_1h_input_tokens")) if any(kept) else None
    answer = whole(usage.get("output_tokens"))
    result.output_tokens = None if answer is None else whole(total(parts, "output_tokens"))
    result.reasoning_tokens = whole(members(usage.get("output_tokens_details")).get("thinking_tokens"))
    result.service_tier = FAST if usage.get("speed") == FAST else word(usage.get("service_tier"))
    result.inference_geo = word(usage.get("inference_geo"))
    uses = {name: whole(count) or 0 for name, count in members(usage.get("server_tool_use")).items()}
    uses["advisor"] = sum(one.get("type") == ADVICE for one in iterations)
    result.tool_uses = {name.removesuffix("_requests"): count for name, count in uses.items() if count > 0} or None


def total(parts: Iterable[Mapping[str, Any]], name: str) -> int:
    """The sum of one count."""
    return sum(whole(part.get(name)) or 0 for part in parts)
