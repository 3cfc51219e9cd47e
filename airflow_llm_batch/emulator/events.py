"""Events that a vendor pushes when a batch has ended, signed as its documentation says.

Source: standardwebhooks.com (symmetric signatures), OpenAI's webhook guide (``batch.*`` events), Gemini's (the same
headers; the batch's name as ``data.id``; for a single batch a JWT in place of the signature), OpenRouter's (cookbook,
webhooks of video jobs: a signature of time and body; ``batch.*`` from the types of ``openrouter`` 1.3).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

if TYPE_CHECKING:
    from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor

log = logging.getLogger(__name__)
#: tries of an event that gets no 2xx, and seconds before each
PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0)
WORDS = {"completed": "completed", "failed": "failed", "expired": "expired", "cancelled": "cancelled"}


def signed(secret: str, body: bytes, name: str, at: float) -> dict[str, str]:
    """Headers of an event.

    :param secret: ``whsec_`` and the key in base64.
    """
    key = base64.b64decode(secret.removeprefix("whsec_") + "==")
    to_sign = f"{name}.{int(at)}.".encode() + body
    signature = base64.b64encode(hmac.new(key, to_sign, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": f"v1,{signature}",
    }


def stamped(secret: str, body: bytes, name: str, at: float) -> dict[str, str]:
    """Headers of an event of OpenRouter's."""
    signature = hmac.new(secret.encode(), f"{int(at)},".encode() + body, hashlib.sha256).hexdigest()
    return {
        "content-type": "application/json",
        "x-openrouter-signature": f"t={int(at)},v1={signature}",
        "x-openrouter-idempotency-key": name,
    }


def event_of(batch: EmulatedBatch, phase: str, at: float) -> dict[str, Any]:
    """The body that tells of a batch's end."""
    if batch.dialect == "gemini":
        kind = {"completed": "succeeded"}.get(phase, phase)
        return {"type": f"batch.{kind}", "version": "v1", "timestamp": int(at), "data": {"id": f"batches/{batch.id}"}}
    if batch.dialect == "openrouter":
        created = datetime.fromtimestamp(at, UTC).isoformat()
        return {"type": f"batch.{phase}", "created_at": created, "data": {"id": batch.id, "status": phase}}
    return {
        "id": f"evt_{uuid.uuid4().hex}",
        "object": "event",
        "created_at": int(at),
        "type": f"batch.{WORDS[phase]}",
        "data": {"id": batch.id},
    }


class Keys:
    """The key pair with which Gemini's events of single batches are signed: RS256, its public half at
    ``/.well-known/jwks.json``."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex

    @cached_property
    def private(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def signed(self, body: bytes, name: str, url: str, at: float) -> dict[str, str]:
        """Headers of an event for one address."""
        claims = {"iss": "generativelanguage.googleapis.com", "aud": url, "iat": int(at), "exp": int(at) + 300}
        token = jwt.encode(claims, self.private, algorithm="RS256", headers={"kid": self.name})
        return {
            "content-type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": str(int(at)),
            "webhook-signature": token,
        }

    def public(self) -> dict[str, Any]:
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {"keys": [{**key, "kid": self.name, "use": "sig", "alg": "RS256"}]}


class Sender(threading.Thread):
    """Tells of each batch that has ended, once or as the faults say."""

    def __init__(self, vendor: Vendor, keys: Keys) -> None:
        super().__init__(name="llm-batch-emulator-events", daemon=True)
        self.vendor, self.keys = vendor, keys
        self.sent: set[str] = set()

    def run(self) -> None:
        while not self.vendor.over.wait(0.05):
            now = time.time()
            for batch in list(self.vendor.batches.values()):
                if not (self.vendor.settings.webhook_url or batch.webhooks):
                    continue
                view = batch.view(now)
                if view.ended_at is not None and batch.id not in self.sent:
                    self.sent.add(batch.id)
                    self.tell(batch, view.phase)

    def tell(self, batch: EmulatedBatch, phase: str) -> None:
        faults = self.vendor.settings.faults
        if faults.lost_events > 0:
            faults.lost_events -= 1
            return
        at = time.time()
        body = json.dumps(event_of(batch, phase, at)).encode()
        name = f"wh_{uuid.uuid4().hex}"
        secret = self.vendor.settings.webhook_secret
        if batch.dialect == "openrouter":
            signatures = {url: stamped(secret, body, f"{batch.id}-{phase}", at) for url in batch.webhooks}
        else:
            signatures = {url: self.keys.signed(body, name, url, at) for url in batch.webhooks}
        if url := self.vendor.settings.webhook_url:
            signatures[url] = signed(secret, body, name, at)
        for _ in range(1 + faults.repeated_events):
            for url, headers in signatures.items():
                self.deliver(url, body, headers)

    def deliver(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        for pause in PAUSES:
            if self.vendor.over.wait(pause):
                return
            try:
                if httpx.post(url, content=body, headers=headers, timeout=10).is_success:
                    return
            except httpx.HTTPError as error:
                log.info("An event found nobody: %s", error)
