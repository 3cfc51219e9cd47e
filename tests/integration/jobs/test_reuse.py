"""An answer is bought once: rows that ask the same, and rows that were answered the night before."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import duckdb
import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import MODELS
from support.stores import Bucket
from support.tasks import drive, explicit, landed, operator

from airflow_llm_batch.data import AnswerCache, ChatRequest, EmbeddingRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable, SourceUnavailable
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.reuse.answers import AnswerFiles
from airflow_llm_batch.operators import CompactAnswersOperator, CompletionOperator


def night(tmp_path, number):
    """A run of the DAG."""
    return {
        "ti": SimpleNamespace(
            dag_id="dag", run_id=f"{tmp_path.name}-{number}", task_id="submit", map_index=-1, xcom_push=lambda **_: None
        )
    }


def ask(conn_id, tmp_path, number, texts, provider="openai", **arguments):
    """One night's run; its summary and records."""
    given = {
        "rows": [{"id": f"k{n}", "text": text} for n, text in enumerate(texts)],
        "cache": f"file://{tmp_path}/answers",
        "destination": f"file://{tmp_path}/night-{number}",
        **arguments,
    }
    summary = drive(operator(conn_id, tmp_path, provider, **given), night(tmp_path, number))
    return summary, landed(summary)


def calls(emulator):
    """Every call of whatever kind, and those of chats."""
    made = emulator.vendor.calls
    return sum(made.values()), made["POST /v1/chat/completions"]


def requests(emulator):
    return sum(batch.total for batch in emulator.vendor.batches.values())


def test_rows_that_ask_the_same_are_asked_once(provider, connect, tmp_path):
    """Fifty questions, two hundred rows: fifty requests, a record for each row, and a bill that is that of fifty."""
    texts = [f"text {n % 50}" for n in range(200)]
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, provider, limits={"requests": 20})
        summary, rows = ask(conn_id, tmp_path, 1, texts, provider, cache=None, ask_once=True)
        assert requests(emulator) == 50
    assert [(row["row"], row["key"], row["input"], row["text"], row["status"]) for row in rows] == [
        (n, f"k{n}", text, text, "succeeded") for n, text in enumerate(texts)
    ]
    for row in rows:
        asked = rows[row["row"] % 50]
        assert row["answered_by"] == (None if row is asked else asked["custom_id"])
        assert row is asked or (row["cost_usd"], row["input_tokens"], row["output_tokens"]) == (0, 0, 0)
        assert row["custom_id"].endswith(f"-{row['row']}")
    assert summary["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in rows), abs=1e-12)
    assert summary["spared"] == {"copy": 150}
    assert summary["spared_usd"] == pytest.approx(3 * summary["cost_usd"])
    assert summary["rows"] == 200


def test_without_ask_once_the_log_says_what_it_would_save(connect, tmp_path, caplog):
    """Off by default: every row is asked."""
    with Emulator(duration=0) as emulator, caplog.at_level(logging.INFO):
        ask(connect(emulator.url), tmp_path, 1, ["one", "two", "one", "one"], cache=None)
        assert requests(emulator) == 4
    messages = [record.getMessage() for record in caplog.records if "ask_once=True" in record.getMessage()]
    assert len(messages) == 1
    assert messages[0].startswith("2 rows ask exactly what another row asks")
    assert "save about $0.0" in messages[0]


@pytest.mark.parametrize("once", [False, True])
def test_the_second_night_costs_what_changed(provider, connect, tmp_path, once):
    """Of 200 rows two have changed: two requests, all rows landed alike, and the manifest says what that saved."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, provider)
        texts = [f"text {n}" for n in range(200)]
        first, before = ask(conn_id, tmp_path, 1, texts, provider, ask_once=once)
        texts[7], texts[150] = "other", "another"
        second, after = ask(conn_id, tmp_path, 2, texts, provider, ask_once=once)
        assert [batch.total for batch in emulator.vendor.batches.values()] == [200, 2]
    assert [(row["key"], row["text"], row["input"], row["status"]) for row in after] == [
        (f"k{n}", text, text, "succeeded") for n, text in enumerate(texts)
    ]
    assert second["spared"] == {"known": 198}
    assert second["spared_usd"] + second["cost_usd"] == pytest.approx(first["cost_usd"], rel=0.05)
    for was, now in zip(before, after, strict=True):
        same = was["text"] == now["text"]
        assert now["answered_by"] == (was["custom_id"] if same else None)
        assert (now["cost_usd"] == 0) is same
        assert (now["provider"], now["model"]) == (was["provider"], was["model"])


def test_where_everything_is_known_nothing_is_sent(provider, connect, tmp_path):
    """No upload, no batch, no call: in the lanes of batches and of calls alike."""
    texts = [f"text {n}" for n in range(20)]
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, provider)
        ask(conn_id, tmp_path, 1, texts, provider)
        sent = calls(emulator)
        again, rows = ask(conn_id, tmp_path, 2, texts, provider)
        arguments = {
            "conn_id": conn_id, "rows": [{"text": text} for text in texts], "cache": f"file://{tmp_path}/answers",
            "request": ChatRequest(MODELS[provider], user="{text}", max_tokens=50),
            "destination": f"file://{tmp_path}/called",
        }  # fmt: skip
        called = CompletionOperator(task_id="submit", lane="online", **arguments).execute(night(tmp_path, 3))
        assert calls(emulator) == sent
    for summary in (again, called):
        assert (summary["rows"], summary["cost_usd"], summary["batches"]) == (20, 0, [])
        assert summary["spared"] == {"known": 20}
    assert [row["text"] for row in rows] == [row["text"] for row in landed(called)] == texts


def test_calls_add_to_the_cache_and_use_it(connect, tmp_path):
    """What was called is not asked in a batch the night after, and the other way round."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        arguments = {
            "conn_id": conn_id, "cache": f"file://{tmp_path}/answers", "ask_once": True,
            "request": ChatRequest(MODELS["openai"], user="{text}", max_tokens=50),
        }  # fmt: skip
        rows = [{"text": f"text {n % 10}"} for n in range(15)]
        called = CompletionOperator(
            task_id="submit", lane="online", rows=rows, destination=f"file://{tmp_path}/called", **arguments
        ).execute(night(tmp_path, 1))
        assert called["spared"] == {"copy": 5}
        assert requests(emulator) == 0
        summary, _ = ask(conn_id, tmp_path, 2, [f"text {n}" for n in range(12)])
        assert (requests(emulator), summary["spared"]) == (2, {"known": 10})


