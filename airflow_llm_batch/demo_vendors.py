"""What each vendor's demo needs beside the emulator: a model, a connection, and a store for those that read one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from airflow_llm_batch.emulator.presets.manners import MANNERS

BUCKET = "llm-batch-demo"


class Vendor(NamedTuple):
    """:param extra: of the connection, beside the provider's name.
    :param path: where the API lies at the emulator.
    :param needs: a package that it cannot do without, and how that is installed; None for none.
    :param store: whether it wants an S3 server.
    """

    model: str
    extra: dict[str, Any] = {}  # noqa: RUF012
    needs: tuple[str, str] | None = None
    store: bool = False
    path: str = ""


AMAZON = ("moto.server", "pip install 'airflow-provider-llm-batch[s3]' 'moto[s3,server]'")
GOOGLE = ("airflow.providers.google", "pip install 'airflow-provider-llm-batch[gcs]'")
VENDORS: dict[str, Vendor] = {
    "openai": Vendor("gpt-5-mini"),
    "azure": Vendor("batch-mini", {"deployments": {"batch-mini": "gpt-5-mini"}}),
    "anthropic": Vendor("claude-haiku-4-5"),
    "anthropic-aws": Vendor(
        "claude-haiku-4-5", {"region": "us-east-1", "workspace_id": "wrkspc_demo"}, path="/anthropic-aws"
    ),
    "anthropic-google": Vendor(
        "claude-haiku-4-5", {"project": "demo", "workspace_id": "wrkspc_demo", "gcp_conn_id": "demo_google"}, GOOGLE,
        path="/anthropic-google/v1/projects/demo/locations/global/workspaces/wrkspc_demo/invoke",
    ),
    "gemini": Vendor("gemini-2.5-flash"),
    "openrouter": Vendor("openai/gpt-5-mini", path="/openrouter/api/v1"),
    "xai": Vendor("grok-4.3", path="/xai/v1"),
    "fireworks": Vendor(
        "accounts/fireworks/models/llama-v3p1-8b-instruct", {"account": "demo"}, path="/fireworks"
    ),
    "mistral": Vendor("mistral-small-latest", path="/mistral/v1"),
    "vertex": Vendor(
        "gemini-2.5-flash",
        {"project": "demo", "location": "us-central1", "gcp_conn_id": "demo_google", "storage": f"gs://{BUCKET}/stage"},
        GOOGLE,
    ),
    "bedrock": Vendor(
        "anthropic.claude-haiku-4-5-20251001-v1:0",
        {
            "region": "us-east-1", "aws_conn_id": "demo_aws", "storage": f"s3://{BUCKET}/stage",
            "role_arn": "arn:aws:iam::123456789012:role/llm-batch", "small_batches": "online",
        },
        AMAZON,
        store=True,
    ),
}  # fmt: skip
#: a model of each vendor of OpenAI's kind that has batches
PRESETS = {
    "groq": "llama-3.1-8b-instant", "together": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "deepinfra": "meta-llama/Meta-Llama-3.1-8B-Instruct", "doubleword": "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8",
    "dashscope": "qwen-plus", "kimi": "kimi-k2.5", "parasail": "parasail-llama-33-70b-fp8",
    "perplexity": "openai/gpt-5-mini", "novita": "deepseek/deepseek-r1", "litellm": "gpt-5-mini",
}  # fmt: skip
#: without it a proxy knows no model whose account it should lend
ROUTED = {"litellm": {"litellm_model": "small"}}
VENDORS |= {
    name: Vendor(model, ROUTED.get(name, {}), path=f"/{name}{MANNERS[name].base}") for name, model in PRESETS.items()
}


def check(name: str) -> None:
    """:raises SystemExit: where a package is missing; says how to get it."""
    needs = VENDORS[name].needs
    if needs is not None and not is_there(needs[0]):
        sys.exit(f"The demo of {name} needs {needs[0]}: {needs[1]}")


def is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def connections(name: str, url: str, store: str | None) -> dict[str, str]:
    """The Airflow connections of a demo, as the environment has them.

    :param url: the emulator's; ``store`` the S3 server's.
    """
    # Batches of 500 show several shards at work; real limits are far higher and need no setting.
    extra = {"provider": name, **VENDORS[name].extra, "limits": {"requests": 500}}
    host = f"{url}{VENDORS[name].path}"
    made: dict[str, dict[str, Any]] = {
        "llm_batch_default": {"conn_type": "llmbatch", "host": host, "password": "emulator-key", "extra": extra}
    }
    if "gcp_conn_id" in extra:
        del made["llm_batch_default"]["password"]
        known = {"is_anonymous": True, "project": "demo", "gcs.endpoint": url}
        made["demo_google"] = {"conn_type": "google_cloud_platform", "extra": known}
    if "aws_conn_id" in extra:
        del made["llm_batch_default"]["password"]
        known = {"region_name": "us-east-1", "endpoint_url": store}
        made["demo_aws"] = {"conn_type": "aws", "login": "demo", "password": "demo", "extra": known}
    found = {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(connection) for conn_id, connection in made.items()}
    if "demo_google" in made:
        # gcsfs asks Google itself otherwise what kind of bucket it has.
        found["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    if "demo_aws" in made:
        # The emulator reads the bucket, too.
        found |= {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo"}
    return found


def start_store(start: Callable[..., Any], port: int, log: Path, environment: dict[str, str]) -> str:
    """An S3 server with one bucket; its address.

    :param start: of a process that ends with the demo.
    """
    import httpx

    from airflow_llm_batch.demo_processes import wait_for_port

    with log.open("wb") as output:
        process = start([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], environment, output)
    wait_for_port(port, process, log)
    url = f"http://127.0.0.1:{port}"
    httpx.put(f"{url}/{BUCKET}", timeout=30).raise_for_status()
    return url
