"""Partitions of a source: disjoint, together the whole, the same each time, and each reads its own part alone."""

import json
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import Bucket

from airflow_llm_batch.data.partitions import Partition, cut_of, part_of, partitions
from airflow_llm_batch.data.sql import Sql
from airflow_llm_batch.exceptions import ConfigurationError, InputError, SourceUnavailable

COUNTS = st.integers(1, 12)
SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=5)


def all_parts(rows, count, columns=None):
    """What each partition reads, every one of them from a cut of its own."""
    read = []
    for number in range(count):
        cut = cut_of(rows)
        part = part_of(rows, Partition(number, count), cut)
        once, again = list(part.rows(columns)), list(part.rows(columns))
        assert once == again
        read.append(once)
    return read


def check_whole(read, expected):
    """Every row in exactly one partition, under a number that no other row has, in the source's order."""
    found = [row["id"] for part in read for _, row in part]
    assert sorted(found) == sorted(expected)
    places = [place for part in read for place, _ in part]
    assert len(set(places)) == len(places)
    numbers = {Partition(which, len(read)).row(n) for which, part in enumerate(read) for n in range(len(part))}
    assert len(numbers) == len(expected)


def test_partitions_are_texts():
    """What the UI shows and XCom holds; nothing else is taken for one."""
    assert partitions(3) == ["0/3", "1/3", "2/3"]
    assert str(Partition.of("2/3")) == "2/3"
    assert Partition.of(None) is Partition.of("") is None
    for wrong in ("3/3", "1", "1/0", "-1/3", "a/b", "0/10001", 0.5):
        with pytest.raises(ConfigurationError, match="Nothing was sent"):
            Partition.of(wrong)
    for wrong in (0, -1, 10_001, "3"):
        with pytest.raises(ConfigurationError, match="whole number"):
            partitions(wrong)


