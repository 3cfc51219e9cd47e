"""A real LiteLLM proxy stands between the provider and the emulator: how it is routed through, and what it changes.

It runs from an environment of its own, since its dependencies and Airflow's do not meet: ``LITELLM_BIN`` is the path of
its console script, ``.litellm/bin/litellm`` below the repository's root where that is not set. ``prisma`` has to be
installed beside it, though there is no database: without it, each refusal by the upstream is told as a bare HTTP 500.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from support import SECRET, TESTS, read_jsonl
from support.tasks import drive, run

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import PICO
from airflow_llm_batch.operators import CompletionOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.results import Result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
BINARY = Path(os.environ.get("LITELLM_BIN") or TESTS.parent / ".litellm" / "bin" / "litellm")
#: the proxy's model groups, and what they are called upstream
GROUPS = {"small": "gpt-5-mini", "large": "gpt-4o-mini"}
#: what a proxy's config has beside its models
CONFIGS = {
    "bare": {},
    "settings": {"files_settings": [{"custom_llm_provider": "openai"}]},
    "balanced": {"litellm_settings": {"enable_loadbalancing_on_batch_endpoints": True}},
}
#: how a job is routed: the proxy's config, the connection's extra, the model that its rows name
ROUTES = {
    "settings": ("settings", {}, "gpt-5-mini"),
    "header": ("bare", {"headers": {"x-litellm-model": "small"}}, "gpt-5-mini"),
    "query": ("bare", {"query": {"model": "small"}}, "gpt-5-mini"),
    "form": ("bare", {"form": {"model": "small"}}, "gpt-5-mini"),
    # The preset's own options, and what it says by itself: no create is repeated behind our back.
    "option": ("bare", {"provider": "litellm", "litellm_model": "small"}, "gpt-5-mini"),
    "vendor": ("settings", {"provider": "litellm", "custom_llm_provider": "openai"}, "gpt-5-mini"),
    # Rows name the group here, which does not tell how the upstream calls the token cap.
    "balanced": ("balanced", {"token_cap": "max_completion_tokens"}, "small"),
}
ROWS = [{"id": f"r{n}", "text": f"text {n}"} for n in range(20)]


@contextmanager
def proxy(upstream: Emulator, folder: Path, name: str):
    """A running proxy before ``upstream``; its base URL. It has no database and looks for nothing outside."""
    server = {"api_base": upstream.openai_url, "api_key": "sk-upstream"}
    models = [{"model_name": k, "litellm_params": {"model": f"openai/{v}", **server}} for k, v in GROUPS.items()]
    config = {"model_list": models, "general_settings": {"master_key": SECRET}, **CONFIGS[name]}
    if "files_settings" in config:
        config["files_settings"] = [{**entry, **server} for entry in config["files_settings"]]
    path, log = folder / "config.yaml", folder / "proxy.log"
    path.write_text(json.dumps(config))  # which is YAML, too
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [BINARY, "--config", path, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"],
            env={**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}, cwd=folder, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        for _ in range(480):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                httpx.get(f"http://127.0.0.1:{port}/health/liveliness", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.25)
        else:
            raise AssertionError(log.read_text()[-3000:])
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()  # it keeps nothing, and has no children
        process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The proxies' upstream, and the base URL of the proxy of a config; each is started once."""
    if not BINARY.is_file():
        pytest.skip(f"no LiteLLM proxy at {BINARY}; LITELLM_BIN names the console script of one")
    with Emulator(duration=1) as emulator, ExitStack() as stack:
        urls = {}

        def url(name: str) -> str:
            if name not in urls:
                urls[name] = stack.enter_context(proxy(emulator, tmp_path_factory.mktemp(name), name))
            return urls[name]

        yield emulator, url


@pytest.fixture
def upstream(running):
    """It has forgotten everything."""
    httpx.post(f"{running[0].url}/_emulator/reset").raise_for_status()
    return running[0]


@pytest.fixture
def bare(running):
    return running[1]("bare")


def asked(model: str = "gpt-5-mini") -> ChatRequest:
    return ChatRequest(model, system="Say it again.", user="{text}", max_tokens=50)


def landed(summary, *models):
    """Whether there is every row, once for each model, with its own text."""
    rows = [row for file in summary["files"] for row in read_jsonl(file)]
    assert Counter((r["model"], r["key"]) for r in rows) == {(m, row["id"]): 1 for m in models for row in ROWS}
    texts = {row["id"]: row["text"] for row in ROWS}
    return all((row["status"], row["text"]) == ("succeeded", texts[row["key"]]) for row in rows)


@pytest.mark.parametrize("route", ROUTES)
def test_a_job_goes_through_a_proxy(upstream, running, route, connect, context, tmp_path):
    """Upload, create, look, download, delete: three batches, each row paid and landed once."""
    config, extra, model = ROUTES[route]
    conn_id = connect(running[1](config), limits={"requests": 8}, **extra)
    summary, _ = run(context, conn_id, tmp_path, rows=ROWS, key="id", request=asked(model), metadata={"team": "search"})
    assert landed(summary, "gpt-5-mini")
    stats = upstream.vendor.stats()
    assert (len(stats["batches"]), stats["billed_rows"], len(summary["batches"])) == (3, 20, 3)
    assert {batch["metadata"]["team"] for batch in stats["batches"].values()} == {"search"}
    assert upstream.vendor.calls["POST /v1/batches"] == upstream.vendor.calls["POST /v1/files"] == 3
    assert not [file for file in upstream.vendor.files.values() if file.purpose == "batch"]


