"""Each test runs on S3, on Google Cloud Storage and on Azure: real servers, reached through Airflow connections."""

from __future__ import annotations

import os
import uuid

import pytest
from support.object_stores import STORES, absent, make_bucket


@pytest.fixture(scope="session")
def running_store(tmp_path_factory):
    """Starts each store that is asked for, once; returns its address and connection."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        found = {}

        def start(kind):
            if reason := absent(kind):
                pytest.skip(reason)
            if kind not in found:
                found[kind] = stack.enter_context(STORES[kind]())
            return found[kind]

        yield start


@pytest.fixture
def new_bucket(running_store, monkeypatch):
    """Makes an empty bucket in a store of some kind; returns its URI, with the connection in it."""

    def make(kind):
        store = running_store(kind)
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        # Airflow keeps one file system per connection id.
        conn_id = f"{kind}_{os.getpid()}"
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", store.connection)
        return make_bucket(store.uri(conn_id, f"b{uuid.uuid4().hex[:12]}"))

    return make


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("gcs", "azure")]


@pytest.fixture(params=["s3", *SLOW])
def kind(request):
    """Of store; those that are not Python wait for the slow tests."""
    return request.param


@pytest.fixture
def bucket(kind, new_bucket):
    """An empty bucket and the connection in its URI."""
    return new_bucket(kind)
