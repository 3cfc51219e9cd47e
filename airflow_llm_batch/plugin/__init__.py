"""The "LLM batches" pages in the Airflow UI."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from airflow_llm_batch.links import PREFIX


def root_path() -> str:
    """What precedes the prefix where Airflow itself is served below a path."""
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")


class LazyApp:
    """The API, made when the first request comes: every Airflow process loads plugins, one serves pages."""

    def __init__(self) -> None:
        self.app: Any = None

        self.hooks: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if path.startswith("/hooks/"):
            # Events come from vendors, who have no login.
            if self.hooks is None:
                from airflow_llm_batch.plugin.hooks import make_hooks

                self.hooks = make_hooks()
            await self.hooks(scope, receive, send)
            return
        if self.app is None:
            from airflow_llm_batch.plugin.app import make_app

            self.app = make_app()
        await self.app(scope, receive, send)


class LLMBatchPlugin(AirflowPlugin):
    name = "llm_batch"
    fastapi_apps = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "LLM batches"}]  # noqa: RUF012
    # External views are plain pages in a frame: they work alike in every Airflow since 3.1, and need neither a build
    # step nor Airflow's own React, which a component would be tied to version by version.
    external_views = [  # noqa: RUF012
        {
            # What the narrow navigation has room for.
            "name": "Batches",
            "href": f"{root_path()}{PREFIX}/",
            "destination": "nav",
            "url_route": "llm-batches",
            "icon": f"{root_path()}{PREFIX}/static/icon.svg",
            "icon_dark_mode": f"{root_path()}{PREFIX}/static/icon-dark.svg",
        },
        {
            "name": "LLM batches",
            "href": f"{root_path()}{PREFIX}/run/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "llm-batches-run",
        },
    ]
