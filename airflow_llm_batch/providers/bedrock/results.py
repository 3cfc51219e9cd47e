"""Result lines of Bedrock's jobs, in the neutral shape: one of Converse's answers, or one of a model's own.

Every field is coerced when it is read: whatever JSON stands in its place, the row gets a result. Which family an answer
is of shows in its members, so it is read without knowing the model. Source: Bedrock's user guide (results of a batch
inference job; response fields for foundation models; guardrails with InvokeModel) and API reference (Converse).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.providers.anthropic.results import read_message
from airflow_llm_batch.providers.bedrock.converse import ANSWER_TOOL
from airflow_llm_batch.providers.coerce import (
    as_json,
    cut_call,
    members,
    objects,
    text_of,
    tool_call,
    vector_of,
    whole,
    word,
)
from airflow_llm_batch.providers.endings import UNKNOWN, Endings, as_choice, fail, judge, unreadable
from airflow_llm_batch.providers.openai.results import error_in, read_answer
from airflow_llm_batch.providers.openai.usage import read_billing
from airflow_llm_batch.providers.troubles import tells, trouble_of
from airflow_llm_batch.results import Result

ENDINGS = Endings(
    good=frozenset({"end_turn", "stop_sequence", "stop", "finish", "stop_criteria_met", "endoftext", "complete"}),
    calling=frozenset({"tool_use", "tool_calls"}),
    cut=frozenset({"max_tokens", "length", "model_context_window_exceeded"}),
)
GUARDRAIL, INTERVENED = "amazon-bedrock-guardrailAction", "INTERVENED"
METRICS = "amazon-bedrock-invocationMetrics"
#: what gpt-oss thought, before its answer in InvokeModel
THOUGHT = re.compile(r"\A\s*<reasoning>(.*?)</reasoning>", re.DOTALL)
#: how Converse and Nova's own body spell tokens of a cache
CACHE_READ = ("cacheReadInputTokens", "cacheReadInputTokenCount")
CACHE_WRITTEN = ("cacheWriteInputTokens", "cacheWriteInputTokenCount")
BAD_VECTOR = "The answer holds a vector that cannot be read; it is in output as the vendor wrote it."


def record_id(line: Mapping[str, Any]) -> str:
    """:raises KeyError: for a line without one."""
    # Calls are kept under our own name for it.
    found = line.get("recordId", line.get("custom_id"))
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise KeyError("recordId")
    return str(found)


def read_line(line: dict[str, Any]) -> Result:
    """A parsed line of a ``*.jsonl.out`` file.

    :raises KeyError: for a line that names no row, or tells nothing of it.
    """
    result = Result(custom_id=record_id(line))
    output, error = line.get("modelOutput"), line.get("error")
    if output is None and error is None:
        raise KeyError("modelOutput")
    if tells(error):
        fail(result, trouble_of(*spelled(error)))
    elif isinstance(output, dict) and output:
        read_output(output, result)
    else:
        unreadable(result, "it is no object")
    # The name that the answer gives its model is its vendor's, whose prices are others.
    result.model = None
    return result


def spelled(error: Any) -> tuple[Any, int]:
    """A record's error, ``{"errorCode": 400, "errorMessage": "bad request"}``, in the usual words, and its status."""
    if not isinstance(error, dict):
        return error, 0
    code, message = error.get("errorCode"), error.get("errorMessage")
    status = whole(code) or 0
    if "answer" in error:
        # Of a call: what the service answered is as it came.
        return error["answer"], status if 400 <= status < 600 else 0
    usual = {"code": code, "message": message if message is None else text_of(message)}
    known = {name: value for name, value in {**error, **usual}.items() if value is not None}
    return known, status if 400 <= status < 600 else 0


def read_output(output: dict[str, Any], result: Result) -> None:
    """An answer, of whatever family."""
    for name, read in READERS:
        if output.get(name) is not None:
            read(output, result)
            break
    else:
        if (error := error_in(output)) is not None:
            fail(result, trouble_of(error))
        elif "message" in output and len(output) <= 2:
            fail(result, trouble_of(output))
        elif any(name in output for name, _ in READERS):
            # An answer of a known family that is null: Titan tells the reason as a message.
            read_nothing(output, result)
        else:
            read_unknown(output, result)
    read_metrics(output, result)
    if output.get(GUARDRAIL) == INTERVENED:
        said = result.text
        result.status, result.error_code = "refused", "guardrail_intervened"
        result.error_message = said or "A guardrail stopped it."


