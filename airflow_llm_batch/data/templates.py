"""``{column}`` templates, filled from a row.

Only braces around a name are placeholders, so JSON examples in a prompt need no escaping. ``{{name}}`` stands for a
literal ``{name}`` (inside an Airflow template field, write it in a Jinja ``raw`` block).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

PLACEHOLDER = re.compile(r"\{\{([A-Za-z_][\w .-]*)\}\}|\{([A-Za-z_][\w .-]*)\}")
Fill = Callable[[Mapping[str, Any]], Any]


def compile_template(template: Any) -> Fill:
    """A function from a row to the filled template.

    Strings are filled wherever they stand inside lists and dicts. A string that is nothing but one placeholder
    becomes the column's value itself, type and all, unless it stands alone.

    :raises KeyError: (the function) for a column the row does not have.
    """
    if isinstance(template, str):
        return text_template(template)
    return value_template(template)


def value_template(template: Any) -> Fill:
    if isinstance(template, str):
        whole = PLACEHOLDER.fullmatch(template)
        if whole and (column := whole[2]):
            return lambda row: in_order(row[column])
        return text_template(template)
    if isinstance(template, Mapping):
        fills = {key: value_template(value) for key, value in template.items()}
        if columns_of(template):
            return lambda row: {key: fill(row) for key, fill in fills.items()}
    elif isinstance(template, list | tuple):
        items = [value_template(value) for value in template]
        if columns_of(template):
            return lambda row: [fill(row) for fill in items]
    return lambda row: template


def text_template(template: str) -> Fill:
    parts: list[str] = []
    columns: list[str] = []
    position, literal = 0, ""
    for match in PLACEHOLDER.finditer(template):
        literal += template[position : match.start()]
        position = match.end()
        if match[1]:
            literal += "{" + match[1] + "}"
        else:
            parts.append(literal)
            columns.append(match[2])
            literal = ""
    last = literal + template[position:]
    if not columns:
        return lambda row: last

    def fill(row: Mapping[str, Any]) -> str:
        out = []
        for part, column in zip(parts, columns, strict=True):
            out.append(part)
            value = row[column]
            out.append(value if type(value) is str else as_text(value))
        out.append(last)
        return "".join(out)

    return fill


def in_order(value: Any) -> Any:
    """The value, sets as sorted lists: the same rows must make the same bytes in every process."""
    return sorted(value, key=str) if isinstance(value, set | frozenset) else value


def as_text(value: Any) -> str:
    """A column's value inside a prompt: nulls are empty, lists and objects are JSON.

    :raises TypeError: for bytes, whose encoding nobody told.
    """
    value = in_order(value)
    if value is None:
        return ""
    if isinstance(value, bytes):
        raise TypeError("a column of bytes; decode it first")
    if isinstance(value, dict | list | tuple | bool):
        return msgspec.json.encode(value).decode()
    return str(value)


def columns_of(template: Any) -> set[str]:
    """The columns a template names."""
    if isinstance(template, str):
        return {match[2] for match in PLACEHOLDER.finditer(template) if match[2]}
    if isinstance(template, Mapping):
        return set().union(*map(columns_of, template.values()), set())
    if isinstance(template, list | tuple):
        return set().union(*map(columns_of, template), set())
    return set()
