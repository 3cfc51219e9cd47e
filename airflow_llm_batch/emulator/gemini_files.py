"""Gemini's Files API: resumable uploads, and files that results lie in.

Source: ai.google.dev, Files API (media.upload, files), and google-genai, which drives it.
"""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from airflow_llm_batch.emulator.batches import StoredFile, Vendor
from airflow_llm_batch.emulator.google_api import (
    Held,
    Refusal,
    Route,
    json_body,
    members,
    paged,
    stamp,
    vendor_of,
)

MOST_BYTES = 2 * 2**30
#: seconds that an uploaded file is kept
KEPT = 48 * 3600
PURPOSE = "gemini"
router = APIRouter(route_class=Route)


@router.post("/upload/{version}/files")
async def upload(version: str, request: Request) -> Response:
    """The start of a resumable upload, and what is sent to its session."""
    vendor: Vendor = request.app.state.vendor
    if session := request.query_params.get("upload_id"):
        return await receive(request, vendor, session)
    vendor_of(request)
    headers = request.headers
    if headers.get("x-goog-upload-protocol") != "resumable" or headers.get("x-goog-upload-command") != "start":
        raise Refusal(400, "The emulator knows resumable uploads alone: X-Goog-Upload-Protocol and -Command.")
    length = headers.get("x-goog-upload-header-content-length", "")
    if not length.isdigit():
        raise Refusal(400, "X-Goog-Upload-Header-Content-Length is required.")
    if int(length) > MOST_BYTES:
        raise Refusal(400, f"The file has {int(length):,} bytes; the limit is {MOST_BYTES:,}.")
    file = members(await json_body(request), "file")
    name = str(file.get("name") or "").removeprefix("files/") or uuid.uuid4().hex[:12]
    if name in vendor.files:
        raise Refusal(409, f"File files/{name} already exists.", "ALREADY_EXISTS")
    kind = headers.get("x-goog-upload-header-content-type") or file.get("mimeType") or ""
    session = uuid.uuid4().hex
    vendor.uploads[session] = {"name": name, "display": file.get("displayName"), "mime": kind, "size": int(length)}
    url = request.url.replace_query_params(upload_id=session, upload_protocol="resumable")
    return JSONResponse({}, headers={"x-goog-upload-url": str(url), "x-goog-upload-status": "active"})


async def receive(request: Request, vendor: Vendor, session: str) -> Response:
    """A part of a file, or the last one."""
    open_one = vendor.uploads.get(session)
    if open_one is None:
        raise Refusal(404, "The upload session is not there, or over.")
    path = vendor.directory / session
    commands = {one.strip() for one in request.headers.get("x-goog-upload-command", "").split(",")}
    have = path.stat().st_size if path.exists() else 0
    if request.headers.get("x-goog-upload-offset") != str(have):
        raise Refusal(400, f"The offset is not {have}, which is what has been received.")
    with path.open("ab") as target:
        async for chunk in request.stream():
            target.write(chunk)
    if "finalize" not in commands:
        return JSONResponse({}, headers={"x-goog-upload-status": "active"})
    if path.stat().st_size != open_one["size"]:
        raise Refusal(400, f"{path.stat().st_size} bytes have come where {open_one['size']} were announced.")
    del vendor.uploads[session]
    now = time.time()
    stored = StoredFile(open_one["name"], path, open_one["display"] or "", PURPOSE, now, now + KEPT)
    stored.mime, stored.looks = open_one["mime"], vendor.settings.faults.processing
    vendor.files[stored.id] = stored
    return JSONResponse({"file": file_object(request, stored)}, headers={"x-goog-upload-status": "final"})


@router.get("/{version}/files")
def list_files(version: str, request: Request, vendor: Held) -> dict[str, Any]:
    names, after = paged(request, list(vendor.files)[::-1], 10)
    listed = {"files": [file_object(request, vendor.files[name]) for name in names], "nextPageToken": after}
    return {name: value for name, value in listed.items() if value}


@router.get("/{version}/files/{name}:download")
@router.get("/download/{version}/files/{name}:download")
def download(version: str, name: str, vendor: Held, alt: str = "json") -> Response:
    stored = file_of(vendor, name)
    if stored.purpose == PURPOSE:
        raise Refusal(400, f"File files/{name} was uploaded; only generated files can be downloaded.")
    if alt != "media":
        raise Refusal(400, "alt=media is required.")
    return FileResponse(stored.path, media_type="application/octet-stream")


@router.get("/{version}/files/{name}")
def get_file(version: str, name: str, request: Request, vendor: Held) -> dict[str, Any]:
    stored = file_of(vendor, name)
    stored.looks -= stored.looks > 0
    return file_object(request, stored)


@router.delete("/{version}/files/{name}")
def delete_file(version: str, name: str, vendor: Held) -> dict[str, Any]:
    file_of(vendor, name)
    del vendor.files[name]
    return {}


def file_of(vendor: Vendor, name: str) -> StoredFile:
    if name not in vendor.files:
        # The vendor does not tell what is not there from what is somebody else's.
        raise Refusal(403, f"You do not have permission to access the File {name} or it may not exist.")
    return vendor.files[name]


def file_object(request: Request, stored: StoredFile) -> dict[str, Any]:
    generated = stored.purpose != PURPOSE
    uri = f"{str(request.base_url).rstrip('/')}/v1beta/files/{stored.id}"
    digest = hashlib.sha256(stored.path.read_bytes()).hexdigest()
    file = {
        "name": f"files/{stored.id}",
        "displayName": stored.filename,
        "mimeType": stored.mime or "application/octet-stream",
        "sizeBytes": str(stored.path.stat().st_size),
        "createTime": stamp(stored.created_at),
        "updateTime": stamp(stored.created_at),
        "expirationTime": stamp(stored.expires_at or stored.created_at + KEPT),
        "sha256Hash": base64.b64encode(digest.encode()).decode(),
        "uri": uri,
        "downloadUri": f"{uri}:download?alt=media" if generated else None,
        "state": "PROCESSING" if stored.looks > 0 else "ACTIVE",
        "source": "GENERATED" if generated else "UPLOADED",
    }
    return {name: value for name, value in file.items() if value}
