"""The vocabulary as types. Per-row types are msgspec structs (cheap), everything kept in a file is a pydantic model."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
from pydantic import BaseModel, ConfigDict

Outcome = Literal["completed", "partial", "failed", "expired", "cancelled"]
RowStatus = Literal["succeeded", "errored", "expired", "cancelled", "truncated", "refused", "invalid", "missing"]
ROW_STATUSES: tuple[RowStatus, ...] = (
    "succeeded", "errored", "expired", "cancelled", "truncated", "refused", "invalid", "missing",
)  # fmt: skip


class Fact(BaseModel):
    """What a job directory keeps as a file."""

    def dump(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


class Limits(BaseModel):
    """What one vendor batch may hold. Vendors move these; the connection's extra ``limits`` overrides them.

    :param requests: requests in one batch.
    :param bytes: bytes of one batch's input.
    :param embedding_inputs: inputs over all embedding requests of one batch, None where the vendor has no such limit.
    :param tokens: prompt tokens in one batch, as we estimate them, None for any number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int
    bytes: int
    embedding_inputs: int | None = None
    tokens: int | None = None


class Batch(Fact):
    """A vendor's batch, as one reading of it told.

    :param status: the vendor's own word.
    :param outcome: None while the vendor still works on it.
    :param total: requests in it; None while the vendor has not counted. Likewise ``succeeded`` and ``failed``.
    :param files: where results lie: file ids or absolute URLs, as the provider's ``downloads`` reads them.
    :param errors: why the batch as a whole failed, ``(code, message)``.
    :param full: it never ran, since the vendor's queue had no room for it; created again later, it may.
    :param known: False for a status this version does not know; such a batch is treated as still running.
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

    :param batch: the vendor's id.
    :param status: the vendor's own word.
    """

    batch: str = ""
    status: str = ""
    total: int | None = None
    succeeded: int | None = None
    failed: int | None = None


class Progress(Fact):
    """How far a job is: ``progress.json``, for people.

    :param at: epoch seconds.
    :param planned: shards that wait for room.
    """

    at: float
    shards: dict[int, ShardProgress] = {}
    planned: list[int] = []

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


class Estimate(BaseModel):
    """What one model's requests are expected to use, made before anything is sent.

    :param input_tokens: from the length of what is sent.
    :param output_tokens: the sum of the requests' token caps, None when one of them has none.
    :param largest: prompt tokens of the largest request.
    :param cache: how long prompts may be cached at the customer's wish: ``""``, ``5m`` or ``1h``.
    :param unknown: what the prompts hold that cannot be estimated, "" for nothing.
    :param cost_usd: batch price of both, at most; None when it, the prompt or the output is not known; likewise
        ``sync_cost_usd`` outside of batches.
    """

    requests: int
    input_tokens: int
    output_tokens: int | None
    largest: int = 0
    cache: str = ""
    unknown: str = ""
    cost_usd: float | None = None
    sync_cost_usd: float | None = None


