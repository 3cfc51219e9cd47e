"""Fireworks' batch inference jobs: of datasets, under ids that the client chooses, results behind signed addresses.

Source: docs.fireworks.ai (batch inference, API reference of datasets and jobs), ``fireworks-ai`` 1.2, Google's
documentation of signed URLs (each header that is signed has to be sent), and what
OpenRouter has seen of it (github.com/OpenRouterTeam/docs, batch research): one bad row fails the whole job, answers
stand in a line as they are, a job is cancelled by its deletion, and its results go with it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import httpx
from pydantic import Field

from airflow_llm_batch.exceptions import ConfigurationError, VendorUnavailable
from airflow_llm_batch.models import Batch, Limits, Outcome, Page, Shard
from airflow_llm_batch.providers.base import Batches, Facts, Flow, address
from airflow_llm_batch.providers.batches import batch_id as checked_id
from airflow_llm_batch.providers.batches import identifier, moment, readable
from airflow_llm_batch.providers.bodies import (
    Call,
    Located,
    Payload,
    Source,
    after,
    encode_multipart,
    repeatable,
    streamed,
    with_members,
)
from airflow_llm_batch.providers.coerce import members, objects, text_of, whole, word
from airflow_llm_batch.providers.openai.models import refuse
from airflow_llm_batch.providers.openai.protocol import CHAT, FileOptions, Sent
from airflow_llm_batch.providers.options import FORM, Text
from airflow_llm_batch.providers.presets.kin import Kin
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

OUTCOMES: dict[str, Outcome] = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    # Both keep what was done.
    "EXPIRED": "expired",
    "EARLY_STOPPED": "expired",
    **dict.fromkeys(("CANCELLED", "DELETING", "DELETING_CLEANING_UP", "DELETED", "ARCHIVED"), "cancelled"),
}
RUNNING = frozenset(
    {"UNSPECIFIED", "VALIDATING", "CREATING_INPUT_DATASET", "PENDING", "CREATING", "RUNNING", "RE_QUEUEING", "IDLE"}
    | {"PAUSED", "WRITING_RESULTS", "CANCELLING"}
)
#: those of them whose results can be fetched
GIVEN = frozenset({"COMPLETED", "EXPIRED", "EARLY_STOPPED", "CANCELLED"})
#: begins the ids that we choose
OURS = "llm-batch-"
ROLES = frozenset({"system", "user", "assistant", "tool"})
#: bytes of an upload in one piece; more is put where the vendor says
MOST_AT_ONCE = 150_000_000
#: the header by which a signed address is good for a file of that size alone
SIZED = "x-goog-content-length-range"
#: looks at a dataset that is being processed
MOST_LOOKS = 60


class FireworksOptions(FileOptions):
    account: Text = Field(None, description="Fireworks account id, as its addresses have it.", json_schema_extra=FORM)


class Fireworks(Kin):
    name = price_id = "fireworks"
    title = "Fireworks AI"
    documented = "https://docs.fireworks.ai/guides/batch-inference"
    Options = FireworksOptions
    options: FireworksOptions
    default_base_url = "https://api.fireworks.ai"
    # "Under 500 MB", of any number of requests: with one that is bad all fail, so batches are kept moderate.
    default_limits: ClassVar[Limits] = Limits(requests=50_000, bytes=499_000_000)
    found_by = "client token"
    is_idempotent = True
    page_size = 200
    batch_price_factor = "0.5"
    facts = Facts("key", "as the model can", "as the model can", "as the model can", "until deleted")

    def normalize(self, base_url: str) -> str:
        return base_url.removesuffix("/v1").removesuffix("/inference")

    def at(self, *parts: str, verb: str = "", query: Mapping[str, Any] | None = None) -> httpx.URL:
        """An address below the account; ``verb`` is what follows a colon, which must not be encoded.

        :raises ConfigurationError: without an account.
        """
        if not self.options.account:
            raise ConfigurationError(
                "Fireworks' batches lie below an account: set 'account' in the connection's extra, for example "
                '"account": "my-account". Nothing was sent.'
            )
        url = address(f"{self.url('v1', 'accounts', self.options.account, *parts).copy_with(query=None)}{verb}")
        asked = {**self.options.query, **{k: v for k, v in (query or {}).items() if v is not None}}
        return url.copy_merge_params(asked) if asked else url

    def discounts_stack(self, model: str) -> bool:
        # "Additional 50% cost savings on cached tokens".
        return True

    def fitted(self, body: dict[str, Any]) -> dict[str, Any]:
        messages = objects(body.get("messages"))
        roles = {str(message.get("role")) for message in messages}
        if roles <= ROLES:
            return super().fitted(body)
        if wrong := sorted(roles - ROLES - {"developer"}):
            refuse(f"Fireworks takes no message of role {wrong[0]!r}", f"use one of {', '.join(sorted(ROLES))}")
        plain = [{**m, "role": "system"} if m.get("role") == "developer" else m for m in messages]
        return super().fitted({**body, "messages": plain})

    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        # The model is the job's.
        body = {name: value for name, value in request.body.items() if name != "model"}
        return {"custom_id": custom_id, "body": body}

    def request_of(self, line: Mapping[str, Any], shard: Shard) -> Request:
        return Request(CHAT, {"model": shard.model, **line["body"]})

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        name = OURS + secrets.token_hex(12)
        rows = sum(chunk.count(b"\n") for chunk in content)
        about = {"datasetId": name, "dataset": {"userUploaded": {}, "exampleCount": str(rows), "format": "CHAT"}}
        response = yield repeatable(httpx.Request("POST", self.at("datasets"), json=about))
        # Nobody else has the id: it was made by this request, whose answer was lost.
        if response.status_code != httpx.codes.CONFLICT:
            self.expect(response, "the creation of a dataset")
        if content.size > MOST_AT_ONCE:
            yield from self.put(name, filename, content)
        else:
            headers, body = encode_multipart(self.options.form, filename, content)
            response = yield repeatable(streamed("POST", self.at("datasets", name, verb=":upload"), headers, body))
            self.expect(response, "the upload of a dataset")
        for look in range(MOST_LOOKS):
            request = httpx.Request("GET", self.at("datasets", name))
            response = yield after(min(0.5 * 2**look, 10.0), request) if look else request
            if self.expect(response, f"a look at dataset {name}").get("state") == "READY":
                return name
        raise VendorUnavailable(f"{self.title} is still processing the dataset {name}.")

    def put(self, name: str, filename: str, content: Payload) -> Flow[None]:
        """Fill a dataset by an address that is signed for this file; it gets no key of ours.

        :raises VendorUnavailable: where the vendor names none.
        """
        asked = {"filenameToSize": {filename: str(content.size)}}
        response = yield repeatable(
            httpx.Request("POST", self.at("datasets", name, verb=":getUploadEndpoint"), json=asked)
        )
        urls = members(self.expect(response, "the address for an upload").get("filenameToSignedUrls"))
        place = identifier(urls.get(filename))
        if place is None:
            raise VendorUnavailable(f"{self.title} named no place for the upload of a dataset.")
        url = httpx.URL(self.base_url).join(place)
        response = yield repeatable(streamed("PUT", url, signed_headers(url, content.size), content))
        if not response.is_success:
            self.expect(response, "the upload of a dataset")
        url = self.at("datasets", name, verb=":validateUpload")
        response = yield repeatable(httpx.Request("POST", url, json={}))
        self.expect(response, "the check of an upload")

    def job_id(self, shard: Shard) -> str:
        """The id of a shard's job: of another planning of the same rows it is another."""
        return OURS + hashlib.sha256(f"{shard.key}-{shard.token}".encode()).hexdigest()[:32]

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        chosen = self.job_id(shard) if shard.key else OURS + secrets.token_hex(16)
        body = {"model": shard.model, "inputDatasetId": self.dataset(ref or ""), **self.options.create}
        url = self.at("batchInferenceJobs", query={"batchInferenceJobId": chosen})
        response = yield httpx.Request("POST", url, json=body)
        if response.status_code == httpx.codes.CONFLICT:
            # It is there: an earlier try has made it.
            return (yield from self.get(chosen))
        return self.parse(self.expect(response, "the creation of a batch"))

    def dataset(self, name: str) -> str:
        return f"accounts/{self.options.account}/datasets/{name}"

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        response = yield httpx.Request("GET", self.at("batchInferenceJobs", self.job_id(shard)))
        if response.status_code == httpx.codes.NOT_FOUND:
            return []
        return [self.parse(self.expect(response, "the search for a batch"))]

    def get(self, batch_id: str) -> Flow[Batch]:
        response = yield httpx.Request("GET", self.at("batchInferenceJobs", batch_id))
        if response.status_code == httpx.codes.NOT_FOUND and batch_id.startswith(OURS):
            # What is cancelled is deleted, and gone after a while.
            return Batch(id=batch_id, status="DELETED", outcome="cancelled")
        return self.parse(self.expect(response, f"a look at batch {batch_id}"))

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        query = {"pageSize": limit or self.page_size, "pageToken": after}
        response = yield httpx.Request("GET", self.at("batchInferenceJobs", query=query))
        body = self.expect(response, "a listing of batches")
        return Page(readable(body.get("batchInferenceJobs"), self.parse), identifier(body.get("nextPageToken")))

    def cancel(self, batch_id: str) -> Flow[Batch]:
        batch = yield from self.get(batch_id)
        if batch.outcome is None:
            response = yield repeatable(httpx.Request("DELETE", self.at("batchInferenceJobs", batch_id)))
            if response.status_code != httpx.codes.NOT_FOUND:
                self.expect(response, f"the cancellation of batch {batch_id}")
            batch = yield from self.get(batch_id)
        return batch

    def parse(self, raw: dict[str, Any]) -> Batch:
        state = (word(raw.get("state")) or "").removeprefix("JOB_STATE_")
        done, status = members(raw.get("jobProgress")), members(raw.get("status"))
        failed, outcome = whole(done.get("failedRequests")), OUTCOMES.get(state)
        if outcome == "completed" and failed:
            outcome = "partial"
        # The first is what was declared; the second falls short where a job ended early.
        totals = [whole(done.get(name)) or 0 for name in ("totalInputRequests", "totalProcessedRequests")]
        output = short(raw.get("outputDatasetId"))
        wrong = word(status.get("code")) not in (None, "OK")
        return Batch(
            id=checked_id({"id": short(raw.get("name"))}),
            status=state,
            outcome=outcome,
            total=max(totals) or None,
            succeeded=whole(done.get("successfullyProcessedRequests")),
            failed=failed,
            created_at=moment(raw.get("createTime")),
            input_ref=short(raw.get("inputDatasetId")),
            files=(output,) if output and state in GIVEN else (),
            errors=((word(status["code"]) or "", text_of(status.get("message")) or ""),) if wrong else (),
            known=state in OUTCOMES or state in RUNNING,
        )

    def results(self, batch: Batch) -> Sequence[Source]:
        return [self.source(name) for name in batch.files]

    def inputs(self, batch: Batch) -> Sequence[Source]:
        return [self.source(batch.input_ref)] if batch.input_ref else []

    def source(self, dataset: str) -> Located:
        """A dataset's files, each behind an address that is signed for some minutes and gets no key of ours."""

        def read(response: httpx.Response) -> Sequence[httpx.Request]:
            addresses = self.expect(response, f"the addresses of dataset {dataset}")
            urls = members(addresses.get("filenameToSignedUrls"))
            return [httpx.Request("GET", httpx.URL(self.base_url).join(str(urls[name]))) for name in sorted(urls)]

        return Located(httpx.Request("GET", self.at("datasets", dataset, verb=":getDownloadEndpoint")), read)

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        datasets = [batch.input_ref, *(batch.files if scope == "all" else ())]
        deleted = 0
        for name in filter(None, datasets):
            response = yield httpx.Request("DELETE", self.at("datasets", name))
            if response.status_code != httpx.codes.NOT_FOUND:
                self.expect(response, f"the deletion of dataset {name}")
                deleted += 1
        return deleted

    def called_at(self, sent: Sent, shard: Shard) -> list[str]:  # type: ignore[valid-type]  # list is a method here
        return ["inference", "v1", "chat", "completions"]

    def call(self, line: bytes, shard: Shard) -> Call:
        call = super().call(line, shard)
        return call._replace(body=with_members(call.body, {"model": shard.model}))

    def decode(self, line: dict[str, Any]) -> Result:
        response = members(line.get("response"))
        if response and "status_code" not in response:
            line = {**line, "response": {"status_code": 200, "body": dict(response)}}
        return super().decode(line)


def signed_headers(url: httpx.URL, size: int) -> dict[str, str]:
    """The headers that a signed address wants to see, as Fireworks signs them for a file of ``size`` bytes."""
    known = {"content-type": "application/octet-stream", SIZED: f"{size},{size}"}
    query = {name.lower(): value for name, value in url.params.items()}
    signed = query.get("x-goog-signedheaders", "").lower().split(";")
    return {name: value for name, value in known.items() if name in signed}


def short(name: Any) -> str | None:
    """The last part of a resource's name."""
    return (identifier(name) or "").rpartition("/")[2] or None
