"""Synchronous answers as server-sent events, in each API's own events.

Source: OpenAI's API reference (chat completion chunks, streaming responses), Anthropic's streaming messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

#: characters of a text in one event
PIECE = 8


def event(data: dict[str, Any] | str, name: str | None = None) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def pieces(text: str | None) -> list[str]:
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)] if text else []


def chat(answer: dict[str, Any], wants_usage: bool) -> Iterator[bytes]:
    """A chat completion as chunks."""
    head = {**{k: answer[k] for k in ("id", "created", "model")}, "object": "chat.completion.chunk"}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return event({**head, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]})

    for choice in answer["choices"]:
        index, message = choice["index"], choice["message"]
        yield chunk(index, {"role": "assistant", "content": None if message["content"] is None else ""})
        for piece in pieces(message["content"]):
            yield chunk(index, {"content": piece})
        for place, call in enumerate(message.get("tool_calls") or ()):
            yield chunk(index, {"tool_calls": [{"index": place, **call}]})
        yield chunk(index, {}, choice["finish_reason"])
    if wants_usage:
        yield event({**head, "choices": [], "usage": answer["usage"]})
    yield event("[DONE]")


def response(answer: dict[str, Any]) -> Iterator[bytes]:
    """An object of the Responses API as its events."""
    number = 0

    def send(kind: str, **data: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number - 1, **data}, kind)

    begun = {**answer, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield send("response.created", response=begun)
    yield send("response.in_progress", response=begun)
    for place, item in enumerate(answer["output"]):
        called = {"item_id": item["id"], "output_index": place}
        empty: dict[str, Any] = {"arguments": ""} if "arguments" in item else {"content": []}
        yield send("response.output_item.added", output_index=place, item={**item, "status": "in_progress", **empty})
        for piece in pieces(item.get("arguments")):
            yield send("response.function_call_arguments.delta", delta=piece, **called)
        if "arguments" in item:
            yield send("response.function_call_arguments.done", arguments=item["arguments"], **called)
        for index, part in enumerate(item.get("content") or ()):
            where = {**called, "content_index": index}
            yield send("response.content_part.added", part={**part, "text": ""}, **where)
            for piece in pieces(part["text"]):
                yield send("response.output_text.delta", delta=piece, logprobs=[], **where)
            yield send("response.output_text.done", text=part["text"], logprobs=[], **where)
            yield send("response.content_part.done", part=part, **where)
        yield send("response.output_item.done", output_index=place, item=item)
    yield send(f"response.{answer['status']}", response=answer)


def message(answer: dict[str, Any]) -> Iterator[bytes]:
    """An Anthropic message as its events."""

    def send(kind: str, **data: Any) -> bytes:
        return event({"type": kind, **data}, kind)

    begun = {**answer, "content": [], "stop_reason": None, "usage": {**answer["usage"], "output_tokens": 0}}
    yield send("message_start", message=begun)
    for index, block in enumerate(answer["content"]):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
        yield send("content_block_start", index=index, content_block=empty)
        for piece in pieces(block.get("text")):
            yield send("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
        if "input" in block:
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            yield send("content_block_delta", index=index, delta=delta)
        yield send("content_block_stop", index=index)
    ending = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    yield send("message_delta", delta=ending, usage={"output_tokens": answer["usage"]["output_tokens"]})
    yield send("message_stop")
