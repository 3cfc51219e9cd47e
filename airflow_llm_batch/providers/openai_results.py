"""Result lines of OpenAI's batches, and of servers that speak its API, in the neutral shape.

Every field is coerced when it is read: whatever JSON stands in its place, the row gets a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from airflow_llm_batch.providers.coerce import (
    Count,
    Name,
    Said,
    id_of,
    members,
    objects,
    read_content,
    text_of,
    tool_call,
    vector_of,
    whole,
    word,
)
from airflow_llm_batch.providers.endings import Endings, judge, unreadable
from airflow_llm_batch.providers.troubles import UNKNOWN, trouble_of
from airflow_llm_batch.results import Result, RowStatus

ROW_OUTCOMES: dict[str, RowStatus] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
#: OpenAI's words, and those of servers that are like it
ENDINGS = Endings(
    good=frozenset({"stop", "eos", "eos_token", "stop_sequence", "stop_token", "end_turn", "complete", "completed"}),
    calling=frozenset({"tool_calls", "function_call", "tool_use"}),
    cut=frozenset({"length", "max_tokens", "max_output_tokens", "model_length"}),
    refused=frozenset({"content_filter", "refusal", "safety", "recitation", "prohibited_content", "blocklist"}),
)
#: where servers put what a model thought, beside its answer
REASONING = ("reasoning_content", "reasoning", "thinking")
#: output items of the Responses API that are tools of the vendor's own, billed by use
TOOL_ITEM = "_call"
#: those of them that the customer's side runs, and what is asked of it
OURS = frozenset({"function_call", "custom_tool_call"})
#: members of which a 200 without an answer is made: an error, whatever the status says
ERROR_ONLY = frozenset(
    {"detail", "message", "msg", "errors", "code", "status", "type", "request_id", "success", "object"}
)


ONE = msgspec.Meta(max_length=1)


class PromptDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class Usage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: OutputDetails | None = None


class Message(msgspec.Struct):
    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    annotations: tuple[()] | None = None
    audio: None = None
    reasoning_content: None = None
    reasoning: None = None
    thinking: None = None


class Choice(msgspec.Struct):
    message: Message
    finish_reason: Literal["stop"]
    logprobs: None = None
    error: None = None


class Embedding(msgspec.Struct):
    embedding: msgspec.Raw


class Body(msgspec.Struct):
    """Either a chat completion with one choice or an embedding."""

    model: Name
    usage: Usage
    choices: Annotated[list[Choice], ONE] = []
    data: Annotated[list[Embedding], ONE] = []
    service_tier: Name | None = None
    error: None = None
    citations: None = None
    search_results: None = None


class Response(msgspec.Struct):
    status_code: Literal[200]
    body: Body


class Answered(msgspec.Struct):
    """The line of a row that was answered with text or a vector, to the letter; every other line is another type."""

    custom_id: str
    response: Response
    error: None = None


def read_line(line: dict[str, Any]) -> Result:
    """A parsed line of an output or error file.

    :raises KeyError: for a line that names no row, or tells nothing of it.
    """
    result = Result(custom_id=id_of(line))
    response, error = members(line.get("response")), line.get("error")
    if not response and "error" not in line:
        raise KeyError("response")
    status, body = whole(response.get("status_code")) or 0, response.get("body")
    good = 200 <= status < 300
    error = error or error_in(body)
    if error or not good:
        trouble = trouble_of(error or body, 0 if good else status)
        result.error_code = f"http_{status}" if trouble.code == UNKNOWN and not good else trouble.code
        result.error_message = trouble.message or f"The vendor reported HTTP {status} for this row."
        result.status = ROW_OUTCOMES.get(trouble.code, "errored")
        if good and trouble.code == "unreadable_answer":
            result.status = "invalid"
        if isinstance(body, dict):
            read_billing(body, result)
    elif isinstance(body, dict) and body:
        read_billing(body, result)
        read_answer(body, result)
    else:
        unreadable(result, "the answer has no body")
    return result


def error_in(body: Any) -> Any:
    """The error in a body, wherever servers put it; None where there is none."""
    if not isinstance(body, dict):
        return body if isinstance(body, str) and body else None
    if body.get("error"):
        return body["error"]
    only_words = body.keys() <= ERROR_ONLY and any(body.get(name) for name in ("detail", "message", "msg", "errors"))
    return body if only_words or body.get("object") == "error" else None


def read_billing(body: dict[str, Any], result: Result) -> None:
    """The model, and what was used."""
    result.model = word(body.get("model"))
    result.service_tier = word(body.get("service_tier"))
    usage = members(body.get("usage"))
    result.input_tokens = whole(usage.get("prompt_tokens", usage.get("input_tokens")))
    # Embeddings report no output tokens at all: their output is nothing, not unknown.
    spent = whole(usage.get("completion_tokens", usage.get("output_tokens")))
    result.output_tokens = 0 if spent is None and usage else spent
    details = members(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    result.cached_tokens = whole(details.get("cached_tokens"))
    result.cache_write_tokens = whole(details.get("cache_write_tokens"))
    details = members(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    result.reasoning_tokens = whole(details.get("reasoning_tokens"))


def read_answer(body: dict[str, Any], result: Result) -> None:
    data = body.get("data")
    if "choices" in body:
        result.citations = body.get("citations") or body.get("search_results") or None
        read_choices(objects(body["choices"]), result)
    elif body.get("object") == "response" or ("output" in body and "status" in body):
        read_response(body, result)
    elif isinstance(data, list) and (not data or any("embedding" in item for item in objects(data))):
        read_vectors(data, result)
    else:
        result.status, result.output = "succeeded", body


def read_choices(choices: Sequence[dict[str, Any]], result: Result) -> None:
    """The first choice is the row's answer; where several were asked for, ``choices`` holds them all."""
    if not choices:
        unreadable(result, "it has no choices")
        return
    if all(isinstance(choice.get("index"), int) for choice in choices):
        choices = sorted(choices, key=lambda choice: choice["index"])
    read_choice(choices[0], result)
    if len(choices) > 1:
        result.choices = []
        for choice in choices:
            one = Result()
            read_choice(choice, one)
            choice = {
                name: getattr(one, name)
                for name in ("status", "text", "tool_calls", "finish_reason", "error_message", "reasoning", "logprobs")
                if getattr(one, name) is not None
            }
            result.choices.append(choice)


