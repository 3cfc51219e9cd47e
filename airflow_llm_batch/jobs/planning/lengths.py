"""Prompt tokens of rows that differ in nothing but texts: what is the same in all of them is counted once.

A tokenizer is slower than everything else that is done to a row. So it counts the first rows, and then some; of the
others the lengths are known, and what a length has come to so far.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.money.counting import Length, length_of
from airflow_llm_batch.jobs.money.tokens import counter_of, media_tokens

if TYPE_CHECKING:
    from airflow_llm_batch.providers.base import Provider
    from airflow_llm_batch.request import Request

#: rows that are counted at first, and one in so many after them
FIRST, THEN_ONE_IN = 500, 16


class RowTokens:
    """Tokens of a row's prompt.

    :param request: translated, with a mark of its own in each column's place.
    :param line: the same, encoded.
    :param mark: with which every mark begins; four digits follow.
    """

    def __init__(self, request: Request, line: bytes, provider: Provider, mark: str, first: int = FIRST) -> None:
        self.counter, self.first = counter_of(provider, request.model), first
        counted = self.counter.body(request.body)
        #: a body whose texts are not found is counted by the line
        self.found = counted.texts is not None
        #: what stands right before a column and right after it, which may make one token with its text
        self.slots: list[tuple[str, int, str]] = []
        fixed = [piece for text in counted.texts or () for piece in self.take(re.split(f"{mark}(\\d{{4}})", text))]
        self.length = sum(map(length_of, fixed), Length())
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
        filled = [f"{before}{texts[column]}{after}" for before, column, after in self.slots]
        length = sum(map(length_of, filled), Length())
        if self.counter.exact is None:
            return max(math.ceil(self.counter.tokens(self.length + length)) + self.rest, 1)
        count = guess = self.counter.tokens(length)
        self.rows += 1
        if self.rows <= self.first or self.rows % THEN_ONE_IN == 0:
            count = self.counter.count(*filled)
            self.exact, self.guessed = self.exact + count, self.guessed + guess
        elif self.guessed:
            count = guess * self.exact / self.guessed
        return max(round(self.base + count), 1)
