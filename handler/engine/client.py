"""ComfyUI's routes, one method each: no retries and no decisions.

Every method raises `EngineDied` where the connection is refused, reset or dropped, `Stalled` where
the engine accepts but does not answer in time, and `EngineRefused` where it answers otherwise than
its protocol has it. Nothing of aiohttp gets out.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from handler.engine.base import GraphRefused
from handler.engine.frames import FrameStream
from handler.engine.messages import loads
from handler.errors import (
    EngineDied,
    EngineRefused,
    InternalFault,
    InvalidWorkflow,
    NotFound,
    Stalled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

_JSON = {"Content-Type": "application/json"}
_CHUNK_BYTES = 1 << 18
_WS_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=1.0)
_BODY_HEAD_CHARS = 1000


@dataclass(frozen=True, slots=True)
class QueueState:
    """Ids of the prompts the engine has; `pending` is in no useful order beyond its first."""

    running: tuple[str, ...]
    pending: tuple[str, ...]

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.running or prompt_id in self.pending


@contextlib.contextmanager
def _ours(what: str) -> Iterator[None]:
    """Re-raise what aiohttp raises as ours."""
    try:
        yield
    except TimeoutError as error:
        raise Stalled(f"The engine did not answer {what} in time") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
        raise EngineDied(f"The engine is not there for {what}: {error}") from error
    except aiohttp.ClientError as error:
        raise EngineRefused(f"The engine answered {what} out of protocol: {error}") from error


class ComfyClient:
    """Speaks to one ComfyUI over kept-alive connections.

    Args:
        base_url: `http://127.0.0.1:8188`, with no path behind it but perhaps a prefix.
        client_id: names the WebSocket that gets the messages of the prompts submitted here.
        session: used and left open; without, one is made on first use and closed by `close`.
        connect_timeout_s: for a connection to be accepted, and a WebSocket to be greeted.
        answer_timeout_s: longest silence while an answer is awaited or read.
    """

    def __init__(
        self,
        base_url: str,
        *,
        client_id: str,
        session: aiohttp.ClientSession | None = None,
        connect_timeout_s: float = 5.0,
        answer_timeout_s: float = 60.0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.client_id = client_id
        self._session = session
        self._own_session = session is None
        self._left: list[aiohttp.ClientSession] = []
        self._closed = False
        self._connect_timeout_s = connect_timeout_s
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=answer_timeout_s
        )
        self._prompt_url = self._url("/prompt")

    def __repr__(self) -> str:
        return f"<ComfyClient {self.base_url} as {self.client_id}>"

    async def close(self) -> None:
        """Close the session if it is ours; a closed client answers `EngineDied`."""
        self._closed = True
        if self._session is not None and self._own_session:
            await self._session.close()
        await self.hang_up()

    def renew(self) -> None:
        """Use none of the connections again that there are; questions under way keep theirs."""
        if self._session is not None and self._own_session:
            self._left.append(self._session)
            self._session = None

    async def hang_up(self) -> None:
        """Close what `renew` has left: whatever is still under way there fails."""
        left, self._left = self._left, []
        for session in left:
            await session.close()

    async def system_stats(self) -> dict[str, Any]:
        """Give version, RAM and devices; the cheapest proof that the engine is ready."""
        return _object(await self._get("/system_stats"), "/system_stats")

    async def object_info(self, class_type: str | None = None) -> dict[str, Any]:
        """Describe all node classes (some 500 kB), or one; an unknown class gives `{}`."""
        tail = "" if class_type is None else f"/{quote(class_type, safe='')}"
        return _object(await self._get(f"/object_info{tail}"), "/object_info")

    async def submit(
        self,
        prompt_id: str,
        graph: Mapping[str, Any],
        extra_data: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Queue a graph and give the faults of the outputs that were dropped from it.

        Args:
            prompt_id: our id; the engine does not check that it is new.
            graph: in API format.
            extra_data: kept by the engine beside the prompt, `{"extra_pnginfo": {...}}`.

        Returns:
            `node_errors`: not empty means that only part of the graph will run.

        Raises:
            GraphRefused: nothing of the graph can run.
        """
        body: dict[str, Any] = {
            "prompt": graph,
            "prompt_id": prompt_id,
            "client_id": self.client_id,
        }
        if extra_data:
            body["extra_data"] = extra_data
        status, answer = await self._exchange(
            "POST", self._prompt_url, _dump(body), refusals=(400,)
        )
        told = _object(_load(answer, "/prompt"), "/prompt")
        node_errors = told.get("node_errors")
        faults = node_errors if isinstance(node_errors, dict) else {}
        if status != 200:
            error = told.get("error")
            known = error if isinstance(error, dict) else {"message": str(error)}
            raise GraphRefused(status, known, faults)
        return faults

    async def queue(self) -> QueueState:
        """Tell which prompts wait and run."""
        told = _object(await self._get("/queue"), "/queue")
        try:
            return QueueState(
                tuple(item[1] for item in told["queue_running"]),
                tuple(item[1] for item in told["queue_pending"]),
            )
        except (KeyError, IndexError, TypeError) as error:
            raise EngineRefused("The engine's /queue is of another shape") from error

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Give the entry of a prompt that ended, None while there is none."""
        path = f"/history/{quote(prompt_id, safe='')}"
        entry = _object(await self._get(path), path).get(prompt_id)
        return None if entry is None else _object(entry, path)

    async def forget(self, prompt_ids: Sequence[str]) -> None:
        """Drop prompts from the history; it keeps whole graphs, so do it for each."""
        await self._post("/history", {"delete": list(prompt_ids)})

    async def delete_pending(self, prompt_ids: Sequence[str]) -> None:
        """Take prompts from the queue; running and unknown ones are left as they are."""
        await self._post("/queue", {"delete": list(prompt_ids)})

    async def interrupt(self, prompt_id: str) -> None:
        """Stop a prompt at its next step or node, if it is the one that runs."""
        await self._post("/interrupt", {"prompt_id": prompt_id})

    async def wake(self, environment: Mapping[str, str | None], token: str) -> dict[str, Any]:
        """Have our node show the GPU; see `handler.engine.snapshot`.

        Args:
            environment: what has changed in ours since the launch.

        Raises:
            EngineRefused, NotFound: the engine has no such node, or cannot use its GPU.
        """
        path = "/comfyfn/wake"
        headers = {**_JSON, "Authorization": f"Bearer {token}"}
        body = _dump({"environment": environment})
        _, answer = await self._exchange("POST", self._url(path), body, headers=headers)
        return _object(_load(answer, path), path)

    async def models(self) -> list[str]:
        """List the model folders."""
        return _names(await self._get("/models"), "/models")

    async def models_in(self, folder: str) -> list[str]:
        """List the files of a model folder; raises `NotFound` for an unknown folder."""
        path = f"/models/{quote(folder, safe='')}"
        return _names(await self._get(path), path)

    async def folder_paths(self) -> dict[str, list[str]]:
        """Give the engine's own registry of model folders: name -> paths on its machine, in order.

        Raises:
            NotFound: an engine that does not tell.
        """
        path = "/internal/folder_paths"
        told = _object(await self._get(path), path)
        return {str(name): _names(paths, path) for name, paths in told.items()}

    async def upload(
        self, path: Path, name: str, subfolder: str = "", *, overwrite: bool = False
    ) -> str:
        """Copy a file of any kind into the input folder.

        Returns:
            The leaf name it was stored under; nodes load it as `<subfolder>/<leaf name>`. Not
            always the one asked for: without `overwrite`, other bytes under a taken name are
            stored as `name (1).png`.

        Raises:
            InternalFault: `path` cannot be opened.
        """
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except OSError as error:
            raise InternalFault(f"Cannot read {path.name} to upload it: {error}") from error
        with file:
            # The engine takes the name as sent: quoting would become part of it.
            form = aiohttp.FormData(quote_fields=False)
            form.add_field("image", file, filename=name, content_type="application/octet-stream")
            form.add_field("subfolder", subfolder)
            form.add_field("overwrite", "true" if overwrite else "false")
            url = self._url("/upload/image")
            _, answer = await self._exchange("POST", url, form, headers=None)
        told = _object(_load(answer, "/upload/image"), "/upload/image")
        return str(told.get("name") or name)

    async def view(self, filename: str, subfolder: str, type: str, target_path: Path) -> int:  # noqa: A002
        """Stream a file out of the engine's folders and give its size in bytes.

        Args:
            filename: leaf name.
            subfolder: below the folder that `type` names, may be empty.
            type: `output`, `temp` or `input`.
            target_path: replaced where it exists, removed where the file did not come whole.

        Raises:
            NotFound: the engine has no such file.
            InternalFault: the target cannot be written.
        """
        query = urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        with _ours("/view"):
            async with self._request("GET", self._url(f"/view?{query}")) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.read(), "/view")
                return await _save(response.content, target_path)

    @contextlib.asynccontextmanager
    async def frames(
        self, *, heartbeat_s: float = 5.0, pong_timeout_s: float = 5.0
    ) -> AsyncIterator[FrameStream]:
        """Open a WebSocket; leaving the context closes it fully.

        Only one may be open per client id: where two are, closing the older one makes the engine
        forget the newer.
        """
        url = self._url(f"/ws?{urlencode({'clientId': self.client_id})}")
        with _ours("/ws"):
            async with asyncio.timeout(self._connect_timeout_s):
                socket = await self._live_session().ws_connect(
                    url, autoping=False, max_msg_size=0, timeout=_WS_TIMEOUT
                )
        # Outside of the translation: what the block raises is its own.
        async with FrameStream(
            socket, heartbeat_s=heartbeat_s, pong_timeout_s=pong_timeout_s
        ) as stream:
            yield stream

    def _url(self, path: str) -> URL:
        return URL(self.base_url + path, encoded=True)

    def _live_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise EngineDied("The client of the engine is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No limit: a job must not wait because others read slowly.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                trust_env=False,
            )
        return self._session

    def _request(
        self, method: str, url: URL, data: Any = None, headers: Mapping[str, str] | None = None
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._live_session().request(
            method, url, data=data, headers=headers, timeout=self._timeout, allow_redirects=False
        )

    async def _exchange(
        self,
        method: str,
        url: URL,
        data: Any = None,
        *,
        headers: Mapping[str, str] | None = _JSON,
        refusals: tuple[int, ...] = (),
    ) -> tuple[int, bytes]:
        with _ours(url.path):
            async with self._request(method, url, data, headers) as response:
                status, body = response.status, await response.read()
        if status != 200 and status not in refusals:
            raise _refusal(status, body, url.path)
        return status, body

    async def _get(self, path: str) -> Any:
        _, body = await self._exchange("GET", self._url(path), headers=None)
        return _load(body, path)

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        await self._exchange("POST", self._url(path), _dump(body))


async def _save(content: aiohttp.StreamReader, target_path: Path) -> int:
    size = 0
    try:
        file = await asyncio.to_thread(target_path.open, "wb")
        with file:
            async for chunk in content.iter_chunked(_CHUNK_BYTES):
                size += await asyncio.to_thread(file.write, chunk)
    except BaseException as error:
        target_path.unlink(missing_ok=True)
        of_engine = isinstance(error, ConnectionError | TimeoutError | aiohttp.ClientError)
        if isinstance(error, OSError) and not of_engine:
            raise InternalFault(f"Cannot write {target_path.name}: {error}") from error
        raise
    return size


def _dump(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise InvalidWorkflow(f"The graph cannot be written as JSON: {error}") from error


def _load(body: bytes, path: str) -> Any:
    try:
        return loads(body)
    except ValueError as error:
        raise EngineRefused(
            f"The engine answered {path} with no JSON", details={"body": _head(body)}
        ) from error


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EngineRefused(f"The engine answered {path} with no object")
    return value


def _names(value: Any, path: str) -> list[str]:
    if not isinstance(value, list):
        raise EngineRefused(f"The engine answered {path} with no list")
    return [str(name) for name in value]


def _refusal(status: int, body: bytes, path: str) -> EngineRefused | NotFound:
    details = {"status": status, "body": _head(body)}
    if status == 404:
        return NotFound(f"The engine has no {path}", details=details, blame="platform")
    return EngineRefused(f"The engine answered {path} with {status}", details=details)


def _head(body: bytes) -> str:
    return body[: 4 * _BODY_HEAD_CHARS].decode(errors="replace")[:_BODY_HEAD_CHARS]
