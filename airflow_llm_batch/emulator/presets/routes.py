"""All vendors of OpenAI's kind as one dialect: one set of routes, and the vendor is in the path."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.convertors import StringConvertor, register_url_convertor

from airflow_llm_batch.emulator import openai
from airflow_llm_batch.emulator.openai import Held, Refusal
from airflow_llm_batch.emulator.presets.host import Host
from airflow_llm_batch.emulator.presets.manners import MANNERS
from airflow_llm_batch.emulator.presets.together import Together

HOSTS = {name: Together(name, made) if name == "together" else Host(name, made) for name, made in MANNERS.items()}


class Named(StringConvertor):
    """A vendor's name, as a part of a path."""

    regex = "|".join(MANNERS)


register_url_convertor("preset", Named())


def owns(path: str) -> bool:
    """Whether a path is one of theirs."""
    return path.split("/")[1] in MANNERS


def host_of(host: str, base: str) -> Host:
    """:raises Refusal: for a path that the vendor's API does not begin with."""
    if f"/{base}" != HOSTS[host].manner.base:
        raise Refusal(404, "Not Found")
    return HOSTS[host]


def batching(host: Annotated[Host, Depends(host_of)]) -> Host:
    """:raises Refusal: for a server that has no batches."""
    if not host.manner.batches:
        raise Refusal(404, "Not Found")
    return host


Asked = Annotated[Host, Depends(batching)]
AnyHost = Annotated[Host, Depends(host_of)]
router = APIRouter()
api = APIRouter(prefix="/{host:preset}/{base:path}")


@api.get("/models")
def models(host: AnyHost, vendor: Held) -> dict[str, Any]:
    return {"object": "list", "data": [openai.model(name) for name in openai.MODELS]}


# Registered from the last one up: /completions would take /chat/completions for its own.
@api.post("/responses")
@api.post("/embeddings")
@api.post("/completions")
@api.post("/chat/completions")
async def called(host: AnyHost, request: Request, vendor: Held) -> Response:
    return await host.called(request, vendor)


@api.post("/files")
async def upload(host: Asked, request: Request, vendor: Held) -> Any:
    return await host.upload(request, vendor)


@api.get("/files/{file_id}")
def get_file(host: Asked, file_id: str, vendor: Held) -> dict[str, Any]:
    return host.file_object(openai.file_of(vendor, file_id))


@api.delete("/files/{file_id}")
def delete_file(host: Asked, file_id: str, vendor: Held) -> dict[str, Any]:
    return openai.delete_file(file_id, vendor)


@api.get("/files/{file_id}/content")
def file_content(host: Asked, file_id: str, vendor: Held) -> Response:
    return openai.file_content(file_id, vendor)


@api.post("/files/{file_id}/preprocess")
def preprocess(host: Asked, file_id: str, vendor: Held) -> dict[str, Any]:
    return host.preprocess(file_id, vendor)


@api.post("/batches")
async def create(host: Asked, request: Request, vendor: Held) -> Any:
    return await host.create(request, vendor)


@api.get("/batches")
def listing(
    host: Asked, vendor: Held, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Any:
    return host.listing(vendor, after, limit)


@api.get("/batches/{batch_id}")
def get_batch(host: Asked, batch_id: str, vendor: Held) -> dict[str, Any]:
    return host.get_batch(batch_id, vendor)


@api.post("/batches/{batch_id}/cancel")
def cancel(host: Asked, batch_id: str, vendor: Held) -> dict[str, Any]:
    return host.cancel(batch_id, vendor)


@router.put("/together/store/{file_id}")
async def store(file_id: str, request: Request) -> Response:
    """Where Together's files lie: it signs the addresses, and no key belongs there."""
    return await Together.store(file_id, request)


router.include_router(api)
