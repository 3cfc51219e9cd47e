"""The neutral chat request as one of OpenAI's Responses API, and requests that are so already.

Source: OpenAI's API reference (responses) and its guide to the migration from chat completions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_llm_batch.providers.coerce import members, objects
from airflow_llm_batch.providers.openai.chat import (
    CAP,
    NO_OP,
    OLD_CAP,
    check_caps,
    check_json_asked,
    check_tool_name,
    fit_format,
    fit_parameters,
    fitted_arguments,
)
from airflow_llm_batch.providers.openai.models import fitted_to_model, refuse

#: parameters that mean the same in both APIs
SAME = frozenset(
    {"model", "temperature", "top_p", "user", "metadata", "store", "parallel_tool_calls", "service_tier"}
    | {
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "safety_identifier",
        "reasoning",
        "text",
        "include",
        "truncation",
    }
)
#: the fewest tokens that an answer may be capped at
LEAST_CAP = 16


def checked_response(body: dict[str, Any], direct: bool = False) -> dict[str, Any]:
    """A body that is one of the Responses API already; the same object where nothing is to be changed.

    :param direct: OpenAI itself is asked, so its rules hold.
    :raises InputError: names what would be refused.
    """
    check_caps(body)
    changed: dict[str, Any] = {}
    text = members(body.get("text"))
    asked = members(text.get("format"))
    if asked.get("type") == "json_schema":
        changed["text"] = {**text, "format": fit_format(asked)}
    if isinstance(body.get("tools"), list):
        changed["tools"] = [
            fit_parameters(tool) if isinstance(tool, dict) and tool.get("type") == "function" else tool
            for tool in body["tools"]
        ]
    if any(body[key] != value for key, value in changed.items()):
        body = {**body, **changed}
    if not direct:
        return body
    cap = body.get("max_output_tokens")
    if isinstance(cap, int) and cap < LEAST_CAP:
        refuse(f"the cap of {cap} tokens is below the {LEAST_CAP} that the Responses API asks for", "raise max_tokens")
    for tool in objects(body.get("tools")):
        if tool.get("type") in ("function", "custom"):
            check_tool_name(tool.get("name"))
    if asked.get("type") == "json_object" and not (body.get("prompt") or body.get("previous_response_id")):
        check_json_asked(body.get("input"), body.get("instructions"))
    return fitted_to_model(body)


def responses_body(body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion's body as one of the Responses API.

    :raises InputError: names what it cannot express.
    """
    made: dict[str, Any] = {}
    for name, value in body.items():
        if name in SAME:
            made[name] = value
        elif name in RESPONSES:
            RESPONSES[name](value, made)
        elif value is not None and NO_OP.get(name, ...) != value:
            refuse(f"the Responses API has no parameter {name!r}", "remove it, or use api='chat'")
    return made


def to_input(messages: Any, made: dict[str, Any]) -> None:
    items: list[dict[str, Any]] = []
    custom: set[Any] = set()
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role == "tool":
            output = content if isinstance(content, str) else [input_part(part, "user") for part in content or ()]
            call_id = message.get("tool_call_id")
            kind = "custom_tool_call_output" if call_id in custom else "function_call_output"
            items.append({"type": kind, "call_id": call_id, "output": output})
            continue
        if content not in (None, "", []):
            parts = content if isinstance(content, str) else [input_part(part, role) for part in content]
            items.append({"role": role, "content": parts})
        for call in message.get("tool_calls") or ():
            items.append(to_call(call))
            if items[-1]["type"] == "custom_tool_call":
                custom.add(call.get("id"))
    made["input"] = items


def to_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool's call in an earlier answer."""
    if call.get("type") == "custom":
        own = members(call.get("custom"))
        return {
            "type": "custom_tool_call",
            "call_id": call.get("id"),
            "name": own.get("name"),
            "input": own.get("input") or "",
        }
    function = members(call.get("function"))
    return {
        "type": "function_call",
        "call_id": call.get("id"),
        "name": function.get("name"),
        "arguments": fitted_arguments(function.get("arguments")) or "{}",
    }


def input_part(part: Any, role: Any) -> Any:
    """A content part in the Responses API's words."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        mark = {name: part[name] for name in ("prompt_cache_breakpoint",) if name in part}
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.get("text"), **mark}
    if kind == "image_url":
        given = part["image_url"] if isinstance(part.get("image_url"), dict) else {"url": part.get("image_url")}
        detail = {"detail": given["detail"]} if given.get("detail") else {}
        return {"type": "input_image", "image_url": given.get("url"), **detail}
    if kind == "file":
        return {"type": "input_file", **(part.get("file") or {})}
    if kind in ("input_text", "output_text", "input_image", "input_file", "refusal"):
        return part
    return refuse(f"the Responses API has no content part of type {kind!r}", "use text, image_url and file parts")


def to_format(wanted: Any, made: dict[str, Any]) -> None:
    if wanted:
        flat = {**wanted, **(wanted.get("json_schema") or {})}
        flat.pop("json_schema", None)
        made.setdefault("text", {})
        made["text"] = {**made["text"], "format": flat}


def to_tools(tools: Any, made: dict[str, Any]) -> None:
    made["tools"] = [to_tool(tool) for tool in tools or ()]


def to_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if isinstance(tool.get("function"), dict):
        # Here a function is strict unless it says otherwise; in chat completions it is not.
        return {"type": "function", "strict": False, **tool["function"]}
    if not isinstance(tool.get("custom"), dict):
        return tool
    flat = {"type": "custom", **tool["custom"]}
    wanted = members(flat.get("format"))
    if isinstance(wanted.get("grammar"), dict):
        flat["format"] = {"type": "grammar", **wanted["grammar"]}
    return flat


def to_tool_choice(choice: Any, made: dict[str, Any]) -> None:
    if choice is not None:
        made["tool_choice"] = flat_choice(choice)


def flat_choice(choice: Any) -> Any:
    """A choice of tools, or one of the tools that may be chosen from."""
    if not isinstance(choice, dict):
        return choice
    for kind in ("function", "custom"):
        if isinstance(choice.get(kind), dict):
            return {"type": kind, "name": choice[kind].get("name")}
    if isinstance(choice.get("allowed_tools"), dict):
        allowed = choice["allowed_tools"]
        return {"type": "allowed_tools", **allowed, "tools": [flat_choice(tool) for tool in allowed.get("tools") or ()]}
    return choice


def to_cap(cap: Any, made: dict[str, Any]) -> None:
    if cap is not None:
        made["max_output_tokens"] = cap


def to_effort(effort: Any, made: dict[str, Any]) -> None:
    if effort is not None:
        made["reasoning"] = {**(made.get("reasoning") or {}), "effort": effort}


def to_verbosity(verbosity: Any, made: dict[str, Any]) -> None:
    if verbosity is not None:
        made["text"] = {**(made.get("text") or {}), "verbosity": verbosity}


def to_top_logprobs(number: Any, made: dict[str, Any]) -> None:
    if number is not None:
        made["top_logprobs"] = number
        made["include"] = [*(made.get("include") or ()), "message.output_text.logprobs"]


RESPONSES: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "messages": to_input,
    "response_format": to_format,
    "tools": to_tools,
    "tool_choice": to_tool_choice,
    CAP: to_cap,
    OLD_CAP: to_cap,
    "reasoning_effort": to_effort,
    "verbosity": to_verbosity,
    "top_logprobs": to_top_logprobs,
    "logprobs": lambda wanted, made: None if not wanted or "top_logprobs" in made else to_top_logprobs(0, made),
}
