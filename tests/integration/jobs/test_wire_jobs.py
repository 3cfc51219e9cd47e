"""Whole jobs at vendors with a wire of their own: submitted, waited for, fetched, repaired, cancelled, called."""

from __future__ import annotations

import json
import re

import pytest
from support import MODELS, SECRET, read_jsonl
from support.dialects import DIALECTS
from support.jobs import chat, land, spec, submit, texts
from support.tasks import drive, landed, operator

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest
from airflow_llm_batch.emulator import Emulator, openrouter
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.submission.cancel import cancel_running
from airflow_llm_batch.operators import CompletionOperator
from airflow_llm_batch.providers.fireworks import protocol as fireworks

WIRES = ["mistral", "openrouter", "xai", "fireworks"]
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}


def place(emulator, vendor):
    return f"{emulator.url}{DIALECTS[vendor].base}"


@pytest.fixture(params=WIRES)
def vendor(request):
    return request.param


@pytest.fixture
def conn_id(vendor, emulator, connect):
    return connect(place(emulator, vendor), vendor, **DIALECTS[vendor].extra)


@pytest.fixture
def hook(vendor, emulator, connect):
    """Batches of three rows."""
    made = LLMBatchHook(connect(place(emulator, vendor), vendor, limits={"requests": 3}, **DIALECTS[vendor].extra))
    yield made
    made.close()


def counted(manifest):
    return {status: count for status, count in manifest.counts.items() if count}


def charged(emulator):
    """Dollars that the vendor says were charged: of a batch, or of the answers in it."""
    batches = list(emulator.vendor.batches.values())
    if batches[0].dialect == "openrouter":
        return sum(openrouter.batch_object(emulator.vendor, batch)["usage"]["cost"] for batch in batches)
    answers = json.dumps([read_jsonl(batch.output.path) for batch in batches])
    return sum(map(int, re.findall(r'"cost_in_usd_ticks": ?(\d+)', answers))) / 10**10


def task(conn_id, tmp_path, vendor, rows, **more):
    return operator(conn_id, tmp_path, vendor, rows=rows, key=None, passthrough=None, **more)


def test_a_job_goes_from_plan_to_landed(vendor, hook, store, emulator, tmp_path):
    """Two batches: each row sent, answered, landed and billed once, at the price that is known; the key is nowhere."""
    job, ids = submit(store, hook, spec(texts(5), chat(vendor), "id"))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert {row["key"]: row["text"] for row in rows} == {f"k{n}": f"text {n}" for n in range(5)}
    assert {row["status"] for row in rows} == {"succeeded"}
    stats, calls = emulator.vendor.stats(), emulator.vendor.calls
    assert (len(ids), len(stats["batches"]), stats["billed_rows"]) == (2, 2, 5)
    assert calls[DIALECTS[vendor].creates] == 2
    if paid := charged(emulator):
        assert manifest.cost_usd == pytest.approx(paid)
        assert sum(row["cost_usd"] for row in rows) == pytest.approx(paid)
    elif factor := hook.provider.batch_discount:
        assert manifest.cost_usd == pytest.approx(float(factor) * manifest.sync_cost_usd)
    else:
        assert manifest.cost_usd is None
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("lane", ["batch", "online"])
def test_what_is_free_costs_nothing_and_is_known_to(lane, emulator, connect, context, tmp_path):
    """OpenRouter's models that end in :free: no list has the newest, and answers say that nothing is charged."""
    conn_id = connect(place(emulator, "openrouter"), "openrouter")
    request = ChatRequest("nobody/knows-it:free", user="{text}", max_tokens=9)
    asked = CompletionOperator(
        task_id="ask", conn_id=conn_id, request=request, rows=texts(4), key="id", lane=lane, poll_interval=0.05,
        destination=f"file://{tmp_path}/out",
    )  # fmt: skip
    summary = drive(asked, context)
    assert (summary["counts"]["succeeded"], summary["cost_usd"]) == (4, 0)
    assert [row["cost_usd"] for row in landed(summary)] == [0] * 4


@pytest.mark.parametrize("fault", [{"cut": "after"}, {"cut": "before"}, {"status": 500}])
def test_a_lost_create_is_found_and_made_once(vendor, hook, store, emulator, tmp_path, fault):
    """Among another job's batch of the same size: what arrived is taken, what did not is sent again."""
    submit(type(store)(f"{store.uri}-other"), hook, spec(texts(3), chat(vendor), "id"))
    emulator.faults(http=[{"on": DIALECTS[vendor].creates, **fault}])
    job, (batch,) = submit(store, hook, spec(texts(3), chat(vendor), "id"))
    manifest, _ = land(store, hook, job, tmp_path / "out")
    made = emulator.vendor.batches
    assert (len(made), manifest.counts["succeeded"], emulator.vendor.stats()["billed_rows"]) == (2, 3, 6)
    assert batch == list(made)[1]
    again = 1 if fault.get("cut") == "after" else 2
    assert emulator.vendor.calls[DIALECTS[vendor].creates] == 1 + again


