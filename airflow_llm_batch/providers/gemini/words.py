"""How Gemini's JSON is spelled: answers come in camelCase and in snake_case, requests leave in camelCase.

Source: the JSON mapping of protocol buffers, which takes both spellings of every field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.coerce import members, objects

HUMP = re.compile(r"(?<=[a-z0-9])([A-Z])")
#: members of a request, of its ``generationConfig`` and of a tool that Vertex AI alone knows (google-genai's models)
VERTEX = ("labels", "modelArmorConfig")
VERTEX_CONFIG = ("routingConfig", "modelSelectionConfig", "audioTimestamp")
VERTEX_TOOLS = ("retrieval", "enterpriseWebSearch", "parallelAiSearch")
BAR = re.compile(r"_+([a-z0-9])")


def refuse(what: str, remedy: str) -> NoReturn:
    """:raises InputError: always."""
    raise InputError(f"Gemini cannot express {what}; {remedy}. Nothing was sent.")


def snake(name: str) -> str:
    return HUMP.sub(lambda hump: f"_{hump[1].lower()}", name)


def camel(name: str) -> str:
    return BAR.sub(lambda bar: bar[1].upper(), name)


def get(value: Any, name: str) -> Any:
    """A member by its camelCase name, in either spelling; None where it is missing, or ``value`` is no object."""
    held = members(value)
    found = held.get(name)
    return held.get(snake(name)) if found is None else found


def camel_members(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object with the names of its own members in camelCase; what they hold stays as it is."""
    return {camel(name): inner for name, inner in value.items()}


def check_vertex_words(body: Mapping[str, Any]) -> None:
    """Refuse what Vertex AI alone has: the Developer API knows no such members, and fails the row.

    :raises InputError: names it.
    """
    held = [*((body, name) for name in VERTEX), *((get(body, "generationConfig"), name) for name in VERTEX_CONFIG)]
    held += [(tool, name) for tool in objects(body.get("tools")) for name in VERTEX_TOOLS]
    for where, name in held:
        if get(where, name) is not None:
            refuse(f"{name!r}, which is Vertex AI's", "remove it, or use a connection of the provider vertex")
