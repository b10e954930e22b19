"""Libraries held to the address that the policy checked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import boto3
import pytest
import requests
from botocore.exceptions import HTTPClientError
from sources.puts import storing

from handler.delivery.pinned import Lines, PinnedSender, dialled, pinned_session


def client(endpoint, sender):
    made = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
    )
    made.meta.events.register_first("before-send.s3", sender)
    close = made.close
    made.close = lambda: (close(), sender.close())
    return made


async def put(made):
    return await asyncio.to_thread(lambda: made.put_object(Bucket="b", Key="k", Body=b"x"))


async def test_boto3_goes_to_the_address_with_the_name(store):
    """The name is nowhere to be looked up."""
    endpoint = store.url(host="store.test").rstrip("/")

    made = client(endpoint, PinnedSender(endpoint, "127.0.0.1", 5))
    answer = await put(made)
    made.close()

    assert answer["ETag"] == '"e1"'
    (sent,) = store.puts
    assert (sent.path, sent.headers["host"]) == ("/b/k", f"store.test:{store.port}")


async def test_boto3_is_not_led_to_another_host(store):
    """Nor to another port."""
    endpoint = store.url(host="store.test")
    sender = PinnedSender("http://store.test:1", "127.0.0.1", 5)

    made = client(endpoint, sender)
    with pytest.raises(HTTPClientError, match="another host"):
        await put(made)
    made.close()
    assert store.puts == []


async def test_a_connection_that_fails_is_one_of_the_librarys_faults(free_port):
    """Which it tries again; the text has no address."""
    endpoint = f"http://store.test:{free_port}"
    made = client(endpoint, PinnedSender(endpoint, "127.0.0.1", 5))

    with pytest.raises(HTTPClientError) as caught:
        await put(made)
    made.close()
    assert "127.0.0.1" not in str(caught.value)


async def test_boto3_verifies_the_name(certificate):
    """And no other one."""
    server, chain = certificate
    async with storing(server) as store:
        for host, good in (("files.test", True), ("other.test", False)):
            endpoint = store.url(host=host)
            trust = ssl.create_default_context(cafile=chain)
            made = client(endpoint, PinnedSender(endpoint, "127.0.0.1", 5, trust))
            if good:
                await put(made)
            else:
                with pytest.raises(HTTPClientError):
                    await put(made)
            made.close()
        assert [sent.headers["host"] for sent in store.puts] == [f"files.test:{store.port}"]


async def test_azures_session_goes_to_the_address_with_the_name(store, certificate):
    """Over TLS, too; there is no other host for it."""
    with pinned_session(store.url(host="store.test"), "127.0.0.1") as session:
        url = store.url("/c/b?x=1", "store.test")
        answer = await asyncio.to_thread(lambda: session.put(url, data=b"x"))
        assert answer.status_code == 201
        with pytest.raises(requests.exceptions.InvalidSchema):
            session.get("http://169.254.169.254/")
    assert (store.puts[0].query, store.puts[0].body) == ("x=1", b"x")
    assert store.puts[0].headers["host"] == f"store.test:{store.port}"

    server, chain = certificate
    async with storing(server) as secure:
        for host, good in (("files.test", True), ("other.test", False)):
            with pinned_session(secure.url(host=host), "127.0.0.1") as session:
                url = secure.url("/x", host)
                sending = asyncio.to_thread(lambda: session.put(url, verify=str(chain)))  # noqa: B023
                if good:
                    assert (await sending).status_code == 201
                else:
                    with pytest.raises(requests.exceptions.SSLError):
                        await sending


def test_an_address_of_the_older_kind_is_preferred():
    """Where there is one."""
    assert dialled(["::1", "127.0.0.1"]) == "127.0.0.1"
    assert dialled(["::1"]) == "::1"


async def test_a_port_that_goes_without_saying_is_not_said():
    """The signature is over the header without it."""
    heard = []

    async def hear(reader, writer):
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pinned_session("http://store.test:80", "127.0.0.1") as session:
        (adapter,) = session.adapters.values()
        here = requests.Request("GET", f"http://store.test:{port}/").prepare()
        await asyncio.to_thread(lambda: adapter.send(here).close())
    server.close()
    await server.wait_closed()

    assert b"Host: store.test\r\n" in heard[0]


@contextlib.asynccontextmanager
async def dripping(tls=None):
    """A server that begins to answer, and never ends; give its port and what tells of a request."""
    asked = asyncio.Event()

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
            await writer.drain()
            asked.set()
            while await reader.read(1 << 16):
                continue
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_sender_that_is_closed_hangs_up_amid_a_request(certificate, scheme):
    """Else a server that never says its last word holds a thread for ever."""
    server, chain = certificate
    tls = server if scheme == "https" else None
    async with dripping(tls) as (port, asked):
        endpoint = f"{scheme}://files.test:{port}"
        trust = ssl.create_default_context(cafile=chain) if tls else None
        made = client(endpoint, PinnedSender(endpoint, "127.0.0.1", 60, trust))
        putting = asyncio.create_task(put(made))
        await asked.wait()

        made.close()

        with pytest.raises(HTTPClientError):
            await asyncio.wait_for(putting, 10)


async def test_a_session_hangs_up_when_its_lines_are_cut():
    """And takes up no other line."""
    lines = Lines()
    async with dripping() as (port, asked):
        endpoint = f"http://store.test:{port}"
        with pinned_session(endpoint, "127.0.0.1", lines) as session:
            asking = asyncio.create_task(asyncio.to_thread(session.get, endpoint, timeout=60))
            await asked.wait()

            lines.cut()

            with pytest.raises(requests.RequestException):
                await asyncio.wait_for(asking, 10)
            with pytest.raises(requests.RequestException):
                await asyncio.wait_for(asyncio.to_thread(session.get, endpoint, timeout=60), 10)
