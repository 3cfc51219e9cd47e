"""What is chosen for a job, in groups that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.address import JobAddress

if TYPE_CHECKING:
    from airflow_llm_batch.data.answer_cache import AnswerCache
    from airflow_llm_batch.data.table import Keyed
    from airflow_llm_batch.providers.base import Provider
    from airflow_llm_batch.providers.options import Options

#: rows that are tried first by default, and the rows of a job from which on they are
AUTO_ROWS, AUTO_FROM = 3, 1000
#: they are called, at twice the price: a sample is for more
MOST_TRIED = 100
#: what may happen at the deadline
DEADLINES = ("leave", "cancel", "finish_online")


@dataclass(frozen=True)
class Origin:
    """The task instance that makes a job.

    :param partition: which of its rows are the job's, ``3/64``; None for all of them.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    partition: str | None = None

    @classmethod
    def of(cls, ti: Any) -> Origin:
        """:param ti: the task instance, or a job that one has made."""
        index, partition = ti.map_index, getattr(ti, "partition", None)
        return cls(ti.dag_id, ti.run_id, ti.task_id, -1 if index is None else index, partition)

    def address(self, storage: str | None = None) -> JobAddress:
        """Where its job lies.

        :param storage: object storage URI, ``[llm_batch] storage`` by default.
        """
        return JobAddress.of_task(storage, self.dag_id, self.run_id, self.task_id, self.map_index)

    def metadata(self, own: Mapping[str, Any] | None) -> dict[str, str]:
        """What the vendor is to keep with each batch.

        :param own: the user's.
        """
        if own is not None and not isinstance(own, Mapping):
            raise ConfigurationError(
                f"metadata is a {type(own).__name__}; give a mapping of names to texts. Nothing was sent."
            )
        names = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id}
        kept = {f"airflow_{name}": str(value)[:512] for name, value in names.items()}
        return kept | {str(name): str(value) for name, value in (own or {}).items()}


@dataclass(frozen=True)
class Waves:
    """How much of a job may be in the vendor's queue at once, None for any number.

    :param max_enqueued_tokens: prompt tokens, as we estimate them; no single shard is cut larger.
    :param max_running_shards: likewise in batches.
    """

    max_enqueued_tokens: int | None = None
    max_running_shards: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any], options: Options) -> Waves:
        """The operator's arguments, and the connection's where they are not given.

        :raises ConfigurationError: for one that is no number.
        """
        return cls(
            **{name: at_least_one(name, given.get(name) or getattr(options, name)) for name in cls.__dataclass_fields__}
        )


class First(NamedTuple):
    """Rows that are to be tried before the others are sent.

    :param rows: how many, 0 for none.
    :param least: rows that a job has at least for it; or so many bytes of requests as are worth it.
    """

    rows: int = 0
    least: int = 0


NOT_TRIED = First()


@dataclass(frozen=True)
class Trial:
    """Rows that are called before anything is uploaded.

    :param rows: how many; ``auto`` for 3 of jobs of 1,000 rows and more (or of 8 MB of requests), where the vendor's
        calls tell what its batches would answer.
    :param fail_on: the share of them that stops the job when they did not succeed, None for never; when all of them are
        refused for a reason that does not pass, it is stopped in any case.
    """

    rows: int | str = 0
    fail_on: float | None = 0.5

    def first(self, provider: Provider) -> First:
        """:raises ConfigurationError: for what is no number of rows."""
        if self.rows == "auto":
            return First(AUTO_ROWS, AUTO_FROM) if provider.calls_tell else NOT_TRIED
        try:
            rows = int(self.rows or 0)
        except (TypeError, ValueError):
            rows = -1
        if not 0 <= rows <= MOST_TRIED:
            raise ConfigurationError(
                f"check_first is {self.rows!r}; give 'auto', or a number of rows from 0 to {MOST_TRIED}. Nothing was "
                "sent."
            )
        return First(rows, rows + 1)


class Rung(NamedTuple):
    """A model that is asked what the ones before it have not answered well.

    :param conn_id: its connection, None for that of the first model.
    """

    model: str
    conn_id: str | None = None


@dataclass(frozen=True)
class Again:
    """What is asked once more, how often and of whom.

    :param also: statuses that are asked again by choice.
    :param max_rounds: how often a model is asked.
    :param show_error: whether a model is shown what was wrong with its answer.
    :param then: the models that are asked after the first.
    """

    also: Sequence[str] = ()
    max_rounds: int = 1
    show_error: bool = False
    then: Sequence[Rung] = ()


