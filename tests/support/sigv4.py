"""AWS's signatures, checked as a server checks them: reckoned once more from what came over the wire."""

from __future__ import annotations

import re
from urllib.parse import unquote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

GIVEN = re.compile(
    r"Credential=(\w+)/(\d+)/([a-z0-9-]+)/([\w-]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)"
)


class Verifying:
    """An ASGI middleware that counts signatures that are right, and keeps the calls whose are not.

    :param keys: access key to secret.
    """

    def __init__(self, app, keys, counted):
        self.app, self.keys, self.counted = app, keys, counted

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"].startswith("/_emulator"):
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        call = f"{scope['method']} {scope['path']}"
        self.counted["good" if is_signed(scope, body, self.keys) else call] += 1

        read = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again():
            # Who streams an answer listens on for a caller that leaves.
            return next(read, None) or await receive()

        await self.app(scope, again, send)


def is_signed(scope, body, keys):
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    given = GIVEN.search(headers.get("authorization", ""))
    if given is None or given[1] not in keys:
        return False
    key, _, region, service, names, signature = given.groups()
    query = scope["query_string"].decode()
    request = AWSRequest(
        scope["method"],
        f"http://{headers['host']}{scope['raw_path'].decode()}",
        headers={name: headers[name] for name in names.split(";") if name != "host"},
        params=[tuple(map(unquote, pair.partition("=")[::2])) for pair in query.split("&") if pair],
        data=body or None,
    )
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(key, keys[key]), service, region)
    return signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request) == signature
