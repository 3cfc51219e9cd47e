"""Parts of neutral messages as content blocks of the Converse API, which Nova's own body has too.

Source: Bedrock's API reference (ContentBlock and what it is made of), with blobs in base64 as JSON wants them.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from airflow_llm_batch.providers.bedrock.names import refuse
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.images import image_type

#: blocks that are Converse's own already
OWN = frozenset(
    {"text", "image", "document", "video", "audio", "toolUse", "toolResult", "guardContent", "cachePoint"}
    | {"reasoningContent", "citationsContent", "searchResult"}
)
IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
DOCUMENTS = ("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md")
MEDIA_DOCUMENTS = {
    "application/pdf": "pdf", "text/csv": "csv", "application/msword": "doc", "text/html": "html", "text/plain": "txt",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx", "text/markdown": "md",
    "application/vnd.ms-excel": "xls", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}  # fmt: skip
#: what a document's name may not hold, and blanks of which only one may stand in a row
NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9\s()\[\]-]")
BLANKS = re.compile(r"\s+")
Ttl = Literal["5m", "1h"]


def content_blocks(content: Any, stored_media: bool) -> list[dict[str, Any]]:
    """A message's content; empty texts, which Bedrock refuses, are left out.

    :param stored_media: ``s3://`` addresses are sent as they are.
    :raises InputError: names what has no counterpart.
    """
    made: list[dict[str, Any]] = []
    for part in [content] if isinstance(content, str | dict) else content or []:
        block = content_block(part, stored_media)
        if "text" in block and not str(block["text"] or "").strip():
            continue
        made += [block, *cache_point(part)]
    if any("document" in block for block in made) and not any("text" in block for block in made):
        refuse("a document without a text beside it", "say in the message what is to be done with it")
    return made


def content_block(part: Any, stored_media: bool) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    kind = members(part).get("type")
    if kind is None and isinstance(part, dict) and len(part) == 1 and part.keys() <= OWN:
        return part
    if kind in ("text", "input_text", "output_text"):
        return {"text": part.get("text")}
    if kind == "image_url":
        given = part.get("image_url")
        return image(given.get("url") if isinstance(given, dict) else given, stored_media)
    if kind == "file":
        return document(members(part.get("file")), stored_media)
    if kind == "input_audio":
        given = members(part.get("input_audio"))
        return {"audio": {"format": given.get("format"), "source": {"bytes": given.get("data")}}}
    if kind == "thinking":
        return {
            "reasoningContent": {"reasoningText": {"text": part.get("thinking"), "signature": part.get("signature")}}
        }
    return refuse(f"a content part of type {kind!r}", "use text, image_url and file parts, or Converse's own blocks")


def cache_point(given: Any) -> list[dict[str, Any]]:
    """The mark behind a part, a message or a tool that is to be kept in the cache up to there."""
    mark = members(given).get("cache_control")
    if not mark:
        return []
    ttl = members(mark).get("ttl")
    return [{"cachePoint": {"type": "default", **({"ttl": ttl} if ttl else {})}}]


def image(url: Any, stored_media: bool) -> dict[str, Any]:
    if not isinstance(url, str) or not url.strip():
        refuse(f"an image whose URL is {url!r}", "filter such rows out, or leave the part out of the message")
    if url.startswith("s3://"):
        return {"image": {"format": IMAGES.get(f"image/{suffix(url)}", "jpeg"), "source": stored(url, stored_media)}}
    if not url.startswith("data:"):
        refuse(
            f"an image by its address {url[:60]!r}, which Bedrock does not fetch",
            "give what it holds: data:image/png;base64,...",
        )
    media, data = unpacked(url)
    media = image_type(media, data)
    if media in MEDIA_DOCUMENTS:
        return document({"file_data": url}, stored_media)
    if media not in IMAGES:
        refuse(f"an image of type {media!r}", "convert it to PNG, JPEG, GIF or WebP")
    return {"image": {"format": IMAGES[media], "source": {"bytes": data}}}


def document(file: Any, stored_media: bool) -> dict[str, Any]:
    data, filename = file.get("file_data"), str(file.get("filename") or "")
    if file.get("file_id"):
        refuse("a file by its id", "give what it holds in file_data")
    if not isinstance(data, str) or not data:
        refuse("a file without file_data", "filter such rows out")
    named = BLANKS.sub(" ", NOT_IN_NAMES.sub(" ", filename.rpartition(".")[0] or filename)).strip()[:200] or "document"
    if data.startswith("s3://"):
        kind, source = suffix(data), stored(data, stored_media)
    else:
        media, packed = unpacked(data) if data.startswith("data:") else ("", data)
        kind, source = MEDIA_DOCUMENTS.get(media) or suffix(filename) or "pdf", {"bytes": packed}
    if kind not in DOCUMENTS:
        refuse(f"a file of type {kind!r}", f"give one of {', '.join(DOCUMENTS)}, or its text")
    return {"document": {"format": kind, "name": named, "source": source}}


def stored(uri: str, stored_media: bool) -> dict[str, Any]:
    """:raises InputError: where a batch could not read it: its input must then be the folder that holds all media."""
    if not stored_media:
        refuse(
            f"media in S3 ({uri[:80]!r}) in a batch, which reads them only from its own input folder",
            "give what it holds as data:...;base64,..., or set s3_media in the connection's extra for calls one by one",
        )
    return {"s3Location": {"uri": uri}}


def unpacked(url: str) -> tuple[str, str]:
    """Media type and base64 of a ``data:`` URL."""
    head, _, data = url.partition(",")
    return head.removeprefix("data:").partition(";")[0].lower(), data


def suffix(name: str) -> str:
    ending = name.rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else ""
    return {"jpg": "jpeg", "htm": "html", "text": "txt"}.get(ending, ending)


def tool_use(call: Any) -> dict[str, Any]:
    """An earlier call of a tool, its arguments as the object they are."""
    function = members(members(call).get("function"))
    arguments = function.get("arguments")
    if not isinstance(arguments, dict):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except (ValueError, TypeError):
            arguments = None
    if not function.get("name") or not members(call).get("id") or not isinstance(arguments, dict):
        refuse("a tool's call without id, name and arguments that are a JSON object", "mend or remove the call")
    return {"toolUse": {"toolUseId": call["id"], "name": function["name"], "input": arguments}}


def tool_result(message: Any, stored_media: bool) -> dict[str, Any]:
    if not message.get("tool_call_id"):
        refuse("a message of role tool without tool_call_id", "name the call it answers")
    said = content_blocks(message.get("content"), stored_media)
    return {"toolResult": {"toolUseId": message["tool_call_id"], "content": said or [{"text": "(empty)"}]}}


def names_apart(messages: list[dict[str, Any]]) -> None:
    """Give documents of one name different ones: Bedrock refuses a request with two alike."""
    taken: set[str] = set()
    for message in messages:
        message["content"] = [named_apart(block, taken) for block in message["content"]]


def named_apart(block: dict[str, Any], taken: set[str]) -> dict[str, Any]:
    """:param taken: names so far, lower case."""
    if result := members(block.get("toolResult")):
        content = [named_apart(inner, taken) for inner in result.get("content") or ()]
        return {"toolResult": {**result, "content": content}}
    given = members(block.get("document"))
    if not isinstance(name := given.get("name"), str):
        return block
    free, number = name, 1
    while free.lower() in taken:
        number += 1
        free = f"{name[:190]} {number}"
    taken.add(free.lower())
    return block if free == name else {"document": {**given, "name": free}}
