"""The app behind the pages: their API and themselves, for users that Airflow knows."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from airflow_llm_batch.plugin import answers, api, pages
from airflow_llm_batch.plugin.snapshot import Snapshot, StoreTrouble

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def make_app(snapshot: Snapshot | None = None) -> FastAPI:
    """:param snapshot: another store than Airflow's own, for tests."""
    app = FastAPI(
        title="LLM batches",
        description="Jobs of airflow-provider-llm-batch, as the pages in the Airflow UI show them.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(get_user)],
    )
    app.state.snapshot = snapshot or Snapshot()

    @app.middleware("http")
    async def guard(request: Request, proceed: Any) -> Response:
        response: Response = await proceed(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(StoreTrouble)
    def no_store(request: Request, error: StoreTrouble) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)

    @app.get("/api/openapi.json", include_in_schema=False)
    def schema() -> dict[str, Any]:
        """The API's own description."""
        return app.openapi()

    app.include_router(api.router)
    app.include_router(answers.router)
    app.include_router(pages.router)
    return app
