"""Rows from a query: SQLite and a real PostgreSQL, in constant memory, templated."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import pytest
from support.jobs import chat, land, spec, submit

from airflow_llm_batch.data import ChatRequest, Sql
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.exceptions import InputError


def rows_of(query):
    return [row for _, row in read_rows(query)]


@pytest.fixture
def sqlite(tmp_path, monkeypatch):
    """A connection to a small SQLite database."""
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as db:
        db.execute("create table reviews (id integer primary key, text text, stars real)")
        db.executemany("insert into reviews values (?, ?, ?)", [(n, f"text {n}", n / 2) for n in range(2500)])
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    return "shop"


def test_a_query_is_a_source_like_any_other(sqlite, hook, provider, store, tmp_path):
    """Parameters, keys, types; the whole way to landed rows."""
    query = Sql(sqlite, "select id, text, stars from reviews where id < ? order by id", (1200,))
    submit(store, hook, spec(query, chat(provider), "id", ["stars"]))
    _, rows = land(store, hook, store.job(), tmp_path / "out")
    assert [(row["key"], row["stars"]) for row in rows] == [(n, n / 2) for n in range(1200)]
    assert store.job().columns == {"stars": "number"}


def test_queries_that_cannot_be_rows_are_refused(sqlite):
    """An error of the database, a statement without rows, columns of one name, a connection that is none."""
    for query, why in (
        (Sql(sqlite, "select a from nowhere"), "no such table: nowhere"),
        (Sql(sqlite, "create table other (a integer)"), "returns no rows"),
        (Sql(sqlite, "select id, text as id from reviews"), "names id more than once"),
        (Sql("not_there", "select 1"), "not_there"),
    ):
        with pytest.raises(InputError, match=rf"{why}.*Nothing was sent"):
            rows_of(query)


def test_a_query_is_rendered_for_each_run(sqlite):
    """Jinja in the statement and in its parameters; the operator's own object stays as it was written."""
    from airflow_llm_batch.operators import SubmitBatchOperator

    query = Sql(sqlite, "select id, text from {{ params.table }} where id < ? order by id", ["{{ params.count }}"])
    for count in (7, 9):
        submit = SubmitBatchOperator(task_id="submit", rows=query, request=ChatRequest("gpt-5-mini"))
        submit.render_template_fields({"params": {"table": "reviews", "count": count}})
        assert [row["id"] for row in rows_of(submit.rows)] == list(range(count))
    assert query.parameters == ["{{ params.count }}"]


def test_postgresql_types_and_placeholders(postgres, monkeypatch):
    """Named parameters, arrays, JSON, timestamps, numerics: what a prompt and a result can hold."""
    monkeypatch.setenv("AIRFLOW_CONN_PG", postgres)
    sql = (
        "select %(n)s::int as n, array['a'] as tags, '{\"x\": 1}'::jsonb as j, 1.50::numeric as price, null as nothing"
    )
    [row] = rows_of(Sql("pg", sql, {"n": 3}))
    assert (row["n"], row["tags"], row["j"], str(row["price"]), row["nothing"]) == (3, ["a"], {"x": 1}, "1.50", None)
    with pytest.raises(InputError, match="does not exist"):
        rows_of(Sql("pg", "select * from nowhere"))
    assert rows_of(Sql("pg", "select 1 as a where false")) == []


def test_postgresql_results_stay_on_the_server(postgres, monkeypatch):
    """300,000 rows of half a kilobyte, 150 MB, are walked through in a few megabytes."""
    monkeypatch.setenv("AIRFLOW_CONN_PG", postgres)
    code = """
import pathlib
from airflow_llm_batch.data import Sql
from airflow_llm_batch.data.sources import read_rows
def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
rows = read_rows(Sql("pg", "select n, repeat('x', 500) as text from generate_series(1, 300000) as n order by n"))
next(rows)
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
count = 1 + sum(1 for _ in rows)
print(count, status("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    count, grown = done.stdout.split()[-2:]
    assert int(count) == 300_000
    assert float(grown) < 20
