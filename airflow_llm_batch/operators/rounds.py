"""Jobs from submission to landed results, round after round, for the operators that do all of it in one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.data.compare import Compare, check_compare, compare_of
from airflow_llm_batch.data.failed import FailedRows
from airflow_llm_batch.data.values import written
from airflow_llm_batch.exceptions import ConfigurationError, plainly
from airflow_llm_batch.jobs.options import DEADLINES, Again, Deadline, Rung, a_count
from airflow_llm_batch.lineage import emit_asset_events
from airflow_llm_batch.links import addresses
from airflow_llm_batch.operators.arguments import AsksRows, LandsResults
from airflow_llm_batch.operators.failing import failing_share
from airflow_llm_batch.operators.models import asked_models, joined, model_and_connection
from airflow_llm_batch.operators.partitioned import EmptyPartition, landed_nothing, told_landed
from airflow_llm_batch.operators.waiting import check_event, is_late, pause, seconds, trigger_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.run import JobRun
    from airflow_llm_batch.results import Manifest


class RunsRounds(AsksRows, LandsResults):
    """What operators take that bring jobs home by themselves; ``LLMBatchOperator`` says what each argument means."""

    template_fields: Sequence[str] = (
        *AsksRows.template_fields, *LandsResults.template_fields, "max_rounds", "models", "then", "deadline",
    )  # fmt: skip

    def __init__(
        self,
        *,
        max_rounds: int | str = 3,
        also: Sequence[str] = (),
        show_error: bool = False,
        then: Sequence[Any] = (),
        models: Sequence[Any] = (),
        compare: Compare | bool = True,
        deadline: timedelta | float | str | None = timedelta(hours=48),
        on_deadline: str = "leave",
        poll_interval: timedelta | float = 15.0,
        poke_interval: timedelta | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_deadline not in DEADLINES:
            raise ConfigurationError(f"on_deadline is {on_deadline!r}; give one of {', '.join(DEADLINES)}.")
        self.max_rounds, self.also, self.models = max_rounds, tuple(also), models
        self.show_error, self.then = show_error, then
        # Another vendor can be asked what is kept in a form that is no vendor's.
        self.portable = self.portable or bool(self.then)
        self.compare = compare
        self.deadline, self.on_deadline = deadline, on_deadline
        self.poll_interval = pause("poll_interval", poll_interval if poke_interval is None else poke_interval)
        self.check_arguments()

    def check_arguments(self) -> None:
        """What can be wrong with the arguments is told before anything is paid for: of templates, once rendered."""
        self.check_landing()
        checks: dict[str, Callable[[Any], Any]] = {
            "max_rounds": partial(a_count, "max_rounds"),
            "deadline": seconds,
        }
        for name, check in checks.items():
            if "{" not in str(value := getattr(self, name)):
                check(value)
        FailedRows(None, self.also)
        if self.then and self.models:
            raise ConfigurationError(
                "then is for what one model has not answered well; leave out models. Nothing was sent."
            )
        if not (isinstance(self.then, str) and "{" in self.then):
            self.rungs  # noqa: B018  (one that is no model is told)
        if compare_of(self.compare) is self.compare is not None and not self.is_compared:
            raise ConfigurationError(
                "compare is for several models that answer every row: give models=[...]. Nothing was sent."
            )

    @property
    def is_compared(self) -> bool:
        """Whether several models answer every row."""
        return bool(self.models) and self.asks_each_model

    @property
    def asks_each_model(self) -> bool:
        """Whether a row has an answer of every model."""
        return True

    def accepted_failures(self, context: Context) -> float | None:
        return failing_share(self.fail_on)

    def planned_runs(self, context: Context) -> list[JobRun]:
        """A planned job for each model that is asked."""
        from airflow_llm_batch.data.destinations import destination_of
        from airflow_llm_batch.jobs.landing.layouts import check_rows
        from airflow_llm_batch.jobs.landing.ownership import check_place
        from airflow_llm_batch.jobs.planning.encoding import passthrough_map
        from airflow_llm_batch.operators.tables import check_models, check_table

        self.check_arguments()
        self.again  # noqa: B018  (what a template has made of it is told before anything is sent)
        self.check_input()
        rows = self.given_rows(context)
        if rows is None:
            raise ConfigurationError("Give rows. Nothing was sent.")
        if self.models and isinstance(rows, FailedRows):
            raise ConfigurationError(
                "FailedRows asks again what was sent, of the model that it was sent to; leave out models. Nothing was "
                "sent."
            )
        if self.is_compared and self.request is not None and (compare := compare_of(self.compare)) is not None:
            check_compare(compare, self.request.schema(), passthrough_map(self.passthrough))
        check_table(self.destination, self.key, self.request, self.passthrough)
        each = asked_models(self.models, self.request, self.conn_id)
        if self.asks_each_model:
            check_models(self.destination, each)
        runs: list[JobRun] = []
        for asked in each:
            run = self.run_of(context, asked.conn_id, asked.name)
            destination = destination_of(self.target, run.store.address.landed)
            if not runs:
                destination.check()
            self.plan(run, rows, asked.request)
            check_place(run.store, destination)
            if not run.is_begun:
                check_rows(run.store, run.job, destination, make=not self.only_plan)
            runs.append(run)
        return runs

    def send(self, context: Context, runs: Sequence[JobRun]) -> Any:
        """The jobs as batches, from budget to landed results; defers while one runs."""
        spent = 0.0
        for run in runs:
            spent += self.hold_to_budget(context, run, spent)
        for run in runs:
            self.submit(run)
        return self.bring_home(context, runs)

    @plainly
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        from airflow_llm_batch.jobs.directory import history
        from airflow_llm_batch.jobs.run import rung_of

        check_event(event)
        try:
            runs = []
            for asked in asked_models(self.models, self.request, self.conn_id):
                run = self.run_of(context, asked.conn_id, asked.name)
                store, job = history.last(run.store)
                run = run.beside(store, rung_of(self.again.then, job.rung))
                runs.append(run)
                if is_late(event, run.store.uri):
                    self.alerts.tell_of_delay(context, self.log, run.store)
            return self.bring_home(context, runs)
        finally:
            self.close()

    @property
    def again(self) -> Again:
        """What is asked once more."""
        return Again(self.also, int(self.max_rounds), self.show_error, self.rungs)

    @property
    def rungs(self) -> list[Rung]:
        """The models that are asked after the first."""
        then = written(self.then)
        if isinstance(then, str):
            raise ConfigurationError(f"then is {then!r}; give a list of models. Nothing was sent.")
        named = [model_and_connection(given, "") for given in then or ()]
        return [Rung(model, conn_id or None) for model, conn_id in named]

    def bring_home(self, context: Context, runs: Sequence[JobRun]) -> Any:
        """From wherever the jobs are to the end; defers while one runs."""
        last = [self._go_on(run) for run in runs]
        return self.finish(context, last)

    def _go_on(self, run: JobRun) -> tuple[JobRun, Manifest]:
        """One job through as many rounds as it takes; defers while a round runs. The last round, as it was landed."""
        whole = Deadline(seconds(self.deadline), self.on_deadline)
        while True:
            self._runs.append(run)
            deadline = Deadline(run.time_left(whole), self.on_deadline)
            if not run.look(deadline):
                trigger = trigger_of(run, deadline, self.poll_interval, late_at=self.alerts.late_after(run.store))
                self.defer(trigger=trigger, method_name="execute_complete")
            manifest = run.land_once(self.target)
            following = run.next_round(manifest, self.again, whole)
            if following is None:
                return run, manifest
            run = following

    def finish(self, context: Context, landed: Sequence[tuple[JobRun, Manifest]]) -> dict[str, Any]:
        """Tell what was landed, and fail the task when too much of it failed."""
        from airflow_llm_batch.data.destinations import destination_of
        from airflow_llm_batch.jobs.landing.superseded import remove_others

        manifests = {run.store.manifest_uri: manifest for run, manifest in landed}
        run, manifest = landed[0]
        summary = manifest.summary(run.store.manifest_uri) if len(landed) == 1 else joined(manifests)
        self.link_addresses = addresses(run.store.uri, run.hook.provider, manifest.batches, manifest.destination)
        destination = destination_of(self.target, run.store.address.landed)
        remove_others([run.store for run, _ in landed], summary["files"], destination, self.log)
        self._compare(landed, summary)
        told_landed(run.store, manifests, summary, self.log)
        self.alerts.tell_of_landing(context, self.log, summary, run.choices.max_cost)
        self.check_failures(summary, ", ".join(manifests))
        emit_asset_events(self.outlets, context, summary)
        self._landed = run.store
        return summary

    def _compare(self, landed: Sequence[tuple[JobRun, Manifest]], summary: dict[str, Any]) -> None:
        """What several models have answered, side by side: in the log, beside their manifests and in the summary."""
        from airflow_llm_batch.jobs.comparing.compare import Compared, Comparing
        from airflow_llm_batch.jobs.comparing.report import report

        compare = compare_of(self.compare)
        if compare is None or not self.is_compared or len(landed) < 2:
            return
        asked = asked_models(self.models, self.request, self.conn_id)
        models = [
            Compared(getattr(one.request, "model", ""), one.conn_id, run.store, manifest)
            for one, (run, manifest) in zip(asked, landed, strict=True)
        ]
        comparison = Comparing(compare, models, self.log).run()
        self.log.info("%s", report(comparison))
        summary["comparison"] = comparison.model_dump(mode="json", exclude={"pairs"})

    def without_rows(self, empty: EmptyPartition) -> dict[str, Any]:
        """What a partition that has no rows returns."""
        run = empty.run
        return landed_nothing(run.store, str(run.origin.partition), run.hook.provider.name, self.log)

    def close(self) -> None:
        """The connections of the jobs."""
        for run in self._runs:
            run.hook.close()
