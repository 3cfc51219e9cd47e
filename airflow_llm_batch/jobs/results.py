"""Downloads to one result per row, reconciled against what was sent."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any

import msgspec

from airflow_llm_batch.data.sinks import JsonlSink, sink_class
from airflow_llm_batch.exceptions import ResultsUnusable, VendorUnavailable, WaitEnded
from airflow_llm_batch.jobs.lines import UNREADABLE, batch_lines, parse_line, shows_ids
from airflow_llm_batch.jobs.pricing import Prices
from airflow_llm_batch.jobs.submission import release, search_again
from airflow_llm_batch.models import ROW_STATUSES, Batch, Job, Manifest, Reason, Result, RowStatus, Shard
from airflow_llm_batch.storage import WholeFile, open_blocks, storage_path

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.store import JobStore
    from airflow_llm_batch.providers.base import Provider

#: what becomes of a row that no result line speaks of, by how its batch ended
UNANSWERED: dict[str | None, RowStatus] = {"expired": "expired", "cancelled": "cancelled", "failed": "errored"}
DOWNLOAD_TRIES = 4


class Reconciler:
    """One shard's rows against the lines that came back: every row gets exactly one result.

    :param entries: row number -> its line of ``rows.jsonl``; the largest thing held.
    :param aside: takes lines that cannot be read.
    :param ids: ``custom_id`` -> row number, for a batch whose ids are not ours.
    """

    def __init__(
        self,
        job_id: str,
        entries: dict[int, bytes],
        provider: Provider,
        aside: Callable[[bytes], None],
        ids: dict[str, int] | None = None,
    ) -> None:
        self.prefix = f"{job_id}-"
        self.ids = ids
        self.open = entries
        self.answered: set[int] = set()
        self.provider = provider
        self.aside = aside
        self.dropped: Counter[str] = Counter()

    def take(self, lines: Iterable[bytes]) -> Iterator[tuple[bytes, Result]]:
        """Each row's entry with its result, for the lines that answer one."""
        for line in lines:
            try:
                result = self.provider.decode(parse_line(line))
            except UNREADABLE:
                self.dropped["garbage"] += 1
                self.aside(line)
                continue
            row = self.row_of(result.custom_id)
            entry = self.open.pop(row, None) if row is not None else None
            if entry is not None and row is not None:
                self.answered.add(row)
                yield entry, result
            else:
                self.dropped["duplicate" if row in self.answered else "foreign"] += 1

    def rest(self, batch: Batch) -> Iterator[tuple[bytes, Result]]:
        """A result for every row that no line answered."""
        status = UNANSWERED.get(batch.outcome, "missing")
        code, message = next(iter(batch.errors), (f"batch_{batch.status}", None))
        if status == "missing":
            code, message = "missing", f"Batch {batch.id} ended as {batch.status!r} without a result for this row."
        names = {row: custom_id for custom_id, row in (self.ids or {}).items()}
        for row, entry in self.open.items():
            yield entry, Result(names.get(row) or f"{self.prefix}{row}", status, error_code=code, error_message=message)
        self.open = {}

    def row_of(self, custom_id: str) -> int | None:
        if self.ids is not None:
            return self.ids.get(custom_id)
        number = custom_id.removeprefix(self.prefix)
        ours = custom_id.startswith(self.prefix) and len(number) < 16 and number.isascii() and number.isdigit()
        return int(number) if ours and custom_id == f"{self.prefix}{int(number)}" else None


def load_entries(store: JobStore, shard: Shard) -> dict[int, bytes]:
    entries: dict[int, bytes] = {}
    with open_blocks(store.rows(shard.index, shard.token)) as file:
        for line in file:
            entries[msgspec.json.decode(line, type=RowNumber).row] = line.rstrip(b"\n")
    if len(entries) != shard.rows:
        raise ResultsUnusable(
            f"{store.rows(shard.index, shard.token)} has {len(entries)} rows where the plan has {shard.rows}. "
            "Nothing was landed of this shard; its results remain at the vendor."
        )
    return entries


class RowNumber(msgspec.Struct):
    row: int


