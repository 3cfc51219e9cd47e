"""Files that are cut into partitions, and written anew between the cut and a read, with the same size."""

from __future__ import annotations

import json
import time

import pytest

from airflow_llm_batch.data.partitions import Cut, CutFile, Partition, cut_of, part_of
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.storage import storage_path, write_whole

COUNT = 3


@pytest.fixture(params=["local", "s3", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gcs", "azure"))])
def folder(request, new_bucket, tmp_path):
    """A directory in each kind of store."""
    return f"file://{tmp_path}" if request.param == "local" else f"{new_bucket(request.param)}/rows"


def put(folder, files, text="a"):
    for number in range(files):
        lines = (json.dumps({"id": f"{number}-{n}", "text": text * 100}).encode() + b"\n" for n in range(90))
        write_whole(storage_path(f"{folder}/{number}.jsonl"), b"".join(lines))


def read(folder, number, cut):
    return [row["id"] for _, row in part_of(folder, Partition(number, COUNT), cut).rows()]


@pytest.mark.parametrize("files", [1, 6])
def test_a_file_of_the_same_size_is_known_to_have_changed(folder, files):
    """A file asked alone and one of a listing: read as it was, and refused by each partition once it is another."""
    put(folder, files)
    cut = cut_of(folder)
    assert all(file.version for file in cut.files)
    for _ in range(2):
        assert sorted(id_ for number in range(COUNT) for id_ in read(folder, number, cut)) == sorted(
            f"{file}-{n}" for file in range(files) for n in range(90)
        )
    # A disk's clock ticks every few milliseconds, and not for every write.
    time.sleep(0.05)
    put(folder, files, "b")
    for _ in range(2):
        for number in range(COUNT):
            with pytest.raises(
                InputError, match=r"is of version .*, and was of .*cut\.json.* clear all.*Nothing was sent"
            ):
                read(folder, number, cut)


def test_a_file_that_changes_while_it_is_read_is_refused(folder):
    """The rows before the change were of one file, and those behind it of another."""
    put(folder, 1)
    rows = part_of(folder, Partition(0, 1), cut_of(folder)).rows()
    next(rows)
    time.sleep(0.05)
    put(folder, 1, "b")
    with pytest.raises(InputError, match="is of version"):
        list(rows)


def test_what_was_cut_before_versions_were_kept_is_read(folder):
    """Of such a cut the sizes are known alone."""
    put(folder, 1)
    cut = cut_of(folder)
    old = Cut(cut.sources, [CutFile(file.uri, file.size, file.found) for file in cut.files])
    assert read(folder, 0, old) == read(folder, 0, cut)
