"""A receiver of webhooks: real sockets, replies as told, and the posts checked as receivers do."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import svix.webhooks

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
REASONS = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(frozen=True)
class Post:
    """What came; `at` in seconds of the loop's clock."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verify(self, secret: str = SECRET) -> None:
        """Raise where svix does not take it for ours."""
        svix.webhooks.Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Answers each path by its replies in turn, the last one for ever; 200 by default.

    A reply is a status, a pair of status and header lines, or a word: `hang` says nothing, `drip`
    says a byte at a time, `cut` hangs up amid the answer, `slam` before it.

    Attributes:
        taken: the posts whose sender was still there when it was answered with 2xx.
    """

    def __init__(self, scheme: str = "http") -> None:
        self.posts: list[Post] = []
        self.taken: list[Post] = []
        self.replies: dict[str, list[Any]] = defaultdict(lambda: [200])
        self.scheme = scheme
        self.port = 0
        self.open = self.most_open = 0
        self.delay_s = 0.0
        self.news = asyncio.Condition()

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def got(self, count: int, limit_s: float = 20.0) -> list[Post]:
        """Wait for so many posts."""
        async with asyncio.timeout(limit_s), self.news:
            await self.news.wait_for(lambda: len(self.posts) >= count)
        return self.posts

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (one.partition(":") for one in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        path = line.split()[1]
        assert line.startswith("POST ")
        replies = self.replies[path]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        post = Post(path, headers, body, asyncio.get_running_loop().time())
        self.posts.append(post)
        async with self.news:
            self.news.notify_all()
        await asyncio.sleep(self.delay_s)
        status, more = reply if isinstance(reply, tuple) else (reply, "")
        if reply == "hang":
            await reader.read()
        elif reply == "drip":
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
        elif reply == "cut":
            writer.write(b"HTTP/1.1 200 O")
        elif reply == "slam":
            return
        else:
            if 200 <= status < 300 and not reader.at_eof():
                self.taken.append(post)
            text = (
                f"HTTP/1.1 {status} {REASONS.get(status, '')}\r\n{more}Content-Length: 2\r\n\r\nok"
            )
            writer.write(text.encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()


@contextlib.asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver("https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await receiver.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that nobody trusts: its chain and its key."""
    key, chain = folder / "key.pem", folder / "chain.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        f"-subj /CN=hook.test -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {chain}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return chain, key
