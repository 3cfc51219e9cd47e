"""Results merged into tables: SQLite and a real PostgreSQL, all rows of a job or none, each row once."""

from __future__ import annotations

import json
import sqlite3
import threading
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from support.tasks import drive, explicit, next_task, operator

from airflow_llm_batch.data import ChatRequest, FailedRows, Sql, Table
from airflow_llm_batch.data.tables import merging, sql
from airflow_llm_batch.data.tables.sql import SqlTable
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, InputError, LLMBatchError, SourceUnavailable
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "score": {"type": "number"},
        "count": {"type": "integer"},
        "urgent": {"type": "boolean"},
        "parts": {"type": "array", "items": {"type": "string"}},
        "status": {"type": "string"},
    },
    "required": ["label", "score", "count", "urgent", "parts", "status"],
    "additionalProperties": False,
}  # fmt: skip


class Database:
    """A database behind an Airflow connection; every test has tables of its own."""

    def __init__(self, kind, conn_id, schema):
        self.kind, self.conn_id, self.schema = kind, conn_id, schema

    def name(self, table):
        return f"{self.schema}.{table}" if self.schema else table

    def table(self, key="id", name="answers", **more):
        return Table(self.conn_id, self.name(name), key=key, **more)

    def run(self, statement):
        """Execute SQL; its rows as dictionaries, where it has any."""
        with SqlTable(self.table(), "").engine() as engine, engine.begin() as connection:
            found = connection.execute(sa.text(statement))
            return [dict(row._mapping) for row in found] if found.returns_rows else []

    def rows(self, name="answers", order="id"):
        return self.run(f"select * from {self.name(name)} order by {order}")

    def columns(self, name="answers"):
        with SqlTable(self.table(), "").engine() as engine:
            columns = sa.inspect(engine).get_columns(name, schema=self.schema)
            return {c["name"]: str(c["type"].compile(dialect=engine.dialect)) for c in columns}


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path, monkeypatch):
    if request.param == "sqlite":
        connection, schema = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "answers.db")}), None
    else:
        connection, schema = request.getfixturevalue("postgres"), f"t{abs(hash(tmp_path.name)) % 10**9}"
    monkeypatch.setenv("AIRFLOW_CONN_DWH", connection)
    made = Database(request.param, "dwh", schema)
    if schema:
        made.run(f"create schema {schema}")
    return made


def texts(count, start=0):
    return [{"id": f"k{n:03}", "text": f"text {n}", "n": n} for n in range(start, start + count)]


def asked(conn_id, tmp_path, database, rows, **more):
    given = {"rows": rows, "passthrough": ["n"], "destination": database.table(), "check_first": 0}
    return operator(conn_id, tmp_path, **{**given, **more})


def test_a_job_fills_a_table_that_it_makes(database, emulator, connect, context, tmp_path):
    """Types of the schema, the key and the pass-through columns; one row each; the files lie in the job directory."""
    conn_id = connect(emulator.url)
    request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=200, output=SCHEMA)
    summary = drive(asked(conn_id, tmp_path, database, texts(40), request=request), context)
    assert summary["counts"]["succeeded"] == 40
    assert all("/submit/-1/landed/results-" in file for file in summary["files"])
    rows = database.rows()
    assert [(row["id"], row["n"], row["status"]) for row in rows] == [(f"k{n:03}", n, "succeeded") for n in range(40)]
    assert {row["llm_batch_job"] for row in rows} == {f"dag/{context['ti'].run_id}/submit/-1"}
    for row in rows:
        answer = json.loads(row["text"])
        assert (row["label"], row["score"], row["count"]) == (answer["label"], answer["score"], answer["count"])
        assert bool(row["urgent"]) is answer["urgent"]
        assert (row["parts"] if database.kind == "postgres" else json.loads(row["parts"])) == answer["parts"]
        assert row["output_status"] == answer["status"]
    kinds = database.columns()
    wanted = {"id": "TEXT", "n": "BIGINT", "label": "TEXT", "count": "BIGINT", "urgent": "BOOLEAN", "cost_usd": "score"}
    assert {name: kinds[name] for name in wanted if name != "cost_usd"} | {"cost_usd": "score"} == wanted
    assert kinds["cost_usd"] == kinds["score"] == ("DOUBLE PRECISION" if database.kind == "postgres" else "FLOAT")
    assert kinds["parts"] == ("JSONB" if database.kind == "postgres" else "TEXT")
    assert "embedding" not in kinds


