"""Lines of Vertex AI's batches, and what its models answer.

Three kinds: Gemini (``request``, told apart by what is echoed), Gemini embeddings (``key`` beside it), and Claude
(``custom_id`` beside it). A row that fails keeps its request and has the error in the text ``status``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from airflow_llm_batch.emulator import answers, gemini_answers
from airflow_llm_batch.emulator.answers import Bad
from airflow_llm_batch.emulator.google_api import CODES

#: what the HTTP statuses are called in the text of a row's error
WORDS = {400: "Bad Request", 429: "Too Many Requests", 500: "Internal Server Error"}
#: numbers of an embedding
SIZE = 3072


def naming(publisher: str, model: str) -> str:
    """The member of a result line that names its row; Gemini's has none, only what it echoes."""
    return "custom_id" if publisher == "anthropic" else "key" if is_embedding(model) else "request"


def is_embedding(model: str) -> bool:
    return "embedding" in model


def problem(publisher: str, line: Any) -> str | None:
    """Why a line fails the whole job, None where it does not."""
    if not isinstance(line, dict) or not isinstance(line.get("request"), dict):
        return 'Each line must be a JSON object with a "request".'
    if publisher == "anthropic" and not isinstance(line.get("custom_id"), str):
        return 'Each line must have a "custom_id".'
    return None


def asked(line: dict[str, Any]) -> str:
    """What a row asks, without what names it: the same when it is asked again."""
    request = line["request"]
    return json.dumps([request.get(name) for name in ("contents", "content", "messages")])


def answer_line(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    """:return: whether it succeeded, and the line; an empty one for a row that was not worked on."""
    publisher, model = line.pop("_as")
    if unfinished in ("expired", "cancelled", "cancelling"):
        return False, {}
    verb = "rawPredict" if publisher == "anthropic" else "embedContent" if is_embedding(model) else "generateContent"
    said: Any = Bad(500, "api_error", "Internal error encountered.")
    if not unfinished:
        said = answer(publisher, model, verb, line["request"])
    if not isinstance(said, Bad):
        if verb == "embedContent":
            count = said["usageMetadata"]["promptTokenCount"]
            return True, {**line, "response": {"tokenCount": str(count), "embedding": said["embedding"]}}
        return True, {"status": "", "processed_time": now(), **line, "response": said}
    error = {"code": said.status, "message": said.message, "status": CODES.get(said.status, "UNKNOWN")}
    status = f"{WORDS.get(said.status, 'Error')}: {json.dumps({'error': error})}"
    return False, {"status": status, "processed_time": now(), **line, "response": {}}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def answer(publisher: str, model: str, verb: str, body: dict[str, Any]) -> dict[str, Any] | Bad:
    """A model's answer to a request in its own words."""
    if publisher == "anthropic":
        return claude(model, verb, body)
    if verb == "embedContent":
        return embedding(body)
    if verb != "generateContent":
        return Bad(404, "not_found", f"The method {verb} is not known.")
    if body.get("cachedContent"):
        return Bad(400, "invalid", f"Model {model} does not support cached content with batch prediction.")
    return gemini_answers.generate(model, body)


def claude(model: str, verb: str, body: dict[str, Any]) -> dict[str, Any] | Bad:
    if verb != "rawPredict":
        return Bad(400, "invalid_request_error", f"The emulator does not {verb}.")
    if not body.get("anthropic_version"):
        return Bad(400, "invalid_request_error", "anthropic_version: Field required")
    if "model" in body:
        return Bad(400, "invalid_request_error", "model: Extra inputs are not permitted")
    params = {name: value for name, value in body.items() if name != "anthropic_version"}
    said = answers.message({**params, "model": model.partition("@")[0]})
    if not isinstance(said, Bad):
        said["id"] = said["id"].replace("msg_", "msg_vrtx_")
    return said


def embedding(body: dict[str, Any]) -> dict[str, Any] | Bad:
    parts = (body.get("content") or {}).get("parts")
    if not parts or not all(isinstance(part, dict) and part.get("text") for part in parts):
        return Bad(400, "invalid", "content: at least one part with a text is required.")
    text = "\n".join(part["text"] for part in parts)
    config = body.get("embed_content_config") or body.get("embedContentConfig") or {}
    size = config.get("output_dimensionality") or config.get("outputDimensionality") or SIZE
    if not isinstance(size, int) or not 1 <= size <= SIZE:
        return Bad(400, "invalid", f"output_dimensionality: a number from 1 to {SIZE} is required.")
    count = answers.tokens(text)
    used = {"promptTokenCount": count, "totalTokenCount": count}
    return {"embedding": {"values": answers.unit_vector(text, size)}, "usageMetadata": used}
