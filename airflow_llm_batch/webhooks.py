"""What vendors push: proved by its signature, kept once, found by whoever waits.

{storage}/_events/{connection}/{day}/{event}.json     created by exactly one writer before the vendor is answered

The event is a hint and nothing more: whoever is woken by it looks at the batch itself.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from airflow_llm_batch.models import Fact
from airflow_llm_batch.providers.batches import moment
from airflow_llm_batch.providers.coerce import members, word
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.storage import below, create_exclusive, fresh, read_small, remove, storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.signing_keys import SigningKeys

FOLDER = "_events"
#: a day as its folder is called
DAY = "%Y%m%d"
#: seconds by which an event may be older, or newer, than now
TOLERANCE = 300.0
#: the header of a signature that a shared secret makes of the body alone
SHARED = "x-hub-signature-256"
#: OpenRouter's header, ``t=SECONDS,v1=HEX``: its secret has signed the time, a comma and the body
STAMPED = "x-openrouter-signature"
#: the last words of kinds that tell of an end: OpenAI's, Azure's, Gemini's, and the usual words of gateways
ENDS = frozenset({"completed", "failed", "expired", "cancelled", "canceled", "succeeded", "ended", "finalized"})
#: in a signature that is a JWT
DOTS = 2
#: where an event may name its batch
NAMED = (("data", "id"), ("data", "batch_id"), ("batch_id",), ("data", "object", "id"), ("id",))


class NotAuthentic(Exception):
    """A request that the connection's secret has not signed, or not lately."""


class Event(Fact):
    """What a vendor tells.

    :param batch: the vendor's id of the batch that it tells of.
    :param bound: the signature is of the body. Where it proves the sender alone, the event is good for a look and no
        more.
    """

    id: str
    kind: str
    batch: str
    at: datetime
    bound: bool = True

    @property
    def names(self) -> set[str]:
        """What its batch may be called: Gemini's are named ``batches/...``, and are known by either."""
        return {self.batch, self.batch.rpartition("/")[2]} - {""}

    @property
    def is_end(self) -> bool:
        """Whether it tells that its batch has ended."""
        return self.bound and bool(self.batch) and self.kind.rpartition(".")[2].lower() in ENDS


def verified(
    secret: str, headers: Mapping[str, str], body: bytes, now: datetime, keys: SigningKeys | None = None, url: str = ""
) -> Event:
    """The event that a request carries.

    Signed as standardwebhooks.com says (OpenAI, Azure OpenAI, Gemini), as OpenRouter says, by the vendor's own key
    (Gemini, for a single batch), or by ``x-hub-signature-256``, which anything with a shared secret can make; the body
    has to tell its time then.

    :param secret: "" for none.
    :param headers: names in lower case.
    :param keys: the vendor's, None where it signs with the secret alone.
    :param url: whom the vendor's own signature has to be for, where it says so.
    :raises NotAuthentic: for a wrong or missing signature, and for an old one.
    """
    bound = keys is None or headers.get("webhook-signature", "").count(".") != DOTS
    if keys is not None and not bound:
        event, name = read(body), signed_by(keys, headers, url, now)
    elif not secret:
        raise NotAuthentic
    elif "webhook-signature" in headers:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError, TypeError, ArithmeticError):
            raise NotAuthentic from None
        event, name = read(body), headers["webhook-id"]
    elif STAMPED in headers:
        check_stamp(secret, headers[STAMPED], body, now)
        # Its name for the event is in a header that nobody has signed.
        event, name = read(body), hashlib.sha256(body).hexdigest()
    elif SHARED in headers:
        made = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(f"sha256={made}".encode(), headers[SHARED].strip().lower().encode()):
            raise NotAuthentic
        event = read(body)
        at = moment(event.get("created_at") or event.get("timestamp"))
        if at is None or abs((now - at).total_seconds()) > TOLERANCE:
            raise NotAuthentic
        name = word(event.get("id")) or hashlib.sha256(body).hexdigest()
    else:
        raise NotAuthentic
    kind = word(event.get("type")) or word(event.get("status")) or ""
    return Event(id=name, kind=kind, batch=batch_of(event), at=now, bound=bound)


