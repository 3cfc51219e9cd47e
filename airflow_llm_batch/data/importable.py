"""What a DAG file defines, found again in other processes: ``module:qualname``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from airflow_llm_batch.exceptions import ConfigurationError

#: what such a path looks like; no expression does
PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
#: how Airflow calls the module that it makes of a DAG file: the hash is of the file's place, which differs between
#: machines and versions of a bundle (airflow.utils.file.get_unique_dag_module_name)
DAG_FILE = re.compile(r"unusual_prefix_[0-9a-f]{40}_(?P<name>.+)")


class NotImportable(ConfigurationError):
    """An object that another process would not find."""


def path_of(given: Any) -> str:
    """The path of a function or a class.

    :raises NotImportable: for one that cannot be found by it: a lambda, one that is defined inside a function, an
        object that has no name.
    """
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", None)
    path = f"{module}:{name}"
    if not (module and name) or not PATH.fullmatch(path):
        raise NotImportable(
            f"{given!r} cannot be imported by name: tasks run in other processes, which would not find it. Define it "
            "with def (or class) at the top level of a module, or of the DAG file. Nothing was sent."
        )
    there = found(path)
    # A DAG file may be read twice in a process: the same one, made anew, will do.
    if type(there) is not type(given) or (there.__module__, there.__qualname__) != (module, name):
        raise NotImportable(f"{path} is something else than {given!r}; give what is found there. Nothing was sent.")
    return path


def found(path: str) -> Any:
    """What lies at a path.

    :raises NotImportable: when it is not there, or its module cannot be imported.
    """
    module, _, name = path.partition(":")
    why: Exception | None = None
    try:
        for candidate in modules(module):
            try:
                return inner(candidate, name)
            except AttributeError as error:
                why = error
    except Exception as error:  # whatever a module does when it is imported
        why = error
    raise NotImportable(
        f"{path} cannot be imported here ({type(why).__name__}: {why}). Put it into a module that every worker has, or "
        "into the DAG file of the task that needs it."
    )


def modules(name: str) -> Iterator[ModuleType]:
    """The modules that a name may mean: a DAG file is the same one wherever it lies."""
    dag_file = DAG_FILE.fullmatch(name)
    if dag_file is None or name in sys.modules:
        yield import_module(name)
    if dag_file is not None:
        for other, module in list(sys.modules.items()):
            loaded = DAG_FILE.fullmatch(other)
            if loaded is not None and other != name and loaded["name"] == dag_file["name"]:
                yield module
        if name not in sys.modules:
            raise ModuleNotFoundError(f"the DAG file {dag_file['name']}.py is not loaded in this task")


def inner(module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def short(path: str) -> str:
    """What people call it: the name without the module."""
    return path.partition(":")[2]
