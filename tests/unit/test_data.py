"""Rows in: sources and templates."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from airflow_llm_batch.airflow_versions import connection_of
from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.data.requests import BatchLines
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.data.templates import columns_of, compile_template
from airflow_llm_batch.exceptions import InputError

ROWS = [{"id": "a", "text": "one\u2028two"}, {"id": "b", "text": 'quote " comma, tab\t'}]


def rows_of(source):
    return [row for _, row in read_rows(source)]


def write(path, data):
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return f"file://{path}"


JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'id,text\r\na,one\u2028two\r\nb,"quote "" comma, tab\t"\r\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.jsonl.gz", JSONL),
        ("a.ndjson", "\ufeff" + JSONL.rstrip("\n") + "\n\n"),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.json.gz", json.dumps(ROWS)),
        ("a.json", JSONL),
        ("a.csv", CSV),
        ("a.csv.gz", "\ufeff" + CSV),
    ],
)
def test_every_file_format_gives_the_same_rows(tmp_path, name, content):
    """JSONL, JSON, CSV; plain and gzip; with a byte order mark; U+2028 inside a text splits nothing."""
    uri = write(tmp_path / name, content)
    assert rows_of(uri) == ROWS
    assert rows_of(str(tmp_path / name)) == ROWS


def test_tab_separated_quotes_are_text(tmp_path):
    """A quotation mark at a field's start does not swallow the lines after it."""
    uri = write(tmp_path / "a.tsv", 'id\ttext\na\t"Wow" they said\nb\t"unclosed\n')
    assert rows_of(uri) == [{"id": "a", "text": '"Wow" they said'}, {"id": "b", "text": '"unclosed'}]


def test_globs_directories_lists_and_upstream_outputs_name_many_files(tmp_path):
    """Files are read in the order of their names; a directory's other files are left alone."""
    for number in (2, 1, 3):
        write(tmp_path / f"part-{number}.jsonl", f'{{"n": {number}}}\n')
    write(tmp_path / "_SUCCESS", "")
    write(tmp_path / "_hidden.jsonl", '{"n": 99}\n')
    wanted = [{"n": 1}, {"n": 2}, {"n": 3}]
    assert rows_of(f"file://{tmp_path}/part-*.jsonl") == wanted
    assert rows_of(f"file://{tmp_path}/") == wanted
    uris = [f"file://{tmp_path}/part-{n}.jsonl" for n in (1, 2, 3)]
    assert rows_of(uris) == wanted
    assert rows_of({"manifest": "...", "files": uris, "rows": 3}) == wanted


def test_lists_of_texts_and_of_objects_are_rows():
    """A text has one column, text."""
    assert rows_of(["hi", "s3 is great"]) == [{"text": "hi"}, {"text": "s3 is great"}]
    assert rows_of({"a": n} for n in range(2)) == [{"a": 0}, {"a": 1}]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl line 2 is not JSON"),
        ("a.jsonl", "{}\n[1]\n", r"a\.jsonl line 2 is a list"),
        ("a.json", '[{"a": 1}, {"a" 2}]', r"a\.json item 1"),
        ("a.json", '[{"a": 1}, ', r"a\.json item 1"),
        ("a.csv", "a,b\n1,2\n3\n", r"a\.csv line 3 has 1 fields where the header has 2"),
        ("a.csv", "a,b\n1,2,3\n", r"a\.csv line 2 has 3 fields where the header has 2"),
        ("a.csv", b"a\n\xff\n", r"a\.csv line 1 or a later one is not UTF-8"),
        ("a.csv", b"a\n" + b"x\n" * 4096 + b"\xff\n", r"a\.csv line 4\d\d\d or a later one is not UTF-8"),
        ("a.txt", "x", r"a\.txt: rows are read from \.parquet"),
    ],
)
def test_malformed_files_are_refused_by_file_and_line(tmp_path, name, content, named):
    """The message names the place; nothing was sent."""
    uri = write(tmp_path / name, content)
    with pytest.raises(InputError, match=named) as caught:
        rows_of(uri)
    assert "Nothing was sent" in str(caught.value)


