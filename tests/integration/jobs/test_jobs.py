"""The engine over a real emulator: planning, submitting, waiting, landing."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import MODELS
from support.dialects import DIALECTS
from support.jobs import chat, creates, land, log, plan, spec, submit, texts

from airflow_llm_batch.data import EmbeddingRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import (
    ConfigurationError,
    InputError,
    RequestRejected,
    SubmissionUnconfirmed,
    WaitEnded,
)
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.attempts import Attempts
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import dollars
from airflow_llm_batch.jobs.planning.encoding import passthrough_map
from airflow_llm_batch.jobs.planning.keys import UniqueKeys
from airflow_llm_batch.jobs.planning.shards import write_shards
from airflow_llm_batch.jobs.reuse.buckets import HELD
from airflow_llm_batch.jobs.submission import submit as submission
from airflow_llm_batch.jobs.submission.named import adopt
from airflow_llm_batch.jobs.waiting.wait import JobWait
from airflow_llm_batch.models import Intent, Job
from airflow_llm_batch.results import Result


def test_a_job_lands_every_row_once_with_its_own_key(hook, provider, store, tmp_path):
    """The whole way, both vendors: key, row number, text, tokens, dollars."""
    job, ids = submit(store, hook, spec(texts(30), chat(provider), "id", ["id"]))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert len(ids) == 1
    assert {(r["key"], r["row"], r["text"], r["id"]) for r in rows} == {
        (f"k{n}", n, f"text {n}", f"k{n}") for n in range(30)
    }
    assert all(r["status"] == "succeeded" and r["cost_usd"] > 0 and r["model"] == MODELS[provider] for r in rows)
    assert manifest.counts["succeeded"] == manifest.rows == 30
    assert manifest.cost_usd == pytest.approx(sum(r["cost_usd"] for r in rows))
    assert manifest.cost_usd == pytest.approx(manifest.sync_cost_usd / 2)
    assert manifest.batches == ids


def test_shards_are_cut_at_the_limits_and_sent_as_stored(emulator, provider, connect, store, tmp_path):
    """Request and byte limits both hold; the stored bytes are what the vendor got."""
    hook = LLMBatchHook(connect(emulator.url, provider, limits={"requests": 7, "bytes": 900}))
    job, ids = submit(store, hook, spec(texts(40), chat(provider)))
    assert len(job.shards) == len(ids) > 6
    assert sum(s.rows for s in job.shards) == 40
    for shard in job.shards:
        data = store.requests(shard.index, shard.token).read_bytes()
        assert shard.rows <= 7
        assert len(data) == shard.bytes <= 900
        assert data.count(b"\n") == shard.rows
    files = {file.path.read_bytes() for file in emulator.vendor.files.values() if file.purpose == "batch"}
    assert files in (set(), {store.requests(s.index, s.token).read_bytes() for s in job.shards})
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert sorted(r["row"] for r in rows) == list(range(40))
    assert len(manifest.files) == len(job.shards)


def test_mixed_endpoints_and_models_get_shards_of_their_own(emulator, connect, store, tmp_path):
    """Chat of two models beside embeddings, in one input of batch lines."""

    def line(n, url, **body):
        return {"custom_id": f"mine-{n}", "method": "POST", "url": url, "body": body}

    rows = []
    for n in range(12):
        if n % 3:
            model = f"gpt-{4 + n % 3}o"
            rows.append(line(n, "/v1/chat/completions", model=model, messages=[{"role": "user", "content": f"t{n}"}]))
        else:
            rows.append(line(n, "/v1/embeddings", model="text-embedding-3-small", input=f"t{n}", dimensions=4))
    hook = LLMBatchHook(connect(emulator.url))
    job, _ = submit(store, hook, spec(rows, None))
    assert len({(s.endpoint, s.model) for s in job.shards}) == len(job.shards) == 3
    _, landed = land(store, hook, job, tmp_path / "out")
    by_key = {r["key"]: r for r in landed}
    assert set(by_key) == {f"mine-{n}" for n in range(12)}
    assert by_key["mine-1"]["text"] == "t1"
    assert len(by_key["mine-0"]["embedding"]) == 4


def test_embedding_inputs_are_limited_over_all_requests(emulator, connect, store):
    """OpenAI counts inputs, not requests."""
    hook = LLMBatchHook(connect(emulator.url, limits={"embedding_inputs": 10}))
    line = {"url": "/v1/embeddings", "body": {"model": "e", "input": ["x"] * 4}}
    job, _ = submit(store, hook, spec([{"custom_id": str(n), **line} for n in range(6)], None))
    assert [s.rows for s in job.shards] == [2, 2, 2]


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (lambda p: spec([], chat(p)), "no rows"),
        (lambda p: spec([{"a": 1}], chat(p)), r"row 0 has no column 'text'.*it has 'a'"),
        (lambda p: spec([{"text": "x", "id": 1}, {"text": "y"}], chat(p), "id"), r"row 1 has no column 'id'"),
        (lambda p: spec([{"text": "x"}], chat(p), None, ["nope"]), r"row 0 has no column 'nope'"),
        (lambda p: spec(texts(3) + texts(1), chat(p), "id"), r"rows 0 and 3 .* have the same id"),
        (lambda p: spec(["x" * 3000], chat(p)), r"row 0: its request has 3,\d\d\d bytes, over .* 2,000"),
        (lambda p: spec([{"text": "x", "o": object()}], chat(p, params={"o": "{o}"})), "row 0"),
        (lambda p: spec([{"text": "bad \ud83d"}], chat(p)), "row 0 cannot be written as JSON"),
        (lambda p: spec([{"hello": 1}], None), r"row 0: it is not a batch input line"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(emulator, provider, connect, store, what, named):
    """Each names the limit, the value and the place; the vendor has seen no call."""
    hook = LLMBatchHook(connect(emulator.url, provider, limits={"bytes": 2000}))
    with pytest.raises(InputError, match=named) as caught:
        plan(store, hook, what(provider))
    assert "Nothing was sent" in str(caught.value)
    assert sum(emulator.vendor.calls.values()) == 0
    assert store.load_job() is None
    assert not list(store.root.rglob("*.jsonl"))


def test_what_a_vendor_cannot_express_is_refused(emulator, connect, store):
    """Embeddings at Anthropic; a parameter it does not have."""
    hook = LLMBatchHook(connect(emulator.url, "anthropic"))
    for request in (EmbeddingRequest("e"), chat("anthropic", params={"logit_bias": {}})):
        with pytest.raises(InputError, match=r"(/v1/embeddings|logit_bias)"):
            plan(store, hook, spec(["x"], request))


def test_result_fields_cannot_be_overwritten():
    """A pass-through column called text has to be renamed."""
    with pytest.raises(InputError, match=r"passthrough=\{'input_text': 'text'\}"):
        passthrough_map(["text"])
    assert passthrough_map({"input_text": "text"}) == {"input_text": "text"}


def test_duplicate_keys_are_found_far_apart():
    """Beyond what memory holds, and keys of different types are different keys."""
    for again, clash in ((b'"1"', False), (b"1", True)):
        with UniqueKeys("id") as keys:
            for n in range(2 * HELD + 5):
                keys.add(b"%d" % n, n)
            keys.add(again, 2 * HELD + 5)
            if clash:
                with pytest.raises(InputError, match=r"rows 1 and 100,005 .* have the same id"):
                    keys.finish()
            else:
                keys.finish()


def test_a_second_try_sends_nothing_again(hook, provider, store, emulator):
    """Planned and submitted: the same ids come back, no call creates anything."""
    _, first = submit(store, hook, spec(texts(5), chat(provider)))
    before = dict(emulator.vendor.calls)
    _, second = submit(store, hook, spec(texts(5), chat(provider)))
    assert first == second
    assert dict(emulator.vendor.calls) == before


def test_changed_input_is_not_taken_for_the_same_job(hook, provider, store):
    """Another prompt in the same directory: refused, with what to do."""
    submit(store, hook, spec(texts(5), chat(provider)))
    with pytest.raises(ConfigurationError, match="other input"):
        plan(store, hook, spec(texts(6), chat(provider)), on_change="fail")


@pytest.mark.parametrize("fault", [{"cut": "after"}, {"cut": "before"}, {"status": 500}, {"status": 529}])
def test_a_create_without_an_answer_makes_one_batch(hook, provider, store, emulator, fault, tmp_path):
    """Cut off before or after the work, or a 5xx: the vendor is asked, and one batch exists in the end."""
    emulator.faults(http=[{"on": creates(provider), **fault}])
    job, ids = submit(store, hook, spec(texts(5), chat(provider)))
    assert len(emulator.vendor.batches) == 1
    assert list(emulator.vendor.batches) == ids
    assert land(store, hook, job, tmp_path / "out")[0].counts["succeeded"] == 5


def test_a_try_that_died_after_its_create_is_taken_up(hook, provider, store, emulator, monkeypatch):
    """The id was never written down: the retry finds the batch and adopts it."""
    with monkeypatch.context() as dying:
        dying.setattr(Attempts, "save_created", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            submit(store, hook, spec(texts(5), chat(provider)))
    _, ids = submit(store, hook, spec(texts(5), chat(provider)))
    assert list(emulator.vendor.batches) == ids
    assert store.attempts(0).created().adopted


def in_doubt(emulator, store, connect):
    """A shard of ours in doubt beside another job's batch of the same size, at a vendor that keeps no metadata."""
    hook = LLMBatchHook(connect(emulator.url, "anthropic"))
    submit(JobStore(f"{store.uri}-other"), hook, spec(texts(5), chat("anthropic")))
    emulator.faults(http=[{"on": creates("anthropic"), "cut": "after"}])
    return hook, spec(texts(5), chat("anthropic"))


