"""Some rows tried first: called before anything is uploaded, so that what fails every row fails three.

Their answers are kept in their shards' journals and landed from there: these rows are not asked again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.data.row_check import row_check
from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.exceptions import FirstRowsFailed, Interrupted, VendorUnavailable
from airflow_llm_batch.jobs.directory.journal import UNANSWERED, journal_lines
from airflow_llm_batch.jobs.directory.rows import read_entry, sent
from airflow_llm_batch.jobs.directory.rules import rules_of
from airflow_llm_batch.jobs.directory.tried import Tried, TriedRow
from airflow_llm_batch.jobs.money.likely import Seen, corrected
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import dollars
from airflow_llm_batch.jobs.money.tokens import sent_tokens
from airflow_llm_batch.jobs.online.endpoint import Calls
from airflow_llm_batch.jobs.online.online import Online
from airflow_llm_batch.models import Batch, Outcome, Void, call_id, is_call
from airflow_llm_batch.providers.json_lines import UNREADABLE
from airflow_llm_batch.providers.troubles import is_passing_code
from airflow_llm_batch.results import Result, usd

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.attempts import Attempts
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.options import Trial
    from airflow_llm_batch.models import Job, Shard

log = logging.getLogger(__name__)
#: why a try of such rows has made no batch, and why the next one does
GIVEN_BACK = "not answered"
#: calls at once
AT_ONCE = 8
#: seconds for a call, its repetitions included
PATIENCE = 300.0
#: characters of a request and of an answer that are kept, and that are logged
KEPT, LOGGED = 20_000, 1_000


class Row(NamedTuple):
    """A row that was called; ``tokens`` of its prompt as they were estimated, ``result`` None without an answer, of
    which ``line`` is what came."""

    shard: Shard
    number: int
    request: bytes
    tokens: int
    result: Result | None
    line: bytes | None


def try_first(store: JobStore, hook: LLMBatchHook, job: Job, trial: Trial, stop: Event) -> Tried | None:
    """Call the rows that are tried first, unless that was done; what they have shown, None without an answer.

    Without a trial they are called all the same where an earlier try has begun to, and where so few rows are no batch;
    and the others are sent whatever is answered.

    Rows that nobody answers, for a reason that may pass, are sent in a batch like all others, where one of so few rows
    is taken; else they are called once more before the job is landed.

    :raises FirstRowsFailed: when all of them are refused for good, or more of them failed than may.
    :raises RefusedForGood: when the vendor refuses the key.
    :raises Interrupted: when it was stopped; what was answered is kept.
    """
    listing = store.listing()
    called = [shard for shard in job.shards if shard.is_tried and not is_given_back(listing.attempts(shard.index))]
    states, least = listing.states(job), hook.provider.limits.minimum
    if not any(trial.rows or shard.rows < least or states[shard.index] != "planned" for shard in called):
        return None
    if any(listing.attempts(shard.index).ended() is None for shard in called):
        log.info("Trying %d rows before anything is uploaded.", sum(shard.rows for shard in called))
        try:
            Online(store, hook, of_shards(job, called), Calls(concurrency=AT_ONCE, timeout=PATIENCE), stop=stop).run()
        except VendorUnavailable as error:
            log.warning("The rows that are tried first cannot all be called: %s", error)
        if stop.is_set():
            raise Interrupted("The task was killed while it tried the first rows. What was answered is kept.")
    rows = {shard.index: rows_of(store, hook, job, shard) for shard in called}
    answered = [row for of_shard in rows.values() for row in of_shard if row.result is not None]
    for shard in called:
        close(store, hook, job, shard, rows[shard.index], give_back=not answered)
    if not answered:
        log.warning("None of the first rows was answered; the job is sent without having been tried.")
        return None
    tried = kept(store, hook, job, answered)
    tell(tried)
    if trial.rows and (why := why_not(answered, trial)):
        for shard in called:
            # The next run of the task tries them anew: something was mended meanwhile.
            store.attempts(shard.index).forget_calls()
        cost = sum(row.cost_usd or 0.0 for row in tried.rows)
        raise FirstRowsFailed(
            f"{why} They were tried before anything was uploaded: {len(answered)} calls for {usd(cost)}, no batch was "
            "made and nothing else was sent. Mend the request and clear the task, or send it as it is with "
            "check_first=0.",
            cost,
        )
    return tried


def is_given_back(attempts: Attempts) -> bool:
    """Whether rows that were to be tried are sent as batches after all."""
    return any(void.reason == GIVEN_BACK for void in attempts.voids().values())


def close(
    store: JobStore, hook: LLMBatchHook, job: Job, shard: Shard, rows: Sequence[Row], *, give_back: bool = False
) -> None:
    """Write down how the calls of a shard ended; trouble that passes is no answer, and not kept as one.

    :param give_back: nobody answers calls now: the rows are to go into a batch, if one of so few is taken.
    """
    attempts = store.attempts(shard.index)
    if whole := all(row.result is not None for row in rows):
        outcome: Outcome = "completed"
    else:
        attempts.keep_answers([row.line for row in rows if row.line is not None])
        outcome = "expired"
    number = attempts.last()
    if give_back and number and shard.rows >= hook.provider.limits.minimum:
        attempts.save_void(number, Void(reason=GIVEN_BACK, at=datetime.now(UTC)))
        return
    late = ("not_answered", "This row was to be tried before the others, and nobody has answered its calls.")
    attempts.save_ended(
        Batch(
            id=call_id(job.id, shard.index), status=outcome, outcome=outcome, total=shard.rows,
            errors=() if whole else (late,),
        )
    )  # fmt: skip


def of_shards(job: Job, shards: Sequence[Shard]) -> Job:
    """A job of these shards alone."""
    return job.model_copy(update={"shards": tuple(shards), "rows": sum(shard.rows for shard in shards)})


def rows_of(store: JobStore, hook: LLMBatchHook, job: Job, shard: Shard) -> list[Row]:
    """A shard's rows with what was answered to them."""
    results: dict[str, tuple[Result, bytes]] = {}
    for line in journal_lines(store, store.attempts(shard.index)):
        try:
            result = hook.provider.read(line)
        except UNREADABLE:
            continue
        passing = result.status == "errored" and is_passing_code(result.error_code or "")
        if UNANSWERED not in line and not passing and result.custom_id not in results:
            results[result.custom_id] = result, line
    check = row_check(job.output_schema, rules_of(store, job), log)
    rows = []
    for request, line in sent(store, shard.index, shard.token):
        entry = read_entry(line)
        answer = results.get(f"{job.id}-{entry.row}", (None, None))
        if check is not None and answer[0] is not None:
            check(answer[0], entry.key, entry.columns)
        rows.append(Row(shard, entry.row, request, sent_tokens(request, hook.provider, shard), *answer))
    return rows


