"""A vendor that another package brings: installed from a wheel, found by its entry point, held by our suite."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
from support import ROOT, SECRET

PROTOCOL = """
from airflow_llm_batch.models import Limits
from airflow_llm_batch.providers.base import Facts
from airflow_llm_batch.providers.openai.protocol import OpenAI


class Acme(OpenAI):
    name, title, price_id = "acme", "Acme", ""
    default_base_url = "https://api.acme.test/v1"
    default_limits = Limits(requests=1000, bytes=10_000_000)
    endpoints = frozenset({"/v1/chat/completions"})
    batch_price_factor = "0.8"
    console_url = ""
    facts = Facts("key", "JSON mode", "yes", "no", "7 days")
"""
TESTS = """
from acme_llm.batches import Acme
from airflow_llm_batch.testing import ProviderContract


class TestAcme(ProviderContract):
    made, running, ended = Acme("http://h"), "in_progress", "completed"

    def raw(self, batch_id, status, at=None, rows=2, **more):
        counts = {"total": rows, "completed": 0, "failed": 0}
        return {"id": batch_id, "status": status, "request_counts": counts, **more}
"""
JOB = """
import json, sys
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators import CompletionOperator, SubmitBatchOperator
from airflow_llm_batch.data import ChatRequest

hook = LLMBatchHook("acme")
assert hook.provider.name == "acme", hook.provider
print(json.dumps([hook.provider.title, hook.test_connection()[0], hook.provider.batch_discount]))
"""


@pytest.fixture
def installed(tmp_path):
    """Where pip has put the package."""
    wheel = tmp_path / "acme_llm-1.0-py3-none-any.whl"
    info = "acme_llm-1.0.dist-info"
    files = {
        "acme_llm/__init__.py": "",
        "acme_llm/batches.py": PROTOCOL,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: acme-llm\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[airflow_llm_batch.providers]\nacme = acme_llm.batches:Acme\n",
    }
    with zipfile.ZipFile(wheel, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
        packed.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in files))
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return site


def python(site, *arguments, **environment):
    paths = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_package_brings_a_vendor(installed, emulator, tmp_path):
    """Its name works in a connection, at its own price, and it passes the suite that we publish."""
    (tmp_path / "test_acme.py").write_text(TESTS)
    (tmp_path / "job.py").write_text(JOB)
    out = python(
        installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path / "test_acme.py")
    )
    assert " passed" in out
    assert "failed" not in out
    connection = {"conn_type": "llmbatch", "host": emulator.url, "password": SECRET, "extra": {"provider": "acme"}}
    said = python(installed, str(tmp_path / "job.py"), AIRFLOW_CONN_ACME=json.dumps(connection))
    assert json.loads(said.strip().splitlines()[-1]) == ["Acme", True, "0.8"]


def test_an_openai_shaped_vendor_is_a_few_lines():
    """Under 20 lines of data."""
    assert len([line for line in PROTOCOL.split("class ")[1].splitlines() if line.strip()]) < 20
