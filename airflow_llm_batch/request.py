"""A request: one row rendered for a model, in the neutral format. Cheap to import, for DAG files do."""

from __future__ import annotations

from typing import Any, NamedTuple


class Cache(NamedTuple):
    """Where the part of a conversation ends that is the same in every row, tools and schema included, and how long the
    vendor is wished to keep it.

    :param life: ``5m``, ``1h`` or ``24h``; "" for what suits the lane.
    :param message: the message it ends in: those before it are static, and so are the first ``part`` parts of it and
        ``length`` characters of the text after them.
    :param called: requests are called one by one.
    """

    life: str = ""
    message: int = 0
    part: int = 0
    length: int = 0
    called: bool = False


class Request(NamedTuple):
    """One row rendered for a model.

    :param endpoint: the path the request is meant for. ``/v1/chat/completions`` and ``/v1/embeddings`` bodies are in
        OpenAI's format, which is the neutral one; any other endpoint is sent only to a provider that has it.
    :param body: the request body, JSON-serializable.
    :param api: ``chat`` or ``responses`` for a conversation, where the vendor has both; None for what fits the model.
    :param cache: what is to be cached of a conversation in the neutral format, None for nothing.
    """

    endpoint: str
    body: dict[str, Any]
    api: str | None = None
    cache: Cache | None = None

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "")
