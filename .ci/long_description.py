"""The README as package indexes show it: with links that lead somewhere from there.

A repository shows a README beside the files that it names, an index shows it alone. Where pyproject.toml says where the
source lies (``[project.urls] Source``), what is relative becomes absolute; without that the README stays as it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: ``[text](place)`` or ``![text](place)`` with a place in this repository
RELATIVE = re.compile(r"(!?)(\[[^\]]*\])\((?!https?:|#)([^)\s]+)\)")


def absolute(readme: str, source: str) -> str:
    """The README with its relative links below an address: pictures as the file itself, all others as its page."""

    def placed(link: re.Match[str]) -> str:
        kind = "raw" if link[1] else "blob"
        return f"{link[1]}{link[2]}({source.rstrip('/')}/{kind}/HEAD/{link[3]})"

    return RELATIVE.sub(placed, readme)


class LongDescription(MetadataHookInterface):
    """What hatchling asks for ``readme`` while it builds."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text()
        if source := metadata.get("urls", {}).get("Source"):
            text = absolute(text, source)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
