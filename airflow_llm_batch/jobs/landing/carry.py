"""What earlier rounds have landed, carried into the one result set of a repair."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.data.sinks import Sink
from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.landing.reconcile import RowNumber
from airflow_llm_batch.models import Job, Manifest
from airflow_llm_batch.storage import open_blocks, storage_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_llm_batch.models import Failure

SUFFIX = re.compile(r"(-r\d+)?(\.parquet|\.jsonl(\.gz|\.zst)?)$")


class Earlier:
    """The landed rounds before a job, without the rows that it asks again.

    :param repaired: directory of the job whose failed rows were asked again, landed.
    :param before: manifest of an earlier landing of this job, if there was one.
    """

    def __init__(self, store: JobStore, job: Job, repaired: JobStore, before: Manifest | None) -> None:
        manifest = repaired.manifest()
        if manifest is None:
            raise ConfigurationError(
                f"The job at {repaired.uri}, which this one repairs, was not landed; land it first."
            )
        self.manifest, self.repaired, self.round = manifest, repaired, job.round
        self.asked = asked_rows(store, job)
        self.files = manifest.files
        if before is not None and before.carried and not all(map(exists, self.files)):
            # A landing of this job has taken their place.
            self.files = before.carried

    def carry(self, begin: Callable[[str], Sink], destination: str, suffix: str) -> Carried:
        """Write the other rows' records anew, to lie beside those of this round; nothing is published yet.

        :param begin: opens a file of the target by the stem of its name.
        :raises ResultsUnusable: when the landed files are not what they were.
        """
        if not len(self.asked) and self.is_there(destination, suffix):
            return Carried([], list(self.files))
        sinks: list[Sink] = []
        taken = left = 0
        try:
            for file in self.files:
                sink = begin(self.stem(file))
                sinks.append(sink)
                kept, dropped = sink.copy(storage_path(file), self.asked)
                taken, left = taken + kept, left + dropped
                sink.close()
            self.check(taken, left)
        except FileNotFoundError as error:
            Carried(sinks).discard()
            raise ResultsUnusable(
                f"{error} was landed by an earlier round and is gone. Clear the task that landed it (its job is "
                f"{self.repaired.uri}), then this one: nothing is paid again."
            ) from None
        except BaseException:
            Carried(sinks).discard()
            raise
        return Carried(sinks)

    def is_there(self, destination: str, suffix: str) -> bool:
        """Whether the landed files lie where, and are what, this landing would write."""
        same = self.manifest.destination == destination and all(file.endswith(suffix) for file in self.files)
        return same and self.files == self.manifest.files and all(map(exists, self.files))

    def check(self, taken: int, left: int) -> None:
        expected = self.manifest.rows - len(self.asked)
        # Files that were carried before have lost the rows that are asked again already.
        if taken != expected or (left != len(self.asked) and self.files == self.manifest.files):
            raise ResultsUnusable(
                f"The landed files of {self.repaired.uri} hold {taken:,} rows that were not asked again where its "
                f"manifest has {expected:,}; they were changed since. Clear the task that landed them, then this one: "
                "nothing is paid again."
            )

    def stem(self, file: str) -> str:
        """The name, without its ending, of a carried file: ``results-1a2b3c4d-00000-r2``."""
        return SUFFIX.sub("", file.rpartition("/")[2]) + f"-r{self.round}"

    def failures(self) -> Iterator[Failure]:
        """Rows that failed and are not asked again."""
        return (failure for failure in self.repaired.failures() if failure.row not in self.asked)

    def counts(self) -> Counter[str]:
        """Rows by status, without those that are asked again."""
        counts = Counter(self.manifest.counts)
        for failure in self.repaired.failures():
            if failure.row in self.asked:
                counts[failure.status] -= 1
        return counts


class Carried:
    """Files that are written and not published.

    :param kept: files that stay as they are.
    """

    def __init__(self, sinks: list[Sink], kept: Sequence[str] = ()) -> None:
        self.sinks = sinks
        self.files = [*kept, *(sink.uri for sink in sinks)]

    def commit(self) -> list[str]:
        while self.sinks:
            self.sinks[0].commit()
            self.sinks.pop(0)
        return self.files

    def discard(self) -> None:
        for sink in self.sinks:
            sink.discard()


def asked_rows(store: JobStore, job: Job) -> RowSet:
    """Every row of a job."""
    number = msgspec.json.Decoder(RowNumber).decode
    asked = RowSet()
    for shard in job.shards:
        with open_blocks(store.rows(shard.index, shard.token)) as lines:
            for line in lines:
                asked.add(number(line).row)
    return asked


def exists(uri: str) -> bool:
    path = storage_path(uri)
    path.fs.invalidate_cache()
    return bool(path.fs.exists(path.path))
