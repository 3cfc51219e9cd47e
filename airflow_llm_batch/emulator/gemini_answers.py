"""What Gemini answers to a request, and what it refuses one for.

Source: ai.google.dev (generateContent, embeddings, thinking, thought signatures), and 400s as users report them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from airflow_llm_batch.emulator import answers
from airflow_llm_batch.emulator.answers import Bad, asked_for, digest, named_first, tokens, unit_vector
from airflow_llm_batch.emulator.google_api import members
from airflow_llm_batch.providers.gemini.words import camel, camel_members

REQUEST = frozenset(
    {"model", "contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig", "labels"}
    | {"cachedContent", "serviceTier", "store"}
)
CONFIG = frozenset(
    {"temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "seed", "presencePenalty"}
    | {"frequencyPenalty", "responseLogprobs", "logprobs", "responseMimeType", "responseSchema", "responseJsonSchema"}
    | {"responseModalities", "mediaResolution", "speechConfig", "imageConfig", "thinkingConfig"}
    | {"enableEnhancedCivicAnswers"}
)
EMBEDDING = frozenset({"model", "content", "taskType", "title", "outputDimensionality"})
FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
#: a prompt that says so ends in this way: ``[[SAFETY]]``, or is blocked: ``[[BLOCK SAFETY]]``
MARK = re.compile(r"\[\[(BLOCK )?([A-Z_]+)\]\]")
THOUGHT = 16


def generate(model: str, given: dict[str, Any]) -> dict[str, Any] | Bad:
    """A ``GenerateContentResponse``."""
    params, config = camel_members(given), members(given, "generationConfig") or members(given, "generation_config")
    if problem := next(problems(model, params, config), None):
        return Bad(400, "INVALID_ARGUMENT", problem)
    contents = params["contents"]
    prompt = text_of(contents[-1])
    everything = "\n".join([text_of(params.get("systemInstruction")), *map(text_of, contents)])
    schema = config.get("responseJsonSchema") or lowered(config.get("responseSchema"))
    everything = "\n".join([everything, *asked_for(schema, params.get("tools"))])
    if (mark := MARK.search(prompt)) and mark[1]:
        usage = {"promptTokenCount": tokens(everything), "totalTokenCount": tokens(everything)}
        return {"promptFeedback": {"blockReason": mark[2]}, "usageMetadata": usage, "modelVersion": model}
    cap, as_json = config.get("maxOutputTokens"), config.get("responseMimeType") == "application/json"
    said = answers.reply(prompt, everything, schema if as_json else None, callable_tools(params), cap, as_json)
    thinking = members(config, "thinkingConfig")
    thought = 0 if thinking.get("thinkingBudget") == 0 or not thinking else THOUGHT
    key = digest(json.dumps(params, sort_keys=True))
    parts: list[dict[str, Any]] = []
    if thinking.get("includeThoughts"):
        parts.append({"text": "Thinking it over.", "thought": True})
    if said.text is not None and not mark:
        parts.append({"text": said.text})
    for place, (name, args) in enumerate(said.calls):
        parts.append({"functionCall": {"name": name, "args": args, "id": key[place : place + 8]}})
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}} if parts else {}
    candidate |= {"finishReason": mark[2] if mark else FINISH[said.finish], "index": 0}
    if config.get("responseLogprobs") and said.text:
        candidate["logprobsResult"] = logprobs(said.text, config.get("logprobs") or 0)
    count = config.get("candidateCount") or 1
    spent = said.output_tokens * count
    total = int(said.input_tokens) + int(spent) + thought
    usage = {
        "promptTokenCount": said.input_tokens,
        "candidatesTokenCount": spent,
        "thoughtsTokenCount": thought,
        "totalTokenCount": total,
    }
    return {
        # A zero is left out.
        "candidates": [{**candidate, "index": place} if place else candidate for place in range(count)],
        "usageMetadata": {
            **{name: value for name, value in usage.items() if value},
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": said.input_tokens}],
        },
        "modelVersion": model,
        "responseId": key[:22],
    }


def embed(model: str, given: dict[str, Any]) -> dict[str, Any] | Bad:
    """A vector of unit length, the same for the same text."""
    params = camel_members(given)
    if unknown := params.keys() - EMBEDDING:
        return Bad(400, "INVALID_ARGUMENT", unknown_name(sorted(unknown)[0], "request"))
    text = text_of(params.get("content"))
    if not text:
        return Bad(400, "INVALID_ARGUMENT", "content is required: it must have a part with text.")
    return {
        "embedding": {"values": unit_vector(text, int(params.get("outputDimensionality") or 768))},
        "usageMetadata": {"promptTokenCount": tokens(text), "totalTokenCount": tokens(text)},
    }


def problems(model: str, params: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """What the request would be refused for."""
    yield from (unknown_name(name, "request") for name in sorted(params.keys() - REQUEST))
    yield from (unknown_name(name, "generation_config") for name in sorted(config.keys() - CONFIG))
    contents = params.get("contents")
    if not isinstance(contents, list) or not contents:
        yield "* GenerateContentRequest.contents: contents is not specified"
        return
    for place, content in enumerate(contents):
        yield from content_problems(model, place, content)
    yield from config_problems(model, params, config)


def content_problems(model: str, place: int, content: Any) -> Iterator[str]:
    at = f"* GenerateContentRequest.contents[{place}]"
    role, parts = content.get("role", "user"), content.get("parts")
    if role not in ("user", "model", "function"):
        yield "Please use a valid role: user, model."
    if not isinstance(parts, list) or not parts:
        yield f"{at}.parts: contents.parts must not be empty."
        return
    for number, given in enumerate(parts):
        part = camel_members(given)
        if not part.keys() - {"thought", "thoughtSignature"} or part.get("text") == "":
            yield f"{at}.parts[{number}].data: required oneof field 'data' must have one initialized field"
        if "functionResponse" in part and not part["functionResponse"].get("name"):
            yield f"{at}.parts[{number}].function_response.name: Name cannot be empty."
        if "functionResponse" in part and not isinstance(part["functionResponse"].get("response"), dict):
            yield f"{at}.parts[{number}].function_response.response: expected an object."
    calls = [camel_members(part) for part in parts if "functionCall" in camel_members(part)]
    if calls and re.search(r"gemini-[3-9]", model) and "thoughtSignature" not in calls[0]:
        yield "Function call is missing a thought_signature in functionCall parts."


def config_problems(model: str, params: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    heat = config.get("temperature")
    if isinstance(heat, int | float) and not 0 <= heat <= 2:
        yield f"* GenerateContentRequest.generation_config.temperature: {heat} is not in the range [0.0, 2.0]."
    if len(config.get("stopSequences") or ()) > 5:
        yield "* GenerateContentRequest.generation_config.stop_sequences: at most 5 stop sequences."
    thinking = members(config, "thinkingConfig")
    if "thinkingBudget" in thinking and "thinkingLevel" in thinking:
        yield "You can only set only one of thinking budget and thinking level."
    if "thinkingLevel" in thinking and "2.5" in model:
        yield "Thinking level is not supported for this model."
    if thinking.get("thinkingBudget") == 0 and "2.5-pro" in model:
        yield "Budget 0 is invalid. This model only works in thinking mode."
    as_json = config.get("responseMimeType") == "application/json"
    schema = config.get("responseSchema")
    if (schema or config.get("responseJsonSchema")) and not as_json:
        yield "Response schema is only supported with response mime type application/json."
    if "additionalProperties" in json.dumps(schema or {}):
        yield "Unknown name \"additionalProperties\" at 'generation_config.response_schema': Cannot find field."
    tools = [camel_members(tool) for tool in params.get("tools") or ()]
    if as_json and re.search(r"gemini-[12]", model) and any("functionDeclarations" in tool for tool in tools):
        yield "Function calling with a response mime type: 'application/json' is unsupported"


def unknown_name(name: str, where: str) -> str:
    return f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field."


def text_of(content: Any) -> str:
    """The text of a content's parts; what is no text is named."""
    if isinstance(content, str):
        return content
    parts = content.get("parts") if isinstance(content, dict) else None
    texts = []
    for part in [parts] if isinstance(parts, dict) else parts or ():
        held = camel_members(part) if isinstance(part, dict) else {}
        if "functionResponse" in held:
            texts.append(json.dumps(held["functionResponse"].get("response")))
        elif "text" in held:
            texts.append(str(held["text"]))
        else:
            texts += [f"[{name}]" for name in held if name in ("inlineData", "fileData")]
    return "\n".join(texts)


