"""What state a job is in, and the same in words.

planned        nothing was sent
over_budget    nothing was sent: the estimate is above max_cost, or above what is left of a budget
running        batches run, or wait for room in the vendor's queue
cancelling     what runs was asked to be cancelled, and has not ended
ended          every batch has ended, and nothing was landed yet
cancelled      it was cancelled: what had finished is landed, or waits for it
landed         every row succeeded
with_failures  landed, and some rows did not succeed
failed         landed, and no row succeeded
replaced       the task's input has changed, and another job has taken its place
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from airflow_llm_batch.jobs.directory.attempts import NEVER_SENT

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.attempts import ShardState
    from airflow_llm_batch.jobs.view.files import RoundFiles
    from airflow_llm_batch.results import Manifest

JobState = Literal[
    "planned", "over_budget", "running", "cancelling", "ended",
    "cancelled", "landed", "with_failures", "failed", "replaced",
]  # fmt: skip
#: of jobs that are on their way
AT_WORK = ("running", "cancelling", "ended")
#: of jobs of which nothing was sent, or that are nobody's any more
UNSENT = ("planned", "over_budget", "replaced")


def describe(
    states: dict[int, ShardState], manifest: Manifest | None, found: RoundFiles, failed: int
) -> tuple[JobState, str]:
    """A job's state, and the same in words.

    :param states: of the last round's shards; ``manifest`` its landing, None before that.
    :param failed: rows that did not succeed.
    """
    if manifest is not None:
        return landed(manifest, failed)
    number = found.job.round if found.job else 1
    round_ = f"round {number}: " if number > 1 else ""
    counts = {state: list(states.values()).count(state) for state in ("planned", "creating", "running", "ended")}
    if counts["ended"] == len(states):
        if is_cancelled(found):
            return "cancelled", f"{round_}cancelled, not landed yet"
        return "ended", f"{round_}ended, not landed yet"
    if counts["planned"] == len(states):
        if found.refusal:
            return "over_budget", f"{round_}over budget, nothing sent"
        return "planned", f"{round_}planned, nothing sent"
    words = {"running": "running", "creating": "being sent", "planned": "waiting for room", "ended": "ended"}
    cancelling = is_being_cancelled(states, found)
    if cancelling:
        words["running"] = "being cancelled"
    parts = [(counts[state], word) for state, word in words.items() if counts[state]]
    state: JobState = "cancelling" if cancelling else "running"
    if len(states) == 1:
        return state, round_ + parts[0][1]
    batches = "batch" if parts[0][0] == 1 else "batches"
    rest = "".join(f", {count} {word}" for count, word in parts[1:])
    return state, f"{round_}{parts[0][0]} {batches} {parts[0][1]}{rest}"


def landed(manifest: Manifest, failed: int) -> tuple[JobState, str]:
    """The same of a job that was landed."""
    good, rows = manifest.counts.get("succeeded", 0), manifest.rows
    if manifest.counts.get("cancelled"):
        return "cancelled", f"cancelled, {good:,} of {rows:,} rows landed"
    if failed and failed == rows:
        return "failed", "landed, no row succeeded"
    if failed:
        return "with_failures", f"landed, {failed:,} of {rows:,} rows failed"
    return "landed", "landed"


def is_cancelled(found: RoundFiles) -> bool:
    """Whether a round that has ended was cancelled, or closed before all of it was sent."""
    closed = any(shard.status == NEVER_SENT.status for shard in found.seen.values())
    return closed or "cancelling.json" in found.files or "killed.json" in found.files


def is_being_cancelled(states: dict[int, ShardState], found: RoundFiles) -> bool:
    """Whether the vendor was asked to cancel all that runs: what it has refused to, or was sent since, still runs."""
    if found.cancelling is None:
        return False
    asked, seen = set(found.cancelling.batches), found.seen
    running = [seen[index].batch for index, state in states.items() if state != "ended" and index in seen]
    left = set(states.values()) - {"ended", "running"}
    return not left and bool(running) and asked.issuperset(running)
