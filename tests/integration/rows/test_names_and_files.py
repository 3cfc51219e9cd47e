"""Braces around any name of a column, and rows from files, frames and paths as other tools make them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.data.files import unquoted
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.data.templates import compile_template, meanings
from airflow_llm_batch.data.values import plain
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.planning.encoding import RowSpec, encode_rows, passthrough_map
from airflow_llm_batch.providers.openai.protocol import OpenAI


def prompts(rows, user, request=None):
    request = request or ChatRequest("m", user=user, max_tokens=5)
    made = encode_rows(RowSpec(rows, request, None, {}), OpenAI("http://h/v1"), "job")
    return [json.loads(line.request)["body"]["messages"][0]["content"] for line in made]


ROW = {"text": "good", "Price (EUR)": "12", "1st": "x", "a:b": "y", "id": 7}
FILLED = [
    ("{text} costs {Price (EUR)} {1st}", "good costs 12 x"),
    ("{id}: { text }", "7: good"),
    ("{id}: {text }{a:b}", "7: goody"),
    ("{text}: {{Price (EUR)}} {{text!r}}", "good: {Price (EUR)} {text!r}"),
    ('{text}: answer {"label": "x"} or {} or [{"text": 1}]', 'good: answer {"label": "x"} or {} or [{"text": 1}]'),
    ("{text} \\frac{1}{2} \\d{1,3} {'a': 1} {…}", "good \\frac{1}{2} \\d{1,3} {'a': 1} {…}"),
]


@pytest.mark.parametrize(("template", "filled"), FILLED)
def test_braces_around_a_column_are_filled(template, filled):
    """Whatever it is called; JSON and other braces stay as they are; doubled ones are braces."""
    assert prompts([ROW, {**ROW, "text": "bad"}], template)[0] == filled


@pytest.mark.parametrize("inside", ["text!r", "text:.100", "text[0]", "text, id", " text:>5", "text.upper()"])
def test_braces_that_begin_with_a_column_are_refused(inside):
    """By name, with the two ways to write it; nothing goes out as it stands."""
    with pytest.raises(InputError, match=rf"{re.escape(inside)}.*Nothing was sent"):
        prompts([ROW, ROW], f"{{id}}: {{{inside}}}")


def test_a_later_row_does_not_give_braces_another_meaning():
    """The first row tells what is a placeholder; one that would tell otherwise is refused by its place."""
    assert prompts([{"id": 1}, {"id": 2, "more": 3}], "{id} {1st}") == ["1 {1st}", "2 {1st}"]
    with pytest.raises(InputError, match=r"^row 1: .*\{1st\}.*Nothing was sent"):
        prompts([{"id": 1}, {"id": 2, "1st": 3}], "{id} {1st}")


def test_odd_names_are_read_from_parquet_and_keep_their_types(tmp_path):
    """The columns that are read, those that texts are cut at, and a value that keeps its type."""
    rows = [{**ROW, "unused": n} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    assert prompts(f"file://{tmp_path}/r.parquet", "{Price (EUR)} { text }") == ["12 good"] * 3
    known = meanings([{"n": "{ id }"}], ROW)
    assert compile_template({"n": "{ id }"}, known)(ROW) == {"n": 7}


names = st.text(st.characters(exclude_characters="{}\n\r", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(names, st.text(max_size=5))
def test_a_column_of_any_name_is_filled_or_refused(name, value):
    """Never sent as it stands."""
    row = {name: value, "other": "o"}
    body = {"model": "m", "messages": [{"role": "user", "content": f"{{other}} {{{name}}}"}]}
    assert prompts([row, row], "", RawRequest(body))[0] == f"o {value}"


TSV = 'id\ttext\r\n1\t"He said ""hi"""\r\n2\tplain\r\n3\t"Wow" they said\r\n4\t"\r\n5\t"""\r\n6\t""\r\n7\t"a"b"\r\n'


def test_quoted_fields_of_tab_separated_files(tmp_path):
    """A whole field in consistent quotation marks is what they quote; any other mark is text."""
    (tmp_path / "r.tsv").write_text(TSV)
    texts = [row["text"] for _, row in read_rows(f"file://{tmp_path}/r.tsv")]
    assert texts == ['He said "hi"', "plain", '"Wow" they said', '"', '"""', "", '"a"b"']
    frame = pd.DataFrame({"id": [1, 2], "a text": ['"', 'x "y" z']})
    frame.to_csv(tmp_path / "p.tsv.gz", sep="\t", index=False)
    assert [row["a text"] for _, row in read_rows(f"file://{tmp_path}/p.tsv.gz")] == list(frame["a text"])


