"""The neutral requests (OpenAI's format) as Gemini's ``GenerateContentRequest`` and ``EmbedContentRequest``.

What has no counterpart is refused by name, never dropped. Bodies keep ``model``, which the wire has in its address.

Source: Gemini's API reference (generateContent, embedContent) and google-genai's parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.gemini import tools as tool_words
from airflow_llm_batch.providers.gemini.parts import is_text, parts, refuse_cache_mark
from airflow_llm_batch.providers.gemini.schema import fitted
from airflow_llm_batch.providers.gemini.thinking import check_thinking, effort_config, thinking_config
from airflow_llm_batch.providers.gemini.words import camel, camel_members, refuse

#: members of a request, and of its ``generationConfig``, that are Gemini's own and may be given as they are
SAME = frozenset({"safetySettings", "cachedContent", "toolConfig", "labels", "serviceTier", "store"})
CONFIG = frozenset(
    {"temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "seed", "presencePenalty"}
    | {"frequencyPenalty", "responseLogprobs", "logprobs", "responseMimeType", "responseSchema", "responseJsonSchema"}
    | {"responseModalities", "mediaResolution", "speechConfig", "imageConfig", "thinkingConfig", "audioTimestamp"}
    | {"enableEnhancedCivicAnswers", "routingConfig", "modelSelectionConfig", "audioTranscriptionConfig"}
    | {"translationConfig", "responseFormat"}
)
#: neutral names of members of ``generationConfig``
NAMED = {
    "max_tokens": "maxOutputTokens", "max_completion_tokens": "maxOutputTokens", "n": "candidateCount",
    "top_logprobs": "logprobs",
}  # fmt: skip
#: neutral parameters whose default asks for nothing
NO_OP: dict[str, Any] = {
    "n": 1, "stream": False, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0,
    "parallel_tool_calls": True, "modalities": ["text"],
}  # fmt: skip
#: what is looked at as a whole, after the rest
LATER = frozenset({"tools", "tool_choice", "messages", "model"})
UNSPEAKABLE = ("function_call", "refusal", "audio")
#: least and most of a parameter, by the API reference
RANGES = {"temperature": (0, 2), "topP": (0, 1), "candidateCount": (1, 8), "logprobs": (0, 20), "maxOutputTokens": (1,)}
MOST_STOPS = 5
#: models that want an embedding's task and title "inlined directly within the prompt"
IN_WORDS = re.compile(r"gemini-embedding-([2-9]|[1-9]\d)(-|$)")
#: models that refuse "Function calling with a response mime type: 'application/json'"
WITHOUT_BOTH = re.compile(r"gemini-[12]")


def generate_params(body: dict[str, Any]) -> dict[str, Any]:
    """Translate a chat completion body.

    :returns: a ``GenerateContentRequest`` in camelCase, and ``model`` without ``models/``.
    :raises InputError: names the parameter, role or content part that has no counterpart.
    """
    model = model_name(body.get("model"))
    params: dict[str, Any] = {"model": model}
    config: dict[str, Any] = {}
    for name, value in body.items():
        if name in LATER or value is None or NO_OP.get(name, ...) == value:
            continue
        if name in TRANSLATE:
            TRANSLATE[name](value, params, config, model)
        elif NAMED.get(name, camel(name)) in CONFIG:
            put(config, NAMED.get(name, camel(name)), value)
        elif camel(name) in SAME:
            params[camel(name)] = value
        else:
            refuse(f"the parameter {name!r}", "remove it, or send the body with RawRequest(endpoint='generateContent')")
    converse(body.get("messages"), params, model)
    check(config, model)
    if config:
        params["generationConfig"] = config
    settle_tools(body, params)
    return params


def embed_params(body: dict[str, Any]) -> dict[str, Any]:
    """Translate an embeddings body: one text, which makes one vector.

    :returns: an ``EmbedContentRequest`` in camelCase, and ``model`` without ``models/``.
    :raises InputError: names the parameter that has no counterpart, or says that there are several inputs.
    """
    params: dict[str, Any] = {"model": model_name(body.get("model"))}
    given = body.get("input")
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, list):
        refuse(f"an embeddings request of {len(given)} inputs", "give one text a row")
    made = parts(given if given is not None else body.get("content"))
    if not made:
        refuse("an embeddings request without a text", "the text of this row is empty; filter such rows out")
    params["content"] = {"parts": made}
    for name, value in body.items():
        if name in ("model", "input", "content") or value is None:
            continue
        if name in ("dimensions", "outputDimensionality", "output_dimensionality"):
            params["outputDimensionality"] = value
        elif camel(name) in ("taskType", "title") and IN_WORDS.match(params["model"]):
            refuse(
                f"{name} for {params['model']}", "write it into the text, as the model's guide has it, and remove it"
            )
        elif camel(name) in ("taskType", "title", "autoTruncate"):
            params[camel(name)] = value
        elif not (name == "encoding_format" and value == "float"):
            refuse(f"the parameter {name!r} of embeddings", "remove it; dimensions, task_type and title are taken")
    return params


def model_name(given: Any) -> str:
    return str(given or "").removeprefix("models/")


def put(config: dict[str, Any], name: str, value: Any) -> None:
    """:raises InputError: for a parameter that is given twice, with different values."""
    if config.setdefault(name, value) != value:
        refuse(f"{name} given twice, as {config[name]!r:.60} and {value!r:.60}", "keep one of them")


def converse(messages: Any, params: dict[str, Any], model: str) -> None:
    """Messages as ``contents`` and ``systemInstruction``."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages if isinstance(messages, list) else ():
        held = members(message)
        role = held.get("role")
        if said := next((name for name in UNSPEAKABLE if held.get(name)), None):
            refuse(f"a message's {said!r}", "write it into the text, or leave it out")
        if held.get("cache_control") is not None:
            refuse_cache_mark()
        if held.get("name") and role != "tool":
            refuse("a message's 'name'", "write it into the text, or leave it out")
        if role in ("system", "developer"):
            system += parts(held.get("content"))
        elif role == "tool":
            append(turns, "user", [tool_words.result(held, names)])
        elif role in ("assistant", "model"):
            names |= names_of(held.get("tool_calls"))
            append(turns, "model", [*parts(held.get("content")), *tool_words.calls(held.get("tool_calls"), model)])
        elif role == "user":
            made = parts(held.get("content"))
            if not made:
                refuse("a message without text", "the prompt of this row is empty; filter such rows out")
            append(turns, "user", made)
        else:
            refuse(f"a message of role {role!r}", "use system, user, assistant or tool")
    if not turns:
        refuse("a conversation without a user's message", "give the text as the user's (ChatRequest(user=...))")
    if system:
        instruct(system, params)
    params["contents"] = turns


