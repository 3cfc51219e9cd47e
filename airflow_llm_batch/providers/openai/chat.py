"""The neutral chat request, which is OpenAI's, as a server that speaks OpenAI's API takes it.

What would be refused row by row, hours later, is fitted or refused here. Source: OpenAI's API reference (chat
completions, responses), its guides to structured outputs and to reasoning models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.images import check_address
from airflow_llm_batch.providers.openai.models import REASONING, fitted_to_model, refuse
from airflow_llm_batch.providers.schemas import OPENAI, Unfit, fit, is_object, loose, schema_name

CAP, OLD_CAP = "max_completion_tokens", "max_tokens"
CAPS = (CAP, OLD_CAP, "max_output_tokens")
#: parameters whose default asks for nothing
NO_OP: dict[str, Any] = {"n": 1, "stream": False, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0}
#: names of tools; chat completions take up to 64 characters
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")
LONGEST_TOOL_NAME = 64


def chat_body(body: dict[str, Any], cap_name: Callable[[str], str], direct: bool = False) -> dict[str, Any]:
    """A chat completion's body; the same object where nothing is to be changed.

    :param cap_name: what a server calls the token cap, by model.
    :param direct: OpenAI itself is asked, so its rules hold.
    :raises InputError: names what would be refused.
    """
    check_caps(body)
    changed: dict[str, Any] = {}
    if isinstance(body.get("messages"), list):
        changed["messages"] = [fit_message(message, direct) for message in body["messages"]]
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and isinstance(wanted.get("json_schema"), dict):
        changed["response_format"] = {**wanted, "json_schema": fit_format(wanted["json_schema"])}
    if isinstance(body.get("tools"), list):
        changed["tools"] = [fit_tool(tool) for tool in body["tools"]]
    if any(body[key] != value for key, value in changed.items()):
        body = {**body, **changed}
    if direct:
        check_chat(body)
        body = fitted_to_model(body)
    return fit_cap(body, cap_name(str(body.get("model") or "")))


def fit_cap(body: dict[str, Any], name: str) -> dict[str, Any]:
    """The token cap under the name that the server knows.

    :raises InputError: for a cap under both names.
    """
    model = str(body.get("model") or "")
    given = [cap for cap in (CAP, OLD_CAP) if body.get(cap) is not None]
    if len(given) > 1 and REASONING.search(model):
        refuse(f"the request has both {CAP} and {OLD_CAP}, which {model} refuses", f"keep {CAP}")
    if len(given) != 1 or given[0] == name or body.get(name) is not None:
        return body
    if given[0] == OLD_CAP and not (name == CAP and REASONING.search(model)):
        # The old name is right for every model but those that reason.
        return body
    return {name if key == given[0] else key: value for key, value in body.items() if key != name}


def check_caps(body: Mapping[str, Any]) -> None:
    for name in CAPS:
        cap = body.get(name)
        if isinstance(cap, int) and cap < 1:
            refuse(f"{name} is {cap}, and an answer needs at least one token", "raise it, or leave it out")


def check_chat(body: Mapping[str, Any]) -> None:
    """:raises InputError: for what OpenAI's chat completions refuse, whatever the model."""
    for tool in body.get("tools") or ():
        named = members(members(tool).get("function")) or members(members(tool).get("custom"))
        check_tool_name(named.get("name"), LONGEST_TOOL_NAME)
    if members(body.get("response_format")).get("type") == "json_object":
        check_json_asked(body.get("messages"))


def check_tool_name(name: Any, longest: int | None = None) -> None:
    """:raises InputError: for a tool's name outside the vendor's pattern."""
    if name is None:
        return
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name) or (longest and len(name) > longest):
        most = f", {longest} of them at most" if longest else ""
        refuse(f"a tool is named {name!r}", f"names have letters, digits, _ and -{most}")


def check_json_asked(*places: Any) -> None:
    """:raises InputError: where nothing says the word that OpenAI wants to see beside ``json_object``."""
    if not any("json" in text.lower() for text in texts_in(places)):
        refuse(
            "response_format is json_object, which OpenAI takes only where the messages have the word JSON",
            "write it into the prompt, or give a schema (ChatRequest(output=...))",
        )


def texts_in(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def fit_message(message: Any, direct: bool) -> Any:
    """A message as chat completions take it; the same object where nothing is to be changed.

    :raises InputError: for an image without an address, and a tool's result that names no call.
    """
    if not isinstance(message, dict):
        return message
    if direct and message.get("role") == "tool" and not message.get("tool_call_id"):
        refuse("a message of role tool has no tool_call_id", "name the call it answers")
    content, calls = message.get("content"), message.get("tool_calls")
    changed: dict[str, Any] = {}
    if isinstance(content, list):
        changed["content"] = [fit_part(part, direct) for part in content]
    if isinstance(calls, list):
        changed["tool_calls"] = [fit_call(call) for call in calls]
    return {**message, **changed} if any(message[key] != value for key, value in changed.items()) else message


def fit_part(part: Any, direct: bool) -> Any:
    """A content part; an image's address alone is put where chat completions want it."""
    if not isinstance(part, dict) or part.get("type") not in ("image_url", "input_image"):
        return part
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    if not (isinstance(url, str) and url.strip()) and not part.get("file_id"):
        refuse(f"an image's URL is {url!r}", "filter such rows out, or leave the part out of the message")
    if direct and isinstance(url, str):
        check_address(url)
    return {**part, "image_url": {"url": url}} if part["type"] == "image_url" and isinstance(given, str) else part


def fit_call(call: Any) -> Any:
    """A tool's call, its arguments as text: they may be given as the object they are."""
    function = members(members(call).get("function"))
    arguments = fitted_arguments(function.get("arguments"))
    return (
        call if arguments == function.get("arguments") else {**call, "function": {**function, "arguments": arguments}}
    )


def fitted_arguments(arguments: Any) -> Any:
    return msgspec.json.encode(arguments).decode() if isinstance(arguments, dict | list) else arguments


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
