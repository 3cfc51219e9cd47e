"""Access tokens from Airflow's google connection: key file, impersonation, workload identity, or the machine's own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import httpx

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.auth import Credentials

DEFAULT_CONNECTION = "google_cloud_default"
REMEDY = "pip install 'airflow-provider-llm-batch[gcs]'"


def chain(value: Any) -> Any:
    """Service accounts as a list, or as one text with commas."""
    return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value or None


class Google(Credentials):
    """Bearer tokens of google-auth, each fetched before the one in use expires.

    :param conn_id: an Airflow connection of type ``google_cloud_platform``.
    :param impersonation_chain: service accounts, the last one is who asks; as the connection has it by default.
    :param quota_project: whom the calls are counted to, ``x-goog-user-project``.
    """

    def __init__(
        self,
        origins: Iterable[str],
        conn_id: str = DEFAULT_CONNECTION,
        impersonation_chain: list[str] | None = None,
        quota_project: str | None = None,
    ) -> None:
        super().__init__(origins)
        self.conn_id = conn_id
        self.impersonation_chain = impersonation_chain
        self.quota_project = quota_project
        self._known: Any = None
        self._lock = threading.Lock()

    def credentials(self) -> Any:
        """google-auth's credentials.

        :raises ConfigurationError: when Airflow's google provider or the connection is missing, or unusable.
        """
        if self._known is not None:
            return self._known
        try:
            from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
        except ImportError as error:
            raise ConfigurationError(
                f"Vertex AI needs Airflow's google provider: {error}. {REMEDY}. Nothing was sent."
            ) from None
        try:
            hook = GoogleBaseHook(gcp_conn_id=self.conn_id, impersonation_chain=self.impersonation_chain)
            self._known = hook.get_credentials()
        except Exception as error:
            raise ConfigurationError(
                f"The google connection {self.conn_id!r} gives no credentials: {type(error).__name__}: {error}. Add "
                "one of type google_cloud_platform, or name another as gcp_conn_id. Nothing was sent."
            ) from None
        return self._known

    def sign(self, request: httpx.Request) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        with self._lock:
            known = self.credentials()
            self._prepare(known, request, headers)
        if self.quota_project:
            headers["x-goog-user-project"] = self.quota_project
        return headers

    def _prepare(self, known: Any, request: httpx.Request, headers: dict[str, str]) -> None:
        """Let google-auth add its headers; it asks for a token where it has none that lasts.

        :raises httpx.ConnectError: when the token's server cannot be reached: the request was never sent.
        :raises ConfigurationError: when it gives none.
        """
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.auth.transport.requests import Request

        try:
            known.before_request(Request(), request.method, str(request.url), headers)
        except GoogleAuthError as error:
            if isinstance(error, TransportError) or getattr(error, "retryable", False):
                raise httpx.ConnectError(f"No access token from Google: {error}", request=request) from None
            raise ConfigurationError(
                f"Google gives no access token for the connection {self.conn_id!r}: {error}. Check its key, its roles, "
                "and impersonation_chain. Nothing was sent."
            ) from None

    @property
    def secrets(self) -> tuple[str, ...]:
        token = getattr(self._known, "token", None)
        return (token,) if isinstance(token, str) and token else ()

    def forget(self) -> bool:
        """Whether a new token can be asked for; an anonymous connection, or a bare token, has no other."""
        with self._lock:
            if not self.secrets or not getattr(self._known, "token_state", None):
                return False
            with suppress(AttributeError):
                self._known.token = None
            return not self.secrets