def instruct(system: list[dict[str, Any]], params: dict[str, Any]) -> None:
    """:raises InputError: for a system message that holds more than text, or stands beside a parameter."""
    if "systemInstruction" in params:
        refuse("a system message beside the parameter 'systemInstruction'", "give all of it in one of the two")
    if not all(is_text(one) for one in system):
        refuse("a system message that holds more than text", "put images and files into the user's message")
    params["systemInstruction"] = {"parts": system}


def names_of(calls: Any) -> dict[str, str]:
    """Functions' names by the ids of their calls."""
    pairs = [(members(call).get("id"), members(members(call).get("function")).get("name")) for call in calls or ()]
    return {str(call): str(name) for call, name in pairs if call and name}


def append(turns: list[dict[str, Any]], role: str, made: list[dict[str, Any]]) -> None:
    """Add to the conversation; consecutive messages of one role become one turn, as results of parallel calls must."""
    if turns and turns[-1]["role"] == role:
        turns[-1]["parts"] += made
    elif made:
        turns.append({"role": role, "parts": made})


def settle_tools(body: Mapping[str, Any], params: dict[str, Any]) -> None:
    made, strict = tool_words.declared(body.get("tools"))
    if search := params.pop("web_search", None):
        made.append(search)
    if made:
        params["tools"] = made
    wish = body.get("tool_choice")
    if not any("functionDeclarations" in tool for tool in made):
        if wish not in (None, "auto", "none"):
            refuse(f"tool_choice {wish!r:.80} without functions", "give tools, or leave it out")
        return
    as_json = members(params.get("generationConfig")).get("responseMimeType") == "application/json"
    if as_json and WITHOUT_BOTH.match(params["model"]):
        refuse(f"a schema or JSON mode beside functions for {params['model']}", "keep one of them, or choose Gemini 3")
    if chosen := tool_words.choice(wish, strict):
        given = camel_members(members(params.get("toolConfig")))
        if "functionCallingConfig" in given and wish is not None:
            refuse("tool_choice beside toolConfig", "give one of them")
        params["toolConfig"] = {"functionCallingConfig": chosen, **given}


