"""The pages themselves: one document for every address, and its scripts."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from airflow_llm_batch.plugin.api import JOB

router = APIRouter(include_in_schema=False)
STATIC = Path(__file__).parent / "static"
FILES = StaticFiles(directory=STATIC)


@router.get("/")
@router.get("/run/{dag_id}/{run_id}")
@router.get(JOB)
def page(request: Request) -> HTMLResponse:
    """The same page for every address; its script reads which one it is."""
    root = request.scope.get("root_path", "").rstrip("/") + "/"
    return HTMLResponse((STATIC / "index.html").read_text().replace("{root}", root))


@router.get("/static/{name}")
async def static(name: str, request: Request) -> Response:
    try:
        response: Response = await FILES.get_response(name, request.scope)
    except StarletteHTTPException as error:
        raise HTTPException(error.status_code) from None
    response.headers["Cache-Control"] = "no-cache"
    return response