def read_nothing(output: Mapping[str, Any], result: Result) -> None:
    if isinstance(said := output.get("message"), str) and said:
        fail(result, trouble_of({"message": said}))
    else:
        unreadable(result, "it is empty")


def read_unknown(output: dict[str, Any], result: Result) -> None:
    """An answer of no known shape is whole, unless it tells that it was cut, filtered or given up."""
    result.status, result.output = "succeeded", output
    result.finish_reason = word(output.get("finish_reason") or output.get("stop_reason"))
    if result.finish_reason:
        judge(result, ENDINGS)
        if result.error_code == UNKNOWN:
            result.status, result.error_code, result.error_message = "succeeded", None, None


def read_metrics(output: Mapping[str, Any], result: Result) -> None:
    """Tokens as Bedrock itself counts them, where the answer does not."""
    metrics = members(output.get(METRICS))
    if result.input_tokens is None:
        result.input_tokens = whole(metrics.get("inputTokenCount")) or None
    if result.output_tokens is None:
        result.output_tokens = whole(metrics.get("outputTokenCount"))


def read_claude(output: dict[str, Any], result: Result) -> None:
    read_message(output, result)


def read_chat(output: dict[str, Any], result: Result) -> None:
    """OpenAI's chat completion: of gpt-oss, of Mistral, which says ``stop_reason``, and of other open models."""
    choices = [
        {**choice, "finish_reason": choice["stop_reason"]}
        if choice.get("finish_reason") is None and choice.get("stop_reason") is not None
        else choice
        for choice in objects(output.get("choices"))
    ]
    body = {**output, "choices": choices}
    if tells(error := body.get("error")):
        fail(result, trouble_of(error))
    else:
        read_billing(body, result)
        read_answer(body, result)
    if (found := THOUGHT.match(result.text or "")) and result.text is not None:
        result.reasoning = result.reasoning or found[1]
        result.text = result.text[found.end() :].lstrip()
        if result.status == "succeeded" and not result.text:
            judge(result, ENDINGS)


def read_converse(output: dict[str, Any], result: Result) -> None:
    """Converse's answer, and Nova's own."""
    blocks = objects(members(members(output.get("output")).get("message")).get("content"))
    texts = [text_of(block["text"]) or "" for block in blocks if block.get("text") is not None]
    texts += [
        text_of(part.get("text")) or ""
        for block in blocks
        for part in objects(members(block.get("citationsContent")).get("content"))
    ]
    result.text = "".join(texts) if texts else None
    thoughts = [members(members(block.get("reasoningContent")).get("reasoningText")).get("text") for block in blocks]
    result.reasoning = "\n".join(text_of(thought) or "" for thought in thoughts if thought is not None) or None
    cited = [members(block.get("citationsContent")).get("citations") for block in blocks]
    result.citations = [note for notes in cited for note in objects(notes)] or None
    result.finish_reason = word(output.get("stopReason"))
    calls = [
        tool_call(use.get("toolUseId"), use.get("name"), use.get("input"))
        for block in blocks
        if (use := members(block.get("toolUse")))
    ]
    answered = [call for call in calls if call["name"] == ANSWER_TOOL]
    if answered and len(calls) == 1:
        # The tool that stands for the schema: its arguments are the answer.
        arguments = answered[0]["arguments"]
        result.text = arguments if isinstance(arguments, str) else as_json(arguments)
        calls = []
        if result.finish_reason == "tool_use":
            result.finish_reason = "end_turn"
    result.tool_calls = calls or None
    media = [block for block in blocks if block.keys() & {"image", "video", "audio", "document"}]
    result.choices = [{"media": media}] if media else None
    read_usage(members(output.get("usage")), result)
    result.service_tier = word(members(output.get("serviceTier")).get("type"))
    judge(result, ENDINGS, error=output.get("error"), cut_call=cut_call(calls))
    if media:
        result.choices = [as_choice(result)]


