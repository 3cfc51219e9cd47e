"""Vendors and connections for people, made of the classes: the README's table, and the form in Airflow's UI.

``python -m airflow_llm_batch.providers.describe`` writes both anew; a test holds them.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from pprint import pformat
from typing import Any

from airflow_llm_batch.providers.base import Provider
from airflow_llm_batch.providers.options import Options
from airflow_llm_batch.providers.presets.kin import Kin
from airflow_llm_batch.providers.registry import OURS, PRESETS, PROVIDERS, provider_class
from airflow_llm_batch.request import Request

PACKAGE = Path(__file__).resolve().parent.parent
FORM, README = PACKAGE / "connection_form.py", PACKAGE.parent / "README.md"
HEAD = (
    "`provider`", "vendor", "requests, MB a batch", "at least", "price", "flex price", "endpoints", "schemas", "tools",
    "images", "a lost create is found by", "results kept", "credentials",
)  # fmt: skip

KIN_HEAD = (
    "`provider`", "vendor", "base URL", "endpoints (`/v1/...`)", "requests, MB a batch", "`completion_window`", "price",
    "token cap", "a lost create is found by", "results kept",
)  # fmt: skip
#: what stands for the presets where an option is all of theirs
ALL_PRESETS = "presets"


def size(count: int) -> str:
    """Megabytes."""
    return f"{count / 1e6:,.0f}"


def row(vendor: type[Provider]) -> list[str]:
    limits, facts = vendor.default_limits, vendor.facts
    factor = vendor.batch_price_factor
    return [
        f"`{vendor.name}`", vendor.title, f"{limits.requests:,}, {size(limits.bytes)}", f"{limits.minimum or 1:,}",
        f"{float(factor):.0%}" if factor else "not known",
        f"{float(vendor.flex_price_factor):.0%}" if vendor.flex_price_factor else "no",
        ", ".join(f"`{endpoint}`" for endpoint in sorted(vendor.endpoints)),
        facts.schemas, facts.tools, facts.images,
        "time and size, then its rows" if vendor.found_by == "time" else vendor.found_by, facts.kept, facts.credentials,
    ]  # fmt: skip


def table() -> str:
    """The vendors as a Markdown table, one a row."""
    rows = [HEAD, ["---"] * len(HEAD), *(row(provider_class(name)) for name in PROVIDERS)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def kin_row(vendor: type[Kin]) -> list[str]:
    limits, factor = vendor.default_limits, vendor.batch_price_factor
    windows = vendor.windows
    asked = f"{windows[0]}h to {windows[-1]}h" if isinstance(windows, range) else ", ".join(windows)
    if isinstance(windows, range) and f"{windows[0]}h" != vendor.usual_window:
        asked += f" ({vendor.usual_window})"
    batches = [
        f"{limits.requests:,}, {size(limits.bytes)}", asked, f"{float(factor):.0%}" if factor else "not known",
    ]  # fmt: skip
    found = ["idempotency key, metadata" if vendor.is_idempotent else vendor.found_by, vendor.facts.kept]
    return [
        f"`{vendor.name}`", f"[{vendor.title}]({vendor.documented})",
        f"`{vendor.default_base_url}`" if vendor.default_base_url else "yours, as *Host*",
        ", ".join(f"`{endpoint.removeprefix('/v1/')}`" for endpoint in sorted(vendor.endpoints)),
        *(batches if vendor.batch_api else ["no batches: called", "", ""]), f"`{cap_of(vendor)}`",
        *(found if vendor.batch_api else ["", ""]),
    ]  # fmt: skip


def cap_of(vendor: type[Kin]) -> str:
    """What a token cap is called when it is sent."""
    body = {"model": "m", "messages": [{"role": "user", "content": ""}], "max_completion_tokens": 16}
    sent = vendor("http://localhost").translate(Request("/v1/chat/completions", body)).body
    return next(name for name in sent if name.startswith("max_"))


def kin_table() -> str:
    """The presets as a Markdown table: vendors, a proxy and servers of OpenAI's kind, one a row."""
    vendors = [vendor for name in PRESETS if issubclass(vendor := provider_class(name), Kin)]
    rows = [KIN_HEAD, ["---"] * len(KIN_HEAD), *map(kin_row, vendors)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def fields() -> dict[str, Any]:
    """The connection's fields that the form shows, as Airflow wants to know them: each says whose it is."""
    shown: dict[str, Any] = {}
    whose: dict[str, dict[str, list[str]]] = {}
    for name in OURS:
        for key, field in provider_class(name).Options.model_fields.items():
            mark = field.json_schema_extra
            if not (isinstance(mark, dict) and mark.get("form")):
                continue
            whose.setdefault(key, {}).setdefault(str(field.description), []).append(name)
            if key in shown:
                continue
            schema: dict[str, Any] = {"type": ["string", "null"]}
            if "float" in str(field.annotation) or "float" in str(field.metadata):
                schema = {"type": ["integer", "null"], "minimum": 1}
            if key == "provider":
                # Nothing can be asked without one: the form insists.
                schema = {"type": "string", "enum": [*OURS]}
            shown[key] = {"label": key.replace("_", " ").capitalize(), "description": "", "schema": schema}
    for key, texts in whose.items():
        own = key not in Options.model_fields
        phrases = (f"{', '.join(shortly(names))}: {text}" if own else text for text, names in texts.items())
        shown[key]["description"] = " ".join(phrases)
    return shown


def form() -> str:
    """The module that keeps the form: importing the vendors' classes would slow every start of Airflow."""
    made = pformat(fields(), indent=1, width=116, sort_dicts=False)
    return (
        '"""Made by ``airflow_llm_batch.providers.describe`` from the providers\' options; not edited by hand."""\n\n'
        "from __future__ import annotations\n\nfrom typing import Any\n\n"
        f"# fmt: off\nFIELDS: dict[str, Any] = {made}\n"
    )


def option_table() -> str:
    """What a connection's extra may hold, as a Markdown table: everybody's options, then each vendor's own."""
    common = Options.model_fields
    whose: dict[tuple[str, str], list[str]] = {(name, str(field.description)): [] for name, field in common.items()}
    for name in OURS:
        for key, field in provider_class(name).Options.model_fields.items():
            if key not in common:
                whose.setdefault((key, str(field.description)), []).append(name)
    rows = [f"| `{key}` | {', '.join(shortly(names)) or 'all'} | {text} |" for (key, text), names in whose.items()]
    return "\n".join(["| option | for | meaning |", "|---|---|---|", *rows])


def shortly(names: list[str]) -> list[str]:
    """Whose an option is, with one word for all presets."""
    if not PRESETS.keys() <= set(names):
        return names
    return [*(name for name in names if name not in PRESETS), ALL_PRESETS]


def framed(made: str, marks: re.Match[str]) -> str:
    return f"{marks[1]}{made}\n{marks[2]}"


def with_tables(readme: str) -> str:
    """The README with its tables as they are now."""
    for name, made in (("vendors", table()), ("presets", kin_table()), ("options", option_table())):
        between = re.compile(rf"(<!-- {name} -->\n).*(<!-- end of {name} -->)", re.DOTALL)
        readme = between.sub(partial(framed, made), readme)
    return readme


if __name__ == "__main__":
    FORM.write_text(form())
    README.write_text(with_tables(README.read_text()))
