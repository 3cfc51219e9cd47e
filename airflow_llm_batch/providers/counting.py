"""How vendors count prompt tokens: by a tokenizer that is public, or by what their documentation says of lengths.

Source: OpenAI's cookbook, "How to count tokens with tiktoken" (three tokens around each message, three before the
answer), and tiktoken's table of models; Anthropic's glossary (3.5 characters of English to a token), its guides to
token counting (the examples' 14 tokens; Opus 4.7, Sonnet 5 and later: about 30 percent more) and to tool use (346
tokens of a system prompt); Google's guide to tokens (about four characters). What is not said of OpenAI's was measured
with o200k_base on prose, Markdown, Python, JavaScript and JSON.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: the vocabularies of OpenAI's models
O200K, CL100K = "o200k_base", "cl100k_base"
MODELS = (
    (re.compile(r"gpt-(4o|4\.[15]|[5-9])|chatgpt-4o|o[1345](?![a-z0-9])|gpt-oss|codex"), O200K),
    (re.compile(r"gpt-(3\.5|35|4(?![\w.]))|text-embedding-(3|ada)|davinci-002|babbage-002"), CL100K),
)
#: Claude models that cut texts finer
FINER = re.compile(r"claude-(opus-4-[7-9](?!\d)|(opus|sonnet|haiku|fable|mythos)-[5-9](?!\d)|mythos-preview)")


class Counting(NamedTuple):
    """How a model's prompt tokens are counted.

    :param vocabulary: of a public tokenizer, "" where there is none; otherwise by length.
    :param characters: of plain text to a token.
    :param wide: tokens of a Chinese, Japanese or Korean character; half as many of other scripts beside Latin.
    :param message: tokens around each message; ``request`` around all of them.
    :param tools: the vendor's own words about tools, where a request has any.
    """

    vocabulary: str = ""
    characters: float = 4.0
    wide: float = 1.0
    message: int = 0
    request: int = 0
    tools: int = 0


def counting_of(model: str) -> Counting:
    """Of a model by its name, whoever serves it."""
    name = model.lower()
    if "claude" in name:
        return Counting(characters=2.7 if FINER.search(name) else 3.5, message=3, request=2, tools=346)
    if "gemini" in name:
        return Counting(wide=0.7)
    bare = name.rpartition("/")[2].rpartition("openai.")[2].removeprefix("ft:")
    vocabulary = next((known for pattern, known in MODELS if pattern.match(bare)), "")
    if not vocabulary:
        return Counting()
    around = 0 if "embedding" in bare else 1
    return Counting(vocabulary, characters=4.9, wide=0.7, message=4 * around, request=3 * around)
