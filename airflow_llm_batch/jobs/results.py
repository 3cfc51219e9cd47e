"""Downloads to landed files, one record per row."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, NamedTuple

from airflow_llm_batch.data.sinks import Layout, Parts, Sink, sink_class
from airflow_llm_batch.exceptions import VendorUnavailable, WaitEnded
from airflow_llm_batch.jobs.lines import batch_lines, shows_ids
from airflow_llm_batch.jobs.outputs import OutputCheck
from airflow_llm_batch.jobs.pricing import PICO, Prices
from airflow_llm_batch.jobs.progress import Progress
from airflow_llm_batch.jobs.reconciling import Entries, Entry, Reconciler
from airflow_llm_batch.jobs.settling import release, search_again
from airflow_llm_batch.jobs.tally import Tally
from airflow_llm_batch.models import Batch, Job, Manifest, Result, Shard
from airflow_llm_batch.storage import WholeFile, storage_path

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.store import JobStore

DOWNLOAD_TRIES = 4


class Target(NamedTuple):
    """Where and how results are landed.

    :param max_file_size: bytes after which another file is begun, None for one file a shard.
    """

    destination: str
    format: str = "jsonl"
    max_file_size: int | None = None


class Landing:
    """Lands one job's results, a file per shard, and sums up what was landed."""

    def __init__(self, store: JobStore, job: Job, hook: LLMBatchHook, target: Target, log: Logger) -> None:
        self.store, self.job, self.hook, self.log = store, job, hook, log
        self.directory = storage_path(target.destination)
        self.largest = target.max_file_size
        self.sink = sink_class(target.format)
        self.layout = Layout(job.output_schema, job.key_kind, job.columns)
        self.prices = Prices(hook.provider.name, hook.provider.batch_price_factor)
        self.check = OutputCheck(job.output_schema) if job.output_schema is not None else None
        self.tally = Tally()
        self.dropped: Counter[str] = Counter({"duplicate": 0, "foreign": 0, "garbage": 0})
        self.files: list[str] = []

    def land(self, batches: dict[int, Batch]) -> Manifest:
        """Land every shard; ``batches`` holds each shard's batch as it ended."""
        aside = WholeFile(self.store.path("aside.jsonl"))
        progress = Progress(self.log, "rows landed", self.job.rows)
        try:
            for shard in self.job.shards:
                batches[shard.index] = self.confirm(shard, batches[shard.index])
                self.land_shard(shard, batches[shard.index], aside, progress)
        except BaseException:
            aside.discard()
            raise
        garbage = aside.size > 0
        aside.commit() if garbage else aside.discard()
        tally = self.tally
        return Manifest(
            job=self.store.uri,
            destination=str(self.directory),
            files=self.files,
            rows=tally.rows,
            counts=dict(tally.counts),
            dropped=dict(self.dropped),
            aside=str(aside.path) if garbage else None,
            reasons=tally.top_reasons(),
            input_tokens=tally.input_tokens,
            cached_tokens=tally.cached_tokens,
            output_tokens=tally.output_tokens,
            cost_usd=tally.cost_usd,
            sync_cost_usd=tally.sync_cost_usd,
            batches=[batch.id for shard in self.job.shards if (batch := batches[shard.index]).id],
            provider=self.job.provider,
            models=sorted(tally.models),
            landed_at=datetime.now(UTC),
        )

    def confirm(self, shard: Shard, batch: Batch) -> Batch:
        """The shard's batch for certain: one that was found by time and size has to show our ids.

        :raises SubmissionUnconfirmed: when it is a stranger's and no other batch fits.
        """
        created = self.store.created(shard.index)
        prefix = f"{self.job.id}-"
        while created is not None and created.provisional and shows_ids(self.hook, batch, prefix) is False:
            self.log.warning("Batch %s, taken for shard %d, is a stranger's; letting it go.", batch.id, shard.index)
            release(self.store, shard.index, batch.id)
            batch = search_again(self.store, self.hook, self.job, shard)
            if batch.outcome is None:
                raise WaitEnded(f"Shard {shard.index} is batch {batch.id}, which still runs; clear the waiting task.")
            self.store.save_ended(shard.index, batch)
            created = self.store.created(shard.index)
        return batch

    def land_shard(self, shard: Shard, batch: Batch, aside: WholeFile, progress: Progress) -> None:
        entries = Entries.load(self.store, shard)
        ids = None
        if self.job.adopted:
            ids = {str(entry.custom_id): entry.row for entry in map(entries.__getitem__, range(len(entries)))}
        # A broken download starts over with a fresh file and fresh sums.
        for attempt in range(1, DOWNLOAD_TRIES + 1):
            kept = self.tally.copy()
            garbage = tempfile.SpooledTemporaryFile(2**20)  # noqa: SIM115  (lives until the next try)
            reconciler = Reconciler(self.job.id, entries, self.hook.provider, keep_lines(garbage), ids)
            sink = Parts(self.begin, f"results-{self.job.id}-{shard.index:05d}", self.largest)
            try:
                progress.count = kept.rows
                complete, write = self.complete, sink.write
                for number, (entry, result) in enumerate(reconciler.take(batch_lines(self.hook, batch)), 1):
                    complete(entry, result, shard)
                    write(result, entry.columns)
                    if number % 1000 == 0:
                        progress.add(1000)
                self.check_whole(reconciler, batch, last=attempt == DOWNLOAD_TRIES)
                for entry, result in reconciler.rest(batch):
                    complete(entry, result, shard)
                    write(result, entry.columns)
                files = sink.commit()
                break
            except BaseException as error:
                sink.discard()
                self.tally = kept
                if not isinstance(error, VendorUnavailable) or attempt == DOWNLOAD_TRIES:
                    raise
                self.log.warning("Downloading batch %s broke off (%s); starting it over.", batch.id, error)
        entries.close()
        garbage.seek(0)
        while chunk := garbage.read(2**20):
            aside.write(chunk)
        self.dropped.update(reconciler.dropped)
        self.files += files

    def begin(self, stem: str) -> Sink:
        return self.sink(self.directory / f"{stem}{self.sink.suffix}", self.layout)

    def check_whole(self, reconciler: Reconciler, batch: Batch, *, last: bool) -> None:
        """Not every connection tells that it broke off: fewer answers than the vendor counts is taken for that.

        :raises VendorUnavailable: to download once more; the last time, the vendor's count is taken to be wrong.
        """
        short = (batch.succeeded or 0) - reconciler.answered
        if short > 0 and last:
            self.log.warning("Batch %s is short of %d rows that the vendor counts as done.", batch.id, short)
        elif short > 0:
            raise VendorUnavailable(f"{short:,} of {batch.succeeded:,} finished rows are not in the download")

    def complete(self, entry: Entry, result: Result, shard: Shard) -> None:
        """What the vendor could not know of a row, and the sums."""
        if self.check is not None:
            self.check(result)
        cost = self.prices.cost(result, shard.model)
        self.tally.add(result, cost)
        result.key, result.row, result.shard = entry.key, entry.row, shard.index
        result.provider = self.job.provider
        result.model = result.model or shard.model or None
        result.cost_usd = cost[0] / PICO if cost else None


def keep_lines(kept: IO[bytes]) -> Callable[[bytes], None]:
    def keep(line: bytes) -> None:
        kept.write(line + b"\n")

    return keep
