"""Failed rows as the input of a further job: the requests that were sent, taken from the job directories."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_llm_batch.data.checks import verify
from airflow_llm_batch.data.failed import NOT_IN_CACHE, QUOTA, UNDELIVERED
from airflow_llm_batch.data.kinds import Kinds
from airflow_llm_batch.data.values import to_json
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.failures import failures
from airflow_llm_batch.jobs.directory.rows import Entry, RowNumber, contents, sent
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.jobs.directory.rules import rules_of
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.money.tokens import kind_of, prompt_tokens, raised_caps
from airflow_llm_batch.jobs.planning.lines import Line
from airflow_llm_batch.jobs.reuse.digests import again, digest_of, request_of
from airflow_llm_batch.jobs.reuse.digests import content as content_of
from airflow_llm_batch.jobs.reuse.digests import digest as digest_of_content
from airflow_llm_batch.jobs.rounds.words import Words
from airflow_llm_batch.models import Job, Rules
from airflow_llm_batch.providers.endings import NONE, PAUSED, UNKNOWN
from airflow_llm_batch.providers.replies import with_reply
from airflow_llm_batch.providers.troubles import is_empty_account, is_passing_code
from airflow_llm_batch.results import Failure

if TYPE_CHECKING:
    from airflow_llm_batch.data.failed import FailedRows
    from airflow_llm_batch.models import Shard
    from airflow_llm_batch.providers.base import Provider

#: statuses of rows that were answered
ANSWERED = frozenset({"invalid", "refused", "truncated"})
#: truncated for want of room in the model, which no higher cap gives
NO_ROOM = "model_context_window_exceeded"


def is_worth_asking(failure: Failure, also: Iterable[str]) -> bool:
    """Whether a row may succeed when it is asked once more.

    :param also: what is asked again by choice: statuses, and ``quota`` for an account that had no money.
    """
    code = failure.error_code or ""
    if failure.status == "errored":
        return is_passing_code(code) or (QUOTA in also and is_empty_account(code))
    if failure.status in ("expired", "missing"):
        # What the vendor says it has finished was paid for, and what was not to be asked is not asked.
        return code not in (UNDELIVERED, NOT_IN_CACHE) or code in also
    return failure.status in also and code != NO_ROOM


def wants_room(failure: Failure) -> bool:
    """Whether a row was cut short at its token cap, and a higher one may do."""
    return failure.status == "truncated" and failure.error_code not in (PAUSED, UNKNOWN, NONE)


class Repair(NamedTuple):
    """The rows of a landed job that are worth asking again.

    :param store: of the landed job, whose ``failed.jsonl`` tells of every row of its rounds.
    :param also: what is asked again by choice.
    :param token_factor: by which the caps of truncated rows are raised.
    :param show_error: answers that were not accepted are shown to the model, with the reason.
    :param model: asked instead of the one that was.
    :param rung: how many models were asked before.
    """

    store: JobStore
    job: Job
    also: tuple[str, ...] = ()
    token_factor: float = 2.0
    show_error: bool = False
    model: str | None = None
    rung: int = 0

    @classmethod
    def of(cls, failed: FailedRows) -> Repair:
        """:raises ConfigurationError: when the job was not landed yet, or was made elsewhere."""
        store = JobStore(failed.job)
        also, factor = tuple(sorted(failed.also)), float(failed.token_factor)
        return cls(store, store.job(), also, factor, failed.show_error, failed.model or None)

    @property
    def passthrough(self) -> Mapping[str, str]:
        return {}

    @property
    def request(self) -> None:
        """Lines that were sent are sent once more."""

    @property
    def identity(self) -> str:
        return f" repairs {self.store.uri} {self.job.fingerprint}"

    def check(self, provider: Provider) -> None:
        """:raises ConfigurationError: when the rows cannot be asked again, or not on this connection."""
        if self.job.adopted:
            raise ConfigurationError(
                f"The job at {self.store.uri} is a batch that was made elsewhere; its requests are not here to be sent "
                "again. Nothing was sent."
            )
        if self.job.provider != provider.name and not self.job.portable:
            raise ConfigurationError(
                f"The failed rows were asked of {self.job.provider}, and this connection is for {provider.name}. Use "
                "a connection of the same provider, or let the first task keep what other vendors can be asked "
                "(portable=True). Nothing was sent."
            )
        if self.job.provider != provider.name and not self.model:
            raise ConfigurationError(
                f"The failed rows were asked of {self.job.provider}, whose models {provider.name} has not: name one "
                "(FailedRows(..., model=...)). Nothing was sent."
            )
        if self.store.manifest() is None:
            raise ConfigurationError(
                f"The job at {self.store.uri} was not landed yet, so nobody knows which rows failed; put a "
                "FetchResultsOperator before this task. Nothing was sent."
            )

    def rules(self, checks: Sequence[str] | None) -> Rules:
        """Those that the rows were landed under, by a fetch with checks of its own too, but for checks that are given.

        :raises NothingBilled: for checks that no answer to these rows could pass.
        """
        schema = self.job.output_schema
        verify(checks or (), self.job.columns, schema, free=schema is None)
        landed = self.store.manifest()
        rules = landed.rules if landed is not None else rules_of(self.store, self.job)
        return rules if checks is None else rules.model_copy(update={"checks": tuple(checks)})

    def check_keys(self) -> None:
        """They were when they were asked first."""

    def facts(self, kinds: Kinds) -> dict[str, Any]:
        """What the plan takes over from the job it repairs."""
        job = self.job
        taken = (
            "request", "output_schema", "key_kind", "columns", "sources", "several_vectors", "sampled_from", "portable",
        )  # fmt: skip
        same = {name: getattr(job, name) for name in taken}
        return {**same, "round": job.round + 1, "repairs": self.store.uri, "rung": self.rung}

    def lines(self, provider: Provider, job_id: str, kinds: Kinds, stable: bool = True) -> Iterator[Line]:
        """The requests as they were sent, round by round, under ids of the new job."""
        chosen: dict[int, RowSet] = {}
        truncated, answered = RowSet(), RowSet()
        shards: set[tuple[int, int]] = set()
        with Words() as words:
            for failure in failures(self.store):
                if is_worth_asking(failure, self.also):
                    chosen.setdefault(failure.round, RowSet()).add(failure.row)
                    shards.add((failure.round, failure.shard))
                    if failure.status in ANSWERED:
                        answered.add(failure.row)
                    if wants_room(failure):
                        truncated.add(failure.row)
                    if self.show_error:
                        words.add(failure)
            for round_number, shard, was in self._sent(shards):
                row = read_number(was.entry).row
                if row not in chosen[round_number]:
                    continue
                said = words.of(row) if self.show_error else None
                asked = self.line(was, row in truncated, provider, f"{job_id}-{row}", shard, said)
                if asked is not None:
                    if row in answered:
                        asked.digest = again(asked.digest, self.job.round)
                    yield asked

    def _sent(self, shards: Container[tuple[int, int]]) -> Iterator[tuple[int, Shard, Sent]]:
        """What was sent in some shards, by round and index."""
        for store, job in history.chain(self.store):
            for shard in (*job.shards, *job.spared):
                if (job.round, shard.index) in shards:
                    asked = contents(store, shard) if job.portable else repeat(b"")
                    for (line, entry), content in zip(sent(store, shard.index, shard.token), asked, strict=False):
                        yield job.round, shard, Sent(line, entry, content)

    def any(self, provider: Provider) -> bool:
        """Whether there are such rows at all."""
        return next(self.lines(provider, self.job.id, Kinds(())), None) is not None

    def line(
        self,
        was: Sent,
        truncated: bool,
        provider: Provider,
        custom_id: str,
        shard: Shard,
        said: tuple[str, str] | None = None,
    ) -> Line | None:
        """One request once more; None for a truncated one whose cap is not ours to raise.

        :param said: what was answered, and what is said to that.
        """
        row = read_entry(was.entry)
        same = bytes.fromhex(row.digest)
        asked = request_of(was.content) if was.content else provider.request_of(msgspec.json.decode(was.line), shard)
        changed = asked
        if self.model and self.model != asked.model:
            changed = changed._replace(body={**changed.body, "model": self.model})
        if said is not None:
            changed = with_reply(changed, *said) or changed
        # What is kept is what anybody can be asked; a cap is raised for this vendor.
        content = content_of(changed, provider) if was.content else b""
        request = provider.translate(provider.cached(changed)) if was.content else changed
        if truncated:
            raised = raised_caps(request, provider, self.token_factor)
            if raised is None:
                return None
            request = raised
        request = provider.translate(request)
        line = to_json(provider.line(request, custom_id)) + b"\n"
        tokens = prompt_tokens(line, request.body, provider, request.model)
        bare = row.line if row.digest else was.entry
        # What is asked otherwise than it was is known by what is sent.
        is_same = same and changed is asked and not truncated and provider.name == self.job.provider
        known = digest_of_content(content) if content and not truncated else digest_of(request, provider)
        digest = same if is_same else known
        return Line(line, tokens, kind_of(request, provider), row.row, digest, content, bare)


class Sent(NamedTuple):
    """A row as it was sent.

    :param line: of ``requests.jsonl``; ``entry``, of ``rows.jsonl``.
    :param content: what it asks in the neutral format, "" where that is not kept.
    """

    line: bytes
    entry: bytes
    content: bytes


read_number = msgspec.json.Decoder(RowNumber).decode
read_entry = msgspec.json.Decoder(Entry).decode
