"""``{column}`` templates, filled from a row.

Only braces around a name are placeholders, so JSON examples in a prompt need no escaping. A name begins with a letter,
of any script, and goes on with letters, digits, spaces, ``_``, ``.`` and ``-``. ``{{name}}`` stands for a literal
``{name}`` (inside an Airflow template field, write it in a Jinja ``raw`` block).

A column may have any other name: what stands between braces is a placeholder too where the rows have a column of
just that name (``{Price (EUR)}``), or of that name between blanks (``{ text }``). Which do, ``meanings`` tells from a
first row; braces that begin with a column and go on (``{text!r}``) are refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from airflow_llm_batch.data.values import as_text, plain
from airflow_llm_batch.exceptions import InputError

BRACES = re.compile(r"\{\{([^{}\n]+)\}\}|\{([^{}\n]+)\}")
#: what Jinja users write
JINJA = re.compile(r"\{\{\s+([^{}\n]+?)\s+\}\}")
#: characters of a name that are neither letters, digits nor marks: the last two join letters in Persian and in Indic
JOINTS = frozenset(" _.-\u200c\u200d")
Fill = Callable[[Mapping[str, Any]], Any]
#: what stands between braces, by no rule but the rows' own columns -> the column it means, "" for none
Meanings = Mapping[str, str]
NONE: Meanings = {}


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


def placeholders(text: str, known: Meanings = NONE) -> Iterator[Placeholder]:
    for match in BRACES.finditer(text):
        name = match[1] or match[2]
        if name in known:
            yield Placeholder(match.start(), match.end(), known[name] if match[2] else None, f"{{{name}}}")
        elif is_name(name):
            yield Placeholder(match.start(), match.end(), match[2], f"{{{name}}}")


def may_be_column(inside: str) -> bool:
    """Whether what stands between braces, and names no column by the rule, may do so by the rows: JSON does not."""
    return not is_name(inside) and bool(inside.strip()) and inside.lstrip()[0] not in "\"'[,:"


def oddities(template: Any) -> set[str]:
    """What stands between braces of a template and depends on the rows' columns."""
    found = (match[1] or match[2] for text in texts_of(template) for match in BRACES.finditer(text))
    return {inside for inside in found if may_be_column(inside)}


def meanings(template: Any, row: Mapping[str, Any]) -> Meanings:
    """What a template's braces mean where the rows have these columns.

    :raises InputError: for braces that begin with a column and go on.
    """
    known: dict[str, str] = {}
    for match in (match for text in texts_of(template) for match in BRACES.finditer(text)):
        inside = match[1] or match[2]
        if inside in row:
            known[inside] = inside
        elif inside.strip() in row:
            known[inside] = inside.strip()
        elif may_be_column(inside) and (column := begun_with(inside.strip(), row)):
            if match[2]:
                raise InputError(
                    f"The request has {{{inside}}}, which begins with the column {column!r} and is no column; write "
                    f"{{{column}}} for its value, or {{{{{inside}}}}} for the braces themselves. Nothing was sent."
                )
            known[inside] = ""
    return {inside: column for inside, column in known.items() if not is_name(inside) or inside != column}


def begun_with(inside: str, row: Mapping[str, Any]) -> str | None:
    """The column that a text begins with as a word, None for none."""
    return next(
        (
            name
            for name in row
            if isinstance(name, str) and is_name(name) and inside.startswith(name)
            and not (inside[len(name)].isalnum() or inside[len(name)] == "_")
        ),
        None,
    )  # fmt: skip


def compile_template(template: Any, known: Meanings = NONE) -> Fill:
    """A function from a row to the filled template.

    :param known: see ``meanings``.

    Strings are filled wherever they stand inside lists and dicts. A string that is nothing but one placeholder
    becomes the column's value itself, type and all, unless it stands alone.

    :raises KeyError: (the function) for a column the row does not have.
    """
    if isinstance(template, str):
        return text_template(template, known)
    return value_template(template, known)


def value_template(template: Any, known: Meanings = NONE) -> Fill:
    if isinstance(template, str):
        found = list(placeholders(template, known))
        if len(found) == 1 and (column := found[0].column) and found[0].literal == template:
            return lambda row: plain(row[column])
        return text_template(template, known)
    if isinstance(template, Mapping):
        fills = {key: value_template(value, known) for key, value in template.items()}
        if columns_of(template, known):
            return lambda row: {key: fill(row) for key, fill in fills.items()}
    elif isinstance(template, list | tuple):
        items = [value_template(value, known) for value in template]
        if columns_of(template, known):
            return lambda row: [fill(row) for fill in items]
    return lambda row: template


def text_template(template: str, known: Meanings = NONE) -> Fill:
    parts: list[str] = []
    columns: list[str] = []
    position, literal = 0, ""
    for found in placeholders(template, known):
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
            out.append(value if type(value) is str else text_of(column, value))
        out.append(last)
        return "".join(out)

    return fill


def text_of(column: str, value: Any) -> str:
    """:raises TypeError: for a value without a text, by its column."""
    try:
        return as_text(value)
    except TypeError as error:
        raise TypeError(f"column {column!r} holds {error}") from None


def columns_of(template: Any, known: Meanings = NONE) -> set[str]:
    """The columns a template names."""
    named = (found.column for text in texts_of(template) for found in placeholders(text, known))
    return {column for column in named if column is not None}


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
