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

    def add(self, answers: Sequence[Answer]) -> None:
        """One row; counts when all have answered it."""
        if not all(answers):
            return
        self.rows += 1
        first = answers[0]
        if all(answer == first for answer in answers):
            self.agreed += 1
            self.matches += self.count * (self.count - 1)
        elif self.count > 2:
            self.matches += sum(times * (times - 1) for times in Counter(answers).values())
        if self.given is not None:
            for counter, answer in zip(self.given, answers, strict=True):
                counter[answer] += 1
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

    def add(self, row: Sequence[Sequence[Answer]]) -> list[str]:
        """One row: for each model its answers to the fields, none where it has not answered.

        :return: the fields in which two of the models differ.
        """
        given = [answers for answers in row if answers]
        differ = []
        for place, name in enumerate(self.fields):
            if len(given) == len(row):
                self.all[place].add([answers[place] for answers in row])
            if len({answers[place] for answers in given}) > 1:
                differ.append(name)
        for (one, other), raters in zip(self.couples, self.pairs, strict=True):
            if row[one] and row[other]:
                for place, rater in enumerate(raters):
                    rater.add((row[one][place], row[other][place]))
        self.answered += len(given) > 1
        self.disagreed += bool(differ)
        return differ

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
