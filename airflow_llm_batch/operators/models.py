"""Several models asked the same."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_llm_batch.data.values import written
from airflow_llm_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.results import Manifest


#: characters that have a meaning in the name of a job's directory, or none in a path
UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
#: characters of a model's and its connection's name that a directory is called by
LONGEST = 100


class Asked(NamedTuple):
    """One model's share of a task.

    :param name: tells several models' jobs apart in the storage, None for the only one.
    """

    conn_id: str
    request: RequestTemplate | None
    name: str | None = None


def asked_models(models: Any, request: RequestTemplate | None, conn_id: str) -> list[Asked]:
    """What each model is asked, on which connection.

    :param models: model names, each alone or with a connection of its own: ``("claude-haiku-4-5", "anthropic")`` or
        ``{"model": ..., "conn_id": ...}``; empty for the request's own.
    :raises ConfigurationError: for anything else, for a model twice, and for a request that names no model.
    """
    models = written(models)
    if not models:
        return [Asked(conn_id, request)]
    if isinstance(models, str) or not isinstance(models, Sequence):
        raise ConfigurationError(f"models is {models!r}; give a list of names. Nothing was sent.")
    named = [model_and_connection(model, conn_id) for model in models]
    if len(set(named)) < len(named):
        raise ConfigurationError(f"models names one twice: {named}. Nothing was sent.")
    if request is None or not hasattr(request, "model"):
        raise ConfigurationError(
            "models needs a ChatRequest or EmbeddingRequest, whose model it replaces. Nothing was sent."
        )
    asked = []
    for model, connection in named:
        own = copy.copy(request)
        own.model = model
        asked.append(Asked(connection, own, job_name(model, connection)))
    return asked


def job_name(model: str, conn_id: str) -> str:
    """What tells a model's job apart: readable, and never equal for two models, or for one on two connections."""
    given = f"{model}_{conn_id}"
    clean = UNSAFE.sub("_", given)[:LONGEST]
    unlike = clean != given or "_" in model
    digest = hashlib.sha256(f"{model}\0{conn_id}".encode()).hexdigest()[:8]
    return f"{clean}-{digest}" if unlike else clean


def model_and_connection(given: Any, conn_id: str) -> tuple[str, str]:
    if isinstance(given, str):
        return given, conn_id
    if isinstance(given, Mapping) and isinstance(given.get("model"), str):
        return given["model"], str(given.get("conn_id") or conn_id)
    if isinstance(given, Sequence) and len(given) == 2 and all(isinstance(part, str) for part in given):
        return given[0], given[1]
    raise ConfigurationError(
        f"models holds {given!r}; give a model's name, (name, connection id), or a mapping of both. Nothing was sent."
    )


def joined(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Several models' landings as one summary (XCom).

    :param manifests: by URI.
    """
    landed = list(manifests.values())

    def total(name: str) -> Any:
        values = [getattr(manifest, name) for manifest in landed]
        return None if None in values else sum(values)

    counts: dict[str, int] = {}
    for manifest in landed:
        for status, rows in manifest.counts.items():
            counts[status] = counts.get(status, 0) + rows
    sums = ("rows", "input_tokens", "output_tokens", "cost_usd", "sync_cost_usd", "saving_usd", "estimated_cost_usd")
    by_model = [
        {"provider": m.provider, "models": m.models, "rows": m.rows, "counts": m.counts, "cost_usd": m.cost_usd}
        for m in landed
    ]
    return {
        "manifests": list(manifests),
        "message": " | ".join(f"{', '.join(m.models) or m.provider}: {m.message}" for m in landed),
        "files": [file for manifest in landed for file in manifest.files],
        "counts": counts,
        **{name: total(name) for name in sums},
        "models": sorted({model for manifest in landed for model in manifest.models}),
        "batches": [batch for manifest in landed for batch in manifest.batches],
        "by_model": by_model,
    }
