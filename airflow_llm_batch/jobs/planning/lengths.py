"""Prompt tokens of rows that differ in nothing but texts: what is the same in all of them is counted once.

A tokenizer is slower than everything else that is done to a row. So it counts the first rows, and then one in so many;
of the others the lengths are known, and what a length has come to so far.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.jobs.money.counting import MORE, SIGNS, USUAL, Counter, Length, length_of
from airflow_llm_batch.jobs.money.tokens import counter_of, media_tokens

if TYPE_CHECKING:
    from airflow_llm_batch.providers.base import Provider
    from airflow_llm_batch.request import Request

#: characters of rows that are counted at first, and one row in so many after them: no period that rows may have
FIRST, THEN_ONE_IN = 100_000, 251
#: the texts of a row's columns, and the row encoded, to the tokens of its prompt
TokensOf = Callable[[Sequence[str], bytes], int]


class Slot(NamedTuple):
    """A column's place in a prompt, with what stands right before it and right after it, which may make one token with
    its text."""

    before: str
    column: int
    after: str


def row_tokens(request: Request, line: bytes, provider: Provider, mark: str) -> TokensOf:
    """What counts, or estimates, the tokens of a row.

    :param request: translated, with a mark of its own in each column's place.
    :param line: the same, encoded.
    :param mark: with which every mark begins; four digits follow.
    """
    counter = counter_of(provider, request.model)
    counted = counter.body(request.body)
    if counted.texts is None:
        # A body whose texts are not found is counted by the line.
        return lambda texts, line: max(math.ceil(counter.count(line.decode("utf-8", "replace"))), 1)
    slots: list[Slot] = []
    fixed = [piece for text in counted.texts for piece in taken(re.split(f"{mark}(\\d{{4}})", text), slots)]
    rest = counted.rest + media_tokens(line, request.body, provider, request.model)
    if counter.exact is not None:
        return counted_now_and_then(counter, slots, rest + counter.count(*fixed))
    glue = (end for slot in slots for end in (slot.before, slot.after))
    tokens = by_length(counter, sum(map(length_of, [*fixed, *glue]), Length()))
    joined = joiner(slots)
    return lambda texts, line: max(math.ceil(tokens(joined(texts))) + rest, 1)


def taken(pieces: list[str], slots: list[Slot]) -> list[str]:
    """Note the columns of a text.

    :param pieces: of it, every other one a column's place.
    :return: what stands around them.
    """
    fixed = []
    for place in range(0, len(pieces), 2):
        piece = pieces[place]
        if place:
            kept = piece.lstrip()
            slots[-1] = slots[-1]._replace(after=piece[: len(piece) - len(kept)])
            piece = kept
        if place + 1 < len(pieces):
            kept = piece.rstrip(" \t")
            slots.append(Slot(piece[len(kept) :], int(pieces[place + 1]), ""))
            piece = kept
        fixed.append(piece)
    return fixed


def joiner(slots: Sequence[Slot]) -> Callable[[Sequence[str]], str]:
    """What puts the texts of the columns together."""
    columns = [slot.column for slot in slots]
    if len(columns) == 1:
        [only] = columns
        return lambda texts: texts[only]
    return lambda texts: "".join([texts[column] for column in columns])


def counted_now_and_then(counter: Counter, slots: Sequence[Slot], base: float, first: int = FIRST) -> TokensOf:
    """Rows that are counted, and the others by what their lengths have come to in those.

    :param base: tokens that all of them have in common.
    """
    tokens, joined = by_length(counter, Length()), joiner(slots)
    left, rows, exact, guessed = first, 0, 0.0, 0.0

    def of(texts: Sequence[str], line: bytes) -> int:
        nonlocal left, rows, exact, guessed
        text = joined(texts)
        count = guess = tokens(text)
        rows += 1
        if left > 0 or rows % THEN_ONE_IN == 0:
            count = counter.count(*[f"{before}{texts[column]}{after}" for before, column, after in slots])
            left -= len(text)
            exact, guessed = exact + count, guessed + guess
        elif guessed:
            count = guess * exact / guessed
        return max(round(base + count), 1)

    return of


def by_length(counter: Counter, common: Length) -> Callable[[str], float]:
    """Tokens of a text by its length, together with what is the same in every row where that is not counted.

    What ``length_of`` and ``Counter.tokens`` make of it, at a third of their price: this is done for every row.
    """
    latin, signs, wide, other = common
    characters, beyond = counter.counting.characters, (wide + other / 2) * counter.counting.wide

    def tokens(text: str) -> float:
        raw = text.encode("utf-8", "replace")
        size = len(raw)
        if size != len(text):
            return counter.tokens(common + length_of(text))
        letters = latin + size
        further = signs + size - len(raw.translate(None, SIGNS)) - USUAL * letters
        return (letters + MORE * further if further > 0 else letters) / characters + beyond

    return tokens
