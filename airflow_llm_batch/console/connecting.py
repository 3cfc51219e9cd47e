"""A hook from what a person has at hand: an Airflow connection, or a key where the vendor's own SDK looks for it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.providers.registry import OURS, provider_class

if TYPE_CHECKING:
    from airflow_llm_batch.models import Job

#: provider -> the variables that hold its key, where they are not called after it. Source: the vendors' SDKs and pages.
KEYS = {
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "azure": ("AZURE_OPENAI_API_KEY",),
    "kimi": ("MOONSHOT_API_KEY",),
}
#: likewise for its address
HOSTS = {"azure": "AZURE_OPENAI_ENDPOINT"}


def key_variables(provider: str) -> tuple[str, ...]:
    """The environment variables in which a vendor's SDK looks for the key: ``OPENAI_API_KEY``."""
    return KEYS.get(provider, (f"{spelled(provider)}_API_KEY",))


def host_variable(provider: str) -> str:
    """Likewise for another address than the vendor's own: ``OPENAI_BASE_URL``."""
    return HOSTS.get(provider, f"{spelled(provider)}_BASE_URL")


def spelled(provider: str) -> str:
    return provider.upper().replace("-", "_")


def hook_of(conn_id: str | None = None, provider: str | None = None) -> LLMBatchHook:
    """The connection that is named, or one to a provider by the key in the environment.

    :param conn_id: of an ``llmbatch`` connection. Without it, and without a provider, ``llm_batch_default`` where it is
        defined, else the one provider whose key is in the environment.
    :raises ConfigurationError: when there is none of these, or more than one key.
    """
    if conn_id is not None and provider is not None:
        raise ConfigurationError(
            f"conn_id={conn_id!r} and provider={provider!r}: a connection names its provider itself. Give one of them. "
            "Nothing was sent."
        )
    if conn_id is not None:
        return connected(conn_id)
    if provider is not None:
        return by_key(provider.strip().lower())
    with suppress(ConfigurationError):
        return connected(LLMBatchHook.default_conn_name)
    having = [name for name in OURS if key_in(name) is not None]
    if len(having) == 1:
        return by_key(having[0])
    found = f"the environment has keys for {', '.join(having)}" if having else "no vendor's key is in the environment"
    raise ConfigurationError(
        f"Which vendor is asked is not said: there is no connection {LLMBatchHook.default_conn_name!r}, and {found}. "
        "Give conn_id (an Airflow connection, AIRFLOW_CONN_... included), or provider with its key in the environment "
        "(OPENAI_API_KEY, ANTHROPIC_API_KEY). Nothing was sent."
    )


def hook_for(job: Job, conn_id: str | None = None) -> LLMBatchHook:
    """The connection that a job was asked on.

    :param conn_id: another one, of the same provider.
    """
    if conn_id is None and job.conn_id in key_variables(job.provider):
        return by_key(job.provider)
    return connected(conn_id or job.conn_id)


def connected(conn_id: str) -> LLMBatchHook:
    """:raises ConfigurationError: when Airflow knows no such connection."""
    hook = LLMBatchHook(conn_id)
    try:
        hook.connection  # noqa: B018  (looked up where tasks look it up)
    except ConfigurationError:
        # Tasks are told of what is in Airflow's database by the API server; outside of them it is read here.
        if (stored := in_database(conn_id)) is None:
            raise
        hook._connection = stored
    return hook


def in_database(conn_id: str) -> Any:
    """A connection of Airflow's own database, None where it is not there, or there is no database."""
    try:
        from airflow.secrets.metastore import MetastoreBackend

        return MetastoreBackend().get_connection(conn_id)
    except Exception:
        return None


def key_in(provider: str) -> str | None:
    """The variable that holds a provider's key now, None where there is none."""
    return next((name for name in key_variables(provider) if os.environ.get(name)), None)


def by_key(provider: str) -> LLMBatchHook:
    """A provider by the key in the environment; its job names the variable as its connection.

    :raises ConfigurationError: for an unknown provider.
    """
    provider_class(provider)
    name = key_in(provider) or key_variables(provider)[0]
    return LLMBatchHook.by_key(name, provider, os.environ.get(name), os.environ.get(host_variable(provider)) or None)
