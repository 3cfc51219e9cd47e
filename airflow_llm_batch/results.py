"""What was landed: one result per row, and what all of them came to."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, Field

from airflow_llm_batch.models import Fact, Rules

RowStatus = Literal["succeeded", "errored", "expired", "cancelled", "truncated", "refused", "invalid", "missing"]
ROW_STATUSES: tuple[RowStatus, ...] = (
    "succeeded", "errored", "expired", "cancelled", "truncated", "refused", "invalid", "missing",
)  # fmt: skip


class Result(msgspec.Struct):
    """What became of one request, in the neutral shape: a provider fills in what the vendor said, landing the rest.

    The fields are those of a landed record, in order; the pass-through columns follow.

    :param key: the user's name of the row, as JSON; with ``row``, ``provider``, ``cost_usd`` and ``shard`` filled in on
        landing.
    :param cost_usd: before landing, what the vendor says that it has charged; None where it does not tell.
    :param embedding: a list of floats, or of such lists; perhaps still as JSON.
    :param input_tokens: all prompt tokens, cached ones and cache writes included; None where usage is not told.
    :param cache_write_tokens: prompt tokens that were written to a cache, part of ``input_tokens``; of them
        ``cache_write_1h_tokens`` to one that is kept for an hour.
    :param reasoning: what the model thought before it answered, where the vendor tells.
    :param choices: every answer, the first one too, where several were asked for; also the one answer that holds more
        than text: its ``media`` is the images, the audio and the results of tools, as the vendor wrote them.
    :param tool_uses: what is billed beside tokens of text, with how much of it: the vendor's own tools that ran,
        ``{"web_search": 2}`` (0 where they ran and the vendor does not tell how often), and tokens that have a price of
        their own: ``audio_input_tokens`` and ``audio_output_tokens``, likewise ``image`` and ``video`` (among
        ``input_tokens`` and ``output_tokens``).
    :param inference_geo: where the answer was computed, as Anthropic tells: ``us`` costs more.
    :param raw: the vendor's whole line, where it is kept: by choice, and where it could not be landed otherwise.
    :param answered_by: of a row that nobody was asked, the ``custom_id`` of the request whose answer it is: of a row of
        the same job that asks the same, or of an earlier job. Its cost and tokens are 0, for they were paid there.
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
    inference_geo: str | None = None
    answered_by: str | None = None


class Failure(msgspec.Struct):
    """A row that did not succeed, as ``failed.jsonl`` keeps it for the next round and for people to look at.

    :param key: as JSON.
    :param round: the round that asked for it, whose shard ``shard`` is.
    :param landed: the status of an earlier round's record of the row, which stays since this round has no answer.
    :param raw: the beginning of the vendor's answer, None where there was none.
    :param answer: the text of an answer that is ``invalid``, for whoever asks again and shows it; None where it is very
        long.
    """

    row: int
    key: msgspec.Raw
    status: RowStatus
    error_code: str | None
    error_message: str | None
    shard: int
    round: int = 1
    landed: str | None = None
    raw: str | None = None
    answer: str | None = None

    @property
    def as_landed(self) -> str:
        """The status of the record that lies there."""
        return self.landed or self.status


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
    cache_write_tokens: int = 0
    cache_saving_usd: float | None = None


