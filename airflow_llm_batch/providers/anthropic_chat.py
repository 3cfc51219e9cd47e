"""The neutral chat request (OpenAI's format) as Anthropic ``messages`` parameters.

What has no counterpart is refused by name, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from airflow_llm_batch.exceptions import InputError

#: parameters both APIs spell alike, and Anthropic's own, which may be given as they are
SAME = frozenset(
    {"model", "temperature", "top_p", "top_k", "thinking", "stop_sequences", "service_tier", "system", "container"}
    | {"inference_geo", "cache_control", "mcp_servers", "context_management"}
)
#: neutral parameters whose default asks for nothing
NO_OP: dict[str, Any] = {"n": 1, "stream": False, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0}


def refuse(what: str, remedy: str) -> NoReturn:
    raise InputError(f"Anthropic cannot express {what}; {remedy}. Nothing was sent.")


def message_params(body: dict[str, Any]) -> dict[str, Any]:
    """Translate a chat completion body.

    :raises InputError: names the parameter, role or content part that has no counterpart.
    """
    params: dict[str, Any] = {}
    for name, value in body.items():
        if name in SAME:
            params[name] = value
        elif name in TRANSLATE:
            TRANSLATE[name](value, params)
        elif value is not None and NO_OP.get(name, ...) != value:
            refuse(f"the parameter {name!r}", "remove it, or send the body with RawRequest(endpoint='/v1/messages')")
    return params


def messages(value: list[dict[str, Any]], params: dict[str, Any]) -> None:
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in value:
        role = message.get("role")
        if role in ("system", "developer"):
            system += blocks(message.get("content"))
        elif role == "tool":
            result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
            append(turns, "user", [result])
        elif role == "assistant":
            append(turns, "assistant", blocks(message.get("content")) + tool_uses(message.get("tool_calls") or []))
        elif role == "user":
            append(turns, "user", blocks(message.get("content")))
        else:
            refuse(f"a message of role {role!r}", "use system, user, assistant or tool")
    if system:
        params["system"] = plain(system)
    params["messages"] = [{"role": turn["role"], "content": plain(turn["content"])} for turn in turns]


def append(turns: list[dict[str, Any]], role: str, content: list[dict[str, Any]]) -> None:
    """Add to the conversation; consecutive messages of one role become one turn, as Anthropic reads them anyway."""
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += content
    else:
        turns.append({"role": role, "content": content})


def plain(content: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A lone text block is a string: smaller, and how people write it."""
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        return str(content[0]["text"])
    return content


def blocks(content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block(part) for part in content]


def block(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "image_url":
        url = part["image_url"]["url"] if isinstance(part["image_url"], dict) else part["image_url"]
        if not url.startswith("data:"):
            return {"type": "image", "source": {"type": "url", "url": url}}
        head, _, data = url.partition(",")
        media = head.removeprefix("data:").partition(";")[0]
        return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}
    if kind in ("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"):
        return part
    return refuse(f"a content part of type {kind!r}", "use text and image_url parts")


def tool_uses(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": msgspec.json.decode(call["function"].get("arguments") or "{}"),
        }
        for call in calls
    ]


def max_tokens(value: int | None, params: dict[str, Any]) -> None:
    if value is not None:
        params["max_tokens"] = value


def stop(value: str | list[str] | None, params: dict[str, Any]) -> None:
    if value is not None:
        params["stop_sequences"] = [value] if isinstance(value, str) else value


def user(value: str | None, params: dict[str, Any]) -> None:
    if value is not None:
        params.setdefault("metadata", {})["user_id"] = value


def metadata(value: dict[str, Any] | None, params: dict[str, Any]) -> None:
    if value and value.keys() - {"user_id"}:
        refuse("request metadata other than user_id", "remove it")
    if value:
        params.setdefault("metadata", {}).update(value)


def tools(value: list[dict[str, Any]], params: dict[str, Any]) -> None:
    translated = []
    for tool in value:
        if tool.get("type") != "function":
            translated.append(tool)
            continue
        function = tool["function"]
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        told = {"name": function["name"], "description": function.get("description"), "input_schema": schema}
        if function.get("strict") is not None:
            told["strict"] = function["strict"]
        translated.append({k: v for k, v in told.items() if v is not None})
    params["tools"] = translated


def tool_choice(value: Any, params: dict[str, Any]) -> None:
    choice = params.setdefault("tool_choice", {})
    if isinstance(value, dict) and "function" in value:
        choice.update({"type": "tool", "name": value["function"]["name"]})
    elif isinstance(value, dict):
        choice.update(value)
    elif value in ("auto", "none", "required"):
        choice["type"] = "any" if value == "required" else value
    else:
        refuse(f"tool_choice {value!r}", "use auto, none, required or a function")


def parallel_tool_calls(value: bool | None, params: dict[str, Any]) -> None:
    if value is not None:
        params.setdefault("tool_choice", {}).setdefault("type", "auto")
        params["tool_choice"]["disable_parallel_tool_use"] = not value


def response_format(value: dict[str, Any] | None, params: dict[str, Any]) -> None:
    kind = (value or {}).get("type", "text")
    if kind == "json_schema" and value:
        schema = value["json_schema"]["schema"]
        params.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}
    elif kind != "text":
        refuse(f"response_format {kind!r}", "give a JSON schema (ChatRequest(output=...))")


def reasoning_effort(value: str | None, params: dict[str, Any]) -> None:
    if value is not None and value not in ("low", "medium", "high", "xhigh", "max"):
        refuse(f"reasoning_effort {value!r}", "use low, medium, high, xhigh or max")
    if value is not None:
        params.setdefault("output_config", {})["effort"] = value


def output_config(value: dict[str, Any], params: dict[str, Any]) -> None:
    params.setdefault("output_config", {}).update(value)


TRANSLATE: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "messages": messages,
    "max_tokens": max_tokens,
    "max_completion_tokens": max_tokens,
    "stop": stop,
    "user": user,
    "metadata": metadata,
    "tools": tools,
    "tool_choice": tool_choice,
    "parallel_tool_calls": parallel_tool_calls,
    "response_format": response_format,
    "reasoning_effort": reasoning_effort,
    "output_config": output_config,
}
