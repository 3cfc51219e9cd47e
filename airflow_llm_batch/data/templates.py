"""``{column}`` templates, filled from a row.

Only braces around a name are placeholders, so JSON examples in a prompt need no escaping. A name begins with a letter,
of any script, and goes on with letters, digits, spaces, ``_``, ``.`` and ``-``. ``{{name}}`` stands for a literal
``{name}`` (inside an Airflow template field, write it in a Jinja ``raw`` block).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from airflow_llm_batch.data.values import as_text, plain

BRACES = re.compile(r"\{\{([^{}\n]+)\}\}|\{([^{}\n]+)\}")
#: what Jinja users write
JINJA = re.compile(r"\{\{\s+([^{}\n]+?)\s+\}\}")
#: characters of a name that are neither letters, digits nor marks: the last two join letters in Persian and in Indic
JOINTS = frozenset(" _.-\u200c\u200d")
Fill = Callable[[Mapping[str, Any]], Any]


class Placeholder(NamedTuple):
    """Braces around a name, where they stand in a text.

    :param column: None for ``{{name}}``, whose ``literal`` is ``{name}``.
    """

    start: int
    end: int
    column: str | None
    literal: str


@cache
def is_name(text: str) -> bool:
    """Whether what stands between braces names a column."""
    begins = text[:1].isalpha() or text[:1] == "_"
    return begins and all(c.isalnum() or c in JOINTS or unicodedata.category(c)[0] == "M" for c in text)


def placeholders(text: str) -> Iterator[Placeholder]:
    for match in BRACES.finditer(text):
        name = match[1] or match[2]
        if is_name(name):
            yield Placeholder(match.start(), match.end(), match[2], f"{{{name}}}")


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
        found = list(placeholders(template))
        if len(found) == 1 and (column := found[0].column) and found[0].literal == template:
            return lambda row: plain(row[column])
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
    for found in placeholders(template):
        literal += template[position : found.start]
        position = found.end
        if found.column is None:
            literal += found.literal
        else:
            parts.append(literal)
            columns.append(found.column)
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


def columns_of(template: Any) -> set[str]:
    """The columns a template names."""
    return {found.column for text in texts_of(template) for found in placeholders(text) if found.column is not None}


def jinja_names(template: Any) -> set[str]:
    """What a template has in Jinja's braces, which nobody fills here."""
    return {match[1] for text in texts_of(template) for match in JINJA.finditer(text)}


def texts_of(template: Any) -> Iterator[str]:
    """Every text of a template."""
    if isinstance(template, str):
        yield template
    elif isinstance(template, Mapping):
        for value in template.values():
            yield from texts_of(value)
    elif isinstance(template, list | tuple):
        for value in template:
            yield from texts_of(value)