def test_unreadable_files_are_refused(tmp_path):
    """Missing, cut-off gzip, empty glob, a number, a prompt given as a path."""
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(JSONL.encode() * 50)[:-20])
    for source, named in (
        (f"file://{tmp_path}/none.jsonl", "Cannot read.*none.jsonl"),
        (f"file://{tmp_path}/cut.jsonl.gz", "Cannot read.*cut.jsonl.gz"),
        (f"file://{tmp_path}/*.csv", "No files match"),
        (5, "rows is a int"),
        ("Tell me a joke", "give a URI"),
        ([1], "row 0 is a int"),
    ):
        with pytest.raises(InputError, match=named):
            rows_of(source)


def test_a_long_json_array_is_read_piece_by_piece(tmp_path):
    """Items that straddle the read buffer come out whole."""
    rows = [{"n": n, "text": 'é\\"}]' * 2000} for n in range(300)]
    assert rows_of(write(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False))) == rows


@given(st.text(), st.text())
def test_filled_text_is_never_a_template_itself(before, value):
    """Braces in a row's text stay as they are."""
    before = before.replace("{", "").replace("}", "")
    assert compile_template(before + "<{text}>")({"text": value}) == f"{before}<{value}>"


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{a} and {b c}", "1 and x"),
        ('JSON like {"a": {"b": 1}} stays', 'JSON like {"a": {"b": 1}} stays'),
        ("{{a}} is literal", "{a} is literal"),
        ("regex [a-z]{2,3} {}", "regex [a-z]{2,3} {}"),
        ("{none}|{list}|{yes}", '|[1,"é"]|true'),
    ],
)
def test_only_braces_around_a_name_are_placeholders(template, filled):
    """JSON and regular expressions in a prompt need no escaping; nulls are empty, lists are JSON."""
    row = {"a": 1, "b c": "x", "none": None, "list": [1, "é"], "yes": True}
    assert compile_template(template)(row) == filled


def test_nested_templates_keep_types():
    """A string that is one placeholder becomes the value; other strings are filled."""
    fill = compile_template({"temperature": "{t}", "note": "t={t}", "deep": [{"x": "{list}"}], "fixed": 5})
    assert fill({"t": 0.5, "list": [1]}) == {"temperature": 0.5, "note": "t=0.5", "deep": [{"x": [1]}], "fixed": 5}
    assert columns_of({"a": ["{x} {y}"], "b": "{{z}}"}) == {"x", "y"}


class Label(BaseModel):
    mood: str
    score: int = 3


def test_chat_requests_render_system_user_schema_and_params():
    """The neutral body: messages, token cap, schema with closed objects, the rest."""
    request = ChatRequest(
        model="m", system="Be {tone}.", user="Say {text}", output=Label, max_tokens="20", params={"temperature": 0}
    )
    rendered = request.compile()({"tone": "kind", "text": "hi"})
    assert rendered.endpoint == "/v1/chat/completions"
    body = rendered.body
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say hi"}]
    assert (body["model"], body["max_completion_tokens"], body["temperature"]) == ("m", 20, 0)
    schema = body["response_format"]["json_schema"]
    assert schema["name"] == "Label"
    assert request.schema()["required"] == ["mood"]
    assert schema["schema"]["required"] == ["mood", "score"]
    assert schema["schema"]["additionalProperties"] is False
    json.dumps(request.serialize())


def test_conversations_with_images_are_templates_too():
    """Text parts stay text even where the column is a number."""
    parts = [{"type": "text", "text": "{n}"}, {"type": "image_url", "image_url": {"url": "{url}"}}]
    request = ChatRequest(model="m", messages=[{"role": "user", "content": parts}])
    content = request.compile()({"n": 5, "url": "https://x/1.png"}).body["messages"][0]["content"]
    assert content == [{"type": "text", "text": "5"}, {"type": "image_url", "image_url": {"url": "https://x/1.png"}}]


def test_texts_need_no_template():
    """ChatRequest(model) alone sends each row's text."""
    assert ChatRequest("m").compile()({"text": "hi"}).body["messages"] == [{"role": "user", "content": "hi"}]


def test_contradicting_arguments_are_refused():
    """messages beside user, a parameter given twice, an output that is no schema, nothing to embed."""
    with pytest.raises(InputError, match="both"):
        ChatRequest("m", user="x", messages=[])
    with pytest.raises(InputError, match="repeats model"):
        ChatRequest("m", params={"model": "n"}).compile()
    with pytest.raises(InputError, match="Pydantic"):
        ChatRequest("m", output=str).compile()
    with pytest.raises(InputError, match="empty"):
        EmbeddingRequest("m").compile()({"text": ""})


