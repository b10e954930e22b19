"""Paths with an id in them: an id is any text, slashes and line breaks included."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Match, Route

if TYPE_CHECKING:
    from starlette.types import Scope


class AnyText(Convertor[str]):
    """A part of a path that may hold anything."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        """Give it as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Give it as it is."""
        return value


register_url_convertor("any_text", AnyText())


class JobRoute(Route):
    """A route that reads the path as it was sent, where the server tells that.

    So `%2F` is of an id and `/` separates: `/jobs/a%2Fevents` is the job `a/events`. Whoever sends
    an id with plain slashes, or comes through a proxy that decodes them, is understood as long as
    the id does not end like one of the routes.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match, and decode the parameters afterwards."""
        raw: bytes | None = scope.get("raw_path") if scope["type"] == "http" else None
        if not raw:
            return super().matches(scope)
        match, child = super().matches({**scope, "path": raw.decode("latin-1")})
        if match is not Match.NONE:
            params = child["path_params"]
            params.update((name, unquote(params[name])) for name in self.param_convertors)
        return match, child


def job_path(job_id: str) -> str:
    """Give where a job is asked for."""
    return f"/jobs/{quote(job_id, safe='')}"
