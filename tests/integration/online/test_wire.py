"""The connection of one worker, against servers that close it, break it off, or say what nobody asked; direct, through
TLS, and through a proxy."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import socket
import ssl
import struct
from contextlib import asynccontextmanager

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_llm_batch.transport import ssl_context
from airflow_llm_batch.wire import Wire

WAYS = ["direct", "proxy", "tls", "tls and proxy"]


def said(text: bytes, *more: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"\r\n".join([b"HTTP/1.1 " + status, b"content-length: %d" % len(text), *more])
    return head + b"\r\n\r\n" + text


class Server:
    """Reads POSTs and does with each what ``answer(writer, number of the request)`` says.

    :ivar asked: the connection, from 0, and the body of every request.
    """

    def __init__(self, answer=None):
        self.answer = answer or self.echo
        self.asked = []
        self.connections = 0
        self.heads = []

    def echo(self, writer, number):
        writer.write(said(self.asked[number][1]))

    async def serve(self, reader, writer):
        connection, self.connections = self.connections, self.connections + 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.heads.append(head)
                self.asked.append((connection, await reader.readexactly(size)))
                done = self.answer(writer, len(self.asked) - 1)
                if asyncio.iscoroutine(done):
                    await done
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()


class Proxy:
    """Passes on to the one server: what is asked in full, and after CONNECT whatever comes."""

    def __init__(self, port):
        self.port = port
        self.asked = []

    async def serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b"\r\n")[0])
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            back.write(head)
        await asyncio.gather(passed(reader, back), passed(there, writer), return_exceptions=True)


async def passed(reader, writer):
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that signs for itself, for 127.0.0.1."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = serialization.Encoding.PEM
    hidden = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + hidden)
    return path


@pytest.fixture(params=WAYS)
def open_to(request, certificate, monkeypatch):
    """Opens a wire to a server, in one of the ways; a context manager."""
    way = request.param
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    ssl_context.cache_clear()

    @asynccontextmanager
    async def opened(server):
        tls = None
        if "tls" in way:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
        running = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
        port = running.sockets[0].getsockname()[1]
        proxy = Proxy(port)
        before = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        if "proxy" in way:
            at = f"http://127.0.0.1:{before.sockets[0].getsockname()[1]}"
            monkeypatch.setenv("HTTPS_PROXY" if tls else "HTTP_PROXY", at)
        origin = httpx.URL(f"{'https' if tls else 'http'}://127.0.0.1:{port}")
        wire = Wire(origin, {"authorization": "Bearer key-1"}, 5.0)
        assert (wire.proxy is not None) == ("proxy" in way)
        try:
            yield wire
        finally:
            await wire.close()
            running.close()
            before.close()
        if "proxy" in way:
            assert all(line.startswith(b"CONNECT" if tls else b"POST http://") for line in proxy.asked), proxy.asked
            assert proxy.asked

    yield opened
    ssl_context.cache_clear()


async def ask(wire, text=b"hello"):
    response = await wire.post(b"/v1/chat/completions?a=b%2Fc", {"content-type": "application/json"}, text)
    return response.content


def run(test):
    """A test's coroutine, to its end in time."""

    async def bounded():
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


def test_calls_share_a_connection(open_to):
    """Each request goes out once, with its own body, the same headers and the credentials."""

    async def test():
        server = Server()
        async with open_to(server) as wire:
            texts = [b"%d" % n * (n * 10_000 + 1) for n in range(20)]
            assert [await ask(wire, text) for text in texts] == texts
        assert server.asked == [(0, text) for text in texts]
        for head in server.heads:
            fields = head.lower().split(b"\r\n")
            assert fields[0].endswith(b"/v1/chat/completions?a=b%2fc http/1.1")
            for field in (b"authorization: bearer key-1", b"content-type: application/json"):
                assert fields.count(field) == 1
            assert sum(field.startswith((b"host:", b"content-length:")) for field in fields) == 2

    run(test())


def test_a_connection_that_was_closed_meanwhile_is_opened_again(open_to):
    """Nothing is sent into the one that is closed."""

    async def test():
        server = Server()
        server.answer = lambda writer, number: (server.echo(writer, number), writer.close())
        async with open_to(server) as wire:
            for number in range(3):
                assert await ask(wire, b"%d" % number) == b"%d" % number
                await asyncio.sleep(0.05)
        assert server.asked == [(n, b"%d" % n) for n in range(3)]

    run(test())


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"])
def test_one_that_is_closed_instead_of_an_answer_is_asked_again_unless_one_has_begun(open_to, begun):
    """Whether the server has closed it before it saw the request cannot be told; once it answers, it can."""

    async def test():
        server = Server()

        def answer(writer, number):
            if number == 1:
                writer.write(begun)
                writer.close()
            else:
                server.echo(writer, number)

        server.answer = answer
        async with open_to(server) as wire:
            assert await ask(wire, b"0") == b"0"
            if begun:
                with pytest.raises(httpx.RequestError):
                    await ask(wire, b"1")
            else:
                assert await ask(wire, b"1") == b"1"
            assert await ask(wire, b"2") == b"2"
        assert [text for _, text in server.asked] == ([b"0", b"1", b"2"] if begun else [b"0", b"1", b"1", b"2"])

    run(test())


