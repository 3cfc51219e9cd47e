"""Names at Google Cloud: models, locations, labels, objects in buckets.

Source: the REST reference (endpoints by location; ``model`` and ``labels`` of ``batchPredictionJobs``).
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from airflow_llm_batch.exceptions import ConfigurationError, InputError

#: ``publishers/google/models/gemini-2.5-flash``, the same below a project, and ``google/gemini-2.5-flash``
PUBLISHED = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?publishers/([^/]+)/models/([^/]+)")
SHORT = re.compile(r"([a-z][a-z0-9-]*)/([^/]+)")
#: a model of one's own, tuned from Gemini
OWN = re.compile(r"projects/[^/]+/locations/[^/]+/(?:models|endpoints)/[^/]+")
JOB = re.compile(r"projects/[^/]+/locations/[^/]+/batchPredictionJobs/([^/]+)")
#: these have an address for several regions; ``global`` has one without a region
SEVERAL = frozenset({"us", "eu"})
GLOBAL = "global"
SPOKEN = frozenset({"google", "anthropic"})
#: models of Google's that Vertex AI's batches take in a line with a key, which is given back
EMBEDDING, KEYED = re.compile(r"embedding"), re.compile(r"gemini-embedding")
#: models that cost a tenth more anywhere but at ``global``: Claude from Sonnet 4.5 on, Gemini from 3.1 Flash on; those
#: before cost the same everywhere (Google's pricing of the platform; Anthropic, Claude on Vertex AI: regional pricing)
DEARER = re.compile(r"claude-(?!\d|(opus|sonnet)-4(-1)?(-\d{8})?$)|gemini-(3\.1-flash|3\.[5-9]|[4-9]|\d\d)")
#: keys and values of labels (resource manager: requirements for labels)
LABEL = re.compile(r"[a-z0-9_-]{0,63}")


class Model(NamedTuple):
    """
    :param publisher: ``google`` or ``anthropic``.
    :param name: the model's own, without a publisher; of a tuned model its whole resource name.
    """

    publisher: str
    name: str

    @property
    def resource(self) -> str:
        """The model as a job names it."""
        return self.name if OWN.fullmatch(self.name) else f"publishers/{self.publisher}/models/{self.name}"


def model_of(given: str) -> Model:
    """A model's name as people write it.

    :raises InputError: for a publisher whose batches have other lines.
    """
    given = given.removeprefix("models/")
    found = PUBLISHED.fullmatch(given) or SHORT.fullmatch(given)
    publisher, name = (found[1], found[2]) if found else ("", given)
    publisher = publisher or ("anthropic" if name.startswith("claude") else "google")
    if publisher not in SPOKEN:
        raise InputError(
            f"vertex cannot batch the model {given!r}: of Vertex AI's publishers it speaks Google's and Anthropic's, "
            f"not {publisher}'s. Use a Gemini or Claude model. Nothing was sent."
        )
    return Model(publisher, name)


def address(location: str) -> str:
    """The service's address at a location."""
    if location == GLOBAL:
        return "https://aiplatform.googleapis.com"
    if location in SEVERAL:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


def digest(key: str) -> str:
    """A text as a label's value, which takes little. It begins with a letter: a filter takes it for a word then."""
    return f"k{hashlib.sha256(key.encode()).hexdigest()[:40]}"


def label_safe(text: str, least: str = "") -> str:
    """A text as a label may be, made so where it is not; ``least`` leads where a letter has to."""
    made = re.sub(r"[^a-z0-9_-]", "_", text.lower())
    return (made if not least or made[:1].isalpha() else f"{least}{made}")[:63]


def job_number(name: str) -> str:
    """A job's own part of its resource name."""
    found = JOB.fullmatch(name)
    return found[1] if found else name


def bare(uri: str) -> str:
    """A URI as Google writes it: without the Airflow connection that reads it."""
    parts = urlsplit(uri)
    return f"gs://{parts.netloc.rpartition('@')[2]}{parts.path}"


def reached(uri: str, conn_id: str) -> str:
    """A URI of Google's with the Airflow connection that reads it."""
    return f"gs://{conn_id}@{uri.removeprefix('gs://')}"


def in_store(uri: str) -> bool:
    """Whether a URI lies where Vertex AI reads."""
    return urlsplit(uri).scheme in ("gs", "gcs")


def folder(uri: str) -> str:
    """:raises ConfigurationError: for a connection's ``storage`` that is no place in Cloud Storage."""
    if not in_store(uri) or not urlsplit(uri).netloc:
        raise ConfigurationError(
            f"The connection's storage is {uri!r}; Vertex AI reads and writes Cloud Storage alone: give "
            "gs://bucket/prefix. Nothing was sent."
        )
    return uri.rstrip("/")
