"""How much a model is to think: a budget of tokens up to Gemini 2.5, a level from Gemini 3 on.

Source: Gemini's guides to thinking (ranges of budgets, levels by model) and to OpenAI compatibility (what an effort
amounts to); google-genai's ``ThinkingLevel``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.gemini.words import camel_members, refuse

#: models that take a budget of tokens, and models that do not think at all
BUDGETED = re.compile(r"gemini-(2\.5|flash-lite-latest$)")
THOUGHTLESS = re.compile(r"gemini-(1|2\.0)|gemma|learnlm")
BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576}
LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH"}
#: models that know the least level; all others get LOW for it, as the compatibility guide has it
MINIMAL = re.compile(r"gemini-3(\.[1-6])?-flash")
#: the range of budgets by model; 0 turns thinking off where it is in ``OFF``, -1 leaves the amount to the model
RANGES = (("2.5-pro", 128, 32_768), ("2.5-flash-lite", 512, 24_576), ("2.5-flash", 1, 24_576))
OFF = re.compile(r"2\.5-flash")


def effort_config(effort: Any, model: str) -> dict[str, Any]:
    """``reasoning_effort`` as a ``thinkingConfig``.

    :raises InputError: for an effort that the model knows nothing like.
    """
    if THOUGHTLESS.search(model):
        refuse(f"reasoning_effort for {model}, which does not think", "remove it, or choose a later model")
    if BUDGETED.search(model):
        if effort not in BUDGETS:
            refuse(f"reasoning_effort {effort!r} for {model}", f"use {', '.join(BUDGETS)}, or thinking_budget")
        if effort == "none" and not OFF.search(model):
            refuse(f"reasoning_effort 'none' for {model}, which cannot but think", "use minimal, or remove it")
        return {"thinkingBudget": BUDGETS[effort]}
    if effort == "none":
        refuse(f"reasoning_effort 'none' for {model}, which cannot but think", "use minimal, or remove it")
    if effort not in LEVELS:
        refuse(f"reasoning_effort {effort!r}", f"use {', '.join(LEVELS)}")
    return {"thinkingLevel": "LOW" if effort == "minimal" and not MINIMAL.search(model) else LEVELS[effort]}


def thinking_config(value: Any, model: str) -> dict[str, Any]:
    """Thinking as it is asked for in other vendors' words (Anthropic's ``thinking``, OpenRouter's ``reasoning``) or in
    Gemini's own, as a ``thinkingConfig``.

    :raises InputError: for what it has no word for.
    """
    given = dict(members(value))
    if not given:
        refuse(f"thinking {value!r}", "give {'type': 'enabled', 'budget_tokens': 2048} or Gemini's thinkingConfig")
    kind = given.pop("type", None)
    if kind not in (None, "enabled", "disabled", "adaptive"):
        refuse(f"thinking of type {kind!r}", "use enabled, adaptive or disabled")
    made: dict[str, Any] = {}
    if "effort" in given:
        made |= effort_config(given.pop("effort"), model)
    for name in ("budget_tokens", "max_tokens"):
        if name in given:
            made["thinkingBudget"] = given.pop(name)
    if (shown := given.pop("exclude", None)) is not None:
        made["includeThoughts"] = not shown
    if kind == "disabled":
        made |= effort_config("none", model)
    elif kind is not None:
        made.setdefault("includeThoughts", True)
    made |= camel_members(given)
    if unknown := made.keys() - {"thinkingBudget", "thinkingLevel", "includeThoughts"}:
        refuse(f"thinking's {sorted(unknown)[0]!r}", "remove it")
    check_thinking(made, model)
    return made


def check_thinking(config: Mapping[str, Any], model: str) -> None:
    """:raises InputError: for a budget outside the model's range, and for a budget beside a level."""
    budget, level = config.get("thinkingBudget"), config.get("thinkingLevel")
    if budget is not None and level is not None:
        refuse("a thinking budget beside a thinking level", "give one of them")
    if level is not None and BUDGETED.search(model):
        refuse(f"a thinking level for {model}, which takes a budget", "give thinking_budget, or reasoning_effort")
    if not isinstance(budget, int) or budget == -1:
        return
    if budget == 0 and OFF.search(model):
        return
    for name, least, most in RANGES:
        if name in model:
            if not least <= budget <= most:
                refuse(f"a thinking budget of {budget} for {model}", f"give {least:,} to {most:,}, or -1 for its own")
            return
