"""Arguments that several operators take, and what each means for a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_llm_batch.alerts import SendsAlerts
from airflow_llm_batch.data.answer_cache import AnswerCache
from airflow_llm_batch.data.checks import texts_of
from airflow_llm_batch.data.formats import check_format
from airflow_llm_batch.data.partitions import Partition
from airflow_llm_batch.exceptions import BudgetExceeded, Busy, ConfigurationError, InputError, Interrupted, NoRows
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.options import Choices, Origin, Recovery, Reuse, Target, Trial, Waves, at_least_one
from airflow_llm_batch.links import LINKS, addresses
from airflow_llm_batch.numbers import number
from airflow_llm_batch.operators.failing import check_failures, failing_share
from airflow_llm_batch.operators.handle import JobHandle
from airflow_llm_batch.operators.partitioned import EmptyPartition, taken
from airflow_llm_batch.operators.reach import check_reach
from airflow_llm_batch.operators.rendering import RendersArguments

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.data.table import Keyed
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.money.entries import Balance
    from airflow_llm_batch.jobs.planning.shards import Rows
    from airflow_llm_batch.jobs.planning.shared_keys import SharedKeys
    from airflow_llm_batch.jobs.run import JobRun


class AsksRows(RendersArguments, SendsAlerts):
    """What operators take that plan jobs; ``SubmitBatchOperator`` says what each argument means."""

    template_fields: Sequence[str] = (
        "rows", "request", "key", "passthrough", "metadata", "max_cost", "max_enqueued_tokens",
        "max_running_shards", "check_first", "sample", "cache", "recovery", "storage", "conn_id", "partition",
    )  # fmt: skip
    operator_extra_links = LINKS

    def __init__(
        self,
        *,
        rows: Any = None,
        partition: str | None = None,
        request: RequestTemplate | None = None,
        key: str | None = None,
        passthrough: Sequence[str] | Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        max_cost: float | str | None = None,
        max_enqueued_tokens: int | str | None = None,
        max_running_shards: int | str | None = None,
        check_first: int | str = "auto",
        sample: int | str | None = None,
        ask_once: bool = False,
        cache: AnswerCache | str | None = None,
        cache_only: bool = False,
        portable: bool = False,
        dry_run: bool = False,
        on_empty: str = "fail",
        recovery: Recovery | None = None,
        checks: Sequence[Any] | None = None,
        storage: str | None = None,
        conn_id: str = LLMBatchHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rows, self.partition = rows, partition
        self.request = request
        self.key, self.passthrough, self.metadata = key, passthrough, metadata
        self.max_cost, self.only_plan = max_cost, dry_run
        self.ask_once, self.cache, self.cache_only = ask_once, cache, cache_only
        self.portable = portable
        self.max_enqueued_tokens, self.max_running_shards = max_enqueued_tokens, max_running_shards
        self.check_first, self.sample = check_first, sample
        if on_empty not in ("fail", "skip"):
            raise ConfigurationError(f"on_empty is {on_empty!r}; give 'fail' or 'skip'.")
        self.on_empty, self.recovery, self.storage, self.conn_id = on_empty, recovery, storage, conn_id
        self.checks = texts_of(checks)
        self.link_addresses: dict[str, str] = {}
        # Made when they are needed: Airflow copies operators, and an event cannot be copied.
        self._runs: list[JobRun] = []

    def on_kill(self) -> None:
        for run in self._runs:
            run.kill()

    def given_rows(self, context: Context) -> Any:
        """What is asked about."""
        return self.rows

    def check_input(self) -> None:
        """What is wrong whatever the rows are.

        :raises NothingBilled: names it.
        """
        from airflow_llm_batch.data.requests import RequestTemplate

        if self.request is not None and not isinstance(self.request, RequestTemplate):
            raise InputError(
                f"request is a {type(self.request).__name__}; give ChatRequest, EmbeddingRequest or RawRequest. "
                "Nothing was sent."
            )

    def run_of(self, context: Context, conn_id: str, model: str | None = None) -> JobRun:
        """The task instance's job.

        :param model: name of one of several models.
        """
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.run import JobRun

        hook = LLMBatchHook(conn_id)
        hook.transport  # noqa: B018  (an unusable connection is told before the rows are read)
        partition = Partition.of(self.partition)
        origin = replace(Origin.of(context["ti"]), partition=None if partition is None else str(partition))
        store = JobStore(origin.address(self.storage).of_model(model).uri)
        run = JobRun(hook, store, origin, self.log, self.choices(context, hook))
        self._runs.append(run)
        return run

    def choices(self, context: Context, hook: LLMBatchHook) -> Choices:
        """What the arguments say, of each model's job alike."""
        return Choices(
            waves=Waves.of(vars(self), hook.options),
            recovery=self.recovery or Recovery(),
            metadata=self.metadata,
            max_cost=None if self.max_cost is None else number("max_cost", self.max_cost),
            trial=self.trial(context),
            labels=self.labels(context),
            reuse=Reuse(self.ask_once, AnswerCache.of(self.cache), self.cache_only),
            checks=self.checks,
        )

    def labels(self, context: Context) -> dict[str, list[str]]:
        """What budgets may be by: the DAG's tags, and the metadata."""
        tags = sorted(str(tag) for tag in getattr(context.get("dag"), "tags", None) or ())
        given = self.metadata if isinstance(self.metadata, Mapping) else {}
        return {**{str(name): [str(value)] for name, value in given.items()}, "tag": tags}

    def trial(self, context: Context) -> Trial:
        """The rows that are called before anything is uploaded."""
        return Trial(0 if self.only_plan else self.check_first, self.accepted_failures(context))

    def accepted_failures(self, context: Context) -> float | None:
        """The share of failing rows that fails whoever lands them, None for never."""
        return 0.5

    def plan(self, run: JobRun, rows: Any, request: RequestTemplate | None) -> None:
        """Plan a job; without rows the task fails or is skipped, as ``on_empty`` says.

        :param rows: as they were given.
        :raises EmptyPartition: for a partition that has none of the rows that there are.
        """
        check_reach(run, self.executor, own=bool(self.storage), shares=self.shares(run))
        is_cut = False
        try:
            rows, shared = taken(run, rows, self.key or None)
            is_cut = run.origin.partition is not None
            run.plan(self._rows(rows, request, shared))
        except NoRows as error:
            if is_cut:
                raise EmptyPartition(str(error), run) from None
            if self.on_empty == "skip":
                raise AirflowSkipException(str(error)) from None
            raise

    def shares(self, run: JobRun) -> bool:
        """Whether the job needs what others keep in ``[llm_batch] storage``: budgets that span jobs."""
        from airflow_llm_batch.jobs.money.funds import declared

        return any(declared(run.hook))

    def _rows(self, rows: Any, request: RequestTemplate | None, shared: SharedKeys | None) -> Rows:
        from airflow_llm_batch.data.failed import FailedRows
        from airflow_llm_batch.jobs.planning.encoding import RowSpec, passthrough_map
        from airflow_llm_batch.jobs.rounds.repair import Repair

        sample = at_least_one("sample", self.sample) or 0
        if isinstance(rows, FailedRows):
            if sample:
                raise ConfigurationError(
                    "FailedRows asks what has failed, all of it; leave out sample. Nothing was sent."
                )
            return Repair.of(rows)
        columns, partition = passthrough_map(self.passthrough), Partition.of(self.partition)
        return RowSpec(rows, request, self.key or None, columns, sample, self.portable, partition, shared)

    def hold_to_budget(
        self, context: Context, run: JobRun, spent: float = 0.0, lane: str = "batch", most: str | None = None
    ) -> float:
        """Refuse what may cost too much, and stop where only an estimate is wanted.

        :param most: the lane that it may fall back to, whose price is reserved.

        :return: what the job may cost at most, 0 where that is not known.
        """
        from airflow_llm_batch.jobs.money.budget import describe

        try:
            cost = run.hold_to(spent, lane)
        except BudgetExceeded:
            self.give_back()
            raise
        if self.only_plan:
            job = run.job
            estimate = {name: e.model_dump() for name, e in job.estimate.items()}
            context["ti"].xcom_push(key="estimate", value=estimate)
            raise AirflowSkipException(
                f"dry_run: {job.rows_asked:,} rows in {job.batches} batches. {describe(job, lane)}"
            )
        for balance in self._reserved(run, most or lane):
            self.alerts.tell_of_budget(context, self.log, balance, run.store.uri)
        return cost

    def _reserved(self, run: JobRun, lane: str) -> list[Balance]:
        """What is left of the budgets that span jobs, with this one's share reserved.

        :raises BudgetExceeded: for one that has too little left; of several models' jobs none is sent then.
        """
        try:
            return run.reserve(lane)
        except BudgetExceeded:
            self.give_back()
            raise

    def give_back(self) -> None:
        """What was reserved for jobs of which nothing was sent."""
        for run in self._runs:
            run.give_back()

    def submit(self, run: JobRun) -> JobHandle:
        """Create the shards of a planned job that have room."""
        self.link_addresses = addresses(run.store.uri, run.hook.provider, [])
        try:
            batches = run.submit()
        except (Busy, Interrupted):
            raise
        except Exception:
            self.give_back()
            raise
        self.link_addresses = addresses(run.store.uri, run.hook.provider, batches)
        job = run.job
        return JobHandle(run.store.uri, run.hook.conn_id, job.provider, job.rows, job.batches, batches, job.partition)


