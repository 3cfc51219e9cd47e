"""Tools, what a model may choose of them, and calls of them with their results, in Gemini's words.

Source: Gemini's API reference (Tool, FunctionDeclaration, FunctionCallingConfig, FunctionResponse) and its guides to
function calling and to thought signatures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.gemini.parts import parts, refuse_cache_mark
from airflow_llm_batch.providers.gemini.schema import fitted
from airflow_llm_batch.providers.gemini.words import camel_members, get, refuse
from airflow_llm_batch.providers.schemas import is_object

#: the vendor's own tools, and the function declarations
TOOLS = frozenset(
    {"functionDeclarations", "googleSearch", "googleSearchRetrieval", "codeExecution", "urlContext", "computerUse"}
    | {"fileSearch", "googleMaps", "retrieval", "enterpriseWebSearch", "mcpServers", "parallelAiSearch"}
)
TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
#: what stands for the signature of a call that another model made, or whose signature is lost
NO_SIGNATURE = "skip_thought_signature_validator"
#: models that want a signature with the calls of a turn
SIGNED = re.compile(r"gemini-([3-9]|\d\d)")
UNIONS = ("anyOf", "oneOf", "allOf", "patternProperties")
MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "any": "ANY", "validated": "VALIDATED"}


def declared(tools: Any) -> tuple[list[dict[str, Any]], bool]:
    """``tools`` as Gemini takes them, and whether any of them is strict.

    :raises InputError: names the tool that has no counterpart.
    """
    functions: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    strict = False
    for tool in tools or ():
        held = members(tool)
        if held.get("cache_control") is not None or members(held.get("function")).get("cache_control") is not None:
            refuse_cache_mark()
        if held.get("type") == "function":
            function = members(held.get("function")) or held
            functions.append(declaration(function))
            strict = strict or bool(function.get("strict"))
        elif "type" not in held and (own := camel_members(held)) and own.keys() <= TOOLS:
            functions += own.pop("functionDeclarations", None) or []
            others += [own] if own else []
        else:
            what = held.get("type") or next(iter(held), None)
            refuse(f"the tool {what!r}", f"give functions, or Gemini's own: {', '.join(sorted(TOOLS))}")
    return [*([{"functionDeclarations": functions}] if functions else []), *others], strict


def declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        refuse(f"a tool named {name!r}", "names begin with a letter or _ and have up to 128 letters, digits, _ . : -")
    made: dict[str, Any] = {"name": name}
    if function.get("description") is not None:
        made["description"] = function["description"]
    if isinstance(parameters, dict) and parameters and (asks(parameters) or function.get("strict")):
        if not is_object(parameters):
            refuse(f"parameters of tool {name!r} that are no object", "give a schema of type object")
        made["parametersJsonSchema"] = (
            fitted(parameters, f"the tool {name!r}") if function.get("strict") else parameters
        )
    elif isinstance(parameters, dict) and parameters and not is_object(parameters):
        refuse(f"parameters of tool {name!r} that are no object", "give a schema of type object")
    return made


def asks(parameters: Mapping[str, Any]) -> bool:
    """Whether a schema has room for arguments: the vendor refuses an object without properties. They may stand behind
    a reference or in a union, and a map has none by name."""
    return any(parameters.get(name) for name in ("properties", "additionalProperties", "$ref", *UNIONS))


def choice(value: Any, strict: bool) -> dict[str, Any] | None:
    """``tool_choice`` as a ``functionCallingConfig``; None where the vendor's own default is meant.

    :param strict: arguments have to be valid: the mode that sees to it is asked for, where none is asked for that does.
    :raises InputError: for a choice that has no counterpart.
    """
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        allowed = members(value.get("allowed_tools")) or value
        names = [called(tool) for tool in allowed.get("tools") or ()]
        mode = MODES.get(str(allowed.get("mode", "auto")).lower())
        if not names or mode is None:
            refuse(f"tool_choice {value!r:.80}", "name a mode (auto or required) and the functions that are allowed")
        return {"mode": "VALIDATED" if mode == "AUTO" else mode, "allowedFunctionNames": names}
    if isinstance(value, dict) and (value.get("type") == "function" or "function" in value):
        return {"mode": "ANY", "allowedFunctionNames": [called(value)]}
    if isinstance(value, dict):
        own = camel_members(value)
        if own.keys() <= {"mode", "allowedFunctionNames", "streamFunctionCallArguments"} and own:
            return own
        value = value.get("type")
    mode = "AUTO" if value is None else MODES.get(str(value).lower())
    if mode is None:
        refuse(f"tool_choice {value!r}", "use auto, none, required or a function")
    if mode == "AUTO":
        return {"mode": "VALIDATED"} if strict else None if value is None else {"mode": "AUTO"}
    return {"mode": mode}


def called(tool: Any) -> str:
    name = (members(members(tool).get("function")) or members(tool)).get("name")
    if not isinstance(name, str) or not name:
        refuse(f"tool_choice {tool!r:.80}, which names no function", "name one")
    return name


def calls(given: Any, model: str) -> list[dict[str, Any]]:
    """An earlier answer's ``tool_calls`` as parts; the first of them signed, where the model wants a signature.

    :raises InputError: for a call without a name, or with arguments that are no object.
    """
    made = []
    for call in given or ():
        function = members(members(call).get("function"))
        name = function.get("name")
        if not name:
            refuse("a tool's call without a function's name", "give it")
        body = {"id": call.get("id"), "name": name, "args": arguments(function.get("arguments"), name)}
        part: dict[str, Any] = {"functionCall": {key: value for key, value in body.items() if value is not None}}
        if signature := signature_of(call):
            part["thoughtSignature"] = signature
        made.append(part)
    if made and "thoughtSignature" not in made[0] and SIGNED.search(model):
        made[0]["thoughtSignature"] = NO_SIGNATURE
    return made


def signature_of(call: Any) -> Any:
    """A call's thought signature, where Google's OpenAI-compatible API and LiteLLM put it."""
    google = members(members(members(call).get("extra_content")).get("google"))
    specific = members(members(call).get("provider_specific_fields"))
    return get(google, "thoughtSignature") or get(specific, "thoughtSignature") or get(call, "thoughtSignature")


def arguments(given: Any, name: str) -> dict[str, Any]:
    found = given
    if not isinstance(found, dict):
        try:
            found = msgspec.json.decode(given or "{}")
        except (ValueError, TypeError):
            found = None
    if not isinstance(found, dict):
        refuse(f"the arguments {given!r:.80} of tool {name!r}, which are no JSON object", "mend or remove the call")
    return found


def result(message: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A message of role tool as a part.

    :param names: the functions' names by the ids of their calls, which Gemini wants to hear again.
    :raises InputError: where the function's name is told nowhere.
    """
    call = message.get("tool_call_id")
    name = message.get("name") or names.get(str(call))
    if not name:
        refuse(
            f"a result of the tool call {call!r}, which no message before it makes",
            "give the assistant's message with its tool_calls too, or the function's name in the result",
        )
    content = message.get("content")
    said = [content] if isinstance(content, str) else parts(content)
    texts = [one if isinstance(one, str) else str(one["text"]) for one in said if isinstance(one, str) or "text" in one]
    media = [one for one in said if isinstance(one, dict) and "text" not in one]
    made: dict[str, Any] = {"id": call, "name": name, "response": response("".join(texts)), "parts": media}
    return {"functionResponse": {key: value for key, value in made.items() if value not in (None, [])}}


def response(text: str) -> dict[str, Any]:
    """What a function gave back, as the object that Gemini wants."""
    try:
        found = msgspec.json.decode(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"output": text if found is None else found}
