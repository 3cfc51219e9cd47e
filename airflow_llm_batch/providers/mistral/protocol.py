"""Mistral's batch jobs: OpenAI's files, and jobs with words of their own.

Source: ``mistralai`` 3.7 (files, batch jobs, ``extra/batch``), docs.mistral.ai (batch inference), and what OpenRouter
has seen of it (github.com/OpenRouterTeam/docs, batch research).
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import httpx

from airflow_llm_batch.models import Batch, Limits, Outcome, Page, Shard
from airflow_llm_batch.providers.base import Facts, Flow
from airflow_llm_batch.providers.batches import batch_id, errors_of, identifier, moment, readable
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.coerce import members, text_of, whole, word
from airflow_llm_batch.providers.mistral.chat import CHAT_MEMBERS, EMBEDDING_MEMBERS, mistral_body
from airflow_llm_batch.providers.openai.protocol import CHAT, EMBEDDINGS
from airflow_llm_batch.providers.presets.kin import Kin, hours_of
from airflow_llm_batch.request import Request

OUTCOMES: dict[str, Outcome] = {
    "SUCCESS": "completed",
    "FAILED": "failed",
    # What was done in time is in the files.
    "TIMEOUT_EXCEEDED": "expired",
    "CANCELLED": "cancelled",
}
RUNNING = frozenset({"QUEUED", "RUNNING", "CANCELLATION_REQUESTED"})


class Mistral(Kin):
    name = price_id = "mistral"
    title = "Mistral AI"
    documented = "https://docs.mistral.ai/capabilities/batch/"
    default_base_url = "https://api.mistral.ai/v1"
    hosts = re.compile(r"api(\.eu|\.us)?\.mistral\.ai")
    # 512 MB a file. A workspace may have a million requests pending, over all of its jobs.
    default_limits: ClassVar[Limits] = Limits(requests=100_000, bytes=512_000_000)
    endpoints = frozenset(
        {CHAT, EMBEDDINGS, "/v1/fim/completions", "/v1/moderations", "/v1/chat/moderations", "/v1/ocr"}
        | {"/v1/classifications", "/v1/chat/classifications"}
    )
    jobs = ("batch", "jobs")
    bare_lines = True
    windows = range(1, 7 * 24 + 1)
    found_by = "metadata"
    # How many entries is not documented.
    keeps = (16, 32, 512)
    batch_price_factor = "0.5"
    expires = frozenset({"input"})
    facts = Facts("key", "strict, fitted", "yes", "yes", "until deleted")

    def translate(self, request: Request) -> Request:
        made = super().translate(request)
        known = {CHAT: CHAT_MEMBERS, EMBEDDINGS: EMBEDDING_MEMBERS}.get(made.endpoint)
        body = mistral_body(made.body, known) if known else made.body
        return made if body is made.body else made._replace(body=body)

    def input_expiry(self) -> dict[str, str]:
        seconds = self.options.expire_seconds
        return {"expiry": str(max(math.ceil(seconds / 3600), 1))} if seconds else {}

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        body = {
            "input_files": [ref],
            "endpoint": shard.endpoint,
            "model": shard.model or None,
            "timeout_hours": hours_of(self.window),
            **self.marks(shard),
            **self.options.create,
        }
        response = yield httpx.Request("POST", self.url(*self.jobs), json=body)
        return self.parse(self.expect(response, "the creation of a batch"))

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        page, size = int(after or 0), limit or self.page_size
        query = {"page": page, "page_size": size, "order_by": "-created"}
        response = yield httpx.Request("GET", self.url(*self.jobs, query=query))
        body = self.expect(response, "a listing of batches")
        items, total = readable(body.get("data"), self.parse), whole(body.get("total")) or 0
        return Page(items, str(page + 1) if items and (page + 1) * size < total else None)

    def parse(self, raw: dict[str, Any]) -> Batch:
        status = word(raw.get("status")) or ""
        failed = whole(raw.get("failed_requests"))
        outcome = OUTCOMES.get(status)
        if outcome == "completed" and failed:
            outcome = "partial"
        sent, given = raw.get("input_files"), (identifier(raw.get(name)) for name in ("output_file", "error_file"))
        return Batch(
            id=batch_id(raw),
            status=status,
            outcome=outcome,
            total=whole(raw.get("total_requests")),
            succeeded=whole(raw.get("succeeded_requests")),
            failed=failed,
            created_at=moment(raw.get("created_at")),
            input_ref=identifier(sent[0]) if isinstance(sent, list) and len(sent) == 1 else None,
            files=tuple(file for file in given if file),
            errors=errors_of(raw.get("errors")),
            metadata={str(k): text_of(v) or "" for k, v in members(raw.get("metadata")).items()},
            known=status in OUTCOMES or status in RUNNING,
        )
