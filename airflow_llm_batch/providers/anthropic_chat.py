"""The neutral chat request (OpenAI's format) as Anthropic ``messages`` parameters.

What has no counterpart is refused by name, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.schemas import ANTHROPIC, Unfit, fit, is_object

#: parameters both APIs spell alike, and Anthropic's own, which may be given as they are
SAME = frozenset(
    {"model", "temperature", "top_p", "top_k", "thinking", "stop_sequences", "service_tier", "system", "container"}
    | {"inference_geo", "cache_control", "mcp_servers", "context_management"}
)
#: content that is Anthropic's own already
BLOCKS = frozenset(
    {"text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "search_result"}
    | {"server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"}
    | {"bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "mcp_tool_use", "mcp_tool_result"}
    | {"container_upload"}
)
IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
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
    settle_tool_choice(params)
    return params


def messages(value: list[dict[str, Any]], params: dict[str, Any]) -> None:
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in value:
        role = message.get("role")
        if role in ("system", "developer"):
            system += blocks(message.get("content"))
        elif role == "tool":
            append(turns, "user", [tool_result(message)])
        elif role == "assistant":
            append(turns, "assistant", blocks(message.get("content")) + tool_uses(message.get("tool_calls") or []))
        elif role == "user":
            content = blocks(message.get("content"))
            if not content:
                refuse("a message without text", "the prompt of this row is empty; filter such rows out")
            append(turns, "user", content)
        else:
            refuse(f"a message of role {role!r}", "use system, user, assistant or tool")
    if system:
        params["system"] = plain(system)
    params["messages"] = [{"role": turn["role"], "content": plain(turn["content"])} for turn in turns]


def tool_result(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    said = content if isinstance(content, str) else blocks(content)
    result = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
    return {**result, "content": said} if said else result


def append(turns: list[dict[str, Any]], role: str, content: list[dict[str, Any]]) -> None:
    """Add to the conversation; consecutive messages of one role become one turn, as Anthropic reads them anyway."""
    if not content:
        return
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
    """A message's content as blocks; empty texts, which Anthropic refuses, are left out."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    made = [block(part) for part in parts]
    return [part for part in made if part.get("type") != "text" or str(part.get("text") or "").strip()]


def block(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type")
    if kind == "image_url":
        given = part.get("image_url")
        return media_block(given.get("url") if isinstance(given, dict) else given)
    if kind == "file":
        return file_block(part.get("file") or {})
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if kind in BLOCKS:
        return dict(part)
    return refuse(f"a content part of type {kind!r}", "use text, image_url and file parts")


def media_block(url: Any) -> dict[str, Any]:
    """An image, or a document where it is one, from its address or from what it holds."""
    if not isinstance(url, str) or not url.strip():
        refuse(f"an image whose URL is {url!r}", "filter such rows out, or leave the part out of the message")
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    head, _, data = url.partition(",")
    media = head.removeprefix("data:").partition(";")[0].lower()
    media = {"image/jpg": "image/jpeg"}.get(media, media)
    if media == "application/pdf":
        return {"type": "document", "source": {"type": "base64", "media_type": media, "data": data}}
    if media not in IMAGES:
        refuse(f"an image of type {media!r}", f"convert it to one of {', '.join(sorted(IMAGES))}")
    return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}


def file_block(file: dict[str, Any]) -> dict[str, Any]:
    named = {"title": file["filename"]} if file.get("filename") else {}
    if file.get("file_id"):
        return {"type": "document", "source": {"type": "file", "file_id": file["file_id"]}, **named}
    data = file.get("file_data")
    if not isinstance(data, str) or not data:
        refuse("a file without file_data or file_id", "filter such rows out")
    head, comma, packed = data.partition(",")
    media = head.removeprefix("data:").partition(";")[0] if comma else "application/pdf"
    if media != "application/pdf":
        refuse(f"a file of type {media!r}", "give a PDF, or its text")
    return {
        "type": "document",
        "source": {"type": "base64", "media_type": media, "data": packed if comma else data},
        **named,
    }


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
        tool = {"name": function["name"], "description": function.get("description"), "input_schema": schema}
        if function.get("strict") is not None:
            tool["strict"] = function["strict"]
        translated.append({k: v for k, v in tool.items() if v is not None})
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