class LandsResults(RendersArguments, SendsAlerts):
    """What operators take that land results; ``FetchResultsOperator`` says what each argument means."""

    template_fields: Sequence[str] = ("destination", "format", "fail_on")
    operator_extra_links = LINKS

    def __init__(
        self,
        *,
        destination: str | Keyed,
        format: str = "jsonl",  # noqa: A002
        max_file_size: int | None = None,
        fail_on: Literal["any", "all", "none"] | float | str = 0.5,
        keep_raw: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.destination, self.format, self.max_file_size = destination, format, max_file_size
        self.fail_on, self.keep_raw = fail_on, keep_raw
        self.link_addresses: dict[str, str] = {}
        self._landed: JobStore | None = None
        # A typo found here is found before anything is paid for.
        self.check_landing()

    def check_landing(self) -> None:
        """:raises ConfigurationError: for an argument that cannot be meant; one that is a template is not looked at."""
        if "{" not in str(self.fail_on):
            failing_share(self.fail_on)
        if "{" not in str(self.format):
            check_format(self.format)
        if self.destination is None or self.destination == "":
            raise ConfigurationError(
                f"destination is {self.destination!r}; give the URI of a directory, or a table. Nothing is landed "
                "without, and nothing is lost."
            )

    @property
    def target(self) -> Target:
        return Target(self.destination, self.format, self.max_file_size, self.keep_raw)

    def check_failures(self, summary: dict[str, Any], manifests: str) -> None:
        """:raises ResultsUnusable: when too many rows did not succeed."""
        check_failures(summary, manifests, self.fail_on)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Where the rows came from and what was landed, for the OpenLineage provider."""
        from airflow_llm_batch.lineage import lineage_of

        return lineage_of(self._landed) if self._landed is not None else None
