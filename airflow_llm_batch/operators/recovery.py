"""What a Submit task does when it does not start from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow_llm_batch.exceptions import ConfigurationError


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

    def batches_of(self, number: int | None) -> dict[int, str]:
        """The batches that are named for one round's shards.

        :param number: of a further round, None for the first.
        """
        named = {str(shard): str(batch_id) for shard, batch_id in (self.batch_ids or {}).items()}
        start = "" if number is None else f"{number}/"
        return {
            int(shard.removeprefix(start)): batch_id
            for shard, batch_id in named.items()
            if shard.startswith(start) and ("/" in shard) == (number is not None)
        }

    def serialize(self) -> dict[str, Any]:
        told = {"on_change": self.on_change, "on_doubt": self.on_doubt, "batch_ids": dict(self.batch_ids or {})}
        return {**told, "cancel_on_kill": self.cancel_on_kill}
