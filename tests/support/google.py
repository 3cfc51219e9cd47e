"""Google's cloud as the emulator has it: its connection, its store, its own SDK."""

from __future__ import annotations

import json


def google_connection(url: str, **extra) -> str:
    """An Airflow connection that comes without credentials to a store at an address of its own."""
    known = {"is_anonymous": True, "project": "p1", "gcs.endpoint": url, **extra}
    return json.dumps({"conn_type": "google_cloud_platform", "extra": known})


def genai_client(emulator, token="x", **options):
    """Google's SDK before the emulator, as it is set up for Vertex AI."""
    from google import genai
    from google.genai import types
    from google.oauth2.credentials import Credentials

    reached = types.HttpOptions(base_url=emulator.url, **options)
    return genai.Client(
        vertexai=True, http_options=reached, project="p1", location="us-central1", credentials=Credentials(token=token)
    )


def put(emulator, uri, *lines):
    """An object of lines in the emulator's store."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    emulator.app.state.store.write(bucket, {"name": name}, b"".join(line + b"\n" for line in lines))


def results(emulator, directory):
    """The lines of all result files below a directory."""
    bucket, _, prefix = directory.removeprefix("gs://").partition("/")
    objects = emulator.app.state.store.below(bucket, f"{prefix}/")
    return [json.loads(line) for stored in objects for line in stored.path.read_bytes().split(b"\n") if line]


def vertex_line(row, text, **more):
    """A line of Gemini's."""
    contents = [{"role": "user", "parts": [{"text": text}]}]
    return json.dumps({"request": {"contents": contents, "labels": {"llm_batch_row": row}, **more}}).encode()
