"""Provider names to classes: our own, and those that other packages bring by entry point. A class is imported when its
name is first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_llm_batch.providers.base import Provider

#: the group in which another package names its ``Provider``: ``acme = "acme_llm.batches:Acme"``
GROUP = "airflow_llm_batch.providers"
PROVIDERS: dict[str, str] = {
    "openai": "airflow_llm_batch.providers.openai.protocol:OpenAI",
    "azure": "airflow_llm_batch.providers.azure.protocol:Azure",
    "anthropic": "airflow_llm_batch.providers.anthropic.protocol:Anthropic",
    "anthropic-aws": "airflow_llm_batch.providers.anthropic.clouds:AnthropicAWS",
    "anthropic-google": "airflow_llm_batch.providers.anthropic.clouds:AnthropicGoogle",
    "vertex": "airflow_llm_batch.providers.vertex.protocol:Vertex",
    "gemini": "airflow_llm_batch.providers.gemini.protocol:Gemini",
    "bedrock": "airflow_llm_batch.providers.bedrock.protocol:Bedrock",
    "bedrock-openai": "airflow_llm_batch.providers.bedrock.openai:BedrockOpenAI",
    "openrouter": "airflow_llm_batch.providers.openrouter.protocol:OpenRouter",
    "xai": "airflow_llm_batch.providers.xai.protocol:XAI",
    "fireworks": "airflow_llm_batch.providers.fireworks.protocol:Fireworks",
    "mistral": "airflow_llm_batch.providers.mistral.protocol:Mistral",
}
#: vendors and servers of OpenAI's kind
PRESETS: dict[str, str] = {
    "groq": "airflow_llm_batch.providers.presets.vendors:Groq",
    "together": "airflow_llm_batch.providers.presets.together:Together",
    "deepinfra": "airflow_llm_batch.providers.presets.vendors:DeepInfra",
    "doubleword": "airflow_llm_batch.providers.presets.vendors:Doubleword",
    "dashscope": "airflow_llm_batch.providers.presets.vendors:DashScope",
    "kimi": "airflow_llm_batch.providers.presets.vendors:Kimi",
    "parasail": "airflow_llm_batch.providers.presets.vendors:Parasail",
    "perplexity": "airflow_llm_batch.providers.presets.perplexity:Perplexity",
    "novita": "airflow_llm_batch.providers.presets.vendors:Novita",
    "litellm": "airflow_llm_batch.providers.presets.litellm:LiteLLM",
    "vllm": "airflow_llm_batch.providers.presets.local:VLLM",
    "ollama": "airflow_llm_batch.providers.presets.local:Ollama",
    "llamacpp": "airflow_llm_batch.providers.presets.local:LlamaCpp",
    "compatible": "airflow_llm_batch.providers.presets.local:Server",
}
#: the names that no other package can take
OURS = {**PROVIDERS, **PRESETS}


@cache
def brought() -> dict[str, str]:
    """What other packages bring; their names cannot take the place of ours."""
    return {point.name.strip().lower(): point.value for point in entry_points(group=GROUP)}


def provider_class(name: str) -> type[Provider]:
    """The provider class called ``name``.

    :raises ConfigurationError: for an unknown name, listing the known ones; and for one that cannot be imported.
    """
    wanted = name.strip().lower()
    # To look through all that is installed takes a while: not for a name that is ours.
    known = OURS if wanted in OURS else {**brought(), **OURS}
    try:
        module, _, attribute = known[wanted].partition(":")
    except KeyError:
        raise ConfigurationError(
            f"Unknown provider {name!r}; known are {', '.join(sorted(known))}. Set it as 'provider' in the "
            "connection's extra; any other server that speaks OpenAI's API is 'openai' with its own host, and "
            "'compatible' where it has no batches. Nothing was sent."
        ) from None
    try:
        found: type[Provider] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"Provider {name!r} cannot be imported: {error}. Nothing was sent.") from None
    return found
