"""Rows to landed results by synchronous calls, or by whichever lane suits them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import ConfigurationError, plainly
from airflow_llm_batch.jobs.options import Trial
from airflow_llm_batch.operators.partitioned import EmptyPartition
from airflow_llm_batch.operators.rounds import RunsRounds
from airflow_llm_batch.operators.waiting import seconds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.jobs.online.endpoint import Calls
    from airflow_llm_batch.jobs.planning.shards import Rows
    from airflow_llm_batch.jobs.planning.shared_keys import SharedKeys
    from airflow_llm_batch.jobs.run import JobRun
    from airflow_llm_batch.results import Manifest

STRATEGIES, LANES = ("all", "fastest"), ("online", "flex", "batch", "auto")
#: seconds below which no vendor promises to finish a batch
BATCHES_TAKE = 24 * 3600.0


class CompletionOperator(RunsRounds):
    """Calls the model for every row, many at once, and lands the answers as a batch's would be.

    For small or urgent work, and for servers without a batch API. Takes everything that ``LLMBatchOperator`` takes. The
    answers are kept as they come: a task that is killed and retried calls no row again whose answer was kept. (A call
    that got no answer, for a timeout or a cut connection, is repeated, and the vendor may bill both: synchronous
    endpoints keep nothing to look it up by.) ``max_rounds`` and ``also`` are the batch lane's.

    :param models: ask several models, each by name or as ``(name, connection id)``; ``strategy`` says for what.
    :param strategy: ``all`` lands one record per row and model; ``fastest`` one per row, the first good answer of any
        model, whose other calls are given up at once.
    :param lane: ``online``; ``flex``: calls that take minutes and cost less (OpenAI, Gemini, Azure), answered or asked
        again until the deadline; ``batch``, as ``LLMBatchOperator``; or ``auto``: called below ``batch_from`` rows, for
        a deadline that no batch keeps, and where the server has no batches (the connection's ``"batch": false``), and
        then at flex where the vendor lists the model for it and the deadline leaves a quarter of an hour for every
        ``concurrency`` rows.
    :param concurrency: calls at once, per model.
    :param requests_per_minute: at most, per model; likewise ``tokens_per_minute`` of prompts as we estimate them. Fewer
        when the vendor answers 429.
    :param call_timeout: seconds for one call, its repetitions included; 600 by default, and 900 at flex.
    :param deadline: how long after the task's first start calls are made; rows without an answer land as ``expired``.
    """

    template_fields: Sequence[str] = (
        *RunsRounds.template_fields, "lane", "strategy", "concurrency", "requests_per_minute",
        "tokens_per_minute", "call_timeout", "batch_from",
    )  # fmt: skip
    ui_color = "#f3e1ea"

    def __init__(
        self,
        *,
        strategy: str = "all",
        lane: str = "online",
        concurrency: int | str = 32,
        requests_per_minute: float | str | None = None,
        tokens_per_minute: float | str | None = None,
        call_timeout: timedelta | float | str | None = None,
        batch_from: int | str = 200,
        **kwargs: Any,
    ) -> None:
        self.strategy, self.lane, self.batch_from = strategy, lane, batch_from
        self.concurrency, self.call_timeout = concurrency, call_timeout
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        super().__init__(**kwargs)

    @property
    def asks_each_model(self) -> bool:
        # A race has one answer to each row.
        return self.strategy != "fastest"

    def trial(self, context: Context) -> Trial:
        # Whoever calls every row need not try any first.
        return Trial() if self.lane == "online" else super().trial(context)

    def check_arguments(self) -> None:
        super().check_arguments()
        for name, known in (("strategy", STRATEGIES), ("lane", LANES)):
            if "{" not in (value := str(getattr(self, name))) and value not in known:
                raise ConfigurationError(f"{name} is {value!r}; give one of {', '.join(known)}. Nothing was sent.")
        for name in ("also", "then"):
            if getattr(self, name) and self.lane in ("online", "flex"):
                raise ConfigurationError(
                    f"{name} asks rows again in rounds, which are the batch lane's. Nothing was sent."
                )
        if self.strategy == "fastest" and self.lane in ("batch", "flex"):
            raise ConfigurationError(
                f"strategy='fastest' needs lane='online': lane={self.lane!r} is never the fastest. Nothing was sent."
            )
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute", "call_timeout", "batch_from"):
            value = getattr(self, name)
            if value is not None and "{" not in str(value) and not positive(value):
                raise ConfigurationError(f"{name} is {value!r}; give a number above 0. Nothing was sent.")

    @plainly
    def execute(self, context: Context) -> Any:
        try:
            runs = self.planned_runs(context)
            lane, why = self._choose(runs)
            self.log.info("Lane: %s, for %s.", lane, why)
            if lane == "batch":
                return self.send(context, runs)
            spent = 0.0
            for run in runs:
                falls_back = lane == "flex" and self.lane == "auto"
                spent += self.hold_to_budget(context, run, spent, lane, "online" if falls_back else None)
            return self.finish(context, self._call(runs, lane))
        except EmptyPartition as empty:
            return self.without_rows(empty)
        finally:
            self.close()

    def _rows(self, rows: Any, request: RequestTemplate | None, shared: SharedKeys | None) -> Rows:
        if request is not None and self.lane == "online":
            request = request.for_calls()
        return super()._rows(rows, request, shared)

    def _choose(self, runs: Sequence[JobRun]) -> tuple[str, str]:
        """The lane, and why."""
        from airflow_llm_batch.jobs.directory import history
        from airflow_llm_batch.jobs.online import flex

        for run in runs:
            if begun := history.lane(run.store.listing(), run.job):
                return begun, "the job was begun in it"
        if self.lane != "auto":
            for run in runs if self.lane == "flex" else ():
                flex.check(run.hook.provider, run.job)
            return self.lane, "it was asked for"
        if self.strategy == "fastest" and self.models:
            return "online", "the fastest answer is wanted"
        lane, why = self._by_size(runs)
        if lane == "online" and self.strategy != "fastest" and all(flex.saves(run.hook, run.job) for run in runs):
            if flex.leaves_time(max(run.job.rows_asked for run in runs), int(self.concurrency), seconds(self.deadline)):
                return "flex", f"{why}, and flex costs less"
            why += "; too short for flex"
        return lane, why

    def _by_size(self, runs: Sequence[JobRun]) -> tuple[str, str]:
        """``batch`` or ``online``, and why."""
        rows = max(run.job.rows_asked for run in runs)
        least, allowed = int(self.batch_from), seconds(self.deadline)
        for run in runs:
            if (why := run.hook.provider.no_batches) is not None:
                return "online", f"connection {run.hook.conn_id!r} has no batches ({why})"
            least = max(least, run.hook.provider.limits.minimum)
        if rows < least:
            return "online", f"{rows:,} rows under the {least:,}-row threshold"
        if allowed is not None and allowed < BATCHES_TAKE:
            return "online", f"a deadline of {allowed / 3600:.1f} h, and vendors promise batches within 24"
        return "batch", f"{rows:,} rows, {least:,} or more"

    def _call(self, runs: Sequence[JobRun], lane: str) -> list[tuple[JobRun, Manifest]]:
        """Call what was not answered yet, and land it."""
        from airflow_llm_batch.jobs.online import flex
        from airflow_llm_batch.jobs.online.calling import call

        began = runs[0].job.created_at.timestamp()
        allowed = seconds(self.deadline)
        deadline = None if allowed is None else max(began + allowed, time.time())
        calls = self._calls(lane)
        if lane == "flex" and self.lane == "auto" and flex.affords_more(runs):
            # Nobody has asked for flex: it has to serve, or not to be in the way.
            calls.fallback = flex.PATIENCE
        accountable = call(runs, calls, deadline, fastest=self.strategy == "fastest")
        return [(run, run.land(self.target, only)) for run, only in zip(runs, accountable, strict=True)]

    def _calls(self, lane: str) -> Calls:
        from airflow_llm_batch.jobs.online.endpoint import Calls

        return Calls(
            concurrency=int(self.concurrency),
            requests_per_minute=float(self.requests_per_minute) if self.requests_per_minute else None,
            tokens_per_minute=float(self.tokens_per_minute) if self.tokens_per_minute else None,
            timeout=seconds(self.call_timeout) or 0.0,
            lane=lane,
        )


def positive(value: Any) -> bool:
    try:
        number = seconds(value)
    except ConfigurationError:
        return False
    return number is not None and number > 0
