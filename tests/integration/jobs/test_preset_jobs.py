"""Whole jobs at every vendor of OpenAI's kind, and calls where there are no batches."""

from __future__ import annotations

import httpx
import pytest
from support import SECRET
from support.jobs import land, spec, submit, texts
from support.tasks import drive, landed, operator

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, VendorUnavailable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators import CompletionOperator, SubmitBatchOperator
from airflow_llm_batch.providers.registry import PRESETS, provider_class

SERVERS = {"vllm", "ollama", "llamacpp", "compatible"}
VENDORS = sorted(PRESETS.keys() - SERVERS)
#: where each API lies at the emulator, what a connection needs beside it, and a model that has a known price
BASES = {
    "groq": "/openai/v1", "deepinfra": "/v1/openai", "dashscope": "/compatible-mode/v1", "novita": "/openai/v1",
}  # fmt: skip
EXTRA = {
    "litellm": {"litellm_model": "small"},
    "kimi": {"completion_window": "3d"},
    "groq": {"completion_window": "7d"},
}
PRICED = {"groq": "llama-3.1-8b-instant", "kimi": "kimi-k2.5", "novita": "deepseek/deepseek-r1"}
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}


def base(name):
    return f"/{name}{BASES.get(name, '/v1')}"


def asked(name, **more):
    return ChatRequest(PRICED.get(name, "some-model"), **{"user": "{text}", "max_tokens": 100, **more})


@pytest.fixture(scope="module")
def running():
    """One emulator for all: it speaks each vendor's manner below the vendor's name."""
    with Emulator(duration=0) as emulator:
        yield emulator


@pytest.fixture
def emulator(running):
    """It has forgotten everything."""
    httpx.post(f"{running.url}/_emulator/reset").raise_for_status()
    return running


@pytest.fixture(params=VENDORS)
def vendor(request):
    return request.param


@pytest.fixture
def hook(vendor, emulator, connect):
    """Batches of three rows."""
    extra = {"limits": {"requests": 3}, **EXTRA.get(vendor, {})}
    made = LLMBatchHook(connect(f"{emulator.url}{base(vendor)}", vendor, **extra))
    yield made
    made.close()


def test_a_job_goes_from_plan_to_landed(vendor, hook, store, emulator, tmp_path):
    """Two batches: each row sent, answered, landed and billed once; the key is nowhere."""
    job, ids = submit(store, hook, spec(texts(5), asked(vendor), "id"))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert {row["key"]: row["text"] for row in rows} == {f"k{n}": f"text {n}" for n in range(5)}
    assert {row["status"] for row in rows} == {"succeeded"}
    stats, calls = emulator.vendor.stats(), emulator.vendor.calls
    assert (len(ids), len(stats["batches"]), stats["billed_rows"]) == (2, 2, 5)
    assert calls[f"POST {base(vendor)}/batches"] == 2
    window = {"novita": "48h", "kimi": "3d", "groq": "7d"}.get(vendor, "24h")
    assert {batch.window for batch in emulator.vendor.batches.values()} == {window}
    kept = {bool(batch.metadata) for batch in emulator.vendor.batches.values()}
    assert kept == {hook.provider.found_by == "metadata"}
    factor, priced = hook.provider.batch_discount, PRICED.get(vendor)
    tells = vendor == "perplexity"
    assert (manifest.cost_usd is not None) == bool((factor and priced) or tells)
    if tells:
        # Nobody has its list: there is nothing to compare with.
        assert (manifest.sync_cost_usd, manifest.saving_usd) == (None, None)
        assert manifest.cost_usd == pytest.approx(sum(row["cost_usd"] for row in rows))
    elif manifest.cost_usd is not None:
        assert manifest.cost_usd == pytest.approx(float(factor) * manifest.sync_cost_usd)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("fault", [{"cut": "after"}, {"cut": "before"}, {"status": 500}])