@dataclass(frozen=True)
class Reuse:
    """Whether rows may be answered without being asked.

    :param ask_once: of rows that ask the same one is asked.
    :param cache: answers of earlier jobs, which this one adds its own to.
    :param cache_only: nothing is asked that is not there.
    """

    ask_once: bool = False
    cache: AnswerCache | None = None
    cache_only: bool = False

    def check(self) -> None:
        """:raises ConfigurationError: for ``cache_only`` without a cache."""
        if self.cache_only and self.cache is None:
            raise ConfigurationError("cache_only=True needs a cache. Nothing was sent.")

    @property
    def is_wanted(self) -> bool:
        return self.ask_once or self.cache is not None


NO_REUSE = Reuse()


@dataclass(frozen=True)
class Deadline:
    """When watching ends.

    :param allowed: seconds after submission, None for never.
    :param action: ``leave`` what runs then and fail, ``cancel`` it and take what it has finished, or ``finish_online``:
        cancel it, and call the rest.
    """

    allowed: float | None = None
    action: str = "leave"


@dataclass(frozen=True)
class Target:
    """Where and how results are landed.

    :param destination: directory for the files, any ``ObjectStoragePath`` URI; or a table.
    :param max_file_size: bytes after which another file is begun, None for one file a shard.
    :param keep_raw: every record has the vendor's whole line in ``raw``.
    :param checks: that answers have to pass, None for the job's own.
    """

    destination: str | Keyed
    format: str = "jsonl"
    max_file_size: int | None = None
    keep_raw: bool = False
    checks: tuple[str, ...] | None = None


@dataclass
class Recovery:
    """Rarely needed choices of ``SubmitBatchOperator``; the defaults never pay twice.

    :param on_change: when the task is cleared and its input has changed: ``restart`` cancels what still runs and
        submits the new input, ``fail`` refuses.
    :param on_doubt: when it cannot be decided whether a batch exists at the vendor: ``fail`` names the candidates,
        ``resubmit`` sends the shard again and perhaps pays twice.
    :param cancel_on_kill: cancel what was created when the task is killed half-way. Off, since workers that are moved
        or shut down kill tasks too, and a retry goes on where this try stopped.
    :param batch_ids: shard -> vendor's batch id, to say which batch is the one after such a failure; a shard of a
        further round of an ``LLMBatchOperator`` is ``"2/0"``, round and shard.
    """

    on_change: str = "restart"
    on_doubt: str = "fail"
    batch_ids: Mapping[Any, str] | None = None
    cancel_on_kill: bool = False

    template_fields: ClassVar[tuple[str, ...]] = ("on_change", "on_doubt", "batch_ids")

    def check(self) -> None:
        """:raises ConfigurationError: for a choice that does not exist."""
        for name, known in (("on_change", ("restart", "fail")), ("on_doubt", ("fail", "resubmit"))):
            if getattr(self, name) not in known:
                raise ConfigurationError(f"Recovery.{name} is {getattr(self, name)!r}; give one of {', '.join(known)}.")

    def batches_of(self, number: int) -> dict[int, str]:
        """The batches that are named for one round's shards.

        :param number: of a further round, 1 for the first.
        """
        named = {str(shard): str(batch_id) for shard, batch_id in (self.batch_ids or {}).items()}
        start = "" if number == 1 else f"{number}/"
        return {
            int(shard.removeprefix(start)): batch_id
            for shard, batch_id in named.items()
            if shard.startswith(start) and ("/" in shard) == (number > 1)
        }

    def serialize(self) -> dict[str, Any]:
        """As Airflow shows it."""
        return {
            "on_change": self.on_change,
            "on_doubt": self.on_doubt,
            "batch_ids": dict(self.batch_ids or {}),
            "cancel_on_kill": self.cancel_on_kill,
        }


@dataclass(frozen=True)
class Choices:
    """What is chosen for a job and all its rounds.

    :param metadata: the user's, kept by the vendor with each batch.
    :param max_cost: dollars, of all rounds together; None for any.
    :param labels: what budgets may be by: metadata, and the DAG's tags.
    :param checks: of its answers, None for those that its rows bring along.
    """

    waves: Waves = Waves()
    recovery: Recovery = field(default_factory=Recovery)
    metadata: Mapping[str, str] | None = None
    max_cost: float | None = None
    trial: Trial = Trial()
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reuse: Reuse = NO_REUSE
    checks: Sequence[str] | None = None


def at_least_one(name: str, value: Any) -> int | None:
    """A limit as a whole number, None for none.

    :raises ConfigurationError: for anything else.
    """
    return None if value in (None, "") else a_count(name, value)


def a_count(name: str, value: Any) -> int:
    """A whole number that has to be there.

    :raises ConfigurationError: for anything else, and for one below 1.
    """
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ConfigurationError(f"{name} is {value!r}; give a whole number from 1 up. Nothing was sent.")
    return number
