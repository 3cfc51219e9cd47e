"""Result lines of OpenAI's batches, and of servers that speak its API, in the neutral shape.

Every field is coerced when it is read: whatever JSON stands in its place, the row gets a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec

from airflow_llm_batch.providers.coerce import (
    Count,
    Name,
    Said,
    Some,
    cut_call,
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
from airflow_llm_batch.providers.endings import Endings, as_choice, fail, judge, says, unreadable
from airflow_llm_batch.providers.json_lines import UNREADABLE, parse_line
from airflow_llm_batch.providers.openai.usage import OURS, read_billing, searched, uses_of
from airflow_llm_batch.providers.troubles import UNANSWERED, UNKNOWN, tells, trouble_of
from airflow_llm_batch.results import Result

#: OpenAI's words, and those of servers that are like it
ENDINGS = Endings(
    good=frozenset({"stop", "eos", "eos_token", "stop_sequence", "stop_token", "end_turn", "complete", "completed"}),
    calling=frozenset({"tool_calls", "function_call", "tool_use"}),
    cut=frozenset({"length", "max_tokens", "max_output_tokens", "model_length"}),
)
#: where servers put what a model thought, beside its answer
REASONING = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
#: where servers put what an answer holds besides text: OpenRouter and LiteLLM images, OpenAI audio, Groq the results
#: of tools
SHOWN = ("images", "audio")
MEDIA = (*SHOWN, "executed_tools")
#: members of which a 200 without an answer is made: an error, whatever the status says
ERROR_ONLY = frozenset(
    {"detail", "message", "msg", "errors", "code", "status", "type", "request_id", "success", "object"}
)


ONE = msgspec.Meta(max_length=1)


#: absent, null or zero: a count that any other line has is read by ``read_line``
No = Literal[0] | None


class PromptDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: No = None
    cache_read_tokens: No = None
    cache_creation_tokens: No = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None
    audio_tokens: No = None


class Usage(msgspec.Struct):
    prompt_tokens: Some
    completion_tokens: Count = 0
    total_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    input_tokens: No = None
    output_tokens: No = None
    num_sources_used: No = None
    server_side_tool_usage_details: None = None
    server_tool_use: None = None
    cached_tokens: No = None
    prompt_cache_hit_tokens: No = None
    cache_read_input_tokens: No = None
    cache_creation_input_tokens: No = None


class Message(msgspec.Struct):
    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    annotations: tuple[()] | None = None
    audio: None = None
    images: tuple[()] | None = None
    executed_tools: None = None
    context: None = None
    provider_specific_fields: None = None
    reasoning_content: None = None
    reasoning: None = None
    reasoning_details: tuple[()] | None = None
    thinking: None = None
    thinking_blocks: tuple[()] | None = None


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
    status, body = whole(response.get("status_code")) or 0, opened(response.get("body"))
    # Some gateways leave the status out beside a good body.
    good = 200 <= status < 300 or (response.get("status_code") is None and isinstance(body, dict) and bool(body))
    error = error if tells(error) else error_in(body)
    if error or not good:
        trouble = trouble_of(error or body, 0 if good else status)
        if trouble.code == UNKNOWN and not good:
            trouble = trouble._replace(code=f"http_{status}" if status or trouble.message else UNANSWERED)
        reported = f"HTTP {status}" if status else "no answer and no error"
        fail(result, trouble._replace(message=trouble.message or f"The vendor reported {reported} for this row."))
        if isinstance(body, dict):
            read_billing(body, result)
    elif isinstance(body, dict) and body:
        read_billing(body, result)
        read_answer(body, result)
    else:
        unreadable(result, "the answer has no body")
    return result


def opened(body: Any) -> Any:
    """A body, also one that is the text of its JSON, as Mistral's refusals are."""
    if isinstance(body, str) and body.lstrip().startswith("{"):
        with suppress(*UNREADABLE):
            return parse_line(body.encode())
    return body


def error_in(body: Any) -> Any:
    """The error in a body, wherever servers put it; None where there is none."""
    if not isinstance(body, dict):
        return body if isinstance(body, str) and body else None
    if tells(body.get("error")):
        return body["error"]
    only_words = body.keys() <= ERROR_ONLY and any(body.get(name) for name in ("detail", "message", "msg", "errors"))
    return body if only_words or body.get("object") == "error" else None


def read_answer(body: dict[str, Any], result: Result) -> None:
    data = body.get("data")
    if "choices" in body:
        result.citations = body.get("citations") or body.get("search_results") or None
        if result.citations:
            searched(result)
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
    if len(choices) > 1 or result.choices:
        every = [as_choice(result)]
        for choice in choices[1:]:
            one = Result()
            read_choice(choice, one)
            every.append(as_choice(one))
        result.choices = every