def test_two_candidates_are_not_guessed_between(connect, store, tmp_path):
    """While both run nothing tells them apart: the task stops, both named; the user's word decides, unpaid."""
    with Emulator(duration=1.5) as emulator:
        hook, what = in_doubt(emulator, store, connect)
        with pytest.raises(SubmissionUnconfirmed) as caught:
            submit(store, hook, what)
        assert all(batch_id in str(caught.value) for batch_id in emulator.vendor.batches)
        job, mine = store.job(), list(emulator.vendor.batches)[1]
        adopt(store, hook, job, {0: mine})
        assert submission.submit(store, hook, job) == [mine]
        assert land(store, hook, job, tmp_path / "out")[0].counts["succeeded"] == 5
        assert len(emulator.vendor.batches) == 2


def test_candidates_that_have_ended_are_told_apart_by_their_results(emulator, connect, store):
    """A stranger's ended batch is no candidate."""
    hook, what = in_doubt(emulator, store, connect)
    assert submit(store, hook, what)[1] == [list(emulator.vendor.batches)[1]]


def test_a_strangers_batch_is_let_go_and_the_search_resumes(connect, store, tmp_path):
    """Adopted by time and size, its results show other ids: ours is found and landed, nothing is sent again."""
    with Emulator(duration=0.8) as emulator:
        hook, what = in_doubt(emulator, store, connect)
        with pytest.raises(SubmissionUnconfirmed):
            submit(store, hook, what)
        job, (other, mine) = store.job(), list(emulator.vendor.batches)
        adopt(store, hook, job, {0: other})
        while any(batch.view(time.time()).ended_at is None for batch in emulator.vendor.batches.values()):
            time.sleep(0.05)
        manifest, rows = land(store, hook, job, tmp_path / "out")
        assert manifest.batches == [mine]
        assert sorted(r["text"] for r in rows) == [f"text {n}" for n in range(5)]
        assert store.attempts(0).strangers() == {other}
        assert len(emulator.vendor.batches) == 2


