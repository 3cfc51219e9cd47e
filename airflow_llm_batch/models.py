"""The vocabulary as types. Per-row types are msgspec structs (cheap), everything kept in a file is a pydantic model."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from airflow_llm_batch.estimate import Estimate

Outcome = Literal["completed", "partial", "failed", "expired", "cancelled"]


class Fact(BaseModel):
    """What a job directory keeps as a file."""

    def dump(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


class Limits(BaseModel):
    """What one vendor batch may hold. Vendors move these; the connection's extra ``limits`` overrides them.

    :param requests: in one batch, and ``minimum``, how many it has at least; ``bytes`` of its input.
    :param embedding_inputs: inputs over all embedding requests of one batch, None where the vendor has no such limit.
    :param tokens: prompt tokens in one batch, as we estimate them, None for any number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int
    bytes: int
    embedding_inputs: int | None = None
    tokens: int | None = None
    minimum: int = 0


class Batch(Fact):
    """A vendor's batch, as one reading of it told.

    :param status: the vendor's own word.
    :param outcome: None while the vendor still works on it.
    :param total: requests in it; None while the vendor has not counted. Likewise ``succeeded`` and ``failed``.
    :param files: where results lie: file ids or absolute URLs, as the provider's ``results`` reads them.
    :param errors: why the batch as a whole failed, ``(code, message)``.
    :param full: it never ran, since the vendor's queue had no room for it; created again later, it may.
    :param known: False for a status this version does not know; such a batch is treated as still running.
    :param rates: dollars for a token of the prompts, and of the answers, where the vendor tells what all have cost.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    status: str
    outcome: Outcome | None = None
    total: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    created_at: datetime | None = None
    input_ref: str | None = None
    files: tuple[str, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()
    metadata: dict[str, str] = {}
    full: bool = False
    known: bool = True
    rates: tuple[float, float] | None = None


#: begins the id of a shard that was called and not sent as a batch
CALL = "online-"


def call_id(job_id: str, index: int) -> str:
    """What stands for a batch's id where a shard was called row by row."""
    return f"{CALL}{job_id}-{index}"


def is_call(batch_id: str | None) -> bool:
    """Whether an id stands for calls, which no vendor knows as a batch."""
    return (batch_id or "").startswith(CALL)


class ShardProgress(BaseModel):
    """How far a shard is, as last seen.

    :param batch: the vendor's id, and ``status`` its own word.
    :param outcome: None while it runs, and where an earlier version has written it; ``errors`` likewise, cut short.
    """

    batch: str = ""
    status: str = ""
    total: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    outcome: Outcome | None = None
    errors: list[tuple[str, str]] = []


class Progress(Fact):
    """How far a job is: ``progress.json``, for people.

    :param at: epoch seconds.
    :param planned: shards that wait for room.
    :param lane: how its rows travel.
    """

    at: float
    shards: dict[int, ShardProgress] = {}
    planned: list[int] = []
    lane: str = "batch"

    @property
    def counts(self) -> tuple[int, int]:
        """Rows done, and of them failed."""
        failed = sum(shard.failed or 0 for shard in self.shards.values())
        return sum(shard.succeeded or 0 for shard in self.shards.values()) + failed, failed

    def describe(self, rows: int | None) -> str:
        """One line for the log: ``3 shards: 1 completed, 2 in_progress; 1,200 of 3,000 rows done, 4 failed``.

        :param rows: of the whole job, None where only the vendor's count is known.
        """
        states = Counter(shard.status for shard in self.shards.values())
        if self.planned:
            states["waiting for room"] = len(self.planned)
        text = f"{states.total()} shard(s): " + ", ".join(f"{n} {state}" for state, n in states.items())
        counted = [shard for shard in self.shards.values() if shard.succeeded is not None]
        if counted:
            done, failed = self.counts
            total = rows if rows is not None else sum(shard.total or 0 for shard in counted)
            text += f"; {done:,} of {total:,} rows done, {failed:,} failed"
        return text


class Cancelling(Fact):
    """Somebody has asked for the cancellation of a job's batches: ``cancelling.json``.

    :param batches: the vendor's ids of those that it has taken.
    """

    at: datetime
    batches: list[str] = []


class Page(NamedTuple):
    """One page of a listing, newest first; ``after`` asks for the next one and is None on the last."""

    items: list[Batch]
    after: str | None


class Shard(BaseModel):
    """One vendor batch's worth of a job, as planned.

    :param bytes: size of ``requests.jsonl``, newlines included; ``crc32`` is of the same bytes.
    :param key: what marks the batch as ours where the vendor keeps metadata: job, index and content.
    :param tokens: of all its prompts, estimated.
    :param token: part of the names of its files; each attempt at planning has its own, so none can touch another's.
    :param lane: ``online`` for the rows that are tried before all others, unless nobody answers them. Of rows that
        nobody is asked ``copy`` (another row asks the same), ``known`` to earlier jobs, or ``none`` (not to be asked).
    """

    model_config = ConfigDict(frozen=True)

    index: int = 0
    key: str = ""
    endpoint: str
    model: str = ""
    rows: int = 0
    bytes: int = 0
    tokens: int = 0
    crc32: int = 0
    token: str = ""
    metadata: dict[str, str] = {}
    lane: str = "batch"

    @property
    def is_tried(self) -> bool:
        """Whether its rows are called before the others are sent."""
        return self.lane == "online"