class Job(Fact):
    """The plan of a job, kept as ``job.json``. Written once; holds no secret.

    :param id: 8 hex digits derived from the job directory; the prefix of every ``custom_id``.
    :param fingerprint: sha256 over everything that would be sent, keys and pass-through columns included.
    :param request: the request template as planned, for people to read.
    :param estimate: by model.
    :param key_kind: what the keys are, as ``data.kinds`` names it; ``columns`` says it of the pass-through columns.
    :param console_url: the vendor's page of a batch, ``{id}``; empty where another server was asked.
    :param several_vectors: a request may embed several texts, and its answer hold as many vectors.
    :param adopted: the batch was made elsewhere; its ``custom_id``s are not ours.
    :param round: 1 for rows that are asked for the first time; each repair of failed rows is the next one.
    :param sources: URIs of the rows, empty where they are a list or have no URI.
    :param repairs: URI of the job whose failed rows are asked again; rows keep the numbers they have there.
    :param max_enqueued_tokens: estimated prompt tokens of the job that may be in the vendor's queue at once, None for
        any number; likewise ``max_running_shards``.
    :param max_cost: dollars that the job may cost, rows that are called online after all included; None for any.
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
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int = -1


class Intent(Fact):
    """Written before a create is sent: from here on the batch may exist.

    :param owner: the process that sends it, ``{"host", "pid", "started"}``.
    :param lane: ``online`` when its rows are called one by one, and no batch is made.
    """

    lane: str = "batch"
    at: datetime
    input_ref: str | None = None
    owner: dict[str, Any] | None = None


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


class Result(msgspec.Struct):
    """What became of one request, in the neutral shape: a provider fills in what the vendor said, landing the rest.

    The fields are those of a landed record, in order; the pass-through columns follow.

    :param key: the user's name of the row, as JSON; with ``row``, ``provider``, ``cost_usd`` and ``shard`` filled in on
        landing.
    :param embedding: a list of floats, or of such lists; perhaps still as JSON.
    :param input_tokens: all prompt tokens, cached ones and cache writes included; None where usage is not told.
    :param cache_write_tokens: prompt tokens that were written to a cache, part of ``input_tokens``; of them
        ``cache_write_1h_tokens`` to one that is kept for an hour.
    :param reasoning: what the model thought before it answered, where the vendor tells.
    :param choices: every answer, the first one too, where several were asked for.
    :param tool_uses: the vendor's own tools that ran, with how often: ``{"web_search": 2}``.
    :param raw: the vendor's whole line, where it is kept: by choice, and where it could not be landed otherwise.
    """

    key: Any = None
    row: int = -1
    custom_id: str = ""
    status: RowStatus = "errored"
    text: str | None = None
    output: Any = None
    tool_calls: list[dict[str, Any]] | None = None
    embedding: Any = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    model: str | None = None
    provider: str | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None
    shard: int | None = None
    round: int = 1
    reasoning: str | None = None
    choices: list[dict[str, Any]] | None = None
    logprobs: Any = None
    citations: Any = None
    tool_uses: dict[str, int] | None = None
    service_tier: str | None = None
    cache_write_1h_tokens: int | None = None
    raw: Any = None


class Failure(msgspec.Struct):
    """A row that did not succeed, as ``failed.jsonl`` keeps it for the next round and for people to look at.

    :param key: as JSON.
    :param round: the round that asked for it, whose shard ``shard`` is.
    """

    row: int
    key: msgspec.Raw
    status: RowStatus
    error_code: str | None
    error_message: str | None
    shard: int
    round: int = 1


def usd(amount: float | None) -> str:
    """An amount for people: cents where there are dollars, more digits where there are none."""
    if amount is None:
        return "an unknown amount"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:,.6f}"


class Reason(BaseModel):
    """Why some rows did not succeed, and how many."""

    status: str
    code: str | None
    message: str | None
    rows: int


class Usage(BaseModel):
    """What the requests of one model and status used, each request counted that was ever sent.

    :param cost_usd: what was paid, None when the price of any of them is unknown; ``batch_cost_usd`` is what the same
        work costs in batches, ``sync_cost_usd`` outside of them.
    """

    model: str
    status: str
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float | None
    batch_cost_usd: float | None = None
    sync_cost_usd: float | None


class LandedRound(BaseModel):
    """One round of a job: the rows that it asked, and what became of them.

    :param estimated_cost_usd: before anything was sent, at most; None where it was not known.
    """

    round: int
    job: str
    rows: int
    succeeded: int
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None
    sync_cost_usd: float | None = None
    saving_usd: float | None = None
    estimated_cost_usd: float | None
    usage: list[Usage] = []


class Manifest(Fact):
    """What a Fetch landed.

    Tokens and dollars are those of all requests that were sent; a row that was asked in two rounds is paid for twice
    and landed once.

    :param counts: rows per status; the sum is ``rows``.
    :param carried: those of ``files`` that hold rows of earlier rounds.
    :param elsewhere: what was landed of the job before in other places, by destination.
    :param dropped: lines that were not landed, by reason: ``duplicate``, ``foreign`` (another job's ids), ``garbage``.
    :param reasons: the most frequent ones of rows that did not succeed.
    :param aside: file with the garbage lines as they came, None where there were none.
    :param cost_usd: None when the price of any billed row is unknown; ``sync_cost_usd`` is the same work's price
        outside of batches, ``saving_usd`` the difference, and ``batch_cost_usd`` its price in batches alone.
    :param estimated_cost_usd: of all rounds, at most.
    :param usage: by model and status.
    """

    job: str
    destination: str
    files: list[str]
    carried: list[str] = []
    elsewhere: dict[str, list[str]] = {}
    rows: int
    counts: dict[str, int]
    dropped: dict[str, int]
    aside: str | None = None
    reasons: list[Reason] = []
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float | None
    sync_cost_usd: float | None
    saving_usd: float | None = None
    batch_cost_usd: float | None = None
    estimated_cost_usd: float | None = None
    usage: list[Usage] = []
    rounds: list[LandedRound] = []
    batches: list[str]
    provider: str
    models: list[str]
    landed_at: datetime

    def summary(self, uri: str) -> dict[str, Any]:
        """The manifest as it travels in XCom; ``uri`` is where the whole of it lies."""
        keys = (
            "files", "rows", "counts", "input_tokens", "output_tokens", "cost_usd", "sync_cost_usd", "saving_usd",
            "estimated_cost_usd", "provider", "models", "batches",
        )  # fmt: skip
        fields = self.model_dump(mode="json", include=set(keys))
        return {"manifest": uri, "message": self.message, **fields, "rounds": len(self.rounds)}

    @property
    def places(self) -> dict[str, list[str]]:
        """Every file that was landed of the job and may still be there, by destination."""
        return {**self.elsewhere, self.destination: self.files}

    @property
    def spent_usd(self) -> float:
        """Dollars of all rounds, at most: what a round cost, or was estimated at where that is not known."""
        return sum((r.estimated_cost_usd if r.cost_usd is None else r.cost_usd) or 0.0 for r in self.rounds)

    @property
    def message(self) -> str:
        """One line for people, as a chat notification wants it."""
        counts = ", ".join(f"{n:,} {status}" for status, n in self.counts.items() if n)
        rounds = f" in {len(self.rounds)} rounds" if len(self.rounds) > 1 else ""
        cost = "cost unknown" if self.cost_usd is None else usd(self.cost_usd)
        saved = f" ({usd(self.saving_usd)} less than outside of batches)" if self.saving_usd else ""
        reasons = "; ".join(f"{r.rows:,} x {r.code or r.status}: {r.message or 'no message'}" for r in self.reasons)
        message = f"{self.rows:,} rows landed{rounds}: {counts}; {cost}{saved}."
        return f"{message} {reasons}" if reasons else message
