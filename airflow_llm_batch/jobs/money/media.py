"""What a prompt holds beside text, in every dialect: pictures by the vendor's rule, files and sound by a guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_llm_batch.providers.coerce import members, objects

if TYPE_CHECKING:
    from airflow_llm_batch.providers.base import Provider

#: what stands in a line that may be more, or less, than its text
MARKS = (
    b'"image', b'"input_image"', b'"file', b'"document"', b'"input_file"', b'"audio', b'"input_audio"', b'"video"',
    b'"inlineData"', b'"inline_data"', b'"fileData"',
)  # fmt: skip
#: a guess for what cannot be estimated, so that queues and paces count something
DOCUMENT = 3000
A_FILE, SOUND = "a file, whose pages nobody has counted", "audio, whose length nobody knows"
FILM = "a video, whose length nobody knows"
EMBEDDED = "a picture to embed, whose tokens cost other than those of text"


class Part(NamedTuple):
    """A content part that is no text."""

    tokens: int
    unknown: str = ""


def media(body: Mapping[str, Any], provider: Provider, model: str) -> Iterator[Part]:
    """The pictures and files of a conversation."""
    for message in (m for name in ("messages", "input", "contents") for m in objects(body.get(name))):
        for part in [*objects(message.get("content")), *objects(message.get("parts"))]:
            yield from media_part(part, provider, model)
            if part.get("type") in ("tool_result", "document") or "content" in part:
                for inner in objects(part.get("content")):
                    yield from media_part(inner, provider, model)
    for part in objects(members(body.get("content")).get("parts")):
        yield from (found._replace(unknown=found.unknown or EMBEDDED) for found in media_part(part, provider, model))


def media_part(part: Mapping[str, Any], provider: Provider, model: str) -> Iterator[Part]:
    if "type" not in part:
        yield from googles(part, provider, model)
        yield from amazons(part, provider, model)
        return
    kind, source = part.get("type"), members(part.get("source"))
    if kind in ("image_url", "input_image") or (kind == "image" and source):
        given = part.get("image_url")
        url = members(given).get("url") if isinstance(given, dict) else given
        url = source.get("data") or source.get("url") if kind == "image" else url
        detail = members(given).get("detail") or part.get("detail") or "auto"
        if not isinstance(url, str):
            yield Part(provider.image_tokens(model, None, str(detail)))
            return
        seen = url.startswith("data:") or source.get("type") == "base64"
        yield Part(provider.image_tokens(model, size_of(url) if seen else None, str(detail)))
    elif kind in ("file", "input_file", "document") and source.get("type") not in ("text", "content"):
        yield Part(DOCUMENT, A_FILE)
    elif kind in ("input_audio", "audio"):
        yield Part(DOCUMENT, SOUND)


def googles(part: Mapping[str, Any], provider: Provider, model: str) -> Iterator[Part]:
    """A part of Gemini's ``contents``, in either spelling."""
    packed = members(part.get("inlineData") or part.get("inline_data"))
    held = packed or members(part.get("fileData") or part.get("file_data"))
    if held:
        kind = str(held.get("mimeType") or held.get("mime_type") or "")
        yield of_kind(kind.partition("/")[0], packed.get("data"), provider, model)


def amazons(part: Mapping[str, Any], provider: Provider, model: str) -> Iterator[Part]:
    """A part of a Converse message."""
    for kind in ("image", "document", "video", "audio"):
        if isinstance(part.get(kind), dict):
            yield of_kind(kind, members(part[kind].get("source")).get("bytes"), provider, model)


def of_kind(kind: str, data: Any, provider: Provider, model: str) -> Part:
    """:param data: in base64, None where it lies elsewhere."""
    packed = data if isinstance(data, str) else ""
    if kind == "image":
        return Part(provider.image_tokens(model, size_of(packed) if packed else None, "auto"))
    return Part(DOCUMENT, {"audio": SOUND, "video": FILM}.get(kind, A_FILE))


def size_of(url: str) -> tuple[int, int] | None:
    from airflow_llm_batch.providers.images import size_of as look

    return look(url)
