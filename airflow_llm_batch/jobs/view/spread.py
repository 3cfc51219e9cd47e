"""How the answers spread: what each field of ``output`` holds, and how often."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any

from pydantic import BaseModel

from airflow_llm_batch.data.windows import Step, places, records_from
from airflow_llm_batch.jobs.view.rows import label, output_of
from airflow_llm_batch.storage import storage_path

#: records that are looked at; of larger jobs so many, from places spread over the files
MOST, FILES, PLACES = 2000, 20, 5
#: bars of one field, characters of a label, and fields
BARS, LONGEST, FIELDS = 12, 60, 30
#: the name of answers that are no objects
ANSWER = "answer"


class Bar(BaseModel):
    """:param value: what a filter asks for to see these rows, None for what no filter tells."""

    label: str
    rows: int
    value: str | None = None


class Field(BaseModel):
    """One field of the answers.

    :param kind: ``labels``, ``numbers`` or ``texts``, which are too many to be counted one by one.
    :param distinct: values that were met.
    :param mean: of numbers, or of the texts' characters.
    """

    name: str
    kind: str
    rows: int
    distinct: int
    bars: list[Bar] = []
    mean: float | None = None


class Spread(BaseModel):
    """:param rows: that were looked at, and had an answer; of ``total``, where ``whole`` all of them were."""

    fields: list[Field]
    rows: int
    total: int
    whole: bool


@lru_cache(maxsize=100)
def spread_of(files: tuple[str, ...], total: int, landed_at: str) -> Spread:
    """:param files: URIs of landed files; what was once landed is read once.
    :param total: rows in them.
    """
    values: dict[str, list[Any]] = {}
    rows = looked = 0
    for step in sample(files, total):
        looked += 1
        if step.record.get("status") != "succeeded":
            continue
        rows += 1
        output = output_of(step.record)
        answer: Mapping[str, Any] = output if isinstance(output, Mapping) else {ANSWER: step.record.get("text")}
        for name, value in answer.items():
            if len(values) < FIELDS or name in values:
                values.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    fields = [field_of(name, found) for name, found in values.items()]
    return Spread(fields=[field for field in fields if field.distinct], rows=rows, total=total, whole=looked >= total)


def sample(files: tuple[str, ...], total: int) -> Iterator[Step]:
    """All records of small jobs; of others some from each of several places."""
    if total <= MOST:
        for file in files:
            yield from records_from(storage_path(file))
        return
    chosen = [files[len(files) * number // FILES] for number in range(FILES)] if len(files) > FILES else list(files)
    share = math.ceil(MOST / len(chosen) / PLACES)
    for file in chosen:
        path, over = storage_path(file), 0
        for place in places(path, PLACES):
            for step in islice(records_from(path, max(place, over)), share):
                over = step.after
                yield step


def field_of(name: str, values: list[Any]) -> Field:
    known = [value for value in values if value is not None]
    numbers = [v for v in known if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    texts = Counter(label(value) for value in values)
    common: dict[str, Any] = {"name": name, "rows": len(values), "distinct": len(texts)}
    if numbers and len(numbers) == len(known) and len(set(numbers)) > BARS:
        return Field(kind="numbers", bars=histogram(numbers), mean=sum(numbers) / len(numbers), **common)
    if len(texts) > BARS and len(texts) > len(values) / 4:
        mean = sum(len(text) * rows for text, rows in texts.items()) / max(len(values), 1)
        return Field(kind="texts", mean=mean, **common)
    ordered = texts.most_common()
    if numbers and len(numbers) == len(values):
        ordered = sorted(texts.items(), key=lambda item: float(item[0]))
    bars = [Bar(label=text[:LONGEST] or "(empty)", rows=rows, value=text) for text, rows in ordered[:BARS]]
    if rest := sum(rows for _, rows in ordered[BARS:]):
        bars.append(Bar(label=f"{len(ordered) - BARS} others", rows=rest))
    return Field(kind="labels", bars=bars, **common)


def histogram(numbers: list[float]) -> list[Bar]:
    """About ten bars of round bounds from the least to the greatest; each counts what its filter finds."""
    least, greatest = min(numbers), max(numbers)
    rough = (greatest - least) / 10
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10, 20) if unit * factor >= rough)
    digits = max(2 - math.floor(math.log10(step)), 0)
    first = math.floor(least / step)
    bounds = [bound(first, step, digits)]
    while float(bounds[0]) > least:
        first -= 1
        bounds.insert(0, bound(first, step, digits))
    while float(bounds[-1]) <= greatest:
        bounds.append(bound(first + len(bounds), step, digits))
    edges = [float(text) for text in bounds]
    found = Counter(bisect_right(edges, number) - 1 for number in numbers)
    return [
        Bar(label=f"{low} to {high}", rows=found[place], value=f"{low}..{high}")
        for place, (low, high) in enumerate(pairwise(bounds))
    ]


def bound(number: int, step: float, digits: int) -> str:
    """A multiple of a step, without the digits that only the machine sees."""
    if step >= 1 and step == int(step):
        return str(number * int(step))
    text = f"{number * step:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
