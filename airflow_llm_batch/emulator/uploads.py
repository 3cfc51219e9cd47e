"""OpenAI's uploads: a large file in parts, then completed into one. Source: OpenAI's API reference (uploads)."""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from airflow_llm_batch.emulator.batches import Vendor
from airflow_llm_batch.emulator.openai import Held, Refusal, file_object, json_body

MOST_PART = 64 * 2**20
router = APIRouter(prefix="/v1/uploads")


@dataclass
class Upload:
    filename: str
    purpose: str
    bytes: int
    id: str = field(default_factory=lambda: f"upload_{uuid.uuid4().hex[:24]}")
    status: str = "pending"
    created_at: float = field(default_factory=time.time)
    parts: dict[str, Path] = field(default_factory=dict)
    file: dict[str, Any] | None = None

    def view(self) -> dict[str, Any]:
        return {
            "id": self.id, "object": "upload", "bytes": self.bytes, "created_at": int(self.created_at),
            "filename": self.filename, "purpose": self.purpose, "status": self.status,
            "expires_at": int(self.created_at) + 3600, "file": self.file,
        }  # fmt: skip


def upload_of(vendor: Vendor, upload_id: str) -> Upload:
    """:raises Refusal: for one that is not there, or not open any more."""
    upload: Upload | None = vendor.uploads.get(upload_id)
    if upload is None:
        raise Refusal(404, f"No such Upload object: {upload_id}", param="id")
    if upload.status != "pending":
        raise Refusal(400, f"Upload {upload_id} is {upload.status}.")
    return upload


@router.post("")
async def begin(request: Request, vendor: Held) -> dict[str, Any]:
    body = await json_body(request)
    for name in ("filename", "purpose", "bytes", "mime_type"):
        if not body.get(name):
            raise Refusal(400, f"Missing required parameter: '{name}'.", "missing_required_parameter", name)
    upload = Upload(body["filename"], body["purpose"], body["bytes"])
    vendor.uploads[upload.id] = upload
    return upload.view()


@router.post("/{upload_id}/parts")
async def add_part(upload_id: str, request: Request, vendor: Held) -> dict[str, Any]:
    upload = upload_of(vendor, upload_id)
    data = (await request.form()).get("data")
    if not isinstance(data, UploadFile) or (data.size or 0) > MOST_PART:
        raise Refusal(400, "Missing required parameter: 'data', of at most 64 MB.", param="data")
    part_id = f"part_{uuid.uuid4().hex[:24]}"
    path = vendor.directory / part_id
    content = await data.read()
    await run_in_threadpool(path.write_bytes, content)
    upload.parts[part_id] = path
    return {"id": part_id, "object": "upload.part", "created_at": int(time.time()), "upload_id": upload_id}


@router.post("/{upload_id}/complete")
async def complete(upload_id: str, request: Request, vendor: Held) -> dict[str, Any]:
    upload, body = upload_of(vendor, upload_id), await json_body(request)
    wanted = body.get("part_ids") or []
    if not wanted or any(part not in upload.parts for part in wanted):
        raise Refusal(400, "Invalid 'part_ids': parts of this upload, in their order.", param="part_ids")
    content = b"".join(upload.parts[part].read_bytes() for part in wanted)
    if len(content) != upload.bytes:
        raise Refusal(400, f"The parts have {len(content)} bytes where the upload has {upload.bytes}.")
    if body.get("md5") not in (None, hashlib.md5(content, usedforsecurity=False).hexdigest()):
        raise Refusal(400, "The md5 does not match.", param="md5")
    stored = vendor.new_file(upload.filename, upload.purpose)
    stored.path.write_bytes(content)
    upload.status, upload.file = "completed", file_object(stored)
    return upload.view()


@router.post("/{upload_id}/cancel")
def cancel(upload_id: str, vendor: Held) -> dict[str, Any]:
    upload = upload_of(vendor, upload_id)
    upload.status = "cancelled"
    return upload.view()