def test_when_only_a_stranger_fits_nothing_is_sent_without_a_word(emulator, connect, store, tmp_path):
    """The create never arrived and another's batch was taken for it: the choice is the user's."""
    hook = LLMBatchHook(connect(emulator.url, "anthropic"))
    _, (other,) = submit(JobStore(f"{store.uri}-other"), hook, spec(texts(5), chat("anthropic")))
    _, job = plan(store, hook, spec(texts(5), chat("anthropic")))
    adopt(store, hook, job, {0: other})
    with pytest.raises(SubmissionUnconfirmed, match=f"{other}.*Nothing was sent again"):
        land(store, hook, job, tmp_path / "out")
    with pytest.raises(SubmissionUnconfirmed, match="on_doubt='resubmit'"):
        submission.submit(store, hook, job)
    assert len(emulator.vendor.batches) == 1
    [new] = submission.submit(store, hook, job, "resubmit")
    assert list(emulator.vendor.batches) == [other, new]
    assert land(store, hook, job, tmp_path / "out")[0].counts["succeeded"] == 5


def test_a_claim_that_may_still_be_at_work_is_waited_for(hook, provider, store, emulator):
    """A second attempt does not create beside a first one it cannot see; when the first's time is over, it does."""
    _, job = plan(store, hook, spec(texts(3), chat(provider)))
    elsewhere = {"host": "another-machine", "boot": "x", "pid": 1, "started": "1"}
    began = datetime.now(UTC)
    store.attempts(0).begin(Intent(at=began, owner=elsewhere))
    assert len(submission.submit(store, hook, job)) == 1
    assert (datetime.now(UTC) - began).total_seconds() > 0.3
    assert store.attempts(0).last() == 2
    assert len(emulator.vendor.batches) == 1


