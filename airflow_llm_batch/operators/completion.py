"""Rows to landed results by synchronous calls, or by whichever lane suits them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_llm_batch.exceptions import ConfigurationError, Interrupted, plainly
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators.llm_batch import LLMBatchOperator
from airflow_llm_batch.operators.models import asked_models
from airflow_llm_batch.operators.waiting import seconds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.online.endpoint import Calls
    from airflow_llm_batch.jobs.online.online import Online
    from airflow_llm_batch.jobs.online.race import Race
    from airflow_llm_batch.models import Job, Manifest

#: seconds below which no vendor promises to finish a batch
BATCHES_TAKE = 24 * 3600.0


class Planned(NamedTuple):
    """One model's job, planned and not begun."""

    hook: LLMBatchHook
    store: JobStore
    job: Job


class CompletionOperator(LLMBatchOperator):
    """Calls the model for every row, many at once, and lands the answers as a batch's would be.

    For small or urgent work, and for servers without a batch API. Takes everything that ``LLMBatchOperator`` takes. The
    answers are kept as they come: a task that is killed and retried calls no row again whose answer was kept. (A call
    that got no answer, for a timeout or a cut connection, is repeated, and the vendor may bill both: synchronous
    endpoints keep nothing to look it up by.) ``max_rounds`` and ``also`` are the batch lane's.

    :param models: ask several models, each by name or as ``(name, connection id)``; ``strategy`` says for what.
    :param strategy: ``all`` lands one record per row and model; ``fastest`` one per row, the first good answer of any
        model, whose other calls are given up at once.
    :param lane: ``online``; ``batch``, as ``LLMBatchOperator``; or ``auto``: online below ``batch_from`` rows, for a
        deadline that no batch keeps, and where the connection's extra says ``"batch": false``.
    :param concurrency: calls at once, per model.
    :param requests_per_minute: at most, per model; likewise ``tokens_per_minute`` of prompts as we estimate them. Fewer
        when the vendor answers 429.
    :param call_timeout: seconds for one call, its repetitions included.
    :param deadline: how long after the task's first start calls are made; rows without an answer land as ``expired``.
    """

    template_fields: Sequence[str] = (
        *LLMBatchOperator.template_fields, "lane", "strategy", "concurrency", "requests_per_minute",
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
        call_timeout: timedelta | float | str = 600.0,
        batch_from: int | str = 200,
        **kwargs: Any,
    ) -> None:
        self.strategy, self.lane, self.batch_from = strategy, lane, batch_from
        self.concurrency, self.call_timeout = concurrency, call_timeout
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._running: list[Online | Race] = []
        super().__init__(**kwargs)

    def _check(self) -> None:
        super()._check()
        for name, known in (("strategy", ("all", "fastest")), ("lane", ("online", "batch", "auto"))):
            if "{" not in (value := str(getattr(self, name))) and value not in known:
                raise ConfigurationError(f"{name} is {value!r}; give one of {', '.join(known)}. Nothing was sent.")
        if self.also and self.lane == "online":
            raise ConfigurationError("also asks rows again in rounds, which are the batch lane's. Nothing was sent.")
        if self.strategy == "fastest" and self.lane == "batch":
            raise ConfigurationError(
                "strategy='fastest' needs lane='online': a batch is never the fastest. Nothing was sent."
            )
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute", "call_timeout", "batch_from"):
            value = getattr(self, name)
            if value is not None and "{" not in str(value) and not positive(value):
                raise ConfigurationError(f"{name} is {value!r}; give a number above 0. Nothing was sent.")

    @plainly
    def execute(self, context: Context) -> Any:
        self._check()
        self._check_input(context)
        planned: list[Planned] = []
        try:
            for asked in asked_models(self.models, self.request, self.conn_id):
                hook = LLMBatchHook(asked.conn_id)
                hook.transport  # noqa: B018  (an unusable connection is told before the rows are read)
                store = self._store(context).of_model(asked.name)
                planned.append(Planned(hook, *self._plan(hook, context, store, self._rows(context, asked.request))))
            lane, why = self._choose(planned)
            self.log.info("Lane: %s, for %s.", lane, why)
            spent = 0.0
            for _, store, job in planned:
                spent += self._hold_to_budget(context, store, job, spent, online=lane == "online")
            if lane == "batch":
                return self._bring_home(context, [self._create(hook, store, job) for hook, store, job in planned])
            return self._finish(context, self._call(planned), planned[0].hook)
        finally:
            for hook, _, _ in planned:
                hook.close()

    def _choose(self, planned: list[Planned]) -> tuple[str, str]:
        """The lane, and why."""
        for _, store, job in planned:
            if begun := store.lane(job):
                return begun, "the job was begun in it"
        if self.lane != "auto":
            return self.lane, "it was asked for"
        if self.strategy == "fastest" and self.models:
            return "online", "the fastest answer is wanted"
        rows, least, allowed = planned[0].job.rows, int(self.batch_from), seconds(self.deadline)
        for hook, _, _ in planned:
            if hook.connection.extra_dejson.get("batch") is False:
                return "online", f'connection {hook.conn_id!r} has no batches ("batch": false)'
        if rows < least:
            return "online", f"{rows:,} rows under the {least:,}-row threshold"
        if allowed is not None and allowed < BATCHES_TAKE:
            return "online", f"a deadline of {allowed / 3600:.1f} h, and vendors promise batches within 24"
        return "batch", f"{rows:,} rows, {least:,} or more"

    def _call(self, planned: list[Planned]) -> dict[str, Manifest]:
        """Call what was not answered yet, and land it; the manifests by their URIs."""
        from airflow_llm_batch.jobs.landing.land import Target
        from airflow_llm_batch.jobs.online.online import Online
        from airflow_llm_batch.jobs.online.race import Race
        from airflow_llm_batch.operators.landing import land

        began = planned[0].job.created_at.timestamp()
        allowed = seconds(self.deadline)
        deadline = None if allowed is None else max(began + allowed, time.time())
        lanes = [Online(store, hook, job, self._calls(), deadline) for hook, store, job in planned]
        race = Race(lanes) if self.strategy == "fastest" and len(lanes) > 1 else None
        if race is not None:
            self._running = [race]
            race.run()
        else:
            # What a repair has landed together with its own rows is not called once more.
            self._running = [lane for lane in lanes if lane.store.taken_over() is None]
            for lane in list(self._running):
                lane.run()
        if any(running.stop.is_set() for running in self._running):
            raise Interrupted("The task was killed while it called. What was answered is kept; the next try goes on.")
        target = Target(self.destination, self.format, self.max_file_size, self.keep_raw)
        landed: dict[str, Manifest] = {}
        for number, (hook, store, job) in enumerate(planned):
            only = race.accountable(number) if race is not None else None
            landed[store.manifest_uri] = land(store, job, hook, target, self.log, only)
        return landed

    def _calls(self) -> Calls:
        from airflow_llm_batch.jobs.online.endpoint import Calls

        return Calls(
            concurrency=int(self.concurrency),
            requests_per_minute=float(self.requests_per_minute) if self.requests_per_minute else None,
            tokens_per_minute=float(self.tokens_per_minute) if self.tokens_per_minute else None,
            timeout=seconds(self.call_timeout) or 600.0,
        )

    def on_kill(self) -> None:
        super().on_kill()
        for running in self._running:
            running.stop.set()


def positive(value: Any) -> bool:
    try:
        number = seconds(value)
    except ConfigurationError:
        return False
    return number is not None and number > 0
