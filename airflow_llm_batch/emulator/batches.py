"""Files and batches of an emulated vendor. A batch's state is a function of the time since its creation."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from airflow_llm_batch.emulator.caches import Caches
from airflow_llm_batch.emulator.json_lines import encode, read_lines, used_by
from airflow_llm_batch.emulator.settings import Settings

#: turns one input line into ``(succeeded, result line)``; given what became of it when it was not worked on
Answer = Callable[[dict[str, Any], "str | None"], tuple[bool, dict[str, Any]]]


@dataclass
class StoredFile:
    id: str
    path: Path
    filename: str
    purpose: str
    created_at: float
    expires_at: float | None = None
    mime: str = ""
    #: looks that still find it being processed
    looks: int = 0


class View(NamedTuple):
    """A batch at one moment. ``phase``: validating, running, finalizing, cancelling, completed, failed, expired or
    cancelled; ``done`` rows have been worked on, ``failed`` of them without success."""

    phase: str
    done: int
    failed: int
    ended_at: float | None


@dataclass
class EmulatedBatch:
    """
    :param dialect: the name of the protocol it was made in.
    :param fates: one byte a row, 1 for a row that fails on the vendor's side.
    :param split: rows that fail are written into a file of their own.
    :param silent: rows that were not worked on have no line.
    :param rejected: rows of those that were worked on that were bad requests; known when it has ended.
    :param names: the member of a result line that names its row.
    :param webhooks: who is told of this batch's end alone.
    """

    id: str
    dialect: str
    lines: Path
    created_at: float
    duration: float
    endpoint: str = ""
    window: str = "24h"
    model: str | None = None
    input_file_id: str | None = None
    metadata: dict[str, str] | None = None
    problems: list[dict[str, Any]] = field(default_factory=list)
    fates: bytearray = field(default_factory=bytearray)
    prompt_tokens: int = 0
    cancelled_at: float | None = None
    cancel_seconds: float | None = None
    expire: float | None = None
    healed: bool = False
    upstream_done: int | None = None
    upstream_failed: int = 0
    upstream_ended: float | None = None
    output: StoredFile | None = None
    errors: StoredFile | None = None
    #: finished rows whose lines never come; looks that have shown no files
    lost: int = 0
    looks: int = 0
    split: bool = False
    silent: bool = False
    rejected: int = 0
    names: str = "custom_id"
    webhooks: tuple[str, ...] = ()
    #: a look has told of its end
    end_seen: bool = False
    #: tokens of all answers: in, out
    used: list[int] = field(default_factory=lambda: [0, 0])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def shows_files(self, undelivered: int) -> bool:
        """Whether a look at the ended batch finds its files."""
        self.looks += 1
        return self.looks > undelivered

    @property
    def total(self) -> int:
        return len(self.fates)

    @property
    def validated_at(self) -> float:
        return self.created_at + 0.1 * self.duration

    @property
    def finalizing_at(self) -> float:
        return self.created_at + 0.9 * self.duration

    def view(self, now: float) -> View:
        if self.problems:
            ended = self.validated_at
            return View("failed", 0, 0, ended) if now >= ended else View("validating", 0, 0, None)
        if self.cancelled_at is not None:
            takes = 0.1 * self.duration if self.cancel_seconds is None else self.cancel_seconds
            ended = self.cancelled_at + takes
            done = self._done(self.cancelled_at)
            over = now >= ended
            return View("cancelled" if over else "cancelling", done, self._failed(done), ended if over else None)
        if self.upstream_done is not None:
            ended_at = self.upstream_ended
            return View("completed" if ended_at else "running", self.upstream_done, self.upstream_failed, ended_at)
        done = self._done(now)
        failed = self._failed(done)
        end = self.created_at + self.duration
        if now >= end:
            return View("completed" if self.expire is None else "expired", done, failed, end)
        phase = "validating" if now < self.validated_at else "running" if now < self.finalizing_at else "finalizing"
        return View(phase, done, failed, None)

    def _done(self, now: float) -> int:
        if self.upstream_done is not None:
            return self.upstream_done
        span = self.finalizing_at - self.validated_at
        share = 1.0 if span <= 0 else min(max((now - self.validated_at) / span, 0.0), 1.0)
        return int(share * self.total * (1 if self.expire is None else self.expire))

    def _failed(self, done: int) -> int:
        return self.upstream_failed if self.upstream_done is not None else sum(self.fates[:done])


class QueueFull(Exception):
    """A batch that is refused at the door, ``(status, message, code)``."""


class Vendor:
    """Everything the emulator holds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._directory = tempfile.TemporaryDirectory(prefix="llm-batch-emulator-")
        self.directory = Path(self._directory.name)
        self.files: dict[str, StoredFile] = {}
        self.failures: Counter[bytes] = Counter()
        self.batches: dict[str, EmulatedBatch] = {}
        self.calls: Counter[str] = Counter()
        #: calls that were served, by tier; and what became of those that asked for flex
        self.tiers: Counter[str] = Counter()
        self.uploads: dict[str, Any] = {}
        #: batches by vendor and idempotency key
        self.keys: dict[tuple[str, str], str] = {}
        self.over = threading.Event()
        #: Entra's tokens, and when each expires
        self.tokens: dict[str, float] = {}
        self.caches = Caches()

    def close(self) -> None:
        self.over.set()
        self._directory.cleanup()

    def new_file(self, filename: str, purpose: str, prefix: str = "file-") -> StoredFile:
        file_id = prefix + uuid.uuid4().hex[:24]
        stored = StoredFile(file_id, self.directory / file_id, filename, purpose, time.time())
        self.files[file_id] = stored
        return stored

    def add_batch(self, batch: EmulatedBatch) -> EmulatedBatch:
        faults = self.settings.faults
        batch.cancel_seconds = self.settings.cancel_seconds
        batch.healed = faults.heal is not None and len(self.batches) >= faults.heal
        batch.expire = None if batch.healed else faults.expire
        if faults.fail:
            batch.problems.append({"code": faults.fail, "message": "Injected failure.", "line": None, "param": None})
        limit = faults.enqueued_tokens
        if limit is not None and self.enqueued(batch.model) + batch.prompt_tokens > limit:
            code = "token_limit_exceeded"
            message = f"Enqueued token limit reached for {batch.model} in organization org-emulator. Limit: {limit:,} enqueued tokens. Please try again once some in_progress batches have been completed."  # noqa: E501
            if faults.refuse_enqueued:
                raise QueueFull(faults.refuse_enqueued, message, code)
            batch.problems.append({"code": code, "message": message, "line": None, "param": None})
        self.batches[batch.id] = batch
        return batch

    def enqueued(self, model: str | None) -> int:
        now = time.time()
        # A batch that is going to fail waits for nothing.
        waiting = (b for b in self.batches.values() if not b.problems and b.view(now).ended_at is None)
        return sum(b.prompt_tokens for b in waiting if b.model == model)

    def fate(self, text: str) -> int:
        """1 for a row the faults strike; by its text, so that a row asked again fails again until it has healed."""
        faults = self.settings.faults
        digest = hashlib.sha256(text.encode()).digest()
        if not int.from_bytes(digest[:4], "big") / 2**32 < faults.row_errors:
            return 0
        self.failures[digest] += 1
        return int(faults.heal is None or self.failures[digest] <= faults.heal)

    def newest(self, dialect: str, after: str | None, limit: int) -> tuple[list[EmulatedBatch], bool]:
        """A page of batches, newest first, and whether more follow.

        :raises ValueError: when there is no batch ``after``.
        """
        ours = [b for b in reversed(self.batches.values()) if b.dialect == dialect]
        if after is not None:
            ours = ours[[batch.id for batch in ours].index(after) + 1 :]
        return ours[:limit], len(ours) > limit

    def settle(self, batch: EmulatedBatch, answer: Answer) -> None:
        """Write the result files of a batch that has ended, once."""
        view = batch.view(time.time())
        if view.ended_at is None or batch.problems:
            return
        with batch.lock:
            if batch.output is not None or batch.errors is not None:
                return
            ok: list[bytes] = []
            bad: list[bytes] = [] if batch.split else ok
            for succeeded, line in self.result_lines(batch, view, answer):
                (ok if succeeded else bad).append(line)
                batch.used = [a + b for a, b in zip(batch.used, used_by(line), strict=True)]
            batch.lost = self.disturb(ok, batch)
            batch.output = self._write(batch, ok, "output") if ok or not batch.split else None
            batch.errors = self._write(batch, bad, "error") if batch.split and bad else None

    def result_lines(self, batch: EmulatedBatch, view: View, answer: Answer) -> Iterator[tuple[bool, bytes]]:
        if batch.upstream_done is not None:
            for line in read_lines(batch.lines.with_suffix(".results")):
                succeeded, result = line
                yield succeeded, encode(result)
            answered = {result["custom_id"] for _, result in read_lines(batch.lines.with_suffix(".results"))}
            for request in read_lines(batch.lines):
                if request["custom_id"] not in answered:
                    yield False, encode(answer(request, view.phase)[1])
            return
        for index, request in enumerate(read_lines(batch.lines)):
            if batch.silent and index >= view.done:
                break
            unfinished = view.phase if index >= view.done else "errored" if batch.fates[index] else None
            succeeded, result = answer(request, unfinished)
            batch.rejected += not succeeded and unfinished is None
            yield succeeded, encode(result)

    def disturb(self, lines: list[bytes], batch: EmulatedBatch) -> int:
        """Do to result lines what networks and vendors have been seen to do; returns how many are lost."""
        faults = self.settings.faults
        draw = random.Random(len(lines))
        lost = 0 if batch.healed else min(faults.missing, len(lines))
        del lines[:lost]
        lines += [lines[index % len(lines)] for index in range(faults.duplicates)] if lines else []
        for index in range(faults.foreign):
            stranger = json.loads(lines[0]) if lines else {}
            lines.append(encode({**stranger, batch.names: f"somebody-else-{index}"}))
        for index in range(faults.garbage):
            lines.append((b'{"custom_id": "cut off', b"<html>502 Bad Gateway</html>", b"[]", b"\xff\xfe")[index % 4])
        if faults.shuffle:
            draw.shuffle(lines)
        return lost

    def _write(self, batch: EmulatedBatch, lines: list[bytes], kind: str) -> StoredFile:
        stored = self.new_file(f"{batch.id}_{kind}.jsonl", "batch_output")
        stored.path.write_bytes(b"".join(line + b"\n" for line in lines))
        return stored

    def stats(self) -> dict[str, Any]:
        """What a test wants to know: calls by route, batches, and rows that were paid for."""
        now = time.time()
        views = {batch.id: batch.view(now) for batch in self.batches.values()}
        return {
            "calls": dict(self.calls),
            "tiers": dict(self.tiers),
            "files": len(self.files),
            "batches": {
                batch.id: {
                    "dialect": batch.dialect,
                    "phase": views[batch.id].phase,
                    "rows": batch.total,
                    "billed": views[batch.id].done - views[batch.id].failed,
                    "metadata": batch.metadata,
                }
                for batch in self.batches.values()
            },
            "billed_rows": sum(view.done - view.failed for view in views.values()),
        }
