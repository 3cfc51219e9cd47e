"""Requests that the vendors refuse although they are well formed: schemas, tools, parameters of certain models.

Source: OpenAI's API reference and guides (reasoning models, structured outputs), Anthropic's errors and vision page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from airflow_llm_batch.emulator.schema_rules import anthropic_problem, openai_problem

REASONING = re.compile(r"^(o\d|gpt-[5-9])")
FROM_5_4 = re.compile(r"^gpt-(5\.([4-9]|\d\d)|[6-9])")
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


@lru_cache(256)
def openai_schema(name: str, schema: str, strict: bool, context: str) -> str | None:
    return openai_problem(json.loads(name), json.loads(schema), strict, context)


@lru_cache(256)
def anthropic_schema(schema: str) -> str | None:
    return anthropic_problem(json.loads(schema))


def openai_format(wanted: Any) -> str | None:
    """What OpenAI has against a ``json_schema`` format."""
    asked = wanted if isinstance(wanted, dict) else {}
    name, schema = json.dumps(asked.get("name")), json.dumps(asked.get("schema"))
    return openai_schema(name, schema, bool(asked.get("strict")), "response_format")


def openai_tools(functions: Iterator[dict[str, Any]]) -> str | None:
    for function in functions:
        if function.get("parameters"):
            name, schema = json.dumps(function.get("name")), json.dumps(function["parameters"])
            if problem := openai_schema(name, schema, bool(function.get("strict")), "function"):
                return problem
    return None


def chat_problem(body: dict[str, Any]) -> tuple[str, str] | None:
    """What OpenAI refuses a chat completion for, and the parameter that it names."""
    model, wanted = str(body.get("model")), body.get("response_format")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        return "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.", "max_tokens"
    if body.get("max_tokens") is not None and REASONING.match(model):
        return (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        ), "max_tokens"
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(name), int) and body[name] < 1:
            return f"Invalid '{name}': integer below minimum value. Expected a value >= 1.", name
    if body.get("tools") and body.get("reasoning_effort") not in (None, "none") and FROM_5_4.match(model):
        return (
            f"Function tools with reasoning_effort are not supported for {model} in /v1/chat/completions. "
            "Please use /v1/responses instead."
        ), "reasoning_effort"
    if (
        isinstance(wanted, dict)
        and wanted.get("type") == "json_schema"
        and (said := openai_format(wanted.get("json_schema")))
    ):
        return said, "response_format"
    functions = [t["function"] for t in body.get("tools") or () if isinstance(t.get("function"), dict)]
    if said := openai_tools(iter(functions)):
        return said, "tools[0].function.parameters"
    as_object = isinstance(wanted, dict) and wanted.get("type") == "json_object"
    if as_object and "json" not in json.dumps(body.get("messages")).lower():
        return (
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        ), "messages"
    choice = body.get("tool_choice")
    named = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    if choice not in (None, "none", "auto") and not functions and not body.get("tools"):
        why = "'tool_choice' is only allowed when 'tools' are specified."
        return f"Invalid value for 'tool_choice': {why}", "tool_choice"
    if named is not None and named not in [function.get("name") for function in functions]:
        return f"Tool choice 'function' not found in 'tools' parameter: '{named}'.", "tool_choice"
    for part in parts_of(body.get("messages")):
        if part.get("type") == "image_url":
            given = part.get("image_url")
            url = given.get("url") if isinstance(given, dict) else given
            if not isinstance(url, str) or not url:
                return "Invalid type for 'messages[0].content[0].image_url.url': expected an image URL.", "messages"
    return None


def response_problem(body: dict[str, Any]) -> tuple[str, str] | None:
    """What OpenAI refuses a request of the Responses API for."""
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema" and (said := openai_format(wanted)):
        return said, "text.format.schema"
    # A function is strict here unless it says otherwise.
    functions = ({"strict": True, **t} for t in body.get("tools") or () if t.get("type") == "function")
    if said := openai_tools(functions):
        return said, "tools[0].parameters"
    return None


def message_problem(params: dict[str, Any]) -> str | None:
    """What Anthropic refuses a message for."""
    schema = ((params.get("output_config") or {}).get("format") or {}).get("schema")
    if schema is not None and (said := anthropic_schema(json.dumps(schema))):
        return f"output_config.format.schema: {said}"
    for place, tool in enumerate(params.get("tools") or ()):
        given = tool.get("input_schema")
        if given is not None and given.get("type") != "object":
            return f"tools.{place}.custom.input_schema.type: Field required"
        if tool.get("strict") and (said := anthropic_schema(json.dumps(given))):
            return f"tools.{place}.custom: {said}"
    choice = params.get("tool_choice") or {}
    names = [tool.get("name") for tool in params.get("tools") or ()]
    if choice and not names:
        return "tool_choice: tool_choice may only be specified while providing tools"
    if choice.get("type") == "tool" and choice.get("name") not in names:
        return f"tool_choice: Tool '{choice.get('name')}' not found in provided tools"
    if choice.get("type") == "none" and "disable_parallel_tool_use" in choice:
        return "tool_choice.none.disable_parallel_tool_use: Extra inputs are not permitted"
    thinking = params.get("thinking") or {}
    if thinking.get("type") == "enabled" and thinking.get("budget_tokens", 0) >= params["max_tokens"]:
        return "max_tokens must be greater than thinking.budget_tokens"
    for message in params["messages"]:
        if message.get("content") in ("", []) and message is not params["messages"][-1]:
            return "messages: all messages must have non-empty content"
    for part in parts_of(params["messages"]):
        source = part.get("source") or {}
        if part.get("type") == "text" and not str(part.get("text") or "").strip():
            return "messages: text content blocks must be non-empty"
        if part.get("type") == "image" and source.get("type") == "base64" and source.get("media_type") not in IMAGES:
            return f"messages: image media_type should be one of {', '.join(IMAGES)}"
    return None


def parts_of(messages: Any) -> Iterator[dict[str, Any]]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))
        elif isinstance(content, str):
            yield {"type": "text", "text": content}