def read_choice(choice: dict[str, Any], result: Result) -> None:
    # Plain completions have a text and no message.
    message = members(choice["message"]) if "message" in choice else {"content": choice.get("text")}
    said = read_content(message.get("content"))
    audio = members(message.get("audio"))
    result.text = said.text if said.text is not None else text_of(audio.get("transcript"))
    result.reasoning = said.reasoning or reasoning_of(message)
    result.logprobs = choice.get("logprobs") or None
    result.citations = message.get("annotations") or result.citations
    result.tool_calls = calls_of(message)
    result.finish_reason = word(choice.get("finish_reason"))
    refusal = text_of(message.get("refusal")) or said.refusal
    judge(result, ENDINGS, refusal or None, filtered_by(choice), choice.get("error"))


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    thoughts = next((message[name] for name in REASONING if message.get(name)), None)
    said = read_content(thoughts)
    return said.text or said.reasoning


def calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """What tools the model wants called: functions, tools of other kinds, and the function call of old."""
    calls = []
    for call in objects(message.get("tool_calls")):
        asked = members(call.get("function")) or members(call.get("custom"))
        if asked:
            calls.append(tool_call(call.get("id"), asked.get("name"), asked.get("arguments", asked.get("input"))))
    if not calls and (old := members(message.get("function_call"))):
        calls.append(tool_call(None, old.get("name"), old.get("arguments")))
    return calls or None


def filtered_by(choice: Mapping[str, Any]) -> str | None:
    """The categories that a content filter names, Azure's shape."""
    verdicts = members(choice.get("content_filter_results"))
    return ", ".join(name for name, verdict in verdicts.items() if members(verdict).get("filtered")) or None


