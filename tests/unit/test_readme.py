"""What the README says beside its blocks: messages that the code has, links that lead somewhere, lines that CI runs."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from types import ModuleType

import pytest
from support import ROOT

README = (ROOT / "README.md").read_text()
TROUBLES = README.partition("## Troubleshooting")[2].partition("\n## ")[0]
QUOTED = re.findall(r"^\| `([^`]+)`.*? \|", TROUBLES, re.MULTILINE)
HEADINGS = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)


def said(node: ast.expr) -> str:
    """The text of a message, what is filled in as a line break."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(said(part) for part in node.values)
    return said(node.left) + said(node.right) if isinstance(node, ast.BinOp) else "\n"


def messages() -> list[str]:
    """Every text in the package's code, docstrings and what the emulated vendors say excepted."""
    found = []
    package = ROOT / "airflow_llm_batch"
    for path in (path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != "emulator"):
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        alone = {node.value for node in nodes if isinstance(node, ast.Expr)}
        texts = (node for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp))
        found += [said(node) for node in texts if node not in alone]
    return found


MESSAGES = messages()


def is_said(quoted: str) -> bool:
    """Whether one message has all of a quotation, in its order: ``...``, in quotation marks or not, is filled in."""
    parts = (part.strip(" '") for part in quoted.split("..."))
    wanted = re.compile(r"[\s\S]*".join(map(re.escape, filter(None, parts))))
    return any(wanted.search(message) for message in MESSAGES)


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_message_that_troubleshooting_quotes_is_one_of_ours(quoted):
    """So that whoever searches for what the log says finds it."""
    assert is_said(quoted)


def test_what_nobody_says_is_found_out():
    """The test above can fail."""
    assert len(QUOTED) > 20
    assert not is_said("There is no such thing '...'")
    # An emulated vendor says that.
    assert not is_said("No file matches the given query")
    assert not is_said("names no provider ... There is no connection")


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_links_lead_somewhere():
    """To a heading, or to a file of the repository."""
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", README)
    assert len(links) > 20
    for link in links:
        if link.startswith("#"):
            assert link[1:] in map(anchor, HEADINGS), link
        else:
            assert (ROOT / link).exists(), link


def test_headings_have_names_of_their_own():
    """Else a link would lead to the first of them."""
    assert len(set(map(anchor, HEADINGS))) == len(HEADINGS)


def test_all_extras_are_told_of():
    """In the table below *Install*, each once."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    install = README.partition("### Install")[2].partition("\n### ")[0].partition("| extra |")[2]
    named = [name for row in install.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])]
    assert sorted(named) == sorted(project["optional-dependencies"].keys() - {"test"})


def test_the_first_lines_are_the_two_that_ci_runs():
    """``grep -m1`` takes the first line that fits."""
    demo = next(line for line in README.splitlines() if line.endswith("airflow_llm_batch.demo"))
    tests = next(line for line in README.splitlines() if "-m pytest" in line)
    for line, extras in ((demo, "-e ."), (tests, "-e '.[test]'")):
        assert line.startswith("python3 -m venv --upgrade-deps .venv && .venv/bin/pip install")
        assert extras in line


def long_description(monkeypatch):
    """The module that builds make the long description with; its base class is the build backend's."""
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = type(
        "Hook", (), {"__init__": lambda self, root, config: setattr(self, "root", root)}
    )
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("long_description", ROOT / ".ci" / "long_description.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_index_gets_links_that_lead_somewhere_from_there(monkeypatch):
    """Below ``[project.urls] Source``, in one place; without it the README goes as it is."""
    hook = long_description(monkeypatch).LongDescription(str(ROOT), {})
    metadata = {}
    hook.update(metadata)
    assert metadata["readme"] == {"content-type": "text/markdown", "text": README}
    metadata = {"urls": {"Source": "https://git.example/batch/"}}
    hook.update(metadata)
    text = metadata["readme"]["text"]
    assert "](https://git.example/batch/raw/HEAD/tests/ui/llm-batches.png)" in text
    assert "[dags_examples](https://git.example/batch/blob/HEAD/dags_examples)" in text
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", text) == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["path"] == ".ci/long_description.py"
