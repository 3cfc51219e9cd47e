"""Tables as destinations of results, as DAG files name them. Cheap to import: what they need is loaded by tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from airflow_llm_batch.exceptions import ConfigurationError

#: names of columns, or column -> what of a record it holds
Columns: TypeAlias = "Sequence[str] | Mapping[str, str] | None"


@dataclass
class Keyed:
    """What the kinds of tables have in common; give one of them."""

    @property
    def given(self) -> dict[str, Any]:
        return vars(self)

    @property
    def place(self) -> str:
        """Names the table in manifests, logs and lineage."""
        raise NotImplementedError

    @property
    def keys(self) -> list[str]:
        """The columns by which rows are told apart."""
        key = self.given["key"]
        return [key] if isinstance(key, str) else [str(name) for name in key]

    def check(self) -> None:
        """:raises ConfigurationError: for an argument that cannot be meant."""
        kind, key, columns = type(self).__name__, self.given["key"], self.given["columns"]
        for name in self.required:
            if not isinstance(self.given[name], str) or not self.given[name]:
                raise ConfigurationError(f"{kind}'s {name} is {self.given[name]!r}; give a text. Nothing was sent.")
        names = self.keys if isinstance(key, str | Sequence) else []
        if not names or not all(names) or len({name.casefold() for name in names}) < len(names):
            raise ConfigurationError(
                f"{kind}'s key is {key!r}; give the column, or the list of columns, that tells its rows apart. Nothing "
                "was sent."
            )
        if columns is not None and (isinstance(columns, str) or not isinstance(columns, Sequence | Mapping)):
            raise ConfigurationError(
                f"{kind}'s columns are {columns!r}; give a list of names, or {{column: field of a record}}. Nothing "
                "was sent."
            )

    required: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "tables"


@dataclass
class Table(Keyed):
    """A table of any Airflow database connection, into which results are merged by key.

    Result files are landed as ever, and what they hold is then loaded in one transaction: rows with a key that the
    table has are updated, others inserted, and those that the same job has landed before and does not account for now
    are deleted. All rows of a job, or none; a second landing (a retry, a cleared task, a repair) replaces the first.
    The table is made where there is none; else its columns are compared before anything is sent.

    Proven for PostgreSQL (COPY) and SQLite; both need a unique index on the key. Other databases are written by
    ``DELETE`` and ``INSERT`` by key through SQLAlchemy: columns of yours that results know nothing of lose their values
    there, and two jobs that land the same new key at once may both insert it unless an index forbids it.

    :param conn_id: any Airflow connection whose hook is a ``DbApiHook``.
    :param table: its name, or ``schema.table``.
    :param key: the column, or the columns, by which rows are merged: pass-through columns, ``model``, or any other name
        for the record's ``key``, the column that the task's ``key`` names.
    :param columns: what is loaded, as a list of fields or as ``{column: field}``: fields of a record, pass-through
        columns, and ``output.name`` for members of the answer. By default the key, the pass-through columns, the
        members of ``output`` (``output_`` before those whose name is taken), what was answered otherwise, status,
        error, model, tokens and cost. ``llm_batch_job``, whose rows they are (``dag/run/task/-1``), is always there.
    :param files: directory for the result files, any ``ObjectStoragePath`` URI; the job directory's ``landed`` by
        default.
    """

    conn_id: str
    table: str
    key: str | Sequence[str]
    columns: Columns = None
    files: str | None = None

    template_fields: ClassVar[tuple[str, ...]] = ("conn_id", "table", "key", "columns", "files")
    required: ClassVar[tuple[str, ...]] = ("conn_id", "table")

    def __post_init__(self) -> None:
        self.check()

    @property
    def place(self) -> str:
        return f"table://{self.conn_id}/{self.table}"


@dataclass
class DeltaTable(Keyed):
    """A Delta Lake table, into which results are merged by key in one commit, as ``Table`` says. Needs the extra
    ``delta``. A merge that finds that others have committed meanwhile is made anew; its memory is delta-rs's own.

    :param uri: of the table, as delta-rs takes it: ``s3://bucket/answers``, a local path.
    :param key: as ``Table``; likewise ``columns`` and ``files``.
    :param storage_options: for delta-rs (region, endpoint, keys); its own environment variables by default.
    """

    uri: str
    key: str | Sequence[str]
    columns: Columns = None
    files: str | None = None
    storage_options: dict[str, str] = field(default_factory=dict, repr=False)

    template_fields: ClassVar[tuple[str, ...]] = ("uri", "key", "columns", "files", "storage_options")
    required: ClassVar[tuple[str, ...]] = ("uri",)
    extra: ClassVar[str] = "delta"

    def __post_init__(self) -> None:
        self.check()

    @property
    def place(self) -> str:
        return self.uri if "://" in self.uri else f"file://{self.uri}"
