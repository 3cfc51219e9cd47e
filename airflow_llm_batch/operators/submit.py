"""Rows to running batches."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_llm_batch.exceptions import ConfigurationError, plainly
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.options import Deadline, Origin, Target
from airflow_llm_batch.operators.arguments import AsksRows
from airflow_llm_batch.operators.failing import failing_share
from airflow_llm_batch.operators.handle import JobHandle
from airflow_llm_batch.operators.partitioned import EmptyPartition
from airflow_llm_batch.operators.waiting import check_event, trigger_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.data.destinations import Destination
    from airflow_llm_batch.jobs.run import JobRun
    from airflow_llm_batch.operators.fetch import FetchResultsOperator


class SubmitBatchOperator(AsksRows):
    """Renders a request per row, cuts them into batches inside the vendor's limits, uploads and creates them.

    Every step is kept in a job directory before the next is taken, so a retry goes on where the last try stopped, and
    a batch whose creation got no answer is looked for at the vendor before anything is sent again. Bad input is refused
    before anything is sent, and so is a destination that a downstream ``FetchResultsOperator`` could not write to.

    :param rows: a URI, directory or glob of JSONL, JSON, CSV or TSV files (plain or gzip) or of Parquet files, in any
        object storage; ``Sql(conn_id, sql)``; a list of strings or dicts; an upstream task's output;
        ``FailedRows(fetch.output)`` to ask again what failed. Rows may be existing batch input lines
        (``{"custom_id", "method", "url", "body"}``); leave out ``request`` then.
    :param partition: which part of ``rows`` this task asks about, ``"3/64"``; all of them by default. Map over
        ``partitions(64)`` for rows that are more than one worker is to have: each mapped task reads its own row groups,
        files, lines or range of keys (``Sql(..., partition_by=...)``), and is a job of its own; ``max_cost`` holds for
        all of them together, and when the last is landed, ``manifest.json`` beside their job directories tells of all.
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
    :param check_first: rows that are called one by one before anything is uploaded: 3 of jobs of 1,000 rows or more by
        default (``"auto"``), a number, or 0. What fails all of them for good is told at once, and nothing is sent; so
        is a share of refused, invalid or truncated answers that the fetching task would not accept. What they used
        corrects the estimate; their answers are landed with the others.
    :param sample: ask only so many rows, spread over all of them and the same each time: they are landed as any job's
        are, and the landing says what all rows would cost, and in how many batches. For a first look at a large source.
    :param ask_once: of rows that ask exactly the same (model, prompt, parameters, schema), one is asked: the others are
        landed with its answer, ``answered_by`` and a cost of 0. Off, the log says what it would have saved.
    :param cache: a folder in any object storage (or an ``AnswerCache``, with an age and a number of bytes) where the
        answers of succeeded rows are kept: what an earlier job was answered there is not asked again, and is landed
        with ``answered_by`` and a cost of 0. Needs the extra ``answers``.
    :param cache_only: ask nobody: rows that the cache does not know are landed as ``missing``.
    :param checks: what every answer has to pass beyond its schema, or its row is ``invalid``: functions of
        ``(output, row)`` that can be imported, and expressions such as ``"output.total == row.amount"``. ``row`` has
        the pass-through columns, ``key`` and the answer's other fields (``text``, ``tool_calls``...). A function
        returns None or True for good, False or a reason for bad, or raises ``ValueError`` with the reason. They are no
        part of what is sent: with others a cleared task sends nothing again, and what it has answered is landed anew.
    :param portable: keep what is asked in a form that is no vendor's too, so that ``FailedRows(..., model=...)`` may
        ask another one; takes as much room again in the storage.
    :param on_empty: ``fail`` or ``skip`` the task, and with it what depends on it, when there are no rows or no files.
        A mapped ``SubmitBatchOperator`` task is passed over instead: skipped, it would have the others' waits skipped.
    :param dry_run: plan and estimate, push the estimate as the XCom ``estimate``, and skip the rest of the DAG.
    :param batch_id: a vendor's batch that exists already: waited for and fetched like any other, keyed by its
        ``custom_id``s; leave out ``rows`` then.
    :param completion: an ``Asset``, or the name of one, that gets an event when the job has ended, so that a DAG which
        is scheduled on it can fetch the results with no task waiting in between; the event's extra is the job handle.
        A connection that takes the vendor's events tells it, or the asset's watcher (``completion_asset``). Where not
        all shards have room at once, this task stays, deferred, until the last of them is created.
    :param recovery: what to do with changed input and with batches in doubt, see ``Recovery``.
    :param storage: object storage URI for job directories; ``[llm_batch] storage`` by default.
    :param conn_id: the ``llmbatch`` connection.
    :return: the job handle (XCom): ``{"job": URI, "conn_id", "provider", "rows", "shards", "batches": [ids]}``.
    """

    template_fields: Sequence[str] = (*AsksRows.template_fields, "batch_id")
    ui_color = "#d9e8f6"

    def __init__(self, *, batch_id: str | None = None, completion: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.completion = completion_of(completion)

    @plainly
    def execute(self, context: Context) -> Any:
        from airflow_llm_batch.jobs.landing.layouts import check_rows

        self.check_input()
        rows = self.given_rows(context)
        if (rows is None) == (self.batch_id is None):
            raise ConfigurationError("Give either rows, or the batch_id of a batch that exists. Nothing was sent.")
        if self.batch_id is not None and self.partition:
            raise ConfigurationError("A batch that exists already is no partition; leave out partition.")
        if self.batch_id is not None and self.checks:
            raise ConfigurationError(
                "The checks of a batch that was made elsewhere are given to the FetchResultsOperator. Nothing was sent."
            )
        destinations = self._destinations(context)
        if self.batch_id is not None:
            return self._take(context, str(self.batch_id)).to_xcom()
        run = self.run_of(context, self.conn_id)
        try:
            try:
                self.plan(run, rows, self.request)
            except EmptyPartition as empty:
                return self._pass_over(context, empty)
            except AirflowSkipException as skipped:
                if context["ti"].map_index in (None, -1) or self.get_closest_mapped_task_group() is not None:
                    raise
                # One skipped instance has Airflow skip the waits of all the others, which are paid for.
                self.log.info("%s What waits for the mapped tasks passes over this one.", skipped)
                return JobHandle(run.store.uri, self.conn_id, run.hook.provider.name, 0, 0, empty=True).to_xcom()
            for destination in () if run.is_begun else destinations:
                check_rows(run.store, run.job, destination, make=not self.only_plan)
            self.hold_to_budget(context, run)
            return self._go(context, run, self.submit(run))
        finally:
            run.hook.close()

    @plainly
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """There is room for shards that were left, or the job has ended without it."""
        from airflow_llm_batch.jobs.directory import history

        check_event(event)
        run = self.run_of(context, self.conn_id)
        run.store = history.newest(run.store)
        try:
            run.look(Deadline())
            return self._go(context, run, self.submit(run))
        finally:
            run.hook.close()

    def _pass_over(self, context: Context, empty: EmptyPartition) -> dict[str, Any]:
        """The handle of a partition without rows: whoever waits for it has nothing to wait for."""
        run = empty.run
        handle = JobHandle(run.store.uri, run.hook.conn_id, run.hook.provider.name, 0, 0, [], run.origin.partition)
        self.log.info("Partition %s has no rows; nothing is sent.", handle.partition)
        self._await_end(context, run.hook, handle, ended=True)
        return handle.to_xcom()

    def shares(self, run: JobRun) -> bool:
        # Who tells of the end finds the job on a list there.
        return self.completion is not None or super().shares(run)

    def _go(self, context: Context, run: JobRun, handle: JobHandle) -> Any:
        """Leave the job to the vendor; somebody else tells of its end. Defers while shards wait for room."""
        states = set(run.store.states(run.job).values())
        if self.completion is not None and states & {"planned", "creating"}:
            trigger = trigger_of(run, Deadline(), cancel_on_kill=run.choices.recovery.cancel_on_kill)
            self.defer(trigger=trigger, method_name="execute_complete")
        self._await_end(context, run.hook, handle, ended=states == {"ended"})
        return handle.to_xcom()

    def _await_end(self, context: Context, hook: LLMBatchHook, handle: JobHandle, *, ended: bool) -> None:
        """Put the job on the list of those whose end is told, or tell it where it has ended already."""
        from airflow_llm_batch.jobs.directory.address import default_storage
        from airflow_llm_batch.jobs.directory.awaited import Awaited, AwaitedJobs

        is_told = bool(hook.options.webhook_secret)
        whole = handle.shards is None or len(handle.batches) >= handle.shards
        if self.completion is None and not (is_told and whole):
            return
        ti = context["ti"]
        asset = self.completion
        awaited = Awaited(
            handle=handle.to_xcom(),
            completion=asset.name if asset is not None else "",
            uri=asset.uri if asset is not None else "",
            place=f"{ti.dag_id}/{ti.task_id}",
        )
        jobs = AwaitedJobs(default_storage(), handle.conn_id)
        if ended:
            jobs.forget(awaited)
        elif jobs.expect(awaited):
            if asset is not None and not (is_told or getattr(asset, "watchers", None)):
                self.log.warning(
                    "Unless another DAG watches asset %r, nobody tells that the job has ended: make the asset with "
                    "completion_asset(...), or give connection %r a webhook_secret.", asset.name, handle.conn_id,
                )  # fmt: skip
            return
        else:
            # What has told of the end stays: a try that takes this one's place sees it.
            jobs.withdraw(awaited)
        if asset is not None:
            self.log.info("The job has ended already: asset %r is told with the success of this task.", asset.name)
            self.outlets = [*self.outlets, asset]
            context["outlet_events"][asset].extra.update(awaited.handle)

    def _take(self, context: Context, batch_id: str) -> JobHandle:
        """A batch that was made elsewhere."""
        hook = LLMBatchHook(self.conn_id)
        try:
            batch = hook.get_batch(batch_id)
            self.log.info("Batch %s is %s.", batch.id, batch.status)
            handle = JobHandle(None, self.conn_id, hook.provider.name, batch.total, 1, [batch.id])
            self._await_end(context, hook, handle, ended=batch.outcome is not None)
        finally:
            hook.close()
        return handle

    def accepted_failures(self, context: Context) -> float | None:
        """As the tasks have it that fetch the results; half of the rows where these cannot be seen from here."""
        shares = [share_of(task, context) for task in self._fetching()]
        known = [share for share in shares if share is not None]
        return min(known) if known else (None if shares else 0.5)

    def _fetching(self) -> list[FetchResultsOperator]:
        from airflow_llm_batch.operators.fetch import FetchResultsOperator

        return [task for task in self.get_flat_relatives(upstream=False) if isinstance(task, FetchResultsOperator)]

    def _destinations(self, context: Context) -> list[Destination]:
        """What lies downstream and is known by now; it can be written.

        :raises ConfigurationError: names the destination, or the package that its format needs.
        """
        from airflow_llm_batch.data.destinations import destination_of
        from airflow_llm_batch.data.sinks import sink_class
        from airflow_llm_batch.data.table import Keyed
        from airflow_llm_batch.operators.tables import check_table

        found = []
        home = Origin.of(context["ti"]).address(self.storage).landed
        for task in self._fetching():
            if "{" not in str(task.format):
                sink_class(task.format)
            if "xcom" in str(task.destination):
                continue
            try:
                given = self.render_template(copy.copy(task.destination), context)
            except Exception as error:
                self.log.info("The destination of %s is known only later (%s); not checked now.", task.task_id, error)
                continue
            if not given or not isinstance(given, str | Keyed):
                raise ConfigurationError(f"The destination of task {task.task_id!r} is empty. Nothing was sent.")
            check_table(given, self.key, self.request, self.passthrough)
            destination = destination_of(Target(given, "jsonl" if "{" in str(task.format) else task.format), home)
            destination.check()
            found.append(destination)
        return found


def share_of(task: FetchResultsOperator, context: Context) -> float | None:
    """The share of failing rows that a task does not accept, as far as it is known by now; None for any."""
    given = task.fail_on
    if "{" in str(given):
        try:
            given = task.render_template(given, context)
        except Exception:
            return 0.5
    return failing_share(given)


def completion_of(given: Any) -> Any:
    """The asset that is told of a job's end.

    :param given: an ``Asset``, or the name of one.
    :raises ConfigurationError: for anything else.
    """
    from airflow.sdk import Asset

    if given is None or isinstance(given, Asset):
        return given
    if isinstance(given, str) and given:
        return Asset(given)
    raise ConfigurationError(f"completion is {given!r}; give an Asset, or the name of one. Nothing was sent.")
