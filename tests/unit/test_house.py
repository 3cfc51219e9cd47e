"""The house keeps its shape: arrows point down, files and functions stay small, operators are siblings."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import BaseOperator
from support import ROOT

import airflow_llm_batch.operators as operators

PACKAGE = ROOT / "airflow_llm_batch"
#: files that may be longer, and why
LONG = {
    "data/requests.py": "the three requests that users write, beside each other",
    "emulator/openai.py": "one vendor's endpoints",
    "jobs/run.py": "every step of a job, in their order",
    "providers/base.py": "the contract, with what every vendor does alike",
    "providers/openai/results.py": "one API's answers, chat and Responses beside each other",
    "providers/schemas.py": "the dialects' rules read together",
    "providers/gemini/protocol.py": "a protocol with its events, flex and caches",
    "providers/openai/protocol.py": "the protocol that vendors of its kind change words of",
    "storage.py": "what every store is asked, and how each misbehaves",
}
MOST_LINES, MOST_IN_A_FUNCTION = 320, 60


def test_arrows_point_down():
    """import-linter's layers, as pyproject.toml draws them."""
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_files_are_short():
    """A file has one duty; those that are longer say why."""
    long = {}
    for path in PACKAGE.rglob("*.py"):
        name, lines = str(path.relative_to(PACKAGE)), len(path.read_text().splitlines())
        if lines > MOST_LINES:
            long[name] = lines
    assert set(long) <= set(LONG), long


def test_functions_are_short():
    """Docstrings aside, a function fits on a screen."""
    long = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if size > MOST_IN_A_FUNCTION:
                    long.append((str(path.relative_to(PACKAGE)), node.name, size))
    assert long == []


@pytest.mark.parametrize("name", [name for name in operators.__all__ if name.endswith("Operator")])
def test_operators_are_siblings(name):
    """None is a kind of another: what they share are arguments."""
    others = [getattr(operators, other) for other in operators.__all__ if other.endswith("Operator") and other != name]
    operator = getattr(operators, name)
    assert issubclass(operator, BaseOperator)
    assert not any(issubclass(operator, other) for other in others)


def test_tests_share_through_support_alone():
    """No test module imports another."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert not (module or "").startswith(("test_", "conftest")), path


def test_nothing_is_merely_told():
    """A variable has the name of what it holds: ``told`` was the name of 169 of them."""
    found = []
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [getattr(node, member, None) for member in ("id", "arg", "attr", "name")]
            if "told" in names:
                found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert found == []
