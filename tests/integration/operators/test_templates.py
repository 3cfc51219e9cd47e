"""Templates of arguments, as Airflow renders them: native objects, shared objects, mapped tasks, odd values."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseNotifier
from pydantic import BaseModel
from support import read_jsonl
from support.airflow_versions import serialized
from support.tasks import drive, landed, operator, run_dag

from airflow_llm_batch.alerts import Alerts
from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, FailedRows, Sql, Table
from airflow_llm_batch.data.answer_cache import AnswerCache
from airflow_llm_batch.data.failed import ResolveMixin
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, NoRows
from airflow_llm_batch.jobs.options import Recovery
from airflow_llm_batch.operators import FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.operators.handle import JobHandle
from airflow_llm_batch.sensors import BatchSensor

OUT = {"destination": "file:///tmp/out"}
#: texts that Python could read as something else
ODD = ["2024", "1_000", "1e5", "['x', 'y']", '{"a": 1}', "'quoted'", "(1, 2)", "True", "007", "plain"]


class Reference(ResolveMixin):
    """Another task's output, as Airflow has it before this task runs."""

    def __init__(self, value):
        self.value = value

    def iter_references(self):
        return iter(())

    def resolve(self, context):
        return self.value


def rendered(task, native=True, **params):
    """A task's arguments as they are when it is executed."""
    with DAG("rendered", render_template_as_native_obj=native) as dag:
        made = task()
    made.render_template_fields({"dag": dag, "params": params, "ti": None, "task": made})
    return made


@pytest.mark.parametrize("odd", ODD)
def test_texts_stay_texts_where_templates_make_objects(odd):
    """Prompts from a variable, and whatever is no template at all."""
    rows = [odd, {"text": odd, "zip": [odd]}]
    chat = ChatRequest("{{ params.odd }}", system="{{ params.odd }}", user="{text}", params={"stop": odd})
    made = rendered(lambda: LLMBatchOperator(task_id="t", rows=rows, request=chat, key=odd, **OUT), odd=odd)
    assert (made.request.model, made.request.system, made.request.params) == (odd, odd, {"stop": odd})
    assert (made.rows, made.key) == (rows, odd)
    turn = {"role": "user", "content": "{{ params.odd }}"}
    parts = {"role": "user", "content": [{"type": "text", "text": "{{ params.odd }}"}, {"type": "text", "text": odd}]}
    chat = ChatRequest("m", messages=[turn, parts])
    made = rendered(lambda: SubmitBatchOperator(task_id="t", rows=["a"], request=chat), odd=odd)
    texts = [{"type": "text", "text": odd}] * 2
    assert made.request.messages == [{"role": "user", "content": odd}, {"role": "user", "content": texts}]
    assert turn["content"] == "{{ params.odd }}"
    whole = ChatRequest("m", messages="{{ params.odd }}")
    made = rendered(lambda: SubmitBatchOperator(task_id="t", rows=["a"], request=whole), odd=[turn])
    assert made.request.messages == [turn]
    chat = ChatRequest("m", user=odd)
    made = rendered(lambda: SubmitBatchOperator(task_id="t", rows=["a"], request=chat), odd=odd)
    assert made.request.user == odd
    embedding = EmbeddingRequest("m", input="{{ params.odd }}")
    made = rendered(lambda: SubmitBatchOperator(task_id="t", rows=["a"], request=embedding), odd=odd)
    assert made.request.input == odd
    made = rendered(lambda: BatchSensor(task_id="t", batch_id=odd, conn_id="c"), odd=odd)
    assert made.batch_id == odd


def test_objects_are_objects_where_templates_make_them():
    """Rows, models, numbers and None; a prompt that is None is none."""
    chat = ChatRequest("m", user="{text}", system="{{ params.none }}", max_tokens="{{ params.cap }}")
    made = rendered(
        lambda: LLMBatchOperator(
            task_id="t", rows="{{ params.rows }}", request=chat,
            models="{{ params.models }}", max_cost="{{ params.none }}",
            **OUT,
        ),
        rows=["1", "b"], models=["a", "b"], none=None, cap=9,
    )  # fmt: skip
    assert (made.rows, made.models, made.max_cost) == (["1", "b"], ["a", "b"], None)
    assert (made.request.system, made.request.max_tokens) == (None, 9)


PARTS = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]


@pytest.mark.parametrize("given", ["{{ params.held }}", "  {{params.held}} ", Reference(PARTS)])
def test_what_a_template_or_a_task_brings_of_a_prompt_is_what_it_is(given):
    """Parts with a picture were sent as Python writes them, and a reference as it was."""
    turns = ChatRequest("m", messages=[{"role": "user", "content": given}])
    made = rendered(lambda: SubmitBatchOperator(task_id="t", rows=["a"], request=turns), held=PARTS)
    assert made.request.messages == [{"role": "user", "content": PARTS}]
    chat = ChatRequest("m", user=given, system=given)
    made = rendered(lambda: SubmitBatchOperator(task_id="t", rows=["a"], request=chat), held=PARTS)
    assert (made.request.user, made.request.system) == (PARTS, PARTS)
    made.request.compile()({"text": "a"})
    embedding = EmbeddingRequest(Reference("e"), input=given)
    made = rendered(lambda: SubmitBatchOperator(task_id="t", rows=["a"], request=embedding), held=["a", "b"])
    assert (made.request.model, made.request.input) == ("e", PARTS if given is not str(given) else ["a", "b"])