class LandedRound(BaseModel):
    """One round of a job: the rows that it asked, and what became of them.

    :param spared: rows that nobody was asked, by why: ``copy`` or ``known``; ``spared_usd``, what their answers had
        cost, None where that is not known.
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
    usage: list[Usage] = Field(default_factory=list)
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_saving_usd: float | None = None
    spared: dict[str, int] = Field(default_factory=dict)
    spared_usd: float | None = 0.0


class Whole(BaseModel):
    """All rows, as a sample of them lets one expect.

    :param batches: that the vendor's limits ask for, and ``waves`` of them, one after the other, that the job's own do.
    :param sample_seconds: how long the sample took at the vendor.
    """

    rows: int
    cost_usd: float | None
    batches: int
    waves: int
    sample_seconds: float | None

    @property
    def message(self) -> str:
        cost = "an unknown amount" if self.cost_usd is None else f"about {usd(self.cost_usd)}"
        took = "" if self.sample_seconds is None else f"; the sample took {self.sample_seconds / 60:,.0f} minutes"
        waves = f", {self.waves:,} waves one after the other" if self.waves > 1 else ""
        return (
            f"All {self.rows:,} rows would cost {cost}, in {self.batches:,} batches{waves}{took}, and vendors promise "
            "a batch within 24 hours."
        )


class Manifest(Fact):
    """What a Fetch landed.

    Tokens and dollars are those of all requests that were sent; a row that was asked in two rounds is paid for twice
    and landed once.

    :param counts: rows per status; the sum is ``rows``.
    :param carried: those of ``files`` that hold rows of earlier rounds.
    :param elsewhere: the files of earlier landings of the same job in other destinations, by destination: they stay.
    :param dropped: lines that were not landed, by reason: ``duplicate``, ``foreign`` (another job's ids), ``garbage``.
    :param reasons: the most frequent ones of rows that did not succeed.
    :param aside: file with the garbage lines as they came, None where there were none.
    :param cost_usd: None when the price of any billed row is unknown; ``sync_cost_usd`` is the same work's price
        outside of batches, ``saving_usd`` the difference, and ``batch_cost_usd`` its price in batches alone.
    :param estimated_cost_usd: of all rounds, at most.
    :param usage: by model and status.
    :param cache_write_tokens: of ``input_tokens`` those that were written to the vendor's caches.
    :param cached_share: of the input that was read from caches, 0 to 1.
    :param cache_saving_usd: what ``cost_usd`` is below the price of the same tokens uncached; less than 0 where writing
        cost more than reading has saved.
    :param estimated_input_tokens: of this round's rows whose usage was told, and ``input_error_percent``, how far that
        was from what was billed for them; None where nothing was estimated. ``estimate_basis`` is how.
    :param lane: how the rows of the last round travelled: ``batch``, ``flex`` or ``online``.
    :param spared: rows that nobody was asked in all rounds, by why: ``copy`` of a row that asks the same, or ``known``
        from an earlier job; ``spared_usd`` is what their answers had cost.
    :param rules: that its answers were held to beside their schema; ``schema_alone`` where their class could not be
        imported, and its validators have not run.
    """

    job: str
    destination: str
    files: list[str]
    carried: list[str] = Field(default_factory=list)
    elsewhere: dict[str, list[str]] = Field(default_factory=dict)
    rows: int
    counts: dict[str, int]
    dropped: dict[str, int]
    aside: str | None = None
    reasons: list[Reason] = Field(default_factory=list)
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float | None
    sync_cost_usd: float | None
    saving_usd: float | None = None
    batch_cost_usd: float | None = None
    estimated_cost_usd: float | None = None
    usage: list[Usage] = Field(default_factory=list)
    rounds: list[LandedRound] = Field(default_factory=list)
    batches: list[str]
    provider: str
    models: list[str]
    landed_at: datetime
    cache_write_tokens: int = 0
    cached_share: float | None = None
    cache_saving_usd: float | None = None
    estimated_input_tokens: int | None = None
    input_error_percent: float | None = None
    estimate_basis: str = ""
    lane: str = "batch"
    whole: Whole | None = None
    spared: dict[str, int] = Field(default_factory=dict)
    spared_usd: float | None = 0.0
    rules: Rules = Rules()
    schema_alone: bool = False

    def summary(self, uri: str) -> dict[str, Any]:
        """The manifest as it travels in XCom; ``uri`` is where the whole of it lies."""
        keys = (
            "files", "rows", "counts", "input_tokens", "output_tokens", "cost_usd", "sync_cost_usd", "saving_usd",
            "estimated_cost_usd", "provider", "models", "batches", "cached_share", "cache_saving_usd",
            "input_error_percent", "lane", "spared", "spared_usd",
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
        if self.cached_share:
            saved += f"; {self.cached_share:.0%} of the input read from caches"
        if self.cache_saving_usd:
            worth = usd(abs(self.cache_saving_usd))
            saved += f"; caches saved {worth}" if self.cache_saving_usd > 0 else f"; caches cost {worth} more"
        if spared := sum(self.spared.values()):
            saved += f"; {spared:,} rows not asked, which had cost {usd(self.spared_usd)}"
        reasons = "; ".join(f"{r.rows:,} x {r.code or r.status}: {r.message or 'no message'}" for r in self.reasons)
        whole = f" {self.whole.message}" if self.whole is not None else ""
        message = f"{self.rows:,} rows landed{rounds}: {counts}; {cost}{saved}.{whole}"
        return f"{message} {reasons}" if reasons else message
