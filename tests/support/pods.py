"""An executor for tests that runs each task as a pod of KubernetesExecutor does: by the same command, in a process that
nothing was loaded into before, on a host of its own, whose disk is gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.executors.base_executor import BaseExecutor

from support.clusters import Host
from support.footprint import Footprint

WITHHELD = (
    "AIRFLOW__DATABASE__",
    "AIRFLOW__CELERY__",
    "AIRFLOW__API_AUTH__",
    "AIRFLOW__API__",
    "AIRFLOW__CORE__FERNET",
)
#: as KubernetesExecutor gives it to its pods
COMMAND = (sys.executable, "-m", "airflow.sdk.execution_time.execute_workload", "--json-string")


class PodExecutor(BaseExecutor):
    """Hosts lie in ``PODS``; what each task took is a line of ``PODS/footprints.jsonl``."""

    def start(self) -> None:
        self.root = Path(os.environ["PODS"])
        self.pods: dict[Any, tuple[Host, Footprint]] = {}
        # Pods know neither the database nor the keys.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(WITHHELD)}

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        for workload in workload_items:
            del self.queued_tasks[workload.key]
            self.running.add(workload.key)
            name = f"{workload.ti.task_id}-{workload.ti.id}"
            dag = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"], "nightly.py").read_text()
            host = Host(name.replace("_", "-"), self.root, dag)
            with (host.root / "log").open("wb") as log:
                host.process = subprocess.Popen(
                    [*COMMAND, workload.model_dump_json()], env=self.environment | host.environment, cwd=host.cwd,
                    stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            footprint = Footprint(host.tmp, host.process.pid, allowed=(host.airflow / "logs", host.root / "log"))
            footprint.__enter__()
            self.pods[workload.key] = host, footprint

    def sync(self) -> None:
        for key, (host, footprint) in list(self.pods.items()):
            assert host.process is not None
            if host.process.poll() is None:
                continue
            footprint.__exit__()
            del self.pods[key]
            facts = {
                "task": key.task_id, "memory": footprint.memory, "temporary": footprint.temporary,
                "elsewhere": sorted(footprint.elsewhere), "left": host.files(), "status": host.process.returncode,
            }  # fmt: skip
            with (self.root / "footprints.jsonl").open("a") as file:
                file.write(json.dumps(facts) + "\n")
            shutil.rmtree(host.root)
            (self.success if host.process.returncode == 0 else self.fail)(key)

    def end(self) -> None:
        for host, footprint in self.pods.values():
            footprint.__exit__()
            host.kill()

    def terminate(self) -> None:
        self.end()
