"""Together's batches: OpenAI's with a wrapped create, a bare listing, capitals, and uploads that go round a corner.

Source: Together's batch guide and API reference, and ``together`` 3.1 (files, batches).
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import httpx
import msgspec

from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.models import Batch, Page
from airflow_llm_batch.providers.base import Flow
from airflow_llm_batch.providers.batches import identifier, readable
from airflow_llm_batch.providers.bodies import Payload, repeatable, streamed
from airflow_llm_batch.providers.coerce import members, whole
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.providers.presets.kin import Kin, facts


class Together(Kin):
    name = price_id = "together"
    title = "Together AI"
    documented = "https://docs.together.ai/docs/batch-inference"
    default_base_url = "https://api.together.ai/v1"
    hosts = re.compile(r"api\.together\.(ai|xyz)")
    # Half price for selected models, which change: no factor. Its jobs keep no metadata.
    pages = False
    bare_lines = True
    facts = facts("not documented")

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        checksum = hashlib.sha256()
        for chunk in content:
            checksum.update(chunk)
        fields = {"purpose": "batch-api", "file_name": filename, "file_type": "jsonl", "checksum": checksum.hexdigest()}
        parts = {name: (None, text) for name, text in {**fields, **self.options.form}.items()}
        asked = httpx.Request("POST", self.url("files"), files=parts)
        response = yield repeatable(asked)
        if known := known_file(response):
            # The same bytes were uploaded before, by a try of ours: they hold our ids.
            response = yield httpx.Request("GET", self.url("files", known))
            if whole(self.expect(response, f"a look at file {known}").get("bytes")) == content.size:
                return known
            # That upload broke off, and nothing can have been made of it.
            yield httpx.Request("DELETE", self.url("files", known))
            response = yield repeatable(asked)
        return (yield from self.placed(response, content))

    def placed(self, response: httpx.Response, content: Payload) -> Flow[str]:
        """Store a file where the vendor has said; returns its id."""
        place, file_id = response.headers.get("location"), response.headers.get("x-together-file-id")
        if response.status_code != httpx.codes.FOUND or not place or not file_id:
            self.expect(response, "the upload of an input file")
            raise VendorUnavailable(f"{self.title} named no place for the upload of an input file.")
        # Signed by itself: it gets no key of ours.
        url = httpx.URL(self.base_url).join(place)
        stored = yield repeatable(streamed("PUT", url, {}, content))
        if not stored.is_success:
            self.expect(stored, "the upload of an input file")
        response = yield repeatable(httpx.Request("POST", self.url("files", file_id, "preprocess")))
        self.expect(response, "the processing of an input file")
        return str(file_id)

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        response = yield httpx.Request("GET", self.url("batches"))
        if response.is_success and response.content.lstrip().startswith(b"["):
            return Page(readable(msgspec.json.decode(response.content), self.parse), None)
        return Page(readable(self.expect(response, "a listing of batches").get("data"), self.parse), None)

    def parse(self, raw: dict[str, Any]) -> Batch:
        return super().parse(dict(members(raw.get("job"))) or raw)


def known_file(response: httpx.Response) -> str | None:
    """The id of the file that a refusal names; None where it is none, or names none."""
    if response.status_code != httpx.codes.CONFLICT:
        return None
    try:
        return identifier(parse_line(response.content).get("file_id"))
    except ValueError:
        return None
