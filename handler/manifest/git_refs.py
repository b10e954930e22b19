"""Addresses of git repositories in every form people paste, and the ref they mean. Pure.

    https://host/owner/repo[.git]                     the default branch
    .../repo@ref                                      tag, branch (`/` in it is fine) or commit
    .../repo/-/tree/ref, /-/commit/sha, /-/tags/tag   GitLab, with any depth of subgroups
    .../repo/tree/ref, /commit/sha, /releases/tag/tag GitHub
    .../repo/src/ref[/path], /commits/sha             Bitbucket
    git@host:owner/repo[@ref], ssh://, git+https://   the usual others

Where a path may follow the ref, or the ref may hold a `/`, the text alone does not tell: every
possible ref is a candidate, and what the repository advertises decides (`choose`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

RefKind = Literal["any", "tag", "commit"]

_SCHEMES = ("https", "http", "ssh", "git")
_FULL_COMMIT = re.compile(r"[0-9a-fA-F]{40}")
_PART_OF_COMMIT = re.compile(r"[0-9a-fA-F]{7,40}")
_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")
_SCP_LIKE = re.compile(r"(?P<user>[^/@:\s]+)@(?P<host>[^/:\s]+):(?P<path>[^:\s].*)")
_GITLAB = re.compile(r"(?P<repo>/[^/]+/.+?)/-/(?P<mark>[a-z]+)/(?P<rest>.+)")
_OTHERS = re.compile(
    r"(?P<repo>/[^/]+/[^/]+(?:/[^/]+)*?)/(?P<mark>releases/tag|tree|commits?|src|blob)/(?P<rest>.+)"
)
_FORBIDDEN_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|^/|\.lock$|\.$")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*")
_MOST_CANDIDATES = 16
_KINDS: dict[str, RefKind] = {
    "commit": "commit",
    "commits": "commit",
    "tags": "tag",
    "releases": "tag",
    "releases/tag": "tag",
    "tree": "any",
    "blob": "any",
    "src": "any",
}


class GitUrlRefused(ValueError):
    """The text is no address of a repository, or one that is not allowed."""


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository and what is wanted of it.

    Attributes:
        url: for git, without user and password.
        refs: what the address may mean, longest first; empty for the default branch.
        kind: which sort of ref the address says it is.
        credentials: `user:password` of an HTTP address; never shown.
    """

    url: str
    refs: tuple[str, ...] = ()
    kind: RefKind = "any"
    credentials: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The repository's own name, which its folder gets."""
        return re.split(r"[/:]", self.url.rstrip("/"))[-1].removesuffix(".git")

    @property
    def pin(self) -> str | None:
        """The full commit, where the address itself names one."""
        first = self.refs[-1] if self.refs else ""
        return first.lower() if _FULL_COMMIT.fullmatch(first) else None


@dataclass(frozen=True, slots=True)
class Resolved:
    """The ref an address means, as the repository has it now.

    Attributes:
        ref: the candidate that was found; `HEAD` for the default branch.
        fetch: what to ask the repository for.
        commit: None for a shortened commit, which only the history can tell.
        moves: whether the same ref may name another commit tomorrow.
    """

    ref: str
    fetch: str
    commit: str | None
    moves: bool


def is_address(text: str) -> bool:
    """Tell an address, allowed or not, from the name of a pack in a registry."""
    return (
        "://" in text
        or text.startswith(("/", "./", "../", "~"))
        or bool(_SCP_LIKE.fullmatch(text) or _HELPER.match(text))
    )


def parse(text: str, *, ref: str | None = None, allow_local: bool = False) -> GitSource:
    """Read an address.

    Args:
        ref: given beside the address; the address must not hold another.
        allow_local: take folders of this machine (`/srv/repo`, `file:///srv/repo`).

    Raises:
        GitUrlRefused: with the reason.
    """
    text = text.strip().removeprefix("git+")
    if text.startswith("-") or re.search(r"[\x00-\x20\x7f]", text):
        raise GitUrlRefused("is no address of a git repository")
    if _HELPER.match(text):
        raise GitUrlRefused("asks for a transport that runs commands: use https, or ssh")
    source = _scp_like(text) or _local(text, allow_local) or _url(text)
    if ref is not None:
        if source.refs:
            raise GitUrlRefused(f"names the ref {source.refs[0]!r} already, and `ref` another")
        source = GitSource(source.url, _checked((ref,)), "any", source.credentials)
    if not _NAME.fullmatch(source.name):
        raise GitUrlRefused("does not end in the name of a repository")
    return source


def _scp_like(text: str) -> GitSource | None:
    found = _SCP_LIKE.fullmatch(text) if "://" not in text else None
    if found is None:
        return None
    _check_host(found["user"], found["host"])
    path, refs = _at_ref(found["path"].rstrip("/"))
    return GitSource(f"{found['user']}@{found['host']}:{path}", refs)


def _local(text: str, allowed: bool) -> GitSource | None:
    if not text.startswith(("file://", "/", "./", "../", "~")):
        return None
    if not allowed:
        raise GitUrlRefused(
            "is a folder of this machine, which is not allowed here: "
            "MANIFEST_LOCAL_GIT=true allows it, or --allow-local of `comfyfn manifest`"
        )
    path, refs = _at_ref(text.rstrip("/"))
    return GitSource(path, refs)


