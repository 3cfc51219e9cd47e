"""Rows to landed results in one task, failed rows asked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_llm_batch.data.failed import FailedRows
from airflow_llm_batch.data.formats import check_format
from airflow_llm_batch.exceptions import BudgetExceeded, ConfigurationError, plainly
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.lineage import emit_asset_events, lineage_of
from airflow_llm_batch.links import addresses
from airflow_llm_batch.operators.handle import JobHandle
from airflow_llm_batch.operators.landing import check_failures, failing_share, land_once, remove_others
from airflow_llm_batch.operators.models import asked_models, joined
from airflow_llm_batch.operators.submit import SubmitBatchOperator, at_least_one
from airflow_llm_batch.operators.waiting import DEADLINES, Waiting, check_event, seconds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Manifest

#: seconds between two looks of a deferred wait, at most
LONGEST_PAUSE = 300.0


class LLMBatchOperator(SubmitBatchOperator):
    """Submits, waits deferred, lands, and asks failed rows again, in one task.

    Takes everything that ``SubmitBatchOperator`` takes. After each round the results are landed whole; rows that failed
    for a reason that may pass (rate limits, server errors, expired, missing) are asked again in a further job until
    ``max_rounds``, and what they give takes the place of what was landed of them. No worker slot is held while a round
    runs. A retried or cleared task takes up where it was: nothing is paid twice.

    :param destination: directory for the result files, any ``ObjectStoragePath`` URI.
    :param format: as ``FetchResultsOperator``; likewise ``max_file_size``, ``fail_on`` and ``keep_raw``.
    :param max_rounds: how often a row is asked at most; 1 for no repair.
    :param also: what to ask again too: ``truncated`` (with twice the token cap), ``invalid``, ``refused``,
        ``cancelled``, ``quota`` (the account had no money); see ``FailedRows``.
    :param models: ask several models, each by name or as ``(name, connection id)``: a job each, one record per row and
        model.
    :param deadline: how long after the first submission watching ends, None for never; no further round begins then.
    :param on_deadline: as ``BatchSensor``.
    :param poll_interval: seconds between looks at first, which grow to 5 minutes; ``poke_interval`` is another name.
    :return: as ``FetchResultsOperator``, for all rounds together.
    """

    template_fields: Sequence[str] = (
        *SubmitBatchOperator.template_fields, "destination", "format", "fail_on", "max_rounds", "models", "deadline",
    )  # fmt: skip
    ui_color = "#f6ead9"

    def __init__(
        self,
        *,
        destination: str,
        format: str = "jsonl",  # noqa: A002
        max_file_size: int | None = None,
        fail_on: Literal["any", "all", "none"] | float | str = 0.5,
        keep_raw: bool = False,
        max_rounds: int | str = 3,
        also: Sequence[str] = (),
        models: Sequence[Any] = (),
        deadline: timedelta | float | str | None = timedelta(hours=48),
        on_deadline: str = "leave",
        poll_interval: float = 15.0,
        poke_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        poll_interval = poll_interval if poke_interval is None else poke_interval
        if self.batch_id is not None:
            raise ConfigurationError(
                "LLMBatchOperator makes its own batches. For one that was made elsewhere use SubmitBatchOperator("
                "batch_id=...), BatchSensor and FetchResultsOperator."
            )
        if on_deadline not in DEADLINES:
            raise ConfigurationError(f"on_deadline is {on_deadline!r}; give one of {', '.join(DEADLINES)}.")
        self.destination, self.format, self.max_file_size = destination, format, max_file_size
        self.fail_on, self.max_rounds, self.also, self.models = fail_on, max_rounds, tuple(also), models
        self.keep_raw = keep_raw
        self.deadline, self.on_deadline, self.poll_interval = deadline, on_deadline, poll_interval
        self._check()
        self._waiting: Waiting | None = None
        self._landed: JobStore | None = None

    def _check(self) -> None:
        """What can be wrong with the arguments is told before anything is paid for: of templates, once rendered."""
        checks: dict[str, Callable[[Any], Any]] = {
            "fail_on": failing_share,
            "format": check_format,
            "max_rounds": lambda rounds: at_least_one("max_rounds", rounds or -1),
            "deadline": seconds,
        }
        for name, check in checks.items():
            if "{" not in str(value := getattr(self, name)):
                check(value)
        FailedRows(None, self.also)

    def _check_input(self, context: Context) -> None:
        super()._check_input(context)
        if self.models and isinstance(self.rows, FailedRows):
            raise ConfigurationError(
                "FailedRows asks again what was sent, of the model that it was sent to; leave out models. Nothing was "
                "sent."
            )

    @plainly
    def execute(self, context: Context) -> Any:
        self._check()
        if not self.models:
            return self._bring_home(context, [JobHandle.of(self._start(context))])
        self._check_input(context)
        handles, spent = [], 0.0
        for asked in asked_models(self.models, self.request, self.conn_id):
            hook = LLMBatchHook(asked.conn_id)
            try:
                store, rows = self._store(context).of_model(asked.name), self._rows(context, asked.request)
                store, job = self._plan(hook, context, store, rows)
                spent += self._hold_to_budget(context, store, job, spent)
                handles.append(self._create(hook, store, job))
            finally:
                hook.close()
        return self._bring_home(context, handles)

    @plainly
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        check_event(event)
        handles = []
        for asked in asked_models(self.models, self.request, self.conn_id):
            store = self._store(context).of_model(asked.name).newest()
            handles.append(JobHandle.of(store.rounds()[-1][0].uri, asked.conn_id))
        return self._bring_home(context, handles)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """As ``FetchResultsOperator``."""
        return lineage_of(self._landed) if self._landed is not None else None

    def on_kill(self) -> None:
        super().on_kill()
        if self._waiting is not None:
            self._waiting.kill(cancel=False)

    def _bring_home(self, context: Context, handles: list[JobHandle]) -> Any:
        """From wherever the jobs are to the end; defers while one runs."""
        manifests: dict[str, Manifest] = {}
        for handle in handles:
            hook = LLMBatchHook(handle.conn_id)
            try:
                store, manifest = self._go_on(context, hook, handle)
            finally:
                hook.close()
            manifests[store.manifest_uri] = manifest
        return self._finish(context, manifests, hook)

    def _go_on(self, context: Context, hook: LLMBatchHook, handle: JobHandle) -> tuple[JobStore, Manifest]:
        """One job through as many rounds as it takes; defers while a round runs."""
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.landing.land import Target

        target = Target(self.destination, self.format, self.max_file_size, self.keep_raw)
        while True:
            store = JobStore(str(handle.job))
            self._waiting = Waiting(handle, self.log, self._time_left(store), self.on_deadline)
            if not self._waiting.advance():
                self.defer(
                    trigger=self._waiting.trigger(self.poll_interval, LONGEST_PAUSE, cancel_on_kill=True),
                    method_name="execute_complete",
                )
            manifest = land_once(store, store.job(), hook, target, self.log)
            following = self._next_round(context, hook, store, manifest)
            if following is None:
                return store, manifest
            handle = following

    def _finish(self, context: Context, manifests: dict[str, Manifest], hook: LLMBatchHook) -> dict[str, Any]:
        """Tell what was landed, and fail the task when too much of it failed."""
        from airflow_llm_batch.jobs.directory.store import JobStore

        uri, manifest = next(iter(manifests.items()))
        summary = manifest.summary(uri) if len(manifests) == 1 else joined(manifests)
        store = JobStore(uri.removesuffix("/manifest.json"))
        self.link_addresses = addresses(store.uri, hook.provider, manifest.batches, manifest.destination)
        remove_others(store, summary["files"], manifest.destination, self.log)
        check_failures(summary, ", ".join(manifests), self.fail_on)
        emit_asset_events(self.outlets, context, summary)
        self._landed = store
        return summary

    def _next_round(
        self, context: Context, hook: LLMBatchHook, store: JobStore, manifest: Manifest
    ) -> JobHandle | None:
        """Ask once more what is worth it; None when nothing is, or nothing more may be asked."""
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.planning.shards import fingerprint_of
        from airflow_llm_batch.jobs.rounds.repair import Repair

        following = store.following(len(manifest.rounds) + 1)
        planned = following.load_job()
        if planned is not None and following.is_begun(planned):
            # Whatever it asks was decided when it began.
            return self._create(hook, following, planned)
        # What was cancelled since the task was failed or cleared by hand is wanted again now that the task runs.
        also = {*self.also, *(("cancelled",) if store.was_killed() else ())}
        rows = Repair(store, store.job(), tuple(sorted(also)))
        if planned is not None and planned.fingerprint != fingerprint_of(rows, hook.provider, planned.id):
            following.remove()
        if not rows.any(hook.provider):
            return None
        killed = sum(JobStore(done.job).was_killed() for done in manifest.rounds)
        left = self._time_left(store, datetime.now(UTC))
        if len(manifest.rounds) - store.first.job().round + 1 - killed >= int(self.max_rounds):
            self.log.info("Rows that failed are not asked again: this was round %s, the last.", self.max_rounds)
        elif left is not None and left <= 0:
            self.log.warning("Rows that failed are not asked again: the deadline has passed.")
        else:
            self.log.info("Asking rows that failed once more, in round %d.", len(manifest.rounds) + 1)
            try:
                return self._send(hook, context, following, rows, manifest.spent_usd)
            except BudgetExceeded as error:
                self.log.warning("Rows that failed are not asked again: %s", error)
        return None

    def _time_left(self, store: JobStore, since: datetime | None = None) -> float | None:
        """Seconds from the planning of a round, or another moment, until the deadline of the task."""
        allowed = seconds(self.deadline)
        if allowed is None:
            return None
        since = since or store.job().created_at
        return allowed - (since - store.first.job().created_at).total_seconds()

    def _check_destinations(self, context: Context) -> None:
        from airflow_llm_batch.data.sinks import sink_class
        from airflow_llm_batch.storage import check_writable, storage_path

        sink_class(self.format)
        check_writable(storage_path(self.destination))
