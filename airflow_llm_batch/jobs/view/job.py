"""One job as people want to see it: what it is, how far it is, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.jobs.money.budget import estimated_cost
from airflow_llm_batch.jobs.view.state import AT_WORK, UNSENT, JobState, describe

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.address import JobKey
    from airflow_llm_batch.jobs.view.files import RoundFiles


class JobView(BaseModel):
    """One task's job, further rounds of it included.

    :param state: see ``jobs.view.state``; ``words`` says it for people.
    :param map_index: with what tells jobs of one task instance apart: ``-1~gpt-5-mini_llm_batch_default.2``. These are
        its map ``index``, ``asked_model`` (of one of several models' jobs) and ``generation``.
    :param generation: 2 and more for one that took the place of a job with other input.
    :param ended_at: when it was landed, or its last batch was seen to have ended; None while it runs.
    :param done: rows that the vendor has finished, failed ones included; ``failed`` are those that did not succeed,
        and ``cancelled`` of them those that were landed as cancelled.
    :param requests: that were sent, a row in two rounds counted twice.
    :param cost_usd: of what was landed; None where it is not known, or nothing was landed.
    :param committed_usd: what may be billed at most for what was sent and is not landed yet, None where that is not
        known.
    :param lane: how its rows travel, ``batch``, ``flex`` or ``online``, as far as it is known.
    :param partition: which of its task's rows it asks, ``3/64``; None for all of them.
    :param refusal: which budget has refused it, and what to do; "" for any other job.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: str
    index: str
    asked_model: str | None
    generation: int
    uri: str
    provider: str
    models: list[str]
    created_at: datetime
    landed_at: datetime | None = None
    ended_at: datetime | None = None
    state: JobState
    words: str
    rows: int
    done: int
    failed: int
    cancelled: int = 0
    shards: int
    rounds: int
    requests: int
    tokens: int
    estimated_cost_usd: float | None
    cost_usd: float | None
    committed_usd: float | None = 0.0
    saving_usd: float | None
    lane: str = "batch"
    partition: str | None = None
    refusal: str = ""

    @property
    def is_at_work(self) -> bool:
        """Whether anything of it is still to come: an end, or a landing."""
        return self.state in AT_WORK or (self.state == "cancelled" and self.landed_at is None)


def view(key: JobKey, rounds: list[RoundFiles], *, replaced: bool = False) -> JobView:
    """One job from its rounds, oldest first.

    :param replaced: another job has taken its place.
    """
    first, last = rounds[0].job, rounds[-1].job
    assert first is not None
    assert last is not None
    manifest = next((found.manifest for found in reversed(rounds) if found.manifest is not None), None)
    states = rounds[-1].states()
    done, failed = rounds[-1].counts
    own = [done for done in manifest.rounds if f"{done.job}/".startswith(f"{rounds[0].uri}/")] if manifest else []
    landed = rounds[-1].manifest is not None
    if manifest is None:
        # What nobody is asked has its answer.
        done += sum(shard.rows for shard in last.spared)
    else:
        bad = manifest.rows - manifest.counts.get("succeeded", 0)
        # A further round runs: its rows are not done yet, and have not failed again.
        done = manifest.rows if landed else manifest.rows - last.rows + done
        failed = bad if landed else max(bad - last.rows, 0) + failed
    state, words = describe(states, manifest if landed else None, rounds[-1], failed)
    if replaced and not landed:
        state, words = "replaced", "replaced by a job with other input"
    estimates = [estimated_cost(found.job, found.lane) for found in rounds if found.job]
    address = JobAddress.parse(rounds[0].uri)
    progress = rounds[-1].progress
    landed_at = manifest.landed_at if manifest and landed else None
    over = progress is not None and bool(states) and set(states.values()) == {"ended"}
    return JobView(
        dag_id=key.dag_id,
        run_id=key.run_id,
        task_id=key.task_id,
        map_index=key.place,
        index=address.map_index,
        asked_model=address.model,
        generation=address.generation,
        uri=rounds[0].uri,
        provider=first.provider,
        models=sorted({model for found in rounds if found.job for model in found.job.estimate}),
        created_at=aware(first.created_at),
        landed_at=landed_at,
        ended_at=landed_at or (datetime.fromtimestamp(progress.at, UTC) if over and progress else None),
        state=state,
        words=words,
        rows=manifest.rows if manifest else first.rows,
        done=done,
        failed=failed,
        cancelled=manifest.counts.get("cancelled", 0) if manifest and landed else 0,
        shards=sum(found.job.batches for found in rounds if found.job),
        rounds=len(rounds),
        requests=sum(done.rows for done in own) if own else sum(found.job.rows_asked for found in rounds if found.job),
        tokens=sum(done.input_tokens + done.output_tokens for done in own),
        estimated_cost_usd=None if None in estimates else sum(filter(None, estimates)),
        cost_usd=total(done.cost_usd for done in own) if own else None,
        committed_usd=estimates[-1] if not landed and state not in UNSENT else 0.0,
        saving_usd=total(done.saving_usd for done in own) if own else None,
        lane=rounds[-1].lane,
        partition=first.partition,
        refusal=rounds[-1].refusal if state == "over_budget" else "",
    )


def aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def total(amounts: Iterable[float | None]) -> float | None:
    """The sum, None when one of them is not known."""
    known = list(amounts)
    return None if None in known else sum(filter(None, known))
