"""Downloads to landed files, one record per row."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_llm_batch.data.outputs import OutputCheck
from airflow_llm_batch.data.sinks import Layout, Parts, Sink, sink_class
from airflow_llm_batch.downloads import batch_lines, shows_ids
from airflow_llm_batch.exceptions import Unwritable, VendorUnavailable, WaitEnded
from airflow_llm_batch.jobs.directory.journal import journal_lines
from airflow_llm_batch.jobs.directory.store import ONLINE, JobStore
from airflow_llm_batch.jobs.landing.carry import Carried, Earlier
from airflow_llm_batch.jobs.landing.reconcile import FROM_BATCH, FROM_CALL, Entries, Entry, Reconciler
from airflow_llm_batch.jobs.money.pricing import Prices, dollars
from airflow_llm_batch.jobs.money.tally import Tally
from airflow_llm_batch.jobs.planning.plan import estimated_cost
from airflow_llm_batch.jobs.submission.doubt import release, search_again
from airflow_llm_batch.models import ROW_STATUSES, Batch, Failure, Job, Manifest, Result, Round, Shard
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.step_log import StepLog
from airflow_llm_batch.storage import WholeFile, storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath
    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook

DOWNLOAD_TRIES = 4
#: characters of an error message that ``failed.jsonl`` keeps
LONGEST = 1000


class Target(NamedTuple):
    """Where and how results are landed.

    :param max_file_size: bytes after which another file is begun, None for one file a shard.
    :param keep_raw: every record has the vendor's whole line in ``raw``.
    """

    destination: str
    format: str = "jsonl"
    max_file_size: int | None = None
    keep_raw: bool = False


class Landing:
    """Lands one job's results, a file per shard, and sums up what was landed.

    :param only: the rows that this job has to account for, None for all of its own.
    """

    def __init__(
        self,
        store: JobStore,
        job: Job,
        hook: LLMBatchHook,
        target: Target,
        log: Logger,
        only: Container[int] | None = None,
    ) -> None:
        self.store, self.job, self.hook, self.log = store, job, hook, log
        self.only = only
        self.directory = storage_path(target.destination)
        self.largest = target.max_file_size
        self.sink = sink_class(target.format)
        self.layout = Layout(job.output_schema, job.key_kind, job.columns, job.several_vectors)
        self.keep_raw = target.keep_raw
        self.prices = Prices.of(hook)
        #: the model of rows that no answer names one for
        self.model = next(iter(job.estimate)) if len(job.estimate) == 1 else None
        self.check = OutputCheck(job.output_schema) if job.output_schema is not None else None
        self.tally = Tally()
        #: this round alone
        self.own = Tally()
        self.dropped: Counter[str] = Counter({"duplicate": 0, "foreign": 0, "garbage": 0})
        self.files: list[str] = []
        self.encode = msgspec.json.Encoder().encode

    def land(self, batches: dict[int, Batch], before: Manifest | None = None) -> Manifest:
        """Land every shard, and what earlier rounds have landed of the rows that this one does not ask.

        :param batches: each shard's batch as it ended.
        :param before: the manifest of an earlier landing of this job.
        """
        earlier = Earlier(self.store, self.job, JobStore(self.job.repairs), before) if self.job.repairs else None
        progress = StepLog(self.log, "rows landed", self.job.rows)
        self.aside, self.failed = Side(self.store.path("aside.jsonl")), Side(self.store.failed())
        carried = Carried([])
        try:
            # What may be refused comes before the first file is published.
            if earlier is not None:
                carried = earlier.carry(self.begin, str(self.directory), self.sink.suffix)
            for shard in self.job.shards:
                batches[shard.index] = self.confirm(shard, batches[shard.index])
                self.land_shard(shard, batches[shard.index], progress)
            self.own, counts = self.tally.copy(), self.tally.counts
            if earlier is not None:
                for failure in earlier.failures():
                    self.keep_failure(failure)
                self.failed.keep()
                counts.update(earlier.counts())
                self.dropped.update(earlier.manifest.dropped)
                self.tally.add_usage(earlier.manifest)
            carried.commit()
        except BaseException:
            carried.discard()
            self.aside.discard()
            self.failed.discard()
            raise
        self.failed.commit()
        aside = earlier.manifest.aside if earlier is not None else None
        if self.aside.size:
            aside = self.aside.commit()
        else:
            self.aside.discard()
        ended = [batches[shard.index].id for shard in self.job.shards]
        ids = [batch_id for batch_id in ended if batch_id and not batch_id.startswith(ONLINE)]
        manifest = self.manifest(counts, carried.files, aside, ids, earlier.manifest if earlier else None)
        elsewhere = dict(before.places) if before is not None else {}
        elsewhere.pop(manifest.destination, None)
        return manifest.model_copy(update={"elsewhere": elsewhere})

    def manifest(
        self,
        counts: Counter[str],
        carried: list[str],
        aside: str | None,
        ids: list[str],
        earlier: Manifest | None,
    ) -> Manifest:
        """What was landed, all rounds together."""
        own, total, estimated = self.own, self.tally.total, estimated_cost(self.job, online=self.called_all)
        this = Round(
            round=self.job.round,
            job=self.store.uri,
            rows=own.requests,
            succeeded=own.counts["succeeded"],
            input_tokens=own.total.input_tokens,
            output_tokens=own.total.output_tokens,
            cost_usd=own.total.cost_usd,
            sync_cost_usd=own.total.sync_cost_usd,
            saving_usd=own.total.saving_usd,
            estimated_cost_usd=estimated,
            usage=own.usage(),
        )
        rounds = [*(earlier.rounds if earlier else ()), this]
        estimates = [done.estimated_cost_usd for done in rounds]
        return Manifest(
            job=self.store.uri,
            destination=str(self.directory),
            files=[*carried, *self.files],
            carried=carried,
            rows=counts.total(),
            counts={status: counts[status] for status in ROW_STATUSES},
            dropped=dict(self.dropped),
            aside=aside,
            reasons=self.tally.top_reasons(),
            input_tokens=total.input_tokens,
            cached_tokens=total.cached_tokens,
            output_tokens=total.output_tokens,
            cost_usd=total.cost_usd,
            sync_cost_usd=total.sync_cost_usd,
            saving_usd=total.saving_usd,
            batch_cost_usd=total.batch_cost_usd,
            estimated_cost_usd=None if None in estimates else sum(filter(None, estimates)),
            usage=self.tally.usage(),
            rounds=rounds,
            batches=[*(earlier.batches if earlier else ()), *ids],
            provider=self.job.provider,
            models=self.tally.models,
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

    def land_shard(self, shard: Shard, batch: Batch, progress: StepLog) -> None:
        entries = Entries.load(self.store, shard)
        ids = None
        if self.job.adopted:
            ids = {str(entry.custom_id): entry.row for entry in map(entries.__getitem__, range(len(entries)))}
        # A broken download starts over with a fresh file and fresh sums.
        for attempt in range(1, DOWNLOAD_TRIES + 1):
            kept = self.tally.copy()
            self.aside.begin()
            self.failed.begin()
            reconciler = Reconciler(self.job.id, entries, self.hook.provider, self.aside.add, ids)
            sink = Parts(self.begin, f"results-{self.job.id}-{shard.index:05d}", self.largest)
            try:
                progress.count = kept.requests
                sources = (FROM_CALL, journal_lines(self.store, shard.index)), (FROM_BATCH, self.download(batch))
                for source, lines in sources:
                    for number, (entry, result) in enumerate(reconciler.take(lines, source, self.only), 1):
                        self.land_row(entry, result, shard, sink, source == FROM_CALL)
                        if number % 1000 == 0:
                            progress.add(1000)
                self.check_whole(reconciler, batch, last=attempt == DOWNLOAD_TRIES)
                for entry, result in reconciler.rest(batch, self.only):
                    self.land_row(entry, result, shard, sink)
                files = sink.commit()
                break
            except BaseException as error:
                sink.discard()
                self.tally = kept
                if not isinstance(error, VendorUnavailable) or attempt == DOWNLOAD_TRIES:
                    raise
                self.log.warning("Downloading batch %s broke off (%s); starting it over.", batch.id, error)
        entries.close()
        self.aside.keep()
        self.failed.keep()
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

    @property
    def called_all(self) -> bool:
        """Whether no part of the job was sent as a batch."""
        return self.store.lane(self.job) == "online"

    def download(self, batch: Batch) -> Iterator[bytes]:
        """The batch's lines; a shard that was called online has none."""
        return iter(()) if batch.id.startswith(ONLINE) else batch_lines(self.hook, batch)

    def land_row(self, entry: Entry, result: Result, shard: Shard, sink: Parts, called: bool = False) -> None:
        """Fill in what the vendor could not know of a row, write it, and add it to the sums.

        :param called: it was called online, and costs what that costs.
        """
        line, result.raw = result.raw, None
        if self.keep_raw and line is not None:
            result.raw = as_written(line)
        if self.check is not None:
            self.check(result)
        model = shard.model or self.model or ""
        cost = self.prices.cost(result, model, called)
        result.model = result.model or model or None
        result.key, result.row, result.shard, result.round = entry.key, entry.row, shard.index, self.job.round
        result.provider = self.job.provider
        result.cost_usd = dollars(cost.paid) if cost else None
        try:
            sink.write(result, entry.columns)
        except Unwritable as error:
            sink.write(without_answer(result, str(error), line), entry.columns)
        self.tally.add(result, cost)
        if result.status != "succeeded":
            code = result.error_code or (result.finish_reason if result.status == "truncated" else None)
            message = result.error_message and result.error_message[:LONGEST]
            self.keep_failure(Failure(entry.row, entry.key, result.status, code, message, shard.index, self.job.round))

    def keep_failure(self, failure: Failure) -> None:
        """A row that did not succeed: its reason counts, and the next round and the job's page may want to know."""
        self.tally.add_reason(failure)
        self.failed.add(self.encode(failure))


