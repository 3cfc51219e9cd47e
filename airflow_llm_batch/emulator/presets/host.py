"""The endpoints of one vendor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from airflow_llm_batch.emulator import openai
from airflow_llm_batch.emulator.batches import EmulatedBatch, StoredFile, Vendor
from airflow_llm_batch.emulator.charges import charge
from airflow_llm_batch.emulator.openai import Refusal
from airflow_llm_batch.emulator.openai_lines import answer_line, response_line, validate
from airflow_llm_batch.emulator.presets.manners import Manner

#: what routes an upload through LiteLLM, where its configuration has no files_settings
ROUTES = ("x-litellm-model", "custom-llm-provider")


class Host:
    """One vendor's API.

    :param name: of the vendor, and of its dialect.
    """

    def __init__(self, name: str, manner: Manner) -> None:
        self.name, self.manner = name, manner

    @contextmanager
    def words(self) -> Iterator[None]:
        """Refusals in the vendor's own shape."""
        try:
            yield
        except Refusal as refusal:
            refusal.body = self.manner.refusal(refusal.status, refusal.body)
            raise

    async def called(self, request: Request, vendor: Vendor) -> Response:
        with self.words():
            body = await openai.json_body(request)
            path = f"/v1{request.url.path.removeprefix(f'/{self.name}{self.manner.base}')}"
            if problem := self.manner.wrong(body):
                raise Refusal(400, problem)
            answer = await openai.answered(vendor, path, self.manner.understood(body), show=self.manner.shown)
            if self.manner.priced and isinstance(answer, JSONResponse):
                usage = json.loads(bytes(answer.body)).get("usage") or {}
                answer.headers["x-litellm-response-cost"] = str(charge(usage, 1).total)
            return answer

    async def upload(self, request: Request, vendor: Vendor) -> Any:
        with self.words():
            if self.manner.routed:
                await check_route(request)
            body = await openai.upload(request, vendor)
            return self.file_object(vendor.files[body["id"]])

    def file_object(self, stored: StoredFile) -> dict[str, Any]:
        return {name: value for name, value in openai.file_object(stored).items() if not name.startswith("status")}

    def preprocess(self, file_id: str, vendor: Vendor) -> dict[str, Any]:
        raise Refusal(404, "Not Found")

    async def create(self, request: Request, vendor: Vendor) -> Any:
        with self.words():
            body = await openai.json_body(request)
            key = self.name, request.headers.get("idempotency-key", "") if self.manner.idempotent else ""
            if made := vendor.keys.get(key):
                return self.created(vendor, vendor.batches[made])
            self.check_create(body)
            batch = openai.new_batch(vendor, self.name, body, openai.input_of(vendor, body))
            batch.window = body.get("completion_window", "24h")
            batch.id = self.manner.batch_id(batch.id)
            if not self.manner.metadata:
                batch.metadata = None
            source = vendor.files[body["input_file_id"]].path
            await run_in_threadpool(validate, vendor, batch, source, bare=self.manner.bare)
            openai.begin(vendor, batch)
            if key[1]:
                vendor.keys[key] = batch.id
            return self.created(vendor, batch)

    def check_create(self, body: dict[str, Any]) -> None:
        """:raises Refusal: for what is refused before the file is looked at."""
        for name in ("input_file_id", "endpoint"):
            if not body.get(name):
                raise Refusal(400, f"Missing required parameter: '{name}'.", "missing_required_parameter", name)
        if body["endpoint"] not in self.manner.endpoints:
            raise Refusal(400, f"Unsupported endpoint: '{body['endpoint']}'.", "invalid_value", "endpoint")
        if not self.manner.has_window(body.get("completion_window", "24h")):
            window = body["completion_window"]
            raise Refusal(400, f"Invalid completion window: '{window}'.", "invalid_value", "completion_window")
        if "output_expires_after" in body and not self.manner.expiry:
            raise Refusal(400, "output_expires_after is not supported.", "invalid_value", "output_expires_after")

    def listing(self, vendor: Vendor, after: str | None, limit: int) -> Any:
        with self.words():
            if self.manner.pages:
                return openai.page_of(vendor, self.name, after, limit, self.body)
            batches, _ = vendor.newest(self.name, None, len(vendor.batches))
            return self.whole([self.body(vendor, batch) for batch in batches])

    def get_batch(self, batch_id: str, vendor: Vendor) -> dict[str, Any]:
        with self.words():
            batch = openai.batch_of(vendor, batch_id, self.name)
            if self.manner.ends_once and batch.end_seen:
                raise Refusal(500, "Output file id is None cannot retrieve file content")
            body = self.body(vendor, batch)
            batch.end_seen = body["status"] in ("completed", "failed", "expired", "cancelled")
            return body

    def cancel(self, batch_id: str, vendor: Vendor) -> dict[str, Any]:
        with self.words():
            return self.body(vendor, openai.cancelled(openai.batch_of(vendor, batch_id, self.name)))

    def whole(self, batches: list[dict[str, Any]]) -> Any:
        """A listing that has no pages."""
        return {"object": "list", "data": batches}

    def created(self, vendor: Vendor, batch: EmulatedBatch) -> Any:
        return self.body(vendor, batch)

    def body(self, vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any]:
        """A batch as the vendor tells of it."""
        body = openai.batch_object(vendor, batch, self.answer)
        del body["model"]
        if self.manner.usage == "none":
            del body["usage"]
        if self.manner.usage == "always":
            body["usage"] = openai.usage_of(batch)
        return self.manner.batch(body, batch.problems)

    def answer(self, line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
        problem = self.manner.wrong(line["body"])
        if problem and unfinished is None:
            error = {"message": problem, "type": "invalid_request_error", "param": None, "code": None}
            return False, response_line(line["custom_id"], 400, {"error": error})
        good, made = answer_line({**line, "body": self.manner.understood(line["body"])}, unfinished)
        if good:
            made["response"]["body"] = self.manner.shown(made["response"]["body"])
        return good, made


async def check_route(request: Request) -> None:
    """:raises Refusal: for an upload that nothing routes, as a proxy without files_settings answers it."""
    form = await request.form()
    routed = any(request.headers.get(name) for name in ROUTES) or form.get("target_model_names") or form.get("model")
    if not routed and not request.query_params.get("model"):
        raise Refusal(500, "files_settings is not set, set it on your config.yaml file.")
