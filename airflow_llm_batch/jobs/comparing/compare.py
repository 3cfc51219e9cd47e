"""Several models' landed answers, compared: agreement, accuracy, shares, dollars and seconds."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_llm_batch.data.compare import ANSWERS, DIFFER, WHOLE, fields_of, truths_of
from airflow_llm_batch.data.landed import Landed, canonical, is_readable, is_right, landed, member, said
from airflow_llm_batch.data.values import to_json
from airflow_llm_batch.jobs.comparing.agreement import Counted
from airflow_llm_batch.jobs.comparing.table import ByRow
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.compared import NAME, Accuracy, ComparedModel, Comparison
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.storage import storage_path, whole_file, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath
    from airflow.sdk.types import Logger

    from airflow_llm_batch.data.compare import Compare
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job
    from airflow_llm_batch.results import Manifest

#: folder in the destination that holds the rows which models disagree about: readers of the results leave it out
FOLDER = "_disagreements"
BITS = 2**64 - 1


class Compared(NamedTuple):
    """One model's landed job; ``store`` and ``manifest`` are of its last round."""

    model: str
    conn_id: str
    store: JobStore
    manifest: Manifest


class Right:
    """How often one model is right about one field."""

    def __init__(self, field: str, column: str) -> None:
        self.field, self.column = field, column
        self.rows = self.right = 0

    def add(self, answer: Any, truth: Any) -> None:
        if truth is not None and truth != "":
            self.rows += 1
            self.right += is_right(answer, truth)

    def accuracy(self) -> Accuracy:
        share = self.right / self.rows if self.rows else None
        return Accuracy(field=self.field, column=self.column, rows=self.rows, right=self.right, share=share)


