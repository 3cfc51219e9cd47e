"""OpenAI's tokenizers, where one and its vocabulary are on this machine: nothing is ever downloaded.

A vocabulary is taken from where tiktoken keeps its downloads (``TIKTOKEN_CACHE_DIR``), from LiteLLM, which ships a
copy of tiktoken's, or from bpe-openai, which has its own. Patterns and checksums are ``tiktoken_ext.openai_public``'s.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from binascii import a2b_base64
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

O200K, CL100K = "o200k_base", "cl100k_base"
#: characters that are counted at a time: time and memory grow faster than a text without blanks
AT_ONCE = 50_000


class File(NamedTuple):
    """A vocabulary as tiktoken keeps it.

    :param name: the SHA-1 of its address; ``sha256`` of what it holds.
    :param pattern: how a text is cut before its pieces are looked up.
    """

    name: str
    sha256: str
    pattern: str


FILES = {
    O200K: File(
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    CL100K: File(
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    ),
}


class Tokenizer(NamedTuple):
    """Counts tokens.

    :param name: the package that does it.
    :param encode: a text's tokens, texts that mean something to a model taken as texts.
    """

    name: str
    vocabulary: str
    encode: Callable[[str], list[int]]

    def count(self, text: str) -> int:
        count = 0
        for start in range(0, len(text), AT_ONCE):
            piece = text[start : start + AT_ONCE]
            try:
                count += len(self.encode(piece))
            except UnicodeEncodeError:
                # Half a surrogate pair is no text.
                count += len(self.encode(piece.encode("utf-8", "replace").decode()))
        return count


@cache
def tokenizer(vocabulary: str) -> Tokenizer | None:
    """The tokenizer of a vocabulary, None where it or the vocabulary is not on this machine."""
    if vocabulary not in FILES:
        return None
    return of_tiktoken(vocabulary) or of_bpe_openai(vocabulary)


def of_tiktoken(vocabulary: str, places: Iterator[Path] | None = None) -> Tokenizer | None:
    """:param places: folders that may hold vocabularies, all known ones by default."""
    known = FILES[vocabulary]
    for place in places or folders():
        try:
            held = (place / known.name).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(held).hexdigest() != known.sha256:
            continue
        try:
            from tiktoken import Encoding
        except ImportError:
            return None
        words = held.split()
        ranks = dict(zip(map(a2b_base64, words[::2]), map(int, words[1::2]), strict=True))
        made = Encoding(vocabulary, pat_str=known.pattern, mergeable_ranks=ranks, special_tokens={})
        return Tokenizer("tiktoken", vocabulary, made.encode_ordinary)
    return None


def of_bpe_openai(vocabulary: str) -> Tokenizer | None:
    try:
        made = import_module("bpe_openai").get_encoding(vocabulary)
        made.encode_ordinary("x")
    except Exception:  # whatever a package that is not there, or is another than it was, raises
        return None
    return Tokenizer("bpe-openai", vocabulary, made.encode_ordinary)


def folders() -> Iterator[Path]:
    """Where vocabularies may lie, without looking at what they hold."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if chosen := os.environ.get(name):
            yield Path(chosen)
    # Not imported: that takes seconds.
    if (found := find_spec("litellm")) is not None:
        for place in found.submodule_search_locations or ():
            yield Path(place) / "litellm_core_utils" / "tokenizers"
    yield Path(tempfile.gettempdir()) / "data-gym-cache"