@given(SIZES, COUNTS, st.integers(0, 60), st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
@settings(max_examples=60)
def test_json_lines_are_cut_at_line_ends(files, count, width, ending, ends):
    """Whatever the files, their lines' lengths and ends: every line is read once, by one partition."""
    with tempfile.TemporaryDirectory() as folder:
        expected = []
        for number, rows in enumerate(files):
            ids = [f"{number}-{row}" for row in range(rows)]
            lines = [json.dumps({"id": id_, "text": "ä" * (len(id_) * width % 61)}, ensure_ascii=False) for id_ in ids]
            text = ending.join(lines) + (ending if ends else "")
            Path(folder, f"{number}.jsonl").write_bytes(b"\xef\xbb\xbf"[: 3 * (number % 2)] + text.encode())
            expected += ids
        read = all_parts(f"file://{folder}", count)
    check_whole(read, expected)
    assert [row["id"] for part in read for _, row in part] == expected


@given(SIZES, COUNTS, st.integers(1, 9))
@settings(max_examples=40)
def test_parquet_is_cut_by_row_groups(files, count, group):
    """Row groups belong to one partition each, and rows keep their numbers in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        expected = []
        for number, rows in enumerate(files):
            ids = [f"{number}-{row}" for row in range(rows)]
            table = pa.table({"id": pa.array(ids, pa.string()), "n": pa.array(range(rows), pa.int64())})
            pq.write_table(table, f"{folder}/{number}.parquet", row_group_size=group)
            expected += ids
        read = all_parts(f"file://{folder}", count, {"id", "n"})
    check_whole(read, expected)
    assert all(place[2] == row["n"] for part in read for place, row in part)


@given(SIZES, COUNTS)
@settings(max_examples=30)
def test_other_files_are_read_whole(files, count):
    """CSV, whose fields hold line ends, and what is packed: a file is one partition's."""
    import gzip

    with tempfile.TemporaryDirectory() as folder:
        expected = []
        for number, rows in enumerate(files):
            ids = [f"{number}-{row}" for row in range(rows)]
            if number % 2:
                text = "".join(json.dumps({"id": id_}) + "\n" for id_ in ids)
                Path(folder, f"{number}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
            else:
                Path(folder, f"{number}.csv").write_text("id,text\n" + "".join(f'{id_},"a\nb"\n' for id_ in ids))
            expected += ids
        read = all_parts(f"file://{folder}", count)
    check_whole(read, expected)
    for part in read:
        assert {place[0] for place, _ in part}.isdisjoint(
            {place[0] for other in read if other is not part for place, _ in other}
        )


@given(st.lists(st.one_of(st.none(), st.integers(-(10**6), 10**6)), max_size=60, unique_by=lambda x: x), COUNTS)
@settings(max_examples=40)
def test_a_query_is_cut_into_ranges(keys, count):
    """Any whole numbers, far apart or below 0; what has none is the first partition's."""
    opened = sqlite3.connect(":memory:")
    opened.execute("create table t (id integer, text text)")
    opened.executemany("insert into t values (?, 'x')", [(key,) for key in keys])
    sql = Sql("db", "select id, text from t;", partition_by="id")
    low, high = opened.execute(f"SELECT MIN(id), MAX(id) FROM {sql.inner()}").fetchone()
    read = []
    for number in range(count):
        part = sql.between(Partition(number, count), low, high)
        read.append([id_ for id_, _ in opened.execute(part.sql)])
    assert sorted((key is not None, key or 0) for part in read for key in part) == sorted(
        (key is not None, key or 0) for key in keys
    )
    assert None not in [key for part in read[1:] for key in part]


def test_a_query_needs_a_column_of_whole_numbers(monkeypatch):
    """No column, an expression, text and fractions are refused by name."""
    for column in (None, "lower(id)", "id; drop table t"):
        with pytest.raises(InputError, match="partition_by"):
            Sql("db", "select 1", partition_by=column).cut_by()
    for low, high in (("a", "z"), (0.5, 2)):
        monkeypatch.setattr(Sql, "rows", lambda self, found=(low, high): iter([dict(zip("lh", found, strict=True))]))
        with pytest.raises(InputError, match="whole numbers"):
            Sql("db", "select 1", partition_by="id").bounds()


@given(st.integers(0, 50), COUNTS)
def test_rows_in_memory_are_dealt_out(rows, count):
    """A list has neither files nor keys."""
    given_rows = [{"id": number} for number in range(rows)]
    check_whole(all_parts(given_rows, count), list(range(rows)))


def test_each_partition_asks_the_store_for_its_own_bytes_alone():
    """Requests and bytes of one part in 8 of two large files: its eighth, and no more than the rest of a line."""
    bucket = Bucket()
    lines = [json.dumps({"id": n, "text": "x" * 1000}).encode() + b"\n" for n in range(2000)]
    for name in ("a", "b"):
        bucket.pipe_file(f"bucket/rows/{name}.jsonl", b"".join(lines))
    rows = [f"{bucket.uri}/rows/a.jsonl", f"{bucket.uri}/rows/b.jsonl"]
    cut = cut_of(rows)
    total = sum(file.size for file in cut.files)
    read = []
    real = bucket.cat_file

    def cat_file(path, start=None, end=None, **kwargs):
        data = real(path, start=start, end=end, **kwargs)
        read.append(len(data))
        return data

    bucket.cat_file = cat_file
    found = 0
    for number in range(8):
        read.clear()
        bucket.asked.clear()
        found += sum(1 for _ in part_of(rows, Partition(number, 8), cut).rows())
        assert sum(read) <= total / 8 + 2 * 2**16
        assert sum(bucket.asked.values()) <= 6
    assert found == 4000


def test_a_partition_opens_no_file_but_its_own(tmp_path):
    """The others may be gone, or be no Parquet at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(4):
        pq.write_table(pa.table({"id": list(range(100))}), tmp_path / f"{number}.parquet")
    rows = f"file://{tmp_path}"
    cut = cut_of(rows)
    for number in (0, 1, 3):
        (tmp_path / f"{number}.parquet").unlink()
    assert len(list(part_of(rows, Partition(2, 4), cut).rows())) == 100


def test_a_file_that_has_changed_since_the_cut_is_refused(tmp_path):
    """Other partitions have rows of it as it was: it is neither read in part nor passed over."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"id": 2}\n')
    cut = cut_of(str(path))
    path.write_text('{"id": 1}\n{"id": 2}\n{"id": 3}\n')
    with pytest.raises(InputError, match="30 bytes, and had 20"):
        list(part_of(str(path), Partition(0, 2), cut).rows())
    path.unlink()
    with pytest.raises((InputError, SourceUnavailable), match=r"rows\.jsonl"):
        list(part_of(str(path), Partition(0, 2), cut).rows())


def test_an_empty_file_that_ought_not_to_be_is_found_by_one(tmp_path):
    """0 bytes are no Parquet file: one partition refuses it, whichever has it."""
    (tmp_path / "a.parquet").write_bytes(b"")
    rows, refused = f"file://{tmp_path}", 0
    for number in range(3):
        try:
            assert list(part_of(rows, Partition(number, 3), cut_of(rows)).rows()) == []
        except InputError:
            refused += 1
    assert refused == 1


def test_broken_lines_are_named_by_their_place(tmp_path):
    """Lines are not counted from the middle of a file: the byte where one begins is told."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": 1}\n' * 10 + b"nonsense\n")
    cut = cut_of(str(path))
    with pytest.raises(InputError, match=r"rows\.jsonl byte 100 is not JSON"):
        list(part_of(str(path), Partition(1, 2), cut).rows())
