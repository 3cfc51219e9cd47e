"""Buttons on a task in the Airflow UI: the job's page, the landed files, the vendor's console."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink, conf

from airflow_llm_batch.jobs.directory.address import JobAddress

if TYPE_CHECKING:
    from airflow_llm_batch.providers.base import Provider

#: where object stores show a directory: scheme -> address of ``{bucket}`` and ``{key}``
BROWSERS = {
    "s3": "https://console.aws.amazon.com/s3/buckets/{bucket}?prefix={key}/",
    "gs": "https://console.cloud.google.com/storage/browser/{bucket}/{key}",
}
#: below which the plugin serves
PREFIX = "/llm-batches"


class Linked(BaseOperatorLink):
    """A link whose address the operator knows once it has run."""

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, empty where there is none."""
        known: dict[str, str] = getattr(operator, "link_addresses", None) or {}
        return known.get(self.name, "")


class JobLink(Linked):
    name = "LLM batch job"


class FilesLink(Linked):
    name = "Landed files"


class ConsoleLink(Linked):
    name = "Vendor console"


LINKS = (JobLink(), FilesLink(), ConsoleLink())


def addresses(
    job: str | None, provider: Provider, batches: list[str], destination: str | None = None
) -> dict[str, str]:
    """Where a task's links lead.

    :param job: URI of the job directory.
    :param destination: where results were landed.
    """
    from airflow_llm_batch.models import is_call

    known = {
        JobLink.name: job_page(job) if job else "",
        FilesLink.name: files_page(destination) if destination else "",
        ConsoleLink.name: provider.console(batches[0]) if batches and not is_call(batches[0]) else "",
    }
    return {name: address for name, address in known.items() if address}


def job_page(job: str) -> str:
    """The plugin's page of a job, inside Airflow's own frame where that can be linked to."""
    site = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    page = f"{PREFIX}/job/" + "/".join(quote(name, safe="") for name in JobAddress.parse(job).key)
    return f"{site}/plugin{PREFIX}{urlsplit(site).path}{page}" if frame_is_linked() else f"{site}{page}"


@cache
def frame_is_linked() -> bool:
    """Whether Airflow's address bar follows what it frames: github.com/apache/airflow/pull/72776."""
    from airflow import __version__

    found = [int(part) for part in re.findall(r"\d+", __version__)[:3]]
    return found >= [3, 3, 2]


def files_page(destination: str) -> str:
    """The store's own page of a directory, empty where it has none."""
    parts = urlsplit(destination)
    page = BROWSERS.get({"s3a": "s3", "gcs": "gs"}.get(parts.scheme, parts.scheme), "")
    return page.format(bucket=parts.netloc.rpartition("@")[2], key=quote(parts.path.strip("/")))