def test_a_second_landing_replaces_the_first(database, emulator, connect, context, tmp_path):
    """Fewer and other rows, another job beside them, and columns of the user's that nobody else touches."""
    conn_id = connect(emulator.url)
    drive(asked(conn_id, tmp_path, database, texts(30)), context)
    drive(asked(conn_id, tmp_path, database, texts(5, start=100)), next_task(context, "other"))
    database.run(f"alter table {database.name('answers')} add column reviewed text")
    database.run(f"update {database.name('answers')} set reviewed = 'by hand'")
    changed = [{**row, "text": f"other {row['n']}"} for row in texts(30) if row["n"] % 3 == 0]
    drive(asked(conn_id, tmp_path, database, changed), context)
    rows = database.rows()
    assert [row["id"] for row in rows] == [f"k{n:03}" for n in [*range(0, 30, 3), *range(100, 105)]]
    assert [row["text"] for row in rows[:10]] == [f"other {n}" for n in range(0, 30, 3)]
    assert {row["reviewed"] for row in rows} == {"by hand"}
    # And an older job that is landed once more takes its rows back.
    drive(asked(conn_id, tmp_path, database, texts(5, start=28)), next_task(context, "third"))
    assert {row["id"]: row["llm_batch_job"].rpartition("/")[0].rpartition("/")[2] for row in database.rows()} == {
        **{f"k{n:03}": "submit" for n in range(0, 28, 3)},
        **{f"k{n:03}": "third" for n in range(28, 33)},
        **{f"k{n:03}": "other" for n in range(100, 105)},
    }