def test_a_new_one_that_is_closed_is_not_asked_again(open_to):
    """It was not kept open too long: the server has seen the request."""

    async def test():
        server = Server(lambda writer, number: writer.close())
        async with open_to(server) as wire:
            with pytest.raises(httpx.RequestError):
                await ask(wire)
        assert len(server.asked) == 1

    run(test())


def test_what_a_server_says_unasked_is_no_answer(open_to):
    """Load balancers say 408 on a connection that is idle; taken for an answer, every later one would be another's."""

    async def test():
        server = Server()

        def answer(writer, number):
            server.echo(writer, number)
            asyncio.get_running_loop().call_later(0.05, writer.write, said(b"late", status=b"408 Request Timeout"))

        server.answer = answer
        async with open_to(server) as wire:
            for number in range(3):
                assert await ask(wire, b"%d" % number) == b"%d" % number
                await asyncio.sleep(0.15)
        assert server.asked == [(n, b"%d" % n) for n in range(3)]

    run(test())


@pytest.mark.parametrize("begun", [0, 10, 100])
def test_a_call_that_is_given_up_leaves_nothing_to_the_next(open_to, begun):
    """Its answer, which comes late or has begun to come, is nobody's."""

    async def test():
        server = Server()

        async def answer(writer, number):
            whole = said(server.asked[number][1])
            writer.write(whole[:begun])
            await asyncio.sleep(0.3 if number == 0 else 0)
            writer.write(whole[begun:])

        server.answer = answer
        async with open_to(server) as wire:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await ask(wire, b"0" * 100)
            await asyncio.sleep(0.3)
            assert await ask(wire, b"1") == b"1"
        assert [text for _, text in server.asked] == [b"0" * 100, b"1"]

    run(test())


def test_an_answer_without_a_length_ends_with_the_connection(open_to):
    async def test():
        server = Server()

        async def answer(writer, number):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
            await writer.drain()
            writer.write(b"end")
            writer.close()

        server.answer = answer
        async with open_to(server) as wire:
            assert await ask(wire) == b"x" * 100_000 + b"end"
            assert await ask(wire) == b"x" * 100_000 + b"end"
        assert server.connections == 2

    run(test())


@pytest.mark.parametrize("open_to", ["direct", "tls"], indirect=True)
def test_an_answer_without_a_length_that_breaks_off_is_not_whole(open_to):
    """A reset is no end."""

    async def test():
        server = Server()

        async def answer(writer, number):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000)
            await asyncio.sleep(0.05)
            lingering = writer.get_extra_info("socket")
            lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        server.answer = answer
        async with open_to(server) as wire:
            with pytest.raises(httpx.ReadError):
                await ask(wire)

    run(test())


def test_hints_come_before_an_answer_and_gzip_is_unpacked(open_to):
    async def test():
        packed = said(gzip.compress(b"hello"), b"content-encoding: gzip", b"x-request-id: r-1")
        server = Server(lambda writer, number: writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + packed))
        async with open_to(server) as wire:
            for _ in range(2):
                response = await wire.post(b"/", {}, b"{}")
                assert (response.status_code, response.content) == (200, b"hello")
                assert dict(response.headers) == {"x-request-id": "r-1", "content-length": "5"}
        assert server.connections == 1

    run(test())


def test_a_refusal_that_comes_before_the_body_is_read_is_heard(open_to):
    """Servers refuse a body that is too long while it is still coming."""

    async def test():
        server = Server()

        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said(b'{"error": "too long"}', b"connection: close", status=b"413 Content Too Large"))
            await writer.drain()
            while await reader.read(2**16):
                pass
            writer.close()

        server.serve = serve
        async with open_to(server) as wire:
            response = await wire.post(b"/", {}, b"x" * 5_000_000)
            assert (response.status_code, response.json()) == (413, {"error": "too long"})

    run(test())


@pytest.mark.parametrize("open_to", ["direct", "tls"], indirect=True)
def test_a_server_that_is_not_there_or_is_another_is_no_connection(open_to, monkeypatch):
    """Refused; and, over TLS, a certificate that nobody vouches for."""

    async def test():
        server = Server()
        async with open_to(server) as wire:
            monkeypatch.delenv("SSL_CERT_FILE")
            ssl_context.cache_clear()
            if wire.origin.scheme == "https":
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await ask(wire)
                assert server.asked == []
        gone = Wire(wire.origin, {}, 5.0)
        with pytest.raises(httpx.ConnectError):
            await ask(gone)

    run(test())