@pytest.mark.parametrize("lane", ["fastest", "all"])
def test_several_models_use_what_each_of_them_knows(connect, tmp_path, lane):
    """A race asks nobody about a row that one of its models has answered before; asking all asks the others."""
    models = ["gpt-5-mini", "gpt-4.1-mini"]
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(
            conn_id, tmp_path, 1, [f"text {n}" for n in range(6)],
            request=ChatRequest(models[1], user="{text}", max_tokens=50),
        )  # fmt: skip
        before = calls(emulator)[1]
        summary = CompletionOperator(
            task_id="submit", lane="online", strategy=lane, models=models, ask_once=True, conn_id=conn_id,
            rows=[{"text": f"text {n % 8}"} for n in range(12)], cache=f"file://{tmp_path}/answers",
            request=ChatRequest(user="{text}", max_tokens=50), destination=f"file://{tmp_path}/race",
        ).execute(night(tmp_path, 2))  # fmt: skip
        called = calls(emulator)[1] - before
    rows = landed(summary)
    if lane == "fastest":
        assert sorted(row["row"] for row in rows) == list(range(12))
        assert called <= 4
        assert [row["model"] for row in rows if row["row"] % 8 < 6] == [models[1]] * 10
    else:
        assert sorted(row["row"] for row in rows) == sorted([*range(12), *range(12)])
        assert called == 10
    assert all(row["text"] == f"text {row['row'] % 8}" for row in rows)


