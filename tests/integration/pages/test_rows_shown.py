"""Rows and answers on a job's page: paged, filtered, spread; of files of any size; for whom they are meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import read_jsonl
from support.pages import submit
from support.stores import Bucket

from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.data.windows import BLOCK, places, records_from
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.jobs.view.rows import Wanted, own_files
from airflow_llm_batch.jobs.view.spread import MOST, field_of, histogram, spread_of
from airflow_llm_batch.operators import FetchResultsOperator
from airflow_llm_batch.storage import storage_path

pytestmark = pytest.mark.usefixtures("airflow_db")
PAGE = "job/dag/run/submit/-1"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "score": {"type": "number", "minimum": 0, "maximum": 10}},
    "required": ["label", "score"],
    "additionalProperties": False,
}
FORMATS = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]


def rows(count):
    return [{"id": f"k{n:03d}", "review": f"review {n}"} for n in range(count)]


def land(conn_id, storage, destination, form="jsonl", run_id="run", fetch=None, **arguments):
    request = ChatRequest("gpt-5-mini", system="Label it.", user="{review}", output=SCHEMA, max_tokens=40)
    given = {"rows": rows(90), "request": request, "key": "id", "passthrough": ["review"], **arguments}
    handle = submit(conn_id, storage, run_id=run_id, **given)
    options = {"fail_on": "none", "format": form, **(fetch or {})}
    return FetchResultsOperator(task_id="f", job=handle, destination=destination, **options).execute({})


def walked(site, path, most=50, **query):
    """Every page, one after the other."""
    found, after = [], {}
    for _ in range(most):
        page = site.get(f"{PAGE}/{path}", **query, **after)
        found += page["rows"]
        if page["after"] is None:
            return found
        after = page["after"] if path == "rows" else {"at": page["after"]["at"]}
    raise AssertionError("there is no end")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", ["local", "s3"])
def test_pages_hold_each_row_once_in_every_format(site, connect, storage, tmp_path, form, place):
    """Of several files and any store: what is paged is what was landed."""
    destination = f"file://{tmp_path}/out" if place == "local" else f"{Bucket().uri}/out"
    with Emulator(duration=0, faults={"row_errors": 0.1}) as emulator:
        summary = land(connect(emulator.url, limits={"requests": 40}), storage, destination, form)
    assert len(summary["files"]) == 3
    found = walked(site, "rows", limit=7)
    assert sorted(row["key"] for row in found) == [row["id"] for row in rows(90)]
    assert all(row["review"] == f"review {row['row']}" and row["columns"] == ["review"] for row in found)
    assert {row["output"]["label"] for row in found if row["status"] == "succeeded"} <= {"good", "bad"}
    failed = walked(site, "rows", limit=7, status="errored")
    assert {row["key"] for row in failed} == {row["key"] for row in found if row["status"] != "succeeded"} != set()
    assert [row["key"] for row in walked(site, "rows", key="K042")] == ["k042"]
    good = walked(site, "rows", limit=7, field="label", value="good")
    assert {row["key"] for row in good} == {r["key"] for r in found if (r.get("output") or {}).get("label") == "good"}


def test_failed_rows_are_there_with_the_vendors_answer(site, connect, storage, tmp_path):
    """All of them, not the first fifty, and what the vendor said of each."""
    with Emulator(duration=0, faults={"row_errors": 1}) as emulator:
        land(connect(emulator.url), storage, f"file://{tmp_path}/out")
    found = walked(site, "failed", limit=25)
    assert [row["row"] for row in found] == list(range(90))
    assert all("server_error" in row["raw"] and json.loads(row["raw"])["custom_id"] for row in found)


def test_a_rows_request_is_found_as_it_was_sent(site, connect, storage, tmp_path):
    """By halves, in whichever shard it lies; a row of nobody has none."""
    with Emulator(duration=0) as emulator:
        land(connect(emulator.url, limits={"requests": 40}), storage, f"file://{tmp_path}/out")
    for row in walked(site, "rows"):
        asked = {"number": row["round"], "shard": row["shard"], "custom_id": row["custom_id"]}
        sent = json.loads(site.get(f"{PAGE}/sent", **asked)["sent"])
        assert sent["custom_id"] == row["custom_id"]
        assert sent["body"]["messages"][-1]["content"] == row["review"]
    for wrong in ({"custom_id": "00000000-1"}, {"shard": 7}, {"number": 9}):
        assert site.get(f"{PAGE}/sent", **{**asked, **wrong})["sent"] is None


def test_a_page_reads_a_small_part_of_a_large_file(tmp_path, monkeypatch):
    """Bytes that are asked of the store do not grow with the file, wherever the page begins."""
    bucket = Bucket()
    path = storage_path(f"{bucket.uri}/results-00000000-00000.jsonl")
    line = json.dumps({"key": 0, "text": "x" * 1000}).encode() + b"\n"
    path.fs.pipe_file(path.path, line * 20_000)
    read = []
    real = bucket.cat_file

    def counted(name, start=None, end=None, **more):
        data = real(name, start=start, end=end, **more)
        read.append(len(data))
        return data

    monkeypatch.setattr(bucket, "cat_file", counted)
    monkeypatch.setattr(path.fs, "cat_file", counted)
    for at in (0, len(line) * 10_000, len(line) * 19_990):
        read.clear()
        steps = [step for step, _ in zip(records_from(path, at), range(10), strict=False)]
        assert [step.after for step in steps] == [at + len(line) * n for n in range(1, 11)]
        assert sum(read) <= 2 * BLOCK
    assert sum(1 for _ in records_from(path)) == 20_000


def test_parquet_is_read_from_the_row_group_on(tmp_path):
    """A place in the middle of a later group, and one beyond the end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"row": list(range(1050)), "embedding": [[0.5] * 4] * 1050})
    pq.write_table(table, tmp_path / "results-00000000-00000.parquet", row_group_size=300)
    path = storage_path(f"file://{tmp_path}/results-00000000-00000.parquet")
    for at in (0, 299, 300, 301, 777, 1049, 1050):
        steps = list(records_from(path, at))
        assert [step.record["row"] for step in steps] == list(range(at, 1050))
        assert [step.after for step in steps] == list(range(at + 1, 1051))
        assert all("embedding" not in step.record for step in steps)
    assert places(path, 5) == [0, 210, 420, 630, 840]