def check(config: dict[str, Any], model: str) -> None:
    """:raises InputError: for values that the API refuses, whatever the model, and for those that belong together."""
    for name, bounds in RANGES.items():
        value = config.get(name)
        if isinstance(value, int | float) and (value < bounds[0] or value > bounds[-1] > bounds[0]):
            allowed = f"{bounds[0]} to {bounds[1]}" if len(bounds) > 1 else f"{bounds[0]} or more"
            refuse(f"{name}={value!r}", f"give {allowed}")
    if len(config.get("stopSequences") or ()) > MOST_STOPS:
        refuse(f"{len(config['stopSequences'])} stop sequences", f"give {MOST_STOPS} at most")
    if config.get("logprobs") is not None and not config.get("responseLogprobs"):
        refuse("top_logprobs without logprobs", "set logprobs to true, or remove it")
    if isinstance(config.get("thinkingConfig"), dict):
        config["thinkingConfig"] = camel_members(config["thinkingConfig"])
        check_thinking(config["thinkingConfig"], model)


def logprobs(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    """OpenAI's switch, or Gemini's number."""
    put(config, "responseLogprobs" if isinstance(value, bool) else "logprobs", value)


def stop(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    put(config, "stopSequences", [value] if isinstance(value, str) else value)


def response_format(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    asked = members(value)
    kind = asked.get("type", "text")
    if kind == "json_schema":
        schema = members(asked.get("json_schema")).get("schema")
        if not isinstance(schema, dict):
            refuse("response_format 'json_schema' without a schema", "give one, or json_object")
        put(config, "responseMimeType", "application/json")
        put(config, "responseJsonSchema", fitted(schema, "an output schema"))
    elif kind == "json_object":
        put(config, "responseMimeType", "application/json")
    elif kind != "text":
        refuse(f"response_format {kind!r}", "give json_object, or a JSON schema (ChatRequest(output=...))")


def think(made: dict[str, Any], config: dict[str, Any]) -> None:
    for name, value in made.items():
        put(config.setdefault("thinkingConfig", {}), name, value)


def reasoning_effort(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    think(effort_config(value, model), config)


def thinking(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    think(thinking_config(value, model), config)


def thinking_budget(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    think({"thinkingBudget": value}, config)


def include_reasoning(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    think({"includeThoughts": bool(value)}, config)


def modalities(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    put(config, "responseModalities", [str(one).upper() for one in value] if isinstance(value, list) else value)


def service_tier(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    if value != "auto":
        params["serviceTier"] = "standard" if value == "default" else value


def generation_config(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    for name, inner in camel_members(members(value)).items():
        if name not in CONFIG:
            refuse(f"generationConfig's {name!r}", "remove it")
        if name == "thinkingConfig":
            think(thinking_config(inner, model), config)
        else:
            put(config, name, inner)


def system_instruction(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    given = camel_members(members(value)).get("parts", value)
    instruct(parts(given), params)


def web_search(value: Any, params: dict[str, Any], config: dict[str, Any], model: str) -> None:
    if value:
        refuse("web_search_options with members", "give an empty object, or the tool {'googleSearch': {}}")
    params["web_search"] = {"googleSearch": {}}


TRANSLATE: dict[str, Callable[[Any, dict[str, Any], dict[str, Any], str], None]] = {
    "stop": stop,
    "logprobs": logprobs,
    "response_format": response_format,
    "reasoning_effort": reasoning_effort,
    "thinking": thinking,
    "reasoning": thinking,
    "thinkingConfig": thinking,
    "thinking_config": thinking,
    "thinking_budget": thinking_budget,
    "include_reasoning": include_reasoning,
    "include_thoughts": include_reasoning,
    "modalities": modalities,
    "service_tier": service_tier,
    "generationConfig": generation_config,
    "generation_config": generation_config,
    "systemInstruction": system_instruction,
    "system_instruction": system_instruction,
    "web_search_options": web_search,
}