def test_rounds_use_the_cache_and_add_to_it(provider, connect, tmp_path):
    """Copies of a row that failed are asked once in the next round too; the night after, nothing is asked."""
    texts = [f"text {n % 60}" for n in range(120)]
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, provider)
        summary, rows = ask(conn_id, tmp_path, 1, texts, provider, ask_once=True)
        first, again = (batch.total for batch in emulator.vendor.batches.values())
        assert (first, summary["rounds"]) == (60, 2)
        assert 0 < again < 60
        assert summary["spared"] == {"copy": 60 + again}
        assert [row["text"] for row in rows] == texts
        ask(conn_id, tmp_path, 2, texts, provider)
        assert len(emulator.vendor.batches) == 2
    manifest = JobStore(summary["manifest"].removesuffix("/manifest.json")).manifest()
    assert [(done.rows, done.spared) for done in manifest.rounds] == [(60, {"copy": 60}), (again, {"copy": again})]


def test_failed_rows_of_explicit_tasks_use_the_cache(connect, context, tmp_path):
    """A repair in tasks of its own finds what another job has bought meanwhile."""
    rows = [{"text": f"text {n}"} for n in range(10)]
    request = ChatRequest(MODELS["openai"], user="{text}", max_tokens=50)
    cache = f"file://{tmp_path}/answers"
    with Emulator(duration=0, faults={"row_errors": 1.0, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        failed = explicit(context, conn_id, tmp_path, rows, request=request, cache=cache)
        assert failed["counts"]["errored"] == 10
        other = {"ti": SimpleNamespace(**{**vars(context["ti"]), "task_id": "other"})}
        explicit(other, conn_id, tmp_path / "other", FailedRows(failed), cache=cache)
        again = {"ti": SimpleNamespace(**{**vars(context["ti"]), "task_id": "again"})}
        repaired = explicit(again, conn_id, tmp_path / "again", FailedRows(failed), cache=cache)
        assert requests(emulator) == 20
    assert repaired["counts"]["succeeded"] == 10
    assert repaired["spared"] == {"known": 10}


def test_cache_only_asks_nobody(connect, tmp_path):
    """What is not there is landed as missing, in one round, and nothing is sent."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one", "two"])
        sent = calls(emulator)
        summary, rows = ask(conn_id, tmp_path, 2, ["one", "three", "two", "three"], cache_only=True, fail_on="none")
        assert calls(emulator) == sent
    assert [(row["status"], row["error_code"], row["text"]) for row in rows] == [
        ("succeeded", None, "one"), ("missing", "not_in_cache", None),
        ("succeeded", None, "two"), ("missing", "not_in_cache", None),
    ]  # fmt: skip
    assert (summary["cost_usd"], summary["spared"], summary["rounds"]) == (0, {"known": 2}, 1)
    with pytest.raises(ConfigurationError, match="cache_only"):
        ask(conn_id, tmp_path, 3, ["one"], cache=None, cache_only=True)


OTHERWISE = {
    "model": {"model": "gpt-4.1-mini"},
    "system": {"system": "Be brief."},
    "cap": {"max_tokens": 51},
    "params": {"params": {"seed": 7}},
    "schema": {"output": {"type": "object", "properties": {"a": {"type": "string"}}}},
}


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
def test_another_model_prompt_or_schema_is_another_answer(connect, tmp_path, change):
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one"])
        arguments = {"model": MODELS["openai"], "user": "{text}", "max_tokens": 50, **change}
        summary, _ = ask(conn_id, tmp_path, 2, ["one"], request=ChatRequest(**arguments), fail_on="none")
        assert len(emulator.vendor.batches) >= 2
    assert summary["spared"] == {}


def test_the_same_request_made_otherwise_is_the_same(connect, tmp_path):
    """A template's columns and how a row is encoded do not matter: what is asked does."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ['say "Hi" to Zoë \U0001f600', "5"])
        rows = [{"what": 'say "Hi" to Zoë \U0001f600'}, {"what": 5}]
        request = ChatRequest(MODELS["openai"], messages=[{"role": "user", "content": "{what}"}], max_tokens=50)
        summary, _ = ask(conn_id, tmp_path, 2, [], rows=rows, request=request, key=None, passthrough=None)
    assert summary["spared"] == {"known": 2}


def test_vectors_are_bought_once(connect, tmp_path):
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        request = EmbeddingRequest("text-embedding-3-small", input="{text}", dimensions=8)
        texts = [f"text {n % 5}" for n in range(8)]
        _, first = ask(conn_id, tmp_path, 1, texts, request=request, ask_once=True)
        summary, second = ask(conn_id, tmp_path, 2, texts, request=request, format="jsonl")
        assert requests(emulator) == 5
    assert summary["spared"] == {"known": 8}
    assert [row["embedding"] for row in first] == [row["embedding"] for row in second]
    assert all(len(row["embedding"]) == 8 for row in second)


def test_old_answers_do_not_count(connect, tmp_path):
    """Beyond ``max_age`` they are bought again, and the newer ones are used from then on."""
    cache = f"file://{tmp_path}/answers"
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one", "two"])
        age(tmp_path / "answers", days=10)
        summary, _ = ask(conn_id, tmp_path, 2, ["one"], cache=AnswerCache(cache, max_age=9 * 86400))
        assert summary["spared"] == {}
        summary, rows = ask(conn_id, tmp_path, 3, ["one", "two"], cache=AnswerCache(cache, max_age=11 * 86400))
        assert summary["spared"] == {"known": 2}
        summary, _ = ask(conn_id, tmp_path, 4, ["one", "two"], cache=AnswerCache(cache, max_age=9 * 86400))
        assert summary["spared"] == {"known": 1}
    assert rows[0]["answered_by"] != rows[1]["answered_by"]


def age(folder, **shift):
    """Make every answer older."""
    days = shift["days"]
    for path in folder.rglob("*.parquet"):
        table = f"read_parquet('{path}')"
        duckdb.sql(
            f"copy (select * replace (answered_at - interval {days} day as answered_at) from {table}) "
            f"to '{path}.new' (format parquet)"
        )
        path.with_name(path.name + ".new").replace(path)


def test_a_cache_has_no_more_bytes_than_it_may(connect, tmp_path):
    """What was bought first goes first; what does not fit at all is not kept, and told."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one"])
        size = sum(path.stat().st_size for path in (tmp_path / "answers").rglob("*.parquet"))
        cache = AnswerCache(f"file://{tmp_path}/answers", max_bytes=2 * size + 100)
        for number in (2, 3, 4):
            ask(conn_id, tmp_path, number, [f"text {number}"], cache=cache)
            held = sum(path.stat().st_size for path in (tmp_path / "answers").rglob("*.parquet"))
            assert held <= cache.max_bytes
        summary, _ = ask(
            conn_id, tmp_path, 5, ["one", "text 2", "text 3", "text 4"], cache=cache, cache_only=True, fail_on="none"
        )
        assert summary["counts"]["succeeded"] == 2
        small = AnswerCache(f"file://{tmp_path}/answers", max_bytes=10)
        summary, _ = ask(conn_id, tmp_path, 6, ["new"], cache=small)
        assert summary["counts"]["succeeded"] == 1


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "other"])
def test_a_damaged_file_costs_answers_and_never_rows(connect, tmp_path, damage, caplog):
    """What cannot be read is asked again; what other files hold is not."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, [f"text {n}" for n in range(50)])
        (spoiled,) = (tmp_path / "answers").rglob("*.parquet")
        ask(conn_id, tmp_path, 2, [f"other {n}" for n in range(50)])
        data = bytearray(spoiled.read_bytes())
        if damage == "cut":
            data = data[: len(data) // 2]
        elif damage == "noise":
            data[100:600] = bytes(500)
        elif damage == "empty":
            data = bytearray()
        else:
            duckdb.sql(f"copy (select 1 as digest) to '{spoiled}' (format parquet)")
            data = bytearray(spoiled.read_bytes())
        spoiled.write_bytes(data)
        texts = [f"{word} {n}" for word in ("text", "other") for n in range(50)]
        summary, rows = ask(conn_id, tmp_path, 3, texts)
        assert [batch.total for batch in emulator.vendor.batches.values()] == [50, 50, 50]
    assert [row["text"] for row in rows] == texts
    assert summary["spared"] == {"known": 50}
    assert any("cannot be used" in record.getMessage() or "damaged" in record.getMessage() for record in caplog.records)


def test_an_answer_that_was_altered_is_not_believed(connect, tmp_path):
    """Readable, and not what was written: its checksum says so."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one", "two"])
        (path,) = (tmp_path / "answers").rglob("*.parquet")
        table = f"read_parquet('{path}')"
        duckdb.sql(
            f"copy (select * replace (replace(answer, 'one', 'eno') as answer) from {table}) "
            f"to '{path}.new' (format parquet)"
        )
        path.with_name(path.name + ".new").replace(path)
        summary, rows = ask(conn_id, tmp_path, 2, ["one", "two"])
    assert summary["spared"] == {"known": 1}
    assert [row["text"] for row in rows] == ["one", "two"]


def test_people_can_read_the_cache(connect, tmp_path):
    """With DuckDB, one line of SQL."""
    with Emulator(duration=0) as emulator:
        ask(connect(emulator.url), tmp_path, 1, ["one", "two"])
    query = f"select answer->>'$.text', model, cost_usd from '{tmp_path}/answers/*/*.parquet' order by 1"
    rows = duckdb.sql(query).fetchall()
    assert [text for text, _, _ in rows] == ["one", "two"]
    assert all(cost > 0 and model for _, model, cost in rows)


def test_what_failed_is_not_kept(connect, tmp_path):
    """Refused, cut short, invalid: tomorrow they are asked again."""
    with Emulator(duration=0, faults={"row_errors": 1.0}) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one", "two"], fail_on="none", max_rounds=1)
    assert not list(tmp_path.glob("answers/**/*.parquet"))


def test_an_unwritable_cache_loses_nothing_but_itself(connect, tmp_path, monkeypatch):
    """Landed all the same; the log says that the answers will be bought again."""

    def fail(self, *arguments):
        raise PermissionError("no")

    monkeypatch.setattr(AnswerFiles, "make_room", fail)
    with Emulator(duration=0) as emulator:
        summary, _ = ask(connect(emulator.url), tmp_path, 1, ["one", "two"])
    assert summary["counts"]["succeeded"] == 2


def test_budgets_are_held_to_what_is_asked(connect, tmp_path):
    """A job whose rows are known costs nothing, and may cost nothing."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        texts = [f"text {n}" for n in range(30)]
        ask(conn_id, tmp_path, 1, texts)
        ask(conn_id, tmp_path, 2, texts, max_cost=0.000001)
        with pytest.raises(AirflowSkipException, match=r"dry_run: 1 rows in 1 batches.*1 requests"):
            ask(conn_id, tmp_path, 3, [*texts, "new"], dry_run=True)


def test_rows_that_fail_take_their_copies_with_them(connect, tmp_path):
    """A copy is landed as the row that was asked: with its status and reason, at no cost."""
    with Emulator(duration=0, faults={"row_errors": 1.0}) as emulator:
        conn_id = connect(emulator.url)
        with pytest.raises(ResultsUnusable):
            ask(conn_id, tmp_path, 1, ["one", "one", "two"], cache=None, ask_once=True, max_rounds=1)
    rows = sorted(
        (json.loads(line) for path in (tmp_path / "night-1").iterdir() for line in path.read_text().splitlines()),
        key=lambda row: row["row"],
    )
    assert len(rows) == 3
    assert rows[0]["error_code"] == rows[1]["error_code"]
    assert rows[1]["answered_by"] == rows[0]["custom_id"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    nights=st.lists(
        st.tuples(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.booleans()), min_size=1, max_size=4
    ),
    limit=st.integers(1, 10),
)
def test_every_row_is_landed_and_no_question_is_paid_twice(connect, tmp_path_factory, nights, limit):
    """Whatever repeats within a night and between nights: each record is its row's answer, each new question is asked
    once where repeats are not wanted."""
    tmp_path = tmp_path_factory.mktemp("nights")
    seen = set()
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, limits={"requests": limit})
        for number, (questions, once) in enumerate(nights):
            before = requests(emulator)
            texts = [f"text {question}" for question in questions]
            summary, rows = ask(conn_id, tmp_path, number, texts, ask_once=once)
            new = [question for question in questions if question not in seen]
            assert requests(emulator) - before == len(set(new) if once else new)
            assert [row["text"] for row in rows] == texts
            assert summary["rows"] == len(texts)
            assert sum(summary["spared"].values()) == len(texts) - len(set(new) if once else new)
            assert sum(row["cost_usd"] > 0 for row in rows) == len(set(new) if once else new)
            seen.update(questions)


def compacted(cache):
    return CompactAnswersOperator(task_id="compact", cache=cache).execute({})


def files_of(tmp_path):
    return sorted(str(path.relative_to(tmp_path / "answers")) for path in (tmp_path / "answers").rglob("*.parquet"))


def test_many_files_become_few(connect, tmp_path, monkeypatch):
    """Nights' files are made into one for each beginning of a hash; every answer is found as before."""
    cache = f"file://{tmp_path}/answers"
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for number in range(5):
            ask(conn_id, tmp_path, number, [f"text {n}" for n in range(10 * number, 10 * number + 10)])
        assert len(files_of(tmp_path)) == 5
        assert compacted(cache)["answers"] == 50
        assert [name.partition("/")[0] for name in files_of(tmp_path)] == ["all"]
        monkeypatch.setattr("airflow_llm_batch.jobs.reuse.compaction.TARGET", 2000)
        done = compacted(cache)
        assert done["before"] == 1
        assert len({name.partition("/")[0] for name in files_of(tmp_path)}) == done["after"] > 10
        summary, rows = ask(conn_id, tmp_path, 9, [f"text {n}" for n in range(60)])
    assert summary["spared"] == {"known": 50}
    assert [row["text"] for row in rows] == [f"text {n}" for n in range(60)]


def test_a_compaction_leaves_out_what_does_not_count(connect, tmp_path):
    """Too old, bought twice, too many bytes: gone; a damaged file stays where it lies for somebody to look at."""
    cache = f"file://{tmp_path}/answers"
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one", "two"])
        age(tmp_path / "answers", days=10)
        ask(conn_id, tmp_path, 2, ["one", "three"], cache=AnswerCache(cache, max_age=86400))
        (tmp_path / "answers" / "new" / "spoiled.parquet").write_bytes(b"not a file of answers")
        assert compacted(AnswerCache(cache))["answers"] == 3
        assert compacted(AnswerCache(cache, max_age=86400))["answers"] == 2
        assert "new/spoiled.parquet" in files_of(tmp_path)
        (tmp_path / "answers" / "new" / "spoiled.parquet").unlink()
        ask(conn_id, tmp_path, 3, [f"text {n}" for n in range(200)])
        age(tmp_path / "answers", days=3)
        ask(conn_id, tmp_path, 4, [f"other {n}" for n in range(200)])
        size = sum(path.stat().st_size for path in (tmp_path / "answers").rglob("*.parquet"))
        assert compacted(AnswerCache(cache, max_bytes=int(0.7 * size)))["answers"] == 200
        assert sum(path.stat().st_size for path in (tmp_path / "answers").rglob("*.parquet")) <= 0.7 * size
        assert compacted(AnswerCache(cache, max_bytes=1))["answers"] == 0
        assert files_of(tmp_path) == []


def test_jobs_and_compactions_at_once_lose_nothing(connect, tmp_path):
    """Four threads add, one compacts all the time: in the end every answer is there."""
    cache = f"file://{tmp_path}/answers"
    over = threading.Event()

    def compact_always():
        for _ in range(200):
            if over.is_set():
                return
            compacted(cache)

    with Emulator(duration=0) as emulator, ThreadPoolExecutor(5) as pool:
        conn_id = connect(emulator.url)
        compacting = pool.submit(compact_always)
        try:
            asked = [
                pool.submit(ask, conn_id, tmp_path, n, [f"text {k}" for k in range(5 * n, 5 * n + 8)])
                for n in range(8)
            ]  # fmt: skip
            for done in asked:
                assert done.result()[0]["counts"]["succeeded"] == 8
        finally:
            over.set()
        compacting.result()
        summary, _ = ask(conn_id, tmp_path, 20, [f"text {n}" for n in range(43)], cache_only=True)
    assert summary["spared"] == {"known": 43}


def test_files_that_are_compacted_while_they_are_read_are_found(connect, tmp_path, monkeypatch):
    """Between finding an answer and reading it, its file is replaced: it is looked for again, not paid again."""
    cache = f"file://{tmp_path}/answers"
    hold, times = AnswerFiles.hold, iter(range(3))

    def late(self, *arguments, **named):
        if next(times) == 0:
            with monkeypatch.context() as patch:
                patch.setattr(AnswerFiles, "hold", hold)
                compacted(cache)
        return hold(self, *arguments, **named)

    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one", "two"])
        monkeypatch.setattr(AnswerFiles, "hold", late)
        summary, _ = ask(conn_id, tmp_path, 2, ["one", "two", "three"])
    assert summary["spared"] == {"known": 2}


def test_a_cache_in_an_object_store(connect, tmp_path):
    """Another store than the job's; one that fails at times costs nothing but time."""
    bucket = Bucket(seed=3)
    cache = f"{bucket.uri}/answers"
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        texts = [f"text {n}" for n in range(30)]
        ask(conn_id, tmp_path, 1, texts, cache=cache)
        assert len(bucket.files) == 1
        summary, rows = ask(conn_id, tmp_path, 2, [*texts, "new"], cache=cache)
        assert summary["spared"] == {"known": 30}
        assert compacted(cache)["answers"] == 31
        assert len(bucket.files) == 1
        bucket.failing = 0.2
        summary, rows = ask(conn_id, tmp_path, 3, texts, cache=cache)
    assert summary["spared"] == {"known": 30}
    assert [row["text"] for row in rows] == texts


def test_a_cache_that_cannot_be_reached_is_not_paid_for(connect, tmp_path):
    """The task fails for now, before anything is sent: a retry will find the answers."""
    bucket = Bucket()
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["one"], cache=f"{bucket.uri}/answers")
        bucket.failing = 1.0
        with pytest.raises(SourceUnavailable, match="Nothing was sent"):
            ask(conn_id, tmp_path, 2, ["one"], cache=f"{bucket.uri}/answers")
        assert len(emulator.vendor.batches) == 1


def is_long(output, row):
    """Fails for rows that are to fail."""
    return None if row["input"] != "row 1" else "too short"


def test_checks_are_each_rows_own(connect, tmp_path):
    """Two rows ask the same, and a check that knows the row fails one of them: the other's record is good."""
    rows = [{"id": n, "text": "same", "input": f"row {n}"} for n in range(3)]
    arguments = {"rows": rows, "key": "id", "passthrough": ["input"], "checks": [is_long], "fail_on": "none"}
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        summary, landed_rows = ask(conn_id, tmp_path, 1, [], ask_once=True, **arguments)
        assert requests(emulator) == 1
        assert [row["status"] for row in landed_rows] == ["succeeded", "invalid", "succeeded"]
        summary, landed_rows = ask(conn_id, tmp_path, 2, [], **arguments)
        assert requests(emulator) == 1
    assert summary["spared"] == {"known": 3}
    assert [row["status"] for row in landed_rows] == ["succeeded", "invalid", "succeeded"]


def test_what_was_answered_badly_is_asked_and_not_looked_up(connect, tmp_path):
    """A known answer that fails a check is asked for anew, where that is wanted."""
    rows = [{"id": 1, "text": "same", "input": "row 1"}]
    arguments = {
        "rows": rows, "key": "id", "passthrough": ["input"], "checks": [is_long], "fail_on": "none",
        "also": ("invalid",), "max_rounds": 2,
    }  # fmt: skip
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        ask(conn_id, tmp_path, 1, ["same"])
        summary, _ = ask(conn_id, tmp_path, 2, [], **arguments)
        assert (requests(emulator), summary["rounds"], summary["spared"]) == (2, 2, {"known": 1})