def callable_tools(params: dict[str, Any]) -> list[tuple[str, Any]]:
    """Functions that the model may call: none after a result, where it is told not to."""
    chosen = members(members(params, "toolConfig"), "functionCallingConfig")
    last = params["contents"][-1].get("parts") or ()
    if chosen.get("mode") == "NONE" or any("functionResponse" in camel_members(part) for part in last):
        return []
    functions = []
    for tool in params.get("tools") or ():
        for given in camel_members(tool).get("functionDeclarations") or ():
            function = camel_members(given)
            schema = function.get("parametersJsonSchema") or lowered(function.get("parameters"))
            functions.append((function["name"], schema or {"type": "object"}))
    allowed = chosen.get("allowedFunctionNames") or ()
    return named_first(functions, allowed[0] if allowed else None)


def lowered(schema: Any) -> Any:
    """Gemini's own schema as a JSON schema: types in small letters, names in camelCase."""
    if isinstance(schema, list):
        return [lowered(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {camel(name): lowered(value) for name, value in schema.items() if name != "properties"}
    if isinstance(schema.get("properties"), dict):
        made["properties"] = {name: lowered(value) for name, value in schema["properties"].items()}
    if isinstance(made.get("type"), str):
        made["type"] = made["type"].lower()
    return made


def logprobs(text: str, ranks: int) -> dict[str, Any]:
    """A probability per word with the space behind it."""
    words = re.findall(r"\S+\s*|\s+", text)
    return {
        "chosenCandidates": [{"token": word, "tokenId": 1, "logProbability": -0.1} for word in words],
        "topCandidates": [
            {"candidates": [{"token": word + "?" * n, "logProbability": -0.1 - n} for n in range(ranks)]}
            for word in words
        ],
    }
