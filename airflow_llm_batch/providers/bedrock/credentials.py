"""Signing requests to AWS: its Signature Version 4 with an Airflow connection's credentials.

Source: AWS's reference on signing; done by botocore, with what Airflow's amazon provider makes of the connection
(keys, profile, role, web identity), refreshed where it expires.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from threading import Lock
from typing import Any

import httpx

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.auth import Credentials
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.troubles import may_pass

SERVICE = "bedrock"
#: headers that are signed besides the host and those that botocore adds
SIGNED = ("content-type",)
EXTRA = "pip install 'airflow-provider-llm-batch[s3]'"


#: of AWS's addresses in its partitions, by how their regions begin (botocore's endpoints)
DOMAINS = {
    "cn": "amazonaws.com.cn", "eusc": "amazonaws.eu", "us-iso": "c2s.ic.gov", "us-isob": "sc2s.sgov.gov",
    "us-isof": "csp.hci.ic.gov", "eu-isoe": "cloud.adc-e.uk",
}  # fmt: skip


def domain(region: str) -> str:
    """Of AWS's addresses in a region."""
    return next((name for start, name in DOMAINS.items() if region.startswith(f"{start}-")), "amazonaws.com")


def digest(request: httpx.Request) -> str:
    """SHA-256 of a body, in hex."""
    found = hashlib.sha256()
    for chunk in request.stream if isinstance(request.stream, Payload) else [request.read()]:
        found.update(chunk)
    return found.hexdigest()


class Signed(Credentials):
    """Signs each request to one of some origins.

    :param origins: base URLs of Bedrock and its runtime.
    :param conn_id: an Airflow connection of type ``aws``.
    :param region: of the signature; ``service`` whom it is for.
    """

    def __init__(self, origins: Iterable[str], conn_id: str, region: str, service: str = SERVICE) -> None:
        super().__init__(origins)
        self.conn_id, self.region, self.service = conn_id, region, service
        self.lock = Lock()
        self.known: tuple[str, ...] = ()

    @cached_property
    def source(self) -> Any:
        """botocore's credentials, which refresh themselves.

        :raises ConfigurationError: without Airflow's amazon provider, or without credentials.
        """
        try:
            from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
        except ImportError:
            raise ConfigurationError(
                f"Signing for AWS needs Airflow's amazon provider: {EXTRA}. Nothing was sent."
            ) from None
        hook = AwsBaseHook(aws_conn_id=self.conn_id, region_name=self.region, client_type=SERVICE)
        found = hook.get_session(region_name=self.region).get_credentials()
        if found is None:
            raise ConfigurationError(
                f"The aws connection {self.conn_id!r} gives no credentials. Name one in the extra's aws_conn_id, or "
                "give an API key as the password. Nothing was sent."
            )
        return found

    def frozen(self, request: httpx.Request) -> Any:
        """The credentials of this moment.

        :raises httpx.ConnectError: when AWS cannot be asked for them now: the request was never sent.
        :raises ConfigurationError: when it gives none.
        """
        with self.lock:
            try:
                held = self.source.get_frozen_credentials()
            except ConfigurationError:
                raise
            except Exception as error:
                raise self.unusable(error, request) from None
            self.known = tuple(dict.fromkeys(filter(None, (*self.known[-4:], held.secret_key, held.token))))
        return held

    def unusable(self, error: Exception, request: httpx.Request) -> Exception:
        """What to tell of a connection that gives no credentials: a role that may not be assumed, no profile of that
        name; or of a service of AWS's that cannot be reached."""
        from botocore.exceptions import ConnectionError as Unreached
        from botocore.exceptions import HTTPClientError

        status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if isinstance(error, Unreached | HTTPClientError) or may_pass(status):
            return httpx.ConnectError(f"No credentials from AWS: {error}", request=request)
        return ConfigurationError(
            f"The aws connection {self.conn_id!r} gives no credentials: {type(error).__name__}: {error}. Check its "
            "keys, its role and who may assume it, or name another as aws_conn_id. Nothing was sent."
        )

    def sign(self, request: httpx.Request) -> Mapping[str, str]:
        """The headers to add. May ask AWS for new credentials."""
        credentials = self.frozen(request)
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        class Streamed(SigV4Auth):  # type: ignore[misc]  # botocore has no types
            """A body is read as it is sent, and not held."""

            def payload(self, _: AWSRequest) -> str:
                return digest(request)

        kept = {name: request.headers[name] for name in SIGNED if name in request.headers}
        # Each name and value of the query is encoded AWS's way, which is not httpx's.
        signed = AWSRequest(
            request.method,
            str(request.url.copy_with(query=None)),
            headers=kept,
            params=request.url.params.multi_items(),
        )
        Streamed(credentials, self.service, self.region).add_auth(signed)
        return {name.lower(): value for name, value in signed.headers.items() if name.lower() not in kept}

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be told, once it is known."""
        return self.known