def check_stamp(secret: str, header: str, body: bytes, now: datetime) -> None:
    """:raises NotAuthentic: for a body that the secret has not signed together with its time, or not lately."""
    parts = dict(part.strip().partition("=")[::2] for part in header.split(","))
    stamp = parts.get("t", "")
    made = hmac.new(secret.encode(), f"{stamp},".encode() + body, hashlib.sha256).hexdigest()
    at = moment(stamp)
    is_lately = at is not None and abs((now - at).total_seconds()) <= TOLERANCE
    if not hmac.compare_digest(made.encode(), parts.get("v1", "").encode()) or not is_lately:
        raise NotAuthentic


def signed_by(keys: SigningKeys, headers: Mapping[str, str], url: str, now: datetime) -> str:
    """The name of an event that the vendor itself has signed for us, lately.

    :raises NotAuthentic: for any other.
    """
    try:
        claims = keys.claims(headers["webhook-signature"])
    except jwt.PyJWTError:
        raise NotAuthentic from None
    at = moment(headers.get("webhook-timestamp"))
    audience = claims.get("aud", url)
    is_ours = url in (audience if isinstance(audience, list) else [audience])
    name = headers.get("webhook-id")
    if not is_ours or not name or at is None or abs((now - at).total_seconds()) > TOLERANCE:
        raise NotAuthentic
    return name


def read(body: bytes) -> dict[str, Any]:
    try:
        return parse_line(body)
    except (ValueError, RecursionError):
        return {}


def batch_of(event: Mapping[str, Any]) -> str:
    """The batch that a body names, "" for none."""
    for path in NAMED:
        found: Any = event
        for name in path:
            found = members(found).get(name)
        if isinstance(found, str) and found:
            return found
    return ""


class Mailbox:
    """The events of one connection.

    :param storage: URI of the storage that the API server and the triggerers share.
    """

    def __init__(self, storage: str, conn_id: str) -> None:
        self.root: ObjectStoragePath = storage_path(storage.rstrip("/")) / FOLDER / folder_of(conn_id)

    def day(self, at: datetime) -> ObjectStoragePath:
        return self.root / at.astimezone(UTC).strftime(DAY)

    def keep(self, event: Event) -> bool:
        """Keep an event; False when it was kept before, yesterday too.

        :raises Exception: when the store fails.
        """
        name = f"{hashlib.sha256(event.id.encode()).hexdigest()[:32]}.json"
        if read_small(self.day(event.at - timedelta(days=1)) / name) is not None:
            return False
        return create_exclusive(self.day(event.at) / name, event.dump())

    def names(self, now: datetime) -> set[str]:
        """The files of the events of today, and around midnight of the day before: one listing each."""
        found: set[str] = set()
        for day in sorted({at.astimezone(UTC).strftime(DAY) for at in (now - timedelta(hours=1), now)}):
            folder = self.root / day
            try:
                found.update(str(name) for name in fresh(folder).fs.ls(folder.path, detail=False))
            except FileNotFoundError:
                continue
        return {name for name in found if name.endswith(".json")}

    def events(self, names: set[str]) -> Iterator[Event]:
        """What some of these files hold; one that cannot be read is nobody's."""
        for name in sorted(names):
            day, file = name.rstrip("/").rsplit("/", 2)[-2:]
            data = read_small(self.root / day / file)
            try:
                yield Event.model_validate_json(data or b"")
            except ValidationError:
                continue


def folder_of(conn_id: str) -> str:
    """A connection as a folder: readable, and never equal for two of them."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', conn_id)}-{hashlib.sha256(conn_id.encode()).hexdigest()[:8]}"


def forget_events(storage: str, before: datetime) -> int:
    """Remove the events of days before a moment, and how many there were; those that a repeat is known by are kept."""
    limit = min(before, datetime.now(UTC) - timedelta(days=2)).astimezone(UTC).strftime(DAY)
    old = [file for file in below(f"{storage.rstrip('/')}/{FOLDER}", "*.json") if file.parent.name < limit]
    for file in old:
        remove(file)
    return len(old)