@pytest.mark.parametrize("route", ROUTES)
def test_its_listing_is_paged_and_leads_to_its_batches(upstream, running, route, connect, tmp_path):
    """What a lost create is looked for in, and what many waiting jobs are read from."""
    config, extra, model = ROUTES[route]
    path = tmp_path / "in.jsonl"
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    path.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    hook = LLMBatchHook(connect(running[1](config), **extra))
    made = [hook.create_batch(hook.upload_file(path), metadata={"n": str(n)}).id for n in range(3)]
    listed, after = [], None
    for _ in made:
        page = hook.list_batches(limit=1, after=after)
        listed, after = [*listed, *page.items], page.after
    assert (after, [batch.metadata["n"] for batch in listed]) == (None, ["2", "1", "0"])
    # Ids name the route, and a form's is known to uploads alone.
    assert ([batch.id for batch in listed] == made[::-1]) == (route != "form")
    assert all(hook.get_batch(batch.id).metadata == batch.metadata for batch in listed)
    assert hook.cancel_batch(made[0]).id == made[0]
    assert hook.test_connection()[0] is True
    hook.close()


def test_a_route_is_needed_where_the_proxy_has_no_files_settings(upstream, bare, connect, context):
    """The proxy's own words reach the user; nothing was made."""
    with pytest.raises(VendorUnavailable, match="files_settings is not set"):
        SubmitBatchOperator(task_id="s", conn_id=connect(bare, retries=0), rows=ROWS, request=asked()).execute(context)
    assert not upstream.vendor.batches


def test_a_routed_file_is_sent_on_as_it_is(upstream, bare, connect, context, tmp_path):
    """Its rows have to name the upstream's model: a group's name arrives at the vendor."""
    conn_id = connect(bare, headers={"x-litellm-model": "small"})
    summary, _ = run(context, conn_id, tmp_path, rows=ROWS, key="id", request=asked("small"))
    assert landed(summary, "small")
    assert {batch.model for batch in upstream.vendor.batches.values()} == {"small"}


def test_calls_go_through_a_proxy_by_group(upstream, bare, connect, context, tmp_path):
    """One model, then two side by side: each row called once for each, and told by the group's name."""
    given = {"conn_id": connect(bare), "rows": ROWS, "key": "id", "destination": f"file://{tmp_path}/out"}
    assert landed(CompletionOperator(task_id="submit", request=asked("small"), **given).execute(context), "small")
    assert upstream.vendor.calls["POST /v1/chat/completions"] == 20
    # The group has no list price; the proxy knows what it asked, and tells what that has cost.
    given["conn_id"] = connect(bare, conn_id="llm_priced", provider="litellm")
    context["ti"].task_id = "priced"
    priced = CompletionOperator(task_id="priced", request=asked("small"), **given).execute(context)
    used = Result(status="succeeded", input_tokens=priced["input_tokens"], output_tokens=priced["output_tokens"])
    listed = Prices("openai").cost(used, GROUPS["small"], called=True)
    assert (priced["cost_usd"], priced["sync_cost_usd"]) == (pytest.approx(listed.paid / PICO, rel=0.01), None)
    httpx.post(f"{upstream.url}/_emulator/reset").raise_for_status()
    given["conn_id"] = connect(bare)
    context["ti"].task_id = "both"
    both = CompletionOperator(task_id="both", request=asked(), models=list(GROUPS), **given)
    assert landed(both.execute(context), *GROUPS)
    assert (upstream.vendor.calls["POST /v1/chat/completions"], len(upstream.vendor.batches)) == (40, 0)


def test_two_groups_get_a_batch_each(upstream, bare, connect, context, tmp_path):
    """A connection per group, each with its header."""
    models = [(m, connect(bare, conn_id=f"llm_{g}", headers={"x-litellm-model": g})) for g, m in GROUPS.items()]
    task = LLMBatchOperator(
        task_id="submit", conn_id=models[0][1], rows=ROWS, key="id", request=asked(), models=models,
        destination=f"file://{tmp_path}/out", poll_interval=0.05,
    )  # fmt: skip
    assert landed(drive(task, context), *GROUPS.values())
    stats = upstream.vendor.stats()
    assert (len(stats["batches"]), stats["billed_rows"]) == (2, 40)


@pytest.mark.parametrize(
    "extra",
    [
        {"headers": {"x-litellm-model": "small"}, "create": {"max_retries": 0}},
        {"provider": "litellm", "litellm_model": "small"},
    ],
    ids=["openai", "litellm"],
)
def test_a_create_that_the_proxy_lost_is_not_repeated_behind_our_back(
    upstream, bare, connect, context, tmp_path, extra
):
    """Its client sends a create again by itself unless the body forbids it; then the batch is found, and paid once."""
    conn_id = connect(bare, **extra)
    lost = {"http": [{"on": "POST /v1/batches", "cut": "after"}]}
    httpx.put(f"{upstream.url}/_emulator/faults", json=lost).raise_for_status()
    summary, _ = run(context, conn_id, tmp_path, rows=ROWS, key="id", request=asked())
    assert landed(summary, "gpt-5-mini")
    stats = upstream.vendor.stats()
    assert (len(stats["batches"]), stats["billed_rows"]) == (1, 20)
