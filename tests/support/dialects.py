"""What differs between the vendors' wires where tests inject faults or count calls."""

from __future__ import annotations

from typing import NamedTuple


class Dialect(NamedTuple):
    """Calls as the emulator names them.

    :param looks: reading one batch; ``results`` a download of what it has answered.
    :param looks_before: reads that ``results`` matches too, before the download.
    :param base: where the API lies at the emulator.
    :param calls: the synchronous endpoint.
    :param extra: of a connection.
    :param cancels: a batch can be cancelled, and gives what it has done; ``keeps`` that one which expires gives that.
    :param page: batches that a listing gives at once.
    :param cap: what the body calls the token cap.
    """

    creates: str
    lists: str
    looks: str
    results: str
    page: int
    cap: str
    looks_before: int = 0
    base: str = ""
    calls: str = "POST /v1/chat/completions"
    cancels: bool = True
    keeps: bool = True
    extra: dict[str, str] = {}  # noqa: RUF012


DIALECTS = {
    "openai": Dialect(
        "POST /v1/batches", "GET /v1/batches", "GET /v1/batches/*", "GET /v1/files/*", 100, "max_completion_tokens"
    ),
    "azure": Dialect(
        "POST /openai/v1/batches", "GET /openai/v1/batches", "GET /openai/v1/batches/*", "GET /openai/v1/files/*", 100,
        "max_completion_tokens", looks_before=1,
    ),
    "anthropic": Dialect(
        "POST /v1/messages/batches", "GET /v1/messages/batches", "GET /v1/messages/batches/*",
        "GET /v1/messages/batches/*", 1000, "max_tokens", looks_before=1,
    ),
    "mistral": Dialect(
        "POST /mistral/v1/batch/jobs", "GET /mistral/v1/batch/jobs", "GET /mistral/v1/batch/jobs/*",
        "GET /mistral/v1/files/*", 100, "max_tokens", base="/mistral/v1", calls="POST /mistral/v1/chat/completions",
    ),
    "openrouter": Dialect(
        "POST /openrouter/api/v1/batches", "GET /openrouter/api/v1/batches", "GET /openrouter/api/v1/batches/*",
        "GET /openrouter/api/v1/batches/*", 100, "max_tokens", looks_before=1, base="/openrouter/api/v1",
        calls="POST /openrouter/api/v1/chat/completions", cancels=False, keeps=False,
    ),
    "xai": Dialect(
        "POST /xai/v1/batches", "GET /xai/v1/batches", "GET /xai/v1/batches/*", "GET /xai/v1/batches/*", 100,
        "max_completion_tokens", looks_before=1, base="/xai/v1", calls="POST /xai/v1/chat/completions",
    ),
    "fireworks": Dialect(
        "POST /fireworks/v1/accounts/acc/batchInferenceJobs", "GET /fireworks/v1/accounts/acc/batchInferenceJobs",
        "GET /fireworks/v1/accounts/acc/batchInferenceJobs/*", "GET /fireworks/store/*", 200, "max_tokens",
        base="/fireworks", calls="POST /fireworks/inference/v1/chat/completions", cancels=False,
        extra={"account": "acc"},
    ),
    "gemini": Dialect(
        "POST /v1beta/models/gemini-3.8-flash:batchGenerateContent", "GET /v1beta/batches", "GET /v1beta/batches/*",
        "GET /v1beta/files/*", 100, "maxOutputTokens",
    ),
}  # fmt: skip
