"""Rows to running batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator

from airflow_llm_batch.exceptions import ConfigurationError, InputError, plainly
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.links import LINKS, addresses
from airflow_llm_batch.operators.handle import JobHandle
from airflow_llm_batch.operators.recovery import Recovery

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.planning.shards import Rows
    from airflow_llm_batch.models import Job


class SubmitBatchOperator(BaseOperator):
    """Renders a request per row, cuts them into batches inside the vendor's limits, uploads and creates them.

    Every step is kept in a job directory before the next is taken, so a retry goes on where the last try stopped, and
    a batch whose creation got no answer is looked for at the vendor before anything is sent again. Bad input is refused
    before anything is sent, and so is a destination that a downstream ``FetchResultsOperator`` could not write to.

    :param rows: a URI, directory or glob of JSONL, JSON, CSV or TSV files (plain or gzip) or of Parquet files, in any
        object storage; ``Sql(conn_id, sql)``; a list of strings or dicts; an upstream task's output;
        ``FailedRows(fetch.output)`` to ask again what failed. Rows may be existing batch input lines
        (``{"custom_id", "method", "url", "body"}``); leave out ``request`` then.
    :param request: what to ask about each row: ``ChatRequest``, ``EmbeddingRequest`` or ``RawRequest``.
    :param key: the column that names a row in the results; must be unique. The row number by default, and the
        ``custom_id`` of existing batch lines.
    :param passthrough: columns to carry into the results, as a list or as ``{name in the results: column}``.
    :param metadata: kept with the batches by vendors that keep it; DAG, run and task ids are added.
    :param max_cost: dollars; a job that is estimated to cost more is refused before the first upload. Needs a token cap
        on every request and a known price.
    :param max_enqueued_tokens: prompt tokens of this job, as we estimate them, that may be in the vendor queue at once;
        shards are cut no larger, and the ``BatchSensor`` creates the next when others have ended. The connection's
        extra of that name by default. Without one the vendor's own limit shows when it refuses a batch.
    :param max_running_shards: likewise in batches.
    :param on_empty: ``fail`` or ``skip`` the task, and with it what depends on it, when there are no rows or no files.
    :param dry_run: plan and estimate, push the estimate as the XCom ``estimate``, and skip the rest of the DAG.
    :param batch_id: a vendor's batch that exists already: waited for and fetched like any other, keyed by its
        ``custom_id``s; leave out ``rows`` then.
    :param recovery: what to do with changed input and with batches in doubt, see ``Recovery``.
    :param storage: object storage URI for job directories; ``[llm_batch] storage`` by default.
    :param conn_id: the ``llmbatch`` connection.
    :return: the job handle (XCom): ``{"job": URI, "conn_id", "provider", "rows", "shards", "batches": [ids]}``.
    """

    template_fields: Sequence[str] = (
        "rows", "request", "key", "passthrough", "metadata", "max_cost", "max_enqueued_tokens",
        "max_running_shards", "batch_id", "recovery", "storage", "conn_id",
    )  # fmt: skip
    operator_extra_links = LINKS
    ui_color = "#d9e8f6"

    def __init__(
        self,
        *,
        rows: Any = None,
        request: RequestTemplate | None = None,
        key: str | None = None,
        passthrough: Sequence[str] | Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        max_cost: float | str | None = None,
        max_enqueued_tokens: int | str | None = None,
        max_running_shards: int | str | None = None,
        dry_run: bool = False,
        on_empty: str = "fail",
        batch_id: str | None = None,
        recovery: Recovery | None = None,
        storage: str | None = None,
        conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        # Mapped tasks are made from one set of arguments, and each renders its own.
        self.request = copy.copy(request)
        self.key = key
        self.passthrough = passthrough
        self.metadata = metadata
        self.max_cost = max_cost
        self.max_enqueued_tokens = max_enqueued_tokens
        self.max_running_shards = max_running_shards
        self.only_plan = dry_run
        if on_empty not in ("fail", "skip"):
            raise ConfigurationError(f"on_empty is {on_empty!r}; give 'fail' or 'skip'.")
        self.on_empty = on_empty
        self.batch_id = batch_id
        self.recovery = recovery
        self.storage = storage
        self.conn_id = conn_id
        # Made when it is needed: Airflow copies operators, and an event cannot be copied.
        self._stop: Event | None = None
        self.link_addresses: dict[str, str] = {}
        self._submitting: tuple[JobStore, LLMBatchHook, Job] | None = None

    def on_kill(self) -> None:
        """Killed half-way: the batches are left for a retry, or cancelled, as ``Recovery.cancel_on_kill`` says."""
        if self._stop is not None:
            self._stop.set()
        if self._submitting is not None and self.recovery is not None and self.recovery.cancel_on_kill:
            from airflow_llm_batch.jobs.planning.plan import cancel_running
            from airflow_llm_batch.jobs.submission.doubt import wait_for_creates

            wait_for_creates()
            cancel_running(*self._submitting)
            self._submitting[0].save_killed()

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        # Airflow renders nested objects in place; these are shared by every run of the DAG object.
        self.request, self.recovery = copy.copy(self.request), copy.copy(self.recovery)
        if hasattr(self.rows, "template_fields"):
            self.rows = copy.copy(self.rows)
        super().render_template_fields(context, jinja_env)

    @plainly
    def execute(self, context: Context) -> Any:
        return self._start(context)

    def _start(self, context: Context) -> dict[str, Any]:
        """Plan and create; returns the job's handle."""
        self._check_input(context)
        hook = LLMBatchHook(self.conn_id)
        hook.transport  # noqa: B018  (an unusable connection is told before the rows are read)
        try:
            if self.batch_id:
                return self._take(hook, context)
            return self._send(hook, context, self._store(context), self._rows(context, self.request)).to_xcom()
        finally:
            hook.close()

    def _check_input(self, context: Context) -> None:
        """What is wrong whatever the rows are.

        :raises NothingBilled: names it.
        """
        from airflow_llm_batch.data.requests import RequestTemplate

        if self.request is not None and not isinstance(self.request, RequestTemplate):
            raise InputError(
                f"request is a {type(self.request).__name__}; give ChatRequest, EmbeddingRequest or RawRequest. "
                "Nothing was sent."
            )
        if (self.rows is None) == (self.batch_id is None):
            raise ConfigurationError("Give either rows, or the batch_id of a batch that exists. Nothing was sent.")
        self._check_destinations(context)

    def _take(self, hook: LLMBatchHook, context: Context) -> dict[str, Any]:
        """A batch that was made elsewhere."""
        batch = hook.get_batch(str(self.batch_id))
        self.log.info("Batch %s is %s.", batch.id, batch.status)
        return JobHandle(None, self.conn_id, hook.provider.name, batch.total, 1, [batch.id]).to_xcom()

    def _store(self, context: Context) -> JobStore:
        """Where the task's job lies."""
        from airflow_llm_batch.jobs.directory.store import JobStore, job_uri

        ti = context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        return JobStore(job_uri(self.storage, ti.dag_id, ti.run_id, ti.task_id, map_index))

    def _rows(self, context: Context, request: RequestTemplate | None) -> Rows:
        """What the job is made of."""
        from airflow_llm_batch.data.failed import FailedRows
        from airflow_llm_batch.jobs.planning.encoding import RowSpec, passthrough_map
        from airflow_llm_batch.jobs.rounds.repair import Repair

        if isinstance(self.rows, FailedRows):
            return Repair.of(self.rows.resolve(context))
        return RowSpec(self.rows, request, self.key or None, passthrough_map(self.passthrough))

    def _send(self, hook: LLMBatchHook, context: Context, store: JobStore, rows: Rows, spent: float = 0.0) -> JobHandle:
        """Plan a job and create what has room.

        :param spent: dollars that earlier rounds have cost, to be held to ``max_cost`` together with this one.
        """
        store, job = self._plan(hook, context, store, rows)
        self._hold_to_budget(context, store, job, spent)
        return self._create(hook, store, job)

    def _plan(self, hook: LLMBatchHook, context: Context, store: JobStore, rows: Rows) -> tuple[JobStore, Job]:
        from airflow_llm_batch.exceptions import NoRows
        from airflow_llm_batch.jobs.planning.plan import plan

        recovery = self.recovery or Recovery()
        recovery.check()
        ti = context["ti"]
        origin: dict[str, Any] = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id}
        metadata = {f"airflow_{name}": str(value)[:512] for name, value in origin.items()}
        metadata |= {str(name): str(value) for name, value in (self.metadata or {}).items()}
        origin["map_index"] = -1 if ti.map_index is None else ti.map_index
        for name in ("max_enqueued_tokens", "max_running_shards"):
            origin[name] = at_least_one(name, getattr(self, name) or hook.connection.extra_dejson.get(name))
        origin["max_cost"] = float(self.max_cost) if self.max_cost is not None else None
        try:
            return plan(store, hook, rows, metadata, origin, recovery.on_change)
        except NoRows as error:
            if self.on_empty == "skip":
                raise AirflowSkipException(str(error)) from None
            raise

    def _hold_to_budget(
        self, context: Context, store: JobStore, job: Job, spent: float, *, online: bool = False
    ) -> float:
        """Refuse what may cost too much, and stop where only an estimate is wanted.

        :return: what the job may cost at most, 0 where that is not known.
        """
        from airflow_llm_batch.jobs.planning.plan import check_budget, describe, estimated_cost

        if self.max_cost is not None and not store.is_begun(job):
            check_budget(job, float(self.max_cost), spent, online=online)
        if self.only_plan:
            estimate = {name: e.model_dump() for name, e in job.estimate.items()}
            context["ti"].xcom_push(key="estimate", value=estimate)
            raise AirflowSkipException(f"dry_run: {job.rows:,} rows in {len(job.shards)} batches. {describe(job)}")
        return estimated_cost(job, online=online) or 0.0

    def _create(self, hook: LLMBatchHook, store: JobStore, job: Job) -> JobHandle:
        """Create the shards of a planned job that have room."""
        from airflow_llm_batch.jobs.submission.submit import adopt, submit

        recovery = self.recovery or Recovery()
        self._submitting, self._stop = (store, hook, job), Event()
        adopt(store, hook, job, recovery.batches_of(None if store.first.uri == store.uri else job.round))
        self.link_addresses = addresses(store.uri, hook.provider, [])
        batches = submit(store, hook, job, recovery.on_doubt, self._stop)
        self.link_addresses = addresses(store.uri, hook.provider, batches)
        return JobHandle(store.uri, hook.conn_id, job.provider, job.rows, len(job.shards), batches)

    def _check_destinations(self, context: Context) -> None:
        """Prove that what lies downstream can be written, before money is spent.

        :raises ConfigurationError: names the destination, or the package that its format needs.
        """
        from airflow_llm_batch.data.sinks import sink_class
        from airflow_llm_batch.operators.fetch import FetchResultsOperator
        from airflow_llm_batch.storage import check_writable, storage_path

        for task in self.get_flat_relatives(upstream=False):
            if not isinstance(task, FetchResultsOperator):
                continue
            if "{" not in str(task.format):
                sink_class(task.format)
            if "xcom" in str(task.destination):
                continue
            try:
                destination = self.render_template(task.destination, context)
            except Exception as error:
                self.log.info("The destination of %s is known only later (%s); not checked now.", task.task_id, error)
                continue
            if not destination or not isinstance(destination, str):
                raise ConfigurationError(f"The destination of task {task.task_id!r} is empty. Nothing was sent.")
            check_writable(storage_path(destination))


def at_least_one(name: str, value: Any) -> int | None:
    """A limit as a whole number, None for none.

    :raises ConfigurationError: for anything else.
    """
    if value in (None, ""):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ConfigurationError(f"{name} is {value!r}; give a whole number from 1 up. Nothing was sent.")
    return number
