"""Lines of OpenAI's batch files: what is wrong with a request line, and what is answered to a good one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from airflow_llm_batch.emulator import answers, responses
from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor
from airflow_llm_batch.emulator.json_lines import encode

MOST_REQUESTS = 50_000
UNFINISHED = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was cancelled."),
}
#: what answers a body, by its endpoint
ANSWERS = {
    "/v1/chat/completions": answers.chat,
    "/v1/responses": responses.responses,
    "/v1/embeddings": answers.embeddings,
    "/v1/completions": answers.completions,
    "/v1/moderations": answers.moderations,
}


def validate(
    vendor: Vendor,
    batch: EmulatedBatch,
    source: Path,
    most: int = MOST_REQUESTS,
    url_of: Callable[[str], str] = lambda url: url,
    bare: bool = False,
) -> None:
    """Copy the input lines, noting what is wrong with them as OpenAI does after a create that succeeded.

    :param most: requests that one file may hold.
    :param url_of: an address as ``ANSWERS`` knows it, from what a line may say.
    :param bare: a line has no method and no address: they are the batch's, and so is the model of a line without one.
    """
    seen: set[str] = set()
    model_of_all = {"model": batch.model} if bare and batch.model else {}
    usual = {"method": "POST", "url": batch.endpoint} if bare else {}

    def problem(code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        batch.problems.append({"code": code, "message": message, "line": line, "param": param})

    with source.open("rb") as lines, batch.lines.open("wb") as kept:
        for number, raw in enumerate(lines, 1):
            if not raw.strip():
                continue
            try:
                line = {**usual, **msgspec.json.decode(raw)}
                body = line["body"] = {**model_of_all, **line["body"]}
                custom_id, url, method = line["custom_id"], url_of(line["url"]), line["method"]
                model = body.get("model")
            except (ValueError, KeyError, TypeError, AttributeError):
                problem(
                    "invalid_json_line",
                    f"This line is not parseable as valid JSON or lacks a field: {raw[:60]!r}",
                    number,
                )
                continue
            if custom_id in seen:
                problem("duplicate_custom_id", f"The custom_id '{custom_id}' was used before.", number, "custom_id")
            if url != batch.endpoint:
                problem(
                    "url_mismatch", f"The URL '{url}' does not match the batch's '{batch.endpoint}'.", number, "url"
                )
            if method != "POST":
                problem("invalid_method", f"The method '{method}' is not POST.", number, "method")
            if body.get("stream"):
                problem("invalid_request", "Streaming is not supported in batches.", number, "body.stream")
            if batch.model not in (None, model):
                problem("model_mismatch", f"The model '{model}' differs from '{batch.model}'.", number, "body.model")
            seen.add(custom_id)
            batch.model = batch.model or model
            text = raw.split(b'"body"', 1)[-1].decode("utf-8", "replace")
            batch.fates.append(vendor.fate(text))
            batch.prompt_tokens += answers.tokens(text)
            kept.write((raw.strip() if url == line["url"] and not bare else encode({**line, "url": url})) + b"\n")
            if len(batch.problems) >= 100:
                break
    if not batch.fates and not batch.problems:
        problem("empty_file", "The input file is empty. Please ensure that the batch contains at least one request.")
    if batch.total > most:
        problem("too_many_tasks", f"The file holds {batch.total:,} requests; the limit is {most:,}.")


def answer_line(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    request_id = f"batch_req_{answers.digest(line['custom_id'])[:32]}"
    answer: dict[str, Any] = {"id": request_id, "custom_id": line["custom_id"], "response": None, "error": None}
    if unfinished in UNFINISHED:
        code, text = UNFINISHED[unfinished]
        return False, {**answer, "error": {"code": code, "message": text}}
    if unfinished:
        said: Any = answers.Bad(500, "server_error", "The server had an error while processing your request.")
    else:
        said = ANSWERS[line["url"]](line["body"], int(time.time()))
    if isinstance(said, answers.Bad):
        return False, response_line(line["custom_id"], said.status, error_body(said))
    return True, response_line(line["custom_id"], 200, said)


def error_body(said: answers.Bad) -> dict[str, Any]:
    return {"error": {"message": said.message, "type": said.kind, "param": said.param, "code": None}}


def response_line(custom_id: str, status: int, body: Any) -> dict[str, Any]:
    key = answers.digest(custom_id)[:32]
    response = {"status_code": status, "request_id": key, "body": body}
    return {"id": f"batch_req_{key}", "custom_id": custom_id, "response": response, "error": None}
