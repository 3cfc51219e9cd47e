"""A landed job's rows, page by page: each page reads as much of the files as it takes, and no more than a bound."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from airflow_llm_batch.data.windows import UNSHOWN, Step, opened_at, records_from
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.results import Result
from airflow_llm_batch.storage import file_size, storage_path

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.view.files import RoundFiles

#: records, and bytes of them, that one page looks at
MOST_ROWS, MOST_BYTES = 50_000, 32 * 2**20
#: characters of a value that are shown
LONGEST = 20_000
#: what this package calls the files that it lands
LANDED = re.compile(r"results-(?P<job>[0-9a-f]{8})-[\w.-]*\.(jsonl(\.gz|\.zst)?|parquet)")
RANGE = re.compile(r"(-?\d[\d.e+-]*)\.\.(-?\d[\d.e+-]*)")


class Wanted(BaseModel):
    """Which rows, and from where on.

    :param key: part of the row's key, as text; the whole key where it is a number.
    :param field: of ``output``; ``value`` is what it holds, as text, or ``2..4`` for numbers from 2 to below 4.
    :param file: number of the landed file, and ``at`` the place in it, both as the page before has told.
    """

    status: str | None = None
    key: str | None = None
    field: str | None = None
    value: str | None = None
    file: int = 0
    at: int = 0

    def fits(self, record: Mapping[str, Any]) -> bool:
        if self.status and record.get("status") != self.status:
            return False
        if self.key and not is_key(record.get("key"), self.key):
            return False
        if not self.field or self.value in (None, ""):
            return True
        output = output_of(record)
        return isinstance(output, Mapping) and self.field in output and holds(output[self.field], self.value or "")


class RowsPage(NamedTuple):
    """Some rows.

    :param looked: records that were looked at for them.
    :param after: ``{"file", "at"}`` of where to look on, None at the end.
    :param unshown: files that are not this job's own, and are not read.
    """

    rows: list[dict[str, Any]]
    looked: int
    after: dict[str, int] | None
    unshown: int = 0


def own_files(files: Collection[str], jobs: Collection[str]) -> list[str]:
    """Those of a manifest's files that its own job has landed, or one that it repairs.

    A manifest is written by whoever may write to the storage: what it names is not read for that.

    :param jobs: URIs of these jobs; a job's id comes of its address, so it cannot be said of another one.
    """
    ids = {JobStore(uri).job_id for uri in jobs}
    named = ((file, LANDED.fullmatch(file.rpartition("/")[2])) for file in files)
    return [file for file, found in named if found is not None and found["job"] in ids]


def landed_rows(files: list[str], wanted: Wanted, limit: int, unshown: int = 0) -> RowsPage:
    """:param files: URIs of landed files, all of them readable by whoever asks."""

    def steps() -> Iterator[tuple[int, Step]]:
        for number in range(wanted.file, len(files)):
            start = wanted.at if number == wanted.file else 0
            yield from ((number, step) for step in records_from(storage_path(files[number]), start))

    return gathered(steps(), wanted.fits, limit)._replace(unshown=unshown)


def failed_rows(found: RoundFiles, at: int, limit: int) -> RowsPage:
    """Rows that did not succeed, with the beginning of the vendor's answer."""
    if "failed.jsonl" not in found.files:
        return RowsPage([], 0, None)
    steps = ((0, step) for step in records_from(storage_path(f"{found.uri}/failed.jsonl"), at))
    return gathered(steps, lambda record: True, limit)


def gathered(steps: Iterator[tuple[int, Step]], fits: Callable[[Mapping[str, Any]], bool], limit: int) -> RowsPage:
    """A page of what fits, cut short where too much would have to be read for it."""
    rows: list[dict[str, Any]] = []
    looked = size = 0
    after = None
    for number, step in islice(steps, MOST_ROWS):
        looked, size = looked + 1, size + step.size
        after = {"file": number, "at": step.after}
        if fits(step.record):
            rows.append(shown(step.record))
        if len(rows) >= limit or size >= MOST_BYTES:
            break
    # Whether anything follows is known when it is looked at.
    return RowsPage(rows, looked, after if after is not None and next(steps, None) is not None else None)


def shown(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a page shows it: long values are cut, vectors counted."""
    kept: dict[str, Any] = {}
    for name, value in record.items():
        if value is None:
            continue
        if name in UNSHOWN:
            kept[name] = f"[{len(value)} values]" if isinstance(value, list | str) else "[values]"
        else:
            kept[name] = cut(output_of(record) if name == "output" else value)
    kept["columns"] = [name for name in record if name not in Result.__struct_fields__]
    return kept


def cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[:LONGEST]} ... ({len(value):,} characters)"
    if isinstance(value, bytes):
        return f"[{len(value):,} bytes]"
    if isinstance(value, list | dict):
        text = json.dumps(value, default=str, ensure_ascii=False)
        return value if len(text) <= LONGEST else cut(text)
    return value


def output_of(record: Mapping[str, Any]) -> Any:
    """The answer as an object, whichever way its format keeps it."""
    output = record.get("output")
    if isinstance(output, str) and output[:1] in ("{", "["):
        try:
            return json.loads(output)
        except ValueError:
            return output
    return output


def is_key(key: Any, asked: str) -> bool:
    if isinstance(key, str):
        return asked.casefold() in key.casefold()
    return asked.strip() in (str(key), json.dumps(key, default=str))


def holds(value: Any, asked: str) -> bool:
    """Whether a field of an answer is what is asked for; a list is when one of its items is."""
    if isinstance(value, list):
        return any(holds(item, asked) for item in value)
    if isinstance(value, int | float) and not isinstance(value, bool) and (found := RANGE.fullmatch(asked)):
        try:
            return float(found[1]) <= value < float(found[2])
        except ValueError:
            return False
    return label(value) == asked


def label(value: Any) -> str:
    """A value as text: JSON, but for text itself."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def sent(rounds: list[RoundFiles], number: int, index: int, custom_id: str) -> str | None:
    """The request of one row as it was sent, None where it is not there: found by halves, for a shard's requests lie in
    the order of their numbers.

    :param number: of the round that asked, and ``index`` of the shard.
    """
    found = next((r for r in rounds if r.job is not None and r.job.round == number), None)
    if found is None or found.job is None or not 0 <= index < len(found.job.shards):
        return None
    name = f"shards/{index:05d}/requests-{found.job.shards[index].token}.jsonl"
    job_id, _, row = custom_id.rpartition("-")
    if name not in found.files or job_id != found.job.id or not row.isdigit():
        return None
    path, mark = storage_path(f"{found.uri}/{name}"), re.compile(rf'"{job_id}-(\d+)"'.encode())
    low, high = 0, file_size(path)
    while low < high:
        middle = (low + high) // 2
        with opened_at(path, max(middle - 1, 0)) as file:
            start = middle - 1 + len(file.readline()) if middle else 0
            line = file.readline() if start < high else b""
        met = mark.search(line)
        if not line or met is None:
            high = middle
        elif int(met[1]) == int(row):
            return line.decode("utf-8", "replace")[:LONGEST]
        elif int(met[1]) < int(row):
            low = start + len(line)
        else:
            high = middle
    return None
