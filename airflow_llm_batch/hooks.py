"""An Airflow connection of type ``llmbatch`` as a client of one vendor."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_llm_batch.addresses import base_url, key_of
from airflow_llm_batch.airflow_versions import NOT_FOUND, get_connection
from airflow_llm_batch.exceptions import ConfigurationError, LLMBatchError

if TYPE_CHECKING:
    import httpx
    from airflow.providers.common.compat.sdk import Connection

    from airflow_llm_batch.models import Batch, Page
    from airflow_llm_batch.providers.base import Flow, Provider
    from airflow_llm_batch.providers.bodies import Source
    from airflow_llm_batch.providers.options import Options
    from airflow_llm_batch.transport import Transport

T = TypeVar("T")


class LLMBatchHook(BaseHook):
    """Auth, files and batches of one LLM vendor.

    The connection has type ``llmbatch``: the key as password, the base URL as host (none for the vendor's own), and an
    extra with ``provider`` (``openai``, ``anthropic``) and, optionally:

    - everything in ``providers.options.Options`` and in the provider's own ``Options``: timeouts and retries, prices,
      limits, what a gateway wants besides, how long to look before something is believed to be gone.

    Calls that cannot be repeated without cost (creating a batch) are sent once: only a refused connection or a 429,
    which both mean that nothing was taken, is followed by another try. Everything else is retried with growing pauses
    or the vendor's ``Retry-After``. Credentials go to the configured host only; redirects are followed
    by downloads alone.

    :param conn_id: the connection's id.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "llm_batch_default"
    conn_type = "llmbatch"
    hook_name = "LLM Batch"

    def __init__(self, conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self._connection: Connection | None = None

    @classmethod
    def by_key(cls, name: str, provider: str, key: str | None, host: str | None) -> LLMBatchHook:
        """A hook that needs no connection of Airflow's.

        :param name: what messages call it, as a connection's id.
        :param host: another address than the vendor's own, None for that.
        """
        from airflow.providers.common.compat.sdk import Connection

        hook = cls(name)
        hook._connection = Connection(
            conn_id=name, conn_type=cls.conn_type, host=host, password=key, extra=json.dumps({"provider": provider})
        )
        return hook

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            try:
                self._connection = get_connection(self.conn_id)
            except AirflowNotFoundException:
                variable = f"AIRFLOW_CONN_{str(self.conn_id).upper()}"
                if os.environ.get(variable):
                    raise ConfigurationError(
                        f"Airflow cannot read connection {self.conn_id!r} from {variable}; write it as JSON: "
                        '{"conn_type": "llmbatch", "password": "...", "extra": {"provider": "openai"}}. Nothing was '
                        "sent."
                    ) from None
                raise ConfigurationError(
                    f"There is no connection {self.conn_id!r}. Add one of type 'llmbatch', with the vendor's key as "
                    'password and {"provider": "openai"} as extra. Nothing was sent.'
                ) from None
        return self._connection

    @cached_property
    def provider(self) -> Provider:
        """The vendor's protocol, configured.

        :raises ConfigurationError: when the connection names no or an unknown provider.
        """
        from airflow_llm_batch.providers.registry import provider_class

        extra = self.connection.extra_dejson
        if not isinstance(extra, Mapping):
            raise ConfigurationError(
                f"The extra of connection {self.conn_id!r} is JSON of a {type(extra).__name__}, perhaps encoded twice; "
                'give an object, for example {"provider": "openai"}. Nothing was sent.'
            )
        name = extra.get("provider")
        if not name:
            raise ConfigurationError(
                f"Connection {self.conn_id!r} names no provider; set 'provider' in its extra, for example "
                '{"provider": "openai"}. Nothing was sent.'
            )
        provider = provider_class(str(name))(base_url(self.connection), extra)
        if unknown := provider.options.unknown:
            self.log.warning(
                "Connection %r: the extra's %s mean nothing here; known are %s.",
                self.conn_id, ", ".join(map(repr, unknown)), ", ".join(provider.options.names()),
            )  # fmt: skip
        return provider

    @property
    def options(self) -> Options:
        """What the connection's extra says."""
        return self.provider.options

    def upload_file(self, path: Any, filename: str | None = None) -> str:
        """Upload a batch input file.

        :param path: URI, local path or ``ObjectStoragePath`` of a JSONL file; streamed, never held in memory.
        :return: the vendor's file id.
        :raises ConfigurationError: where the vendor takes no files (Anthropic: requests travel inside the create).
        """
        from airflow_llm_batch.storage import storage_path
        from airflow_llm_batch.transport import stored_payload

        source = storage_path(path)
        ref = self.run(self.provider.upload(filename or source.name, stored_payload(source)))
        if ref is None:
            raise ConfigurationError(
                f"{self.provider.name} takes no input files: give the requests to create_batch. Nothing was sent."
            )
        return ref

    def create_batch(
        self,
        input_file_id: str | None = None,
        *,
        endpoint: str = "/v1/chat/completions",
        requests: Any = None,
        metadata: Mapping[str, str] | None = None,
        model: str = "",
    ) -> Batch:
        """Create one batch, by hand and without the job directory's protection against a second submission.

        :param input_file_id: an uploaded file's id, where the vendor takes files.
        :param requests: URI or path of a JSONL file whose lines travel inside the create, where it does not.
        :param metadata: kept with the batch by vendors that keep it.
        :param model: of all its requests, where the vendor wants to hear it with the batch (Gemini).
        :raises VendorUnavailable: on a timeout, a cut connection or a 5xx; the batch may exist all the same.
        """
        from airflow_llm_batch.models import Shard
        from airflow_llm_batch.providers.bodies import Payload
        from airflow_llm_batch.storage import storage_path
        from airflow_llm_batch.transport import line_payload

        if (input_file_id is None) == (requests is None):
            raise ConfigurationError("Give create_batch either input_file_id or requests. Nothing was sent.")
        content = Payload(tuple, 0) if requests is None else line_payload(storage_path(requests))
        shard = Shard(endpoint=endpoint, model=model, metadata=dict(metadata or {}), bytes=content.size)
        return self.run(self.provider.create(shard, input_file_id, content))

    def get_batch(self, batch_id: str) -> Batch:
        """Read one batch."""
        return self.run(self.provider.get(batch_id))

    def list_batches(self, after: str | None = None, limit: int | None = None) -> Page:
        """One page of batches, newest first; pass its ``after`` back for the next one.

        :param limit: batches a page, the vendor's largest by default.
        """
        return self.run(self.provider.list(after, limit))

    def cancel_batch(self, batch_id: str) -> Batch:
        """Ask for cancellation; finished rows stay billed and can still be downloaded."""
        return self.run(self.provider.cancel(batch_id))

    def download(self, batch_id: str, destination: Any) -> int:
        """Write a batch's raw result lines, errors included, to one file.

        :param destination: URI, local path or ``ObjectStoragePath``; written whole or not at all.
        :return: bytes written.
        """
        from airflow_llm_batch.bounded import split_lines
        from airflow_llm_batch.storage import storage_path, whole_file

        target, batch = storage_path(destination), self.get_batch(batch_id)
        if batch.outcome is None:
            raise ConfigurationError(f"Batch {batch_id} is still {batch.status!r}; it has no results to download yet.")
        with whole_file(target) as file:
            for source in self.provider.results(batch):
                for body in self.bodies(source):
                    # The last line of a file need not be ended, and another file may follow.
                    for line in filter(bytes.strip, split_lines(body)):
                        file.write(self.transport.clean_line(line) + b"\n")
            return file.size

    def test_connection(self) -> tuple[bool, str]:
        """Ask the vendor for its newest batch: proves address, key and the permission to use batches. A server without
        batches is asked for its models."""
        try:
            seen = self.run(self.provider.probe())
        except LLMBatchError as error:
            return False, str(error)
        said = f"{self.provider.name} at {self.provider.base_url} accepts the key ({seen})."
        return True, self.transport.redact(said)

    @cached_property
    def transport(self) -> Transport:
        """The HTTP side: retries, timeouts, credentials.

        :raises ConfigurationError: when the vendor's own address is used without a key.
        """
        from airflow_llm_batch.providers.auth import Login
        from airflow_llm_batch.transport import Transport

        login = Login(self.conn_id, (self.connection.login or "").strip(), key_of(self.connection))
        chosen = self.options.model_dump(include={"retries", "timeout", "connect_timeout"}, exclude_none=True)
        return Transport(self.provider, login, **chosen)

    def run(self, flow: Flow[T]) -> T:
        """Drive a provider's flow to its value."""
        return self.transport.run(flow)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[LLMBatchHook]:
        """Open an asynchronous client; inside the block ``arun`` works."""
        from airflow.providers.common.compat.connection import get_async_connection

        if self._connection is None:
            try:
                self._connection = await get_async_connection(self.conn_id)
            except NOT_FOUND:
                # Under `airflow dags test` the asynchronous lookup sees environment variables only.
                self._connection = await asyncio.to_thread(get_connection, self.conn_id)
        # Importing and loading certificates takes a tenth of a second: not on the loop that other triggers share.
        transport = await asyncio.to_thread(lambda: self.transport)
        async with transport.session() as client:
            self._async_client = client
            yield self

    async def arun(self, flow: Flow[T]) -> T:
        """``run`` on an event loop, inside ``session``."""
        return await self.transport.arun(flow, self._async_client)

    def bodies(self, source: Source) -> Iterator[Iterator[bytes]]:
        """What lies at one of ``provider.results``'s sources: bodies of lines, each in chunks."""
        from airflow_llm_batch.providers.bodies import Located, Paged, Stored
        from airflow_llm_batch.storage import below, read_chunks

        if isinstance(source, Stored):
            yield from map(read_chunks, below(source.uri, source.pattern))
        elif isinstance(source, Paged):
            request: httpx.Request | None = source.request
            while request is not None:
                lines, request = source.read(self.transport.get(request))
                yield (line + b"\n" for line in lines)
        else:
            found = source.read(self.transport.get(source.request)) if isinstance(source, Located) else [source]
            for request in found:
                with self.transport.stream(request) as chunks:
                    yield chunks

    def vendor_time(self, moment: datetime) -> datetime | None:
        """A moment of ours by the vendor's clock, which every answer tells; None before there was one."""
        ahead = self.transport.clock_ahead
        return None if ahead is None else moment + timedelta(seconds=ahead)

    def get_conn(self) -> httpx.Client:
        """The HTTP client; it authenticates towards the configured host only."""
        return self.transport.client

    def close(self) -> None:
        """Close the HTTP client; it opens anew when the hook is used again."""
        if "transport" in self.__dict__:
            self.transport.close()
