"""What the distribution promises Airflow and its users."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator, validate
from support import ROOT, SECRET

from airflow_llm_batch.emulator.schemas import fill_schema
from airflow_llm_batch.provider_info import get_provider_info


def test_airflow_accepts_the_provider_metadata():
    """Valid by Airflow's own schema, and loaded through the entry point."""
    import airflow

    schema = msgspec.json.decode((Path(airflow.__file__).parent / "provider_info.schema.json").read_bytes())
    validate(get_provider_info(), schema)
    [point] = [p for p in entry_points(group="apache_airflow_provider") if p.dist.name == "airflow-provider-llm-batch"]
    assert point.load()() == get_provider_info()


def test_airflow_offers_the_connection_type_and_its_form():
    """The providers manager knows type, hook and fields; the storage option has a default."""
    from airflow.providers.common.compat.sdk import conf
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert manager.hooks["llmbatch"].hook_name == "LLM Batch"
    assert conf.get("llm_batch", "storage").startswith("file://")


ALONE = """
import importlib, os, sys
for theirs in %s:
    importlib.import_module(theirs)
# Airflow itself has asked who provides what.
for ours in [name for name in sys.modules if name.startswith("airflow_llm_batch")]:
    del sys.modules[ours]
for ours in sys.argv[1:]:
    if not os.fork():
        importlib.import_module(ours)
        os._exit(0)
    if os.wait()[1]:
        sys.exit("cannot be imported first: " + ours)
"""
NAMED = ["hooks", "operators", "sensors", "triggers", "data", "emulator", "providers.openai", "jobs.submission"]
#: what others have made and takes long: loaded once, before the processes part
THEIRS = ["airflow.sdk", "airflow.triggers.base", "fastapi", "genai_prices", "httpx", "pyarrow", "uvicorn"]


def every_module():
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "airflow_llm_batch").rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__")


@pytest.mark.parametrize("which", ["named by users", pytest.param("all", marks=pytest.mark.slow)])
def test_every_module_imports_alone(which):
    """No import order is needed: each module loads first in a process of its own."""
    names = [f"airflow_llm_batch.{name}" for name in NAMED] if which != "all" else every_module()
    assert len(names) > (200 if which == "all" else 7)
    done = subprocess.run([sys.executable, "-c", ALONE % THEIRS, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_providers_know_only_models_and_httpx():
    """Arrows point down: nothing below imports Airflow or the layers above it."""
    allowed = ("exceptions", "models", "numbers", "providers", "request", "results")
    for path in (ROOT / "airflow_llm_batch" / "providers").rglob("*.py"):
        for line in path.read_text().splitlines():
            if line.strip().startswith("from airflow_llm_batch."):
                assert line.split("airflow_llm_batch.")[1].startswith(allowed), f"{path.name}: {line}"
            assert "airflow.sdk" not in line, f"{path.name}: {line}"


def test_the_wheel_carries_the_example_dags():
    """The demo runs from an installed wheel too."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {
        "dags_examples": "airflow_llm_batch/dags_examples"
    }
    assert distribution("airflow-provider-llm-batch").version


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}(x|yz)?$"},
        {"type": "array", "items": {"type": "integer", "minimum": 5, "maximum": 6}, "minItems": 2, "uniqueItems": True},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "integer", "multipleOf": 7, "minimum": 50},
        {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}]},
        {
            "$defs": {
                "n": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}
            },
            "$ref": "#/$defs/n",
        },
        {"allOf": [{"type": "object", "properties": {"a": {"type": "boolean"}}}, {"required": ["a"]}]},
        {"type": ["string", "null"], "minLength": 40},
        {"enum": [1, "two", None]},
    ],
)
def test_the_emulator_fills_schemas_with_valid_values(schema):
    """Valid, and the same for the same seed."""
    for seed in map(str, range(20)):
        value = fill_schema(schema, seed)
        Draft202012Validator(schema).validate(value)
        assert value == fill_schema(schema, seed)


def test_no_secret_is_committed():
    """The planted key lives in the tests alone."""
    for path in (ROOT / "airflow_llm_batch").rglob("*.py"):
        assert SECRET not in path.read_text()
