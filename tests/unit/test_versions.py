"""The versions that pyproject.toml allows, and the pins that the tests of each pair of Python and Airflow run with."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"^([\w.-]+)==([\w.+!-]+)( ;.*)?$")
#: what the tests need in newer versions than the package does, for common-ai, pydantic-ai and google-genai
NEWER = {"apache-airflow-providers-common-compat", "cryptography", "httpx", "opentelemetry-api", "pydantic"}
FILES = sorted(path.name for path in (ROOT / ".ci").glob("constraints*.txt"))


def asked(extra=None):
    """What the package needs, or one of its extras; its own extras are looked up."""
    given = map(Requirement, PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"])
    for one in given:
        if one.name == PROJECT["name"]:
            for inner in sorted(one.extras):
                yield from asked(inner)
        else:
            yield one


def pins(name):
    """Package to its versions: several where it depends on the Python."""
    found = {}
    for line in (ROOT / ".ci" / name).read_text().splitlines():
        package, version, _ = PINNED.match(line).groups()
        found.setdefault(package.lower().replace("_", "-"), []).append(version)
    return found


@pytest.mark.parametrize("name", FILES)
def test_pins_are_what_is_allowed(name):
    """Each line is a pin, and no address; a bound that is raised has them made anew (.ci/versions resolve)."""
    found = pins(name)
    for one in [*asked(), *asked("test")]:
        versions = found.get(one.name.lower().replace("_", "-"), [])
        assert versions, one
        assert all(one.specifier.contains(version, prereleases=True) for version in versions), (str(one), versions)


def test_every_extra_has_bounds():
    """Without one an old version is taken, silently, where a new one does not fit."""
    assert [str(one) for extra in PROJECT["optional-dependencies"] for one in asked(extra) if not one.specifier] == []


def test_what_is_needed_is_tested_at_its_lower_bound():
    """Where something else that the tests need asks for a newer one, it says here which."""
    found = pins("constraints-lowest.txt")
    newer = {}
    for one in asked():
        [low] = [part.version for part in one.specifier if part.operator == ">="]
        [pin] = found[one.name.lower()]
        if not SpecifierSet(f"=={low}.*").contains(pin):
            newer[one.name] = pin
    assert set(newer) <= NEWER, newer