def settle_tool_choice(params: dict[str, Any]) -> None:
    """A choice of tools as Anthropic takes one: not without tools, and none that is none in parallel."""
    choice = params.get("tool_choice")
    if choice is None:
        return
    if not params.get("tools"):
        if choice.get("type") not in ("auto", "none"):
            refuse(f"tool_choice {choice.get('type')!r} without tools", "give tools, or leave it out")
        del params["tool_choice"]
    elif choice.get("type") == "none":
        params["tool_choice"] = {"type": "none"}


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


def fitted_params(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters with their schemas as Anthropic takes them; the same object where nothing is to be changed.

    :raises InputError: names the keyword and the place of what it does not take.
    """
    changed: dict[str, Any] = {}
    config = members(params.get("output_config"))
    wanted = members(config.get("format"))
    if isinstance(wanted.get("schema"), dict):
        changed["output_config"] = {
            **config,
            "format": {**wanted, "schema": fitted(wanted["schema"], "an output schema")},
        }
    if isinstance(params.get("tools"), list):
        changed["tools"] = [fitted_tool(tool) for tool in params["tools"]]
    return {**params, **changed} if any(params[name] != value for name, value in changed.items()) else params


def fitted_tool(tool: Any) -> Any:
    schema = tool.get("input_schema") if isinstance(tool, dict) else None
    if not isinstance(schema, dict):
        return tool
    if not is_object(schema):
        refuse(f"parameters of tool {tool.get('name')!r} that are no object", "give a schema of type object")
    return {**tool, "input_schema": fitted(schema, f"the tool {tool.get('name')!r}")} if tool.get("strict") else tool


def fitted(schema: dict[str, Any], what: str) -> dict[str, Any]:
    try:
        return fit(schema, ANTHROPIC)
    except (Unfit, RecursionError) as error:
        return refuse(f"{what} with {error}", "change the schema, or ask without output and parse the text")


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


#: the API version from which on sampling parameters and a few other things are refused row by row
WITHOUT_SAMPLING = "2026-10-21"
SAMPLING = ("temperature", "top_p", "top_k")
#: models that take temperature or top_p, and not both; models that know no effort
ONE_OF_BOTH = re.compile(r"claude-(opus-4-[1-9]|(sonnet|haiku)-4-[5-9]|(opus|sonnet|haiku|fable|mythos)-[5-9])")
NO_EFFORT = re.compile(r"claude-([23]|instant|(opus|sonnet)-4(-[01])?(-\d{8})?$|(sonnet|haiku)-4-5)")
#: what messages take and batches do not
NOT_IN_BATCHES = ("speed", "fallbacks", "thread")
LEAST_THOUGHT = 1024


def check_params(params: dict[str, Any], version: str) -> None:
    """Refuse what the model, the API version or a batch would refuse row by row.

    :param version: of the API, a date.
    :raises InputError: names the parameter.
    """
    model, thinking = str(params.get("model") or ""), members(params.get("thinking"))
    for name in NOT_IN_BATCHES:
        if params.get(name) is not None:
            refuse(f"{name!r} in a batch", "remove it")
    given = [name for name in SAMPLING if params.get(name) is not None]
    if given and version >= WITHOUT_SAMPLING:
        refuse(f"{given[0]!r} in API version {version}", "remove it, or set anthropic_version to 2023-06-01")
    if {"temperature", "top_p"} <= set(given) and ONE_OF_BOTH.search(model):
        refuse(f"temperature and top_p together for {model}", "keep one of them")
    if members(params.get("output_config")).get("effort") is not None and NO_EFFORT.search(model):
        refuse(f"an effort for {model}, which knows none", "remove reasoning_effort")
    if thinking.get("type") == "enabled":
        check_thinking(params, thinking, given)


def check_thinking(params: dict[str, Any], thinking: Mapping[str, Any], given: list[str]) -> None:
    budget, cap = thinking.get("budget_tokens"), params.get("max_tokens")
    if isinstance(budget, int) and budget < LEAST_THOUGHT:
        refuse(f"thinking with a budget of {budget} tokens", f"give {LEAST_THOUGHT} or more")
    if isinstance(budget, int) and isinstance(cap, int) and budget >= cap:
        refuse(f"thinking with a budget of {budget} tokens and max_tokens={cap}", "raise max_tokens above the budget")
    if params.get("temperature") not in (None, 1) or "top_k" in given:
        refuse("temperature or top_k beside thinking", "remove it")
    if members(params.get("tool_choice")).get("type") in ("any", "tool"):
        refuse("a tool that has to be called beside thinking", "use tool_choice auto or none")
