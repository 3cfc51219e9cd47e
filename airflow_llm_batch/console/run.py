"""Rows to answers in one call, outside of any task, with the promises that tasks have."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.console.answers import Answers
from airflow_llm_batch.console.bar import Bar, warnings_on
from airflow_llm_batch.console.connecting import hook_of
from airflow_llm_batch.console.interrupts import heeded
from airflow_llm_batch.console.left_behind import left_behind
from airflow_llm_batch.console.places import origin_of, results_of
from airflow_llm_batch.exceptions import BudgetExceeded, ConfigurationError
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.options import (
    DEADLINES,
    Again,
    Choices,
    Deadline,
    Recovery,
    Target,
    Trial,
    Waves,
    a_count,
    at_least_one,
)
from airflow_llm_batch.jobs.run import JobRun
from airflow_llm_batch.numbers import number
from airflow_llm_batch.operators.failing import check_failures, failing_share
from airflow_llm_batch.operators.waiting import LONGEST_PAUSE, seconds

if TYPE_CHECKING:
    from airflow_llm_batch.data.destinations import Destination
    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.planning.encoding import RowSpec
    from airflow_llm_batch.results import Manifest

log: Any = logging.getLogger(__name__)
LANES = ("batch", "online", "flex")
#: stands for the job's own id where its rows' fingerprint is to name it
NO_JOB = "00000000"


def run(
    rows: Any,
    request: RequestTemplate | None = None,
    *,
    name: str | None = None,
    conn_id: str | None = None,
    provider: str | None = None,
    lane: str = "batch",
    key: str | None = None,
    passthrough: Sequence[str] | Mapping[str, str] | None = None,
    storage: str | None = None,
    destination: str | None = None,
    format: str = "jsonl",  # noqa: A002
    max_file_size: int | None = None,
    keep_raw: bool = False,
    max_cost: float | None = None,
    max_rounds: int = 3,
    also: Sequence[str] = (),
    fail_on: str | float = 0.5,
    check_first: int | str = "auto",
    sample: int | None = None,
    max_enqueued_tokens: int | None = None,
    max_running_shards: int | None = None,
    metadata: Mapping[str, str] | None = None,
    deadline: timedelta | float | None = None,
    on_deadline: str = "leave",
    recovery: Recovery | None = None,
    poll_interval: float = 15.0,
    dry_run: bool = False,
    progress: bool = True,
) -> Answers:
    """Ask a model about every row, wait, and give back the answers::

        for answer in run("reviews.jsonl", ChatRequest("gpt-5-mini", user="Label: {text}")):
            print(answer["key"], answer["text"])

    The job lies in a directory of its own; killed and run again it goes on with the same batches, and nothing is paid
    twice. Rows that failed for a reason that may pass are asked again, as ``LLMBatchOperator`` does.

    :param rows: as ``SubmitBatchOperator``; a path of this machine may be relative.
    :param request: what to ask about each row; None where rows are batch input lines.
    :param name: of the job, and with ``storage`` its place: the same name is the same job, and changed rows take its
        place. By default it is made of rows, request and vendor: the same again is the same job, anything else another.
    :param conn_id: an ``llmbatch`` connection of Airflow's, ``AIRFLOW_CONN_...`` included.
    :param provider: a vendor by name, with its key where its SDK looks for it: ``OPENAI_API_KEY``,
        ``ANTHROPIC_API_KEY``. Without either ``llm_batch_default``, or the only key that is there.
    :param lane: ``batch``; ``online`` or ``flex`` calls the rows one by one, as ``CompletionOperator``.
    :param storage: URI or path for job directories; ``[llm_batch] storage`` by default.
    :param destination: URI or path for the result files; beside the job by default.
    :param deadline: how long after the first submission watching ends, None for never.
    :param dry_run: plan and estimate, and send nothing: the estimate is the summary's.
    :param progress: False shows nothing.
    :return: the landed records; the other parameters are ``LLMBatchOperator``'s.
    :raises KeyboardInterrupt: Ctrl-C stops watching; what runs is told of, and goes on.
    """
    check_choices(lane, on_deadline, max_rounds, also)
    hook = hook_of(conn_id, provider)
    try:
        hook.transport  # noqa: B018  (an unusable connection is told before the rows are read)
        spec = spec_of(rows, request, key, passthrough, at_least_one("sample", sample) or 0, calls=lane == "online")
        storage = absolute(storage)
        with Bar(shown=progress) as bar, warnings_on(bar.console) if progress else nullcontext():
            if name is None:
                bar.say("Reading rows")
                name = named_by(spec, hook)
            target = Target(absolute(destination) or results_of(storage, name), format, max_file_size, keep_raw)
            given = {"max_enqueued_tokens": max_enqueued_tokens, "max_running_shards": max_running_shards}
            origin = origin_of(name)
            choices = Choices(
                waves=Waves.of(given, hook.options), recovery=recovery or Recovery(), metadata=metadata,
                max_cost=None if max_cost is None else number("max_cost", max_cost),
                labels={**tags(metadata), "tag": []},
                trial=Trial(0 if dry_run or lane == "online" else check_first, failing_share(fail_on)),
            )  # fmt: skip
            job = JobRun(hook, JobStore(origin.address(storage).uri), origin, log, choices)
            whole = Deadline(seconds(deadline), on_deadline)
            work = Work(job, name, storage, target, bar, lane, whole, tuple(also), max_rounds, poll_interval)
            answers = work.estimate(spec) if dry_run else work.finish(spec)
    finally:
        hook.close()
    if not dry_run:
        check_failures(answers.summary, answers.summary["manifest"], fail_on)
    return answers


class Work:
    """One run, from rows to landed answers."""

    def __init__(
        self, run: JobRun, name: str, storage: str | None, target: Target, bar: Bar, lane: str,
        deadline: Deadline, also: Sequence[str], max_rounds: int, poll_interval: float,
    ) -> None:  # fmt: skip
        self.run, self.name, self.storage, self.target, self.bar = run, name, storage, target, bar
        self.lane, self.deadline, self.also = lane, deadline, also
        self.max_rounds, self.poll_interval = max_rounds, poll_interval

    def estimate(self, spec: RowSpec) -> Answers:
        """Plan, and send nothing."""
        from airflow_llm_batch.jobs.money.budget import describe, estimated_cost

        self._plan(spec)
        job = self.run.job
        message = f"{job.rows:,} rows in {job.batches:,} batches. {describe(job, self.lane)} Nothing was sent."
        estimate = {model: e.model_dump() for model, e in job.estimate.items()}
        cost = estimated_cost(job, self.lane)
        planned = {"message": message, "rows": job.rows, "estimate": estimate, "estimated_cost_usd": cost}
        return Answers(self.name, self.run.store.address.first.uri, planned)

    def finish(self, spec: RowSpec) -> Answers:
        """All of it, or on from where an earlier run has left it."""
        from airflow_llm_batch.jobs.landing.superseded import remove_others

        try:
            self._plan(spec)
            self._send()
            manifest = self._bring_home()
        except KeyboardInterrupt:
            self._leave()
            raise
        summary = manifest.summary(self.run.store.manifest_uri)
        remove_others([self.run.store], manifest.files, self.destination, log)
        self.bar.tell(manifest.message)
        return Answers(self.name, self.run.store.address.first.uri, summary, manifest)

    @property
    def destination(self) -> Destination:
        from airflow_llm_batch.data.destinations import destination_of

        return destination_of(self.target, self.run.store.address.landed)

    def _plan(self, spec: RowSpec) -> None:
        from airflow_llm_batch.jobs.landing.ownership import check_place

        self.destination.check()
        self.bar.say("Writing requests")
        with heeded():
            self.run.plan(spec)
        check_place(self.run.store, self.destination)
        try:
            self.run.hold_to(lane=self.lane)
        except BudgetExceeded:
            self.run.give_back()
            raise

    def _send(self) -> None:
        self.bar.say(f"Sending {self.run.job.rows:,} rows to {self.run.hook.provider.name}")
        self.bar.watch(self.run.store, self.run.job.rows)
        self.run.reserve(self.lane)
        if self.lane == "batch":
            with heeded():
                self.run.submit()

    def _bring_home(self) -> Manifest:
        if self.lane != "batch":
            return self._call()
        while True:
            self._wait()
            self.bar.say("Landing answers")
            with heeded() as heed:
                manifest = self.run.land_once(self.target)
                heed()
                following = self.run.next_round(manifest, Again(self.also, self.max_rounds), self.deadline)
            if following is None:
                return manifest
            self.run = following
            self.bar.say(f"Asking {following.job.rows:,} rows again, round {following.job.round}")
            self.bar.watch(following.store, following.job.rows)

    def _wait(self) -> None:
        """Until every batch of the round has ended."""
        from airflow_llm_batch.jobs.waiting.decisions import interval

        run, began = self.run, time.monotonic()
        deadline = Deadline(run.time_left(self.deadline), self.deadline.action)
        self.bar.say(f"Waiting for {run.hook.provider.name}")
        with heeded() as heed:
            while not run.look(deadline):
                heed()
                time.sleep(interval(time.monotonic() - began, self.poll_interval, LONGEST_PAUSE))

    def _call(self) -> Manifest:
        from airflow_llm_batch.jobs.online import flex
        from airflow_llm_batch.jobs.online.calling import call
        from airflow_llm_batch.jobs.online.endpoint import Calls

        if self.lane == "flex":
            flex.check(self.run.hook.provider, self.run.job)
        self.bar.say(f"Calling {self.run.hook.provider.name}")
        allowed = self.deadline.allowed
        until = None if allowed is None else max(self.run.job.created_at.timestamp() + allowed, time.time())
        [accountable] = call([self.run], Calls(lane=self.lane), until)
        self.bar.say("Landing answers")
        return self.run.land(self.target, accountable)

    def _leave(self) -> None:
        """Somebody has pressed Ctrl-C: say what is still running, how to go on and how to cancel."""
        from airflow_llm_batch.jobs.submission.doubt import wait_for_creates

        self.run.stop.set()
        wait_for_creates()
        for line in left_behind(self.run, self.name, self.storage):
            self.bar.tell(line)


def spec_of(
    rows: Any, request: RequestTemplate | None, key: str | None, passthrough: Any, sample: int, *, calls: bool
) -> RowSpec:
    """The rows as the engine reads them: more than once, so that one that can be walked once is kept."""
    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.data.sources import IS_URI
    from airflow_llm_batch.exceptions import InputError
    from airflow_llm_batch.jobs.planning.encoding import RowSpec, passthrough_map

    if request is not None and not isinstance(request, RequestTemplate):
        raise InputError(
            f"request is a {type(request).__name__}; give ChatRequest, EmbeddingRequest or RawRequest. Nothing was "
            "sent."
        )
    if isinstance(rows, Iterator):
        rows = list(rows)
    elif isinstance(rows, Path) or (isinstance(rows, str) and not IS_URI.match(rows) and "\n" not in rows):
        rows = absolute(rows)
    if request is not None and calls:
        request = request.for_calls()
    return RowSpec(rows, request, key, passthrough_map(passthrough), sample)


def named_by(spec: RowSpec, hook: LLMBatchHook) -> str:
    """A name for a job that nobody has named: the same for the same rows, request and vendor."""
    from airflow_llm_batch.jobs.planning.shards import fingerprint_of

    model = re.sub(r"[^A-Za-z0-9._-]", "-", str(getattr(spec.request, "model", "") or hook.provider.name))
    return f"{model.lstrip('._-')[:60]}-{fingerprint_of(spec, hook.provider, NO_JOB)[:12]}"


def absolute(path: str | os.PathLike[str] | None) -> str | None:
    """A path of this machine as a URI, which is the same from anywhere; a URI as it is."""
    text = os.fspath(path) if path is not None else ""
    if not text or "://" in text:
        return text or None
    return f"file://{os.path.abspath(os.path.expanduser(text))}"


def tags(metadata: Mapping[str, str] | None) -> dict[str, list[str]]:
    """What budgets may be by."""
    return {str(name): [str(value)] for name, value in (metadata or {}).items()}


def check_choices(lane: str, on_deadline: str, max_rounds: Any, also: Sequence[str]) -> None:
    """:raises ConfigurationError: for a choice that does not exist."""
    from airflow_llm_batch.data.failed import FailedRows

    for name, value, known in (("lane", lane, LANES), ("on_deadline", on_deadline, DEADLINES)):
        if value not in known:
            raise ConfigurationError(f"{name} is {value!r}; give one of {', '.join(known)}. Nothing was sent.")
    a_count("max_rounds", max_rounds)
    FailedRows(None, also)
