"""The neutral chat request, which is OpenAI's, as a server that speaks OpenAI's API takes it.

What would be refused row by row, hours later, is fitted or refused here. Source: OpenAI's API reference (chat
completions, responses), its guides to structured outputs and to reasoning models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.schemas import OPENAI, Unfit, fit, is_object, loose, schema_name

CAP, OLD_CAP = "max_completion_tokens", "max_tokens"
CAPS = (CAP, OLD_CAP, "max_output_tokens")
#: models that refuse the old name of the token cap
REASONING = re.compile(r"(^|/)(o\d|gpt-[5-9]|codex)")
VERSION = re.compile(r"(?:^|/)gpt-(\d+)(?:\.(\d+))?")
#: the first that refuses tools beside reasoning_effort in chat completions
NEEDS_RESPONSES = (5, 4)
#: parameters that mean the same in both APIs
SAME = frozenset(
    {"model", "temperature", "top_p", "user", "metadata", "store", "parallel_tool_calls", "service_tier"}
    | {"prompt_cache_key", "prompt_cache_retention", "safety_identifier", "reasoning", "text", "include", "truncation"}
)
#: parameters whose default asks for nothing
NO_OP: dict[str, Any] = {"n": 1, "stream": False, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0}


def refuse(what: str, remedy: str) -> NoReturn:
    raise InputError(f"{what}; {remedy}. Nothing was sent.")


def chat_body(body: dict[str, Any], cap_name: Callable[[str], str]) -> dict[str, Any]:
    """A chat completion's body; the same object where nothing is to be changed.

    :param cap_name: what a server calls the token cap, by model.
    :raises InputError: names what would be refused.
    """
    check_caps(body)
    check_images(body.get("messages"))
    changed: dict[str, Any] = {}
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and isinstance(wanted.get("json_schema"), dict):
        changed["response_format"] = {**wanted, "json_schema": fit_format(wanted["json_schema"])}
    if isinstance(body.get("tools"), list):
        changed["tools"] = [fit_tool(tool) for tool in body["tools"]]
    name = cap_name(str(body.get("model") or ""))
    if CAP in body and name != CAP and name not in body:
        renamed = {name if key == CAP else key: value for key, value in body.items()}
        return {**renamed, **changed}
    return {**body, **changed} if any(body[key] != value for key, value in changed.items()) else body


def check_caps(body: dict[str, Any]) -> None:
    for name in CAPS:
        cap = body.get(name)
        if isinstance(cap, int) and cap < 1:
            refuse(f"{name} is {cap}, and an answer needs at least one token", "raise it, or leave it out")


def check_images(messages: Any) -> None:
    """:raises InputError: for an image without an address."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") in ("image_url", "input_image"):
                given = part.get("image_url")
                url = given.get("url") if isinstance(given, dict) else given
                if not (isinstance(url, str) and url.strip()) and not part.get("file_id"):
                    refuse(f"an image's URL is {url!r}", "filter such rows out, or leave the part out of the message")


def fit_format(asked: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's ``json_schema`` object: strict where its schema fits strict mode, and as wished where it says.

    :raises InputError: where strict was asked for and the schema does not fit.
    """
    schema, strict = asked.get("schema"), asked.get("strict")
    named: dict[str, Any] = {**asked, "name": schema_name(asked.get("name"))}
    if not isinstance(schema, dict) or strict is False:
        return named
    try:
        return {**named, "strict": True, "schema": fit(schema, OPENAI)}
    except (Unfit, RecursionError) as error:
        if strict:
            refuse(
                f"OpenAI's strict mode cannot take the schema of {named['name']!r}: {error}",
                "change it, or leave strict out: answers are validated when they are landed",
            )
        return {**named, "strict": False, "schema": loose(schema)}


def fit_tool(tool: Any) -> Any:
    """A function tool with its parameters' schema fitted, where it is strict."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    fitted = fit_parameters(function)
    return tool if fitted is function else {**tool, "function": fitted}


def fit_parameters(function: dict[str, Any]) -> dict[str, Any]:
    """:raises InputError: for parameters that the vendor refuses."""
    parameters, name = function.get("parameters"), function.get("name")
    if not isinstance(parameters, dict) or not parameters:
        return function
    if not is_object(parameters):
        refuse(f"the parameters of tool {name!r} are no object", "give a schema of type object")
    if not function.get("strict"):
        return function
    try:
        fitted = fit(parameters, OPENAI)
    except (Unfit, RecursionError) as error:
        refuse(f"OpenAI's strict mode cannot take the parameters of tool {name!r}: {error}", "change it, or strict")
    return function if fitted is parameters else {**function, "parameters": fitted}


def checked_response(body: dict[str, Any]) -> dict[str, Any]:
    """A body that is one of the Responses API already; the same object where nothing is to be changed.

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
    return {**body, **changed} if any(body[key] != value for key, value in changed.items()) else body


def needs_responses(body: dict[str, Any]) -> bool:
    """Whether a model takes this conversation in the Responses API only."""
    version = VERSION.search(str(body.get("model") or ""))
    if not version or not body.get("tools") or body.get("reasoning_effort") in (None, "none"):
        return False
    return (int(version[1]), int(version[2] or 0)) >= NEEDS_RESPONSES


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
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role == "tool":
            output = content if isinstance(content, str) else [input_part(part, "user") for part in content or ()]
            items.append({"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output})
            continue
        if content not in (None, "", []):
            parts = content if isinstance(content, str) else [input_part(part, role) for part in content]
            items.append({"role": role, "content": parts})
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            items.append(
                {
                    "type": "function_call",
                    "call_id": call.get("id"),
                    "name": function.get("name"),
                    "arguments": function.get("arguments") or "{}",
                }
            )
    made["input"] = items


def input_part(part: Any, role: Any) -> Any:
    """A content part in the Responses API's words."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.get("text")}
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
    made["tools"] = [
        # Here a function is strict unless it says otherwise; in chat completions it is not.
        {"type": "function", "strict": False, **tool["function"]} if isinstance(tool.get("function"), dict) else tool
        for tool in tools or ()
    ]


def to_tool_choice(choice: Any, made: dict[str, Any]) -> None:
    if choice is not None:
        named = choice.get("function") if isinstance(choice, dict) else None
        made["tool_choice"] = {"type": "function", "name": named.get("name")} if isinstance(named, dict) else choice


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
