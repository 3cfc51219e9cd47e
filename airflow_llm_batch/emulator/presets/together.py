"""Together's files and jobs.

Source: ``together`` 3.1 (``lib/resources/files.py``, ``types/batch_job.py``), Together's batch guide. Whether a file is
known by its checksum before its content has come is not documented: here it is, for the worse.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from airflow_llm_batch.emulator import openai
from airflow_llm_batch.emulator.batches import EmulatedBatch, StoredFile, Vendor
from airflow_llm_batch.emulator.openai import Refusal
from airflow_llm_batch.emulator.presets.host import Host
from airflow_llm_batch.emulator.presets.manners import iso

STORE = "/together/store"


class Together(Host):
    """Together's API."""

    async def upload(self, request: Request, vendor: Vendor) -> Any:
        form = {name: str(value) for name, value in (await request.form()).items()}
        for name in ("purpose", "file_name", "file_type", "checksum"):
            if not form.get(name):
                raise Refusal(400, f"Missing form field: {name}")
        if form["purpose"] != "batch-api":
            raise Refusal(400, f"Invalid purpose: {form['purpose']}")
        for known in vendor.files.values():
            if known.mime == form["checksum"]:
                return JSONResponse({"error": "File already exists", "file_id": known.id}, 409)
        stored = vendor.new_file(form["file_name"], "batch-api")
        stored.mime = form["checksum"]
        # By another name of this machine, as the vendor's store is another host: no key may follow there.
        place = f"http://localhost:{request.url.port}{STORE}/{stored.id}?signature=1"
        return Response(status_code=302, headers={"location": place, "x-together-file-id": stored.id})

    @staticmethod
    async def store(file_id: str, request: Request) -> Response:
        """A file's content, at the address that an upload was told."""
        vendor: Vendor = request.app.state.vendor
        if request.headers.get("authorization"):
            return Response("<Error><Code>InvalidArgument</Code></Error>", 400)
        if file_id not in vendor.files or not request.query_params.get("signature"):
            return Response("<Error><Code>AccessDenied</Code></Error>", 403)
        content = await request.body()
        await run_in_threadpool(vendor.files[file_id].path.write_bytes, content)
        return Response(status_code=200)

    def preprocess(self, file_id: str, vendor: Vendor) -> dict[str, Any]:
        stored = openai.file_of(vendor, file_id)
        if not stored.path.exists():
            raise Refusal(400, "The file was not uploaded.")
        stored.purpose = "batch"
        return self.file_object(stored)

    def file_object(self, stored: StoredFile) -> dict[str, Any]:
        # It learns a file's size when it looks at the content.
        size = stored.path.stat().st_size if stored.purpose != "batch-api" else 0
        about = {"filename": stored.filename, "purpose": "batch-api", "FileType": "jsonl"}
        return {"id": stored.id, "object": "file", "bytes": size, "created_at": int(stored.created_at), **about}

    def whole(self, batches: list[dict[str, Any]]) -> Any:
        return batches

    def created(self, vendor: Vendor, batch: EmulatedBatch) -> Any:
        return JSONResponse({"job": self.body(vendor, batch), "warning": ""}, 201)

    def body(self, vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any]:
        body = openai.batch_object(vendor, batch, self.answer)
        words = {"finalizing": "IN_PROGRESS", "cancelling": "IN_PROGRESS"}
        counts = body["request_counts"]
        done = (counts["completed"] + counts["failed"]) / batch.total if batch.total else 0
        problems = [problem["message"] for problem in batch.problems]
        over = body["completed_at"] or body["failed_at"] or body["expired_at"] or body["cancelled_at"]
        return {
            "id": batch.id,
            "user_id": "user_1",
            "input_file_id": batch.input_file_id,
            "file_size_bytes": batch.lines.stat().st_size,
            "status": words.get(body["status"], body["status"].upper()),
            "job_deadline": iso(body["expires_at"]),
            "created_at": iso(body["created_at"]),
            "endpoint": batch.endpoint,
            "progress": round(100 * done, 1),
            "model_id": batch.model,
            "output_file_id": body["output_file_id"],
            "error_file_id": body["error_file_id"],
            "error": "; ".join(problems) if body["status"] == "failed" else None,
            "completed_at": over and iso(over),
        }

    def answer(self, line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
        good, made = super().answer(line, unfinished)
        response = made["response"]
        if good:
            answered = {"status_code": 200, "body": response["body"]}
            return True, {"custom_id": made["custom_id"], "response": answered}
        problem = made["error"] or response["body"]["error"]
        error = {"message": problem["message"], "code": problem["code"] or problem["type"]}
        return False, {"custom_id": made["custom_id"], "error": error}