def test_a_lost_create_is_found_and_made_once(vendor, hook, store, emulator, tmp_path, fault):
    """By metadata or by its input file, among another job's batch of the same size."""
    submit(type(store)(f"{store.uri}-other"), hook, spec(texts(3), asked(vendor), "id"))
    emulator.faults(http=[{"on": f"POST {base(vendor)}/batches", **fault}])
    job, (batch,) = submit(store, hook, spec(texts(3), asked(vendor), "id"))
    manifest, _ = land(store, hook, job, tmp_path / "out")
    made = emulator.vendor.batches
    assert (len(made), manifest.counts["succeeded"], emulator.vendor.stats()["billed_rows"]) == (2, 3, 6)
    assert batch == list(made)[1]
    again = 1 if fault.get("cut") == "after" else 2
    assert emulator.vendor.calls[f"POST {base(vendor)}/batches"] == 1 + again


def test_rows_that_fail_are_asked_again(vendor, connect, context, emulator, tmp_path):
    """In the words of each vendor's error file; every row ends well, at the schema that was asked for, and the inputs
    are deleted."""
    emulator.faults(row_errors=0.5, heal=1, shuffle=True)
    conn_id = connect(f"{emulator.url}{base(vendor)}", vendor, **EXTRA.get(vendor, {}))
    rows, request = [f"row {n}" for n in range(8)], asked(vendor, output=SCHEMA)
    task = operator(conn_id, tmp_path, rows=rows, key=None, passthrough=None, request=request)
    summary = drive(task, context)
    first, second = (batch.total for batch in emulator.vendor.batches.values())
    assert (first, 0 < second < 8, summary["rounds"]) == (8, True, 2)
    assert [row["output"]["label"] in "ab" for row in landed(summary)] == [True] * 8
    assert {file.purpose for file in emulator.vendor.files.values()} == {"batch_output"}


def test_a_batch_that_expires_gives_what_it_has_done(vendor, connect, context, emulator, tmp_path):
    """The rest is expired, and asked again."""
    emulator.faults(expire=0.5, heal=1)
    conn_id = connect(f"{emulator.url}{base(vendor)}", vendor, **EXTRA.get(vendor, {}))
    rows = [f"row {n}" for n in range(4)]
    task = operator(conn_id, tmp_path, rows=rows, key=None, passthrough=None, request=asked(vendor))
    assert [row["text"] for row in landed(drive(task, context))] == rows
    assert [batch.total for batch in emulator.vendor.batches.values()] == [4, 2]


def test_nothing_is_asked_of_a_proxy_after_the_end(connect, context, emulator, tmp_path):
    """LiteLLM answers such looks with 500: each batch is read until its end was told, and no more."""
    conn_id = connect(f"{emulator.url}/litellm/v1", "litellm", litellm_model="small", limits={"requests": 2})
    task = operator(conn_id, tmp_path, rows=["a", "b", "c"], key=None, passthrough=None, request=asked("litellm"))
    assert drive(task, context)["counts"]["succeeded"] == 3
    looks = {call: n for call, n in emulator.vendor.calls.items() if call.startswith("GET /litellm/v1/batches/")}
    assert list(looks.values()) == [1, 1]


def test_a_proxys_500s_are_waited_out(connect, context, emulator, tmp_path):
    """On uploads, creates, listings, looks and downloads alike: one batch, each row once."""
    conn_id = connect(f"{emulator.url}/litellm/v1", "litellm", litellm_model="small")
    places = (
        "POST /litellm/v1/files",
        "POST /litellm/v1/batches",
        "GET /litellm/v1/batches",
        "GET /litellm/v1/files/*",
    )
    emulator.faults(http=[{"on": on, "status": 500} for on in (*places, "GET /litellm/v1/batches/*")])
    task = operator(conn_id, tmp_path, rows=["a", "b"], key=None, passthrough=None, request=asked("litellm"))
    assert drive(task, context)["counts"]["succeeded"] == 2
    assert emulator.vendor.stats()["billed_rows"] == 2


