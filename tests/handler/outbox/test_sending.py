"""One POST, to receivers of every kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import socket
import ssl
import time
import tracemalloc

import pytest
from pydantic import SecretStr
from receiver import SECRET, receiving, self_signed

from handler.errors import InvalidPayload, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.outbox.letter_file import open_letter, write_letter
from handler.outbox.records import Letter
from handler.outbox.sealed import Seal
from handler.outbox.sending import Sender, parsed_url

SEAL = Seal(SECRET)
BODY = b'{"type": "prompt.complete"}'


@pytest.fixture
async def receiver():
    async with receiving() as running:
        yield running


@contextlib.asynccontextmanager
async def sending(allow="127.0.0.1", **options):
    made = Sender(AddressPolicy(allow), **{"secret": SECRET, **options})
    yield made
    await made.close()


async def send(sender, folder, url, **changes):
    """Send a letter once, and give what came of it."""
    path = folder / f"{time.time_ns()}"
    letter = Letter(**{"url": url, "body": BODY, "message_id": "job-1", "kind": "x", **changes})
    posted = write_letter(letter, path, 1.0, SEAL)
    answer = await sender.send(posted, open_letter(path, SEAL))
    await answer.close()
    return answer.reply


async def test_post_is_what_receivers_libraries_take(receiver, tmp_path):
    """JSON, with id, time and signature, byte for byte."""
    async with sending() as sender:
        reply = await send(
            sender, tmp_path, receiver.url("/hook?a=b"), headers={"traceparent": "t"}
        )

    (post,) = receiver.posts
    assert (reply.status, reply.said) == (200, "200 OK")
    assert (post.path, post.body, post.id) == ("/hook?a=b", BODY, "job-1")
    assert post.headers["content-type"] == "application/json"
    assert post.headers["traceparent"] == "t"
    assert abs(int(post.headers["webhook-timestamp"]) - time.time()) < 5
    post.verify()


async def test_secret_of_the_letter_wins(receiver, tmp_path):
    """Also in its bare form, as the contract's check value is."""
    secret = SecretStr("testsecret")
    async with sending() as sender:
        await send(sender, tmp_path, receiver.url(), secret=secret)
    receiver.posts[0].verify("testsecret==")


async def test_id_beyond_ascii_still_verifies(receiver, tmp_path):
    """It is written so that both sides sign the same."""
    async with sending() as sender:
        await send(sender, tmp_path, receiver.url(), message_id="jöb\r\nX: 1")
    assert receiver.posts[0].id == "j%C3%B6b%0D%0AX%3A%201"
    receiver.posts[0].verify()


async def test_unsigned_says_so(receiver, tmp_path, caplog):
    """In the log once, and in a header; there is never a signature with an empty key."""
    caplog.set_level(logging.WARNING)
    async with sending(secret="") as sender:
        for _ in range(2):
            await send(sender, tmp_path, receiver.url())
        await send(sender, tmp_path, receiver.url(), signed=False)

    assert [post.headers.get("webhook-unsigned") for post in receiver.posts] == ["true"] * 2 + [
        None
    ]
    assert not any("webhook-signature" in post.headers for post in receiver.posts)
    assert [r.getMessage() for r in caplog.records].count(
        "WEBHOOK_SECRET is not set: webhooks are sent unsigned"
    ) == 1


async def test_letter_that_shall_not_be_signed_is_not(receiver, tmp_path):
    """comfyui-api's legacy webhooks."""
    async with sending() as sender:
        await send(sender, tmp_path, receiver.url(), signed=False)
    assert "webhook-signature" not in receiver.posts[0].headers


async def test_user_and_password_become_a_header(receiver, tmp_path, caplog):
    """They are in no log."""
    caplog.set_level(logging.DEBUG)
    url = receiver.url().replace("http://", "http://us%40er:pass-canary@") + "#part"
    async with sending() as sender:
        await send(sender, tmp_path, url)

    (post,) = receiver.posts
    assert base64.b64decode(post.headers["authorization"].split()[1]) == b"us@er:pass-canary"
    assert post.path == "/hook"
    assert "canary" not in caplog.text


async def test_large_body_is_streamed(receiver, tmp_path):
    """24 MB pass through without being in memory, and the signature is right."""
    body = tmp_path / "body"
    body.write_bytes(b'"' + base64.b64encode(os.urandom(18 << 20)) + b'"')
    async with sending() as sender:
        await send(sender, tmp_path, receiver.url())  # what is loaded once
        path = tmp_path / "large"
        letter = Letter(url=receiver.url(), body=body, message_id="a", kind="x")
        posted = write_letter(letter, path, 1.0, SEAL)
        tracemalloc.start()
        request = await sender._request(posted, open_letter(path, SEAL))
        size = 0
        async for chunk in request.stream:
            size += len(chunk)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size == body.stat().st_size
        assert peak < 4 << 20

        assert (await send(sender, tmp_path, receiver.url(), body=body)).status == 200
    assert receiver.posts[-1].body == body.read_bytes()
    receiver.posts[-1].verify()


