"""JSON as the routes answer it."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


class Json(Response):
    """A JSON answer."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        """Encode with orjson."""
        return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)
