"""Anthropic's API behind AWS's and Google's accounts: addresses, workspaces, credentials."""

from __future__ import annotations

import hashlib

import httpx
import pytest

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.anthropic.clouds import AnthropicAWS, AnthropicGoogle
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.bedrock.credentials import digest
from airflow_llm_batch.providers.bodies import Payload, streamed
from airflow_llm_batch.testing.providers import NOW, ProviderContract

ON_AWS = {"region": "us-west-2", "workspace_id": "wrkspc_1"}
ON_GOOGLE = {"project": "p1", "workspace_id": "wrkspc_1"}


class OnACloud(ProviderContract):
    """As Anthropic itself tells of a batch."""

    running, ended = "in_progress", "ended"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        done = rows if status == self.ended else 0
        counts = {"processing": rows - done, "succeeded": done, "errored": 0, "canceled": 0, "expired": 0}
        return {
            "id": batch_id,
            "processing_status": status,
            "created_at": at.isoformat(),
            "request_counts": counts,
            **more,
        }


class TestAnthropicAWS(OnACloud):
    """By key here."""

    made = AnthropicAWS("http://h", ON_AWS)


class TestAnthropicGoogle(OnACloud):
    """Its credentials are asked for when they are needed."""

    made = AnthropicGoogle("http://h", ON_GOOGLE)


def test_addresses_are_made_of_options(monkeypatch):
    """Region or project, location and workspace; the price is Anthropic's there, and not known at a gateway."""
    aws, google = AnthropicAWS(None, ON_AWS), AnthropicGoogle(None, ON_GOOGLE)
    assert aws.base_url == "https://aws-external-anthropic.us-west-2.api.aws"
    path = "v1/projects/p1/locations/global/workspaces/wrkspc_1/invoke"
    assert google.base_url == f"https://claude.googleapis.com/{path}"
    assert google.call(b'{"custom_id":"a","params":{}}', None).path == f"/{path}/v1/messages".encode()
    assert (aws.is_own, google.is_own, aws.batch_discount, google.batch_discount) == (True, True, "0.5", "0.5")
    assert AnthropicAWS("https://gateway.test", ON_AWS).batch_discount is None
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert "eu-west-1" in AnthropicAWS(None, {"workspace_id": "w"}).base_url


@pytest.mark.parametrize(
    ("kind", "options", "missing"),
    [
        (AnthropicAWS, {"workspace_id": "w"}, "region"),
        (AnthropicAWS, {"region": "us-east-1"}, "workspace_id"),
        (AnthropicGoogle, {"workspace_id": "w"}, "project"),
        (AnthropicGoogle, {"project": "p"}, "workspace_id"),
    ],
)
def test_what_is_missing_is_named(kind, options, missing, monkeypatch):
    """With an example, before anything is sent."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match=f"'{missing}'.*Nothing was sent"):
        kind(None, options).auth(Login("conn", key="k"))


def test_a_key_goes_with_the_workspace():
    """And with the version of the API; other hosts get none of them."""
    auth = AnthropicAWS("http://h", ON_AWS).auth(Login("conn", key="k"))
    headers = auth.headers(httpx.Request("GET", "http://h/v1/messages/batches"))
    assert headers == {"x-api-key": "k", "anthropic-version": "2023-06-01", "anthropic-workspace-id": "wrkspc_1"}
    assert auth.headers(httpx.Request("GET", "http://elsewhere/")) == {}


def test_a_signature_is_of_a_body_that_is_not_held(monkeypatch):
    """256 MB are read as they are sent, chunk by chunk; what is small is as it is."""
    chunks = [b"a" * 1000] * 50
    request = streamed("POST", httpx.URL("http://h/"), {}, Payload(lambda: iter(chunks), 50_000))
    assert digest(request) == hashlib.sha256(b"a" * 50_000).hexdigest()
    assert not hasattr(request, "_content")
    assert digest(httpx.Request("GET", "http://h/")) == hashlib.sha256(b"").hexdigest()
    assert digest(httpx.Request("POST", "http://h/", content=b"xy")) == hashlib.sha256(b"xy").hexdigest()