class Rules(Fact):
    """What answers have to pass beside their schema. They are no part of what is sent: a job's may change.

    :param output_class: path of the Pydantic class that they are validated as, ``module:qualname``.
    :param checks: paths of functions, and expressions.
    """

    model_config = ConfigDict(frozen=True)

    output_class: str | None = None
    checks: tuple[str, ...] = ()


class Job(Fact):
    """The plan of a job, kept as ``job.json``. Written once; holds no secret.

    :param id: 8 hex digits derived from the job directory; the prefix of every ``custom_id``.
    :param fingerprint: sha256 over everything that would be sent, keys and pass-through columns included.
    :param request: the request template as planned, for people to read.
    :param spared: shards of rows that nobody is asked; their ``lane`` says why.
    :param cache: URI of the answers that it uses and adds to; ``cache_bytes`` they may have together.
    :param key_kind: what the keys are, as ``data.kinds`` names it; ``columns`` says it of the pass-through columns.
    :param console_url: the vendor's page of a batch, ``{id}``; empty where another server was asked.
    :param several_vectors: a request may embed several texts, and its answer hold as many vectors.
    :param adopted: the batch was made elsewhere; its ``custom_id``s are not ours.
    :param round: 1 for rows that are asked for the first time; each repair of failed rows is the next one.
    :param sources: URIs of the rows, empty where they are a list or have no URI.
    :param repairs: URI of the job whose failed rows are asked again; rows keep the numbers they have there.
    :param max_enqueued_tokens: estimated prompt tokens that may be in the vendor's queue at once, None for any number;
        likewise ``max_running_shards``.
    :param sampled_from: rows that there are in all, None where these are not a sample of them.
    :param budgeted: there were budgets that span jobs when it was planned. ``partition``: its rows of all, ``3/64``.
    :param max_cost: dollars that the job may cost, rows that are called online after all included; None for any.
    :param portable: what is asked is kept in the neutral format too; ``rung``, models that were asked before its own.
    :param rules: of its answers, as it was planned; ``rules.json`` has them where they have changed since.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    id: str
    fingerprint: str
    provider: str
    conn_id: str
    created_at: datetime
    rows: int
    shards: tuple[Shard, ...]
    spared: tuple[Shard, ...] = ()
    cache: str | None = None
    cache_bytes: int | None = None
    request: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    estimate: dict[str, Estimate] = {}
    key_kind: str = "integer"
    columns: dict[str, str] = {}
    console_url: str = ""
    several_vectors: bool = False
    adopted: bool = False
    round: int = 1
    repairs: str | None = None
    sources: tuple[str, ...] = ()
    max_enqueued_tokens: int | None = None
    max_running_shards: int | None = None
    max_cost: float | None = None
    sampled_from: int | None = None
    budgeted: bool = False
    partition: str | None = None
    portable: bool = False
    rung: int = 0
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int = -1
    rules: Rules = Rules()

    @property
    def rows_asked(self) -> int:
        """Rows that somebody is asked, and is paid for."""
        return sum(shard.rows for shard in self.shards)

    @property
    def batches(self) -> int:
        """How many batches it is cut into; rows that are tried first are none, as long as somebody answers them."""
        return sum(not shard.is_tried for shard in self.shards)


class Intent(Fact):
    """Written before a create is sent: from here on the batch may exist.

    :param owner: the process that sends it, ``{"host", "pid", "started"}``.
    :param lane: ``online`` or ``flex`` when its rows are called one by one, and no batch is made.
    :param token: of this claim alone: a claim whose answer was lost is known again by it.
    """

    lane: str = "batch"
    at: datetime
    input_ref: str | None = None
    owner: dict[str, Any] | None = None
    vendor_at: datetime | None = None
    token: str = ""


class Holder(Fact):
    """Who holds a claim; ``token`` is as ``Intent``'s."""

    owner: dict[str, Any]
    at: datetime
    token: str = ""


class Created(Fact):
    """The vendor's id for a shard.

    :param adopted: it was found or given, and not the answer to our create.
    :param provisional: it was found by time and size alone; its results have to show that it is ours.
    """

    batch_id: str
    at: datetime
    adopted: bool = False
    provisional: bool = False


class Void(Fact):
    """The end of a try that made no batch of ours.

    :param reason: ``rejected`` by the vendor, ``no room`` in its queue, ``never created``, ``given up`` at the
        deadline, or ``stranger``: what was adopted is not ours.
    :param strangers: batch ids that are known not to be ours.
    :param running: shards of the job that were in the vendor's queue then.
    """

    reason: str
    at: datetime
    strangers: list[str] = []
    running: int = 0
