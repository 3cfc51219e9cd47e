"""Prompt tokens of rows that differ in nothing but texts: what is the same in all of them is counted once.

A tokenizer is slower than everything else that is done to a row. So it counts the first rows, and then one in so many;
of the others the lengths are known, and what a length has come to so far.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.money.counting import MORE, SIGNS, USUAL, Length, length_of
from airflow_llm_batch.jobs.money.tokens import counter_of, media_tokens

if TYPE_CHECKING:
    from airflow_llm_batch.providers.base import Provider
    from airflow_llm_batch.request import Request

#: characters of rows that are counted at first, and one row in so many after them
FIRST, THEN_ONE_IN = 100_000, 64


class RowTokens:
    """Tokens of a row's prompt.

    :param request: translated, with a mark of its own in each column's place.
    :param line: the same, encoded.
    :param mark: with which every mark begins; four digits follow.
    """

    def __init__(self, request: Request, line: bytes, provider: Provider, mark: str, first: int = FIRST) -> None:
        self.counter, self.left = counter_of(provider, request.model), first
        counted = self.counter.body(request.body)
        #: a body whose texts are not found is counted by the line
        self.found = counted.texts is not None
        #: what stands right before a column and right after it, which may make one token with its text
        self.slots: list[tuple[str, int, str]] = []
        fixed = [piece for text in counted.texts or () for piece in self.take(re.split(f"{mark}(\\d{{4}})", text))]
        self.columns = [column for _, column, _ in self.slots]
        glue = (end for before, _, after in self.slots for end in (before, after))
        #: of what is not counted
        self.length = Length() if self.counter.exact else sum(map(length_of, [*fixed, *glue]), Length())
        self.characters = self.counter.counting.characters
        self.rest = counted.rest + media_tokens(line, request.body, provider, request.model)
        self.base = self.rest + self.counter.count(*fixed)
        self.rows, self.exact, self.guessed = 0, 0.0, 0.0

    def take(self, pieces: list[str]) -> list[str]:
        """Note the columns of a text.

        :param pieces: of it, every other one a column's place.
        :return: what stands around them.
        """
        fixed = []
        for place in range(0, len(pieces), 2):
            piece = pieces[place]
            if place:
                kept = piece.lstrip()
                before, column, _ = self.slots[-1]
                self.slots[-1] = before, column, piece[: len(piece) - len(kept)]
                piece = kept
            if place + 1 < len(pieces):
                kept = piece.rstrip(" \t")
                self.slots.append((piece[len(kept) :], int(pieces[place + 1]), ""))
                piece = kept
            fixed.append(piece)
        return fixed

    def of(self, texts: Sequence[str], line: bytes) -> int:
        """:param texts: of the row's columns; ``line``, the row encoded."""
        if not self.found:
            return max(math.ceil(self.counter.count(line.decode("utf-8", "replace"))), 1)
        joined = texts[self.columns[0]] if len(self.columns) == 1 else "".join([texts[n] for n in self.columns])
        if self.counter.exact is None:
            return max(math.ceil(self.tokens(joined)) + self.rest, 1)
        count = guess = self.tokens(joined)
        self.rows += 1
        if self.left > 0 or self.rows % THEN_ONE_IN == 0:
            count = self.counter.count(*[f"{before}{texts[column]}{after}" for before, column, after in self.slots])
            self.left -= len(joined)
            self.exact, self.guessed = self.exact + count, self.guessed + guess
        elif self.guessed:
            count = guess * self.exact / self.guessed
        return max(round(self.base + count), 1)

    def tokens(self, text: str) -> float:
        """By length, together with what is the same in every row where that is not counted.

        What ``length_of`` and ``Counter.tokens`` make of it, at a third of their price: this is done for every row.
        """
        latin, signs, wide, other = self.length
        raw = text.encode("utf-8", "replace")
        if len(raw) != len(text):
            return self.counter.tokens(self.length + length_of(text))
        latin += len(raw)
        signs += len(raw) - len(raw.translate(None, SIGNS))
        further = signs - USUAL * latin
        tokens = (latin + MORE * further if further > 0 else latin) / self.characters
        return tokens + (wide + other / 2) * self.counter.counting.wide if wide or other else tokens
