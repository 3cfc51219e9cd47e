"""A request: one row rendered for a model, in the neutral format. Cheap to import, for DAG files do."""

from __future__ import annotations

from typing import Any, NamedTuple


class Request(NamedTuple):
    """One row rendered for a model.

    :param endpoint: the path the request is meant for. ``/v1/chat/completions`` and ``/v1/embeddings`` bodies are in
        OpenAI's format, which is the neutral one; any other endpoint is sent only to a provider that has it.
    :param body: the request body, JSON-serializable.
    :param api: ``chat`` or ``responses`` for a conversation, where the vendor has both; None for what fits the model.
    """

    endpoint: str
    body: dict[str, Any]
    api: str | None = None

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "")