class Comparing:
    """One comparison. Memory does not grow with rows: what each model has said is kept as hashes, on disk."""

    def __init__(self, compare: Compare, models: Sequence[Compared], log: Logger) -> None:
        self.compare, self.models, self.log = compare, models, log
        self.job: Job = models[0].store.job()
        schema = self.job.output_schema
        self.has_fields = schema is not None
        self.fields, truths = fields_of(compare, schema), truths_of(compare, schema)
        self.rights = [[Right(field, column) for field, column in truths.items()] for _ in models]
        self.columns = list(truths.values())
        names = [asked.model for asked in models]
        self.names = [
            asked.model if names.count(asked.model) == 1 else f"{asked.model} ({asked.conn_id})" for asked in models
        ]

    def run(self) -> Comparison:
        """Compare, write what came of it into the models' jobs, and land the rows that they disagree about if asked."""
        counted, disputed = Counted(len(self.models), self.fields), RowSet()
        place: ObjectStoragePath | None = None
        if self.is_comparable:
            self.count(counted, disputed)
            if self.compare.disagreements:
                place = self.land(disputed)
        comparison = Comparison(
            at=datetime.now(UTC),
            rows=max(asked.manifest.rows for asked in self.models),
            models=[self.figures(number) for number in range(len(self.models))],
            fields=counted.agreements() if counted.answered else [],
            pairs=counted.pairs_of(self.names) if counted.answered else [],
            answered=counted.answered,
            disagreed=counted.disagreed,
            disagreements=str(place) if place is not None else None,
        )
        for asked in self.models:
            write_whole(history.first(asked.store).path(NAME), comparison.dump())
        return comparison

    @property
    def is_comparable(self) -> bool:
        """Whether the answers are such that they can be the same, and lie where they can be read."""
        if (self.job.request or {}).get("type") == "EmbeddingRequest":
            return False
        unread = [place for asked in self.models for place in asked.manifest.files if not is_readable(place)]
        if unread:
            self.log.warning("The models' answers are not compared: %s cannot be read back.", unread[0])
        return not unread

    def count(self, counted: Counted, disputed: RowSet) -> None:
        """Count how far the models agree, and note the rows in which they do not."""
        unpack = struct.Struct(f"={len(self.fields)}Q").unpack
        with ByRow() as table:
            for number in range(len(self.models)):
                table.add(self.hashes(number))
            for row, given in table.rows():
                if counted.add(tuple(unpack(given[n]) if n in given else () for n in range(len(self.models)))):
                    disputed.add(row)
        counted.finish()

    def records(self, number: int, columns: Sequence[str] = ()) -> Iterator[Landed]:
        """What was landed of one model."""
        for place in self.models[number].manifest.files:
            yield from landed(place, columns)

    def value(self, answer: Landed, field: str) -> Any:
        if not self.has_fields:
            return said(answer)
        return answer.output if field == WHOLE else member(answer.output, field)

    def hashes(self, number: int) -> Iterator[tuple[int, int, bytes]]:
        """One model's answers as a number for each field, as they lie; accuracy is counted on the way."""
        pack, rights = struct.Struct(f"={len(self.fields)}Q").pack, self.rights[number]
        for answer in self.records(number, self.columns):
            if answer.status != "succeeded":
                continue
            for right, truth in zip(rights, answer.columns(), strict=True):
                right.add(self.value(answer, right.field), truth)
            yield answer.row, number, pack(*(as_number(self.value(answer, field)) for field in self.fields))

    def land(self, disputed: RowSet) -> ObjectStoragePath:
        """The rows that models disagree about, in the order of the rows; the file is there when there are none, too."""
        names = list(self.job.columns)
        directory = storage_path(self.models[0].manifest.destination)
        place = directory / FOLDER / f"{history.first(self.models[0].store).job_id}.jsonl"
        with ByRow() as table, whole_file(place) as file:
            for number in range(len(self.models)) if len(disputed) else ():
                table.add(
                    (answer.row, number, to_json([answer.key, answer.columns(), answer.status, self.shown(answer)]))
                    for answer in self.records(number, names)
                    if answer.row in disputed
                )
            for row, given in table.rows():
                file.write(self.disagreement(row, {n: msgspec.json.decode(said) for n, said in given.items()}) + b"\n")
        return place

    def shown(self, answer: Landed) -> Any:
        """An answer as somebody who judges it wants to see it."""
        if answer.status != "succeeded":
            return None
        return answer.output if self.has_fields else answer.text or answer.tool_calls

    def disagreement(self, row: int, given: dict[int, Any]) -> bytes:
        key, columns, *_ = next(iter(given.values()))
        answers = {self.names[number]: shown for number, (*_, status, shown) in given.items() if status == "succeeded"}
        differ = [
            field
            for field in self.fields
            if field != WHOLE and len({canonical(member(answer, field)) for answer in answers.values()}) > 1
        ]
        record = dict(zip(self.job.columns, columns, strict=True))
        return to_json({"row": row, "key": key, **record, ANSWERS: answers, DIFFER: differ})

    def figures(self, number: int) -> ComparedModel:
        """What one model's job came to."""
        asked, manifest = self.models[number], self.models[number].manifest
        return ComparedModel(
            name=self.names[number],
            model=asked.model,
            conn_id=asked.conn_id,
            provider=manifest.provider,
            job=history.first(asked.store).uri,
            rows=manifest.rows,
            counts=manifest.counts,
            shares={status: rows / (manifest.rows or 1) for status, rows in manifest.counts.items() if rows},
            cost_usd=manifest.cost_usd,
            seconds=seconds_of(asked),
            accuracy=[right.accuracy() for right in self.rights[number]],
        )


def as_number(value: Any) -> int:
    """A value as 64 bits that are equal, in this process, for equal values; never 0."""
    if type(value) is not str or value[:1] in ("{", "["):
        # Python gives a text and the same bytes the same hash; "1" is not 1.
        value = b"\0" + canonical(value)
    return hash(value) & BITS or 1


def seconds_of(asked: Compared) -> float:
    """From the planning of its first round until its last answers were seen."""
    began, progress = history.first(asked.store).job().created_at, asked.store.progress()
    ended = asked.manifest.landed_at.timestamp() if progress is None else progress.at
    return max(ended - began.timestamp(), 0.0)
