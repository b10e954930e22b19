"""Where request handlers find the engine."""

from __future__ import annotations

from aiohttp import web

from local_server.engine.engine import Engine

ENGINE = web.AppKey("engine", Engine)