def test_a_claim_cut_off_while_written_is_a_claim(hook, provider, store, emulator):
    """An empty intent.json, as a crash leaves it on a local disk, stops a blind create."""
    _, job = plan(store, hook, spec(texts(3), chat(provider)))
    store.attempts(0).path(1, "intent").parent.mkdir(parents=True)
    store.attempts(0).path(1, "intent").write_bytes(b"")
    assert len(submission.submit(store, hook, job)) == 1
    assert store.attempts(0).last() == 2


def test_a_refused_create_is_tried_anew_at_once(hook, provider, store, emulator):
    """4xx: nothing was created, the next try needs no search."""
    emulator.faults(http=[{"on": creates(provider), "status": 403}])
    with pytest.raises(RequestRejected, match="403"):
        submit(store, hook, spec(texts(3), chat(provider)))
    assert len(submit(store, hook, spec(texts(3), chat(provider)))[1]) == 1
    assert emulator.vendor.calls[DIALECTS[provider].lists] == 0


def test_changed_input_cancels_what_runs_and_starts_anew(provider, connect, store, tmp_path):
    """A cleared task with another prompt: a directory of its own, the old batch cancelled, both kept."""
    with Emulator(duration=1.0) as emulator:
        hook = LLMBatchHook(connect(emulator.url, provider))
        first, job = plan(store, hook, spec(texts(4), chat(provider)))
        [old] = submission.submit(first, hook, job)
        for _ in range(2):
            second, job = plan(store, hook, spec(texts(5), chat(provider)))
            [new] = submission.submit(second, hook, job)
        assert (first.uri, second.uri) == (store.uri, f"{store.uri}.2")
        assert [s.uri for s in second.address.previous_generations] == [first.uri]
        assert list(emulator.vendor.batches) == [old, new]
        assert [b.cancelled_at is not None for b in emulator.vendor.batches.values()] == [True, False]
        assert land(second, hook, job, tmp_path / "out")[0].counts["succeeded"] == 5