def test_a_dags_own_marks_are_templates():
    """``jinja_environment_kwargs``."""
    marks = {"variable_start_string": "[[", "variable_end_string": "]]"}
    with DAG("marks", render_template_as_native_obj=True, jinja_environment_kwargs=marks) as dag:
        chat = ChatRequest("[[ params.model ]]", user="{{text}} [[ params.model ]]")
        made = SubmitBatchOperator(task_id="t", rows="[[ params.rows ]]", request=chat)
    made.render_template_fields({"dag": dag, "params": {"model": "m", "rows": ["a"]}, "ti": None})
    assert (made.rows, made.request.model, made.request.user) == (["a"], "m", "{{text}} m")


NESTED = {
    "request": (lambda: ChatRequest("{{ params.n }}", user="{text}"), "model"),
    "rows": (lambda: Sql("{{ params.n }}", "select 1"), "conn_id"),
    "cache": (lambda: AnswerCache("file:///cache/{{ params.n }}"), "uri"),
    "recovery": (lambda: Recovery(on_change="{{ params.n }}"), "on_change"),
    "destination": (lambda: Table("pg", "answers_{{ params.n }}", key="id"), "table"),
}


@pytest.mark.parametrize("name", NESTED)
def test_an_object_that_tasks_share_is_rendered_for_each(name):
    """A mapped task's instances are made from one set of arguments, and Airflow renders each by ``render_template``."""
    make, attribute = NESTED[name]
    shared = make()
    given = {"rows": ["a"], "request": ChatRequest("m", user="{text}"), **OUT, name: shared}
    before = getattr(shared, attribute)
    with DAG("shared"):
        tasks = [LLMBatchOperator(task_id=f"t{n}", **given) for n in range(2)]
    for number, task in enumerate(tasks):
        context = {"params": {"n": f"n{number}"}, "ti": None}
        made = task.render_template(getattr(task, name), context)
        assert getattr(made, attribute) == before.replace("{{ params.n }}", f"n{number}")
    assert getattr(shared, attribute) == before


MAPPED = """
from airflow.sdk import DAG
from airflow_llm_batch.data import ChatRequest, Sql
from airflow_llm_batch.operators import LLMBatchOperator

with DAG("mapped_query"):
    LLMBatchOperator.partial(
        task_id="ask", conn_id="llm_test", poll_interval=0.05, request=ChatRequest("gpt-5-mini", max_tokens=9),
        rows=Sql("parts", "select text from t where part = {{ ti.map_index }} order by text"),
    ).expand(destination=["file://PLACE/out/0", "file://PLACE/out/1"])
"""


def test_mapped_tasks_ask_each_its_own_query(connect, tmp_path, monkeypatch, airflow_db):
    """dag.test() has all of them in one process: the second asked the first one's rows again."""
    with sqlite3.connect(tmp_path / "parts.db") as database:
        database.execute("create table t (part int, text text)")
        database.executemany("insert into t values (?, ?)", [(0, "zero"), (1, "one"), (1, "uno")])
    monkeypatch.setenv("AIRFLOW_CONN_PARTS", json.dumps({"conn_type": "sqlite", "host": f"{tmp_path}/parts.db"}))
    with Emulator(duration=0) as emulator:
        connect(emulator.url)
        run_dag(tmp_path, MAPPED)
        assert sorted(batch.total for batch in emulator.vendor.batches.values()) == [1, 2]
    counts = [sum(len(read_jsonl(file)) for file in (tmp_path / "out" / n).glob("*.jsonl")) for n in "01"]
    assert counts == [1, 2]


def test_failed_rows_may_be_templates():
    """The manifest of a summary, the whole summary as text, and the model."""
    manifest = "file:///jobs/d/r/t/-1/manifest.json"
    for text in ("{{ params.summary.manifest }}", "{{ params.summary }}", "{{ params.summary | tojson }}"):
        failed = FailedRows(text, model="{{ params.model }}")
        made = rendered(
            lambda failed=failed: SubmitBatchOperator(task_id="t", rows=failed),
            native=False, summary={"manifest": manifest, "cost_usd": None}, model="gpt-5",
        )  # fmt: skip
        assert (made.rows.job, made.rows.model) == ("file:///jobs/d/r/t/-1", "gpt-5")
        assert failed.fetched == text


def test_there_are_no_failed_rows_where_nothing_was_asked():
    """What a fetch of a mapped task without rows returns: ``on_empty`` says what comes of it."""
    for rows, error in (0, NoRows), (3, ConfigurationError):
        with pytest.raises(error):
            print(FailedRows({"manifest": None, "rows": rows}).job)


