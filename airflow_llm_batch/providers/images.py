"""What an image costs in prompt tokens, by each vendor's own rule, from its size or, where that is not known, at most.

Source: OpenAI's guide to images and vision (calculating costs), Anthropic's vision guide, Gemini's guides to image
understanding (tiles, up to Gemini 2.5) and to media resolution (from Gemini 3 on).
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from typing import NamedTuple

from airflow_llm_batch.exceptions import InputError

#: bytes of an image that are looked at for its size
HEAD = 512 * 1024
Size = tuple[int, int]
#: how images begin, in base64
STARTS = {"iVBORw0KGg": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif"}
#: characters after which what is no address is taken for base64
LONGEST_PATH = 1000


class Tiles(NamedTuple):
    """512-pixel tiles of an image that was shrunk into 2,048 pixels, its short side to 768."""

    base: int
    tile: int

    def tokens(self, size: Size | None, detail: str) -> int:
        if detail == "low":
            return self.base
        width, height = size or (2048, 768)
        shrunk = min(1.0, 2048 / max(width, height))
        shrunk *= min(1.0, 768 / (min(width, height) * shrunk))
        tiles = math.ceil(round(width * shrunk, 6) / 512) * math.ceil(round(height * shrunk, 6) / 512)
        return self.base + self.tile * tiles


class Patches(NamedTuple):
    """32-pixel patches, so many at most.

    :param factor: hundredths of a token for a patch.
    :param high: the most patches, and pixels along an edge; ``low`` and ``original`` likewise.
    :param usual: what ``auto`` and no detail at all mean.
    """

    factor: int
    high: tuple[int, int]
    low: tuple[int, int]
    original: tuple[int, int]
    usual: str

    def tokens(self, size: Size | None, detail: str) -> int:
        most, edge = getattr(self, detail if detail in ("low", "high", "original") else self.usual)
        patches = min(most, math.ceil(edge / 32) ** 2) if size is None else patches_of(*size, most, edge)
        return -(-patches * self.factor // 100)


def patches_of(width: int, height: int, most: int, edge: int) -> int:
    shrunk = min(1.0, edge / max(width, height))
    wide, high = max(1, int(width * shrunk)), max(1, int(height * shrunk))
    patches = math.ceil(wide / 32) * math.ceil(high / 32)
    if patches <= most:
        return patches
    scale = math.sqrt(32 * 32 * most / (wide * high))
    across, down = wide * scale / 32, high * scale / 32
    scale *= min(math.floor(across) / across, math.floor(down) / down) if min(across, down) >= 1 else 1
    return min(most, max(1, math.ceil(int(wide * scale) / 32)) * max(1, math.ceil(int(high * scale) / 32)))


ALIKE_2048 = (6144, 2048)
NEWEST = Patches(120, (2500, 2048), (256, 512), (30_000, 65_535), "original")
#: by the beginning of a model's name, the first that fits
OPENAI: tuple[tuple[str, Tiles | Patches], ...] = (
    ("gpt-4o-mini", Tiles(2833, 5667)),
    ("gpt-4o|gpt-4\\.5|chatgpt-4o|gpt-4-turbo", Tiles(85, 170)),
    ("gpt-4\\.1-mini", Patches(162, ALIKE_2048, ALIKE_2048, ALIKE_2048, "high")),
    ("gpt-4\\.1-nano", Patches(246, ALIKE_2048, ALIKE_2048, ALIKE_2048, "high")),
    ("gpt-4\\.1", Tiles(85, 170)),
    ("o4-mini", Patches(172, ALIKE_2048, ALIKE_2048, ALIKE_2048, "high")),
    ("o1|o3", Tiles(75, 150)),
    ("gpt-5-mini", Patches(120, ALIKE_2048, ALIKE_2048, ALIKE_2048, "high")),
    ("gpt-5-nano", Patches(150, ALIKE_2048, ALIKE_2048, ALIKE_2048, "high")),
    ("gpt-5\\.2", Patches(120, ALIKE_2048, ALIKE_2048, ALIKE_2048, "high")),
    ("gpt-5\\.4", Patches(120, (2500, 2048), ALIKE_2048, (10_000, 6000), "high")),
    ("gpt-5\\.5", Patches(120, (2500, 2048), (256, 512), (10_000, 6000), "original")),
    ("gpt-5(\\.1)?(-|$)", Tiles(70, 140)),
)
#: Gemini: tokens of a tile, tiles of the largest image, pixels of one that is a tile by itself; tokens by resolution
TILE, MOST_TILES, SMALL = 258, 16, 384
RESOLUTIONS = {"low": 280, "medium": 560, "high": 1120, "ultra_high": 2240}
#: Anthropic's 28-pixel patches: pixels along an edge, and tokens, at most
LARGE, USUAL = (2576, 4784), (1568, 1568)
OLDER = re.compile(r"claude-(2|3|instant)|claude-(opus|sonnet)-4(-[0-6])?(-\d{8})?(@|$|-v|:)|claude-haiku-4")


def openai_tokens(model: str, size: Size | None, detail: str = "auto") -> int:
    """:param size: width and height in pixels, None for an image that was not seen."""
    name = model.rpartition("/")[2]
    rule = next((rule for start, rule in OPENAI if re.match(start, name)), NEWEST)
    return rule.tokens(size, detail)


def anthropic_tokens(model: str, size: Size | None) -> int:
    """:param size: as above."""
    edge, most = USUAL if OLDER.search(model) else LARGE
    if size is None:
        return most
    scale = min(1.0, edge / max(size))
    low, high = 0.0, scale
    for _ in range(30):
        if patches_28(size, scale) <= most:
            low = scale
        else:
            high = scale
        if low == high:
            break
        scale = (low + high) / 2
    return max(1, patches_28(size, low)) if low else most


def gemini_tokens(model: str, size: Size | None, detail: str = "auto") -> int:
    """:param size: as above; ``detail`` is Gemini 3's media resolution: low, medium, high, ultra_high."""
    if not re.search(r"gemini-(1|2|nano)", model):
        return RESOLUTIONS.get(detail.lower().removeprefix("media_resolution_"), RESOLUTIONS["high"])
    if size is None:
        return TILE * MOST_TILES
    if max(size) <= SMALL:
        return TILE
    unit = min(max(min(size) / 1.5, 256), 768)
    return TILE * min(math.ceil(size[0] / unit) * math.ceil(size[1] / unit), MOST_TILES)


