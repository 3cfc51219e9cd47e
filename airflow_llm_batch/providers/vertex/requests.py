"""Requests in the words of Vertex AI's models, and as the lines of its batches.

A line of Gemini's has no id: a label of the request, which comes back with it, tells the row. Embeddings have a ``key``
and Claude's lines a ``custom_id``.

Source: the guides of batch inference with Gemini, with Gemini embeddings, and with Claude.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.anthropic.chat import fitted_params, message_params
from airflow_llm_batch.providers.anthropic.models import check_params
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.gemini.chat import embed_params, generate_params
from airflow_llm_batch.providers.gemini.words import get
from airflow_llm_batch.providers.vertex.names import EMBEDDING, KEYED, LABEL, model_of
from airflow_llm_batch.request import Request

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
GENERATE, EMBED, MESSAGES = "generateContent", "embedContent", "/v1/messages"
#: the label of a request that names its row
ROW = "llm_batch_row"
#: the version of Claude's API at Google, by Google's guide; Anthropic's SDK sends that of its own API by now
ANTHROPIC_VERSION = "vertex-2023-10-16"
#: the version of Anthropic's own that this is, for what it takes
LIKE = "2023-06-01"
#: a member of a request that the Developer API alone knows
ELSEWHERE = ("store", "serviceTier")
TOOLS_ELSEWHERE = ("fileSearch", "mcpServers")
FILES_API = "https://generativelanguage.googleapis.com/"
#: an embedding's options, as its line spells them
OPTIONS = {"outputDimensionality": "output_dimensionality", "taskType": "task_type", "title": "title"}
OPTIONS |= {"autoTruncate": "auto_truncate"}


def refuse(what: str, remedy: str) -> Any:
    """:raises InputError: always."""
    raise InputError(f"vertex cannot batch {what}; {remedy}. Nothing was sent.")


def translated(request: Request, direct: bool) -> Request:
    """A request in the model's own words, its ``model`` as it was given.

    :raises InputError: names what cannot be expressed.
    """
    publisher, name = model_of(request.model)
    claude = publisher == "anthropic"
    # The dialects know models by their plain names.
    plain = request._replace(body={**request.body, "model": name})
    if request.endpoint in (EMBEDDINGS, EMBED):
        return Request(EMBED, embedding(request))
    if claude != (request.endpoint == MESSAGES) and request.endpoint != CHAT:
        kind = "a Claude model" if claude else "a model of Google's"
        refuse(f"{request.endpoint} of {request.model!r}, {kind}", f"use {MESSAGES if claude else GENERATE}")
    if claude:
        return Request(MESSAGES, {**message(plain, direct), "model": request.model})
    body = generate_params(plain.body) if request.endpoint == CHAT else plain.body
    check_generate(body)
    return Request(GENERATE, {**body, "model": request.model})


def check_generate(body: Mapping[str, Any]) -> None:
    """Refuse what Vertex AI does not have, although the Developer API does."""
    for name in ELSEWHERE:
        if name in body:
            refuse(f"requests with {name!r}, which is of the Gemini Developer API", "remove it")
    labels = members(body.get("labels"))
    if ROW in labels:
        refuse(f"requests with the label {ROW!r}, which tells their rows apart", "name the label otherwise")
    for content in body.get("contents") or ():
        for part in members(content).get("parts") or ():
            file = members(members(part).get("fileData")).get("fileUri")
            if isinstance(file, str) and file.startswith(FILES_API):
                refuse(f"the file {file!r}, which is the Gemini Developer API's", "put it into gs://")
    for tool in body.get("tools") or ():
        if held := [name for name in TOOLS_ELSEWHERE if get(tool, name) is not None]:
            refuse(f"the tool {held[0]}, which is of the Gemini Developer API", "use retrieval or googleSearch")


def message(request: Request, direct: bool) -> dict[str, Any]:
    """Parameters of Claude's."""
    params = message_params(request.body) if request.endpoint == CHAT else dict(request.body)
    cap = params.get("max_tokens")
    if not cap or (isinstance(cap, int) and cap < 0):
        given = "this one has none" if cap is None else f"this one has {cap!r}"
        refuse(f"a request without max_tokens of 1 or more for Claude, and {given}", "set max_tokens")
    if params.get("stream"):
        refuse("a request that wants a stream", "remove stream")
    check_params(params, LIKE, direct)
    return fitted_params(params)


def embedding(request: Request) -> dict[str, Any]:
    """An embedding's request; only of models whose batches give back what tells its row."""
    name = model_of(request.model).name
    if not EMBEDDING.search(name):
        refuse(f"embeddings of {request.model!r}, which makes none", "use gemini-embedding-001")
    if not KEYED.match(name):
        refuse(
            f"embeddings of {request.model!r}: its results come in any order and name no row",
            "use gemini-embedding-001 or gemini-embedding-2, whose results have a key",
        )
    body = embed_params({**request.body, "model": name}) if request.endpoint == EMBEDDINGS else request.body
    return {**body, "model": request.model}


def line(request: Request, custom_id: str, version: str = ANTHROPIC_VERSION) -> dict[str, Any]:
    """A translated request as a batch line.

    :param version: of Claude's API, where the body names none.
    :raises InputError: for an id that is no label.
    """
    body = {name: value for name, value in request.body.items() if name != "model"}
    if request.endpoint == MESSAGES:
        return {"custom_id": custom_id, "request": {"anthropic_version": version, **body}}
    if request.endpoint == EMBED:
        return {"key": custom_id, "request": embed_body(body, OPTIONS, "embed_content_config")}
    if not LABEL.fullmatch(custom_id):
        refuse(
            f"the row {custom_id!r}: its id travels as a label, which has lower case letters, digits, '-' and '_', 63 "
            "at most",
            "name it so",
        )
    return {"request": {**body, "labels": {**members(body.get("labels")), ROW: custom_id}}}


def embed_body(body: Mapping[str, Any], spelled: Mapping[str, str], config: str) -> dict[str, Any]:
    """An embedding's body with its options in an object of their own."""
    options = {spelled[name]: value for name, value in body.items() if name in spelled}
    rest = {name: value for name, value in body.items() if name not in spelled}
    return {**rest, config: {**members(rest.get(config)), **options}} if options else rest


def request_of(sent: Mapping[str, Any], model: str, version: str = ANTHROPIC_VERSION) -> Request:
    """The translated request that a line was made of; ``version`` as it was given to ``line``."""
    body = dict(sent["request"])
    if "custom_id" in sent:
        if body.get("anthropic_version") == version:
            del body["anthropic_version"]
        return Request(MESSAGES, {"model": model, **body})
    if "key" in sent:
        config = members(body.pop("embed_content_config", None))
        known = {wire: name for name, wire in OPTIONS.items()}
        return Request(EMBED, {"model": model, **body, **{known.get(n, n): value for n, value in config.items()}})
    labels = {name: value for name, value in members(body.pop("labels", None)).items() if name != ROW}
    return Request(GENERATE, {"model": model, **body, **({"labels": labels} if labels else {})})


def call_body(sent: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The verb and the body by which a line's request is called."""
    body = dict(sent["request"])
    if "custom_id" in sent:
        return "rawPredict", body
    if "key" not in sent:
        return GENERATE, body
    config = members(body.pop("embed_content_config", None))
    known = {wire: name for name, wire in OPTIONS.items()}
    options = {known.get(name, name): value for name, value in config.items()}
    return EMBED, {**body, "embedContentConfig": options} if options else body