def kept(store: JobStore, hook: LLMBatchHook, job: Job, rows: Sequence[Row]) -> Tried:
    """Write down what the rows have shown, for the log, the page and the budget."""
    prices, redactor = Prices.of(hook), hook.transport.redactor
    estimate: dict[str, Estimate] = {}
    for model, planned in job.estimate.items():
        seen = [Seen(row.result, row.tokens) for row in rows if row.result and row.shard.model in ("", model)]
        estimate[model] = corrected(model, planned, seen, prices, hook.provider.caches_by_itself)
    shown = []
    for row in rows:
        result = row.result
        assert result is not None
        cost = prices.cost(result, row.shard.model or next(iter(job.estimate), ""), called=True)
        shown.append(
            TriedRow(
                row=row.number,
                sent=redactor.text(row.request.decode("utf-8", "replace").rstrip())[:KEPT],
                status=result.status,
                answer=(result.text or "")[:KEPT],
                error_code=result.error_code,
                error_message=result.error_message and redactor.text(result.error_message)[:KEPT],
                input_tokens=result.input_tokens,
                output_tokens=result.output_tokens,
                cost_usd=dollars(cost.paid) if cost else None,
            )
        )
    tried = Tried(at=datetime.now(UTC), rows=shown, estimate=estimate)
    store.notes.save_tried(tried)
    return tried


def tell(tried: Tried) -> None:
    """The prompts as they were sent, the answers, and what they let one expect."""
    for row in tried.rows:
        said = row.answer if row.status == "succeeded" else f"{row.error_code or ''}: {row.error_message or row.answer}"
        log.info("Tried first, row %d: sent %s\n-> %s: %s", row.row, row.sent[:LOGGED], row.status, said[:LOGGED])
    for model, estimate in tried.estimate.items():
        if estimate.tried:
            log.info(
                "Corrected by %d rows: %s: about %s tokens in (%.2f times what was estimated), %s out; likely %s, at "
                "most %s.",
                estimate.tried, model, f"{estimate.input_tokens:,}", estimate.ratio,
                f"{estimate.likely_output_tokens or 0:,}", usd(estimate.likely_usd), usd(estimate.cost_usd),
            )  # fmt: skip


def why_not(rows: Sequence[Row], trial: Trial) -> str | None:
    """Why the job is not to be sent, None when it may be."""
    failed = [row.result for row in rows if row.result is not None and row.result.status != "succeeded"]
    refused = [result for result in failed if result.status == "errored"]
    if not failed:
        return None
    if len(refused) == len(rows) or (trial.fail_on is not None and len(failed) >= trial.fail_on * len(rows)):
        first = (refused or failed)[0]
        named = f"{first.status} ({first.error_code or first.finish_reason or 'no code'})"
        said = first.error_message or first.text or "no message"
        return f"{len(failed)} of the first {len(rows)} rows did not succeed: {named}: {said[:LOGGED].rstrip('.')}."
    return None


def finish_tried(store: JobStore, hook: LLMBatchHook, job: Job, stop: Event) -> None:
    """Call once more, before the job is landed for the first time, the rows that were tried first and that nobody has
    answered; later they are a further round's."""
    if store.manifest() is not None or store.notes.was_killed():
        return
    listing = store.listing()
    left = []
    for shard in job.shards:
        attempts = listing.attempts(shard.index)
        created, batch = attempts.created(), attempts.ended()
        called = shard.is_tried and created is not None and is_call(created.batch_id)
        if called and (batch is None or batch.outcome != "completed"):
            left.append(shard)
    if not left:
        return
    progress = store.progress()
    try:
        Online(store, hook, of_shards(job, left), Calls(concurrency=AT_ONCE, timeout=PATIENCE), stop=stop).run()
    except VendorUnavailable as error:
        log.warning("Rows that were to be tried first have no answer still: %s", error)
        for shard in left:
            close(store, hook, job, shard, rows_of(store, hook, job, shard))
    if progress is not None:
        # These few are not what the job has come to.
        store.save_progress(progress)
