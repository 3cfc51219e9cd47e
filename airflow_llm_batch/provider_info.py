"""What Airflow reads about this package."""

from __future__ import annotations

from typing import Any

from airflow_llm_batch.connection_form import FIELDS

#: of Airflow's configuration, below ``[llm_batch]``
OPTIONS: dict[str, dict[str, Any]] = {
    "storage": {
        "description": (
            "Object storage URI for job directories, reachable from every worker and triggerer. "
            "Empty means a directory below AIRFLOW_HOME, which only suits a single machine: an "
            "executor other than LocalExecutor has its jobs refused then."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "s3://aws_default@my-bucket/llm-batch",
        "default": None,
    },
    "exclusive_creation": {
        "description": (
            "'required': where the storage lets two attempts create the same file, a job is refused "
            "before anything is sent. 'waived': it is sent with a warning, and you see to it that "
            "two attempts of one task never run at once."
        ),
        "version_added": "0.2.0",
        "type": "string",
        "example": "waived",
        "default": "required",
    },
    "show_answers": {
        "description": (
            "Whether a job's page shows rows, requests and answers, to those who may read the logs of the DAG's tasks."
        ),
        "version_added": "0.2.0",
        "type": "boolean",
        "example": None,
        "default": "True",
    },
    "budget": {
        "description": (
            "Dollars that jobs may cost by month or day (UTC), a JSON object or a list of them: for "
            "all together, or by connection, dag, tag or a key of the jobs' metadata."
        ),
        "version_added": "0.2.0",
        "type": "string",
        "example": '[{"month": 5000}, {"day": 100, "by": "dag"}, {"month": 800, "by": "team"}]',
        "default": None,
    },
}


def get_provider_info() -> dict[str, Any]:
    """Entry point ``apache_airflow_provider``."""
    return {
        "package-name": "airflow-provider-llm-batch",
        "name": "LLM Batch",
        "description": "LLM work in bulk at the batch price: never billed twice, every row accounted for.",
        "integrations": [{"integration-name": "LLM Batch", "tags": ["ai"]}],
        "hooks": [{"integration-name": "LLM Batch", "python-modules": ["airflow_llm_batch.hooks"]}],
        "operators": [{"integration-name": "LLM Batch", "python-modules": ["airflow_llm_batch.operators"]}],
        "sensors": [{"integration-name": "LLM Batch", "python-modules": ["airflow_llm_batch.sensors"]}],
        "triggers": [{"integration-name": "LLM Batch", "python-modules": ["airflow_llm_batch.triggers"]}],
        "extra-links": [f"airflow_llm_batch.links.{name}" for name in ("JobLink", "FilesLink", "ConsoleLink")],
        "task-decorators": [{"class-name": "airflow_llm_batch.decorators.llm_rows_task", "name": "llm_rows"}],
        "connection-types": [
            {
                "connection-type": "llmbatch",
                "hook-class-name": "airflow_llm_batch.hooks.LLMBatchHook",
                "hook-name": "LLM Batch",
                "conn-fields": FIELDS,
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "port", "login"],
                    "relabeling": {"host": "Base URL", "password": "API key"},
                    "placeholders": {
                        "host": "empty for the vendor's own address",
                        "extra": '{"limits": {"requests": 10000}}',
                    },
                },
            }
        ],
        "config": {"llm_batch": {"description": "LLM batch jobs.", "options": OPTIONS}},
    }
