"""Rows to landed results in one task, failed rows asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import plainly
from airflow_llm_batch.operators.partitioned import EmptyPartition
from airflow_llm_batch.operators.rounds import RunsRounds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class LLMBatchOperator(RunsRounds):
    """Submits, waits deferred, lands, and asks failed rows again, in one task.

    Takes what ``SubmitBatchOperator`` takes to make batches. After each round the results are landed whole; rows
    that failed for a reason that may pass (rate limits, server errors, expired, missing) are asked again in a
    further job until ``max_rounds``, and what they give takes the place of what was landed of them. No worker slot
    is held while a round runs. A retried or cleared task takes up where it was: nothing is paid twice.

    :param destination: directory for the result files, any ``ObjectStoragePath`` URI.
    :param format: as ``FetchResultsOperator``; likewise ``max_file_size``, ``fail_on`` and ``keep_raw``.
    :param max_rounds: how often a row is asked at most; 1 for no repair.
    :param also: what to ask again too: ``truncated`` (with twice the token cap), ``invalid``, ``refused``,
        ``cancelled``, ``quota`` (the account had no money); see ``FailedRows``.
    :param show_error: rows that are ``invalid`` are asked again (where ``also`` says so, or by ``then``) with their
        answer, and why it was not accepted, in the conversation.
    :param then: models that are asked, one after the other, what is still not good after ``max_rounds`` of the one
        before: ``["gpt-5", ("claude-opus-4-5", "anthropic")]``, each by name or with a connection, another vendor's
        too. ``invalid`` rows go on to them, and what ``also`` names; each has its own rounds, and what is left of
        ``max_cost``. Records say which model answered.
    :param models: ask several models, each by name or as ``(name, connection id)``: a job each, one record per row and
        model.
    :param compare: after several models: how far they agree, how accurate each is (against a column, if ``Compare``
        names one), its shares by status, dollars and seconds: in the log, on the page, in ``comparison.json`` beside
        the manifests and as ``comparison`` in the return value; False for nothing of it.
    :param deadline: how long after the first submission watching ends, None for never; no further round begins then.
    :param on_deadline: as ``BatchSensor``.
    :param poll_interval: seconds between looks at first, which grow to 5 minutes; ``poke_interval`` is another name.
    :return: as ``FetchResultsOperator``, for all rounds together; of a partition also ``partition`` and
        ``set_manifest``, the URI where all partitions are told together once the last of them is landed.
    """

    ui_color = "#f6ead9"

    @plainly
    def execute(self, context: Context) -> Any:
        try:
            return self.send(context, self.planned_runs(context))
        except EmptyPartition as empty:
            return self.without_rows(empty)
        finally:
            self.close()
