"""What an emulator can be told to be and to do wrong."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class HttpFault(BaseModel):
    """Something that goes wrong with an HTTP call.

    :param on: the calls it strikes: ``POST /v1/batches``; a ``*`` at the end stands for any rest.
    :param times: how many of them; ``skip`` lets so many pass first.
    :param status: answer with this status instead of doing the work.
    :param cut: close the connection ``before`` the work is done, ``after`` it without an answer, or in the ``body``
        after ``cut_bytes`` of it.
    :param delay: seconds of silence before anything else.
    :param retry_after: value of the header of that name.
    """

    model_config = ConfigDict(extra="forbid")

    on: str
    times: int = 1
    skip: int = 0
    status: int | None = None
    cut: Literal["before", "after", "body"] | None = None
    cut_bytes: int = 1000
    delay: float = 0
    retry_after: str | None = None


class FlexFaults(BaseModel):
    """What becomes of calls that ask for flex.

    :param full: that many are turned away for want of room before the first is served, and this ``share`` of all after
        that.
    :param status: that they are turned away with; OpenAI's 429 and Gemini's 503 by default.
    :param retry_after: value of the header of that name then.
    :param standard: this share of those that are served is served at the standard tier, and so its answers say.
    :param models: the only ones that take flex; those that the vendor lists when None.
    """

    model_config = ConfigDict(extra="forbid")

    full: int = 0
    share: float = Field(default=0, ge=0, le=1)
    status: int | None = None
    retry_after: str | None = None
    standard: float = Field(default=0, ge=0, le=1)
    models: list[str] | None = None


class Faults(BaseModel):
    """What goes wrong with rows and batches.

    :param row_errors: share of rows that fail on the vendor's side; which ones follows from their text.
    :param heal: how often a row fails before it succeeds when it is asked again, and how many batches expire or lose
        lines before none does any more; None for ever.
    :param expire: batches expire with this share of their rows done, None for not.
    :param fail: batches fail validation with this code.
    :param shuffle: result lines come in another order.
    :param duplicates: that many result lines come twice.
    :param garbage: that many lines are not results at all.
    :param foreign: that many lines belong to somebody else's rows.
    :param missing: that many result lines never come, and the vendor does not count them as finished.
    :param undelivered: an ended batch shows no files for so many looks, though all of its rows are counted.
    :param enqueued_tokens: prompt tokens per model that may wait or run at once; a batch beyond it fails.
    :param refuse_enqueued: the HTTP status that such a batch is refused with instead, when it is created.
    :param unknown_status: the status told while a batch runs.
    :param lost_events: that many ends of batches are not told of by an event.
    :param repeated_events: every event is sent so many times more.
    :param capitals: Azure's batches are told as its first versions did: capitals, ISO times, null counts, no endpoint.
    :param processing: uploaded files are being processed for so many looks.
    :param flex: what becomes of calls at flex.
    """

    model_config = ConfigDict(extra="forbid")

    row_errors: float = Field(default=0, ge=0, le=1)
    heal: int | None = None
    expire: float | None = Field(default=None, ge=0, le=1)
    fail: str | None = None
    shuffle: bool = False
    duplicates: int = 0
    garbage: int = 0
    foreign: int = 0
    missing: int = 0
    undelivered: int = 0
    enqueued_tokens: int | None = None
    refuse_enqueued: int | None = None
    unknown_status: str | None = None
    lost_events: int = 0
    repeated_events: int = 0
    capitals: bool = False
    processing: int = 0
    flex: FlexFaults = FlexFaults()
    http: list[HttpFault] = []


class Settings(BaseModel):
    """How an emulator behaves when nothing goes wrong.

    :param duration: seconds from a batch's creation to its end.
    :param cancel_seconds: from a cancellation to its end; a tenth of ``duration`` when None.
    :param api_key: the only key accepted; any key is when None.
    :param upstream: base URL of an OpenAI-compatible server that answers every request instead of the emulator.
    :param upstream_key: its key.
    :param upstream_concurrency: calls to it at once.
    :param webhook_url: where an event is sent when a batch has ended, signed with ``webhook_secret``.
    :param deployments: Azure's, and the model behind each; None for any name, each of the model that is called so.
    :param file_seconds: from an upload until Azure has processed the file.
    :param token_seconds: how long a token of Entra's is good.
    :param client_secret: the only one that Entra accepts; any is when None.
    :param s3_endpoint: the S3 server that Bedrock's jobs read from and write to; what boto3 finds in the environment
        when None, credentials always.
    :param bedrock_minimum: records that a job of Bedrock's must have at least.
    """

    duration: float = Field(default=5.0, ge=0)
    cancel_seconds: float | None = Field(default=None, ge=0)
    api_key: str | None = None
    upstream: str | None = None
    upstream_key: str = "none"
    upstream_concurrency: int = 16
    webhook_url: str | None = None
    webhook_secret: str = "whsec_" + "ZW11bGF0b3I="
    deployments: dict[str, str] | None = None
    file_seconds: float = Field(default=0, ge=0)
    token_seconds: float = Field(default=3600, ge=0)
    client_secret: str | None = None
    s3_endpoint: str | None = None
    bedrock_minimum: int = 100
    faults: Faults = Faults()