@given(st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"]), max_size=8))
def test_what_pandas_quotes_comes_back(text):
    """Any field without a tab or a line's end."""
    assert unquoted('"' + text.replace('"', '""') + '"') == text
    if '"' not in text:
        assert unquoted(text) == text


PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("R.JSONL", bytes),
    ("R.JSONL.GZ", gzip.compress),
    ("r.jsonl.zst", lambda data: b"".join(zstandard.compress(part) for part in (data[:20], data[20:]))),
    ("R.CSV.ZST", lambda data: zstandard.compress(b"text\na\nb\n")),
    ("r.tsv.zst", lambda data: zstandard.compress(b"text\n\"a\"\nb\n")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pack"), PACKED)
def test_rows_in_files_of_every_ending(tmp_path, name, pack):
    """Upper case, zstd in several frames; alone and in their directory."""
    (tmp_path / name).write_bytes(pack(b'{"text": "a"}\n{"text": "b"}\n'))
    for place in (f"{tmp_path}/{name}", str(tmp_path), tmp_path / name, [tmp_path / name]):
        assert [row["text"] for _, row in read_rows(place)] == ["a", "b"]


def test_broken_zstd_and_upper_case_parquet(tmp_path):
    """The first is refused by its name, the second read."""
    (tmp_path / "r.jsonl.zst").write_bytes(b"no zstd at all")
    with pytest.raises(InputError, match=r"Cannot read .*r\.jsonl\.zst.*Nothing was sent"):
        list(read_rows(tmp_path / "r.jsonl.zst"))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "R.PARQUET")
    assert [row["text"] for _, row in read_rows(tmp_path / "R.PARQUET")] == ["a"]


FRAMES = [
    pd.DataFrame([["a", "b"]], columns=["text", "text"]),
    pa.table([["a"], ["b"]], names=["text", "text"]),
    pa.record_batch([["a"], ["b"]], names=["text", "text"]),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_two_columns_of_one_name_are_refused(frame):
    """As in CSV: a row would hold one of them."""
    with pytest.raises(InputError, match=r"named text.*Nothing was sent"):
        list(read_rows(frame))


def test_addresses_as_rows_are_told_the_way():
    """A list of web addresses is no list of files; objects are rows."""
    with pytest.raises(InputError, match=r"objects: \[\{'text'.*Nothing was sent"):
        list(read_rows(["https://example.com/a", "https://example.com/b"]))
    with pytest.raises(InputError, match=r"objects"):
        list(read_rows(["https://example.com/a.html"]))
    assert [row for _, row in read_rows([{"text": "https://example.com/a"}])] == [{"text": "https://example.com/a"}]


def test_durations_of_pandas_and_numpy():
    """To the microsecond as Python's, finer ones as ISO 8601; never a bare number."""
    second = pd.Timedelta(seconds=1).to_pytimedelta()
    assert plain(pd.Timedelta(seconds=1)) == plain(np.timedelta64(10**9, "ns")) == second
    assert type(plain(pd.Timedelta(seconds=1))) is type(second)
    assert plain(pd.Timedelta(1, "ns")) == "P0DT0H0M0.000000001S"
    assert plain(np.timedelta64("NaT")) is None


class NoForm(BaseModel):
    f: Callable


WRONG = [
    (lambda: ChatRequest("m", max_tokens="many"), {}),
    (lambda: EmbeddingRequest("m", dimensions="x"), {}),
    (lambda: ChatRequest("m", output=NoForm), {}),
    (lambda: ChatRequest("m"), {"key": ["a", "b"]}),
    (lambda: ChatRequest("m", max_tokens=5, params={"max_completion_tokens": 5}), {}),
    (lambda: ChatRequest("m", max_tokens=5, params={"max_tokens": 5}), {}),
]


@pytest.mark.parametrize(("request_", "spec"), WRONG)
def test_wrong_set_ups_are_told_as_such(request_, spec):
    """An error that a retry cannot mend, and Airflow does not retry."""
    with pytest.raises(InputError, match=r"Nothing was sent"):
        list(encode_rows(RowSpec(["a"], request_(), spec.get("key"), {}), OpenAI("http://h/v1"), "job"))


def test_names_of_results_are_taken_in_any_case():
    """DuckDB, Spark and Snowflake know no case."""
    for name in ("Text", "STATUS", "key"):
        with pytest.raises(InputError, match=rf"input_{name}"):
            passthrough_map([name])
    assert passthrough_map(["Title"]) == {"Title": "Title"}
    with pytest.raises(InputError, match=r"'Title' and 'title' differ.*Nothing was sent"):
        passthrough_map(["Title", "title"])
    assert passthrough_map({"a": "Title", "b": "title"}) == {"a": "Title", "b": "title"}
