"""A throw-away Airflow, set up before anything imports it, and an emulator per test."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

# No limits of seconds: on a busy machine some example would be found to break them.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
HOME = Path(tempfile.mkdtemp(prefix="llm-batch-tests-"))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).resolve().parent.parent / "dags_examples"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    # A DAG that a test changes is another at once, and not after half a minute.
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    "AIRFLOW__LLM_BATCH__STORAGE": f"file://{HOME}/jobs",
    # Read when gcsfs is imported: it asks Google itself what kind of bucket it has, whatever endpoint is set.
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
}

from support import ROOT, SECRET  # noqa: E402
from support.databases import binaries, postgres_server  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

from airflow_llm_batch.emulator import Emulator  # noqa: E402
from airflow_llm_batch.hooks import LLMBatchHook  # noqa: E402
from airflow_llm_batch.jobs.directory.store import JobStore  # noqa: E402

#: a vendor's listing does not lag here, and nobody creates anything from another machine
QUICK = {"retries": 2, "settle_seconds": 0.1, "create_seconds": 0.3, "delivery_seconds": 1.0}

#: what shares a server that takes long to start, or of which one at a time is enough for a machine: part of a test's id
TOGETHER = {
    "test_airflow_running.py": "airflow",
    "test_executors.py": "airflow",
    "test_ui.py": "airflow",
    "whole_airflow": "airflow",
    "test_litellm_proxy.py": "proxies",
}


class Together(LoadScopeScheduling):
    """One worker has all that belongs together; each other test is for whichever is free."""

    def _split_scope(self, nodeid):
        return next((name for part, name in TOGETHER.items() if part in nodeid), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For ``--dist loadgroup``; xdist's own reads marks, and finds none with pytest 9.2."""
    return Together(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture
def emulator():
    """A fast emulator; tests ask for slower ones themselves."""
    with Emulator(duration=0) as running:
        yield running


@pytest.fixture(params=["openai", pytest.param("azure", marks=pytest.mark.slow), "anthropic", "gemini"])
def provider(request):
    """Every test that asks for it runs once per vendor; Azure speaks OpenAI's protocol, and waits for the slow ones."""
    return request.param


@pytest.fixture
def connect(monkeypatch):
    """Define an ``llmbatch`` connection; returns its id."""

    def define(url: str, provider: str = "openai", conn_id: str = "llm_test", key: str | None = SECRET, **extra):
        connection = {"conn_type": "llmbatch", "host": url, "extra": {"provider": provider, **QUICK, **extra}}
        if key:
            connection["password"] = key
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
        return conn_id

    return define


@pytest.fixture
def hook(emulator, provider, connect):
    """A hook on the emulator, for each vendor."""
    made = LLMBatchHook(connect(emulator.url, provider))
    yield made
    made.close()


@pytest.fixture
def context(tmp_path):
    """As much of a task's context as operators read; every test has a run of its own."""
    ti = SimpleNamespace(dag_id="dag", run_id=f"run-{tmp_path.name}", task_id="submit", map_index=-1)
    return {"ti": ti}


@pytest.fixture
def store(tmp_path):
    """An empty job directory."""
    return JobStore(f"file://{tmp_path}/job")


@pytest.fixture(scope="session")
def airflow_db():
    """Airflow's database, for tests that run DAGs."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of our own on a free port; its connection as JSON."""
    place = binaries()
    if place is None:
        pytest.skip("no PostgreSQL server is installed here")
    with postgres_server(place) as connection:
        yield connection


@pytest.fixture(scope="session")
def shared():
    """Real data that lies beside the clone where there is any."""
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the real sample data is not beside this clone")
    return data
