"""What a store's client costs: s3fs, gcsfs and adlfs as this package uses them, and obstore (Rust) in their place.

    python tests/benchmarks/stores.py s3 gcs azure --megabytes 64

Each client runs in a fresh process: first it is imported and made from the Airflow connection, and writes and reads one
small file; then it writes a large file and reads it again; then sixteen threads create one file exclusively. ``import``
is what the first step adds to a process that has imported ``airflow.sdk``; ``up`` and ``down`` are CPU seconds and peak
memory above what the process held then. obstore is left out where it is not installed (``pip install obstore``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measure import Measured, in_own_process, table

sys.path.insert(0, str(Path(__file__).parent.parent))

#: fake-gcs-server has not the API of Google's that obstore speaks (XML)
OBSTORE = frozenset({"s3", "azure"}) if find_spec("obstore") else frozenset()
CHUNK, WRITERS = 2**20, 16
CLIENTS = {"s3": "s3fs", "gcs": "gcsfs", "azure": "adlfs"}
LINE = b'{"custom_id": "0123abcd-17", "response": {"status_code": 200, "body": {"text": "a few words"}}}\n' * 64


class Ours:
    """``storage.py`` over fsspec's client."""

    def __init__(self, kind: str, uri: str) -> None:
        from airflow_llm_batch import storage

        self.storage, self.root = storage, storage.storage_path(uri)

    def write(self, name: str, chunks: Iterator[bytes]) -> None:
        with self.storage.whole_file(self.root / name) as file:
            for chunk in chunks:
                file.write(chunk)

    def read(self, name: str) -> int:
        with self.storage.open_blocks(self.root / name) as file:
            return sum(map(len, file))

    def create(self, name: str, data: bytes) -> bool:
        return self.storage.create_exclusive(self.root / name, data)


class Obstore:
    """The same through obstore, with credentials from the same connection."""

    def __init__(self, kind: str, uri: str) -> None:
        import obstore

        self.obstore = obstore
        conn_id, _, self.bucket = uri.partition("://")[2].partition("@")
        self.store = getattr(self, kind)(conn_id)

    def s3(self, conn_id: str) -> Any:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
        from obstore.auth.boto3 import Boto3CredentialProvider
        from obstore.store import S3Store

        hook = AwsBaseHook(conn_id, client_type="s3")
        known = {"endpoint": hook.conn_config.endpoint_url, "region": hook.conn_config.region_name}
        provider = Boto3CredentialProvider(hook.get_session())
        return S3Store(self.bucket, credential_provider=provider, client_options={"allow_http": True}, **known)

    def azure(self, conn_id: str) -> Any:
        from airflow.sdk import Connection
        from obstore.store import AzureStore

        secret = Connection.get(conn_id).extra_dejson["connection_string"]
        parts = dict(part.split("=", 1) for part in secret.strip(";").split(";"))
        known = {"account_name": parts["AccountName"], "account_key": parts["AccountKey"]}
        return AzureStore(self.bucket, endpoint=parts["BlobEndpoint"], client_options={"allow_http": True}, **known)

    def write(self, name: str, chunks: Iterator[bytes]) -> None:
        with self.obstore.open_writer(self.store, name, buffer_size=5 * 2**20, max_concurrency=1) as file:
            for chunk in chunks:
                file.write(chunk)

    def read(self, name: str) -> int:
        from airflow_llm_batch.bounded import line_blocks

        stream = self.obstore.get(self.store, name).stream(min_chunk_size=CHUNK)
        return sum(len(line) + 1 for lines in line_blocks(map(bytes, stream)) for line in lines) - 1

    def create(self, name: str, data: bytes) -> bool:
        try:
            self.obstore.put(self.store, name, data, mode="create", use_multipart=False)
        except self.obstore.exceptions.AlreadyExistsError:
            return False
        return True


def child(client: str, kind: str, uri: str, megabytes: int) -> dict[str, Any]:
    import airflow.sdk  # noqa: F401

    name, block = uuid.uuid4().hex, (LINE * (CHUNK // len(LINE) + 1))
    with Measured() as made:
        used = (Obstore if client == "obstore" else Ours)(kind, uri)
        used.write(f"{name}-small", iter([b"x"]))
        assert used.read(f"{name}-small") == 1
    with Measured() as up:
        used.write(name, (block for _ in range(megabytes)))
    with Measured() as down:
        assert used.read(name) == len(block) * megabytes
    return {
        "made": made.figures(),
        "up": up.figures(),
        "down": down.figures(),
        "winners": race(used.create, f"{name}-one"),
    }


def race(create: Callable[[str, bytes], bool], name: str) -> int:
    """How many of sixteen writers are told that they have created the same file."""
    won, start = [], threading.Barrier(WRITERS)

    def write(number: int) -> None:
        start.wait()
        won.append(create(name, b"%d" % number))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(won)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:5], int(sys.argv[5]))))
        return
    from support.object_stores import STORES, absent, make_bucket

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", default=list(CLIENTS))
    parser.add_argument("--megabytes", type=int, default=64)
    given = parser.parse_args()
    rows = []
    for kind in given.stores:
        if reason := absent(kind):
            print(f"{kind}: left out, {reason}")
            continue
        with STORES[kind]() as store:
            os.environ |= {f"AIRFLOW_CONN_{kind.upper()}": store.connection, **store.environment}
            uri = make_bucket(store.uri(kind, "bench"))
            for client in (CLIENTS[kind], *(["obstore"] if kind in OBSTORE else [])):
                print(f"{kind}, {client} ...", flush=True)
                figures = in_own_process(__file__, "--child", client, kind, uri, str(given.megabytes))
                steps = [figures[name] for name in ("made", "up", "down")]
                above = [f"{step['peak'] - step['start']:.0f}" for step in steps]
                cpu = [f"{step['cpu']:.1f}" for step in steps]
                rows.append([f"{kind}, {client}", *(text for pair in zip(above, cpu, strict=True) for text in pair)])
                rows[-1].append(str(figures["winners"]))
    head = ["", "import MB", "CPU s", "up MB", "CPU s", "down MB", "CPU s", "winners of 16"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
