"""A double of Hugging Face's hub over HTTP: files by repository and revision, and its errors.

It takes commits, too: small files in the commit itself, large ones by the LFS protocol before it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

COMMIT = "c0ffee" + "0" * 34


@dataclass(slots=True)
class Hub:
    """What is on the hub.

    Attributes:
        files: by `[datasets/|spaces/]repo`, revision, path.
        secrets: the token that a private repository wants.
        gated: repositories whose licence nobody accepted.
        asked: method, path and Authorization of each request.
        broken: how many requests are answered 503.
        gate: where a body stops in its middle.
        swaps: what is given in place of a body, by the hash of that.
        repos: those that take commits.
        commits: the paths of each.
        stored: large files by their SHA-256, committed or not.
    """

    port: int = 0
    files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    broken: int = 0
    gate: asyncio.Event | None = None
    swaps: dict[str, bytes] = field(default_factory=dict)
    repos: set[str] = field(default_factory=set)
    commits: list[list[str]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """Give what HF_ENDPOINT would be."""
        return f"http://127.0.0.1:{self.port}"

    def put(self, repo: str, path: str, body: bytes, revision: str = "main") -> str:
        """Add a file and give its URL."""
        for name in (revision, COMMIT):
            self.files[repo, name, path] = body
        return f"{self.endpoint}/{repo}/resolve/{revision}/{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the hub does."""
        token = request.headers.get("Authorization")
        self.asked.append((request.method, request.path, token))
        if self.broken:
            self.broken -= 1
            return web.Response(status=503)
        if request.method in {"POST", "PUT"}:
            return await self._taken(request)
        if request.path.startswith("/cdn/"):
            body = next(
                body for body in self.files.values() if _hash(body) == request.path[len("/cdn/") :]
            )
            body = self.swaps.get(_hash(body), body)
            if self.gate is not None and request.method == "GET":
                return await self._gated(request, body)
            return _ranged(request, body)
        repo, tree, revision = request.path.removeprefix("/api/").partition("/tree/")
        if tree:
            return self._listed(repo.removeprefix("models/"), revision)
        repo, _, rest = request.path.lstrip("/").partition("/resolve/")
        if repo not in {known for known, _, _ in self.files}:
            return _fault(401 if token is None else 404, "RepoNotFound")
        if self.secrets.get(repo) not in {None, (token or "").removeprefix("Bearer ")}:
            return _fault(401, "RepoNotFound")
        if repo in self.gated:
            return _fault(403, "GatedRepo")
        revisions = {known for name, known, _ in self.files if name == repo}
        # An escaped slash is part of the revision's name.
        raw = request.rel_url.raw_path.partition("/resolve/")[2]
        first = raw.split("/")[0].replace("%2F", "/")
        if first not in revisions:
            return _fault(404, "RevisionNotFound")
        body = self.files.get((repo, first, rest[len(first) + 1 :]))
        if body is None:
            return _fault(404, "EntryNotFound")
        return _found(body)

    def _listed(self, repo: str, revision: str) -> web.Response:
        """List all files of a revision."""
        return web.json_response(
            [
                {"type": "file", "path": path, "size": len(body), "oid": _hash(body)[:40]}
                for (name, known, path), body in self.files.items()
                if (name, known) == (repo, revision)
            ]
        )

    async def _taken(self, request: web.Request) -> web.StreamResponse:
        """Take a part of a commit."""
        if request.path.startswith("/lfs/"):
            self.stored[request.path[len("/lfs/") :]] = await request.content.read()
            return web.Response()
        path = request.path.removeprefix("/api/").removeprefix("models/")
        for ending in (".git/info/lfs/objects/batch", "/preupload/", "/commit/"):
            repo, found, revision = path.partition(ending)
            if found:
                break
        repo = repo.lstrip("/")
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo not in self.repos:
            return _fault(404, "RepoNotFound")
        if self.secrets.get(repo) not in {None, token}:
            return _fault(403, f"Forbidden: {token}")
        if found == "/commit/":
            return await self._committed(request, repo, revision)
        body = json.loads(await request.content.read())
        if found == "/preupload/":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "regular" if file["path"].endswith(".txt") else "lfs",
                    "shouldIgnore": False,
                }
                for file in body["files"]
            ]
            return web.json_response({"files": modes})
        return web.json_response({"objects": [self._wanted(one) for one in body["objects"]]})

    def _wanted(self, one: dict[str, object]) -> dict[str, object]:
        if one["oid"] in self.stored:
            return one
        return {**one, "actions": {"upload": {"href": f"{self.endpoint}/lfs/{one['oid']}"}}}

    async def _committed(self, request: web.Request, repo: str, revision: str) -> web.Response:
        paths = []
        for line in (await request.content.read()).splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "header":
                continue
            paths.append(value["path"])
            body = (
                self.stored[value["oid"]]
                if one["key"] == "lfsFile"
                else base64.b64decode(value["content"])
            )
            self.put(repo, value["path"], body, revision)
        self.commits.append(paths)
        url = f"{self.endpoint}/{repo}/commit/{COMMIT}"
        return web.json_response({"commitUrl": url, "commitOid": COMMIT})

    async def _gated(self, request: web.Request, body: bytes) -> web.StreamResponse:
        assert self.gate is not None
        answer = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await answer.prepare(request)
        await answer.write(body[: len(body) // 2])
        await self.gate.wait()
        await answer.write(body[len(body) // 2 :])
        return answer


def _found(body: bytes) -> web.Response:
    return web.Response(
        status=302,
        headers={
            "Location": f"/cdn/{_hash(body)}",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{_hash(body)}"',
            "X-Linked-Size": str(len(body)),
        },
    )


def _ranged(request: web.Request, body: bytes) -> web.Response:
    wanted = request.http_range
    headers = {"ETag": f'"{_hash(body)}"', "Accept-Ranges": "bytes", "X-Repo-Commit": COMMIT}
    if wanted.start is None:
        return web.Response(body=body, headers=headers)
    part = body[wanted]
    end = wanted.start + len(part) - 1
    headers["Content-Range"] = f"bytes {wanted.start}-{end}/{len(body)}"
    return web.Response(status=206, body=part, headers=headers)


def _fault(status: int, code: str) -> web.Response:
    return web.Response(
        status=status, headers={"X-Error-Code": code, "X-Error-Message": f"because of {code}"}
    )


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@asynccontextmanager
async def hub() -> AsyncIterator[Hub]:
    """Run a hub for the time of a block."""
    running = Hub()
    runner = web.ServerRunner(web.Server(running.answer), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running.port = runner.addresses[0][1]
    try:
        yield running
    finally:
        if running.gate is not None:
            running.gate.set()
        await runner.cleanup()