def test_how_answers_spread_beside_the_run_before(site, connect, storage, tmp_path):
    """Labels and numbers are counted, and what a bar counts is what its filter finds."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        land(conn_id, storage, f"file://{tmp_path}/before", run_id="earlier", rows=rows(20))
        land(conn_id, storage, f"file://{tmp_path}/now")
    spread = site.get(f"{PAGE}/spread")
    assert (spread["now"]["rows"], spread["now"]["whole"]) == (90, True)
    assert (spread["previous_run"], spread["previous"]["rows"]) == ("earlier", 20)
    fields = {field["name"]: field for field in spread["now"]["fields"]}
    assert set(fields) == {"label", "score"}
    for name, field in fields.items():
        assert sum(bar["rows"] for bar in field["bars"]) == 90
        for bar in field["bars"]:
            assert len(walked(site, "rows", field=name, value=bar["value"])) == bar["rows"]
    assert site.get("job/dag/earlier/submit/-1/spread")["previous"] is None


def test_large_jobs_are_sampled_from_all_over(tmp_path):
    """No more records than the bound, from the last file's end too, and said to be a sample."""
    files = []
    for number in range(30):
        file = tmp_path / f"results-00000000-{number:05d}.jsonl"
        lines = ({"status": "succeeded", "output": {"n": number * 1000 + n}} for n in range(1000))
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        files.append(f"file://{file}")
    spread = spread_of(tuple(files), 30_000, "now")
    assert spread.rows <= MOST
    assert not spread.whole
    [field] = spread.fields
    assert field.kind == "numbers"
    assert all(bar.rows for bar in field.bars)
    assert (field.bars[0].label, field.bars[-1].label) == ("0 to 5000", "25000 to 30000")


def test_fields_are_what_their_values_are():
    """Few values are labels, many numbers a histogram, many texts are only counted."""
    assert field_of("a", [True, False, True]).kind == "labels"
    assert [bar.label for bar in field_of("a", [3, 1, 2, 1]).bars] == ["1", "2", "3"]
    assert field_of("a", [f"text {n}" for n in range(50)]).kind == "texts"
    assert field_of("a", [n / 7 for n in range(100)]).kind == "numbers"
    assert field_of("a", [1.0, None, float("nan")]).kind == "labels"
    for numbers in ([-1e-9 * n for n in range(40)], [1e15 + n for n in range(40)], [0.1 * n for n in range(40)]):
        bars = histogram(numbers)
        assert sum(bar.rows for bar in bars) == 40
        assert len(bars) <= 12
        found = [sum(Wanted(field="n", value=bar.value).fits({"output": {"n": n}}) for n in numbers) for bar in bars]
        assert found == [bar.rows for bar in bars]