class Landing:
    """Lands one job's results, a file per shard, and sums up what was landed."""

    def __init__(self, store: JobStore, job: Job, hook: LLMBatchHook, destination: str, fmt: str, log: Logger) -> None:
        self.store, self.job, self.hook, self.log = store, job, hook, log
        self.directory = storage_path(destination)
        self.sink: type[JsonlSink] = sink_class(fmt)
        provider = hook.provider
        self.prices = Prices(provider.name, provider.batch_price_factor)
        self.counts: Counter[str] = Counter(dict.fromkeys(ROW_STATUSES, 0))
        self.dropped: Counter[str] = Counter({"duplicate": 0, "foreign": 0, "garbage": 0})
        self.tokens: Counter[str] = Counter()
        self.cost: tuple[Decimal, Decimal] | None = (Decimal(0), Decimal(0))
        self.models: set[str] = set()
        self.reasons: Counter[tuple[str, str | None, str | None]] = Counter()
        self.files: list[str] = []

    def land(self, batches: dict[int, Batch]) -> Manifest:
        """Land every shard; ``batches`` holds each shard's batch as it ended."""
        aside = WholeFile(self.store.path("aside.jsonl"))
        try:
            for shard in self.job.shards:
                batches[shard.index] = self.confirm(shard, batches[shard.index])
                self.land_shard(shard, batches[shard.index], aside)
                landed = sum(self.counts.values())
                self.log.info("%s of %s rows landed.", f"{landed:,}", f"{self.job.rows:,}")
        except BaseException:
            aside.discard()
            raise
        garbage = aside.size > 0
        aside.commit() if garbage else aside.discard()
        batch_ids = [batches[shard.index].id for shard in self.job.shards]
        return Manifest(
            job=self.store.uri,
            destination=str(self.directory),
            files=self.files,
            rows=sum(self.counts.values()),
            counts=dict(self.counts),
            dropped=dict(self.dropped),
            aside=str(aside.path) if garbage else None,
            reasons=[
                Reason(status=status, code=code, message=message, rows=rows)
                for (status, code, message), rows in self.reasons.most_common(5)
            ],
            input_tokens=self.tokens["input"],
            cached_tokens=self.tokens["cached"],
            output_tokens=self.tokens["output"],
            cost_usd=float(self.cost[0]) if self.cost else None,
            sync_cost_usd=float(self.cost[1]) if self.cost else None,
            batches=batch_ids,
            provider=self.job.provider,
            models=sorted(self.models),
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

    def land_shard(self, shard: Shard, batch: Batch, aside: WholeFile) -> None:
        entries = load_entries(self.store, shard)
        ids = None
        if self.job.adopted:
            ids = {msgspec.json.decode(entry)["custom_id"]: row for row, entry in entries.items()}
        # A broken download starts over with a fresh file and fresh sums.
        for attempt in range(1, DOWNLOAD_TRIES + 1):
            kept = Counter(self.counts), Counter(self.tokens), self.cost, Counter(self.reasons)
            garbage = tempfile.SpooledTemporaryFile(2**20)  # noqa: SIM115  (lives until the next try)
            reconciler = Reconciler(self.job.id, dict(entries), self.hook.provider, keep_lines(garbage), ids)
            sink = self.sink(self.directory, f"results-{self.job.id}-{shard.index:05d}")
            try:
                for entry, result in reconciler.take(batch_lines(self.hook, batch)):
                    sink.write(self.record(entry, result, shard))
                self.check_whole(reconciler, batch, last=attempt == DOWNLOAD_TRIES)
                for entry, result in reconciler.rest(batch):
                    sink.write(self.record(entry, result, shard))
                sink.commit()
                break
            except BaseException as error:
                sink.discard()
                self.counts, self.tokens, self.cost, self.reasons = kept
                if not isinstance(error, VendorUnavailable) or attempt == DOWNLOAD_TRIES:
                    raise
                self.log.warning("Downloading batch %s broke off (%s); starting it over.", batch.id, error)
        garbage.seek(0)
        while chunk := garbage.read(2**20):
            aside.write(chunk)
        self.dropped.update(reconciler.dropped)
        self.files.append(sink.uri)

    def check_whole(self, reconciler: Reconciler, batch: Batch, *, last: bool) -> None:
        """Not every connection tells that it broke off: fewer answers than the vendor counts is taken for that.

        :raises VendorUnavailable: to download once more; the last time, the vendor's count is taken to be wrong.
        """
        short = (batch.succeeded or 0) - len(reconciler.answered)
        if short > 0 and last:
            self.log.warning("Batch %s is short of %d rows that the vendor counts as done.", batch.id, short)
        elif short > 0:
            raise VendorUnavailable(f"{short:,} of {batch.succeeded:,} finished rows are not in the download")

    def record(self, entry: bytes, result: Result, shard: Shard) -> dict[str, Any]:
        """One landed row."""
        told = msgspec.json.decode(entry)
        if self.job.output_schema is not None and result.status == "succeeded" and not result.tool_calls:
            result.output = parse_output(result)
        cost = self.prices.cost(result, shard.model)
        self.counts[result.status] += 1
        self.tokens["input"] += result.input_tokens or 0
        self.tokens["cached"] += result.cached_tokens or 0
        self.tokens["output"] += result.output_tokens or 0
        self.cost = (self.cost[0] + cost.batch, self.cost[1] + cost.sync) if self.cost and cost else None
        if result.model:
            self.models.add(result.model)
        if result.status != "succeeded":
            message = result.error_message[:200] if result.error_message else None
            reason = (result.status, result.error_code, message)
            # Messages may differ row by row; only so many are told apart.
            known = reason in self.reasons or len(self.reasons) < 100
            self.reasons[reason if known else (result.status, None, None)] += 1
        return {
            "key": told["key"],
            "row": told["row"],
            "custom_id": result.custom_id,
            "status": result.status,
            "text": result.text,
            "output": result.output,
            "tool_calls": result.tool_calls,
            "embedding": result.embedding,
            "finish_reason": result.finish_reason,
            "error_code": result.error_code,
            "error_message": result.error_message,
            "model": result.model or shard.model or None,
            "provider": self.job.provider,
            "input_tokens": result.input_tokens,
            "cached_tokens": result.cached_tokens,
            "output_tokens": result.output_tokens,
            "reasoning_tokens": result.reasoning_tokens,
            "cost_usd": float(cost.batch) if cost else None,
            "shard": shard.index,
            **(told.get("columns") or {}),
        }


def keep_lines(kept: IO[bytes]) -> Callable[[bytes], None]:
    def keep(line: bytes) -> None:
        kept.write(line + b"\n")

    return keep


def parse_output(result: Result) -> Any:
    """The answer to a request with a schema, parsed; one that is no JSON makes the row ``invalid``."""
    try:
        return msgspec.json.decode(result.text or "")
    except (ValueError, RecursionError) as error:
        result.status, result.error_code = "invalid", "not_json"
        result.error_message = f"The answer is not JSON: {error}"
        return None