def _url(text: str) -> GitSource:
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        raise GitUrlRefused("is a malformed URL") from None
    if parts.scheme not in _SCHEMES:
        raise GitUrlRefused(f"has the scheme {parts.scheme!r}: known are {', '.join(_SCHEMES)}")
    if not host:
        raise GitUrlRefused("names no host")
    if parts.fragment:
        raise GitUrlRefused("has a `#`: write the ref after an `@`")
    _check_host(parts.username or "", host)
    path, refs, kind = _path_and_refs(parts.path.rstrip("/"), host)
    if host in ("github.com", "www.github.com") and path.count("/") != 2:
        raise GitUrlRefused("is no repository of GitHub: https://github.com/OWNER/REPO is expected")
    user, _, place = parts.netloc.rpartition("@")
    if parts.scheme == "ssh":  # the user is part of the address there, and no secret
        return GitSource(f"ssh://{parts.netloc}{path}", refs, kind)
    return GitSource(f"{parts.scheme}://{place}{path}", refs, kind, unquote(user) or None)


def _check_host(user: str, host: str) -> None:
    if user.startswith("-") or host.startswith("-"):  # ssh would take it for an option
        raise GitUrlRefused("names no host")


def _path_and_refs(path: str, host: str) -> tuple[str, tuple[str, ...], RefKind]:
    found = _GITLAB.fullmatch(path)
    if found is None:
        found = _OTHERS.fullmatch(path)
        if found is not None and found["mark"] == "src" and _has_no_src(host):
            found = None  # a subgroup or a repository of that name
    if found is not None and found["mark"] in _KINDS:
        kind, rest = _KINDS[found["mark"]], unquote(found["rest"])
        if kind == "commit":
            refs: tuple[str, ...] = (rest.split("/")[0],)
        elif kind == "tag":
            refs = (rest,)
        else:
            parts = rest.split("/")
            refs = tuple("/".join(parts[:n]) for n in range(len(parts), 0, -1))
            refs = refs[-_MOST_CANDIDATES:]
        return found["repo"], _checked(refs), kind
    repo, refs = _at_ref(path)
    return repo, refs, "any"


def _has_no_src(host: str) -> bool:
    return "gitlab" in host or "github" in host


def _at_ref(path: str) -> tuple[str, tuple[str, ...]]:
    """Split `repo@ref`: at the last `@` where no `/` follows, else at the first that can be one."""
    before, mark, after = path.rpartition("@")
    if not mark or "/" in after or before.endswith("/"):
        found = re.search(r"(?<=[^/])@", path)
        if found is None:
            return path, ()
        before, after = path[: found.start()], path[found.end() :]
    if not after:
        raise GitUrlRefused("ends in `@` without a ref")
    return before, _checked((unquote(after),))


def _checked(refs: tuple[str, ...]) -> tuple[str, ...]:
    good = tuple(ref for ref in refs if is_ref(ref))
    if not good:
        raise GitUrlRefused(f"names {refs[-1]!r}, which can be no ref")
    return good


def is_ref(text: str) -> bool:
    """Tell whether git could have a ref of that name, and would not take it for an option."""
    return bool(text) and not text.startswith("-") and not _FORBIDDEN_IN_REF.search(text)


def advertised(output: str) -> dict[str, str]:
    """Read what `git ls-remote` printed: ref -> commit."""
    pairs = (line.split("\t", 1) for line in output.splitlines() if "\t" in line)
    return {name.strip(): commit for commit, name in pairs if _FULL_COMMIT.fullmatch(commit)}


def choose(source: GitSource, refs: Mapping[str, str]) -> Resolved | None:
    """Find the first candidate that the repository has; None when it has none of them.

    A tag wins over a branch of the same name, as in git itself.

    Args:
        refs: see `advertised`.
    """
    if not source.refs:
        return Resolved("HEAD", "HEAD", refs["HEAD"], moves=True) if "HEAD" in refs else None
    for ref in source.refs:
        if _FULL_COMMIT.fullmatch(ref):
            return Resolved(ref, ref.lower(), ref.lower(), moves=False)
        found = _named(ref, source.kind, refs)
        if found is not None:
            return found
    for ref in source.refs:
        if _PART_OF_COMMIT.fullmatch(ref) and source.kind != "tag":
            return _shortened(ref, refs)
    return None


def _named(ref: str, kind: RefKind, refs: Mapping[str, str]) -> Resolved | None:
    if kind == "commit":
        return None
    tag, branch = f"refs/tags/{ref}", f"refs/heads/{ref}"
    if tag in refs:  # `^{}` is the commit that an annotated tag points at
        return Resolved(ref, tag, refs.get(f"{tag}^{{}}", refs[tag]), moves=False)
    if branch in refs and kind == "any":
        return Resolved(ref, branch, refs[branch], moves=True)
    if ref in refs and ref.startswith("refs/"):
        return Resolved(ref, ref, refs[ref], moves=True)
    return None


def _shortened(ref: str, refs: Mapping[str, str]) -> Resolved:
    full = {commit for commit in refs.values() if commit.startswith(ref.lower())}
    if len(full) == 1:
        commit = full.pop()
        return Resolved(ref, commit, commit, moves=False)
    return Resolved(ref, ref.lower(), None, moves=False)
