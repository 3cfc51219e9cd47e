"""The neutral chat request (OpenAI's format) as Anthropic ``messages`` parameters.

What has no counterpart is refused by name, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from airflow_llm_batch.providers.anthropic.blocks import THOUGHTS, blocks, cached, plain
from airflow_llm_batch.providers.anthropic.models import refuse
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.schemas import ANTHROPIC, Unfit, fit, is_object

#: parameters both APIs spell alike, and Anthropic's own, which may be given as they are
SAME = frozenset(
    {"model", "temperature", "top_p", "top_k", "thinking", "stop_sequences", "service_tier", "system", "container"}
    | {"inference_geo", "cache_control", "mcp_servers", "context_management"}
)
#: neutral parameters whose default asks for nothing
NO_OP: dict[str, Any] = {"n": 1, "stream": False, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0}
#: members of a message that say something, and have no place in Anthropic's
UNSPEAKABLE = ("name", "function_call", "refusal", "audio")


def message_params(body: dict[str, Any]) -> dict[str, Any]:
    """Translate a chat completion body.

    :raises InputError: names the parameter, role or content part that has no counterpart.
    """
    params: dict[str, Any] = {}
    if body.get("system") and any(is_system(message) for message in body.get("messages") or ()):
        refuse("a system message beside the parameter 'system'", "give all of it in one of the two")
    for name, value in body.items():
        if name in SAME:
            params[name] = value
        elif name in TRANSLATE:
            TRANSLATE[name](value, params)
        elif value is not None and NO_OP.get(name, ...) != value:
            refuse(f"the parameter {name!r}", "remove it, or send the body with RawRequest(endpoint='/v1/messages')")
    settle_tool_choice(params)
    return params


def is_system(message: Any) -> bool:
    return members(message).get("role") in ("system", "developer")


def messages(value: list[dict[str, Any]], params: dict[str, Any]) -> None:
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in value:
        role = message.get("role")
        said = next((name for name in UNSPEAKABLE if message.get(name) and (name, role) != ("name", "tool")), None)
        if said is not None:
            refuse(f"a message's {said!r}", "write it into the text, or leave it out")
        if is_system(message):
            system += cached(blocks(message.get("content")), message)
        elif role == "tool":
            append(turns, "user", cached([tool_result(message)], message))
        elif role == "assistant":
            append(turns, "assistant", cached(assistant(message), message))
        elif role == "user":
            content = blocks(message.get("content"))
            if not content:
                refuse("a message without text", "the prompt of this row is empty; filter such rows out")
            append(turns, "user", cached(content, message))
        else:
            refuse(f"a message of role {role!r}", "use system, user, assistant or tool")
    if system:
        params["system"] = plain(system)
    if turns and turns[-1]["role"] == "assistant":
        trim(turns[-1]["content"])
    params["messages"] = [{"role": turn["role"], "content": plain(turn["content"])} for turn in turns]


def assistant(message: dict[str, Any]) -> list[dict[str, Any]]:
    """An earlier answer: what was thought, in the blocks that LiteLLM hands on, comes before what was said."""
    said = blocks(message.get("content"))
    thought = [] if any(part["type"] in THOUGHTS for part in said) else message.get("thinking_blocks") or []
    return [*map(dict, thought), *said, *tool_uses(message.get("tool_calls") or [])]


def trim(content: list[dict[str, Any]]) -> None:
    """Take the blanks from the end of an answer's beginning: Anthropic refuses them, and the model writes its own."""
    if content[-1]["type"] == "text":
        content[-1] = {**content[-1], "text": content[-1]["text"].rstrip()}


def tool_result(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    said = content if isinstance(content, str) else blocks(content)
    if not message.get("tool_call_id"):
        refuse("a message of role tool without tool_call_id", "name the call it answers")
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


def tool_uses(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [tool_use(call, members(members(call).get("function"))) for call in calls]


def tool_use(call: dict[str, Any], function: Any) -> dict[str, Any]:
    name, arguments = function.get("name"), function.get("arguments")
    if not name or not call.get("id"):
        refuse("a tool's call without an id or a function's name", "give both")
    if not isinstance(arguments, dict):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except (ValueError, TypeError):
            arguments = None
        if not isinstance(arguments, dict):
            given = function["arguments"]
            refuse(f"the arguments {given!r:.80} of tool {name!r}, which are no JSON object", "mend or remove the call")
    return {"type": "tool_use", "id": call["id"], "name": name, "input": arguments}


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
    params["tools"] = [translated_tool(tool) for tool in value or ()]


def translated_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") == "custom" and isinstance(tool.get("custom"), dict):
        refuse(f"the custom tool {tool['custom'].get('name')!r}", "give it as a function with parameters")
    if tool.get("type") != "function":
        return tool
    function = members(tool.get("function"))
    if not function.get("name"):
        refuse("a function without a name", "name it")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    made = {"name": function["name"], "description": function.get("description"), "input_schema": schema}
    made["strict"] = function.get("strict")
    # LiteLLM's users write it beside the function or within.
    made["cache_control"] = tool.get("cache_control") or function.get("cache_control")
    return {name: inner for name, inner in made.items() if inner is not None}


def tool_choice(value: Any, params: dict[str, Any]) -> None:
    choice = params.setdefault("tool_choice", {})
    if isinstance(value, dict) and "function" in value:
        choice.update({"type": "tool", "name": members(value["function"]).get("name")})
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
