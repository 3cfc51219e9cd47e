"""Who is told of a job, and when: through Airflow's own notifiers, or anything that is called with a context."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.results import usd

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.sdk.types import Logger

    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.money.entries import Balance

#: what may be told
KINDS = ("landed", "failing", "budget", "late")


@dataclass(frozen=True)
class Alerts:
    """What is told, and to whom; an alert that cannot be sent is logged and stops nothing.

    A notifier finds ``llm_batch`` in its context: ``{{ llm_batch.alert }}`` (one of ``landed``, ``failing``,
    ``budget``, ``late``), ``{{ llm_batch.message }}`` (one line for people), ``{{ llm_batch.job }}`` and, once there is
    one, ``{{ llm_batch.summary }}``, the landing's XCom.

    :param notify: notifiers (Slack, SMTP, PagerDuty, ... of Airflow's providers), or functions of a context.
    :param landed: tell of every landing.
    :param failing: tell when this share of the rows, or more, did not succeed; None for never.
    :param budget: tell when this share of ``max_cost``, or of a budget, is spent or reserved; None for never.
    :param late: tell, once, when a job takes so many times as long as its task's jobs have taken so far (the median of
        the last 20, three at least); None for never.
    """

    # Airflow keeps the text of mapped tasks' arguments: one with addresses in it would be another DAG at each parsing.
    notify: Sequence[Callable[[Any], Any]] | Callable[[Any], Any] = field(default=(), repr=False)
    landed: bool = False
    failing: float | None = 0.05
    budget: float | None = 0.8
    late: float | None = 2.0

    def __post_init__(self) -> None:
        for name in ("failing", "budget", "late"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ConfigurationError(f"Alerts.{name} is {value!r}; give a number above 0, or None for never.")
        for notifier in self.notifiers:
            if not callable(notifier):
                raise ConfigurationError(
                    f"Alerts.notify holds {notifier!r}; give notifiers, or functions of a context."
                )

    @property
    def notifiers(self) -> Sequence[Callable[[Any], Any]]:
        return [self.notify] if callable(self.notify) else self.notify

    def tell(self, context: Context, log: Logger, alert: str, message: str, **facts: Any) -> None:
        """Send one alert.

        :param alert: one of ``KINDS``.
        :param facts: further members of ``llm_batch``.
        """
        log.info("Alert (%s): %s", alert, message)
        for notifier in self.notifiers:
            extended = {**context, "llm_batch": {"alert": alert, "message": message, **facts}}
            try:
                # A notifier renders its own fields for good: each alert has its own words.
                copy.copy(notifier)(extended)
            except Exception as error:
                log.warning("The alert could not be sent by %s: %s", type(notifier).__name__, type(error).__name__)

    def tell_of_landing(self, context: Context, log: Logger, summary: dict[str, Any], max_cost: float | None) -> None:
        """What there is to say of landed results.

        :param summary: the landing's XCom.
        :param max_cost: dollars, None for any.
        """
        facts = {"job": str(summary.get("manifest", "")).removesuffix("/manifest.json"), "summary": summary}
        rows, cost = summary["rows"], summary["cost_usd"]
        failed = rows - summary["counts"].get("succeeded", 0)
        if self.landed:
            self.tell(context, log, "landed", summary["message"], **facts)
        if self.failing is not None and failed and failed >= self.failing * rows:
            message = f"{failed:,} of {rows:,} rows did not succeed ({failed / rows:.0%}). {summary['message']}"
            self.tell(context, log, "failing", message, **facts)
        if self.budget is not None and max_cost and cost is not None and cost >= self.budget * max_cost:
            message = f"{usd(cost)} of max_cost={usd(max_cost)} are spent ({cost / max_cost:.0%}). {summary['message']}"
            self.tell(context, log, "budget", message, **facts)

    def tell_of_budget(self, context: Context, log: Logger, balance: Balance, job: str) -> None:
        """A budget that spans jobs, after this one has reserved its share of it."""
        account = balance.account
        used = balance.spent + balance.reserved
        log.info(
            "Budget of %s for %s: %s spent, %s reserved, %s left.",
            usd(account.limit), account.name, usd(balance.spent), usd(balance.reserved), usd(max(balance.left, 0.0)),
        )  # fmt: skip
        if self.budget is not None and balance.passes(self.budget):
            message = (
                f"{usd(used)} of the budget of {usd(account.limit)} for {account.name} are spent or reserved "
                f"({used / account.limit:.0%})."
            )
            self.tell(context, log, "budget", message, job=job)

    def late_after(self, store: JobStore) -> float | None:
        """Epoch seconds from which a job is late, None where its task has not run often enough to tell."""
        from airflow_llm_batch.jobs.directory import history

        if self.late is None or not self.notifiers or store.notes.is_told_late():
            return None
        try:
            usual = history.usual_seconds(store)
        except Exception as error:
            log.warning("How long this task's jobs take cannot be told: %s: %s", type(error).__name__, error)
            return None
        return None if usual is None else store.job().created_at.timestamp() + self.late * usual

    def tell_of_delay(self, context: Context, log: Logger, store: JobStore) -> None:
        """A job takes longer than its task's jobs do: told once."""
        from airflow_llm_batch.jobs.directory import history

        if store.notes.is_told_late():
            return
        usual = history.usual_seconds(store) or 0.0
        job = store.job()
        message = (
            f"Job {job.id} ({job.rows:,} rows, {job.provider}) has not ended; its task's jobs take "
            f"{usual / 3600:.1f} h, and this one was planned at {job.created_at:%Y-%m-%d %H:%M} UTC. It is waited for."
        )
        self.tell(context, log, "late", message, job=store.uri)
        store.notes.save_late()


class SendsAlerts(BaseOperator):
    """What operators take that tell of their jobs.

    :param alerts: an ``Alerts``, None for none.
    """

    def __init__(self, *, alerts: Alerts | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if alerts is not None and not isinstance(alerts, Alerts):
            raise ConfigurationError(f"alerts is {alerts!r}; give Alerts(notify=[...]).")
        self.alerts = alerts or Alerts(failing=None, budget=None, late=None)
