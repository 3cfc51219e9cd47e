"""What differs between the versions of Airflow that tests run on, and when each can go.

What the package itself needs is in ``airflow_llm_batch.airflow_versions``.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

import airflow
import pytest
from packaging.version import Version

# Until 3.1 is dropped, where they have other places.
IS_3_1 = Version(airflow.__version__) < Version("3.2")
dags = importlib.import_module("airflow.models.dagbag" if IS_3_1 else "airflow.dag_processing.dagbag")
encoders = importlib.import_module(f"airflow.serialization.{'serialized_objects' if IS_3_1 else 'encoders'}")
DagBag: Any = dags.DagBag
objects = importlib.import_module("airflow.serialization.serialized_objects")
serialized: Any = (objects.SerializedDAG if IS_3_1 else objects.DagSerialization).to_dict
encode_trigger: Any = getattr(encoders, "_encode_trigger" if IS_3_1 else "encode_trigger")

__all__ = ["DagBag", "encode_trigger", "forget_teams", "known_bag", "needs_teams", "serialized"]

#: until 3.1 is dropped, which has their tables and nothing that reads them
needs_teams = pytest.mark.skipif(IS_3_1, reason="Airflow has several teams from 3.2 on")


def known_bag(folder: str | Path) -> Any:
    """A folder's DAGs, in Airflow's database too: until 3.1.0 is dropped, ``dag.test()`` wants them there."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    bag = DagBag(str(folder))
    assert bag.import_errors == {}
    DagBundlesManager().sync_bundles_to_db()
    dags.sync_bag_to_db(bag, "dags-folder", None)
    return bag


def forget_teams() -> None:
    """Airflow remembers for a while which team a DAG is of: from 3.3 on."""
    from airflow.models import dag

    with contextlib.suppress(AttributeError):
        dag._team_name_cache.clear()
