"""Files sent over HTTP, streamed from disk, to checked addresses."""

from __future__ import annotations

import asyncio
import logging
import ssl

import httpx
import pytest
from sources.puts import storing

from handler.delivery.base import PutFailed
from handler.delivery.http_put import Body, HttpPut
from handler.errors import UrlNotAllowed
from handler.inputs.address import AddressPolicy


@pytest.fixture
async def http(threads):
    sender = HttpPut(AddressPolicy("127.0.0.1"), threads, connect_timeout_s=2, idle_timeout_s=2)
    yield sender
    await sender.close()


async def test_a_file_goes_out_whole_with_its_length(http, store, item, progress):
    """Block by block; progress tells of each."""
    file = item("a.bin", 2_500_000)

    reply = await http.send(
        "PUT",
        httpx.URL(store.url("/a.bin?b=c")),
        {"Content-Type": "x/y"},
        Body(file.path, file.size),
        progress,
    )

    (put,) = store.puts
    assert (reply.status, reply.good, reply.headers["etag"]) == (201, True, '"e1"')
    assert (put.method, put.path, put.query) == ("PUT", "/a.bin", "b=c")
    assert put.body == file.path.read_bytes()
    assert put.headers["content-length"] == "2500000"
    assert "transfer-encoding" not in put.headers
    assert put.headers["content-type"] == "x/y"
    assert progress.told == [1 << 20, 2 << 20, 2_500_000]


async def test_parts_of_a_file_bytes_and_nothing_can_be_sent(http, store, item):
    """From an offset on; an empty file."""
    file, empty = item("a.bin", 100), item("e.bin", 0)
    for body in (Body(file.path, 100, 60), Body(content=b"{}"), Body(empty.path, 0), Body()):
        await http.send("POST", httpx.URL(store.url("/x")), {}, body)

    assert [put.body for put in store.puts] == [file.path.read_bytes()[60:], b"{}", b"", b""]


async def test_an_address_that_is_not_allowed_is_not_dialled(threads, store, item):
    """By its name or its number."""
    http = HttpPut(AddressPolicy(""), threads)

    with pytest.raises(UrlNotAllowed):
        await http.send("PUT", httpx.URL(store.url("/a")), {}, Body())
    assert store.puts == []


async def test_a_connection_that_breaks_or_is_silent_may_do_the_next_time(
    http, store, item, free_port
):
    """Told without addresses."""
    file = item("a.bin", 5_000_000)
    store.drops = 1
    with pytest.raises(PutFailed, match="connection was lost") as lost:
        await http.send("PUT", httpx.URL(store.url("/a")), {}, Body(file.path, file.size))
    store.gate = asyncio.Event()
    with pytest.raises(PutFailed, match="fell silent") as silent:
        await http.send("PUT", httpx.URL(store.url("/a")), {}, Body(file.path, file.size))
    with pytest.raises(PutFailed, match="cannot be connected to") as closed:
        await http.send("PUT", httpx.URL(f"http://127.0.0.1:{free_port}/"), {}, Body())
    for fault in (lost, silent, closed):
        assert fault.value.passing
        assert "127.0.0.1" not in str(fault.value)


async def test_a_file_that_is_gone_or_too_short_is_told(http, store, item, tmp_path):
    """No other bytes are sent for it."""
    file = item("a.bin", 100)
    with pytest.raises(PutFailed, match="100 bytes in place of 200"):
        await http.send("PUT", httpx.URL(store.url("/a")), {}, Body(file.path, 200))
    with pytest.raises(PutFailed, match="cannot be read") as caught:
        await http.send("PUT", httpx.URL(store.url("/a")), {}, Body(tmp_path / "none", 5))
    assert not caught.value.passing
    assert store.files == {}


@pytest.mark.parametrize(
    ("status", "headers", "passing", "told"),
    [
        (403, {"Content-Type": "text/plain"}, False, "403 so what"),
        (500, {}, True, "500 so what"),
        (501, {}, False, "501"),
        (429, {"Retry-After": "7"}, True, "429"),
        (302, {"Location": "https://u:p@e.org/?t=canary"}, False, "redirects to https://e.org/"),
    ],
)
async def test_refusals_say_whether_another_try_may_do(http, store, status, headers, passing, told):
    """In the server's words; redirects are not followed."""
    store.replies.append((status, headers, "so what"))

    reply = await http.send("PUT", httpx.URL(store.url("/a")), {}, Body())
    fault = reply.refusal()

    assert not reply.good
    assert (fault.status, fault.passing) == (status, passing)
    assert told in fault.why
    assert fault.retry_after_s == (7.0 if status == 429 else None)
    assert "canary" not in fault.why


async def test_no_url_is_logged(http, store, caplog):
    """A presigned one is a secret as a whole."""
    with caplog.at_level(logging.INFO):
        await http.send("PUT", httpx.URL(store.url("/a?sig=canary4711")), {}, Body())

    assert "canary4711" not in caplog.text


async def test_a_name_is_verified_though_an_address_is_dialled(threads, certificate):
    """A certificate that is not trusted is no passing fault."""
    server, chain = certificate
    trusting = ssl.create_default_context(cafile=chain)
    async with storing(server) as store:
        url = httpx.URL(store.url("/a", "localhost"))
        for trust in (None, trusting):
            http = HttpPut(AddressPolicy("localhost"), threads, trust=trust)
            if trust is None:
                with pytest.raises(PutFailed, match="certificate") as caught:
                    await http.send("PUT", url, {}, Body())
                assert not caught.value.passing
            else:
                assert (await http.send("PUT", url, {}, Body())).good
            await http.close()