@pytest.mark.parametrize("text", ["[{'text': 'a', 'x': None}]", '[{"text": "a", "x": null}]'])
def test_a_list_that_a_template_has_made_text_of_is_a_list(emulator, connect, context, tmp_path, text):
    """``"{{ params.rows }}"`` and ``"{{ params.rows | tojson }}"``; models and later models likewise."""
    task = operator(connect(emulator.url), tmp_path, rows=text, key=None, models='["gpt-5-mini", "gpt-5-nano"]')
    task.passthrough = None
    summary = drive(task, context)
    assert [(row["row"], row["status"]) for row in landed(summary)] == [(0, "succeeded")] * 2
    assert len(emulator.vendor.batches) == 2
    with DAG("later"):
        later = LLMBatchOperator(task_id="t", then="{{ params.later }}", **OUT)
    later.then = "['gpt-5', ('claude-opus-4-5', 'other')]"
    assert [tuple(rung) for rung in later.again.then] == [("gpt-5", None), ("claude-opus-4-5", "other")]


@pytest.mark.parametrize("then", ["None", "gpt-5", "{'gpt-5'"])
def test_a_text_that_is_no_list_of_models_is_refused_before_anything_is_sent(
    emulator, connect, context, tmp_path, then
):
    """It was a model for each of its letters."""
    task = operator(connect(emulator.url), tmp_path, then="{{ params.later }}")
    task.then = then
    with pytest.raises(ConfigurationError, match="give a list of models"):
        task.execute(context)
    assert not emulator.vendor.files


@pytest.mark.parametrize(
    "given", [{"destination": None}, {"destination": ""}, {"destination": "file:///x", "format": None}]
)
def test_what_a_template_makes_nothing_of_is_refused_by_name(emulator, connect, context, tmp_path, given):
    """Rendered to None, as native templates are: before anything is sent."""
    task = operator(connect(emulator.url), tmp_path)
    vars(task).update(given)
    with pytest.raises(ConfigurationError, match=r"destination is|Unknown format None"):
        task.execute(context)
    fetch = FetchResultsOperator(task_id="f", job="file:///j", destination="file:///x")
    vars(fetch).update(given)
    with pytest.raises(ConfigurationError, match=r"destination is|Unknown format None"):
        fetch.execute(context)
    assert not emulator.vendor.files


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (None, "do_xcom_push=False"),
        ([{"job": "file:///j", "conn_id": "c"}], "map this task over it too"),
        (7, "pass the output"),
    ],
)
def test_a_job_that_is_none_tells_what_it_is(job, words):
    """The output of a task that pushes none, and of a mapped one."""
    with pytest.raises(ConfigurationError, match=words):
        JobHandle.of(job)


class Answer(BaseModel):
    sentiment: str


class Told(BaseNotifier):
    def notify(self, context):
        raise NotImplementedError


def checked(output, row):
    return None


ARGUMENTS = {
    "request": lambda: ChatRequest("m", user="{text}", output=Answer),
    "alerts": lambda: Alerts(notify=[Told(), lambda context: None]),
    "cache": lambda: AnswerCache("file:///cache", max_bytes=9),
    "recovery": lambda: Recovery(on_change="fail"),
    "checks": lambda: [checked, "output.sentiment == 'x'"],
    "destination": lambda: Table("pg", "answers", key="id"),
    "rows": lambda: Sql("pg", "select 1"),
    "then": lambda: ["a", ("b", "c")],
}


@pytest.mark.parametrize("way", ["plain", "partial", "expand", "default_args"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_dag_that_is_parsed_again_is_the_same_dag(name, way):
    """Airflow 3 makes a new version of a DAG whose serialized form has changed: no address of an object is in it."""

    def parsed():
        value = ARGUMENTS[name]()
        given = {"rows": ["a"], **OUT, name: value}
        with DAG("parsed", default_args={name: given.pop(name)} if way == "default_args" else {}) as dag:
            if way in ("plain", "default_args"):
                LLMBatchOperator(task_id="t", **given)
            elif way == "partial":
                LLMBatchOperator.partial(task_id="t", **given).expand(key=["a", "b"])
            else:
                del given[name]
                LLMBatchOperator.partial(task_id="t", **given).expand(**{name: [value, value]})
        return dag

    first, second = parsed(), parsed()
    assert json.dumps(serialized(first), sort_keys=True) == json.dumps(serialized(second), sort_keys=True)
    assert " at 0x" not in json.dumps(serialized(first))


@pytest.mark.parametrize("given", [0, -1, None, "soon", float("inf")])
def test_a_pause_that_is_none_is_refused_where_the_dag_is_parsed(given):
    """It failed the task when its batches ran already."""
    with pytest.raises(ConfigurationError, match=r"poll_interval is|no duration"):
        LLMBatchOperator(task_id="t", poll_interval=given, **OUT)


def test_a_pause_may_be_a_timedelta(connect, context, tmp_path):
    """While the batch runs, too."""
    with Emulator(duration=0.5) as emulator:
        task = operator(connect(emulator.url), tmp_path, poll_interval=timedelta(seconds=0.1))
        assert drive(task, context)["rows"] == 200