def test_embeddings_and_raw_bodies():
    """The other two request kinds."""
    assert EmbeddingRequest("e", "{t}!", dimensions=8).compile()({"t": "x"}) == (
        "/v1/embeddings",
        {"model": "e", "input": "x!", "dimensions": 8},
        None,
        None,
    )
    raw = RawRequest({"model": "m", "input": "{q}", "top_logprobs": "{n}"}, "/v1/responses").compile()
    assert raw({"q": "hi", "n": 2}) == (
        "/v1/responses",
        {"model": "m", "input": "hi", "top_logprobs": 2},
        None,
        None,
    )


def test_existing_batch_lines_are_requests():
    """OpenAI's lines with and without /v1, Anthropic's; anything else is refused with the remedy."""
    render = BatchLines().compile()
    assert render({"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"x": 1}}) == (
        "/v1/embeddings",
        {"x": 1},
        None,
        None,
    )
    assert render({"custom_id": "a", "url": "/chat/completions", "body": {}}).endpoint == "/v1/chat/completions"
    assert render({"custom_id": "a", "params": {"m": 1}}) == ("/v1/messages", {"m": 1}, None, None)
    with pytest.raises(InputError, match="request=ChatRequest"):
        render({"text": "hi"})
    with pytest.raises(InputError, match="GET"):
        render({"custom_id": "a", "method": "GET", "url": "/v1/x", "body": {}})


def test_a_row_has_a_bound(tmp_path, monkeypatch):
    """A file without line ends, a small one that is large when it is unpacked, nesting beyond any parser: refused."""
    from airflow_llm_batch.data import files

    monkeypatch.setattr(files, "MOST_BYTES", 10_000)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"x" * 20_000 + b'"}')
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as file:
        file.write(b'{"text": "' + b"x" * 10**7)
    for name in ("a.jsonl", "b.jsonl.gz"):
        with pytest.raises(InputError, match=r"line 1 has more than 10,000 bytes.*Nothing was sent"):
            list(read_rows(f"file://{tmp_path}/{name}"))
    monkeypatch.setattr(files, "MOST_BYTES", 10**7)
    for name, text in (("c.jsonl", "[" * 200_000), ("d.json", "[" * 200_000)):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="Nothing was sent"):
            list(read_rows(f"file://{tmp_path}/{name}"))


def test_a_wide_header_costs_no_more_than_its_columns(tmp_path):
    """Twenty thousand columns: one look each."""
    names = [f"c{n}" for n in range(20_000)]
    (tmp_path / "wide.csv").write_text(",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")
    assert len(next(row for _, row in read_rows(f"file://{tmp_path}/wide.csv"))) == 20_000


@pytest.mark.parametrize(
    "path",
    [
        SimpleNamespace(conn_id="store", storage_options={}),
        SimpleNamespace(storage_options={"conn_id": "store"}),
    ],
    ids=["3.3", "3.1"],
)
def test_a_path_tells_its_connection_as_each_airflow_keeps_it(path):
    """Directories and globs are listed with the connection of the path that was given."""
    assert connection_of(path) == "store"
    assert connection_of(SimpleNamespace(storage_options={})) is None


@pytest.mark.parametrize(
    ("name", "text", "made"),
    [
        ("temperature", "0.5", 0.5), ("top_p", " 1 ", 1), ("logprobs", "True", True), ("store", "false", False),
        ("temperature", "{t}", 0.25), ("temperature", 0.5, 0.5), ("logprobs", "5", 5),
    ],
)  # fmt: skip
def test_a_number_that_a_template_has_made_text_of_is_a_number(name, text, made):
    """``params={"temperature": "{{ params.t }}"}`` was sent as text, which the vendor refuses for every row."""
    request = ChatRequest("gpt-4.1-mini", user="{text}", params={name: text, "stop": "7", "user": "0.5"})
    body = request.compile()({"text": "a", "t": 0.25}).body
    assert (body[name], type(body[name])) == (made, type(made))
    assert (body["stop"], body["user"]) == ("7", "0.5")


@pytest.mark.parametrize("text", ["None", "", "warm", "nan", "null", "[1]", "true"])
def test_a_text_where_a_number_belongs_is_refused(text):
    """The vendor would refuse every row for it."""
    request = ChatRequest("gpt-4.1-mini", user="{text}", params={"temperature": text})
    with pytest.raises(InputError, match=r"temperature is .*give a number"):
        request.compile()({"text": "a"})
