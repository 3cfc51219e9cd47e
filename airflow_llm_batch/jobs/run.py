"""One job of one model, from plan to landed: what every operator drives."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING

from airflow_llm_batch.estimate import CALLED
from airflow_llm_batch.exceptions import (
    BudgetExceeded,
    Busy,
    ConfigurationError,
    FirstRowsFailed,
    InputError,
    Interrupted,
)
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.exclusive import check_exclusive
from airflow_llm_batch.jobs.directory.rules import keep_rules, rules_of
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.landing.land import land, land_once
from airflow_llm_batch.jobs.looks import Looks
from airflow_llm_batch.jobs.money import funds
from airflow_llm_batch.jobs.money.accounts import DAG
from airflow_llm_batch.jobs.money.budget import check_again, check_budget, estimated_cost, total
from airflow_llm_batch.jobs.options import NOT_TRIED, Again, Choices, Deadline, Origin, Rung, Target
from airflow_llm_batch.jobs.planning.encoding import RowSpec
from airflow_llm_batch.jobs.planning.plan import take_up, write_plan
from airflow_llm_batch.jobs.planning.shards import all_too_small, fingerprint_of, too_small
from airflow_llm_batch.jobs.rounds.repair import Repair
from airflow_llm_batch.jobs.submission.cancel import cancel_running
from airflow_llm_batch.jobs.submission.doubt import wait_for_creates
from airflow_llm_batch.jobs.submission.named import adopt
from airflow_llm_batch.jobs.submission.submit import submit
from airflow_llm_batch.jobs.view.entry import enter_landed
from airflow_llm_batch.models import call_id, is_call

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.jobs.money.entries import Balance
    from airflow_llm_batch.jobs.planning.shards import Rows
    from airflow_llm_batch.models import Job
    from airflow_llm_batch.results import Manifest


class JobRun:
    """One job. Every step takes up what an earlier try has done of it.

    :param store: where it lies. Planning rows that have changed moves it beside what was there.
    :param origin: the task instance that makes it.
    :ivar stop: set by another thread, ends a step half-way; what was done is kept.
    """

    def __init__(
        self,
        hook: LLMBatchHook,
        store: JobStore,
        origin: Origin,
        log: Logger,
        choices: Choices | None = None,
    ) -> None:
        self.hook, self.store, self.origin, self.log = hook, store, origin, log
        #: of the model that is asked first
        self.first_hook = hook
        self.choices = choices or Choices()
        self._spent = 0.0
        self.stop = Event()
        self.submitting = False
        self._job: Job | None = None
        self._looks: Looks | None = None

    @property
    def job(self) -> Job:
        """The plan.

        :raises ConfigurationError: when there is none.
        """
        if self._job is None:
            self._job = self.store.job()
        return self._job

    @property
    def is_called(self) -> bool:
        """Whether rows that were to be a batch are called: too few for one, by the connection's choice."""
        if too_small(self.job.shards, self.hook.provider) is None:
            return False
        return history.lane(self.store.listing(), self.job) in (None, *CALLED)

    @property
    def is_begun(self) -> bool:
        """Whether anything of it was ever sent."""
        return history.is_begun(self.store, self.job)

    def plan(self, rows: Rows) -> Job:
        """Write the shards and the plan, or take up the plan that lies there.

        What still runs of a job of other rows is cancelled, and the changed rows are planned beside it.
        """
        provider, choices = self.hook.provider, self.choices
        metadata = self.origin.metadata(choices.metadata)
        provider.check_metadata(metadata)
        choices.recovery.check()
        choices.reuse.check()
        rows.check(provider)
        shared = self.origin.partition is not None and choices.max_cost is not None
        budgeted = shared or any(funds.declared(self.hook))
        facts = {**vars(self.origin), "max_cost": choices.max_cost, "budgeted": budgeted}
        facts["rules"] = rules = rows.rules(choices.checks)
        first = choices.trial.first(provider) if isinstance(rows, RowSpec) else NOT_TRIED
        job = None
        while job is None:
            self.store, job, replaced = take_up(self.store, self.hook, rows, choices.waves, choices.recovery.on_change)
            for store, unwanted in replaced:
                cancel_running(store, self.hook, unwanted)
                if unwanted.budgeted:
                    funds.release(store, sent=history.is_sent(store, unwanted))
            if job is not None:
                keep_rules(self.store, job, rules)
            else:
                check_exclusive(self.store.address.storage)
            job = job or write_plan(
                self.store, self.hook, rows, choices.waves,
                metadata=metadata, facts=facts, first=first, reuse=choices.reuse,
            )  # fmt: skip
        self._job = job
        return job

    def hold_to(self, spent: float = 0.0, lane: str = "batch") -> float:
        """Refuse what may cost too much; what was begun is not asked again.

        :param spent: dollars that earlier rounds have cost, or other models may.
        :param lane: how its rows are to travel. Rows that are too few for a batch are held to the price of synchronous
            calls, though they may be called at flex.
        :return: what the job may cost at most, 0 where that is not known.
        :raises BudgetExceeded: before anything was sent.
        """
        lane = self._lane(lane)
        self._spent = spent
        if self.choices.max_cost is not None and not self.is_begun:
            with self.store.notes.of_refusal():
                check_budget(self.job, self.choices.max_cost, spent, lane)
        return estimated_cost(self.job, lane) or 0.0

    def submit(self) -> list[str]:
        """Try the first rows, and create the shards that have room; the ids of all batches that were created, in shard
        order.

        :raises ConfigurationError: where the server has no batches.
        :raises FirstRowsFailed: when rows that were tried first tell that the others would fail.
        """
        self.submitting = True
        try:
            return self._submit()
        except (Busy, Interrupted):
            # Another try of the task is at it, or the next one goes on.
            raise
        except FirstRowsFailed as error:
            self.give_back(error.cost_usd)
            raise
        except Exception:
            self.give_back()
            raise

    def _submit(self) -> list[str]:
        if (why := self.hook.provider.no_batches) is not None and not self.is_begun:
            raise ConfigurationError(
                f"Connection {self.hook.conn_id!r} has no batches ({why}): have the rows called one by one by "
                "CompletionOperator, with lane='auto' or 'online'. If the server makes batches all the same, set "
                '"batch": true in the connection\'s extra. Nothing was sent.'
            )
        if self.is_called:
            return self._call()
        self._try_first()
        adopt(self.store, self.hook, self.job, self.choices.recovery.batches_of(self.store.address.round))
        created = submit(self.store, self.hook, self.job, self.choices.recovery.on_doubt, self.stop)
        return [batch_id for batch_id in created if not is_call(batch_id)]

    def reserve(self, lane: str = "batch") -> list[Balance]:
        """Reserve what the job may cost in the budgets that span jobs; what was sent has it.

        :raises BudgetExceeded: before anything was sent.
        """
        if history.is_sent(self.store, self.job):
            return []
        labels = {**self.choices.labels, DAG: [self.origin.dag_id]}
        with self.store.notes.of_refusal():
            return funds.reserve(self.hook, self.store, self.job, labels, self._lane(lane), self.choices.max_cost)

    def _lane(self, wanted: str) -> str:
        """The lane whose price holds: of rows that are too few for a batch, that of calls."""
        return "online" if wanted == "batch" and self.is_called else wanted

    def give_back(self, cost: float = 0.0) -> None:
        """What was reserved for a job of which nothing was sent.

        :param cost: dollars of rows that were tried first, and whose answers are not kept.
        """
        if not history.is_sent(self.store, self.job):
            funds.settle(self.hook, self.store, self.job, cost)

    def _settle(self, manifest: Manifest) -> Manifest:
        """Book what the job has cost, and enter it into the index."""
        for done in manifest.rounds:
            if done.job == self.store.uri:
                funds.settle(self.hook, self.store, self.job, done.cost_usd, landed=True)
        enter_landed(self.store, self.job, manifest)
        return manifest

    def _try_first(self) -> None:
        """Call the rows that are tried before all others, and ask for budgets anew by what they have shown."""
        from airflow_llm_batch.jobs.online.trial import try_first

        tried = None if self.is_begun else try_first(self.store, self.hook, self.job, self.choices.trial, self.stop)
        if tried is None:
            return
        if self.choices.max_cost is not None:
            check_again(tried, self.choices.max_cost, self._spent)
        longer = (total(tried.estimate) or 0.0) - (estimated_cost(self.job) or 0.0)
        funds.reserve_more(self.hook, self.store, longer, "tried")

    def _call(self) -> list[str]:
        """Call rows that are too few for a batch.

        :raises InputError: unless the connection says so.
        """
        from airflow_llm_batch.jobs.online.calling import call
        from airflow_llm_batch.jobs.online.endpoint import Calls
        from airflow_llm_batch.jobs.online.flex import at_less

        why = too_small(self.job.shards, self.hook.provider)
        if why and (
            self.hook.options.small_batches != "online" or not all_too_small(self.job.shards, self.hook.provider)
        ):
            raise InputError(why)
        begun = history.lane(self.store.listing(), self.job)
        calls = Calls() if begun == "online" else at_less(self.hook, self.job, Calls())
        self.log.info(
            "The job's %s rows are too few for a batch: they are called one by one (%s).",
            f"{self.job.rows_asked:,}",
            calls.lane,
        )
        call([self], calls, None)
        return [call_id(self.job.id, shard.index) for shard in self.job.shards]

    def look(self, deadline: Deadline) -> bool:
        """Look at what runs, and create what has room by now; True when the job has ended."""
        if self._looks is None:
            self._looks = Looks(self.hook, self.store, self.log, deadline, stop=self.stop)
        return self._looks.look()

    @property
    def not_before(self) -> float:
        """Epoch seconds before which no shard is to be created."""
        return 0.0 if self._looks is None else self._looks.not_before

    def land(self, target: Target, only: Container[int] | None = None) -> Manifest:
        """Land the job, whatever was landed of it before.

        :param only: the rows that it has to account for, None for all of its own.
        """
        self._finish_tried()
        return self._settle(land(self.store, self.job, self.hook, target, self.log, only))

    def land_once(self, target: Target) -> Manifest:
        """What the job, or a later round of it, has landed already; else land it."""
        self._finish_tried()
        return self._settle(land_once(self.store, self.job, self.hook, target, self.log))

    def _finish_tried(self) -> None:
        if any(shard.is_tried for shard in self.job.shards):
            from airflow_llm_batch.jobs.online.trial import finish_tried

            finish_tried(self.store, self.hook, self.job, self.stop)

    def next_round(self, manifest: Manifest, again: Again, deadline: Deadline) -> JobRun | None:
        """Ask once more what is worth it, of the same model or the next one; None when nothing is, or nothing more may
        be asked.

        :param manifest: what was landed.
        :return: the further round, submitted.
        """
        store = history.following(self.store, len(manifest.rounds) + 1)
        planned = store.load_job()
        if planned is not None and history.is_begun(store, planned):
            # Whatever it asks was decided when it began; what answers have to pass was not.
            keep_rules(store, planned, rules_of(self.store, self.job))
            following = self.beside(store, rung_of(again.then, planned.rung))
            following.submit()
            return following
        for rows in self._worth_asking(manifest, again):
            following = self.beside(store, rung_of(again.then, rows.rung))
            if planned is not None and planned.fingerprint != fingerprint_of(rows, following.hook.provider, planned.id):
                if planned.budgeted:
                    funds.release(store, sent=False)
                store.remove()
                planned = None
            try:
                rows.check(following.hook.provider)
                if not rows.any(following.hook.provider):
                    continue
                left = self.time_left(deadline, datetime.now(UTC))
                if left is not None and left <= 0:
                    self.log.warning("Rows that failed are not asked again: the deadline has passed.")
                    return None
                self.log.info(
                    "Asking rows that failed once more%s, in round %d.", who_of(rows), len(manifest.rounds) + 1
                )
                following.plan(rows)
                following.hold_to(manifest.spent_usd)
                following.reserve()
                following.submit()
                return following
            except BudgetExceeded as error:
                self.log.warning("Rows that failed are not asked again: %s", error)
                return None
            except (ConfigurationError, InputError) as error:
                # Another vendor may be asked what this one is not.
                self.log.warning("Rows that failed are not asked again%s: %s", who_of(rows), error)
        return None

    def _worth_asking(self, manifest: Manifest, again: Again) -> Iterator[Repair]:
        """What may be asked once more: of the model that was asked, while it has rounds, and of those after it."""
        # What was cancelled since the task was failed or cleared by hand is wanted again now that the task runs.
        also = {*again.also, *(("cancelled",) if self.store.notes.was_killed() else ())}
        rung, first = self.job.rung, history.first(self.store).job().round
        own = [JobStore(done.job) for done in manifest.rounds[first - 1 :]]
        asked = sum(store.job().rung == rung and not store.notes.was_killed() for store in own)
        one = rung_of(again.then, rung)
        wanted = {*also, "invalid"} if rung else also
        model = one.model if one is not None else None
        once_more = Repair(self.store, self.job, tuple(sorted(wanted)), 2.0, again.show_error, model, rung)
        if asked < again.max_rounds:
            yield once_more
        elif not again.then[rung:] and once_more.any(self.hook.provider):
            self.log.info("Rows that failed are not asked again: this was round %s, the last.", again.max_rounds)
        for number, one in enumerate(again.then[rung:], rung + 1):
            # A stronger model is for what the one before it could not do.
            wanted = {*also, "invalid"}
            yield Repair(self.store, self.job, tuple(sorted(wanted)), 2.0, again.show_error, one.model, number)

    def beside(self, store: JobStore, rung: Rung | None = None) -> JobRun:
        """The same for another job of the task.

        :param rung: the model that it asks, None for the one that is asked first.
        """
        hook = self.first_hook if rung is None or rung.conn_id is None else LLMBatchHook(rung.conn_id)
        # What answers have to pass is brought along by what is asked again.
        run = JobRun(hook, store, self.origin, self.log, replace(self.choices, checks=None))
        run.stop, run.first_hook = self.stop, self.first_hook
        return run

    def time_left(self, deadline: Deadline, since: datetime | None = None) -> float | None:
        """Seconds from the planning of a round, or another moment, until the deadline of all rounds together."""
        if deadline.allowed is None:
            return None
        began = history.first(self.store).job().created_at
        return deadline.allowed - ((since or self.job.created_at) - began).total_seconds()

    def kill(self) -> None:
        """The task is killed: nothing further is created, and what runs is left for a retry, or cancelled where
        ``Recovery`` says so."""
        self.stop.set()
        if self.submitting and self.choices.recovery.cancel_on_kill:
            wait_for_creates()
            cancel_running(self.store, self.hook, self.job)
            self.store.notes.save_killed()


def who_of(rows: Repair) -> str:
    return f" of {rows.model}" if rows.model else ""


def rung_of(then: Sequence[Rung], number: int) -> Rung | None:
    """Who is asked, None for the first model; a rung that is not there any more is asked as the last one is."""
    return then[min(number, len(then)) - 1] if number and then else None
