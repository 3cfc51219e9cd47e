"""Whatever lines come back, in whatever order: exactly one result per row."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_llm_batch.bounded import split_lines
from airflow_llm_batch.jobs.directory.rows import Entries
from airflow_llm_batch.jobs.landing.answers import AnswerSource
from airflow_llm_batch.jobs.landing.reconcile import Reconciler
from airflow_llm_batch.models import Batch
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.providers.openai.protocol import OpenAI

JOB = "0a1b2c3d"
ENDED = Batch(id="b", status="completed", outcome="completed")


def good(row, text="x"):
    return (
        f'{{"custom_id":"{JOB}-{row}","error":null,"response":{{"status_code":200,"body":{{"choices":'
        f'[{{"message":{{"content":"{text}"}},"finish_reason":"stop"}}]}}}}}}'
    ).encode()


def reconcile(rows, lines):
    kept = []
    made = Reconciler(
        JOB, Entries(b'{"row":%d,"key":%d}\n' % (n, n) for n in range(rows)), OpenAI("http://h"), kept.append
    )
    results = [*made.take(AnswerSource("batch", iter(lines), lambda result, model: None)), *made.rest(ENDED)]
    return results, made.dropped, kept


garbage = st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")).filter(bytes.strip) | st.sampled_from(
    [b"{}", b"[]", b"null", b'"text"', b"NaN", b'{"custom_id": null}', b"[" * 5000, good(0)[:-9], b'{"custom_id":"x"}']
)
foreign = st.sampled_from(
    [good(3).replace(JOB.encode(), b"ffffffff"), good(10**9), good("03"), good("-1"), good("1e3"), good("٣")]
)


@settings(max_examples=200)
@given(st.integers(1, 12), st.data())
def test_one_result_per_row(rows, data):
    """Shuffled, lost, repeated, foreign and unreadable lines in any mixture."""
    answered = data.draw(st.lists(st.integers(0, rows - 1), max_size=3 * rows))
    noise = data.draw(st.lists(garbage, max_size=5))
    strangers = data.draw(st.lists(foreign, max_size=3))
    lines = data.draw(st.permutations([*map(good, answered), *noise, *strangers]))
    results, dropped, kept = reconcile(rows, lines)
    assert sorted(entry.row for entry, _ in results) == list(range(rows))
    by_row = {entry.row: result for entry, result in results}
    for row in range(rows):
        assert by_row[row].status == ("succeeded" if row in answered else "missing")
        assert by_row[row].custom_id == f"{JOB}-{row}"
    assert dropped["duplicate"] == len(answered) - len(set(answered))
    assert dropped["garbage"] + dropped["foreign"] == len(noise) + len(strangers)
    assert len(kept) == dropped["garbage"]


@given(st.lists(st.binary(max_size=8)), st.integers(1, 7))
def test_lines_split_at_newlines_only_however_they_are_chunked(lines, size):
    """Chunk borders change nothing; U+2028, \\r and \\x85 are text."""
    whole = b"\n".join(lines)
    chunks = [whole[n : n + size] for n in range(0, len(whole), size)]
    assert list(split_lines(chunks)) == whole.split(b"\n")


@given(st.sets(st.integers(0, 9), min_size=1), st.data())
def test_a_row_that_is_told_of_twice_is_one_row(answered, data):
    """Whatever a vendor has written twice hides nothing of what it has not delivered."""
    lines = [good(row) for row in answered for _ in range(data.draw(st.integers(1, 3)))]
    made = Reconciler(JOB, Entries(b'{"row":%d,"key":%d}\n' % (n, n) for n in range(10)), OpenAI("http://h"), print)
    read = list(made.take(AnswerSource("batch", iter(data.draw(st.permutations(lines))), lambda result, model: None)))
    assert len(read) == made.delivered == len(answered)
    assert made.short_of(ENDED.model_copy(update={"succeeded": 10})) == 10 - len(answered)


def test_what_strict_json_refuses_is_made_legal():
    """NaN and infinities are null, lone surrogates are U+FFFD, huge integers stay whole."""
    line = b'{"a": NaN, "b": [Infinity, "x\\ud83d"], "c": 123456789012345678901234567890, "\\udc00": "\\ud83d\\ude00"}'
    assert parse_line(line) == {
        "a": None, "b": [None, "x\ufffd"], "c": 123456789012345678901234567890, "\ufffd": "\U0001f600",
    }  # fmt: skip
