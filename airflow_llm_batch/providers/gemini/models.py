"""What Gemini's models take, by their names.

Source: ai.google.dev, flex inference (preview): supported models.
"""

from __future__ import annotations

import re

FLEX = re.compile(
    r"gemini-(3\.[5678]-flash|3\.[15]-flash-lite|3\.1-pro-preview|3-flash-preview|2\.5-pro|2\.5-flash(-lite)?)"
)


def takes_flex(model: str) -> bool | None:
    """Whether the guide lists a model for flex; None for any other, as new ones."""
    return True if FLEX.fullmatch(model) else None
