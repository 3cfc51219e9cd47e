"""The neutral embedding request (OpenAI's format) as Titan's and Cohere's bodies.

Source: Bedrock's user guide (Titan Embeddings text and multimodal, Cohere Embed v3 and v4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.providers.bedrock.names import Family, refuse

#: what each model takes besides the text
TITAN_2 = frozenset({"dimensions", "normalize", "embeddingTypes"})
COHERE = frozenset({"input_type", "truncate", "embedding_types", "max_tokens"})
TITAN_DIMENSIONS, TITAN_IMAGE_DIMENSIONS = (256, 512, 1024), (256, 384, 1024)
MOST_TEXTS = 96


def embedding_body(family: Family, model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """:raises InputError: names what the model cannot express."""
    if family not in ("titan-embed", "cohere-embed"):
        refuse(
            f"an embedding request for {model}",
            "choose Titan or Cohere Embed, or send its own body with RawRequest(endpoint='invoke')",
        )
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        refuse(f"the input {str(given)[:60]!r}", "give a text, or for Cohere a list of texts")
    if body.get("encoding_format") not in (None, "float"):
        refuse(f"encoding_format {body['encoding_format']!r}", "leave it out: vectors come as numbers")
    rest = {
        name: value
        for name, value in body.items()
        if value is not None and name not in ("model", "input", "encoding_format")
    }
    return (titan if family == "titan-embed" else cohere)(model, texts, rest)


def titan(model: str, texts: list[str], rest: dict[str, Any]) -> dict[str, Any]:
    if len(texts) > 1:
        refuse(f"{len(texts)} texts in one request for {model}", "embed one text a row")
    size = rest.get("dimensions")
    if "embed-image" in model:
        check(model, rest, frozenset({"dimensions"}))
        check_size(model, size, TITAN_IMAGE_DIMENSIONS)
        wanted = {"embeddingConfig": {"outputEmbeddingLength": size}} if size else {}
        return {"inputText": texts[0], **wanted}
    check(model, rest, TITAN_2 if "-v2" in model else frozenset())
    check_size(model, size, TITAN_DIMENSIONS)
    if rest.get("embeddingTypes") not in (None, ["float"]):
        refuse(f"embeddingTypes {rest['embeddingTypes']!r}", "leave it out: vectors come as numbers")
    return {"inputText": texts[0], **rest}


def cohere(model: str, texts: list[str], rest: dict[str, Any]) -> dict[str, Any]:
    newest = "embed-v4" in model
    size = rest.pop("dimensions", None)
    check(model, rest, COHERE if newest else COHERE - {"max_tokens"})
    if len(texts) > MOST_TEXTS:
        refuse(f"{len(texts)} texts in one request for {model}", f"give at most {MOST_TEXTS} a row")
    if not rest.get("input_type"):
        refuse(
            f"a request to {model} without input_type",
            "say what the texts are: params={'input_type': 'search_document'} (or search_query, classification, "
            "clustering)",
        )
    if rest.get("embedding_types") not in (None, ["float"]):
        refuse(f"embedding_types {rest['embedding_types']!r}", "leave it out: vectors come as numbers")
    if size and not newest:
        refuse(f"dimensions for {model}", "remove it, or choose cohere.embed-v4:0")
    return {"texts": texts, **rest, **({"output_dimension": size} if size else {})}


def check(model: str, rest: Mapping[str, Any], known: frozenset[str]) -> None:
    if odd := next((name for name in rest if name not in known), None):
        refuse(f"the parameter {odd!r} for {model}", "remove it")


def check_size(model: str, size: Any, sizes: tuple[int, ...]) -> None:
    if size is not None and size not in sizes:
        refuse(f"dimensions={size!r} for {model}", f"choose one of {', '.join(map(str, sizes))}")