def test_repaired_rows_are_shown_together(site, connect, storage, tmp_path):
    """A repair's landing holds what the job before has landed: both are the DAG's own."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        summary = land(conn_id, storage, f"file://{tmp_path}/out", run_id="first")
        handle = submit(conn_id, storage, rows=FailedRows(summary), request=None)
        FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out").execute({})
    found = walked(site, "rows")
    assert sorted(row["key"] for row in found) == [row["id"] for row in rows(90)]
    assert {row["status"] for row in found} == {"succeeded"}


def test_a_manifest_opens_no_file_but_its_jobs_own(site, connect, storage, tmp_path):
    """Whoever may write to the storage names other files in a manifest, and sees none of them."""
    secret = tmp_path / "secrets.jsonl"
    secret.write_text('{"key": "s3cr3t"}\n')
    with Emulator(duration=0) as emulator:
        summary = land(connect(emulator.url), storage, f"file://{tmp_path}/out")
    other = tmp_path / "results-deadbeef-00000.jsonl"
    other.write_text('{"key": "s3cr3t"}\n')
    manifest = Path(summary["manifest"].removeprefix("file://"))
    forged = json.loads(manifest.read_bytes())
    forged["files"] = [f"file://{secret}", f"file://{other}", "file:///etc/passwd", *forged["files"]]
    forged["rounds"].append({**forged["rounds"][0], "job": f"{storage}/dag/../other/run/submit/-1"})
    manifest.write_text(json.dumps(forged))
    page = site.get(f"{PAGE}/rows", limit=200)
    assert (len(page["rows"]), page["unshown"]) == (90, 3)
    assert "s3cr3t" not in json.dumps(page)
    assert own_files(["file:///a/results-deadbeef-1.jsonl/../x"], ["file:///jobs/a"]) == []


def test_rows_are_for_those_who_may_read_the_logs(site, connect, storage, tmp_path, monkeypatch):
    """Who may see the DAG's tasks and not their logs sees the job, and neither prompts nor answers nor keys."""
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    with Emulator(duration=0, faults={"row_errors": 0.2}) as emulator:
        land(connect(emulator.url), storage, f"file://{tmp_path}/out", check_first=2)
    assert site.get(PAGE)["failures"]
    assert site.get(PAGE)["tried"]
    routes = ("rows", "failed", "spread", "sent?number=1&shard=0&custom_id=a-1")
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__SHOW_ANSWERS", "False")
    assert {site.http.get(f"/api/{PAGE}/{route}").status_code for route in routes} == {403}
    monkeypatch.delenv("AIRFLOW__LLM_BATCH__SHOW_ANSWERS")
    real = SimpleAuthManager.is_authorized_dag

    def no_logs(self, *, method, user, access_entity=None, details=None):
        if access_entity == DagAccessEntity.TASK_LOGS:
            return False
        return real(self, method=method, user=user, access_entity=access_entity, details=details)

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", no_logs)
    page = site.get(PAGE)
    assert (page["may_read_rows"], page["failures"], page["tried"]) == (False, [], None)
    for route in routes:
        answer = site.http.get(f"/api/{PAGE}/{route}")
        assert (answer.status_code, "logs" in answer.json()["detail"]) == (403, True)
    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", real)
    site.as_role(None)
    assert {site.http.get(f"/api/{PAGE}/{route}").status_code for route in routes} == {404}


def test_files_that_cannot_be_read_are_told_of(site, connect, storage, tmp_path):
    """Moved away, or changed: a sentence, without what the file holds."""
    with Emulator(duration=0) as emulator:
        summary = land(connect(emulator.url), storage, f"file://{tmp_path}/out")
    [file] = [Path(uri.removeprefix("file://")) for uri in summary["files"]]
    assert len(read_jsonl(file)) == 90
    file.write_text("s3cr3t\n")
    answer = site.http.get(f"/api/{PAGE}/rows")
    assert (answer.status_code, "no record" in answer.json()["detail"]) == (502, True)
    assert "s3cr3t" not in answer.text
    file.unlink()
    assert site.http.get(f"/api/{PAGE}/rows").status_code == 404
