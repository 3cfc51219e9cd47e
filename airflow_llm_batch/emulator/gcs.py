"""Google Cloud Storage, as far as batches and job directories need it: whole objects, ranges, listings, preconditions.

Source: the JSON API's reference (cloud.google.com/storage/docs/json_api). A bucket is there as soon as it is named.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

NAME = "gcs"
PREFIXES = ("/storage/v1/", "/upload/storage/v1/", "/download/storage/v1/", "/batch/storage/v1")
MOST_LISTED = 1000
REASONS = {400: "invalid", 404: "notFound", 412: "conditionNotMet", 499: "cancelled", 500: "backendError"}
LOCK = threading.Lock()


def owns(path: str) -> bool:
    """Whether a path is one of the store's."""
    return path.startswith(PREFIXES)


class Refusal(Exception):
    """An error answer in the JSON API's shape."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        reason = {"message": message, "domain": "global", "reason": code or REASONS.get(status, "backendError")}
        self.body = {"error": {"code": status, "message": message, "errors": [reason]}}


@dataclass
class StoredObject:
    """One object; a new writing of it is a new generation in a new file."""

    bucket: str
    name: str
    path: Path
    size: int
    md5: str
    generation: int
    created_at: float
    content_type: str = "application/octet-stream"
    metadata: dict[str, str] = field(default_factory=dict)

    def resource(self, base: str) -> dict[str, Any]:
        at = datetime.fromtimestamp(self.created_at, UTC).isoformat().replace("+00:00", "Z")
        link = f"{base}/download/storage/v1/b/{self.bucket}/o/{quote(self.name, safe='')}?alt=media"
        return {
            "kind": "storage#object", "id": f"{self.bucket}/{self.name}/{self.generation}", "name": self.name,
            "bucket": self.bucket, "generation": str(self.generation), "metageneration": "1", "mediaLink": link,
            "contentType": self.content_type, "size": str(self.size), "md5Hash": self.md5, "etag": self.md5,
            "timeCreated": at, "updated": at, "storageClass": "STANDARD", "metadata": self.metadata,
        }  # fmt: skip


@dataclass
class Session:
    """A resumable upload that is under way; ``match`` is the generation it must find."""

    bucket: str
    about: dict[str, Any]
    match: str | None
    parts: bytearray = field(default_factory=bytearray)


class Store:
    """The objects of all buckets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.objects: dict[tuple[str, str], StoredObject] = {}
        self.sessions: dict[str, Session] = {}
        self.generation = time.time_ns() // 1000

    def clear(self) -> None:
        self.objects.clear()
        self.sessions.clear()

    def write(self, bucket: str, about: Mapping[str, Any], data: bytes, match: str | None = None) -> StoredObject:
        """:param match: the generation that has to be there, "0" for none.

        :raises Refusal: when another one is.
        """
        path = self.directory / f"object-{uuid.uuid4().hex}"
        path.write_bytes(data)
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        key = bucket, str(about["name"])
        with LOCK:
            self.check(key, match)
            self.generation += 1
            kind = about.get("contentType") or "application/octet-stream"
            made = StoredObject(*key, path, len(data), digest, self.generation, time.time(), kind)
            made.metadata = dict(about.get("metadata") or {})
            self.objects[key] = made
        return made

    def check(self, key: tuple[str, str], match: str | None) -> None:
        there = self.objects.get(key)
        if match is not None and match != str(there.generation if there else 0):
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")

    def get(self, bucket: str, name: str) -> StoredObject:
        """:raises Refusal: when it is not there."""
        found = self.objects.get((bucket, name))
        if found is None:
            raise Refusal(404, f"No such object: {bucket}/{name}")
        return found

    def delete(self, bucket: str, name: str) -> None:
        self.get(bucket, name)
        del self.objects[bucket, name]

    def below(self, bucket: str, prefix: str) -> list[StoredObject]:
        found = (o for (b, name), o in list(self.objects.items()) if b == bucket and name.startswith(prefix))
        return sorted(found, key=lambda o: o.name)


