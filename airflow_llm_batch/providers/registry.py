"""Provider names to classes. A class is imported when its name is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_llm_batch.providers.base import Provider

PROVIDERS: dict[str, str] = {
    "openai": "airflow_llm_batch.providers.openai.protocol.OpenAI",
    "anthropic": "airflow_llm_batch.providers.anthropic.protocol.Anthropic",
    "vertex": "airflow_llm_batch.providers.vertex.protocol.Vertex",
}


def provider_class(name: str) -> type[Provider]:
    """The provider class called ``name``.

    :raises ConfigurationError: for an unknown name; lists the known ones.
    """
    try:
        module, _, attribute = PROVIDERS[name.strip().lower()].rpartition(".")
    except KeyError:
        raise ConfigurationError(
            f"Unknown provider {name!r}; known are {', '.join(sorted(PROVIDERS))}. Set it as 'provider' in the "
            "connection's extra; a server that speaks OpenAI's API is 'openai' with its own host. Nothing was sent."
        ) from None
    found: type[Provider] = getattr(import_module(module), attribute)
    return found