def as_written(line: bytes) -> Any:
    """A result line as a value in a record."""
    try:
        return msgspec.json.decode(line, type=msgspec.Raw)
    except ValueError:
        return parse_line(line)


def without_answer(result: Result, why: str, line: bytes | None) -> Result:
    """A result that its format cannot hold: ``invalid``, its text and the vendor's whole line kept."""
    result.status, result.error_code = "invalid", "unwritable"
    result.error_message = f"The file's format cannot hold this answer, it is in raw: {why}."
    for name in ("output", "embedding", "tool_calls", "choices", "logprobs", "citations", "tool_uses"):
        setattr(result, name, None)
    result.raw = None if line is None else line.decode("utf-8", "replace")
    return result


class Side:
    """A file beside the landed ones. What an attempt at a shard adds is kept when the attempt was the last one."""

    def __init__(self, path: ObjectStoragePath) -> None:
        self.file = WholeFile(path)
        self.begin()

    @property
    def size(self) -> int:
        return self.file.size

    def begin(self) -> None:
        self.attempt: IO[bytes] = tempfile.SpooledTemporaryFile(2**20)  # noqa: SIM115  (lives until the next one)

    def add(self, line: bytes) -> None:
        self.attempt.write(line + b"\n")

    def keep(self) -> None:
        self.attempt.seek(0)
        while chunk := self.attempt.read(2**20):
            self.file.write(chunk)
        self.begin()

    def commit(self) -> str:
        self.file.commit()
        return str(self.file.path)

    def discard(self) -> None:
        self.file.discard()
