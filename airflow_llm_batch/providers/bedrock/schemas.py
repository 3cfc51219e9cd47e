"""Output schemas as Bedrock's models take them: those of the structured outputs, and Nova's tools.

Source: Bedrock's user guide (structured outputs: supported JSON schema features, which are those Anthropic's API
takes), Nova's (tool choice: a schema's top has type, properties and required, and no definitions).
"""

from __future__ import annotations

from typing import Any

from airflow_llm_batch.providers.bedrock.names import refuse
from airflow_llm_batch.providers.schemas import ANTHROPIC, DEFINITIONS, Unfit, fit, is_object, target_of

TOP = ("type", "properties", "required")


def fitted(schema: dict[str, Any], what: str) -> dict[str, Any]:
    """:raises InputError: names the keyword and the place of what is not taken."""
    try:
        return fit(schema, ANTHROPIC)
    except (Unfit, RecursionError) as error:
        return refuse(f"{what} with {error}", "change the schema, or ask without output and parse the text")


def for_nova(schema: dict[str, Any], what: str) -> dict[str, Any]:
    """A schema without definitions, with no more at its top than Nova reads there.

    :raises InputError: for one that is no object, or that names itself.
    """
    if not is_object(schema):
        refuse(f"{what} that is no object", "give a schema of type object")
    whole = inlined(schema, schema, what, ())
    return {"type": "object", **{name: whole[name] for name in TOP if name in whole}}


def inlined(node: Any, root: dict[str, Any], what: str, opened: tuple[str, ...]) -> Any:
    """A part of a schema with every reference replaced by what it points to."""
    if isinstance(node, list):
        return [inlined(item, root, what, opened) for item in node]
    if not isinstance(node, dict):
        return node
    rest = {name: value for name, value in node.items() if name not in ("$ref", *DEFINITIONS)}
    ref = node.get("$ref")
    if isinstance(ref, str):
        target = target_of(root, ref)
        if ref in opened or not isinstance(target, dict):
            refuse(f"{what} with the reference {ref!r}, to itself or to nothing", "spell the schema out")
        found: dict[str, Any] = inlined(target, root, what, (*opened, ref))
        return {**found, **inlined(rest, root, what, opened)}
    return {name: inlined(value, root, what, opened) for name, value in rest.items()}