def test_a_broken_upload_to_together_is_made_whole(connect, store, emulator, tmp_path):
    """Cut at each of its three steps: one file, one batch; the file that broke off is not used."""
    for step, on in enumerate(["POST /together/v1/files", "PUT /together/store/*", "POST /together/v1/files/*"]):
        for cut in ("before", "after"):
            hook = LLMBatchHook(connect(f"{emulator.url}/together/v1", "together", retries=0))
            emulator.vendor.files.clear()
            emulator.vendor.batches.clear()
            emulator.faults(http=[{"on": on, "cut": cut}])
            where = type(store)(f"{store.uri}-{step}-{cut}")
            what = spec(texts(2), asked("together"), "id")
            with pytest.raises(VendorUnavailable, match="failed: RemoteProtocolError"):
                submit(where, hook, what)
            job, _ = submit(where, hook, what)
            assert land(where, hook, job, tmp_path / f"{step}{cut}")[0].counts["succeeded"] == 2
            assert len(emulator.vendor.batches) == 1
            hook.close()


def test_a_batch_at_perplexity_is_made_once_by_its_key(connect, store, emulator):
    """A create that is sent again after its batch was listed nowhere gets the same batch."""
    hook = LLMBatchHook(connect(f"{emulator.url}/perplexity/v1", "perplexity"))
    job, (batch,) = submit(store, hook, spec(texts(2), asked("perplexity"), "id"))
    (shard,) = job.shards
    again = hook.run(hook.provider.create(shard, store.attempts(0).uploaded(), None))
    assert again.id == batch
    assert len(emulator.vendor.batches) == 1
    hook.close()


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_rows_of_a_server_without_batches_are_called(name, connect, context, emulator, tmp_path, capfd):
    """The lane is chosen by what the server has, however many rows there are, and the log says why."""
    conn_id = connect(f"{emulator.url}/{name}/v1", name, key=None)
    rows = [f"row {n}" for n in range(4)]
    task = CompletionOperator(
        task_id="submit", conn_id=conn_id, rows=rows, request=asked(name), lane="auto", batch_from=1,
        destination=f"file://{tmp_path}/out",
    )  # fmt: skip
    assert [row["text"] for row in landed(task.execute(context))] == rows
    calls = emulator.vendor.calls
    assert (calls[f"POST /{name}/v1/chat/completions"], calls[f"POST /{name}/v1/files"]) == (4, 0)
    assert "has no batch API" in "".join(capfd.readouterr())
    assert LLMBatchHook(conn_id).test_connection() == (
        True,
        f"{name} at {emulator.url}/{name}/v1 accepts the key "
        "(no batches; models: gpt-5-mini, gpt-4o-mini, text-embedding-3-small).",
    )


def test_calls_through_a_proxy_cost_what_it_says(connect, context, emulator, tmp_path):
    """Whatever it calls its models, of which nobody has a list."""
    task = CompletionOperator(
        task_id="submit", conn_id=connect(f"{emulator.url}/litellm/v1", "litellm"), rows=["a", "b"],
        request=asked("litellm"), destination=f"file://{tmp_path}/out",
    )  # fmt: skip
    summary = task.execute(context)
    charged = (summary["input_tokens"] * 0.3 + summary["output_tokens"] * 2.5) / 1e6
    assert (summary["cost_usd"], summary["saving_usd"]) == (pytest.approx(charged), None)
    assert sum(row["cost_usd"] for row in landed(summary)) == pytest.approx(charged)


@pytest.mark.parametrize(("name", "extra"), [("vllm", {}), ("openai", {"batch": False})])
def test_a_batch_is_refused_where_there_are_none(name, extra, connect, context, emulator):
    """Before anything is sent, with what to use instead."""
    path = "/v1" if name == "openai" else f"/{name}/v1"
    task = SubmitBatchOperator(
        task_id="s", conn_id=connect(f"{emulator.url}{path}", name, **extra), rows=["a"], request=asked(name)
    )
    with pytest.raises(ConfigurationError, match=r"has no batches.*CompletionOperator"):
        task.execute(context)
    assert not emulator.vendor.calls


def test_every_preset_has_a_place_at_the_emulator():
    """The tables here are of all of them."""
    for name in PRESETS:
        own = provider_class(name).default_base_url
        assert not own or own.endswith(BASES.get(name, "/v1"))
