"""Parts of messages, in OpenAI's words or Anthropic's, as Anthropic's content blocks."""

from __future__ import annotations

from typing import Any

from airflow_llm_batch.providers.anthropic.models import refuse
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.images import check_address, image_type

#: content that is Anthropic's own already
BLOCKS = frozenset(
    {"text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "search_result"}
    | {"server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"}
    | {"bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "mcp_tool_use", "mcp_tool_result"}
    | {"container_upload"}
)
THOUGHTS = ("thinking", "redacted_thinking")
IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def plain(content: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A lone text block is a string: smaller, and how people write it."""
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        return str(content[0]["text"])
    return content


def blocks(content: Any) -> list[dict[str, Any]]:
    """A message's content as blocks; empty texts, which Anthropic refuses, are left out."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    made = [block(part) for part in parts]
    return [part for part in made if part.get("type") != "text" or str(part.get("text") or "").strip()]


def block(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = members(part).get("type")
    if kind in BLOCKS:
        return dict(part)
    if kind == "image_url":
        given = part.get("image_url")
        made = media_block(given.get("url") if isinstance(given, dict) else given)
    elif kind == "file":
        made = file_block(part.get("file") or {})
    elif kind in ("input_text", "output_text"):
        made = {"type": "text", "text": part.get("text")}
    else:
        refuse(f"a content part of type {kind!r}", "use text, image_url and file parts")
    return cached([made], part)[0]


def media_block(url: Any) -> dict[str, Any]:
    """An image, or a document where it is one, from its address or from what it holds."""
    if not isinstance(url, str) or not url.strip():
        refuse(f"an image whose URL is {url!r}", "filter such rows out, or leave the part out of the message")
    if not url.startswith("data:"):
        check_address(url)
        return {"type": "image", "source": {"type": "url", "url": url}}
    head, _, data = url.partition(",")
    media = head.removeprefix("data:").partition(";")[0].lower()
    media = image_type(media, data)
    if media == "application/pdf":
        return {"type": "document", "source": {"type": "base64", "media_type": media, "data": data}}
    if media not in IMAGES:
        refuse(f"an image of type {media!r}", f"convert it to one of {', '.join(sorted(IMAGES))}")
    return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}


def file_block(file: dict[str, Any]) -> dict[str, Any]:
    named = {"title": file["filename"]} if file.get("filename") else {}
    if file.get("file_id"):
        return {"type": "document", "source": {"type": "file", "file_id": file["file_id"]}, **named}
    data = file.get("file_data")
    if not isinstance(data, str) or not data:
        refuse("a file without file_data or file_id", "filter such rows out")
    head, comma, packed = data.partition(",")
    media = head.removeprefix("data:").partition(";")[0] if comma else "application/pdf"
    if media != "application/pdf":
        refuse(f"a file of type {media!r}", "give a PDF, or its text")
    return {
        "type": "document",
        "source": {"type": "base64", "media_type": media, "data": packed if comma else data},
        **named,
    }


def cached(content: list[dict[str, Any]], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Blocks, the last of them marked as ``given`` is, to be kept in the vendor's cache up to there."""
    mark = given.get("cache_control")
    return [*content[:-1], {**content[-1], "cache_control": mark}] if mark and content else content