def read_usage(usage: Mapping[str, Any], result: Result) -> None:
    fresh, answered, total = (whole(usage.get(name)) for name in ("inputTokens", "outputTokens", "totalTokens"))
    result.output_tokens = answered
    if fresh is None:
        return
    read, written = (max(whole(usage.get(name)) or 0 for name in names) for names in (CACHE_READ, CACHE_WRITTEN))
    result.cached_tokens, result.cache_write_tokens = read, written
    # Converse counts tokens of a cache beside inputTokens; totalTokens tells where they are among them.
    among = total is not None and answered is not None and total == fresh + answered
    # No prompt is empty: where 0 is told, nobody has counted.
    result.input_tokens = whole(fresh if among else fresh + read + written) or None
    hours = [whole(of.get("inputTokens")) or 0 for of in objects(usage.get("cacheDetails")) if of.get("ttl") == "1h"]
    result.cache_write_1h_tokens = sum(hours) if hours else None


def read_llama(output: dict[str, Any], result: Result) -> None:
    result.text, result.finish_reason = text_of(output.get("generation")), word(output.get("stop_reason"))
    result.input_tokens = whole(output.get("prompt_token_count")) or None
    result.output_tokens = whole(output.get("generation_token_count"))
    judge(result, ENDINGS)


def read_mistral(output: dict[str, Any], result: Result) -> None:
    """Mistral's text completion."""
    first = next(iter(objects(output.get("outputs"))), {})
    result.text, result.finish_reason = text_of(first.get("text")), word(first.get("stop_reason"))
    judge(result, ENDINGS)


def read_titan(output: dict[str, Any], result: Result) -> None:
    """Titan's text."""
    first = next(iter(objects(output.get("results"))), {})
    result.text, result.finish_reason = text_of(first.get("outputText")), word(first.get("completionReason"))
    result.input_tokens = whole(output.get("inputTextTokenCount")) or None
    result.output_tokens = whole(first.get("tokenCount"))
    judge(result, ENDINGS)


def read_vector(output: dict[str, Any], result: Result) -> None:
    """Titan's embedding."""
    result.input_tokens, result.output_tokens = whole(output.get("inputTextTokenCount")) or None, 0
    put_vectors([output.get("embedding")], output, result)


def read_vectors(output: dict[str, Any], result: Result) -> None:
    """Cohere's embeddings, a list of vectors, or one by type, a vector for each text; and Nova's."""
    given = output.get("embeddings")
    billed = members(members(output.get("meta")).get("billed_units"))
    result.input_tokens, result.output_tokens = whole(billed.get("input_tokens")) or None, 0
    vectors = members(given).get("float") if isinstance(given, dict) else given
    listed = vectors if isinstance(vectors, list) else [None]
    # Nova tells beside each vector what it is of.
    put_vectors([one.get("embedding") if isinstance(one, dict) else one for one in listed], output, result)


def read_types(output: dict[str, Any], result: Result) -> None:
    """Titan's embedding in types that were asked for."""
    result.input_tokens, result.output_tokens = whole(output.get("inputTextTokenCount")) or None, 0
    if (vector := members(output["embeddingsByType"]).get("float")) is not None:
        put_vectors([vector], output, result)
    else:
        result.status, result.output = "succeeded", output


def put_vectors(given: list[Any], output: dict[str, Any], result: Result) -> None:
    vectors = [vector_of(vector) for vector in given]
    if not vectors or None in vectors:
        result.status, result.error_code, result.error_message = "invalid", "bad_vector", BAD_VECTOR
        result.output = output
        return
    result.status, result.embedding = "succeeded", vectors[0] if len(vectors) == 1 else vectors


#: the member that tells a family's answer, the first that is there
READERS = (
    ("choices", read_chat),
    ("output", read_converse),
    ("generation", read_llama),
    ("outputs", read_mistral),
    ("results", read_titan),
    ("embeddings", read_vectors),
    ("embedding", read_vector),
    ("embeddingsByType", read_types),
    ("content", read_claude),
)
