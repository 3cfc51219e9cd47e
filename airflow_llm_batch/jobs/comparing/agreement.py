"""How often models give the same answer, counted row by row; nothing is kept of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from airflow_llm_batch.jobs.directory.compared import Agreement, Pair

#: different answers up to which they are categories, and chance has a meaning
MOST_CATEGORIES = 200
#: stands for an answer; 0 for none
Answer = int


class Raters:
    """What some models say about one field.

    :param count: how many they are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows = self.agreed = 0
        #: ordered pairs of models that agree, over all rows
        self.matches = 0
        #: how often each model gives each answer, None where there are too many different ones
        self.given: list[Counter[Answer]] | None = [Counter() for _ in range(count)]

    def add(self, answers: Sequence[Answer], rows: int = 1) -> None:
        """Rows that were answered alike; they count when all have answered them."""
        if not all(answers):
            return
        self.rows += rows
        times = Counter(answers).values()
        self.agreed += rows * (len(times) == 1)
        self.matches += rows * sum(many * (many - 1) for many in times)
        if self.given is not None:
            for counter, answer in zip(self.given, answers, strict=True):
                counter[answer] += rows
                if len(counter) > MOST_CATEGORIES:
                    self.given = None
                    break

    def agreement(self, field: str) -> Agreement:
        share = self.agreed / self.rows if self.rows else None
        return Agreement(field=field, rows=self.rows, share=share, kappa=self.kappa())

    def kappa(self) -> float | None:
        """Cohen's (1960) of two, Fleiss' (1971) of more."""
        if self.given is None or not self.rows:
            return None
        n, rows = self.count, self.rows
        if n == 2:
            one, other = self.given
            expected = sum(times * other[answer] for answer, times in one.items()) / rows**2
        else:
            together = sum(self.given, Counter[Answer]())
            expected = sum((times / (n * rows)) ** 2 for times in together.values())
        observed = self.matches / (rows * n * (n - 1))
        # All the same answer in all rows: there is nothing that chance could have missed.
        return (observed - expected) / (1 - expected) if 1 - expected > 1e-12 else None


#: kinds of rows that are counted before they are worked on: most rows are answered as others are
HELD = 1000


class Kind:
    """Rows that are answered alike, and the fields in which two models ``differ`` there."""

    __slots__ = ("differ", "rows")

    def __init__(self, differ: list[str]) -> None:
        self.differ, self.rows = differ, 0


class Counted:
    """The agreement of all models and of each two, on every field, over rows that come one by one.

    :param fields: their names.
    """

    def __init__(self, models: int, fields: Sequence[str]) -> None:
        self.fields = list(fields)
        self.all = [Raters(models) for _ in fields]
        self.couples = list(combinations(range(models), 2)) if models > 2 else []
        self.pairs = [[Raters(2) for _ in fields] for _ in self.couples]
        self.answered = self.disagreed = 0
        self.kinds: dict[tuple[tuple[Answer, ...], ...], Kind] = {}

    def add(self, row: tuple[tuple[Answer, ...], ...]) -> list[str]:
        """One row: for each model its answers to the fields, none where it has not answered.

        :return: the fields in which two of the models differ.
        """
        kind = self.kinds.get(row)
        if kind is None:
            if len(self.kinds) >= HELD:
                self.finish()
            given = [answers for answers in row if answers]
            differ = [
                name
                for name, answers in zip(self.fields, zip(*given, strict=True), strict=False)
                if len(set(answers)) > 1
            ]
            kind = self.kinds[row] = Kind(differ)
        kind.rows += 1
        return kind.differ

    def finish(self) -> None:
        """Take in the rows that were added."""
        for row, kind in self.kinds.items():
            for place, rater in enumerate(self.all):
                rater.add([answers[place] if answers else 0 for answers in row], kind.rows)
            for (one, other), raters in zip(self.couples, self.pairs, strict=True):
                if row[one] and row[other]:
                    for place, rater in enumerate(raters):
                        rater.add((row[one][place], row[other][place]), kind.rows)
            self.answered += kind.rows * (sum(map(bool, row)) > 1)
            self.disagreed += kind.rows * bool(kind.differ)
        self.kinds.clear()

    def agreements(self) -> list[Agreement]:
        return [rater.agreement(name) for rater, name in zip(self.all, self.fields, strict=True)]

    def pairs_of(self, names: Sequence[str]) -> list[Pair]:
        """:param names: the models'."""
        return [
            Pair(
                models=(names[one], names[other]),
                fields=[rater.agreement(name) for rater, name in zip(raters, self.fields, strict=True)],
            )
            for (one, other), raters in zip(self.couples, self.pairs, strict=True)
        ]
