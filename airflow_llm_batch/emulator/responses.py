"""What the emulator's models answer through the Responses API."""

from __future__ import annotations

import json
from typing import Any

from airflow_llm_batch.emulator import answers, judge


def responses(body: dict[str, Any], created: int) -> dict[str, Any] | answers.Bad:
    """An object of the Responses API."""
    if not body.get("model"):
        return answers.Bad(400, "invalid_request_error", "Missing required parameter: 'model'.", "model")
    given = body.get("input")
    if not given:
        return answers.Bad(400, "invalid_request_error", "Missing required parameter: 'input'.", "input")
    if problem := judge.response_problem(body):
        return answers.Bad(400, "invalid_request_error", *problem)
    messages = [{"content": given}] if isinstance(given, str) else given
    wanted = (body.get("text") or {}).get("format") or {}
    tools = [(t["name"], t.get("parameters") or {}) for t in body.get("tools") or () if t.get("type") == "function"]
    answered = any(m.get("type") == "function_call_output" for m in messages) or body.get("tool_choice") == "none"
    tools = answers.named_first(tools, answers.members_of(body.get("tool_choice")).get("name"))
    said = answers.reply(
        answers.text_of(messages[-1].get("content")),
        "",
        wanted.get("schema") if wanted.get("type") == "json_schema" else None,
        [] if answered else tools,
        body.get("max_output_tokens"),
        wanted.get("type") == "json_object",
    )
    turns = [(str(m.get("role") or "user"), "", answers.text_of(m.get("content"))) for m in messages]
    if body.get("instructions"):
        turns.insert(0, ("system", "", str(body["instructions"])))
    schema = wanted.get("schema")
    said = said._replace(input_tokens=answers.chat_tokens(turns, body.get("tools"), schema, str(body["model"])))
    key = answers.digest(json.dumps(body, sort_keys=True))
    cut = said.finish == "length"
    return {
        "id": f"resp_{key[:48]}",
        "object": "response",
        "created_at": created,
        "status": "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "output": output_of(said, key, cut),
        "parallel_tool_calls": True,
        "temperature": body.get("temperature", 1.0),
        "top_p": body.get("top_p", 1.0),
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "usage": {
            "input_tokens": said.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": said.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": said.input_tokens + said.output_tokens,
        },
    }


def output_of(said: answers.Reply, key: str, cut: bool) -> list[dict[str, Any]]:
    """The items of an answer: calls, and the text."""
    output: list[dict[str, Any]] = [
        {
            "type": "function_call", "id": f"fc_{key[:24]}", "call_id": f"call_{key[:24]}", "name": name,
            "arguments": json.dumps(filled), "status": "completed",
        }
        for name, filled in said.calls
    ]  # fmt: skip
    if said.text is not None:
        content = [{"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}]
        status = "incomplete" if cut else "completed"
        output.append(
            {"type": "message", "id": f"msg_{key[:24]}", "role": "assistant", "status": status, "content": content}
        )
    return output
