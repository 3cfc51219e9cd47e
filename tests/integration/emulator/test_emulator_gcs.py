"""The emulator's Cloud Storage, judged by Airflow's file system (gcsfs) and by Google's own client."""

from __future__ import annotations

import threading
import uuid

import httpx
import pytest
from support.google import google_connection

from airflow_llm_batch.storage import (
    check_writable,
    create_exclusive,
    file_size,
    open_blocks,
    read_small,
    storage_path,
    whole_file,
    write_whole,
)

pytest.importorskip("gcsfs")
pytest.importorskip("airflow.providers.google")


@pytest.fixture
def bucket(emulator, monkeypatch):
    """A bucket of its own, with the connection in its URI."""
    # Airflow keeps one file system per connection id.
    conn_id = f"gcs_{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", google_connection(emulator.url))
    return f"gs://{conn_id}@bucket"


def test_files_are_written_and_read(bucket):
    """A small file, an empty one, and one of several pieces; sizes, listings and deletions follow."""
    check_writable(storage_path(bucket))
    small, empty, large = (storage_path(f"{bucket}/dir/{name}") for name in ("small", "empty", "large.jsonl"))
    write_whole(small, b"one\ntwo\n")
    write_whole(empty, b"")
    block = bytes(range(256)) * 4096
    with whole_file(large) as file:
        for _ in range(12):
            file.write(block)
    assert read_small(small) == b"one\ntwo\n"
    assert (read_small(empty), file_size(empty)) == (b"", 0)
    assert file_size(large) == 12 * len(block)
    with open_blocks(large) as file:
        assert file.read() == block * 12
    assert sorted(path.name for path in storage_path(f"{bucket}/dir").iterdir()) == ["empty", "large.jsonl", "small"]
    assert [path.name for path in storage_path(bucket).iterdir()] == ["dir"]
    small.unlink()
    assert read_small(small) is None


def test_a_discarded_file_leaves_nothing(bucket):
    """What fails while it is written never appears."""
    path = storage_path(f"{bucket}/broken")

    def break_off():
        with whole_file(path) as file:
            file.write(b"x" * 6 * 2**20)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        break_off()
    assert read_small(path) is None


def test_one_of_many_writers_wins(bucket):
    """A precondition holds in the moment of the writing."""
    path = storage_path(f"{bucket}/claim")
    won = []

    def write(number):
        won.append(create_exclusive(path, b"%d" % number))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_deeper_names_and_many_are_deleted_together(bucket):
    """Names are any text; a folder is what its objects' names say."""
    root = storage_path(f"{bucket}/deep")
    names = ["a b/ü=1/x:y.jsonl", "a b/z", "c"]
    for name in names:
        write_whole(root / name, name.encode())
    found = {path.path.partition("/deep/")[2]: path.read_bytes() for path in root.glob("**/*") if path.is_file()}
    assert found == {name: name.encode() for name in names}
    root.fs.rm(root.path, recursive=True)
    root.fs.invalidate_cache()
    assert not root.fs.exists(root.path)


def test_googles_own_client_agrees(emulator, monkeypatch):
    """Simple, multipart and resumable uploads, preconditions, listings and ranges."""
    storage = pytest.importorskip("google.cloud.storage")
    from google.api_core.exceptions import NotFound, PreconditionFailed
    from google.auth.credentials import AnonymousCredentials

    client = storage.Client(
        project="p1", credentials=AnonymousCredentials(), client_options={"api_endpoint": emulator.url}
    )
    bucket = client.bucket("b")
    blob = bucket.blob("in/one.txt")
    blob.upload_from_string("hello", content_type="text/plain", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        bucket.blob("in/one.txt").upload_from_string("again", if_generation_match=0)
    large = bucket.blob("in/large", chunk_size=2**18)
    large.upload_from_string(b"z" * 700_000)
    assert [(b.name, b.size) for b in client.list_blobs("b", prefix="in/")] == [
        ("in/large", 700_000),
        ("in/one.txt", 5),
    ]
    assert bucket.get_blob("in/one.txt").content_type == "text/plain"
    assert bucket.blob("in/one.txt").download_as_bytes(start=1, end=3) == b"ell"
    pages = client.list_blobs("b", page_size=1)
    assert [[b.name for b in page] for page in pages.pages] == [["in/large"], ["in/one.txt"]]
    large.delete()
    with pytest.raises(NotFound):
        large.delete()


def test_what_is_wrong_is_refused(emulator):
    """Errors come in the JSON API's shape."""
    upload = f"{emulator.url}/upload/storage/v1/b/b/o"
    for response, status in (
        (httpx.get(f"{emulator.url}/storage/v1/b/b/o/none"), 404),
        (httpx.post(upload, params={"uploadType": "other"}), 400),
        (httpx.post(upload, params={"uploadType": "media"}), 400),
        (httpx.put(upload, params={"upload_id": "none"}), 404),
        (httpx.post(upload, params={"uploadType": "multipart"}, content=b"--x--"), 400),
    ):
        assert response.status_code == status
        assert response.json()["error"]["code"] == status
