"""Signing Bedrock's requests: AWS's Signature Version 4 with an Airflow connection's credentials.

Source: AWS's reference on signing; done by botocore, with what Airflow's amazon provider makes of the connection
(keys, profile, role, web identity), refreshed where it expires.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from threading import Lock
from typing import Any

import httpx

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.auth import Credentials

SERVICE = "bedrock"
#: headers that are signed besides the host and those that botocore adds
SIGNED = ("content-type",)
EXTRA = "pip install 'airflow-provider-llm-batch[s3]'"


class Signed(Credentials):
    """Signs each request to one of some origins.

    :param origins: base URLs of Bedrock and its runtime.
    :param conn_id: an Airflow connection of type ``aws``.
    :param region: of the signature.
    """

    def __init__(self, origins: Iterable[httpx.URL], conn_id: str, region: str) -> None:
        super().__init__(origins)
        self.conn_id, self.region = conn_id, region
        self.lock = Lock()

    @cached_property
    def source(self) -> Any:
        """botocore's credentials, which refresh themselves.

        :raises ConfigurationError: without Airflow's amazon provider, or without credentials.
        """
        try:
            from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
        except ImportError:
            raise ConfigurationError(
                f"Bedrock needs Airflow's amazon provider: {EXTRA}. Nothing was sent."
            ) from None
        hook = AwsBaseHook(aws_conn_id=self.conn_id, region_name=self.region, client_type=SERVICE)
        found = hook.get_session(region_name=self.region).get_credentials()
        if found is None:
            raise ConfigurationError(
                f"The aws connection {self.conn_id!r} gives no credentials. Name one in the extra's aws_conn_id, or give "
                "a Bedrock API key as the password. Nothing was sent."
            )
        return found

    def frozen(self) -> Any:
        with self.lock:
            return self.source.get_frozen_credentials()

    def sign(self, request: httpx.Request) -> Mapping[str, str]:
        """The headers to add. May ask AWS for new credentials."""
        credentials = self.frozen()
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        kept = {name: request.headers[name] for name in SIGNED if name in request.headers}
        signed = AWSRequest(request.method, str(request.url), headers=kept, data=request.read() or None)
        SigV4Auth(credentials, SERVICE, self.region).add_auth(signed)
        return {name.lower(): value for name, value in signed.headers.items() if name.lower() not in kept}

    @property
    def secrets(self) -> frozenset[str]:
        """What must never be shown, once it is known."""
        if "source" not in self.__dict__:
            return frozenset()
        held = self.frozen()
        return frozenset(filter(None, (held.secret_key, held.token)))
