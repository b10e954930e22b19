"""Connections to checked addresses only."""

from __future__ import annotations

import ssl

import httpx
import pytest
from aiohttp import web

from handler.errors import UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.inputs.transport import PinnedTransport


@pytest.fixture
async def port():
    async def echo(request):
        return web.Response(text=f"{request.host} {request.path_qs}")

    runner = web.ServerRunner(web.Server(echo))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def client(allow: str, *answers: str) -> httpx.AsyncClient:
    async def resolver(host: str, port: int) -> list[str]:
        return list(answers)

    transport = PinnedTransport(AddressPolicy(allow, resolver), ssl.create_default_context())
    return httpx.AsyncClient(transport=transport, trust_env=False)


async def test_the_address_is_dialled_and_the_name_is_sent(port):
    """The server sees the name; the request that the client keeps has it, too."""
    async with client("127.0.0.1", "127.0.0.1") as http:
        response = await http.get(f"http://name.test:{port}/a?b=c")

    assert response.text == f"name.test:{port} /a?b=c"
    assert response.request.url.host == "name.test"


async def test_a_name_beyond_ascii_is_resolved_as_dns_has_it(port):
    """The policy is asked for the encoded form."""
    async with client("xn--mnchen-3ya.test", "127.0.0.1") as http:
        response = await http.get(f"http://münchen.test:{port}/")
    assert response.text.startswith("xn--mnchen-3ya.test:")


async def test_the_first_address_that_answers_is_taken(port):
    """A refused connection leads on to the next address."""
    async with client("127.0.0.0/8", "127.0.0.2", "127.0.0.1") as http:
        assert (await http.get(f"http://name.test:{port}/")).is_success


async def test_where_no_address_answers_the_last_fault_is_told(port):
    """As httpx tells it."""
    async with client("127.0.0.0/8", "127.0.0.2", "127.0.0.3") as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://name.test:{port}/")


async def test_a_refused_name_is_not_dialled(port):
    """The policy's error passes through httpx unchanged."""
    async with client("", "127.0.0.1") as http:
        with pytest.raises(UrlNotAllowed):
            await http.get(f"http://name.test:{port}/")
