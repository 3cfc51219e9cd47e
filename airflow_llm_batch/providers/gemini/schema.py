"""Schemas of answers and of tools, as Gemini takes them.

Source: Gemini's API reference (``responseJsonSchema``: the keywords that are supported; cyclic references only within
properties that are not required).
"""

from __future__ import annotations

from typing import Any

from airflow_llm_batch.providers.gemini.words import refuse
from airflow_llm_batch.providers.schemas import GEMINI, Unfit, fit, target_of


def fitted(schema: dict[str, Any], what: str) -> dict[str, Any]:
    """A JSON schema as ``responseJsonSchema`` and ``parametersJsonSchema`` take it.

    :param what: whose schema it is, for the error.
    :raises InputError: names the keyword and the place of what cannot be asked for.
    """
    try:
        made = fit(schema, GEMINI)
        check_cycles(made)
    except (Unfit, RecursionError) as error:
        return refuse(f"{what} with {error}", "change the schema, or ask without output and parse the text")
    return made


def check_cycles(schema: dict[str, Any]) -> None:
    """:raises Unfit: for a definition that holds itself otherwise than in a property that may be left out."""
    definitions = schema.get("$defs") or {}
    for name, node in {"#": schema, **{f"#/$defs/{name}": node for name, node in definitions.items()}}.items():
        follow(node, schema, name.removeprefix("#"), (name,))


def follow(node: Any, root: dict[str, Any], path: str, seen: tuple[str, ...]) -> None:
    """:param seen: the references that led here with no property between them that may be left out."""
    if not isinstance(node, dict):
        return
    if (ref := node.get("$ref")) is not None:
        if ref == seen[0]:
            raise Unfit("$ref", path, "a definition may hold itself only in a property that is not required")
        if ref not in seen:
            follow(target_of(root, ref), root, path, (*seen, ref))
        return
    for name, inner in (node.get("properties") or {}).items():
        if name in (node.get("required") or ()):
            follow(inner, root, f"{path}/properties/{name}", seen)
    for name in ("anyOf", "prefixItems"):
        for place, inner in enumerate(node.get(name) or ()):
            follow(inner, root, f"{path}/{name}/{place}", seen)
    for name in ("items", "additionalProperties"):
        follow(node.get(name), root, f"{path}/{name}", seen)