def test_rounds_and_repairs_are_one_job(database, connect, context, tmp_path):
    """Rows that failed are asked again, in one task and by tasks of their own: each is in the table once."""
    with Emulator(duration=0, faults={"row_errors": 0.4, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        summary = drive(asked(conn_id, tmp_path, database, texts(30)), context)
        assert (summary["rounds"], summary["counts"]["succeeded"]) == (2, 30)
        assert [row["status"] for row in database.rows()] == ["succeeded"] * 30
        given = {"fetch": {"destination": database.table(name="again")}}
        asks = {"request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=50), "key": "id", "passthrough": ["n"]}
        rows = [{**row, "text": f"again {row['n']}"} for row in texts(30)]
        first = explicit(next_task(context, "one"), conn_id, tmp_path, rows, **given, **asks)
        failed = [row["id"] for row in database.rows("again") if row["status"] == "errored"]
        assert 0 < len(failed) == first["counts"]["errored"]
        explicit(next_task(context, "two"), conn_id, tmp_path, FailedRows(first), **given)
    rows = database.rows("again")
    assert [(row["id"], row["status"]) for row in rows] == [(f"k{n:03}", "succeeded") for n in range(30)]
    assert len({row["llm_batch_job"] for row in rows}) == 1


def test_several_models_answer_side_by_side(database, emulator, connect, context, tmp_path):
    """The model is of the key, or it is refused; one that is not asked any more takes its rows with it."""
    conn_id = connect(emulator.url)
    two = {"models": ["gpt-5-mini", "gpt-4o-mini"]}
    with pytest.raises(ConfigurationError, match="Add 'model' to the table's key"):
        drive(asked(conn_id, tmp_path, database, texts(4), **two), context)
    assert not emulator.vendor.batches
    both = database.table(["id", "model"])
    drive(asked(conn_id, tmp_path, database, texts(4), destination=both, **two), context)
    models = sorted({row["model"] for row in database.rows()})
    assert [(row["id"], row["model"]) for row in database.rows(order="id, model")] == [
        (f"k{n:03}", model) for n in range(4) for model in models
    ]
    assert len(models) == 2
    drive(asked(conn_id, tmp_path, database, texts(4), destination=both, models=["gpt-4o-mini"]), context)
    assert [row["id"] for row in database.rows()] == [f"k{n:03}" for n in range(4)]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_files_of_every_kind_fill_it_alike(database, emulator, connect, context, tmp_path, kind):
    """Columns by choice, under names of the user's; files where he wants them."""
    request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=200, output=SCHEMA)
    columns = {"Answer %": "output", "said": "output.label", "how many": "n", "state": "status", "who": "custom_id"}
    table = database.table(name="odd", columns=columns, files=f"file://{tmp_path}/elsewhere")
    rows = [{**row, "id": n} for n, row in enumerate(texts(12))]
    given = {"request": request, "format": kind, "destination": table}
    summary = drive(asked(connect(emulator.url), tmp_path, database, rows, **given), context)
    assert all(file.startswith(f"file://{tmp_path}/elsewhere/results-") for file in summary["files"])
    found = database.rows("odd")
    assert sorted(found[0]) == sorted([*columns, "id", "llm_batch_job"])
    for n, row in enumerate(found):
        answer = row["Answer %"] if database.kind == "postgres" else json.loads(row["Answer %"])
        assert (row["id"], row["how many"], row["said"], row["state"]) == (n, n, answer["label"], "succeeded")


def test_what_does_not_fit_is_refused_by_name_before_anything_is_sent(database, emulator, connect, context, tmp_path):
    """A table that lacks columns, has others as other types, wants more than there is, or has no index on the key."""
    conn_id = connect(emulator.url)
    name = database.name("answers")

    def refused(why, kind=ConfigurationError, rows=None, **more):
        with pytest.raises(kind, match=rf"{why}(.|\n)*Nothing was sent"):
            drive(asked(conn_id, tmp_path, database, rows or texts(3), **more), context)
        assert not emulator.vendor.batches
        assert not emulator.vendor.calls["POST /v1/chat/completions"]

    few = {"columns": ["status", "text", "n"]}
    database.run(f"create table {name} (id varchar(5) primary key, status text not null, text integer, n smallint)")
    refused(
        "has text as INTEGER, where TEXT is needed; it has no column llm_batch_job", destination=database.table(**few)
    )
    refused("has no column input_tokens")
    database.run(f"alter table {name} add column llm_batch_job text")
    plain = {"columns": ["status", "n"]}
    long = [{**row, "id": "k" * 6} for row in texts(1)]
    refused("Row 0 .* column id: it has 6 characters", InputError, long, destination=database.table(**plain))
    null = [{"id": None, "text": "a", "n": 1}]
    refused("its key 'id' is None", InputError, null, destination=database.table(**plain))
    refused("has no unique index on its key", destination=database.table("n", **plain))
    if database.kind == "postgres":
        large = [{**row, "n": 40_000} for row in texts(1)]
        refused("column n: 40000 is no integer that", InputError, large, destination=database.table(**plain))
    twice = [{**row, "n": 7} for row in texts(2)]
    database.run(f"create unique index by_n_{database.schema or ''} on {name} (n)")
    refused(
        "rows 0 and 1 .* the same n, the key",
        InputError,
        twice,
        destination=database.table("n", columns={"id": "key", "status": "status"}),
    )
    refused("is colour, and this task has neither", destination=database.table("colour", **plain), key=None)
    refused("is to hold 'output.none'", destination=database.table(columns=["output.none"]))
    refused("many rows share", destination=database.table("model"))
    missing = f"create table {database.name('strict')} (id text primary key, status text, llm_batch_job text, "
    database.run(f"{missing} score integer not null, n integer not null, made integer default 3 not null)")
    refused(
        "needs a value for score(.|\n)*has n as NOT NULL",
        destination=database.table(name="strict", columns=["status", "n"]),
    )
    refused("no connection 'nowhere'", destination=Table("nowhere", "answers", key="id"))
    # What fits is sent, into a table with columns that are narrower, and others that fill themselves.
    drive(asked(conn_id, tmp_path, database, texts(3), destination=database.table(**plain)), context)
    assert [(row["id"], row["n"], row["text"]) for row in database.rows()] == [(f"k{n:03}", n, None) for n in range(3)]


def test_a_fetching_tasks_table_is_looked_at_by_the_submitting_one(database, emulator, connect, context, tmp_path):
    """Templated, downstream: compared after planning, before a batch is made; its own object stays as it was."""
    from airflow.sdk import DAG

    conn_id = connect(emulator.url)
    table = Table("{{ conn }}", database.name("{{ name }}"), key="id")
    with DAG("d"):
        asks = {"request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=9), "key": "id", "check_first": 0}
        submit = SubmitBatchOperator(task_id="submit", rows=texts(3), conn_id=conn_id, passthrough=["n"], **asks)
        fetch = FetchResultsOperator(task_id="fetch", job=submit.output, destination=table)
    values = {**context, "conn": "dwh", "name": "answers"}
    database.run(f"create table {database.name('answers')} (id integer primary key, llm_batch_job text)")
    with pytest.raises(ConfigurationError, match="has no column n"):
        submit.execute(values)
    database.run(f"drop table {database.name('answers')}")
    submit.execute(values)
    assert len(emulator.vendor.batches) == 1
    assert database.rows() == []
    pulled = SimpleNamespace(**vars(context["ti"]), xcom_pull=lambda **given: {})
    fetch.render_template_fields({**values, "ti": pulled})
    assert (table.conn_id, fetch.destination.conn_id) == ("{{ conn }}", "dwh")


def test_a_dry_run_makes_no_table(database, emulator, connect, context, tmp_path):
    """It is compared where it is, and not made where it is not."""
    from airflow.providers.common.compat.sdk import AirflowSkipException

    context["ti"] = SimpleNamespace(**vars(context["ti"]), xcom_push=lambda **given: None)
    with pytest.raises(AirflowSkipException):
        drive(asked(connect(emulator.url), tmp_path, database, texts(3), dry_run=True), context)
    assert database.columns is not None
    with SqlTable(database.table(), "").engine() as engine:
        assert not sa.inspect(engine).has_table("answers", schema=database.schema)


def test_a_fault_at_every_statement_leaves_the_table_as_it_was(
    database, emulator, connect, context, tmp_path, monkeypatch
):
    """Each statement of a landing fails once: the table holds all of the last one, and of this one in the end."""
    conn_id = connect(emulator.url)
    first, second = texts(20), [{**row, "text": f"other {row['n']}"} for row in texts(15)]
    asks = {"request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=50), "key": "id", "passthrough": ["n"]}
    given = {"destination": database.table()}
    explicit(context, conn_id, tmp_path, first, fetch=given, **asks)
    before = database.rows()
    job = SubmitBatchOperator(task_id="submit", conn_id=conn_id, rows=second, **asks).execute(context)
    waited = BatchSensor(task_id="wait", job=job, deferrable=False, poke_interval=0.02).execute(context)
    strikes = Strikes(monkeypatch)
    while True:
        strikes.begin()
        try:
            FetchResultsOperator(task_id="fetch", job=waited, **given).execute(context)
            strikes.end()
            break
        except SourceUnavailable as error:
            strikes.struck(error)
        assert database.rows() == before
    rows = [(row["id"], row["text"]) for row in database.rows()]
    assert rows == [(row["id"], row["text"]) for row in second]
    verbs = {statement.split()[0] for statement in strikes.met}
    assert {"CREATE", "DELETE", "INSERT", "COMMIT"} <= verbs
    assert ("COPY" in verbs) == (database.kind == "postgres")
    assert len(strikes.met) >= 20
    assert len(emulator.vendor.batches) == 2


class Strikes:
    """Has one statement after another fail, each once.

    :ivar met: the statements that failed, in their order.
    """

    def __init__(self, monkeypatch):
        self.met, self.seen = [], 0
        open_engine, copy = SqlTable.open_engine, merging.copy_rows

        def opened(table):
            engine = open_engine(table)
            sa.event.listen(
                engine, "before_cursor_execute", lambda conn, cursor, statement, *more: self.meet(statement)
            )
            sa.event.listen(engine, "commit", lambda conn: self.meet("COMMIT"))
            return engine

        def copied(*given):
            self.meet("COPY")
            copy(*given)
            self.meet("COPY, whole")

        monkeypatch.setattr(SqlTable, "open_engine", opened)
        monkeypatch.setattr(merging, "copy_rows", copied)

    def begin(self):
        self.seen, self.at = 0, len(self.met)

    def end(self):
        self.at = -2

    def meet(self, statement):
        self.seen += 1
        if self.seen == self.at + 1:
            self.met.append(statement)
            raise ConnectionError("the line was cut")

    def struck(self, error):
        assert "the line was cut" in str(error)
        assert len(self.met) == self.at + 1


def test_a_kill_between_commit_and_manifest_is_harmless(database, emulator, connect, context, tmp_path, monkeypatch):
    """The table is filled and the manifest is not there: the retry lands the same, and nothing is paid again."""
    from airflow_llm_batch.jobs.directory.store import JobStore

    conn_id = connect(emulator.url)
    save = JobStore.save_manifest

    def killed(self, manifest):
        raise KeyboardInterrupt

    monkeypatch.setattr(JobStore, "save_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        drive(asked(conn_id, tmp_path, database, texts(20)), context)
    first = database.rows()
    assert len(first) == 20
    monkeypatch.setattr(JobStore, "save_manifest", save)
    drive(asked(conn_id, tmp_path, database, texts(20)), context)
    assert database.rows() == first
    assert len(emulator.vendor.batches) == 1
    # A table that was emptied since is filled again by a cleared task.
    database.run(f"delete from {database.name('answers')}")
    drive(asked(conn_id, tmp_path, database, texts(20)), context)
    assert database.rows() == first
    assert len(emulator.vendor.batches) == 1


def test_a_retried_anti_join_finds_the_same_rows(database, emulator, connect, context, tmp_path, monkeypatch):
    """The answers of a try that was killed after they were in the table count as not answered for the next."""
    from airflow_llm_batch.jobs.directory.store import JobStore

    conn_id = connect(emulator.url)
    database.run(f"create table {database.name('reviews')} (id text primary key, text text, n bigint)")
    for row in texts(12):
        database.run(f"insert into {database.name('reviews')} values ('{row['id']}', '{row['text']}', {row['n']})")
    made = f"create table {database.name('answers')} (id text primary key, text text, status text, llm_batch_job text)"
    database.run(made)
    own = f"dag/{context['ti'].run_id}/submit/-1"
    query = (
        f"select r.* from {database.name('reviews')} r left join {database.name('answers')} a on a.id = r.id "
        f"and a.status = 'succeeded' and a.llm_batch_job <> '{own}' where a.id is null order by r.id"
    )
    given = {"destination": database.table(columns=["text", "status"]), "passthrough": ["n"]}
    save = JobStore.save_manifest
    monkeypatch.setattr(JobStore, "save_manifest", lambda self, manifest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drive(asked(conn_id, tmp_path, database, Sql("dwh", query), **given), context)
    assert [row["llm_batch_job"] for row in database.rows()] == [own] * 12
    monkeypatch.setattr(JobStore, "save_manifest", save)
    drive(asked(conn_id, tmp_path, database, Sql("dwh", query), **given), context)
    assert [(row["id"], row["text"]) for row in database.rows()] == [(row["id"], row["text"]) for row in texts(12)]
    assert len(emulator.vendor.batches) == 1


def test_two_jobs_at_once_lose_nothing(database, emulator, connect, context, tmp_path):
    """Eight landings of overlapping rows in a table that none of them finds: no row twice, none missing."""
    conn_id = connect(emulator.url)
    summaries, errors = [], []

    def land(number):
        try:
            rows = [{**row, "text": f"{number} {row['n']}"} for row in texts(60, start=20 * number)]
            task = asked(conn_id, tmp_path, database, rows)
            summaries.append(drive(task, next_task(context, f"task{number}")))
        except LLMBatchError as error:
            errors.append(error)

    threads = [threading.Thread(target=land, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(summaries) == 8
    rows = database.rows()
    assert [row["id"] for row in rows] == [f"k{n:03}" for n in range(200)]
    for row in rows:
        number, n = map(int, row["text"].split())
        assert n == row["n"]
        assert row["llm_batch_job"].endswith(f"/task{number}/-1")


def test_a_constraint_of_the_users_keeps_the_files_and_says_so(database, emulator, connect, context, tmp_path):
    """What only the database knows: nothing is loaded, nothing is lost, and a table that was mended takes it."""
    conn_id = connect(emulator.url)
    name = database.name("answers")
    database.run(
        f"create table {name} (id text primary key, status text check (status <> 'succeeded'), llm_batch_job text)"
    )
    task = {"destination": database.table(columns=["status"])}
    with pytest.raises(ConfigurationError, match=r"(?i)check constraint.*nothing is paid again"):
        drive(asked(conn_id, tmp_path, database, texts(3), **task), context)
    assert database.rows() == []
    database.run(f"drop table {name}")
    drive(asked(conn_id, tmp_path, database, texts(3), **task), context)
    assert len(database.rows()) == 3
    assert len(emulator.vendor.batches) == 1


def test_any_other_database_is_merged_by_delete_and_insert(database, emulator, connect, context, tmp_path, monkeypatch):
    """SQL that every database has, run on these two."""
    monkeypatch.setattr(sql.Merge, "staged", sql.Merge.by_key)
    monkeypatch.setattr("airflow_llm_batch.data.tables.sql_shape.STAGED", frozenset())
    run = sql.Merge.run

    def generic(self, rows, *, keep=True):
        self.dialect = "postgresql"
        return run(self, rows, keep=keep)

    monkeypatch.setattr(sql.Merge, "run", generic)
    conn_id = connect(emulator.url)
    drive(asked(conn_id, tmp_path, database, texts(30)), context)
    drive(asked(conn_id, tmp_path, database, texts(10, start=25)), next_task(context, "other"))
    drive(asked(conn_id, tmp_path, database, texts(20)), context)
    assert [row["id"] for row in database.rows()] == [f"k{n:03}" for n in [*range(20), *range(25, 35)]]


def test_sqlite_connections_are_airflows_own(tmp_path, monkeypatch):
    """A place that cannot be opened is told as what it is, with the connection's name."""
    monkeypatch.setenv("AIRFLOW_CONN_DWH", json.dumps({"conn_type": "sqlite", "host": f"{tmp_path}/none/a.db"}))
    with pytest.raises(ConfigurationError, match="table://dwh/a: OperationalError: unable to open"):
        SqlTable(Table("dwh", "a", key="id"), "").reach()
    monkeypatch.setenv("AIRFLOW_CONN_DWH", json.dumps({"conn_type": "postgres", "host": "127.0.0.1", "port": 9}))
    with pytest.raises(SourceUnavailable, match="refused"):
        SqlTable(Table("dwh", "a", key="id"), "").reach()
    path = tmp_path / "busy.db"
    monkeypatch.setenv("AIRFLOW_CONN_DWH", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    monkeypatch.setattr(sql, "PATIENCE", 0)
    with sqlite3.connect(path) as other:
        other.execute("create table a (id text primary key, llm_batch_job text)")
        other.commit()
        other.execute("begin immediate")
        with pytest.raises(SourceUnavailable, match="locked"):
            SqlTable(Table("dwh", "a", key="id"), "").remove("job")


@pytest.mark.parametrize(
    "given", [{"conn_id": ""}, {"table": 3}, {"key": []}, {"key": ["a", "A"]}, {"columns": "status"}, {"key": None}]
)
def test_arguments_that_cannot_be_meant_are_refused_in_the_dag_file(given):
    with pytest.raises(ConfigurationError, match="Nothing was sent"):
        Table(**{"conn_id": "dwh", "table": "t", "key": "id", **given})
