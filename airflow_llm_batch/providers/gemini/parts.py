"""Parts of messages, in OpenAI's words or Gemini's, as Gemini's ``Part``.

Source: Gemini's API reference (caching: Content, Part, Blob, FileData) and its guide to files as input.
"""

from __future__ import annotations

import mimetypes
from typing import Any
from urllib.parse import urlsplit

from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.gemini.words import camel_members, get, refuse
from airflow_llm_batch.providers.images import image_type

#: what a part holds that is Gemini's own already
OWN = frozenset(
    {"text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult"}
    | {"toolCall", "toolResponse"}
)
FILES = "https://generativelanguage.googleapis.com/v1beta/"
#: types that :mod:`mimetypes` does not know everywhere
KNOWN = {".webp": "image/webp", ".heic": "image/heic", ".heif": "image/heif", ".md": "text/markdown"}
#: what OpenAI calls audio formats
AUDIO = {"mp3": "audio/mp3", "wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "aac": "audio/aac"}
VIDEO_SITES = ("youtube.com", "www.youtube.com", "m.youtube.com", "youtu.be")


def parts(content: Any) -> list[dict[str, Any]]:
    """A message's content as parts; empty texts, which say nothing, are left out.

    :raises InputError: names the content part that has no counterpart.
    """
    given = [content] if isinstance(content, str | dict) else content or []
    made = [part(one) for one in given]
    return [one for one in made if one.keys() != {"text"} or one["text"]]


def part(given: Any) -> dict[str, Any]:
    """:raises InputError: as ``parts``."""
    if isinstance(given, str):
        return {"text": given}
    held = members(given)
    if held.get("cache_control") is not None:
        refuse_cache_mark()
    kind = held.get("type")
    if kind is None and (own := camel_members(held)).keys() & OWN:
        return own
    if kind in ("text", "input_text", "output_text"):
        return {"text": str(held.get("text") or "")}
    if kind in ("image_url", "input_image", "video_url", "audio_url"):
        value = held.get("image_url" if kind == "input_image" else kind)
        given_type = members(value).get("format") or held.get("format")
        return media(members(value).get("url") if isinstance(value, dict) else value, given_type, kind)
    if kind in ("file", "input_file"):
        return document(members(held.get("file")) or held)
    if kind in ("input_audio", "audio"):
        return audio(members(held.get("input_audio")) or held)
    return refuse(
        f"a content part of type {kind!r}", "use text, image_url, input_audio and file parts, or Gemini's own"
    )


def refuse_cache_mark() -> None:
    refuse(
        "a cache mark (cache_control)",
        "remove it: Gemini caches repeated beginnings by itself; or name a cache with the parameter cachedContent",
    )


def media(url: Any, given_type: Any = None, what: str = "image_url") -> dict[str, Any]:
    """An image, a sound, a film or a document from its address, or from what a ``data:`` URL holds.

    :raises InputError: for what Gemini cannot open.
    """
    if not isinstance(url, str) or not url.strip():
        refuse(f"a part {what!r} whose URL is {url!r}", "filter such rows out, or leave the part out of the message")
    if url.startswith("data:"):
        head, comma, packed = url.partition(",")
        kind, *flags = head.removeprefix("data:").split(";")
        if not comma or "base64" not in flags or not kind:
            refuse(f"the data URL {url[:40]!r}", "give data:image/png;base64,... (or what it is)")
        return inline(kind.lower(), packed)
    return stored(url, given_type)


def inline(kind: str, packed: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": image_type(kind, packed), "data": packed}}


def stored(uri: str, given_type: Any = None) -> dict[str, Any]:
    """What lies at an address: a web page's, a bucket's, or the Files API's."""
    if uri.startswith("files/"):
        uri = FILES + uri
    if not uri.startswith(("https://", "http://", "gs://")):
        refuse(f"a file at {uri[:60]!r}", "give its https:// or gs:// address, or data:image/png;base64,...")
    address = urlsplit(uri)
    kind = given_type if isinstance(given_type, str) and given_type else type_of(address.path)
    if kind:
        return {"fileData": {"fileUri": uri, "mimeType": kind}}
    # The Files API knows the type of what it keeps, and a video site has nothing but videos.
    if uri.startswith(FILES.rpartition("v1beta")[0]) or address.hostname in VIDEO_SITES:
        return {"fileData": {"fileUri": uri}}
    return refuse(
        f"the file {uri[:60]!r}, whose type its name does not tell",
        "say it: {'type': 'image_url', 'image_url': {'url': ..., 'format': 'image/png'}}",
    )


def type_of(path: str) -> str | None:
    guessed, _ = mimetypes.guess_type(path, strict=False)
    suffix = "." + path.rpartition(".")[2].lower() if "." in path.rpartition("/")[2] else ""
    return KNOWN.get(suffix) or guessed


def document(file: Any) -> dict[str, Any]:
    """OpenAI's ``file``: its bytes, its id at the Files API, or its address."""
    given_type = file.get("format") or file.get("mime_type")
    where = file.get("file_id") or file.get("file_url") or file.get("file_uri")
    if where:
        name = str(where)
        return stored(name if "://" in name or name.startswith("files/") else f"files/{name}", given_type)
    data = file.get("file_data")
    if not isinstance(data, str) or not data:
        refuse("a file without file_data, file_id or file_url", "filter such rows out")
    if data.startswith("data:"):
        return media(data, what="file")
    return inline(given_type or type_of(str(file.get("filename") or "")) or "application/pdf", data)


def audio(given: Any) -> dict[str, Any]:
    data, kind = given.get("data"), str(given.get("format") or "wav")
    if not isinstance(data, str) or not data:
        refuse("a part 'input_audio' without data", "filter such rows out")
    return inline(AUDIO.get(kind, kind if "/" in kind else f"audio/{kind}"), data)


def is_text(made: dict[str, Any]) -> bool:
    """Whether a part holds nothing but text."""
    return get(made, "text") is not None and not (made.keys() - {"text", "thought", "thoughtSignature"})
