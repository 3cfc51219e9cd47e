"""What Anthropic's models, API versions and batches take: what they would refuse row by row is refused before.

Names of models are judged only where they clearly match, and only where Anthropic itself is asked.

Source: Anthropic's API reference and its migration guides (Claude 4.6: no prefill; Opus 4.7, Sonnet 5 and later: no
sampling parameters but the defaults, no ``thinking.budget_tokens``), its guides to structured outputs, extended
thinking and data residency, and the messages of its 400s as LiteLLM's issues quote them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.coerce import members, objects

#: the API version from which on sampling parameters and a few other things are refused row by row
WITHOUT_SAMPLING = "2026-10-21"
SAMPLING = ("temperature", "top_p", "top_k")
#: models that take temperature or top_p, and not both; models that know no effort
ONE_OF_BOTH = re.compile(r"claude-(opus-4-[1-9]|(sonnet|haiku)-4-[5-9]|(opus|sonnet|haiku|fable|mythos)-[5-9])")
NO_EFFORT = re.compile(r"claude-([23]|instant|(opus|sonnet)-4(-[01])?(-\d{8})?$|(sonnet|haiku)-4-5)")
#: models that sample as they like and think as much as they like
FREE = re.compile(r"claude-(opus-4-[789](?!\d)|(opus|sonnet)-[5-9](?!\d))")
#: models that do not go on with what is put into their mouth
NO_PREFILL = re.compile(r"claude-((opus|sonnet)-4-[6-9](?!\d)|(opus|sonnet)-[5-9](?!\d))")
#: models older than structured outputs, and than a choice of where they run
NO_SCHEMA = re.compile(r"claude-([23][-.]|instant|(opus|sonnet)-4(-0)?(-\d{8})?$)")
NO_GEO = re.compile(r"claude-([23][-.]|instant|(opus|sonnet)-4(-[015])?(-\d{8})?$|haiku-4-5)")
#: what messages take and batches do not
NOT_IN_BATCHES = ("speed", "fallbacks", "thread")
LEAST_THOUGHT, LEAST_TOP_P = 1024, 0.95
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def refuse(what: str, remedy: str) -> NoReturn:
    raise InputError(f"Anthropic cannot express {what}; {remedy}. Nothing was sent.")


def check_params(params: dict[str, Any], version: str, direct: bool = True) -> None:
    """Refuse what the model, the API version or a batch would refuse row by row.

    :param version: of the API, a date.
    :param direct: Anthropic itself is asked, so names of models mean what they say.
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
    if direct:
        check_values(params)
        check_model(params, model, thinking, given)
    if thinking.get("type") == "enabled":
        check_thinking(params, thinking, given)


def check_values(params: Mapping[str, Any]) -> None:
    """:raises InputError: for values that the API refuses, whatever the model."""
    heat = params.get("temperature")
    if isinstance(heat, int | float) and not 0 <= heat <= 1:
        refuse(f"a temperature of {heat}", "give one between 0 and 1")
    stops = params.get("stop_sequences")
    for text in stops if isinstance(stops, list) else ():
        if isinstance(text, str) and not text.strip():
            refuse(f"the stop sequence {text!r}, which has nothing but blanks", "remove it, or stop at some word")
    for tool in objects(params.get("tools")):
        name = tool.get("name")
        if "input_schema" in tool and not (isinstance(name, str) and TOOL_NAME.fullmatch(name)):
            refuse(f"a tool named {name!r}", "names have up to 128 letters, digits, _ and -")
    if params.get("messages") == []:
        refuse("a conversation of a system message alone", "give the text as the user's (ChatRequest(user=...))")


def check_model(params: Mapping[str, Any], model: str, thinking: Mapping[str, Any], given: list[str]) -> None:
    """:raises InputError: for what this model refuses."""
    if FREE.search(model):
        for name in given:
            if name == "top_k" or params[name] != 1:
                refuse(f"{name}={params[name]!r} for {model}, which takes none", "remove it")
        if thinking.get("type") == "enabled":
            refuse(f"thinking of type 'enabled' for {model}", "give {'type': 'adaptive'}, and reasoning_effort with it")
    if members(params.get("output_config")).get("format") is not None and NO_SCHEMA.search(model):
        refuse(
            f"an output schema for {model}, which is older than structured outputs",
            "choose claude-sonnet-4-5 or a later model, or ask without output and parse the text",
        )
    if params.get("inference_geo") is not None and NO_GEO.search(model):
        refuse(f"inference_geo for {model}, which is older than it", "remove it, or choose a later model")
    if NO_PREFILL.search(model) and is_prefilled(params.get("messages")):
        refuse(
            f"the beginning of an answer (a last message of role assistant) for {model}",
            "say in the prompt how it should begin, or give a schema (ChatRequest(output=...))",
        )


def is_prefilled(messages: Any) -> bool:
    """Whether the last message begins the answer; one that ends in tools the vendor runs is a pause to go on from."""
    last = members(messages[-1]) if isinstance(messages, list) and messages else {}
    content = last.get("content")
    return last.get("role") == "assistant" and (
        isinstance(content, str) or (bool(objects(content)) and objects(content)[-1].get("type") == "text")
    )


def check_thinking(params: dict[str, Any], thinking: Mapping[str, Any], given: list[str]) -> None:
    budget, cap, top_p = thinking.get("budget_tokens"), params.get("max_tokens"), params.get("top_p")
    if isinstance(budget, int) and budget < LEAST_THOUGHT:
        refuse(f"thinking with a budget of {budget} tokens", f"give {LEAST_THOUGHT} or more")
    if isinstance(budget, int) and isinstance(cap, int) and budget >= cap:
        refuse(f"thinking with a budget of {budget} tokens and max_tokens={cap}", "raise max_tokens above the budget")
    if params.get("temperature") not in (None, 1) or "top_k" in given:
        refuse("temperature or top_k beside thinking", "remove it")
    if isinstance(top_p, int | float) and not LEAST_TOP_P <= top_p <= 1:
        refuse(f"top_p={top_p} beside thinking", f"give one between {LEAST_TOP_P} and 1, or remove it")
    if members(params.get("tool_choice")).get("type") in ("any", "tool"):
        refuse("a tool that has to be called beside thinking", "use tool_choice auto or none")
