"""Receivers of webhooks for tests that are not asyncio's, and what came of the posts."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from behaviour.driving import wait_until
from receiver import SECRET, receiving
from shell import comfyfn
from sources.threaded import threaded

from handler.outbox.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from live import LiveServer
    from receiver import Post, Receiver

    from handler.outbox.records import Posted

    Manner = Callable[[socket.socket, threading.Event], None]


def hook_env(state: Path, **more: str) -> dict[str, str]:
    """Give the settings of a worker that signs webhooks and may reach this machine."""
    env = {"URL_ALLOW_HOSTS": "127.0.0.1", "WEBHOOK_SECRET": SECRET, "STATE_DIR": str(state)}
    return {**env, **more}


def receiver() -> contextlib.AbstractContextManager[Receiver]:
    """Run a receiver in a thread."""
    return threaded(receiving())


def accept(server: LiveServer, graph: dict[str, Any], job_id: str, **keys: Any) -> str:
    """Have a job accepted with 202, and give its id."""
    answer = server.prompt(graph, id=job_id, **keys)
    assert answer.status_code == 202, (answer.status_code, answer.text[:2000])
    assert answer.json()["id"] == job_id
    return job_id


def posts_of(receiver: Receiver, job_id: str) -> list[Post]:
    """List the posts about a job."""
    return [post for post in list(receiver.posts) if post.id == job_id]


def kind_of(post: Post) -> str:
    """Tell which end of a job a post tells."""
    return str(json.loads(post.body)["type"])


def taken(receiver: Receiver) -> Counter[str]:
    """Count by webhook-id the posts that were answered with 2xx."""
    return Counter(post.id for post in list(receiver.taken))


def told(receiver: Receiver, job_id: str, limit_s: float = 20.0) -> dict[str, Any]:
    """Wait until a job's end was taken, verify every post about it, and give the body."""
    wait_until(f"{job_id} is told", lambda: taken(receiver)[job_id], limit_s)
    posts = posts_of(receiver, job_id)
    for post in posts:
        post.verify()
    assert len({post.body for post in posts}) == 1
    body: dict[str, Any] = json.loads(posts[0].body)
    assert body["id"] == job_id
    return body


def letters(state: Path) -> list[Posted]:
    """List what is on disk, pending, promised and dead, whether or not a server runs."""
    journal = Journal(state / "outbox", None)
    return [*journal.pending(), *journal.dead()]


def wait_gone(state: Path, *job_ids: str, limit_s: float = 20.0) -> None:
    """Wait until nothing is left to be told of these jobs; without one, of any."""

    def gone() -> bool:
        left = {one.message_id for one in letters(state)}
        return not (left & set(job_ids) if job_ids else left)

    wait_until("the letters are gone", gone, limit_s)


def noted(server: LiveServer, job_id: str, key: str = "webhook_v2") -> dict[str, Any]:
    """Wait until a job's record tells what came of a webhook at last, and give that."""

    def known() -> dict[str, Any]:
        entry: dict[str, Any] = server.get(f"/jobs/{job_id}").json()["webhooks"][key]
        return entry

    wait_until(f"the end of {job_id}'s webhook is known", lambda: known()["status"] != "pending")
    return known()


def listed(state: Path) -> list[dict[str, Any]]:
    """Give what `comfyfn outbox list` says, a letter an entry."""
    said = outbox(state, "list", "--json")
    return [json.loads(line) for line in said.splitlines()]


def outbox(state: Path, *arguments: str) -> str:
    """Run `comfyfn outbox`, and give what it prints."""
    done = comfyfn("outbox", *arguments, home=state.parent, STATE_DIR=str(state))
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- listeners that know no HTTP ------------------------------------------------------------------


class Listener:
    """Treats each connection in a manner of its own, and counts them."""

    def __init__(self, manner: Manner) -> None:
        self.connections = 0
        self._manner = manner
        self._over = threading.Event()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(16)
        self.port: int = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, path: str = "/hook", scheme: str = "http") -> str:
        """Give a URL here."""
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self._over.is_set():
                connection.close()
                return
            self.connections += 1
            thread = threading.Thread(target=self._treat, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _treat(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._manner(connection, self._over)

    def close(self) -> None:
        """End it."""
        self._over.set()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            pass  # wakes who waits for the next connection
        self._socket.close()
        for thread in self._threads:
            thread.join(5)


def reads_slowly(connection: socket.socket, over: threading.Event) -> None:
    """Take a byte a second, and say nothing."""
    while connection.recv(1) and not over.wait(1.0):
        pass


def hangs_up_early(connection: socket.socket, _: threading.Event) -> None:
    """Break off amid the request."""
    connection.recv(16)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def talks_nonsense(connection: socket.socket, _: threading.Event) -> None:
    """Answer with bytes that are neither HTTP nor TLS."""
    connection.recv(16)
    connection.sendall(bytes(range(255, 0, -1)) * 4)


def drips_its_body(connection: socket.socket, over: threading.Event) -> None:
    """Answer with 200 at once, and then a byte a second that nobody needs."""
    connection.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while connection.recv(65536):
            pass
    connection.settimeout(5)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not over.wait(1.0):
        connection.sendall(b".")


@contextlib.contextmanager
def listener(manner: Manner) -> Iterator[Listener]:
    """Run one for the time of a block."""
    one = Listener(manner)
    try:
        yield one
    finally:
        one.close()
