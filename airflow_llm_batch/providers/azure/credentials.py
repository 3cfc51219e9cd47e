"""Tokens of Microsoft Entra ID, which last an hour or so, where a wait lasts a day.

Source: azure-identity's ``TokenCredential`` protocol, and the Azure hook of Airflow's provider.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from threading import Lock
from typing import Any, Protocol

import httpx

from airflow_llm_batch.exceptions import ConfigurationError, LLMBatchError, VendorUnavailable
from airflow_llm_batch.providers.auth import Credentials

#: seconds before a token's end from which another is asked for
LEAD = 300.0
#: how Entra says that it will not give a token, however often it is asked; 90033 is its trouble of the moment
REFUSED = re.compile(r"AADSTS(?!90033)\d+|CredentialUnavailable|invalid_client|unauthorized_client")
EXTRA = "pip install 'airflow-provider-llm-batch[azure]'"

log = logging.getLogger(__name__)


class Token(Protocol):
    """As ``azure.core.credentials.AccessToken``; ``expires_on`` in epoch seconds."""

    @property
    def token(self) -> str: ...

    @property
    def expires_on(self) -> int: ...


class TokenCredential(Protocol):
    """As ``azure.core.credentials.TokenCredential``."""

    def get_token(self, *scopes: str) -> Token: ...


class Entra(Credentials):
    """A token that is kept, and renewed minutes before it expires or when it is refused.

    :param make: the credential that is asked for tokens; called again after a refusal, for it keeps them too.
    :param scope: what tokens are for.
    """

    def __init__(
        self,
        origins: Iterable[str],
        make: Callable[[], TokenCredential],
        scope: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(origins)
        self.make, self.scope, self.clock = make, scope, clock
        self.lock = Lock()
        self.credential: TokenCredential | None = None
        self.token: Token | None = None
        self.renew_at = 0.0
        #: the latest tokens: an answer may quote one that was replaced meanwhile
        self.recent: deque[str] = deque(maxlen=8)

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(self.recent)

    def sign(self, request: httpx.Request) -> Mapping[str, str]:
        """:raises ConfigurationError: where Entra will not give a token; ``VendorUnavailable`` where it cannot."""
        with self.lock:
            now = self.clock()
            if self.token is None or now >= self.renew_at:
                self.token = self._renewed(now)
            return {"authorization": f"Bearer {self.token.token}"}

    def forget(self) -> bool:
        with self.lock:
            self.credential = self.token = None
        return True

    def _renewed(self, now: float) -> Token:
        try:
            self.credential = self.credential or self.make()
            fresh = self.credential.get_token(self.scope)
        except LLMBatchError:
            raise
        except Exception as error:
            if self.token is not None and now < self.token.expires_on:
                log.warning("Entra gave no new token, the old one is still good: %s", first_line(error))
                return self.token
            raise unusable(error) from None
        self.recent.append(fresh.token)
        self.renew_at = fresh.expires_on - min(LEAD, (fresh.expires_on - now) / 2)
        return fresh


def unusable(error: Exception) -> LLMBatchError:
    """What to tell of a credential that gives no token."""
    text = f"Microsoft Entra ID gave no token: {first_line(error)} Nothing was sent."
    if isinstance(error, ValueError | TypeError) or REFUSED.search(f"{type(error).__name__} {error}"):
        return ConfigurationError(text)
    return VendorUnavailable(text)


def first_line(error: Exception) -> str:
    """Credentials tell of everything that they have tried, on many lines."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0][:500].rstrip('.')}."


def imported(module: str, name: str, what: str) -> Any:
    """Something of a package that only some need.

    :raises ConfigurationError: names the extra to install.
    """
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise ConfigurationError(f"{what} needs a package ({error}): {EXTRA}. Nothing was sent.") from None


def quiet() -> None:
    """Azure's packages tell of every call and token at INFO: a day's wait would fill the task log with them."""
    if logging.getLogger("azure").level == logging.NOTSET:
        logging.getLogger("azure").setLevel(logging.WARNING)


def of_client(tenant: str, client: str, secret: str, authority: str | None) -> TokenCredential:
    """An application with a secret.

    :param authority: Entra's address, None for the public cloud's.
    """
    quiet()
    kind = imported("azure.identity", "ClientSecretCredential", "A client secret")
    made: TokenCredential = kind(tenant, client, secret, **trusted(authority))
    return made


def of_machine(client: str | None, tenant: str | None, authority: str | None) -> TokenCredential:
    """Whatever identity the machine has: a workload's, a managed one, one in the environment.

    :param client: the managed identity's client id, where the machine has several.
    :param tenant: the workload's, where the environment does not say.
    """
    quiet()
    kind = imported("azure.identity", "DefaultAzureCredential", "managed_identity")
    chosen = {"managed_identity_client_id": client, "workload_identity_tenant_id": tenant}
    given = {name: text for name, text in chosen.items() if text}
    made: TokenCredential = kind(**given, **trusted(authority))
    return made


def trusted(authority: str | None) -> dict[str, Any]:
    """What makes a credential ask an authority of one's own; Microsoft's list does not know it."""
    return {"authority": authority, "disable_instance_discovery": True} if authority else {}


def of_connection(conn_id: str) -> TokenCredential:
    """The credential of an Airflow connection of type ``azure``: a client secret, or the machine's identity.

    :raises ConfigurationError: where there is no such connection, or no package that knows it.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    quiet()
    kind = imported("airflow.providers.microsoft.azure.hooks.base_azure", "AzureBaseHook", "azure_conn_id")
    hook = kind(conn_id=conn_id)
    if not hasattr(hook, "get_credential"):
        raise ConfigurationError(
            "azure_conn_id needs a newer apache-airflow-providers-microsoft-azure, whose hook has credentials: update "
            "it, or give tenant_id or managed_identity. Nothing was sent."
        )
    try:
        found = hook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigurationError(
            f"There is no connection {conn_id!r}, which azure_conn_id names. Add one of type 'azure'. Nothing was sent."
        ) from None
    # The hook's older kinds of credential have no tokens to give.
    extra = json.dumps({**found.extra_dejson, "use_azure_identity_object": True})
    asked = type(found)(
        conn_id=conn_id, conn_type=found.conn_type, login=found.login, password=found.password, extra=extra
    )
    made: TokenCredential = hook.get_credential(conn=asked)
    return made