@pytest.mark.parametrize("fault", [{"cut": "body", "cut_bytes": 200}, {"status": 503}, {"cut": "before"}])
def test_looks_and_downloads_that_break_off_are_made_again(vendor, conn_id, context, emulator, tmp_path, fault):
    """Each once: one batch, every row."""
    dialect = DIALECTS[vendor]
    emulator.faults(http=[{"on": on, **fault} for on in {dialect.looks, dialect.results}])
    summary = drive(task(conn_id, tmp_path, vendor, ["a", "b", "c"]), context)
    assert [row["text"] for row in landed(summary)] == ["a", "b", "c"]
    assert len(emulator.vendor.batches) == 1


def test_rows_that_fail_are_asked_again(vendor, conn_id, context, emulator, tmp_path):
    """In the words of each vendor's errors; every row ends well, at the schema that was asked for."""
    emulator.faults(row_errors=0.5, heal=1, shuffle=True)
    request = chat(vendor, user="{text}", output=SCHEMA)
    summary = drive(task(conn_id, tmp_path, vendor, [f"row {n}" for n in range(8)], request=request), context)
    first, second = (batch.total for batch in emulator.vendor.batches.values())
    assert (first, 0 < second < 8, summary["rounds"]) == (8, True, 2)
    assert [row["output"]["label"] in "ab" for row in landed(summary)] == [True] * 8


def test_a_batch_that_expires_gives_what_it_has_done(vendor, conn_id, context, emulator, tmp_path):
    """The rest is expired, and asked again."""
    emulator.faults(expire=0.5, heal=1)
    rows = [f"row {n}" for n in range(4)]
    summary = drive(task(conn_id, tmp_path, vendor, rows), context)
    assert [row["text"] for row in landed(summary)] == rows
    asked_again = 2 if DIALECTS[vendor].keeps else 4
    assert [batch.total for batch in emulator.vendor.batches.values()] == [4, asked_again]


def test_a_job_that_is_cancelled_lands_what_was_paid(vendor, connect, store, tmp_path):
    """Cancelled in its midst: answers of the rows that were done, and a result for all others."""
    if not DIALECTS[vendor].cancels:
        pytest.skip("it cannot be cancelled")
    with Emulator(duration=600, cancel_seconds=0) as emulator:
        hook = LLMBatchHook(connect(place(emulator, vendor), vendor, **DIALECTS[vendor].extra))
        job, (batch,) = submit(store, hook, spec(texts(10), chat(vendor), "id"))
        # Half of its time is over.
        emulator.vendor.batches[batch].created_at -= 300
        cancel_running(store, hook, job)
        manifest, rows = land(store, hook, job, tmp_path / "out")
        assert counted(manifest) == {"succeeded": 5, "cancelled": 5}
        assert [row["text"] for row in rows if row["status"] == "succeeded"] == [f"text {n}" for n in range(5)]
        assert emulator.vendor.stats()["billed_rows"] == 5
        hook.close()


def test_an_unknown_status_is_waited_for(vendor, connect, store, tmp_path):
    """Nothing is taken for an end that is none."""
    with Emulator(duration=0.3, faults={"unknown_status": "thinking_it_over"}) as emulator:
        hook = LLMBatchHook(connect(place(emulator, vendor), vendor, **DIALECTS[vendor].extra))
        job, _ = submit(store, hook, spec(texts(2), chat(vendor), "id"))
        assert counted(land(store, hook, job, tmp_path / "out")[0]) == {"succeeded": 2}
        hook.close()


def test_rows_are_called_one_by_one(vendor, conn_id, context, emulator, tmp_path):
    """By the same words at the synchronous endpoint: no batch, each row once."""
    rows = [f"row {n}" for n in range(4)]
    called = CompletionOperator(
        task_id="submit", conn_id=conn_id, rows=rows, lane="online", destination=f"file://{tmp_path}/out",
        request=ChatRequest(MODELS[vendor], user="{text}", max_tokens=50),
    )  # fmt: skip
    assert [row["text"] for row in landed(called.execute(context))] == rows
    assert (emulator.vendor.calls[DIALECTS[vendor].calls], len(emulator.vendor.batches)) == (4, 0)


def test_the_connection_is_tested(vendor, conn_id, emulator):
    """By a listing of batches, with the key."""
    good, said = LLMBatchHook(conn_id).test_connection()
    assert (good, "no batches yet" in said) == (True, True)
    assert emulator.vendor.calls[DIALECTS[vendor].lists] == 1


def test_mistrals_rows_without_an_id_are_known_to_be_lost(connect, store, emulator, tmp_path):
    """Failed rows whose lines name nobody: set aside, and each row has a result all the same."""
    hook = LLMBatchHook(connect(f"{emulator.url}/mistral/v1", "mistral"))
    emulator.faults(row_errors=0.5)
    job, (batch,) = submit(store, hook, spec(texts(10), chat("mistral"), "id"))
    hook.get_batch(batch)
    file = emulator.vendor.batches[batch].errors.path
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    file.write_text("".join(json.dumps({**line, "custom_id": None}) + "\n" for line in lines))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert 0 < len(lines) < 10
    assert counted(manifest) == {"succeeded": 10 - len(lines), "missing": len(lines)}
    assert sorted(row["row"] for row in rows) == list(range(10))
    hook.close()