@pytest.mark.parametrize("status", [404, 410, 500])
async def test_what_the_receiver_says_is_told(receiver, tmp_path, status):
    """Its status; its body is discarded."""
    receiver.replies["/hook"] = [(status, "Retry-After: 7\r\n")]
    async with sending() as sender:
        reply = await send(sender, tmp_path, receiver.url())
    assert (reply.status, reply.retry_after, reply.hopeless) == (status, "7", False)


async def test_redirects_are_not_followed(receiver, tmp_path):
    """The address was checked, the next one was not."""
    receiver.replies["/hook"] = [(307, f"Location: {receiver.url('/other')}\r\n")]
    async with sending() as sender:
        reply = await send(sender, tmp_path, receiver.url())
    assert (reply.status, "redirects are not followed" in reply.said) == (307, True)
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("reply", ["hang", "drip"])
async def test_silent_and_slow_receivers_end_in_time(receiver, tmp_path, reply):
    """A byte now and then is no answer: the limit is for the whole try."""
    receiver.replies["/hook"] = [reply]
    begun = time.monotonic()
    async with sending(timeout_s=0.3) as sender:
        told = await send(sender, tmp_path, receiver.url())
    assert time.monotonic() - begun < 3
    assert (told.status, told.said.startswith("no answer within 0.3")) == (None, True)


async def test_answer_whose_body_never_ends_is_left(receiver, tmp_path):
    """The status is what counts."""

    async def endless(reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with sending() as sender:
        assert (await send(sender, tmp_path, url)).status == 200
    server.close()
    await server.wait_closed()


async def test_receiver_that_hangs_up_is_told(receiver, tmp_path):
    """Amid its answer, or before there is one."""
    receiver.replies["/hook"] = ["cut"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        async with sending() as sender:
            for url in (receiver.url(), nobody):
                reply = await send(sender, tmp_path, url)
                assert (reply.status, reply.hopeless) == (None, False)
                assert reply.said


async def test_receiver_that_nobody_certifies_gets_nothing(tmp_path):
    """Not even the headers; one that is trusted does."""
    chain, key = self_signed(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(chain, key)
    async with receiving(server) as receiver:
        async with sending() as sender:
            reply = await send(sender, tmp_path, receiver.url())
            assert (reply.status, receiver.posts) == (None, [])
            assert "certificate" in reply.said
        async with sending(verify=ssl.create_default_context(cafile=chain)) as sender:
            assert (await send(sender, tmp_path, receiver.url())).status == 200


async def test_refused_address_is_not_dialled(receiver, tmp_path):
    """And no further try is of use."""
    async with sending(allow="") as sender:
        reply = await send(sender, tmp_path, receiver.url())
    assert (reply.status, reply.hopeless, receiver.posts) == (None, True, [])


async def test_name_that_is_not_resolved_may_be_later(tmp_path):
    """DNS fails now and then."""

    async def resolver(host, port):
        raise OSError("no such name")

    sender = Sender(AddressPolicy("", resolver))
    reply = await send(sender, tmp_path, "https://hooks.example.org/x")
    assert (reply.status, reply.hopeless) == (None, False)
    await sender.close()


async def test_letter_whose_file_was_cut_is_not_sent_half(receiver, tmp_path):
    """It is told, and nothing is delivered."""
    path = tmp_path / "7"
    letter = Letter(url=receiver.url(), body=BODY, message_id="a", kind="x")
    posted = write_letter(letter, path, 1.0, SEAL)
    path.write_bytes(path.read_bytes()[:-3])
    async with sending() as sender:
        answer = await sender.send(posted, open_letter(path, SEAL))
        await answer.close()
    assert (answer.reply.status, receiver.posts) == (None, [])


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://e.org/", "http://", "http://[", "http://a b/", f"http://e.org/{'x' * 9000}"],
)
async def test_what_is_no_url_is_refused(url):
    """Before a job is queued."""
    with pytest.raises(InvalidPayload):
        parsed_url(url)
    async with sending() as sender:
        with pytest.raises(InvalidPayload):
            await sender.check(url)


async def test_address_is_checked_before(receiver):
    """A host that is not there is the caller's fault; DNS that is silent is nobody's."""

    async def resolver(host, port):
        raise OSError(socket.EAI_AGAIN if host == "later.org" else socket.EAI_NONAME, "no")

    sender = Sender(AddressPolicy("127.0.0.1", resolver))
    await sender.check(receiver.url())
    await sender.check("https://later.org/")
    with pytest.raises(UrlNotAllowed):
        await sender.check("http://169.254.169.254/")
    with pytest.raises(InvalidPayload, match="cannot be resolved"):
        await sender.check("https://never.org/")
    assert repr(sender) == "<Sender unsigned>"
