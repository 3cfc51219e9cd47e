"""What was landed, for those who wait for it: asset events and OpenLineage facets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job
    from airflow_llm_batch.results import Manifest

#: files that an asset event or an OpenLineage event names one by one
MOST_FILES = 200


def emit_asset_events(outlets: Any, context: Mapping[str, Any], summary: dict[str, Any]) -> None:
    """Give the events of a task's outlets the manifest's summary as their extra.

    In a run with a partition key Airflow puts the key on the event by itself.
    """
    events = context.get("outlet_events")
    if events is None:
        return
    extra = {**summary, "files": summary["files"][:MOST_FILES]}
    for outlet in outlets or ():
        if hasattr(outlet, "uri"):  # an asset, and neither a reference nor an alias
            events[outlet].extra.update(extra)


def lineage_of(store: JobStore) -> Any:
    """OpenLineage's view of a landed job: where the rows came from, what was landed and how much of it.

    :return: an ``OperatorLineage``; None before the job is landed, or without the OpenLineage provider.
    """
    try:
        from airflow.providers.common.compat.openlineage.facet import (
            Dataset,
            OutputDataset,
            OutputStatisticsOutputDatasetFacet,
            RunFacet,
        )
        from airflow.providers.openlineage.extractors import OperatorLineage
    except ImportError:
        return None
    job, manifest = store.load_job(), store.manifest()
    if job is None or manifest is None:
        return None
    namespace, name = dataset_name(manifest.destination)
    landed = OutputDataset(
        namespace=namespace,
        name=name,
        outputFacets={
            "outputStatistics": OutputStatisticsOutputDatasetFacet(
                rowCount=manifest.rows, fileCount=len(manifest.files)
            )
        },
    )
    facets = {"llm_batch": RunFacet().with_additional_properties(**usage_facet(job, manifest))}
    sources = (dataset_name(source) for source in job.sources[:MOST_FILES])
    return OperatorLineage(
        inputs=[Dataset(namespace=namespace, name=name) for namespace, name in sources],
        outputs=[landed],
        run_facets=facets,
    )


def usage_facet(job: Job, manifest: Manifest) -> dict[str, Any]:
    """What a job's run used, by the names of OpenTelemetry's GenAI conventions, and what it cost."""
    return {
        "provider": job.provider,
        "models": list(manifest.models),
        "rows": manifest.rows,
        "counts": dict(manifest.counts),
        "input_tokens": manifest.input_tokens,
        "output_tokens": manifest.output_tokens,
        "cost_usd": manifest.cost_usd,
        "saving_usd": manifest.saving_usd,
        "batches": list(manifest.batches[:MOST_FILES]),
        "manifest": f"{manifest.job}/manifest.json",
    }


def dataset_name(uri: str) -> tuple[str, str]:
    """A URI as OpenLineage names datasets: ``("s3://bucket", "reviews/2026-01-01")``, ``("file", "/data/reviews")``."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return "file", parts.path.rstrip("/") or "/"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.strip("/") or "/"