def patches_28(size: Size, scale: float) -> int:
    return math.ceil(size[0] * scale / 28) * math.ceil(size[1] * scale / 28)


def check_address(url: str) -> None:
    """:raises InputError: for what no vendor can open: a path, a bucket's address, a picture's base64 alone."""
    if url.startswith(("https://", "http://", "data:")):
        return
    if "://" not in url and not url.startswith(("/", ".", "~")) and len(url) > LONGEST_PATH:
        remedy = "put data:image/png;base64, (or what it is) before it"
    else:
        remedy = "give its https:// address (signed, where it needs to be), or data:image/png;base64,..."
    raise InputError(f"an image's address is {url[:60]!r}, which the vendor cannot open; {remedy}. Nothing was sent.")


def image_type(given: str, data: str) -> str:
    """The media type of an image by its first bytes, as vendors look at it; what is given where those say nothing.

    :param data: the image in base64.
    """
    head = data.lstrip()[:16]
    seen = next((kind for start, kind in STARTS.items() if head.startswith(start)), None)
    if head.startswith("UklGR") and head.endswith("XRUJQ"):
        seen = "image/webp"
    if seen is not None and given.startswith("image/"):
        return seen
    return "image/jpeg" if given == "image/jpg" else given


def size_of(url: str) -> Size | None:
    """The size of an image in a ``data:`` URL or in base64; None where it cannot be seen."""
    import imagesize

    packed = url.partition(",")[2] if url.startswith("data:") else url
    try:
        head = base64.b64decode(packed[: HEAD // 3 * 4], validate=False)
        width, height = imagesize.get(io.BytesIO(head))
    except (ValueError, binascii.Error, OSError, IndexError, KeyError, OverflowError, TypeError):
        return None
    return (int(width), int(height)) if width > 0 and height > 0 else None