def store_of(request: Request) -> Store:
    found: Store = request.app.state.store
    return found


def shown(request: Request, stored: StoredObject) -> JSONResponse:
    return JSONResponse(stored.resource(str(request.base_url).rstrip("/")))


router = APIRouter()


@router.get("/storage/v1/b/{bucket}")
def get_bucket(bucket: str) -> dict[str, Any]:
    return {"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "US", "locationType": "multi-region"}


@router.get("/storage/v1/b/{bucket}/storageLayout")
def layout(bucket: str) -> dict[str, Any]:
    return {"bucket": bucket, "location": "US", "locationType": "multi-region"}


@router.get("/storage/v1/b/{bucket}/o")
def listing(
    bucket: str,
    request: Request,
    prefix: str = "",
    delimiter: str = "",
    most: Annotated[int, Query(alias="maxResults")] = MOST_LISTED,
    token: Annotated[str, Query(alias="pageToken")] = "",
) -> dict[str, Any]:
    """Objects below a prefix by name; with a delimiter, those of this level, and the prefixes of deeper ones."""
    base = str(request.base_url).rstrip("/")
    entries: dict[str, StoredObject | None] = {}
    for stored in store_of(request).below(bucket, prefix):
        rest, cut, _ = stored.name[len(prefix) :].partition(delimiter) if delimiter else (stored.name, "", "")
        entries.setdefault(*((prefix + rest + delimiter, None) if cut else (stored.name, stored)))
    names = [name for name in sorted(entries) if name > token]
    page = names[: min(most, MOST_LISTED)]
    answer: dict[str, Any] = {
        "kind": "storage#objects",
        "items": [found.resource(base) for name in page if (found := entries[name]) is not None],
        "prefixes": [name for name in page if entries[name] is None],
    }
    return {**answer, "nextPageToken": page[-1]} if len(names) > len(page) else answer


@router.get("/storage/v1/b/{bucket}/o/{name:path}")
@router.get("/download/storage/v1/b/{bucket}/o/{name:path}")
def read(bucket: str, name: str, request: Request, alt: str = "json") -> Response:
    stored = store_of(request).get(bucket, name)
    if alt != "media":
        return shown(request, stored)
    return FileResponse(stored.path, media_type=stored.content_type)


@router.delete("/storage/v1/b/{bucket}/o/{name:path}")
def delete(bucket: str, name: str, request: Request) -> Response:
    store_of(request).delete(bucket, name)
    return Response(status_code=204)


@router.post("/storage/v1/b/{bucket}/o/{name:path}/rewriteTo/b/{to_bucket}/o/{to_name:path}")
def rewrite(bucket: str, name: str, to_bucket: str, to_name: str, request: Request) -> dict[str, Any]:
    store = store_of(request)
    source = store.get(bucket, name)
    made = store.write(to_bucket, {"name": to_name, "contentType": source.content_type}, source.path.read_bytes())
    size = str(made.size)
    resource = made.resource(str(request.base_url).rstrip("/"))
    return {"done": True, "totalBytesRewritten": size, "objectSize": size, "resource": resource}


@router.post("/upload/storage/v1/b/{bucket}/o")
@router.put("/upload/storage/v1/b/{bucket}/o")
async def upload(bucket: str, request: Request) -> Response:
    """All three ways: the content alone, the content with its description, and piece by piece."""
    store, query, body = store_of(request), request.query_params, await request.body()
    match = query.get("ifGenerationMatch")
    if session_id := query.get("upload_id"):
        return piece(request, store, session_id, body)
    kind = query.get("uploadType")
    if kind == "media":
        about = {"name": query.get("name"), "contentType": request.headers.get("content-type")}
        return shown(request, store.write(bucket, named(about), body, match))
    if kind == "multipart":
        about, data = two_parts(request.headers.get("content-type", ""), body)
        return shown(request, store.write(bucket, named(about), data, match))
    if kind != "resumable":
        raise Refusal(400, f"Invalid uploadType: {kind}")
    given = described(body) if body.strip() else {}
    about = named({"name": query.get("name"), **given})
    about.setdefault("contentType", request.headers.get("x-upload-content-type"))
    store.check((bucket, str(about["name"])), match)
    session_id = uuid.uuid4().hex
    store.sessions[session_id] = Session(bucket, about, match)
    where = f"{request.base_url}upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={session_id}"
    return Response(headers={"location": where})


@router.delete("/upload/storage/v1/b/{bucket}/o")
def abandon(bucket: str, request: Request) -> Response:
    store_of(request).sessions.pop(request.query_params.get("upload_id", ""), None)
    return Response(status_code=499)


def piece(request: Request, store: Store, session_id: str, body: bytes) -> Response:
    """A piece of a resumable upload; 308 tells how much has come, until the last one has."""
    session = store.sessions.get(session_id)
    if session is None:
        raise Refusal(404, "No such upload session.")
    said = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers.get("content-range", ""))
    if said and said[1] is not None and int(said[1]) != len(session.parts):
        raise Refusal(503, f"The piece begins at {said[1]}; {len(session.parts)} bytes have come.")
    session.parts += body
    if said and (said[3] == "*" or int(said[3]) > len(session.parts)):
        came = {"range": f"bytes=0-{len(session.parts) - 1}"} if session.parts else {}
        return Response(status_code=308, headers=came)
    made = store.write(session.bucket, session.about, bytes(session.parts), session.match)
    del store.sessions[session_id]
    return shown(request, made)


