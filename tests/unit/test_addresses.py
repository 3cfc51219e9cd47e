"""What people write into a connection's host, port and schema, in a form, as JSON or as a URI."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import Connection

from airflow_llm_batch.addresses import base_url
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.hooks import LLMBatchHook

FIELDS = [
    ({"host": "https://gate.example"}, "https://gate.example"),
    ({"host": "https://gate.example/v1/"}, "https://gate.example/v1/"),
    ({"host": "https://gate.example", "port": 8443}, "https://gate.example:8443"),
    ({"host": "https://gate.example/v1", "port": 8443}, "https://gate.example:8443/v1"),
    ({"host": "https://gate.example:8443/v1", "port": 8443}, "https://gate.example:8443/v1"),
    ({"host": "gate.example", "port": 8443}, "https://gate.example:8443"),
    ({"host": "gate.example/v1", "port": 8443}, "https://gate.example:8443/v1"),
    ({"host": "gate.example:8443/v1"}, "https://gate.example:8443/v1"),
    ({"host": "gate.example", "port": 80, "schema": "http"}, "http://gate.example"),
    ({"host": "https://api.openai.com/v1", "port": 443}, "https://api.openai.com/v1"),
    ({"host": "https://api.openai.com:443/v1"}, "https://api.openai.com/v1"),
    ({"host": "https://gate.example/v1", "schema": "v1"}, "https://gate.example/v1"),
    ({"host": "https://gate.example/v1", "schema": "public"}, "https://gate.example/v1"),
    ({"host": "gate.example", "schema": "HTTPS://"}, "https://gate.example"),
    ({"host": "gate.example", "port": 8443, "schema": "openai/v1"}, "https://gate.example:8443/openai/v1"),
    ({"host": "https://gate.example", "port": 8443, "schema": "v1"}, "https://gate.example:8443/v1"),
    ({"host": "https://gate.example/", "schema": "v1"}, "https://gate.example/v1"),
    ({"host": "localhost"}, "http://localhost"),
    ({"host": "localhost", "port": 4000}, "http://localhost:4000"),
    ({"host": "localhost:4000/v1"}, "http://localhost:4000/v1"),
    ({"host": "127.0.0.1:4000"}, "http://127.0.0.1:4000"),
    ({"host": "localhost.example:4000"}, "https://localhost.example:4000"),
    ({"host": "http://[::1]:4000/v1"}, "http://[::1]:4000/v1"),
    ({"host": "http://[::1]", "port": 4000}, "http://[::1]:4000"),
    ({"host": " "}, None),
    ({"port": 443, "schema": "https"}, None),
]
URIS = [
    ("llmbatch://:key@gate.example:8443/v1?provider=openai", "https://gate.example:8443/v1"),
    ("llmbatch://:key@gate.example:8080/http?provider=openai", "http://gate.example:8080"),
    ("llmbatch://:key@gate.example/v1?provider=openai", "https://gate.example/v1"),
    ("llmbatch://https://gate.example:8443/v1?provider=openai", "https://gate.example:8443/v1"),
    ("llmbatch://:key@https%3A%2F%2Fgate.example%3A8443%2Fv1?provider=openai", "https://gate.example:8443/v1"),
    ("llmbatch://:key@/?provider=openai", None),
]


@pytest.mark.parametrize(("given", "address"), FIELDS, ids=lambda value: str(value))
def test_an_address_has_every_part_that_is_given(given, address):
    """A key goes to the port and path that were written, wherever they were."""
    assert base_url(Connection(conn_id="c", conn_type="llmbatch", **given)) == address


@pytest.mark.parametrize(("uri", "address"), URIS)
def test_a_connection_written_as_a_uri(monkeypatch, uri, address):
    """Airflow takes a URI's path for the schema."""
    monkeypatch.setenv("AIRFLOW_CONN_WRITTEN", uri)
    assert base_url(LLMBatchHook("written").connection) == address


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"host": "https://gate.example:9000", "port": 8443}, "names port 9000, and its port is 8443"),
        ({"host": "gate.example", "port": 70000}, "is no address"),
        ({"host": "https://"}, "is no address"),
        ({"host": "gate.example:x"}, "is no address"),
        ({"host": "ftp://gate.example"}, "is no address"),
        ({"host": "key@gate.example"}, "holds credentials"),
        ({"host": "gate.example", "schema": "v1?key=k"}, "holds parameters"),
    ],
)
def test_what_is_no_address_is_refused(given, words):
    """And a port that is named twice."""
    with pytest.raises(ConfigurationError, match=words):
        base_url(Connection(conn_id="c", conn_type="llmbatch", **given))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            json.dumps({"conn_type": "llmbatch", "extra": json.dumps(json.dumps({"provider": "openai"}))}),
            r"encoded twice|cannot read",
        ),
        (json.dumps({"conn_type": "llmbatch", "extra": "[1]"}), r"JSON of a list|cannot read"),
        ('{"conn_type": "llmbatch", ', "cannot read connection 'written' from AIRFLOW_CONN_WRITTEN"),
        ("llmbatch://:key@https://gate.example/v1?provider=openai", "cannot read connection 'written'"),
        ("", "There is no connection 'written'"),
    ],
)
def test_a_connection_that_cannot_be_read_is_not_told_as_missing(monkeypatch, value, words):
    """Each by what is wrong with it, by Airflow 3.1 itself, or by us; nothing of it is quoted."""
    monkeypatch.setenv("AIRFLOW_CONN_WRITTEN", value)
    with pytest.raises(ConfigurationError, match=words) as caught:
        LLMBatchHook("written").provider  # noqa: B018
    assert "gate.example" not in str(caught.value)