def test_mistrals_embeddings_are_a_job_like_any_other(connect, store, emulator, tmp_path):
    """Of the size that was asked for, by Mistral's name for it; the input file is deleted, as the mark says whose."""
    hook = LLMBatchHook(connect(f"{emulator.url}/mistral/v1", "mistral"))
    request = EmbeddingRequest("mistral-embed", input="{text}", dimensions=8)
    job, (batch,) = submit(store, hook, spec(texts(3), request, "id"))
    assert b'"output_dimension":8' in store.requests(0, job.shards[0].token).read_bytes()
    _, rows = land(store, hook, job, tmp_path / "out")
    assert [len(row["embedding"]) for row in rows] == [8] * 3
    assert emulator.vendor.batches[batch].metadata["airflow_llm_batch"] == job.shards[0].key
    hook.close()


def test_a_job_at_fireworks_is_made_once_by_its_id(connect, store, emulator):
    """A create that is sent again is told of the job that there is."""
    hook = LLMBatchHook(connect(f"{emulator.url}/fireworks", "fireworks", account="acc"))
    job, (batch,) = submit(store, hook, spec(texts(2), chat("fireworks"), "id"))
    (shard,) = job.shards
    again = hook.run(hook.provider.create(shard, store.attempts(0).uploaded(), None))
    assert (again.id, len(emulator.vendor.batches)) == (batch, 1)
    hook.close()


def test_a_large_dataset_at_fireworks_is_put_into_its_store(connect, store, emulator, tmp_path, monkeypatch):
    """Behind a signed address, which sees no key. Cut at each of its steps it is sent again: one file, one job."""
    monkeypatch.setattr(fireworks, "MOST_AT_ONCE", 100)
    extra = {"account": "acc", "retries": 2}
    datasets, stored = "POST /fireworks/v1/accounts/acc/datasets/*", "PUT /fireworks/store/*"
    for number, faults in enumerate(
        [[], *([{"on": on, "cut": cut}] for on in (datasets, stored) for cut in ("before", "after"))]
    ):
        hook = LLMBatchHook(connect(f"{emulator.url}/fireworks", "fireworks", **extra))
        emulator.faults(http=faults)
        where = type(store)(f"{store.uri}-{number}")
        job, _ = submit(where, hook, spec(texts(4), chat("fireworks"), "id"))
        assert land(where, hook, job, tmp_path / f"{number}")[0].counts["succeeded"] == 4
        assert len(emulator.vendor.batches) == number + 1
        hook.close()
    calls = emulator.vendor.calls
    assert not [call for call in calls if call.endswith(":upload")]
    assert sum(n for call, n in calls.items() if call.startswith("PUT /fireworks/store/")) >= 5 + 1


def test_a_job_at_fireworks_that_is_cancelled_takes_its_results_along(connect, store, tmp_path):
    """Every row has a result that says so, and nothing is waited for."""
    with Emulator(duration=600, cancel_seconds=0) as emulator:
        hook = LLMBatchHook(connect(f"{emulator.url}/fireworks", "fireworks", account="acc"))
        job, (batch,) = submit(store, hook, spec(texts(4), chat("fireworks"), "id"))
        emulator.vendor.batches[batch].created_at -= 300
        cancel_running(store, hook, job)
        manifest, rows = land(store, hook, job, tmp_path / "out")
        assert (counted(manifest), len(rows)) == ({"cancelled": 4}, 4)
        hook.close()


def test_a_bad_row_fails_a_job_at_fireworks_and_says_which(connect, store, emulator, tmp_path):
    """What its judge has against the file is the reason of every row."""
    hook = LLMBatchHook(connect(f"{emulator.url}/fireworks", "fireworks", account="acc"))
    job, (batch,) = submit(store, hook, spec(texts(2), chat("fireworks"), "id"))
    problem = {"code": "INVALID_ARGUMENT", "message": "Dataset has a syntax error: input.jsonl:1: invalid role x"}
    emulator.vendor.batches[batch].problems.append({**problem, "line": 1, "param": None})
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert counted(manifest) == {"errored": 2}
    assert {row["error_code"] for row in rows} == {"INVALID_ARGUMENT"}
    assert "invalid role x" in rows[0]["error_message"]
    hook.close()


def test_openrouter_goes_on_where_it_cannot_be_cancelled(connect, store, tmp_path, caplog):
    """A job that nobody wants any more is left to its end, and the log says that it is billed."""
    with Emulator(duration=600) as emulator:
        hook = LLMBatchHook(connect(f"{emulator.url}/openrouter/api/v1", "openrouter"))
        job, (batch,) = submit(store, hook, spec(texts(2), chat("openrouter"), "id"))
        with caplog.at_level("WARNING"):
            cancel_running(store, hook, job)
        assert "cannot cancel batches" in caplog.text
        assert emulator.vendor.batches[batch].cancelled_at is None
        hook.close()