def read_choice(choice: dict[str, Any], result: Result) -> None:
    # Plain completions have a text and no message.
    message = members(choice["message"]) if "message" in choice else {"content": choice.get("text")}
    said = read_content(message.get("content"))
    audio = members(message.get("audio"))
    result.text = said.text if said.text is not None else text_of(audio.get("transcript"))
    result.reasoning = said.reasoning or reasoning_of(message)
    result.logprobs = choice.get("logprobs") or None
    if any(note.get("type") == "url_citation" for note in objects(message.get("annotations"))):
        searched(result)
    result.citations = citations_of(message) or result.citations
    result.tool_calls = calls_of(message)
    functions = [c for c in result.tool_calls or [] if c["id"] not in custom_ids(message)]
    shown, media = ([item for name in names for item in objects(message.get(name))] for names in (SHOWN, MEDIA))
    result.choices = [{"media": shown}] if shown else None
    result.finish_reason = word(choice.get("finish_reason"))
    refusal = text_of(message.get("refusal")) or said.refusal
    judge(result, ENDINGS, refusal or None, filtered_by(choice), choice.get("error"), cut_call(functions))
    result.choices = [{"media": media}] if media else None


def citations_of(message: Mapping[str, Any]) -> Any:
    """What an answer is taken from: OpenAI's annotations, Azure's own data, LiteLLM's fields of other vendors."""
    hidden = (members(message.get(name)).get("citations") for name in ("context", "provider_specific_fields"))
    return message.get("annotations") or next(filter(None, hidden), None)


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    for place in (message, members(message.get("provider_specific_fields"))):
        for name in REASONING:
            said = read_content(place.get(name) or None)
            if thoughts := said.text or said.reasoning:
                return thoughts
    return None


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


def custom_ids(message: Mapping[str, Any]) -> set[str | None]:
    """The calls whose input is free text, as custom tools take it."""
    return {word(call.get("id")) for call in objects(message.get("tool_calls")) if members(call.get("custom"))}


def filtered_by(choice: Mapping[str, Any]) -> str | None:
    """The categories that a content filter names, Azure's shape."""
    verdicts = members(choice.get("content_filter_results"))
    return ", ".join(name for name, verdict in verdicts.items() if members(verdict).get("filtered")) or None


def read_response(body: dict[str, Any], result: Result) -> None:
    """An object of the Responses API."""
    # Some servers write anything as a type, and a list cannot be looked up.
    items = [{**item, "type": word(item.get("type"))} for item in objects(body.get("output"))]
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
    result.tool_uses = {**uses_of(items, body), **(result.tool_uses or {})} or None
    made = [item for item in items if item.get("type") == "image_generation_call" and item.get("result")]
    result.output = made or None
    result.finish_reason = word(body.get("status"))
    reason = word(members(body.get("incomplete_details")).get("reason"))
    if result.finish_reason == "incomplete" or reason:
        result.finish_reason = reason or "incomplete"
    if result.finish_reason in ("failed", "cancelled"):
        error = body.get("error") or {"message": f"The response ended as {result.finish_reason!r}."}
        fail(result, trouble_of(error))
        return
    functions = [c for c, item in zip(result.tool_calls or [], asked, strict=True) if item["type"] == "function_call"]
    judge(result, RESPONSE_ENDINGS, said.refusal, cut_call=cut_call(functions))


RESPONSE_ENDINGS = Endings(
    good=frozenset({"completed"}),
    calling=frozenset(),
    cut=frozenset({"max_output_tokens", "max_tokens", "incomplete"}),
)


def read_vectors(data: list[Any], result: Result) -> None:
    """Embeddings, one or several; where one of them holds no numbers the row is ``invalid``."""
    items = objects(data)
    if all(isinstance(item.get("index"), int) for item in items):
        items.sort(key=lambda item: item["index"])
    vectors = [vector_of(item.get("embedding")) for item in items]
    if not vectors or len(items) != len(data) or None in vectors:
        result.status, result.error_code = "invalid", "bad_vector"
        result.error_message = (
            "The answer holds a vector that cannot be read: without numbers, null, NaN or empty, or base64 of other "
            "numbers than float32. It is in output as the vendor wrote it."
        )
        result.output = data
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
    thought = used.reasoning_tokens if used else None
    named = usage.prompt_tokens + usage.completion_tokens
    more = (usage.total_tokens or 0) > named or (thought or 0) > usage.completion_tokens
    if (more and body.choices) or "-search-" in body.model:
        # More is billed than the counts of the line say: ``read_line`` reckons it.
        return None
    result = Result(
        custom_id=answer.custom_id,
        status="succeeded",
        model=body.model,
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_tokens=asked.cached_tokens if asked else None,
        cache_write_tokens=asked.cache_write_tokens if asked else None,
        reasoning_tokens=thought,
        service_tier=body.service_tier,
    )
    if body.choices and not body.data:
        result.text, result.finish_reason = body.choices[0].message.content, body.choices[0].finish_reason
        return result if says(result.text) else None
    if body.data:
        result.embedding = vector_of(body.data[0].embedding)
        return result if isinstance(result.embedding, msgspec.Raw) else None
    return None
