"""Result lines of OpenAI's batches, and of servers that speak its API, in the neutral shape."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from airflow_llm_batch.models import Result, RowStatus
from airflow_llm_batch.providers.base import is_transient_code, whole

ROW_OUTCOMES: dict[str, RowStatus] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: OutputDetails | None = None


class Message(msgspec.Struct):
    content: str
    refusal: None = None
    tool_calls: None = None


class Choice(msgspec.Struct):
    message: Message
    finish_reason: Literal["stop"]


class Embedding(msgspec.Struct):
    embedding: msgspec.Raw


class Body(msgspec.Struct):
    """Either a chat completion or embeddings."""

    model: str
    usage: Usage
    choices: list[Choice] = []
    data: list[Embedding] = []
    error: None = None


class Response(msgspec.Struct):
    status_code: Literal[200]
    body: Body


class Answered(msgspec.Struct):
    """The line of a row that was answered with text or a vector, to the letter; every other line is another type."""

    custom_id: str
    response: Response
    error: None = None


decode_answered = msgspec.json.Decoder(Answered).decode


def read_frequent(line: bytes) -> Result | None:
    """What ``read_line`` makes of the most frequent lines, at half the price; None for all others.

    Numbers of a vector are not looked at: they stay the JSON they are.
    """
    try:
        told = decode_answered(line)
    except (ValueError, RecursionError):
        return None
    body = told.response.body
    usage = body.usage
    result = Result(
        custom_id=told.custom_id,
        status="succeeded",
        model=body.model,
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_tokens=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None,
        reasoning_tokens=usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None,
    )
    if body.choices:
        result.text, result.finish_reason = body.choices[0].message.content, body.choices[0].finish_reason
    elif len(body.data) == 1:
        result.embedding = body.data[0].embedding
    elif body.data:
        result.embedding = [item.embedding for item in body.data]
    else:
        return None
    return result


def read_line(line: dict[str, Any]) -> Result:
    """A parsed line of an output or error file."""
    result = Result(custom_id=str(line["custom_id"]))
    error, response = line.get("error"), line.get("response")
    if error:
        result.error_code = str(error.get("code") or "")
        result.error_message = error.get("message")
        result.status = ROW_OUTCOMES.get(result.error_code, "errored")
        return result
    if not response and "error" not in line:
        raise KeyError("response")
    body = (response or {}).get("body") or {}
    status = (response or {}).get("status_code") or 0
    if not 200 <= status < 300 or not body or body.get("error"):
        told = body.get("error")
        inner = told if isinstance(told, dict) else {}
        result.error_code = str(inner.get("code") or inner.get("type") or f"http_{status}")
        result.error_message = inner.get("message") or f"The vendor reported HTTP {status} for this row."
        if (status >= 500 or status == 408) and not is_transient_code(result.error_code):
            # A gateway's own word for trouble that passes; the status tells it better.
            result.error_message = f"{result.error_code}: {result.error_message}"
            result.error_code = f"http_{status}"
        return result
    result.model = body.get("model")
    read_usage(body.get("usage") or {}, result)
    if "choices" in body:
        read_chat(body["choices"][0], result)
    elif body.get("object") == "response":
        read_response(body, result)
    elif isinstance(body.get("data"), list):
        vectors = [item["embedding"] for item in body["data"]]
        result.status, result.embedding = "succeeded", vectors[0] if len(vectors) == 1 else vectors
    else:
        result.status, result.output = "succeeded", body
    return result


def read_usage(usage: dict[str, Any], result: Result) -> None:
    result.input_tokens = whole(usage.get("prompt_tokens", usage.get("input_tokens")))
    # Embeddings report no output tokens at all: their output is nothing, not unknown.
    spent = whole(usage.get("completion_tokens", usage.get("output_tokens")))
    result.output_tokens = 0 if spent is None and usage else spent
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    result.cached_tokens = whole(details.get("cached_tokens"))
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    result.reasoning_tokens = whole(details.get("reasoning_tokens"))


def read_chat(choice: dict[str, Any], result: Result) -> None:
    # Plain completions have a text and no message.
    message = choice["message"] if "message" in choice else {"content": choice["text"]}
    result.finish_reason = choice.get("finish_reason")
    result.text = message.get("content")
    calls = message.get("tool_calls")
    if calls:
        result.tool_calls = [
            {
                "id": call.get("id"),
                "name": call["function"]["name"],
                "arguments": arguments(call["function"].get("arguments")),
            }
            for call in calls
            if call.get("function")
        ]
    if message.get("refusal"):
        result.status, result.error_message = "refused", message["refusal"]
    elif result.finish_reason == "content_filter":
        result.status = "refused"
    elif result.finish_reason == "length":
        result.status = "truncated"
    else:
        result.status = "succeeded"


def read_response(body: dict[str, Any], result: Result) -> None:
    texts, refusals, calls = [], [], []
    for item in body.get("output") or ():
        if item.get("type") == "function_call":
            calls.append(
                {"id": item.get("call_id"), "name": item.get("name"), "arguments": arguments(item.get("arguments"))}
            )
        for part in item.get("content") or () if item.get("type") == "message" else ():
            if part.get("type") == "output_text":
                texts.append(part.get("text") or "")
            elif part.get("type") == "refusal":
                refusals.append(part.get("refusal") or "")
    result.text = "".join(texts) if texts else None
    result.tool_calls = calls or None
    result.finish_reason = body.get("status")
    reason = (body.get("incomplete_details") or {}).get("reason")
    if refusals or reason == "content_filter":
        result.status, result.error_message = "refused", "".join(refusals) or None
    elif reason or body.get("status") == "incomplete":
        result.status, result.finish_reason = "truncated", reason or "incomplete"
    elif body.get("status") in ("failed", "cancelled"):
        error = body.get("error") or {}
        result.error_code, result.error_message = error.get("code"), error.get("message")
    else:
        result.status = "succeeded"


def arguments(raw: Any) -> Any:
    """Tool-call arguments arrive as JSON text a model wrote; what does not parse stays text."""
    if not isinstance(raw, str):
        return raw
    try:
        return msgspec.json.decode(raw)
    except (ValueError, UnicodeEncodeError):
        return raw