def named(about: dict[str, Any]) -> dict[str, Any]:
    if not about.get("name"):
        raise Refusal(400, "Required parameter: name")
    return about


def two_parts(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The description and the content of a ``multipart/related`` body."""
    found = re.search(r"boundary=[\"']?([^\"';]+)", content_type)
    if found is None:
        raise Refusal(400, "Malformed multipart body.")
    mark = b"--" + found[1].encode()
    parts = re.split(rb"(?:^|\r?\n)" + re.escape(mark) + rb"(?:--)?[ \t]*(?:\r?\n|$)", body)
    bodies = [re.split(rb"\r?\n\r?\n", part, maxsplit=1) for part in parts if part.strip()]
    if len(bodies) != 2 or any(len(part) != 2 for part in bodies):
        raise Refusal(400, "Malformed multipart body.")
    about = described(bodies[0][1])
    kind = re.search(rb"content-type:\s*(\S+)", bodies[1][0], re.IGNORECASE)
    about.setdefault("contentType", kind[1].decode() if kind else None)
    return about, bodies[1][1]


def described(body: bytes) -> dict[str, Any]:
    try:
        about = msgspec.json.decode(body)
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise Refusal(400, "Parse Error")
    return about


@router.post("/batch/storage/v1")
async def several(request: Request) -> Response:
    """Deletions sent together, each answered for itself."""
    store, answers = store_of(request), []
    body = (await request.body()).decode()
    for bucket, name in re.findall(r"DELETE /storage/v1/b/([^/ ]+)/o/(\S+?)(?:\?\S*)? HTTP", body):
        try:
            store.delete(unquote(bucket), unquote(name))
            answers.append("HTTP/1.1 204 No Content\r\n\r\n")
        except Refusal as refusal:
            text = msgspec.json.encode(refusal.body).decode()
            answers.append(f"HTTP/1.1 {refusal.status} Not Found\r\nContent-Type: application/json\r\n\r\n{text}\r\n")
    mark = f"batch_{uuid.uuid4().hex}"
    parts = "".join(f"--{mark}\r\nContent-Type: application/http\r\n\r\n{answer}\r\n" for answer in answers)
    return Response(f"{parts}--{mark}--", media_type=f"multipart/mixed; boundary={mark}")
