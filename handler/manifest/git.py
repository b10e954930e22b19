"""Speaks to git: what a repository advertises, what a clone has, how a commit gets into it."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from handler.manifest import commands, git_refs
from handler.manifest.faults import InstallFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from handler.manifest.commands import Done
    from handler.manifest.git_refs import GitSource, Resolved

log = logging.getLogger("comfyfn.manifest")

_ASK_TIMEOUT_S = 120.0
_TRANSIENT = re.compile(
    r"could not resolve|timed out|connection (reset|refused)|early eof|hung up|"
    r"error: 5\d\d|HTTP 5\d\d|RPC failed|unable to access|network is unreachable",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Clone:
    """What lies in a folder.

    Attributes:
        commit: None before the first one.
        origin: the address it came from.
        changed: files under git's control that differ from the commit.
    """

    commit: str | None
    origin: str
    changed: tuple[str, ...] = ()


class Git:
    """The program git with settings that never ask, never run helpers, never hang.

    Args:
        env: what git inherits; `PATH` must be in it.
        allow_local: let it read repositories of this machine.
        pauses_s: before each further try of what the network spoiled.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        allow_local: bool = False,
        pauses_s: tuple[float, ...] = (1.0, 3.0),
    ) -> None:
        protocols = "https:http:ssh:git" + (":file" if allow_local else "")
        self._env = {"GIT_SSH_COMMAND": "ssh -oBatchMode=yes", **env}
        self._env |= {
            "GIT_ALLOW_PROTOCOL": protocols,  # for submodules too, whatever they name
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "LC_ALL": "C",
        }
        self._pauses_s = pauses_s

    async def advertised(self, source: GitSource) -> dict[str, str]:
        """Ask a repository for its refs.

        Raises:
            InstallFailed: it cannot be reached, or there is none.
        """
        what = f"look at {source.url}"
        done = await self._patient(["ls-remote", "--", source.url], what, source, _ASK_TIMEOUT_S)
        return git_refs.advertised(done.output)

    async def look(self, folder: Path) -> Clone | None:
        """Tell what a folder holds: None when it is not the top of a clone. Takes milliseconds."""
        if not (folder / ".git").exists():
            return None
        status, origin = await asyncio.gather(
            self._run(
                ["status", "--porcelain=v2", "--branch", "--untracked-files=no"],
                f"look at {folder.name}",
                cwd=folder,
                check=False,
            ),
            self._run(
                ["config", "--get", "remote.origin.url"],
                f"look at {folder.name}",
                cwd=folder,
                check=False,
            ),
        )
        if status.returncode != 0:
            return None
        return _clone(status.output, origin.output.strip())

    async def obtain(self, folder: Path, source: GitSource, wanted: Resolved) -> str:
        """Bring a commit into a folder, its submodules too, with as little history as can be.

        Args:
            folder: a clone, or an empty folder.

        Returns:
            The commit that lies there now.

        Raises:
            InstallFailed: the repository does not have it, or cannot be reached.
        """
        what = f"clone of {source.name}"
        if not (folder / ".git").exists():
            await self._run(["init", "--quiet"], what, cwd=folder)
            await self._run(["remote", "add", "origin", source.url], what, cwd=folder)
        commit = await self._fetch(folder, source, wanted, what)
        await self._run(["checkout", "--quiet", "--force", "--detach", commit], what, cwd=folder)
        await self._submodules(folder, source, what)
        return commit

    async def _fetch(self, folder: Path, source: GitSource, wanted: Resolved, what: str) -> str:
        if wanted.commit is not None:
            fetch = ["fetch", "--quiet", "--depth", "1", "--no-tags", "origin", wanted.fetch]
            try:
                await self._patient(fetch, what, source, cwd=folder)
                return await self._commit(folder, "FETCH_HEAD", what)
            except InstallFailed as error:
                if _TRANSIENT.search("\n".join(error.log_tail or [])):
                    raise
                # Some servers give single commits to nobody: then all of the history has to come.
                log.info("%s: not by itself (%s); fetching the history", what, error.message)
        everything = ["fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"]
        if (folder / ".git" / "shallow").exists():
            everything.insert(1, "--unshallow")
        await self._patient(everything, what, source, cwd=folder)
        try:
            return await self._commit(folder, wanted.commit or wanted.fetch, what)
        except InstallFailed as error:
            raise InstallFailed(
                f"{source.url} has no {wanted.ref!r}", log_tail=error.log_tail
            ) from error

    async def _commit(self, folder: Path, name: str, what: str) -> str:
        ask = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
        return (await self._run(ask, what, cwd=folder)).output.strip().splitlines()[-1]

    async def _submodules(self, folder: Path, source: GitSource, what: str) -> None:
        if not (folder / ".gitmodules").is_file():
            return
        update = ["submodule", "--quiet", "update", "--init", "--recursive", "--force"]
        await self._run(["submodule", "--quiet", "sync", "--recursive"], what, cwd=folder)
        try:
            await self._patient([*update, "--depth", "1"], what, source, cwd=folder)
        except InstallFailed as error:
            log.info("%s: submodules again, with history: %s", what, error.message)
            await self._patient(update, what, source, cwd=folder)

    async def _patient(
        self,
        arguments: list[str],
        what: str,
        source: GitSource,
        timeout_s: float = commands.DEFAULT_TIMEOUT_S,
        cwd: Path | None = None,
    ) -> Done:
        """Run what needs the network, again when the network was at fault."""
        for pause_s in (*self._pauses_s, None):
            done = await self._run(
                arguments, what, source=source, cwd=cwd, timeout_s=timeout_s, check=False
            )
            if done.returncode == 0:
                return done
            if pause_s is None or not _TRANSIENT.search("\n".join(done.tail)):
                break
            log.warning("%s: %s; again in %g s", what, done.tail[-1], pause_s)
            await asyncio.sleep(pause_s)
        raise commands.failure(what, done)

    async def _run(
        self,
        arguments: list[str],
        what: str,
        *,
        cwd: Path | None = None,
        source: GitSource | None = None,
        timeout_s: float = _ASK_TIMEOUT_S,
        check: bool = True,
    ) -> Done:
        return await commands.run(
            ["git", *arguments],
            what=what,
            env=self._env | _configured(self._env, source),
            cwd=cwd,
            timeout_s=timeout_s,
            check=check,
            shown=logging.DEBUG,
        )


