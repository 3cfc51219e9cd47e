"""Downloads to landed files, one record per row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.data.destinations import destination_of
from airflow_llm_batch.data.raw import as_written, without_answer
from airflow_llm_batch.data.row_check import row_check
from airflow_llm_batch.downloads import batch_lines
from airflow_llm_batch.exceptions import RequestRejected, Unwritable, VendorUnavailable
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.failures import failures_file
from airflow_llm_batch.jobs.directory.journal import journal_lines
from airflow_llm_batch.jobs.directory.rows import Entries, Entry
from airflow_llm_batch.jobs.directory.rules import rules_of
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.landing.again import Again, NotDelivered, not_delivered
from airflow_llm_batch.jobs.landing.answers import AnswerSource, Price, charge
from airflow_llm_batch.jobs.landing.carry import Earlier, Kept
from airflow_llm_batch.jobs.landing.figures import costs, without_cost
from airflow_llm_batch.jobs.landing.layouts import layout_of
from airflow_llm_batch.jobs.landing.manifest import manifest_of
from airflow_llm_batch.jobs.landing.reconcile import Reconciler
from airflow_llm_batch.jobs.landing.side import HELD, SideFile
from airflow_llm_batch.jobs.landing.unasked import Unasked, add_to_cache
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import dollars
from airflow_llm_batch.jobs.money.tally import Tally
from airflow_llm_batch.jobs.reuse.new import NewAnswers
from airflow_llm_batch.jobs.submission.doubt import confirm
from airflow_llm_batch.models import Batch, Job, Shard, is_call
from airflow_llm_batch.results import Failure, Manifest, Result
from airflow_llm_batch.step_log import StepLog

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.data.destinations import Unpublished, Writer
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.attempts import Listing
    from airflow_llm_batch.jobs.directory.claims import Claim
    from airflow_llm_batch.jobs.options import Target

#: characters of an error message that ``failed.jsonl`` keeps, bytes of the vendor's answer, and characters of its text
LONGEST, MOST_RAW, MOST_TEXT = 1000, 4000, 100_000


class Landing:
    """Lands one job's results, a file per shard, and sums up what was landed.

    :param only: the rows that this job has to account for, None for all of its own.
    :param claim: asked before anything is published.
    """

    def __init__(
        self,
        store: JobStore,
        job: Job,
        hook: LLMBatchHook,
        target: Target,
        log: Logger,
        only: Container[int] | None = None,
        claim: Claim | None = None,
    ) -> None:
        self.store, self.job, self.hook, self.log = store, job, hook, log
        self.claim, self.only = claim, only
        self.destination = destination_of(target, store.address.landed)
        self.lands_undelivered = hook.options.undelivered == "land"
        self.layout, self.keep_raw = layout_of(job), target.keep_raw
        self.prices = Prices.of(hook)
        self.batched: Price = partial(self.prices.cost, called=False)
        #: the model of rows that no answer names one for
        self.model = next(iter(job.estimate)) if len(job.estimate) == 1 else None
        self.rules = rules_of(store, job, target.checks)
        self.check = row_check(job.output_schema, self.rules, log)
        self.tally = Tally()
        #: this round alone
        self.own = Tally()
        self.earlier: Earlier | None = None
        self.dropped: Counter[str] = Counter({"duplicate": 0, "foreign": 0, "garbage": 0})
        self.files: list[str] = []
        self.encode = msgspec.json.Encoder().encode
        self.redactor = hook.transport.redactor
        self.unasked, self.new = Unasked(store, job), NewAnswers()

    def land(self, batches: dict[int, Batch], before: Manifest | None = None) -> Manifest:
        """Land every shard, and what earlier rounds have landed of the rows that this one does not ask.

        :param batches: each shard's batch as it ended.
        :param before: the manifest of an earlier landing of this job.
        """
        earlier = self.earlier = self.earlier_rounds(before)
        progress = StepLog(self.log, "rows landed", self.job.rows)
        self.aside, self.failed = SideFile(self.store.path("aside.jsonl")), SideFile(failures_file(self.store))
        carried: Unpublished = Kept([])
        stays: Unpublished = Kept([])
        try:
            # What may be refused comes before the first file is published.
            if earlier is not None:
                carried = earlier.carry(self.layout)
            self.land_shards(batches, progress)
            self.own, counts = self.tally.copy(), self.tally.counts
            if earlier is not None:
                stays = earlier.carry_kept(self.layout)
                for failure in earlier.failures():
                    self.keep_failure(failure)
                    # No download is made again: they need not lie here until the last of them.
                    self.failed.keep(HELD)
                self.failed.keep()
                counts.update(earlier.counts())
                earlier.count_kept(counts)
                self.dropped.update(earlier.manifest.dropped)
                self.tally.add_usage(earlier.manifest)
            self.hold()
            kept = [*carried.commit(), *stays.commit()]
            add_to_cache(self.new, self.store, self.job, self.log)
        except BaseException:
            carried.discard()
            stays.discard()
            self.aside.discard()
            self.failed.discard()
            raise
        finally:
            self.unasked.close()
            self.new.close()
        self.failed.commit()
        aside = self.commit_aside() or (earlier.manifest.aside if earlier is not None else None)
        ended = [batches[shard.index].id for shard in self.job.shards]
        ids = [batch_id for batch_id in ended if batch_id and not is_call(batch_id)]
        manifest = manifest_of(self, counts, kept, aside, ids)
        elsewhere = dict(before.places) if before is not None else {}
        elsewhere.pop(manifest.destination, None)
        return manifest.model_copy(update={"elsewhere": elsewhere})

    def commit_aside(self) -> str | None:
        """The file of lines that are no records, None where there are none."""
        if self.aside.size:
            return self.aside.commit()
        self.aside.discard()
        return None

    @property
    def seconds_at_vendor(self) -> float | None:
        """From the planning until the last batch was seen to have ended, None where nobody has waited."""
        progress = self.store.progress() if self.job.sampled_from is not None else None
        return None if progress is None else progress.at - self.job.created_at.timestamp()

    def earlier_rounds(self, before: Manifest | None) -> Earlier | None:
        """What was landed before of a job that asks some of its rows again."""
        if self.job.repairs is None:
            return None
        return Earlier(self.store, self.job, JobStore(self.job.repairs), before, self.destination)

    def land_shards(self, batches: dict[int, Batch], progress: StepLog) -> None:
        for shard in self.job.shards:
            seen = self.listing.attempts(shard.index)
            batches[shard.index] = confirm(self.store, self.hook, self.job, shard, batches[shard.index], seen)
            self.land_shard(shard, batches[shard.index], progress)
        for shard in self.job.spared:
            self.land_spared(shard, progress)

    def land_shard(self, shard: Shard, batch: Batch, progress: StepLog) -> None:
        entries = Entries.load(self.store, shard)
        ids = None
        if self.job.adopted:
            ids = {str(entry.custom_id): entry.row for entry in map(entries.__getitem__, range(len(entries)))}
        # A broken download starts over with a fresh file and fresh sums.
        again = Again(self.hook.options.delivery_seconds)
        while True:
            kept = self.tally.copy()
            self.aside.begin()
            self.failed.begin()
            self.new.begin()
            reconciler = Reconciler(self.job.id, entries, self.hook.provider, self.aside.add, ids)
            try:
                files = self.land_lines(shard, batch, reconciler, progress)
                break
            except (VendorUnavailable, RequestRejected) as error:
                self.tally = kept
                again.wait(error, batch, self.log)
                if isinstance(error, NotDelivered):
                    batch = self.look_again(shard, batch)
            except BaseException:
                self.tally = kept
                raise
        entries.close()
        self.aside.keep()
        self.failed.keep()
        self.new.keep()
        self.dropped.update(reconciler.dropped)
        self.files += files

    def land_spared(self, shard: Shard, progress: StepLog) -> None:
        """Land rows that nobody was asked; those whose results they take over were landed before."""
        records = self.destination.begin(self.layout, f"results-{self.job.id}-{shard.index:05d}")
        try:
            for number, (entry, result) in enumerate(self.unasked.rows(shard, self.only), 1):
                self.land_row(entry, result, shard, records, None)
                if number % 1000 == 0:
                    progress.add(1000)
            self.hold()
            self.files += records.commit()
        except BaseException:
            records.discard()
            raise
        self.failed.keep()

    def hold(self) -> None:
        """:raises Interrupted: when another try has taken over; it publishes what this one would."""
        if self.claim is not None:
            self.claim.check()

    def sources(self, shard: Shard, batch: Batch) -> Iterator[AnswerSource]:
        """Where the shard's answers come from, those first that count where there are two."""
        yield AnswerSource(
            "calls",
            journal_lines(self.store, self.listing.attempts(shard.index)),
            partial(self.prices.cost, called=True),
        )
        if not is_call(batch.id):
            yield AnswerSource("batch", batch_lines(self.hook, batch), self.batched, batch.rates)

    def land_lines(self, shard: Shard, batch: Batch, reconciler: Reconciler, progress: StepLog) -> list[str]:
        """One try at a shard's answers; the places where they were published."""
        records = self.destination.begin(self.layout, f"results-{self.job.id}-{shard.index:05d}")
        try:
            progress.count = self.tally.counts.total()
            for source in self.sources(shard, batch):
                for number, (entry, result) in enumerate(reconciler.take(source, self.only), 1):
                    if source.rates is not None:
                        charge(result, source.rates)
                    self.land_row(entry, result, shard, records, source.price)
                    if number % 1000 == 0:
                        progress.add(1000)
            short = reconciler.short_of(batch)
            if short and not self.lands_undelivered:
                raise not_delivered(batch, short)
            for entry, result in reconciler.rest(batch, self.only):
                self.land_row(entry, result, shard, records, self.batched)
            self.hold()
            return records.commit()
        except BaseException:
            records.discard()
            raise

    def look_again(self, shard: Shard, batch: Batch) -> Batch:
        """The batch as the vendor tells of it now: files may come later than the end."""
        seen = self.hook.get_batch(batch.id)
        if seen.outcome is None or (seen.files == batch.files and seen.succeeded == batch.succeeded):
            return batch
        self.store.attempts(shard.index).save_ended(seen)
        return seen

    @cached_property
    def lane(self) -> str:
        """How the job's rows travelled."""
        return history.lane(self.listing, self.job) or "batch"

    @cached_property
    def listing(self) -> Listing:
        """What the job directory had when the landing began: everything has ended then."""
        return self.store.listing()

    def land_row(self, entry: Entry, result: Result, shard: Shard, records: Writer, price: Price | None) -> None:
        """Fill in what the vendor could not know of a row, write it, and add it to the sums.

        :param price: what an answer costs that came as this one did, None where nobody was asked.
        """
        line, result.raw = result.raw, None
        if result.status != "succeeded":
            # Some vendors quote the key in an error.
            result.error_message = result.error_message and self.redactor.text(result.error_message)
            line = line and self.redactor.data(line)
        if (self.keep_raw or result.error_code == "bad_vector") and line is not None:
            result.raw = as_written(line)
        model = shard.model or self.model or ""
        result.key, result.row, result.shard, result.round = entry.key, entry.row, shard.index, self.job.round
        result.provider = self.job.provider
        cost, uncached = costs(result, model, price)
        if price is not None:
            result.model = result.model or model or None
            result.cost_usd = dollars(cost.paid) if cost else None
            if self.unasked.results is not None:
                self.unasked.keep(result)
        if self.check is not None:
            self.check(result, entry.key, entry.columns)
        worth = result.cost_usd
        if price is None:
            without_cost(result)
        stays = self.earlier.keeps(entry.row, result.status) if self.earlier is not None else None
        # What was answered before was paid for, and is worth more than the news that it was asked in vain.
        if stays is None:
            try:
                records.write(result, entry.columns)
            except Unwritable as error:
                records.write(without_answer(result, str(error), line), entry.columns)
        if price is None:
            self.tally.spare(result, shard.lane, worth)
        else:
            self.tally.add(result, cost, uncached)
            if entry.digest and self.job.cache and result.status == "succeeded":
                self.new.add(entry.digest, result)
        if result.status != "succeeded" and stays != "succeeded":
            code = result.error_code or (result.finish_reason if result.status == "truncated" else None)
            message = result.error_message and result.error_message[:LONGEST]
            place = shard.index, self.job.round
            raw = None if line is None else self.redactor.data(line)[:MOST_RAW].decode("utf-8", "replace")
            answer = result.text if result.status == "invalid" and len(result.text or "") <= MOST_TEXT else None
            self.keep_failure(Failure(entry.row, entry.key, result.status, code, message, *place, stays, raw, answer))

    def keep_failure(self, failure: Failure) -> None:
        """A row that did not succeed: its reason counts, and the next round and the job's page may want to know."""
        self.tally.add_reason(failure)
        self.failed.add(self.encode(failure))
