"""Answers from a real server: every request is forwarded to an OpenAI-compatible one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from airflow_llm_batch.emulator.json_lines import read_lines

if TYPE_CHECKING:
    from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor
    from airflow_llm_batch.emulator.settings import Settings

AnswerLine = Callable[[dict[str, Any], httpx.AsyncClient], Awaitable[tuple[bool, dict[str, Any]]]]
TIMEOUT = httpx.Timeout(600, connect=15)
RUNNING: set[asyncio.Task[None]] = set()


def start(vendor: Vendor, batch: EmulatedBatch, answer: AnswerLine) -> None:
    """Work the batch off in the background."""
    batch.upstream_done = 0
    task = asyncio.get_running_loop().create_task(work(vendor, batch, answer))
    RUNNING.add(task)
    task.add_done_callback(RUNNING.discard)


async def work(vendor: Vendor, batch: EmulatedBatch, answer: AnswerLine) -> None:
    lines = read_lines(batch.lines)
    with batch.lines.with_suffix(".results").open("wb") as results:

        async def worker(client: httpx.AsyncClient) -> None:
            for line in lines:
                if batch.cancelled_at is not None:
                    return
                succeeded, result = await answer(line, client)
                results.write(msgspec.json.encode([succeeded, result]) + b"\n")
                results.flush()
                batch.upstream_done = (batch.upstream_done or 0) + 1
                batch.upstream_failed += not succeeded

        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            await asyncio.gather(*(worker(client) for _ in range(vendor.settings.upstream_concurrency)))
    batch.upstream_ended = time.time()


async def forward(
    settings: Settings, path: str, body: dict[str, Any], client: httpx.AsyncClient | None = None
) -> tuple[int, Any]:
    """One call to the upstream; a failure to reach it is an answer too."""
    if client is None:
        async with httpx.AsyncClient(timeout=TIMEOUT) as own:
            return await forward(settings, path, body, own)
    base = str(settings.upstream).rstrip("/").removesuffix("/v1")
    try:
        response = await client.post(
            base + path, json=body, headers={"authorization": f"Bearer {settings.upstream_key}"}
        )
        return response.status_code, response.json()
    except (httpx.TransportError, ValueError) as error:
        message = f"upstream failed: {type(error).__name__}: {error}"
        return 502, {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


async def openai_line(
    settings: Settings, line: dict[str, Any], client: httpx.AsyncClient
) -> tuple[bool, dict[str, Any]]:
    from airflow_llm_batch.emulator.openai_lines import response_line

    status, body = await forward(settings, line["url"], line["body"], client)
    return status < 300, response_line(line["custom_id"], status, body)


async def anthropic_line(
    settings: Settings, line: dict[str, Any], client: httpx.AsyncClient
) -> tuple[bool, dict[str, Any]]:
    succeeded, said = await message(settings, line["params"], client)
    kind = {"type": "succeeded", "message": said} if succeeded else {"type": "errored", "error": said}
    return succeeded, {"custom_id": line["custom_id"], "result": kind}


async def message(
    settings: Settings, params: dict[str, Any], client: httpx.AsyncClient | None = None
) -> tuple[bool, dict[str, Any]]:
    """An Anthropic request answered by a chat completion server: a message, or an error object."""
    status, body = await forward(settings, "/v1/chat/completions", to_chat(params), client)
    if status >= 300:
        error = body.get("error") if isinstance(body, dict) else None
        text = error.get("message") if isinstance(error, dict) else str(body)
        kind = "invalid_request_error" if status < 500 else "api_error"
        return False, {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_upstream"}
    return True, from_chat(body, params)


def to_chat(params: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {k: params[k] for k in ("model", "temperature", "top_p", "max_tokens") if k in params}
    messages: list[dict[str, Any]] = []
    if params.get("system"):
        messages.append({"role": "system", "content": flat(params["system"])})
    for turn in params.get("messages") or ():
        content = turn.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in [b for b in blocks if b.get("type") == "tool_result"]:
            messages.append(
                {"role": "tool", "tool_call_id": block["tool_use_id"], "content": flat(block.get("content"))}
            )
        calls = [
            {"id": b["id"], "type": "function", "function": {"name": b["name"], "arguments": json.dumps(b["input"])}}
            for b in blocks
            if b.get("type") == "tool_use"
        ]
        parts = [part(b) for b in blocks if b.get("type") in ("text", "image")]
        if calls:
            messages.append({"role": "assistant", "content": flat(parts) or None, "tool_calls": calls})
        elif parts:
            plain = all(p["type"] == "text" for p in parts)
            messages.append({"role": turn["role"], "content": flat(parts) if plain else parts})
    body["messages"] = messages
    if tools := params.get("tools"):
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": t["name"],
                    "description": t.get("description", ""),
                    "parameters": t["input_schema"],
                },
            }
            for t in tools
            if "input_schema" in t
        ]
    if schema := ((params.get("output_config") or {}).get("format") or {}).get("schema"):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
    return body


def part(block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = block["source"]
    url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
    return {"type": "image_url", "image_url": {"url": url}}


def flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(b.get("text", "") for b in content or () if isinstance(b, dict))


def from_chat(body: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    choice = body["choices"][0]
    said, usage = choice["message"], body.get("usage") or {}
    content: list[dict[str, Any]] = [{"type": "text", "text": said["content"]}] if said.get("content") else []
    for call in said.get("tool_calls") or ():
        function = call["function"]
        content.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": function["name"],
                "input": json.loads(function["arguments"] or "{}"),
            }
        )
    stops = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
    return {
        "id": "msg_" + str(body.get("id", "")).removeprefix("chatcmpl-"),
        "type": "message",
        "role": "assistant",
        "model": body.get("model") or params.get("model"),
        "content": content,
        "stop_reason": stops.get(choice.get("finish_reason"), "end_turn"),
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.get("prompt_tokens", 0),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": usage.get("completion_tokens", 0),
            "service_tier": "batch",
        },
    }