def _configured(env: Mapping[str, str], source: GitSource | None) -> dict[str, str]:
    """Give settings by the environment: not to be seen in a list of processes, and not kept."""
    settings = [
        ("safe.directory", "*"),  # volumes belong to somebody else as a rule
        ("advice.detachedHead", "false"),
        ("gc.auto", "0"),  # it would outlive the command that began it
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", "60"),
    ]
    if source is not None and source.credentials is not None:
        parts = urlsplit(source.url)
        secret = base64.b64encode(_pair(source.credentials).encode()).decode()
        key = f"http.{parts.scheme}://{parts.netloc}/.extraHeader"
        settings.append((key, f"Authorization: Basic {secret}"))
    before = int(env.get("GIT_CONFIG_COUNT", "0") or 0)
    given = {"GIT_CONFIG_COUNT": str(before + len(settings))}
    for at, (key, value) in enumerate(settings, start=before):
        given |= {f"GIT_CONFIG_KEY_{at}": key, f"GIT_CONFIG_VALUE_{at}": value}
    return given


def _pair(credentials: str) -> str:
    # A token alone stands where the user stands.
    return credentials if ":" in credentials else f"{credentials}:"


def _clone(status: str, origin: str) -> Clone:
    commit = None
    changed = []
    for line in status.splitlines():
        if line.startswith("# branch.oid "):
            commit = line.removeprefix("# branch.oid ")
            commit = None if commit == "(initial)" else commit
        elif line[:2] in ("1 ", "2 ", "u "):
            columns = {"1": 8, "2": 9, "u": 10}[line[0]]
            changed.append(line.split(" ", columns)[-1].split("\t")[0])
    return Clone(commit, origin, tuple(changed))
