"""JSON as the routes answer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.errors import HandlerError


class Json(Response):
    """A JSON answer."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        """Encode with orjson."""
        return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)


def refusal(fault: HandlerError, headers: Mapping[str, str] | None = None) -> Json:
    """Answer with the one error envelope.

    Args:
        headers: sent beside those that the fault has.
    """
    told = dict(headers or {})
    if fault.retry_after_s is not None:
        told["Retry-After"] = str(max(1, round(fault.retry_after_s)))
    return Json(fault.envelope(), status_code=fault.status, headers=told)