def test_a_changed_shard_file_is_not_sent(hook, provider, store):
    """Bytes that differ from the plan's stop the upload."""
    _, job = plan(store, hook, spec(texts(3), chat(provider)))
    store.requests(0, job.shards[0].token).write_bytes(b"{}\n")
    with pytest.raises(ConfigurationError, match="is not what was planned"):
        submission.submit(store, hook, job)


def test_only_one_attempt_publishes_a_plan_and_an_intent(store):
    """Exclusive creation: the second writer is told so."""
    job = Job(id="x", fingerprint="f", provider="openai", conn_id="c", created_at=datetime.now(UTC), rows=0, shards=())
    assert store.save_job(job)
    assert not store.save_job(job.model_copy(update={"fingerprint": "other"}))
    assert store.job().fingerprint == "f"
    assert store.attempts(0).begin(Intent(at=datetime.now(UTC)))
    assert not store.attempts(0).begin(Intent(at=datetime.now(UTC)))


FAULTS = {
    "row errors": ({"row_errors": 0.3}, {"succeeded", "errored"}),
    "expiry": ({"expire": 0.5}, {"succeeded", "expired"}),
    "failed batch": ({"fail": "invalid_request"}, {"errored"}),
    "disorder": ({"shuffle": True, "duplicates": 5, "garbage": 4, "foreign": 3}, {"succeeded"}),
    "missing": ({"missing": 4}, {"succeeded", "missing"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_row_is_accounted_for(hook, provider, store, emulator, tmp_path, fault):
    """Whatever comes back, each row lands once, with a status that explains it."""
    faults, statuses = FAULTS[fault]
    if (provider, fault) == ("gemini", "expiry"):
        # As documented: a batch that expires gives back nothing of what it did.
        statuses = {"expired"}
    emulator.faults(**faults)
    job, _ = submit(store, hook, spec(texts(60), chat(provider), "id"))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert sorted(r["key"] for r in rows) == sorted(f"k{n}" for n in range(60))
    assert {r["status"] for r in rows} == statuses
    assert sum(manifest.counts.values()) == 60
    for row in rows:
        assert row["status"] == "succeeded" or row["error_code"]
    if fault == "disorder":
        assert manifest.dropped == {"duplicate": 5, "foreign": 3, "garbage": 4}
        assert Path(manifest.aside.removeprefix("file://")).read_bytes().count(b"\n") == 4


def test_garbage_inside_answers_does_not_sink_a_batch(hook, provider, store, emulator, tmp_path, monkeypatch):
    """U+2028, lone surrogates, NaN: the rows land."""
    from airflow_llm_batch.emulator import batches

    def spoil(line):
        text = json.dumps(line, ensure_ascii=False)
        return text.replace("text 0", "a\u2028b\x85c").replace("text 1", "\\ud83d").replace('"text 2"', "NaN").encode()

    monkeypatch.setattr(batches, "encode", spoil)
    job, _ = submit(store, hook, spec(texts(3), chat(provider)))
    _, rows = land(store, hook, job, tmp_path / "out")
    landed = [r["text"] or None for r in sorted(rows, key=lambda r: r["row"])]
    assert landed == ["a\u2028b\x85c", "\ufffd", None]


def test_a_download_that_breaks_off_starts_over(hook, provider, store, emulator, tmp_path):
    """Nothing of the broken try is landed or counted."""
    job, _ = submit(store, hook, spec(texts(200), chat(provider)))
    dialect = DIALECTS[provider]
    fault = {"on": dialect.results, "cut": "body", "cut_bytes": 20_000, "skip": dialect.looks_before}
    emulator.faults(http=[fault])
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert sorted(r["row"] for r in rows) == list(range(200))
    assert manifest.input_tokens == sum(r["input_tokens"] for r in rows)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"results-{job.id}-00000.jsonl"]


def test_landing_again_gives_the_same_files(hook, provider, store, tmp_path):
    """At no cost, over the same names."""
    job, _ = submit(store, hook, spec(texts(10), chat(provider)))
    first, rows = land(store, hook, job, tmp_path / "out")
    second, again = land(store, hook, job, tmp_path / "out")
    assert (first.files, rows) == (second.files, again)


def test_structured_answers_are_parsed(hook, provider, store, tmp_path):
    """output holds the object; an answer cut at its cap is truncated, not succeeded."""
    schema = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
    job, _ = submit(store, hook, spec(texts(4), chat(provider, output=schema)))
    _, rows = land(store, hook, job, tmp_path / "out")
    assert all(r["output"]["mood"] in ("good", "bad") for r in rows)
    cut = JobStore(f"{store.uri}-cut")
    job, _ = submit(cut, hook, spec(["long " * 50], chat(provider, max_tokens=3)))
    assert land(cut, hook, job, tmp_path / "cut")[1][0]["status"] == "truncated"


def test_a_wait_survives_what_is_transient_and_ends_at_its_deadline(provider, connect, store):
    """503s and cut connections are looked past; a wrong key and the deadline are not."""
    with Emulator(duration=30) as emulator:
        hook = LLMBatchHook(connect(emulator.url, provider, retries=0.5))
        submit(store, hook, spec(texts(3), chat(provider)))
        reads = DIALECTS[provider].looks
        emulator.faults(
            http=[{"on": reads, "status": 503}, {"on": reads, "cut": "before"}, {"on": reads, "status": 429}]
        )
        watch = JobWait(hook, store, log)
        assert [watch.look().action for _ in range(4)] == ["wait"] * 4
        assert emulator.vendor.settings.faults.http[2].times == 0
        emulator.faults(unknown_status="pondering")
        assert watch.look().action == "wait"
        with pytest.raises(WaitEnded, match="left in place"):
            JobWait(hook, store, log, deadline=0).look()
        emulator.vendor.settings.api_key = "another"
        with pytest.raises(Exception, match=r"401|API key not valid"):
            watch.look()
        emulator.vendor.settings.api_key = None
        watch.cancel()
        assert {b.cancelled_at is not None for b in emulator.vendor.batches.values()} == {True}


def test_planning_crashes_leave_no_plan(hook, provider, store, monkeypatch):
    """A source that breaks half-way publishes nothing; the next try plans anew."""

    def rows():
        yield {"text": "one"}
        raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        write_shards(spec(rows(), chat(provider)), hook.provider, store, {})
    assert not list(store.root.rglob("*.jsonl"))
    assert submit(store, hook, spec(texts(2), chat(provider)))[0].rows == 2


def test_prices_are_the_batch_prices_and_unknown_is_none():
    """Half of the synchronous price; cached tokens at their own; a model nobody knows costs None."""
    prices = Prices("openai", "0.5")
    used = Result(model="gpt-5-mini", input_tokens=1_000_000, cached_tokens=400_000, output_tokens=100_000)
    # gpt-5-mini: $0.25 in, $0.025 cached, $2.00 out per million tokens; half of that in a batch
    batch = (600_000 * 0.25 + 400_000 * 0.025 + 100_000 * 2.0) / 1e6 / 2
    assert dollars(prices.cost(used, "gpt-5-mini")[0]) == pytest.approx(batch)
    embedded = Result(model="text-embedding-3-small", input_tokens=1_000_000, output_tokens=0)
    assert dollars(prices.cost(embedded, "")[0]) == 0.01
    assert prices.cost(Result(status="succeeded", model="nobody-knows", input_tokens=5, output_tokens=5), "x") is None
    assert prices.cost(Result(status="succeeded"), "gpt-5-mini") is None
    assert prices.cost(Result(status="expired"), "gpt-5-mini")[0] == 0
