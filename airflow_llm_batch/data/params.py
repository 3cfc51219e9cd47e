"""Body parameters as people give them: in Python, as an SDK takes them, or as text that a template has rendered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from airflow_llm_batch.data.values import plain, to_json
from airflow_llm_batch.exceptions import InputError

#: numbers, which Jinja and CSV files give as text
NUMBERS = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "n", "seed", "frequency_penalty", "presence_penalty", "top_logprobs"}
    | {"repetition_penalty", "max_tokens", "max_completion_tokens", "max_output_tokens", "dimensions"}
)
#: yes or no, likewise; ``logprobs`` is a number at some endpoints
SWITCHES = frozenset({"logprobs", "parallel_tool_calls", "store"})
WRITTEN = NUMBERS | SWITCHES
#: kinds of choices that name one of the tools
CHOICES = frozenset({"function", "custom", "tool"})
#: arguments of the vendors' SDKs that are no part of a body, and what to do instead
OF_SDKS = {
    "extra_body": "put its members into params themselves",
    "extra_headers": "headers are a matter of the connection",
    "extra_query": "a query is a matter of the connection",
}


def given_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON has them, without those that say nothing: a number that is null, a list of no tools.

    :raises InputError: for an SDK's own argument, and for what JSON has no form for.
    """
    made: dict[str, Any] = {}
    for name, value in params.items():
        if name in OF_SDKS:
            raise InputError(
                f"params has {name!r}, an argument of the vendor's SDK and no part of a request: {OF_SDKS[name]}. "
                "Nothing was sent."
            )
        try:
            to_json(value := plain(value))
        except TypeError as error:
            raise InputError(
                f"params[{name!r}] holds {error}, for which JSON has no form. The class of an answer goes into output; "
                "of a tool's arguments give the model_json_schema(). Nothing was sent."
            ) from None
        # Elsewhere either may mean something: OpenRouter's transforms, of which an empty list is none.
        if not ((value is None and name in WRITTEN) or (value == [] and name in ("tools", "stop"))):
            made[str(name)] = value
    check_tools(made.get("tools"), made.get("tool_choice"))
    return made


def check_tools(tools: Any, choice: Any) -> None:
    """:raises InputError: for two tools of one name, and for a choice of one that is not there."""
    names = [name_of(tool) for tool in tools] if isinstance(tools, list) else []
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise InputError(f"Two tools are named {twice[0]!r}; give each a name of its own. Nothing was sent.")
    chosen = name_of(choice) if isinstance(choice, dict) and choice.get("type") in CHOICES else None
    # Tools, and names, that each row brings are not known here.
    if chosen and chosen not in names and None not in names and isinstance(tools, list | None):
        raise InputError(f"tool_choice is {chosen!r}, and no tool is named so. Nothing was sent.")


def name_of(tool: Any) -> str | None:
    """What a tool, or a choice of one, is named, in any vendor's shape; None where that is not told."""
    if not isinstance(tool, dict):
        return None
    inner = next((tool[kind] for kind in ("function", "custom") if isinstance(tool.get(kind), dict)), tool)
    return inner["name"] if isinstance(inner.get("name"), str) and "{" not in inner["name"] else None


def read(name: str, value: Any) -> Any:
    """A number, or yes or no, that was given as text; anything else as it is.

    :raises InputError: for a text that is neither; the vendor would refuse every row for it.
    """
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if name in SWITCHES and word in ("true", "false"):
        return word == "true"
    with suppress(ValueError):
        return int(word)
    with suppress(ValueError):
        if math.isfinite(found := float(word)):
            return int(found) if found.is_integer() and "." not in word else found
    wanted = "a number" if name in NUMBERS else "true or false"
    raise InputError(f"the parameter {name} is {value!r}; give {wanted}")