def read_response(body: dict[str, Any], result: Result) -> None:
    """An object of the Responses API."""
    items = objects(body.get("output"))
    messages = [item for item in items if item.get("type") == "message"]
    # What a model says on its way, in phases, is no part of its answer.
    final = [m for m in messages if m.get("phase") not in (None, "commentary")] or messages
    parts = [part for message in final for part in objects(message.get("content"))]
    said = read_content([part for part in parts if part.get("type") in ("output_text", "refusal", "text")] or None)
    result.text = said.text
    thoughts = [
        read_content(item.get("summary") or item.get("content")) for item in items if item.get("type") == "reasoning"
    ]
    result.reasoning = "\n".join(t.reasoning or t.text or "" for t in thoughts if t != Said()) or None
    result.citations = [note for part in parts for note in objects(part.get("annotations"))] or None
    result.logprobs = [entry for part in parts for entry in objects(part.get("logprobs"))] or None
    asked = [item for item in items if item.get("type") in OURS]
    result.tool_calls = [
        tool_call(item.get("call_id"), item.get("name"), item.get("arguments", item.get("input"))) for item in asked
    ] or None
    used = [str(item["type"]) for item in items if item not in asked and str(item.get("type")).endswith(TOOL_ITEM)]
    result.tool_uses = {kind.removesuffix(TOOL_ITEM): used.count(kind) for kind in used} or None
    made = [item for item in items if item.get("type") == "image_generation_call" and item.get("result")]
    result.output = made or None
    result.finish_reason = word(body.get("status"))
    reason = word(members(body.get("incomplete_details")).get("reason"))
    if result.finish_reason == "incomplete" or reason:
        result.finish_reason = reason or "incomplete"
    if result.finish_reason in ("failed", "cancelled"):
        trouble = trouble_of(body.get("error") or {"message": f"The response ended as {result.finish_reason!r}."})
        result.error_code, result.error_message = trouble.code, trouble.message
        return
    judge(result, RESPONSE_ENDINGS, said.refusal)


RESPONSE_ENDINGS = Endings(
    good=frozenset({"completed"}),
    calling=frozenset(),
    cut=frozenset({"max_output_tokens", "max_tokens", "incomplete"}),
    refused=ENDINGS.refused,
)


def read_vectors(data: list[Any], result: Result) -> None:
    """Embeddings, one or several; where one of them holds no numbers the row is ``invalid``."""
    items = objects(data)
    if all(isinstance(item.get("index"), int) for item in items):
        items.sort(key=lambda item: item["index"])
    vectors = [vector_of(item.get("embedding")) for item in items]
    if not vectors or len(items) != len(data) or None in vectors:
        result.status, result.error_code = "invalid", "bad_vector"
        result.error_message = "The answer holds a vector without numbers: null, NaN, empty or no vector at all."
        return
    result.status, result.embedding = "succeeded", vectors[0] if len(vectors) == 1 else vectors


decode_answered = msgspec.json.Decoder(Answered).decode


def read_frequent(line: bytes) -> Result | None:
    """What ``read_line`` makes of the most frequent lines, at half the price; None for all others.

    A vector stays the JSON it is.
    """
    try:
        answer = decode_answered(line)
    except (ValueError, RecursionError):
        return None
    body = answer.response.body
    usage = body.usage
    asked, used = usage.prompt_tokens_details, usage.completion_tokens_details
    result = Result(
        custom_id=answer.custom_id,
        status="succeeded",
        model=body.model,
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_tokens=asked.cached_tokens if asked else None,
        cache_write_tokens=asked.cache_write_tokens if asked else None,
        reasoning_tokens=used.reasoning_tokens if used else None,
        service_tier=body.service_tier,
    )
    if body.choices and not body.data:
        result.text, result.finish_reason = body.choices[0].message.content, body.choices[0].finish_reason
        return result if result.text else None
    if body.data:
        result.embedding = vector_of(body.data[0].embedding)
        return result if isinstance(result.embedding, msgspec.Raw) else None
    return None
